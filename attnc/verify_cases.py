"""Which calls `verify` tries: hypothesis strategies for the cases of a spec, and the search for one that fails."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, find, reject, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import NoSuchExample, Unsatisfiable

from attnc.diagnostics import SpecError
from attnc.drawing import Case, DtypeName, Layout, Offset, Scalar, Static, nodes, read_by_queries
from attnc.ir.dependence import PAIR, axes
from attnc.ir.dims import evaluate_dim
from attnc.ir.expr import Call, Const, Param
from attnc.ir.module import AttentionModule, Range, ScalarParam
from attnc.ir.on_grid import grid_sides
from attnc.ir.ranges import in_range, read_by, resolved
from attnc.ir.traverse import walk
from attnc.ir.types import BOOL, INT, REAL

#: Sizes where tiles begin, end, or do not fit.
SIZES = (1, 2, 15, 16, 17, 63, 64, 65, 100, 127, 128, 129, 257, 1000)
FEATURES = (16, 17, 32, 64, 80, 128, 256)
LAYOUTS: tuple[Layout, ...] = ("contiguous", "transposed", "expanded", "sliced", "stepped")
#: Query heads per key head.
GROUPS = (1, 3, 8)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one search. `pairs` is of queries and keys over all batches and heads, `features` of D and Dv.

    A call costs as much as one with queries and keys rounded up to whole tiles of `tile`.
    """

    tokens: int
    pairs: int
    features: int
    dtypes: tuple[DtypeName, ...]
    tile: int = 1
    differentiable: bool = False

    def room(self, batch: int, queries: int, keys: int) -> int:
        """How many heads there may be."""
        rows, columns = (max(1, -(-count // self.tile)) * self.tile for count in (queries, keys))
        return max(1, self.pairs // (batch * rows * columns))


#: What each back end computes in reasonable time. Not float64: the oracle is no more exact than that.
LIMITS: dict[str, Limits] = {
    "torch": Limits(1000, 1 << 19, 256, ("fp32", "bf16", "fp16"), differentiable=True),
    "interpret": Limits(130, 64 * 32 * 32, 128, ("fp32", "fp16", "bf16"), tile=32),
    "cpp": Limits(300, 64 * 64 * 64, 128, ("fp32", "fp16", "bf16"), tile=64),
}

_UNIMPORTANT = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.large_base_example)

#: After each case hypothesis tries about five copies with a value or two changed. They tell little about a function
#: of shapes, so cases with the seed of an earlier one are not run, and more are drawn.
_COPIES = 8

#: Turns drawn static parameters into the bound module; raises SpecError for values that do not fit.
Bind = Callable[[Static], AttentionModule]


def search(
    cases: st.SearchStrategy[Case], fails: Callable[[Case], bool | None], *, examples: int, seed: int
) -> Case | None:
    """The simplest case that fails, of as many as asked for; None when all pass.

    `fails` says None of what is no case after all; another is drawn instead.
    """
    seeds: set[int] = set()
    ran, failed = 0, False

    def condition(case: Case) -> bool:
        nonlocal ran, failed
        if not failed:
            if ran >= examples or case.seed in seeds:
                return False
            seeds.add(case.seed)
        found = fails(case)
        if found is None:
            reject()
        ran, failed = ran + 1, failed or found
        return found

    with tempfile.TemporaryDirectory() as home:
        set_hypothesis_home_dir(home)  # otherwise hypothesis leaves a folder where the user stands
        try:
            return find(cases, condition, random=Random(seed), settings=_settings(_COPIES * examples))
        except (NoSuchExample, Unsatisfiable):
            return None
        finally:
            set_hypothesis_home_dir(None)


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=_UNIMPORTANT,
    )


# -- parameters ------------------------------------------------------------------------------------------------------


def scalar_values(
    param: ScalarParam, known: Mapping[str, Scalar] | None = None, *, extent: bool = False
) -> st.SearchStrategy[Scalar]:
    """Values of a scalar parameter: of its range, else small; `extent`: it counts the points of a grid's axis.

    `known` are the parameters before it, which its range may read.
    """
    bounds = _resolved(param, known or {})
    default = param.default.value if isinstance(param.default, Const) else None
    usual: list[st.SearchStrategy[Scalar]] = []
    if default is not None and (bounds is None or in_range(default, bounds)):
        usual.append(st.just(default))
    if param.type.kind == "bool":
        return st.booleans()
    if param.type.kind == "real":
        if usual and bounds is None:
            return usual[0]
        return st.one_of(*usual, _reals(bounds))
    if extent:
        return st.one_of(*usual, st.integers(1, 5))
    return st.one_of(*usual, _integers(bounds))


def _resolved(param: ScalarParam, known: Mapping[str, Scalar]) -> Range | None:
    """The range in numbers. One that holds nothing is left as it is: the value that is drawn will be refused."""
    if param.range is None or not read_by(param.range):
        return param.range
    kinds = {bool: BOOL, int: INT, float: REAL}
    try:
        bounds = resolved(param.range, {name: Const(value, kinds[type(value)]) for name, value in known.items()})
    except SpecError:
        return param.range
    empty = bounds.low is not None and bounds.high is not None and bounds.low > bounds.high
    return param.range if empty else bounds


def _integers(bounds: Range | None) -> st.SearchStrategy[int]:
    if bounds is None:
        return st.integers(0, 8) | st.integers(9, 40)
    low = None if bounds.low is None else int(bounds.low) + bounds.low_open
    high = None if bounds.high is None else int(bounds.high) - bounds.high_open
    if low is None:
        low = (high or 0) - 64
    most = min(low + 64 * bounds.step if high is None else high, low + 1024)
    return st.integers(0, max(most - low, 0) // max(bounds.step, 1)).map(lambda n: low + n * max(bounds.step, 1))


def _reals(bounds: Range | None) -> st.SearchStrategy[float]:
    """Eighths, or thirty-seconds of the range."""
    if bounds is None or (bounds.low is None and bounds.high is None):
        return st.integers(1, 32).map(lambda n: n / 8)
    if bounds.low is None or bounds.high is None:
        open_end = bounds.high_open if bounds.low is None else bounds.low_open
        start, sign = (bounds.high, -1) if bounds.low is None else (bounds.low, 1)
        return st.integers(int(open_end), 32).map(lambda n: float(start or 0) + sign * n / 8)
    low, step = bounds.low, (bounds.high - bounds.low) / 32
    return st.integers(int(bounds.low_open), 32 - bounds.high_open).map(lambda n: float(low + n * step))


# -- calls -----------------------------------------------------------------------------------------------------------


#: Stands for the number of points of the spec's grid.
_GRID = -1


@dataclass(frozen=True, slots=True)
class _Shape:
    """Tokens, offsets (for three sequences where they are tuples) and documents of a case."""

    queries: int
    keys: int
    q_offset: Offset = 0
    k_offset: int | tuple[int, ...] = 0
    documents: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Rest:
    """What else a case needs, drawn without knowing its shape."""

    dtype: DtypeName
    batch: int
    group: int
    key_heads: int
    head_dim: int
    value_dim: int | None
    layouts: tuple[Layout, Layout, Layout]
    scale: float | None
    low: int
    high: int | None
    ordered: bool
    wide: bool
    gradients: bool
    seed: int


def cases(module: AttentionModule, bind: Bind, fixed: Static, limits: Limits) -> st.SearchStrategy[Case]:
    """Calls of an attention, simple ones first; static parameters in `fixed` are given already."""
    extents = _extent_names(module)
    if _multiplies_vectors(module):
        limits = replace(limits, pairs=limits.pairs // 32)
    given = dict(fixed)
    scalars = [param for param in module.scalars if param.name not in given]
    dynamic = [p.name for p in module.scalars if p.dynamic]
    shapes, rest = _shapes(module, limits), _rest(limits)

    @st.composite
    def case(draw: st.DrawFn) -> Case:
        values = dict[str, Scalar]()
        for param in scalars:
            values[param.name] = draw(scalar_values(param, {**given, **values}, extent=param.name in extents))
        static = tuple((name, value) for name, value in values.items() if name not in dynamic)
        try:
            bound = bind(static)
        except SpecError:
            reject()
        known = {name: value for name, value in values.items() if isinstance(value, int)}
        found = _case(bound, _on_its_grid(bound, draw(shapes), known, limits), draw(rest), limits)
        return replace(found, static=static, dynamic=tuple((name, values[name]) for name in dynamic))

    return case()


def _on_its_grid(module: AttentionModule, shape: _Shape, values: Mapping[str, int], limits: Limits) -> _Shape:
    """The shape of a call that the module takes: all points of its grid, the last ones, or a part of a large one."""
    sides = {side.size: prod(side.extents(values) or [1]) for side in grid_sides(module)}
    if not sides:
        return shape
    queries, keys = sides.get("N", shape.queries), sides.get("M", shape.keys)
    if max(queries, keys) > limits.tokens:
        return _Shape(min(queries - 1, limits.tokens), min(keys - 1, limits.tokens), 1, 1)
    first = shape.q_offset % queries if isinstance(shape.q_offset, int) else 0
    return _Shape(queries - first, keys, first, 0)


def _case(module: AttentionModule, shape: _Shape, rest: _Rest, limits: Limits) -> Case:
    """The case of what was drawn, with as many heads as its size leaves room for."""
    queries, keys = (_grid_size(module, limits) if size == _GRID else size for size in (shape.queries, shape.keys))
    batch = 1 if shape.documents else rest.batch
    room = limits.room(batch, queries, keys)
    group = max(group for group in GROUPS if group <= min(rest.group, room))
    key_heads = min(rest.key_heads, max(1, room // group))
    return Case(
        dtype=rest.dtype,
        batch=batch,
        heads=group * key_heads,
        key_heads=key_heads,
        queries=queries,
        keys=keys,
        head_dim=rest.head_dim,
        value_dim=rest.value_dim or rest.head_dim,
        layouts=rest.layouts,
        q_offset=shape.q_offset[:batch] if isinstance(shape.q_offset, tuple) else shape.q_offset,
        k_offset=shape.k_offset[:batch] if isinstance(shape.k_offset, tuple) else shape.k_offset,
        documents=shape.documents,
        scale=rest.scale if module.reads_scale else None,
        ints=(rest.low, keys + 2 if rest.high is None else rest.high),
        ordered=rest.ordered,
        wide=rest.wide,
        gradients=rest.gradients,
        seed=rest.seed,
    )


def _rest(limits: Limits) -> st.SearchStrategy[_Rest]:
    features = _numbers(1, limits.features, [n for n in FEATURES if n <= limits.features])
    layout = st.sampled_from(LAYOUTS)
    return st.builds(
        _Rest,
        dtype=st.sampled_from(limits.dtypes),
        batch=st.integers(1, 3),
        group=st.sampled_from(GROUPS),
        key_heads=st.integers(1, 3),
        head_dim=features,
        value_dim=st.none() | features,
        layouts=st.tuples(layout, layout, layout),
        scale=st.sampled_from((None, 0.5, 1.0, 2.0)),
        low=st.sampled_from((0, -1)),
        high=st.sampled_from((3, 1, None)),
        ordered=st.booleans(),
        wide=st.booleans(),
        gradients=st.booleans() if limits.differentiable else st.just(False),
        seed=st.integers(0, 99_999),
    )


def _numbers(low: int, high: int, special: Sequence[int]) -> st.SearchStrategy[int]:
    """Numbers from `low` to `high`, special ones as often. Made of one integer, as that is what shrinks best."""
    count = high - low + 1

    def number(n: int) -> int:
        return low + n if n < count else special[n % len(special)]

    return st.integers(0, count - 1 + (count if special else 0)).map(number)


# -- facts about the spec --------------------------------------------------------------------------------------------


def _extent_names(module: AttentionModule) -> set[str]:
    grids = [grid for grid in (module.grid_q, module.grid_k) if grid is not None]
    extents = [node for grid in grids for extent in grid.extents for node in walk(extent)]
    return {node.name for node in extents if isinstance(node, Param)}


def _grid_size(module: AttentionModule, limits: Limits) -> int:
    grid = module.grid_q or module.grid_k
    extents = () if grid is None else grid.extents
    if not all(isinstance(extent, Const) for extent in extents):
        return 16  # known at the call only
    return min(prod(evaluate_dim(extent, {}) for extent in extents), limits.tokens)


def _multiplies_vectors(module: AttentionModule) -> bool:
    """Whether there are inner products of vectors that differ from pair to pair: the oracle needs N M D numbers."""
    return any(
        isinstance(node, Call) and node.fn == "dot" and any(axes(arg) >= PAIR for arg in node.args)
        for node in nodes(module)
    )


# -- shapes ----------------------------------------------------------------------------------------------------------


def _shapes(module: AttentionModule, limits: Limits) -> st.SearchStrategy[_Shape]:
    tokens = _numbers(0, min(140, limits.tokens), [n for n in SIZES if n <= limits.tokens])
    length = st.integers(0, min(limits.tokens, 130) // 3)
    lengths = st.lists(st.tuples(length, length), min_size=1, max_size=3)
    if read_by_queries(module):
        start, before = st.just(0) | st.integers(-8, 64), st.just(0) | st.integers(0, 40)
        return _mostly(st.builds(_inside, tokens, before, tokens, start), lengths.map(_packed_inside))
    if module.grid_q is not None or module.grid_k is not None:
        tokens = tokens | st.just(_GRID)
    each = st.tuples(*[st.integers(-3, 40)] * 3)
    q_offset: st.SearchStrategy[Any] = st.one_of(
        st.just(0), st.just("end"), st.integers(-8, 64), each, st.just(1 << 20)
    )
    k_offset: st.SearchStrategy[Any] = st.one_of(st.just(0), st.just(0), st.integers(-8, 64), each)
    packed = st.builds(_packed, lengths, st.sampled_from((0, 3, "end")), st.sampled_from((0, 2)))
    return _mostly(st.builds(_Shape, tokens, tokens, q_offset, k_offset), packed)


def _mostly(first: st.SearchStrategy[_Shape], second: st.SearchStrategy[_Shape]) -> st.SearchStrategy[_Shape]:
    """The first four times as often."""
    return st.one_of(first, first, first, first, second)


def _inside(keys: int, before: int, queries: int, start: int) -> _Shape:
    """Queries that are some of the keys."""
    before = min(before, keys)
    return _Shape(min(queries, keys - before), keys, start + before, start)


def _packed(lengths: list[tuple[int, int]], q_offset: Offset, k_offset: int) -> _Shape:
    queries, keys = (sum(side) for side in zip(*lengths, strict=True))
    return _Shape(queries, keys, q_offset, k_offset, tuple(lengths))


def _packed_inside(lengths: list[tuple[int, int]]) -> _Shape:
    return _packed([(n, n) for n, _ in lengths], 0, 0)

"""counterexamples: calls in numbers at which a claim fails.

Two sources: small calls drawn at random from a fixed seed, all pairs of each evaluated at once, and points of the set
of contradictions that `claims` found. Either is a guess; `worlds.holds` decides, so what is returned contradicts the
claim.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from attnc.diagnostics import SpecError
from attnc.ir.dims import evaluate_dim
from attnc.ir.expr import Const, Expr, Index, Lookup, Param, Size, Value
from attnc.ir.module import Grid, Range, ScalarParam, TensorParam, fixed_sizes
from attnc.ir.ranges import in_range, read_by, resolved
from attnc.ir.traverse import count_nodes, walk
from attnc.ir.types import BOOL, INT
from attnc.passes.claims import Contradiction
from attnc.passes.mask_atoms import Atom
from attnc.passes.subjects import negated
from attnc.passes.worlds import MAX_PAIRS, Number, UndefinedError, World, holds, number_at, pairs_of, row_of

#: Calls that are tried before and after the analysis, and drawn in search of some that fulfil the assumptions.
TRIED_FIRST = 24
TRIED_LATER = 96
DRAWN = 900
#: Operations on arrays of all searches together; one of more pairs than `_PAIRS_OF_WORK` counts several times.
MAX_WORK = 6000
_PAIRS_OF_WORK = 512
#: Keys of a row that are looked at to see that it is empty, and those that are looked at one by one.
_MAX_KEYS = 1 << 23
_NEAR = 256


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a call is drawn from. `positive` are parameters that divide; `seeds` are numbers that the text mentions."""

    scalars: Mapping[str, ScalarParam]
    tensors: Mapping[str, TensorParam]
    grids: tuple[Grid, ...]
    assumptions: Expr
    positive: frozenset[str]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A call and a pair of it; `j` is None for a row without keys."""

    world: World
    i: int
    j: int | None


class Search:
    """Looks for a pair at which a violation holds (a row at which it holds for every key) in small calls.

    `base` are numbers that fulfil the assumptions, from which some calls are drawn.
    """

    def __init__(self, inputs: Inputs, violation: Expr, base: Mapping[Expr, int], *, empty_row: bool) -> None:
        self._worlds = _worlds(inputs, base)
        self._work = MAX_WORK
        self._nodes = len({id(node) for node in walk(violation)}) if count_nodes(violation) < MAX_WORK else MAX_WORK
        self._violation = violation
        self._empty_row = empty_row

    def next(self, count: int) -> Found | None:
        """Try so many more calls."""
        for world in islice(self._worlds, count):
            self._work -= self._nodes * (1 + world.sizes["N"] * world.sizes["M"] // _PAIRS_OF_WORK)
            if self._work < 0:
                return None
            found = _in_world(world, self._violation, empty_row=self._empty_row)
            if found is not None:
                return found
        return None


def _in_world(world: World, violation: Expr, *, empty_row: bool) -> Found | None:
    boxes = pairs_of(world)
    if boxes is None:
        return None
    shape = (world.sizes["N"], world.sizes["M"])
    must = np.broadcast_to(boxes.truth(violation).must, shape)
    marked = np.argwhere(must.all(axis=1)) if empty_row else np.argwhere(must)
    if not len(marked):
        return None
    i = world.sizes["q_offset"] + int(marked[0][0])
    j = None if empty_row else world.sizes["k_offset"] + int(marked[0][1])
    return _checked(Found(world, i, j), violation)


def _checked(found: Found, violation: Expr) -> Found | None:
    """The guess, if the exact evaluation agrees."""
    try:
        if found.j is not None:
            return found if holds(violation, found.world, found.i, found.j) else None
        return found if _every_key(found, violation) else None
    except UndefinedError:
        return None


def _every_key(found: Found, violation: Expr) -> bool:
    """Whether a row has no key: all at once, and those near the ends and the query once more, one by one."""
    start, count = found.world.sizes["k_offset"], found.world.sizes["M"]
    if count > _MAX_KEYS:
        return False
    must = row_of(found.world, found.i).truth(violation).must
    if not bool(np.all(must)):
        return False
    near = {
        *range(start, start + _NEAR),
        *range(found.i - _NEAR, found.i + _NEAR),
        *range(start + count - _NEAR, start + count),
    }
    return all(holds(violation, found.world, found.i, j) for j in near if start <= j < start + count)


# -- from a point of the set -----------------------------------------------------------------------------------------


def from_point(inputs: Inputs, contradiction: Contradiction, violation: Expr, *, empty_row: bool) -> Found | None:
    """The call that a point of the set describes, its look-ups written into tensors."""
    point = contradiction.sample()
    world = _world_of(inputs, point)
    if world is not None:
        truths = ((atom.source, point[atom.ref]) for atom in contradiction.unknowns if atom.ref in point)
        world.params |= {leaf.name: value >= 1 for leaf, value in truths if isinstance(leaf, Param)}
    if world is None or not _is_allowed(inputs, world):
        return None
    i, j = point.get(Index("i")), point.get(Index("j"))
    if i is None or (j is None and not empty_row):
        return None
    try:
        for atom in contradiction.unknowns:
            if isinstance(atom.source, Lookup) and atom.ref in point:
                _write(world, atom, point[atom.ref], i, j)
    except (UndefinedError, KeyError, IndexError):
        return None
    return _checked(Found(world, i, None if empty_row else j), violation)


def _world_of(inputs: Inputs, point: Mapping[Expr, int]) -> World | None:
    rng = random.Random(0)
    world = World(_default_sizes(), tensors=inputs.tensors)
    _fix_heads(inputs, world, lambda _: 0)
    for leaf, value in point.items():
        if isinstance(leaf, Size | Value) or (isinstance(leaf, Index) and leaf.name not in ("i", "j")):
            world.sizes[leaf.name] = value
    if Index("hk") in point and Index("h") not in point:
        world.sizes["h"] = world.sizes["hk"] * max(world.sizes["H"] // max(world.sizes["Hk"], 1), 1)
    _draw_params(rng, inputs, world, point)
    return world if _fill(rng, inputs, world, plain=True) else None


def _write(world: World, atom: Atom, value: int, i: int, j: int | None) -> None:
    """Put the value of a look-up where it is read."""
    assert isinstance(atom.source, Lookup)
    table = world.tables[atom.source.tensor]
    rows: list[int] = []
    for axis, index in enumerate(atom.source.indices):
        position = number_at(index, world, i, j or 0)
        rows.append(world.stored_row(atom.source.tensor, axis, position))
    table[tuple(rows)] = value >= 1 if table.dtype == np.bool_ else value


# -- drawing calls ---------------------------------------------------------------------------------------------------


def _default_sizes() -> dict[str, int]:
    return {"B": 1, "H": 1, "Hk": 1, "N": 1, "M": 1, "D": 16, "Dv": 16, "q_offset": 0, "k_offset": 0} | dict.fromkeys(
        ("b", "h", "hk"), 0
    )


def _fix_heads(inputs: Inputs, world: World, place: Callable[[int], int]) -> None:
    """Batches and heads as tensors of known values have them, and others to fit; `place` chooses among so many."""
    sizes = world.sizes
    fixed = {size.name: value for size, value in fixed_sizes(inputs.tensors).items()}
    if not fixed.keys() & {"B", "H", "Hk"}:
        return
    sizes["B"] = fixed.get("B", sizes["B"])
    sizes["H"] = fixed.get("H", fixed.get("Hk", sizes["H"]))
    sizes["Hk"] = fixed.get("Hk", sizes["H"])
    sizes |= {"b": place(sizes["B"]), "h": place(sizes["H"])}
    sizes["hk"] = sizes["h"] // max(sizes["H"] // max(sizes["Hk"], 1), 1)


def _worlds(inputs: Inputs, base: Mapping[Expr, int]) -> Iterator[World]:
    rng = random.Random(20)
    for n in range(DRAWN):
        world = World(_default_sizes(), tensors=inputs.tensors)
        start = base if n % 3 == 2 else dict[Expr, int]()
        _draw_params(rng, inputs, world, start)
        _draw_sizes(rng, inputs, world, start, size=2 + n // 16)
        if _fill(rng, inputs, world, plain=False) and _is_allowed(inputs, world):
            yield world


def _is_allowed(inputs: Inputs, world: World) -> bool:
    sizes = world.sizes
    if min(sizes["N"], sizes["M"]) < 0 or any(not 0 <= sizes[x] < sizes[y] for x, y in _INSIDE):
        return False
    if sizes["H"] % sizes["Hk"] or sizes["hk"] != sizes["h"] // (sizes["H"] // sizes["Hk"]):
        return False
    for name, param in inputs.scalars.items():
        if not _in_range(world.params[name], param.range) or (name in inputs.positive and world.params[name] < 1):
            return False
    try:
        return not holds(negated(inputs.assumptions), world, 0, 0)
    except UndefinedError:
        return False


_INSIDE = (("b", "B"), ("h", "H"), ("hk", "Hk"))


def _in_range(value: Number, bounds: Range | None) -> bool:
    return bounds is None or isinstance(value, bool) or in_range(value, bounds)


def _draw_params(rng: random.Random, inputs: Inputs, world: World, base: Mapping[Expr, int]) -> None:
    for name, param in inputs.scalars.items():
        leaf = Param(name, param.type)
        if param.type == BOOL:
            world.params[name] = rng.random() < 0.5
        elif leaf in base and rng.random() < 0.8:
            world.params[name] = base[leaf]
        elif param.type == INT:
            low = 1 if name in inputs.positive else -2
            world.params[name] = _int(rng, _bounds(param, inputs, world), low, inputs.seeds)
        else:
            world.params[name] = _real(rng, _bounds(param, inputs, world))


def _bounds(param: ScalarParam, inputs: Inputs, world: World) -> Range | None:
    """The range of a parameter, in the parameters that have been drawn: those that its bounds read stand before it."""
    if not read_by(param.range) or param.range is None:
        return param.range
    known = {name: Const(value, inputs.scalars[name].type) for name, value in world.params.items()}
    try:
        return resolved(param.range, known)
    except SpecError:
        return param.range


def _int(rng: random.Random, bounds: Range | None, low: int, seeds: tuple[int, ...]) -> int:
    high = low + rng.choice((2, 4, 8))
    if bounds is not None and bounds.low is not None:
        low = int(np.ceil(bounds.low)) + bounds.low_open
        high = low + 6
    if bounds is not None and bounds.high is not None:
        high = int(np.floor(bounds.high)) - (bounds.high_open and float(bounds.high).is_integer())
        low = max(low, high - 8) if bounds.low is None else low
    if seeds and rng.random() < 0.25:
        return max(low, rng.choice(seeds) + rng.randint(-1, 1))
    found = rng.randint(min(low, high), max(low, high))
    return found if bounds is None or bounds.step <= 1 else low + (found - low) * bounds.step


def _real(rng: random.Random, bounds: Range | None) -> float:
    low = -2.0 if bounds is None or bounds.low is None else float(bounds.low)
    high = low + 4.0 if bounds is None or bounds.high is None else float(bounds.high)
    return round(low + (high - low) * rng.random(), 2)


def _draw_sizes(rng: random.Random, inputs: Inputs, world: World, base: Mapping[Expr, int], size: int) -> None:
    sizes = world.sizes
    heads = rng.choice((1, 1, 2))
    sizes |= {"B": rng.choice((1, 2)), "H": heads, "Hk": heads, "h": rng.randrange(heads)}
    sizes |= {"b": rng.randrange(sizes["B"]), "hk": sizes["h"]}
    _fix_heads(inputs, world, rng.randrange)
    sizes["q_offset"] = rng.choice((0, 0, 1, rng.randint(0, size)))
    sizes["N"] = rng.randint(1, size)
    if inputs.seeds and rng.random() < 0.3:  # as far as the numbers of the text reach
        sizes["q_offset"] = min(max(rng.choice(inputs.seeds) + rng.randint(-2, 2), 0), 1000)
        sizes["N"] = rng.randint(1, 3)
    sizes["M"] = sizes["q_offset"] + sizes["N"] + rng.choice((0, 0, 1, -1, rng.randint(0, size)))
    for leaf, value in base.items():
        if isinstance(leaf, Size | Value) and rng.random() < 0.8:
            sizes[leaf.name] = value
    _fit_grids(rng, inputs, world)


def _fit_grids(rng: random.Random, inputs: Inputs, world: World) -> None:
    """Keys are the points of the grid, queries lie on it."""
    names = {name: value for name, value in {**world.sizes, **world.params}.items() if isinstance(value, int)}
    for grid in inputs.grids:
        try:
            count = int(np.prod([float(evaluate_dim(extent, names)) for extent in grid.extents]))
            start = evaluate_dim(grid.start, names)
        except (KeyError, ValueError, ZeroDivisionError):
            return
        world.sizes["M"] = max(count, 0)
        world.sizes["k_offset"] = start
        world.sizes["N"] = max(1, min(count, MAX_PAIRS // max(count, 1), world.sizes["N"] * 4))
        world.sizes["q_offset"] = start + rng.randint(0, max(count - world.sizes["N"], 0)) * rng.randint(0, 1)


def _fill(rng: random.Random, inputs: Inputs, world: World, *, plain: bool) -> bool:
    """Tensors of the right size: zeros, or small numbers. False where one is too large."""
    draw = np.random.default_rng(rng.randrange(1 << 30))
    for name, tensor in inputs.tensors.items():
        try:
            shape = world.shape(tensor)
        except ValueError:
            return False
        world.tables[name] = _table(draw, tensor, shape, plain=plain)
    return True


def _table(draw: np.random.Generator, tensor: TensorParam, shape: tuple[int, ...], *, plain: bool) -> Any:
    if tensor.value is not None and tensor.value.shape == shape:
        return np.array(tensor.value.values, {BOOL: bool, INT: np.int64}.get(tensor.type, float)).reshape(shape)
    low = 0 if tensor.range is None or tensor.range.low is None else tensor.range.low
    if tensor.type == BOOL:
        return np.zeros(shape, bool) if plain else draw.random(shape) < draw.choice((0.2, 0.5, 0.8))
    if tensor.type != INT:
        return np.full(shape, float(low)) if plain else draw.random(shape) * 2 + low
    first = int(np.ceil(low)) + (tensor.range is not None and tensor.range.low_open)
    last = first + 4
    if tensor.range is not None and tensor.range.high is not None:
        last = min(last, int(np.floor(tensor.range.high)) - tensor.range.high_open)
    if plain or last < first:
        return np.full(shape, first)
    found = draw.integers(first, last + 1, shape)
    return np.sort(found, axis=-1) if draw.random() < 0.5 else found


def constants(*exprs: Expr) -> tuple[int, ...]:
    """The whole numbers of a text that are worth trying as sizes."""
    found = {abs(int(node.value)) for expr in exprs for node in walk(expr) if isinstance(node, Const)}
    return tuple(sorted(value for value in found if 2 <= value <= 2000))[:16]

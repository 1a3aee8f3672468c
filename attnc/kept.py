"""How many keys each query keeps, where that takes no look at every pair: from closed forms or from an axis's table.

The closed forms are those of tiles of one pair: what they visit is what the mask keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from attnc.ir.expand import written_out
from attnc.ir.expr import Expr, Index, Param, Size, Value
from attnc.ir.plan import KernelPlan, Part, Tile, TileAxis
from attnc.ir.types import BOOL, INT, REAL
from attnc.passes.block_sparsity import BlockSparsity
from attnc.passes.mask_intervals import Boxes
from attnc.passes.mask_sets import MAX_OPERATIONS
from attnc.passes.spans import Span
from attnc.passes.tile_tables import MAX_COUNTED, NotCountableError, axis_extent, values_of
from attnc.visits import AxisMap, UnknownVisitsError, tile_map

Ints = NDArray[np.int64]
#: Rows that are counted one by one from closed forms, and pairs that are looked at one by one.
MAX_ROWS = 1 << 23
MAX_PAIRS = 1 << 22
#: Operations for all of them together: about half a second.
MAX_STEPS = 1 << 29
_CHUNK = 1 << 16


class Counter(Protocol):
    """Keys that rows keep, exactly."""

    @property
    def why(self) -> str:
        """How they are counted."""
        ...

    def of(self, rows: Ints) -> Ints:
        """Of consecutive stored rows by number. Raises NotCountableError."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """Pairs that the mask keeps and rows without any key; None with a reason in `why` where they were not counted."""

    pairs: int | None
    empty_rows: int | None
    why: str


def kept(plan: KernelPlan, names: Mapping[str, Any], counter: Counter | str | None = None) -> Kept:
    """Counted exactly, or not at all. `counter` is that of `counter_of`, where it is known already."""
    part = plan.parts[0]
    if len(plan.parts) == 1 and part.axes and part.exact and (len(part.axes) > 1 or plan.module.grid_q is not None):
        return _product(part, names)
    counter = counter_of(plan, names) if counter is None else counter
    if isinstance(counter, str):
        return Kept(None, None, counter)
    n = names["N"]
    pairs = empty = 0
    try:
        for first in range(0, n, _CHUNK):
            counts = counter.of(np.arange(first, min(first + _CHUNK, n), dtype=np.int64))
            pairs += int(counts.sum())
            empty += int((counts == 0).sum())
    except NotCountableError:
        return Kept(None, None, "not counted: depends on data")
    return Kept(pairs, empty, counter.why)


def counter_of(plan: KernelPlan, names: Mapping[str, Any]) -> Counter | str:
    """Who counts the keys of single rows; the reason as text where nobody can in reasonable time."""
    if names["N"] > MAX_ROWS:
        return f"not counted: more than {MAX_ROWS} rows"
    if len(plan.parts) > 1:
        found = [counter_of(replace(plan, mask=plan.mask_of(part), parts=(part,)), names) for part in plan.parts]
        counters = tuple(counter for counter in found if not isinstance(counter, str))
        return _Sum(counters) if len(counters) == len(found) else next(why for why in found if isinstance(why, str))
    ones = BlockSparsity(MAX_OPERATIONS).run(plan.mask, Tile(1, 1))
    axis = tile_map(ones, names).axes[0]
    probe = np.zeros(min(names["N"], 1), np.int64)
    if ones.exact:
        try:
            for _ in axis.runs(probe):
                pass
            return _ClosedForm(axis)
        except UnknownVisitsError as error:
            return f"not counted: depends on {error.reason}"
    pairs = names["N"] * names["M"]
    if pairs > MAX_PAIRS or pairs * written_out(plan.mask) > MAX_STEPS:
        return "not counted: no closed form, and too many pairs to look at each"
    pair = _OnePair(plan, names)
    try:
        pair.of(probe)
    except NotCountableError:
        return "not counted: depends on data"
    return pair


@dataclass(frozen=True, slots=True)
class _ClosedForm:
    axis: AxisMap
    why: str = "counted from closed forms"

    def of(self, rows: Ints) -> Ints:
        counts = np.zeros(len(rows), np.int64)
        for runs in self.axis.runs(rows) if len(rows) else ():
            counts += np.bincount(runs.unit - rows[0], runs.count, len(rows)).astype(np.int64)
        return counts


@dataclass(frozen=True, slots=True)
class _Sum:
    """Parts share no pair, so their counts add up."""

    parts: tuple[Counter, ...]
    why: str = "counted part by part"

    def of(self, rows: Ints) -> Ints:
        return sum((part.of(rows) for part in self.parts), np.zeros(len(rows), np.int64))


@dataclass(frozen=True, slots=True)
class _OnePair:
    """Looks at every pair of the rows, a chunk at a time."""

    plan: KernelPlan
    names: Mapping[str, Any]
    why: str = "counted pair by pair"

    def of(self, rows: Ints) -> Ints:
        keys = np.arange(self.names["M"], dtype=np.int64)
        step = max(1, _CHUNK // max(len(keys), 1))
        found = [keeps(self.plan, self.names, rows[n : n + step], keys).sum(1) for n in range(0, len(rows), step)]
        return np.concatenate([np.zeros(0, np.int64), *found])


def keeps(plan: KernelPlan, names: Mapping[str, Any], rows: Ints, keys: Ints) -> NDArray[np.bool_]:
    """The mask of some stored rows and keys. Raises NotCountableError."""
    here = pairs_of(names, rows, keys)
    return np.broadcast_to(truth_of(plan.mask, here), (len(rows), len(keys)))


def pairs_of(names: Mapping[str, Any], rows: Ints, keys: Ints) -> dict[str, Any]:
    """The names with those of pairs of stored rows and keys."""
    r, c = rows[:, None], keys[None, :]
    return {**names, "r": r, "c": c, "i": r + names["q_offset"], "j": c + names["k_offset"]}


def truth_of(cond: Expr, names: Mapping[str, Any]) -> NDArray[np.bool_]:
    """A condition over arrays by name. Raises NotCountableError."""
    try:
        return np.asarray(values_of(cond, names), np.bool_)
    except NotCountableError:
        # What `values_of` has no function for, intervals of one point may decide.
        truth = Boxes({leaf: Span.of(value) for leaf, value in _leaves(names)}).truth(cond)
        if bool(truth.undecided.any()):
            raise
        return truth.must


def _leaves(names: Mapping[str, Any]) -> Iterator[tuple[Expr, Any]]:
    for name, value in names.items():
        if name in ("i", "j", "r", "c", "b", "h", "hk"):
            yield Index(name), value
        elif name in ("N", "M", "B", "H", "Hk"):
            yield Size(name), value
        elif name in ("q_offset", "k_offset"):
            yield Value(name, INT), value
        else:
            yield from ((Param(name, kind), value) for kind in (BOOL, INT, REAL))


# -- products of axes ------------------------------------------------------------------------------------------------


def _product(part: Part, names: Mapping[str, Any]) -> Kept:
    """Pairs multiply along the axes, and so do the coordinates that see a key."""
    extents = [axis_extent(axis, names) for axis in part.axes]
    if max(extents) > MAX_COUNTED:
        return Kept(None, None, f"not counted: an axis is longer than {MAX_COUNTED}")
    counts = [np.concatenate(list(_coordinate_counts(axis, names))) for axis in part.axes]
    pairs = prod(int(count.sum()) for count in counts)
    rows = prod(int((count > 0).sum()) for count in counts)
    queries = prod(extents) if part.origin is None else names["N"]  # those beside the grid see nothing
    return Kept(pairs, queries - rows, "counted axis by axis")


def _coordinate_counts(axis: TileAxis, names: Mapping[str, Any]) -> Iterator[Ints]:
    extent = axis_extent(axis, names)
    x = np.arange(extent, dtype=np.int64)
    step = max(1, _CHUNK // max(extent, 1))
    yield np.zeros(0, np.int64)
    for first in range(0, extent, step):
        i, j = x[first : first + step, None], x[None, :]
        related = truth_of(axis.relation, {**names, "i": i, "j": j, "r": i, "c": j})
        yield np.broadcast_to(related, (len(i), extent)).sum(1).astype(np.int64)

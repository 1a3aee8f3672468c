"""The tiles that a plan visits for given sizes, as runs of key tiles: what `explain` counts and pictures show.

Nothing here is as long as the pairs of a call. The longest arrays are a few numbers per query tile of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from attnc.diagnostics import CallError
from attnc.ir.expr import Expr, Index, Lookup, Param, Size, Value
from attnc.ir.plan import Part, TileAxis, Visit
from attnc.ir.traverse import walk
from attnc.passes.tile_lists import Shape, list_of_numbers
from attnc.passes.tile_tables import AxisTable, NotCountableError, axis_extent, axis_table, steps, values_of

Ints = NDArray[np.int64]
#: Query tiles that are looked at together.
CHUNK = 4096
#: Longest call that numbers of 64 bits describe with room to spare.
MAX_TOKENS = 1 << 40


class UnknownVisitsError(Exception):
    """The visits depend on data; `reason` is what they read, as text."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Runs:
    """Of each query tile in `unit` the key tiles low, low + step, ..., `count` of them (at least one)."""

    kind: str
    unit: Ints
    low: Ints
    count: Ints
    step: int


@dataclass(frozen=True)
class AxisMap:
    """One axis of a tile map; a part without axes is one axis with one class, whose coordinates are positions.

    Query tiles are numbered class by class, key tiles too: those without coordinates have no number. `lengths` are the
    coordinates of each class on either side, `first` the position of the first query.
    """

    rows: int
    keys: int
    query_lengths: Ints
    key_lengths: Ints
    visits: tuple[Visit, ...]
    names: Mapping[str, int]
    first: int = 0
    table: AxisTable | None = None
    relation: Expr | None = None

    @cached_property
    def query_starts(self) -> Ints:
        """Number of the first query tile of each class, and of all."""
        return _starts(self.query_lengths, self.rows)

    @cached_property
    def key_starts(self) -> Ints:
        """Number of the first key tile of each class, and of all."""
        return _starts(self.key_lengths, self.keys)

    @property
    def query_tiles(self) -> int:
        return int(self.query_starts[-1])

    @property
    def key_tiles(self) -> int:
        return int(self.key_starts[-1])

    def runs(self, units: Ints) -> Iterator[Runs]:
        """The visits of some query tiles. Raises UnknownVisitsError."""
        cls = np.searchsorted(self.query_starts, units, side="right") - 1
        tile = units - self.query_starts[cls]
        if self.table is not None:
            yield from self._from_table(units, cls, tile)
            return
        length = self.query_lengths[cls]
        i0 = self.first + tile * self.rows
        i1 = self.first + np.minimum((tile + 1) * self.rows, length) - 1
        here = {**self.names, "M": self.key_lengths[cls], "i0": i0, "i1": i1, "class": cls}
        last = (self.key_lengths[cls] - 1) // self.keys
        for visit in self.visits:
            for piece in visit.pieces:
                try:
                    guard, low, high = (values_of(e, here) for e in (piece.guard, piece.low, piece.high))
                except NotCountableError:
                    raise UnknownVisitsError(_unknown(self.visits, here)) from None
                low, high = (np.broadcast_to(np.asarray(x, np.int64), units.shape) for x in (low, high))
                low = np.maximum(low, 0) if piece.step == 1 else low
                count = np.where(guard, np.maximum((np.minimum(high, last) - low) // piece.step + 1, 0), 0)
                some = np.broadcast_to(count > 0, units.shape)
                yield Runs(visit.kind, units[some], (low + self.key_starts[cls])[some], count[some], piece.step)

    def _from_table(self, units: Ints, cls: Ints, tile: Ints) -> Iterator[Runs]:
        assert self.table is not None
        entry = cls * max(int(-(-self.query_lengths.max(initial=0) // self.rows)), 1) + tile
        for kind, first, count in (
            ("full", self.table.starts[entry], self.table.full[entry]),
            ("partial", self.table.starts[entry] + self.table.full[entry], (self.table.live - self.table.full)[entry]),
        ):
            where = np.repeat(np.arange(len(units)), count)
            within = np.arange(len(where)) - np.repeat(np.cumsum(count) - count, count)
            low = self.table.entries[first[where] + within] + self.key_starts[cls[where]]
            yield Runs(kind, units[where], low, np.ones(len(where), np.int64), 1)

    def chunks(self, first: int = 0, last: int | None = None, step: int = 1) -> Iterator[Ints]:
        """Numbers of query tiles, a chunk at a time."""
        units = range(first, self.query_tiles if last is None else last, step)
        for start in range(0, len(units), CHUNK):
            part = units[start : start + CHUNK]
            yield np.arange(part.start, part.stop, part.step, dtype=np.int64)

    def count(self, step: int = 1) -> tuple[int, int]:
        """Full and live tiles; of every `step`-th query tile only, the others as if they were like these."""
        counts = {"full": 0, "partial": 0}
        for units in self.chunks(step=step):
            for runs in self.runs(units):
                weights = np.minimum(step, self.query_tiles - runs.unit)
                counts[runs.kind] += int((runs.count * weights).sum())
        return counts["full"], counts["full"] + counts["partial"]


def _starts(lengths: Ints, size: int) -> Ints:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(-(-lengths // size))))


def _unknown(visits: tuple[Visit, ...], names: Mapping[str, object]) -> str:
    """The look-up or the leaf that no number is known for, as text."""
    from attnc.ir.printer import print_expr

    nodes = [n for v in visits for p in v.pieces for e in (p.guard, p.low, p.high) for n in walk(e)]
    found = [node for node in nodes if isinstance(node, Lookup)]
    if found:
        return print_expr(found[0])
    named = [node for node in nodes if (getattr(node, "name", None) or "i0") not in names]
    return f"`{print_expr(named[0])}`" if named else "what is known at the call only"


@dataclass(frozen=True)
class TileMap:
    """The axes of a part for given sizes; a query tile visits a key tile where every axis does."""

    part: Part
    axes: tuple[AxisMap, ...]

    @property
    def query_tiles(self) -> int:
        return prod(axis.query_tiles for axis in self.axes)

    @property
    def key_tiles(self) -> int:
        return prod(axis.key_tiles for axis in self.axes)

    @property
    def has_full(self) -> bool:
        """Whether full tiles are told apart."""
        return any(visit.kind == "full" for visit in self.part.visits)


def sizes_of(n: int, m: int) -> dict[str, int]:
    """What the expressions of a plan read of a call at offset 0, for the first of one head. Raises CallError."""
    if max(n, m) > MAX_TOKENS:
        raise CallError(f"sizes: at most {MAX_TOKENS} tokens, got {max(n, m)}")
    return {"N": n, "M": m, "q_offset": 0, "k_offset": 0, "B": 1, "b": 0, "h": 0, "hk": 0}


def tile_map(part: Part, names: Mapping[str, int]) -> TileMap:
    """The tile map of a part for sizes, offsets and parameters by name."""
    if part.axes:
        return TileMap(part, tuple(_axis(axis, names) for axis in part.axes))
    queries, keys = (np.array([names[side]], np.int64) for side in ("N", "M"))
    table = _of_numbers(part, tuple(names.items())) if part.listing is not None and part.listing.of_numbers else None
    flat = AxisMap(part.tile.rows, part.tile.keys, queries, keys, part.visits, names, names["q_offset"], table)
    return TileMap(part, (flat,))


@lru_cache(8)
def _of_numbers(part: Part, known: tuple[tuple[str, int], ...]) -> AxisTable | None:
    """The list that a call makes from its numbers; None where it makes none."""
    names = dict(known)
    assert part.mask is not None
    leaves = {x for x in walk(part.mask) if isinstance(x, Size | Value | Param | Index) and x.name in names}
    shape = Shape(part.tile, names["N"], names["M"], 1, names["q_offset"], names["k_offset"])
    found = list_of_numbers(part.mask, shape, {leaf: names[leaf.name] for leaf in leaves})
    return None if found is None else AxisTable(found.starts, found.live, found.full, found.entries)


def _axis(axis: TileAxis, names: Mapping[str, int]) -> AxisMap:
    lengths = steps(axis, axis_extent(axis, names))
    table = None if axis.visits else axis_table(axis, names)
    return AxisMap(axis.rows, axis.keys, lengths, lengths, axis.visits, names, 0, table, axis.relation)

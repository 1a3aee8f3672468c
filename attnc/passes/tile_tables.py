"""Which key tiles a query tile visits along one axis of a tile map, as tables of ints: made at the call, kept by size.

An axis has one unit per class and query tile. Its table lists, per unit, the key tiles that are live, full ones first.
The work is proportional to the entries where the axis has closed forms, to the pairs of coordinates of a short axis
else; of a long one, the relation is evaluated over intervals, from coarse blocks to tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.diagnostics import InternalError
from attnc.ir.beside import points_of, tiles_beside
from attnc.ir.expand import written_out
from attnc.ir.expr import Call, Const, Exists, Expr, Index, Param, Ref, Size, Value, Var
from attnc.ir.plan import Part, Piece, Tile, TileAxis, Visit
from attnc.ir.types import INT
from attnc.passes.numpy_functions import FUNCTIONS
from attnc.passes.spans import Span
from attnc.passes.tile_lists import MAX_ENTRIES, MAX_WORK, Shape, Source, list_visits

Ints = NDArray[Any]
#: Query tiles of a table, over all classes.
MAX_UNITS = 1 << 21
#: Longest axis (in y) whose pairs are counted out one by one.
MAX_COUNTED = 4096
#: Operations for all pairs of an axis: two seconds, which only `exists` of many values reach.
MAX_STEPS = 1 << 31
ANY_NUMBER = 1 << 62


class NotCountableError(Exception):
    """An expression that has no value before the kernel runs."""


class LongTableError(Exception):
    """A table with more entries than were asked for, or that takes too long to make."""


def values_of(expr: Expr, names: Mapping[str, Any]) -> Any:
    """An int or bool expression over arrays of ints by name. Raises NotCountableError."""
    match expr:
        case Const(value=value):
            return value
        case Var(name=name):
            return names[_variable(name)]
        case Index(name=name) | Size(name=name) | Param(name=name) | Ref(name=name) | Value(name=name):
            if name not in names:
                raise NotCountableError(name)
            return names[name]
        case Exists(low=Const(value=low), high=Const(value=high)):
            name = _variable(expr.var)
            cases = (values_of(expr.body, {**names, name: n}) for n in range(int(low), int(high)))
            return reduce(np.logical_or, cases, np.bool_(False))
        case Call(fn=fn, args=args) if fn in FUNCTIONS:
            return FUNCTIONS[fn](*(values_of(arg, names) for arg in args))
        case _:
            raise NotCountableError(type(expr).__name__)


def _variable(name: str) -> str:
    """The name of a variable among others: no size and no parameter has it."""
    return f"exists {name}"


def is_countable(expr: Expr, names: frozenset[str]) -> bool:
    """Whether `values_of` knows it when it knows `names`."""
    try:
        values_of(expr, dict.fromkeys(names, 1))
    except (NotCountableError, ZeroDivisionError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class AxisTable:
    """Per unit: where its entries start, how many key tiles are live, how many of them full; then the entries."""

    starts: Ints
    live: Ints
    full: Ints
    entries: Ints

    @property
    def units(self) -> int:
        return len(self.starts)

    def entries_of(self, unit: int) -> Ints:
        """Key tiles of a unit, full ones first."""
        start = int(self.starts[unit])
        return self.entries[start : start + int(self.live[unit])]

    def packed(self) -> NDArray[np.int32]:
        """As the kernels read it: three ints per unit, then the entries; starts count from the beginning."""
        header = np.stack((self.starts + 3 * len(self.starts), self.live, self.full), axis=1)
        return np.concatenate((header.reshape(-1), self.entries)).astype(np.int32)


def class_count(axis: TileAxis, extent: int) -> int:
    """The number of classes."""
    return -(-extent // axis.block) if axis.block else axis.modulus


def steps(axis: TileAxis, extent: int) -> Ints:
    """The number of y of each class."""
    classes = np.arange(class_count(axis, extent), dtype=np.int64)
    if axis.block:
        return np.minimum(extent - classes * axis.block, axis.block)
    return np.maximum(extent - classes + axis.modulus - 1, 0) // axis.modulus


def coordinates(axis: TileAxis, extent: int, cls: int, y: Ints) -> Ints:
    """The coordinates of some y of a class, those that exist."""
    x = cls * axis.block + y[y < axis.block] if axis.block else cls + axis.modulus * y
    return x[x < extent]


def tile_counts(axis: TileAxis, extent: int) -> tuple[int, int]:
    """Query tiles and key tiles along y of the longest class."""
    longest = min(axis.block, extent) if axis.block else -(-extent // axis.modulus)
    return -(-longest // axis.rows), -(-longest // axis.keys)


def axis_extent(axis: TileAxis, names: Mapping[str, int]) -> int:
    """The number of coordinates."""
    return int(values_of(axis.extent, names))


def axis_table(axis: TileAxis, names: Mapping[str, int], most: int = ANY_NUMBER) -> AxisTable:
    """The table of an axis for sizes and parameters by name.

    Raises LongTableError when a table of a long axis without closed forms would have clearly more than `most` entries
    or take too long, and when one from closed forms takes more memory than it is worth.
    """
    extent = axis_extent(axis, names)
    lengths = steps(axis, extent)
    queries, keys = tile_counts(axis, extent)
    if len(lengths) * queries > MAX_UNITS:
        raise LongTableError
    if axis.visits:
        return _from_closed_forms(axis, names, lengths, queries)
    if is_short(axis, lengths):
        kinds = _counted(axis, names, lengths, queries, keys)
    elif class_count(axis, extent) > 1:
        raise LongTableError
    else:
        kinds = _by_intervals(axis, names, extent, most)
    return _joined(*kinds, units=len(lengths) * queries)


def is_short(axis: TileAxis, lengths: Ints) -> bool:
    """Whether the pairs of an axis may be looked at one by one; every value of an `exists` is an operation more."""
    pairs = int((lengths.astype(np.float64) ** 2).sum())
    return int(lengths.max(initial=0)) <= MAX_COUNTED and pairs * written_out(axis.relation) <= MAX_STEPS


def tables_of(axes: Sequence[TileAxis], names: Mapping[str, int]) -> tuple[AxisTable, ...] | None:
    """Those of all axes; None when one would be too long."""
    try:
        return tuple(axis_table(axis, names) for axis in axes)
    except LongTableError:
        return None


def _joined(units_full: Ints, full: Ints, units_partial: Ints, partial: Ints, *, units: int) -> AxisTable:
    """Entries sorted by unit, full tiles first."""
    unit = np.concatenate((units_full, units_partial))
    order = np.argsort(unit, kind="stable")
    live = np.bincount(unit, minlength=units)
    starts = np.concatenate(([0], np.cumsum(live)[:-1])) if units else live
    return AxisTable(starts, live, np.bincount(units_full, minlength=units), np.concatenate((full, partial))[order])


Kinds = tuple[Ints, Ints, Ints, Ints]


def _from_closed_forms(axis: TileAxis, names: Mapping[str, int], lengths: Ints, queries: int) -> AxisTable:
    """From the pieces of the visits, the full ones first: every range is written where its unit has got to."""
    cls, tile = (x.reshape(-1) for x in np.meshgrid(np.arange(len(lengths)), np.arange(queries), indexing="ij"))
    length = lengths[cls]
    first = tile * axis.rows
    real = first < length
    here = {**names, "M": length, "i0": first, "i1": np.minimum(first + axis.rows, length) - 1, "class": cls}
    pieces = [
        (kind, piece.step, *_ranges(piece, here, real, (length - 1) // axis.keys))
        for kind in ("full", "partial")
        for visit in axis.visits
        for piece in (visit.pieces if visit.kind == kind else ())
    ]
    none = np.zeros(len(cls), np.int64)
    live = sum((count for _, _, _, count in pieces), none)
    full = sum((count for kind, _, _, count in pieces if kind == "full"), none)
    starts = np.cumsum(live) - live
    if int(live.sum()) > MAX_ENTRIES:
        raise LongTableError
    entries = np.empty(int(live.sum()), np.int32)
    place = starts.astype(np.int32)
    for _, step, low, count in pieces:
        within = np.arange(int(count.sum()), dtype=np.int32)
        before = (np.cumsum(count) - count).astype(np.int32)
        entries[np.repeat(place - before, count) + within] = np.repeat(
            low.astype(np.int32) - before * np.int32(step), count
        ) + within * np.int32(step)
        place += count.astype(np.int32)
    return AxisTable(starts, live, full, entries)


def _ranges(piece: Piece, here: Mapping[str, Any], real: Any, last: Ints) -> tuple[Ints, Ints]:
    """First tile and number of tiles of a piece, per unit."""
    low = np.maximum(np.broadcast_to(values_of(piece.low, here), real.shape), 0)
    high = np.minimum(np.broadcast_to(values_of(piece.high, here), real.shape), last)
    count = np.where(real & values_of(piece.guard, here), np.maximum((high - low) // piece.step + 1, 0), 0)
    return low, count


def count_of_ranges(visits: tuple[Visit, ...], tile: Tile, n: int) -> int:
    """Key tiles that closed forms visit, over all query tiles of n positions. Raises NotCountableError."""
    return int(counts_of_ranges(visits, tile, n).sum())


def counts_of_ranges(visits: tuple[Visit, ...], tile: Tile, n: int) -> Ints:
    """Key tiles that closed forms visit, per query tile of n positions. Raises NotCountableError."""
    first = np.arange(0, n, tile.rows, dtype=np.int64)
    here = {"N": n, "M": n, "q_offset": 0, "k_offset": 0, "i0": first, "i1": np.minimum(first + tile.rows, n) - 1}
    real, last = np.ones(len(first), np.bool_), np.full(len(first), (n - 1) // tile.keys)
    none = np.zeros(len(first), np.int64)
    return sum((_ranges(piece, here, real, last)[1] for visit in visits for piece in visit.pieces), none)


def _counted(axis: TileAxis, names: Mapping[str, int], lengths: Ints, queries: int, keys: int) -> Kinds:
    """The same from the relation itself, evaluated for every pair of coordinates of a class."""
    any_live: list[Any] = []
    all_full: list[Any] = []
    for cls, length in enumerate(lengths.tolist()):
        kept = _relation(axis, names, cls)
        padded = np.zeros((queries * axis.rows, keys * axis.keys), np.bool_)
        padded[:length, :length] = kept
        blocks = padded.reshape(queries, axis.rows, keys, axis.keys)
        any_live.append(blocks.any((1, 3)))
        # Rows past the end do not keep a tile from being full; keys past the end do.
        padded[length:, :length] = True
        all_full.append(blocks.all((1, 3)))
    live = np.concatenate(any_live)
    full = np.concatenate(all_full) & live
    units_full, tiles_full = np.nonzero(full)
    units_partial, tiles_partial = np.nonzero(live & ~full)
    return units_full, tiles_full, units_partial, tiles_partial


def _relation(axis: TileAxis, names: Mapping[str, int], cls: int) -> Any:
    """Kept pairs of y, of one class."""
    extent = axis_extent(axis, names)
    x = coordinates(axis, extent, cls, np.arange(extent, dtype=np.int64))
    i, j = x[:, None], x[None, :]
    kept = values_of(axis.relation, {**names, "i": i, "j": j, "r": i, "c": j})
    return np.broadcast_to(np.asarray(kept, np.bool_), (len(x), len(x)))


def _by_intervals(axis: TileAxis, names: Mapping[str, int], extent: int, most: int) -> Kinds:
    """Tiles that the relation may keep something of, and those that it must keep all of, from coarse to fine."""
    if class_count(axis, extent) > 1:
        raise InternalError("the classes of an axis have closed forms, or few coordinates")
    known: dict[Expr, Source | Span] = {Size("N"): Span.of(names["N"]), Size("M"): Span.of(names["N"])}
    known |= {Value(name, INT): Span.of(0) for name in ("q_offset", "k_offset")}
    found = list_visits(axis.relation, Shape(Tile(axis.rows, axis.keys), extent, extent, 1), known, most, MAX_WORK)
    if found is None:
        raise LongTableError
    unit = np.repeat(np.arange(found.units), found.live)
    full = np.arange(len(unit)) - found.starts[unit] < found.full[unit]
    return unit[full], found.entries[full], unit[~full], found.entries[~full]


# -- measures --------------------------------------------------------------------------------------------------------


def kept_pairs(axis: TileAxis, names: Mapping[str, int]) -> int | None:
    """Pairs of coordinates that the axis keeps; None when they are too many to count."""
    lengths = steps(axis, axis_extent(axis, names))
    if not is_short(axis, lengths):
        return None
    return sum(int(_relation(axis, names, cls).sum()) for cls in range(len(lengths)))


def visited_pairs(axis: TileAxis, table: AxisTable) -> int:
    """Pairs of coordinates of the tiles that are visited, ragged ones counted whole."""
    return int(table.live.sum()) * axis.rows * axis.keys


# -- boxes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Box:
    """A query tile: its stored rows; the stored rows of each key tile that it visits, and whether that is full."""

    rows: Ints
    keys: tuple[tuple[Ints, bool], ...]


def boxes(part: Part, tables: Sequence[AxisTable], names: Mapping[str, int]) -> Iterator[Box]:
    """All query tiles that have rows, in the order of the kernels' programs."""
    axes, origin = part.axes, part.origin or 0
    extents = [axis_extent(axis, names) for axis in axes]
    strides = [int(values_of(axis.stride, names)) for axis in axes]
    for units in product(*(range(len(table.starts)) for table in tables)):
        sides = [_Side(axis, extent, unit) for axis, extent, unit in zip(axes, extents, units, strict=True)]
        rows = _stored([side.queries() for side in sides], strides, origin)
        if rows.size:
            live = [
                [(side.keys(int(tile)), n < table.full[unit]) for n, tile in enumerate(table.entries_of(unit))]
                for side, table, unit in zip(sides, tables, units, strict=True)
            ]
            chosen = product(*live)
            keys = (
                (_stored([x for x, _ in entry], strides, origin), all(full for _, full in entry)) for entry in chosen
            )
            yield Box(rows, tuple(keys))
    yield from (Box(rows[rows >= 0], ()) for rows in rows_beside(part, names["N"]))


@dataclass(frozen=True, slots=True)
class _Side:
    """One unit of an axis."""

    axis: TileAxis
    extent: int
    unit: int

    def _tile(self, first: int, size: int, cls: int) -> Ints:
        return coordinates(self.axis, self.extent, cls, np.arange(first, first + size, dtype=np.int64))

    def _place(self) -> tuple[int, int]:
        return divmod(self.unit, max(tile_counts(self.axis, self.extent)[0], 1))

    def queries(self) -> Ints:
        """Coordinates of the queries."""
        cls, tile = self._place()
        return self._tile(tile * self.axis.rows, self.axis.rows, cls)

    def keys(self, tile: int) -> Ints:
        """Coordinates of a key tile of the same class."""
        return self._tile(tile * self.axis.keys, self.axis.keys, self._place()[0])


def _stored(coordinates: Sequence[Ints], strides: Sequence[int], origin: int) -> Ints:
    """Stored rows of all combinations of coordinates, the last axis fastest."""
    total = np.full(1, origin, np.int64)
    for x, stride in zip(coordinates, strides, strict=True):
        total = (total[:, None] + x[None, :] * stride).reshape(-1)
    return total


def rows_beside(part: Part, n: int) -> Ints:
    """Stored rows of the query tiles beside a grid [tiles, rows], -1 where there is none."""
    tiles = np.full(tiles_beside(part, n) * part.tile.rows, -1, np.int64)
    if part.origin is not None:
        others = np.arange(n - points_of(part))
        tiles[: others.size] = np.where(others < part.origin, others, others + points_of(part))
    return tiles.reshape(-1, part.tile.rows)

"""How much the tiles of a part visit: what tile maps are compared by."""

from __future__ import annotations

from math import prod

import numpy as np

from attnc.ir.expr import Const, Expr, Size, Value
from attnc.ir.module import AttentionModule, Grid
from attnc.ir.plan import Part, Tile, TileAxis
from attnc.ir.types import INT
from attnc.passes.spans import Span
from attnc.passes.tile_lists import Shape, list_visits
from attnc.passes.tile_tables import (
    ANY_NUMBER,
    LongTableError,
    NotCountableError,
    axis_table,
    class_count,
    count_of_ranges,
)

#: Longest axis of a grid whose pairs are looked at while planning.
_LONGEST = 1024
#: Positions for which a mask without a grid is compared as one part and as two.
_LONG = 16384
#: Entries of tables without closed forms that are made to compare parts on longer grids: less than a second.
_MOST_ENTRIES = 1 << 15
#: Query tiles that stand for all where such a table would have more. A prime, so that they lie everywhere on the axes.
_SAMPLES = 61


def area_of(parts: tuple[Part, ...], module: AttentionModule) -> int | None:
    """Pairs in visited tiles, with what it costs to hand accumulators from part to part; of a very long table a
    part is counted. None when data decides, or when the table of several classes is too long to be made.
    """
    size = _LONG if module.grid_q is None or not is_static(module.grid_q) else rows_of(module.grid_q)
    total = (len(parts) - 1) * size * parts[0].tile.keys
    try:
        for part in parts:
            tile = part.tile
            tiles = _tiles_of(part.axes, size) if part.axes else count_of_ranges(part.visits, tile, size)
            total += tiles * tile.rows * tile.keys
    except (NotCountableError, LongTableError):
        return None
    return total


def _tiles_of(axes: tuple[TileAxis, ...], size: int) -> int:
    try:
        return visited_boxes(axes, size, _MOST_ENTRIES if size > _LONG else ANY_NUMBER)
    except LongTableError:
        axis, *others = axes
        if others or class_count(axis, size) > 1:
            raise
        return _sampled(axis, size)


def _sampled(axis: TileAxis, size: int) -> int:
    """Tiles that a list of ranges visits, as if all query tiles were like some of them."""
    tiles = -(-size // axis.rows)
    count = 0
    for first in np.linspace(0, tiles - 1, min(_SAMPLES, tiles)).astype(np.int64).tolist():
        q_offset = first * axis.rows
        shape = Shape(Tile(axis.rows, axis.keys), min(axis.rows, size - q_offset), size, 1, q_offset)
        known = {Size("N"): Span.of(size), Size("M"): Span.of(size), Value("k_offset", INT): Span.of(0)}
        found = list_visits(axis.relation, shape, {**known, Value("q_offset", INT): Span.of(q_offset)})
        count += -(-size // axis.keys) if found is None else len(found.entries)
    return count * tiles // min(_SAMPLES, tiles)


def visited_boxes(axes: tuple[TileAxis, ...], size: int, most: int = ANY_NUMBER) -> int:
    """Boxes of a grid, or listed ranges of positions. Raises LongTableError."""
    names = {"N": size, "M": size, "q_offset": 0, "k_offset": 0}
    return prod(int(axis_table(axis, names, most).live.sum()) for axis in axes)


def visited_ranges(part: Part, size: int) -> int:
    """Tiles that ranges of positions visit, for as many positions as the grid has."""
    try:
        return count_of_ranges(part.visits, part.tile, size)
    except NotCountableError:  # ranges that depend on data: as if all were visited
        return all_tiles(part.tile, size)


def all_tiles(tile: Tile, n: int) -> int:
    """Pairs of tiles of n queries and n keys."""
    return -(-n // tile.rows) * -(-n // tile.keys)


def rows_of(grid: Grid) -> int:
    """Rows up to the last point of a grid whose numbers are known."""
    return int_of(grid.start) + prod(map(int_of, grid.extents))


def is_static(grid: Grid | None) -> bool:
    """Whether all numbers of a grid are known, and its axes short enough to be looked at."""
    return (
        grid is not None
        and isinstance(grid.start, Const)
        and all(isinstance(extent, Const) and 1 <= extent.value <= _LONGEST for extent in grid.extents)
    )


def int_of(expr: Expr) -> int:
    """The value of a constant."""
    assert isinstance(expr, Const)
    return int(expr.value)

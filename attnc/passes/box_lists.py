"""The boxes of a tile map for one call as lists: stored rows of query tiles and key tiles, and who visits whom.

The back end that gathers tokens into tiles reads these; kernels that compute rows from coordinates read the axes'
tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.ir.plan import Part, TileAxis
from attnc.passes.tile_tables import (
    AxisTable,
    axis_extent,
    class_count,
    coordinates,
    rows_beside,
    tile_counts,
    values_of,
)

Ints = NDArray[Any]


@dataclass(frozen=True, slots=True)
class BoxLists:
    """Stored rows of query tiles [units, rows] and key tiles [tiles, keys], -1 where there is none.

    Visit n is of key tile `tile[n]` by query tile `unit[n]`, sorted by unit, full ones first.
    """

    rows: Ints
    keys: Ints
    unit: Ints
    tile: Ints
    full: Ints


def box_lists(part: Part, tables: Sequence[AxisTable], names: Mapping[str, int]) -> BoxLists:
    """The boxes of a part, then its query tiles beside the grid. Those without rows and key tiles without keys stay,
    empty.
    """
    rows = keys = np.zeros((1, 1), np.int64)
    unit = tile = np.zeros(1, np.int64)
    full = np.ones(1, np.bool_)
    for axis, table in zip(part.axes, tables, strict=True):
        stride = int(values_of(axis.stride, names))
        extent = axis_extent(axis, names)
        queries, columns = tile_counts(axis, extent)
        rows = _combined(rows, _tiles(axis, extent, queries, axis.rows), stride)
        keys = _combined(keys, _tiles(axis, extent, columns, axis.keys), stride)
        own_unit = np.repeat(np.arange(table.units), table.live)
        own_tile = own_unit // max(queries, 1) * columns + table.entries
        within = np.arange(len(table.entries)) - np.repeat(table.starts, table.live)
        own_full = within < np.repeat(table.full, table.live)
        unit = (unit[:, None] * table.units + own_unit).reshape(-1)
        tile = (tile[:, None] * (class_count(axis, extent) * columns) + own_tile).reshape(-1)
        full = (full[:, None] & own_full).reshape(-1)
    order = np.argsort(2 * unit + ~full, kind="stable")
    if part.origin is not None:
        rows, keys = (np.where(tiles >= 0, tiles + part.origin, -1) for tiles in (rows, keys))
        rows = np.concatenate((rows, rows_beside(part, names["N"])))
    return BoxLists(rows, keys, unit[order], tile[order], full[order])


def _tiles(axis: TileAxis, extent: int, count: int, size: int) -> Ints:
    """Coordinates [classes * tiles, size] along one axis, -1 where there is none."""
    found = np.full((class_count(axis, extent), count * size), -1, np.int64)
    for cls, row in enumerate(found):
        x = coordinates(axis, extent, cls, np.arange(count * size, dtype=np.int64))
        row[: len(x)] = x
    return found.reshape(-1, size)


def _combined(slower: Ints, faster: Ints, stride: int) -> Ints:
    """Tiles of one axis more: stored rows add up, and a slot exists where it does on every axis."""
    total = slower[:, None, :, None] + stride * faster[None, :, None, :]
    exists = (slower[:, None, :, None] >= 0) & (faster[None, :, None, :] >= 0)
    return np.where(exists, total, -1).reshape(len(slower) * len(faster), -1)

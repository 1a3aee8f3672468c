"""Tiles of a window counted into drawn cells. Work and memory follow the query tiles and the cells, never the pairs."""

from __future__ import annotations

import numpy as np

from attnc.diagnostics import CallError
from attnc.visits import AxisMap, Ints, Runs, TileMap

#: Most (query tile, key tile) pairs of a window whose tiles are products of several axes.
MAX_PRODUCTS = 1 << 26
#: Query tiles of a window that are all looked at.
MAX_UNITS = 1 << 17
_CHUNK = 1 << 20


def raster(tiles: TileMap, rows: Ints, keys: Ints) -> tuple[Ints, Ints]:
    """Full and live tiles of each cell. Cell c holds the key tiles keys[c] .. keys[c + 1] - 1, and so for rows.

    Raises UnknownVisitsError, and CallError for a window with too many tiles of several axes.
    """
    if len(tiles.axes) == 1:
        full, live = _single(tiles.axes[0], rows, keys, sampling(tiles, rows))
    else:
        full, live = _product(tiles, rows, keys)
    return (full if tiles.has_full else np.zeros_like(full)), live


def sampling(tiles: TileMap, rows: Ints) -> int:
    """Of so many query tiles of a window one is looked at, and stands for the others."""
    return max(1, -(-int(rows[-1] - rows[0]) // MAX_UNITS)) if len(tiles.axes) == 1 else 1


def _single(axis: AxisMap, rows: Ints, keys: Ints, every: int = 1) -> tuple[Ints, Ints]:
    counts = {kind: np.zeros((len(rows) - 1, len(keys) - 1), np.int64) for kind in ("full", "partial")}
    for units in axis.chunks(int(rows[0]), int(rows[-1]), every):
        for runs in axis.runs(units):
            cell = np.searchsorted(rows, runs.unit, side="right") - 1
            _add(counts[runs.kind], cell, runs, keys)
    full, live = counts["full"], counts["full"] + counts["partial"]
    if every == 1:
        return full, live
    looked = np.maximum(np.diff(-(-(rows - rows[0]) // every)), 1)[:, None]
    tiles = np.diff(rows)[:, None]
    return full * tiles // looked, -(-live * tiles // looked)


def _add(counts: Ints, cell: Ints, runs: Runs, keys: Ints) -> None:
    """Add each run to the cells that it crosses."""
    if not len(cell):
        return
    if int(runs.count.max()) == 1:
        inside = (runs.low >= keys[0]) & (runs.low < keys[-1])
        column = np.searchsorted(keys, runs.low[inside], side="right") - 1
        np.add.at(counts, (cell[inside], column), 1)
        return
    before = -((runs.low[:, None] - keys[None, :]) // runs.step)
    before = np.clip(before, 0, runs.count[:, None])
    np.add.at(counts, cell, np.diff(before, axis=1))


def _product(tiles: TileMap, rows: Ints, keys: Ints) -> tuple[Ints, Ints]:
    """By the digits of the tiles' numbers: a tile is live where it is along every axis."""
    if int(rows[-1] - rows[0]) * int(keys[-1] - keys[0]) > MAX_PRODUCTS:
        raise CallError("window: too many tiles of several axes to count; take fewer rows and keys")
    dense = [_dense(axis) for axis in tiles.axes]
    columns: Ints = np.arange(int(keys[0]), int(keys[-1]), dtype=np.int64)
    column_digits = _digits(columns, [axis.key_tiles for axis in tiles.axes])
    full = np.zeros((len(rows) - 1, len(keys) - 1), np.int64)
    live = np.zeros_like(full)
    width = max(1, int(keys[-1] - keys[0]))
    for cell in range(len(rows) - 1):
        for first in range(int(rows[cell]), int(rows[cell + 1]), max(1, _CHUNK // width)):
            units = np.arange(first, min(first + max(1, _CHUNK // width), int(rows[cell + 1])), dtype=np.int64)
            kinds = np.full((len(units), width), 2, np.uint8)
            row_digits = _digits(units, [axis.query_tiles for axis in tiles.axes])
            for known, row, column in zip(dense, row_digits, column_digits, strict=True):
                kinds = np.minimum(kinds, known[row][:, column])
            full[cell] += np.add.reduceat((kinds == 2).sum(0), keys[:-1] - keys[0])
            live[cell] += np.add.reduceat((kinds > 0).sum(0), keys[:-1] - keys[0])
    return full, live


def _dense(axis: AxisMap) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """0 skipped, 1 partial, 2 full, by query tile and key tile."""
    full, live = _single(axis, np.arange(axis.query_tiles + 1), np.arange(axis.key_tiles + 1))
    return (live + full).astype(np.uint8)


def _digits(numbers: Ints, sizes: list[int]) -> list[Ints]:
    """Tile numbers along each axis; the last axis moves fastest."""
    found: list[Ints] = []
    for size in reversed(sizes):
        found.append(numbers % size)
        numbers = numbers // size
    return found[::-1]

"""Queries by keys: the tiles of a window, as many to a drawn cell as it takes to draw at most 200 x 200."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.diagnostics import CallError
from attnc.explain import TileCounts, count_tiles
from attnc.ir.plan import KernelPlan
from attnc.kept import Counter, Kept, counter_of, keeps, kept
from attnc.passes.tile_tables import NotCountableError, coordinates
from attnc.pictures.bounds import bounded, tensors_of
from attnc.pictures.raster import raster, sampling
from attnc.pictures.reasons import Reasons, pair_reasons, tile_reasons
from attnc.visits import AxisMap, Ints, TileMap, UnknownVisitsError, tile_map

#: Drawn cells on a side, and tokens on a side of a window whose pairs are drawn one by one.
MAX_CELLS = 200
MAX_TOKENS_DRAWN = 512

Window = tuple[int, int]


@dataclass(frozen=True)
class Side:
    """Queries or keys of a window in the order of tiles: tiles and tokens at the borders of the drawn cells.

    `tokens` lists the stored rows that are drawn one by one, None when they are too many.
    """

    size: int
    window: Window
    tiles: Ints
    edges: Ints
    tokens: Ints | None

    @property
    def cells(self) -> int:
        return len(self.tiles) - 1

    @property
    def tiles_of_cells(self) -> Ints:
        """How many tiles each cell holds."""
        return np.diff(self.tiles)


@dataclass(frozen=True)
class Matrix:
    """What is drawn. `full`, `sure` and `live` count tiles by cell: full, visited whatever the data, maybe visited.

    `empty` tells which drawn rows hold a query without any key, None where that was not counted; `pairs` are the kept
    pairs of the window, when there are few. `order` says how tokens are lined up where not by position.
    `is_part`: others keep the rest of the mask's pairs.
    """

    name: str
    rows: Side
    keys: Side
    full: Ints
    sure: Ints
    live: Ints
    empty: NDArray[np.bool_] | None
    pairs: NDArray[np.bool_] | None
    reasons: Reasons | None
    counts: TileCounts
    kept: Kept
    representation: str
    order: str | None
    notes: tuple[str, ...]
    is_part: bool = False

    @property
    def is_aggregated(self) -> bool:
        """Whether a drawn cell may hold several tiles."""
        return bool(max(self.rows.tiles_of_cells.max(initial=1), self.keys.tiles_of_cells.max(initial=1)) > 1)

    @property
    def total(self) -> Ints:
        """Tiles of each cell."""
        return self.rows.tiles_of_cells[:, None] * self.keys.tiles_of_cells[None, :]


def draw_matrix(
    plan: KernelPlan,
    names: Mapping[str, Any],
    *,
    rows: Window | None = None,
    keys: Window | None = None,
    max_cells: tuple[int, int] = (MAX_CELLS, MAX_CELLS),
    with_reasons: bool = False,
) -> Matrix:
    """The picture of a plan for sizes and parameters by name. Raises CallError for a window outside of them."""
    shown, inner, notes = _known(plan, names)
    tiles = tile_map(shown.parts[0], names)
    sides = (
        _side("--rows", tiles, 0, names["N"], rows, max_cells[0]),
        _side("--keys", tiles, 1, names["M"], keys, max_cells[1]),
    )
    every = sampling(tiles, sides[0].tiles)
    notes += (f"One query tile of {every} was looked at.",) if every > 1 else ()
    full, live = raster(tiles, sides[0].tiles, sides[1].tiles)
    sure = live
    if inner is not None:
        full, sure = raster(tile_map(inner.parts[0], names), sides[0].tiles, sides[1].tiles)
    pairs = _pairs(plan, names, sides) if inner is None else None
    reasons = _reasons(shown, names, sides, live, pairs) if with_reasons else None
    counter = counter_of(plan, names) if len(tiles.axes) == 1 else None
    return Matrix(
        name=plan.module.name,
        rows=sides[0],
        keys=sides[1],
        full=full,
        sure=sure,
        live=live,
        empty=_empty_rows(counter, tiles, sides[0]),
        pairs=pairs,
        reasons=reasons,
        counts=count_tiles(tiles if inner is None else tile_map(plan.parts[0], names)),
        kept=kept(plan, names, counter),
        representation=plan.parts[0].why,
        order=_order(tiles),
        notes=notes,
    )


def _known(plan: KernelPlan, names: Mapping[str, Any]) -> tuple[KernelPlan, KernelPlan | None, tuple[str, ...]]:
    """The plan whose tiles are drawn, the one whose tiles are sure where the visits themselves depend on data."""
    tensors = ", ".join(tensors_of(plan.mask))
    try:
        for axis in tile_map(plan.parts[0], names).axes:
            for units in axis.chunks(0, min(axis.query_tiles, 1)):
                for _ in axis.runs(units):
                    pass
    except UnknownVisitsError as error:
        what = tensors or error.reason
        note = f"depends on {what}, given at the call: bounds are drawn, tiles that are visited for some values hatched"
        return bounded(plan, names, outer=True), bounded(plan, names, outer=False), (note,)
    if tensors:
        return plan, None, (f"an outer bound: {tensors}, given at the call, may remove more pairs of partial tiles",)
    return plan, None, ()


# -- sides -----------------------------------------------------------------------------------------------------------


def _side(option: str, tiles: TileMap, which: int, size: int, window: Window | None, max_cells: int) -> Side:
    low, high = window or (0, size)
    if not (0 <= low < high <= size) and (window is not None or size > 0):
        raise CallError(f"{option}: expected a range of 0:{size} with a:b, a < b, got {low}:{high}")
    if len(tiles.axes) != 1:
        return _side_of_boxes(tiles, which, size, (low, high), max_cells)
    axis = tiles.axes[0]
    starts, lengths, block = (
        (axis.query_starts, axis.query_lengths, axis.rows)
        if which == 0
        else (axis.key_starts, axis.key_lengths, axis.keys)
    )
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    first = int(_tile_of(np.array([low]), before, starts, block)[0]) if high > low else 0
    last = int(_tile_of(np.array([high - 1]), before, starts, block)[0]) + 1 if high > low else 0
    borders = _borders(first, last, max_cells)
    edges = _first_token(borders, before, starts, block)
    return Side(size, (int(edges[0]), int(edges[-1])), borders, edges, _tokens(tiles, size, before, edges))


def _tile_of(tokens: Ints, before: Ints, starts: Ints, block: int) -> Ints:
    cls = np.searchsorted(before, tokens, side="right") - 1
    return starts[cls] + (tokens - before[cls]) // block


def _first_token(tiles: Ints, before: Ints, starts: Ints, block: int) -> Ints:
    """Place of a tile's first token in the order of tiles; one past the end for the tile after the last."""
    cls = np.minimum(np.searchsorted(starts, tiles, side="right") - 1, len(starts) - 2)
    return np.minimum(before[cls] + (tiles - starts[cls]) * block, before[cls + 1])


def _borders(first: int, last: int, max_cells: int) -> Ints:
    step = max(1, -(-(last - first) // max_cells))
    return np.append(np.arange(first, last, step, dtype=np.int64), last)


def _tokens(tiles: TileMap, size: int, before: Ints, edges: Ints) -> Ints | None:
    """Stored rows of a short window."""
    if edges[-1] - edges[0] > MAX_TOKENS_DRAWN:
        return None
    places = np.arange(edges[0], edges[-1], dtype=np.int64)
    if not tiles.part.axes:
        return places
    first, last = (int(np.searchsorted(before, int(place), side="right")) - 1 for place in (edges[0], edges[-1] - 1))
    longest = max(np.diff(before).tolist(), default=0)
    y: Ints = np.arange(longest, dtype=np.int64)
    members = [coordinates(tiles.part.axes[0], size, cls, y) for cls in range(first, last + 1)]
    found: Ints = np.concatenate([np.zeros(0, np.int64), *members])
    start = int(edges[0] - before[first]) if len(places) else 0
    return found[start : start + len(places)]


def _side_of_boxes(tiles: TileMap, which: int, size: int, window: Window, max_cells: int) -> Side:
    """Boxes in the order of their numbers; a window is one of numbers of tokens, as if every box were whole."""
    count = tiles.query_tiles if which == 0 else tiles.key_tiles
    whole = max(size, 1)
    borders = _borders(window[0] * count // whole, -(-window[1] * count // whole), max_cells)
    edges = borders * size // max(count, 1)
    return Side(size, (int(edges[0]), int(edges[-1])), borders, edges, None)


def _order(tiles: TileMap) -> str | None:
    if len(tiles.axes) > 1:
        return "boxes in the order in which kernels take them"
    moduli = [axis.modulus for axis in tiles.part.axes]
    if moduli and moduli[0] > 1:
        return f"tokens ordered by residue modulo {moduli[0]}, then by position"
    return None


# -- rows and pairs --------------------------------------------------------------------------------------------------


def _empty_rows(counter: Counter | str | None, tiles: TileMap, side: Side) -> NDArray[np.bool_] | None:
    """Which drawn rows hold a query without any key."""
    if counter is None or isinstance(counter, str):
        return None
    try:
        if _order(tiles) is None:
            return _marked(counter, side)
        if side.tokens is None or not len(side.tokens):
            return None
        counts = np.concatenate([counter.of(side.tokens[n : n + 1]) for n in range(len(side.tokens))])
    except NotCountableError:
        return None
    return np.logical_or.reduceat(counts == 0, side.edges[:-1] - side.edges[0])


def _marked(counter: Counter, side: Side) -> NDArray[np.bool_]:
    marked = np.zeros(side.cells, np.bool_)
    for cell in range(side.cells):
        for first in range(int(side.edges[cell]), int(side.edges[cell + 1]), 1 << 16):
            some = np.arange(first, min(first + (1 << 16), int(side.edges[cell + 1])), dtype=np.int64)
            marked[cell] |= bool((counter.of(some) == 0).any())
    return marked


def _pairs(plan: KernelPlan, names: Mapping[str, Any], sides: tuple[Side, Side]) -> NDArray[np.bool_] | None:
    if sides[0].tokens is None or sides[1].tokens is None:
        return None
    try:
        return keeps(plan, names, sides[0].tokens, sides[1].tokens)
    except NotCountableError:
        return None


def _reasons(
    plan: KernelPlan,
    names: Mapping[str, Any],
    sides: tuple[Side, Side],
    live: Ints,
    pairs: NDArray[np.bool_] | None,
) -> Reasons | None:
    rows, keys = sides
    if pairs is not None and rows.tokens is not None and keys.tokens is not None:
        return pair_reasons(plan, names, rows.tokens, keys.tokens)
    if plan.parts[0].axes:
        return None
    return tile_reasons(plan, names, (rows.tiles, keys.tiles), live)


__all__ = ["AxisMap", "Matrix", "Side", "draw_matrix"]

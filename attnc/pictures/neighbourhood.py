"""One query on a grid: the keys that it sees, and the key tiles that its tile visits. A 3-D grid is a panel per frame.

The mask is asked about keys of visited tiles only: what the plan does not visit is not shown as kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.diagnostics import CallError
from attnc.explain import TileCounts, count_parts
from attnc.ir.expr import Const
from attnc.ir.module import AttentionModule
from attnc.ir.plan import KernelPlan, Part, TileAxis
from attnc.kept import Kept, keeps, kept
from attnc.passes.tile_tables import NotCountableError, axis_extent, axis_table, coordinates, tile_counts
from attnc.pictures.bounds import tensors_of
from attnc.pictures.reasons import pair_reasons
from attnc.pictures.shapes import Box
from attnc.visits import Ints, UnknownVisitsError, tile_map

#: Drawn cells on a side of a panel; panels.
MAX_CELLS = 200
MAX_PANELS = 40
#: Drawn cells of all panels together.
MAX_DRAWN = 120_000
_CHUNK = 1 << 18

Window = tuple[int, int]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Panel:
    """One plane of the grid. Shares of each cell's keys that are visited, and kept; tiles as boxes of coordinates.

    `codes` number the reason why a key is not seen, -1 where it is.
    """

    label: str
    has_query: bool
    visited: NDArray[np.float64]
    kept: NDArray[np.float64]
    tiles: tuple[Box, ...]
    codes: NDArray[np.int16] | None


@dataclass(frozen=True)
class Neighbourhood:
    """What is drawn: `rows` and `columns` are the borders of drawn cells along the last two axes."""

    name: str
    n: int
    axes: tuple[str, ...]
    extents: tuple[int, ...]
    query: tuple[int, ...]
    rows: Ints
    columns: Ints
    panels: tuple[Panel, ...]
    seen: int | None
    visited: int
    counts: TileCounts
    kept: Kept
    representation: str
    notes: tuple[str, ...]
    reasons: tuple[str, ...] = ()

    @property
    def is_aggregated(self) -> bool:
        """Whether a drawn cell may hold several keys."""
        return bool(max(np.diff(self.rows).max(initial=1), np.diff(self.columns).max(initial=1)) > 1)


def grid_of(module: AttentionModule) -> tuple[tuple[int, ...], int] | None:
    """Extents and start of the one grid of both sides, when it has two axes or more and is known."""
    grid = module.grid_q
    if grid is None or grid != module.grid_k or len(grid.names) < 2:
        return None
    numbers = [int(e.value) for e in (*grid.extents, grid.start) if isinstance(e, Const)]
    return (tuple(numbers[:-1]), numbers[-1]) if len(numbers) == len(grid.names) + 1 else None


def draw_neighbourhood(
    plan: KernelPlan,
    names: Mapping[str, Any],
    *,
    query: tuple[int, ...] | None = None,
    rows: Window | None = None,
    keys: Window | None = None,
    max_cells: int = MAX_CELLS,
    with_reasons: bool = False,
) -> Neighbourhood:
    """The picture for a plan on a grid. `rows`, `keys`: a window along the last two axes. Raises CallError."""
    axes = plan.module.grid_q
    assert axes is not None
    extents, start = grid_of(plan.module) or ((), 0)
    at = _checked_query(query, extents, start, names["N"])
    borders = _borders((rows, keys), extents, max_cells)
    scene = _Scene(plan, names, extents, start, at, borders)
    panels, notes = scene.panels()
    reasons: tuple[str, ...] = ()
    if with_reasons and all(int(np.diff(b).max(initial=1)) == 1 for b in borders):
        panels, reasons = scene.with_reasons(panels)
    tensors = ", ".join(tensors_of(plan.mask))
    if tensors:
        notes.append(f"An outer bound: {tensors}, given at the call, may remove keys.")
    return Neighbourhood(
        name=plan.module.name,
        n=names["N"],
        axes=axes.names,
        extents=extents,
        query=at,
        rows=borders[0],
        columns=borders[1],
        panels=panels,
        seen=scene.seen,
        visited=scene.visited,
        counts=count_parts(plan, names),
        kept=kept(plan, names),
        representation="; and ".join(part.why for part in plan.parts),
        notes=tuple(notes),
        reasons=reasons,
    )


def _checked_query(query: tuple[int, ...] | None, extents: tuple[int, ...], start: int, n: int) -> tuple[int, ...]:
    at = tuple(extent // 2 for extent in extents) if query is None else query
    if len(at) != len(extents) or not all(0 <= x < extent for x, extent in zip(at, extents, strict=True)):
        shape = " x ".join(map(str, extents))
        raise CallError(f"--query: expected coordinates on the grid of {shape}, got {','.join(map(str, at))}")
    row = start + int(np.ravel_multi_index(at, extents))
    if not 0 <= row < n:
        raise CallError(f"--query: {','.join(map(str, at))} is row {row} of {n} queries")
    return at


def _borders(windows: tuple[Window | None, ...], extents: tuple[int, ...], max_cells: int) -> tuple[Ints, ...]:
    """Borders of the drawn cells along the last two axes, so that all panels together stay within bounds."""
    found: list[Window] = []
    for option, extent, window in zip(("--rows", "--keys"), extents[-2:], windows, strict=True):
        low, high = window or (0, extent)
        if not 0 <= low < high <= extent:
            raise CallError(f"{option}: expected a range of 0:{extent} with a:b, a < b, got {low}:{high}")
        found.append((low, high))
    panels = min(prod(extents[:-2]), MAX_PANELS)
    step = max(1, *(-(-(high - low) // max_cells) for low, high in found))
    while panels * prod(-(-(high - low) // step) for low, high in found) > MAX_DRAWN:
        step += 1
    return tuple(np.append(np.arange(low, high, step, dtype=np.int64), high) for low, high in found)


class _Scene:
    """Finds visited and kept keys of one query, plane by plane."""

    def __init__(
        self,
        plan: KernelPlan,
        names: Mapping[str, Any],
        extents: tuple[int, ...],
        start: int,
        query: tuple[int, ...],
        borders: tuple[Ints, ...],
    ) -> None:
        self._plan, self._names, self._extents, self._start = plan, names, extents, start
        self._query, self._borders = query, borders
        self._row = start + int(np.ravel_multi_index(query, extents))
        self._parts = [_PartTiles(part, names, query, self._row) for part in plan.parts]
        self.visited = 0
        self.seen: int | None = 0

    def panels(self) -> tuple[tuple[Panel, ...], list[str]]:
        """One panel per plane; of too many planes those around the query's."""
        count = prod(self._extents[:-2])
        middle = int(np.ravel_multi_index(self._query[:-2], self._extents[:-2])) if self._extents[:-2] else 0
        shown = self._shown(count, middle)
        notes = [] if len(shown) == count else [f"Planes {shown[0]} to {shown[-1]} of {count} are drawn."]
        return tuple(self._panel(plane, middle) for plane in shown), notes

    def _shown(self, count: int, middle: int) -> range:
        first = min(max(0, middle - MAX_PANELS // 2), max(0, count - MAX_PANELS))
        return range(first, min(count, first + MAX_PANELS))

    def with_reasons(self, panels: tuple[Panel, ...]) -> tuple[tuple[Panel, ...], tuple[str, ...]]:
        """The panels with the clauses that removed each key; as they were where clauses have no value yet."""
        count = prod(self._extents[:-2])
        middle = int(np.ravel_multi_index(self._query[:-2], self._extents[:-2])) if self._extents[:-2] else 0
        top, bottom = int(self._borders[0][0]), int(self._borders[0][-1])
        keys = np.stack([self._keys(plane, top, bottom) for plane in self._shown(count, middle)])
        found = pair_reasons(self._plan, self._names, np.array([self._row], np.int64), keys.reshape(-1))
        if found is None:
            return panels, ()
        codes = found.code.reshape(keys.shape)
        return tuple(replace(panel, codes=code) for panel, code in zip(panels, codes, strict=True)), found.texts

    def _panel(self, plane: int, middle: int) -> Panel:
        at = tuple(int(x) for x in np.unravel_index(plane, self._extents[:-2])) if self._extents[:-2] else ()
        rows, columns = self._borders
        shape = (len(rows) - 1, len(columns) - 1)
        visited, seen = np.zeros(shape), np.zeros(shape)
        for n in range(shape[0]):
            band = self._visited(at, int(rows[n]), int(rows[n + 1]))
            if band.any():
                visited[n] = np.add.reduceat(band.sum(0), columns[:-1] - columns[0])
                seen[n] = np.add.reduceat(self._kept(plane, int(rows[n]), band).sum(0), columns[:-1] - columns[0])
        self.visited += int(visited.sum())
        self.seen = None if self.seen is None else self.seen + int(seen.sum())
        area = np.diff(rows)[:, None] * np.diff(columns)[None, :]
        names = self._plan.module.grid_q.names if self._plan.module.grid_q else ()
        label = ", ".join(f"{name} = {x}" for name, x in zip(names, at, strict=False))
        return Panel(label, plane == middle, visited / area, seen / area, tuple(self._tiles(at)), None)

    def _visited(self, plane: tuple[int, ...], top: int, bottom: int) -> Bools:
        """Which keys of some rows of a plane lie in visited tiles."""
        keys = self._keys(int(np.ravel_multi_index(plane, self._extents[:-2])) if plane else 0, top, bottom)
        window = (top, bottom, int(self._borders[1][0]), int(self._borders[1][-1]))
        inside = reduce(np.logical_or, (part.visited(plane, window, keys) for part in self._parts))
        return inside & (keys < self._names["M"])

    def _keys(self, plane: int, top: int, bottom: int) -> Ints:
        """Stored rows of the keys of some rows of a plane."""
        height, width = self._extents[-2:]
        y, x = np.arange(top, bottom), np.arange(int(self._borders[1][0]), int(self._borders[1][-1]))
        return self._start + (plane * height + y[:, None]) * width + x[None, :]

    def _kept(self, plane: int, top: int, visited: Bools) -> Bools:
        keys = self._keys(plane, top, top + len(visited))[visited]
        found = np.zeros(visited.shape, np.bool_)
        try:
            row = np.array([self._row], np.int64)
            parts = [keeps(self._plan, self._names, row, keys[n : n + _CHUNK])[0] for n in range(0, len(keys), _CHUNK)]
        except NotCountableError:
            self.seen = None
            return visited
        found[visited] = np.concatenate(parts)
        return found

    def _tiles(self, plane: tuple[int, ...]) -> Iterator[Box]:
        """Visited boxes of a plane, (left, top, right, bottom)."""
        for part in self._parts:
            yield from part.tiles(plane)


class _PartTiles:
    """The key tiles of one part that the tile of a query visits."""

    def __init__(self, part: Part, names: Mapping[str, Any], query: tuple[int, ...], row: int) -> None:
        axes = part.axes
        self._axes = [_Line(axis, names, x) for axis, x in zip(axes, query, strict=True)] if len(axes) > 1 else []
        self._ranges = [] if self._axes else list(_flat_ranges(part, names, row))

    def visited(self, plane: tuple[int, ...], window: tuple[int, int, int, int], keys: Ints) -> Bools:
        """Which keys of a window (top, bottom, left, right) of a plane lie in them."""
        inside = np.zeros(keys.shape, np.bool_)
        top, bottom, left, right = window
        if self._axes and all(line.visited[x] for line, x in zip(self._axes, plane, strict=False)):
            inside |= self._axes[-2].visited[top:bottom, None] & self._axes[-1].visited[None, left:right]
        for low, high, step, size in self._ranges:
            tile = keys // size
            inside |= (tile >= low) & (tile <= high) & ((tile - low) % step == 0)
        return inside

    def tiles(self, plane: tuple[int, ...]) -> Iterator[Box]:
        """As boxes of the plane; none where classes leave gaps between coordinates."""
        if not self._axes or any(line.modulus > 1 for line in self._axes[-2:]):
            return
        if all(line.visited[x] for line, x in zip(self._axes, plane, strict=False)):
            for (top, bottom), (left, right) in product(self._axes[-2].tiles, self._axes[-1].tiles):
                yield left, top, right, bottom


def _flat_ranges(part: Part, names: Mapping[str, Any], row: int) -> Iterator[tuple[int, int, int, int]]:
    """Key tiles of a row's tile as (first, last, step, size), where tiles are ranges of positions."""
    axis = tile_map(part, names).axes[0]
    try:
        for runs in axis.runs(np.array([row // axis.rows])):
            for low, count in zip(runs.low.tolist(), runs.count.tolist(), strict=True):
                yield low, low + (count - 1) * runs.step, runs.step, axis.keys
    except UnknownVisitsError:
        yield 0, axis.key_tiles, 1, axis.keys


class _Line:
    """The key tiles that one coordinate of a query visits along its axis."""

    def __init__(self, axis: TileAxis, names: Mapping[str, Any], x: int) -> None:
        extent = axis_extent(axis, names)
        self.modulus = axis.modulus
        cls, y = divmod(x, axis.block) if axis.block else divmod(x, axis.modulus)[::-1]
        table = axis_table(axis, names)
        self.visited = np.zeros(extent, np.bool_)
        self.tiles: list[tuple[int, int]] = []
        for tile in sorted(table.entries_of(cls * tile_counts(axis, extent)[0] + y // axis.rows).tolist()):
            within: Ints = np.arange(axis.keys, dtype=np.int64)
            found = coordinates(axis, extent, cls, within + tile * axis.keys)
            self.visited[found] = True
            self.tiles.append((int(found[0]), int(found[-1]) + 1))

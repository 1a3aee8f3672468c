"""Matrices of tiles on a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.pictures.matrix import Matrix, Side
from attnc.pictures.shapes import Box, boxes_of, placed
from attnc.pictures.svg import EMPTY, FULL, LINE, PARTIAL, TINTS, Sheet

_PLOT = 560.0
_LEFT, _TOP = 78.0, 30.0
#: Rectangles of single pairs beyond this are left out: they would make a file of half a megabyte.
_MAX_PAIR_BOXES = 22_000


@dataclass(frozen=True, slots=True)
class Plot:
    """Where the matrix lies on the sheet."""

    x: float
    y: float
    width: float
    height: float


def matrix_sheet(matrices: Sequence[Matrix]) -> tuple[Sheet, list[Plot]]:
    """The picture, one matrix below the other, and their places on it."""
    widest = max(_extent(matrix.keys, matrix.rows)[0] for matrix in matrices)
    titles = [f"{matrix.name}: {matrix.rows.size} queries, {matrix.keys.size} keys" for matrix in matrices]
    about = (f"tiles: {matrix.counts}. {' '.join(notes_of(matrix))}" for matrix in matrices)
    sheet = Sheet(max(_LEFT + widest + 24, 660), title="; ".join(titles), description=" ".join(about))
    plots: list[Plot] = []
    for title, matrix in zip(titles, matrices, strict=True):
        sheet.height += 14 if plots else 0
        sheet.lines([title], size=15, bold=True)
        plots.append(_draw(sheet, matrix))
    return sheet, plots


def _draw(sheet: Sheet, matrix: Matrix) -> Plot:
    """The matrix below what is there."""
    sheet.lines([f"tiles: {matrix.counts}"])
    plot = Plot(_LEFT, sheet.height + _TOP + 12, *_extent(matrix.keys, matrix.rows))
    xs = _places(matrix.keys, plot.x, plot.width)
    ys = _places(matrix.rows, plot.y, plot.height)
    drawn = _pair_boxes(matrix)
    _tiles(sheet, matrix, xs, ys, faint=drawn is not None)
    if drawn and matrix.pairs is not None:
        scale = (plot.width / matrix.pairs.shape[1], plot.height / matrix.pairs.shape[0])
        sheet.rects(drawn, PARTIAL, origin=(plot.x, plot.y), scale=scale)
    _grid_lines(sheet, matrix, xs, ys)
    _empty_marks(sheet, matrix, plot, ys)
    sheet.frame(plot.x, plot.y, plot.width, plot.height)
    _ticks(sheet, matrix, plot)
    sheet.height = plot.y + plot.height + 4
    sheet.legend(legend_of(matrix, pairs=drawn is not None))
    sheet.lines(notes_of(matrix), size=11)
    return plot


def _extent(keys: Side, rows: Side) -> tuple[float, float]:
    """Width and height: as the window is, but never too thin to see."""
    wide, high = (max(side.window[1] - side.window[0], 1) for side in (keys, rows))
    longest = max(wide, high)
    return max(_PLOT * wide / longest, 90.0), max(_PLOT * high / longest, 90.0)


def _places(side: Side, start: float, length: float) -> list[float]:
    first, last = side.window
    return [start + length * (edge - first) / max(last - first, 1) for edge in side.edges.tolist()]


def _tiles(sheet: Sheet, matrix: Matrix, xs: list[float], ys: list[float], *, faint: bool) -> None:
    total = matrix.total
    maybe = matrix.live > matrix.sure
    sheet.rects(placed(boxes_of(maybe), xs, ys), "maybe")
    share = np.ceil(len(TINTS) * matrix.sure / np.maximum(total, 1)).astype(np.int64)
    mostly_full = 2 * matrix.full > matrix.sure
    for level, opacity in enumerate(TINTS, 1):
        shown = 0.3 * opacity if faint else opacity
        sheet.rects(placed(boxes_of((share == level) & mostly_full), xs, ys), FULL, opacity=opacity)
        sheet.rects(placed(boxes_of((share == level) & ~mostly_full), xs, ys), PARTIAL, opacity=shown)


def _pair_boxes(matrix: Matrix) -> list[Box] | None:
    """Kept pairs of partial tiles in units of tokens; None when they are not known or too many rectangles."""
    if matrix.pairs is None:
        return None
    partial = (matrix.live > 0) & (matrix.full < matrix.total)
    inside = np.repeat(np.repeat(partial, np.diff(matrix.rows.edges), 0), np.diff(matrix.keys.edges), 1)
    boxes = boxes_of(matrix.pairs & inside)
    return boxes if len(boxes) <= _MAX_PAIR_BOXES else None


def _grid_lines(sheet: Sheet, matrix: Matrix, xs: list[float], ys: list[float]) -> None:
    if matrix.is_aggregated or max(len(xs), len(ys)) > 66 or min(len(xs), len(ys)) < 2:
        return
    sheet.rects(((x - 0.5, ys[0], x + 0.5, ys[-1]) for x in xs[1:-1]), LINE, opacity=0.4)
    sheet.rects(((xs[0], y - 0.5, xs[-1], y + 0.5) for y in ys[1:-1]), LINE, opacity=0.4)


def empty_rows_of(matrix: Matrix) -> Any:
    """Drawn rows with a query without any key: counted, or else those whose tiles visit nothing."""
    if matrix.is_part:
        return np.zeros(matrix.rows.cells, np.bool_)
    if matrix.empty is not None:
        return matrix.empty
    whole = matrix.keys.window == (0, matrix.keys.size)
    return matrix.live.sum(1) == 0 if whole and matrix.rows.cells else np.zeros(matrix.rows.cells, np.bool_)


def _empty_marks(sheet: Sheet, matrix: Matrix, plot: Plot, ys: list[float]) -> None:
    """A mark left of every drawn row that holds a query without any key."""
    marked = empty_rows_of(matrix)
    sheet.rects(placed(boxes_of(marked[:, None]), [plot.x - 9, plot.x - 3], ys), EMPTY)


def _ticks(sheet: Sheet, matrix: Matrix, plot: Plot) -> None:
    for part in range(5):
        for side, horizontal in ((matrix.keys, True), (matrix.rows, False)):
            first, last = side.window
            if last - first < 4 and 0 < part < 4:
                continue
            at = first + (last - first) * part // 4
            place = (at - first) / max(last - first, 1)
            if horizontal:
                sheet.text(plot.x + plot.width * place, plot.y - 6, str(at), size=10, anchor="middle")
            else:
                sheet.text(plot.x - 13, plot.y + plot.height * place + 4, str(at), size=10, anchor="end")
    sheet.text(plot.x + plot.width / 2, plot.y - 22, "keys \N{RIGHTWARDS ARROW}", size=11, anchor="middle")
    sheet.text(8, plot.y - 8, "queries \N{DOWNWARDS ARROW}", size=11)


def legend_of(matrix: Matrix, *, pairs: bool) -> list[tuple[str, float, str]]:
    """Swatches with their meaning."""
    if matrix.is_aggregated:
        shares = ["up to 20%", "40%", "60%", "80%", "100% of a cell's tiles visited"]
        entries = [(PARTIAL, tint, text) for tint, text in zip(TINTS, shares, strict=True)]
        entries += [(FULL, 1.0, "the same, most of them full")]
    else:
        entries = [(FULL, 1.0, "full tile"), (PARTIAL, 0.3 if pairs else 1.0, "partial tile")]
        entries += [(PARTIAL, 1.0, "pair kept in it")] if pairs else []
    entries += [("none", 1.0, "skipped")]
    if (matrix.live > matrix.sure).any():
        entries += [("maybe", 1.0, "depends on data")]
    if empty_rows_of(matrix).any():
        entries += [(EMPTY, 1.0, "a query here sees no key")]
    return entries


def notes_of(matrix: Matrix) -> list[str]:
    """What the picture cannot show by itself."""
    notes = list(matrix.notes)
    if matrix.is_aggregated:
        sizes = f"{matrix.rows.tiles_of_cells.max(initial=1)} x {matrix.keys.tiles_of_cells.max(initial=1)}"
        notes.append(f"A drawn cell holds up to {sizes} tiles.")
    if matrix.order:
        notes.append(f"Order: {matrix.order}.")
    if matrix.kept.pairs is not None and matrix.is_part:
        notes.append(f"{matrix.kept.pairs} pairs kept in this part.")
    elif matrix.kept.pairs is not None:
        notes.append(f"{matrix.kept.pairs} pairs kept, {matrix.kept.empty_rows} queries without any key.")
    notes.append(f"Tiles: {matrix.representation}.")
    return notes

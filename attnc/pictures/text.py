"""Pictures for a terminal: one character a cell."""

from __future__ import annotations

import numpy as np

from attnc.pictures.matrix import Matrix
from attnc.pictures.matrix_sheet import empty_rows_of
from attnc.pictures.matrix_sheet import notes_of as matrix_notes
from attnc.pictures.neighbourhood import Neighbourhood
from attnc.pictures.neighbourhood_sheet import notes_of as neighbourhood_notes
from attnc.pictures.neighbourhood_sheet import summary

#: Skipped, a third of a cell's tiles visited, two thirds, all of them partial, full; depends on data; no key; query.
_BLOCKS = "·░▒▓█?!Q"
_ASCII = ".-=+#?!Q"
#: Cells on a side of a text.
MAX_CELLS = (32, 64)


def matrix_text(matrix: Matrix, *, plain: bool = False) -> str:
    """Lines of the tiles of a matrix. `plain`: ASCII only."""
    marks = _ASCII if plain else _BLOCKS
    kinds = _matrix_kinds(matrix)
    empty = empty_rows_of(matrix)
    width = max((len(str(edge)) for edge in matrix.rows.edges.tolist()), default=1)
    lines = [f"{matrix.name}: {matrix.rows.size} queries, {matrix.keys.size} keys", f"tiles: {matrix.counts}"]
    lines += [f"{'':{width}}  keys {matrix.keys.window[0]} to {matrix.keys.window[1]}"] if len(kinds) else []
    for edge, row, no_key in zip(matrix.rows.edges.tolist(), kinds.tolist(), empty.tolist(), strict=False):
        lines.append(f"{edge:{width}}{marks[6] if no_key else ' '} {''.join(marks[kind] for kind in row)}")
    legend = [f"{marks[4]} full", f"{marks[3]} partial", f"{marks[0]} skipped"]
    if matrix.is_aggregated:
        legend = [f"{marks[4]} all full", f"{marks[3]} most visited", f"{marks[2]} two thirds", f"{marks[1]} a third",
                  f"{marks[0]} skipped"]  # fmt: skip
    legend += [f"{marks[5]} depends on data"] if (kinds == 5).any() else []
    legend += [f"{marks[6]} a query here sees no key"] if empty.any() else []
    return "\n".join([*lines, ", ".join(legend), *matrix_notes(matrix)]) + "\n"


def _matrix_kinds(matrix: Matrix) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    total = np.maximum(matrix.total, 1)
    kinds = np.minimum(-(-3 * matrix.sure // total), 3)
    kinds = np.where(matrix.full == matrix.total, 4, kinds)
    return np.where((matrix.sure == 0) & (matrix.live > 0), 5, kinds)


def neighbourhood_text(scene: Neighbourhood, *, plain: bool = False) -> str:
    """Lines of the panels of a neighbourhood. `plain`: ASCII only."""
    marks = _ASCII if plain else _BLOCKS
    at = ", ".join(f"{name} = {x}" for name, x in zip(scene.axes, scene.query, strict=True))
    lines = [f"{scene.name}: what the query at {at} sees", summary(scene)]
    for panel in scene.panels:
        if panel.label and not panel.visited.any():
            continue
        lines += [panel.label] if panel.label else []
        kinds = np.where(panel.kept > 0, 4, np.where(panel.visited > 0, 1, 0))
        if panel.has_query:
            y = int(np.searchsorted(scene.rows, scene.query[-2], side="right")) - 1
            x = int(np.searchsorted(scene.columns, scene.query[-1], side="right")) - 1
            if 0 <= y < len(kinds) and 0 <= x < kinds.shape[1]:
                kinds[y, x] = 7
        lines += ["".join(marks[kind] for kind in row) for row in kinds.tolist()]
    legend = f"{marks[7]} the query, {marks[4]} seen, {marks[1]} visited, masked out, {marks[0]} skipped"
    skipped = ["Panels without visited keys are left out."] if len(scene.panels) > 1 else []
    return "\n".join([*lines, legend, *skipped, *neighbourhood_notes(scene)]) + "\n"

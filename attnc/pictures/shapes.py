"""From arrays of classes to few rectangles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Rectangles as (left, top, right, bottom) in cells.
Box = tuple[int, int, int, int]
Placed = tuple[float, float, float, float]


def boxes_of(marked: NDArray[np.bool_]) -> list[Box]:
    """The marked cells as runs, equal runs of rows below each other joined."""
    done: list[Box] = []
    open_runs: dict[tuple[int, int], int] = {}
    for row in range(len(marked) + 1):
        now = set(_runs(marked[row])) if row < len(marked) else set[tuple[int, int]]()
        ended = [run for run in open_runs if run not in now]
        done += [(run[0], open_runs.pop(run), run[1], row) for run in ended]
        for run in now:
            open_runs.setdefault(run, row)
    return sorted(done, key=lambda box: (box[1], box[0]))


def _runs(row: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    padded = np.concatenate(([False], row, [False])).astype(np.int8)
    change = np.flatnonzero(np.diff(padded))
    return zip(change[::2].tolist(), change[1::2].tolist(), strict=True)


def placed(boxes: Sequence[Box], xs: Sequence[float], ys: Sequence[float]) -> Iterator[Placed]:
    """Rectangles between the borders xs and ys."""
    return ((xs[x0], ys[y0], xs[x1], ys[y1]) for x0, y0, x1, y1 in boxes)


def number(value: Any) -> str:
    """As short as two decimals allow."""
    text = f"{float(value):.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text

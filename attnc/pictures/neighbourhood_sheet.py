"""The neighbourhood of a query on a grid, on a sheet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnc.pictures.neighbourhood import Neighbourhood, Panel
from attnc.pictures.shapes import Placed, boxes_of, placed
from attnc.pictures.svg import FULL, INK, PARTIAL, QUERY, TINTS, Sheet

_WIDTH = 620.0
_GAP = 14.0
#: Tiles of a panel beyond this are not outlined one by one.
_MAX_OUTLINES = 1500


@dataclass(frozen=True, slots=True)
class Place:
    """Where a panel lies on the sheet."""

    x: float
    y: float
    width: float
    height: float


def neighbourhood_sheet(scene: Neighbourhood) -> tuple[Sheet, list[Place]]:
    """The picture and the places of the panels on it."""
    at = ", ".join(f"{name} = {x}" for name, x in zip(scene.axes, scene.query, strict=True))
    title = f"{scene.name}: what the query at {at} sees"
    sheet = Sheet(_WIDTH + 24, title=title, description=f"{summary(scene)} {' '.join(notes_of(scene))}")
    sheet.lines([title], size=15, bold=True)
    sheet.lines([summary(scene)])
    places = _layout(scene, sheet.height + 14)
    for panel, place in zip(scene.panels, places, strict=True):
        _panel(sheet, scene, panel, place)
    sheet.height = places[-1].y + places[-1].height + 8
    sheet.legend(_legend(scene))
    sheet.lines(notes_of(scene), size=11)
    return sheet, places


def summary(scene: Neighbourhood) -> str:
    """The counts of the query and of the call."""
    shape = " x ".join(map(str, scene.extents))
    seen = "" if scene.seen is None else f"{scene.seen} keys kept of "
    return f"grid {shape}; in the picture {seen}{scene.visited} visited; tiles of the whole call: {scene.counts}"


def notes_of(scene: Neighbourhood) -> list[str]:
    """What the picture cannot show by itself."""
    notes = list(scene.notes)
    if scene.is_aggregated:
        height, width = int(np.diff(scene.rows).max()), int(np.diff(scene.columns).max())
        notes.append(f"A drawn cell holds up to {height} x {width} keys; its tint is the share that is kept.")
    if scene.seen is None:
        notes.append("The mask cannot be evaluated before the kernel runs: visited keys are drawn as kept.")
    return [*notes, f"Tiles: {scene.representation}."]


def _layout(scene: Neighbourhood, top: float) -> list[Place]:
    """Panels of equal size, as many side by side as makes them largest within a square."""
    high, wide = (int(b[-1] - b[0]) for b in (scene.rows, scene.columns))
    count = len(scene.panels)
    label = 15.0 if count > 1 or scene.panels[0].label else 0.0

    def scale(columns: int) -> float:
        lines = -(-count // columns)
        by_height = (_WIDTH - lines * (label + _GAP)) / (lines * high)
        return max(min((_WIDTH - (columns - 1) * _GAP) / (columns * wide), by_height), 0.0)

    columns = max(range(1, count + 1), key=lambda n: (scale(n), -n))
    width, height = (max(scale(columns) * size, 8.0) for size in (wide, high))
    return [
        Place(12 + n % columns * (width + _GAP), top + n // columns * (height + label + _GAP) + label, width, height)
        for n in range(count)
    ]


def _panel(sheet: Sheet, scene: Neighbourhood, panel: Panel, place: Place) -> None:
    xs, ys = ([edge - edges[0] for edge in edges.tolist()] for edges in (scene.columns, scene.rows))
    scale = {"origin": (place.x, place.y), "scale": (place.width / xs[-1], place.height / ys[-1])}
    if panel.label:
        sheet.text(place.x, place.y - 4, panel.label, size=10, bold=panel.has_query)
    sheet.rects(placed(boxes_of(panel.visited > 0), xs, ys), PARTIAL, opacity=0.35, **scale)
    level = np.ceil(panel.kept * len(TINTS))
    for n, opacity in enumerate(TINTS, 1):
        sheet.rects(placed(boxes_of(level == n), xs, ys), FULL, opacity=opacity, **scale)
    _outlines(sheet, scene, panel, place)
    if panel.has_query:
        _query(sheet, scene, place)
    sheet.frame(place.x, place.y, place.width, place.height)


def _outlines(sheet: Sheet, scene: Neighbourhood, panel: Panel, place: Place) -> None:
    if not 0 < len(panel.tiles) <= _MAX_OUTLINES:
        return
    left, right = int(scene.columns[0]), int(scene.columns[-1])
    top, bottom = int(scene.rows[0]), int(scene.rows[-1])
    x_scale, y_scale = place.width / (right - left), place.height / (bottom - top)
    boxes: list[Placed] = []
    for box in panel.tiles:
        x0, x1 = (min(max(x, left), right) - left for x in box[::2])
        y0, y1 = (min(max(y, top), bottom) - top for y in box[1::2])
        if x0 < x1 and y0 < y1:
            xs, ys = [place.x + x_scale * x for x in (x0, x1)], [place.y + y_scale * y for y in (y0, y1)]
            boxes.append((xs[0], ys[0], xs[1], ys[1]))
    sheet.rects(boxes, "none", stroke=PARTIAL)


def _query(sheet: Sheet, scene: Neighbourhood, place: Place) -> None:
    """The query's own cell, never smaller than can be seen."""
    y, x = scene.query[-2:]
    if not (scene.rows[0] <= y < scene.rows[-1] and scene.columns[0] <= x < scene.columns[-1]):
        return
    wide = place.width / int(scene.columns[-1] - scene.columns[0])
    high = place.height / int(scene.rows[-1] - scene.rows[0])
    left, top = place.x + wide * (x - int(scene.columns[0])), place.y + high * (y - int(scene.rows[0]))
    sheet.rects([(left, top, left + max(wide, 4.0), top + max(high, 4.0))], QUERY, stroke=INK)


def _legend(scene: Neighbourhood) -> list[tuple[str, float, str]]:
    entries = [(QUERY, 1.0, "the query"), (FULL, 1.0, "keys that it sees")]
    entries += [(PARTIAL, 0.35, "visited, masked out"), ("none", 1.0, "skipped")]
    if any(panel.tiles for panel in scene.panels):
        entries.append(("outline", 1.0, "key tiles that its tile visits"))
    return entries

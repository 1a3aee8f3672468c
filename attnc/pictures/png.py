"""A sheet as PNG, by matplotlib where it is installed."""

from __future__ import annotations

from importlib import import_module
from io import BytesIO
from typing import Any

from attnc.diagnostics import CallError
from attnc.pictures.svg import INK, LINE, MAYBE, PAPER, Rects, Sheet, Text

_DPI = 200
_ANCHORS = {"start": "left", "middle": "center", "end": "right"}


def sheet_png(sheet: Sheet) -> bytes:
    """The file. Raises CallError where matplotlib is not installed."""
    try:
        figures: Any = import_module("matplotlib.figure")
        collections: Any = import_module("matplotlib.collections")
    except ImportError:
        way_out = "`pip install matplotlib` (or attnc[pictures]), or write .svg, .html or .txt"
        raise CallError(f"a PNG is drawn by matplotlib, which is not installed: {way_out}") from None
    height = sheet.height + 12
    figure = figures.Figure(figsize=(sheet.width / 100, height / 100), dpi=_DPI, facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, sheet.width)
    axes.set_ylim(height, 0)
    for item in sheet.drawn:
        if isinstance(item, Text):
            _text(axes, item)
        else:
            axes.add_collection(_collection(collections, item))
    file = BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def _text(axes: Any, item: Text) -> None:
    weight = "bold" if item.bold else "normal"
    place = {"ha": _ANCHORS[item.anchor], "va": "baseline", "parse_math": False}
    axes.text(item.x, item.y, item.text, fontsize=item.size * 0.64, weight=weight, color=INK, **place)


def _collection(collections: Any, item: Rects) -> Any:
    (x, y), (across, down) = item.origin, item.scale
    corners = [
        [(x + across * a, y + down * b) for a, b in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        for x0, y0, x1, y1 in item.boxes
    ]
    if item.fill == "maybe":
        return collections.PolyCollection(corners, facecolor="none", edgecolor=MAYBE, linewidth=0, hatch="////")
    stroke = item.stroke if item.stroke != "none" else "none"
    width = 0.7 if item.stroke in (LINE, INK) else 1.0
    return collections.PolyCollection(
        corners, facecolor=_with_opacity(item), edgecolor=stroke, linewidth=width, antialiased=item.stroke != "none"
    )


def _with_opacity(item: Rects) -> Any:
    if item.fill == "none":
        return "none"
    red, green, blue = (int(item.fill[n : n + 2], 16) / 255 for n in (1, 3, 5))
    return (red, green, blue, item.opacity)

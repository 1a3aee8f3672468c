"""What all pictures share: colors, text, legends, the frame of an SVG file. Needs no library."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from typing import Any

from attnc.pictures.shapes import number

#: Colors that are told apart without seeing red or green (Okabe and Ito), light and dark background alike.
FULL, PARTIAL, EMPTY, MAYBE, QUERY = "#0072b2", "#e69f00", "#d55e00", "#8c8c8c", "#cc79a7"
INK, PAPER, LINE = "#1b1b1b", "#ffffff", "#9a9a9a"
#: Opacities of a cell by the share of its tiles that are visited, in fifths.
TINTS = (0.3, 0.45, 0.6, 0.8, 1.0)

_STYLE = """\
.paper{fill:#fff}.ink{fill:#1b1b1b}.frame{stroke:#9a9a9a}
text{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
@media(prefers-color-scheme:dark){.paper{fill:#16181c}.ink{fill:#e6e6e6}.frame{stroke:#6c6c6c}}"""
_HATCH = (
    '<defs><pattern id="maybe" width="6" height="6" patternUnits="userSpaceOnUse">'
    f'<path d="M0 6L6 0" stroke="{MAYBE}" stroke-width="1.5"/></pattern></defs>'
)
_CONTROL = re.compile(r"[^\x09\x0a\x0d\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escaped(text: str) -> str:
    """Text for XML and HTML: what neither may contain is replaced."""
    return escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text), quote=True)


@dataclass(frozen=True, slots=True)
class Text:
    """One line with its baseline at y."""

    x: float
    y: float
    text: str
    size: float = 12.0
    anchor: str = "start"
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Rects:
    """Rectangles (left, top, right, bottom) times `scale` from `origin` on. Fill "maybe" is hatched, "none" nothing."""

    boxes: tuple[tuple[float, float, float, float], ...]
    fill: str
    opacity: float = 1.0
    stroke: str = "none"
    origin: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)


@dataclass(slots=True)
class Sheet:
    """A picture that grows downwards: what is drawn, in order. `sheet_svg` and png.py write it."""

    width: float
    height: float = 12.0
    title: str = ""
    description: str = ""
    drawn: list[Text | Rects] = field(default_factory=list[Text | Rects])

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """One line of text."""
        self.drawn.append(Text(x, y, text, **style))

    def lines(self, texts: Iterable[str], *, size: float = 12, bold: bool = False) -> None:
        """Lines of text below what is there, broken where they would leave the sheet."""
        for text in texts:
            for line in textwrap.wrap(text, max(20, int((self.width - 24) / (size * 0.54)))):
                self.height += size * 1.4
                self.text(12, self.height, line, size=size, bold=bold)

    def rects(self, boxes: Iterable[tuple[float, float, float, float]], fill: str, **style: Any) -> None:
        """Rectangles of one color; nothing for no rectangles."""
        found = tuple(boxes)
        if found:
            self.drawn.append(Rects(found, fill, **style))

    def frame(self, x: float, y: float, width: float, height: float) -> None:
        """A thin border."""
        self.rects([(x, y, x + width, y + height)], "none", stroke=LINE)

    def legend(self, entries: Iterable[tuple[str, float, str]]) -> None:
        """Swatches (color or "outline", opacity, text) side by side, in as many lines as they need."""
        x = 12.0
        self.height += 22
        for color, opacity, text in entries:
            wide = 30 + 6.4 * len(text)
            if x > 12 and x + wide > self.width:
                x, self.height = 12.0, self.height + 19
            swatch = [(x, self.height - 10, x + 12, self.height + 2)]
            if color == "outline":
                self.rects(swatch, "none", stroke=PARTIAL)
            else:
                self.rects(swatch, color, opacity=opacity)
                self.rects(swatch, "none", stroke=LINE)
            self.text(x + 17, self.height, text, size=11)
            x += wide
        self.height += 6


def sheet_svg(sheet: Sheet) -> str:
    """The file."""
    width, height = number(sheet.width), number(sheet.height + 12)
    size = f'width="{width}" height="{height}"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}" role="img">',
            f"<title>{escaped(sheet.title)}</title>",
            f"<desc>{escaped(sheet.description)}</desc>",
            f"<style>{_STYLE}</style>",
            _HATCH,
            f'<rect class="paper" fill="{PAPER}" {size}/>',
            *(_text(item) if isinstance(item, Text) else _rects(item) for item in sheet.drawn),
            "</svg>\n",
        )
    )


def _text(item: Text) -> str:
    place = "" if item.anchor == "start" else f' text-anchor="{item.anchor}"'
    weight = ' font-weight="600"' if item.bold else ""
    at = f'x="{number(item.x)}" y="{number(item.y)}" font-size="{number(item.size)}"'
    return f'<text class="ink" fill="{INK}" {at}{place}{weight}>{escaped(item.text)}</text>'


def _rects(item: Rects) -> str:
    data = "".join(
        f"M{number(x0)} {number(y0)}H{number(x1)}V{number(y1)}H{number(x0)}z" for x0, y0, x1, y1 in item.boxes
    )
    fill = "url(#maybe)" if item.fill == "maybe" else item.fill
    style = f' fill="{fill}"' + ("" if item.opacity == 1.0 else f' fill-opacity="{item.opacity:g}"')
    if item.stroke != "none":
        style += f' stroke="{item.stroke}"' + (' class="frame"' if item.stroke == LINE else "")
    else:
        style += ' shape-rendering="crispEdges"'
    if item.scale != (1.0, 1.0):
        x, y = item.origin
        style += f' transform="translate({number(x)} {number(y)}) scale({item.scale[0]:.6g} {item.scale[1]:.6g})"'
    return f'<path{style} d="{data}"/>'

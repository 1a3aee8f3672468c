"""What `benchmarks/masks.py` found, as a picture: a bar for the time of each plan, beside its tokens and its area."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import Any

from attnc.pictures.svg import FULL, PARTIAL, Sheet, sheet_svg

#: Milliseconds at the ends of the bars, which grow with the logarithm, and the goal for masks on positions.
LEAST, MOST, GOAL = 5.0, 2000.0, 50.0
LEFT, WIDTH = 300.0, 280.0


def picture(rows: Sequence[dict[str, Any]]) -> str:
    """The SVG of rows of the table."""
    sheet = Sheet(720, title="Planning masks", description="Milliseconds of planning; visited over kept area")
    sheet.lines(
        ["Planning masks: milliseconds (logarithmic; the edge of the frame is 50), visited over kept area"], bold=True
    )
    top = sheet.height + 12
    for row in rows:
        sheet.height += 19
        sheet.text(12, sheet.height, f"{row['spec']}, {row['tokens']:,} tokens", size=11)
        bar = (LEFT, sheet.height - 10, LEFT + _length(row["plan_ms"]), sheet.height + 2)
        sheet.rects([bar], FULL if row["plan_ms"] <= GOAL else PARTIAL)
        area = "" if row["visited_over_kept"] is None else f"area {row['visited_over_kept']:.2f}"
        sheet.text(LEFT + WIDTH + 110, sheet.height, f"{row['plan_ms']:,.0f} ms  {area}", size=11, anchor="end")
    sheet.frame(LEFT, top, _length(GOAL), sheet.height - top + 8)
    sheet.legend([(FULL, 1.0, "up to 50 ms"), (PARTIAL, 1.0, "more")])
    return sheet_svg(sheet)


def _length(milliseconds: float) -> float:
    share = log10(max(milliseconds, LEAST) / LEAST) / log10(MOST / LEAST)
    return WIDTH * min(share, 1.0)

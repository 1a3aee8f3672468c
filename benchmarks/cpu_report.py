"""What `benchmarks/cpu.py` found, as tables of docs/benchmarks.md and as a picture."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnc.pictures.svg import FULL, PARTIAL, Sheet, sheet_svg

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- written by benchmarks/cpu.py -->", "<!-- end of what benchmarks/cpu.py wrote -->"
#: Goals: times torch's attention, or the share of full attention's GFLOP/s over useful pairs.
SDPA = {("full", "float32", 64): 1.1, ("causal", "float32", 64): 1.1, ("full", "float32", 128): 1.0,
        ("causal", "float32", 128): 1.1, ("full", "bfloat16", 64): 1.5, ("causal", "bfloat16", 64): 1.5}  # fmt: skip
OF_FULL = {"window 1024": 0.85, "window 256": 0.65, "documents": 0.75}
FLEX = {"full": 2.5, "causal": 2.5, "window 256": 2.0, "documents": 2.0, "prefix": 2.0}
TIMES = {"alibi": 1.1, "sink": 1.1, "sigmoid": 1.25, "softcap": 1.6}


@dataclass(frozen=True)
class Found:
    """All figures: rows by case and length, ratios by name."""

    rows: list[dict[str, Any]]
    overheads: dict[str, float]
    sparse: dict[str, float]
    decoding: float
    around: dict[str, float]
    training: dict[str, float]
    lengths: list[int]


Line = tuple[str, str, float, float, bool]


def lines_of(found: Found) -> list[Line]:
    """Every comparison: what, of what, the figure, its goal, and whether it should be below."""
    lines: list[Line] = []
    full = _mean(found, ("full", "float32", 64), "gflops")
    for key in dict.fromkeys((row["case"], row["dtype"], row["dim"]) for row in found.rows):
        name = f"{key[0]}, {key[1]}, D {key[2]}"
        if key in SDPA:
            lines.append((name, "times SDPA", _mean(found, key, "sdpa"), SDPA[key], False))
        flex = _mean(found, key, "flex")
        if flex and key[1:] == ("float32", 64) and key[0] in FLEX:
            lines.append((name, "times FlexAttention", flex, FLEX[key[0]], False))
        if key[0] in OF_FULL and full:
            share = _mean(found, key, "gflops") / full
            lines.append((name, "useful GFLOP/s over full", share, OF_FULL[key[0]], False))
    lines += [(name, "GFLOP/s over visited tiles over full", value, 0.9, False) for name, value in found.sparse.items()]
    lines += [(name, "time over plain causal", value, TIMES[name], True) for name, value in found.overheads.items()]
    what = "one query row of 8 heads, 32k keys"
    lines.append((what, "bytes per second over a plain read", found.decoding, 0.7, False))
    backward, both = found.training["backward over forward"], found.training["both over SDPA"]
    lines.append(("causal, float32, D 64, N 4096", "time of the backward over the forward", backward, 3.0, True))
    lines.append(("causal, float32, D 64, N 4096", "forward and backward, times SDPA", both, 1.0, False))
    lines.append(("first output, empty cache", "seconds", found.around["cold"], 2.0, True))
    lines.append(("first output, warm cache", "seconds", found.around["warm"], 0.2, True))
    lines.append(("call of one pair", "ms", 1e3 * found.around["call"], 0.1, True))
    return lines


def _mean(found: Found, key: tuple[str, str, int], field: str) -> float:
    own = [row[field] for row in found.rows if (row["case"], row["dtype"], row["dim"]) == key]
    return statistics.geometric_mean(own) if own and None not in own else 0.0


def report(found: Found) -> list[str]:
    """The table as Markdown."""
    table = ["| what | measured as | figure | goal | |", "| --- | --- | --- | --- | --- |"]
    for name, kind, value, goal, below in lines_of(found):
        missed = value > goal if below else value < goal
        text = f"missed by {abs(value / goal - 1):.0%}" if missed else ""
        table.append(f"| {name} | {kind} | {value:.2f} | {'at most' if below else 'at least'} {goal:g} | {text} |")
    beside = ", ".join(f"{found.around[f'memory {n}']:.1f} MB for N = {n}" for n in (4096, 16384))
    return [
        f"N = {', '.join(map(str, found.lengths))}, B 1, H 4, geometric means over N; masks of the library: N 4096.",
        "",
        *table,
        "",
        f"Memory beside inputs and outputs (causal, H 4, D 64, two threads): {beside}.",
    ]


def write_docs(found: Found, text: list[str]) -> None:
    """Replace the table of docs/benchmarks.md, and the picture."""
    path = DOCS / "benchmarks.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    picture = "![figures over their goals](pictures/cpu.svg)"
    path.write_text("\n".join((before + BEGIN, "", *text, "", picture, "", END + after)), encoding="utf-8")
    (DOCS / "pictures" / "cpu.svg").write_text(sheet_svg(picture_of(found)), encoding="utf-8")


def picture_of(found: Found) -> Sheet:
    """A bar per figure: how far it is from its goal, which is the line in the middle."""
    sheet = Sheet(720, title="The C++ back end on a CPU", description="Figures over their goals")
    sheet.lines(
        ["C++ on a CPU: figures over their goals (longer is better; the edge of the frame is the goal)"], bold=True
    )
    left, goal = 330.0, 220.0
    top = sheet.height + 12
    for name, kind, value, aim, below in lines_of(found):
        sheet.height += 19
        reached = min((aim / value if below else value / aim), 1.6) if value else 0.0
        sheet.text(12, sheet.height, f"{name}: {kind}"[:52], size=11)
        bar = (left, sheet.height - 10, left + goal * reached, sheet.height + 2)
        sheet.rects([bar], FULL if reached >= 1 else PARTIAL)
        sheet.text(left + goal * 1.62, sheet.height, f"{value:.2f}", size=11, anchor="end")
    sheet.frame(left, top, goal, sheet.height - top + 8)
    sheet.legend([(FULL, 1.0, "reached"), (PARTIAL, 1.0, "missed")])
    return sheet

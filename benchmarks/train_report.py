"""What `benchmarks/train.py` found, as a table of docs/benchmarks.md and as a picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- written by benchmarks/train.py -->", "<!-- end of what benchmarks/train.py wrote -->"
GOAL = 1e-3
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
#: The picture: its size, the frame of the curves, and steps per mark on its axis.
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM, MARK = 720, 380, 52, 44, 700, 300, 50


@dataclass(frozen=True)
class Curve:
    """Losses of one mechanism step by step, through attnc and through the dense formula, with seconds of both runs."""

    name: str
    losses: list[float]
    exact: list[float]
    seconds: float
    seconds_exact: float

    @property
    def apart(self) -> float:
        """The largest difference."""
        return max(abs(a - b) for a, b in zip(self.losses, self.exact, strict=True))


def report(curves: list[Curve]) -> list[str]:
    """The table as Markdown."""
    lines = [
        "| mechanism | first loss | last loss | largest difference | goal | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for curve in curves:
        missed = "missed" if curve.apart > GOAL else ""
        ends = f"{curve.losses[0]:.3f} | {curve.losses[-1]:.3f}"
        lines.append(f"| {curve.name} | {ends} | {curve.apart:.1e} | at most {GOAL:g} | {missed} |")
    return lines


def write_docs(curves: list[Curve], table: list[str]) -> None:
    """Replace the table of docs/benchmarks.md, and the picture."""
    path = DOCS / "benchmarks.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    picture = "![losses of attnc over those of the dense formula](pictures/training.svg)"
    path.write_text("\n".join((before + BEGIN, "", *table, "", picture, "", END + after)), encoding="utf-8")
    (DOCS / "pictures" / "training.svg").write_text(picture_of(curves), encoding="utf-8")


def picture_of(curves: list[Curve]) -> str:
    """The losses over the steps: of attnc as a line, of the dense formula as dots on it."""
    steps = len(curves[0].losses)
    low = min(min(curve.losses) for curve in curves)
    high = max(max(curve.losses) for curve in curves)

    def place(step: int, loss: float) -> tuple[float, float]:
        return LEFT + (RIGHT - LEFT) * step / max(steps - 1, 1), BOTTOM - (BOTTOM - TOP) * (loss - low) / (high - low)

    items = [text(12, 24, "Training: losses through attnc (lines) and through the dense formula (dots)", bold=True)]
    items.append(
        f'<rect x="{LEFT}" y="{TOP}" width="{RIGHT - LEFT}" height="{BOTTOM - TOP}" fill="none" stroke="#888"/>'
    )
    items += [text(place(step, low)[0], BOTTOM + 18, str(step), anchor="middle") for step in range(0, steps, MARK)]
    items += [text(LEFT - 8, place(0, loss)[1] + 4, f"{loss:.1f}", anchor="end") for loss in (low, high)]
    for number, curve in enumerate(curves):
        color = COLORS[number % len(COLORS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*pair) for pair in enumerate(curve.losses)))
        items.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.2"/>')
        dots = (place(step, curve.exact[step]) for step in range(5 * number, steps, 20))
        items += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{color}"/>' for x, y in dots]
        label = f"{curve.name}: at most {curve.apart:.0e} apart"
        items.append(text(LEFT + 330 * (number % 2), BOTTOM + 44 + 20 * (number // 2), label, color=color))
    return svg(items)


def text(x: float, y: float, content: str, *, anchor: str = "start", bold: bool = False, color: str = "#333") -> str:
    """One line of text."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}"{weight}>{content}</text>'


def svg(items: Iterable[str]) -> str:
    """The whole file."""
    font = 'font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {font}>'
    title = "<title>Training through attnc and through the dense formula</title>"
    return "\n".join((head, title, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *items, "</svg>", ""))

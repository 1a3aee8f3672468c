"""docs/coverage.md: every mechanism that was studied, and what attnc has of it.

`python -m tests.oracles.coverage` writes the page. What it says of a file of the library is computed from the file, its
oracle and its plans; a text that the page calls enough is planned, and one that it calls refused is refused, by
`tests/unit/test_coverage.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attnc.ir.backward import BackwardPlan, Underivable
from attnc.ir.module import AttentionModule
from attnc.ir.plan import PlanOptions
from attnc.ir.printer import print_expr
from attnc.passes.columns import reads_columns, split_columns
from attnc.passes.pipeline import lower_module, make_backward
from tests.oracles.cases import cases
from tests.oracles.coverage_entries import BIASES, LINEAR, MASKS, NORMALIZERS, RECURRENCES, SELECTIONS, Entry
from tests.oracles.mechanisms import MECHANISMS
from tests.oracles.modules import last_stage, standard

PAGE = Path(__file__).resolve().parents[2] / "docs" / "coverage.md"
SECTIONS: dict[str, tuple[Entry, ...]] = {
    "Masks": MASKS,
    "Selections of keys or blocks that depend on scores": SELECTIONS,
    "Positions and biases": BIASES,
    "Scores, normalizers, several attentions": NORMALIZERS,
    "Feature maps and linear attention": LINEAR,
    "Recurrences": RECURRENCES,
}
_INTRODUCTION = """# Coverage

Written by `python -m tests.oracles.coverage`; a test fails when it is not current. The mechanisms are those of the
studies of masks, scores and recurrences that attnc was designed from.

- `std:NAME` is a file of the standard library, with a float64 oracle written from the paper in `tests/oracles`. Its
  output and gradients are compared with it on the torch back end, its output in C++; its emitted Triton is parsed, and
  for most files run in the interpreter (`tests/unit/test_stdlib_back_ends.py`); for scores, normalizers and feature
  maps gradients of interpreted Triton and C++ too (`tests/unit/test_stdlib_gradients.py`). Sweeps are passes over the
  keys, as derived. Gradients: *derived*, or what torch differentiates instead and why.
- A text is what a user writes for it; it is planned by the test, and has no oracle of its own.
- What is missing says what would be needed. Where a text stands beside it, the compiler still refuses it.
"""


@dataclass(frozen=True)
class Found:
    """What is computed of a file of the library."""

    sweeps: int
    gradients: str


def examined(name: str) -> Found:
    """The sweeps and the gradients of std:NAME."""
    assert name in MECHANISMS
    case = next(case for case in cases() if case.name == name)
    module = standard(name, **case.params)
    options = PlanOptions(16, 16, 4, training=True)
    return Found(_sweeps(module), _gradients(make_backward(last_stage(module), options)))


def _sweeps(module: AttentionModule) -> int:
    if reads_columns(module):
        split = split_columns(module, 1)
        return _sweeps(split.keys) + _sweeps(split.rows)
    return len(lower_module(module, PlanOptions(16, 16, 4)).sweeps)


def _gradients(found: BackwardPlan | Underivable) -> str:
    if isinstance(found, Underivable):
        return f"by torch: {found.what}, `{print_expr(found.term)}`"
    scatters = found.query.scatters if found.query is not None else ()
    names = sorted({scatter.target.tensor for scatter in scatters})
    return "derived" if not names else f"derived; of `{'`, `'.join(names)}` summed by torch"


def _row(entry: Entry) -> str:
    if entry.std:
        found = examined(entry.std)
        state = f"`std:{entry.std}`, {found.sweeps} sweep{'s' if found.sweeps > 1 else ''}, {found.gradients}"
        rest = entry.note
    elif entry.missing:
        state, rest = "missing", entry.missing
        if entry.text:
            rest += f": `{entry.shown}`"
    else:
        state, rest = "by a text", f"`{entry.shown}`" + (f"; {entry.note}" if entry.note else "")
    return f"| {entry.name} | {state} | {rest} |".replace("\n", " ")


def page() -> str:
    """The text of the page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _INTRODUCTION
    entries = [entry for section in SECTIONS.values() for entry in section]
    library = sum(bool(entry.std) for entry in entries)
    missing = sum(bool(entry.missing) for entry in entries)
    texts = len(entries) - library - missing
    yield f"{len(entries)} mechanisms: {library} in the library, {texts} by a text, {missing} missing."
    for title, section in SECTIONS.items():
        yield f"\n## {title}\n\n| mechanism | state | |\n|---|---|---|"
        yield from map(_row, section)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

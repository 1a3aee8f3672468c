"""docs/coverage.md is current, and what it says of texts is so."""

from __future__ import annotations

import pytest

from attnc.diagnostics import SpecError
from attnc.driver import stdlib_names
from attnc.ir.plan import PlanOptions
from attnc.passes.pipeline import make_plan
from tests.oracles.coverage import PAGE, SECTIONS, page
from tests.oracles.coverage_entries import Entry
from tests.oracles.modules import last_stage, module_of

ENTRIES = [entry for section in SECTIONS.values() for entry in section]


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.oracles.coverage"


def test_every_file_of_the_library_is_listed_and_no_name_twice() -> None:
    assert {entry.std for entry in ENTRIES if entry.std} == set(stdlib_names())
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert all(bool(entry.std) + bool(entry.missing) + bool(entry.text and not entry.missing) == 1 for entry in ENTRIES)


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.text], ids=lambda entry: entry.name)
def test_texts_are_planned_or_refused_as_the_page_says(entry: Entry) -> None:
    def plan() -> None:
        make_plan(last_stage(module_of(entry.source, "a")), PlanOptions(16, 16, 4))

    if entry.missing:
        with pytest.raises(SpecError):
            plan()
    else:
        plan()

"""Every message of the front end, as the user sees it: errors/NAME.attn fails with errors/NAME.err."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from attnc.diagnostics import SpecError, render_all
from attnc.driver import FileLoader, check
from attnc.source import SourceFile

FOLDER = Path(__file__).parent / "errors"
SPECS = sorted(FOLDER.glob("*.attn"))
CODES = Path(__file__).parents[2] / "attnc" / "frontend" / "errors"
#: Codes that no text can show: unreadable files, limits (test_bombs), wrong arguments from Python (test_bind).
ELSEWHERE = frozenset(("E108", "E109", "E110", "E111", "E114", "E115", "E207", "W501"))


def _messages(spec: Path) -> str:
    source = SourceFile(spec.name, spec.read_text(encoding="utf-8"))
    with pytest.raises(SpecError) as caught:
        check(source, FileLoader())
    return render_all(caught.value.diagnostics) + "\n"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.stem)
def test_messages(spec: Path, golden: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)  # imports are relative to the file, and its name is relative to here
    golden(f"errors/{spec.stem}.err", _messages(spec))


def test_every_code_has_an_example() -> None:
    defined = {code for file in CODES.glob("*.py") for code in re.findall(r'"([EW]\d{3})"', file.read_text())}
    shown = {code for spec in SPECS for code in re.findall(r"error\[(E\d{3})\]", spec.with_suffix(".err").read_text())}
    assert {code for code in defined - shown - ELSEWHERE if not code.startswith("E5")} == set()


def test_every_golden_has_its_spec() -> None:
    assert {file.stem for file in FOLDER.glob("*.err")} == {spec.stem for spec in SPECS}

"""docs/models.md shows the scripts of examples/models, and they print what they should."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from attnc.driver import check, load_spec
from tests.integrations.hf_models import hf

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples" / "models").glob("*.py"))
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_page_shows_every_script() -> None:
    shown = set(re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
    assert len(SCRIPTS) == 4
    assert {script.read_text(encoding="utf-8") for script in SCRIPTS} <= shown


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_finds_no_difference(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hf()  # sets the environment before the script imports the library
    runpy.run_path(str(script))
    assert capsys.readouterr().out.endswith(": True\n")


def test_spec_on_the_page_is_right() -> None:
    (source,) = re.findall(r'^source = """\n(.*?)^"""$', PAGE, re.DOTALL | re.MULTILINE)
    assert check(load_spec("page", source)).warnings == ()

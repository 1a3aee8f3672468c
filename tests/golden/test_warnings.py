"""What `attnc check` says of texts that are right and probably not meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from attnc.cli import main

FOLDER = Path(__file__).with_name("warnings")
SPECS = sorted(FOLDER.glob("*.attn"))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.stem)
def test_warnings(spec: Path, golden: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    result = CliRunner().invoke(main, ["check", spec.name])
    assert result.exit_code == 0
    golden(f"warnings/{spec.stem}.txt", result.stdout)

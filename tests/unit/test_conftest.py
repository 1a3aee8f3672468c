"""The fixtures that other tests rely on."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_golden_missing_file_fails_with_the_command_that_writes_it(golden, tmp_path: Path) -> None:
    golden.update = False
    with pytest.raises(pytest.fail.Exception, match=r"does not exist.*\n.*--update-golden"):
        golden(tmp_path / "new.txt", "text")
    assert not (tmp_path / "new.txt").exists()


def test_golden_other_text_fails_with_a_diff(golden, tmp_path: Path) -> None:
    golden.update = False
    (tmp_path / "old.txt").write_text("one\ntwo\n")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)-two.*\+three.*--update-golden"):
        golden(tmp_path / "old.txt", "one\nthree\n")


def test_golden_same_text_passes(golden, tmp_path: Path) -> None:
    golden.update = False
    (tmp_path / "old.txt").write_text("one\n")
    golden(tmp_path / "old.txt", "one\n")


def test_golden_update_writes_the_file(golden, tmp_path: Path) -> None:
    golden.update = True
    golden(tmp_path / "deep" / "new.txt", "text\n")
    assert (tmp_path / "deep" / "new.txt").read_text() == "text\n"


def test_seed_is_the_same_in_every_run(seed: int) -> None:
    assert seed == 2401364387

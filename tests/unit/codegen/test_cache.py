"""The cache of emitted files: content-addressed, private, never trusted."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from attnc.codegen.cache import cache_directory, load_source, store_text
from attnc.diagnostics import AttncError


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path / "cache"))


def test_the_directory_is_private(tmp_path: Path) -> None:
    assert cache_directory() == tmp_path / "cache"
    assert stat.S_IMODE(cache_directory().stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_directory_that_others_may_write_to_is_refused(mode: int) -> None:
    cache_directory().chmod(mode)
    with pytest.raises(AttncError, match="not yours alone"):
        store_text("x = 1\n", ".py")


def test_without_a_setting_it_lies_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATTNC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "attnc"


def test_the_same_text_is_the_same_file() -> None:
    first = store_text("x = 1\n", ".py")
    written = first.stat().st_mtime_ns
    assert store_text("x = 1\n", ".py") == first
    assert first.stat().st_mtime_ns == written
    assert store_text("x = 2\n", ".py") != first


def test_an_entry_that_was_changed_is_written_again() -> None:
    path = store_text("x = 1\n", ".py")
    path.write_text("import os\n", encoding="utf-8")
    assert store_text("x = 1\n", ".py") == path
    assert path.read_text(encoding="utf-8") == "x = 1\n"


def test_nothing_but_entries_is_left_behind() -> None:
    store_text("x = 1\n", ".py")
    store_text("x = 2\n", ".py")
    assert [path.suffix for path in cache_directory().iterdir()] == [".py", ".py"]


def test_a_source_is_loaded_as_a_module() -> None:
    module = load_source("x = 40 + 2\n")
    assert module.x == 42
    assert module.__file__ is not None
    assert Path(module.__file__).parent == cache_directory()

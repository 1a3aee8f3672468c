"""The cache of emitted files: content-addressed, private, never trusted."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import attnc
from attnc.codegen.cache import (
    cache_directory,
    cache_info,
    clear_cache,
    key_of,
    load_entry,
    load_source,
    store_entry,
    store_text,
)
from attnc.diagnostics import AttncError, AttncWarning
from attnc.ops import Op


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


# -- entries ---------------------------------------------------------------------------------------------------------

KEY = "0123456789abcdef0123456789abcdef"


def entry() -> Path:
    store_entry("plan", KEY, '{"a": 1}')
    return cache_directory() / f"{KEY}.plan.json"


def test_an_entry_is_what_was_stored() -> None:
    assert load_entry("plan", KEY) is None
    entry()
    assert load_entry("plan", KEY) == '{"a": 1}'
    assert load_entry("kernels", KEY) is None
    store_entry("plan", KEY, "é")
    assert load_entry("plan", KEY) == "é"


def _poison(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".other"))
    path.symlink_to(path.with_suffix(".other"))


def _open_to_others(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.parametrize("damage", [_poison, _truncate, _empty, _link, _open_to_others])
def test_a_damaged_entry_is_refused_and_removed(damage: Callable[[Path], None]) -> None:
    path = entry()
    damage(path)
    with pytest.warns(AttncWarning, match="refused and made anew"):
        assert load_entry("plan", KEY) is None
    assert not path.exists()
    entry()
    assert load_entry("plan", KEY) == '{"a": 1}'


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_foreign_entry_is_refused() -> None:
    path = entry()
    os.chown(path, 12345, -1)
    with pytest.warns(AttncWarning, match="not a file of this user"):
        assert load_entry("plan", KEY) is None


def test_a_foreign_source_is_replaced() -> None:
    path = store_text("x = 1\n", ".py")
    path.rename(path.with_suffix(".other"))
    path.symlink_to(path.with_suffix(".other"))
    assert not store_text("x = 1\n", ".py").is_symlink()


def test_without_a_place_to_write_it_is_a_directory_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.warns(AttncWarning, match="what is compiled is forgotten"):
        directory = cache_directory()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert cache_directory() == directory


def test_keys_depend_on_the_parts_and_where_they_end() -> None:
    assert len({key_of("ab", "c"), key_of("a", "bc"), key_of("abc"), key_of("abc", "")}) == 4
    assert len(key_of("x")) == len(KEY)


def test_info_and_clear_know_their_own_files() -> None:
    entry()
    store_text("x = 1\n", ".py")
    foreign = cache_directory() / "notes.txt"
    foreign.write_text("mine", encoding="utf-8")
    assert {kind: files for kind, (files, _) in cache_info().kinds.items()} == {"plan": 1, "py": 1}
    clear_cache()
    assert cache_info().kinds == {}
    assert foreign.exists()


# -- ops -------------------------------------------------------------------------------------------------------------

TEXT = "attention a(w: int = 5) { mask j <= i and i - j < w }"


def test_an_op_is_made_from_its_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 1, 9, 8)
    expected = _fresh(TEXT)(q, q, q)
    monkeypatch.setattr("attnc.driver.check", _never)
    monkeypatch.setattr("attnc.passes.pipeline.make_plan", _never)
    monkeypatch.setattr("attnc.codegen.triton_module.lower_triton", _never)
    torch.testing.assert_close(_fresh(TEXT)(q, q, q), expected, rtol=0, atol=0)
    with pytest.raises(AssertionError, match="made anew"):
        _fresh(TEXT.replace("5", "6"))


def _never(*_: object) -> None:
    raise AssertionError("made anew")


def _fresh(text: str) -> Op:
    """An op with nothing in memory."""
    op = attnc.compile(source=text, backend="interpret")
    op._executor.forget()
    return op


def test_damaged_entries_of_an_op_are_made_anew() -> None:
    q = torch.randn(1, 1, 9, 8)
    expected = _fresh(TEXT)(q, q, q)
    for path in cache_directory().glob("*.json"):
        path.write_text("00\nnonsense", encoding="utf-8")
    with pytest.warns(AttncWarning, match="refused"):
        torch.testing.assert_close(_fresh(TEXT)(q, q, q), expected, rtol=0, atol=0)


def test_an_import_that_changed_is_read_again(tmp_path: Path) -> None:
    part, whole = tmp_path / "part.attn", tmp_path / "whole.attn"
    part.write_text("mask near = i - j < 3\n", encoding="utf-8")
    whole.write_text('import "./part.attn" (near)\nattention whole { mask near }\n', encoding="utf-8")
    first = attnc.compile(whole)
    assert attnc.compile(whole).name == first.name
    part.write_text("mask near = i - j < 4\n", encoding="utf-8")
    assert attnc.compile(whole).name != first.name


def test_processes_make_an_entry_once(tmp_path: Path) -> None:
    code = (
        "import attnc.passes.pipeline as p, attnc.executor as e, sys, time\n"
        "make = p.make_plan\n"
        "def slow(*a):\n"
        "    print('made'); time.sleep(0.5); return make(*a)\n"
        "p.make_plan = slow\n"
        f"import attnc; attnc.compile(source={TEXT!r}).plan\n"
    )
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert "".join(printed).count("made") == 1

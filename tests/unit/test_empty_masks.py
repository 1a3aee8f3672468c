"""Masks that keep no pair: a warning where they are checked and where they are compiled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import attnc
from attnc.cli import main
from attnc.diagnostics import AttncWarning, Diagnostic, render
from attnc.driver import check, load_spec, stdlib_names
from attnc.empty_masks import empty_mask_warnings
from attnc.source import SourceFile


def warnings_of(body: str, header: str = "") -> list[Diagnostic]:
    text = f"attention void({header}) {{\n{body}\n}}"
    return list(empty_mask_warnings(check(SourceFile("t.attn", text)).modules))


@pytest.mark.parametrize(
    ("mask", "header", "note"),
    [
        ("j <= i and w >= 3 and h == 0 and j > i", "w: int", "`j <= i` and `j > i` never hold together"),
        ("0 <= i - j < w - 8", "w: int in [1, 8]", "`0 <= i - j` and `i - j < w - 8` never hold together"),
        ("i - j < 0 and j < w and w < i", "w: int", "`i - j < 0` and `j < w` and `w < i` never hold together"),
        ("seg[b, i] == seg[b, j] and j < i and i < j", "seg: int[B, M]", "`j < i` and `i < j` never hold together"),
        ("w < n and i < j", "n: int, w: int in [n, inf)", None),
        ("false", "", "`false` never holds"),
    ],
)
def test_masks_without_pairs(mask: str, header: str, note: str | None) -> None:
    (warning,) = warnings_of(f"mask {mask}", header)
    assert (warning.code, warning.severity) == ("W502", "warning")
    assert warning.title == "the mask of `void` keeps no pair"
    assert warning.primary is not None
    assert warning.primary.span.text == mask
    assert note is None or warning.note == note
    assert render(warning).startswith("warning[W502]: ")


@pytest.mark.parametrize(
    ("body", "header"),
    [
        ("mask j <= i", ""),
        ("mask i - j == 12345", ""),
        ("mask i % n == 3", "n: int"),
        ("mask keep[b, j]", "keep: bool[B, M]"),
        ("mask i - j > n", "n: int in [100000, inf)"),
        ("grid (y: 4, x: 4)\nmask i.x == j.x", ""),
    ],
)
def test_masks_with_pairs(body: str, header: str) -> None:
    assert warnings_of(body, header) == []


def test_coordinates_that_exclude_each_other() -> None:
    (warning,) = warnings_of("grid (y: 8, x: 8)\nmask i.y < j.y and j.y < i.y")
    assert warning.note == "`i // 8 < j // 8` and `j // 8 < i // 8` never hold together"
    assert not warnings_of("grid (y: 8, x: 8)\nmask i.y < j.y and j.x < i.x")


def test_the_standard_library_keeps_pairs() -> None:
    for name in stdlib_names():
        assert list(empty_mask_warnings(check(load_spec(f"std:{name}")).modules)) == []


def test_check_shows_it(tmp_path: Path) -> None:
    spec = tmp_path / "void.attn"
    spec.write_text("attention void { mask j < i and i < j }\n")
    shown = CliRunner().invoke(main, ["check", str(spec), "--json"])
    assert shown.exit_code == 0
    assert [found["code"] for found in json.loads(shown.output)["diagnostics"]] == ["W502"]


def test_compile_warns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.warns(
        AttncWarning, match="the mask of `warns` keeps no pair: `j <= i` and `i - j < -4` never hold together"
    ) as found:
        attnc.compile(source="attention warns(w: int) { mask j <= i and i - j < w }", params={"w": -4})
    assert [warning.filename for warning in found] == [__file__]

"""Names across files: imports, the standard library behind every file, and what must not be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnc.diagnostics import SpecError
from attnc.driver import FileLoader, check, load_spec, stdlib_names
from attnc.ir.printer import print_expr
from attnc.source import SourceFile
from tests.unit.frontend.texts import MemoryLoader, checked, codes_of, errors_of

STANDARD = {
    "causal": "mask causal = j <= i\nattention causal { mask causal }",
    "window": "mask window(size: int) = helper(size)\nmask helper(size: int) = 0 <= i - j < size\nbias window = 1",
}


def _mask(text: str, files: dict[str, str] | None = None) -> str:
    return print_expr(checked(text, MemoryLoader(STANDARD, files)).modules[0].mask)


def test_the_standard_library_stands_behind_every_file() -> None:
    assert _mask("attention a { mask causal and window(3) }") == "j <= i and (0 <= i - j and i - j < 3)"


def test_only_the_file_of_the_same_name_stands_behind() -> None:
    assert codes_of("attention a { mask helper(3) }", MemoryLoader(STANDARD)) == ["E201"]


def test_own_declarations_come_first() -> None:
    assert _mask("mask causal = j < i\nattention a { mask causal }") == "j < i"


def test_imports() -> None:
    assert _mask("import std.window (helper)\nattention a { mask helper(4) }").endswith("i - j < 4")
    assert _mask("import std.masks (helper, causal)\nattention a { mask helper(4) and causal }").endswith("j <= i")
    files = {"./mine.attn": "def half = i // 2\nmask near = j > half"}
    assert _mask('import "./mine.attn" (near)\nattention a { mask near }', files) == "j > i // 2"


def test_an_import_brings_every_kind_of_the_name() -> None:
    text = "import std.window (window)\nattention a { mask window(3); bias window }"
    assert print_expr(checked(text, MemoryLoader(STANDARD)).modules[0].score).endswith("+ 1.0")


def test_a_collection_brings_one_kind() -> None:
    text = "import std.biases (window)\nmask window = j <= i\nattention a { mask window; bias window }"
    assert checked(text, MemoryLoader(STANDARD)).modules


def test_only_files_that_are_needed_are_read() -> None:
    loader = MemoryLoader(STANDARD)
    checked("mask own = i < j\nattention a { mask own }", loader)
    assert set(loader.read) == {"softmax"}


def test_a_name_whose_import_failed_is_no_second_error() -> None:
    text = 'import "./gone.attn" (near)\nimport std.causal (casual)\nattention a { mask near and casual }'
    assert codes_of(text, MemoryLoader(STANDARD)) == ["E205", "E206"]


def test_errors_of_an_imported_file_are_shown_in_it() -> None:
    files = {"./mine.attn": "mask near = j <= k\nmask right = j <= i"}
    (error,) = errors_of('import "./mine.attn" (near)\nattention a { mask near }', MemoryLoader(files=files))
    assert error.primary is not None
    assert error.primary.span.source.name == "./mine.attn"
    assert codes_of('import "./bad.attn" (x)\nmask y = x', MemoryLoader(files={"./bad.attn": "mask x ="})) == ["E101"]


def test_unused_declarations_of_other_files_are_not_checked() -> None:
    files = {"./mine.attn": "mask near = nonsense\nmask right = j <= i"}
    assert checked('import "./mine.attn" (right)\nmask y = right', MemoryLoader(files=files)).docs


def test_attentions_are_not_imported() -> None:
    loader = MemoryLoader({"only": "attention only { score 1 }"})
    assert codes_of("import std.only (only)", loader) == ["E208"]


# ------------------------------------------------------------------------------------------ files


def _check(path: Path) -> tuple[str, ...]:
    return tuple(module.name for module in check(load_spec(path)).modules)


def _importing(path: str) -> str:
    return f'import "{path}" (near)\nattention a {{ mask near }}'


def test_files_below_the_importing_one_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.attn").write_text('import "./deep.attn" (deeper)\nmask near = deeper')
    (tmp_path / "sub" / "deep.attn").write_text("mask deeper = j <= i")
    main = tmp_path / "main.attn"
    for path in ("./sub/mine.attn", "sub/mine.attn", "sub/../sub/mine.attn"):
        main.write_text(_importing(path))
        assert _check(main) == ("a",)


@pytest.mark.parametrize("path", ["../out.attn", "sub/../../out.attn", "/etc/passwd", "link.attn", "linked/out.attn"])
def test_files_outside_cannot_be_read(path: str, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (tmp_path / "out.attn").write_text("mask near = j <= i")
    (inside / "link.attn").symlink_to(tmp_path / "out.attn")
    (inside / "linked").symlink_to(tmp_path)
    main = inside / "main.attn"
    main.write_text(_importing(path))
    with pytest.raises(SpecError) as caught:
        _check(main)
    (error,) = caught.value.diagnostics
    assert error.code == "E205"
    assert "outside" in error.title or "not a .attn file" in error.title


def test_absolute_paths_below_the_file_are_fine(tmp_path: Path) -> None:
    (tmp_path / "mine.attn").write_text("mask near = j <= i")
    main = tmp_path / "main.attn"
    main.write_text(_importing(str(tmp_path / "mine.attn")))
    assert _check(main) == ("a",)


@pytest.mark.parametrize(
    "path", ["missing.attn", "folder.attn", "mine.txt", "nul\0.attn", "x" * 5000 + ".attn", "loop.attn"]
)
def test_files_that_cannot_be_read(path: str, tmp_path: Path) -> None:
    (tmp_path / "folder.attn").mkdir()
    (tmp_path / "loop.attn").symlink_to(tmp_path / "loop.attn")
    main = tmp_path / "main.attn"
    main.write_text(_importing(path))
    with pytest.raises(SpecError) as caught:
        _check(main)
    assert caught.value.diagnostics[0].code in ("E205", "E104")


def test_a_text_without_a_file_imports_no_file() -> None:
    with pytest.raises(SpecError, match="no directory"):
        check(SourceFile("<text>", _importing("mine.attn")), FileLoader())


@pytest.mark.parametrize("name", stdlib_names())
def test_the_standard_library_is_right_and_documented(name: str) -> None:
    found = check(load_spec(f"std:{name}"))
    assert not found.warnings
    assert all(doc.summary for doc in found.docs)

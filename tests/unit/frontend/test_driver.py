"""driver: from what a user names to a module, and what the front end never imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from attnc.diagnostics import SpecError
from attnc.driver import FileLoader, check, load_spec, select, standard_directory, stdlib_names
from attnc.source import SourceFile
from tests.unit.frontend.texts import checked

ROOT = Path(__file__).parents[3]


def _title(spec: str | Path, source: str | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        select(check(load_spec(spec, source)))
    return caught.value.diagnostics[0].title


def test_specs_by_name_path_and_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.attn"
    path.write_bytes(b"\xef\xbb\xbfattention other { mask j <= i }\r\n")
    assert select(check(load_spec("std:causal"))).name == "causal"
    assert select(check(load_spec(path))).name == "other"
    assert select(check(load_spec(str(path)))).name == "other"
    assert select(check(load_spec("any name", "attention third {}"))).name == "third"


def test_specs_that_are_not_there(tmp_path: Path) -> None:
    assert _title(tmp_path / "gone.attn").endswith("there is no such file")
    assert _title(tmp_path).endswith("it is a directory")
    assert "standard library has no `casual`" in _title("std:casual")
    assert "standard library has no `../causal`" in _title("std:../causal")
    with pytest.raises(SpecError, match="std:causal"):
        load_spec("causal")


def test_an_attention_is_chosen_by_name_or_by_the_name_of_the_file() -> None:
    text = "attention one {}\nattention two {}"
    found = check(SourceFile("dir/two.attn", text))
    assert select(found).name == "two"
    assert select(found, "one").name == "one"
    assert select(check(SourceFile("std:one", text))).name == "one"
    with pytest.raises(SpecError, match="did you mean `one`"):
        select(found, "on")
    with pytest.raises(SpecError, match="choose one: `one`, `two`"):
        select(checked(text))
    with pytest.raises(SpecError, match="holds no `attention`"):
        select(checked("mask a = i < j"))


def test_documentation() -> None:
    found = checked("# the maths\n\n## First.\n## More.\nmask a = i < j\n\nattention c {}")
    assert [(doc.kind, doc.name, doc.summary) for doc in found.docs] == [
        ("mask", "a", "First."),
        ("attention", "c", "the maths"),
    ]
    assert found.modules[0].doc == "the maths"


def test_too_deep_a_stack_is_a_diagnostic(monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr("attnc.driver.check_file", overflow)
    with pytest.raises(SpecError) as caught:
        check(SourceFile("t", "mask a = i < j"))
    assert caught.value.diagnostics[0].code == "E115"


def test_the_standard_library_is_found() -> None:
    assert "softmax" in stdlib_names()
    assert (standard_directory() / "softmax.attn").is_file()
    loader = FileLoader()
    assert loader.read_standard("softmax") is loader.read_standard("softmax")


def test_checking_imports_nothing_heavy() -> None:
    code = """
import sys
from attnc.driver import check, load_spec
from attnc.frontend.format import format_text
check(load_spec("std:causal"))
format_text(load_spec("std:causal"))
print(*sorted({"torch", "sympy", "islpy", "lark", "numpy", "jinja2"} & sys.modules.keys()))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""

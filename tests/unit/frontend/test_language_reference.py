"""docs/language.md is complete and its examples are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attnc.driver import FileLoader, check
from attnc.frontend import limits
from attnc.frontend.format import format_text
from attnc.frontend.names import CALL_KEYWORDS, INDICES, LIFTS, REDUCTIONS, SIZES, VALUES
from attnc.frontend.tokens import FIELDS
from attnc.ir.builtins import CALLABLE
from attnc.source import SourceFile

REFERENCE = (Path(__file__).parents[3] / "docs" / "language.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```attn\n(.*?)```", REFERENCE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_are_right_and_in_canonical_layout(number: int) -> None:
    source = SourceFile(f"example {number}", EXAMPLES[number])
    assert not check(source, FileLoader()).warnings
    assert format_text(source) == source.text


@pytest.mark.parametrize("name", sorted((*CALLABLE, *REDUCTIONS, *LIFTS)))
def test_every_builtin_is_described(name: str) -> None:
    assert re.search(rf"`{name}[(\[]", REFERENCE)


@pytest.mark.parametrize("name", [*INDICES, *SIZES, *VALUES, *CALL_KEYWORDS])
def test_every_predefined_name_is_described(name: str) -> None:
    assert f"`{name}`" in REFERENCE


@pytest.mark.parametrize("field", [*FIELDS, "aux", "let", "grid"])
def test_every_field_is_described(field: str) -> None:
    assert f"| `{field} " in REFERENCE


def test_the_limits_are_those_of_the_code() -> None:
    for value in (limits.TOKENS, limits.EXPRESSION_NODES, limits.USED_NODES, limits.EXISTS_COMBINATIONS):
        assert f"{value:,}" in REFERENCE
    for value in (limits.BRACKET_DEPTH, limits.EXPRESSION_DEPTH, limits.IMPORTED_FILES, limits.EXISTS_VALUES):
        assert f" {value} " in REFERENCE

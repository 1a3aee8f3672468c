"""Whatever the text, the front end answers with modules or with diagnostics."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnc.diagnostics import SpecError, render_all
from attnc.driver import FileLoader, check
from attnc.frontend.lexer import lex
from attnc.frontend.tokens import FOREIGN, KEYWORDS, OPERATORS
from attnc.ir.builtins import BUILTINS
from attnc.source import SourceFile

ROOT = Path(__file__).parents[3]
SPECS = [*sorted((ROOT / "stdlib").glob("*.attn")), *sorted((ROOT / "tests/golden/errors").glob("*.attn"))]
WORDS = [*KEYWORDS, *OPERATORS, *FOREIGN, *BUILTINS, *"b h hk i j B H M N D q k v s o w scale 0 1 2.5".split()]
WORDS += [
    "int",
    "real",
    "learned",
    "dynamic",
    "softmax",
    "causal",
    "#",
    "##",
    "\n",
    "\n",
    ";",
    '"',
    "x",
    "y",
    "at",
    "by",
]


def _check(text: str) -> None:
    """Check a text; every message must be drawable."""
    try:
        check(SourceFile("t.attn", text), FileLoader())
    except SpecError as error:
        found = error.diagnostics
    else:
        return
    assert render_all(found)


@given(st.lists(st.sampled_from(WORDS), max_size=60))
def test_any_words(words: list[str]) -> None:
    _check(" ".join(words))


@given(st.text(max_size=200))
def test_any_characters(text: str) -> None:
    _check(text)


@given(st.data())
def test_damaged_specs(data: st.DataObject) -> None:
    """A right or wrong spec with some of its words left out, doubled, exchanged or replaced."""
    path = data.draw(st.sampled_from(SPECS))
    words = [token.text for token in lex(SourceFile("t", path.read_text())).tokens]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(words) - 1))
        new = data.draw(st.sampled_from((*WORDS, *words)))
        words[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(([], [new], [words[at], new])))
        words = words or ["mask"]
    _check(" ".join(words))


@pytest.mark.parametrize("end", range(0, 400, 17))
def test_cut_off_specs(end: int) -> None:
    text = (ROOT / "stdlib" / "neighborhood_2d.attn").read_text()
    _check(text[-end:] if end % 2 else text[:end])

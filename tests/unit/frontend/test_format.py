"""The formatter: layout only, the same on its own output, comments kept."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from hypothesis import given

from attnc.diagnostics import SpecError
from attnc.frontend.format import format_text
from attnc.frontend.lexer import lex
from attnc.frontend.parser import parse
from attnc.source import SourceFile
from tests.unit.frontend.grammar import TEXTS

SPECS = sorted((Path(__file__).parents[3] / "stdlib").glob("*.attn"))


def _format(text: str) -> str:
    return format_text(SourceFile("t.attn", text))


def _comments(text: str) -> list[str]:
    return [comment.content for comment in lex(SourceFile("t.attn", text)).comments]


def _check_laws(text: str) -> None:
    once = _format(text)
    assert parse(SourceFile("t.attn", once)) == parse(SourceFile("t.attn", text))
    assert _format(once) == once
    assert _comments(once) == _comments(text)
    assert not any(line != line.rstrip() for line in once.splitlines())
    assert "\n\n\n" not in once


@given(TEXTS)
def test_formatting_keeps_the_meaning_and_is_stable(text: str) -> None:
    _check_laws(text)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_standard_library(path: Path) -> None:
    _check_laws(path.read_text(encoding="utf-8"))


CASES = {
    "spaces": ("mask  w( size :int=3 )=0<=i-j<size", "mask w(size: int = 3) = 0 <= i - j < size\n"),
    "signs": ("bias x = - i*-2 - -3", "bias x = -i * -2 - -3\n"),
    "dimensions": ("bias x(t:real[H,2 * L-1] learned)=t[h,2*i]", "bias x(t: real[H, 2*L - 1] learned) = t[h, 2 * i]\n"),
    "named arguments": ("bias x = f(a=1,b : 2)", "bias x = f(a: 1, b: 2)\n"),
    "ranges over parameters": (
        "attention a(w:int in[1 , inf),s:int in [1,2 *w-1 ] =1){}",
        "attention a(w: int in [1, inf), s: int in [1, 2 * w - 1] = 1) {}\n",
    ),
    "ranges": ("attention a(x:int in[0 , 32)){}", "attention a(x: int in [0, 32)) {}\n"),
    "reductions": (
        "normalizer n{w=sum [j]( s )/sum[j  by(j//2)](s)}",
        "normalizer n { w = sum[j](s) / sum[j by (j // 2)](s) }\n",
    ),
    "quantifiers": ("mask m = exists d in 0 .. 4 : i-j==2 ^ d", "mask m = exists d in 0..4: i - j == 2 ^ d\n"),
    "comments": ("#a\n##b\nmask m = i<j #c", "# a\n## b\nmask m = i < j  # c\n"),
    "blank lines": ("\n\nmask a = i<j\n\n\n\nmask b = a\n\n", "mask a = i < j\n\nmask b = a\n"),
    "imports": ('import std.masks(a,b)\nimport"./x.attn"(f)', 'import std.masks (a, b)\nimport "./x.attn" (f)\n'),
    "empty": ("", ""),
    "only a comment": ("#x", "# x\n"),
}


@pytest.mark.parametrize("name", CASES)
def test_layout(name: str) -> None:
    text, expected = CASES[name]
    assert _format(text) == expected
    _check_laws(text)


def test_fields_are_aligned_in_each_attention() -> None:
    text = """
        attention a
        {
        mask i<j # why

        score dot(q,k)
         normalizer softmax;aux lse
        q=rope(q,i,theta=500)

        }
        attention b { mask i < j; aux lse }
        attention c {
          mask i < j and
          j > 3
          bias max(i,
          j)
        }
    """
    assert _format(textwrap.dedent(text)) == textwrap.dedent("""\
        attention a {
          mask       i < j  # why

          score      dot(q, k)
          normalizer softmax
          aux        lse
          q = rope(q, i, theta: 500)
        }
        attention b { mask i < j; aux lse }
        attention c {
          mask i < j and
            j > 3
          bias max(i,
                   j)
        }
    """)


def test_a_long_line_in_braces_is_broken() -> None:
    body = "; ".join(f"x{n} = exp(s - {n})" for n in range(9))
    lines = _format(f"normalizer n {{ {body}; w = x1 }}").splitlines()
    assert lines[:2] == ["normalizer n {", "  x0 = exp(s - 0)"]
    assert len(lines) == 12


def test_wrong_texts_are_refused() -> None:
    with pytest.raises(SpecError):
        _format("mask a = (")

"""Text to tree: precedence, statements, line ends, documentation, and going on after an error."""

from __future__ import annotations

import pytest
from hypothesis import given

from attnc.diagnostics import SpecError
from attnc.frontend import ast
from attnc.frontend.parser import parse
from attnc.frontend.table import build_table, grammar_text, stored_table
from attnc.source import SourceFile
from tests.unit.frontend.grammar import TEXTS


def _parse(text: str) -> ast.File:
    return parse(SourceFile("t.attn", text))


def _body(text: str) -> ast.Expr:
    (declaration,) = _parse(f"def f = {text}").declarations
    assert isinstance(declaration, ast.Definition)
    return declaration.body


def _same(a: str, b: str) -> bool:
    return _body(a) == _body(b)


def _columns(text: str) -> list[int]:
    with pytest.raises(SpecError) as caught:
        _parse(text)
    spans = [diagnostic.primary.span for diagnostic in caught.value.diagnostics if diagnostic.primary]
    return [span.source.position(span.start)[0] for span in spans]


def test_the_stored_table_belongs_to_the_grammar() -> None:
    assert stored_table() == build_table(grammar_text()), "run: python -m attnc.frontend.table"


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("a or b and c", "a or (b and c)"),
        ("not a and b", "(not a) and b"),
        ("not a == b", "not (a == b)"),
        ("a + b * c", "a + (b * c)"),
        ("a - b - c", "(a - b) - c"),
        ("a / b * c", "(a / b) * c"),
        ("a & b == c", "(a & b) == c"),
        ("a & b + c", "a & (b + c)"),
        ("-a ^ b", "-(a ^ b)"),
        ("a ^ -b", "a ^ (-b)"),
        ("a ^ b ^ c", "a ^ (b ^ c)"),
        ("-a * b", "(-a) * b"),
        ("a ^ b.t", "a ^ (b.t)"),
        ("f(x)[i].t", "((f(x))[i]).t"),
        ("exists d in 0..3: a or b", "exists d in 0..3: (a or b)"),
        ("a and exists d in 0..3: b or c", "a and (exists d in 0..3: (b or c))"),
        ("a // b % c", "(a // b) % c"),
        ("f(x: 1)", "f(x = 1)"),
        ("f(a, b,)", "f(a, b)"),
        ("not not a", "not (not a)"),
        ("- - a", "-(-a)"),
    ],
)
def test_precedence(text: str, meaning: str) -> None:
    assert _same(text, meaning)


def test_comparisons_form_a_chain() -> None:
    body = _body("0 <= i - j < w")
    assert isinstance(body, ast.Compare)
    assert [op.text for op, _ in body.rest] == ["<=", "<"]
    assert not _same("(a < b) < c", "a < b < c")


@pytest.mark.parametrize(
    "text",
    ["a +\nb", "f(\na,\nb)", "x[\ni]", "(a\n+ b)", "a and # why\n b", "f(a # why\n, b)", "a <\n\n  b"],
)
def test_a_statement_goes_on_after_operators_and_in_brackets(text: str) -> None:
    assert _same(text, " ".join(line.split("#")[0] for line in text.splitlines()))


def test_statements_end_with_a_line_or_a_semicolon() -> None:
    one = _parse("normalizer n { a = s; w = a }")
    two = _parse("normalizer n\n{\n\n a = s ;;\n\n # c\n w = a\n\n}\n")
    assert one.declarations == two.declarations


def test_documentation_stands_directly_above() -> None:
    file = _parse("# the maths\n\n## one\n## two\nmask a = i < j\n## far\n\nmask b = a  ## behind\nmask c = a")
    docs = [declaration.doc for declaration in file.declarations if isinstance(declaration, ast.Definition)]
    assert (file.summary, docs) == ("the maths", ["one\ntwo", "", ""])


def test_future_constructs_are_read() -> None:
    file = _parse(
        """
        recurrence gla(g: real[B, H, N, D] in (-inf, 0]) {
          state S: real[D, Dv] = 0
          S = rows(exp(g)) * S + outer(k, v)
          o = (scale * q) @ S
        }
        select moba(block: int = 512, top: int = 3) {
          c    = mean[j in block](k)
          keep = top_k(dot(q, c), top) or own_block
        }
        attention based { a = linear(taylor2); b = softmax over window(64); out = a + b }
        """
    )
    kinds = [declaration.kind for declaration in file.declarations if isinstance(declaration, ast.Block)]
    assert kinds == ["recurrence", "select", "attention"]


def test_spans_cover_what_was_written() -> None:
    (declaration,) = _parse("mask window(size: int) = (0 <= i - j) and f[ i ]").declarations
    assert isinstance(declaration, ast.Definition)
    assert declaration.span.text == "mask window(size: int) = (0 <= i - j) and f[ i ]"
    assert [child.span.text for child in ast.children(declaration.body)] == ["(0 <= i - j)", "f[ i ]"]


@given(TEXTS)
def test_the_text_of_an_expression_parses_back_to_it(text: str) -> None:
    for declaration in _parse(text).declarations:
        for expr in ast.expressions(declaration):
            if "\n" not in expr.span.text:
                assert _body(expr.span.text) == expr


def test_every_statement_with_an_error_is_reported() -> None:
    text = "attention a {\n maks 1\n mask j <= i\n score 1 = 2\n bias 3 3\n}\nmask b = = 3\nmask c = i\nmask d 3"
    assert _columns(text) == [2, 4, 5, 7, 9]


def test_a_wrong_bracket_does_not_spread() -> None:
    text = "attention a {\n mask (i < j\n score 1\n}\nmask b = = 3"
    assert _columns(text) == [2, 5]

"""Inlining of values that are used once: the lines compute the same."""

from __future__ import annotations

import ast
import operator
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnc.codegen.tidy import WIDTH, inline_single_uses, is_atom

OPERATORS: dict[type[ast.AST], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.BitAnd: operator.and_,
    ast.FloorDiv: lambda a, b: a // b if b else 0,
}


def run(lines: list[str]) -> dict[str, int]:
    """The values of straight-line code over whole numbers: names, operators, max and calls of method f."""
    names: dict[str, int] = {"a": 5, "b": -3, "c": 11}

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant():
                return int(node.value)  # type: ignore[arg-type]
            case ast.Name():
                return names[node.id]
            case ast.UnaryOp():
                return -value(node.operand)
            case ast.BinOp():
                return int(OPERATORS[type(node.op)](value(node.left), value(node.right)))
            case ast.Call(func=ast.Attribute(value=inner)):
                return value(inner) * 1000 + 1
            case ast.Call():
                return max(value(arg) for arg in node.args)
            case _:
                raise AssertionError(ast.dump(node))

    for statement in ast.parse("\n".join(lines)).body:
        assert isinstance(statement, ast.Assign)
        assert isinstance(statement.targets[0], ast.Name)
        names[statement.targets[0].id] = value(statement.value)
    return names


FORMS = ["{} + {}", "{} - {}", "{} * {}", "-{} + {}", "max({}, {})", "max(-{}, {})", "({}).f() & {}", "{} // ({} + 7)",
         "max({}, 1).f() - {}"]  # fmt: skip


def operands(names: list[str]) -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(names), st.integers(0, 9).map(str))


@st.composite
def programs(draw: st.DrawFn) -> list[str]:
    """Lines v0 = ..., v1 = ..., and `out`, which reads some of them."""
    names, lines = ["a", "b", "c"], list[str]()
    for n in range(draw(st.integers(1, 6))):
        x, y = draw(operands(names)), draw(operands(names))
        form = draw(st.sampled_from(FORMS))
        lines.append(f"v{n} = {form.format(x, y)}")
        names.append(f"v{n}")
    last = draw(st.sampled_from(["{} - {}", "{} * {}", "max({}, {})", "({} - 1) * {}", "{}.f() - {}"]))
    return [*lines, f"out = {last.format(draw(operands(names[3:])), draw(operands(names)))}".replace("1.f", "(1).f")]


@settings(max_examples=5 * settings().max_examples)
@given(lines=programs())
def test_inlining_keeps_the_values(lines: list[str]) -> None:
    lines = [line if "f()" not in line else _bracketed(line) for line in lines]
    tidied = inline_single_uses(lines)
    assert run(tidied)["out"] == run(lines)["out"]
    assert len(tidied) <= len(lines)
    assert all(len(line) <= max(WIDTH, *map(len, lines)) for line in tidied)


def _bracketed(line: str) -> str:
    """Digits before `.f` in brackets: `3.f()` is no Python."""
    return re.sub(r"\b(\d+)\.f", r"(\1).f", line)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["v0 = a + b", "out = v0 * c"], ["out = (a + b) * c"]),
        (["v0 = a + b", "out = max(v0, c)"], ["out = max(a + b, c)"]),
        (["v0 = a + b", "out = v0.to(x)"], ["out = (a + b).to(x)"]),
        (["v0 = f(a)", "out = v0 * c"], ["out = f(a) * c"]),
        (["v0 = -a", "out = c - v0"], ["out = c - (-a)"]),
        (["v0 = a + b", "out = v0 * v0"], ["v0 = a + b", "out = v0 * v0"]),
        (["v0 = a + b", "for x in y:", "    out = v0"], ["v0 = a + b", "for x in y:", "    out = v0"]),
        (["v0 = a + b", "v1 = v0 * 2", "out = v1 - 1"], ["out = ((a + b) * 2) - 1"]),
        (["v0 = a", "v10 = b", "out = v10 + c"], ["v0 = a", "out = b + c"]),
        (["v0 = a + b", "# v0 of the spec", "out = v0"], ["# v0 of the spec", "out = a + b"]),
        (["v0 = " + "a" * 90, "out = v0 + " + "b" * 30], ["v0 = " + "a" * 90, "out = v0 + " + "b" * 30]),
    ],
)
def test_what_moves_where(lines: list[str], expected: list[str]) -> None:
    assert inline_single_uses(lines) == expected


def test_what_the_rest_of_the_kernel_reads_stays() -> None:
    lines = ["v0 = a + b", "out = v0"]
    assert inline_single_uses(lines, "x = v0") == lines


@pytest.mark.parametrize(
    ("text", "atom"),
    [
        ("a", True),
        ("f(a, b)", True),
        ("a[b + c]", True),
        ("a + b", False),
        ("-a", False),
        ("f(a) * b", False),
        ("1.5", True),
    ],
)
def test_atoms(text: str, atom: bool) -> None:
    assert is_atom(text) == atom

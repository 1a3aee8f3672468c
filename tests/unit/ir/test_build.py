"""Constructors of expressions simplify, and mean what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnc.ir import build
from attnc.ir.expr import FALSE, TRUE, Call, Const, Expr, Index, Ref, Size, int_const, real_const
from attnc.ir.printer import print_expr
from attnc.ir.types import BOOL, INT, REAL, VectorType
from tests.unit.ir.numeric import ints, reals, value

X, Y = Ref("x", REAL), Ref("y", REAL)
ROW, N = Index("i"), Size("N")
real_operands = reals(st.sampled_from((X, Y)), 2, ("neg",), ("add", "sub", "mul"))
int_operands = ints(st.sampled_from((ROW, N)), 1)
numbers = st.fixed_dictionaries({leaf: st.floats(-5, 5).map(mpmath.mpf) for leaf in (X, Y)})
positions = st.fixed_dictionaries({leaf: st.integers(-9, 9) for leaf in (ROW, N)})

BINARY: dict[str, tuple[Callable[[Expr, Expr], Expr], Callable[[Any, Any], Any]]] = {
    "add": (build.add, lambda a, b: a + b),
    "sub": (build.sub, lambda a, b: a - b),
    "mul": (build.mul, lambda a, b: a * b),
}


@pytest.mark.parametrize("name", BINARY)
@given(a=real_operands, b=real_operands, leaves=numbers)
def test_sums_and_products_of_reals(name: str, a: Expr, b: Expr, leaves: dict[Expr, Any]) -> None:
    make, exact = BINARY[name]
    found = make(a, b)
    assert found.type == REAL
    wanted = exact(value(a, leaves), value(b, leaves))
    assert abs(value(found, leaves) - wanted) <= 1e-9 * (1 + abs(wanted))


@pytest.mark.parametrize("name", BINARY)
@given(a=int_operands, b=int_operands, leaves=positions)
def test_sums_and_products_of_ints(name: str, a: Expr, b: Expr, leaves: dict[Expr, Any]) -> None:
    make, exact = BINARY[name]
    found = make(a, b)
    assert found.type == INT
    assert value(found, leaves) == exact(value(a, leaves), value(b, leaves))


@given(a=real_operands, leaves=numbers)
def test_negation(a: Expr, leaves: dict[Expr, Any]) -> None:
    assert value(build.neg(a), leaves) == -value(a, leaves)


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (build.add(X, real_const(0.0)), "x"),
        (build.add(real_const(0.0), X), "x"),
        (build.sub(X, real_const(0.0)), "x"),
        (build.sub(real_const(0.0), X), "-x"),
        (build.mul(X, real_const(1.0)), "x"),
        (build.div(X, real_const(1.0)), "x"),
        (build.add(X, build.neg(Y)), "x - y"),
        (build.sub(X, build.neg(Y)), "x + y"),
        (build.neg(build.neg(X)), "x"),
        (build.neg(build.sub(X, Y)), "y - x"),
        (build.add(int_const(2), int_const(3)), "5"),
        (build.mul(int_const(2), int_const(3)), "6"),
        (build.conj(TRUE, FALSE), "false"),
        (build.conj(FALSE, FALSE), "false"),
        (build.where(TRUE, X, Y), "where(true, x, y)"),
    ],
)
def test_what_changes_nothing_is_left_out(expr: Expr, text: str) -> None:
    assert print_expr(expr) == text


def test_a_condition_is_not_the_number_it_resembles() -> None:
    assert not build.is_const(TRUE, 1)
    assert not build.is_const(FALSE, 0)
    assert build.is_const(real_const(1.0), 1)


def test_types_are_joined() -> None:
    vector = Ref("o", VectorType(int_const(8)))
    assert build.call("mul", vector, X).type == vector.type
    assert build.call("add", ROW, N).type == INT
    assert build.call("add", ROW, X).type == REAL
    assert build.div(vector, X).type == vector.type
    assert build.compare("lt", ROW, N).type == BOOL
    assert build.div(ROW, N).type == REAL


@given(a=real_operands, b=real_operands)
def test_the_span_is_that_of_an_operand(a: Expr, b: Expr) -> None:
    found = build.add(a, b)
    assert isinstance(found, Const | Call | Ref)
    assert found.span is a.span or found.span is b.span

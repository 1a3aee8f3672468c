"""Folding: what is known is computed, exactly, and nothing else changes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnc.diagnostics import SpecError
from attnc.ir.arithmetic import condition, int_value
from attnc.ir.expr import FALSE, TRUE, Call, Const, Exists, Expr, Index, Param, Value, Var, int_const, real_const
from attnc.ir.fold import fold
from attnc.ir.printer import print_expr
from attnc.ir.types import BOOL, INT, REAL, ScalarType

ROW, X, C = Index("i"), Value("scale", REAL), Param("c", BOOL)


def _ints(fn: str, *args: Expr | int) -> Call:
    return Call(fn, tuple(int_const(arg) if isinstance(arg, int) else arg for arg in args), INT)


def _reals(fn: str, *args: Expr | float) -> Call:
    return Call(fn, tuple(real_const(arg) if isinstance(arg, int | float) else arg for arg in args), REAL)


def _bools(fn: str, *args: Expr) -> Call:
    return Call(fn, args, BOOL)


@pytest.mark.parametrize(
    ("expr", "result"),
    [
        (_ints("floordiv", -7, 2), -4),
        (_ints("mod", -7, 3), 2),
        (_ints("pow", 2, 62), 1 << 62),
        (_ints("pow", -1, 10**12), 1),
        (_ints("pow", 0, 0), 1),
        (_ints("bit_length", -8), 4),
        (_ints("bitand", 12, 10), 8),
        (_ints("sub", 0, 1 << 62), -(1 << 62)),
        (Call("int", (real_const(-2.5),), INT), -3),
        (_ints("where", TRUE, 3, _ints("floordiv", 1, 0)), 3),
        (_reals("div", 1, 4), 0.25),
        (_reals("pow", 4, 0.5), 2.0),
        (Call("real", (int_const(3),), REAL), 3.0),
        (_bools("lt", int_const(1), int_const(2)), True),
        (_bools("eq", real_const(1), real_const(2)), False),
        (_bools("not", TRUE), False),
        (_bools("and", FALSE, _bools("lt", _ints("mod", 1, 0), ROW)), False),
        (_bools("or", C, TRUE), True),
        (Exists("d", int_const(3), int_const(3), C), False),
        (Exists("d", int_const(0), int_const(3), FALSE), False),
    ],
)
def test_known_values(expr: Expr, result: bool | int | float) -> None:
    folded = fold(expr)
    assert isinstance(folded, Const)
    assert folded.value == result
    assert type(folded.value) is type(result)
    assert folded.type == expr.type


@pytest.mark.parametrize(
    ("expr", "result"),
    [
        (_ints("add", ROW, 0), ROW),
        (_ints("add", 0, ROW), ROW),
        (_ints("sub", ROW, 0), ROW),
        (_ints("mul", ROW, 1), ROW),
        (_ints("mul", 1, ROW), ROW),
        (_ints("mul", 0, ROW), int_const(0)),
        (_ints("mod", ROW, 1), int_const(0)),
        (_ints("floordiv", ROW, 1), ROW),
        (_reals("mul", X, 1), X),
        (_reals("mul", 1, X), X),
        (_reals("div", X, 1), X),
        (_bools("and", TRUE, C), C),
        (_bools("and", C, TRUE), C),
        (_bools("or", FALSE, C), C),
        (_bools("not", _bools("not", C)), C),
        (_reals("neg", _reals("neg", X)), X),
        (Call("where", (C, X, X), REAL), X),
        (Call("where", (FALSE, ROW, X), REAL), X),
    ],
)
def test_identities(expr: Expr, result: Expr) -> None:
    assert fold(expr) == result


@pytest.mark.parametrize(
    "expr",
    [
        _reals("mul", X, 0),  # X may be infinite
        _reals("add", X, 0),  # -0 + 0 is not -0
        _reals("log", 0),
        _reals("div", 1, 0),
        _reals("exp", 1000),
        _ints("add", ROW, 1),
        Exists("d", int_const(0), int_const(3), _bools("eq", ROW, Var("d"))),
    ],
)
def test_what_is_not_known_stays(expr: Expr) -> None:
    assert fold(expr) is expr


@pytest.mark.parametrize(
    ("expr", "title"),
    [
        (_ints("floordiv", ROW, 0), "division by zero"),
        (_ints("mod", 5, 0), "division by zero"),
        (_ints("pow", 2, -1), "negative power"),
        (_ints("pow", 10, 10**9), "beyond 64 bits"),
        (_ints("mul", 1 << 62, 2), "beyond 64 bits"),
        (_ints("add", 1 << 62, 1 << 62), "beyond 64 bits"),
        (Call("int", (real_const(1e30),), INT), "beyond 64 bits"),
        (_ints("add", ROW, _ints("neg", _ints("sub", -(1 << 62), 1 << 62))), "beyond 64 bits"),
    ],
)
def test_computations_without_a_result(expr: Expr, title: str) -> None:
    with pytest.raises(SpecError, match=title):
        fold(expr)


def test_shared_nodes_are_folded_once() -> None:
    expr: Expr = _ints("add", ROW, _ints("add", 1, 2))
    for _ in range(100):
        expr = _ints("add", expr, expr)
    start = time.process_time()
    folded = fold(expr)
    assert time.process_time() - start < 5  # seconds; unshared it would be 2^100 nodes
    assert isinstance(folded, Call)
    assert folded.args[0] is folded.args[1]


def _trees(kind: ScalarType) -> st.SearchStrategy[Expr]:
    """Expressions of one kind over small literals, i and c."""
    ints = st.integers(-4, 4).map(int_const)
    leaves = st.one_of(ints, st.just(ROW)) if kind == INT else st.sampled_from((TRUE, FALSE, C))

    def grow(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        if kind == INT:
            names = st.sampled_from(("add", "sub", "mul", "min", "max", "floordiv", "mod", "bitand"))
            return st.tuples(names, inner, inner).map(lambda t: _ints(t[0], t[1], t[2]))
        compared = st.tuples(st.sampled_from(("lt", "le", "eq")), _trees(INT), _trees(INT))
        return st.one_of(
            st.tuples(st.sampled_from(("and", "or")), inner, inner).map(lambda t: _bools(*t)),
            inner.map(lambda x: _bools("not", x)),
            compared.map(lambda t: _bools(*t)),
        )

    return st.recursive(leaves, grow, max_leaves=8)


def _value(expr: Expr, i: int, c: bool) -> int:
    """Plain evaluation; both sides of every operator."""
    match expr:
        case Const(value=value):
            return int(value)
        case Index():
            return i
        case Param():
            return c
        case Call(fn=fn, args=args):
            values = [_value(arg, i, c) for arg in args]
            found = condition(fn, values) if expr.type == BOOL else int_value(fn, values)
            assert found is not None
            return int(found)
        case _:
            raise AssertionError(print_expr(expr))


@given(_trees(BOOL), st.integers(-3, 3), st.booleans())
def test_folding_keeps_the_meaning(expr: Expr, i: int, c: bool) -> None:
    try:
        folded = fold(expr)
        expected = _value(expr, i, c)
    except (SpecError, ZeroDivisionError):
        return  # a division by zero that one of the two met
    assert _value(folded, i, c) == expected
    assert fold(folded) == folded

"""products: terms, factors, and the factor by which an expression changes when statistics move."""

from __future__ import annotations

from typing import Any

import mpmath
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attnc.ir.dependence import varies
from attnc.ir.expr import Expr, Index, Ref, Value, real_const
from attnc.ir.printer import print_expr
from attnc.ir.types import REAL
from attnc.passes.products import difference, factors, ratio, refs, sum_of, terms
from tests.unit.ir.numeric import call, reals, value

S, SINK = Value("s", REAL), Value("scale", REAL)
M, Z = Ref("m", REAL), Ref("z", REAL)
OLD: dict[Expr, Expr] = {M: Ref("m.old", REAL)}
LEAVES = (S, SINK, M, Z)
expressions = reals(
    st.sampled_from(LEAVES), 3, ("neg", "exp", "sqrt", "abs", "exp2"), ("add", "sub", "mul", "div", "max", "pow")
)
numbers = st.fixed_dictionaries({leaf: st.floats(0.1, 3).map(mpmath.mpf) for leaf in (*LEAVES, *OLD.values())})


def is_row(expr: Expr) -> bool:
    return not varies(expr, "j")


def close(a: Any, b: Any) -> bool:
    return bool(abs(a - b) <= mpmath.mpf("1e-10") * (1 + abs(a)))


def usable(number: Any) -> bool:
    return bool(mpmath.isfinite(number) and abs(number) < 1e30)


@given(expr=expressions, leaves=numbers)
def test_terms_add_up_to_the_expression(expr: Expr, leaves: dict[Expr, Any]) -> None:
    whole = value(expr, leaves)
    assume(usable(whole))
    assert close(value(sum_of(terms(expr)), leaves), whole)


@given(expr=expressions, leaves=numbers)
def test_factors_multiply_to_the_expression(expr: Expr, leaves: dict[Expr, Any]) -> None:
    whole = value(expr, leaves)
    assume(usable(whole))
    assert close(value(factors(expr).build(), leaves), whole)


def moved(expr: Expr, leaves: dict[Expr, Any]) -> tuple[Any, Any]:
    """The value with the old and with the new statistics."""
    return value(expr, {**leaves, **{new: leaves[old] for new, old in OLD.items()}}), value(expr, leaves)


@settings(max_examples=10 * settings().max_examples)
@given(expr=expressions, leaves=numbers)
def test_the_ratio_turns_the_old_value_into_the_new_one(expr: Expr, leaves: dict[Expr, Any]) -> None:
    factor = ratio(expr, frozenset(("m",)), OLD, is_row)
    assume(factor is not None)
    assert is_row(factor)
    old, new = moved(expr, leaves)
    change = value(factor, leaves)
    assume(usable(old) and usable(new) and usable(change) and old != 0)
    assert close(old * change, new), print_expr(factor)


@settings(max_examples=10 * settings().max_examples)
@given(expr=expressions, leaves=numbers)
def test_the_difference_turns_the_old_value_into_the_new_one(expr: Expr, leaves: dict[Expr, Any]) -> None:
    change = difference(expr, frozenset(("m",)), OLD, is_row)
    assume(change is not None)
    assert is_row(change)
    old, new = moved(expr, leaves)
    assume(usable(old) and usable(new) and usable(value(change, leaves)))
    assert close(old + value(change, leaves), new)


ONE = real_const(1.0)


@pytest.mark.parametrize(
    ("expr", "factor"),
    [
        (call("exp", call("sub", S, M)), "exp(m.old - m)"),
        (call("exp", call("sub", S, call("max", M, SINK))), "exp(max(m.old, scale) - max(m, scale))"),
        (call("pow", call("div", S, M), real_const(15.0)), "(1.0 / (m / m.old)) ^ 15.0"),
        (call("mul", call("exp", call("sub", S, M)), S), "exp(m.old - m)"),
        (call("exp", call("mul", call("sub", S, M), SINK)), "exp((m.old - m) * scale)"),
        (S, "1.0"),
        (call("exp", call("sub", S, Z)), "1.0"),
        (call("add", ONE, call("exp", call("sub", S, M))), None),
        (call("tanh", call("sub", S, M)), None),
        (call("exp", call("mul", S, M)), None),
        (call("max", S, M), None),
    ],
)
def test_which_expressions_can_be_corrected(expr: Expr, factor: str | None) -> None:
    found = ratio(expr, frozenset(("m",)), OLD, is_row)
    assert (None if found is None else print_expr(found)) == factor


def test_terms_and_factors_keep_signs() -> None:
    i = call("real", Index("i"))
    assert terms(call("sub", S, call("sub", M, call("neg", Z)))) == ((1, S), (-1, M), (-1, Z))
    product = factors(call("div", call("neg", call("mul", S, i)), call("mul", M, Z)))
    assert (product.sign, product.over, product.under) == (-1, (S, i), (M, Z))
    assert refs(call("mul", M, call("add", Z, S))) == {"m", "z"}

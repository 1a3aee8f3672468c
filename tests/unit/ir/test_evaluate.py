"""evaluate_exact: exact values of int and bool expressions, or the leaf that is not known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnc.ir.evaluate import UnknownValueError, evaluate_exact
from attnc.ir.expr import Call, Expr, Index, Lookup, Param, Ref, Size, Value, int_const, real_const
from attnc.ir.types import BOOL, INT, REAL
from tests.unit.ir.numeric import conditions, ints, value

LEAVES = (Index("i"), Size("N"), Param("w", INT), Value("q_offset", INT), Ref("i0", INT))
expressions = ints(st.sampled_from(LEAVES), 3)
numbers = st.lists(st.integers(-(10**12), 10**12), min_size=len(LEAVES), max_size=len(LEAVES))


@settings(max_examples=5 * settings().max_examples)
@given(expr=st.one_of(expressions, conditions(expressions)), values=numbers)
def test_values_are_exact(expr: Expr, values: list[int]) -> None:
    names = {leaf.name: number for leaf, number in zip(LEAVES, values)}
    assert evaluate_exact(expr, names) == value(expr, dict(zip(LEAVES, values)))


@pytest.mark.parametrize("leaf", [Index("j"), Size("M"), Param("p", INT), Lookup("seg", (Index("b"),), INT)])
def test_an_unknown_leaf_is_named(leaf: Expr) -> None:
    with pytest.raises(UnknownValueError) as found:
        evaluate_exact(Call("add", (int_const(1), leaf), INT), {"i": 1, "b": 0})
    assert found.value.expr == leaf


def test_reals_are_unknown() -> None:
    with pytest.raises(UnknownValueError):
        evaluate_exact(Call("int", (real_const(1.5),), INT), {})
    with pytest.raises(UnknownValueError):
        evaluate_exact(Value("scale", REAL), {})


def test_the_branch_not_taken_is_not_computed() -> None:
    cond: Any = Call("lt", (Index("i"), int_const(0)), BOOL)
    safe = Call("where", (cond, Call("floordiv", (int_const(1), int_const(0)), INT), int_const(7)), INT)
    assert evaluate_exact(safe, {"i": 3}) == 7

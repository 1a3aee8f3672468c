"""limits: every answer but "any" is true of the numbers."""

from __future__ import annotations

from typing import Any

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnc.ir.expr import Call, Const, Expr, Ref, real_const
from attnc.ir.types import BOOL, REAL
from attnc.passes.limits import Limit, limit
from tests.unit.ir.numeric import NAN, call, reals, value

LEAVES = tuple(Ref(name, REAL) for name in "xyz")
#: Some values of every class.
VALUES: dict[Limit, tuple[Any, ...]] = {
    "0": (0,),
    "+": (mpmath.mpf("1e-9"), 0.5, 1, 7),
    "-": (mpmath.mpf("-1e-9"), -0.5, -1, -7),
    "fin": (-3, 0, 0.25, 20),
    "+inf": (mpmath.inf,),
    "-inf": (-mpmath.inf,),
    "any": (-mpmath.inf, -1, 0, 1, mpmath.inf, NAN),
}
HOLDS = {
    "0": lambda v: v == 0,
    "+": lambda v: 0 < v < mpmath.inf,
    "-": lambda v: -mpmath.inf < v < 0,
    "fin": mpmath.isfinite,
    "+inf": lambda v: v == mpmath.inf,
    "-inf": lambda v: v == -mpmath.inf,
    "any": lambda _v: True,
}
UNARY = ("exp", "exp2", "log", "log2", "sigmoid", "softplus", "relu", "elu", "tanh", "abs", "sqrt", "sin", "cos", "neg")
BINARY = ("add", "sub", "mul", "div", "max", "min", "pow")

classes = st.fixed_dictionaries({leaf: st.sampled_from(sorted(VALUES)) for leaf in LEAVES})
expressions = reals(st.sampled_from(LEAVES), 3, UNARY, BINARY)


def numbers(at: dict[Expr, Limit]) -> st.SearchStrategy[dict[Expr, Any]]:
    return st.fixed_dictionaries({leaf: st.sampled_from(VALUES[kind]).map(mpmath.mpf) for leaf, kind in at.items()})


@settings(max_examples=10 * settings().max_examples)
@given(expr=expressions, call_=classes.flatmap(lambda at: st.tuples(st.just(at), numbers(at))))
def test_an_answer_is_true_of_numbers(expr: Expr, call_: tuple[dict[Expr, Limit], dict[Expr, Any]]) -> None:
    at, leaves = call_
    found = limit(expr, at)
    result = value(expr, leaves)
    assert HOLDS[found](result), f"limit says {found}, the value is {result}"


@pytest.mark.parametrize("fn", UNARY)
@pytest.mark.parametrize("kind", sorted(VALUES))
def test_every_row_of_the_table(fn: str, kind: Limit) -> None:
    x = LEAVES[0]
    found = limit(call(fn, x), {x: kind})
    assert all(HOLDS[found](value(call(fn, x), {x: mpmath.mpf(v)})) for v in VALUES[kind])


X, M = Ref("x", REAL), Ref("m", REAL)


@pytest.mark.parametrize(
    ("expr", "at", "expected"),
    [
        (call("exp", call("sub", X, M)), {X: "-inf"}, "0"),
        (call("sigmoid", call("sub", X, M)), {X: "-inf"}, "0"),
        (call("mul", call("exp", X), M), {X: "-inf"}, "0"),
        (call("softplus", X), {X: "-inf"}, "0"),
        (call("pow", call("relu", X), real_const(15.0)), {X: "-inf"}, "0"),
        (call("pow", call("div", X, M), real_const(2.0)), {}, "any"),
        (call("div", call("exp", X), call("add", real_const(1.0), call("exp", M))), {X: "-inf"}, "0"),
        (call("exp", call("sub", call("max", X, M), M)), {X: "-inf"}, "+"),
        (X, {X: "-inf"}, "-inf"),
        (Call("where", (Const(True, BOOL), X, X), REAL), {X: "0"}, "0"),
        (Call("where", (Const(True, BOOL), X, M), REAL), {X: "0"}, "any"),
        (real_const(float("nan")), {}, "any"),
    ],
)
def test_what_the_passes_rely_on_is_known(expr: Expr, at: dict[Expr, Limit], expected: Limit) -> None:
    assert limit(expr, at) == expected

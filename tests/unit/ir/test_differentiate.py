"""differentiate: every rule against torch's own differentiation, branches that are not taken, terms without one."""

from __future__ import annotations

import math

import pytest
import torch

from attnc.eager import Env, evaluate
from attnc.ir.build import add, call, compare, div, mul, where
from attnc.ir.builtins import BUILTINS
from attnc.ir.differentiate import NotDifferentiableError, adjoints
from attnc.ir.expr import Call, Expr, Ref, Value, int_const, real_const
from attnc.ir.types import INT, REAL, VectorType

X, Y = Ref("x", REAL), Ref("y", REAL)
ONE = real_const(1.0)
REALS = sorted(name for name, row in BUILTINS.items() if row.rule in ("same", "real") and row.arity <= 2)
#: Functions of ints.
_OF_INTS = {"real"}


def derivative(expr: Expr, x: float, y: float) -> dict[str, float]:
    """By name of the leaf."""
    found = adjoints(expr, ONE, lambda node: isinstance(node, Ref))
    refs = {name: torch.tensor(at, dtype=torch.float64) for name, at in (("x", x), ("y", y))}
    env = Env(refs=refs)
    return {leaf.name: float(evaluate(value, env)) for leaf, value in found.items() if isinstance(leaf, Ref)}


def torch_derivative(expr: Expr, x: float, y: float) -> dict[str, float]:
    refs = {name: torch.tensor(at, dtype=torch.float64, requires_grad=True) for name, at in (("x", x), ("y", y))}
    result = evaluate(expr, Env(refs=refs))
    if not result.requires_grad:
        return {}
    grads = torch.autograd.grad(result, list(refs.values()), allow_unused=True)
    return {name: float(grad) for name, grad in zip(refs, grads, strict=True) if grad is not None}


@pytest.mark.parametrize("fn", [name for name in REALS if name not in _OF_INTS])
@pytest.mark.parametrize("point", [(0.7, 1.3), (1.9, 0.4), (2.0, 2.0)], ids=str)
def test_rules_agree_with_torch(fn: str, point: tuple[float, float]) -> None:
    expr = call(fn, *(X, Y)[: BUILTINS[fn].arity], type=REAL)
    found, expected = derivative(expr, *point), torch_derivative(expr, *point)
    for name in found | expected:
        assert found.get(name, 0.0) == pytest.approx(expected.get(name, 0.0), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("exponent", [1, 2, 3, 15])
def test_powers(exponent: int) -> None:
    expr = call("pow", X, int_const(exponent), type=REAL)
    assert derivative(expr, 1.25, 0.0)["x"] == pytest.approx(exponent * 1.25 ** (exponent - 1))
    assert derivative(call("pow", X, Y, type=REAL), 1.5, 2.5)["y"] == pytest.approx(1.5**2.5 * math.log(1.5))


def test_a_value_that_is_read_twice_collects_both() -> None:
    twice = call("exp", X)
    expr = add(mul(twice, Y), div(Y, twice))
    assert derivative(expr, 0.3, 2.0) == pytest.approx(torch_derivative(expr, 0.3, 2.0))


def test_a_branch_that_is_not_taken_passes_nothing_back() -> None:
    """log has an infinite derivative at 0, where the other branch is taken."""
    expr = where(compare("gt", X, real_const(0.0)), call("log", X), mul(X, Y))
    assert derivative(expr, 0.0, 3.0) == {"x": 3.0, "y": 0.0}
    assert derivative(expr, 2.0, 3.0) == {"x": 0.5, "y": 0.0}


def test_ints_and_conditions_stop_it() -> None:
    expr = mul(X, call("real", call("int", Y, type=INT), type=REAL))
    assert set(derivative(expr, 1.0, 2.5)) == {"x"}


def test_vectors_are_refused_with_the_term() -> None:
    vector = Value("q", VectorType(int_const(4)))
    term = Call("dot", (call("mul", vector, X), vector), REAL)
    with pytest.raises(NotDifferentiableError) as caught:
        adjoints(mul(X, term), ONE, lambda node: isinstance(node, Ref))
    assert caught.value.term == term

"""exp2: powers of two in place of powers of e mean the same numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mpmath
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attnc.ir.expr import Call, Expr, Ref, Size, Value, real_const
from attnc.ir.plan import Sweep
from attnc.ir.printer import print_expr
from attnc.ir.traverse import walk
from attnc.ir.types import REAL, VectorType
from attnc.passes.exp2 import LN2, LOG2E, exponents_to_base_2, fold_exp2, scale_by
from attnc.passes.normalizer_passes import LOGIT, Cascade, lower_cascade
from attnc.passes.positions import Positions
from tests.oracles.modules import module_of
from tests.unit.ir.numeric import call, reals, value

LEAVES = (Ref("x", REAL), Ref("y", REAL), Value("scale", REAL))
UNARY = ("exp", "exp2", "neg", "tanh", "relu", "abs")
BINARY = ("add", "sub", "mul", "div", "max")
expressions = reals(st.sampled_from(LEAVES), 3, UNARY, BINARY)
numbers = st.fixed_dictionaries({leaf: st.floats(-3, 3).map(mpmath.mpf) for leaf in LEAVES})


def same(a: Any, b: Any) -> bool:
    """Equal up to the rounding of the factor in double precision; also when neither is a number."""
    if mpmath.isnan(a) or mpmath.isinf(a):
        return bool(mpmath.isnan(a) == mpmath.isnan(b))
    return abs(a - b) <= 1e-9 * (1 + abs(a))


@given(expr=expressions, leaves=numbers, factor=st.sampled_from([LOG2E, LN2, 1.0, -2.0]))
def test_scale_by_multiplies(expr: Expr, leaves: dict[Expr, Any], factor: float) -> None:
    before = value(expr, leaves)
    assume(abs(before) < 1e6 or not mpmath.isfinite(before))
    assert same(value(scale_by(factor, expr), leaves), factor * before)


def test_scale_by_moves_the_factor_to_what_changes_least() -> None:
    dot = call("dot", Value("q", VectorType(Size("D"))), Value("k", VectorType(Size("D"))))
    scaled = scale_by(2.0, call("mul", dot, Value("scale", REAL)))
    assert print_expr(scaled) == "dot(q, k) * (2.0 * scale)"
    assert print_expr(scale_by(2.0, call("mul", real_const(3.0), dot))) == "6.0 * dot(q, k)"


@given(expr=expressions, leaves=numbers)
def test_exponents_in_base_2_have_the_same_value(expr: Expr, leaves: dict[Expr, Any]) -> None:
    before, changed = value(expr, leaves), exponents_to_base_2(expr)
    assume(abs(before) < 1e6 or not mpmath.isfinite(before))
    assert not any(isinstance(node, Call) and node.fn == "exp" for node in walk(changed))
    assert same(value(changed, leaves), before)


# -- whole cascades --------------------------------------------------------------------------------------------------

CASCADES = {
    "softmax": "m = max[j](s); p = exp(s - m); w = p / sum[j](p); aux lse = m + log(sum[j](p))",
    "direct": "w = exp(s) / sum[j](exp(s))",
    "sink": "m = max(max[j](s), 0.5); p = exp(s - m); z = sum[j](p) + exp(0.5 - m); w = p / z; aux lse = m + log(z)",
    "halved": "m = max[j](s / 2); w = exp(s / 2 - m) / sum[j](exp(s / 2 - m))",
    "tempered": "m = max[j](s); p = exp((s - m) / 3); w = p / sum[j](p); aux m = m",
    "two": "m = max[j](s); w = exp2(s - m) / sum[j](exp2(s - m)); aux m = m",
    "mixed": "m = max[j](s); w = exp2(s - m) / sum[j](exp(s - m))",
    "linear": "w = s / sum[j](abs(s)); aux t = sum[j](s); aux mu = mean[j](s); aux top = max[j](s)",
    "beside": "m = max[j](s); p = exp(s - m); w = p / sum[j](p) + s / 7; aux t = sum[j](s)",
    "smallest": "m = min[j](s); p = exp(m - s); w = p / sum[j](p); aux m = m",
    "sigmoid": "w = sigmoid(s - 1)",
    "softplus": "a = softplus(s); w = a / sum[j](a)",
    "product": "m = max[j](s); p = exp(s - m); w = p * s / sum[j](p)",
    "squared": "m = max[j](s); p = exp(s - m); n = p / sum[j](p); w = n ^ 2 / sum[j](n ^ 2)",
    "lse": "m = max[j](s); l = m + log(sum[j](exp(s - m))); w = exp(s - l); aux lse = l",
}
logits = st.lists(st.floats(-6, 6, width=32), min_size=1, max_size=5)


def lowered(cascade: str) -> Cascade:
    module = module_of(f"normalizer n {{ {cascade} }}\nattention a {{ normalizer n }}")
    return lower_cascade(module, Positions(module, 8, 1).lower(module.score), 1)


def finished(sweeps: Sequence[Sweep], scores: Sequence[Any], values: Sequence[Any]) -> dict[Expr, Any]:
    """Every accumulator over all keys, reading finished values; a value vector has one feature."""
    state: dict[Expr, Any] = {Size("M"): len(scores)}
    for acc in (acc for sweep in sweeps for acc in sweep.accumulators):
        parts = [value(acc.body, {**state, LOGIT: s}) for s in scores]
        if acc.weighted:
            parts = [part * v for part, v in zip(parts, values)]
        state[acc.ref] = sum(parts) if acc.op == "sum" else {"max": max, "min": min}[acc.op](parts)
    return state


@pytest.mark.parametrize("name", CASCADES)
@given(scores=logits)
def test_folding_keeps_the_meaning_of_cascades(name: str, scores: list[float]) -> None:
    cascade = lowered(CASCADES[name])
    folded = fold_exp2(cascade.sweeps, cascade.output, cascade.aux, cascade.empty)
    exact = [mpmath.mpf(s) for s in scores]
    unit = [s / mpmath.log(2) for s in exact] if folded.log2_score else exact
    values = [mpmath.mpf(n) - 1.5 for n in range(len(scores))]
    before, after = finished(cascade.sweeps, exact, values), finished(folded.sweeps, unit, values)
    assert same(value(folded.output, after), value(cascade.output, before))
    for ours, theirs in zip(folded.aux, cascade.aux, strict=True):
        assert same(value(ours.expr, after), value(theirs.expr, before)), ours.name


@pytest.mark.parametrize(("name", "is_folded"), [("softmax", True), ("sink", True), ("lse", True), ("tempered", True),
                                               ("linear", False), ("beside", False), ("product", False),
                                               ("sigmoid", False), ("softplus", False)])  # fmt: skip
def test_the_logit_is_in_units_of_log_2_where_that_is_free(name: str, is_folded: bool) -> None:
    cascade = lowered(CASCADES[name])
    assert fold_exp2(cascade.sweeps, cascade.output, cascade.aux, cascade.empty).log2_score == is_folded


def test_a_softmax_costs_one_power_of_two_per_pair_and_no_factor() -> None:
    cascade = lowered(CASCADES["softmax"])
    folded = fold_exp2(cascade.sweeps, cascade.output, cascade.aux, cascade.empty)
    bodies = {print_expr(acc.body) for acc in folded.sweeps[0].accumulators}
    assert bodies == {"s", "exp2(s - a0)"}
    assert {print_expr(acc.rescale) for acc in folded.sweeps[0].accumulators if acc.rescale} == {"exp2(a0.old - a0)"}
    assert repr(math.log(2)) in print_expr(folded.aux[0].expr)

"""adjoint, stabilisers, row-values, transpose, derive-backward: what the backward of a cascade is made of."""

from __future__ import annotations

import pytest

from attnc.ir.backward import BackwardPlan, Underivable
from attnc.ir.expr import Expr, Lookup
from attnc.ir.plan import KernelPlan, PlanOptions
from attnc.ir.printer import print_expr
from attnc.ir.traverse import walk
from attnc.passes.pipeline import make_backward, make_plan
from attnc.passes.transpose import transposed
from tests.oracles.modules import module_of, standard

OPTIONS = PlanOptions(16, 24, 4)
SOFTMAX = "m = max[j](s); p = exp(s - m); w = p / sum[j](p)"


def backward(cascade: str, fields: str = "", header: str = "") -> BackwardPlan | Underivable:
    """The backward of a normalizer."""
    module = module_of(f"normalizer n {{ {cascade} }}\nattention a({header}) {{ {fields}\n normalizer n }}")
    return make_backward(module, OPTIONS)


def derived(cascade: str, fields: str = "", header: str = "") -> BackwardPlan:
    found = backward(cascade, fields, header)
    assert isinstance(found, BackwardPlan), found
    return found


def bodies(plan: KernelPlan | None) -> list[str]:
    assert plan is not None
    return [print_expr(acc.body) for acc in plan.accumulators]


def row_values(plan: BackwardPlan) -> dict[str, str]:
    return {d.name: print_expr(d.expr) for d in plan.rows.derived}


def test_softmax_passes_back_the_difference_from_what_its_row_passes() -> None:
    plan = derived(SOFTMAX)
    weight = "exp2(s - r0[b, h, {0}]) * r1[b, h, {0}]"
    passed = weight + " * (dot1 + r2[b, h, {0}])"
    assert bodies(plan.query) == [passed.format("r")]
    assert bodies(plan.keys) == [weight.format("c"), passed.format("c")]
    rows = row_values(plan)
    assert "dot(d:out[b, h, r], out:[b, h, r])" in rows["r2"]
    assert set(plan.saved) == {"a0", "a1"}  # two numbers per row: the output is there anyway
    assert [(t.token, print_expr(t.factor)) for t in plan.tokens] == [("q", "scale"), ("v", "1.0"), ("k", "scale")]


def test_no_sweep_is_added_for_the_backward_where_the_forward_has_the_sum() -> None:
    plan = make_plan(standard("softmax"), PlanOptions(16, 24, 4, training=True))
    assert [len(sweep.accumulators) for sweep in plan.sweeps] == [3]


@pytest.mark.parametrize(
    "cascade",
    [
        SOFTMAX,
        "top = max[j](s); e = exp(s - top); z = sum[j](e); w = e / z",
        "m = max[j](2 * s); w = exp(2 * s - m) / sum[j](exp(2 * s - m))",
        "m = max[j](s); l = m + log(sum[j](exp(s - m))); w = exp(s - l)",
        "m = max(max[j](s), 0); p = exp(s - m); w = p / (sum[j](p) + exp(-m))",
        "m = max[j](relu(s)); y = (relu(s) / m) ^ 3; w = y / sum[j](y)",
    ],
)
def test_stabilisers_pass_nothing_back(cascade: str) -> None:
    assert isinstance(backward(cascade), BackwardPlan)


@pytest.mark.parametrize(
    "cascade", ["m = max[j](s); w = exp(s - m)", "m = max[j](s); p = exp(s - m); w = p / (sum[j](p) + 1)"]
)
def test_an_extremum_that_the_result_depends_on_is_no_stabiliser(cascade: str) -> None:
    found = backward(cascade)
    assert isinstance(found, Underivable)
    assert "maximum" in found.what
    assert print_expr(found.term) == "s"


def test_a_statistic_makes_an_extremum_matter() -> None:
    assert isinstance(backward(SOFTMAX + "; aux top = m", "aux top"), Underivable)
    assert isinstance(backward(SOFTMAX + "; aux lse = m + log(sum[j](p))", "aux lse"), BackwardPlan)


def test_second_outputs_replace_a_sweep() -> None:
    """y = softplus(s), w = (y / sum y) ^ 2 / ...: the forward accumulates what the rows of the backward need."""
    plan = derived("u = softplus(s); a = u / sum[j](u); y = a ^ 2; w = y / sum[j](y)")
    assert plan.query is not None
    assert len(plan.query.sweeps) == 1
    assert any(name.startswith("a") for name in plan.saved)


def test_gradients_of_look_ups_go_where_they_are_read() -> None:
    plan = derived(
        SOFTMAX,
        "score scale * dot(q, k) + x[h, i] + y[b, j] + t[h, i - j + M]",
        "x: real[H, N], y: real[B, M], t: real[H, 2 * M]",
    )
    assert {(found.target.tensor, found.source) for found in plan.lookups} == {("x", "query"), ("y", "keys")}
    assert plan.query is not None
    assert [print_expr(s.target) for s in plan.query.scatters] == ["t[h, i - j + M]"]


def test_rows_without_keys_have_row_values_of_zero() -> None:
    for text in row_values(derived(SOFTMAX)).values():
        assert text.startswith("where(saved:a0[b, h, r] == -inf, 0.0, ")


def test_the_mask_is_exchanged_not_searched() -> None:
    plan = make_backward(standard("causal"), OPTIONS)
    assert isinstance(plan, BackwardPlan)
    assert plan.query is not None
    assert plan.keys is not None
    assert print_expr(plan.query.mask) == "j <= i"
    assert print_expr(plan.keys.mask) == "i <= j"
    assert [visit.kind for part in plan.keys.parts for visit in part.visits] == ["full", "partial"]


def test_exchanging_twice_changes_nothing() -> None:
    mask = standard("sliding_window", size=8).mask
    assert transposed(transposed(mask)) == mask


def test_output_maps_get_the_row_before_them() -> None:
    plan = derived(SOFTMAX, "out = normalize(o)")
    assert plan.core is not None
    assert "a2" in plan.saved  # the weighted sum, as the output cannot tell it


def test_all_that_reads_a_pair_is_stored_or_of_the_pair() -> None:
    """Nothing in a sweep of the backward reads an accumulator: those are finished, and stored."""
    for name in ("softmax", "softmax_sink", "sigmoid", "softplus_l1", "alibi"):
        plan = make_backward(standard(name), OPTIONS)
        assert isinstance(plan, BackwardPlan)
        for part in (plan.query, plan.keys):
            assert part is not None
            names = {tensor.name for tensor in part.module.tensors}
            assert all(lookup.tensor in names for acc in part.accumulators for lookup in _lookups(acc.body))


def _lookups(expr: Expr) -> list[Lookup]:
    return [node for node in walk(expr) if isinstance(node, Lookup)]

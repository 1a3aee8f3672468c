"""normalizer-passes: how many sweeps a cascade needs, what is accumulated, and by which factor it is corrected."""

from __future__ import annotations

from typing import Any

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnc.diagnostics import SpecError
from attnc.ir.expr import Expr, Index, Ref, Size
from attnc.ir.plan import Accumulator, Sweep
from attnc.ir.printer import print_expr
from attnc.ir.types import REAL
from attnc.passes.normalizer_passes import LOGIT, Cascade, lower_cascade
from attnc.passes.positions import Positions
from tests.oracles.modules import module_of
from tests.unit.ir.numeric import value


def lowered(cascade: str, fields: str = "", header: str = "", *, sink: bool = False) -> Cascade:
    """The cascade of a normalizer, with 8 features."""
    use = "normalizer n(sink)" if sink else "normalizer n"
    params = "(sink: real[H])" if sink else ""
    header = "sink: real[H]" if sink else header
    module = module_of(f"normalizer n{params} {{ {cascade} }}\nattention a({header}) {{ {fields}; {use} }}")
    positions = Positions(module, 8, 8)
    return lower_cascade(module, positions.lower(module.score), 8)


def text(acc: Accumulator) -> str:
    """`max s`, `sum exp(s - a0) * v rescaled by ...`."""
    weighted = " * v" if acc.weighted else ""
    rescale = "" if acc.rescale is None else f", rescaled by {print_expr(acc.rescale)}"
    return f"{acc.name} = {acc.op} {print_expr(acc.body)}{weighted}{rescale}"


def texts(cascade: Cascade) -> list[list[str]]:
    return [[text(acc) for acc in sweep.accumulators] for sweep in cascade.sweeps]


SOFTMAX = "m = max[j](s); p = exp(s - m); w = p / sum[j](p)"
ONE_SWEEP = {
    "softmax": SOFTMAX,
    "lse": "m = max[j](s); p = exp(s - m); w = p / sum[j](p); aux lse = m + log(sum[j](p))",
    "lse_form": "m = max[j](s); l = m + log(sum[j](exp(s - m))); w = exp(s - l); aux lse = l",
    "no_maximum": "w = exp(s) / sum[j](exp(s))",
    "off_by_one": "m = max(max[j](s), 0); p = exp(s - m); w = p / (sum[j](p) + exp(-m))",
    "sigmoid": "w = sigmoid(s - log(M))",
    "softplus_l1": "a = softplus(s); w = a / sum[j](a)",
    "mala": "a = softplus(s); z = sum[j](a); w = (1 + 1 / z) * a - z / n_keys",
    "mean": "w = 1.0 / n_keys",
    "after": "m = max[j](s); p = exp(s - m); w = p / sum[j](p) * (1 + tanh(m)) + 0.5 / n_keys",
    "l2": "a = relu(s); w = a / sqrt(sum[j](a * a))",
    "two_softmaxes": "m = max[j](s); p = exp(s - m); r = exp(2 * s - 2 * m); w = p / sum[j](p) - r / sum[j](r)",
    "smallest": "m = min[j](s); p = exp(m - s); w = p / sum[j](p)",
    "counted": "w = s / (1 + count[j](j <= i - 3))",
}
MORE_SWEEPS = {
    "square_of_normalized": (SOFTMAX.replace("w =", "n =") + "; y = exp(n); w = y / sum[j](y)", 2),
    "threshold": ("a = softplus(s); n = a / sum[j](a); x = relu(n_keys * n - 1); w = x / sum[j](x)", 2),
    "power": ("a = softplus(s); x = n_keys * a / sum[j](a); m = max[j](x); y = (x / m) ^ 15; w = y / sum[j](y)", 3),
    "standardized": ("c = s - mean[j](s); z = c / sqrt(mean[j](c * c) + 1); w = exp(z) / sum[j](exp(z))", 3),
    "minus_maximum": ("m = max[j](s); a = relu(s - m / 2); w = a / sum[j](a)", 2),
    "minus_mean": ("w = relu(s - mean[j](s))", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_SWEEP)
def test_one_sweep_is_enough(name: str) -> None:
    assert len(lowered(ONE_SWEEP[name]).sweeps) == 1


@pytest.mark.parametrize("name", MORE_SWEEPS)
def test_what_needs_finished_statistics_takes_more_sweeps(name: str) -> None:
    cascade, sweeps = MORE_SWEEPS[name]
    found = lowered(cascade).sweeps
    assert len(found) == sweeps
    assert all("needs the finished" in sweep.why for sweep in found[1:])


def test_sinks_take_one_sweep() -> None:
    body = "m = max(max[j](s), sink[h]); p = exp(s - m); z = sum[j](p) + exp(sink[h] - m); w = p / z"
    assert len(lowered(body, sink=True).sweeps) == 1


def test_a_score_that_reads_n_keys_counts_first_only_where_the_mask_has_no_closed_form() -> None:
    score = "score dot(q, k) * log(1 + n_keys)"
    assert len(lowered(SOFTMAX, f"mask j <= i; {score}").sweeps) == 1
    cascade = lowered(SOFTMAX, f"mask seg[b, i] == seg[b, j]; {score}", "seg: int[B, M]")
    assert len(cascade.sweeps) == 2
    assert texts(cascade)[0] == ["a0 = sum 1.0"]
    assert "n_keys" not in print_expr(cascade.score)


# -- accumulators ----------------------------------------------------------------------------------------------------


def test_softmax_is_a_maximum_and_two_corrected_sums() -> None:
    cascade = lowered(SOFTMAX)
    factor = "rescaled by exp(a0.old - a0)"
    assert sorted(texts(cascade)[0]) == [
        "a0 = max s",
        f"a1 = sum exp(s - a0), {factor}",
        f"a2 = sum exp(s - a0) * v, {factor}",
    ]
    assert print_expr(cascade.output) == "a2 / a1"


def test_a_sink_is_part_of_the_running_maximum() -> None:
    cascade = lowered("m = max(max[j](s), sink[h]); p = exp(s - m); w = p / (sum[j](p) + exp(sink[h] - m))", sink=True)
    assert texts(cascade)[0][-1].endswith("rescaled by exp(max(a0.old, sink[h]) - max(a0, sink[h]))")
    assert not any(acc.rescale_guard for acc in cascade.sweeps[0].accumulators)


def test_equal_sums_are_shared() -> None:
    cascade = lowered("m = max[j](s); w = exp(s - m) / sum[j](exp(s - m)); aux z = sum[j](exp(s - m)); aux m = m")
    assert len(cascade.sweeps[0].accumulators) == 3


def test_a_division_by_a_row_value_is_deferred() -> None:
    cascade = lowered("a = softplus(s); w = a / (2 * sum[j](a))")
    assert {text(acc) for acc in cascade.sweeps[0].accumulators} >= {"a0 = sum softplus(s)", "a1 = sum softplus(s) * v"}
    assert "a1" in print_expr(cascade.output)


def test_weights_of_several_terms_are_several_sums() -> None:
    cascade = lowered(ONE_SWEEP["mala"])
    weighted = [print_expr(acc.body) for acc in cascade.sweeps[0].accumulators if acc.weighted]
    assert sorted(weighted) == ["1.0", "softplus(s)"]


@pytest.mark.parametrize(
    ("cascade", "masked"),
    [
        (SOFTMAX, set()),
        ("w = sigmoid(s)", set()),
        ("w = exp(s)", set()),
        ("w = relu(s) ^ 2", set()),
        ("w = s", {"s"}),
        ("w = elu(s) + 1", {"elu(s) + 1.0"}),
        ("w = softplus(s) + 1", {"softplus(s) + 1.0"}),
        ("w = exp(s - 1) * s", {"exp(s - 1.0) * s"}),
        ("w = 1.0", {"1.0"}),
    ],
)
def test_a_second_mask_is_used_only_where_a_masked_logit_leaves_something(cascade: str, masked: set[str]) -> None:
    found = {print_expr(acc.body) for acc in lowered(cascade).sweeps[0].accumulators if acc.needs_mask}
    assert found == masked


@pytest.mark.parametrize(
    ("cascade", "guarded"),
    [
        (SOFTMAX, True),
        ("a = softplus(s); w = a / sum[j](a)", True),
        ("w = sigmoid(s)", False),
        ("w = exp(s) / (1 + sum[j](exp(s)))", False),
        ("m = max(max[j](s), 0); p = exp(s - m); w = p / (sum[j](p) + exp(-m))", False),
    ],
)
def test_rows_without_keys_are_guarded_only_where_the_formula_is_not_zero(cascade: str, guarded: bool) -> None:
    assert (lowered(cascade).empty is not None) == guarded


# -- corrections are right -------------------------------------------------------------------------------------------

RUNNING = {**ONE_SWEEP, **{name: cascade for name, (cascade, _) in MORE_SWEEPS.items()}}
scores = st.lists(st.sampled_from([-7.0, -1.5, -0.25, 0.0, 0.5, 1.0, 3.0, 9.0]), min_size=1, max_size=6)


def swept(sweeps: tuple[Sweep, ...], logits: list[Any], size: int) -> dict[Expr, Any]:
    """The accumulators as a kernel computes them: tiles of `size` keys, sums corrected whenever an extremum moves."""
    state: dict[Expr, Any] = {Size("M"): 6}
    for sweep in sweeps:
        state |= {
            acc.ref: {"sum": mpmath.mpf(0), "max": -mpmath.inf, "min": mpmath.inf}[acc.op] for acc in sweep.accumulators
        }
        for first in range(0, len(logits), size):
            tile = range(first, min(first + size, len(logits)))
            old = {Ref(f"{acc.name}.old", REAL): state[acc.ref] for acc in sweep.accumulators}
            for acc in sweep.accumulators:
                state[acc.ref] = updated(acc, [row(acc, n, logits, state) for n in tile], {**state, **old})
    return state


def row(acc: Accumulator, n: int, logits: list[Any], state: dict[Expr, Any]) -> Any:
    """The body at key n = j; a value vector has the one feature n + 1."""
    body = value(acc.body, {**state, LOGIT: logits[n], Index("i"): 4, Index("j"): n})
    return body * (n + 1) if acc.weighted else body


def updated(acc: Accumulator, parts: list[Any], state: dict[Expr, Any]) -> Any:
    before = state[acc.ref]
    if acc.op != "sum":
        return {"max": max, "min": min}[acc.op](before, *parts)
    if acc.rescale is not None and before != 0:
        before = before * value(acc.rescale, state)
    return before + sum(parts)


@pytest.mark.parametrize("name", RUNNING)
@given(logits=scores)
def test_running_corrections_give_what_one_tile_gives(name: str, logits: list[float]) -> None:
    cascade = lowered(RUNNING[name])
    exact = [mpmath.mpf(x) for x in logits]
    at_once, by_key, by_two = (swept(cascade.sweeps, exact, size) for size in (len(exact), 1, 2))
    for found in (by_key, by_two):
        for acc in (acc for sweep in cascade.sweeps for acc in sweep.accumulators):
            assert abs(found[acc.ref] - at_once[acc.ref]) <= 1e-12 * (1 + abs(at_once[acc.ref])), text(acc)


# -- what has no kernel ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cascade", "words"),
    [
        ("w = s / sum[i](s)", "a statistic over the queries, `[i]`,"),
        ("w = s / sum[j by j // 4](s)", "a reduction inside groups of keys"),
        ("w = where(j == max[j](j), 1.0, 0.0)", "a reduction of integers"),
        ("w = s; aux top = s / 2", None),
    ],
)
def test_what_has_no_kernel_says_so(cascade: str, words: str | None) -> None:
    with pytest.raises(SpecError) as found:
        lowered(cascade)
    if words is not None:
        assert [d.code for d in found.value.diagnostics] == ["E401"]
        assert words in found.value.diagnostics[0].title


def test_definitions_that_explode_are_refused() -> None:
    steps = "; ".join(f"x{n + 1} = x{n} * x{n} + x{n}" for n in range(30))
    with pytest.raises(SpecError) as found:
        lowered(f"x0 = s; {steps}; w = x30")
    assert found.value.diagnostics[0].code.startswith("E")

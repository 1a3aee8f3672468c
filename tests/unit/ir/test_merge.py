"""How partial states of a sweep combine."""

from __future__ import annotations

import pytest
import torch

import attnc
from attnc.eager import Env, evaluate
from attnc.ir.merge import merges, partial_ref, splits
from attnc.ir.plan import Accumulator, KernelPlan, PlanOptions
from attnc.passes.pipeline import make_plan

ONE_SWEEP = {
    "softmax": "m = max[j](s); p = exp(s - m); w = p / sum[j](p)",
    "no maximum": "w = exp(s) / sum[j](exp(s))",
    "off by one": "m = max(max[j](s), 0); p = exp(s - m); w = p / (sum[j](p) + exp(-m))",
    "sigmoid": "w = sigmoid(s - log(M))",
    "l2": "a = relu(s); w = a / sqrt(sum[j](a * a))",
    "two softmaxes": "m = max[j](s); p = exp(s - m); r = exp(2 * s - 2 * m); w = p / sum[j](p) - r / sum[j](r)",
    "smallest": "m = min[j](s); p = exp(m - s); w = p / sum[j](p)",
}


def plan_of(cascade: str) -> KernelPlan:
    """The plan of a normalizer."""
    text = f"normalizer n {{ {cascade} }}\nattention a() {{ score dot(q, k); normalizer n }}"
    return make_plan(attnc.compile(source=text).module, PlanOptions(8, 8))


def state(plan: KernelPlan, logits: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """The accumulators of a sweep over some keys, from their definitions."""
    refs: dict[str, torch.Tensor] = {}
    for acc in plan.sweeps[0].accumulators:
        body = evaluate(acc.body, Env(refs=refs, values={"s": logits}, sizes={"M": 20})).expand_as(logits)
        refs[acc.name] = reduced(acc, body, values)
    return refs


def reduced(acc: Accumulator, body: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """One accumulator of the terms of all pairs."""
    if acc.weighted:
        return body @ values
    if acc.op == "sum":
        return body.sum()
    nothing = torch.tensor({"max": -torch.inf, "min": torch.inf}[acc.op], dtype=torch.float64)
    return getattr(body, f"a{acc.op}")() if body.numel() else nothing


@pytest.mark.parametrize("name", ONE_SWEEP)
@pytest.mark.parametrize("cut", [0, 1, 9, 20])
def test_two_halves_make_the_whole(name: str, cut: int) -> None:
    plan = plan_of(ONE_SWEEP[name])
    random = torch.Generator().manual_seed(cut)
    logits = torch.randn(20, generator=random, dtype=torch.float64) * 3
    values = torch.randn((20, 8), generator=random, dtype=torch.float64)
    left, right = state(plan, logits[:cut], values[:cut]), state(plan, logits[cut:], values[cut:])
    refs: dict[str, torch.Tensor] = {}
    for merge in merges(plan.sweeps[0]):
        acc = merge.accumulator
        refs[partial_ref(acc, "left").name], refs[partial_ref(acc, "right").name] = left[acc.name], right[acc.name]
        refs[acc.name] = evaluate(merge.value, Env(refs=refs))
    for acc_name, whole in state(plan, logits, values).items():
        torch.testing.assert_close(refs[acc_name], whole)


def test_what_takes_several_passes_does_not_split() -> None:
    assert splits(plan_of(ONE_SWEEP["softmax"]))
    assert not splits(plan_of("w = relu(s - mean[j](s))"))

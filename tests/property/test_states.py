"""Calls through states against the oracle: random weights made of inner products, masks, sizes, offsets and dtypes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import attnc
from attnc import torch_states
from attnc.drawing import Case, draw
from attnc.ir import long_calls
from attnc.ops import Backend, Op
from attnc.verify import compare_gradients
from attnc.verify_gradients import op_gradients
from tests.property.agreement import assert_agrees

QUIET = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
TENSORS = "r: real[B, H, N], c: real[B, Hk, M]"
#: Weights; z is a statistic of the row.
WEIGHTS = (
    "a / (abs(sum[j](a)) + 3)",
    "s * (1 + 1 / (z * z + 1)) - z",
    "a * r[b, h, i] - c[b, hk, j]",
    "(a + r[b, h, i]) * c[b, hk, j] / (1 + n_keys)",
    "(a - z) / (1 + abs(sum[j](c[b, hk, j])))",
    "relu(c[b, hk, j]) * (a + s) / sum[j](relu(c[b, hk, j]) + 1)",
)
FEATURES = ("dot(q, k)", "dot(elu(q) + 1, elu(k) + 1)", "dot(concat(q, relu(q)), concat(relu(k), k))")
MASKS = (
    "true",
    "j <= i",
    "j < i",
    "j >= i",
    "j <= i or j < 150",
    "j // 96 <= i // 96",
    "j <= i and j >= 37",
    "j > i + 20",
)


def text(weight: str, features: str, mask: str) -> str:
    return f"""
normalizer n({TENSORS}) {{
  a = {features}
  z = mean[j](a)
  w = {weight}
}}
attention a({TENSORS}) {{
  mask {mask}
  normalizer n(r, c)
}}
"""


@pytest.fixture(autouse=True)
def short_calls_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """States from 64 tokens on."""
    monkeypatch.setattr(long_calls, "FEWEST", 64)
    monkeypatch.setattr(long_calls, "PER_FEATURE", 1)


def compiled(source: str, backend: Backend, **options: Any) -> Op:
    return attnc.compile(source=source, backend=backend, **options)


def check(op: Op, case: Case) -> None:
    """Output and gradients by the rule for errors, through states."""
    assert_agrees(op, case)
    assert op.plan.states is not None, op.plan.no_states
    inputs = draw(op.module, case)
    for item in compare_gradients(op, inputs, op_gradients(op, inputs)):
        assert item.error <= 4 * item.allowed, (item, op.backend, case)


@st.composite
def calls(draw_: st.DrawFn, least: int, most: int) -> tuple[str, Case]:
    """A spec and a call of it."""
    source = text(*(draw_(st.sampled_from(choices)) for choices in (WEIGHTS, FEATURES, MASKS)))
    group, heads = draw_(st.sampled_from((1, 1, 3))), draw_(st.sampled_from((1, 2)))
    case = Case(
        batch=draw_(st.sampled_from((1, 2))),
        heads=group * heads,
        key_heads=heads,
        queries=draw_(st.integers(least, most)),
        keys=draw_(st.integers(least, most)),
        head_dim=draw_(st.sampled_from((5, 16))),
        value_dim=draw_(st.sampled_from((1, 7, 16))),
        q_offset=draw_(st.sampled_from((0, 0, 61, "end"))),
        k_offset=draw_(st.sampled_from((0, 0, -40, 13))),
        seed=draw_(st.integers(0, 999)),
    )
    return source, case


@settings(QUIET, max_examples=3)
@given(drawn=calls(150, 330))
def test_random_weights_and_masks_on_torch(drawn: tuple[str, Case]) -> None:
    check(compiled(drawn[0], "torch", tile=(32, 32)), drawn[1])


@settings(QUIET, max_examples=2)
@given(drawn=calls(260, 400))
def test_random_weights_and_masks_in_cpp(drawn: tuple[str, Case]) -> None:
    check(compiled(drawn[0], "cpp"), drawn[1])


@pytest.mark.parametrize(("mask", "weight"), [("j <= i", WEIGHTS[0]), ("j > i + 20", WEIGHTS[2])])
def test_triton_begins_at_states(mask: str, weight: str) -> None:
    op = compiled(text(weight, FEATURES[1], mask), "interpret")
    check(op, Case(queries=165, keys=150))
    assert "state_a" in op.source


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_sixteen_bits(dtype: Any, backend: Backend) -> None:
    op = compiled(text(WEIGHTS[0], FEATURES[1], "j <= i"), backend)
    assert_agrees(op, Case(dtype=dtype, heads=2, key_heads=1, queries=1100, keys=1100))
    assert op.plan.states is not None


def test_what_is_visited_as_before() -> None:
    case = Case(heads=1, queries=300, keys=300)
    op = compiled(text(WEIGHTS[0], FEATURES[0], "0 <= i - j < 200"), "torch", tile=(32, 32))
    assert_agrees(op, case)
    assert "no end that stays" in op.plan.no_states
    op = compiled(text(WEIGHTS[0], FEATURES[0], "j <= i"), "torch", tile=(32, 32))
    for other in (
        replace(case, documents=((100, 100), (200, 200))),
        replace(case, q_offset=(5,)),
        replace(case, queries=20),
    ):
        assert_agrees(op, other)
        assert op.plan.states is None
    assert_agrees(op, case)
    assert op.plan.states is not None


@pytest.mark.parametrize("mask", ["true", "j <= i", "j > i + 20"])
@pytest.mark.parametrize("segment", [100, 300])
def test_states_follow_each_other(mask: str, segment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks in a segment, several segments, prefixes and suffixes: exact in float64."""
    monkeypatch.setitem(torch_states._SEGMENT, "cpu", segment)  # pyright: ignore[reportPrivateUsage]
    op = compiled(text(WEIGHTS[0], FEATURES[1], mask), "torch", tile=(16, 16))
    inputs = draw(op.module, Case(heads=2, key_heads=1, queries=560, keys=590))
    given = {n: x.double() if isinstance(x, torch.Tensor) else x for n, x in inputs.keywords.items()}
    tokens = [x.double() for x in (inputs.q, inputs.k, inputs.v)]
    assert torch.allclose(op(*tokens, **given), op.reference(*tokens, **given), rtol=0, atol=1e-11)
    assert op.plan.states is not None


def test_tiles_do_not_matter() -> None:
    """The same numbers but for rounding, whatever the states end at."""
    source = text(WEIGHTS[1], FEATURES[1], "j <= i or j < 150")
    inputs = draw(compiled(source, "torch").module, Case(heads=2, queries=310, keys=333))
    given = {**inputs.tensors, **inputs.keywords}
    tokens = [x.double() for x in (inputs.q, inputs.k, inputs.v)]
    given = {n: x.double() if isinstance(x, torch.Tensor) else x for n, x in given.items()}
    results = []
    for tile in ((16, 16), (64, 32), (128, 128)):
        op = compiled(source, "torch", tile=tile)
        results.append(op(*tokens, **given))
        assert op.plan.states is not None
    for other in results[1:]:
        assert torch.allclose(results[0], other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_a_key_reaches_no_query_that_does_not_see_it(backend: Backend) -> None:
    """Not even where it is no number, through a state."""
    op = compiled(text(WEIGHTS[0], FEATURES[1], "j <= i"), backend, tile=None if backend == "cpp" else (16, 16))
    inputs = draw(op.module, Case(heads=2, queries=500, keys=500))
    clean = op(inputs.q, inputs.k, inputs.v, **inputs.keywords)
    inputs.k[:, :, 300:], inputs.v[:, :, 300:] = float("nan"), float("inf")
    found = op(inputs.q, inputs.k, inputs.v, **inputs.keywords)
    assert op.plan.states is not None
    first = 240  # a key that is no number may reach the queries that share a tile of the mask's border with it
    assert torch.equal(found[:, :, :first], clean[:, :, :first])
    assert found[:, :, 300:].isnan().all()

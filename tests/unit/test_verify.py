"""attnc.verify: the rule for errors, what is drawn, and that a wrong back end is caught and shrunk."""

from __future__ import annotations

import contextlib
import io
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attnc import executor, ops, torch_backend
from attnc.diagnostics import SpecError
from attnc.drawing import Case, UndrawableError, draw, indexed_dimensions, int_bounds, read_by_queries, shape_of
from attnc.frontend.bind import bind
from attnc.ir.module import AttentionModule
from attnc.ir.printer import print_expr
from attnc.training import Training
from attnc.verify import Target, allowed_error, compare, largest_error, verify
from attnc.verify_cases import LIMITS, Limits, cases, scalar_values
from attnc.verify_plain import evaluate_plainly
from tests.oracles.modules import module_of

WINDOW = """
attention window(size: int = 4, slope: real[H], near: int dynamic = 2) {
  mask 0 <= i - j < size
  bias where(i - j < near, 0.0, -slope[h])
  normalizer softmax
  aux  lse
}
"""
LOOKUPS = """
attention lookups(seg: int[B, M], at: int[N], table: real[H, 5] in (-inf, 0], bucket: int[B, M] in [2, 7),
                  keep: bool[B, M], gate: real[B, H, N] in [0, 1)) {
  mask seg[b, i] == seg[b, j] and keep[b, j]
  bias table[h, at[i]] * real(bucket[b, j]) * gate[b, h, i]
}
"""


# -------------------------------------------------------------------------------------- the rule


def test_allowed_error_is_twice_the_plain_error_and_two_units() -> None:
    exact = torch.tensor([1.0, -4.0], dtype=torch.float64)
    plain = torch.tensor([1.25, -4.0])
    eps = torch.finfo(torch.float16).eps
    assert allowed_error(exact, plain, torch.float16) == 2 * 0.25 + 2 * eps * 4
    assert allowed_error(exact, plain, torch.float16, factor=8) == 8 * 0.25 + 2 * eps * 4


def test_allowed_error_counts_numbers_only() -> None:
    exact = torch.tensor([1.0, -torch.inf, 2.0], dtype=torch.float64)
    plain = torch.tensor([1.0, 3.0, torch.nan])
    assert allowed_error(exact, plain, torch.float32) == 2 * torch.finfo(torch.float32).eps * 2
    assert allowed_error(exact[:0], plain[:0], torch.float32) < 1e-40


@pytest.mark.parametrize(
    ("found", "exact", "error"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([1.0, torch.nan], [1.0, 2.5], torch.inf),
        ([1.0, torch.inf], [1.0, 2.5], torch.inf),
        ([1.0, 0.0], [1.0, torch.nan], torch.inf),
        ([1.5, torch.nan], [1.0, torch.nan], 0.5),
        ([1.5, -torch.inf], [1.0, -torch.inf], 0.5),
        ([1.5, torch.inf], [1.0, -torch.inf], torch.inf),
        ([torch.inf, 1.0], [1e300, 1.0], 0.0),  # beyond the dtype
        ([], [], 0.0),
        ([1.0], [1.0, 2.0], torch.inf),
    ],
)
def test_largest_error(found: list[float], exact: list[float], error: float) -> None:
    assert largest_error(torch.tensor(found), torch.tensor(exact, dtype=torch.float64)) == error


def test_plain_evaluation_in_double_is_the_oracle() -> None:
    case = Case(
        dtype="fp64", batch=2, heads=6, key_heads=2, queries=7, keys=9, head_dim=4, value_dim=3,
        q_offset=(3, 1), k_offset=1, scale=0.7, dynamic=(("near", 3),),
    )  # fmt: skip
    inside = replace(case, q_offset=0, k_offset=0, scale=None, dynamic=())
    for module, call in ((module_of(WINDOW), case), (module_of(LOOKUPS), inside)):
        inputs = draw(module, call)
        op = ops.Op(module, "torch", None)
        out, aux = op.reference(inputs.q, inputs.k, inputs.v, return_aux=True, **inputs.keywords)
        plain = evaluate_plainly(module, inputs, torch.float64)
        assert plain.keys() == {"out", *aux}
        for name, exact in {"out": out, **aux}.items():
            torch.testing.assert_close(plain[name], exact, rtol=1e-12, atol=1e-12)


def test_plain_evaluation_of_documents_and_of_other_normalizers() -> None:
    text = """
    normalizer n { g = max[j by j % 2](s); w = exp(s - g) / (1 + mean[j](s)^2) + 1 / n_keys }
    attention a(x: real[B, H, M]) { mask j <= i + 1; bias x[b, h, j]; normalizer n }
    """
    module = module_of(text)
    case = Case(dtype="fp64", queries=7, keys=9, head_dim=4, value_dim=3, documents=((3, 5), (0, 0), (4, 4)))
    inputs = draw(module, case)
    exact = ops.Op(module, "torch", None).reference(inputs.q, inputs.k, inputs.v, **inputs.keywords)
    torch.testing.assert_close(evaluate_plainly(module, inputs, torch.float64)["out"], exact, rtol=1e-12, atol=1e-12)


def test_plain_evaluation_rounds_every_step() -> None:
    module = module_of("attention a { mask j <= i }")
    inputs = draw(module, Case(dtype="bf16", queries=40, keys=40))
    op = ops.Op(module, "torch", None)
    exact = op.reference(inputs.q, inputs.k, inputs.v)
    errors = {dtype: evaluate_plainly(module, inputs, dtype)["out"] for dtype in (torch.bfloat16, torch.float32)}
    assert errors[torch.bfloat16].dtype == torch.bfloat16
    rough, fine = (largest_error(errors[dtype].double(), exact) for dtype in errors)
    assert rough > 1e-3 > 1e-5 > fine


def test_bfloat16_in_the_interpreter_has_to_be_as_good_as_rounding_once() -> None:
    module = module_of("attention a { mask j <= i }")
    inputs = draw(module, Case(dtype="bf16", queries=9, keys=9))
    found = evaluate_plainly(module, inputs, torch.bfloat16)
    found["lse"] = found.get("lse", found["out"])
    strict = {item.name: item for item in compare(ops.Op(module, "interpret", None), inputs, found)}
    loose = {item.name: item for item in compare(ops.Op(module, "torch", None), inputs, found)}
    assert strict["out"].allowed < loose["out"].allowed
    assert loose["out"].passed


# -------------------------------------------------------------------------------------- drawing


def test_drawn_tensors_have_their_declared_shape_and_range() -> None:
    module = module_of(LOOKUPS)
    case = Case(batch=2, heads=4, key_heads=2, queries=9, keys=9, ints=(-1, 3), ordered=True, wide=True)
    tensors = draw(module, case).tensors
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "seg": (2, 9), "at": (9,), "table": (4, 5), "bucket": (2, 9), "keep": (2, 9), "gate": (2, 4, 9),
    }  # fmt: skip
    assert tensors["table"].max() <= 0
    assert 0 <= tensors["gate"].min() <= tensors["gate"].max() < 1
    assert 2 <= tensors["bucket"].min() <= tensors["bucket"].max() < 7
    assert set(tensors["seg"].flatten().tolist()) <= {-1, 0, 1, 2}
    assert tensors["seg"].equal(tensors["seg"].sort(-1).values)
    assert tensors["seg"].dtype == torch.int64
    assert [print_expr(dim) for dim in indexed_dimensions(module, "at")] == ["5"]
    assert int_bounds(module, module.tensor("at"), case) == (0, 5)
    assert read_by_queries(module)
    assert not read_by_queries(module_of(WINDOW))


def test_drawing_leaves_the_generator_alone_and_repeats_itself() -> None:
    module = module_of(LOOKUPS)
    state = torch.random.get_rng_state()
    first, second = (draw(module, Case(queries=3, keys=3, seed=5)) for _ in range(2))
    assert torch.random.get_rng_state().equal(state)
    assert first.q.equal(second.q)
    assert all(first.tensors[name].equal(tensor) for name, tensor in second.tensors.items())
    assert not draw(module, Case(queries=3, keys=3, seed=6)).q.equal(first.q)


def test_layouts_are_what_they_are_called() -> None:
    def strides(layout: Any) -> tuple[int, ...]:
        case = Case(batch=2, heads=3, key_heads=3, queries=5, keys=5, head_dim=4, layouts=(layout,) * 3)
        q = draw(module_of("attention a { }"), case).q
        assert q.shape == (2, 3, 5, 4)
        return q.stride()

    assert strides("contiguous") == (60, 20, 4, 1)
    assert strides("transposed") == (60, 4, 12, 1)
    assert strides("expanded") == (0, 20, 4, 1)
    assert strides("sliced") == (75, 25, 5, 1)
    assert strides("stepped") == (120, 40, 8, 2)


def test_tensor_without_a_shape_cannot_be_drawn() -> None:
    module = module_of("attention a(t: real[N - M]) { bias t[0] }")
    assert shape_of(module.tensors[0], Case(queries=5, keys=3)) == (2,)
    with pytest.raises(UndrawableError, match="negative"):
        draw(module, Case(queries=3, keys=5))


@given(st.data())
def test_values_of_parameters_lie_in_their_range(data: st.DataObject) -> None:
    text = "attention a(n: int in [3, 9), x: real in (0, 2], y: real in (-inf, -1), z: int in [5, inf), c: bool = true,"
    text += " d: real = 2.5, e: int = 77) { mask c or n + z > e; score dot(q, k) * x * y * d }"
    module = attention_of(text)
    values = {p.name: data.draw(scalar_values(p)) for p in module.scalars}
    assert 3 <= values["n"] < 9
    assert 0 < values["x"] <= 2
    assert values["y"] < -1
    assert values["z"] >= 5
    assert values["d"] == 2.5
    bind(module, values)


def attention_of(text: str) -> AttentionModule:
    """The attention of a text, its parameters not given yet."""
    return Target("test.attn", "torch", text).load()


RANGES = "attention a(n: int in [1, 9], w: int in [n, 2*n] = 4, c: real in (0, w) = 0.5) { mask i - j < w; score c }"


@given(st.data())
def test_drawn_parameters_lie_in_ranges_over_earlier_ones(data: st.DataObject) -> None:
    module = attention_of(RANGES)
    fixed = data.draw(st.sampled_from(((), (("n", 3),))))
    case = data.draw(
        cases(module, lambda static: bind(module, {**dict(fixed), **dict(static)}), fixed, LIMITS["torch"])
    )
    values = {**dict(fixed), **dict(case.static)}
    assert values["n"] <= values["w"] <= 2 * values["n"]
    assert 0 < values["c"] < values["w"]


@given(st.data())
def test_drawn_cases_are_calls_that_the_op_takes(data: st.DataObject) -> None:
    module = attention_of(LOOKUPS)
    limits = LIMITS["interpret"]
    case = data.draw(cases(module, lambda static: bind(module, dict(static)), (), limits))
    assert max(case.queries, case.keys) <= limits.tokens
    assert case.heads % case.key_heads == 0
    inputs = draw(module, case)
    if case.queries * case.keys * case.heads * case.batch < 4000:
        ops.Op(module, "torch", None)(inputs.q, inputs.k, inputs.v, **inputs.keywords)


# --------------------------------------------------------------------------------- the property


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small calls only, so that shrinking takes few steps."""
    monkeypatch.setitem(LIMITS, "torch", Limits(20, 1 << 12, 16, ("fp32",), differentiable=True))


def target(text: str, backend: Any = "torch", **params: Any) -> Target:
    return Target("test.attn", backend, text, None, params)


def test_right_back_end_passes_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    calls = []
    outcome = verify(target(WINDOW), examples=6, progress=lambda: calls.append(1))
    assert outcome.passed
    assert outcome.failure is None
    assert len(calls) == outcome.ran >= 4
    assert list(tmp_path.iterdir()) == []


def test_interpreter_passes() -> None:
    outcome = verify(target(WINDOW, "interpret", size=5), examples=3)
    assert outcome.passed, outcome.failure


def patch_torch(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """`run` in place of the torch back end, forward and backward."""
    monkeypatch.setattr(torch_backend, "run_torch", run)
    monkeypatch.setattr(executor, "run_torch", run)


def broken(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, Tensor], Tensor]) -> None:
    """Make the torch back end compute something else."""
    run_torch = torch_backend.run_torch

    def run(plan: Any, call: Any, *tables: Any) -> tuple[Tensor, dict[str, Tensor]]:
        out, aux = run_torch(plan, call, *tables)
        return change(call, out), aux

    patch_torch(monkeypatch, run)


@pytest.mark.usefixtures("small")
def test_failure_is_shrunk_to_a_program_that_shows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken(monkeypatch, lambda call, out: out + 0.25 * (call.k.shape[2] > 16 and call.q.shape[1] > call.k.shape[1]))
    outcome = verify(target("attention a(at: int[N]) { mask j <= i or at[i] > 2 }"), examples=60)
    failure = outcome.failure
    assert failure is not None
    assert not outcome.passed
    assert failure.kind == "error of out"
    case = failure.case
    assert (case.keys, case.heads, case.key_heads, case.batch, case.head_dim) == (17, 3, 1, 1, 1)
    assert case.layouts == ("contiguous",) * 3
    assert case.documents == ()
    program = tmp_path / "program.py"
    program.write_text(failure.snippet)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(program))
    assert "0.25" in printed.getvalue()


@pytest.mark.usefixtures("small")
def test_wrong_statistics_and_crashes_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    run_torch = torch_backend.run_torch

    def wrong(plan: Any, call: Any, *tables: Any) -> tuple[Tensor, dict[str, Tensor]]:
        out, aux = run_torch(plan, call, *tables)
        return out, {name: tensor + 0.5 for name, tensor in aux.items()}

    text = "attention a { mask j <= i; normalizer softmax; aux lse }"
    patch_torch(monkeypatch, wrong)
    failure = verify(target(text), examples=10).failure
    assert failure is not None
    assert failure.kind == "error of lse"
    assert "['lse']" in failure.snippet

    def crash(*_: object) -> None:
        raise ZeroDivisionError("tile of no rows")

    patch_torch(monkeypatch, crash)
    failure = verify(target(text), examples=10).failure
    assert failure is not None
    assert failure.kind == "raises ZeroDivisionError"
    assert "tile of no rows" in failure.message


@pytest.mark.usefixtures("small")
def test_gradients_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "attention a(t: real[H] learned) { mask j <= i; bias t[h] * (i - j) }"
    assert verify(target(text), examples=3).passed

    differentiate = Training.differentiate

    def wrong(self: Training, *call: Any) -> Any:
        return {name: x / 2 if name == "t" else x for name, x in differentiate(self, *call).items()}

    monkeypatch.setattr(Training, "differentiate", wrong)
    failure = verify(target(text), examples=20).failure
    assert failure is not None
    assert failure.kind == "error of gradient of t"
    assert "gradients=True" in failure.snippet
    assert "['gradient of t']" in failure.snippet


@pytest.mark.usefixtures("small")
def test_calls_that_the_op_does_not_take_are_counted() -> None:
    outcome = verify(target("attention a { q = rope(q, i); k = rope(k, j) }"), examples=6)
    assert outcome.passed
    assert all("rotates" in message for message in outcome.refused)
    with pytest.raises(SpecError, match="cannot be compiled"):
        verify(target("normalizer n { w = exp(s - max[j by j // 4](s)) }\nattention a { normalizer n }"), examples=3)


def test_wrong_parameters_are_refused_and_missing_ones_drawn() -> None:
    text = "attention a(size: int in [1, 9), flag: bool) { mask i - j < size and flag }"
    with pytest.raises(SpecError, match="sise"):
        verify(target(text, sise=3))
    with pytest.raises(SpecError, match="outside"):
        verify(target(text, size=9))
    assert verify(target(text, size=8), examples=3).passed


def test_same_seed_draws_the_same_calls() -> None:
    module = attention_of(WINDOW)
    drawn: dict[int, list[Case]] = {}
    for number, seed in enumerate((3, 3, 4)):
        from attnc.verify_cases import search

        seen = drawn.setdefault(number, [])
        strategy = cases(module, lambda static: bind(module, dict(static)), (), LIMITS["torch"])
        search(strategy, lambda case, seen=seen: bool(seen.append(case)), examples=8, seed=seed)
    assert drawn[0] == drawn[1] != drawn[2]

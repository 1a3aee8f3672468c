"""Gradients of ops: derived backwards against float64 autograd through the oracle, on every back end that has one."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import attnc
from attnc.diagnostics import AttncWarning
from attnc.drawing import Inputs
from attnc.training import Training
from attnc.verify import compare_gradients
from attnc.verify_gradients import op_gradients
from tests.oracles.cases import Case, cases, draw

Backend = Literal["torch", "interpret", "cpp"]
REWEIGHTED = """
normalizer reweighted(p: int) {
  u = softplus(2 * log(real(n_keys) + 1) * s)
  l = sum[j](u)
  x = real(n_keys) * u / l - 1
  top = real(n_keys) * max[j](u) / l - 1
  y = where(top > 0, relu(x / top) ^ p, u)
  w = y / sum[j](y)
}
attention a(p: int = 3) { mask j <= i; normalizer reweighted(p) }
"""
MAPPED = """
attention a(gain: real[H]) {
  q = normalize(q)
  k = concat(elu(k), k)
  out = normalize(o) * gain[h]
  mask j <= i
  score 3 * dot(concat(q, gain[h] * q), k)
  normalizer softmax
  aux lse
}
"""
SPECS: dict[str, tuple[str, dict[str, Tensor]]] = {
    "reweighted": (REWEIGHTED, {}),
    "softmax": ("attention a { mask j <= i; normalizer softmax; aux lse }", {}),
    "sink": (
        """import std.softmax_sink (softmax_sink)
attention a(sink: real[H]) { mask j <= i; normalizer softmax_sink(sink) }""",
        {"sink": torch.tensor([0.5, -1.0, 2.0, 0.0])},
    ),
    "bias of rows and columns": (
        "attention a(x: real[H, N], y: real[B, M]) { score scale * dot(q, k) + x[h, i] * y[b, j]; normalizer softmax }",
        {"x": torch.linspace(-1, 1, 4 * 40).view(4, 40), "y": torch.linspace(1, -1, 2 * 40).view(2, 40)},
    ),
    "part of the keys": ("attention a { mask (i + j) % 3 == 0 and j > 9; normalizer softmax; aux lse }", {}),
    "two tile maps": ("attention a { mask j <= i and (i - j < 5 or (i - j) % 5 == 0); normalizer softmax }", {}),
}


def tokens(n: int = 40, m: int = 40, heads: int = 4, key_heads: int = 2, **kind: Any) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((2, heads, n, 16), (2, key_heads, m, 16), (2, key_heads, m, 16))
    return [torch.randn(shape, **kind) for shape in shapes]


def assert_gradients(op: attnc.Op, given: list[Tensor], tensors: dict[str, Tensor], **options: Any) -> None:
    """By the rule of attnc verify: eight times the error of plain torch, and two units in the last place."""
    inputs = Inputs(*given, tensors, {}, options)
    for item in compare_gradients(op, inputs, op_gradients(op, inputs)):
        assert item.error <= item.allowed, item


@pytest.mark.parametrize("case", cases(), ids=str)
def test_every_case_of_the_library_in_float64(case: Case) -> None:
    drawn = draw(case)
    op = attnc.compile(f"std:{case.name}", params=dict(case.params), backend="torch", tile=(16, 16))
    call = {"scale": case.scale, **drawn.tensors, **drawn.offsets}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttncWarning)  # rows without keys
        found, exact = op(drawn.q, drawn.k, drawn.v, **call), op.reference(drawn.q, drawn.k, drawn.v, **call)
    direction = torch.randn_like(exact)
    grads = [
        torch.autograd.grad((x * direction).sum(), drawn.leaves, allow_unused=True, materialize_grads=True)
        for x in (found, exact)
    ]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("backend", ["torch", "interpret", "cpp"])
def test_back_ends_agree(name: str, backend: Backend) -> None:
    source, tensors = SPECS[name]
    op = attnc.compile(source=source, backend=backend, tile=(16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttncWarning)  # rows without keys
        assert_gradients(op, tokens(), tensors)


@pytest.mark.parametrize("backend", ["torch", "interpret", "cpp"])
def test_maps_of_tokens_and_of_the_output(backend: Backend) -> None:
    op = attnc.compile(source=MAPPED, backend=backend, tile=(16, 16))
    assert_gradients(op, tokens(), {"gain": torch.tensor([0.5, 1.0, 1.5, 2.0])})


@pytest.mark.parametrize("backend", ["torch", "interpret", "cpp"])
@pytest.mark.parametrize(
    "options", [{"q_offset": "end"}, {"q_offset": torch.tensor([3, 20])}, {"k_offset": 5, "q_offset": 30}], ids=str
)
def test_offsets(backend: Backend, options: dict[str, Any]) -> None:
    op = attnc.compile("std:sliding_window", params={"size": 9}, backend=backend, tile=(16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttncWarning)  # rows without keys
        assert_gradients(op, tokens(n=25), {}, **options)


@pytest.mark.parametrize("backend", ["torch", "interpret", "cpp"])
def test_packed_documents_equal_documents_one_by_one(backend: Backend) -> None:
    op = attnc.compile(source=SPECS["softmax"][0], backend=backend, tile=(16, 16))
    q, k, v = [x[:1].requires_grad_() for x in tokens()]
    starts = [0, 7, 7, 40]
    packed = op(q, k, v, cu_seqlens=torch.tensor(starts))
    direction = torch.randn_like(packed)
    found = torch.autograd.grad((packed * direction).sum(), (q, k, v))
    single = [op(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b]) for a, b in pairwise(starts) if a < b]
    expected = torch.autograd.grad((torch.cat(single, 2) * direction).sum(), (q, k, v))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_statistics_pass_gradients_back() -> None:
    op = attnc.compile("std:softmax", backend="torch")
    q, k, v = (x.requires_grad_() for x in tokens(dtype=torch.float64))

    def lse(*given: Tensor) -> Tensor:
        return op(*given, return_aux=True)[1].lse

    torch.autograd.gradcheck(lse, (q[:1, :, :5], k[:1, :, :6], v[:1, :, :6]))


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(), ids=str)
def test_every_case_of_the_library_in_cpp(case: Case) -> None:
    assert_case_in_cpp(case)


@pytest.mark.parametrize(
    "name", ["strided", "neighborhood_2d", "longformer", "relative_table", "t5", "rope", "duo", "graph", "halo"]
)
def test_cases_of_the_library_in_cpp(name: str) -> None:
    """Parts, boxes, lists, tables that pairs look up, token maps, masks that differ by head."""
    assert_case_in_cpp(next(case for case in cases() if case.name == name))


def assert_case_in_cpp(case: Case) -> None:
    drawn = draw(case)
    op = attnc.compile(f"std:{case.name}", params=dict(case.params), backend="cpp")
    given = [x.detach().float() for x in (drawn.q, drawn.k, drawn.v)]
    tensors = {name: x.detach().float() if x.is_floating_point() else x for name, x in drawn.tensors.items()}
    options = drawn.offsets if case.scale is None else {"scale": case.scale, **drawn.offsets}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttncWarning)  # rows without keys
        assert_gradients(op, given, tensors, **options)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("heads", [1, 2])
def test_strands_of_cpp(threads: int, heads: int) -> None:
    """Sums over queries by any number of threads, several of them for one head."""
    op = attnc.compile(source=SPECS["bias of rows and columns"][0], backend="cpp")
    given = tokens(n=700, m=200, heads=2, key_heads=heads)
    tensors = {"x": torch.randn(2, 700), "y": torch.randn(2, 200)}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (op_gradients(op, Inputs(*given, tensors, {}, {})) for _ in range(2))
        assert_gradients(op, given, tensors)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, second[name]) for name, a in first.items())


def test_queries_that_do_not_exist_add_nothing_in_cpp() -> None:
    """Slots of a ragged box without a query: its logits would be 0, far above those of the row whose values it has."""
    params = {"height": 9, "width": 15, "window_y": 3, "window_x": 5}
    op = attnc.compile("std:neighborhood_2d", params=params, backend="cpp")
    given = [torch.full((1, 1, 135, 4), 30.0), torch.full((1, 1, 135, 4), -30.0), torch.randn(1, 1, 135, 4)]
    found = op_gradients(op, Inputs(*given, {}, {}, {}))
    assert all(bool(x.isfinite().all()) for x in found.values())


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_tables_in_another_order_than_tokens(backend: Backend) -> None:
    source = """import std.softmax (softmax)
attention a(x: real[N, H], y: real[H, M]) { q = x[i, h] * q; score scale * dot(q, k) + y[h, j]; normalizer softmax }"""
    op = attnc.compile(source=source, backend=backend, tile=(16, 16))
    assert_gradients(op, tokens(n=4, m=5), {"x": torch.randn(4, 4), "y": torch.randn(4, 5)})


def test_a_table_that_wants_no_gradient_is_not_summed() -> None:
    op = attnc.compile("std:relative_table", params={"L": 40}, backend="interpret", tile=(16, 16))
    q, k, v = (x.requires_grad_() for x in tokens())
    op(q, k, v, table=torch.randn(4, 79)).sum().backward()  # a warning would be an error
    assert q.grad is not None


def test_a_spec_without_a_derived_backward_says_so_and_is_right() -> None:
    source = "normalizer n { m = max[j](s); w = exp(s - m) }\nattention a { normalizer n }"
    op = attnc.compile(source=source, backend="interpret", tile=(16, 16))
    with pytest.warns(AttncWarning, match=r"gradients of a are computed by torch.*maximum.*`s`"):
        assert_gradients(op, tokens(), {})


def test_gradients_of_a_table_by_pairs_say_that_torch_sums_them() -> None:
    op = attnc.compile("std:relative_table", params={"L": 40}, backend="interpret", tile=(16, 16))
    with pytest.warns(AttncWarning, match="gradients of `table`, which pairs look up"):
        assert_gradients(op, tokens(), {"table": torch.linspace(-1, 1, 4 * 79).view(4, 79)})


def test_nothing_that_wants_no_gradient_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls without a tensor that requires grad leave nothing."""
    monkeypatch.setattr(Training, "run", None)
    op = attnc.compile("std:softmax", backend="torch")
    assert not op(*tokens()).requires_grad

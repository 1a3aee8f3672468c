"""reference: the meaning beyond the formulas: masked keys, empty rows, offsets, packing, statistics, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attnc.diagnostics import CallError
from attnc.ir.module import AttentionModule
from attnc.reference import reference
from tests.oracles.modules import module_of

INF = torch.inf


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def qkv(n: int = 5, m: int = 7, *, heads: int = 4, key_heads: int = 2, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return leaf(batch, heads, n, 6), leaf(batch, key_heads, m, 6), leaf(batch, key_heads, m, 3)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def gradients(loss: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True))


CAUSAL = module_of("attention a { mask j <= i; normalizer softmax; aux lse }")


# --------------------------------------------------------------------------------------- basics


def test_causal_is_torch_sdpa() -> None:
    q, k, v = qkv(7, 7)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    close(reference(CAUSAL, q, k, v), expected)


def test_result_is_float64_and_gradients_keep_the_dtype() -> None:
    q, k, v = (x.detach().float().requires_grad_() for x in qkv())
    out = reference(CAUSAL, q, k, v)
    assert out.dtype == torch.float64
    out.sum().backward()
    assert q.grad is not None
    assert q.grad.dtype == torch.float32


def test_scale_replaces_the_default() -> None:
    q, k, v = qkv()
    close(reference(CAUSAL, q, k, v, scale=0.25), reference(CAUSAL, q * (0.25 * 6**0.5), k, v))


def test_grouped_heads_are_repeated_heads() -> None:
    module = module_of("attention a(u: real[H], w: real[Hk]) { score u[h] * dot(q, k) + w[hk] * (i + j) * h }")
    q, k, v = qkv(heads=6, key_heads=2)
    u, w = leaf(6), leaf(2)
    wide = {"tensors": {"u": u, "w": w.repeat_interleave(3)}}
    expected = reference(module, q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), **wide)
    close(reference(module, q, k, v, tensors={"u": u, "w": w}), expected)


def test_offsets_move_positions_not_rows() -> None:
    module = module_of("attention a(x: real[B, N], y: real[B, M]) { mask j <= i; score x[b, i] * y[b, j] * (i - 2*j) }")
    q, k, v = qkv()
    x, y = leaf(2, 5), leaf(2, 7)
    shift = torch.tensor([3, 1])
    found = reference(module, q, k, v, tensors={"x": x, "y": y}, q_offset=shift, k_offset=2)
    i, j = torch.arange(5) + shift[:, None], torch.arange(7) + 2
    s = x[:, :, None] * y[:, None, :] * (i[:, :, None] - 2 * j)
    s = s.masked_fill(j > i[:, :, None], -INF).softmax(-1).nan_to_num(0.0)
    close(found, s[:, None] @ v.repeat_interleave(2, 1))


def test_end_aligns_the_last_rows() -> None:
    q, k, v = qkv(3, 7)
    close(reference(CAUSAL, q, k, v, q_offset="end"), reference(CAUSAL, q, k, v, q_offset=4))


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 0), (0, 0)])
def test_no_queries_or_no_keys(n: int, m: int) -> None:
    q, k, v = qkv(n, m)
    out, aux = reference(CAUSAL, q, k, v, return_aux=True)
    assert out.shape == (2, 4, n, 3)
    assert out.eq(0).all()
    assert aux["lse"].shape == (2, 4, n)
    assert aux["lse"].eq(-INF).all()


# ------------------------------------------------------------------------- rows without keys

NORMALIZERS = {
    "softmax": "m = max[j](s); p = exp(s - m); w = p / sum[j](p); aux lse = m + log(sum[j](p))",
    "sink": "m = max(max[j](s), 0.5); p = exp(s - m); z = sum[j](p) + exp(0.5 - m); w = p / z; aux lse = m + log(z)",
    "softplus": "a = softplus(s); w = a / sum[j](a)",
    "mean": "w = s / n_keys - mean[j](s) / (2 * count[j])",
    "min": "m = min[j](s); w = sqrt(s - m + 1) / m",
}


def with_normalizer(body: str, *, mask: str = "j <= i", aux: str = "") -> AttentionModule:
    return module_of(f"normalizer n {{ {body} }}\nattention a {{ mask {mask}; normalizer n; {aux} }}")


@pytest.mark.parametrize("name", NORMALIZERS)
def test_a_row_without_keys_is_zero_and_sends_no_gradient(name: str) -> None:
    module = with_normalizer(NORMALIZERS[name])
    leaves = qkv(5, 7)
    out = reference(module, *leaves, q_offset=-3)
    assert out[:, :, :3].eq(0).all()
    assert out[:, :, 3:].ne(0).all()
    found = gradients(out.sum(), leaves)
    assert all(g.isfinite().all() for g in found)
    assert found[0][:, :, :3].eq(0).all()
    assert found[0][:, :, 4:].ne(0).all()
    alone = reference(module, leaves[0][:, :, 3:], *leaves[1:])
    close(out[:, :, 3:], alone)
    for whole, part in zip(found, gradients(alone.sum(), leaves), strict=True):
        close(whole, part)


@pytest.mark.parametrize("name", ["softmax", "sink"])
def test_statistics_of_a_row_without_keys(name: str) -> None:
    module = with_normalizer(NORMALIZERS[name], aux="aux lse")
    leaves = qkv(5, 7)
    lse = reference(module, *leaves, q_offset=-3, return_aux=True)[1]["lse"]
    assert lse[:, :, :3].eq(-INF).all()
    assert lse[:, :, 3:].isfinite().all()
    assert all(g.isfinite().all() for g in gradients(lse[:, :, 3:].sum() + 0 * lse.sum().nan_to_num(), leaves))


def test_statistics_of_the_empty_set() -> None:
    body = "w = s; aux low = min[j](s) + 1; aux total = sum[j](s); aux n = real(count[j]); aux avg = mean[j](s)"
    body += "; aux both = sum[j](s) + n_keys"
    module = with_normalizer(body, aux="aux low; aux total; aux n; aux avg; aux both")
    aux = reference(module, *qkv(2, 3), q_offset=-1, return_aux=True)[1]
    assert {name: value[0, 0, 0].item() for name, value in aux.items()} == {
        "low": INF, "total": 0.0, "n": 0.0, "avg": 0.0, "both": 0.0,
    }  # fmt: skip
    assert aux["n"][0, 0, 1] == 1


def test_output_maps_see_zero_in_a_row_without_keys() -> None:
    module = module_of("attention a(shift: real[H, Dv]) { mask j < i; output o + shift[h] }")
    shift = leaf(4, 3)
    out = reference(module, *qkv(3, 3), tensors={"shift": shift})
    close(out[:, :, 0], shift.expand(2, 4, 3))


# ------------------------------------------------------------------------ what is masked, is not


@pytest.mark.parametrize("score", ["log(i - j + 1)", "sqrt(i - j)", "exp(1000 * (j - i))", "1 / (i - j + 1)"])
def test_scores_of_masked_keys_poison_nothing(score: str) -> None:
    text = f"attention a(x: real[H]) {{ mask j < i; score dot(q, k) + (x[h] * 1) * ({score}); normalizer softmax }}"
    leaves = (*qkv(5, 5), leaf(4))
    out = reference(module_of(text), *leaves[:3], tensors={"x": leaves[3]})
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(out.sum(), leaves))


def test_values_of_keys_that_a_row_does_not_see_do_not_leak() -> None:
    q, k, v = qkv(6, 6)
    v = torch.cat((v[:, :, :4], torch.full_like(v[:, :, 4:], torch.nan)), 2)
    out = reference(CAUSAL, q, k, v)
    assert out[:, :, :4].isfinite().all()
    assert out[:, :, 4:].isnan().all()


@pytest.mark.parametrize("poison", [torch.nan, INF])
def test_keys_that_nobody_sees_leak_nowhere(poison: float) -> None:
    clean = qkv(5, 7)
    q, k, v = clean
    k, v = (torch.cat((x[:, :, :5], torch.full_like(x[:, :, 5:], poison)), 2) for x in (k, v))
    out = reference(CAUSAL, q, k, v)
    close(out, reference(CAUSAL, *clean))
    for found, expected in zip(
        gradients(out.sum(), clean), gradients(reference(CAUSAL, *clean).sum(), clean), strict=True
    ):
        close(found, expected)


# ------------------------------------------------------------------------- scores of minus infinity

BIASED = module_of("attention a(x: real[N, M]) { mask j <= i; bias x[i, j]; normalizer softmax; aux lse }")


def test_minus_infinity_is_a_key_of_weight_zero() -> None:
    x = torch.zeros(5, 5)
    x[3, 1] = x[4, 2:] = -INF
    x[0] = x[2] = -INF  # rows without keys
    leaves = (*qkv(5, 5), x.double().requires_grad_())
    out, aux = reference(BIASED, *leaves[:3], tensors={"x": leaves[3]}, return_aux=True)
    keep = (x == 0).tril()
    s = leaves[0] @ leaves[1].repeat_interleave(2, 1).mT / 6**0.5
    w = s.masked_fill(~keep, -INF).softmax(-1).nan_to_num(0.0)
    close(out, w @ leaves[2].repeat_interleave(2, 1))
    assert aux["lse"][:, :, [0, 2]].eq(-INF).all()
    found = gradients(out.sum() + aux["lse"][:, :, 1].sum(), leaves)
    assert all(g.isfinite().all() for g in found)
    assert found[0][:, :, [0, 2]].eq(0).all()


def test_rows_of_minus_infinity_have_keys_where_scores_do_not_matter() -> None:
    module = module_of("normalizer n { w = 1 / n_keys }\nattention a(x: real[N, M]) { bias x[i, j]; normalizer n }")
    q, k, v = qkv(3, 3)
    out = reference(module, q, k, v, tensors={"x": torch.full((3, 3), -INF)})
    close(out, v.repeat_interleave(2, 1).mean(2, keepdim=True).expand_as(out))


# --------------------------------------------------------------------------- kinds of normalizers


def kept_scores(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    s = q @ k.repeat_interleave(2, 1).mT / 6**0.5
    return s, torch.ones_like(s, dtype=torch.bool).tril()


def test_softmax_over_queries() -> None:
    module = with_normalizer("c = max[i](s); p = exp(s - c); w = p / sum[i](p); aux col = c + log(sum[i](p))",
                             aux="aux col")  # fmt: skip
    leaves = q, k, v = qkv(5, 7)
    out, aux = reference(module, *leaves, return_aux=True)
    s, keep = kept_scores(q, k)
    w = s.masked_fill(~keep, -INF).softmax(-2).nan_to_num(0.0)
    close(out, w @ v.repeat_interleave(2, 1))
    assert aux["col"].shape == (2, 4, 7)
    assert aux["col"][:, :, 5:].eq(-INF).all()
    close(aux["col"][:, :, :5], s.masked_fill(~keep, -INF).logsumexp(-2)[:, :, :5])
    expected = gradients((w.masked_fill(~keep, 0) @ v.repeat_interleave(2, 1)).sum(), (v,))
    found = gradients(out.sum() + aux["col"][:, :, :5].sum(), leaves)
    assert all(g.isfinite().all() for g in found)
    close(found[2], expected[0])


def test_softmax_inside_groups_of_keys() -> None:
    body = "m = max[j by j % 3](s); p = exp(s - m); w = p / sum[j by j % 3](p) + 0 * count[j by j % 3]"
    leaves = q, k, v = qkv(7, 7)
    out = reference(with_normalizer(body), *leaves)
    s, keep = kept_scores(q, k)
    expected = torch.zeros_like(out)
    for group in range(3):
        member = torch.arange(7) % 3 == group
        w = s.masked_fill(~(keep & member), -INF).softmax(-1).nan_to_num(0.0)
        expected = expected + w @ v.repeat_interleave(2, 1)
    close(out, expected)
    assert all(g.isfinite().all() for g in gradients(out.sum(), leaves))


LSSAR = """
  a = softplus(s); n = a / sum[j](a)
  x = relu(n_keys * n - 1); m = max[j](x)
  y = (x / m) ^ 15
  w = where(m > 0, y / sum[j](y), n)
"""


def test_a_branch_not_taken_sends_no_gradient_through_bindings() -> None:
    leaves = q, k, v = qkv(6, 6)  # the first row sees one key: x = 0, m = 0, y = 0/0
    out = reference(with_normalizer(LSSAR), *leaves)
    close(out[:, :, 0], v.repeat_interleave(2, 1)[:, :, 0])
    s, keep = kept_scores(q, k)
    a = torch.where(keep, torch.logaddexp(s, torch.zeros_like(s)), 0.0)
    n = a / a.sum(-1, keepdim=True)
    y = torch.relu(n * keep.sum(-1, keepdim=True) - 1)[:, :, 1:] ** 15
    close(out[:, :, 1:], y / y.sum(-1, keepdim=True) @ v.repeat_interleave(2, 1))
    found = gradients(out.sum(), leaves)
    assert all(g.isfinite().all() for g in found)


def test_linear_weights_over_mapped_vectors() -> None:
    text = """
    feature elu1(x) = elu(x) + 1
    normalizer linear { a = dot(elu1(q), elu1(k)); w = a / sum[j](a) }
    attention a { mask j <= i; normalizer linear }
    """
    q, k, v = qkv(5, 5)
    a = ((torch.nn.functional.elu(q) + 1) @ (torch.nn.functional.elu(k) + 1).repeat_interleave(2, 1).mT).tril()
    close(reference(module_of(text), q, k, v), a / a.sum(-1, keepdim=True) @ v.repeat_interleave(2, 1))


def test_n_keys_counts_what_the_mask_keeps() -> None:
    module = module_of("normalizer n { w = real(n_keys) }\nattention a { mask j <= i and j % 2 == 0; normalizer n }")
    q, k, v = qkv(5, 7)
    mask = torch.ones(5, 7).tril() * (torch.arange(7) % 2 == 0)
    close(reference(module, q, k, v), (mask * mask.sum(-1, keepdim=True)).double() @ v.repeat_interleave(2, 1))


def test_a_score_may_compare_with_the_other_keys() -> None:
    module = module_of("attention a { mask j <= i; score exp(dot(q, k) - max[j](dot(q, k))) }")
    leaves = q, k, v = qkv(5, 7)
    out = reference(module, *leaves, q_offset=-2)
    dots = (q @ k.repeat_interleave(2, 1).mT)[:, :, 2:]
    keep = torch.ones(3, 7, dtype=torch.bool).tril()
    s = (dots - dots.masked_fill(~keep, -INF).amax(-1, keepdim=True)).exp()
    close(out[:, :, 2:], s.masked_fill(~keep, -INF).softmax(-1) @ v.repeat_interleave(2, 1))
    assert out[:, :, :2].eq(0).all()
    assert all(g.isfinite().all() for g in gradients(out.sum(), leaves))


def test_gradients_of_tensors_and_parameters() -> None:
    text = "attention a(x: real[B, H, N], t: real dynamic) { mask j <= i; score dot(q, k) * x[b, h, i] * t }"
    leaves = (*qkv(3, 4, heads=2, key_heads=1, batch=1), leaf(1, 2, 3), leaf())
    module = module_of(text)

    def run(q: Tensor, k: Tensor, v: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return reference(module, q, k, v, tensors={"x": x}, params={"t": t}, q_offset=-1)

    assert torch.autograd.gradcheck(run, leaves)


def test_dynamic_parameters_have_defaults() -> None:
    module = module_of("attention a(size: int dynamic = 2) { mask 0 <= i - j < size }")
    q, k, v = qkv(5, 5)
    close(reference(module, q, k, v), reference(module, q, k, v, params={"size": 2}))
    close(reference(module, q, k, v, params={"size": 99}), reference(CAUSAL, q, k, v))


# ------------------------------------------------------------------------------- packed documents

PACKED = """
attention a(x: real[B, H, N], y: int[B, M], z: real[H, 9]) {
  mask  j <= i and y[b, j] >= 0
  bias  x[b, h, i] * y[b, j] + z[h, i % 9] / n_keys + M - N
  normalizer softmax
  aux   lse
}
"""


def test_packed_documents_are_a_loop_over_documents() -> None:
    module = module_of(PACKED)
    q, k, v = qkv(12, 14, batch=1)
    x, y, z = leaf(1, 4, 12), torch.randint(-1, 3, (1, 14)), leaf(4, 9)
    rows, columns = [0, 3, 3, 10, 12], [0, 4, 5, 12, 14]
    cu = (torch.tensor(rows), torch.tensor(columns))
    tensors = {"x": x, "y": y, "z": z}
    out, aux = reference(module, q, k, v, tensors=tensors, cu_seqlens=cu, q_offset="end", return_aux=True)
    for a, b, c, d in zip(rows[:-1], rows[1:], columns[:-1], columns[1:], strict=True):
        part = {"x": x[:, :, a:b], "y": y[:, c:d], "z": z}
        alone = reference(
            module, q[:, :, a:b], k[:, :, c:d], v[:, :, c:d], tensors=part, q_offset="end", return_aux=True
        )
        close(out[:, :, a:b], alone[0])
        close(aux["lse"][:, :, a:b], alone[1]["lse"])


def test_one_list_of_lengths_serves_both_sides() -> None:
    q, k, v = qkv(9, 9, batch=1)
    cu = torch.tensor([0, 4, 9])
    found = reference(CAUSAL, q, k, v, cu_seqlens=cu)
    document = (torch.arange(9) >= 4).long()[None]
    same = module_of("attention a(seg: int[B, M]) { mask j <= i and seg[b, i] == seg[b, j] }")
    close(found, reference(same, q, k, v, tensors={"seg": document}))


# ----------------------------------------------------------------------------------- wrong calls

WITH_TENSOR = module_of("attention a(x: real[H, 2*L - 1], L: int = 3) { bias x[h, 0] }")
WRONG: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Any], str]] = {
    "heads": (lambda q, k, v: reference(CAUSAL, q[:, :3], k, v), "H a multiple of Hk"),
    "keys": (lambda q, k, v: reference(CAUSAL, q, k[:, :, 1:], v), "expected q"),
    "missing": (lambda q, k, v: reference(WITH_TENSOR, q, k, v), r"takes the tensors \['x'\], got \[\]"),
    "shape": (
        lambda q, k, v: reference(WITH_TENSOR, q, k, v, tensors={"x": torch.ones(4, 6)}),
        r"tensor x: expected shape \(4, 5\), got \(4, 6\)",
    ),
    "parameter": (lambda q, k, v: reference(CAUSAL, q, k, v, params={"size": 3}), "no dynamic parameter size"),
    "batch": (lambda q, k, v: reference(CAUSAL, q, k, v, cu_seqlens=torch.tensor([0, 5])), "batch of 1"),
    "lengths": (
        lambda q, k, v: reference(CAUSAL, q[:1], k[:1, :, :5], v[:1, :, :5], cu_seqlens=torch.tensor([0, 4])),
        "rise from 0 to the 5 tokens",
    ),
    "documents": (
        lambda q, k, v: reference(
            CAUSAL, q[:1], k[:1], v[:1], cu_seqlens=(torch.tensor([0, 5]), torch.tensor([0, 3, 7]))
        ),
        "1 documents of queries, 2 of keys",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_say_what_is_wrong(name: str) -> None:
    run, message = WRONG[name]
    with pytest.raises(CallError, match=message):
        run(*qkv())


def test_missing_parameters_are_named() -> None:
    module = module_of("attention a(size: int dynamic) { mask i - j < size }")
    with pytest.raises(CallError, match="needs the parameter size"):
        reference(module, *qkv())

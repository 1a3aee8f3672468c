"""columns: what is constant along the queries becomes a statistic of the exchanged attention."""

from __future__ import annotations

import pytest
import torch

import attnc
from attnc.ir.printer import print_expr
from attnc.passes.columns import reads_columns, split_columns
from tests.oracles.modules import module_of, standard


def test_the_largest_value_of_a_column_is_one_statistic() -> None:
    split = split_columns(standard("reversed", causal=True), 1)
    assert [print_expr(b.expr) for b in split.keys.aux] == ["max[j](s) + log(sum[j](exp(s - max[j](s))))"]
    assert print_expr(split.keys.mask) == "i <= j"
    assert print_expr(split.rows.cascade[0].expr) == "exp(s - column_0[b, h, j])"


def test_what_is_reduced_over_keys_stays_with_the_rows() -> None:
    split = split_columns(standard("flow"), 1)
    assert not reads_columns(split.rows)
    assert reads_columns(split.keys)
    assert not reads_columns(split_columns(split.keys, 1).keys)
    assert "sum[j](column_1[b, h, j])" in print_expr(split.rows.cascade[0].expr)


def test_heads_of_a_group_are_counted() -> None:
    text = "normalizer n(t: real[Hk, M]) { w = t[hk, j] * s / sum[i](abs(s) + t[hk, j]) }\n"
    module = module_of(text + "attention a(t: real[Hk, M]) { normalizer n(t) }")
    aux = split_columns(module, 2).keys.aux[0].expr
    assert print_expr(aux) == "sum[j](abs(s) + t[h // 2, i])"


SPECS = {
    "L1 after softmax": (
        "m = max[i](s); c = m + log(sum[i](exp(s - m))); p = exp(s - c); z = sum[j](p); w = p / (z + 1e-3); "
        "aux c = c; aux z = z"
    ),
    "counts": "w = softplus(s) / (1 + count[i](j <= i)) / (1 + sum[j](softplus(s)))",
    "mean of columns": "a = softplus(s); w = a / (0.1 + mean[i](a)) / (1 + max[j](mean[i](a)))",
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("backend", ["torch", "interpret"])
def test_stages_compute_what_the_oracle_says(name: str, backend: attnc.ops.Backend) -> None:
    torch.manual_seed(0)
    op = attnc.compile(source=f"normalizer n {{ {SPECS[name]} }}\nattention a {{ mask i - j < 9; normalizer n }}",
                       backend=backend, tile=(16, 16))  # fmt: skip
    dtype = torch.float64 if backend == "torch" else torch.float32
    q, k, v = (torch.randn(2, heads, n, 8, dtype=dtype) for heads, n in ((4, 19), (2, 23), (2, 23)))
    for call in ({}, {"q_offset": "end"}, {"q_offset": torch.tensor([0, 5]), "k_offset": 2}):
        (out, aux), (exact, exact_aux) = (run(q, k, v, return_aux=True, **call) for run in (op, op.reference))
        torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-6)
        assert list(aux) == list(exact_aux)
        for item in aux:
            torch.testing.assert_close(aux[item].double(), exact_aux[item], rtol=1e-5, atol=1e-5)


def test_packed_documents_have_their_own_columns() -> None:
    torch.manual_seed(0)
    op = attnc.compile("std:reversed", params={"causal": True}, backend="torch")
    q, k, v = (torch.randn(1, 2, 17, 8, dtype=torch.float64) for _ in range(3))
    starts = torch.tensor([0, 5, 5, 17])
    torch.testing.assert_close(op(q, k, v, cu_seqlens=starts), op.reference(q, k, v, cu_seqlens=starts))

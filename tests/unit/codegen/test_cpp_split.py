"""Few queries over many keys in C++: keys read where they lie, split among threads, and merged exactly."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch

import attnc

#: One-pass specs of the library, with what their calls are given: per-head tensors by name.
SPECS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "causal": ({}, ()),
    "sliding_window": ({"size": 700}, ()),
    "alibi": ({}, ("slope",)),
    "softmax_sink": ({"causal": True}, ("sink",)),
    "sigmoid": ({"causal": True}, ()),
    "softcap": ({"causal": True}, ()),
}


@pytest.fixture(autouse=True)
def threads() -> Generator[None]:
    """Three threads: keys are split only where there are several."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def check(op: attnc.Op, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **given: Any) -> None:
    """Output and statistics are those of the oracle."""
    out, aux = op(q, k, v, return_aux=True, **given)
    exact, statistics = op.reference(q, k, v, return_aux=True, **given)
    loose = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[q.dtype]
    torch.testing.assert_close(out.double(), exact, rtol=loose, atol=loose)
    for name, value in aux.items():
        torch.testing.assert_close(value.double(), statistics[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("share", "rows"), [(8, 1), (3, 2)])
def test_one_pass_specs_merge_to_the_oracle(name: str, share: int, rows: int) -> None:
    params, tensors = SPECS[name]
    op = attnc.compile(f"std:{name}", params=params, backend="cpp")
    q, k, v = tokens(2, share, rows, 24), tokens(2, 1, 2500, 24, seed=1), tokens(2, 1, 2500, 40, seed=2)
    check(op, q, k, v, q_offset="end", **{n: tokens(share, seed=3).abs() / 100 for n in tensors})


@pytest.mark.parametrize(("share", "rows"), [(1, 1), (2, 1), (16, 3), (1, 40), (32, 2)])
def test_groups_of_any_size(share: int, rows: int) -> None:
    op = attnc.compile("std:causal", backend="cpp")
    q, k, v = tokens(1, 2 * share, rows, 24), tokens(1, 2, 2500, 24, seed=1), tokens(1, 2, 2500, 40, seed=2)
    check(op, q, k, v, q_offset="end")


@pytest.mark.parametrize(
    ("dtype", "dims"), [(torch.float32, (64, 128)), (torch.float16, (40, 1)), (torch.bfloat16, (17, 130))]
)
def test_rows_of_any_length_and_layout(dtype: torch.dtype, dims: tuple[int, int]) -> None:
    op = attnc.compile("std:causal", backend="cpp")
    q = tokens(1, 8, 2, dims[0]).to(dtype)
    k, v = (tokens(1, 900, 2, dim, seed=dim).to(dtype).transpose(1, 2) for dim in dims)
    check(op, q, k, v, q_offset="end")


def test_features_that_are_apart_are_packed() -> None:
    op = attnc.compile("std:causal", backend="cpp")
    q, k, v = tokens(1, 4, 1, 16), tokens(1, 1, 900, 32, seed=1)[..., ::2], tokens(1, 1, 900, 16, seed=2)
    check(op, q, k, v, q_offset="end")
    assert "row_products" not in op.source


def test_keys_removed_by_themselves_are_not_read() -> None:
    op = attnc.compile("std:causal", backend="cpp", key_mask="pad")
    q, k, v = tokens(2, 4, 1, 32), tokens(2, 1, 2000, 32, seed=1), tokens(2, 1, 2000, 32, seed=2)
    pad = torch.rand((2, 2000), generator=torch.Generator().manual_seed(3)) < 0.6
    k[:, 0][~pad] = v[:, 0][~pad] = float("nan")
    out = op(q, k, v, q_offset="end", pad=pad)
    exact = op.reference(q, k.nan_to_num(), v.nan_to_num(), q_offset="end", pad=pad)
    torch.testing.assert_close(out.double(), exact, rtol=3e-6, atol=3e-6)


def test_documents_of_a_pack_decode_side_by_side() -> None:
    op = attnc.compile("std:causal", backend="cpp")
    q, k, v = tokens(1, 4, 5, 16), tokens(1, 2, 3000, 16, seed=1), tokens(1, 2, 3000, 16, seed=2)
    starts = torch.tensor([0, 1, 2, 2, 4, 5]), torch.tensor([0, 2300, 2301, 2301, 2900, 3000])
    check(op, q, k, v, q_offset="end", cu_seqlens=starts)


@pytest.mark.filterwarnings("ignore::attnc.diagnostics.AttncWarning")
def test_rows_whose_keys_lie_in_one_segment_or_none() -> None:
    op = attnc.compile("std:sliding_window", params={"size": 10}, backend="cpp")
    q, k, v = tokens(3, 2, 2, 16), tokens(3, 1, 3000, 16, seed=1), tokens(3, 1, 3000, 16, seed=2)
    check(op, q, k, v, q_offset=torch.tensor([0, 1500, 9000]))


def test_results_repeat_for_a_number_of_threads() -> None:
    op = attnc.compile("std:causal", backend="cpp")
    q, k, v = tokens(1, 8, 1, 64), tokens(1, 1, 5000, 64, seed=1), tokens(1, 1, 5000, 64, seed=2)
    first = op(q, k, v, q_offset="end")
    assert all(torch.equal(first, op(q, k, v, q_offset="end")) for _ in range(20))

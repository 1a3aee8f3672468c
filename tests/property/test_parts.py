"""Masks that are split into parts with tile maps of their own: no pair is lost or seen twice, results are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import attnc
from attnc.compiler import compile_module
from attnc.explain import explain
from attnc.ir.plan import PlanOptions, Tile
from attnc.kept import truth_of
from attnc.passes.pipeline import make_plan

MASKS = {
    "a window and every fifth key": ("j <= i and ((i - j) % 5 == 0 or i - j < 5)", 90),
    "the same, back and forth": ("abs(i - j) < 6 or i % 7 == j % 7", 75),
    "a cross on a grid": ("i.y == j.y or i.x == j.x", 96),
}
GRID = "grid (y: 8, x: 12)"


def source(mask: str, normalizer: str = "softmax") -> str:
    """A spec of one mask."""
    grid = GRID if "." in mask else ""
    text = """normalizer twice {
  m = max[j](s)
  p = exp(s - m)
  n = p / sum[j](p)
  y = n ^ 2
  w = y / sum[j](y)
  aux lse = m + log(sum[j](p))
}
"""
    head = text if normalizer == "twice" else ""
    return f"{head}attention a {{\n{grid}\nmask {mask}\nnormalizer {normalizer}\naux lse\n}}"


def split_plan(mask: str) -> Any:
    """The plan of an aligned call."""
    return make_plan(
        compile_module(None, source=source(mask), params={}), PlanOptions(16, 16, 4, Tile(16, 16), aligned=True)
    )


@pytest.mark.parametrize("name", MASKS)
def test_parts_keep_every_pair_once(name: str) -> None:
    mask, n = MASKS[name]
    plan = split_plan(mask)
    assert len(plan.parts) == 2
    x = np.arange(n)
    names = {"N": n, "M": n, "q_offset": 0, "k_offset": 0, "i": x[:, None], "r": x[:, None], "j": x, "c": x}
    total = sum(np.broadcast_to(truth_of(plan.mask_of(part), names), (n, n)).astype(int) for part in plan.parts)
    np.testing.assert_array_equal(total, np.broadcast_to(truth_of(plan.mask, names), (n, n)).astype(int))


@pytest.mark.parametrize("backend", ["torch", "interpret"])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("normalizer", ["softmax", "twice"])
def test_back_ends_continue_from_part_to_part(backend: Any, name: str, normalizer: str) -> None:
    mask, n = MASKS[name]
    op = attnc.compile(source=source(mask, normalizer), backend=backend, tile=(16, 16))
    generator = torch.Generator().manual_seed(n)
    q, k, v = (torch.randn(2, heads, n, d, generator=generator) for heads, d in ((2, 16), (1, 16), (1, 24)))
    out, aux = op(q, k, v, return_aux=True)
    assert len(op.plan.parts) == 2
    assert len(op.plan.sweeps) == (2 if normalizer == "twice" else 1)
    exact, statistics = op.reference(q, k, v, return_aux=True)
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=3e-6)
    torch.testing.assert_close(aux.lse.double(), statistics.lse, rtol=1e-5, atol=2e-6)


def test_gradients_go_through_parts() -> None:
    op = attnc.compile(source=source(MASKS["a cross on a grid"][0]), backend="torch", tile=(16, 16))
    q = torch.randn(1, 1, 96, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: op(x, x * 2, x + 1), (q,), fast_mode=True)
    assert len(op.plan.parts) == 2


def test_a_band_and_a_residue_class_visit_little_more_than_they_keep() -> None:
    module = compile_module("std:strided", params={"stride": 128, "merged": True})
    plan = make_plan(module, PlanOptions(64, 64, 2, Tile(64, 64), aligned=True))
    report = explain(plan, 16384, 16384, "cuda:90")
    assert report.visited_over_kept is not None
    assert report.visited_over_kept <= 1.55
    one = make_plan(module, PlanOptions(64, 64, 2, Tile(64, 64)))
    assert explain(one, 16384, 16384, "cuda:90").visited_pairs > 5 * report.visited_pairs


@pytest.mark.parametrize("mask", ["j <= i and (j < 4 or i - j < 16)", "i % 4 == j % 4", "j <= i"])
def test_what_one_map_serves_stays_one_part(mask: str) -> None:
    assert len(split_plan(mask).parts) == 1

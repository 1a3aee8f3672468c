"""Lists of tiles that a call makes: they visit what the mask keeps, and the back ends compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

import attnc
from attnc.calls import RawCall, check_call
from attnc.compiler import compile_module
from attnc.ir.module import AttentionModule
from attnc.ir.plan import KernelPlan, PlanOptions, Tile
from attnc.passes.pipeline import make_plan
from attnc.passes.tile_lists import TileList
from attnc.reference import reference
from attnc.tile_lists import list_tiles

HEADER = (
    "attention a(seg: int[B, N], ids: int[B, M], keep: bool[B, M], pair: bool[B, N, M], low: int[H], kv: int[Hk, M], "
    "block: int[H, 9, 7])"
)
CLAUSES = (
    "seg[b, i] == ids[b, j]",
    "seg[b, i] < ids[b, j]",
    "keep[b, j]",
    "not keep[b, j]",
    "pair[b, i, j]",
    "j <= i + low[h]",
    "kv[hk, j] <= 1",
    "i - j < 20 + seg[b, i]",
    "exists n in 0..2: ids[b, j] == seg[b, i] + n",
    "j <= i",
    "low[h] > 0",
    "ids[b, i // 8] == j // 16",
    "block[h, i // 16, j // 16] > 1",
    "block[h, (i + 3) // 5, 6 - j // 32] == 1",
)


@dataclass(frozen=True)
class Drawn:
    """A call: the module, its sizes and offsets, and tensors."""

    module: AttentionModule
    sizes: tuple[int, int, int]
    offsets: tuple[int, int]
    tensors: Mapping[str, Tensor]

    @property
    def call(self) -> Any:
        batch, n, m = self.sizes
        q, k = torch.zeros(batch, 4, n, 4), torch.zeros(batch, 2, m, 4)
        return check_call(self.module, RawCall(q, k, k, *self.offsets, None, None, False, "basic", dict(self.tensors)))


@st.composite
def calls(draw: st.DrawFn) -> Drawn:
    """One to three clauses joined by and / or, tensors that are alike in neighbouring positions."""
    clauses = draw(st.lists(st.sampled_from(CLAUSES), min_size=1, max_size=3))
    text = clauses[0]
    for clause in clauses[1:]:
        text = f"({text}) {draw(st.sampled_from(['and', 'or']))} ({clause})"
    module = compile_module(None, source=f"{HEADER} {{\nmask {text}\n}}", params={})
    batch, n = draw(st.integers(1, 2)), draw(st.integers(1, 150))
    m = draw(st.sampled_from([n, n + 7, 1, 64]))
    offsets = draw(st.sampled_from([(0, 0), (0, 0), (3, 0), (5, 2)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def random(*shape: int) -> Tensor:
        return torch.randint(0, 4, shape, generator=generator)

    tensors = {
        "seg": random(batch, n).sort(dim=1).values,
        "ids": random(batch, m).sort(dim=1).values,
        "keep": random(batch, m).sort(dim=1).values > 1,
        "pair": (random(batch, (n + 15) // 16, (m + 15) // 16) > 1)
        .repeat_interleave(16, 1)
        .repeat_interleave(16, 2)[:, :n, :m],
        "low": random(4) * 20 - 30,
        "kv": random(2, m).sort(dim=1).values,
        "block": random(4, 9, 7),
    }
    return Drawn(module, (batch, n, m), offsets, tensors)


def plan_of(module: AttentionModule, tile: Tile) -> KernelPlan:
    """The plan of calls that list."""
    return make_plan(module, PlanOptions(4, 4, 4, tile, listed=True))


def dense(drawn: Drawn) -> NDArray[np.bool_]:
    """The mask [B, H, N, M] by its dense meaning: where a value arrives."""
    batch, n, m = drawn.sizes
    zeros = torch.zeros(batch, 4, n, 1, dtype=torch.float64)
    keys = torch.zeros(batch, 2, m, 1, dtype=torch.float64)
    eye = torch.eye(m, dtype=torch.float64).expand(batch, 2, m, m)
    offsets = dict(zip(("q_offset", "k_offset"), drawn.offsets, strict=True))
    out = reference(drawn.module, zeros, keys, eye, tensors=drawn.tensors, params={}, **offsets)
    return (out > 0).numpy()


@given(calls(), st.sampled_from([4, 16]), st.sampled_from([8, 16]))
def test_lists_cover_the_mask_and_full_tiles_are_full(drawn: Drawn, rows: int, keys: int) -> None:
    plan = plan_of(drawn.module, Tile(rows, keys))
    part = plan.parts[0]
    if part.listing is None:
        return
    found = list_tiles(plan, part, drawn.call)
    assert found is not None
    kept = dense(drawn)
    if not part.listing.batches:
        kept = kept[:1]
    heads = {"": kept[:, :1], "hk": kept[:, ::2], "h": kept}[part.listing.heads]
    groups = heads.reshape(-1, *heads.shape[2:])
    assert found.groups == len(groups)
    for group, pairs in enumerate(groups):
        covered = np.zeros_like(pairs)
        for tile in range(found.query_tiles):
            cover(found, group * found.query_tiles + tile, pairs, covered, Tile(rows, keys))
        assert not (pairs & ~covered).any()


def cover(found: TileList, unit: int, pairs: NDArray[np.bool_], covered: NDArray[np.bool_], tile: Tile) -> None:
    """Mark the tiles of a unit; none twice, full ones whole and full."""
    first = unit % found.query_tiles * tile.rows
    start = int(found.starts[unit])
    for n, key in enumerate(found.entries[start : start + int(found.live[unit])].tolist()):
        here = (slice(first, first + tile.rows), slice(key * tile.keys, (key + 1) * tile.keys))
        assert not covered[here].any()
        covered[here] = True
        if n < found.full[unit]:
            assert pairs[here].all()
            assert pairs[here].shape[1] == tile.keys


def test_sorted_ids_visit_no_other_document() -> None:
    ids = torch.repeat_interleave(torch.arange(60), 100)[None]
    module = compile_module("std:document", params={})
    plan = plan_of(module, Tile(32, 32))
    zeros = torch.zeros(1, 1, 6000, 4)
    call = check_call(module, RawCall(zeros, zeros, zeros, 0, 0, None, None, False, "basic", {"seg": ids}))
    found = list_tiles(plan, plan.parts[0], call)
    assert found is not None
    tiles = np.arange(188)
    first, last = (
        tiles * 32 // 100 * 100 // 32,
        np.minimum((np.minimum(tiles * 32 + 31, 5999) // 100 + 1) * 100 - 1, 5999) // 32,
    )
    np.testing.assert_array_equal(found.live, last - first + 1)
    assert (np.diff(found.packed()[: 4 * 188].reshape(-1, 4)[:, 3]) <= 0).all()  # the most work first


def test_a_table_of_blocks_visits_the_blocks_that_it_keeps() -> None:
    text = "attention a(dense: bool[(N + 15) // 16, (M + 15) // 16]) { mask dense[i // 16, j // 16] }"
    module = compile_module(None, source=text, params={})
    kept = torch.rand(20, 20, generator=torch.Generator().manual_seed(0)) < 0.2
    q = torch.zeros(1, 1, 320, 4)
    call = check_call(module, RawCall(q, q, q, 0, 0, None, None, False, "basic", {"dense": kept}))
    plan = plan_of(module, Tile(16, 16))
    found = list_tiles(plan, plan.parts[0], call)
    assert found is not None
    assert int(found.live.sum()) == int(found.full.sum()) == int(kept.sum())


def test_a_list_that_would_be_too_long_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnc.passes.tile_lists.MAX_ENTRIES", 20)
    op = attnc.compile("std:document", backend="torch", tile=(16, 16))
    ids = torch.zeros(1, 200, dtype=torch.int32)
    q = torch.randn(1, 1, 200, 8)
    out = op(q, q, q, seg=ids)
    assert op.plan.parts[0].listing is None
    torch.testing.assert_close(out.double(), op.reference(q, q, q, seg=ids), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backend", ["torch", "interpret"])
@pytest.mark.parametrize(
    "clauses",
    [
        "block[h, i // 16, j // 16] > 1 and j <= i + 30",
        "keep[b, j] and seg[b, i] == ids[b, j]",
        "kv[hk, j] <= 1 or pair[b, i, j]",
        CLAUSES[5],
    ],
)
def test_back_ends_compute_listed_tiles(backend: Any, clauses: str) -> None:
    op = attnc.compile(source=f"{HEADER} {{\nmask {clauses}\naux lse\n}}", backend=backend, tile=(16, 16))
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "seg": torch.randint(0, 3, (2, 90), generator=generator).sort(dim=1).values,
        "ids": torch.randint(0, 3, (2, 75), generator=generator).sort(dim=1).values,
        "keep": torch.arange(75).expand(2, 75) < torch.tensor([[75], [31]]),
        "pair": torch.rand(2, 90, 75, generator=generator) > 0.98,
        "low": torch.tensor([-100, -40, 0, 9]),
        "kv": torch.randint(0, 3, (2, 75), generator=generator).sort(dim=1).values,
        "block": torch.randint(0, 3, (4, 9, 7), generator=generator),
    }
    q = torch.randn(2, 4, 90, 16, generator=generator)
    k, v = (torch.randn(2, 2, 75, 16, generator=generator) for _ in range(2))
    out, aux = op(q, k, v, return_aux=True, **tensors)
    assert (op.plan.parts[0].listing is None) == (clauses == CLAUSES[5])
    exact, statistics = op.reference(q, k, v, return_aux=True, **tensors)
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(aux.lse.double(), statistics.lse, rtol=1e-5, atol=2e-6)


def test_ids_beyond_what_a_double_tells_apart() -> None:
    ids = torch.full((1, 100), 2**53, dtype=torch.int64)
    ids[:, 50:] += 1
    op = attnc.compile("std:document", backend="torch", tile=(16, 16))
    q = torch.randn(1, 1, 100, 8)
    torch.testing.assert_close(op(q, q, q, seg=ids).double(), op.reference(q, q, q, seg=ids), rtol=1e-5, atol=2e-6)

"""Launching: the table of tiles of packed documents, and the arguments of a call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnc.codegen.context import Variant
from attnc.codegen.launch import CallInputs, Launch, run_module, work_table
from attnc.codegen.triton_module import TritonModule, lower_triton
from attnc.ir.plan import Tile
from attnc.passes.pipeline import PlanOptions, make_plan
from tests.oracles.modules import module_of

TEXT = "attention a(seg: int[B, M], keep: bool[B, M], w: int dynamic, flag: bool dynamic) {"
TEXT += " mask seg[b, i] == seg[b, j] and keep[b, j] and (flag or i - j < w) }"


@given(lengths=st.lists(st.integers(0, 70), min_size=0, max_size=6), block=st.sampled_from([16, 32]))
def test_the_table_names_every_tile_of_every_document_once(lengths: list[int], block: int) -> None:
    starts = torch.tensor([sum(lengths[:n]) for n in range(len(lengths) + 1)], dtype=torch.int32)
    table = work_table(starts, sum(lengths), block)
    assert table.dtype == torch.int32
    assert table.is_contiguous()
    found = [tuple(row) for row in table.tolist() if row[0] >= 0]
    assert found == [(n, tile) for n, length in enumerate(lengths) for tile in range(-(-length // block))]
    assert all(row == [-1, -1] for row in table.tolist()[len(found) :])


def emitted(variant: Variant) -> TritonModule:
    return lower_triton(make_plan(module_of(TEXT), PlanOptions(8, 4, 4, Tile(16, 16))), variant)


def launches(variant: Variant, **change: Any) -> list[Launch]:
    """What would run for a call with 2 sequences, 4 heads, 20 queries, 24 keys."""
    tensors = {"seg": torch.zeros(2, 24, dtype=torch.int32), "keep": torch.ones(2, 24, dtype=torch.bool)}
    call: dict[str, Any] = {
        "q": torch.zeros(2, 4, 20, 8),
        "k": torch.zeros(2, 2, 24, 8),
        "v": torch.zeros(2, 2, 24, 4),
        "tensors": tensors,
        "params": {"w": 7, "flag": True},
        "scale": 0.5,
        **change,
    }
    seen: list[Launch] = []
    out, _ = run_module(emitted(variant), CallInputs(**call), seen.append)
    assert out.shape == (*call["q"].shape[:3], 4)
    return seen


def test_arguments_are_sizes_strides_and_values() -> None:
    (launch,) = launches(Variant())
    given_ = launch.arguments
    assert launch.programs == 2 * 2 * 4
    assert {name: given_[name] for name in ("N", "M", "B", "H", "HK", "n_tiles", "q_offset", "k_offset")} == {
        "N": 20, "M": 24, "B": 2, "H": 4, "HK": 2, "n_tiles": 2, "q_offset": 0, "k_offset": 0,
    }  # fmt: skip
    assert (given_["q_s0"], given_["q_s1"], given_["q_s2"], given_["q_s3"]) == (4 * 20 * 8, 20 * 8, 8, 1)
    assert given_["scale"] == 0.5
    assert given_["t1_ptr"].dtype == torch.uint8
    assert given_["p0"] == 7
    assert type(given_["p1"]) is int


def test_statistics_are_allocated_on_request() -> None:
    names = {arg.name for kernel in emitted(Variant(aux=True)).kernels for arg in kernel.args}
    assert "aux0_ptr" in names
    assert not any(arg.name.startswith("aux") for kernel in emitted(Variant()).kernels for arg in kernel.args)


def test_packed_calls_run_a_program_per_tile_of_a_document() -> None:
    starts = torch.tensor([0, 3, 20], dtype=torch.int32)
    one = {"q": torch.zeros(1, 4, 20, 8), "k": torch.zeros(1, 2, 20, 8), "v": torch.zeros(1, 2, 20, 4)}
    tensors = {"seg": torch.zeros(1, 20, dtype=torch.int32), "keep": torch.ones(1, 20, dtype=torch.bool)}
    (launch,) = launches(Variant(packed=True), **one, tensors=tensors, cu_q=starts, cu_k=starts)
    assert launch.programs == 4 * launch.arguments["tiles_ptr"].shape[0]
    assert launch.arguments["cu_q_ptr"] is starts


NOTHING = [
    {"q": torch.zeros(2, 4, 0, 8)},
    {"q": torch.zeros(0, 4, 20, 8), "k": torch.zeros(0, 2, 24, 8), "v": torch.zeros(0, 2, 24, 4)},
]


@pytest.mark.parametrize("empty", NOTHING, ids=["queries", "batch"])
def test_nothing_runs_where_there_is_nothing_to_compute(empty: dict[str, Any]) -> None:
    assert launches(Variant(), **empty) == []

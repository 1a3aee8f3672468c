"""Boxes of a grid beside which there are other tokens: planned as without them, computed the same by all back ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnc
from attnc.compiler import compile_module
from attnc.drawing import Inputs
from attnc.ir.dependence import alignment_of, is_aligned
from attnc.ir.plan import PlanOptions
from attnc.ops import Op
from attnc.passes.pipeline import make_plan
from attnc.verify import BackendName, Comparison, compare, compare_gradients
from attnc.verify_gradients import op_gradients

VIDEO = {"frames": 30, "height": 48, "width": 80, "window_t": 18, "window_y": 24, "window_x": 24}
STRIDES = {"stride_t": 16, "stride_y": 8, "stride_x": 8}
SMALL = {"frames": 4, "height": 8, "width": 16, "window_t": 1, "window_y": 3, "window_x": 3}
#: All that is in a window of the grid, all keys beside it, and for queries beside it all keys.
TEXT = """
attention a {{
  grid (y: 16, x: 16) at {start}
  mask not (i in grid) or not (j in grid) or (abs(i.y - j.y) <= 1 and abs(i.x - j.x) <= {width})
}}
"""


def plan(params: dict[str, Any]) -> Any:
    module = compile_module("std:neighborhood_3d_text", params=params)
    return make_plan(module, PlanOptions(64, 64, aligned=alignment_of(module)))


def wrong(op: Op, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, gradients: bool = False) -> list[Comparison]:
    """What of a call breaks the rule for errors."""
    inputs = Inputs(q, k, v, {}, {}, {}, static=frozenset())
    out, aux = op(q, k, v, return_aux=True)
    found = compare(op, inputs, {"out": out, **aux})
    if gradients:
        found += compare_gradients(op, inputs, op_gradients(op, inputs))
    return [item for item in found if not item.passed]


@pytest.mark.parametrize(("params", "area"), [({**VIDEO, **STRIDES}, 1.0), (VIDEO, 1.75)])
def test_a_video_beside_text_is_as_sparse_as_alone(params: dict[str, int], area: float) -> None:
    """The figures asked for the video alone."""
    ranges, boxes = plan({**params, "start": 256}).parts
    assert ranges.origin is None
    assert boxes.origin == 256
    alone = compile_module("std:neighborhood_3d", params=params)
    (part,) = make_plan(alone, PlanOptions(64, 64, aligned=True)).parts
    assert [(axis.rows, axis.keys) for axis in boxes.axes] == [(axis.rows, axis.keys) for axis in part.axes]
    assert float(boxes.why.split(";")[-1].split()[0]) <= area


@pytest.mark.parametrize(("n", "start", "expected"), [
    (512, 0, True), (513, 0, "beside"), (512, 1, False), (520, 8, "beside"), (519, 8, False), (511, 0, False),
])  # fmt: skip
def test_which_calls_have_boxes(n: int, start: int, expected: object) -> None:
    module = compile_module("std:neighborhood_3d_text", params={**SMALL, "start": start})
    assert is_aligned(module, n, n) == expected
    assert not is_aligned(module, n, n + 1)


@pytest.mark.parametrize(("backend", "start", "behind", "width"), [
    ("torch", 0, 37, 0), ("torch", 21, 0, 2), ("cpp", 20, 19, 0), ("cpp", 0, 5, 0), ("interpret", 5, 3, 2),
])  # fmt: skip
def test_back_ends_agree_forward_and_backward(backend: BackendName, start: int, behind: int, width: int) -> None:
    op = attnc.compile(source=TEXT.format(start=start, width=width), backend=backend, tile=(16, 16))
    generator = torch.Generator().manual_seed(start)
    heads = 1 if backend == "interpret" else 3
    q, k, v = (torch.randn(1, heads, 256 + start + behind, 16, generator=generator) for _ in range(3))
    assert not wrong(op, q, k, v, gradients=True)
    if backend != "torch":
        assert [part.origin for part in op.plan.parts] == [None, start]


@settings(max_examples=20)
@given(behind=st.integers(0, 70))
def test_any_number_of_tokens_beside_a_grid(behind: int) -> None:
    op = attnc.compile(source=TEXT.format(start=7, width=0), backend="cpp", tile=(16, 16))
    generator = torch.Generator().manual_seed(behind)
    q, k, v = (torch.randn(1, 1, 263 + behind, 8, generator=generator) for _ in range(3))
    assert not wrong(op, q, k, v)


def test_tokens_beside_a_grid_that_see_nothing_are_zero() -> None:
    text = "attention a { grid (y: 8, x: 16) at 3\n mask i in grid and j in grid and abs(i.x - j.x) <= 1 }"
    backends: tuple[BackendName, ...] = ("torch", "interpret", "cpp")
    for backend in backends:
        op = attnc.compile(source=text, backend=backend, tile=(16, 16))
        q = torch.ones(1, 1, 140, 8)
        out = op(q, q, q)
        assert torch.equal(out[0, 0, :, 0].nonzero().flatten(), torch.arange(3, 131))

"""Calls whose positions lie beside the grid of an attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attnc
from attnc.diagnostics import CallError
from attnc.explain import usual_size

IMAGE = "grid (y: 4, x: 6)\nmask abs(i.y - j.y) <= 1 and abs(i.x - j.x) <= 2"
ZERO = torch.zeros(1, dtype=torch.int32)


def op_of(body: str, header: str = "") -> attnc.Op:
    return attnc.compile(source=f"attention a({header}) {{\n{body}\n}}", backend="torch")


def call(op: attnc.Op, n: int, m: int, **options: Any) -> Tensor:
    q, k = torch.randn(1, 1, n, 8), torch.randn(1, 1, m, 8)
    out = op(q, k, k, **options)
    torch.testing.assert_close(out.double(), op.reference(q, k, k, **options), rtol=1e-5, atol=2e-6)
    return out


def refused(op: attnc.Op, n: int, m: int, **options: Any) -> str:
    q, k = torch.randn(1, 1, n, 8), torch.randn(1, 1, m, 8)
    for run in (op, op.reference):
        with pytest.raises(CallError) as caught:
            run(q, k, k, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("n", "m", "options"),
    [
        (24, 24, {}),
        (5, 24, {}),
        (24, 5, {}),
        (5, 24, {"q_offset": 19}),
        (5, 24, {"q_offset": "end"}),
        (5, 8, {"q_offset": 4, "k_offset": 2}),
        (5, 8, {"k_offset": 16}),
        (0, 24, {}),
        (24, 0, {}),
        (0, 0, {}),
        (7, 9, {"q_offset": ZERO, "k_offset": ZERO}),
        (30, 30, {"q_offset": ZERO}),
    ],
)
def test_calls_of_a_grid_or_of_a_part_of_it(n: int, m: int, options: dict[str, Any]) -> None:
    call(op_of(IMAGE), n, m, **options)


@pytest.mark.parametrize(
    ("n", "m", "options", "message"),
    [
        (20, 20, {}, "grid (y: 4, x: 6) has 24 positions, the call has N = 20"),
        (25, 24, {}, "grid (y: 4, x: 6) has 24 positions, the call has N = 25"),
        (24, 25, {}, "grid (y: 4, x: 6) has 24 positions, the call has M = 25"),
        (5, 24, {"q_offset": 20}, "has 24 positions, the call has N = 5 at q_offset = 20"),
        (5, 24, {"q_offset": -1}, "has 24 positions, the call has N = 5 at q_offset = -1"),
        (24, 24, {"k_offset": 1}, "has 24 positions, the call has M = 24 at k_offset = 1"),
        (20, 25, {"q_offset": "end"}, "has 24 positions, the call has N = 20 at q_offset = 5"),
    ],
)
def test_other_calls_are_refused_with_the_sizes(n: int, m: int, options: dict[str, Any], message: str) -> None:
    assert message in refused(op_of(IMAGE), n, m, **options)


def test_a_part_at_offset_zero_says_what_to_do() -> None:
    assert "with q_offset or k_offset" in refused(op_of(IMAGE), 6, 6)
    call(op_of(IMAGE), 6, 6, q_offset=ZERO)


def test_attentions_with_positions_beside_their_grid_take_any_size() -> None:
    call(op_of("grid (y: 4, x: 6) at 3\nmask i.x == j.x"), 40, 50)
    call(op_of("grid (y: 4, x: 6) at 0\nmask i.x == j.x"), 40, 50)
    call(op_of("grid (y: 4, x: 6)\nmask not (i in grid) or not (j in grid) or i.x == j.x"), 40, 50)
    call(op_of("grid (y: 4, x: 6)\nmask j <= i"), 40, 50)


def test_only_sides_whose_coordinates_are_read_count() -> None:
    op = op_of("grid q (y: 4, x: 6)\ngrid k (y: 2, x: 3)\nmask i.x // 2 == j.x")
    call(op, 24, 6)
    assert "grid (y: 2, x: 3) has 6 positions, the call has M = 7" in refused(op, 24, 7)
    one = op_of("grid (y: 4, x: 6)\nmask j.x < 3")
    call(one, 100, 24)
    assert "M = 23" in refused(one, 100, 23)


def test_coordinates_of_scores_count() -> None:
    assert "N = 30" in refused(op_of("grid (x: 24)\nbias 0.1 * real(i.x)"), 30, 24)


def test_extents_that_are_known_at_the_call() -> None:
    op = op_of("grid (y: rows, x: 6)\nmask i.x == j.x", "rows: int dynamic")
    call(op, 24, 24, rows=4)
    assert "grid (y: 5, x: 6) has 30 positions, the call has N = 24" in refused(op, 24, 24, rows=5)


def test_documents_are_looked_at_when_everything_is_checked() -> None:
    op = op_of(IMAGE)
    fits, other = torch.tensor([0, 24, 48], dtype=torch.int32), torch.tensor([0, 20, 48], dtype=torch.int32)
    call(op, 48, 48, cu_seqlens=fits, checks="full")
    message = refused(op, 48, 48, cu_seqlens=other, checks="full")
    assert "document 0: grid (y: 4, x: 6) has 24 positions, the call has N = 20" in message
    q = torch.randn(1, 1, 48, 8)
    op(q, q, q, cu_seqlens=other)


def test_traced_calls_are_looked_at_when_they_run() -> None:
    op = op_of(IMAGE)
    compiled = torch.compile(op, backend="eager", fullgraph=True, dynamic=True)
    q = torch.randn(1, 1, 24, 8)
    compiled(q, q, q)
    with pytest.raises(CallError, match="N = 20"):
        compiled(q[:, :, :20], q[:, :, :20], q[:, :, :20])


def test_reports_are_of_calls_that_fit() -> None:
    op = op_of(IMAGE)
    assert usual_size(op.module) == op.explain().n == 24
    assert attnc.compile("std:causal").explain().n == 4096
    with pytest.raises(CallError, match="24 positions, the call has N = 4096"):
        op.explain(4096)

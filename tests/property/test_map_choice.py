"""Which tile map a mask gets, and what choosing it costs: closed forms, tables of many tiles, parts on large grids."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

import attnc
from attnc.compiler import compile_module
from attnc.ir.expr import Expr, Index, Size, int_const
from attnc.ir.module import AttentionModule
from attnc.ir.plan import KernelPlan, PlanOptions, Tile, TileAxis
from attnc.passes.pipeline import make_plan
from attnc.passes.tile_tables import LongTableError, axis_table, count_of_ranges, values_of

VIDEO = {"frames": 30, "height": 48, "width": 80, "window_t": 18, "window_y": 24, "window_x": 24}
#: Conditions without closed forms.
RELATIONS = (
    "abs(i - j) <= 40 and (i // 3) * (i // 3) >= j",
    "(i // 7) * (i // 7) <= 9 + j and j <= i",
    "(i // 5 + j // 31) % 2 == 0",
    "(i - j) * (i - j) > 900 or j % 64 < 3",
)


def module_of(mask: str, grid: str = "") -> AttentionModule:
    """A spec of one mask."""
    return compile_module(None, source=f"attention a {{\n{grid}\nmask {mask}\n}}", params={})


def plan_of(spec: str, params: dict[str, Any]) -> KernelPlan:
    """The plan of aligned calls."""
    return make_plan(compile_module(f"std:{spec}", params=params), PlanOptions(64, 64, aligned=True))


def sizes(n: int) -> dict[str, int]:
    """What tables of n positions read."""
    return {"N": n, "M": n, "q_offset": 0, "k_offset": 0}


def whole(relation: Expr, tile: Tile) -> TileAxis:
    """All positions as one axis without closed forms."""
    return TileAxis(Size("N"), int_const(1), tile.rows, tile.keys, 1, Index("i"), Index("j"), relation)


# -- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1023, 4095, 70_001])
def test_short_closed_forms_stay_whatever_the_window(window: int) -> None:
    part = plan_of("neighborhood_1d", {"length": 1_000_000, "window": window}).parts[0]
    assert not part.axes
    assert sum(len(visit.pieces) for visit in part.visits) <= 3
    area = count_of_ranges(part.visits, part.tile, 1_000_000) * part.tile.rows * part.tile.keys
    assert area <= 1.01 * (window + part.tile.rows + part.tile.keys) * 1_000_000


def test_a_window_longer_than_its_line_has_a_table() -> None:
    part = plan_of("neighborhood_1d", {"length": 6000, "window": 5999}).parts[0]
    assert part.axes  # its closed forms leave nothing out, and know no full tile


# -- long tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", RELATIONS)
@pytest.mark.parametrize("n", [130, 257])
def test_tables_from_coarse_blocks_are_right(monkeypatch: pytest.MonkeyPatch, mask: str, n: int) -> None:
    axis = whole(module_of(mask).mask, Tile(8, 4))
    exact = axis_table(axis, sizes(n))
    monkeypatch.setattr("attnc.passes.tile_tables.MAX_COUNTED", 10)
    monkeypatch.setattr("attnc.passes.tile_lists._START", 4)
    found = axis_table(axis, sizes(n))
    for unit in range(exact.units):
        live, full = found.entries_of(unit).tolist(), found.entries_of(unit)[: found.full[unit]].tolist()
        assert len(set(live)) == len(live)
        assert set(live) >= set(exact.entries_of(unit).tolist())
        assert set(full) <= set(exact.entries_of(unit)[: exact.full[unit]].tolist())


def test_a_table_of_a_million_tokens_takes_a_moment() -> None:
    n = 1_000_000
    axis = whole(module_of("abs(i - j) <= 9000 and (i // 3) * (i // 3) >= j").mask, Tile(128, 64))
    start = time.perf_counter()
    table = axis_table(axis, sizes(n))
    assert time.perf_counter() - start < 5  # a tenth of that on a quiet machine; every pair of tiles would take minutes
    assert int(table.live.sum()) * 128 * 64 <= 1.05 * n * 18_001
    assert int(table.full.sum()) > 0.98 * int(table.live.sum()) - 2 * len(table.live)


def test_a_table_that_would_be_too_long_is_not_made() -> None:
    axis = whole(module_of("(i // 5 + j // 31) % 2 == 0").mask, Tile(16, 16))
    with pytest.raises(LongTableError):
        axis_table(axis, sizes(20_000), 1000)


@pytest.mark.parametrize(
    "mask",
    [
        "abs(i.y - j.y) + abs(i.x - j.x) <= 9 or i.t == j.t",
        "i.t * i.x < 30 + j.y * j.y or (i.t == j.t and i.y // 8 == j.y // 8) or (i.x + j.y) % 5 < 2",
    ],
)
def test_parts_on_a_large_grid_are_not_compared_by_long_tables(mask: str) -> None:
    module = module_of(mask, "grid (t: 30, y: 48, x: 80)")
    start = time.perf_counter()
    plan = make_plan(module, PlanOptions(64, 64, aligned=True))
    assert time.perf_counter() - start < 4  # below half a second on a quiet machine
    assert len(plan.parts) <= 2


# -- tokens beside a grid --------------------------------------------------------------------------------------------


def test_a_video_without_text_is_planned_as_a_video() -> None:
    beside, alone = plan_of("neighborhood_3d_text", VIDEO), plan_of("neighborhood_3d", VIDEO)
    assert beside.parts == alone.parts
    assert beside.mask == alone.mask


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("more", [0, 5])
def test_only_calls_that_lie_on_the_grid_ask_nothing(start: int, more: int) -> None:
    params = {"frames": 2, "height": 4, "width": 8, "window_t": 1, "window_y": 2, "window_x": 3, "start": start}
    op = attnc.compile("std:neighborhood_3d_text", params=params, backend="torch", tile=(16, 16))
    generator = torch.Generator().manual_seed(start)
    q, k, v = (torch.randn(1, 1, 64 + more, 8, generator=generator) for _ in range(3))
    out = op(q, k, v)
    torch.testing.assert_close(out.double(), op.reference(q, k, v), rtol=1e-5, atol=2e-6)
    x = np.arange(64 + more)
    names = {**sizes(64 + more), "i": x[:, None], "r": x[:, None], "j": x, "c": x}
    kept = np.broadcast_to(values_of(op.plan.mask, names), (len(x), len(x)))
    assert kept.all(axis=1).any() == (start + more > 0)  # text sees all


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_many_moduli_are_planned_in_a_moment() -> None:
    clauses = " or ".join(f"(i - j) % {modulus} == 0" for modulus in range(3, 40))
    start = time.process_time()
    make_plan(module_of(f"j <= i and ({clauses})"), PlanOptions(64, 64, aligned=True, numbered=True))
    assert time.process_time() - start < 10  # proving each of them took two minutes


def test_nested_exists_are_planned_in_a_moment() -> None:
    mask = "i - j == x + 3 * y + 9 * z + 27 * w"
    for name in "xyzw":
        mask = f"exists {name} in 0..8: {mask}"
    start = time.process_time()
    make_plan(module_of(mask), PlanOptions(64, 64, aligned=True, numbered=True))
    assert time.process_time() - start < 10


def test_variables_are_not_parameters() -> None:
    """A variable may be called like a parameter that a definition around it reads."""
    text = """
def near(w: int) = abs(i - j) < w
attention a(w: int = 3) { mask exists x in 1..4: near(w) and i // 4 + x == j // 4 + x }
"""
    part = make_plan(compile_module(None, source=text, params={}), PlanOptions(16, 16, aligned=True)).parts[0]
    assert part.exact


def test_calls_of_a_thousand_million_tokens_are_explained_in_a_moment() -> None:
    op = attnc.compile("std:strided", params={"stride": 2}, backend="torch")
    start = time.process_time()
    assert op.explain(n=10**9).representation == "ranges of positions"
    assert time.process_time() - start < 10


def test_calls_whose_table_would_be_too_long_use_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnc.passes.tile_tables.MAX_ENTRIES", 4)
    op = attnc.compile("std:strided", params={"stride": 4}, backend="torch")
    q, k, v = torch.randn(3, 1, 1, 2000, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    assert (op(q, k, v) - op.reference(q, k, v)).abs().max() < 1e-5
    assert not op.plan.parts[0].axes
    report = op.explain(n=2000)
    assert report.representation == "ranges of positions"
    assert report.tiles.visited == op.explain(n=2000).tiles.visited > 0

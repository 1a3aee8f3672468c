"""Boxes and residue classes: the tables visit what the mask keeps, and the back ends compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import attnc
from attnc.compiler import compile_module
from attnc.ir.dependence import alignment_of
from attnc.ir.module import AttentionModule
from attnc.ir.plan import KernelPlan, Part, PlanOptions, Tile, Visit
from attnc.passes.pipeline import make_plan
from attnc.passes.tile_tables import axis_table, boxes, kept_pairs, values_of, visited_pairs
from attnc.reference import reference

SIZES = st.sampled_from([16, 32])


def neighborhood(**params: Any) -> AttentionModule:
    """Neighborhood attention in as many dimensions as there are extents."""
    number = sum(name in params for name in ("height", "frames")) + 1
    return compile_module(f"std:neighborhood_{number}d", params=params)


@st.composite
def axis_parameters(draw: st.DrawFn, longest: int) -> tuple[int, int, int, int, bool]:
    """Extent, window, stride, dilation, causal of one axis, within the rules of the mechanism."""
    extent = draw(st.integers(1, longest))
    dilation = draw(st.integers(1, min(extent, 3)))
    window = draw(st.integers(1, extent // dilation))
    return extent, window, draw(st.integers(1, window)), dilation, draw(st.booleans())


@st.composite
def sources(draw: st.DrawFn) -> tuple[str | None, tuple[tuple[str, Any], ...]]:
    """Neighborhoods on random grids, dilated windows, blocks, masks with more than their axes."""
    y, x = draw(axis_parameters(9)), draw(axis_parameters(11))
    names = ("window", "stride", "dilation", "causal")
    params: dict[str, Any] = {"height": y[0], "width": x[0]}
    for axis, values in (("y", y), ("x", x)):
        params.update({f"{name}_{axis}": value for name, value in zip(names, values[1:], strict=True)})
    grid = f"grid (y: {y[0]}, x: {x[0]})"
    modulus, size = draw(st.integers(2, 5)), draw(st.integers(0, 20))
    texts = [
        None,
        f"{grid} mask i.y // {y[1]} == j.y // {y[1]} and i.x % {x[1]} == j.x % {x[1]}",
        f"{grid} mask i.y // {y[1]} == j.y // {y[1]} and i.x // 3 == j.x // 3 and i.x >= j.x",
        f"{grid} mask abs(i.x - j.x) <= {x[1]} and j <= i",
        f"{grid} mask abs(i.x - j.x) + abs(i.y - j.y) <= {x[1]} and i.y >= j.y",
        f"mask abs(i - j) <= {size} and (i - j) % {modulus} == 0",
        f"mask j <= i and i % {modulus} == j % {modulus}",
        f"mask (i - j) % {modulus} == 0 and (i // {modulus} + j // {modulus}) % 2 == 0",
        f"mask (i // {modulus} + j // 3) % 2 == 0 and (i // 7) * (i // 7) <= {size} + j and j <= i",
        f"{grid} mask (i.y == j.y or i.x == j.x) and j <= i",
        f"{grid} at {size} mask not (i in grid) or not (j in grid) or (abs(i.x - j.x) < {x[1]} and i.y == j.y)",
        f"{grid} at {size} mask j in grid and i in grid and abs(i.y - j.y) < {y[1]} and i.x % {x[1]} == j.x % {x[1]}",
        f"{grid} at {size} mask not (j in grid) or (i in grid and abs(i.x - j.x) < {x[1]} and j <= i)",
    ]
    text = draw(st.sampled_from(texts))
    if text is None:
        return None, tuple(params.items())
    return f"attention a {{ {text.replace(' mask', chr(10) + 'mask')} }}", ()


def length(module: AttentionModule, free: int) -> int:
    """The number of tokens: the grid's with what may lie beside it, or `free`."""
    grid = module.grid_q
    if grid is None:
        return free
    points = int(np.prod([extent.value for extent in grid.extents]))
    return points + (grid.start.value + free % 40 if grid.beside else 0)


def dense(module: AttentionModule, n: int) -> NDArray[np.bool_]:
    """The mask by its dense meaning: where a value arrives."""
    eye = torch.eye(n, dtype=torch.float64).view(1, 1, n, n)
    zeros = torch.zeros(1, 1, n, 1, dtype=torch.float64)
    out = reference(module, zeros, zeros, eye, tensors={}, params={})
    return (out[0, 0] > 0).numpy()


def plan_of(module: AttentionModule, rows: int, keys: int) -> KernelPlan:
    """The plan of aligned calls."""
    return make_plan(module, PlanOptions(16, 16, 4, Tile(rows, keys), aligned=alignment_of(module)))


def part_of(module: AttentionModule, rows: int, keys: int) -> Part:
    """Its first part."""
    return plan_of(module, rows, keys).parts[0]


@given(sources(), SIZES, SIZES, st.integers(1, 70))
def test_visits_cover_the_mask_and_full_tiles_are_full(
    source: tuple[str | None, tuple[tuple[str, Any], ...]], rows: int, keys: int, free: int
) -> None:
    text, params = source
    module = compile_module("std:neighborhood_2d" if text is None else None, source=text, params=dict(params))
    plan = plan_of(module, rows, keys)
    n = length(module, free)
    x = np.arange(n)
    names = {"N": n, "M": n, "k_offset": 0, "q_offset": 0, "i": x[:, None], "r": x[:, None], "j": x, "c": x}
    kept = [np.broadcast_to(values_of(plan.mask_of(part), names), (n, n)).astype(int) for part in plan.parts]
    np.testing.assert_array_equal(sum(kept), dense(module, n).astype(int))  # together the mask, no pair twice
    for part, mask in zip(plan.parts, kept, strict=True):
        if part.axes:
            check_boxes(part, mask.astype(bool), keys)


def check_boxes(part: Part, kept: NDArray[np.bool_], keys: int) -> None:
    """Every query has one tile, every kept pair is visited once, full tiles are full."""
    n = len(kept)
    names = {"N": n, "M": n, "k_offset": 0, "q_offset": 0}
    tables = [axis_table(axis, names) for axis in part.axes]
    split = part.visits[0].kind == "full"
    covered, seen = np.zeros((n, n), bool), []
    for box in boxes(part, tables, names):
        seen += box.rows.tolist()
        for columns, full in box.keys:
            here = np.ix_(box.rows, columns)
            assert not covered[here].any()
            covered[here] = True
            if split:
                assert full == (kept[here].all() and len(columns) == keys) or not part.exact
                assert not full or kept[here].all()
    assert sorted(seen) == list(range(n))
    assert not (kept & ~covered).any()


def test_intervals_say_less_and_never_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = "(i // 5 + j // 3) % 2 == 0 and (i // 7) * (i // 7) <= 9 + j and j <= i or i - j == 0"
    part = part_of(compile_module(None, source=f"attention a {{ mask {mask} }}", params={}), 16, 16)
    names = {"N": 150, "M": 150, "q_offset": 0, "k_offset": 0}
    exact = axis_table(part.axes[0], names)
    monkeypatch.setattr("attnc.passes.tile_tables.MAX_COUNTED", 10)
    rough = axis_table(part.axes[0], names)
    for unit in range(len(exact.starts)):
        assert set(exact.entries_of(unit)) <= set(rough.entries_of(unit))
        assert set(rough.entries_of(unit)[: rough.full[unit]]) <= set(exact.entries_of(unit)[: exact.full[unit]])
    assert rough.live.sum() < 10 * 10  # and it leaves out something


@pytest.mark.parametrize("backend", ["torch", "interpret"])
@pytest.mark.parametrize(
    ("spec", "params", "n"),
    [
        ("neighborhood_2d", {"height": 12, "width": 10, "window_y": 5, "window_x": 4, "stride_y": 2}, 120),
        ("neighborhood_3d", {"frames": 4, "height": 3, "width": 5, "window_t": 2, "window_y": 3, "window_x": 2,
                             "dilation_t": 2}, 60),
        ("dilated_window", {"size": 24, "dilation": 3}, 50),
        ("dilated_window", {"size": 24, "dilation": 3}, 2),
    ],
)  # fmt: skip
def test_back_ends_compute_boxes(backend: Any, spec: str, params: dict[str, Any], n: int) -> None:
    op = attnc.compile(f"std:{spec}", params=params, backend=backend, tile=(16, 16))
    generator = torch.Generator().manual_seed(n)
    q, k, v = (torch.randn(1, heads, n, d, generator=generator) for heads, d in ((2, 16), (1, 16), (1, 24)))
    out, aux = op(q, k, v, return_aux=True)
    assert op.plan.parts[0].axes
    exact, statistics = op.reference(q, k, v, return_aux=True)
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(aux.lse.double(), statistics.lse, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backend", ["torch", "interpret"])
@pytest.mark.parametrize(("height", "width", "block"), [(7, 8, 3), (6, 6, 3)])
def test_back_ends_compute_blocks_that_are_no_power_of_two(backend: Any, height: int, width: int, block: int) -> None:
    mask = f"i.y // {block} == j.y // {block} and i.x // {block} == j.x // {block}"
    text = f"attention a {{ grid (y: {height}, x: {width})\nmask {mask} }}"
    op = attnc.compile(source=text, backend=backend, tile=(16, 16))
    generator = torch.Generator().manual_seed(block)
    q, k, v = (torch.randn(1, 1, height * width, 16, generator=generator) for _ in range(3))
    out = op(q, k, v)
    assert [axis.block for axis in op.plan.parts[0].axes] == [block, block]
    torch.testing.assert_close(out.double(), op.reference(q, k, v), rtol=1e-5, atol=2e-6)
    if backend == "interpret":  # programs run in order there: a row that two of them write would not be seen
        assert f"(y0 < {block}) & (y1 < {block})" in op.source
        assert f"(ky0 < {block}) & (ky1 < {block})" in op.source


def test_calls_that_do_not_follow_the_grid_use_ranges() -> None:
    op = attnc.compile("std:dilated_window", params={"size": 9, "dilation": 2}, backend="torch", tile=(16, 16))
    q, k = torch.randn(1, 1, 20, 8), torch.randn(1, 1, 30, 8)
    for more in ({"q_offset": "end"}, {"q_offset": 3}, {"k_offset": torch.tensor([0])}):
        out = op(q, k, k, **more)
        assert not op.plan.parts[0].axes
        torch.testing.assert_close(out.double(), op.reference(q, k, k, **more), rtol=1e-5, atol=2e-6)


def test_gradients_go_through_boxes() -> None:
    op = attnc.compile("std:dilated_window", params={"size": 9, "dilation": 2}, backend="torch", tile=(16, 16))
    q = torch.randn(1, 1, 20, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: op(x, x * 2, x + 1), (q,))
    assert op.plan.parts[0].axes


VIDEO = {"frames": 30, "height": 48, "width": 80, "window_t": 18, "window_y": 24, "window_x": 24}


@pytest.mark.parametrize(
    ("spec", "params", "most"),
    [
        ("neighborhood_3d", {**VIDEO, "stride_t": 16, "stride_y": 8, "stride_x": 8}, 1.0),
        ("neighborhood_3d", VIDEO, 1.75),
        ("neighborhood_2d", {"height": 256, "width": 256, "window_y": 80, "window_x": 80, "stride_y": 16,
                             "stride_x": 16}, 1.0),
    ],
)  # fmt: skip
def test_visited_area_over_kept_area(spec: str, params: dict[str, Any], most: float) -> None:
    part = make_plan(compile_module(f"std:{spec}", params=params), PlanOptions(64, 64, aligned=True)).parts[0]
    visited = np.prod([float(visited_pairs(axis, axis_table(axis, {}))) for axis in part.axes])
    kept = np.prod([float(kept_pairs(axis, {}) or 0) for axis in part.axes])
    assert visited / kept <= most


@pytest.mark.parametrize(
    ("size", "mask", "most"),
    [
        (64, "i.y % 4 == j.y % 4 and i.x % 4 == j.x % 4", 1.0),
        (64, "i.y // 8 == j.y // 8 and i.x // 8 == j.x // 8", 1.0),
        (56, "i.y // 7 == j.y // 7 and i.x // 7 == j.x // 7", 1.8),  # 49 of 64 lanes on both sides are 1.71
    ],
)
def test_visited_area_of_classes_on_a_grid(size: int, mask: str, most: float) -> None:
    module = compile_module(None, source=f"attention a {{ grid (y: {size}, x: {size})\nmask {mask} }}", params={})
    part = make_plan(module, PlanOptions(64, 64, aligned=True)).parts[0]
    visited = np.prod([float(visited_pairs(axis, axis_table(axis, {}))) for axis in part.axes])
    kept = np.prod([float(kept_pairs(axis, {}) or 0) for axis in part.axes])
    assert part.axes
    assert visited / kept <= most


def test_visited_area_of_residue_classes() -> None:
    module = compile_module("std:dilated_window", params={"size": 8192, "dilation": 4})
    part = make_plan(module, PlanOptions(64, 64, aligned=True)).parts[0]
    n = 32768
    table = axis_table(part.axes[0], {"N": n, "k_offset": 0})
    kept = sum(min(i, 8192) // 4 + min(n - 1 - i, 8192) // 4 + 1 for i in range(n))
    assert visited_pairs(part.axes[0], table) / kept <= 1.15
    assert part.visits == (Visit("full", ()), Visit("partial", ()))


def test_boxes_compile_for_a_gpu() -> None:
    params = {"height": 64, "width": 64, "window_y": 16, "window_x": 16, "stride_y": 8, "stride_x": 8}
    artifact = attnc.emit("std:neighborhood_2d", params=params, target="cuda:90")
    assert artifact.plan.parts[0].axes
    assert artifact.resources.spills == 0

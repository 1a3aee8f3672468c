"""attnc.explain: the counts of a report against every pair of a small call, looked at one by one."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import attnc
from attnc.cli import main
from attnc.diagnostics import CallError
from attnc.explain import bind_all, explain
from attnc.ir.dependence import is_aligned
from attnc.ir.expr import Const
from attnc.ir.plan import KernelPlan, Part, PlanOptions, Tile
from attnc.passes.pipeline import make_plan
from tests.oracles.modules import module_of, standard

Keep = Callable[[Any, Any], Any]
Tokens = list[np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Mask:
    """A mask as text and as numpy."""

    text: str
    keep: Keep
    n: int
    m: int | None = None
    tile: tuple[int, int] = (16, 16)
    params: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return self.text

    def plan(self) -> tuple[KernelPlan, int, int]:
        """The plan of a call at offset 0."""
        if self.text.startswith("std:"):
            module = standard(self.text.removeprefix("std:"), **(self.params or {}))
        else:
            module = module_of(f"attention a{self.text}")
        m = self.n if self.m is None else self.m
        options = PlanOptions(16, 16, 2, Tile(*self.tile), is_aligned(module, self.n, m))
        return make_plan(module, options), self.n, m

    def kept(self) -> np.ndarray[Any, Any]:
        """Every pair."""
        m = self.n if self.m is None else self.m
        i, j = np.arange(self.n)[:, None], np.arange(m)[None, :]
        return np.broadcast_to(np.asarray(self.keep(i, j), bool), (self.n, m))


def _near(x: Any, y: Any, extent: int, window: int) -> Any:
    """Neighborhood attention on one axis: always `window` keys."""
    start = np.clip(x - window // 2, 0, extent - window)
    return (start <= y) & (y < start + window)


def _plane(i: Any, j: Any) -> Any:
    return _near(i // 16, j // 16, 12, 5) & _near(i % 16, j % 16, 16, 3)


def _space(i: Any, j: Any) -> Any:
    return _near(i // 48, j // 48, 5, 3) & _near(i // 8 % 6, j // 8 % 6, 6, 3) & _near(i % 8, j % 8, 8, 4)


MASKS = [
    Mask("{ mask j <= i }", lambda i, j: j <= i, 130),
    Mask("{ mask j <= i }", lambda i, j: j <= i, 50, 200),
    Mask("{ }", lambda i, j: True, 100, 33),
    Mask("{ mask 0 <= i - j < 40 }", lambda i, j: (i - j >= 0) & (i - j < 40), 200),
    Mask("{ mask i + 20 < j }", lambda i, j: i + 20 < j, 100),
    Mask("{ mask j <= i and (j < 4 or i - j < 30) }", lambda i, j: (j <= i) & ((j < 4) | (i - j < 30)), 150),
    Mask("{ mask abs(i - j) <= 9 or j == 0 }", lambda i, j: (abs(i - j) <= 9) | (j == 0), 100),
    Mask("{ mask i // 24 == j // 24 }", lambda i, j: i // 24 == j // 24, 100),
    Mask("{ mask false }", lambda i, j: False, 40),
    Mask("std:dilated_window", lambda i, j: (abs(i - j) <= 20) & ((i - j) % 4 == 0), 131,
         params={"size": 20, "dilation": 4}),
    Mask("std:dilated_window", lambda i, j: (abs(i - j) <= 20) & ((i - j) % 4 == 0), 70, 131,
         params={"size": 20, "dilation": 4}),
    Mask("{ grid (y: 12, x: 16)\n mask i.y // 4 == j.y // 4 and i.x // 4 == j.x // 4 }",
         lambda i, j: (i // 64 == j // 64) & (i % 16 // 4 == j % 16 // 4), 192),
    Mask("{ grid (y: 9, x: 10)\n mask i.x == j.x }", lambda i, j: i % 10 == j % 10, 90),
    Mask("{ grid (y: 6, x: 8)\n mask i.x % 2 == j.x % 2 and j.y <= i.y }",
         lambda i, j: (i % 2 == j % 2) & (j // 8 <= i // 8), 48),
    Mask("std:neighborhood_2d", _plane, 192, params={"height": 12, "width": 16, "window_y": 5, "window_x": 3}),
    Mask("std:neighborhood_3d", _space, 240, params={
        "frames": 5, "height": 6, "width": 8, "window_t": 3, "window_y": 3, "window_x": 4}),
]  # fmt: skip


def _classes(axis: Any, extent: int) -> Tokens:
    x = np.arange(extent)
    classes = x // axis.block if axis.block else x % axis.modulus
    return [x[classes == c] for c in np.unique(classes)]


def tiles_of(part: Part, size: int, side: int) -> Tokens:
    """The tokens of every tile of a side, straight from what a part says of itself."""
    block = (part.tile.rows, part.tile.keys)[side]
    if not part.axes:
        return [np.arange(n, min(n + block, size)) for n in range(0, size, block)]
    along: list[tuple[Tokens, int]] = []
    for axis in part.axes:
        extent = int(axis.extent.value) if isinstance(axis.extent, Const) else size
        stride = int(axis.stride.value) if isinstance(axis.stride, Const) else 1
        length = (axis.rows, axis.keys)[side]
        cut = [c[n : n + length] for c in _classes(axis, extent) for n in range(0, len(c), length)]
        along.append((cut, stride))
    found = []
    for chosen in itertools.product(*(tiles for tiles, _ in along)):
        total = np.zeros(1, int)
        for x, (_, stride) in zip(chosen, along):
            total = (total[:, None] + x[None, :] * stride).reshape(-1)
        found.append(total)
    return found


def tile_kinds(plan: KernelPlan, kept: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """2 full, 1 live, 0 dead, of every tile. A tile with fewer keys than it has room for is never full."""
    part = plan.parts[0]
    rows, keys = (tiles_of(part, kept.shape[side], side) for side in (0, 1))
    kinds = np.zeros((len(rows), len(keys)), int)
    for r, c in np.ndindex(kinds.shape):
        block = kept[np.ix_(rows[r], keys[c])]
        kinds[r, c] = 2 if block.all() and block.shape[1] == part.tile.keys else int(block.any())
    return kinds


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_tiles_and_pairs_are_those_of_brute_force(mask: Mask) -> None:
    plan, n, m = mask.plan()
    report = explain(plan, n, m, "cuda:90")
    kept = mask.kept()
    kinds = tile_kinds(plan, kept)
    assert report.tiles.total == kinds.size
    if report.exact:
        assert (report.tiles.full, report.tiles.partial) == ((kinds == 2).sum(), (kinds == 1).sum())
    else:
        assert report.tiles.full <= (kinds == 2).sum()
        assert report.tiles.full + report.tiles.partial >= (kinds > 0).sum()
    assert report.kept.pairs == kept.sum()
    assert report.kept.empty_rows == (~kept.any(1)).sum()


def test_exact_masks_are_most_of_them() -> None:
    assert sum(mask.plan()[0].parts[0].exact for mask in MASKS) >= len(MASKS) - 2


def test_work_follows_visited_tiles() -> None:
    plan, n, m = MASKS[3].plan()
    report = explain(plan, n, m, "cuda:90")
    visited = (report.tiles.full + report.tiles.partial) * 16 * 16
    assert report.visited_pairs == visited
    assert report.flops == visited * 2 * (16 + 16)
    assert report.bytes == 2 * 2 * n * 32
    assert report.visited_over_kept == visited / report.kept.pairs
    assert report.roofline_us > 0


def test_a_million_tokens_are_counted_exactly() -> None:
    n = 1_000_000
    report = explain(make_plan(standard("causal"), PlanOptions(64, 64)), n, n, "cuda:90")
    assert report.kept.pairs == n * (n + 1) // 2
    assert not report.tiles.sampled
    assert report.tiles.full == sum(128 * t // 64 for t in range(-(-n // 128)))


def test_more_tokens_than_can_be_counted_are_a_sample() -> None:
    n = 1 << 34
    report = explain(make_plan(standard("causal"), PlanOptions(64, 64)), n, n, "cuda:90")
    assert report.tiles.sampled
    assert abs((report.tiles.full + report.tiles.partial) / report.tiles.total - 0.5) < 1e-3
    assert report.kept.pairs is None
    assert "not counted" in str(report)
    with pytest.raises(CallError, match="at most"):
        explain(make_plan(standard("causal"), PlanOptions(64, 64)), 1 << 60, 1, "cuda:90")


def test_data_is_named() -> None:
    report = explain(make_plan(standard("prefix_lm"), PlanOptions(64, 64)), 1000, 1000, "cuda:90")
    assert report.tiles.why_unknown == "prefix[b]"
    assert report.kept.pairs is None
    assert "prefix[b]" in report.kept.why
    document = explain(make_plan(standard("document"), PlanOptions(64, 64)), 100, 100, "cuda:90")
    assert not document.exact
    assert document.kept.why == "not counted: depends on data"


def test_representation_says_what_a_tile_is() -> None:
    def words(mask: Mask) -> str:
        plan, n, m = mask.plan()
        return explain(plan, n, m, "cuda:90").representation

    assert words(MASKS[0]) == "ranges of positions"
    assert "4 residue classes" in words(MASKS[9])
    assert words(MASKS[10]) == "ranges of positions"  # as many queries as keys is what an aligned call has
    assert "boxes of" in words(MASKS[-1])


def test_dynamic_parameters_can_be_given() -> None:
    module, given = bind_all(module_of("attention a(w: int dynamic in [1, 99]) { mask 0 <= i - j < w }"), {"w": 7})
    plan = make_plan(module, PlanOptions(16, 16))
    assert explain(plan, 100, 100, "cuda:90", given).kept.pairs == sum(min(i + 1, 7) for i in range(100))
    assert explain(plan, 100, 100, "cuda:90").tiles.why_unknown == "`w`"
    with pytest.raises(attnc.SpecError, match="out of range|at least|w"):
        bind_all(module_of("attention a(w: int dynamic in [1, 99]) { mask 0 <= i - j < w }"), {"w": 100})


def test_the_command_plans_as_a_prefill_call_runs() -> None:
    sizes = ["--param", "size=64", "--param", "dilation=4", "--json"]
    aligned = CliRunner().invoke(main, ["explain", "std:dilated_window", "--n", "4096", *sizes])
    other = CliRunner().invoke(main, ["explain", "std:dilated_window", "--n", "4096", "--m", "4097", *sizes])
    first, second = (json.loads(result.stdout) for result in (aligned, other))
    assert "residue classes" in first["representation"]
    assert "ranges" in second["representation"]
    assert first["visited_pairs"] < second["visited_pairs"]
    assert first["kept"]["pairs"] * first["visited_over_kept"] == pytest.approx(first["visited_pairs"])


@pytest.mark.parametrize("sizes", [(0, 0), (1, 1), (0, 7), (7, 0)])
def test_small_calls_have_reports(sizes: tuple[int, int]) -> None:
    for mask in (MASKS[0], MASKS[4], MASKS[8]):
        plan, _, _ = mask.plan()
        report = explain(plan, *sizes, "cuda:90")
        assert report.tiles.total == -(-sizes[0] // 16) * -(-sizes[1] // 16)
        assert report.kept.pairs is not None
        assert str(report)


@pytest.mark.parametrize("n", [512, 4096])
def test_thousands_of_values_of_an_exists_are_counted_in_bounded_time(n: int) -> None:
    op = attnc.compile(
        source="attention a { mask exists d in 0..64: exists e in 0..64: i - j == d * 100 + e * e }", backend="torch"
    )
    started = time.process_time()
    report = op.explain(n)
    assert time.process_time() - started < 10, "about a second; looking at every pair takes minutes"
    assert report.kept.pairs is None
    assert "too many pairs" in report.kept.why

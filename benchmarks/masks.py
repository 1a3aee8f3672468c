"""What planning a mask costs and how much of what is visited the mask keeps.

    python benchmarks/masks.py [--json FILE] [--flex N]

Prints, for masks of the standard library: milliseconds and megabytes of planning (tables of the tile map included),
visited tiles, and the visited area over the kept one. `--flex` measures FlexAttention's create_block_mask for the masks
on positions at that size, beside.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from attnc.compiler import compile_module
from attnc.ir.dependence import is_aligned
from attnc.ir.module import AttentionModule
from attnc.ir.plan import KernelPlan, Part, PlanOptions, TileAxis
from attnc.passes.pipeline import make_plan
from attnc.passes.tile_tables import (
    AxisTable,
    axis_extent,
    axis_table,
    class_count,
    coordinates,
    count_of_ranges,
    values_of,
)

MILLION = 1_000_000
VIDEO = {"frames": 30, "height": 48, "width": 80, "window_t": 18, "window_y": 24, "window_x": 24}
IMAGE = {"height": 256, "width": 256, "window_y": 80, "window_x": 80, "stride_y": 16, "stride_x": 16}
#: Spec, static parameters, tokens (None: those of its grid), most visited area over kept area.
CASES: tuple[tuple[str, dict[str, Any], int | None, float | None], ...] = (
    ("causal", {}, MILLION, None),
    ("sliding_window", {"size": 4096}, MILLION, None),
    ("streaming", {"sink": 4, "window": 4096}, MILLION, None),
    ("dilated_window", {"size": 8192, "dilation": 4}, 32768, 1.15),
    ("dilated_window", {"size": 8192, "dilation": 4}, MILLION, None),
    ("neighborhood_1d", {"length": MILLION, "window": 1023}, MILLION, None),
    ("power", {"window": 4096}, MILLION, None),
    ("power_block", {}, MILLION, None),
    ("strided", {"stride": 128}, MILLION, None),
    ("radial", {"frames": 30, "per_frame": 3840}, 115_200, None),
    ("neighborhood_3d", {**VIDEO, "stride_t": 16, "stride_y": 8, "stride_x": 8}, None, 1.0),
    ("neighborhood_3d", VIDEO, None, 1.75),
    ("neighborhood_2d", IMAGE, None, 1.0),
    ("maxvit_grid", {"height": 64, "width": 64, "size": 16}, None, 1.15),
)
ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One line of the table. Times in milliseconds, memory in megabytes."""

    spec: str
    tokens: int
    plan_ms: float
    plan_mb: float
    tiles: int
    visited_tiles: int
    visited_over_kept: float | None
    most: float | None
    why: str


def tokens_of(module: AttentionModule, tokens: int | None) -> int:
    """`tokens`, or the points of the grid."""
    if tokens is not None:
        return tokens
    assert module.grid_q is not None
    return prod(int(extent.value) for extent in module.grid_q.extents)


def planned(module: AttentionModule, n: int) -> tuple[KernelPlan, tuple[AxisTable, ...]]:
    """The plan of a prefill call of n tokens, and the tables of its axes."""
    plan = make_plan(module, PlanOptions(64, 64, aligned=is_aligned(module, n, n)))
    return plan, tuple(axis_table(axis, sizes(n)) for axis in plan.parts[0].axes)


def sizes(n: int) -> dict[str, int]:
    """What closed forms of a prefill call read."""
    return {"N": n, "M": n, "q_offset": 0, "k_offset": 0}


def visited_tiles(part: Part, tables: tuple[AxisTable, ...], n: int) -> int:
    """Tiles that are visited: the product over the axes; or what closed forms say."""
    if part.axes:
        return prod(int(table.live.sum()) for table in tables)
    return count_of_ranges(part.visits, part.tile, n)


def measure(spec: str, params: dict[str, Any], tokens: int | None, most: float | None) -> Row:
    """One case."""
    module = compile_module(f"std:{spec}", params=params)
    n = tokens_of(module, tokens)
    times: list[float] = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        plan, tables = planned(module, n)
        times.append(time.perf_counter() - start)
    tracemalloc.start()
    planned(module, n)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    part = plan.parts[0]
    total = -(-n // part.tile.rows) * -(-n // part.tile.keys)
    visited = visited_tiles(part, tables, n)
    ratio = visited * part.tile.rows * part.tile.keys / kept(part, n) if most is not None else None
    return Row(spec, n, 1e3 * statistics.median(times), peak / 1e6, total, visited, ratio, most, part.why)


def kept(part: Part, n: int) -> int:
    """Pairs that the mask keeps: the product over the axes, class by class and a few rows at a time."""
    return prod(kept_on(axis, n) for axis in part.axes)


def kept_on(axis: TileAxis, n: int) -> int:
    """Kept pairs of coordinates of one axis."""
    extent, total = axis_extent(axis, sizes(n)), 0
    for cls in range(class_count(axis, extent)):
        x = coordinates(axis, extent, cls, np.arange(extent))
        for first in range(0, len(x), 256):
            rows = x[first : first + 256, None]
            relation = np.asarray(values_of(axis.relation, {**sizes(n), "i": rows, "j": x[None, :]}), bool)
            total += int(np.broadcast_to(relation, (len(rows), len(x))).sum())
    return total


def flex_times(n: int) -> dict[str, float]:
    """Milliseconds of create_block_mask for masks on positions, n x n."""
    from torch.nn.attention.flex_attention import create_block_mask

    masks = {
        "causal": lambda _b, _h, i, j: j <= i,
        "sliding_window": lambda _b, _h, i, j: (j <= i) & (i - j < 4096),
        "streaming": lambda _b, _h, i, j: (j <= i) & ((i - j < 4096) | (j < 4)),
        "dilated_window": lambda _b, _h, i, j: ((i - j).abs() <= 8192) & ((i - j) % 4 == 0),
    }
    found: dict[str, float] = {}
    for name, mask in masks.items():
        start = time.perf_counter()
        create_block_mask(mask, None, None, n, n, device="cpu")
        found[name] = 1e3 * (time.perf_counter() - start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", type=Path, help="write the table there, too")
    parser.add_argument("--flex", type=int, metavar="N", help="measure create_block_mask for N tokens")
    options = parser.parse_args()
    rows = [measure(*case) for case in CASES]
    print(f"{'spec':<18}{'tokens':>9}{'plan ms':>10}{'MB':>7}{'visited tiles':>15}{'of':>14}{'area':>7}  allowed")
    for row in rows:
        ratio = "" if row.visited_over_kept is None else f"{row.visited_over_kept:.2f}"
        allowed = "" if row.most is None else f"{row.most:.2f}"
        print(f"{row.spec:<18}{row.tokens:>9}{row.plan_ms:>10.1f}{row.plan_mb:>7.1f}{row.visited_tiles:>15}"
              f"{row.tiles:>14}{ratio:>7}  {allowed}")  # fmt: skip
    flex = flex_times(options.flex) if options.flex else {}
    for name, spent in flex.items():
        print(f"create_block_mask {name:<16} N = {options.flex}: {spent:.0f} ms")
    if options.json:
        data = {"rows": [asdict(row) for row in rows], "create_block_mask_ms": flex, "flex_tokens": options.flex}
        options.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

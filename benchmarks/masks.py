"""What planning a mask costs and how much of what is visited the mask keeps.

    python benchmarks/masks.py [--json FILE] [--picture FILE] [--flex N] [--pack]

Prints, for masks of the standard library: milliseconds and megabytes of planning (tables and lists of tiles included),
parts, visited tiles, and the visited area over the kept one; milliseconds are processor time, which other work on the
machine lengthens less. Then, for a pack of documents, how long a call takes to list its tiles, beside the attention
itself on the C++ back end: estimated from a part of the documents, or measured with `--pack` (a minute). `--flex`
measures FlexAttention's create_block_mask for the masks on positions at that size, beside. That visited and partial
tiles are the right ones is not shown here: tests/property compares them with brute force.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from masks_picture import picture

import attnc
from attnc.calls import RawCall, check_call
from attnc.codegen.launch import CallInputs
from attnc.compiler import compile_module
from attnc.explain import explain
from attnc.ir.dependence import is_aligned
from attnc.ir.expr import Size, Value
from attnc.ir.module import AttentionModule
from attnc.ir.plan import KernelPlan, Part, PlanOptions, Tile, TileAxis
from attnc.ir.traverse import walk
from attnc.passes.pipeline import make_plan
from attnc.passes.tile_lists import Shape, TileList, list_of_numbers
from attnc.passes.tile_tables import axis_extent, axis_table, class_count, coordinates, count_of_ranges, values_of
from attnc.tile_lists import list_tiles

MILLION = 1_000_000
VIDEO = {"frames": 30, "height": 48, "width": 80, "window_t": 18, "window_y": 24, "window_x": 24}
IMAGE = {"height": 256, "width": 256, "window_y": 80, "window_x": 80, "stride_y": 16, "stride_x": 16}
ROUNDS = 5


@dataclass(frozen=True)
class Case:
    """A spec of the standard library. `tokens` None: those of its grid; `most`: the goal of visited over kept area."""

    spec: str
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    tokens: int | None = None
    most: float | None = None
    tile: Tile | None = None


CASES = (
    Case("causal", {}, MILLION),
    Case("sliding_window", {"size": 4096}, MILLION),
    Case("streaming", {"sink": 4, "window": 4096}, MILLION),
    Case("dilated_window", {"size": 8192, "dilation": 4}, 32768, 1.15),
    Case("dilated_window", {"size": 8192, "dilation": 4}, MILLION),
    Case("neighborhood_1d", {"length": MILLION, "window": 1023}),
    Case("neighborhood_1d", {"length": MILLION, "window": 4095}),
    Case("power", {"window": 4096}, MILLION),
    Case("power_block", {}, MILLION),
    Case("block_rank", {"block": 8192, "blocks": 16}, 131_072),
    Case("moa", {}, MILLION),
    Case("strided", {"stride": 128}, MILLION),
    Case("strided", {"stride": 128, "merged": True}, 16384, 1.55, Tile(64, 64)),
    Case("radial", {"frames": 30, "per_frame": 3840}, 115_200),
    Case("neighborhood_3d", {**VIDEO, "stride_t": 16, "stride_y": 8, "stride_x": 8}, most=1.0),
    Case("neighborhood_3d", VIDEO, most=1.75),
    Case("neighborhood_3d_text", VIDEO, most=1.75),
    Case("neighborhood_3d_text", VIDEO, 115_200 + 256),
    Case("neighborhood_2d", IMAGE, most=1.0),
    Case("maxvit_grid", {"height": 64, "width": 64, "size": 16}, most=1.15),
)


@dataclass(frozen=True)
class Row:
    """One line of the table. Times in milliseconds, memory in megabytes; tiles None where data decides."""

    spec: str
    tokens: int
    plan_ms: float
    plan_mb: float
    parts: int
    tiles: int
    visited_tiles: int | None
    visited_over_kept: float | None
    most: float | None
    why: str


def measure(case: Case) -> Row:
    """One case."""
    module = compile_module(f"std:{case.spec}", params=case.params)
    n = tokens_of(module, case.tokens)
    plan_ms = 1e3 * median_time(lambda: planned(module, n, case.tile))
    tracemalloc.start()
    plan = planned(module, n, case.tile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    total = sum(-(-n // part.tile.rows) * -(-n // part.tile.keys) for part in plan.parts[:1])
    visited = None if depends_on_data(plan, n) else sum(visited_tiles(part, n) for part in plan.parts)
    ratio = visited_over_kept(plan, n) if case.most is not None else None
    why = "; and ".join(part.why for part in plan.parts)
    return Row(case.spec, n, plan_ms, peak / 1e6, len(plan.parts), total, visited, ratio, case.most, why)


def tokens_of(module: AttentionModule, tokens: int | None) -> int:
    """`tokens`, or the points of the grid."""
    if tokens is not None:
        return tokens
    assert module.grid_q is not None
    return prod(int(extent.value) for extent in module.grid_q.extents)


def median_time(work: Callable[[], object]) -> float:
    """Seconds of processor time of one of several rounds."""
    times: list[float] = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def wall_time(work: Callable[[], object]) -> float:
    """Seconds of one of several rounds, by the clock: what runs on several cores."""
    times: list[float] = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def planned(module: AttentionModule, n: int, tile: Tile | None) -> KernelPlan:
    """The plan of a prefill call of n tokens; the tables of its axes, and lists, are made, too."""
    plan = make_plan(module, PlanOptions(64, 64, 2, tile, aligned=is_aligned(module, n, n), numbered=True))
    for part in plan.parts:
        for axis in part.axes:
            axis_table(axis, sizes(n))
        if part.listing is not None and part.listing.of_numbers:
            list_of(part, n)
    return plan


def list_of(part: Part, n: int) -> TileList:
    """The tiles of a part that a call lists from its sizes."""
    assert part.mask is not None
    leaves = {node for node in walk(part.mask) if isinstance(node, Size | Value)}
    found = list_of_numbers(part.mask, Shape(part.tile, n, n, 1), {leaf: sizes(n)[leaf.name] for leaf in leaves})
    assert found is not None
    return found


def sizes(n: int) -> dict[str, int]:
    """What closed forms of a prefill call read."""
    return {"N": n, "M": n, "q_offset": 0, "k_offset": 0}


def depends_on_data(plan: KernelPlan, n: int) -> bool:
    """Whether visits read tensors or dynamic parameters of the call."""
    return explain(plan, n, n, "cuda:90").tiles.why_unknown is not None


def visited_tiles(part: Part, n: int) -> int:
    """Tiles that are visited: the product over the axes; or what closed forms say."""
    if part.axes:
        return prod(int(axis_table(axis, sizes(n)).live.sum()) for axis in part.axes)
    if part.listing is not None and part.listing.of_numbers:
        return int(list_of(part, n).live.sum())
    return count_of_ranges(part.visits, part.tile, n)


def visited_over_kept(plan: KernelPlan, n: int) -> float:
    """The visited area over the kept one."""
    if len(plan.parts) > 1:
        ratio = explain(plan, n, n, "cuda:90").visited_over_kept
        assert ratio is not None
        return ratio
    part = plan.parts[0]
    return visited_tiles(part, n) * part.tile.rows * part.tile.keys / prod(kept_on(axis, n) for axis in part.axes)


def kept_on(axis: TileAxis, n: int) -> int:
    """Kept pairs of coordinates of one axis, class by class and a few rows at a time."""
    extent, total = axis_extent(axis, sizes(n)), 0
    for cls in range(class_count(axis, extent)):
        x = coordinates(axis, extent, cls, np.arange(extent))
        for first in range(0, len(x), 256):
            rows = x[first : first + 256, None]
            relation = np.asarray(values_of(axis.relation, {**sizes(n), "i": rows, "j": x[None, :]}), bool)
            total += int(np.broadcast_to(relation, (len(rows), len(x))).sum())
    return total


# -- a pack of documents ---------------------------------------------------------------------------------------------

PACK = "attention documents(seg: int[B, M]) {\n  mask seg[b, i] == seg[b, j] and j <= i\n}"
PACKED_TOKENS, SHORTEST, LONGEST, HEAD_DIM = 800_000, 200, 1800, 64
HEADS, PACK_TILE = 4, Tile(64, 64)
#: Tokens of the documents from which the time of the whole pack is estimated.
SLICE = 100_000


@dataclass(frozen=True)
class Pack:
    """Listing the tiles of a pack, in milliseconds, beside its attention, in seconds (of all heads, forward)."""

    documents: int
    tokens: int
    list_ms: float
    list_mb: float
    visited_tiles: int
    full_tiles: int
    tiles: int
    visited_over_kept: float
    attention_s: float
    measured: bool

    @property
    def share(self) -> float:
        """The time of the list over that of the attention."""
        return self.list_ms / 1e3 / self.attention_s


def measure_pack(*, whole: bool) -> Pack:
    """Documents of random length; the attention estimated from some of them, or measured on all."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (2 * PACKED_TOKENS // SHORTEST,), generator=generator)
    lengths = lengths[: int((lengths.cumsum(0) < PACKED_TOKENS).sum()) + 1]
    seg = torch.repeat_interleave(torch.arange(len(lengths)), lengths)[None, :PACKED_TOKENS].to(torch.int32)
    plan, call = pack_call(seg)
    found = listed(plan, call)
    list_ms = 1e3 * wall_time(lambda: listed(plan, call))
    part = attention_seconds(seg if whole else seg[:, :SLICE])
    share = 1.0 if whole else int(found.live.sum()) / int(listed(*pack_call(seg[:, :SLICE])).live.sum())
    tile = plan.parts[0].tile
    ends = torch.bincount(seg[0].long())
    pairs = int((ends * (ends + 1) // 2).sum())
    visited = int(found.live.sum())
    return Pack(
        documents=len(lengths),
        tokens=PACKED_TOKENS,
        list_ms=list_ms,
        list_mb=found.packed().nbytes / 1e6,
        visited_tiles=visited,
        full_tiles=int(found.full.sum()),
        tiles=-(-PACKED_TOKENS // tile.rows) * -(-PACKED_TOKENS // tile.keys),
        visited_over_kept=visited * tile.rows * tile.keys / pairs,
        attention_s=part * share,
        measured=whole,
    )


def pack_call(seg: torch.Tensor) -> tuple[KernelPlan, CallInputs]:
    """The plan of calls that list, and a checked call."""
    module = compile_module(None, source=PACK, params={})
    plan = make_plan(module, PlanOptions(HEAD_DIM, HEAD_DIM, 4, PACK_TILE, listed=True))
    q = torch.zeros(1, 1, 1, HEAD_DIM).expand(1, 1, seg.shape[1], HEAD_DIM)
    return plan, check_call(module, RawCall(q, q, q, 0, 0, None, None, False, "basic", {"seg": seg}))


def listed(plan: KernelPlan, call: CallInputs) -> TileList:
    """The list of a call's tiles."""
    found = list_tiles(plan, plan.parts[0], call)
    assert found is not None
    return found


def attention_seconds(seg: torch.Tensor) -> float:
    """One call of the C++ back end, after a short one."""
    op = attnc.compile(source=PACK, backend="cpp")
    q, k, v = (torch.randn(1, HEADS, seg.shape[1], HEAD_DIM) for _ in range(3))
    op(q[:, :, :128], k[:, :, :128], v[:, :, :128], seg=seg[:, :128])
    start = time.perf_counter()
    op(q, k, v, seg=seg)
    return time.perf_counter() - start


# -- FlexAttention ---------------------------------------------------------------------------------------------------


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


def print_rows(rows: list[Row]) -> None:
    """The table of masks."""
    print(
        f"{'spec':<21}{'tokens':>9}{'plan ms':>9}{'MB':>7}{'parts':>6}{'visited tiles':>15}{'of':>13}{'area':>7} goal"
    )
    for row in rows:
        ratio = "" if row.visited_over_kept is None else f"{row.visited_over_kept:.2f}"
        allowed = "" if row.most is None else f"{row.most:.2f}"
        visited = "by data" if row.visited_tiles is None else str(row.visited_tiles)
        print(f"{row.spec:<21}{row.tokens:>9}{row.plan_ms:>9.1f}{row.plan_mb:>7.1f}{row.parts:>6}{visited:>15}"
              f"{row.tiles:>13}{ratio:>7} {allowed}")  # fmt: skip


def print_pack(pack: Pack) -> None:
    """The list of a pack beside its attention."""
    print(f"\n{pack.tokens} tokens in {pack.documents} documents of {SHORTEST} to {LONGEST}, causal: "
          f"listing {pack.visited_tiles} of {pack.tiles} tiles ({pack.full_tiles} full) takes {pack.list_ms:.0f} ms, "
          f"{pack.list_mb:.1f} MB; area {pack.visited_over_kept:.2f}")  # fmt: skip
    how = (
        "measured"
        if pack.measured
        else f"estimated: the first {SLICE} tokens, times the visited tiles; --pack measures"
    )
    print(f"the attention of {HEADS} heads on the C++ back end takes {pack.attention_s:.1f} s ({how}); "
          f"listing takes {pack.share:.3f} of that\n")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", type=Path, help="write the table there, too")
    parser.add_argument("--picture", type=Path, help="draw it there as SVG")
    parser.add_argument("--flex", type=int, metavar="N", help="measure create_block_mask for N tokens")
    parser.add_argument("--pack", action="store_true", help="measure the attention of the whole pack of documents")
    options = parser.parse_args()
    rows = [measure(case) for case in CASES]
    print_rows(rows)
    pack = measure_pack(whole=options.pack)
    print_pack(pack)
    flex = flex_times(options.flex) if options.flex else {}
    for name, spent in flex.items():
        print(f"create_block_mask {name:<16} N = {options.flex}: {spent:.0f} ms")
    if options.picture:
        options.picture.write_text(picture([asdict(row) for row in rows]), encoding="utf-8")
    if options.json:
        data = {
            "rows": [asdict(row) for row in rows],
            "pack": {**asdict(pack), "share": pack.share},
            "create_block_mask_ms": flex,
            "flex_tokens": options.flex,
        }
        options.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What a plan does for given sizes: tiles, operations, bytes, passes, and why. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import reduce
from math import prod
from typing import Any

from attnc.diagnostics import CallError
from attnc.frontend.bind import bind
from attnc.ir.evaluate import UnknownValueError, evaluate_exact
from attnc.ir.expand import written_out
from attnc.ir.expr import Const
from attnc.ir.module import AttentionModule
from attnc.ir.on_grid import grid_sides, misfit
from attnc.ir.plan import Accumulator, KernelPlan, Part, PlanOptions
from attnc.ir.printer import print_expr, print_plan
from attnc.kept import Kept, kept
from attnc.passes.facts import Fact, find_facts
from attnc.passes.pipeline import make_plan
from attnc.passes.states import describe_states, state_size
from attnc.passes.tile_tables import tables_of
from attnc.visits import TileMap, UnknownVisitsError, sizes_of, tile_map

#: Peak dense rate of 16-bit matrix products, that of float32 arithmetic (FLOP/s) and memory bandwidth (bytes/s) of one
#: device, from the vendors' data sheets: A100, H100 SXM, B200, MI300X.
TARGETS = {
    "cuda:80": (312e12, 19.5e12, 2.0e12),
    "cuda:90": (989e12, 67e12, 3.35e12),
    "cuda:100": (2250e12, 75e12, 8.0e12),
    "hip:gfx942": (1307e12, 163e12, 5.3e12),
}
#: Query tiles that are counted one by one; beyond, a regular sample stands for all.
_COUNTED = 1 << 20
_USUAL = 4096
#: Bounds on the work of facts about a mask: half a second, as a rule.
MAX_FACT_OPERATIONS = 60_000
MAX_FACT_NODES = 1000


@dataclass(frozen=True, slots=True)
class TileCounts:
    """Key tiles of one head, over all query tiles. `why_unknown` when they depend on data."""

    total: int
    full: int
    partial: int
    sampled: bool
    why_unknown: str | None

    @property
    def visited(self) -> int:
        """Tiles that are visited, at most."""
        return self.total if self.why_unknown else self.full + self.partial

    @property
    def skipped(self) -> int:
        return self.total - self.full - self.partial

    def __str__(self) -> str:
        if self.why_unknown:
            return f"depend on {self.why_unknown}; {self.total} if all were visited"
        share = 100.0 * (self.full + self.partial) / max(self.total, 1)
        about = "about " if self.sampled else ""
        return (
            f"{about}{self.full} full, {self.partial} partial, {self.skipped} skipped "
            f"of {self.total} ({share:.2f}% visited)"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """The answer of `op.explain`; `str(report)` is for people, `to_json` for programs.

    FLOPs and bytes are per batch and head, for inputs of `itemsize` bytes; `roofline_us` is the time in microseconds
    that the slower of the two needs on the target. `visited_pairs` counts visited tiles whole, ragged ones too;
    `visited_over_kept` is None where the mask keeps nothing or its pairs were not counted.
    `facts` are there when they were asked for: see `facts_of`.
    """

    name: str
    n: int
    m: int
    target: str
    itemsize: int
    tile: tuple[int, int]
    tiles: TileCounts
    representation: str
    exact: bool
    why: str
    visited_pairs: int
    kept: Kept
    flops: int
    bytes: int
    roofline_us: float
    sweeps: tuple[str, ...]
    passes: tuple[str, ...]
    token_maps: tuple[str, ...]
    plan_text: str
    states: str
    facts: tuple[str, ...] = ()

    @property
    def visited_over_kept(self) -> float | None:
        """How many times the work that the mask leaves is done."""
        if not self.kept.pairs or self.tiles.why_unknown:
            return None
        return self.visited_pairs / self.kept.pairs

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        tiles = {**asdict(self.tiles), "skipped": self.tiles.skipped}
        return {**asdict(self), "tiles": tiles, "visited_over_kept": self.visited_over_kept}

    def __str__(self) -> str:
        lines = [f"{self.name}: N = {self.n}, M = {self.m}, tiles of {self.tile[0]} x {self.tile[1]}, {self.target}"]
        lines.append(f"  tiles     {self.tiles}")
        lines.append(f"            {self.why}{'' if self.exact else ' (not exact)'}")
        lines.append(f"  pairs     {self._pairs()}")
        lines.append(f"  work      {self.flops:.3e} FLOP, {self.bytes:.3e} bytes per batch and head")
        lines.append(f"  roofline  {self.roofline_us:.1f} us on {self.target} at {8 * self.itemsize}-bit peak rates")
        lines += [f"  sweep {n}   {text}" for n, text in enumerate(self.sweeps)]
        lines += [f"            {text}" for text in self.passes]
        lines.append(f"  states    {self.states}")
        lines += [f"  per token {text}" for text in self.token_maps]
        lines += [f"  fact      {text}" for text in self.facts]
        return "\n".join(lines)

    def _pairs(self) -> str:
        if self.kept.pairs is None:
            return self.kept.why
        text = f"{self.kept.pairs} kept of {self.n * self.m}"
        if self.visited_over_kept is not None:
            text += f", {self.visited_over_kept:.2f} times as many visited"
        rows = f"{self.kept.empty_rows} rows see" if self.kept.empty_rows != 1 else "1 row sees"
        return f"{text}; {rows} no key" if self.kept.empty_rows else text


def explain(
    plan: KernelPlan, n: int, m: int, target: str, params: Mapping[str, Any] | None = None, *, with_facts: bool = False
) -> Report:
    """The report of a plan for N = n, M = m, offsets 0 and `params` for dynamic parameters; facts take a while.

    A plan that was made for aligned calls has to be asked for sizes of such a call. Raises CallError for a target whose
    rates are not in `TARGETS` and for sizes that no call has.
    """
    if target not in TARGETS:
        raise CallError(f"target: rates are known of {', '.join(TARGETS)}, not of {target!r}")
    names = {**sizes_of(n, m), **defaults(plan), **(params or {})}
    check_fit(plan.module, names)
    plan = in_reach(plan, names)
    part = plan.parts[0]
    counts = [count_tiles(tile_map(each, names)) for each in plan.parts]
    pairs = sum(count.visited * each.tile.rows * each.tile.keys for count, each in zip(counts, plan.parts, strict=True))
    flops = pairs * flops_of_pair(plan) + 2 * (n + m) * state_size(plan)
    moved = plan.itemsize * (n + m) * (plan.head_dim + plan.value_dim)
    half, single, bandwidth = TARGETS[target]
    rate = half if plan.itemsize == 2 else single
    return Report(
        name=plan.module.name,
        n=n,
        m=m,
        target=target,
        itemsize=plan.itemsize,
        tile=(part.tile.rows, part.tile.keys),
        tiles=reduce(_together, counts),
        representation=" and ".join(representation(each) for each in plan.parts),
        exact=all(each.exact for each in plan.parts),
        why="; and ".join(each.why for each in plan.parts),
        visited_pairs=pairs,
        kept=kept(plan, names),
        flops=flops,
        bytes=moved,
        roofline_us=1e6 * max(flops / rate, moved / bandwidth),
        sweeps=tuple(sweep.why for sweep in plan.sweeps),
        passes=tuple(_describe(acc) for acc in plan.accumulators),
        token_maps=tuple(f"{d.name} = {print_expr(d.expr)}" for d in plan.derived),
        plan_text=print_plan(plan),
        states=describe_states(plan),
        facts=facts_of(plan, n, m, params) if with_facts else (),
    )


def in_reach(plan: KernelPlan, names: Mapping[str, Any]) -> KernelPlan:
    """The plan; for sizes for which its tables would take too long, the one that calls use instead."""
    if all(tables_of(part.axes, names) is not None for part in plan.parts):
        return plan
    tile = plan.parts[0].tile
    return make_plan(plan.module, PlanOptions(plan.head_dim, plan.value_dim, plan.itemsize, tile))


def facts_of(plan: KernelPlan, n: int, m: int, params: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The facts of a mask and of its tiles, one line each; of a condition, whether it holds for sizes and offsets 0."""
    if written_out(plan.module.mask) > MAX_FACT_NODES:
        return ("not looked for: the mask is too long", _first_tile(plan, n, m))
    found = find_facts(plan.module, MAX_FACT_OPERATIONS)
    names = {**sizes_of(n, m), **(params or {})}
    return (*(_fact_text(fact, names) for fact in found.listed()), found.distance(), _first_tile(plan, n, m))


def _first_tile(plan: KernelPlan, n: int, m: int) -> str:
    """Whether the first visited tile leaves no row waiting for its first key."""
    if not plan.parts[0].first_live:
        return "first visited tile live in every row: unknown"
    among = "holds for these sizes" if n <= m else "not known for these sizes"
    return f"first visited tile live in every row that sees a key: {among} (when the queries are among the keys)"


def _fact_text(fact: Fact, names: Mapping[str, Any]) -> str:
    if fact.verdict != "when" or fact.condition is None:
        return str(fact)
    condition = print_expr(fact.condition)
    try:
        holds = evaluate_exact(fact.condition, names)
    except (UnknownValueError, ZeroDivisionError):
        return str(fact)
    otherwise = "does not hold for these sizes" if fact.exact else "not known for these sizes"
    return f"{fact.name}: {'holds for these sizes' if holds else otherwise} (when {condition})"


def check_fit(module: AttentionModule, names: Mapping[str, Any]) -> None:
    """Raise CallError for sizes that a call with the module's grid does not have."""
    why = misfit(grid_sides(module), names)
    if why is not None:
        raise CallError(why)


def usual_size(module: AttentionModule) -> int:
    """The number of queries that is explained when none is given: the points of the grid, where they are known."""
    points = next((side.extents({}) for side in grid_sides(module)), None)
    return _USUAL if points is None else prod(points)


def count_parts(plan: KernelPlan, names: Mapping[str, Any]) -> TileCounts:
    """The tiles of all parts."""
    return reduce(_together, (count_tiles(tile_map(part, names)) for part in plan.parts))


def _together(a: TileCounts, b: TileCounts) -> TileCounts:
    """The counts of several parts; their tiles together are what could be visited."""
    unknown = a.why_unknown or b.why_unknown
    return TileCounts(a.total + b.total, a.full + b.full, a.partial + b.partial, a.sampled or b.sampled, unknown)


def flops_of_pair(plan: KernelPlan) -> int:
    """Operations of the products of one pair."""
    per_sweep = 2 * sum(dot.dim for dot in (*plan.dots, *plan.pair_dots))
    weighted = sum(acc.dim for acc in (*plan.accumulators, *plan.columns) if acc.weighted)
    return per_sweep * len(plan.sweeps) + 2 * weighted


def representation(part: Part) -> str:
    """What a tile of a part is, in words."""
    if not part.axes:
        return "ranges of positions"
    shape = [
        " x ".join(str(size) for size in sizes) for sizes in zip(*((a.rows, a.keys) for a in part.axes), strict=True)
    ]
    text = f"boxes of {shape[0]} queries by {shape[1]} keys" if len(part.axes) > 1 else "listed ranges"
    classes = prod(axis.modulus for axis in part.axes)
    text += f" in {classes} residue classes" if classes > 1 else ""
    return f"{text}, inside blocks" if any(axis.block for axis in part.axes) else text


def _describe(acc: Accumulator) -> str:
    text = f"{acc.name} = {acc.op} of {print_expr(acc.body)}{' * v' if acc.weighted else ''}"
    return text if acc.rescale is None else f"{text}, times {print_expr(acc.rescale)} when a maximum moves"


def count_tiles(tiles: TileMap) -> TileCounts:
    """Full and partial key tiles of one head."""
    total = tiles.query_tiles * tiles.key_tiles
    steps = [max(1, axis.query_tiles // _COUNTED) for axis in tiles.axes]
    try:
        counts = [axis.count(step) for axis, step in zip(tiles.axes, steps, strict=True)]
    except UnknownVisitsError as error:
        return TileCounts(total, 0, 0, False, error.reason)
    full = prod(full for full, _ in counts) if tiles.has_full else 0
    live = prod(live for _, live in counts)
    return TileCounts(total, full, live - full, max(steps) > 1, None)


def defaults(plan: KernelPlan) -> dict[str, int]:
    """Dynamic parameters that have a default."""
    found: dict[str, int] = {}
    for param in plan.module.scalars:
        if isinstance(param.default, Const) and isinstance(param.default.value, int):
            found[param.name] = int(param.default.value)
    return found


def bind_all(
    module: AttentionModule, params: Mapping[str, bool | int | float]
) -> tuple[AttentionModule, dict[str, Any]]:
    """The module with its static parameters, and the values of dynamic ones that were given. Raises SpecError."""
    dynamic = {scalar.name for scalar in module.scalars if scalar.dynamic and scalar.name in params}
    # What a static parameter would be told is what a dynamic one is told.
    known = tuple(replace(s, dynamic=False) if s.name in dynamic else s for s in module.scalars)
    bind(replace(module, scalars=known), params)
    bound = bind(module, {name: value for name, value in params.items() if name not in dynamic})
    return bound, {name: params[name] for name in sorted(dynamic)}

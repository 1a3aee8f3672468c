"""What a plan does for given sizes: tiles, operations, bytes, passes, and why. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from attnc.diagnostics import CallError
from attnc.ir.evaluate import UnknownValueError, evaluate_exact
from attnc.ir.expr import Const, Lookup
from attnc.ir.plan import Accumulator, KernelPlan, Part, Piece
from attnc.ir.printer import print_expr, print_plan

#: Peak dense rate of 16-bit matrix products, that of float32 arithmetic (FLOP/s) and memory bandwidth (bytes/s) of one
#: device, from the vendors' data sheets: A100, H100 SXM, B200, MI300X.
TARGETS = {
    "cuda:80": (312e12, 19.5e12, 2.0e12),
    "cuda:90": (989e12, 67e12, 3.35e12),
    "cuda:100": (2250e12, 75e12, 8.0e12),
    "hip:gfx942": (1307e12, 163e12, 5.3e12),
}
#: Query tiles that are counted one by one; beyond, a regular sample stands for all.
_COUNTED = 4096


@dataclass(frozen=True, slots=True)
class TileCounts:
    """Key tiles of one head, over all query tiles. `why_unknown` when they depend on data."""

    total: int
    full: int
    partial: int
    sampled: bool
    why_unknown: str | None

    @property
    def skipped(self) -> int:
        return self.total - self.full - self.partial


@dataclass(frozen=True, slots=True)
class Report:
    """The answer of `op.explain`; `str(report)` is for people, `to_json` for programs.

    FLOPs and bytes are per batch and head, for inputs of `itemsize` bytes; `roofline_us` is the time in microseconds
    that the slower of the two needs on the target.
    """

    name: str
    n: int
    m: int
    target: str
    itemsize: int
    tile: tuple[int, int]
    tiles: TileCounts
    exact: bool
    why: str
    flops: int
    bytes: int
    roofline_us: float
    sweeps: tuple[str, ...]
    passes: tuple[str, ...]
    token_maps: tuple[str, ...]
    plan_text: str

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {**asdict(self), "tiles": {**asdict(self.tiles), "skipped": self.tiles.skipped}}

    def __str__(self) -> str:
        tiles = self.tiles
        lines = [f"{self.name}: N = {self.n}, M = {self.m}, tiles of {self.tile[0]} x {self.tile[1]}, {self.target}"]
        if tiles.why_unknown:
            lines.append(f"  tiles     depend on {tiles.why_unknown}; {tiles.total} if all were visited")
        else:
            share = 100.0 * (tiles.full + tiles.partial) / max(tiles.total, 1)
            about = "about " if tiles.sampled else ""
            lines.append(
                f"  tiles     {about}{tiles.full} full, {tiles.partial} partial, {tiles.skipped} skipped "
                f"of {tiles.total} ({share:.2f}% visited)"
            )
        lines.append(f"            {self.why}{'' if self.exact else ' (not exact)'}")
        lines.append(f"  work      {self.flops:.3e} FLOP, {self.bytes:.3e} bytes per batch and head")
        lines.append(f"  roofline  {self.roofline_us:.1f} us on {self.target} at {8 * self.itemsize}-bit peak rates")
        lines += [f"  sweep {n}   {text}" for n, text in enumerate(self.sweeps)]
        lines += [f"            {text}" for text in self.passes]
        lines += [f"  per token {text}" for text in self.token_maps]
        return "\n".join(lines)


def explain(plan: KernelPlan, n: int, m: int, target: str) -> Report:
    """The report of a plan for N = n, M = m. Raises CallError for a target whose rates are not in `TARGETS`."""
    if target not in TARGETS:
        raise CallError(f"target: rates are known of {', '.join(TARGETS)}, not of {target!r}")
    part = plan.parts[0]
    tiles = count_tiles(plan, part, n, m)
    visited = tiles.total if tiles.why_unknown else tiles.full + tiles.partial
    pairs = visited * part.tile.rows * part.tile.keys
    per_pair = 2 * (sum(dot.dim for dot in plan.dots) + sum(dot.dim for dot in plan.pair_dots))
    sweeps_with_score = len(plan.sweeps)
    weighted = sum(acc.weighted for acc in plan.accumulators)
    flops = pairs * (per_pair * sweeps_with_score + 2 * plan.value_dim * weighted)
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
        tiles=tiles,
        exact=part.exact,
        why=part.why,
        flops=flops,
        bytes=moved,
        roofline_us=1e6 * max(flops / rate, moved / bandwidth),
        sweeps=tuple(sweep.why for sweep in plan.sweeps),
        passes=tuple(_describe(acc) for acc in plan.accumulators),
        token_maps=tuple(f"{d.name} = {print_expr(d.expr)}" for d in plan.derived),
        plan_text=print_plan(plan),
    )


def _describe(acc: Accumulator) -> str:
    text = f"{acc.name} = {acc.op} of {print_expr(acc.body)}{' * v' if acc.weighted else ''}"
    return text if acc.rescale is None else f"{text}, times {print_expr(acc.rescale)} when a maximum moves"


def count_tiles(plan: KernelPlan, part: Part, n: int, m: int) -> TileCounts:
    """Full and partial key tiles of one head at offsets 0 and the parameters' defaults."""
    rows, keys = part.tile.rows, part.tile.keys
    query_tiles = -(-n // rows)
    total = query_tiles * -(-m // keys)
    names = {"N": n, "M": m, "q_offset": 0, "k_offset": 0, "B": 1, "b": 0, "h": 0, "hk": 0}
    names.update(_defaults(plan))
    step = max(1, query_tiles // _COUNTED)
    counts = {"full": 0, "partial": 0}
    try:
        for tile in range(0, query_tiles, step):
            here = {**names, "i0": tile * rows, "i1": min((tile + 1) * rows, n) - 1}
            weight = min(step, query_tiles - tile)
            for visit in part.visits:
                counts[visit.kind] += weight * sum(_length(piece, here) for piece in visit.pieces)
    except UnknownValueError as error:
        unknown = error.expr
        text = print_expr(unknown) if isinstance(unknown, Lookup) else f"`{print_expr(unknown)}`"
        return TileCounts(total, 0, 0, False, text)
    return TileCounts(total, counts["full"], counts["partial"], step > 1, None)


def _defaults(plan: KernelPlan) -> dict[str, int]:
    found: dict[str, int] = {}
    for param in plan.module.scalars:
        if isinstance(param.default, Const) and isinstance(param.default.value, int):
            found[param.name] = int(param.default.value)
    return found


def _length(piece: Piece, names: dict[str, int]) -> int:
    if not evaluate_exact(piece.guard, names):
        return 0
    low, high = evaluate_exact(piece.low, names), evaluate_exact(piece.high, names)
    return max(0, (high - low) // piece.step + 1)

"""Static masks on images and videos, as their papers or published code build them; nothing of attnc.

Sources: NATTEN's reference rule, Sliding Tile Attention (attention-gym), HaloNet, Swin, MaxViT, axial and criss-cross
attention, Radial Attention. Positions are row-major, the slowest axis first.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from tests.oracles.dense import Keep, Mechanism, Problem


def place(position: int, *extents: int) -> tuple[int, ...]:
    """Coordinates of a position."""
    found: list[int] = []
    for extent in reversed(extents):
        position, coordinate = divmod(position, extent)
        found.append(coordinate)
    return tuple(reversed(found))


def on_image(p: Problem, i: int, j: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(y, x) of the query and of the key."""
    height, width = p.params["height"], p.params["width"]
    return place(i, height, width), place(j, height, width)


def neighborhood(x: int, y: int, extent: int, window: int, stride: int, dilation: int, causal: bool) -> bool:
    """NATTEN's reference rule on one axis."""
    if x % dilation != y % dilation:
        return False
    extent = len(range(x % dilation, extent, dilation))
    x, y = x // dilation, y // dilation
    if causal:
        leader = min((x // stride) * stride + stride - 1, extent - 1)
        return max(leader - window + 1, 0) <= y < x + 1
    left = window // 2
    right = window // 2 + window % 2 - 1
    leader = min((x // stride) * stride + stride // 2, extent - 1)
    start = max(leader - left, 0)
    if leader + right >= extent:
        start += extent - right - leader - 1
    return start <= y < start + window


def neighborhood_on(names: tuple[str, ...], suffixes: tuple[str, ...]) -> Keep:
    """All axes ANDed; positions in row-major order, slowest axis first."""

    def keep(p: Problem, _b: int, i: int, j: int) -> bool:
        for name, suffix in zip(reversed(names), reversed(suffixes), strict=True):
            extent = p.params[name]
            window, stride, dilation, causal = (
                p.params.get(f"{key}{suffix}", default)
                for key, default in (("window", None), ("stride", 1), ("dilation", 1), ("causal", False))
            )
            if not neighborhood(i % extent, j % extent, extent, window, stride, dilation, causal):
                return False
            i, j = i // extent, j // extent
        return True

    return keep


def sliding_tile_3d(p: Problem, _b: int, i: int, j: int) -> bool:
    """The published rule clamps the centre of the window, and looks from there."""
    extents = p.params["frames"], p.params["height"], p.params["width"]
    defaults = {"t": 6, "y": 8, "x": 8}
    for axis, extent, x, y in zip("tyx", extents, place(i, *extents), place(j, *extents), strict=True):
        tile, window = p.params.get(f"tile_{axis}", defaults[axis]), p.params.get(f"window_{axis}", 3)
        tiles = extent // tile
        left, right = window // 2, window // 2 + window % 2 - 1
        centre = max(left, min(x // tile, tiles - 1 - right))
        if not centre - left <= y // tile <= centre + right:
            return False
    return True


def halo(p: Problem, _b: int, i: int, j: int) -> bool:
    block, margin = p.params.get("block", 8), p.params.get("halo", 3)
    query, key = on_image(p, i, j)
    for x, y in zip(query, key, strict=True):
        corner = x - x % block
        if y not in range(corner - margin, corner + block + margin):
            return False
    return True


@cache
def swin_regions(height: int, width: int, window: int, shift: int) -> list[list[int]]:
    """The table of regions of the rolled image: three slices per axis, numbered."""
    regions = torch.zeros(height, width, dtype=torch.long)
    slices = (slice(0, -window), slice(-window, -shift), slice(-shift, None)) if shift else (slice(None),)
    count = 0
    for rows in slices:
        for columns in slices:
            regions[rows, columns] = count
            count += 1
    return regions.tolist()


def swin(p: Problem, _b: int, i: int, j: int) -> bool:
    """Rolled by -shift; in one window and in one region."""
    height, width = p.params["height"], p.params["width"]
    window, shift = p.params.get("window", 7), p.params.get("shift", 0)
    regions = swin_regions(height, width, window, shift)
    (qy, qx), (ky, kx) = (((y - shift) % height, (x - shift) % width) for y, x in on_image(p, i, j))
    same_window = (qy // window, qx // window) == (ky // window, kx // window)
    return same_window and regions[qy][qx] == regions[ky][kx]


def maxvit_block(p: Problem, _b: int, i: int, j: int) -> bool:
    size = p.params.get("size", 7)
    query, key = on_image(p, i, j)
    return [x // size for x in query] == [x // size for x in key]


def maxvit_grid(p: Problem, _b: int, i: int, j: int) -> bool:
    size = p.params.get("size", 7)
    query, key = on_image(p, i, j)
    steps = p.params["height"] // size, p.params["width"] // size
    return all(x % step == y % step for x, y, step in zip(query, key, steps, strict=True))


def axial(p: Problem, _b: int, i: int, j: int) -> bool:
    (qy, qx), (ky, kx) = on_image(p, i, j)
    same = (qx == kx, qy == ky, qx == kx or qy == ky)[p.params["axis"]]
    return same and (j <= i or not p.params.get("causal", False))


def beside_text(video: Keep) -> Keep:
    """The rule of the video from position `start` on; all that is not of the video is text."""

    def keep(p: Problem, b: int, i: int, j: int) -> bool:
        start = p.params.get("start", 0)
        tokens = range(start, start + p.params["frames"] * p.params["height"] * p.params["width"])
        return i not in tokens or j not in tokens or video(p, b, i - start, j - start)

    return keep


def near_places(f: int, places: int, block: int, decay: float, beside: bool, thin: int) -> Tensor:
    """Pairs of places of two frames f apart, none of them a sink."""
    group = f.bit_length()
    halved = 2 ** places.bit_length() / 2**group
    if f <= 1:
        reach: float = places if f == 0 or beside else places // 2
    else:
        reach = max(halved * decay, block)
    place = torch.arange(places)
    near = (place[:, None] - place[None, :]).abs() <= reach
    if halved < thin and f % int(thin / halved) != 0:
        near[:] = False
    return near


@cache
def radial_blocks(
    frames: int, places: int, block: int, decay: float, sink: int, beside: bool, thin: int
) -> list[list[bool]]:
    """The table of blocks: the pairs of every two frames on a canvas of their own, counted block by block."""
    blocks, per_frame = frames * places // block, -(-places // block)
    kept = torch.zeros(blocks + per_frame, blocks + per_frame, dtype=torch.bool)
    for x in range(frames):
        for y in range(frames):
            (row, top), (column, left) = divmod(x * places, block), divmod(y * places, block)
            canvas = torch.zeros((per_frame + 1) * block, (per_frame + 1) * block)
            near = near_places(abs(x - y), places, block, decay, beside, thin)
            canvas[top : top + places, left : left + places] = torch.ones_like(near) if y < sink else near
            canvas = canvas[: per_frame * block, : per_frame * block]
            density = canvas.reshape(per_frame, block, per_frame, block).mean(dim=1)
            share = (density > 1 / 3).sum(-1) / (density > 0).sum(-1).clamp(min=1)
            kept[row : row + per_frame, column : column + per_frame] |= share > 0.6
    return kept[:blocks, :blocks].tolist()


def radial(p: Problem, _b: int, i: int, j: int) -> bool:
    block = p.params.get("block", 128)
    table = radial_blocks(
        p.params["frames"],
        p.params["per_frame"],
        block,
        p.params.get("decay", 1.0),
        p.params.get("sink", 1),
        p.params.get("beside", False),
        p.params.get("thin", 128),
    )
    row, column = i // block, j // block
    return row >= len(table) or column >= len(table) or table[row][column]


GRIDS: dict[str, Mechanism] = {
    "radial": Mechanism(radial),
    "neighborhood_1d": Mechanism(neighborhood_on(("length",), ("",))),
    "neighborhood_2d": Mechanism(neighborhood_on(("height", "width"), ("_y", "_x"))),
    "neighborhood_3d": Mechanism(neighborhood_on(("frames", "height", "width"), ("_t", "_y", "_x"))),
    "sliding_tile_3d": Mechanism(sliding_tile_3d),
    "halo": Mechanism(halo),
    "swin": Mechanism(swin),
    "maxvit_block": Mechanism(maxvit_block),
    "maxvit_grid": Mechanism(maxvit_grid),
    "axial": Mechanism(axial),
    "neighborhood_3d_text": Mechanism(
        beside_text(neighborhood_on(("frames", "height", "width"), ("_t", "_y", "_x"))),
    ),
}

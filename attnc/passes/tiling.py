"""tiling: the tile size of a target.

A table for now: queries and keys per tile by the larger head dimension, small enough for the shared memory of every
target. `explain` shows the choice; searching it per target belongs to the GPU quality work.
"""

from __future__ import annotations

from attnc.ir.plan import Tile

#: (largest head dimension, bytes per element) -> tile. fp32 tiles are smaller: operands take twice the room.
_TILES: tuple[tuple[int, Tile, Tile], ...] = (
    (64, Tile(128, 64), Tile(64, 32)),
    (128, Tile(128, 64), Tile(64, 32)),
    (256, Tile(64, 32), Tile(32, 16)),
)


def choose_tile(head_dim: int, value_dim: int, *, itemsize: int) -> Tile:
    """The tile for a head dimension and an element size in bytes."""
    widest = max(head_dim, value_dim)
    for bound, narrow, wide in _TILES:
        if widest <= bound:
            return narrow if itemsize == 2 else wide
    raise ValueError(f"head dimension {widest} is above 256")

"""tiling: the tile size of a target.

A table for now: queries and keys per tile by the larger head dimension, small enough for the shared memory of every
target. `explain` shows the choice; searching it per target belongs to the GPU quality work.
"""

from __future__ import annotations

from attnc.ir.plan import Tile

#: Largest head dimension -> tile of 2 and of 4 bytes per element: fp32 operands take twice the room.
_TILES: tuple[tuple[int, Tile, Tile], ...] = (
    (64, Tile(128, 64), Tile(64, 32)),
    (128, Tile(128, 64), Tile(64, 32)),
    (256, Tile(64, 32), Tile(32, 16)),
)
#: Backwards hold two more operands and up to two accumulators of vectors.
_BACKWARD_TILES: tuple[tuple[int, Tile, Tile], ...] = (
    (128, Tile(64, 32), Tile(32, 16)),
    (256, Tile(32, 16), Tile(16, 16)),
)


def choose_tile(head_dim: int, value_dim: int, *, itemsize: int) -> Tile:
    """The tile of a forward for a head dimension and an element size in bytes."""
    return _choose(_TILES, max(head_dim, value_dim), itemsize)


def choose_backward_tile(head_dim: int, value_dim: int, *, itemsize: int) -> Tile:
    """That of the sweeps of a backward."""
    return _choose(_BACKWARD_TILES, max(head_dim, value_dim), itemsize)


def _choose(tiles: tuple[tuple[int, Tile, Tile], ...], widest: int, itemsize: int) -> Tile:
    for bound, narrow, wide in tiles:
        if widest <= bound:
            return narrow if itemsize == 2 else wide
    raise ValueError(f"head dimension {widest} is above 256")

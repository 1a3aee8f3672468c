"""first-tile: whether the first key tile that a query tile visits has a key for every row that sees any.

Before: sets of key tiles over the first and the last position of a query tile; full tiles are visited first.
After: a proof for all sizes, positions and parameters of calls whose queries are among the keys, or none. A query tile
with a full tile needs none; of the others the first tile of the first piece that has any is looked at. From that tile
on the running maximum of a row is a number, or it stays -inf.

    j <= i           ->   yes: a full tile, or tile 0 on the diagonal, where all rows see key 0
    j < P or j <= i  ->   yes: tile 0, whatever P is
    0 <= i - j < 4   ->   no: the first tile of most query tiles ends before the keys of their last row
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnc.passes.isl import isl, renew

#: Operations of isl that the proof may take, a dozen milliseconds: it needs less, or does not succeed.
MAX_OPERATIONS = 20_000


def is_first_live(live: Any, order: Sequence[Any], full: Any, pairs: Any, kept: Any, calls: Any) -> bool:
    """The proof. `order` are the sets that partial tiles are visited in, each in increasing order; `pairs` maps tiles
    to positions, `kept` are the pairs that the mask keeps; `calls` the calls that are spoken of. Any may be too much.
    """
    context = live.get_ctx()
    usual = context.get_max_operations()
    renew(context)
    context.set_max_operations(MAX_OPERATIONS)
    try:
        return _is_seen_in_order(live.params().intersect(calls).subtract(full.params()), order, pairs, kept)
    except isl.Error:
        return False
    finally:
        context.set_max_operations(usual)
        renew(context)


def _is_seen_in_order(left: Any, order: Sequence[Any], pairs: Any, kept: Any) -> bool:
    """Whether in each query tile of `left` the first tile of the first set that has any shows every row a key."""
    for tiles in order:
        if left.is_empty():
            break
        some = tiles.params().intersect(left).coalesce()
        if some.is_empty():
            continue
        if not _is_seen(tiles.intersect_params(some).lexmin().coalesce(), pairs, kept):
            return False
        left = left.subtract(some).coalesce()
    return bool(left.is_empty())


def _is_seen(tile: Any, pairs: Any, kept: Any) -> bool:
    """Whether every row of a query tile that sees a key sees one in the tile."""
    there = pairs.intersect_params(tile.params()).intersect_range(kept)
    rows, seen = (
        points.range().project_out(isl.dim_type.set, 1, 1) for points in (there, there.intersect_domain(tile))
    )
    return bool(rows.is_subset(seen))

"""first-tile: whether the first key tile that a query tile visits has a key for every row that sees any.

Before: sets of key tiles over the first and the last position of a query tile; full tiles are visited first.
After: a proof for all sizes, positions and parameters of calls whose queries are among the keys, or none. A query tile
with a full tile needs none; of the others the first of the live tiles is looked at. From that tile on the running
maximum of a row is a number, or it stays -inf.

    j <= i           ->   yes: a full tile, or tile 0 on the diagonal, where all rows see key 0
    0 <= i - j < 4   ->   no: the first tile of most query tiles ends before the keys of their last row
"""

from __future__ import annotations

from typing import Any

from attnc.passes.isl import isl, renew

#: Operations of isl that the proof may take: it needs less, or does not succeed.
MAX_OPERATIONS = 6_000


def is_first_live(live: Any, first: Any, full: Any, pairs: Any, kept: Any, calls: Any) -> bool:
    """The proof. `first` is what the first range of partial tiles holds, in increasing order; `pairs` maps tiles to
    positions, `kept` are the pairs that the mask keeps; `calls` the calls that are spoken of. Any set may be too much.
    """
    if first is None:  # no partial tiles at all
        return True
    context = live.get_ctx()
    usual = context.get_max_operations()
    renew(context)
    context.set_max_operations(MAX_OPERATIONS)
    try:
        without = live.params().intersect(calls).subtract(full.params())
        return bool(without.is_subset(first.params())) and _is_seen(
            first.intersect_params(without).lexmin(), pairs, kept
        )
    except isl.Error:
        return False
    finally:
        context.set_max_operations(usual)
        renew(context)


def _is_seen(tile: Any, pairs: Any, kept: Any) -> bool:
    """Whether every row of a query tile that sees a key sees one in the tile."""
    there = pairs.intersect_params(tile.params()).intersect_range(kept)
    rows, seen = (
        points.range().project_out(isl.dim_type.set, 1, 1) for points in (there, there.intersect_domain(tile))
    )
    return bool(rows.is_subset(seen))

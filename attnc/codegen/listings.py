"""Key tiles from a list that is made at the call.

The list is a table of ints: per unit (batch and head where lists differ, and query tile) its query tile, where its
entries start, how many are full and how many live, units with the most work first; then the entries, full ones first.
"""

from __future__ import annotations

from attnc.ir.plan import Listing

#: Ints per unit before the entries.
WIDTH = 4


def listing_lines(listing: Listing) -> list[str]:
    """The query tile of this program, and where its entries are."""
    group = _group(listing)
    unit = f"({group}) * n_tiles + tile" if group else "tile"
    return [
        f"unit = list_ptr + {WIDTH} * ({unit})",
        "tile = tl.load(unit)",
        "entries = list_ptr + tl.load(unit + 1)",
        "full_count = tl.load(unit + 2)",
        "partial_count = tl.load(unit + 3) - full_count",
    ]


def _group(listing: Listing) -> str:
    count = {"": "1", "h": "H", "hk": "HK"}[listing.heads]
    batch = "b" if listing.batches else ""
    if not listing.heads:
        return batch
    return f"{batch} * {count} + {listing.heads}" if batch else listing.heads


def listed_tile_lines(kind: str) -> list[str]:
    """The key tile of one step."""
    return ["key_tile = tl.load(entries + t)" if kind == "full" else "key_tile = tl.load(entries + full_count + t)"]

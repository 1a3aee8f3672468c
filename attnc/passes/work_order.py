"""work-order: which tiles a call lists, and in which order query tiles start.

Before: the parts of a plan.
After: parts whose mask looks up positions have a listing, where calls may list; parts whose later query tiles have more
work are descending, so that the longest do not start last.

    keep[b, j] and seg[b, i] == seg[b, j]   ->  a list for each batch
    j <= i                                  ->  the last query tile first
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.dependence import axes, looks_up_positions
from attnc.ir.expr import Expr
from attnc.ir.plan import Listing, Part, Visit
from attnc.passes.tile_tables import NotCountableError, counts_of_ranges

#: Positions by which one sees whether work grows.
_TRIED = 4096


def list_what_depends(part: Part, mask: Expr) -> Part:
    """The part with a listing when its mask looks up positions, else as it is."""
    own = mask if part.mask is None else part.mask
    if part.axes or not looks_up_positions(own):
        return part
    read = axes(own)
    listing = Listing("b" in read, "h" if "h" in read else "hk" if "hk" in read else "")
    why = f"tiles listed at the call, from what the mask looks up in them; at most {part.why}"
    pieces = {visit.kind: visit.pieces for visit in part.visits}
    visits = (Visit("full", pieces.get("full", ())), Visit("partial", pieces.get("partial", ())))
    return replace(part, visits=visits, listing=listing, exact=False, why=why)


def ordered(part: Part) -> Part:
    """The part, descending when the second half of its query tiles has clearly more work than the first."""
    if part.axes or part.listing is not None:
        return part
    try:
        counts = counts_of_ranges(part.visits, part.tile, _TRIED)
    except NotCountableError:
        return part
    half = len(counts) // 2
    return replace(part, descending=bool(counts[half:].sum() > 1.5 * counts[:half].sum()))

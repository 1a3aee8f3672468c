"""work-order: which tiles a call lists, and in which order query tiles start.

Before: the parts of a plan.
After: parts whose mask looks up positions, or has no closed forms, have a listing where calls may list; parts whose
later query tiles have more work are descending, so that the longest do not start last.

    keep[b, j] and seg[b, i] == seg[b, j]   ->  a list for each batch
    j <= i                                  ->  the last query tile first
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.dependence import axes, looks_up_positions
from attnc.ir.expr import Expr, Lookup
from attnc.ir.plan import Listing, Part, PlanOptions, Visit
from attnc.ir.traverse import walk
from attnc.passes.tile_tables import NotCountableError, counts_of_ranges

#: Positions by which one sees whether work grows.
_TRIED = 4096


def list_what_depends(part: Part, mask: Expr, options: PlanOptions) -> Part:
    """The part with a listing, where calls may list and its mask looks up positions or has no closed forms."""
    own = mask if part.mask is None else part.mask
    if part.axes:
        return part
    if options.listed and looks_up_positions(own):
        why = "tiles listed at the call, from what the mask looks up in them"
        return replace(_listed(part, own, why), mask=part.mask)
    if options.numbered and part.covers and not any(isinstance(node, Lookup) for node in walk(own)):
        found = _listed(part, own, "tiles listed for the sizes and offsets of the call")
        assert found.listing is not None
        return replace(found, listing=replace(found.listing, of_numbers=True), mask=own)
    return part


def _listed(part: Part, mask: Expr, why: str) -> Part:
    read = axes(mask)
    listing = Listing("b" in read, "h" if "h" in read else "hk" if "hk" in read else "")
    pieces = {visit.kind: visit.pieces for visit in part.visits}
    visits = (Visit("full", pieces.get("full", ())), Visit("partial", pieces.get("partial", ())))
    why = f"{why}; without the list: {part.why}"
    return replace(part, visits=visits, listing=listing, exact=False, why=why, first_live=False, covers=False)


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

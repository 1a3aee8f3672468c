"""head-cases: a mask that is one of a few, chosen by conditions on batch and head, analysed one by one.

Before: a mask, some conditions of which read neither i nor j but differ between batches or heads.
After: a mask for each combination of their truth values, none of which reads them; then one part whose ranges are
guarded by them. Each mask is simpler than their union, and all of its tiles keep their closed forms.

    j <= i and (full[hk] or j < 64)   ->   j <= i  if full[hk],   j <= i and j < 64  if not full[hk]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

from attnc.ir.build import call, conj
from attnc.ir.dependence import axes, pair_axes
from attnc.ir.expr import FALSE, TRUE, Call, Const, Exists, Expr, Lift, Var
from attnc.ir.fold import fold
from attnc.ir.plan import Part, Piece, Visit
from attnc.ir.traverse import children, substitute, walk
from attnc.ir.types import BOOL

#: Conditions that are told apart: each doubles the masks.
_MAX_CONDITIONS = 2

Case = tuple[Expr, Expr]


def by_head(mask: Expr) -> list[Case]:
    """Guards with the mask that holds under each; the mask alone where there is nothing to tell apart, or too much."""
    conditions = list(dict.fromkeys(_conditions(mask)))
    if not 0 < len(conditions) <= _MAX_CONDITIONS:
        return [(TRUE, mask)]
    found: list[Case] = []
    for truths in product((True, False), repeat=len(conditions)):
        known = dict(zip(conditions, truths, strict=True))
        guard = TRUE
        for cond, truth in known.items():
            guard = conj(guard, cond if truth else call("not", cond, type=BOOL))
        found.append((guard, fold(substitute(mask, {cond: Const(truth, BOOL) for cond, truth in known.items()}))))
    return found


def _conditions(expr: Expr) -> Iterator[Expr]:
    """The largest conditions that differ between batches or heads and are the same for all pairs."""
    if isinstance(expr, Exists | Lift):  # a variable of its own may stand in them
        return
    if expr.type == BOOL and not pair_axes(expr) and not _is_joint(expr):
        if axes(expr) and not any(isinstance(node, Var) for node in walk(expr)):
            yield expr
        return
    for child in children(expr):
        yield from _conditions(child)


def _is_joint(expr: Expr) -> bool:
    return isinstance(expr, Call) and expr.fn in ("and", "or", "not")


def joined(cases: Sequence[tuple[Expr, Part]]) -> Part:
    """The visits of every case where its guard holds."""
    parts = [part for _, part in cases]
    visits = (Visit("full", tuple(_pieces(cases, "full"))), Visit("partial", tuple(_pieces(cases, "partial"))))
    whys = list(dict.fromkeys(part.why for part in parts))
    return replace(
        parts[0],
        visits=tuple(visit for visit in visits if visit.pieces),
        exact=all(part.exact for part in parts),
        why=f"{len(cases)} masks, by batch or head: {' or '.join(whys)}",
        first_live=all(part.first_live for part in parts),
        covers=any(part.covers for part in parts),
    )


def _pieces(cases: Sequence[tuple[Expr, Part]], kind: str) -> Iterator[Piece]:
    for guard, part in cases:
        for visit in part.visits:
            if visit.kind == kind:
                yield from (replace(piece, guard=_both(guard, piece.guard)) for piece in visit.pieces)


def _both(guard: Expr, inner: Expr) -> Expr:
    return FALSE if inner == FALSE else conj(guard, inner)

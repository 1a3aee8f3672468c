"""mask-splits: a mask with a disjunction as two masks that share no pair, in the ways that may be worth a part each.

Before: a mask some clause of which is a disjunction.
After: pairs of masks that together keep what the mask keeps. A way is one of the cases beside the others; what both
keep belongs to either, so a way has two orders.

    j <= i and (near or far)   ->   j <= i and near,  j <= i and far and not near;   and the same the other way round
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

from attnc.ir.build import call, conj
from attnc.ir.dependence import conjuncts
from attnc.ir.expr import TRUE, Expr
from attnc.ir.types import BOOL
from attnc.passes.mask_axes import disjuncts

#: Two masks that share no pair.
Pair = tuple[Expr, Expr]
#: Cases of a disjunction of which each is tried as a part of its own.
MAX_CASES = 4


def ways(mask: Expr) -> Iterator[tuple[Pair, Pair]]:
    """Every way with its two orders."""
    clauses = conjuncts(mask)
    for n, clause in enumerate(clauses):
        cases = disjuncts(clause)
        if not 2 <= len(cases) <= MAX_CASES:
            continue
        rest = reduce(conj, (*clauses[:n], *clauses[n + 1 :]), TRUE)
        for m, case in enumerate(cases if len(cases) > 2 else cases[:1]):
            others = reduce(_or, (*cases[:m], *cases[m + 1 :]))
            yield _apart(rest, case, others), _apart(rest, others, case)


def _apart(rest: Expr, first: Expr, second: Expr) -> Pair:
    """Where `rest` holds, what the first keeps, and what only the second keeps."""
    return conj(rest, first), conj(conj(rest, second), call("not", first, type=BOOL))


def _or(a: Expr, b: Expr) -> Expr:
    return call("or", a, b, type=BOOL)

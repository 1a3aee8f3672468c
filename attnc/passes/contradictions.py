"""contradictions: a mask that no pair of any call fulfils, and the clauses of it that exclude each other.

Before: a module, bound or not.
After: the clauses, or None where a pair may be kept. Bounded work.

    j <= i and w >= 3 and j > i   ->   j <= i, j > i
"""

from __future__ import annotations

from functools import reduce

from attnc.diagnostics import SpecError
from attnc.ir.build import conj
from attnc.ir.dependence import conjuncts
from attnc.ir.expr import TRUE, Expr, Param
from attnc.ir.module import AttentionModule
from attnc.ir.ranges import conditions
from attnc.ir.types import INT
from attnc.passes.claims import Claims
from attnc.passes.subjects import Subject, pairs

#: Work of isl for one question, and clauses that are left out one by one.
MAX_OPERATIONS = 20_000
MAX_CLAUSES = 8


def excluding_clauses(module: AttentionModule) -> tuple[Expr, ...] | None:
    """The clauses of a mask that keeps nothing, as few as still exclude each other; None for any other mask."""
    try:
        subject = Subject.of(module)
    except SpecError:  # a tile lift without a condition on blocks
        return None
    ranges = [
        cond for scalar in module.scalars if scalar.type == INT
        for cond in conditions(Param(scalar.name, INT), scalar.range)
    ]  # fmt: skip
    claims = Claims([subject], reduce(conj, ranges, TRUE), max_operations=MAX_OPERATIONS)
    clauses = conjuncts(subject.mask)
    if not _exclude(claims, clauses):
        return None
    for clause in clauses[:MAX_CLAUSES] if len(clauses) > 1 else ():
        fewer = tuple(other for other in clauses if other is not clause)
        clauses = fewer if fewer and _exclude(claims, fewer) else clauses
    return clauses


def _exclude(claims: Claims, clauses: tuple[Expr, ...]) -> bool:
    return claims.pairs(reduce(conj, clauses, TRUE), pairs()).impossible

"""mask-axes: a mask over grids as a product of conditions, one per axis.

Before: a conjunction of conditions on positions and on coordinates of both sides, coordinates standing for themselves.
After: the conjuncts sorted by the one axis whose coordinates they read, those on flat positions, those on neither, and
the rest. Tiles and proofs treat each axis alone.

    abs(i.y - j.y) <= 3 and abs(i.x - j.x) <= 2 and j <= i and flag
    ->  axis 0: abs(i.y - j.y) <= 3,  axis 1: abs(i.x - j.x) <= 2,  flat: j <= i,  uniform: flag
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnc.ir.build import conj
from attnc.ir.dependence import conjuncts, pair_axes
from attnc.ir.expr import TRUE, Call, Expr, GridCoord, Index, Lift, Lookup
from attnc.ir.traverse import walk
from attnc.ir.types import BOOL


@dataclass(frozen=True, slots=True)
class Separated:
    """The mask is the conjunction of all parts; a part that nothing belongs to is `true`.

    `axes` are conditions on the coordinates of one axis each, of the query, the key or both; `flat` reads positions i
    and j and no coordinate; `uniform` reads neither; `rest` mixes axes, or axes and positions, looks positions up, or
    lifts to blocks.
    """

    axes: Mapping[int, Expr]
    flat: Expr
    uniform: Expr
    rest: Expr

    @property
    def is_product(self) -> bool:
        """Whether every condition on positions belongs to one axis."""
        return self.flat == TRUE and self.rest == TRUE


def separated(mask: Expr) -> Separated:
    """The conjuncts of a mask by what they read."""
    axes: dict[int, Expr] = {}
    flat = uniform = rest = TRUE
    for clause in all_conjuncts(mask):
        read = {node.axis for node in walk(clause) if isinstance(node, GridCoord)}
        positions = any(isinstance(node, Index) and node.name in ("i", "j") for node in walk(clause))
        looked_up = any(isinstance(node, Lookup) and pair_axes(node) for node in walk(clause))
        lifted = any(isinstance(node, Lift) for node in walk(clause))  # blocks are made of positions
        if lifted or looked_up or len(read) > 1 or (read and positions):
            rest = conj(rest, clause)
        elif read:
            axis = read.pop()
            axes[axis] = conj(axes.get(axis, TRUE), clause)
        elif positions:
            flat = conj(flat, clause)
        else:
            uniform = conj(uniform, clause)
    return Separated(dict(sorted(axes.items())), flat, uniform, rest)


def all_conjuncts(mask: Expr) -> tuple[Expr, ...]:
    """The clauses of a conjunction, also of one that is written as the negation of a disjunction."""
    found: list[Expr] = []
    for clause in conjuncts(mask):
        match clause:
            case Call(fn="not", args=(Call(fn="or", args=(a, b)),)):
                found += all_conjuncts(conj(_not(a), _not(b)))
            case Call(fn="not", args=(Call(fn="not", args=(a,)),)):
                found += all_conjuncts(a)
            case _:
                found.append(clause)
    return tuple(found)


def disjuncts(mask: Expr) -> tuple[Expr, ...]:
    """The cases of a disjunction; the mask itself when it is none."""
    match mask:
        case Call(fn="or", args=(a, b)):
            return disjuncts(a) + disjuncts(b)
        case _:
            return (mask,)


def _not(cond: Expr) -> Expr:
    return Call("not", (cond,), BOOL)

"""Masks that depend on data: what holds whatever the data, from outside and from inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from attnc.ir.build import call
from attnc.ir.expr import FALSE, TRUE, Call, Expr, Lookup
from attnc.ir.fold import fold
from attnc.ir.plan import KernelPlan
from attnc.ir.traverse import walk
from attnc.ir.types import BOOL
from attnc.passes.block_sparsity import BlockSparsity
from attnc.passes.tile_tables import is_countable

_PAIR = frozenset(("i", "j", "r", "c"))


def bounded(plan: KernelPlan, names: Mapping[str, Any], *, outer: bool) -> KernelPlan:
    """The plan with conditions on data taken as true (outer) or false, its tiles ranges of positions."""
    known = _PAIR | frozenset(names)
    mask = fold(_bound(plan.mask, known, outer=outer))
    return replace(plan, mask=mask, parts=(BlockSparsity().run(mask, plan.parts[0].tile),))


def by_part(plan: KernelPlan) -> tuple[KernelPlan, ...]:
    """A plan for each part: their tiles have no common order, and together they keep what the mask keeps."""
    if len(plan.parts) == 1:
        return (plan,)
    return tuple(replace(plan, mask=plan.mask_of(part), parts=(part,)) for part in plan.parts)


def _bound(mask: Expr, known: frozenset[str], *, outer: bool) -> Expr:
    if is_countable(mask, known):
        return mask
    match mask:
        case Call(fn="and" | "or" as fn, args=(a, b)):
            return call(fn, *(_bound(side, known, outer=outer) for side in (a, b)), type=BOOL)
        case Call(fn="not", args=(a,)):
            return call("not", _bound(a, known, outer=not outer), type=BOOL)
        case Call(fn="where", args=(_, a, b), type=kind) if kind == BOOL:
            sides = (_bound(side, known, outer=outer) for side in (a, b))
            return call("or" if outer else "and", *sides, type=BOOL)
        case _:
            return TRUE if outer else FALSE


def tensors_of(mask: Expr) -> tuple[str, ...]:
    """Names of the tensors that a mask reads."""

    def names() -> Iterator[str]:
        for node in walk(mask):
            if isinstance(node, Lookup):
                yield node.tensor

    return tuple(sorted(set(names())))

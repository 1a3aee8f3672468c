"""How two partial states of a sweep combine: what split keys, and keys on several machines, need.

Each state holds the accumulators of a sweep over some of the keys, started at the identity. The rule follows from the
accumulators alone: an extremum is the larger or smaller of both; a sum is the sum of both, each times the factor by
which it is corrected when the statistics that it reads move from its own to the merged ones. Values that enter once
(a sink) stand in the output, not in the accumulators, so merging knows nothing of them.

    a0 = max of s                        a0 = max(a0.left, a0.right)
    a1 = sum of exp(s - a0),             a1 = a1.left * exp(a0.left - a0) + a1.right * exp(a0.right - a0)
         times exp(a0.old - a0)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attnc.ir.build import add, call, real_const, where
from attnc.ir.expr import Expr, Ref
from attnc.ir.plan import Accumulator, KernelPlan, Sweep
from attnc.ir.traverse import substitute, walk
from attnc.ir.types import BOOL, REAL

Side = Literal["left", "right"]
_IDENTITY = {"max": float("-inf"), "min": float("inf")}


@dataclass(frozen=True, slots=True)
class Merge:
    """The merged value of an accumulator: of Ref NAME.left, NAME.right, and Ref NAME of those merged before it."""

    accumulator: Accumulator
    value: Expr


def merges(sweep: Sweep) -> tuple[Merge, ...]:
    """The rule of a sweep, in the order in which it has to be computed. The combination is associative."""
    extrema = {acc.name: acc for acc in sweep.accumulators if acc.op != "sum"}
    return tuple(Merge(acc, _merged(acc, extrema)) for acc in sweep.accumulators)


def splits(plan: KernelPlan) -> bool:
    """Whether the keys of a query may be split: one kernel with one pass over them, which sums over keys alone.

    What begins at states would begin there once for each of its pieces.
    """
    return len(plan.stages) == 1 and len(plan.sweeps) == 1 and not plan.columns and plan.states is None


def partial_ref(acc: Accumulator, side: Side) -> Ref:
    """How the rule reads an accumulator of one of the states."""
    return Ref(f"{acc.name}.{side}", acc.ref.type)


def _merged(acc: Accumulator, extrema: dict[str, Accumulator]) -> Expr:
    left, right = partial_ref(acc, "left"), partial_ref(acc, "right")
    if acc.op != "sum":
        return call(acc.op, left, right)
    if acc.rescale is None:
        return add(left, right)
    factors = (_factor(acc, acc.rescale, "left", extrema), _factor(acc, acc.rescale, "right", extrema))
    return add(call("mul", left, factors[0]), call("mul", right, factors[1]))


def _factor(acc: Accumulator, rescale: Expr, side: Side, extrema: dict[str, Accumulator]) -> Expr:
    """What a partial sum is multiplied by when its statistics become the merged ones."""
    own: dict[Expr, Expr] = {Ref(f"{name}.old", REAL): partial_ref(stat, side) for name, stat in extrema.items()}
    merged: dict[Expr, Expr] = {stat.ref: _finite(stat) for stat in extrema.values()}
    factor = substitute(rescale, own | merged)
    if not acc.rescale_guard:
        return factor
    read = {node.name for node in walk(rescale) if isinstance(node, Ref)}
    for stat in (stat for name, stat in extrema.items() if f"{name}.old" in read):
        # A state without keys holds nothing that a factor could correct.
        started = call("lt", call("abs", partial_ref(stat, side)), real_const(float("inf")), type=BOOL)
        factor = where(started, factor, real_const(0.0))
    return factor


def _finite(acc: Accumulator) -> Expr:
    """A merged extremum; any number while there is no key at all, where sums are 0 whatever the factor."""
    nothing = call("eq", acc.ref, real_const(_IDENTITY[acc.op]), type=BOOL)
    return where(nothing, real_const(0.0), acc.ref)

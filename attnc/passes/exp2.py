"""exp2: powers of e become powers of two, and where it costs nothing the logit is kept in units of log 2.

Before: exp(x), the logit s.
After: exp2(x * log2(e)) with the factor multiplied into the constants; if s occurs only as the argument of a maximum
or linearly inside such exponents, the plan computes t = s * log2(e) instead (the factor then joins `scale`).

    max s; sum exp(s - a0)   ->   max t; sum exp2(t - a0);   s = t * ln 2
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from attnc.ir.build import add, call, mul, neg, sub
from attnc.ir.dependence import axes
from attnc.ir.expr import Call, Const, Expr, Ref, Value, real_const
from attnc.ir.module import Binding
from attnc.ir.plan import Accumulator, Sweep
from attnc.ir.traverse import map_children, substitute, walk
from attnc.ir.types import REAL

LN2 = math.log(2.0)
LOG2E = 1.0 / LN2
LOGIT = Value("s", REAL)


@dataclass(frozen=True, slots=True)
class Folded:
    """Sweeps, output and statistics after the change; `log2_score`: Value("s") now means s * log2(e)."""

    sweeps: tuple[Sweep, ...]
    output: Expr
    aux: tuple[Binding, ...]
    empty: Expr | None
    log2_score: bool


def scale_by(factor: float, expr: Expr) -> Expr:
    """factor * expr with the factor moved into the cheapest place: constants, then values of fewest axes."""
    if factor == 1.0:
        return expr
    match expr:
        case Const():
            return real_const(factor * float(expr.value), expr.span)
        case Call(fn="add", args=(a, b)):
            return add(scale_by(factor, a), scale_by(factor, b))
        case Call(fn="sub", args=(a, b)):
            return sub(scale_by(factor, a), scale_by(factor, b))
        case Call(fn="neg", args=(a,)):
            return neg(scale_by(factor, a))
        case Call(fn="where", args=(cond, a, b)):
            return replace(expr, args=(cond, scale_by(factor, a), scale_by(factor, b)))
        case Call(fn="mul", args=(a, b)):
            if len(axes(a)) <= len(axes(b)):
                return mul(scale_by(factor, a), b)
            return mul(a, scale_by(factor, b))
        case Call(fn="div", args=(a, b)):
            return replace(expr, args=(scale_by(factor, a), b))
        case _:
            return mul(real_const(factor), expr)


def exponents_to_base_2(expr: Expr, *, linear: frozenset[Expr] = frozenset()) -> Expr:
    """exp(x) -> exp2(log2(e) * x). Leaves in `linear` already are in units of log 2: they take no factor."""

    def change(node: Expr) -> Expr:
        node = map_children(node, change)
        if isinstance(node, Call) and node.fn == "exp":
            return call("exp2", _to_base_2(node.args[0], linear), span=node.span)
        return node

    return change(expr)


def _to_base_2(expr: Expr, linear: frozenset[Expr]) -> Expr:
    if expr in linear:
        return expr
    match expr:
        case Call(fn="add", args=(a, b)):
            return add(_to_base_2(a, linear), _to_base_2(b, linear))
        case Call(fn="sub", args=(a, b)):
            return sub(_to_base_2(a, linear), _to_base_2(b, linear))
        case Call(fn="neg", args=(a,)):
            return neg(_to_base_2(a, linear))
        case _:
            return scale_by(LOG2E, substitute(expr, {leaf: mul(real_const(LN2), leaf) for leaf in linear}))


def fold_exp2(sweeps: tuple[Sweep, ...], output: Expr, aux: tuple[Binding, ...], empty: Expr | None) -> Folded:
    """Apply the pass to the lowered cascade."""
    accumulators = [acc for sweep in sweeps for acc in sweep.accumulators]
    in_log2 = frozenset(acc.name for acc in accumulators if acc.op != "sum" and acc.body == LOGIT)
    names = (*in_log2, *(f"{name}.old" for name in in_log2))
    linear: frozenset[Expr] = frozenset((LOGIT, *(Ref(name, REAL) for name in names)))
    written = [e for acc in accumulators for e in (acc.body, acc.rescale) if e is not None]
    written += [output, *(binding.expr for binding in aux)]
    if any(_in_exp2(e, linear) for e in written) or not all(_fits(acc, linear) for acc in accumulators):
        return _convert(sweeps, output, aux, empty, frozenset(), exponents_to_base_2)
    return _convert(sweeps, output, aux, empty, linear, lambda e: exponents_to_base_2(e, linear=linear))


def _fits(acc: Accumulator, linear: frozenset[Expr]) -> bool:
    """Whether the logit occurs only in units of log 2 once exponents are in base 2."""
    if acc.body == LOGIT:
        return acc.op != "sum"
    if all(node != LOGIT for node in walk(acc.body)):
        return True
    marked = exponents_to_base_2(acc.body, linear=linear)
    outside = substitute(marked, {node: real_const(0.0) for node in walk(marked) if _is_exp2(node)})
    inside = [node for node in walk(marked) if _is_exp2(node)]
    scaled = any(_scales_logit(node) for exponent in inside for node in walk(exponent))
    return not scaled and all(node != LOGIT for node in walk(outside))


def _in_exp2(expr: Expr, linear: frozenset[Expr]) -> bool:
    """Whether a power of two that the spec itself writes reads the logit: its argument has another unit."""
    powers = (node for node in walk(expr) if _is_exp2(node))
    return any(node in linear for power in powers for node in walk(power))


def _is_exp2(node: Expr) -> bool:
    return isinstance(node, Call) and node.fn == "exp2"


def _scales_logit(node: Expr) -> bool:
    return isinstance(node, Call) and node.fn == "mul" and any(arg == LOGIT for arg in node.args)


def _convert(
    sweeps: tuple[Sweep, ...],
    output: Expr,
    aux: tuple[Binding, ...],
    empty: Expr | None,
    linear: frozenset[Expr],
    change: Callable[[Expr], Expr],
) -> Folded:
    """Exponents by `change`; elsewhere a linear leaf x stands for x * ln 2."""
    natural = {leaf: mul(real_const(LN2), leaf) for leaf in linear}

    def row(expr: Expr) -> Expr:
        return _outside_exponents(change(expr), natural)

    def accumulator(acc: Accumulator) -> Accumulator:
        body = acc.body if acc.body == LOGIT else row(acc.body)
        return replace(acc, body=body, rescale=None if acc.rescale is None else row(acc.rescale))

    return Folded(
        tuple(replace(sweep, accumulators=tuple(map(accumulator, sweep.accumulators))) for sweep in sweeps),
        row(output),
        tuple(replace(binding, expr=row(binding.expr)) for binding in aux),
        empty,
        bool(linear),
    )


def _outside_exponents(expr: Expr, mapping: dict[Expr, Expr]) -> Expr:
    """Substitute everywhere but inside exp2, whose arguments are in base 2 already."""
    if _is_exp2(expr):
        return expr
    if expr in mapping:
        return mapping[expr]
    return map_children(expr, lambda child: _outside_exponents(child, mapping))

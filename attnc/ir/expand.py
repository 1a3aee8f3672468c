"""Expressions taken apart into simpler ones: what every emitter, and whoever looks at cases, needs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from attnc.ir.build import call
from attnc.ir.expr import FALSE, Call, Exists, Expr, Var, int_const
from attnc.ir.traverse import substitute
from attnc.ir.types import BOOL, INT, Type

_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def cases_of(expr: Exists, values: Iterable[int]) -> Expr:
    """An `exists` over some values, written out as a disjunction."""
    cases = [substitute(expr.body, {Var(expr.var): int_const(value)}) for value in values]
    return reduce(lambda a, b: call("or", a, b, type=BOOL), cases) if cases else FALSE


def repeated_product(base: Expr, power: int, kind: Type) -> Expr:
    """base ^ power for a power of at least 1, by squaring: equal factors are written once."""
    if power == 1:
        return base
    half = repeated_product(base, power // 2, kind)
    square = Call("mul", (half, half), kind)
    return square if power % 2 == 0 else Call("mul", (square, base), kind)


def operand_kind(expr: Call, kind: str) -> str:
    """The kind that operands are converted to: comparisons look at their operands, roundings take reals."""
    if expr.fn in _COMPARISONS:
        return "int" if all(arg.type == INT for arg in expr.args) else "real"
    return "real" if expr.fn in ("int", "floor") else kind

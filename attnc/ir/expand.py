"""Expressions taken apart into simpler ones: what every emitter, and whoever looks at cases, needs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from attnc.ir.build import call
from attnc.ir.expr import FALSE, Call, Const, Exists, Expr, Var, int_const
from attnc.ir.traverse import children, substitute
from attnc.ir.types import BOOL, INT, Type

_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def cases_of(expr: Exists, values: Iterable[int]) -> Expr:
    """An `exists` over some values, written out as a disjunction."""
    cases = [substitute(expr.body, {Var(expr.var): int_const(value)}) for value in values]
    return reduce(lambda a, b: call("or", a, b, type=BOOL), cases) if cases else FALSE


def written_out(expr: Expr) -> int:
    """Nodes of an expression if every `exists` of known values were written out."""
    known: dict[int, int] = {}

    def count(node: Expr) -> int:
        if id(node) not in known:
            inner = sum(map(count, children(node)))
            if isinstance(node, Exists) and isinstance(node.low, Const) and isinstance(node.high, Const):
                inner *= max(int(node.high.value) - int(node.low.value), 1)
            known[id(node)] = 1 + inner
        return known[id(node)]

    return count(expr)


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

"""mask-intervals: three-valued evaluation of a condition over many boxes at once.

Before: a condition, and for each of its leaves an interval per box.
After: per box whether the condition holds everywhere in it, nowhere, or is not decided.

    j <= i with i in [64, 127] and j in [0, 63], [64, 127], [128, 191]   ->   true, undecided, false

Always sound, often not sharp: two occurrences of one leaf are taken as independent. It costs a few array operations per
node of the condition, whatever the condition is, so that it stands in where integer sets would take too long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnc.ir.expr import Call, Const, Exists, Expr, Index, Lookup, Size, Var
from attnc.ir.types import BOOL, INT
from attnc.passes.mask_sets import exists_values
from attnc.passes.spans import (
    ANY,
    EXACT,
    INT_RULES,
    POINT_RULES,
    Span,
    quotient,
    ratio,
    remainder,
    unless_exact,
    widened,
)

Bools = np.ndarray[Any, np.dtype[np.bool_]]

#: Values of nested `exists` that are tried one by one; beyond, the variable is an interval.
_TRIED = 64
_MIRROR = {"gt": "lt", "ge": "le"}


@dataclass(frozen=True, slots=True)
class Truth:
    """Per box: whether the condition can hold somewhere, and whether it must hold everywhere."""

    may: Bools
    must: Bools

    @property
    def undecided(self) -> Bools:
        """Where neither is known."""
        return self.may & ~self.must


Look = Callable[[Lookup, tuple[Span, ...]], "Span | None"]


def _no_table(node: Lookup, indices: tuple[Span, ...]) -> Span | None:
    del node, indices
    return None


@dataclass(slots=True)
class Boxes:
    """What is known about the leaves: `leaves` by expression (any subexpression may be one), look-ups by `look`.

    A size, a batch or a head that is not listed is 0 or more; everything else can be any number.
    """

    leaves: Mapping[Expr, Span]
    look: Look = _no_table
    _numbers: dict[int, tuple[Expr, Span]] = field(default_factory=dict[int, tuple[Expr, Span]])
    _conditions: dict[int, tuple[Expr, Truth]] = field(default_factory=dict[int, tuple[Expr, Truth]])
    _tried: int = 1
    _has_calls: bool | None = None
    _leaf_calls: dict[int, tuple[Expr, bool]] = field(default_factory=dict[int, tuple[Expr, bool]])

    # -- conditions ----------------------------------------------------------------------------------------------

    def truth(self, cond: Expr) -> Truth:
        """The condition over every box."""
        known = self._conditions.get(id(cond))
        if known is None:
            known = self._conditions[id(cond)] = (cond, self._truth(cond))
        return known[1]

    def _truth(self, cond: Expr) -> Truth:
        match cond:
            case Const(value=value):
                return Truth(np.asarray(bool(value)), np.asarray(bool(value)))
            case _ if self._is_leaf(cond):
                span = self.leaves[cond]
                return Truth(span.high >= 1, span.low >= 1)
            case Call(fn="and", args=(a, b)):
                x, y = self.truth(a), self.truth(b)
                return Truth(x.may & y.may, x.must & y.must)
            case Call(fn="or", args=(a, b)):
                x, y = self.truth(a), self.truth(b)
                return Truth(x.may | y.may, x.must | y.must)
            case Call(fn="not", args=(a,)):
                return _negated(self.truth(a))
            case Call(fn="where", args=(c, a, b)):
                return _chosen(self.truth(c), self.truth(a), self.truth(b))
            case Call(fn=fn, args=(a, b)) if a.type == BOOL and fn in ("eq", "ne"):
                x, y = self.truth(a), self.truth(b)
                same = _chosen(x, y, _negated(y))
                return same if fn == "eq" else _negated(same)
            case Call(fn=fn, args=(a, b)) if fn in ("lt", "le", "gt", "ge", "eq", "ne"):
                return self._comparison(fn, a, b)
            case Exists():
                return self._exists(cond)
            case Lookup():
                found = self._looked_up(cond)
                return Truth(found.high >= 1, found.low >= 1)
            case _:
                return _unknown()

    def _comparison(self, fn: str, a: Expr, b: Expr) -> Truth:
        try:
            x, y = self.number(a), self.number(b)
        except _UndecidedError:
            return _unknown()
        if fn in _MIRROR:
            fn, x, y = _MIRROR[fn], y, x
        match fn:
            case "lt":
                return Truth(x.low < y.high, x.high < y.low)
            case "le":
                return Truth(x.low <= y.high, x.high <= y.low)
            case _:
                same = Truth((x.low <= y.high) & (y.low <= x.high), (x.low == y.high) & (y.low == x.high))
                return same if fn == "eq" else _negated(same)

    def _exists(self, cond: Exists) -> Truth:
        values = exists_values(cond)
        if values is not None and len(values) * self._tried <= _TRIED:
            found = Truth(np.asarray(False), np.asarray(False))
            for value in values:
                part = self._with(cond, Span.of(value), len(values))
                found = Truth(found.may | part.may, found.must | part.must)
            return found
        low, high = self.number(cond.low), self.number(cond.high)
        inside = self._with(cond, Span(low.low, high.high - 1), 1)
        return Truth(inside.may & (high.high > low.low), inside.must & (high.low > low.high))

    def _with(self, cond: Exists, values: Span, count: int) -> Truth:
        inside = Boxes({**self.leaves, Var(cond.var): values}, self.look)
        inside._tried = self._tried * max(count, 1)
        inside._leaf_calls = self._leaf_calls
        return inside.truth(cond.body)

    def _is_leaf(self, expr: Expr) -> bool:
        """Large expressions are compared only where one of them is a leaf, and once."""
        if not isinstance(expr, Call | Exists):
            return expr in self.leaves
        if self._has_calls is None:
            self._has_calls = any(isinstance(leaf, Call | Exists) for leaf in self.leaves)
        if not self._has_calls:
            return False
        known = self._leaf_calls.get(id(expr))
        if known is None:
            known = self._leaf_calls[id(expr)] = (expr, expr in self.leaves)
        return known[1]

    # -- numbers -------------------------------------------------------------------------------------------------

    def number(self, expr: Expr) -> Span:
        """The span of an int or a real."""
        known = self._numbers.get(id(expr))
        if known is None:
            known = self._numbers[id(expr)] = (expr, self._checked(expr))
        return known[1]

    def _checked(self, expr: Expr) -> Span:
        if not isinstance(expr, Const) and self._is_leaf(expr):
            return self._finite(expr, self.leaves[expr])
        point = self._point(expr) if isinstance(expr, Call) and expr.fn in POINT_RULES and expr.type == INT else None
        if point is not None:
            return point
        return self._finite(expr, self._number(expr))

    def _finite(self, expr: Expr, span: Span) -> Span:
        """Bounds that doubles hold. Raises where a real has none."""
        if expr.type == INT:
            if span.is_small:
                return span
            low = np.where(np.abs(span.low) > EXACT, -np.inf, span.low)
            return Span(low, np.where(np.abs(span.high) > EXACT, np.inf, span.high))
        if not (np.all(np.isfinite(span.low)) and np.all(np.isfinite(span.high))):
            raise _UndecidedError  # infinite or not a number: no comparison is safe
        return span

    def _point(self, call: Call) -> Span | None:
        """An operation on numbers instead of spans: half the work; None where it does not apply."""
        args = [self.number(arg) for arg in call.args]
        if any(arg.low is not arg.high for arg in args):
            return None
        if call.fn in ("floordiv", "mod") and not np.all(args[1].low >= 1):
            return None
        with np.errstate(all="ignore"):
            found = POINT_RULES[call.fn](*(arg.low for arg in args))
        return Span(found, found) if np.all(np.abs(found) <= EXACT) else None

    def _number(self, expr: Expr) -> Span:
        if isinstance(expr, Const):
            return Span.of(float(expr.value))
        match expr:
            case Size() | Index(name="b" | "h" | "hk"):
                return Span.of(0.0, np.inf)
            case Lookup():
                return self._looked_up(expr)
            case Call(fn="where", args=(c, a, b)):
                return _select(self.truth(c), self.number(a), self.number(b))
            case Call(fn="floordiv" | "mod" as fn, args=(a, b)):
                x, y = self.number(a), self.number(b)
                return quotient(x, y) if fn == "floordiv" else remainder(x, y)
            case Call(fn="real", args=(a,)):
                return unless_exact(self.number(a))
            case Call(fn=fn, args=args) if fn in INT_RULES:
                span = INT_RULES[fn](*map(self.number, args))
                return span if expr.type == INT else widened(span)
            case Call(fn="int" | "floor", args=(a,)):
                return Span(np.floor(self.number(a).low), np.floor(self.number(a).high))
            case Call(fn="exp" | "exp2" | "tanh" as fn, args=(a,)):
                function = getattr(np, fn)
                with np.errstate(over="ignore"):
                    return widened(Span(function(self.number(a).low), function(self.number(a).high)))
            case Call(fn="log" | "log2" | "sqrt" as fn, args=(a,)) if np.all(self.number(a).low > 0):
                return widened(Span(getattr(np, fn)(self.number(a).low), getattr(np, fn)(self.number(a).high)))
            case Call(fn="div", args=(a, b)):
                return ratio(self.number(a), self.number(b))
            case _:
                return ANY

    def _looked_up(self, node: Lookup) -> Span:
        try:
            indices = tuple(self.number(index) for index in node.indices)
        except _UndecidedError:
            return ANY
        found = self.look(node, indices)
        return ANY if found is None else found


class _UndecidedError(Exception):
    """A real that may be infinite or not a number."""


def _unknown() -> Truth:
    return Truth(np.asarray(True), np.asarray(False))


def _negated(x: Truth) -> Truth:
    return Truth(~x.must, ~x.may)


def _chosen(c: Truth, a: Truth, b: Truth) -> Truth:
    may = (c.may & a.may) | (~c.must & b.may)
    return Truth(may, (c.must & a.must) | (~c.may & b.must) | (a.must & b.must))


def _select(c: Truth, a: Span, b: Span) -> Span:
    low = np.where(c.must, a.low, np.where(c.may, np.minimum(a.low, b.low), b.low))
    return Span(low, np.where(c.must, a.high, np.where(c.may, np.maximum(a.high, b.high), b.high)))

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

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

#: Integers are exact in a double up to here; beyond, a bound is infinite.
_EXACT = 2.0**53
#: How far a real result may be off, relative to its size.
_ROUNDING = 1e-12
#: Values of nested `exists` that are tried one by one; beyond, the variable is an interval.
_TRIED = 64
_MIRROR = {"gt": "lt", "ge": "le"}


@dataclass(frozen=True, slots=True)
class Span:
    """All numbers from `low` to `high`, both included; arrays that broadcast against those of other leaves."""

    low: Floats
    high: Floats

    @staticmethod
    def of(low: Any, high: Any = None) -> Span:
        """A span from anything that numpy takes for numbers; a single one without `high`."""
        first = np.asarray(low, np.float64)
        return Span(first, first if high is None else np.asarray(high, np.float64))

    @property
    def is_point(self) -> bool:
        """Whether every span is one finite number."""
        return bool(np.all(self.low == self.high) and np.all(np.isfinite(self.low)))


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
        return inside.truth(cond.body)

    def _is_leaf(self, expr: Expr) -> bool:
        """Large expressions are compared only where one of them is a leaf."""
        if self._has_calls is None:
            self._has_calls = any(isinstance(leaf, Call | Exists) for leaf in self.leaves)
        return (self._has_calls or not isinstance(expr, Call | Exists)) and expr in self.leaves

    # -- numbers -------------------------------------------------------------------------------------------------

    def number(self, expr: Expr) -> Span:
        """The span of an int or a real."""
        known = self._numbers.get(id(expr))
        if known is None:
            known = self._numbers[id(expr)] = (expr, self._checked(expr))
        return known[1]

    def _checked(self, expr: Expr) -> Span:
        point = self._point(expr) if isinstance(expr, Call) and expr.fn in _POINT_RULES and expr.type == INT else None
        if point is not None:
            return point
        span = self._number(expr)
        if expr.type == INT:
            low = np.where(np.abs(span.low) > _EXACT, -np.inf, span.low)
            return Span(low, np.where(np.abs(span.high) > _EXACT, np.inf, span.high))
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
            found = _POINT_RULES[call.fn](*(arg.low for arg in args))
        return Span(found, found) if np.all(np.abs(found) <= _EXACT) else None

    def _number(self, expr: Expr) -> Span:
        if isinstance(expr, Const):
            return Span.of(float(expr.value))
        if self._is_leaf(expr):
            return self.leaves[expr]
        match expr:
            case Size() | Index(name="b" | "h" | "hk"):
                return Span.of(0.0, np.inf)
            case Lookup():
                return self._looked_up(expr)
            case Call(fn="where", args=(c, a, b)):
                return _select(self.truth(c), self.number(a), self.number(b))
            case Call(fn="floordiv" | "mod" as fn, args=(a, b)):
                x, y = self.number(a), self.number(b)
                return _quotient(x, y) if fn == "floordiv" else _remainder(x, y)
            case Call(fn=fn, args=args) if fn in _INT_RULES:
                span = _INT_RULES[fn](*map(self.number, args))
                return span if expr.type == INT else _widened(span)
            case Call(fn="int" | "floor", args=(a,)):
                return Span(np.floor(self.number(a).low), np.floor(self.number(a).high))
            case Call(fn="exp" | "exp2" | "tanh" as fn, args=(a,)):
                function = getattr(np, fn)
                with np.errstate(over="ignore"):
                    return _widened(Span(function(self.number(a).low), function(self.number(a).high)))
            case Call(fn="log" | "log2" | "sqrt" as fn, args=(a,)) if np.all(self.number(a).low > 0):
                return _widened(Span(getattr(np, fn)(self.number(a).low), getattr(np, fn)(self.number(a).high)))
            case Call(fn="div", args=(a, b)) if isinstance(b, Const) and b.value:
                inverse = Const(1.0 / float(b.value), b.type)
                return _widened(_mul(self.number(a), self.number(inverse)))
            case _:
                return _ANY

    def _looked_up(self, node: Lookup) -> Span:
        try:
            indices = tuple(self.number(index) for index in node.indices)
        except _UndecidedError:
            return _ANY
        found = self.look(node, indices)
        return _ANY if found is None else found


class _UndecidedError(Exception):
    """A real that may be infinite or not a number."""


_ANY = Span.of(-np.inf, np.inf)


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


def _widened(x: Span) -> Span:
    return Span(x.low - _ROUNDING * (1 + np.abs(x.low)), x.high + _ROUNDING * (1 + np.abs(x.high)))


# -- arithmetic: a low is never +inf, a high never -inf, so sums of like bounds are numbers ---------------------------


def _add(a: Span, b: Span) -> Span:
    return Span(a.low + b.low, a.high + b.high)


def _neg(a: Span) -> Span:
    return Span(-a.high, -a.low)


def _sub(a: Span, b: Span) -> Span:
    return _add(a, _neg(b))


def _mul(a: Span, b: Span) -> Span:
    with np.errstate(invalid="ignore", over="ignore"):
        corners = (a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high)
    numbers = [np.where(np.isnan(corner), 0.0, corner) for corner in corners]  # 0 times an infinite bound is 0
    return Span(np.minimum.reduce(np.broadcast_arrays(*numbers)), np.maximum.reduce(np.broadcast_arrays(*numbers)))


def _abs(a: Span) -> Span:
    inner = np.where((a.low <= 0) & (a.high >= 0), 0.0, np.minimum(np.abs(a.low), np.abs(a.high)))
    return Span(inner, np.maximum(np.abs(a.low), np.abs(a.high)))


def _divided(x: Floats, d: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isinf(x), x, np.where(np.isinf(d), np.where(x < 0, -1.0, 0.0), np.floor_divide(x, d)))


def _quotient(x: Span, d: Span) -> Span:
    """Divisors are at least 1, or the quotient is anything."""
    known = d.low >= 1
    low_d, high_d = np.where(known, d.low, 1.0), np.where(known, d.high, 1.0)
    low = np.where(x.low >= 0, _divided(x.low, high_d), _divided(x.low, low_d))
    high = np.where(x.high >= 0, _divided(x.high, low_d), _divided(x.high, high_d))
    return Span(np.where(known, low, -np.inf), np.where(known, high, np.inf))


def _remainder(x: Span, d: Span) -> Span:
    known = d.low >= 1
    divisor = np.where(known & (d.low == d.high), d.low, 1.0)
    first, last = _divided(x.low, divisor), _divided(x.high, divisor)
    one = known & (d.low == d.high) & (first == last) & np.isfinite(first)  # all of x in one period
    base = np.where(one, first * divisor, 0.0)
    below = known & (x.low >= 0) & (x.high < d.low)
    low = np.where(one, x.low - base, np.where(below, x.low, np.where(known, 0.0, -np.inf)))
    high = np.where(one, x.high - base, np.where(below, x.high, np.where(known, d.high - 1, np.inf)))
    return Span(low, high)


def _bit_length(a: Span) -> Span:
    size = _abs(a)
    with np.errstate(divide="ignore"):
        bits = [np.where(x < 1, 0.0, np.frexp(np.minimum(x, 2.0**62))[1].astype(float)) for x in (size.low, size.high)]
    return Span(bits[0], np.where(np.isinf(size.high), 64.0, bits[1]))


def _bitand(a: Span, b: Span) -> Span:
    if a.is_point and b.is_point:
        found = np.bitwise_and(a.low.astype(np.int64), b.low.astype(np.int64))
        return Span.of(found)
    low = np.where((a.low >= 0) | (b.low >= 0), 0.0, -np.inf)
    bound = np.minimum(np.where(a.low >= 0, a.high, np.inf), np.where(b.low >= 0, b.high, np.inf))
    return Span(low, np.where(np.isinf(low), np.inf, bound))


def _pow(a: Span, b: Span) -> Span:
    if a.is_point and b.is_point:
        with np.errstate(all="ignore"):
            found = np.power(a.low, b.low)
        exact = np.isfinite(found) & (np.abs(found) < _EXACT)
        return Span(np.where(exact, found, -np.inf), np.where(exact, found, np.inf))
    return _ANY


def _min(a: Span, b: Span) -> Span:
    return Span(np.minimum(a.low, b.low), np.minimum(a.high, b.high))


def _max(a: Span, b: Span) -> Span:
    return Span(np.maximum(a.low, b.low), np.maximum(a.high, b.high))


def _relu(a: Span) -> Span:
    return Span(np.maximum(a.low, 0.0), np.maximum(a.high, 0.0))


def _sign(a: Span) -> Span:
    return Span(np.sign(a.low), np.sign(a.high))


def _same(a: Span) -> Span:
    return a


#: On numbers; ints whose result is exact.
_POINT_RULES: dict[str, Callable[..., Floats]] = {
    "add": np.add,
    "sub": np.subtract,
    "neg": np.negative,
    "mul": np.multiply,
    "abs": np.abs,
    "min": np.minimum,
    "max": np.maximum,
    "floordiv": np.floor_divide,
    "mod": np.mod,
}
_INT_RULES: dict[str, Callable[..., Span]] = {
    "add": _add,
    "sub": _sub,
    "neg": _neg,
    "mul": _mul,
    "abs": _abs,
    "min": _min,
    "max": _max,
    "relu": _relu,
    "sign": _sign,
    "real": _same,
    "bitand": _bitand,
    "bit_length": _bit_length,
    "pow": _pow,
}

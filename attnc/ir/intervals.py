"""Ranges of integer expressions, to decide between 32 and 64 bits and whether a division can be plain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from attnc.ir.expr import (
    Call,
    Const,
    Exists,
    Expr,
    GridCoord,
    Index,
    Lift,
    Lookup,
    Param,
    Reduce,
    Ref,
    Size,
    Value,
    Var,
)

#: Positions that the narrow kernels handle; a call beyond uses kernels whose integers have 64 bits throughout.
MAX_POSITION = 2**30 - 1
INT32 = 2**31
INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Interval:
    """All integers from low to high, both included."""

    low: int
    high: int

    @property
    def fits_32(self) -> bool:
        return -INT32 <= self.low and self.high < INT32

    def clip(self) -> Interval:
        """Saturated to 64 bits."""
        return Interval(max(self.low, -INT64), min(self.high, INT64 - 1))


_POSITIVE = Interval(0, MAX_POSITION)
_LEAVES = {"i": Interval(-MAX_POSITION, MAX_POSITION), "j": Interval(-MAX_POSITION, MAX_POSITION)}
_ANY_32 = Interval(-INT32, INT32 - 1)
_ANY_64 = Interval(-INT64, INT64 - 1)


def interval(expr: Expr, lookups: Mapping[str, Interval] | None = None) -> Interval:
    """Range of an int expression (any other kind: unbounded). `lookups` gives those of tensors."""
    match expr:
        case Const(value=value):
            return Interval(int(value), int(value)) if isinstance(value, int) else _ANY_64
        case Index(name=name):
            return _LEAVES.get(name, _POSITIVE)
        case Size() | GridCoord():
            return _POSITIVE
        case Value() | Ref() | Var():
            return _LEAVES["i"]
        case Param():
            return _ANY_32
        case Lookup(tensor=tensor):
            return (lookups or {}).get(tensor, _ANY_32)
        case Call(fn=fn, args=args):
            return _call(fn, tuple(interval(arg, lookups) for arg in args)).clip()
        case Reduce() | Exists() | Lift():
            return _ANY_64


def _call(fn: str, args: tuple[Interval, ...]) -> Interval:
    if fn in _FIXED:
        return _FIXED[fn]
    rule = _RULES.get(fn)
    return _ANY_64 if rule is None else rule(*args)


def _mul(a: Interval, b: Interval) -> Interval:
    corners = (a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high)
    return Interval(min(corners), max(corners))


def _floordiv(a: Interval, b: Interval) -> Interval:
    if b.low <= 0:
        return Interval(-max(abs(a.low), abs(a.high)), max(abs(a.low), abs(a.high)))
    corners = (a.low // b.low, a.low // b.high, a.high // b.low, a.high // b.high)
    return Interval(min(corners), max(corners))


def _mod(a: Interval, b: Interval) -> Interval:
    if b.low <= 0:
        return Interval(min(b.low, 0), max(b.high, 0))
    if 0 <= a.low and a.high < b.low:
        return a
    return Interval(0, b.high - 1)


def _abs(a: Interval) -> Interval:
    if a.low >= 0:
        return a
    return Interval(0 if a.high >= 0 else -a.high, max(-a.low, a.high))


def _join(a: Interval, b: Interval) -> Interval:
    return Interval(min(a.low, b.low), max(a.high, b.high))


def _bitand(a: Interval, b: Interval) -> Interval:
    if a.low >= 0 and b.low >= 0:
        return Interval(0, min(a.high, b.high))
    if a.low >= 0 or b.low >= 0:
        return Interval(0, a.high if a.low >= 0 else b.high)
    power = 1 << (max(-a.low, -b.low) - 1).bit_length()  # of two negative numbers every sign bit stays
    return Interval(-power, max(a.high, b.high))


def _add(a: Interval, b: Interval) -> Interval:
    return Interval(a.low + b.low, a.high + b.high)


def _neg(a: Interval) -> Interval:
    return Interval(-a.high, -a.low)


def _sub(a: Interval, b: Interval) -> Interval:
    return _add(a, _neg(b))


def _min(a: Interval, b: Interval) -> Interval:
    return Interval(min(a.low, b.low), min(a.high, b.high))


def _max(a: Interval, b: Interval) -> Interval:
    return Interval(max(a.low, b.low), max(a.high, b.high))


def _select(_: Interval, a: Interval, b: Interval) -> Interval:
    return _join(a, b)


def _relu(a: Interval) -> Interval:
    return _max(a, Interval(0, 0))


_RULES: dict[str, Callable[..., Interval]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "neg": _neg,
    "floordiv": _floordiv,
    "mod": _mod,
    "abs": _abs,
    "relu": _relu,
    "min": _min,
    "max": _max,
    "where": _select,
    "bitand": _bitand,
}
#: Results whose range does not depend on the arguments.
_FIXED = {"sign": Interval(-1, 1), "bit_length": Interval(0, 64), "int": _ANY_32}

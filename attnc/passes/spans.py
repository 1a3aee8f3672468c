"""spans: arithmetic on intervals of numbers, many at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

#: Integers are exact in a double up to here; beyond, a bound is infinite.
EXACT = 2.0**53
#: How far a real result may be off, relative to its size.
_ROUNDING = 1e-12


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

    @property
    def is_small(self) -> bool:
        """Whether all bounds are exact in a double."""
        return all(x.size == 0 or (x.min() >= -EXACT and x.max() <= EXACT) for x in (self.low, self.high))


ANY = Span.of(-np.inf, np.inf)


def widened(x: Span) -> Span:
    """As far as a real result may be off."""
    return Span(x.low - _ROUNDING * (1 + np.abs(x.low)), x.high + _ROUNDING * (1 + np.abs(x.high)))


def unless_exact(x: Span) -> Span:
    """Widened, but for single numbers that have no more digits than reals of 32 bits hold."""
    wide = widened(x)
    exact = (x.low == x.high) & (x.low.astype(np.float32) == x.low)
    return Span(np.where(exact, x.low, wide.low), np.where(exact, x.high, wide.high))


def ratio(a: Span, b: Span) -> Span:
    """A quotient of reals. Where both are single numbers and it has few digits, no arithmetic rounds it."""
    known = (b.low > 0) | (b.high < 0)
    with np.errstate(all="ignore"):
        corners = np.broadcast_arrays(a.low / b.low, a.low / b.high, a.high / b.low, a.high / b.high)
        low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
        exact = known & (low == high) & (low * b.low == a.low) & (low.astype(np.float32) == low)
        wide = widened(Span(low, high))
    low, high = np.where(exact, low, wide.low), np.where(exact, high, wide.high)
    known = known & np.isfinite(low) & np.isfinite(high)
    return Span(np.where(known, low, -np.inf), np.where(known, high, np.inf))


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


def quotient(x: Span, d: Span) -> Span:
    """Rounded down. Divisors are at least 1, or the quotient is anything."""
    known = d.low >= 1
    low_d, high_d = np.where(known, d.low, 1.0), np.where(known, d.high, 1.0)
    low = np.where(x.low >= 0, _divided(x.low, high_d), _divided(x.low, low_d))
    high = np.where(x.high >= 0, _divided(x.high, low_d), _divided(x.high, high_d))
    return Span(np.where(known, low, -np.inf), np.where(known, high, np.inf))


def remainder(x: Span, d: Span) -> Span:
    """Of a divisor of at least 1, or anything."""
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
        exact = np.isfinite(found) & (np.abs(found) < EXACT)
        return Span(np.where(exact, found, -np.inf), np.where(exact, found, np.inf))
    return ANY


def _min(a: Span, b: Span) -> Span:
    return Span(np.minimum(a.low, b.low), np.minimum(a.high, b.high))


def _max(a: Span, b: Span) -> Span:
    return Span(np.maximum(a.low, b.low), np.maximum(a.high, b.high))


def _relu(a: Span) -> Span:
    return Span(np.maximum(a.low, 0.0), np.maximum(a.high, 0.0))


def _sign(a: Span) -> Span:
    return Span(np.sign(a.low), np.sign(a.high))


#: On numbers; ints whose result is exact.
POINT_RULES: dict[str, Callable[..., Floats]] = {
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
INT_RULES: dict[str, Callable[..., Span]] = {
    "add": _add,
    "sub": _sub,
    "neg": _neg,
    "mul": _mul,
    "abs": _abs,
    "min": _min,
    "max": _max,
    "relu": _relu,
    "sign": _sign,
    "bitand": _bitand,
    "bit_length": _bit_length,
    "pow": _pow,
}

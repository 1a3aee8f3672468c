"""Ranges of parameters: what lies in them, their text, and bounds that are expressions over other parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from attnc.ir.build import compare
from attnc.ir.expr import Const, Expr, Param, int_const
from attnc.ir.fold import fold
from attnc.ir.module import Range
from attnc.ir.printer import print_expr
from attnc.ir.traverse import transform, walk


def in_range(value: float, bounds: Range) -> bool:
    """Whether a value lies in a range, as far as its bounds are numbers."""
    above = bounds.low is None or value > bounds.low or (value == bounds.low and not bounds.low_open)
    below = bounds.high is None or value < bounds.high or (value == bounds.high and not bounds.high_open)
    return above and below


def range_text(bounds: Range) -> str:
    """`[0, 32)`, `[1, window]`."""
    low = _end(bounds.low, bounds.low_of, "-inf")
    high = _end(bounds.high, bounds.high_of, "inf")
    opener = "(" if bounds.low_open or low == "-inf" else "["
    return f"{opener}{low}, {high}{')' if bounds.high_open or high == 'inf' else ']'}"


def _end(number: float | None, of: Expr | None, none: str) -> str:
    if of is not None:
        return print_expr(of)
    if number is None:
        return none
    return str(number) if isinstance(number, int) else f"{number:g}"


def read_by(bounds: Range | None) -> frozenset[str]:
    """Names of the parameters that the bounds of a range read."""
    ends = () if bounds is None else (bounds.low_of, bounds.high_of)
    return frozenset(node.name for end in ends if end is not None for node in walk(end) if isinstance(node, Param))


def resolved(bounds: Range, values: Mapping[str, Const]) -> Range:
    """The range with values in place of parameters: a bound of which all are known is a number.

    Raises SpecError where computing a bound fails.
    """
    low, high = (None if end is None else _put(end, values) for end in (bounds.low_of, bounds.high_of))
    if isinstance(low, Const):
        bounds, low = replace(bounds, low=low.value), None
    if isinstance(high, Const):
        bounds, high = replace(bounds, high=high.value), None
    return replace(bounds, low_of=low, high_of=high)


def _put(expr: Expr, values: Mapping[str, Const]) -> Expr:
    def put(node: Expr) -> Expr:
        known = values.get(node.name) if isinstance(node, Param) else None
        return node if known is None else replace(known, span=node.span)

    return fold(transform(expr, put))


def conditions(value: Expr, bounds: Range | None) -> tuple[Expr, ...]:
    """What a range says about an int."""
    if bounds is None:
        return ()
    low, high = bounds.low_of, bounds.high_of
    if bounds.low is not None:
        low = int_const(math.floor(bounds.low) if bounds.low_open else math.ceil(bounds.low))
    if bounds.high is not None:
        high = int_const(math.ceil(bounds.high) if bounds.high_open else math.floor(bounds.high))
    above = () if low is None else (compare("gt" if bounds.low_open else "ge", value, low),)
    return above if high is None else (*above, compare("lt" if bounds.high_open else "le", value, high))

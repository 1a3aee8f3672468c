"""Ranges of parameters: what lies in them, their text, and bounds that are expressions over other parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from attnc.ir.build import call, compare, sub
from attnc.ir.expr import Const, Expr, Param, int_const
from attnc.ir.fold import fold
from attnc.ir.module import Range
from attnc.ir.printer import print_expr
from attnc.ir.traverse import transform, walk
from attnc.ir.types import INT


def in_range(value: float, bounds: Range) -> bool:
    """Whether a value lies in a range, as far as its bounds are numbers."""
    above = bounds.low is None or value > bounds.low or (value == bounds.low and not bounds.low_open)
    below = bounds.high is None or value < bounds.high or (value == bounds.high and not bounds.high_open)
    return above and below and (bounds.step == 1 or _is_step(value, bounds))


def _is_step(value: float, bounds: Range) -> bool:
    return bounds.step >= 1 and (bounds.low is None or (value - bounds.low) % bounds.step == 0)


def range_text(bounds: Range) -> str:
    """`[0, 32)`, `[1, window]`, `[1, inf) in steps of 4`."""
    low = _end(bounds.low, bounds.low_of, "-inf")
    high = _end(bounds.high, bounds.high_of, "inf")
    opener = "(" if bounds.low_open or low == "-inf" else "["
    step = bounds.step if bounds.step_of is None else print_expr(bounds.step_of)
    steps = "" if step == 1 else f" in steps of {step}"
    return f"{opener}{low}, {high}{')' if bounds.high_open or high == 'inf' else ']'}{steps}"


def _end(number: float | None, of: Expr | None, none: str) -> str:
    if of is not None:
        return print_expr(of)
    if number is None:
        return none
    return str(number) if isinstance(number, int) else f"{number:g}"


def read_by(bounds: Range | None) -> frozenset[str]:
    """Names of the parameters that the bounds of a range read."""
    ends = () if bounds is None else (bounds.low_of, bounds.high_of, bounds.step_of)
    return frozenset(node.name for end in ends if end is not None for node in walk(end) if isinstance(node, Param))


def resolved(bounds: Range, values: Mapping[str, Const]) -> Range:
    """The range with values in place of parameters: a bound of which all are known is a number.

    Raises SpecError where computing a bound fails.
    """
    ends = (bounds.low_of, bounds.high_of, bounds.step_of)
    low, high, step = (None if end is None else _put(end, values) for end in ends)
    if isinstance(low, Const):
        bounds, low = replace(bounds, low=low.value), None
    if isinstance(high, Const):
        bounds, high = replace(bounds, high=high.value), None
    if isinstance(step, Const):
        bounds, step = replace(bounds, step=int(step.value)), None
    return replace(bounds, low_of=low, high_of=high, step_of=step)


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
    if high is not None:
        above = (*above, compare("lt" if bounds.high_open else "le", value, high))
    if low is None or bounds.step_of is not None or bounds.step <= 1:
        return above
    return (*above, compare("eq", call("mod", sub(value, low), int_const(bounds.step), type=INT), int_const(0)))

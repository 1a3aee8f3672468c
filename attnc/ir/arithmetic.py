"""The builtins on plain numbers: exact ints, conditions, reals as the machine's doubles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

_INT_1: dict[str, Callable[[int], int]] = {
    "neg": lambda x: -x,
    "abs": abs,
    "sign": lambda x: (x > 0) - (x < 0),
    "relu": lambda x: max(x, 0),
    "bit_length": lambda x: x.bit_length(),
}
_INT_2: dict[str, Callable[[int, int], int]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "floordiv": lambda x, y: x // y,
    "mod": lambda x, y: x % y,
    "bitand": lambda x, y: x & y,
    "min": min,
    "max": max,
}
_REAL_1: dict[str, Callable[[float], float]] = {
    "neg": lambda x: -x,
    "abs": abs,
    "sign": lambda x: float((x > 0) - (x < 0)),
    "floor": lambda x: float(math.floor(x)),
    "real": float,
    "exp": math.exp,
    "exp2": math.exp2,
    "log": math.log,
    "log2": math.log2,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "sin": math.sin,
    "cos": math.cos,
    "tanh": math.tanh,
    "sigmoid": lambda x: 0.5 * (1.0 + math.tanh(0.5 * x)),
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
    "relu": lambda x: max(x, 0.0),
    "elu": lambda x: x if x > 0 else math.expm1(x),
}
_REAL_2: dict[str, Callable[[float, float], float]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": math.pow,
    "min": min,
    "max": max,
}
_CONDITIONS: dict[str, Callable[[float, float], bool]] = {
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "and": lambda x, y: bool(x) and bool(y),
    "or": lambda x, y: bool(x) or bool(y),
}


def int_value(fn: str, args: Sequence[int]) -> int | None:
    """A builtin of ints, exact and unbounded; None for one that is not listed (`pow` has to be bounded first).

    Raises ZeroDivisionError.
    """
    if fn in _INT_1:
        return _INT_1[fn](args[0])
    return _INT_2[fn](args[0], args[1]) if fn in _INT_2 else None


def real_value(fn: str, args: Sequence[float]) -> float | None:
    """A builtin of reals; None where it is not listed, undefined or not finite."""
    try:
        if fn in _REAL_1 and len(args) == 1:
            value = _REAL_1[fn](args[0])
        elif fn in _REAL_2:
            value = _REAL_2[fn](args[0], args[1])
        else:
            return None
    except (ArithmeticError, ValueError):
        return None
    return value if math.isfinite(value) else None


def condition(fn: str, args: Sequence[float]) -> bool | None:
    """A comparison or a logical operator; None for one that is not listed."""
    if fn == "not":
        return not args[0]
    return _CONDITIONS[fn](args[0], args[1]) if fn in _CONDITIONS else None

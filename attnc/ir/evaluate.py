"""Exact values of int and bool expressions, for reports and for dimensions: plain Python, no tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attnc.ir.expr import Call, Const, Expr, Index, Param, Ref, Size, Value


class UnknownValueError(Exception):
    """A leaf whose value is only known on the device, or at the call."""

    def __init__(self, expr: Expr) -> None:
        super().__init__(str(expr))
        self.expr = expr


_FUNCTIONS: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "bitand": lambda a, b: a & b,
    "pow": lambda a, b: a**b if 0 <= b < 64 else 0,
    "neg": lambda a: -a,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
    "where": lambda c, a, b: a if c else b,
    "min": min,
    "max": max,
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "relu": lambda a: max(a, 0),
    "bit_length": lambda a: abs(a).bit_length(),
}


def evaluate_exact(expr: Expr, names: Mapping[str, int]) -> int:
    """The value of an int or bool expression whose leaves are in `names` (sizes, parameters, refs, values by name).

    Raises UnknownValueError for any other leaf.
    """
    match expr:
        case Const(value=value) if isinstance(value, int):
            return int(value)
        case Index(name=name) | Size(name=name) | Param(name=name) | Value(name=name) | Ref(name=name) if name in names:
            return names[name]
        case Call(fn=fn, args=args) if fn in _FUNCTIONS:
            return int(_FUNCTIONS[fn](*(evaluate_exact(arg, names) for arg in args)))
        case _:
            raise UnknownValueError(expr)

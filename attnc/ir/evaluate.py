"""Exact values of int and bool expressions, for reports and for dimensions: plain Python, no tensors."""

from __future__ import annotations

from collections.abc import Mapping

from attnc.ir.arithmetic import condition, int_value
from attnc.ir.expr import Call, Const, Expr, Index, Param, Ref, Size, Value


class UnknownValueError(Exception):
    """A leaf whose value is only known on the device, or at the call."""

    def __init__(self, expr: Expr) -> None:
        super().__init__(str(expr))
        self.expr = expr


def evaluate_exact(expr: Expr, names: Mapping[str, int]) -> int:
    """The value of an int or bool expression whose leaves are in `names` (sizes, parameters, refs, values by name).

    Raises UnknownValueError for any other leaf.
    """
    match expr:
        case Const(value=value) if isinstance(value, int):
            return int(value)
        case Index(name=name) | Size(name=name) | Param(name=name) | Value(name=name) | Ref(name=name) if name in names:
            return names[name]
        case Call(fn="where", args=(cond, then, orelse)):
            return evaluate_exact(then if evaluate_exact(cond, names) else orelse, names)
        case Call(fn=fn, args=args):
            values = [evaluate_exact(arg, names) for arg in args]
            found = condition(fn, values)
            found = int_value(fn, values) if found is None else found
            if found is None:
                raise UnknownValueError(expr)
            return int(found) if isinstance(found, bool) else found  # a size may be a symbol of torch's
        case _:
            raise UnknownValueError(expr)

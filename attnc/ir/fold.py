"""Constant folding of typed expressions: exact ints within 64 bits, bool logic, no rounding rearranged.

Folding never changes a meaning: reals are only combined when both are literals, and no term that could be
infinite or not a number is dropped. Ints beyond 64 bits and divisions by zero raise a SpecError.
"""

from __future__ import annotations

import math
from typing import NoReturn

from attnc.diagnostics import Diagnostic, Label, SpecError
from attnc.ir.arithmetic import condition, int_value, real_value
from attnc.ir.expr import FALSE, Call, Const, Exists, Expr, Lift, real_const
from attnc.ir.traverse import map_children
from attnc.ir.types import BOOL, INT, ScalarType
from attnc.source import Span

_LIMIT = 1 << 63

Scalar = bool | int | float


def fold(expr: Expr) -> Expr:
    """The expression with everything known computed; the same object when nothing was."""
    return _Folder().fold(expr)


class _Folder:
    """Shared nodes are folded once."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[Expr, Expr]] = {}

    def fold(self, expr: Expr) -> Expr:
        known = self._done.get(id(expr))
        if known is not None:
            return known[1]
        found = self._fold(expr)
        self._done[id(expr)] = (expr, found)
        return found

    def _fold(self, expr: Expr) -> Expr:
        if isinstance(expr, Call):
            short = self._short_circuit(expr)
            if short is not None:
                return short
        rebuilt = map_children(expr, self.fold)
        match rebuilt:
            case Call():
                return _fold_call(rebuilt)
            case Exists(low=Const(value=low), high=Const(value=high)) if low >= high:
                return FALSE
            case Exists(body=Const(value=False)):
                return FALSE
            case Lift(op=op, body=Const(value=value)):  # a block has the pair for which it is asked
                return real_const(value, expr.span) if op == "density" else Const(bool(value), BOOL, expr.span)
            case _:
                return rebuilt

    def _short_circuit(self, call: Call) -> Expr | None:
        """The outcome where a condition decides, so that the other side is not even computed."""
        if call.fn not in ("and", "or", "where"):
            return None
        first = self.fold(call.args[0])
        if not isinstance(first, Const):
            return None
        if call.fn == "where":
            return self._chosen(call, call.args[1] if first.value else call.args[2])
        decides = call.fn == "or"
        return Const(decides, BOOL, call.span) if bool(first.value) == decides else self.fold(call.args[1])

    def _chosen(self, call: Call, branch: Expr) -> Expr | None:
        return self.fold(branch) if branch.type == call.type else None


def _fold_call(call: Call) -> Expr:
    args = [arg for arg in call.args if isinstance(arg, Const)]
    if len(args) == len(call.args) and args and isinstance(call.type, ScalarType):
        value = _compute(call, [arg.value for arg in args])
        if value is not None:
            return Const(value, call.type, call.span)
    return _identity(call) or call


# ------------------------------------------------------------------------------------- identities


def _identity(call: Call) -> Expr | None:
    match call:
        case Call(fn="and" | "or" as fn, args=(a, Const(value=value))):
            decides = fn == "or"
            return Const(decides, BOOL, call.span) if bool(value) == decides else a
        case Call(fn="not" | "neg", args=(Call(fn=inner, args=(x,)),)) if inner == call.fn:
            return x
        case Call(fn="where", args=(_, then, orelse)) if then is orelse:
            return then
        case Call(args=(a, b)) if call.type == INT:
            return _int_identity(call, a, b)
        case Call(fn="mul" | "div", args=(a, Const(value=1))) if a.type == call.type:
            return a
        case Call(fn="mul", args=(Const(value=1), b)) if b.type == call.type:
            return b
        case _:
            return None


def _int_identity(call: Call, a: Expr, b: Expr) -> Expr | None:
    left = a.value if isinstance(a, Const) else None
    right = b.value if isinstance(b, Const) else None
    match call.fn:
        case "add" if left == 0:
            return b
        case "add" | "sub" if right == 0:
            return a
        case "mul" if left == 1:
            return b
        case "mul" | "floordiv" if right == 1:
            return a
        case "mul" if 0 in (left, right):
            return Const(0, INT, call.span)
        case "mod" if right == 1:
            return Const(0, INT, call.span)
        case "floordiv" | "mod" if right == 0:
            _fail(call.span, "division by zero")
        case _:
            pass
    return None


# -------------------------------------------------------------------------------------- computing


def _compute(call: Call, values: list[Scalar]) -> Scalar | None:
    """The value of a call of literals; None where it has none that is finite, or is left to the back end."""
    if call.type == BOOL:
        return condition(call.fn, values)
    if call.type == INT:
        return _int_value(call, values)
    return real_value(call.fn, values)


def _int_value(call: Call, values: list[Scalar]) -> int | None:
    if call.fn == "int":
        return _rounded(call.span, float(values[0]))
    ints = [int(value) for value in values]
    if call.fn == "pow":
        return _checked(call.span, _int_power(call.span, *ints))
    try:
        found = int_value(call.fn, ints)
    except ZeroDivisionError:
        _fail(call.span, "division by zero")
    return None if found is None else _checked(call.span, found)


def _rounded(span: Span, value: float) -> int | None:
    return _checked(span, math.floor(value)) if math.isfinite(value) else None


def _checked(span: Span, value: int) -> int:
    if not -_LIMIT <= value < _LIMIT:
        _overflow(span)
    return value


def _int_power(span: Span, base: int, exponent: int) -> int:
    if exponent < 0:
        _fail(span, "an int to a negative power", "make the base real: `real(x) ^ -1`")
    if abs(base) > 1 and (abs(base).bit_length() - 1) * exponent > 64:
        _overflow(span)
    return base**exponent


# ----------------------------------------------------------------------------------------- errors


def _overflow(span: Span) -> NoReturn:
    _fail(span, "an int beyond 64 bits", "compute it as a real")


def _fail(span: Span, what: str, help_: str | None = None) -> NoReturn:
    label = Label(span, "in this computation")
    raise SpecError((Diagnostic("E330", f"{what} in a constant computation", label, help=help_),))

"""Constant folding of typed expressions: exact ints within 64 bits, bool logic, no rounding rearranged.

Folding never changes a meaning: reals are only combined when both are literals, and no term that could be
infinite or not a number is dropped. Ints beyond 64 bits and divisions by zero raise a SpecError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn

from attnc.diagnostics import Diagnostic, Label, SpecError
from attnc.ir.builtins import BUILTINS
from attnc.ir.expr import FALSE, TRUE, Call, Const, Exists, Expr
from attnc.ir.traverse import map_children
from attnc.ir.types import BOOL, INT, REAL, ScalarType
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
            return None


# -------------------------------------------------------------------------------------- computing

_INTS: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "bitand": lambda a, b: a & b,
    "neg": lambda a: -a,
    "min": min,
    "max": max,
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "bit_length": lambda a: a.bit_length(),
    "relu": lambda a: max(a, 0),
}
_REALS: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: math.pow(a, b),
    "neg": lambda a: -a,
    "min": min,
    "max": max,
    "abs": abs,
    "sign": lambda a: float((a > 0) - (a < 0)),
    "floor": lambda a: float(math.floor(a)),
    "real": float,
    "exp": math.exp,
    "exp2": lambda a: math.pow(2.0, a),
    "log": math.log,
    "log2": math.log2,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "sin": math.sin,
    "cos": math.cos,
    "tanh": math.tanh,
    "sigmoid": lambda a: 0.5 * (1.0 + math.tanh(0.5 * a)),
    "softplus": lambda a: max(a, 0.0) + math.log1p(math.exp(-abs(a))),
    "relu": lambda a: max(a, 0.0),
    "elu": lambda a: a if a > 0 else math.expm1(a),
}
_COMPARISONS: dict[str, Callable[..., bool]] = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "not": lambda a: not a,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
}


def _compute(call: Call, values: list[Scalar]) -> Scalar | None:
    """The value of a call of literals; None where it has no finite value or is left to the back end."""
    if call.fn in _COMPARISONS:
        return bool(_COMPARISONS[call.fn](*values))
    if call.type == INT:
        return _int_value(call, [int(value) if not isinstance(value, float) else value for value in values])
    if call.type == REAL and call.fn in _REALS:
        return _real_value(call, values)
    return None


def _int_value(call: Call, values: list[int | float]) -> int | None:
    if call.fn == "int":
        found = math.floor(values[0]) if math.isfinite(values[0]) else None
    elif call.fn == "pow":
        found = _int_power(call.span, int(values[0]), int(values[1]))
    elif call.fn in ("floordiv", "mod") and values[1] == 0:
        _fail(call.span, "division by zero")
    elif call.fn in _INTS:
        found = _INTS[call.fn](*values)
    else:
        return None
    if found is not None and not -_LIMIT <= found < _LIMIT:
        _overflow(call.span)
    return found


def _int_power(span: Span, base: int, exponent: int) -> int:
    if exponent < 0:
        _fail(span, "an int to a negative power", "make the base real: `real(x) ^ -1`")
    if abs(base) > 1 and (abs(base).bit_length() - 1) * exponent > 64:
        _overflow(span)
    return base**exponent


def _real_value(call: Call, values: list[Scalar]) -> float | None:
    """Reals fold where the result is finite; what overflows or is undefined keeps its text and its span."""
    if BUILTINS[call.fn].arity != len(values):
        return None
    try:
        found = _REALS[call.fn](*(float(value) for value in values))
    except (ArithmeticError, ValueError):
        return None
    return found if math.isfinite(found) else None


# ----------------------------------------------------------------------------------------- errors


def _overflow(span: Span) -> NoReturn:
    _fail(span, "an int beyond 64 bits", "compute it as a real")


def _fail(span: Span, what: str, help_: str | None = None) -> NoReturn:
    label = Label(span, "in this computation")
    raise SpecError((Diagnostic("E330", f"{what} in a constant computation", label, help=help_),))

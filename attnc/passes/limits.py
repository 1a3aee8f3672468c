"""What an expression tends to when some of its leaves sit at the ends of the number line.

Used to prove that a masked logit contributes nothing by itself (so that no second mask is needed), that the output of
a row without keys is 0 without a guard, and that a rescale factor is finite. Everything here is an over-approximation:
"any" is always a correct answer.

    limit(exp(s - m), {s: "-inf", m: "fin"})  ->  "0"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attnc.ir.expr import Call, Const, Expr, Index, Size
from attnc.ir.types import BOOL

#: "0", a positive or negative finite number, a finite number, an infinity, or no knowledge (NaN included).
Limit = Literal["0", "+", "-", "fin", "+inf", "-inf", "any"]

_FINITE: frozenset[Limit] = frozenset(("0", "+", "-", "fin"))
_NEGATED: dict[Limit, Limit] = {
    "0": "0", "+": "-", "-": "+", "fin": "fin", "+inf": "-inf", "-inf": "+inf", "any": "any",
}  # fmt: skip
#: Value at -inf, at 0, for + and for - and finite arguments, at +inf.
_UNARY: dict[str, tuple[Limit, Limit, Limit, Limit, Limit, Limit]] = {
    #            -inf    0      +      -      fin    +inf
    "exp": ("0", "+", "+", "+", "+", "+inf"),
    "exp2": ("0", "+", "+", "+", "+", "+inf"),
    "log": ("any", "-inf", "fin", "any", "any", "+inf"),
    "log2": ("any", "-inf", "fin", "any", "any", "+inf"),
    "sigmoid": ("0", "+", "+", "+", "+", "+"),
    "softplus": ("0", "+", "+", "+", "+", "+inf"),
    "relu": ("0", "0", "+", "0", "fin", "+inf"),
    "elu": ("-", "0", "+", "-", "fin", "+inf"),
    "tanh": ("-", "0", "+", "-", "fin", "+"),
    "abs": ("+inf", "0", "+", "+", "fin", "+inf"),
    "sqrt": ("any", "0", "+", "any", "any", "+inf"),
    "real": ("-inf", "0", "+", "-", "fin", "+inf"),
    "sin": ("any", "0", "fin", "fin", "fin", "any"),
    "cos": ("any", "+", "fin", "fin", "fin", "any"),
}
_ORDER: tuple[Limit, ...] = ("-inf", "0", "+", "-", "fin", "+inf")


def limit(expr: Expr, at: Mapping[Expr, Limit]) -> Limit:
    """The limit of `expr`; leaves that `at` does not name are finite numbers of unknown sign."""
    if expr in at:
        return at[expr]
    match expr:
        case Const():
            return _of_const(expr)
        case Index() | Size():
            return "fin"
        case Call(fn=fn, args=args):
            return _of_call(fn, tuple(limit(arg, at) for arg in args))
        case _:
            return "fin"


def _of_const(expr: Const) -> Limit:
    if expr.type == BOOL or expr.value != expr.value:
        return "any"
    if expr.value in (float("inf"), float("-inf")):
        return "+inf" if expr.value > 0 else "-inf"
    if expr.value == 0:
        return "0"
    return "+" if expr.value > 0 else "-"


def _of_call(fn: str, args: tuple[Limit, ...]) -> Limit:
    if fn in _UNARY:
        return "any" if args[0] == "any" else _UNARY[fn][_ORDER.index(args[0])]
    match fn:
        case "neg":
            return _NEGATED[args[0]]
        case "add":
            return _add(args[0], args[1])
        case "sub":
            return _add(args[0], _NEGATED[args[1]])
        case "mul":
            return _mul(args[0], args[1])
        case "div":
            return _div(args[0], args[1])
        case "max":
            return _max(args[0], args[1])
        case "min":
            return _NEGATED[_max(_NEGATED[args[0]], _NEGATED[args[1]])]
        case "pow":
            return _pow(args[0], args[1])
        case "dot":
            return "fin"
        case "where":
            return args[1] if args[1] == args[2] else "any"
        case _:
            return "any"


def _add(a: Limit, b: Limit) -> Limit:
    if "any" in (a, b):
        return "any"
    if a not in _FINITE or b not in _FINITE:
        infinite: set[Limit] = {x for x in (a, b) if x not in _FINITE}
        return infinite.pop() if len(infinite) == 1 else "any"
    if a == "0" or b == "0":
        return b if a == "0" else a
    return a if a == b else "fin"


def _mul(a: Limit, b: Limit) -> Limit:
    if "any" in (a, b):
        return "any"
    if "0" in (a, b):
        return "0" if a in _FINITE and b in _FINITE else "any"
    if "fin" in (a, b):
        return "fin" if a in _FINITE and b in _FINITE else "any"
    negative = (a in ("-", "-inf")) != (b in ("-", "-inf"))
    if a in _FINITE and b in _FINITE:
        return "-" if negative else "+"
    return "-inf" if negative else "+inf"


def _div(a: Limit, b: Limit) -> Limit:
    if b in ("+", "-"):
        return _mul(a, b)
    if b in ("+inf", "-inf"):
        return "0" if a in _FINITE else "any"
    return "any"


def _max(a: Limit, b: Limit) -> Limit:
    if "any" in (a, b):
        return "any"
    if a == "-inf" or b == "-inf":
        return b if a == "-inf" else a
    if "+inf" in (a, b):
        return "+inf"
    return a if a == b else "fin"


def _pow(base: Limit, exponent: Limit) -> Limit:
    if exponent != "+":
        return "any"
    return base if base in ("0", "+", "+inf") else "any"

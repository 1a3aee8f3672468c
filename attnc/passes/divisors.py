"""divisors: what a normalizer divides by, though it can be 0 in a row that has keys.

Before: a typed module, bound or not.
After: the divisors of its weights and statistics whose terms say that they can vanish: sums of values that are 0 or of
either sign. What a `where` guards, and what is not known (parameters, look-ups), is left alone.

    w = a / sum[j](a), a = relu(s)     ->  sum[j](a)
    w = a / sum[j](a), a = softplus(s) ->  nothing
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from attnc.ir.expr import Call, Const, Expr, Reduce, Ref, Size, Value
from attnc.ir.module import AttentionModule
from attnc.ir.traverse import children
from attnc.passes.errors import ZeroDivisor

#: More than 0, at least 0, of either sign, not known.
Sign = Literal["+", "0+", "any", "unknown"]

_POSITIVE = frozenset(("exp", "exp2", "sigmoid", "softplus"))
_EITHER = frozenset(("neg", "tanh", "sin", "cos", "elu", "rope", "sub", "log", "log2"))
_SAME = frozenset(("real", "int", "normalize", "log1p", "sqrt"))


def zero_divisors(module: AttentionModule) -> tuple[ZeroDivisor, ...]:
    """Divisors that can be 0 in a row with keys, in the order of the text."""
    signs: dict[str, Sign] = {}
    found: dict[Expr, ZeroDivisor] = {}
    for binding in (*module.cascade, *module.aux):
        for divisor in _divisors(binding.expr):
            if _sign(divisor, signs) in ("0+", "any"):
                found.setdefault(divisor, ZeroDivisor(module.name, divisor.span))
        signs.setdefault(binding.name, _sign(binding.expr, signs))
    return tuple(found.values())


def _divisors(expr: Expr) -> Iterator[Expr]:
    """What divides, outside of the branches of a `where`."""
    if isinstance(expr, Call) and expr.fn == "div":
        yield expr.args[1]
    guarded = isinstance(expr, Call) and expr.fn == "where"
    for child in children(expr)[: 1 if guarded else None]:
        yield from _divisors(child)


def _sign(expr: Expr, signs: dict[str, Sign]) -> Sign:
    match expr:
        case Const(value=value):
            return "+" if value > 0 else "0+" if value == 0 else "unknown"
        case Size():
            return "+"
        case Value(name="scale" | "n_keys"):
            return "+"
        case Value():
            return "any"
        case Ref(name=name):
            return signs.get(name, "unknown")
        case Reduce(op="count"):
            return "+" if isinstance(expr.body, Const) else "0+"
        case Reduce(body=body):
            return _sign(body, signs)
        case Call(fn=fn, args=args):
            return _of_call(fn, args, signs)
        case _:
            return "unknown"


def _of_call(fn: str, args: tuple[Expr, ...], signs: dict[str, Sign]) -> Sign:
    if fn in _POSITIVE:
        return "+"
    found: tuple[Sign, ...] = tuple(_sign(arg, signs) for arg in args)
    if fn in ("relu", "abs"):
        return "+" if found[0] == "+" else "0+"
    if fn == "dot" and args[0] == args[1]:
        return "+" if found[0] == "+" else "0+"
    if fn == "pow":
        return _power(args[1], found[0])
    if fn in ("max", "min"):
        return _extreme(fn, found)
    if fn == "add" and _exceeds_minus_one(args):
        return "+"
    if "unknown" in found:
        return "unknown"
    if fn in _SAME:
        return found[0]
    if fn == "add":
        return "any" if "any" in found else "+" if "+" in found else "0+"
    if fn in ("mul", "div", "dot", "concat"):
        return "any" if "any" in found else "0+" if "0+" in found else "+"
    return "any" if fn in _EITHER else "unknown"


def _power(exponent: Expr, base: Sign) -> Sign:
    if base in ("+", "0+", "unknown"):
        return base
    even = isinstance(exponent, Const) and exponent.value % 2 == 0
    return "0+" if even else "any"


def _extreme(fn: str, found: tuple[Sign, ...]) -> Sign:
    """A maximum is as positive as the best of its arguments, a minimum as the worst."""
    order: tuple[Sign, ...] = ("+", "0+", "any", "unknown") if fn == "max" else ("unknown", "any", "0+", "+")
    if fn == "max" and "unknown" in found and "+" not in found:
        return "unknown"
    return min(found, key=order.index)


def _exceeds_minus_one(args: tuple[Expr, ...]) -> bool:
    """elu(x) + c for c >= 1."""
    names = [arg.fn for arg in args if isinstance(arg, Call)]
    constants = [arg.value for arg in args if isinstance(arg, Const)]
    return names == ["elu"] and len(constants) == 1 and constants[0] >= 1

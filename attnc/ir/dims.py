"""Dimensions: int expressions over sizes and parameters, compared and evaluated exactly.

The canonical form is a polynomial: `2*L - 1` and `L + L - 1` are the same dimension. What is no polynomial
(`//`, `%`, `min`, ...) counts as one unknown, equal to another when its operands are equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import assert_never

from attnc.ir.arithmetic import int_value
from attnc.ir.builtins import BUILTINS
from attnc.ir.expr import (
    Call,
    Const,
    Exists,
    Expr,
    GridCoord,
    Index,
    Lift,
    Lookup,
    Param,
    Reduce,
    Ref,
    Size,
    Value,
    Var,
)

#: Products of unknowns, each in order, and their coefficients; without zeros.
Polynomial = tuple[tuple[tuple[str, ...], int], ...]

_MAX_TERMS = 200


def same_dim(a: Expr, b: Expr) -> bool:
    """Whether two dimensions are equal for all sizes and parameters."""
    if a is b:
        return True
    canonical = _Canonical()
    return canonical.of(a) == canonical.of(b)


class _Canonical:
    """Polynomials that can be compared with each other: equal opaque parts get the same number."""

    def __init__(self) -> None:
        self._opaque: dict[tuple[str, tuple[Polynomial, ...]], str] = {}

    def of(self, dim: Expr) -> Polynomial:
        """The polynomial of a dimension, its terms in order."""
        match dim:
            case Const(value=value):
                return _polynomial({(): int(value)})
            case Size(name=name) | Param(name=name) | Index(name=name):
                return (((name,), 1),)
            case Var(name=name) | Ref(name=name) | Value(name=name):
                return (((name,), 1),)
            case Call(fn=fn, args=args):
                return self._call(fn, tuple(self.of(arg) for arg in args))
            case Lookup() | Reduce() | Exists() | Lift() | GridCoord():
                return self._unknown(f"{id(dim)}", ())
            case _:
                assert_never(dim)

    def _call(self, fn: str, parts: tuple[Polynomial, ...]) -> Polynomial:
        match fn, parts:
            case "add", (a, b) if len(a) + len(b) <= _MAX_TERMS:
                return _sum(a, b, 1)
            case "sub", (a, b) if len(a) + len(b) <= _MAX_TERMS:
                return _sum(a, b, -1)
            case "neg", (a,):
                return _sum((), a, -1)
            case "mul", (a, b) if len(a) * len(b) <= _MAX_TERMS:
                return _product(a, b)
            case _:
                return self._unknown(fn, parts)

    def _unknown(self, fn: str, parts: tuple[Polynomial, ...]) -> Polynomial:
        name = self._opaque.setdefault((fn, parts), f"#{len(self._opaque)}")
        return (((name,), 1),)


def _polynomial(terms: Mapping[tuple[str, ...], int]) -> Polynomial:
    return tuple(sorted((factors, count) for factors, count in terms.items() if count))


def _sum(a: Polynomial, b: Polynomial, sign: int) -> Polynomial:
    terms = Counter(dict(a))
    for factors, count in b:
        terms[factors] += sign * count
    return _polynomial(terms)


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    terms = Counter[tuple[str, ...]]()
    for left, m in a:
        for right, n in b:
            terms[tuple(sorted(left + right))] += m * n
    return _polynomial(terms)


# ------------------------------------------------------------------------------------- evaluation


def evaluate_dim(dim: Expr, values: Mapping[str, int]) -> int:
    """The dimension as a number; `values` has the sizes and parameters by name.

    Raises KeyError for a name without a value, ZeroDivisionError, and ValueError for what is no dimension.
    """
    match dim:
        case Const(value=value):
            return int(value)
        case Size(name=name) | Param(name=name):
            return values[name]
        case Call(fn="pow", args=(base, exponent)):
            return _power(evaluate_dim(base, values), evaluate_dim(exponent, values))
        case Call(fn=fn, args=args):
            found = int_value(fn, [evaluate_dim(arg, values) for arg in args])
        case _:
            found = None
    if found is None:
        raise ValueError(f"not a dimension: {dim_text(dim)}")
    return found


def _power(base: int, exponent: int) -> int:
    if exponent < 0 or base.bit_length() * exponent > 64:
        raise ValueError("a power that is no 64-bit int")
    return base**exponent


# ------------------------------------------------------------------------------------------- text

_STRENGTH = {"add": 1, "sub": 1, "mul": 2, "floordiv": 2, "mod": 2, "neg": 3, "pow": 4}


def dim_text(dim: Expr) -> str:
    """The dimension as the user would write it."""
    return _text(dim, 0)


def dims_text(dims: tuple[Expr, ...]) -> str:
    """`[B, H, N]`."""
    return f"[{', '.join(dim_text(dim) for dim in dims)}]"


def _text(dim: Expr, strength: int) -> str:
    match dim:
        case Const(value=value):
            return str(value)
        case Size(name=name) | Param(name=name) | Index(name=name) | Var(name=name) | Ref(name=name):
            return name
        case Value(name=name) | Lookup(tensor=name):
            return name
        case Call(fn=fn, args=args) if fn in _STRENGTH:
            return _operator_text(fn, args, strength)
        case Call(fn=fn, args=args):
            return f"{fn}({', '.join(_text(arg, 0) for arg in args)})"
        case _:
            return "..."


def _operator_text(fn: str, args: tuple[Expr, ...], strength: int) -> str:
    own = _STRENGTH[fn]
    if len(args) == 1:
        text = f"-{_text(args[0], own)}"
    else:
        infix = BUILTINS[fn].infix
        spaced = f" {infix} " if own == 1 else str(infix)
        text = f"{_text(args[0], own)}{spaced}{_text(args[1], own + 1)}"
    return f"({text})" if own < strength else text

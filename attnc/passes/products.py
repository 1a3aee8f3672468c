"""Sums and products taken apart: the algebra that the cascade analysis rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attnc.ir.build import add, call, div, mul, neg, sub
from attnc.ir.expr import Call, Const, Expr, Ref, real_const
from attnc.ir.traverse import substitute, walk
from attnc.ir.types import REAL


def terms(expr: Expr) -> tuple[tuple[int, Expr], ...]:
    """The signed terms of a sum: terms(a - (b + c)) = ((1, a), (-1, b), (-1, c))."""
    match expr:
        case Call(fn="add", args=(a, b)):
            return terms(a) + terms(b)
        case Call(fn="sub", args=(a, b)):
            return terms(a) + tuple((-sign, term) for sign, term in terms(b))
        case Call(fn="neg", args=(a,)):
            return tuple((-sign, term) for sign, term in terms(a))
        case _:
            return ((1, expr),)


def sum_of(signed: tuple[tuple[int, Expr], ...]) -> Expr:
    """The sum of signed terms; 0 when there are none."""
    total: Expr = real_const(0.0)
    for sign, term in signed:
        total = add(total, term) if sign > 0 else sub(total, term)
    return total


#: Whether an expression is constant along the keys.
RowTest = Callable[[Expr], bool]


@dataclass(frozen=True, slots=True)
class Product:
    """sign * product of `over` / product of `under`."""

    sign: int
    over: tuple[Expr, ...]
    under: tuple[Expr, ...]

    def build(self) -> Expr:
        """The product as an expression."""
        top: Expr = real_const(1.0)
        for factor in self.over:
            top = mul(top, factor)
        for factor in self.under:
            top = div(top, factor)
        return neg(top) if self.sign < 0 else top


def factors(expr: Expr) -> Product:
    """The factors of a product: factors(a * b / c) = a, b over c."""
    match expr:
        case Call(fn="mul", args=(a, b)):
            x, y = factors(a), factors(b)
            return Product(x.sign * y.sign, x.over + y.over, x.under + y.under)
        case Call(fn="div", args=(a, b)):
            x, y = factors(a), factors(b)
            return Product(x.sign * y.sign, x.over + y.under, x.under + y.over)
        case Call(fn="neg", args=(a,)):
            x = factors(a)
            return Product(-x.sign, x.over, x.under)
        case Call(fn="real", args=(a,)) if isinstance(a, Const):
            return Product(1, (Const(float(a.value), REAL, a.span),), ())
        case _:
            return Product(1, (expr,), ())


def refs(expr: Expr) -> frozenset[str]:
    """Names of all references in an expression."""
    return frozenset(node.name for node in walk(expr) if isinstance(node, Ref))


def ratio(
    expr: Expr, moving: frozenset[str], old: dict[Expr, Expr], is_row: RowTest, *, near: bool = False
) -> Expr | None:
    """`expr` with the old statistics times which factor is `expr` with the new ones?

    The factor expr(new) / expr(old), provided that it does not depend on anything of the pair; None when no such
    factor is found. `moving` names the statistics that move, `old` maps them to their old values, `is_row` tells
    whether an expression is free of the key; `near`: new and old ones are so close that nothing changes its sign.

        exp(s - m)     -> exp(m.old - m)
        (x / m) ^ 15   -> (m.old / m) ^ 15
    """
    if not refs(expr) & moving:
        return real_const(1.0)
    if is_row(expr):
        return div(expr, _old(expr, old))
    match expr:
        case Call(fn="mul" | "div" as fn, args=(a, b)):
            x, y = (ratio(arg, moving, old, is_row, near=near) for arg in (a, b))
            if x is None or y is None:
                return None
            return mul(x, y) if fn == "mul" else div(x, y)
        case Call(fn="neg", args=(a,)):
            return ratio(a, moving, old, is_row, near=near)
        case Call(fn="relu" | "abs", args=(a,)) if near:
            return ratio(a, moving, old, is_row, near=True)
        case Call(fn="exp" | "exp2" as fn, args=(a,)):
            shift = difference(a, moving, old, is_row)
            return None if shift is None else call(fn, shift)
        case Call(fn="pow", args=(a, b)) if is_row(b) and not refs(b) & moving:
            x = ratio(a, moving, old, is_row, near=near)
            return None if x is None else call("pow", x, b, type=REAL)
        case Call(fn="sqrt", args=(a,)):
            x = ratio(a, moving, old, is_row, near=near)
            return None if x is None else call("sqrt", x)
        case _:
            return None


def difference(expr: Expr, moving: frozenset[str], old: dict[Expr, Expr], is_row: RowTest) -> Expr | None:
    """expr(new) - expr(old) when that does not depend on the pair, else None."""
    if not refs(expr) & moving:
        return real_const(0.0)
    if is_row(expr):
        return sub(expr, _old(expr, old))
    match expr:
        case Call(fn="add" | "sub" as fn, args=(a, b)):
            x, y = difference(a, moving, old, is_row), difference(b, moving, old, is_row)
            if x is None or y is None:
                return None
            return add(x, y) if fn == "add" else sub(x, y)
        case Call(fn="neg", args=(a,)):
            x = difference(a, moving, old, is_row)
            return None if x is None else neg(x)
        case Call(fn="mul", args=(a, b)) if is_row(a) and not refs(a) & moving:
            x = difference(b, moving, old, is_row)
            return None if x is None else mul(a, x)
        case Call(fn="mul" | "div" as fn, args=(a, b)) if is_row(b) and not refs(b) & moving:
            x = difference(a, moving, old, is_row)
            if x is None:
                return None
            return mul(x, b) if fn == "mul" else div(x, b)
        case _:
            return None


def _old(expr: Expr, old: dict[Expr, Expr]) -> Expr:
    return substitute(expr, old)

"""exact-reals: real arithmetic that no rounding touches, as arithmetic on integers.

Before: a condition that compares reals, or rounds them down to ints.
After: where the reals are sums of ints times numbers of few digits, the same on integers, which integer sets know. A
table of reals with known values is one case per run of equal elements.

    int(2.0 + 0.5 * real(M // 64))   ->   (4 + M // 64) // 2
    real(j) <= 0.25 * real(i)        ->   4 * j <= i

What may be rounded stays as it is: numbers such as 0.1, products of positions, sums whose parts are far apart. Doubles
hold all that is left exactly, for positions of a call, and doubles are what the language means by reals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from math import lcm

from attnc.ir.build import add, call, compare, conj, mul, where
from attnc.ir.expr import TRUE, Call, Const, Expr, Index, Lookup, Param, Size, Value, int_const
from attnc.ir.fold import fold
from attnc.ir.module import Table, TensorParam
from attnc.ir.traverse import transform
from attnc.ir.types import BOOL, INT, REAL

#: Positions have 30 bits, doubles 53: the factors of a sum share the rest.
_MOST_FACTORS = 1 << 22
#: Cases of a sum: combinations of runs of tables and of choices.
_MOST_CASES = 16
_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


@dataclass(frozen=True, slots=True)
class _Sum:
    """`number` and ints times their factors."""

    number: Fraction
    factors: tuple[tuple[Expr, Fraction], ...] = ()

    def plus(self, other: _Sum) -> _Sum:
        total = dict(self.factors)
        for expr, factor in other.factors:
            total[expr] = total.get(expr, Fraction(0)) + factor
        return _Sum(self.number + other.number, tuple((e, f) for e, f in total.items() if f))

    def times(self, factor: Fraction) -> _Sum:
        return _Sum(self.number * factor, tuple((e, f * factor) for e, f in self.factors if factor))


#: Sums with the conditions under which they are taken, the first that holds.
_Cases = tuple[tuple[Expr, _Sum], ...]


def without_reals(cond: Expr, tensors: Mapping[str, TensorParam]) -> Expr:
    """The condition with exact reals as integers."""
    return transform(cond, lambda node: _rewritten(node, tensors))


def _rewritten(node: Expr, tensors: Mapping[str, TensorParam]) -> Expr:
    match node:
        case Call(fn="int" | "floor", args=(arg,)) if node.type == INT and arg.type == REAL:
            return _chosen(_cases(arg, tensors), _rounded_down) or node
        case Call(fn=fn, args=(a, b)) if fn in _COMPARISONS and REAL in (a.type, b.type):
            left, right = _cases(a, tensors), _cases(b, tensors)
            return _chosen(_combined(left, _scaled(right, Fraction(-1))), lambda sum_: _compared(fn, sum_)) or node
        case _:
            return node


def _chosen(cases: _Cases | None, text: Callable[[_Sum], Expr | None]) -> Expr | None:
    """The text of the case that holds; None where one has none."""
    if cases is None:
        return None
    texts = [(guard, text(sum_)) for guard, sum_ in cases]
    found = texts[-1][1]
    for guard, chosen in texts[-2::-1]:
        found = None if found is None or chosen is None else where(guard, chosen, found)
    return None if found is None else fold(found)


def _rounded_down(sum_: _Sum) -> Expr | None:
    whole = _whole(sum_)
    return None if whole is None else call("floordiv", whole[0], int_const(whole[1]), type=INT)


def _compared(fn: str, sum_: _Sum) -> Expr | None:
    whole = _whole(sum_)
    return None if whole is None else compare(fn, whole[0], int_const(0))


def _whole(sum_: _Sum) -> tuple[Expr, int] | None:
    """The sum as an int over a number, None where a double might round it."""
    numbers = [sum_.number, *(factor for _, factor in sum_.factors)]
    below = lcm(*(number.denominator for number in numbers))
    if below & (below - 1) or sum(abs(number) for number in numbers) * below > _MOST_FACTORS:
        return None
    terms = (mul(int_const(int(factor * below)), expr) for expr, factor in sum_.factors)
    return reduce(add, terms, int_const(int(sum_.number * below))), below


# -- sums ------------------------------------------------------------------------------------------------------------


def _cases(expr: Expr, tensors: Mapping[str, TensorParam]) -> _Cases | None:
    """The sums that an expression is; None for any other."""
    if expr.type == INT:
        return _of_int(expr)
    match expr:
        case Const(value=value):
            return ((TRUE, _Sum(Fraction(value))),) if _is_finite(value) else None
        case Call(fn="real", args=(inner,)):
            return _of_int(inner)
        case Call(fn="add", args=(a, b)):
            return _combined(_cases(a, tensors), _cases(b, tensors))
        case Call(fn="sub", args=(a, b)):
            return _combined(_cases(a, tensors), _scaled(_cases(b, tensors), Fraction(-1)))
        case Call(fn="neg", args=(a,)):
            return _scaled(_cases(a, tensors), Fraction(-1))
        case Call(fn="mul", args=(a, b)):
            return _product(_cases(a, tensors), _cases(b, tensors))
        case Call(fn="div", args=(a, Const(value=value))) if value and _is_finite(value):
            return _scaled(_cases(a, tensors), 1 / Fraction(value))
        case Call(fn="where", args=(cond, a, b)):
            return _either(cond, _cases(a, tensors), _cases(b, tensors))
        case Lookup(tensor=name) if name in tensors and tensors[name].value is not None:
            return _of_table(expr, tensors[name].value)
        case _:
            return None


def _is_finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _of_int(expr: Expr) -> _Cases | None:
    """An int as it is, if it is no larger than positions are."""
    if isinstance(expr, Const):
        return ((TRUE, _Sum(Fraction(expr.value))),)
    return ((TRUE, _Sum(Fraction(0), ((expr, Fraction(1)),))),) if _is_small(expr) else None


def _is_small(expr: Expr) -> bool:
    """Whether a double holds an int exactly, with the factors that `_MOST_FACTORS` allows."""
    match expr:
        case Const(value=value):
            return abs(value) < _MOST_FACTORS
        case Index() | Size() | Param() | Value() | Lookup():
            return True
        case Call(fn="floordiv" | "mod", args=(a, Const())):  # by a parameter: one unknown is better than two
            return _is_small(a)
        case Call(fn="min" | "max" | "where", args=args):
            return all(_is_small(arg) for arg in args if arg.type == INT)
        case _:
            return False


def _of_table(node: Lookup, table: Table | None) -> _Cases | None:
    """The elements of a row of a table, in runs."""
    if table is None or len(node.indices) != 1 or not table.values or not all(map(_is_finite, table.values)):
        return None
    found: list[tuple[Expr, _Sum]] = []
    for number, value in enumerate(table.values):
        here = compare("le", node.indices[0], int_const(number))
        if found and found[-1][1].number == Fraction(value):
            found.pop()
        found.append((here, _Sum(Fraction(value))))
    return tuple(found) if len(found) <= _MOST_CASES else None


def _scaled(cases: _Cases | None, factor: Fraction) -> _Cases | None:
    return None if cases is None else tuple((guard, sum_.times(factor)) for guard, sum_ in cases)


def _combined(a: _Cases | None, b: _Cases | None) -> _Cases | None:
    if a is None or b is None or len(a) * len(b) > _MOST_CASES:
        return None
    return tuple((conj(g, h), x.plus(y)) for g, x in a for h, y in b)


def _product(a: _Cases | None, b: _Cases | None) -> _Cases | None:
    """A product with a number."""
    if a is None or b is None or len(a) * len(b) > _MOST_CASES:
        return None
    if all(not sum_.factors for _, sum_ in a):
        return tuple((conj(g, h), y.times(x.number)) for g, x in a for h, y in b)
    if all(not sum_.factors for _, sum_ in b):
        return tuple((conj(g, h), x.times(y.number)) for g, x in a for h, y in b)
    return None


def _either(cond: Expr, a: _Cases | None, b: _Cases | None) -> _Cases | None:
    if a is None or b is None or len(a) + len(b) > _MOST_CASES:
        return None
    no = call("not", cond, type=BOOL)
    return (*((conj(cond, guard), sum_) for guard, sum_ in a), *((conj(no, guard), sum_) for guard, sum_ in b))

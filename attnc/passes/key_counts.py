"""key-counts: how many keys a row sees, as arithmetic on its position.

Before: a lowered mask.
After: an int expression over the row, sizes and offsets; None where no short one is found, so that keys are counted.

    j <= i                            ->  max(0, min(i, last) - first + 1)      first = k_offset, last = first + M - 1
    j <= i and (j < 4 or i - j < w)   ->  |A| + |B| - |A and B| of two such ranges
    (i - j) % 3 == 0 and j <= i       ->  numbers of a residue class in a range

A mask is taken apart into alternatives, each a conjunction of bounds on j, residues of j and conditions on the row.
Alternatives that may overlap are counted by inclusion and exclusion.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from attnc.ir.build import add, call, compare, conj, mul, neg, sub, where
from attnc.ir.dependence import varies
from attnc.ir.expr import TRUE, Call, Const, Expr, Index, Size, Value, int_const
from attnc.ir.fold import fold
from attnc.ir.traverse import count_nodes
from attnc.ir.types import BOOL, INT

_KEY = Index("j")
_FIRST = Value("k_offset", INT)
_LAST = sub(add(_FIRST, Size("M")), int_const(1))
#: Beyond so many alternatives or nodes a sweep that counts is the shorter way.
_MAX_ALTERNATIVES = 4
_MAX_NODES = 250

_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}
_NEGATED = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}


@dataclass(frozen=True, slots=True)
class _Keys:
    """A conjunction: bounds on the position of a key, (m, r) for j % m == r % m, and conditions on the row."""

    lows: tuple[Expr, ...] = ()
    highs: tuple[Expr, ...] = ()
    residues: tuple[tuple[int, Expr], ...] = ()
    conditions: tuple[Expr, ...] = ()

    def also(self, other: _Keys) -> _Keys:
        """The keys of both."""
        return _Keys(
            tuple(dict.fromkeys(self.lows + other.lows)),
            tuple(dict.fromkeys(self.highs + other.highs)),
            tuple(dict.fromkeys(self.residues + other.residues)),
            tuple(dict.fromkeys(self.conditions + other.conditions)),
        )


#: Keys that are in one of these or more.
_Union = tuple[_Keys, ...]


class _NoFormError(Exception):
    pass


def count_keys(mask: Expr) -> Expr | None:
    """The number of keys that a lowered mask keeps in a row, as an int expression free of the key."""
    try:
        count = fold(_count(_keys(mask, True)))
    except _NoFormError:
        return None
    return count if count_nodes(count) <= _MAX_NODES else None


def _count(union: _Union) -> Expr:
    total: Expr = int_const(0)
    for size in range(1, len(union) + 1):
        for members in combinations(union, size):
            both = members[0]
            for other in members[1:]:
                both = both.also(other)
            total = add(total, _size(both)) if size % 2 else sub(total, _size(both))
    return total


def _size(keys: _Keys) -> Expr:
    """How many keys of the call a conjunction keeps."""
    low, high = _FIRST, _LAST
    for bound in keys.lows:
        low = call("max", low, bound)
    for bound in keys.highs:
        high = call("min", high, bound)
    conditions = keys.conditions
    if low == _FIRST and high == _LAST and not keys.residues:
        found: Expr = Size("M")
    elif not keys.residues:
        found = add(sub(high, low), int_const(1))
    else:
        (modulus, residue), conditions = _one_residue(keys)
        before = sub(sub(low, int_const(1)), residue)
        found = sub(_quotient(sub(high, residue), modulus), _quotient(before, modulus))
    found = found if found == Size("M") else call("max", int_const(0), found)
    holds = TRUE
    for condition in conditions:
        holds = conj(holds, condition)
    return found if holds == TRUE else where(holds, found, int_const(0))


def _one_residue(keys: _Keys) -> tuple[tuple[int, Expr], tuple[Expr, ...]]:
    """Residues of one modulus are one residue, if they agree."""
    modulus, residue = keys.residues[0]
    conditions = keys.conditions
    for other, value in keys.residues[1:]:
        if other != modulus:
            raise _NoFormError
        difference = call("mod", sub(residue, value), int_const(modulus))
        conditions = (*conditions, compare("eq", difference, int_const(0)))
    return (modulus, residue), conditions


def _quotient(value: Expr, divisor: int) -> Expr:
    return call("floordiv", value, int_const(divisor))


# -- conditions ------------------------------------------------------------------------------------------------------


def _keys(cond: Expr, wanted: bool) -> _Union:
    """The keys for which a condition is as wanted."""
    if isinstance(cond, Const):
        return (_Keys(),) if bool(cond.value) == wanted else ()
    if not varies(cond, "j"):
        return (_Keys(conditions=(cond if wanted else call("not", cond, type=BOOL),)),)
    match cond:
        case Call(fn="not", args=(a,)):
            return _keys(a, not wanted)
        case Call(fn="and" | "or" as fn, args=(a, b)):
            join = _both if (fn == "and") == wanted else _either
            return join(_keys(a, wanted), _keys(b, wanted))
        case Call(fn="where", args=(c, a, b)) if a.type == BOOL:
            return _either(_both(_keys(c, True), _keys(a, wanted)), _both(_keys(c, False), _keys(b, wanted)))
        case Call(fn=fn, args=(a, b)) if fn in _NEGATED and a.type == b.type == INT:
            return _compared(fn if wanted else _NEGATED[fn], a, b)
        case _:
            raise _NoFormError


def _either(a: _Union, b: _Union) -> _Union:
    found = tuple(dict.fromkeys(a + b))
    if len(found) > _MAX_ALTERNATIVES:
        raise _NoFormError
    return found


def _both(a: _Union, b: _Union) -> _Union:
    found = tuple(dict.fromkeys(x.also(y) for x in a for y in b))
    if len(found) > _MAX_ALTERNATIVES:
        raise _NoFormError
    return found


def _compared(fn: str, a: Expr, b: Expr) -> _Union:
    """The keys for which a comparison of ints holds."""
    if fn == "ne":
        return _either(_compared("lt", a, b), _compared("gt", a, b))
    form = _linear(sub(a, b))
    if form.atom is None:  # the key cancels
        return (_Keys(conditions=(compare(fn, form.rest, int_const(0)),)),)
    factor, bound = form.factor, neg(form.rest)
    if factor < 0:
        factor, bound, fn = -factor, form.rest, _MIRRORED[fn]
    match fn:
        case "le" | "lt":
            return _at_most(form.atom, _quotient(_strict(fn, bound, -1), factor))
        case "ge" | "gt":
            return _at_least(form.atom, neg(_quotient(neg(_strict(fn, bound, 1)), factor)))
        case _:
            return _equal(form.atom, factor, bound)


def _strict(fn: str, bound: Expr, step: int) -> Expr:
    return add(bound, int_const(step)) if fn in ("lt", "gt") else bound


def _equal(atom: Expr, factor: int, bound: Expr) -> _Union:
    divides = compare("eq", call("mod", bound, int_const(factor)), int_const(0))
    conditions = _Keys() if factor == 1 else _Keys(conditions=(divides,))
    value = bound if factor == 1 else _quotient(bound, factor)
    if isinstance(atom, Call) and atom.fn == "mod":
        return _both((conditions,), (_residue(atom, value),))
    return _both((conditions,), _both(_at_most(atom, value), _at_least(atom, value)))


def _residue(atom: Call, value: Expr) -> _Keys:
    """(c * j + rest) % m == value for c = 1 or -1."""
    form, modulus = _linear(atom.args[0]), atom.args[1]
    if form.atom != _KEY or abs(form.factor) != 1 or not isinstance(modulus, Const) or modulus.value <= 0:
        raise _NoFormError
    residue = sub(value, form.rest) if form.factor > 0 else sub(form.rest, value)
    in_range = conj(compare("le", int_const(0), value), compare("lt", value, modulus))
    return _Keys(residues=((int(modulus.value), residue),), conditions=() if _small(value, modulus) else (in_range,))


def _small(value: Expr, modulus: Const) -> bool:
    if isinstance(value, Call) and value.fn == "mod":
        return value.args[1] == modulus
    return isinstance(value, Const) and 0 <= value.value < modulus.value


def _at_most(atom: Expr, bound: Expr) -> _Union:
    """The keys for which atom <= bound, a bound free of the key."""
    match atom:
        case Index():
            return (_Keys(highs=(bound,)),)
        case Call(fn="floordiv", args=(a, Const(value=divisor))) if divisor > 0:
            return _compared("lt", a, mul(int_const(int(divisor)), add(bound, int_const(1))))
        case Call(fn="abs", args=(a,)):
            return _both(_compared("le", a, bound), _compared("ge", a, neg(bound)))
        case Call(fn="max", args=(a, b)):
            return _both(_compared("le", a, bound), _compared("le", b, bound))
        case Call(fn="min", args=(a, b)):
            return _either(_compared("le", a, bound), _compared("le", b, bound))
        case _:
            raise _NoFormError


def _at_least(atom: Expr, bound: Expr) -> _Union:
    """The keys for which atom >= bound."""
    match atom:
        case Index():
            return (_Keys(lows=(bound,)),)
        case Call(fn="floordiv", args=(a, Const(value=divisor))) if divisor > 0:
            return _compared("ge", a, mul(int_const(int(divisor)), bound))
        case Call(fn="abs", args=(a,)):
            return _either(_compared("ge", a, bound), _compared("le", a, neg(bound)))
        case Call(fn="max", args=(a, b)):
            return _either(_compared("ge", a, bound), _compared("ge", b, bound))
        case Call(fn="min", args=(a, b)):
            return _both(_compared("ge", a, bound), _compared("ge", b, bound))
        case _:
            raise _NoFormError


# -- sums ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Linear:
    """factor * atom + rest, with a rest free of the key."""

    factor: int
    atom: Expr | None
    rest: Expr

    def times(self, by: int) -> _Linear:
        """The form multiplied by a constant."""
        rest = neg(self.rest) if by == -1 else mul(int_const(by), self.rest)
        return _Linear(self.factor * by, self.atom if by else None, rest)


def _linear(expr: Expr) -> _Linear:
    if not varies(expr, "j"):
        return _Linear(0, None, expr)
    match expr:
        case Index():
            return _Linear(1, expr, int_const(0))
        case Call(fn="neg", args=(a,)):
            return _linear(a).times(-1)
        case Call(fn="add" | "sub" as fn, args=(a, b)):
            x, y = _linear(a), _linear(b)
            return _sum(x, y if fn == "add" else y.times(-1))
        case Call(fn="mul", args=(a, b)) if isinstance(a, Const) or isinstance(b, Const):
            by, of = (a, b) if isinstance(a, Const) else (b, a)
            assert isinstance(by, Const)
            return _linear(of).times(int(by.value))
        case Call(fn="floordiv" | "mod" | "abs" | "min" | "max"):
            return _Linear(1, expr, int_const(0))
        case _:
            raise _NoFormError


def _sum(x: _Linear, y: _Linear) -> _Linear:
    rest = add(x.rest, y.rest)
    if x.atom is None or y.atom is None:
        return _Linear(x.factor + y.factor, x.atom or y.atom, rest)
    if x.atom != y.atom:
        raise _NoFormError
    factor = x.factor + y.factor
    return _Linear(factor, x.atom if factor else None, rest)

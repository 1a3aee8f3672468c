"""isl-ranges: a set of tiles as ranges read off its constraints, without the search of isl's code generation.

Before: a set of tiles t over parameters.
After: disjoint ranges with floor divisions as bounds, or none where t stands inside a division (a stride).

    { [t] : 64 t >= i0 - 10 and 64 t < M and M > 3 }   ->  (i0 - 11) // 64 + 1 .. (M - 1) // 64  if M >= 4
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from attnc.ir.build import add, call, compare, conj, mul, sub
from attnc.ir.expr import TRUE, Expr, int_const
from attnc.ir.plan import Piece
from attnc.ir.types import INT
from attnc.passes.isl import isl, renew

_ZERO = int_const(0)


def disjoint(tiles: Any, context: Any) -> Any:
    """The set as convex sets of which no two meet, as few as the better of two orders finds.

    `context` is the set of parameters that can occur. Each order is a step of its own; raises isl.Error when the first
    passes the operation limit.
    """
    tiles = tiles.compute_divs()
    parts = tiles.get_basic_sets()
    if len(parts) <= 1:
        return tiles.gist_params(context)
    simple_first = sorted(parts, key=lambda part: part.n_constraint())
    found = _cut(simple_first, context)
    if found.n_basic_set() <= len(parts):
        return found
    try:
        other = _cut(simple_first[::-1], context)
    except isl.Error:
        return found
    return other if other.n_basic_set() < found.n_basic_set() else found


def _cut(parts: Sequence[Any], context: Any) -> Any:
    """Of every part what the ones before it leave."""
    renew(context)
    total = seen = isl.Set.from_basic_set(parts[0])
    for part in parts[1:]:
        here = isl.Set.from_basic_set(part)
        rest = here.subtract(seen).gist_params(context).coalesce()
        total, seen = total.union(rest), seen.union(here)
    return total.coalesce()


def ranges(tiles: Any, leaves: Mapping[str, Expr]) -> tuple[Piece, ...] | None:
    """The convex sets of a set as ranges, one each; None where one is no plain range.

    `leaves` tells what each parameter name stands for.
    """
    found = [_piece(part, leaves) for part in tiles.compute_divs().get_basic_sets()]
    pieces = tuple(piece for piece in found if piece is not None)
    return pieces if len(pieces) == len(found) else None


def is_plain(tiles: Any, leaves: Mapping[str, Expr]) -> bool:
    """Whether `ranges` knows every convex set of a set, be they disjoint or not."""
    parts = tiles.compute_divs().get_basic_sets()
    return all(part.dim(isl.dim_type.div) == 0 or _piece(part, leaves) is not None for part in parts)


@dataclass(frozen=True, slots=True)
class _Affine:
    """The sum of `terms`, each a factor times an expression, and `constant`."""

    terms: tuple[tuple[int, Expr], ...]
    constant: int

    def times(self, factor: int) -> _Affine:
        return _Affine(tuple((factor * n, expr) for n, expr in self.terms), factor * self.constant)

    def plus(self, other: _Affine) -> _Affine:
        return _Affine((*self.terms, *other.terms), self.constant + other.constant)

    def floor(self, divisor: int) -> _Affine:
        """Divided by `divisor` and rounded down; multiples of the divisor are taken out of the division."""
        outside = [(n // divisor, expr) for n, expr in self.terms if n % divisor == 0]
        inside = [(n, expr) for n, expr in self.terms if n % divisor]
        if not inside:
            return _Affine(tuple(outside), self.constant // divisor)
        number = (self.constant + divisor // 2) // divisor  # what is left inside is small, of either sign
        rest = _Affine(tuple(inside), self.constant - number * divisor).expr()
        return _Affine((*outside, (1, call("floordiv", rest, int_const(divisor), type=INT))), number)

    def expr(self) -> Expr:
        """What is added, then what is subtracted, then the number."""
        total: Expr = _ZERO
        for factor, expr in sorted(self.terms, key=lambda term: term[0] < 0):
            scaled = mul(int_const(abs(factor)), expr)
            total = sub(total, scaled) if factor < 0 else add(total, scaled)
        return sub(total, int_const(-self.constant)) if self.constant < 0 else add(total, int_const(self.constant))


@dataclass(frozen=True, slots=True)
class _Row:
    """factor * t + rest, which is 0 or at least 0."""

    factor: int
    rest: _Affine
    equal: bool


def _piece(part: Any, leaves: Mapping[str, Expr]) -> Piece | None:
    """A convex set of tiles as one range; None where t is divided, or has no end."""
    guard: Expr = TRUE
    lows: list[_Affine] = []
    highs: list[_Affine] = []
    for constraint in reversed(part.get_constraints()):
        if constraint.is_div_constraint():
            continue
        row = _row(constraint, leaves)
        if row is None:
            return None
        if row.factor == 0:
            guard = conj(guard, _condition(row))
            continue
        value = row.rest.times(-1 if row.factor > 0 else 1)  # |factor| * t is at least, or at most, this
        by = abs(row.factor)
        if row.factor > 0 or row.equal:
            lows.append(value.plus(_Affine((), by - 1)).floor(by))
        if row.factor < 0 or row.equal:
            highs.append(value.floor(by))
    return Piece(guard, _fold("max", lows), _fold("min", highs)) if lows and highs else None


def _fold(fn: str, bounds: Sequence[_Affine]) -> Expr:
    """The largest or smallest of some bounds. A number that all of them add is added to the outcome."""
    distinct = sorted(dict.fromkeys(bounds), key=lambda bound: bool(bound.terms))  # a literal stands first
    shared = distinct[0].constant if len({bound.constant for bound in distinct}) == 1 else 0
    exprs = [bound.plus(_Affine((), -shared)).expr() for bound in distinct]
    total = reduce(lambda a, b: call(fn, a, b, type=INT), exprs)
    return _Affine(((1, total),), shared).expr()


def _condition(row: _Row) -> Expr:
    """A row without t, every term on the side where its factor is positive."""
    left = tuple((factor, expr) for factor, expr in row.rest.terms if factor > 0)
    right = tuple((-factor, expr) for factor, expr in row.rest.terms if factor < 0)
    constant = row.rest.constant
    if not left:
        return compare("eq" if row.equal else "le", _Affine(right, 0).expr(), int_const(constant))
    sides = _Affine(left, max(constant, 0)), _Affine(right, max(-constant, 0))
    return compare("eq" if row.equal else "ge", sides[0].expr(), sides[1].expr())


# -- from isl --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Division:
    """floor((factor * t + rest) / divisor)."""

    factor: int
    rest: _Affine
    divisor: int


def _row(constraint: Any, leaves: Mapping[str, Expr]) -> _Row | None:
    """A constraint; one on a quotient that grows or falls with t as one on t. None where t stands elsewhere too."""
    t = _int(constraint.get_coefficient_val(isl.dim_type.set, 0))
    rest = _Affine(tuple(_params(constraint, leaves)), _int(constraint.get_constant_val()))
    divided: list[tuple[int, _Division]] = []
    for factor, quotient in _divisions(constraint):
        division = _division(quotient, isl.dim_type.in_, leaves)
        if division is None:
            return None
        if division.factor:
            divided.append((factor, division))
        else:
            rest = rest.plus(division.rest.floor(division.divisor).times(factor))
    equal = bool(constraint.is_equality())
    if not divided:
        return _Row(t, rest, equal)
    factor, division = divided[0]
    if equal or len(divided) > 1 or t % factor:
        return None
    inside = division.factor + t // factor * division.divisor  # isl writes floor(3 t / 4) as t + floor(-t / 4)
    return _undivided(factor, _Division(inside, division.rest, division.divisor), rest)


def _undivided(factor: int, division: _Division, rest: _Affine) -> _Row:
    """factor * floor(x / n) + rest >= 0, as a condition on x."""
    by = division.divisor
    if factor > 0:  # the quotient is at least this
        least = rest.times(-1).plus(_Affine((), factor - 1)).floor(factor)
        return _Row(division.factor, division.rest.plus(least.times(-by)), equal=False)
    most = rest.floor(-factor)
    return _Row(-division.factor, most.times(by).plus(_Affine((), by - 1)).plus(division.rest.times(-1)), equal=False)


def _divisions(source: Any) -> Iterator[tuple[int, Any]]:
    """The quotients that a constraint or a function reads, each with its factor."""
    for number in range(source.dim(isl.dim_type.div)):
        factor = _int(source.get_coefficient_val(isl.dim_type.div, number))
        if factor:
            yield factor, source.get_div(number)


def _division(quotient: Any, kind: Any, leaves: Mapping[str, Expr]) -> _Division | None:
    """A quotient whose inner quotients read parameters only; None for another one."""
    divisor = _int(quotient.get_denominator_val())
    value = quotient.scale_val(isl.Val.int_from_si(quotient.get_ctx(), divisor))
    rest = _Affine(tuple(_params(value, leaves)), _int(value.get_constant_val()))
    for factor, inner in _divisions(value):
        division = _division(inner, kind, leaves)
        if division is None or division.factor:
            return None
        rest = rest.plus(division.rest.floor(division.divisor).times(factor))
    return _Division(_int(value.get_coefficient_val(kind, 0)), rest, divisor)


def _params(source: Any, leaves: Mapping[str, Expr]) -> Iterator[tuple[int, Expr]]:
    for number in range(source.dim(isl.dim_type.param)):
        factor = _int(source.get_coefficient_val(isl.dim_type.param, number))
        if factor:
            yield factor, leaves[source.get_dim_name(isl.dim_type.param, number)]


def _int(value: Any) -> int:
    return int(value.get_num_si())

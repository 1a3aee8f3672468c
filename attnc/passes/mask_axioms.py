"""mask-axioms: what is known about the unknowns of a table of conditions.

Each axiom is a condition that holds whatever the tensors and parameters are: a remainder lies below its divisor, a
quotient by an unknown divisor grows with its dividend, equal indices look up equal elements, the order of positions is
the lexicographic order of their coordinates. They are few and true, not complete.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal

from attnc.ir.build import add, compare, conj, is_const, mul, sub
from attnc.ir.expr import TRUE, Call, Const, Expr, GridCoord, Index, Lookup, int_const
from attnc.ir.module import Grid, Range, TensorParam
from attnc.ir.types import BOOL, INT
from attnc.passes.mask_atoms import Atom, Atoms, everything
from attnc.passes.positions import grid_coordinate

#: Pairs of unknowns that are compared with each other; more would cost more than they tell.
MAX_PAIRS = 12
_ONE = int_const(1)
_ZERO = int_const(0)


def axioms(atoms: Atoms, tensors: Mapping[str, TensorParam]) -> tuple[Expr, ...]:
    """What is known about the unknowns, the strongest first."""
    found: list[Expr] = []
    for atom in atoms:
        found += _alone(atom, tensors)
    pairs = [pair for pair in combinations(atoms, 2) if _alike(*pair)]
    found += [_together(*pair) for pair in pairs[:MAX_PAIRS]]
    return tuple(axiom for axiom in found if axiom != TRUE)


def order_of_grids(atoms: Atoms, grid_q: Grid, grid_k: Grid, *, coordinates: bool = False) -> tuple[Expr, ...]:
    """How coordinates of both sides on one grid say which position is the earlier. None where they are affine.

    With `coordinates`, they stand for themselves, and all but the slowest lie within their extents.
    """
    if not coordinates and all(isinstance(extent, Const) for extent in (*grid_q.extents[1:], *grid_k.extents[1:])):
        return ()
    extents = (*grid_q.extents, *grid_k.extents)
    positive = tuple(compare("ge", atoms.integer(extent), _ONE) for extent in extents if not isinstance(extent, Const))
    query = _coordinates(atoms, grid_q, "q", coordinates=coordinates)
    key = _coordinates(atoms, grid_k, "k", coordinates=coordinates)
    inside: tuple[Expr, ...] = ()
    if coordinates:
        sides = ((query, grid_q), (key, grid_k))
        ranges = [(c, extent) for found, grid in sides for c, extent in zip(found[1:], grid.extents[1:], strict=True)]
        inside = tuple(_within(_ZERO, c, atoms.integer(extent)) for c, extent in ranges)
    if grid_q.extents != grid_k.extents:
        return (*positive, *inside)
    i, j = sub(Index("i"), atoms.integer(grid_q.start)), sub(Index("j"), atoms.integer(grid_k.start))
    same_row = everything(tuple(compare("eq", a, b) for a, b in zip(query[:-1], key[:-1], strict=True)))
    along = compare("eq", sub(i, j), sub(query[-1], key[-1]))
    return (*positive, *inside, _lexicographic(query, key, i, j), _any([_not(same_row), along]))


def _coordinates(atoms: Atoms, grid: Grid, side: Literal["q", "k"], *, coordinates: bool) -> list[Expr]:
    axes = range(len(grid.extents))
    if coordinates:
        return [atoms.integer(GridCoord(side, axis)) for axis in axes]
    return [atoms.integer(grid_coordinate(grid, side, axis)) for axis in axes]


def _lexicographic(query: Sequence[Expr], key: Sequence[Expr], i: Expr, j: Expr) -> Expr:
    """Positions are ordered as their coordinates are, the slowest first."""
    pieces: list[Expr] = []
    equal: list[Expr] = []
    for a, b in zip(query, key, strict=True):
        pieces.append(everything((*equal, compare("lt", a, b), compare("lt", i, j))))
        pieces.append(everything((*equal, compare("gt", a, b), compare("gt", i, j))))
        equal.append(compare("eq", a, b))
    return _any([*pieces, everything((*equal, compare("eq", i, j)))])


def divisors(atoms: Atoms) -> tuple[Expr, ...]:
    """Divisors that are not known are at least 1: a call with another is refused."""
    found = {_arguments(atom.expr)[1] for atom in atoms if _is_division(atom)}
    return tuple(compare("ge", divisor, _ONE) for divisor in sorted(found, key=repr))


# -- one unknown -----------------------------------------------------------------------------------------------------


def _alone(atom: Atom, tensors: Mapping[str, TensorParam]) -> Iterator[Expr]:
    ref = atom.ref
    if atom.is_condition:
        yield _between(_ZERO, ref, _ONE)
        return
    match atom.expr:
        case Lookup(tensor=name) if name in tensors:
            yield _in_range(ref, tensors[name].range)
        case Call(fn="floordiv", args=(x, d)):
            yield _quotient(ref, x, d)
        case Call(fn="mod", args=(x, d)):
            yield everything((compare("ge", ref, _ZERO), compare("lt", ref, d)))
            yield _remainder(ref, x, d)
        case Call(fn="mul", args=(a, b)):
            yield _product(ref, a, b)
        case Call(fn="bit_length", args=(x,)):
            yield _between(_ZERO, ref, int_const(64))
            yield compare("eq", compare("eq", x, _ZERO), compare("eq", ref, _ZERO))
        case Call(fn="bitand", args=(a, b)):
            for arg in (a, b):
                if isinstance(arg, Const) and arg.value >= 0:
                    yield _between(_ZERO, ref, arg)
        case _:
            return


def _in_range(ref: Expr, bounds: Range | None) -> Expr:
    if bounds is None:
        return TRUE
    found: list[Expr] = []
    if bounds.low is not None:
        low = math.floor(bounds.low) + 1 if bounds.low_open else math.ceil(bounds.low)
        found.append(compare("ge", ref, int_const(low)))
    if bounds.high is not None:
        high = math.ceil(bounds.high) - 1 if bounds.high_open else math.floor(bounds.high)
        found.append(compare("le", ref, int_const(high)))
    return everything(tuple(found))


def _quotient(q: Expr, x: Expr, d: Expr) -> Expr:
    """Exact near 0, else between 0 and the dividend."""
    return _any(
        [
            everything((_within(_ZERO, x, d), compare("eq", q, _ZERO))),
            everything((_within(d, x, mul(int_const(2), d)), compare("eq", q, _ONE))),
            everything((compare("ge", x, mul(int_const(2), d)), _between(int_const(2), q, x))),
            everything((_within(Call("neg", (d,), INT), x, _ZERO), compare("eq", q, int_const(-1)))),
            everything((compare("lt", x, Call("neg", (d,), INT)), _between(x, q, int_const(-2)))),
        ]
    )


def _remainder(r: Expr, x: Expr, d: Expr) -> Expr:
    """Exact near 0."""
    negative = Call("neg", (d,), INT)
    return _any(
        [
            everything((_within(_ZERO, x, d), compare("eq", r, x))),
            everything((_within(d, x, mul(int_const(2), d)), compare("eq", r, sub(x, d)))),
            everything((_within(negative, x, _ZERO), compare("eq", r, add(x, d)))),
            compare("ge", x, mul(int_const(2), d)),
            compare("lt", x, negative),
        ]
    )


def _product(p: Expr, a: Expr, b: Expr) -> Expr:
    """Of factors from 0 on; nothing is said of others."""
    return _any(
        [
            everything((compare("eq", p, _ZERO), _any([compare("eq", a, _ZERO), compare("eq", b, _ZERO)]))),
            everything((compare("ge", a, _ONE), compare("ge", b, _ONE), compare("ge", p, a), compare("ge", p, b))),
            compare("lt", a, _ZERO),
            compare("lt", b, _ZERO),
        ]
    )


# -- two unknowns ----------------------------------------------------------------------------------------------------


def _alike(a: Atom, b: Atom) -> bool:
    """The same function of other arguments."""
    match a.expr, b.expr:
        case Lookup(tensor=left, indices=x), Lookup(tensor=right, indices=y):
            return left == right and len(x) == len(y) and _ints(x) and _ints(y)
        case Call(fn="floordiv" | "mod" as left, args=(_, d)), Call(fn=right, args=(_, e)):
            return left == right and d == e and not (is_const(d, 1))
        case Call(fn="bit_length"), Call(fn="bit_length"):
            return True
        case _:
            return False


def _ints(args: Sequence[Expr]) -> bool:
    return all(arg.type == INT for arg in args)


def _together(a: Atom, b: Atom) -> Expr:
    x, y = _arguments(a.expr), _arguments(b.expr)
    if isinstance(a.expr, Call) and a.expr.fn == "floordiv":  # grows with its dividend, and is equal for near ones only
        forward = _any([compare("gt", x[0], y[0]), compare("le", a.ref, b.ref)])
        backward = _any([compare("lt", x[0], y[0]), compare("ge", a.ref, b.ref)])
        apart, divisor = sub(x[0], y[0]), x[1]
        near = conj(compare("lt", apart, divisor), compare("gt", add(apart, divisor), _ZERO))
        return everything((forward, backward, _any([compare("ne", a.ref, b.ref), near])))
    differs = [compare("ne", p, q) for p, q in zip(x, y, strict=True) if p != q]
    return _any([*differs, compare("eq", a.ref, b.ref)])


def _arguments(expr: Expr) -> tuple[Expr, ...]:
    match expr:
        case Lookup(indices=indices):
            return indices
        case Call(args=args):
            return args
        case _:
            return ()


def _is_division(atom: Atom) -> bool:
    return isinstance(atom.expr, Call) and atom.expr.fn in ("floordiv", "mod")


# -- conditions ------------------------------------------------------------------------------------------------------


def _between(low: Expr, x: Expr, high: Expr) -> Expr:
    return everything((compare("le", low, x), compare("le", x, high)))


def _within(low: Expr, x: Expr, high: Expr) -> Expr:
    return everything((compare("le", low, x), compare("lt", x, high)))


def _not(cond: Expr) -> Expr:
    return Call("not", (cond,), BOOL)


def _any(conditions: Sequence[Expr]) -> Expr:
    total = conditions[0]
    for cond in conditions[1:]:
        total = Call("or", (total, cond), BOOL)
    return total

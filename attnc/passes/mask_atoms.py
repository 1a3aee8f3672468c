"""mask-atoms: conditions over named unknowns, so that everything else in them is affine.

Before: conditions on positions, sizes, parameters and look-ups.
After: the same conditions in which every subexpression that is not affine is a reference to an unknown integer, plus
what is known about the unknowns. The same subexpression is the same unknown in every condition of one table.

    seg[b, i] == seg[b, j] and j // w <= i // w
    ->  u0 == u1 and u2 <= u3,  i == j implies u0 == u1,  j <= i implies u2 <= u3,  0 <= j < w implies u2 == 0, ...

A condition that cannot be taken apart (an element of a bool tensor, a comparison of reals) is an unknown of 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from attnc.ir.build import compare, conj
from attnc.ir.dependence import Axes, pair_axes, union
from attnc.ir.expr import FALSE, TRUE, Call, Const, Exists, Expr, Index, Lookup, Param, Ref, Size, Value, Var, int_const
from attnc.ir.fold import fold
from attnc.ir.traverse import substitute, walk
from attnc.ir.types import BOOL, INT
from attnc.passes.mask_sets import UNROLLED, exists_values

#: Operations of all conditions of one table, with `exists` written out.
MAX_NODES = 20_000
_COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))
_AFFINE = frozenset(("add", "sub", "neg", "min", "max", "abs", "relu", "sign", "where"))


class TooLargeError(Exception):
    """More to analyse than the bound allows."""


class _ReadsVariableError(Exception):
    """An unknown that changes with the variable of an `exists`."""


@dataclass(frozen=True, slots=True)
class Atom:
    """One unknown: `expr` is what it stands for, in terms of other unknowns; `source` the text of the mask."""

    ref: Ref
    expr: Expr
    source: Expr
    axes: Axes

    @property
    def is_condition(self) -> bool:
        """Whether it is 0 or 1."""
        return self.expr.type == BOOL


class Atoms:
    """The table of unknowns of several conditions."""

    def __init__(self) -> None:
        self._by_expr: dict[Expr, Atom] = {}
        self._by_name: dict[str, Atom] = {}
        self._vars: list[Var] = []
        self._nodes = 0

    def __iter__(self) -> Iterator[Atom]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def named(self, name: str) -> Atom:
        """The unknown of a reference."""
        return self._by_name[name]

    def axes(self, expr: Expr) -> Axes:
        """The axes among i and j along which an abstracted expression varies."""
        refs = {name: atom.axes for name, atom in self._by_name.items()}
        return pair_axes(expr, refs)

    # -- conditions ----------------------------------------------------------------------------------------------

    def abstract(self, cond: Expr) -> Expr:
        """A condition over the unknowns. Raises TooLargeError."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise TooLargeError
        match cond:
            case Const():
                return cond
            case Call(fn="and" | "or" | "not" | "where" as fn, args=args):
                return Call(fn, tuple(self.abstract(arg) for arg in args), BOOL, cond.span)
            case Call(fn="eq" | "ne" as fn, args=(a, b)) if a.type == BOOL:
                return Call(fn, (self.abstract(a), self.abstract(b)), BOOL, cond.span)
            case Call(fn=fn, args=(a, b)) if fn in _COMPARISONS:
                return self._comparison(cond, fn, a, b)
            case Exists():
                return self._exists(cond)
            case _:
                return self._truth(cond, cond)

    def _comparison(self, cond: Call, fn: str, a: Expr, b: Expr) -> Expr:
        rounded = _without_reals(fn, a, b) or _without_bits(fn, a, b)
        if rounded is not None:
            return self.abstract(rounded)
        if a.type == INT and b.type == INT:
            return Call(fn, (self.integer(a), self.integer(b)), BOOL, cond.span)
        if fn in ("gt", "ge"):  # one spelling of each comparison of reals
            return self._truth(Call({"gt": "lt", "ge": "le"}[fn], (b, a), BOOL), cond)
        if fn == "ne":
            return Call("not", (self._truth(Call("eq", (a, b), BOOL), cond),), BOOL)
        return self._truth(cond, cond)

    def _truth(self, cond: Expr, source: Expr) -> Expr:
        """A condition that is only ever true or false."""
        arguments = self._indices(cond) if isinstance(cond, Lookup) else cond
        return compare("ge", self._unknown(arguments, source), int_const(1))

    def _exists(self, cond: Exists) -> Expr:
        values = exists_values(cond)
        if values is not None and len(values) <= UNROLLED:
            return self._unrolled(cond, values)
        self._vars.append(Var(cond.var))
        before = dict(self._by_expr), dict(self._by_name)
        try:
            return Exists(cond.var, self.integer(cond.low), self.integer(cond.high), self.abstract(cond.body))
        except _ReadsVariableError:
            self._by_expr, self._by_name = before
        finally:
            self._vars.pop()
        return self._unrolled(cond, values) if values is not None else self._truth(cond, cond)

    def _unrolled(self, cond: Exists, values: range) -> Expr:
        total: Expr = FALSE
        for value in values:
            part = self.abstract(fold(substitute(cond.body, {Var(cond.var): int_const(value)})))
            total = part if total == FALSE else Call("or", (total, part), BOOL)
        return total

    # -- integers ------------------------------------------------------------------------------------------------

    def integer(self, expr: Expr) -> Expr:
        """An affine integer over the unknowns."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise TooLargeError
        match expr:
            case Const() | Index() | Size() | Param() | Value() | Ref() | Var():
                return expr
            case Call(fn="where", args=(c, a, b)):
                return Call("where", (self.abstract(c), self.integer(a), self.integer(b)), INT, expr.span)
            case Call(fn=fn, args=args) if all(arg.type == INT for arg in args):
                return self._call(expr, fn, tuple(self.integer(arg) for arg in args))
            case Lookup():
                return self._unknown(self._indices(expr), expr)
            case _:  # a coordinate that stands for itself, a real rounded to an int
                return self._unknown(expr, expr)

    def _call(self, source: Call, fn: str, args: tuple[Expr, ...]) -> Expr:
        built = Call(fn, args, INT, source.span)
        if all(isinstance(arg, Const) for arg in args):
            known = fold(built)
            if not isinstance(known, Call):
                return known
        if fn in _AFFINE:
            return built
        constants = [isinstance(arg, Const) for arg in built.args]
        if fn == "mul" and any(constants):
            return built
        if fn in ("floordiv", "mod") and constants[1]:
            return built
        mask = next((int(arg.value) for arg in built.args if isinstance(arg, Const)), 0)
        if fn == "bitand" and mask > 0 and mask & (mask + 1) == 0:  # the low bits are a remainder
            value = next(arg for arg, constant in zip(built.args, constants, strict=True) if not constant)
            return Call("mod", (value, int_const(mask + 1)), INT, source.span)
        if fn == "mul":
            built = Call("mul", tuple(sorted(built.args, key=repr)), INT, source.span)
        return self._unknown(built, source)

    def _indices(self, lookup: Lookup) -> Expr:
        indices = tuple(self.integer(index) if index.type == INT else index for index in lookup.indices)
        return Lookup(lookup.tensor, indices, lookup.type, lookup.span)

    def _unknown(self, expr: Expr, source: Expr) -> Ref:
        known = self._by_expr.get(expr)
        if known is not None:
            return known.ref
        if any(node in self._vars for node in (*walk(expr), *walk(source)) if isinstance(node, Var)):
            raise _ReadsVariableError
        refs = [self._by_name[node.name].axes for node in walk(expr) if isinstance(node, Ref)]
        varies = union((pair_axes(source), *refs))
        atom = Atom(Ref(f"u{len(self._by_name)}", INT), expr, source, varies)
        self._by_expr[expr] = self._by_name[atom.ref.name] = atom
        return atom.ref


def _without_reals(fn: str, a: Expr, b: Expr) -> Expr | None:
    """A comparison of an int with a real literal, or of two ints as reals, as one of ints."""
    left, right = _whole(a), _whole(b)
    if left is not None and right is not None:
        return None if left is a and right is b else compare(fn, left, right)
    if left is None and right is not None:
        return _without_reals({"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}.get(fn, fn), b, a)
    if left is None or not isinstance(b, Const) or not math.isfinite(b.value) or abs(b.value) > 2**52:
        return None
    match fn:
        case "lt" | "ge":
            return compare(fn, left, int_const(math.ceil(b.value)))
        case "le" | "gt":
            return compare(fn, left, int_const(math.floor(b.value)))
        case _ if b.value == math.floor(b.value):
            return compare(fn, left, int_const(int(b.value)))
        case _:
            return FALSE if fn == "eq" else TRUE


def _whole(expr: Expr) -> Expr | None:
    """The int that an expression is, perhaps as a real; None for another real."""
    if expr.type == INT:
        return expr
    is_int = isinstance(expr, Call) and expr.fn == "real" and expr.args[0].type == INT
    return expr.args[0] if isinstance(expr, Call) and is_int else None


def _without_bits(fn: str, a: Expr, b: Expr) -> Expr | None:
    """A comparison of a bit length with a literal, as one of the number itself."""
    if isinstance(a, Const) and isinstance(b, Call):
        return _without_bits({"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}.get(fn, fn), b, a)
    if not (isinstance(a, Call) and a.fn == "bit_length" and isinstance(b, Const) and b.type == INT):
        return None
    bits = int(b.value) + (fn in ("le", "gt"))  # bit_length(x) < bits
    if fn in ("eq", "ne"):
        above, below = _without_bits("ge", a, b), _without_bits("le", a, b)
        if above is None or below is None:
            return None
        same = conj(above, below)
        return same if fn == "eq" else Call("not", (same,), BOOL)
    if bits > 60:
        return None
    if bits < 0:
        return _never(fn)
    size = Call("abs", a.args, INT)
    limit = int_const(2 ** (bits - 1)) if bits >= 1 else int_const(0)
    return compare("lt" if fn in ("lt", "le") else "ge", size, limit)


def _never(fn: str) -> Expr:
    return FALSE if fn in ("lt", "le") else TRUE


def everything(conditions: tuple[Expr, ...]) -> Expr:
    """All of them hold."""
    total: Expr = TRUE
    for cond in conditions:
        total = conj(total, cond)
    return total

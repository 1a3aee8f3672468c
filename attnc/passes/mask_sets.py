"""mask-sets: a mask as sets of integer pairs.

Before: the mask, a condition on positions i and j.
After: two sets of pairs, an outer and an inner bound: inner <= mask <= outer. They are equal when the mask is made of
comparisons of affine expressions, `//` and `%` by constants, min, max, abs, and, or, not. Every integer
subexpression free of i and j (a window, a length P[b]) is one symbolic parameter. A condition that is not affine (a
look-up by i or j, a product of positions) is an opaque atom: true in the outer bound, false in the inner one.

    j <= i and seg[b, i] == seg[b, j]   ->   outer { (i, j) : j <= i },  inner { }
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attnc.ir.dependence import pair_axes
from attnc.ir.expr import Call, Const, Exists, Expr, Index, Var, int_const
from attnc.ir.traverse import children, substitute, walk
from attnc.ir.types import BOOL, INT
from attnc.passes.isl import isl

#: isl gives up cleanly after this many operations: about half a second.
MAX_OPERATIONS = 200_000

_COMPARE = {"lt": "lt_set", "le": "le_set", "gt": "gt_set", "ge": "ge_set", "eq": "eq_set", "ne": "ne_set"}
_MIRROR = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}


class NotAffineError(Exception):
    """An expression that isl cannot represent."""


@dataclass(slots=True)
class Symbols:
    """Integer expressions free of i and j that stand as parameters of the sets."""

    names: dict[Expr, str] = field(default_factory=dict[Expr, str])

    def name(self, expr: Expr) -> str:
        """The parameter of an expression; the same expression always has the same one."""
        return self.names.setdefault(expr, f"p{len(self.names)}")

    def expressions(self) -> dict[str, Expr]:
        """Parameter name -> expression."""
        return {name: expr for expr, name in self.names.items()}


@dataclass(frozen=True, slots=True)
class Bounds:
    """inner <= mask <= outer, as isl sets over [i, j]."""

    outer: Any
    inner: Any

    @property
    def exact(self) -> bool:
        """Whether both bounds are the same set."""
        return self.outer is self.inner or bool(self.outer.is_equal(self.inner))


def mask_bounds(mask: Expr, context: Any, symbols: Symbols) -> Bounds:
    """Bounds of a lowered mask. Raises isl.Error past the operation limit of `context`."""
    collect_symbols(mask, symbols)
    return _Translator(context, symbols).condition(mask)


def collect_symbols(expr: Expr, symbols: Symbols) -> None:
    """Name the maximal integer subexpressions that are free of i, j and bound variables."""
    if expr.type == INT and _is_uniform(expr):
        if not isinstance(expr, Const):
            symbols.name(expr)
        return
    if expr.type == BOOL and _is_uniform(expr) and not isinstance(expr, Const):
        return
    for child in children(expr):
        collect_symbols(child, symbols)


def _is_uniform(expr: Expr) -> bool:
    return not pair_axes(expr) and not any(isinstance(node, Var) for node in walk(expr))


class _Translator:
    """Builds isl objects in the space [parameters] -> { [i, j] }."""

    def __init__(self, context: Any, symbols: Symbols) -> None:
        names = tuple(symbols.names.values())
        space = isl.Space.create_from_names(context, params=list(names), set=["i", "j"])
        self._space = space
        self._local = isl.LocalSpace.from_space(space)
        self._symbols = symbols
        self._universe = isl.Set.universe(space)
        self._nothing = isl.Set.empty(space)

    # -- conditions ----------------------------------------------------------------------------------------------

    def condition(self, expr: Expr) -> Bounds:
        match expr:
            case Const(value=value):
                return self._exactly(self._universe if value else self._nothing)
            case Call(fn="and", args=(a, b)):
                x, y = self.condition(a), self.condition(b)
                return Bounds(x.outer.intersect(y.outer), x.inner.intersect(y.inner))
            case Call(fn="or", args=(a, b)):
                x, y = self.condition(a), self.condition(b)
                return Bounds(x.outer.union(y.outer), x.inner.union(y.inner))
            case Call(fn="not", args=(a,)):
                x = self.condition(a)
                return Bounds(x.inner.complement(), x.outer.complement())
            case Call(fn="where", args=(c, a, b)):
                return self.condition(_select(c, a, b))
            case Call(fn=fn, args=(a, b)) if fn in _COMPARE:
                return self._comparison(fn, a, b)
            case Exists():
                return self._exists(expr)
            case _:
                return self._opaque()

    def _exactly(self, points: Any) -> Bounds:
        return Bounds(points, points)

    def _opaque(self) -> Bounds:
        return Bounds(self._universe, self._nothing)

    def _comparison(self, fn: str, a: Expr, b: Expr) -> Bounds:
        if a.type == BOOL:
            both = Call("or", (Call("and", (a, b), BOOL), Call("not", (Call("or", (a, b), BOOL),), BOOL)), BOOL)
            return self.condition(both if fn == "eq" else Call("not", (both,), BOOL))
        try:
            left, right = self.integer(a), self.integer(b)
        except NotAffineError:
            return self._opaque()
        return self._exactly(getattr(left, _COMPARE[fn])(right))

    def _exists(self, expr: Exists) -> Bounds:
        if not (isinstance(expr.low, Const) and isinstance(expr.high, Const)):
            return self._opaque()
        total = self._exactly(self._nothing)
        for value in range(int(expr.low.value), int(expr.high.value)):
            part = self.condition(substitute(expr.body, {Var(expr.var): int_const(value)}))
            total = Bounds(total.outer.union(part.outer), total.inner.union(part.inner))
        return Bounds(total.outer.coalesce(), total.inner.coalesce())

    # -- integers ------------------------------------------------------------------------------------------------

    def integer(self, expr: Expr) -> Any:
        """A piecewise quasi-affine function. Raises NotAffineError."""
        if isinstance(expr, Const):
            return self._constant(int(expr.value))
        if expr in self._symbols.names:
            return self._parameter(self._symbols.names[expr])
        match expr:
            case Index(name="i" | "j" as name):
                position = 0 if name == "i" else 1
                return isl.PwAff.from_aff(isl.Aff.var_on_domain(self._local, isl.dim_type.set, position))
            case Call(fn="where", args=(c, a, b)):
                return self._select(c, a, b)
            case Call(fn=fn, args=args):
                return self._arithmetic(fn, args)
            case _:
                raise NotAffineError

    def _constant(self, value: int) -> Any:
        number = isl.Val.int_from_si(self._space.get_ctx(), value)
        return isl.PwAff.from_aff(isl.Aff.val_on_domain(self._local, number))

    def _parameter(self, name: str) -> Any:
        position = self._space.find_dim_by_name(isl.dim_type.param, name)
        return isl.PwAff.from_aff(isl.Aff.var_on_domain(self._local, isl.dim_type.param, position))

    def _select(self, cond: Expr, a: Expr, b: Expr) -> Any:
        chosen = self.condition(cond)
        if not chosen.exact:
            raise NotAffineError
        then, orelse = self.integer(a), self.integer(b)
        holds = chosen.outer
        return then.intersect_domain(holds).union_add(orelse.intersect_domain(holds.complement()))

    def _arithmetic(self, fn: str, args: tuple[Expr, ...]) -> Any:
        x = self.integer(args[0])
        if len(args) == 1:
            return self._unary(fn, x)
        y = self.integer(args[1])
        match fn:
            case "add":
                return x.add(y)
            case "sub":
                return x.sub(y)
            case "min":
                return x.min(y)
            case "max":
                return x.max(y)
            case "mul" if isinstance(args[0], Const) or isinstance(args[1], Const):
                return x.mul(y)
            case "floordiv" | "mod" if isinstance(args[1], Const):
                return self._divide(fn, x, int(args[1].value))
            case _:
                raise NotAffineError

    def _unary(self, fn: str, x: Any) -> Any:
        match fn:
            case "neg":
                return x.neg()
            case "abs":
                return x.max(x.neg())
            case "relu":
                return x.max(self._constant(0))
            case _:
                raise NotAffineError

    def _divide(self, fn: str, x: Any, divisor: int) -> Any:
        value = isl.Val.int_from_si(self._space.get_ctx(), divisor)
        return x.scale_down_val(value).floor() if fn == "floordiv" else x.mod_val(value)


def _select(cond: Expr, a: Expr, b: Expr) -> Expr:
    other = Call("not", (cond,), BOOL)
    return Call("or", (Call("and", (cond, a), BOOL), Call("and", (other, b), BOOL)), BOOL)

"""mask-sets: a mask as sets of integer points.

Before: a condition on positions i and j.
After: two sets of pairs, an outer and an inner bound: inner <= mask <= outer. They are equal when the mask is made of
comparisons of affine expressions, `//` and `%` by constants, min, max, abs, sign, and, or, not, exists. Every integer
subexpression free of i and j (a window, a length P[b]) is one symbolic parameter. A condition that is not affine (a
look-up by i or j, a product of positions) is an opaque atom: true in the outer bound, false in the inner one.

    j <= i and seg[b, i] == seg[b, j]   ->   outer { (i, j) : j <= i },  inner { }

`mask_bounds` is for tiles. Proofs name what is opaque first (`mask_atoms`) and give it a dimension of its own: a
`Frame` says which expressions are the parameters and which the dimensions of a set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from attnc.ir.dependence import pair_axes
from attnc.ir.expr import Call, Const, Exists, Expr, Index, Lookup, Reduce, Var, int_const
from attnc.ir.fold import fold
from attnc.ir.traverse import children, substitute, walk
from attnc.ir.types import BOOL, INT
from attnc.passes.isl import isl

#: isl gives up cleanly after this many operations: about half a second.
MAX_OPERATIONS = 200_000

#: An `exists` of at most this many values is written out; more become a variable that is projected away.
UNROLLED = 8
#: As many values as a spec may ask for, when a variable does not do.
_MAX_VALUES = 128

_COMPARE = {"lt": "lt_set", "le": "le_set", "gt": "gt_set", "ge": "ge_set", "eq": "eq_set", "ne": "ne_set"}


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


@dataclass(frozen=True, slots=True)
class Frame:
    """A space of sets: which expressions are its parameters, and which its dimensions, in order."""

    context: Any
    params: tuple[Expr, ...]
    dims: tuple[Expr, ...]
    names: tuple[str, ...] = ()

    def param_names(self) -> tuple[str, ...]:
        """How isl calls the parameters."""
        return self.names or tuple(f"p{n}" for n in range(len(self.params)))

    def extended(self, dim: Expr) -> Frame:
        """With one more dimension, the last."""
        return Frame(self.context, self.params, (*self.dims, dim), self.names)

    def space(self) -> Any:
        """The isl space."""
        dims = [f"d{n}" for n in range(len(self.dims))]
        return isl.Space.create_from_names(self.context, params=list(self.param_names()), set=dims)


def mask_bounds(mask: Expr, context: Any, symbols: Symbols, *, conditions: bool = False) -> Bounds:
    """Bounds of a lowered mask. Raises isl.Error past the operation limit of `context`.

    With `conditions`, a condition that is free of i and j is a parameter too, `where(condition, 1, 0)`, instead of an
    opaque atom; it is 0 or 1, which the caller has to say.
    """
    collect_symbols(mask, symbols, conditions=conditions)
    frame = Frame(context, tuple(symbols.names), (Index("i"), Index("j")), tuple(symbols.names.values()))
    return Translator(frame).condition(mask)


def condition_set(condition: Expr, frame: Frame) -> Any:
    """The points of a frame at which a condition holds. Every leaf is a parameter or a dimension of the frame.

    Raises NotAffineError, and isl.Error past the operation limit.
    """
    found = Translator(frame).condition(condition)
    if not found.exact:
        raise NotAffineError
    return found.outer


def collect_symbols(expr: Expr, symbols: Symbols, *, conditions: bool = False) -> None:
    """Name the maximal integer subexpressions that are free of i, j and bound variables."""
    varying = _Varying()
    seen: set[int] = set()
    waiting = [expr]
    while waiting:  # in reading order, shared nodes once
        node = waiting.pop()
        if id(node) in seen or isinstance(node, Const):
            continue
        seen.add(id(node))
        if node.type not in (INT, BOOL) or varying.holds(node):
            waiting.extend(children(node)[::-1])
        elif node.type == INT:
            symbols.name(node)
        elif conditions:
            symbols.name(as_number(node))
        elif _is_of_call(node):
            waiting.extend(children(node)[::-1])


class _Varying:
    """Which nodes of an expression vary along i or j, or read a variable. Shared ones are looked at once."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def holds(self, expr: Expr) -> bool:
        known = self._known.get(id(expr))
        if known is None:
            below = () if isinstance(expr, Reduce) else children(expr)
            known = any(map(self.holds, below)) if below else self._at(expr)
            self._known[id(expr)] = known
        return known

    def _at(self, expr: Expr) -> bool:
        return bool(pair_axes(expr)) or any(isinstance(node, Var) for node in walk(expr))


def _is_of_call(expr: Expr) -> bool:
    """Whether a condition compares ints that are the same throughout a call: worth a case of their own."""
    same = not any(isinstance(node, Index | Lookup) for node in walk(expr))
    return same and isinstance(expr, Call) and all(arg.type in (INT, BOOL) for arg in expr.args)


def as_number(condition: Expr) -> Expr:
    """1 where a condition holds, 0 where it does not."""
    return Call("where", (condition, int_const(1), int_const(0)), INT, condition.span)


class Translator:
    """Builds isl objects in the space of a frame."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._space = frame.space()
        self._local = isl.LocalSpace.from_space(self._space)
        self._universe = isl.Set.universe(self._space)
        self._nothing = isl.Set.empty(self._space)
        self._leaves = {expr: (isl.dim_type.param, n) for n, expr in enumerate(frame.params)}
        self._leaves |= {expr: (isl.dim_type.set, n) for n, expr in enumerate(frame.dims)}
        self._has_calls = any(isinstance(expr, Call) for expr in self._leaves)  # else no need to compare large ones
        self._truths = {expr.args[0]: expr for expr in self._leaves if _is_truth(expr)}
        self._done: dict[int, tuple[Expr, Bounds]] = {}
        self._integers: dict[int, tuple[Expr, Any]] = {}

    # -- conditions ----------------------------------------------------------------------------------------------

    def condition(self, expr: Expr) -> Bounds:
        """Bounds of a condition. Shared nodes are translated once."""
        known = self._done.get(id(expr))
        if known is None:
            known = self._done[id(expr)] = (expr, self._condition(expr))
        return known[1]

    def _condition(self, expr: Expr) -> Bounds:
        match expr:
            case Const(value=value):
                return self._exactly(self._universe if value else self._nothing)
            case _ if self._truths and expr in self._truths:
                return self._exactly(self._leaf(self._truths[expr]).ge_set(self._constant(1)))
            case Call(fn="and", args=(a, b)):
                return _both(self.condition(a), self.condition(b))
            case Call(fn="or", args=(a, b)):
                return _either(self.condition(a), self.condition(b))
            case Call(fn="not", args=(a,)):
                return _not(self.condition(a))
            case Call(fn="where", args=(c, a, b)):
                chosen = self.condition(c)
                return _either(_both(chosen, self.condition(a)), _both(_not(chosen), self.condition(b)))
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
            x, y = self.condition(a), self.condition(b)
            same = _either(_both(x, y), _both(_not(x), _not(y)))
            return same if fn == "eq" else _not(same)
        try:
            left, right = self.integer(a), self.integer(b)
        except NotAffineError:
            return self._opaque()
        return self._exactly(getattr(left, _COMPARE[fn])(right))

    def _exists(self, expr: Exists) -> Bounds:
        values = exists_values(expr)
        if values is not None and len(values) <= UNROLLED:
            return self._unrolled(expr, values)
        found = self._projected(expr)
        if found is None:
            return self._unrolled(expr, values) if values is not None else self._opaque()
        return found

    def _unrolled(self, expr: Exists, values: range) -> Bounds:
        total = self._exactly(self._nothing)
        for value in values:
            part = self.condition(fold(substitute(expr.body, {Var(expr.var): int_const(value)})))
            total = Bounds(total.outer.union(part.outer), total.inner.union(part.inner))
        return Bounds(total.outer.coalesce(), total.inner.coalesce())

    def _projected(self, expr: Exists) -> Bounds | None:
        """The variable as one more dimension, projected away; None where the body is not affine in it."""
        var = Var(expr.var)
        if var in self._leaves:
            return None
        inside = Translator(self._frame.extended(var))
        try:
            above = inside.integer(var).ge_set(inside.integer(expr.low))
            below = inside.integer(var).lt_set(inside.integer(expr.high))
        except NotAffineError:
            return None
        body = inside.condition(expr.body)
        if not body.exact:
            return None
        points = body.outer.intersect(above).intersect(below)
        return self._exactly(points.project_out(isl.dim_type.set, len(self._frame.dims), 1).coalesce())

    # -- integers ------------------------------------------------------------------------------------------------

    def integer(self, expr: Expr) -> Any:
        """A piecewise quasi-affine function. Raises NotAffineError. Shared nodes are translated once."""
        known = self._integers.get(id(expr))
        if known is None:
            known = self._integers[id(expr)] = (expr, self._integer(expr))
        return known[1]

    def _integer(self, expr: Expr) -> Any:
        if isinstance(expr, Const):
            return self._constant(int(expr.value))
        if (self._has_calls or not isinstance(expr, Call)) and expr in self._leaves:
            return self._leaf(expr)
        match expr:
            case Call(fn="where", args=(c, a, b)):
                return self._select(c, a, b)
            case Call(fn=fn, args=args):
                return self._arithmetic(fn, args)
            case _:
                raise NotAffineError

    def _constant(self, value: int) -> Any:
        number = isl.Val.int_from_si(self._space.get_ctx(), value)
        return isl.PwAff.from_aff(isl.Aff.val_on_domain(self._local, number))

    def _leaf(self, expr: Expr) -> Any:
        return isl.PwAff.from_aff(isl.Aff.var_on_domain(self._local, *self._leaves[expr]))

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
            case "floordiv" | "mod" if isinstance(args[1], Const) and args[1].value >= 1:
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
            case "sign":
                return x.min(self._constant(1)).max(self._constant(-1))
            case _:
                raise NotAffineError

    def _divide(self, fn: str, x: Any, divisor: int) -> Any:
        value = isl.Val.int_from_si(self._space.get_ctx(), divisor)
        return x.scale_down_val(value).floor() if fn == "floordiv" else x.mod_val(value)


def _is_truth(expr: Expr) -> TypeGuard[Call]:
    """Whether a leaf is `as_number` of a condition."""
    return isinstance(expr, Call) and expr.fn == "where" and expr.args[1:] == (int_const(1), int_const(0))


def _both(x: Bounds, y: Bounds) -> Bounds:
    return _bounds(x, y, x.outer.intersect(y.outer), lambda: x.inner.intersect(y.inner))


def _either(x: Bounds, y: Bounds) -> Bounds:
    return _bounds(x, y, x.outer.union(y.outer), lambda: x.inner.union(y.inner))


def _not(x: Bounds) -> Bounds:
    outer = x.inner.complement()
    return Bounds(outer, outer if x.outer is x.inner else x.outer.complement())


def _bounds(x: Bounds, y: Bounds, outer: Any, inner: Callable[[], Any]) -> Bounds:
    """One set where both operands are known exactly."""
    same = x.outer is x.inner and y.outer is y.inner
    return Bounds(outer, outer if same else inner())


def exists_values(expr: Exists) -> range | None:
    """The values of the variable; None when they are not known, or more than a spec may ask for."""
    if not (isinstance(expr.low, Const) and isinstance(expr.high, Const)):
        return None
    values = range(int(expr.low.value), int(expr.high.value))
    return values if len(values) <= _MAX_VALUES else None

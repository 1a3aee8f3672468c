"""states: keys of full tiles enter sums as one matrix, where weights are inner products.

Before: a plan whose visits name every tile with a kept pair.
After: visits of what is left, and states for the rest; or the reason why not.

    a1 = sum dot1 * v, dot1 = x0 . x1; full: 0 .. (i0 + 1) // 64 - 1
    ->  a1 = x0 . (sum of x1 v over the tiles 0 .. 2 n - 1) to begin with; full: 2 n .. (i0 + 1) // 64 - 1

Why it is right. A sum over the keys of row * (f . g) * column * v is row * f . (the sum of column * g v), whichever
keys these are, as long as they are the same for all queries of the tile and all of them are kept: those of full tiles.
A run of full tiles with one end that stays where it is for all query tiles is a running sum over the keys, which
begins there. Both ends of a window move, and differences of running sums lose digits: it keeps visiting tiles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

from attnc.ir.build import add, call, div, mul, neg, sub
from attnc.ir.dependence import Axes, axes, pair_axes
from attnc.ir.evaluate import UnknownValueError, evaluate_exact
from attnc.ir.expr import Call, Const, Expr, Lookup, Ref, Value, int_const, real_const
from attnc.ir.fold import fold
from attnc.ir.plan import Accumulator, KernelPlan, Part, Piece, Run, States, StateSum, StateTerm, Visit
from attnc.ir.printer import print_expr
from attnc.ir.traverse import substitute, walk
from attnc.ir.types import BOOL, INT, REAL

LOGIT = Value("s", REAL)
_ONE = real_const(1.0)
_KEY: Axes = frozenset("j")
_PAIR: Axes = frozenset(("b", "h", "i", "j"))
#: Fewest keys of a state. One that is no smaller than what it sums takes no more memory than the keys do.
_FEWEST_KEYS = 128
#: Terms that a body may be taken apart into.
_MOST_TERMS = 16
#: Positions for which runs are compared with the features of a state, and the query tiles that are looked at.
_LONG = 1 << 16
_SAMPLES = 16


class _NoStatesError(Exception):
    """Why a plan visits tiles."""


def through_states(plan: KernelPlan, *, wanted: bool) -> KernelPlan:
    """The plan with states where they are wanted and possible; otherwise it says why they are not."""
    try:
        states, part = _states(plan)
    except _NoStatesError as error:
        return replace(plan, no_states=str(error))
    return replace(plan, states=states, parts=(part,)) if wanted else plan


def _states(plan: KernelPlan) -> tuple[States, Part]:
    if len(plan.sweeps) != 1 or len(plan.parts) != 1:
        raise _NoStatesError(f"{len(plan.sweeps)} sweeps over {len(plan.parts)} parts of the mask")
    if plan.columns or plan.scatters:
        raise _NoStatesError("sums over queries or into tables need every pair")
    sums = tuple(_sum(plan, acc) for acc in plan.sweeps[0].accumulators)
    part = plan.parts[0]
    features = max((dim_of(plan, term.dot) for found in sums for term in found.terms), default=1)
    chunk = -(-max(features, _FEWEST_KEYS) // part.tile.keys)
    runs, visits = _runs(part, chunk, features)
    return States(runs, sums, chunk), replace(part, visits=visits, first_live=False)


def dim_of(plan: KernelPlan, dot: str) -> int:
    """Features of an inner product; 1 where there is none."""
    return next((term.dim for term in plan.dots if term.name == dot), 1)


def describe_states(plan: KernelPlan) -> str:
    """What states do for a plan, in words."""
    if plan.states is None:
        return f"none, full tiles are visited: {plan.no_states or 'the call is short'}"
    sizes = sorted(_shapes(plan), reverse=True)
    shapes = " and ".join(f"{features} x {width}" for features, width in sizes)
    return f"full tiles through {shapes}, one for {plan.states.chunk * plan.parts[0].tile.keys} keys"


def state_size(plan: KernelPlan) -> int:
    """Numbers of the states of some keys, all of them together; 0 where there are none."""
    return sum(features * width for features, width in _shapes(plan))


def _shapes(plan: KernelPlan) -> list[tuple[int, int]]:
    """Features and width of each kind of state: one for each inner product and factor of keys."""
    widths: dict[tuple[str, Expr], dict[str, int]] = {}
    accumulators = {acc.name: acc for acc in plan.accumulators}
    for total in plan.states.sums if plan.states is not None else ():
        acc = accumulators[total.accumulator]
        for term in total.terms:
            of = widths.setdefault((term.dot, term.column), {})
            of[plan.values_of(acc) if acc.weighted else ""] = acc.dim if acc.weighted else 1
    return [(dim_of(plan, dot), sum(by_name.values())) for (dot, _), by_name in widths.items()]


# -- bodies ----------------------------------------------------------------------------------------------------------


def _sum(plan: KernelPlan, acc: Accumulator) -> StateSum:
    """What an accumulator takes from full tiles."""
    if acc.op != "sum":
        return StateSum(acc.name, (), _extremum(plan, acc))
    if acc.rescale is not None:
        raise _NoStatesError(f"`{print_expr(acc.body)}` is corrected as `{print_expr(acc.rescale)}` moves")
    names = {term.name: _PAIR for term in (*plan.dots, *plan.pair_dots)}
    found = _Terms({term.name for term in plan.dots}, names).of(substitute(acc.body, {LOGIT: plan.score}))
    return StateSum(acc.name, tuple(StateTerm(fold(t.row), t.dot, fold(t.column)) for t in found))


def _extremum(plan: KernelPlan, acc: Accumulator) -> Expr:
    """What an extremum is after any key: the same for all of them, or any number if only its infinity is read."""
    if not pair_axes(acc.body, {term.name: _PAIR for term in (*plan.dots, *plan.pair_dots)}) - {"i"}:
        return acc.body
    infinite = call("eq", acc.ref, real_const(float("-inf")), type=BOOL)
    read = (plan.output, *(binding.expr for binding in plan.aux))
    others = (substitute(expr, {infinite: _ONE}) for expr in read if expr is not None)
    if plan.empty == acc.ref and not any(acc.ref in walk(expr) for expr in others) and _is_finite(plan.score):
        return real_const(0.0)
    raise _NoStatesError(f"the {acc.op} of `{print_expr(acc.body)}` needs every pair")


def _is_finite(score: Expr) -> bool:
    """Whether finite vectors have a finite logit: a look-up may hold -inf, which takes a key away."""
    plain = ("add", "sub", "mul", "neg", "div", "sqrt", "real")
    nodes = tuple(walk(score))
    return not any(isinstance(x, Lookup) or (isinstance(x, Call) and x.fn not in plain) for x in nodes)


@dataclass(frozen=True, slots=True)
class _Terms:
    """Expressions of pairs as sums of products of at most one inner product."""

    dots: set[str]
    names: dict[str, Axes]

    def of(self, expr: Expr) -> tuple[StateTerm, ...]:
        """The terms of an expression."""
        found = self._split(expr)
        if len(found) > _MOST_TERMS:
            raise _NoStatesError(f"`{print_expr(expr)}` has {len(found)} terms")
        return found

    def _split(self, expr: Expr) -> tuple[StateTerm, ...]:
        side = pair_axes(expr, self.names)
        if side <= {"i"}:
            return (StateTerm(expr, "", _ONE),)
        if side == _KEY:
            return (StateTerm(_ONE, "", expr),)
        match expr:
            case Ref(name=name) if name in self.dots:
                return (StateTerm(_ONE, name, _ONE),)
            case Call(fn="add", args=(a, b)):
                return self.of(a) + self.of(b)
            case Call(fn="sub", args=(a, b)):
                return self.of(a) + _negative(self.of(b))
            case Call(fn="neg", args=(a,)):
                return _negative(self.of(a))
            case Call(fn="mul", args=(a, b)):
                return self._products(self.of(a), self.of(b), expr)
            case Call(fn="pow", args=(a, Const(value=2))):
                return self._products(self.of(a), self.of(a), expr)
            case Call(fn="div", args=(a, b)) if pair_axes(b, self.names) <= {"i"}:
                return tuple(replace(t, row=div(t.row, b)) for t in self.of(a))
            case Call(fn="div", args=(a, b)) if pair_axes(b, self.names) == _KEY:
                return tuple(replace(t, column=div(t.column, b)) for t in self.of(a))
            case _:
                raise _NoStatesError(f"`{print_expr(expr)}` is no sum of inner products times values of single tokens")

    def _products(self, left: Iterable[StateTerm], right: Iterable[StateTerm], whole: Expr) -> tuple[StateTerm, ...]:
        pairs = tuple(product(left, right))
        if any(a.dot and b.dot for a, b in pairs):
            raise _NoStatesError(f"`{print_expr(whole)}` multiplies inner products: its states would have D^2 rows")
        if len({a for a, _ in pairs}) > 1 and len({b for _, b in pairs}) > 1:
            raise _NoStatesError(f"`{print_expr(whole)}` multiplies sums, which apart may lose digits")
        return tuple(StateTerm(mul(a.row, b.row), a.dot or b.dot, mul(a.column, b.column)) for a, b in pairs)


def _negative(found: Iterable[StateTerm]) -> tuple[StateTerm, ...]:
    return tuple(replace(term, row=neg(term.row)) for term in found)


# -- tiles -----------------------------------------------------------------------------------------------------------


def _runs(part: Part, chunk: int, features: int) -> tuple[tuple[Run, ...], tuple[Visit, ...]]:
    """The runs of full tiles that states stand for, and the visits that are left."""
    if part.axes or part.listing is not None:
        raise _NoStatesError("its tiles are boxes or listed at the call")
    pieces = next((visit.pieces for visit in part.visits if visit.kind == "full"), ())
    whole = {piece: _moving_end(piece) for piece in pieces}
    long = [piece for piece, moves in whole.items() if moves and _is_long(piece, part, features)]
    if not long:
        raise _NoStatesError(_why_none(whole))
    runs: list[Run] = []
    left: list[Piece] = []
    for piece, moves in whole.items():
        if piece not in long:
            left.append(piece)
            continue
        run, rest = _cut(piece, moves, chunk)
        runs.append(run)
        left += [] if rest is None else [rest]
    visits = (replace(v, pieces=tuple(left)) if v.kind == "full" else v for v in part.visits)
    return tuple(runs), tuple(visit for visit in visits if visit.pieces)


def _moving_end(piece: Piece) -> str:
    """The end of a piece that depends on the query tile: "none", "low" or "high"; "" for pieces without states."""
    if piece.step != 1 or any(_reads_data(expr) for expr in (piece.guard, piece.low, piece.high)):
        return ""
    moving = [name for name, expr in (("low", piece.low), ("high", piece.high)) if _moves(expr)]
    return {0: "none", 1: "".join(moving)}.get(len(moving), "")


def _reads_data(expr: Expr) -> bool:
    return any(isinstance(node, Lookup) for node in walk(expr)) or bool(axes(expr) & {"b", "h", "hk"})


def _moves(expr: Expr) -> bool:
    return any(isinstance(node, Ref) for node in walk(expr))


def _is_long(piece: Piece, part: Part, features: int) -> bool:
    """Whether a piece has more keys than a state has features, as a rule: then the product with the state is less work.

    Pieces with parameters may.
    """
    total = 0
    for start in range(0, _LONG, _LONG // _SAMPLES):
        names = {"i0": start, "i1": start + part.tile.rows - 1, "N": _LONG, "M": _LONG, "q_offset": 0, "k_offset": 0}
        try:
            if evaluate_exact(piece.guard, names):
                total += max(evaluate_exact(piece.high, names) + 1 - evaluate_exact(piece.low, names), 0)
        except (UnknownValueError, ZeroDivisionError):
            return True
    return total * part.tile.keys > features * _SAMPLES


def _why_none(pieces: dict[Piece, str]) -> str:
    if not pieces:
        return "the mask leaves no tile full for certain"
    if any(pieces.values()):
        return "its runs of full tiles have fewer keys than a state has features"
    piece = next(iter(pieces))
    return f"full tiles {print_expr(piece.low)} .. {print_expr(piece.high)} have no end that stays for all queries"


def _cut(piece: Piece, moves: str, chunk: int) -> tuple[Run, Piece | None]:
    """A piece in two: whole chunks from the end that stays, and the rest."""
    if moves == "none":
        return Run(piece, "none"), None
    length = call("max", int_const(0), add(sub(piece.high, piece.low), int_const(1)), type=INT)
    size = fold(mul(int_const(chunk), call("floordiv", length, int_const(chunk), type=INT)))
    if moves == "high":
        cut = fold(add(piece.low, size))
        return Run(replace(piece, high=fold(sub(cut, int_const(1)))), "high"), replace(piece, low=cut)
    cut = fold(sub(piece.high, size))
    return Run(replace(piece, low=fold(add(cut, int_const(1)))), "low"), replace(piece, high=cut)

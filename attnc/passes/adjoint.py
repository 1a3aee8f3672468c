"""adjoint: the derivative of a lowered cascade, in the cascade's own terms: pair values, row values, accumulators.

Before: w as a function of the logit s and of finished accumulators; the output is sum_j w v.
After: what a pair passes back to s (and to whatever else of the pair w reads), given the gradient g of the output row
and of the statistics.

    w = exp(s - a0) / a1,  a1 = sum exp(s - a0)
    ->  weight  w                                        (sum_i w g is the gradient of v)
        logit   exp(s - a0) * (1 / a1 * dp + row:0)      dp = g . v
        row:0 = -(g . a2) / a1 / a1                      a2 = sum exp(s - a0) v: the forward has it

A sum over the keys of c * dp is g . sum_j c v: the backward needs no sweep of its own for it, only one more accumulator
of the forward, which often is there already. An extremum that only keeps numbers in range (a stabiliser: the result
stays the same when it moves) passes nothing back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attnc.ir.backward import Underivable
from attnc.ir.build import add, call, compare, div, mul, neg, sub, where
from attnc.ir.differentiate import NotDifferentiableError, adjoints
from attnc.ir.expr import Call, Const, Expr, Index, Lookup, Ref, Value, int_const, real_const
from attnc.ir.module import Binding
from attnc.ir.traverse import walk
from attnc.ir.types import REAL, VectorType
from attnc.passes.accumulators import LOGIT, Lowering, is_inner_product, is_row
from attnc.passes.products import Product, factors, terms
from attnc.passes.stabilisers import is_stabiliser

#: Inner product of the gradient of the output row and the value of the key.
DP = Value("dp", REAL)
#: Names of what the backward reads besides the tensors of the spec: no identifier has a colon.
GRADIENT = "d:"
ROW = "row:"
HERE = (Index("b"), Index("h"), Index("r"))


@dataclass(frozen=True, slots=True)
class Adjoint:
    """What the output and the statistics pass back.

    `rows` are named row values, each in terms of accumulators, gradients and earlier ones; `weight` is the weight of
    a pair, `pairs` what a pair passes to its logit, to inner products and to look-ups; `direct` is what a row passes
    to look-ups by itself.
    """

    rows: tuple[Binding, ...]
    weight: Expr
    pairs: tuple[tuple[Expr, Expr], ...]
    direct: tuple[tuple[Expr, Expr], ...]

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """Its expressions, for passes over expressions; `with_bindings` takes them back in this order."""
        everything = (self.weight, *(value for _, value in (*self.pairs, *self.direct)))
        return (*self.rows, *(Binding(f"{GRADIENT}{n}", expr) for n, expr in enumerate(everything)))

    def with_bindings(self, bindings: tuple[Binding, ...]) -> Adjoint:
        """The adjoint whose expressions were rewritten."""
        rows, rest = bindings[: len(self.rows)], [binding.expr for binding in bindings[len(self.rows) :]]
        pairs, direct = rest[1 : 1 + len(self.pairs)], rest[1 + len(self.pairs) :]
        return Adjoint(
            rows,
            rest[0],
            tuple((leaf, value) for (leaf, _), value in zip(self.pairs, pairs, strict=True)),
            tuple((leaf, value) for (leaf, _), value in zip(self.direct, direct, strict=True)),
        )


def gradient_of(name: str, length: int = 0) -> Lookup:
    """The gradient of a row of the output (a vector of `length`) or of a statistic."""
    return Lookup(f"{GRADIENT}{name}", HERE, VectorType(int_const(length)) if length else REAL)


def named_row(number: int) -> Lookup:
    """A row value of the backward."""
    return Lookup(f"{ROW}{number}", HERE, REAL)


def derive_adjoint(lowering: Lowering, weight: Expr, aux: tuple[Binding, ...]) -> Adjoint | Underivable:
    """Differentiate a cascade whose accumulators have been found; may find more of them."""
    before = len(lowering.found), dict(lowering.sweep_of)
    try:
        return _Deriving(lowering, weight, aux).run()
    except NotDifferentiableError as error:
        found = Underivable("this term", error.term)
    except _UnderivableError as error:
        found = error.why
    del lowering.found[before[0] :]
    lowering.sweep_of = before[1]
    return found


class _UnderivableError(Exception):
    def __init__(self, what: str, term: Expr) -> None:
        super().__init__(what)
        self.why = Underivable(what, term)


def is_source(node: Expr) -> bool:
    """Whether a value may come from something that wants a gradient."""
    if isinstance(node, Lookup):
        return node.type == REAL and not node.tensor.startswith((GRADIENT, ROW))
    return is_inner_product(node)


def _is_where(node: Expr) -> bool:
    return isinstance(node, Call) and node.fn == "where"


def _is_leaf(node: Expr) -> bool:
    return node == LOGIT or isinstance(node, Ref) or is_source(node)


class _Deriving:
    def __init__(self, lowering: Lowering, weight: Expr, aux: tuple[Binding, ...]) -> None:
        self._lowering = lowering
        self._weight = weight
        self._aux = aux
        self._gradient = gradient_of("out", lowering.value_dim)
        self._rows: list[Binding] = []
        self._passed: dict[Expr, Expr] = {}
        self._pairs: dict[Expr, Expr] = {}
        self._direct: dict[Expr, Expr] = {}

    def run(self) -> Adjoint:
        """Output and statistics first, then the accumulators from the last to the first."""
        statistics = [acc for acc in self._lowering.found if not acc.weighted]
        results = (self._weight, *(binding.expr for binding in self._aux))
        still = {acc.name for acc in statistics if is_stabiliser(acc.name, self._lowering.found, results)}
        self._pair(self._weight, DP)
        for binding in self._aux:
            self._row(binding.expr, gradient_of(binding.name))
        for acc in reversed(statistics):
            back = self._passed.pop(acc.ref, None)
            if back is None or acc.name in still or isinstance(acc.body, Const):
                continue
            if acc.op != "sum":
                raise _UnderivableError(f"a {acc.op}imum that the result depends on", acc.body)
            self._pair(acc.body, self._named(back), chosen=any(_is_where(node) for node in walk(back)))
        return Adjoint(tuple(self._rows), self._weight, tuple(self._pairs.items()), tuple(self._direct.items()))

    def _named(self, back: Expr) -> Expr:
        self._rows.append(Binding(f"{ROW}{len(self._rows)}", back))
        return named_row(len(self._rows) - 1)

    def _pair(self, expr: Expr, seed: Expr, *, chosen: bool = False) -> None:
        """What every pair passes back from a value of pairs.

        `chosen`: some rows do not use it. They pass nothing back, even where its derivative is infinite.
        """
        for leaf, derivative in adjoints(expr, seed, _is_leaf).items():
            unused = compare("eq", seed, real_const(0.0))
            value = where(unused, real_const(0.0), derivative) if chosen else derivative
            if leaf == LOGIT or not is_row(leaf):
                _add(self._pairs, leaf, value)
            elif isinstance(leaf, Ref):
                _add(self._passed, leaf, self._total(value))
            else:
                _add(self._direct, leaf, self._total(value))

    def _row(self, expr: Expr, seed: Expr) -> None:
        """What a row passes back from one of its statistics."""
        for leaf, value in adjoints(expr, seed, _is_leaf).items():
            _add(self._passed if isinstance(leaf, Ref) else self._direct, leaf, value)

    # -- sums over the keys --------------------------------------------------------------------------------------

    def _total(self, value: Expr) -> Expr:
        """The sum over the keys of a pair value that is linear in dp, as a row value."""
        known = len(self._lowering.found)
        total: Expr = real_const(0.0)
        for sign, term in terms(factored(value)):
            part = self._sum(term)
            total = add(total, part) if sign > 0 else sub(total, part)
        for acc in self._lowering.found[known:]:
            if any(isinstance(node, Lookup) and node.tensor.startswith((GRADIENT, ROW)) for node in walk(acc.body)):
                raise _UnderivableError("a sum over the keys that reads a gradient", acc.body)
        return total

    def _sum(self, term: Expr) -> Expr:
        product = factors(term)
        if DP not in product.over:
            return self._lowering.sum(term, weighted=False)
        rest = list(product.over)
        rest.remove(DP)
        vector = self._lowering.sum(Product(product.sign, tuple(rest), product.under).build(), weighted=True)
        return self._along(vector)

    def _along(self, vector: Expr) -> Expr:
        """The inner product of the gradient with a row expression over weighted accumulators."""
        match vector:
            case Call(fn="add" | "sub" as fn, args=(a, b)):
                x, y = self._along(a), self._along(b)
                return add(x, y) if fn == "add" else sub(x, y)
            case Call(fn="neg", args=(a,)):
                return neg(self._along(a))
            case Call(fn="mul", args=(a, b)):
                vectorial, scalar = (a, b) if isinstance(a.type, VectorType) else (b, a)
                return mul(self._along(vectorial), scalar)
            case Call(fn="div", args=(a, b)):
                return div(self._along(a), b)
            case Call(fn="where", args=(cond, a, b)):
                return where(cond, self._along(a), self._along(b))
            case Ref():
                return call("dot", self._gradient, vector, type=REAL)
            case Const(value=0):
                return real_const(0.0)
            case _:
                raise _UnderivableError("this sum of values", vector)


def _add(into: dict[Expr, Expr], key: Expr, value: Expr) -> None:
    into[key] = add(into[key], value) if key in into else value


def factored(value: Expr) -> Expr:
    """A value that is linear in dp as a sum of terms of which dp is a factor or no part.

    where(c, dp * x, 0) is dp * where(c, x, 0), so that what is not chosen stays unseen.
    """
    return _sum_of(_split(value, DP))


def _sum_of(parts: tuple[Expr, Expr]) -> Expr:
    with_dp, without = parts
    return add(mul(DP, with_dp), without) if with_dp != real_const(0.0) else without


def _split(value: Expr, variable: Expr) -> tuple[Expr, Expr]:
    """(a, b) with value = a * variable + b."""
    zero = real_const(0.0)
    if value == variable:
        return real_const(1.0), zero
    if not any(node == variable for node in walk(value)):
        return zero, value
    match value:
        case Call(fn="add" | "sub" as fn, args=(a, b)):
            (x, p), (y, r) = _split(a, variable), _split(b, variable)
            join: Callable[[Expr, Expr], Expr] = add if fn == "add" else sub
            return join(x, y), join(p, r)
        case Call(fn="neg", args=(a,)):
            x, p = _split(a, variable)
            return _negated(x), _negated(p)
        case Call(fn="mul", args=(a, b)):
            first, other = (a, b) if any(node == variable for node in walk(a)) else (b, a)
            x, p = _split(first, variable)
            return _scaled(x, other), _scaled(p, other)
        case Call(fn="div", args=(a, b)):
            x, p = _split(a, variable)
            return (x if x == zero else div(x, b)), (p if p == zero else div(p, b))
        case Call(fn="where", args=(cond, a, b)):
            (x, p), (y, r) = _split(a, variable), _split(b, variable)
            return _chosen(cond, x, y), _chosen(cond, p, r)
        case _:
            raise _UnderivableError("a term that is not linear in the gradient", value)


def _negated(x: Expr) -> Expr:
    return x if x == real_const(0.0) else neg(x)


def _scaled(x: Expr, factor: Expr) -> Expr:
    return x if x == real_const(0.0) else mul(x, factor)


def _chosen(cond: Expr, x: Expr, y: Expr) -> Expr:
    return x if x == y == real_const(0.0) else where(cond, x, y)

"""Row values of a backward: what is constant along the keys is computed once per row, and stored.

Before: what a pair passes back, an expression over the pair, accumulators, and gradients of the row.
After: the same over the pair and look-ups of stored row values; in each product the row's factors are one value.

    scale * (dp / a1 * exp2(s - a0) - d / a1 * exp2(s - a0))   ->   scale,  exp2(s - r0) * r1 * (dp + r2)
        r0 = a0   r1 = 1 / a1   r2 = -d                          (each 0 in a row without keys)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from attnc.ir.build import add, call, mul, where
from attnc.ir.dependence import Axes, axes, varies
from attnc.ir.expr import Call, Const, Expr, Lookup, Ref, real_const
from attnc.ir.fold import fold
from attnc.ir.plan import Accumulator, Derived
from attnc.ir.traverse import children, map_children, walk
from attnc.ir.types import BOOL, REAL, VectorType
from attnc.passes.adjoint import DP, GRADIENT, HERE, ROW, factored
from attnc.passes.products import Product, factors, sum_of, terms

#: Names of accumulators as tensors.
SAVED = "saved:"
#: The output of the forward, which is saved anyway.
OUTPUT = "out:"

#: The factors of a product that depend on the pair, above and below.
_PairFactors = tuple[tuple[Expr, ...], tuple[Expr, ...]]
#: Row factors of the terms with these factors: of those with dp, of the others.
_Group = tuple[list[Product], list[Product]]


@dataclass(slots=True)
class RowValues:
    """Collects the row values of one backward; equal ones are shared.

    `definitions` are the row values that the adjoint names and what is stored of a query, `unsaved` what stands for
    accumulators that need not be saved, `empty` the accumulator that is -inf exactly in rows without keys, `pair_names`
    the names of inner products.
    """

    accumulators: dict[str, Accumulator]
    definitions: dict[str, Expr]
    empty: Expr | None
    core: Expr | None
    pair_names: dict[str, Axes]
    found: list[Derived] = field(default_factory=list[Derived])
    saved: dict[str, None] = field(default_factory=dict[str, None])

    def is_row(self, expr: Expr) -> bool:
        """Whether a value is constant along the keys."""
        return not varies(expr, "j", self.pair_names)

    # -- pair values ---------------------------------------------------------------------------------------------

    def pair(self, value: Expr) -> tuple[Expr, Expr]:
        """(c, x) with value = c * x: c the same for all tokens, x a pair value over stored row values."""
        groups: dict[_PairFactors, _Group] = {}
        for sign, term in terms(factored(fold(value))):
            product = factors(term)
            over = list(product.over)
            with_dp = DP in over
            if with_dp:
                over.remove(DP)
            key = (self._pairwise(tuple(over)), self._pairwise(product.under))
            row = Product(sign * product.sign, self._rowwise(tuple(over)), self._rowwise(product.under))
            group = groups.setdefault(key, ([], []))
            group[0 if with_dp else 1].extend(self._expanded(row))
        constant = _common([row for group in groups.values() for rows in group for row in rows])
        total: Expr = real_const(0.0)
        for (over, under), group in groups.items():
            common = Product(1, tuple(map(self._inside, over)), tuple(map(self._inside, under))).build()
            with_dp, without = ([_without(row, constant) for row in rows] for rows in group)
            total = add(total, self._coefficient(common, with_dp, without))
        return Product(1, constant, ()).build(), total

    def _coefficient(self, common: Expr, with_dp: list[Product], without: list[Product]) -> Expr:
        """common * r * (dp + t) where that needs no new division, else common * (r * dp + t); one stored value each.

        The first is exact where both nearly cancel: r is rounded after the difference.
        """
        if not with_dp or not without:
            row = self.row(_total(with_dp or without))
            return mul(mul(common, row), DP) if with_dp else mul(common, row)
        shared = with_dp[0]
        if len(with_dp) == 1 and all(_contains(row, shared) for row in without):
            rest = _total([_divided(row, shared) for row in without])
            return mul(mul(common, self.row(shared.build())), add(DP, self.row(rest)))
        return mul(common, add(mul(self.row(_total(with_dp)), DP), self.row(_total(without))))

    def _pairwise(self, over: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(x for x in over if not self.is_row(x))

    def _rowwise(self, over: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(x for x in over if self.is_row(x))

    def _expanded(self, row: Product) -> list[Product]:
        """A row value as products of values that the backward reads, as far as sums can be multiplied out."""
        value = _rewritten(cancelled(self.defined(row.build())), self._recover)
        return [_cancelled_product(product) for product in multiplied_out(value)]

    def _inside(self, expr: Expr) -> Expr:
        """A factor of a pair: its largest parts that are constant along the keys and need the forward, stored."""
        if expr.type == REAL and self.is_row(expr):
            return self.row(expr)
        return map_children(expr, self._inside)

    # -- row values ----------------------------------------------------------------------------------------------

    def row(self, expr: Expr) -> Expr:
        """A row value, stored unless it is a matter of constants and parameters."""
        if not any(isinstance(node, Ref) or _of_backward(node) for node in walk(expr)):
            return expr
        if isinstance(expr, Lookup) and expr.tensor in {known.name for known in self.found}:
            return expr
        name = self.store(expr)
        return Lookup(name, HERE, REAL)

    def store(self, expr: Expr) -> str:
        """The name of a stored row value."""
        value = self._safe(fold(cancelled(_rewritten(cancelled(self.defined(expr)), self._recover))))
        for known in self.found:
            if known.expr == value:
                return known.name
        self.found.append(Derived(f"r{len(self.found)}", "q", "H", value))
        return self.found[-1].name

    def defined(self, expr: Expr) -> Expr:
        """With the definitions of named row values, and of the numbers that tokens of the query side store."""
        if isinstance(expr, Lookup) and expr.tensor in self.definitions:
            return self.defined(self.definitions[expr.tensor])
        return map_children(expr, self.defined)

    def _recover(self, node: Expr) -> Expr | None:
        """Accumulators as tensors; g . a is found from g . out where the output is a times a row value."""
        match node:
            case Call(fn="dot", args=(Lookup() as g, Ref() as a)) if self.core is not None:
                over, under = row_factors(self.core, a) or (None, None)
                if over is not None and under is not None:
                    assert isinstance(a.type, VectorType)
                    along = call("dot", g, Lookup(OUTPUT, HERE, a.type), type=REAL)
                    return _rewritten(cancelled(Product(1, (along, *under), over).build()), self._recover)
                return None
            case Ref(name=name):
                self.saved[name] = None
                return Lookup(f"{SAVED}{name}", HERE, node.type)
            case _:
                return None

    def _safe(self, value: Expr) -> Expr:
        """0 in a row without keys."""
        extremum = _extremum(value, self.accumulators)
        guard = self.empty if extremum is None else extremum
        if guard is None:
            return value
        saved = _rewritten(guard, self._recover)
        acc = self.accumulators[_saved_name(saved)]
        nothing = real_const(float("inf") if acc.op == "min" else float("-inf"))
        return where(call("eq", saved, nothing, type=BOOL), real_const(0.0), value)


def _total(rows: list[Product]) -> Expr:
    return sum_of(tuple((1, row.build()) for row in rows))


def _same_for_all(factor: Expr) -> bool:
    return not axes(factor)


def _common(rows: list[Product]) -> tuple[Expr, ...]:
    """Factors of every product that are the same for all tokens."""
    found = [factor for factor in rows[0].over if _same_for_all(factor)] if rows else []
    return tuple(dict.fromkeys(factor for factor in found if all(factor in row.over for row in rows)))


def _without(row: Product, gone: tuple[Expr, ...]) -> Product:
    over = list(row.over)
    for factor in gone:
        over.remove(factor)
    return Product(row.sign, tuple(over), row.under)


def _contains(row: Product, part: Product) -> bool:
    """Whether dividing by `part` leaves nothing of its factors below."""
    over = list(row.over)
    for factor in part.over:
        if factor not in over:
            return False
        over.remove(factor)
    return True


def _divided(row: Product, part: Product) -> Product:
    """row / part, where `part` is contained."""
    over, under = list(row.over), list(row.under)
    for factor in part.over:
        over.remove(factor)
    for factor in part.under:
        if factor in under:
            under.remove(factor)
        else:
            over.append(factor)
    return Product(row.sign * part.sign, tuple(over), tuple(under))


def _saved_name(saved: Expr) -> str:
    assert isinstance(saved, Lookup)
    return saved.tensor.removeprefix(SAVED)


def _extremum(value: Expr, accumulators: dict[str, Accumulator]) -> Expr | None:
    """The extremum that a row value is, if it is one."""
    if isinstance(value, Lookup) and value.tensor.startswith(SAVED):
        acc = accumulators[value.tensor.removeprefix(SAVED)]
        return acc.ref if acc.op != "sum" else None
    return None


def _of_backward(node: Expr) -> bool:
    return isinstance(node, Lookup) and node.tensor.startswith((GRADIENT, ROW, SAVED, OUTPUT))


def _rewritten(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """Top-down: what `change` returns is not looked at again."""
    found = change(expr)
    return map_children(expr, lambda child: _rewritten(child, change)) if found is None else found


def row_factors(core: Expr, vector: Ref) -> tuple[tuple[Expr, ...], tuple[Expr, ...]] | None:
    """Row values (over, under) with core = vector * over / under; None when the core is not of that form."""
    match core:
        case Ref():
            return ((), ()) if core == vector else None
        case Call(fn="mul", args=(a, b)):
            inner, factor = (a, b) if isinstance(a.type, VectorType) else (b, a)
            found = row_factors(inner, vector)
            return None if found is None else ((*found[0], factor), found[1])
        case Call(fn="div", args=(a, b)):
            found = row_factors(a, vector)
            return None if found is None else (found[0], (*found[1], b))
        case Call(fn="neg", args=(a,)):
            found = row_factors(a, vector)
            return None if found is None else ((*found[0], real_const(-1.0)), found[1])
        case _:
            return None


def cancelled(expr: Expr) -> Expr:
    """A sum of products without factors that stand both above and below."""
    if isinstance(expr.type, VectorType) or expr.type != REAL or not children(expr):
        return expr
    signed: list[tuple[int, Expr]] = []
    for sign, term in terms(expr):
        product = _cancelled_product(factors(map_children(term, cancelled)))
        signed.append((sign * product.sign, Product(1, product.over, product.under).build()))
    return sum_of(tuple(signed))


def _cancelled_product(product: Product) -> Product:
    over, under = list(product.over), list(product.under)
    for factor in product.over:
        if factor in under and not isinstance(factor, Const):
            under.remove(factor)
            over.remove(factor)
    return Product(product.sign, tuple(over), tuple(under))


def multiplied_out(expr: Expr) -> list[Product]:
    """A value as a sum of products, with factors that are sums multiplied out."""
    found: list[Product] = []
    for sign, term in terms(expr):
        product = factors(term)
        parts = [Product(sign * product.sign, (), product.under)]
        for factor in product.over:
            each = multiplied_out(factor) if len(terms(factor)) > 1 else [Product(1, (factor,), ())]
            parts = [_times(part, one) for part in parts for one in each]
        found += parts
    return found


def _times(a: Product, b: Product) -> Product:
    return Product(a.sign * b.sign, (*a.over, *b.over), (*a.under, *b.under))

"""The accumulators of a cascade: what running sums and extrema over the keys its reductions need.

`Lowering` turns reductions over the keys into row expressions over accumulators, and says in which sweep each can be
computed. The passes over cascades (`normalizer_passes`) and over their derivatives (`adjoint`) share it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnc.ir.build import add, call, div, mul, neg, sub, where
from attnc.ir.dependence import varies
from attnc.ir.expr import Call, Const, Expr, Reduce, Ref, Value, int_const, real_const
from attnc.ir.module import Binding
from attnc.ir.plan import AccOp, Accumulator, Sweep
from attnc.ir.traverse import map_children, substitute, walk
from attnc.ir.types import BOOL, INT, REAL, VectorType
from attnc.passes.errors import NotLowerable, fail
from attnc.passes.limits import Limit, limit
from attnc.passes.products import Product, factors, ratio, refs, sum_of, terms

LOGIT = Value("s", REAL)
N_KEYS = Value("n_keys", INT)
_IDENTITY: dict[str, Limit] = {"sum": "0", "max": "-inf", "min": "+inf"}


def is_row(expr: Expr) -> bool:
    """Whether a value is constant along the keys."""
    return not varies(expr, "j")


def is_inner_product(node: Expr) -> bool:
    """Whether a node is a number made of features of tokens."""
    return (isinstance(node, Call) and node.fn == "dot") or (isinstance(node, Reduce) and node.axis == "d")


@dataclass(slots=True)
class Lowering:
    """Collects accumulators; equal ones are shared. `count` is the number of keys as a closed form, if there is one."""

    value_dim: int
    score_sweep: int
    count: Expr | None = None
    found: list[Accumulator] = field(default_factory=list[Accumulator])
    sweep_of: dict[str, int] = field(default_factory=dict[str, int])

    def rows(self, expr: Expr) -> Expr:
        """`expr` with every reduction over the keys replaced by a row expression over accumulators."""
        if expr == N_KEYS:
            return call("int", self._count(expr), type=INT) if self.count is None else self.count
        if self.count is None and isinstance(expr, Call) and expr.fn == "real" and expr.args[0] == N_KEYS:
            return self._count(expr.args[0])
        if not isinstance(expr, Reduce) or expr.axis == "d":
            return map_children(expr, self.rows)
        if expr.axis == "i":
            fail(NotLowerable("a statistic over the queries, `[i]`,", expr.span, "call its op, which runs two"))
        if expr.group is not None:
            fail(NotLowerable("a reduction inside groups of keys", expr.span, "reduce over all keys, `[j]`"))
        return self._reduce(expr, self.rows(expr.body))

    def _count(self, read: Expr) -> Expr:
        """The number of keys as a real, which remembers where the text reads it."""
        found = self.accumulate("sum", real_const(1.0))
        return replace(found, span=read.span) if isinstance(found, Ref) else found

    def _reduce(self, node: Reduce, body: Expr) -> Expr:
        if node.op == "count":
            return call("int", self.sum(_indicator(body), weighted=False), type=INT)
        if node.type == INT and not isinstance(body, Const):
            fail(NotLowerable("a reduction of integers", node.span, f"reduce a real number: {node.op}[j](real(...))"))
        if node.op in ("max", "min"):
            return self._extremum(node.op, body)
        total = self.sum(body, weighted=False)
        if node.op == "sum":
            return total
        if self.count is not None:
            return div(total, call("real", call("max", self.count, int_const(1)), type=REAL))
        keys = self.accumulate("sum", real_const(1.0))
        return div(total, call("max", keys, real_const(1.0)))

    # -- extrema -------------------------------------------------------------------------------------------------

    def _extremum(self, op: AccOp, body: Expr) -> Expr:
        """max over the keys of c * x + r is c * max x + r for row values r and constants c > 0."""
        signed = terms(body)
        outside = tuple(t for t in signed if is_row(t[1]) and refs(t[1]))
        inside = tuple(t for t in signed if t not in outside)
        if outside and inside:
            return add(self._extremum(op, sum_of(inside)), sum_of(outside))
        return self.accumulate(op, body)

    # -- sums ----------------------------------------------------------------------------------------------------

    def sum(self, body: Expr, *, weighted: bool) -> Expr:
        """The sum of `body` over the keys (times the value vector), as a row expression over accumulators."""
        match body:
            case Call(fn="add" | "sub") if not refs(body):
                return self.accumulate("sum", body, weighted=weighted)
            case Call(fn="add" | "sub" as fn, args=(a, b)) if not is_row(body):
                x, y = self.sum(a, weighted=weighted), self.sum(b, weighted=weighted)
                return add(x, y) if fn == "add" else sub(x, y)
            case Call(fn="neg", args=(a,)):
                return neg(self.sum(a, weighted=weighted))
            case Call(fn="where", args=(cond, a, b)) if is_row(cond) and not is_row(body):
                return where(cond, self.sum(a, weighted=weighted), self.sum(b, weighted=weighted))
            case Call(fn="real", args=(a,)) if a.type == INT and is_row(a):
                return mul(body, self.accumulate("sum", real_const(1.0), weighted=weighted))
            case _:
                return self._sum_product(factors(body), weighted=weighted)

    def _sum_product(self, product: Product, *, weighted: bool) -> Expr:
        outside = Product(
            product.sign,
            tuple(f for f in product.over if is_row(f)),
            tuple(f for f in product.under if is_row(f)),
        )
        over = [f for f in product.over if not is_row(f)]
        under = tuple(f for f in product.under if not is_row(f))
        pulled: list[Expr] = []
        # Distributing over one sum keeps the digits; over two, (s - mean)^2 would become a difference of large numbers.
        distributes = sum(_is_sum(factor) and bool(refs(factor)) for factor in over) == 1
        for n, factor in enumerate(over):
            if distributes and _is_sum(factor) and refs(factor):
                rest = (*over[:n], *over[n + 1 :])
                parts = (Product(sign, (*rest, term), under).build() for sign, term in terms(factor))
                total: Expr = real_const(0.0)
                for part in parts:
                    total = add(total, self.sum(part, weighted=weighted))
                return _times(Product(outside.sign, (*outside.over, *pulled), outside.under), total)
            over[n], coefficient = self._pull(factor)
            pulled.append(coefficient)
        leaf = self.accumulate("sum", Product(1, tuple(over), under).build(), weighted=weighted)
        return _times(Product(outside.sign, (*outside.over, *pulled), outside.under), leaf)

    def _pull(self, factor: Expr) -> tuple[Expr, Expr]:
        """exp(x + r) = exp(x) * exp(r) for finished row values r (sums: they cannot run)."""
        if not (isinstance(factor, Call) and factor.fn == "exp"):
            return factor, real_const(1.0)
        signed = terms(factor.args[0])
        finished = tuple(t for t in signed if is_row(t[1]) and refs(t[1]) and not self._runs(refs(t[1])))
        if not finished:
            return factor, real_const(1.0)
        rest = sum_of(tuple(t for t in signed if t not in finished))
        return call("exp", rest, span=factor.span), call("exp", sum_of(finished))

    # -- accumulators --------------------------------------------------------------------------------------------

    def _runs(self, names: frozenset[str]) -> bool:
        """Whether partial results may be used and corrected later: only extrema grow without losing digits."""
        return all(acc.op != "sum" for acc in self.found if acc.name in names)

    def accumulate(self, op: AccOp, body: Expr, *, weighted: bool = False) -> Expr:
        """The accumulator of a reduction, in the first sweep that can compute it."""
        for acc in self.found:
            if (acc.op, acc.body, acc.weighted) == (op, body, weighted):
                return acc.ref
        names = refs(body)
        top = max((self.sweep_of[name] for name in names), default=0)
        if any(node == LOGIT for node in walk(body)):
            top = max(top, self.score_sweep)
        moving = frozenset(name for name in names if self.sweep_of[name] == top)
        rescale = self._rescale(op, body, moving) if moving else None
        if moving and rescale is None:
            top += 1
        acc = Accumulator(
            name=f"a{len(self.found)}",
            op=op,
            body=body,
            weighted=weighted,
            rescale=rescale,
            rescale_guard=rescale is not None and self._unsafe(rescale, moving),
            needs_mask=limit(body, {LOGIT: "-inf"}) != _IDENTITY[op],
            dim=self.value_dim if weighted else 0,
        )
        self.found.append(acc)
        self.sweep_of[acc.name] = top
        return acc.ref

    def _rescale(self, op: AccOp, body: Expr, moving: frozenset[str]) -> Expr | None:
        if op != "sum" or not self._runs(moving) or limit(body, {}) == "any":
            return None  # at some running value the body itself may not be finite: (x / m) ^ 2 while m is 0
        old: dict[Expr, Expr] = {Ref(name, REAL): Ref(f"{name}.old", REAL) for name in moving}
        return ratio(body, moving, old, is_row)

    def _unsafe(self, rescale: Expr, moving: frozenset[str]) -> bool:
        """Whether the factor is anything but 0 while the old statistics are still at their identity."""
        start: dict[Expr, Limit] = {
            Ref(f"{acc.name}.old", REAL): _IDENTITY[acc.op] for acc in self.found if acc.name in moving
        }
        return limit(rescale, start) not in ("0", "+", "-", "fin")

    def emptiness(self, output: Expr, aux: tuple[Binding, ...]) -> Expr | None:
        """A row value that is -inf exactly in empty rows; None where no guard is needed.

        A row whose logits are all -inf is empty too, if the normalizer reads logits at all.
        """
        identities: dict[Expr, Limit] = {acc.ref: _IDENTITY[acc.op] for acc in self.found}
        natural = limit(output, identities) == "0" and not self.survives(output)
        if natural and not any(extrema(b.expr, self.found) or self.survives(b.expr) for b in aux):
            return None
        return self.accumulate("max", LOGIT if self.reads_logit else real_const(0.0))

    @property
    def reads_logit(self) -> bool:
        """Whether anything that was found reads the logit."""
        return any(node == LOGIT for acc in self.found for node in walk(acc.body))

    def survives(self, expr: Expr) -> bool:
        """Whether keys with a logit of -inf leave a trace in a row value."""
        names = refs(expr)
        return self.reads_logit and any(acc.needs_mask for acc in self.found if acc.name in names)

    def of_nothing(self, expr: Expr) -> Expr:
        """A row value with every accumulator at its identity."""
        start = {"sum": 0.0, "max": float("-inf"), "min": float("inf")}
        return substitute(expr, {acc.ref: real_const(start[acc.op]) for acc in self.found})

    def sweeps(self) -> tuple[Sweep, ...]:
        """The accumulators by sweep. Weighted ones that may wait join the last sweep, which reads the values."""
        last = max(self.sweep_of.values())
        for acc in self.found:
            if acc.weighted and acc.rescale is None:
                self.sweep_of[acc.name] = last
        numbers = sorted(set(self.sweep_of.values()))
        return tuple(self._sweep(number) for number in numbers)

    def _sweep(self, number: int) -> Sweep:
        members = tuple(acc for acc in self.found if self.sweep_of[acc.name] == number)
        plain = tuple(acc for acc in members if not acc.weighted)
        waits = sorted({name for acc in members for name in refs(acc.body) if self.sweep_of[name] < number})
        why = f"needs the finished {', '.join(waits)}" if waits else "reads only the pair and running statistics"
        return Sweep(plain + tuple(acc for acc in members if acc.weighted), why)


def _indicator(cond: Expr) -> Expr:
    """1 where a condition holds, else 0; what is no condition counts every key."""
    if cond.type != BOOL or _is_true(cond):
        return real_const(1.0)
    return where(cond, real_const(1.0), real_const(0.0))


def _is_true(cond: Expr) -> bool:
    return isinstance(cond, Const) and cond.value is True


def _times(product: Product, total: Expr) -> Expr:
    result = total
    for factor in product.over:
        result = mul(factor, result) if not isinstance(result.type, VectorType) else _scale(result, factor)
    for factor in product.under:
        result = div(result, factor)
    return neg(result) if product.sign < 0 else result


def _scale(vector: Expr, factor: Expr) -> Expr:
    return vector if isinstance(factor, Const) and factor.value == 1 else call("mul", vector, factor)


def _is_sum(expr: Expr) -> bool:
    return isinstance(expr, Call) and expr.fn in ("add", "sub")


def extrema(expr: Expr, found: list[Accumulator]) -> frozenset[str]:
    """The kinds of extrema that a row value reads."""
    names = refs(expr)
    return frozenset(acc.op for acc in found if acc.name in names and acc.op != "sum")

"""normalizer-passes: from a cascade of reductions to sweeps of accumulators.

Before: the cascade of a typed module, bindings over the logit s with reductions over the keys.
After: the least number of sweeps over the keys, each a list of accumulators that a tile updates in order, and the
output and the statistics as row expressions over them.

    m = max[j](s); p = exp(s - m); w = p / sum[j](p)
    ->  sweep 0: a0 = max s;  a1 = sum exp(s - a0), rescaled by exp(a0.old - a0);
                 a2 = sum exp(s - a0) * v, rescaled likewise
        output a2 / a1

Why it is right. The output is sum_j(w v), and sums are linear: factors that do not depend on the key leave the sum
(deferred division), sums of terms are sums of sums. What is left inside a sum is a function of the pair and of row
statistics. If the statistics are running maxima of the same sweep and changing them multiplies the function by a
factor that does not depend on the pair, the sum so far can be corrected by that factor. Otherwise the statistic must
be finished, and the reduction belongs to the next sweep.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnc.ir.backward import Underivable
from attnc.ir.build import call, where
from attnc.ir.expr import Expr, Reduce, Ref, real_const
from attnc.ir.module import AttentionModule, Binding
from attnc.ir.plan import Sweep
from attnc.ir.traverse import children, map_children, walk
from attnc.ir.types import BOOL
from attnc.passes.accumulators import LOGIT, N_KEYS, Lowering, extrema, is_row
from attnc.passes.adjoint import Adjoint, derive_adjoint
from attnc.passes.errors import NotLowerable, TooLarge, fail
from attnc.passes.key_counts import count_keys

__all__ = ["LOGIT", "Cascade", "inlined", "is_empty", "lower_cascade"]

_MAX_NODES = 4000


@dataclass(frozen=True, slots=True)
class Cascade:
    """The lowered cascade. `empty` is the accumulator that is -inf exactly in rows without keys, where it matters.

    `score` and `maps` are the logit and the output maps with n_keys replaced by its closed form or its accumulator;
    `output` reads weighted accumulators (vectors); `aux` are row values.
    """

    score: Expr
    maps: Expr
    sweeps: tuple[Sweep, ...]
    output: Expr
    aux: tuple[Binding, ...]
    empty: Expr | None
    adjoint: Adjoint | Underivable | None = None


def lower_cascade(module: AttentionModule, score: Expr, value_dim: int, *, gradients: bool = False) -> Cascade:
    """Lower the cascade of a bound module whose logit is `score`. Raises SpecError for what has no kernel yet.

    With `gradients` the sweeps also accumulate what the backward needs, and the result has an `adjoint`.
    """
    count = count_keys(module.mask) if _reads_count(module, score) else None
    counts_first = count is None and any(node == N_KEYS for node in walk(score))
    lowering = Lowering(value_dim, score_sweep=1 if counts_first else 0, count=count)
    score, maps = lowering.rows(score), lowering.rows(module.output)
    bindings = {binding.name: binding.expr for binding in module.cascade}
    weight = lowering.rows(inlined(bindings["w"], bindings))
    output = lowering.sum(weight, weighted=True)
    aux = tuple(replace(b, expr=lowering.rows(inlined(b.expr, bindings))) for b in module.aux)
    for binding in aux:
        if not is_row(binding.expr):
            fail(NotLowerable(f"statistic `{binding.name}` of a single key", binding.span, "reduce it over the keys"))
    empty = lowering.emptiness(output, aux)
    adjoint = derive_adjoint(lowering, weight, aux) if gradients else None
    sweeps = lowering.sweeps()
    aux = tuple(replace(b, expr=_guard_aux(b.expr, lowering, empty)) for b in aux)
    return Cascade(score, maps, sweeps, output, aux, empty, adjoint)


def _reads_count(module: AttentionModule, score: Expr) -> bool:
    exprs = (score, module.output, *(binding.expr for binding in (*module.cascade, *module.aux)))
    return any(_counts(node) for expr in exprs for node in walk(expr))


def _counts(node: Expr) -> bool:
    return node == N_KEYS or (isinstance(node, Reduce) and (node.op, node.axis, node.group) == ("mean", "j", None))


def inlined(expr: Expr, bindings: dict[str, Expr]) -> Expr:
    """The expression with every cascade binding replaced by its definition."""
    done: dict[str, Expr] = {}
    sizes: dict[str, int] = {}

    def size(node: Expr) -> int:
        if isinstance(node, Ref):
            resolve(node)
            return sizes[node.name]
        return 1 + sum(size(child) for child in children(node))

    def resolve(node: Ref) -> Expr:
        if node.name not in done:
            sizes[node.name] = size(bindings[node.name])
            if sizes[node.name] > _MAX_NODES:
                fail(TooLarge(f"the definition of `{node.name}`", _MAX_NODES, node.span))
            done[node.name] = visit(bindings[node.name])
        return done[node.name]

    def visit(node: Expr) -> Expr:
        return resolve(node) if isinstance(node, Ref) else map_children(node, visit)

    return visit(expr)


def _guard_aux(expr: Expr, lowering: Lowering, empty: Expr | None) -> Expr:
    """A statistic that reads a maximum is -inf in an empty row, one that reads a minimum +inf, others as of no keys."""
    kinds = extrema(expr, lowering.found)
    if empty is None or not (kinds or lowering.survives(expr)):
        return expr
    value = real_const(float("-inf") if "max" in kinds else float("inf")) if kinds else lowering.of_nothing(expr)
    return where(is_empty(empty), value, expr)


def is_empty(largest: Expr) -> Expr:
    """Condition: no key of the row has a logit above -inf."""
    return call("eq", largest, real_const(float("-inf")), type=BOOL)

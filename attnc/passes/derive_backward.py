"""derive-backward: from the adjoint of a cascade to plans.

Before: what a pair passes to its logit, and what the forward can leave.
After: the chain rule through the logit; a plan that sweeps over the keys of each query (gradients of queries), one
that sweeps over the queries of each key (gradients of keys and values), row values that both read, and where every
result goes.

    s = scale * dot0, w = exp(s - a0) / a1
    query  g0 = sum_j w (dp - delta) scale * k_j        -> q
    keys   g1 = sum_i w (dp - delta) scale * q_i        -> k
           g2 = sum_i w * g_i                           -> v

The mask of the second plan is that of the first with queries and keys exchanged, so its tiles are found by the same
analysis, not by searching those of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from attnc.ir.backward import BackwardPlan, LookupGradient, Source, TokenGradient, Underivable
from attnc.ir.build import add, mul, where
from attnc.ir.dependence import pair_axes
from attnc.ir.differentiate import NotDifferentiableError, adjoints
from attnc.ir.expr import Expr, Index, Lookup, Ref, Size, SizeName, Value, int_const, real_const
from attnc.ir.fold import fold
from attnc.ir.module import AttentionModule, Binding, TensorParam
from attnc.ir.plan import Accumulator, DotTerm, KernelPlan, Part, PlanOptions, Scatter, Sweep
from attnc.ir.traverse import map_children, substitute, walk
from attnc.ir.types import REAL, VectorType
from attnc.ir.verify import verify_plan
from attnc.passes.accumulators import LOGIT
from attnc.passes.adjoint import DP, GRADIENT, Adjoint, is_source
from attnc.passes.lowered import Lowered
from attnc.passes.normalizer_passes import is_empty
from attnc.passes.positions import Positions
from attnc.passes.row_values import OUTPUT, SAVED, RowValues
from attnc.passes.states import through_states
from attnc.passes.transpose import transposed, transposed_module, transposed_tensor

#: Values as passed, where they stand on the side of the rows.
VALUES = "v:"
#: Makes the parts of a mask of a module.
MakeParts = Callable[[AttentionModule, Expr, Positions, PlanOptions], tuple[Part, ...]]

#: A number that is the same for all tokens, and the pair value that it multiplies.
Scaled = tuple[Expr, Expr]

_DS = Value("ds", REAL)
_GRADIENT_OUT = f"{GRADIENT}out"


def statistics_of(lowered: Lowered) -> tuple[Binding, ...]:
    """The statistics, without the backward's expressions that rode along."""
    return lowered.folded.aux[: len(lowered.cascade.aux)]


def adjoint_of(lowered: Lowered, adjoint: Adjoint) -> Adjoint:
    """The adjoint in the units of the sweeps."""
    return adjoint.with_bindings(lowered.folded.aux[len(lowered.cascade.aux) :])


def saved_by(lowered: Lowered) -> tuple[str, ...]:
    """Accumulators that the forward has to leave."""
    adjoint = lowered.cascade.adjoint
    if not isinstance(adjoint, Adjoint):
        return ()
    found = _Derivation(lowered, adjoint_of(lowered, adjoint)).run()
    return () if isinstance(found, Underivable) else tuple(found.values.saved)


def derive_backward(
    lowered: Lowered, adjoint: Adjoint, options: PlanOptions, make_parts: MakeParts
) -> BackwardPlan | Underivable:
    """The backward of a lowered module, or the term that has none."""
    derivation = _Derivation(lowered, adjoint_of(lowered, adjoint)).run()
    if isinstance(derivation, Underivable):
        return derivation
    plan = _Plans(derivation, options, make_parts).build()
    for part in (plan.query, plan.keys, plan.joint):
        if part is not None:
            verify_plan(part)
    return plan


class _Derivation:
    """The chain rule through the logit, in stored row values."""

    def __init__(self, lowered: Lowered, adjoint: Adjoint) -> None:
        self.lowered = lowered
        self.adjoint = adjoint
        accumulators = {acc.name: acc for sweep in lowered.sweeps for acc in sweep.accumulators}
        plain = isinstance(lowered.cascade.maps, Value)
        core = lowered.folded.output if plain else None
        stored = [token for token in lowered.operands.derived if token.side == "q" and token.expr.type == REAL]
        definitions = {token.name: token.expr for token in stored} | {row.name: row.expr for row in adjoint.rows}
        self.values = RowValues(accumulators, definitions, lowered.folded.empty, core, lowered.operands.ref_axes())
        self.core = None
        if not plain:
            self.core = self.values.defined(_unless_empty(lowered.folded.output, lowered.folded.empty))
        self.pairs: dict[Expr, Scaled] = {}
        self.direct: list[tuple[Lookup, str]] = []
        self.weight: Scaled = (real_const(1.0), adjoint.weight)
        self.score = lowered.scaled

    def run(self) -> _Derivation | Underivable:
        """Everything in stored row values; or the term that has no derivative."""
        if self.lowered.operands.pair_dots:
            term = self.lowered.operands.pair_dots[0].left
            return Underivable("an inner product of vectors that depend on both positions", term)
        passed: dict[Expr, Expr] = {}
        for leaf, value in self.adjoint.pairs:
            if leaf != LOGIT:
                _add(passed, self.lowered.operands.lower(leaf), value)
        back = next((value for leaf, value in self.adjoint.pairs if leaf == LOGIT), None)
        if back is not None:
            try:
                through = adjoints(self.lowered.score, _DS, _is_leaf)
            except NotDifferentiableError as error:
                return Underivable("this term of the score", error.term)
            for leaf, value in through.items():
                _add(passed, leaf, substitute(value, {_DS: back}))
        self.pairs = {leaf: self._split(value) for leaf, value in passed.items()}
        self.weight = self._split(self.adjoint.weight)
        self.score = self._stored(self.lowered.scaled)
        for leaf, value in self.adjoint.direct:
            target = self.lowered.operands.lower(leaf)
            assert isinstance(target, Lookup)
            self.direct.append((target, self.values.store(value)))
        self._save_core()
        return self

    def _split(self, value: Expr) -> Scaled:
        constant, rest = self.values.pair(value)
        return fold(constant), fold(rest)

    def _stored(self, expr: Expr) -> Expr:
        """A score over stored row values where it reads accumulators (the number of keys)."""
        if expr.type == REAL and self.values.is_row(expr) and any(isinstance(node, Ref) for node in walk(expr)):
            return self.values.row(expr)
        return map_children(expr, self._stored)

    def _save_core(self) -> None:
        """The row before the output maps is computed again from accumulators."""
        for expr in (self.core, None if self.core is None else self.lowered.cascade.maps):
            for node in walk(expr) if expr is not None else ():
                if isinstance(node, Ref):
                    self.values.saved[node.name] = None


def _unless_empty(row: Expr, empty: Expr | None) -> Expr:
    return row if empty is None else where(is_empty(empty), real_const(0.0), row)


def _is_leaf(node: Expr) -> bool:
    return (isinstance(node, Ref) and node.name.startswith("dot")) or is_source(node)


def _add(into: dict[Expr, Expr], key: Expr, value: Expr) -> None:
    into[key] = add(into[key], value) if key in into else value


@dataclass(slots=True)
class _Results:
    """Accumulators of one side, and where they go."""

    source: Source
    accumulators: list[Accumulator]
    tokens: list[TokenGradient]
    lookups: list[LookupGradient]
    scatters: list[Scatter]

    def token(self, token: str, value: Scaled, by: str, dim: int) -> None:
        """A vector per token: the sum of what its pairs pass back, times the vectors of the other side."""
        name = f"g{len(self.accumulators)}"
        self.accumulators.append(Accumulator(name, "sum", value[1], weighted=True, needs_mask=True, dim=dim, by=by))
        self.tokens.append(TokenGradient(token, self.source, name, value[0]))

    def number(self, target: Lookup, value: Scaled) -> None:
        """A number per token."""
        name = f"g{len(self.accumulators)}"
        self.accumulators.append(Accumulator(name, "sum", value[1], needs_mask=True))
        self.lookups.append(LookupGradient(target, self.source, name, value[0]))


class _Plans:
    def __init__(self, derivation: _Derivation, options: PlanOptions, make_parts: MakeParts) -> None:
        self._of = derivation
        self._lowered = derivation.lowered
        self._options = options
        self._make_parts = make_parts
        name = f"dot{len(self._lowered.operands.dots)}"
        self._dp = DotTerm(name, _GRADIENT_OUT, self._lowered.values, options.value_dim)
        self._module = replace(self._lowered.module, tensors=(*self._lowered.module.tensors, *self._given()))

    def build(self) -> BackwardPlan:
        """Both plans, and the row values that they read."""
        of = self._of
        query, keys = self._results("query"), self._results("keys")
        rows = [LookupGradient(target, "rows", name, real_const(1.0)) for target, name in of.direct]
        return BackwardPlan(
            saved=tuple(of.values.saved),
            rows=self._through(self._rows()),
            query=self._through(self._plan_of_queries(query)) if query.accumulators or query.scatters else None,
            keys=self._through(self._plan_of_keys(keys)),
            joint=self._through(self._joint_plan(query, keys)),
            tokens=(*query.tokens, *keys.tokens),
            lookups=(*rows, *query.lookups, *keys.lookups),
            core=of.core,
            maps=self._lowered.cascade.maps,
        )

    def _through(self, plan: KernelPlan) -> KernelPlan:
        return through_states(plan, wanted=self._options.states)

    # -- tensors ------------------------------------------------------------------------------------------------

    def _given(self) -> tuple[TensorParam, ...]:
        """What the backward is given: gradients, what the forward left, its output."""
        dv = int_const(self._options.value_dim)
        accumulators = self._of.values.accumulators
        names = [(_GRADIENT_OUT, True), (OUTPUT, True)]
        names += [(f"{GRADIENT}{binding.name}", False) for binding in self._lowered.cascade.aux]
        names += [(f"{SAVED}{name}", accumulators[name].weighted) for name in self._of.values.saved]
        return tuple(_tensor(name, "H", "N", (dv,) if vector else ()) for name, vector in names)

    def _stored_tensors(self, *, per_query_head: bool = False) -> tuple[TensorParam, ...]:
        """What `rows` stores, as tensors that the sweeps read; vectors once per query head where that is asked."""
        found: list[TensorParam] = []
        for derived in (*self._lowered.operands.derived, *self._of.values.found):
            kind = derived.expr.type
            dims = (kind.dim,) if isinstance(kind, VectorType) else ()
            heads = "H" if dims and per_query_head else derived.heads
            found.append(_tensor(derived.name, heads, "N" if derived.side == "q" else "M", dims))
        return tuple(found)

    # -- results ------------------------------------------------------------------------------------------------

    def _results(self, source: Source) -> _Results:
        """The sums of one side: what pairs pass to vectors and numbers of queries, or of keys."""
        results = _Results(source, [], [], [], [])
        if source == "keys":
            factor, weight = self._of.weight
            results.token(self._lowered.values, (factor, weight), _GRADIENT_OUT, self._options.value_dim)
        own = {"query": (frozenset[str](), frozenset("i")), "keys": (frozenset("j"),)}[source]
        for leaf, value in self._of.pairs.items():
            if isinstance(leaf, Ref):
                term = next(dot for dot in self._lowered.operands.dots if dot.name == leaf.name)
                here, there = (term.left, term.right) if source == "query" else (term.right, term.left)
                results.token(here, value, there, term.dim)
            elif isinstance(leaf, Lookup) and pair_axes(leaf) in own:
                results.number(leaf, value)
            elif isinstance(leaf, Lookup) and source == "query" and len(pair_axes(leaf)) == 2:
                results.scatters.append(Scatter(f"t{len(results.scatters)}", leaf, mul(*value)))
        return results

    # -- plans --------------------------------------------------------------------------------------------------

    def _rows(self) -> KernelPlan:
        """Stored tokens and row values; no sweep."""
        derived = (*self._lowered.operands.derived, *self._of.values.found)
        return replace(self._bare(self._module), derived=derived)

    def _plan_of_queries(self, results: _Results) -> KernelPlan:
        module = replace(self._module, tensors=(*self._module.tensors, *self._stored_tensors()))
        parts = self._make_parts(self._lowered.module, self._lowered.rows.mask, self._lowered.positions, self._options)
        return replace(
            self._bare(module),
            parts=parts,
            dots=(*self._lowered.operands.dots, self._dp),
            sweeps=(Sweep(self._with_dp(results), "gradients of queries"),),
            score=self._of.score,
            mask=self._lowered.rows.mask,
            scatters=tuple(replace(s, body=self._dp_in(s.body)) for s in results.scatters),
        )

    def _joint_plan(self, query: _Results, keys: _Results) -> KernelPlan:
        """The sweep over keys, which sums over queries on the way."""
        derived = {d.name: d.heads for d in self._lowered.operands.derived}
        per_head = any(derived.get(token.token) == "H" for token in keys.tokens)
        per_head |= any(_reads_heads(lookup.target) for lookup in keys.lookups)
        plan = self._plan_of_queries(query)
        columns = tuple(replace(acc, name=f"c{n}") for n, acc in enumerate(self._with_dp(keys)))
        sweep = replace(plan.sweeps[0], columns=columns, why="gradients of queries, keys and values")
        return replace(plan, sweeps=(sweep,), columns_per_head=per_head)

    def _with_dp(self, results: _Results) -> tuple[Accumulator, ...]:
        return tuple(replace(acc, body=self._dp_in(acc.body)) for acc in results.accumulators)

    def _dp_in(self, expr: Expr) -> Expr:
        return substitute(expr, {DP: Ref(self._dp.name, REAL)})

    def _plan_of_keys(self, results: _Results) -> KernelPlan:
        """The plan whose rows are keys."""
        lowered = self._lowered
        mask_module = transposed_module(lowered.module)
        positions = replace(lowered.positions, module=mask_module)
        options = self._options
        mask = transposed(lowered.rows.mask)
        values = _tensor(VALUES, "H", "M", (int_const(options.value_dim),))
        tensors = (*self._module.tensors, *self._stored_tensors(per_query_head=True), values)
        module = replace(mask_module, tensors=tuple(map(transposed_tensor, tensors)))
        exchanged = {"q": "k", "k": "q", "v": VALUES}
        accumulators = tuple(
            replace(
                acc,
                body=fold(transposed(acc.body)),
                by=exchanged.get(acc.by, acc.by) if acc.weighted else "",
            )
            for acc in self._with_dp(results)
        )
        dots = tuple(
            replace(dot, left=exchanged.get(dot.right, dot.right), right=exchanged.get(dot.left, dot.left))
            for dot in (*lowered.operands.dots, self._dp)
        )
        return replace(
            self._bare(module),
            parts=self._make_parts(mask_module, mask, positions, options),
            dots=dots,
            sweeps=(Sweep(accumulators, "gradients of keys and values"),),
            score=fold(transposed(self._of.score)),
            mask=mask,
            values=_GRADIENT_OUT,
        )

    def _bare(self, module: AttentionModule) -> KernelPlan:
        """A plan without output, and without work so far."""
        lowered, options = self._lowered, self._options
        return KernelPlan(
            module=module,
            head_dim=options.head_dim,
            value_dim=options.value_dim,
            itemsize=options.itemsize,
            parts=(),
            derived=(),
            dots=(),
            pair_dots=(),
            values=lowered.values,
            score=lowered.scaled,
            mask=lowered.rows.mask,
            log2_score=lowered.folded.log2_score,
            sweeps=(),
            empty=None,
            output=None,
            aux=(),
            facts=(),
        )


def _tensor(name: str, heads: SizeName, tokens: SizeName, dims: tuple[Expr, ...]) -> TensorParam:
    single = not dims or name.startswith(SAVED)
    return TensorParam(name, REAL, (Size("B"), Size(heads), Size(tokens), *dims), single=single)


def _reads_heads(target: Lookup) -> bool:
    return any(isinstance(node, Index) and node.name in ("h", "hk") for node in walk(target))

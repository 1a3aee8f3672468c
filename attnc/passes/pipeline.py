"""The order of the passes, stated once.

positions           look-ups by stored row, D and Dv as numbers           (everything below reads rows)
normalizer-passes   the cascade as sweeps of accumulators                 (before operands: it needs to see what
                                                                           an inner product depends on)
exp2                powers of two, the logit in units of log 2            (after the rescale factors exist)
operands            inner products by name, token maps stored             (last: it only names things)
tiling, block-sparsity  tile size, visits                                 (independent of the above)
tile-maps           boxes and classes instead, where they visit less      (asks for the visits of ranges to compare)
work-order          lists of what depends on data, long tiles first       (looks at the chosen parts)
states              sums over full tiles as products                      (looks at sweeps and visits)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from attnc.ir.backward import BackwardPlan, Underivable
from attnc.ir.build import where
from attnc.ir.expr import Expr, Value, int_const, real_const
from attnc.ir.fold import fold
from attnc.ir.module import AttentionModule, Binding
from attnc.ir.plan import Accumulator, KernelPlan, Part, PlanOptions, Sweep
from attnc.ir.traverse import substitute
from attnc.ir.types import VectorType
from attnc.ir.verify import verify_module, verify_plan, verify_sweeps
from attnc.passes.adjoint import Adjoint
from attnc.passes.block_sparsity import BlockSparsity
from attnc.passes.derive_backward import derive_backward, saved_by, statistics_of
from attnc.passes.errors import NotLowerable, fail
from attnc.passes.exp2 import LOG2E, Folded, fold_exp2, scale_by
from attnc.passes.lowered import Lowered
from attnc.passes.normalizer_passes import Cascade, is_empty, lower_cascade
from attnc.passes.operands import Operands
from attnc.passes.positions import Positions
from attnc.passes.states import through_states
from attnc.passes.tile_maps import choose_parts
from attnc.passes.tiling import choose_backward_tile, choose_tile
from attnc.passes.work_order import list_what_depends, ordered

__all__ = ["AfterPass", "PlanOptions", "make_backward", "make_plan"]

#: Called after every pass with its name and a printable result.
AfterPass = Callable[[str, object], None]


def ignore(name: str, result: object) -> None:
    """What looks at no pass."""
    del name, result


def make_plan(module: AttentionModule, options: PlanOptions, after_pass: AfterPass = ignore) -> KernelPlan:
    """Plan a bound module. Raises SpecError for what has a meaning but no kernel."""
    lowered = lower_module(module, options, after_pass)
    parts = make_parts(module, lowered.rows.mask, lowered.positions, options, after_pass)
    plan = through_states(forward_plan(lowered, options, parts), wanted=options.states)
    verify_plan(plan)
    after_pass("plan", plan)
    return plan


def make_backward(module: AttentionModule, options: PlanOptions) -> BackwardPlan | Underivable:
    """The derived backward of a bound module, or why there is none. Raises SpecError as `make_plan` does."""
    lowered = lower_module(module, replace(options, training=True))
    adjoint = lowered.cascade.adjoint
    assert adjoint is not None
    if isinstance(adjoint, Underivable):
        return adjoint
    tile = options.tile or choose_backward_tile(options.head_dim, options.value_dim, itemsize=options.itemsize)
    return derive_backward(lowered, adjoint, replace(options, tile=tile), make_parts)


def lower_module(module: AttentionModule, options: PlanOptions, after_pass: AfterPass = ignore) -> Lowered:
    """A module over stored rows, as sweeps of accumulators over named operands."""
    verify_module(module)
    positions = Positions(module, options.head_dim, options.value_dim, options.aligned)
    rows = _lower_positions(module, positions)
    _check_lengths(rows, options.value_dim)
    after_pass("positions", rows)
    cascade, folded = _lower_normalizer(rows, options, after_pass)
    operands = Operands()
    scaled = scale_by(LOG2E, cascade.score) if folded.log2_score else cascade.score
    scaled = operands.lower(fold(scaled))
    sweeps = tuple(_name_sweep(sweep, operands) for sweep in folded.sweeps)
    folded = replace(
        folded,
        output=operands.lower_rows(folded.output),
        aux=tuple(replace(binding, expr=operands.lower_rows(binding.expr)) for binding in folded.aux),
    )
    values = operands.value(rows.value)
    score = operands.lower(fold(cascade.score))
    after_pass("operands", operands)
    return Lowered(module, positions, rows, cascade, folded, operands, score, scaled, sweeps, values)


def forward_plan(lowered: Lowered, options: PlanOptions, parts: tuple[Part, ...]) -> KernelPlan:
    """The plan of the forward over some tiles."""
    folded, operands = lowered.folded, lowered.operands
    output = _output(replace(lowered.cascade, output=folded.output), options.value_dim)
    return KernelPlan(
        module=lowered.module,
        head_dim=options.head_dim,
        value_dim=options.value_dim,
        itemsize=options.itemsize,
        parts=parts,
        derived=tuple(operands.derived),
        dots=tuple(operands.dots),
        pair_dots=tuple(operands.pair_dots),
        values=lowered.values,
        score=lowered.scaled,
        mask=lowered.rows.mask,
        log2_score=folded.log2_score,
        sweeps=lowered.sweeps,
        empty=folded.empty,
        output=fold(output),
        aux=tuple(replace(binding, expr=fold(binding.expr)) for binding in statistics_of(lowered)),
        facts=_facts(parts),
        saves=saved_by(lowered) if options.training else (),
    )


def _lower_normalizer(module: AttentionModule, options: PlanOptions, after_pass: AfterPass) -> tuple[Cascade, Folded]:
    """The cascade as sweeps, then with its exponentials in base 2; the backward's expressions ride along."""
    cascade = lower_cascade(module, module.score, options.value_dim, gradients=options.training)
    verify_sweeps(cascade.sweeps, (cascade.output, *(binding.expr for binding in cascade.aux)))
    after_pass("normalizer-passes", cascade)
    adjoint = cascade.adjoint.bindings if isinstance(cascade.adjoint, Adjoint) else ()
    folded = fold_exp2(cascade.sweeps, cascade.output, (*cascade.aux, *adjoint), cascade.empty)
    verify_sweeps(folded.sweeps, (folded.output, *(binding.expr for binding in folded.aux)))
    after_pass("exp2", folded)
    return cascade, folded


def _lower_positions(module: AttentionModule, positions: Positions) -> AttentionModule:
    def binding(item: Binding) -> Binding:
        return replace(item, expr=positions.lower(item.expr))

    return replace(
        module,
        mask=positions.lower(module.mask),
        score=positions.lower(module.score),
        cascade=tuple(map(binding, module.cascade)),
        value=positions.lower(module.value),
        output=positions.lower(module.output),
        aux=tuple(map(binding, module.aux)),
    )


def _check_lengths(module: AttentionModule, value_dim: int) -> None:
    """Maps of v and of the output keep the length Dv: the shape of the result is part of the interface."""
    for what, expr in (("a map of v", module.value), ("an output", module.output)):
        if isinstance(expr.type, VectorType) and expr.type.dim != int_const(value_dim):
            fail(NotLowerable(f"{what} of another length than v", expr.span, "keep the length at Dv"))


def _name_sweep(sweep: Sweep, operands: Operands) -> Sweep:
    def accumulator(acc: Accumulator) -> Accumulator:
        rescale = None if acc.rescale is None else fold(operands.lower(acc.rescale))
        return replace(acc, body=operands.lower(fold(acc.body)), rescale=rescale)

    return replace(sweep, accumulators=tuple(map(accumulator, sweep.accumulators)))


def _output(cascade: Cascade, value_dim: int) -> Expr:
    """The output maps applied to the row's weighted sum, which is 0 in a row without keys."""
    row = cascade.output
    if cascade.empty is not None:
        row = where(is_empty(cascade.empty), real_const(0.0), row)
    return substitute(cascade.maps, {Value("o", VectorType(int_const(value_dim))): row})


def make_parts(
    module: AttentionModule, mask: Expr, positions: Positions, options: PlanOptions, after_pass: AfterPass = ignore
) -> tuple[Part, ...]:
    """The tiles of a lowered mask of a module."""
    tile = options.tile or choose_tile(options.head_dim, options.value_dim, itemsize=options.itemsize)

    @cache
    def ranges() -> Part:
        found = BlockSparsity().run(mask, tile)
        after_pass("block-sparsity", found)
        return found

    if options.aligned:
        parts = choose_parts(module, positions, tile, ranges)
        after_pass("tile-maps", parts)
    else:
        parts = (ranges(),)
    parts = tuple(list_what_depends(part, mask, options) for part in parts)
    parts = tuple(map(ordered, parts))
    after_pass("work-order", parts)
    return parts


def _facts(parts: tuple[Part, ...]) -> tuple[str, ...]:
    kinds = [" and ".join(visit.kind for visit in part.visits) or "no" for part in parts]
    return tuple(f"{kind} tiles: {part.why}" for kind, part in zip(kinds, parts, strict=True))

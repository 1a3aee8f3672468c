"""Calls that are differentiated: a forward that leaves what its backward reads, and the derived backward.

Where a spec has no derived backward, torch's own differentiation of the torch back end takes its place, with a
warning that names the term if the call runs elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from attnc.codegen.launch import CallInputs
from attnc.codegen.states import state_key
from attnc.diagnostics import warn_user
from attnc.executor import Backend, Executor
from attnc.gradients import Backward, Seeds
from attnc.ir.backward import BackwardPlan, Source, Underivable
from attnc.ir.plan import KernelPlan, PlanOptions, Sweep
from attnc.ir.printer import print_expr
from attnc.ir.types import VectorType
from attnc.torch_tokens import compute_dtype, derived_tokens

#: Back ends whose forward leaves what a derived backward reads.
_DERIVED = ("torch", "interpret", "triton")
#: Chooses what of a plan to run.
_PartOf = Callable[[KernelPlan], KernelPlan]


@dataclass(slots=True)
class Training:
    """The forward and backward of one executor's calls."""

    executor: Executor
    _plans: dict[PlanOptions, BackwardPlan | Underivable] = field(
        default_factory=dict[PlanOptions, "BackwardPlan | Underivable"]
    )
    _executors: dict[object, Executor] = field(default_factory=dict[object, Executor])
    _warned: bool = False

    # -- forward -----------------------------------------------------------------------------------------------------

    def run(self, call: CallInputs) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        """Output, statistics, and the accumulators that the backward reads; none where it is not derived."""
        if not self._derives(call):
            return (*self.executor.run(call), [])
        out, found = self.executor.run(replace(call, training=True))
        saved = [found.pop(state_key(acc)) for acc in self._forward(call).saved]
        return out, found, saved

    def saved_like(self, call: CallInputs) -> list[Tensor]:
        """Empty tensors of the shapes and dtypes of what the forward leaves. For fake tensors too."""
        if not self._derives(call):
            return []
        dtype = compute_dtype(replace(call, training=True)) if self._backend(call) == "torch" else torch.float32
        shape = call.q.shape[:3]
        return [
            call.q.new_empty((*shape, acc.dim) if acc.weighted else shape, dtype=dtype)
            for acc in self._forward(call).saved
        ]

    def _forward(self, call: CallInputs) -> KernelPlan:
        return self.executor.plan(replace(_plain(call), training=True))

    def _derives(self, call: CallInputs) -> bool:
        """Whether a call has a derived backward."""
        if call.cu_q is not None and isinstance(call.q_offset, str):
            return False  # documents would have offsets of their own on the side of the keys
        return self._backend(call) in _DERIVED and isinstance(self.plan(_plain(call)), BackwardPlan)

    def _backend(self, call: CallInputs) -> str:
        return self.executor.able(self.executor.choose(call.q.device.type), call)

    # -- backward ----------------------------------------------------------------------------------------------------

    def differentiate(
        self,
        call: CallInputs,
        gradients: tuple[Tensor, Mapping[str, Tensor]],
        wanted: frozenset[str],
        left: tuple[Tensor, list[Tensor]],
    ) -> dict[str, Tensor]:
        """Gradients of the `wanted` by name, from those of the output and the statistics, and what the forward left."""
        if not self._derives(call):
            self._warn(call)
            return self.executor.differentiate(call, gradients, wanted)
        out, saved = left
        names = [acc.name for acc in self._forward(call).saved]
        call = replace(call, training=True)
        seeds = Seeds(out, dict(zip(names, saved, strict=True)), gradients[0], gradients[1])
        plan = cast("BackwardPlan", self.plan(_plain(call)))
        return Backward(plan, call, seeds, wanted, partial(self._execute, plan)).run()

    def _execute(self, plan: BackwardPlan, source: Source, call: CallInputs) -> Mapping[str, Tensor]:
        """What one of the plans leaves, on the back end of the forward."""
        if source == "rows" and self._backend(call) in ("torch", "cpp"):
            return _row_values(plan.rows, call)
        chosen = _plan_of(plan, source)
        if not chosen.scatters or self._backend(call) == "torch":
            return self._executor(source, chosen, self.executor.backend, _as_it_is).run(call)[1]
        self._warn_of(chosen)
        swept: Mapping[str, Tensor] = {}
        if chosen.accumulators:
            swept = self._executor(source, chosen, self.executor.backend, _without_scatters).run(call)[1]
        return {**swept, **self._executor(source, chosen, "torch", _scatters_only).run(call)[1]}

    def _executor(self, source: Source, plan: KernelPlan, backend: Backend, part: _PartOf) -> Executor:
        """Runs a part of one of the plans."""
        key = (source, part.__name__, plan.head_dim, plan.value_dim, plan.itemsize)
        if key not in self._executors:
            own = self.executor
            name = f"{own.key}:{source}:{part.__name__}" if own.key else ""
            maker = partial(self._make, source, part)
            self._executors[key] = Executor(plan.module, backend, own.tile, name, maker=maker)
        return self._executors[key]

    def _make(self, source: Source, part: _PartOf, options: PlanOptions) -> KernelPlan:
        found = self.plan(options)
        assert isinstance(found, BackwardPlan)
        return part(_plan_of(found, source))

    def _warn_of(self, plan: KernelPlan) -> None:
        """Say what the kernels leave to torch."""
        if not self._warned:
            self._warned = True
            names = ", ".join(sorted({f"`{scatter.target.tensor}`" for scatter in plan.scatters}))
            warn_user(f"gradients of {names}, which pairs look up, are summed by torch, which is slow")

    def plan(self, options: PlanOptions) -> BackwardPlan | Underivable:
        """The backward for a kind of call, or why there is none. Raises SpecError for what has no kernel."""
        if options not in self._plans:
            from attnc.passes.pipeline import make_backward

            module = self.executor.module
            self._plans[options] = self.executor.cached("backward", options, (), lambda: make_backward(module, options))
        return self._plans[options]

    def _warn(self, call: CallInputs) -> None:
        if self._warned or self._backend(call) not in _DERIVED[1:]:
            return
        self._warned = True
        found = self.plan(_plain(call))
        reason = 'documents with q_offset="end"'
        if isinstance(found, Underivable):
            reason = f"{found.what}, `{print_expr(found.term)}`, has no derived backward"
        warn_user(f"gradients of {self.executor.module.name} are computed by torch, which is slow: {reason}")


def _row_values(plan: KernelPlan, call: CallInputs) -> dict[str, Tensor]:
    """Stored tokens, and row values rounded once: what passes back of a pair is a small difference of two of them."""
    numbers = tuple(d for d in plan.derived if not isinstance(d.expr.type, VectorType))
    vectors = tuple(d for d in plan.derived if isinstance(d.expr.type, VectorType))
    found = derived_tokens(replace(plan, derived=vectors), call)
    exact = derived_tokens(replace(plan, derived=numbers), call, torch.float64)
    return {**found, **{name: value.to(compute_dtype(call)) for name, value in exact.items()}}


def _as_it_is(plan: KernelPlan) -> KernelPlan:
    return plan


def _without_scatters(plan: KernelPlan) -> KernelPlan:
    return replace(plan, scatters=())


def _scatters_only(plan: KernelPlan) -> KernelPlan:
    return replace(plan, sweeps=(Sweep((), "sums over pairs"),))


def _plan_of(plan: BackwardPlan, source: Source) -> KernelPlan:
    found = {"rows": plan.rows, "query": plan.query, "keys": plan.keys}[source]
    assert found is not None
    return found


def _plain(call: CallInputs) -> PlanOptions:
    """Options that tell what a call leaves, whatever its sizes: the tiles do not matter for that."""
    return PlanOptions(
        int(call.q.shape[-1]), int(call.v.shape[-1]), call.q.element_size()
    )  # no symbols: plans are kept

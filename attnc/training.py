"""Calls that are differentiated: a forward that leaves what its backward reads, and the derived backward.

Where a spec has no derived backward, torch's own differentiation of the torch back end takes its place, with a
warning that names the term if the call runs elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from attnc.call_kinds import may_use_states
from attnc.codegen.launch import CallInputs
from attnc.codegen.states import state_key
from attnc.diagnostics import warn_user
from attnc.executor import Backend, Executor
from attnc.gradients import Backward, Seeds
from attnc.ir.backward import BackwardPlan, Step, Underivable
from attnc.ir.plan import KernelPlan, PlanOptions, Sweep
from attnc.ir.printer import print_expr
from attnc.ir.types import VectorType
from attnc.torch_tokens import compute_dtype, derived_tokens

#: Back ends whose forward leaves what a derived backward reads.
_DERIVED = ("torch", "interpret", "triton", "cpp")
#: Those that sum over queries and over keys in one pass.
_JOINT = ("cpp",)
#: Those that sum what pairs pass to tables.
_SCATTERS = ("torch", "cpp")


@dataclass(frozen=True, slots=True)
class _Part:
    """What of a plan to run: its sums over keys and queries, and some of its sums into tables."""

    sums: bool
    scatters: tuple[str, ...]

    def of(self, plan: KernelPlan) -> KernelPlan:
        """The plan without the rest."""
        sweeps = plan.sweeps if self.sums else (Sweep((), "sums over pairs"),)
        return replace(plan, sweeps=sweeps, scatters=tuple(s for s in plan.scatters if s.name in self.scatters))


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
        backend = self._backend(call)
        if call.cu_q is not None and isinstance(call.q_offset, str) and backend not in _JOINT:
            return False  # documents would have offsets of their own on the side of the keys
        return backend in _DERIVED and isinstance(self.plan(_plain(call)), BackwardPlan)

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
        joint = self._backend(call) in _JOINT and not self._has_states(call)
        return Backward(plan, call, seeds, wanted, partial(self._execute, plan, wanted), joint=joint).run()

    def plans(self, call: CallInputs) -> tuple[KernelPlan, ...]:
        """The plans of a derived backward; none where it is not derived."""
        found = self.plan(_plain(call))
        if isinstance(found, Underivable):
            return ()
        return tuple(
            plan for plan in ((found.joint,) if found.joint else (found.query, found.keys)) if plan is not None
        )

    def _has_states(self, call: CallInputs) -> bool:
        """Whether both sides of the backward take full tiles from states: linear work, however many passes."""
        if not may_use_states(call):
            return False
        found = cast("BackwardPlan", self.plan(replace(_plain(call), states=True)))
        return all(plan is None or plan.states is not None for plan in (found.query, found.keys))

    def _execute(
        self, plan: BackwardPlan, wanted: frozenset[str], step: Step, call: CallInputs
    ) -> Mapping[str, Tensor]:
        """What one of the plans leaves, on the back end of the forward; sums into tables only of the `wanted`."""
        backend = self._backend(call)
        if step == "rows" and backend in ("torch", "cpp"):
            return _row_values(plan.rows, call, compute_dtype(call) if backend == "torch" else torch.float32)
        chosen = _plan_of(plan, step)
        scatters = tuple(s.name for s in chosen.scatters if s.target.tensor in wanted)
        if not scatters or backend in _SCATTERS:
            return self._executor(step, chosen, self.executor.backend, _Part(sums=True, scatters=scatters)).run(call)[1]
        self._warn_of(chosen)
        swept: Mapping[str, Tensor] = {}
        if chosen.accumulators:
            swept = self._executor(step, chosen, self.executor.backend, _Part(sums=True, scatters=())).run(call)[1]
        return {**swept, **self._executor(step, chosen, "torch", _Part(sums=False, scatters=scatters)).run(call)[1]}

    def _executor(self, step: Step, plan: KernelPlan, backend: Backend, part: _Part) -> Executor:
        """Runs a part of one of the plans."""
        key = (step, part, plan.head_dim, plan.value_dim, plan.itemsize)
        if key not in self._executors:
            own = self.executor
            sums = "sums" if part.sums else "scatters"
            name = ":".join((own.key, step, sums, *part.scatters)) if own.key else ""
            maker = partial(self._make, step, part)
            self._executors[key] = Executor(plan.module, backend, own.tile, name, maker=maker)
        return self._executors[key]

    def _make(self, step: Step, part: _Part, options: PlanOptions) -> KernelPlan:
        found = self.plan(options)
        assert isinstance(found, BackwardPlan)
        return part.of(_plan_of(found, step))

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


def _row_values(plan: KernelPlan, call: CallInputs, dtype: torch.dtype) -> dict[str, Tensor]:
    """Stored tokens as the forward had them, and row values rounded once.

    What passes back of a pair is a small difference of two of them.
    """
    numbers = tuple(d for d in plan.derived if not isinstance(d.expr.type, VectorType))
    vectors = tuple(d for d in plan.derived if isinstance(d.expr.type, VectorType))
    found = derived_tokens(replace(plan, derived=vectors), call, dtype)
    exact = derived_tokens(replace(plan, derived=numbers), call, torch.float64)
    return {**found, **{name: value.to(dtype) for name, value in exact.items()}}


def _plan_of(plan: BackwardPlan, step: Step) -> KernelPlan:
    found = {"rows": plan.rows, "query": plan.query, "keys": plan.keys, "joint": plan.joint}[step]
    assert found is not None
    return found


def _plain(call: CallInputs) -> PlanOptions:
    """Options that tell what a call leaves, whatever its sizes: the tiles do not matter for that."""
    return PlanOptions(
        int(call.q.shape[-1]), int(call.v.shape[-1]), call.q.element_size()
    )  # no symbols: plans are kept

"""The steps of an attention that are compiled apart: its forward, that of training, and those of its backward."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from attnc.diagnostics import CallError
from attnc.ir.backward import Underivable
from attnc.ir.module import AttentionModule
from attnc.ir.plan import KernelPlan, PlanOptions
from attnc.ir.printer import print_expr
from attnc.passes.pipeline import AfterPass, ignore, make_backward, make_plan

#: The forward of calls without gradients; that of training, which leaves what the backward reads; and of the backward
#: the values per row, the sweep for each query, and the sweep for each key.
Step = Literal["forward", "training", "rows", "query", "keys"]


def plan_of_step(
    module: AttentionModule, options: PlanOptions, step: Step, after_pass: AfterPass = ignore
) -> KernelPlan:
    """The plan of a step. Raises SpecError as `make_plan` does, and CallError where there is no such step."""
    if step not in get_args(Step):
        raise CallError(f"step: expected one of {', '.join(get_args(Step))}, got {step!r}")
    if step in ("forward", "training"):
        return make_plan(module, replace(options, training=step == "training"), after_pass)
    found = make_backward(module, options)
    if isinstance(found, Underivable):
        raise CallError(f"{module.name} has no derived backward: {found.what}, `{print_expr(found.term)}`")
    plan = {"rows": found.rows, "query": found.query, "keys": found.keys}[step]
    if plan is None:
        raise CallError(f"the backward of {module.name} has no sweep for each {step}")
    return plan

"""KernelPlan -> the text of a Triton module, with the descriptions that the launcher needs."""

from __future__ import annotations

import ast
from dataclasses import replace

from attnc.codegen.context import KernelContext, KernelText, TritonModule, Variant
from attnc.codegen.emitter import Emitter
from attnc.codegen.expr_triton import HELPERS
from attnc.codegen.forward import attention_kernels
from attnc.codegen.render import render_module
from attnc.codegen.tidy import inline_single_uses
from attnc.codegen.token_map import token_map
from attnc.diagnostics import InternalError
from attnc.ir.plan import KernelPlan

__all__ = ["TritonModule", "header_lines", "lower_triton", "tidy_kernel"]


def lower_triton(plan: KernelPlan, variant: Variant) -> TritonModule:
    """Emit the module of a plan for one variant of calls."""
    kernels: list[KernelText] = []
    helpers: set[str] = set()
    built: list[tuple[KernelText, Emitter]] = [token_map(plan, derived, variant) for derived in plan.derived]
    built += attention_kernels(plan, variant)
    for kernel, emitter in built:
        kernels.append(tidy_kernel(kernel))
        helpers |= emitter.helpers & HELPERS.keys()
    context = KernelContext(header_lines(plan, variant), _helper_texts(helpers), tuple(kernels))
    source = render_module(context)
    try:
        ast.parse(source)
    except SyntaxError as error:
        raise InternalError(f"the emitted module does not parse: {error}") from error
    return TritonModule(source, tuple(kernels), plan, variant)


def tidy_kernel(kernel: KernelText) -> KernelText:
    """The kernel with values that are used once moved to their use."""
    blocks = [kernel.prologue, kernel.epilogue]
    for sweep in kernel.sweeps:
        for visit in sweep.visits:
            blocks += [visit.before, (visit.count,), visit.body]

    def tidy(lines: tuple[str, ...]) -> tuple[str, ...]:
        rest = "\n".join("\n".join(block) for block in blocks if block is not lines)
        return tuple(inline_single_uses(list(lines), rest))

    sweeps = tuple(
        replace(
            sweep,
            visits=tuple(replace(v, before=tidy(v.before), body=tidy(v.body)) for v in sweep.visits),
        )
        for sweep in kernel.sweeps
    )
    return replace(kernel, prologue=tidy(kernel.prologue), sweeps=sweeps, epilogue=tidy(kernel.epilogue))


def header_lines(plan: KernelPlan, variant: Variant) -> tuple[str, ...]:
    """The first lines of an emitted module: what it is and what its names stand for."""
    module = plan.module
    lines = [f"Attention kernels of the spec {module.name}, emitted by attnc.", ""]
    tiles = dict.fromkeys(f"{part.tile.rows} x {part.tile.keys}" for part in plan.parts)
    lines += [f"D = {plan.head_dim}, Dv = {plan.value_dim}, tile {' and '.join(tiles)}"]
    for n, tensor in enumerate(module.tensors):
        lines.append(f"t{n} is the tensor {tensor.name}")
    for n, param in enumerate(module.scalars):
        lines.append(f"p{n} is the parameter {param.name}")
    if variant.packed:
        lines.append("Packed documents: sizes and positions are those of the document.")
    return tuple(lines)


def _helper_texts(names: set[str]) -> tuple[str, ...]:
    """Sources of the helpers, those that others need first."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        for needed in HELPERS[name][0]:
            visit(needed)
        order.append(name)

    for name in sorted(names):
        visit(name)
    return tuple(HELPERS[name][1].rstrip() for name in order)

"""KernelPlan -> the text of a C++ module: one function per stage, which computes all units of work of a call.

A unit is a tile of queries of one or several heads that share a key head. Keys are packed, as blocks of [D][NR] for
inner products and rows of values, once per key head where several units read them, else tile by tile.
"""

from __future__ import annotations

from attnc.codegen.cpp_pairs import operands
from attnc.codegen.cpp_stage import StageText, key_clauses
from attnc.codegen.cpp_text import AT_ONCE, FEW_ROWS, KEYS, ROWS, CppModule, CppStage, CppVariant, native
from attnc.codegen.place import operand_heads
from attnc.codegen.provenance import describe
from attnc.ir.dependence import axes
from attnc.ir.plan import KernelPlan

__all__ = ["AT_ONCE", "FEW_ROWS", "KEYS", "ROWS", "CppModule", "CppStage", "CppVariant", "lower_cpp", "native"]


def lower_cpp(plan: KernelPlan, variant: CppVariant) -> CppModule:
    """Emit the module of a plan for one variant of calls. Raises NoCppError for what this back end has no code for."""
    own = _per_query_head(plan)
    built = [StageText(plan, variant, stage, n, query_heads=own).build() for n, stage in enumerate(plan.stages)]
    lines = [f"Attention of the spec {plan.module.name}, emitted by attnc.", "", *_notes(plan)]
    header = "".join(f"// {line}".rstrip() + "\n" for line in lines)
    rows = str(FEW_ROWS) if variant.few else f"(({ROWS} + MR - 1) / MR * MR + V - 1) / V * V"
    shapes = f"constexpr int ROWS = {rows}, KB = {KEYS}, KV = KB / V;\n"
    parts = ("vector.h", "tiles.h", *(("strided.h",) if variant.few else ()))
    texts = [native(name) for name in parts]
    source = "\n".join((header, texts[0], shapes, *texts[1:], *(text for text, _ in built)))
    return CppModule(source, tuple(stage for _, stage in built), plan, variant, own)


def _per_query_head(plan: KernelPlan) -> bool:
    """Whether what is packed of a key, or summed up for it, depends on the query head."""
    clauses = (clause for part in plan.parts for clause in key_clauses(plan.mask_of(part)))
    read = {*operands(plan)[1], *(plan.values_of(acc) for acc in plan.accumulators if acc.weighted)}
    stored = any(operand_heads(plan, name) == "H" for name in read)
    return plan.columns_per_head or stored or any("h" in axes(clause) for clause in clauses)


def _notes(plan: KernelPlan) -> list[str]:
    notes = [f"D = {plan.head_dim}, Dv = {plan.value_dim}", f"logit: {describe(plan.module.score)}"]
    notes += [f"mask: {describe(plan.module.mask)}", *plan.facts]
    notes += [f"t{n} is the tensor {tensor.name}" for n, tensor in enumerate(plan.module.tensors)]
    return notes + [f"p{n} is the parameter {param.name}" for n, param in enumerate(plan.module.scalars)]

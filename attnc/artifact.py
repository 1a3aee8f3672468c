"""Source and binaries of a spec for a GPU that need not be there.

`attnc.emit` is the function; a module of that name would hide it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attnc.codegen.config import default_config
from attnc.codegen.context import Variant
from attnc.codegen.crosscompile import Binary, Resources, cross_compile, parse_target
from attnc.codegen.triton_module import lower_triton
from attnc.compiler import Tables, compile_module
from attnc.diagnostics import CallError
from attnc.ir.dependence import alignment_of
from attnc.ir.plan import KernelPlan, PlanOptions
from attnc.passes.steps import Step, plan_of_step

Dtype = Literal["fp32", "fp16", "bf16"]
_DTYPES = {"fp32": ("float32", 4), "fp16": ("float16", 2), "bf16": ("bfloat16", 2)}


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a spec compiles to for one target. The fields but `kernels` are those of the attention kernel.

    `source` is the Triton module, `ptx` or `amdgcn` the assembly, `binary` the cubin or hsaco.
    """

    target: str
    source: str
    plan: KernelPlan
    ptx: str | None
    amdgcn: str | None
    binary: bytes
    resources: Resources
    kernels: tuple[Binary, ...]


def emit(
    spec: str | Path | None = None,
    *,
    source: str | None = None,
    attention: str | None = None,
    params: Mapping[str, bool | int | float] | None = None,
    target: str = "cuda:90",
    dtype: Dtype = "bf16",
    head_dim: int = 64,
    value_dim: int | None = None,
    aux: bool = False,
    tensors: Mapping[str, Any] | None = None,
    step: Step = "forward",
) -> Artifact:
    """Compile for `target` ("cuda:80", "cuda:90", "cuda:100", "hip:gfx942"). `aux`: with the statistics as outputs.

    `tensors` are the static ones of the spec. `step`: the forward of calls without gradients, that of `training`, or
    one of the steps of the backward: values of `rows`, the sweep for each `query`, the sweep for each of the `keys`.
    Raises SpecError for the spec and CallError for the rest, among that a spec without a derived backward.
    """
    if dtype not in _DTYPES:
        raise CallError(f"dtype: expected one of {', '.join(_DTYPES)}, got {dtype!r}")
    width = head_dim if value_dim is None else value_dim
    if not (1 <= head_dim <= 256 and 1 <= width <= 256):
        raise CallError(f"head dimensions must be from 1 to 256, got D = {head_dim}, Dv = {width}")
    parse_target(target)
    module = compile_module(
        spec, source=source, attention=attention, params=params or {}, tables=_tables(tensors) if tensors else None
    )
    name, itemsize = _DTYPES[dtype]
    options = PlanOptions(head_dim, width, itemsize, aligned=alignment_of(module))
    plan = plan_of_step(module, options, step)
    emitted = lower_triton(plan, Variant(aux=aux))
    kernels = cross_compile(emitted, target, name, default_config(plan))
    main = kernels[-1]
    nvidia = target.startswith("cuda")
    return Artifact(
        target=target,
        source=emitted.source,
        plan=plan,
        ptx=main.assembly if nvidia else None,
        amdgcn=None if nvidia else main.assembly,
        binary=main.binary,
        resources=main.resources,
        kernels=kernels,
    )


def _tables(tensors: Mapping[str, Any]) -> Tables:
    from attnc.tables import tables_of  # torch is loaded where there are tensors only

    return tables_of(tensors)

"""`attnc compile`: source, assembly and binaries of a spec for a GPU that need not be there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnc.cli.files import write_whole
from attnc.cli.output import JSON_VERSION, table
from attnc.cli.specs import (
    Scalar,
    Spec,
    attention_option,
    dtype_option,
    head_dim_option,
    param_option,
    read_spec,
    spec_argument,
    target_option,
    tensor_option,
    value_dim_option,
)
from attnc.cli.stages import Stages, StoppedError

if TYPE_CHECKING:
    from attnc.artifact import Artifact
    from attnc.codegen.crosscompile import Binary
    from attnc.codegen.triton_module import TritonModule
    from attnc.passes.steps import Step

#: Stages of Triton's compiler by kind of target; the others need no target.
_COMPILED = {
    "cuda": ("ttir", "ttgir", "llir", "ptx", "cubin"),
    "hip": ("ttir", "ttgir", "llir", "amdgcn", "hsaco"),
}
_SOURCES = ("triton", "plan", "json")
_KINDS = ("triton", "ttir", "ttgir", "llir", "ptx", "cubin", "amdgcn", "hsaco", "plan", "json")
_STEPS = ("forward", "training", "rows", "query", "keys")
_ITEMSIZE = {"fp32": 4, "fp16": 2, "bf16": 2}


def _kinds(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    for name in names:
        if name not in _KINDS:
            raise click.BadParameter(f"unknown output {name!r}; there are {', '.join(_KINDS)}", ctx, param)
    return names


@dataclass(frozen=True, slots=True)
class Request:
    """What is compiled, and for what."""

    spec: Spec
    attention: str | None
    params: dict[str, Scalar]
    target: str
    dtype: str
    head_dim: int
    value_dim: int
    aux: bool
    step: Step


@click.command("compile", short_help="Write kernels for a GPU that need not be there.")
@spec_argument
@target_option
@click.option(
    "emit",
    "--emit",
    callback=_kinds,
    metavar="KIND,...",
    help=f"What to write, with commas: {', '.join(_KINDS)}. Default: triton, the assembly and the binary, json.",
)
@click.option(
    "-o",
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    help="Folder to write to; this one when not given.",
)
@dtype_option
@head_dim_option
@value_dim_option
@click.option(
    "--step",
    type=click.Choice(_STEPS),
    default="forward",
    show_default=True,
    help="What to compile: the forward, that of training, or a step of the backward.",
)
@click.option("--aux", is_flag=True, help="Kernels that return the statistics, too.")
@param_option
@tensor_option
@attention_option
@click.option("--stop-after", metavar="STAGE", help="Print the result of this stage and end there.")
@click.option("--print-after", metavar="STAGE|all", multiple=True, help="Print the result of a stage. Repeatable.")
def command(emit: tuple[str, ...] | None, out: Path, **options: Any) -> None:
    """Compile to files NAME.py, NAME.ptx, ... and print their paths and what the kernels use of the GPU.

    Stages in order: ast, typed, bound, the passes of the planner, plan, triton; any wrong name lists them.
    """
    request = _request(**options)
    kinds = emit or ("triton", *_COMPILED[request.target.split(":")[0]][-2:], "json")
    _refuse_foreign(kinds, request.target)
    stages = Stages(options["print_after"], options["stop_after"])
    try:
        module = _emitted(request, stages)
    except StoppedError:
        return
    stages.refuse_unknown()
    artifact = _artifact(request) if set(kinds) - set(_SOURCES[:2]) else None
    out.mkdir(parents=True, exist_ok=True)
    for path, data in _files(kinds, request, module, artifact).items():
        write_whole(out / path, data)
        click.echo(str(out / path))
    if artifact is not None:
        click.echo()
        click.echo(_resources(artifact))
        _warn(artifact)


def _request(
    spec: str,
    attention: str | None,
    params: tuple[tuple[str, Scalar], ...],
    target: str,
    dtype: str,
    head_dim: int,
    value_dim: int | None,
    aux: bool,
    step: Step,
    **_: object,
) -> Request:
    width = value_dim or head_dim
    return Request(read_spec(spec), attention, dict(params), target, dtype, head_dim, width, aux, step)


def _refuse_foreign(kinds: tuple[str, ...], target: str) -> None:
    family = target.split(":", maxsplit=1)[0]
    for kind in kinds:
        if kind not in (*_SOURCES, *_COMPILED[family]):
            raise click.UsageError(f"{target} has no {kind}; it has {', '.join(_COMPILED[family])}")


def _emitted(request: Request, stages: Stages) -> TritonModule:
    """The module of kernels; every stage on the way to it is shown to `stages`."""
    from attnc.codegen.context import Variant
    from attnc.codegen.triton_module import lower_triton
    from attnc.driver import load_spec
    from attnc.frontend.bind import bind
    from attnc.frontend.parser import parse
    from attnc.ir.dependence import alignment_of
    from attnc.ir.plan import PlanOptions
    from attnc.passes.steps import plan_of_step

    stages("ast", parse(load_spec(request.spec.name, request.spec.text)))
    module = request.spec.select(request.attention)
    stages("typed", module)
    module = bind(module, request.params)
    stages("bound", module)
    aligned = alignment_of(module)
    options = PlanOptions(request.head_dim, request.value_dim, _ITEMSIZE[request.dtype], aligned=aligned)
    plan = plan_of_step(module, options, request.step, stages)
    emitted = lower_triton(plan, Variant(aux=request.aux))
    stages("triton", emitted)
    return emitted


def _artifact(request: Request) -> Artifact:
    from attnc.artifact import emit

    return emit(
        request.spec.name,
        source=request.spec.text,
        attention=request.attention,
        params=request.params,
        target=request.target,
        dtype=request.dtype,  # type: ignore[arg-type]  # one of the choices
        head_dim=request.head_dim,
        value_dim=request.value_dim,
        aux=request.aux,
        step=request.step,
    )


# -- files -----------------------------------------------------------------------------------------------------------


def _files(
    kinds: tuple[str, ...], request: Request, module: TritonModule, artifact: Artifact | None
) -> dict[str, bytes]:
    """Contents by name. NAME.ptx is the attention kernel's; what runs before it has the kernel's name in between."""
    from attnc.ir.printer import print_plan

    made = artifact or module
    name = made.plan.module.name if request.step == "forward" else f"{made.plan.module.name}.{request.step}"
    found: dict[str, bytes] = {}
    for kind in kinds:
        if kind == "triton":
            found[f"{name}.py"] = made.source.encode()
        elif kind == "plan":
            found[f"{name}.plan.txt"] = print_plan(made.plan).encode()
        elif artifact is not None and kind != "json":
            *before, main = artifact.kernels
            found[f"{name}.{kind}"] = _stage(main, kind)
            found.update({f"{name}.{kernel.name}.{kind}": _stage(kernel, kind) for kernel in before})
    if artifact is not None and "json" in kinds:
        found[f"{name}.json"] = _description(request, artifact, list(found))
    return found


def _stage(kernel: Binary, kind: str) -> bytes:
    content = kernel.stages[kind]
    return content if isinstance(content, bytes) else str(content).encode()


def _description(request: Request, artifact: Artifact, files: list[str]) -> bytes:
    import json

    data = {
        "version": JSON_VERSION,
        "name": artifact.plan.module.name,
        "spec": request.spec.name,
        "target": request.target,
        "dtype": request.dtype,
        "head_dim": request.head_dim,
        "value_dim": request.value_dim,
        "params": request.params,
        "step": request.step,
        "files": files,
        "kernels": [{"name": kernel.name, **asdict(kernel.resources)} for kernel in artifact.kernels],
    }
    return (json.dumps(data, indent=2) + "\n").encode()


# -- what the kernels use --------------------------------------------------------------------------------------------


def _resources(artifact: Artifact) -> str:
    header = ("kernel", "registers", "spilled bytes", "shared memory", "limit", "warps", "stages")
    rows = [
        (k.name, r.registers, r.spills, r.shared, r.shared_limit or "unknown", r.warps, r.stages)
        for k, r in ((kernel, kernel.resources) for kernel in artifact.kernels)
    ]
    return table([header, *rows], right=range(1, len(header)))


def _warn(artifact: Artifact) -> None:
    for kernel in artifact.kernels:
        uses = kernel.resources
        if uses.shared_limit and uses.shared > uses.shared_limit:
            message = (
                f"{kernel.name} needs {uses.shared} bytes of shared memory, {artifact.target} has {uses.shared_limit}"
            )
            click.secho(f"warning: {message}; it will not start", fg="yellow", err=True)
        if uses.spills:
            click.secho(f"warning: {kernel.name} spills registers: {uses.spills} bytes a thread", fg="yellow", err=True)

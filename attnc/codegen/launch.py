"""Running emitted kernels: the one launcher for the GPU driver and the interpreter.

It computes grid, strides and arguments from the argument descriptions of `KernelText`; the two ways of running differ
only in the function that is called last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from attnc.codegen.context import Arg, KernelText, TritonModule, table_key
from attnc.codegen.states import has_buffers, state_key
from attnc.ir.expr import Const
from attnc.ir.plan import Accumulator, Derived, KernelPlan
from attnc.ir.types import VectorType


@dataclass(frozen=True, slots=True)
class CallInputs:
    """One checked call. Tensors are on one device; offsets are an int, an int32 tensor [B] or "end".

    `cu_q`, `cu_k` are int32 tensors [S + 1] of a packed call, else None.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    tensors: Mapping[str, torch.Tensor]
    params: Mapping[str, float]
    scale: float
    q_offset: int | str | torch.Tensor = 0
    k_offset: int | torch.Tensor = 0
    cu_q: torch.Tensor | None = None
    cu_k: torch.Tensor | None = None
    return_aux: bool = False
    #: Whether the call leaves what its backward reads.
    training: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel about to run: its number of programs and its arguments by name."""

    kernel: KernelText
    programs: int
    arguments: dict[str, Any]


#: Runs one launch; the GPU driver or the interpreter.
Runner = Callable[[Launch], None]


#: Accumulators after the keys that states stand for, by name of their buffers: of a plan, a call, derived values by
#: name, the queries of a tile, and the dtype of sums.
Begin = Callable[[KernelPlan, CallInputs, Mapping[str, torch.Tensor], int, torch.dtype], Mapping[str, torch.Tensor]]


@dataclass(slots=True)
class _Buffers:
    """Every tensor of a call by the key that arguments use."""

    tensors: dict[str, torch.Tensor]
    tiles: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict[tuple[str, int], torch.Tensor])


@dataclass(frozen=True, slots=True)
class TileTables:
    """What the call tells kernels about their tiles: per part of the plan its tables, int32 on the device of the call,
    and the number of query tiles of one head where those are no ranges of positions.
    """

    tables: tuple[tuple[torch.Tensor, ...], ...]
    query_tiles: tuple[int | None, ...]


def run_module(
    module: TritonModule, call: CallInputs, run: Runner, tiles: TileTables | None = None, begin: Begin | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Run all kernels of a module. Returns the output [B, H, N, Dv] and the statistics [B, H, N] in float32.

    Accumulators that the plan saves are among the statistics, by `state_key`; of a plan without an output all of its
    accumulators and derived values are, and the output has no features. `tiles` are needed by a plan whose tiles are
    boxes or listed, `begin` by one with states.
    """
    batch, heads, rows = call.q.shape[:3]
    out = call.q.new_empty((batch, heads, rows, 0 if module.plan.output is None else call.v.shape[-1]))
    names = [binding.name for binding in module.plan.aux] if module.variant.aux else []
    aux = {name: call.q.new_empty((batch, heads, rows), dtype=torch.float32) for name in names}
    buffers = _Buffers({"q": call.q, "k": call.k, "v": call.v, "out": out, **call.tensors})
    buffers.tensors.update({f"aux:{name}": tensor for name, tensor in aux.items()})
    if tiles is not None:
        for part, tables in enumerate(tiles.tables):
            buffers.tensors.update({table_key(part, n): table for n, table in enumerate(tables)})
    for derived in module.plan.derived:
        buffers.tensors[derived.name] = _derived_buffer(derived, call)
    plan = module.plan
    left = plan.accumulators if has_buffers(plan) else plan.saved
    buffers.tensors.update({state_key(acc): _state_buffer(acc, call) for acc in left})
    returned = (*plan.saved, *(plan.accumulators if plan.output is None else ()))
    aux.update({state_key(acc): buffers.tensors[state_key(acc)] for acc in returned})
    if plan.output is None:
        aux.update({derived.name: buffers.tensors[derived.name] for derived in plan.derived})
    if out.numel() == 0 and not aux:
        return out, aux
    for kernel in module.kernels:
        if plan.states is not None and kernel.kind == "attention" and begin is not None:
            stored = {derived.name: buffers.tensors[derived.name] for derived in plan.derived}
            for name, tensor in begin(plan, call, stored, kernel.block, torch.float32).items():
                buffers.tensors[name].copy_(tensor)
        boxes = tiles.query_tiles[kernel.part] if tiles is not None and kernel.kind == "attention" else None
        launch = _prepare(kernel, call, buffers, boxes)
        if launch.programs > 0:
            run(launch)
    return out, aux


def _derived_buffer(derived: Derived, call: CallInputs) -> torch.Tensor:
    like = call.q if derived.side == "q" else call.k
    heads = call.q.shape[1] if derived.heads == "H" else call.k.shape[1]
    shape = (like.shape[0], heads, like.shape[2])
    if not isinstance(derived.expr.type, VectorType):
        return like.new_empty(shape, dtype=torch.float32)
    assert isinstance(derived.expr.type.dim, Const)
    return like.new_empty((*shape, int(derived.expr.type.dim.value)))


def _state_buffer(acc: Accumulator, call: CallInputs) -> torch.Tensor:
    shape = call.q.shape[:3]
    return call.q.new_empty((*shape, acc.dim) if acc.weighted else shape, dtype=torch.float32)


def _prepare(kernel: KernelText, call: CallInputs, buffers: _Buffers, boxes: int | None) -> Launch:
    tokens = call.q.shape[2] if kernel.grid_side == "q" else call.k.shape[2]
    heads = call.q.shape[1] if kernel.grid_heads == "H" else call.k.shape[1]
    if call.cu_q is None:
        tiles = -(-tokens // kernel.block) if boxes is None else boxes
        programs = tiles * heads * call.q.shape[0]
    else:
        tiles = _work(kernel, call, buffers).shape[0]
        programs = tiles * heads
    arguments = {arg.name: _argument(arg, kernel, call, buffers, tiles) for arg in kernel.args}
    return Launch(kernel, programs, arguments)


def _argument(arg: Arg, kernel: KernelText, call: CallInputs, buffers: _Buffers, tiles: int) -> Any:
    match arg.role:
        case "pointer":
            tensor = buffers.tensors[arg.key]
            return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
        case "stride":
            return buffers.tensors[arg.key].stride(arg.axis)
        case "size":
            return _size(arg.key, call)
        case "param":
            value = call.params[arg.key]
            return int(value) if isinstance(value, bool) else value
        case "value":
            return call.scale
        case "offset":
            return call.q_offset if arg.key == "q" else call.k_offset
        case "tiles":
            return _tile_argument(arg, kernel, call, buffers, tiles)
        case "constexpr":
            return arg.value


def _size(name: str, call: CallInputs) -> int:
    sizes = {
        "B": call.q.shape[0],
        "H": call.q.shape[1],
        "Hk": call.k.shape[1],
        "N": call.q.shape[2],
        "M": call.k.shape[2],
    }
    return sizes[name]


def _tile_argument(arg: Arg, kernel: KernelText, call: CallInputs, buffers: _Buffers, tiles: int) -> Any:
    if arg.key == "n_tiles":
        return tiles
    if arg.key == "work":
        return _work(kernel, call, buffers)
    return call.cu_q if arg.key == "cu_q" else call.cu_k


def _work(kernel: KernelText, call: CallInputs, buffers: _Buffers) -> torch.Tensor:
    """(document, tile) of every program of a packed call, (-1, -1) past the end; built on the device, no sync."""
    key = (kernel.grid_side, kernel.block)
    if key not in buffers.tiles:
        starts = call.cu_q if kernel.grid_side == "q" else call.cu_k
        assert starts is not None
        tokens = call.q.shape[2] if kernel.grid_side == "q" else call.k.shape[2]
        buffers.tiles[key] = work_table(starts, tokens, kernel.block)
    return buffers.tiles[key]


def work_table(starts: torch.Tensor, tokens: int, block: int) -> torch.Tensor:
    """int32 [W, 2] with W >= the number of tiles of all documents, known without reading `starts`."""
    documents = starts.shape[0] - 1
    counts = (starts[1:] - starts[:-1] + block - 1) // block
    ends = torch.cumsum(counts, 0)
    program = torch.arange(tokens // block + documents, device=starts.device)
    document = torch.searchsorted(ends, program, right=True)
    known = document.clamp(max=documents - 1)
    tile = program - (ends - counts)[known]
    inside = document < documents
    table = torch.stack((torch.where(inside, document, -1), torch.where(inside, tile, -1)), dim=1)
    return table.to(torch.int32).contiguous()

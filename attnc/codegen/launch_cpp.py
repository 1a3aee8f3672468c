"""Running emitted C++: the work of a call as tables, and its tensors as addresses and strides."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attnc.codegen.context import Arg
from attnc.codegen.cpp_build import load_library, parallel
from attnc.codegen.cpp_kernel import AT_ONCE, FEW_ROWS, KEYS, ROWS, CppModule, CppStage
from attnc.codegen.launch import CallInputs
from attnc.codegen.states import column_key, scatter_key, state_key
from attnc.diagnostics import InternalError
from attnc.ir.plan import Accumulator, Scatter

Ints = NDArray[Any]
#: C++ element types.
TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "half",
    torch.bfloat16: "bfloat",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.int16: "int16_t",
    torch.int8: "int8_t",
    torch.uint8: "uint8_t",
    torch.bool: "uint8_t",
}


@dataclass(frozen=True, slots=True)
class Work:
    """What one stage has to do; the arrays and numbers are those of `Call` in `native/tiles.h`."""

    seqs: Ints
    unit_seq: Ints
    unit_rows: Ints
    ranges: Ints
    items: Ints
    unit_states: Ints
    runs: Ints
    cols: Ints
    col_seq: Ints
    groups: int
    seqs_per_group: int
    heads_per_tile: int
    states: int
    segment: int
    shared: bool
    threads: int
    strands: int = 1
    heads_at_once: int = 1


class _Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in (
            "ints", "ptrs", "reals", "seqs", "unit_seq", "unit_rows", "ranges", "items", "unit_states",
            "runs", "cols", "col_seq")),
        *((name, ctypes.c_int64) for name in (
            "groups", "units", "col_tiles", "seqs_per_group", "rows_per_head", "heads_per_tile", "range_batches",
            "range_heads", "item_count", "states", "segment", "shared", "threads", "strands",
            "heads_at_once")),
        ("parallel", ctypes.c_void_p),
    ]  # fmt: skip


class CppRunner:
    """A loaded module."""

    def __init__(self, module: CppModule) -> None:
        self.module = module
        self._library = load_library(module.source)

    def run(
        self, call: CallInputs, derived: Mapping[str, torch.Tensor], works: Sequence[Work]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The output [B, H, N, Dv] and the statistics [B, H, N] in float32. `works` are those of the plan's parts.

        Accumulators that the plan saves are among the statistics, by `state_key`. Of a plan without an output all
        accumulators, columns and sums into tables are, by their keys; the output has no features then.
        """
        plan = self.module.plan
        shape = call.q.shape[:3]
        out = call.q.new_empty((*shape, 0 if plan.output is None else call.v.shape[-1]))
        names = [binding.name for binding in plan.aux] if self.module.variant.aux else []
        aux = {name: call.q.new_empty(shape, dtype=torch.float32) for name in names}
        tensors = {"q": call.q, "k": call.k, "v": call.v, "out": out, **call.tensors, **derived}
        tensors.update({f"aux:{name}": tensor for name, tensor in aux.items()})
        kept = plan.accumulators if len(plan.stages) > 1 or plan.output is None else plan.saved
        tensors.update({state_key(acc): _state(acc, call) for acc in kept})
        returned = plan.accumulators if plan.output is None else plan.saved
        aux.update({state_key(acc): tensors[state_key(acc)] for acc in returned})
        columns = {column_key(acc): self._column(acc, call) for acc in plan.columns}
        strands = max((work.strands * work.heads_at_once for work in works), default=1)
        tables = {scatter_key(s): _tables(s, call, strands) for s in plan.scatters}
        tensors.update(columns | tables)
        if out.numel() or aux or columns:
            for stage in self.module.stages:
                self._launch(stage, call, tensors, works[stage.part])
        return out, {**aux, **columns, **{name: table.sum(0) for name, table in tables.items()}}

    def _column(self, acc: Accumulator, call: CallInputs) -> torch.Tensor:
        """A sum over queries, for each query head or each key head; stages add to it."""
        heads = call.q.shape[1] if self.module.query_heads else call.k.shape[1]
        shape = (call.k.shape[0], heads, call.k.shape[2])
        return call.k.new_zeros((*shape, acc.dim) if acc.weighted else shape, dtype=torch.float32)

    def _launch(self, stage: CppStage, call: CallInputs, tensors: Mapping[str, torch.Tensor], work: Work) -> None:
        ints, pointers, reals = _arguments(stage.args, call, tensors)
        if not work.unit_seq.size or not all(call.q.shape[:3]):
            return
        arrays = (ints, pointers, reals, work.seqs, work.unit_seq, work.unit_rows, work.ranges, work.items,
                  work.unit_states, work.runs, work.cols, work.col_seq)  # fmt: skip
        filled = _Call(
            *(array.ctypes.data for array in arrays),
            work.groups,
            len(work.unit_seq),
            len(work.cols),
            work.seqs_per_group,
            work.unit_rows.shape[1],
            work.heads_per_tile,
            work.ranges.shape[0],
            work.ranges.shape[1],
            len(work.items),
            work.states,
            work.segment,
            int(work.shared),
            work.threads,
            work.strands,
            work.heads_at_once,
            parallel(),
        )
        if getattr(self._library, stage.name)(ctypes.byref(filled)) != 0:
            raise MemoryError(f"no memory to pack {len(work.cols) * KEYS} keys of one head in float32")


def _state(acc: Accumulator, call: CallInputs) -> torch.Tensor:
    shape = call.q.shape[:3]
    return call.q.new_empty((*shape, acc.dim) if acc.weighted else shape, dtype=torch.float32)


def _tables(scatter: Scatter, call: CallInputs, strands: int) -> torch.Tensor:
    """A table for each strand that runs at the same time."""
    return call.q.new_zeros((strands, *call.tensors[scatter.target.tensor].shape), dtype=torch.float32)


def _arguments(
    args: Sequence[Arg], call: CallInputs, tensors: Mapping[str, torch.Tensor]
) -> tuple[Ints, Ints, NDArray[np.float64]]:
    sizes = {"B": call.q.shape[0], "H": call.q.shape[1], "Hk": call.k.shape[1]}
    ints: list[int] = []
    pointers: list[int] = []
    reals: list[float] = []
    for arg in args:
        match arg.role:
            case "pointer":
                pointers.append(tensors[arg.key].data_ptr())
            case "stride":
                ints.append(tensors[arg.key].stride(arg.axis))
            case "size":
                ints.append(sizes[arg.key])
            case "value":
                reals.append(call.scale)
            case "param" if arg.kind == "real":
                reals.append(float(call.params[arg.key]))
            case "param":
                ints.append(int(call.params[arg.key]))
            case _:
                raise InternalError(f"an argument of role {arg.role} in C++")
    return np.array(ints, np.int64), np.array(pointers, np.int64), np.array(reals, np.float64)


__all__ = ["AT_ONCE", "FEW_ROWS", "KEYS", "ROWS", "TYPES", "CppRunner", "Work"]

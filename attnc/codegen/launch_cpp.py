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
from attnc.codegen.cpp_text import AT_ONCE, FEW_ROWS, KEYS, ROWS, CppModule, CppStage
from attnc.codegen.launch import CallInputs
from attnc.codegen.states import column_key, has_buffers, scatter_key, state_key
from attnc.diagnostics import InternalError
from attnc.ir.plan import Accumulator

Ints = NDArray[Any]
_AUX = "aux:"
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
    """What one stage has to do; the arrays and numbers are those of `Call` in `native/tiles.h`.

    `rows`: queries of a unit of consecutive ones.
    """

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
    rows: int = 0


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

    def prepare(self, call: CallInputs, derived: Mapping[str, torch.Tensor], works: Sequence[Work]) -> Prepared:
        """All of a call but its addresses. `works` are those of the plan's parts."""
        shape = tuple(call.q.shape[:3])
        made = self._made(call, max((work.strands * work.heads_at_once for work in works), default=1))
        tensors = {"q": call.q, "k": call.k, "v": call.v, **call.tensors, **derived}
        tensors |= {name: torch.empty(x.shape, dtype=x.dtype, device="meta") for name, x in made.items()}
        stages = [(stage, works[stage.part]) for stage in self.module.stages]
        launches = [self._launch(stage, call, tensors, work) for stage, work in stages if work.unit_seq.size]
        return Prepared(self.module, made, launches if all(shape) else [])

    def _made(self, call: CallInputs, strands: int) -> dict[str, _Made]:
        """What a call makes itself, by name: `out`, then by the keys that arguments have."""
        plan = self.module.plan
        shape = tuple(call.q.shape[:3])
        aux = plan.aux if self.module.variant.aux else ()
        kept = plan.accumulators if has_buffers(plan) else plan.saved
        heads = call.q.shape[1] if self.module.query_heads else call.k.shape[1]
        columns = (call.k.shape[0], heads, call.k.shape[2])
        found = {"out": _Made((*shape, 0 if plan.output is None else call.v.shape[-1]), call.q.dtype)}
        found |= {f"{_AUX}{binding.name}": _Made(shape) for binding in aux}
        found |= {state_key(acc): _Made(_sizes(shape, acc)) for acc in kept}
        found |= {column_key(acc): _Made(_sizes(columns, acc), summed=True) for acc in plan.columns}
        for scatter in plan.scatters:
            table = call.tensors[scatter.target.tensor].shape
            found[scatter_key(scatter)] = _Made((strands, *table), summed=True)
        return found

    def _launch(self, stage: CppStage, call: CallInputs, tensors: Mapping[str, torch.Tensor], work: Work) -> _Launch:
        ints, keys, reals = _arguments(stage.args, call, tensors)
        arrays = (ints, None, reals, work.seqs, work.unit_seq, work.unit_rows, work.ranges, work.items,
                  work.unit_states, work.runs, work.cols, work.col_seq)  # fmt: skip
        filled = _Call(
            *(None if array is None else array.ctypes.data for array in arrays),
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
        return _Launch(getattr(self._library, stage.name), filled, keys, (ints, reals, work))


@dataclass(frozen=True, slots=True)
class _Made:
    """A tensor that a call makes; one that is `summed` into begins at zero."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    summed: bool = False

    def make(self) -> torch.Tensor:
        return (torch.zeros if self.summed else torch.empty)(self.shape, dtype=self.dtype)


@dataclass(frozen=True, slots=True)
class _Launch:
    """One stage of a call: its function, its arguments but the addresses of the tensors `keys`, what it points to."""

    function: Any
    filled: _Call
    keys: tuple[str, ...]
    alive: tuple[Any, ...]

    def run(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Run it on these tensors."""
        pointers = (ctypes.c_void_p * len(self.keys))(*[tensors[key].data_ptr() for key in self.keys])
        filled = _Call.from_buffer_copy(self.filled)
        filled.ptrs = ctypes.addressof(pointers)
        if self.function(ctypes.byref(filled)) != 0:
            raise MemoryError(f"no memory to pack {filled.col_tiles * KEYS} keys of one head in float32")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call that can be run again, on tensors of the same dtypes, shapes and strides. `made`: what it makes itself."""

    module: CppModule
    made: Mapping[str, _Made]
    launches: Sequence[_Launch]

    def run(
        self, given: Mapping[str, torch.Tensor], begun: Mapping[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The output [B, H, N, Dv] and the statistics [B, H, N] in float32, of tensors by name.

        `begun` are contiguous accumulators that do not begin at the identity.

        Accumulators that the plan saves are among the statistics, by `state_key`. Of a plan without an output all
        accumulators, columns and sums into tables are, by their keys; the output has no features then.
        """
        ready = begun or {}
        made = {name: ready[name] if name in ready else tensor.make() for name, tensor in self.made.items()}
        tensors = {**given, **made}
        for launch in self.launches:
            launch.run(tensors)
        return made["out"], {**self._statistics(made), **self._sums(made)}

    def _statistics(self, made: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        plan = self.module.plan
        left = plan.accumulators if plan.output is None else plan.saved
        found = {name.removeprefix(_AUX): tensor for name, tensor in made.items() if name.startswith(_AUX)}
        return found | {state_key(acc): made[state_key(acc)] for acc in left}

    def _sums(self, made: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        plan = self.module.plan
        columns = {column_key(acc): made[column_key(acc)] for acc in plan.columns}
        return columns | {scatter_key(s): made[scatter_key(s)].sum(0) for s in plan.scatters}


def _sizes(shape: tuple[int, ...], acc: Accumulator) -> tuple[int, ...]:
    return (*shape, acc.dim) if acc.weighted else shape


def _arguments(
    args: Sequence[Arg], call: CallInputs, tensors: Mapping[str, torch.Tensor]
) -> tuple[Ints, tuple[str, ...], NDArray[np.float64]]:
    """Integers, names of the tensors whose addresses are wanted, and reals."""
    sizes = {"B": call.q.shape[0], "H": call.q.shape[1], "Hk": call.k.shape[1]}
    ints: list[int] = []
    keys: list[str] = []
    reals: list[float] = []
    for arg in args:
        match arg.role:
            case "pointer":
                keys.append(arg.key)
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
    return np.array(ints, np.int64), tuple(keys), np.array(reals, np.float64)


__all__ = ["AT_ONCE", "FEW_ROWS", "KEYS", "ROWS", "TYPES", "CppRunner", "Prepared", "Work"]

"""`attnc.compile`: a spec becomes a callable op.

An op compiles nothing when it is made. The first call of a kind (dtype, D, Dv, dtypes of tensors, packed or not) plans
and emits its kernels; sizes N, M, B, H never recompile.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from attnc.calls import Checks, RawCall, check_call, refuse
from attnc.codegen.cache import load_source
from attnc.codegen.config import default_config
from attnc.codegen.context import Variant
from attnc.codegen.interpreter import InterpretedModule
from attnc.codegen.launch import CallInputs, Launch, run_module
from attnc.codegen.triton_module import TritonModule, lower_triton
from attnc.compiler import compile_module
from attnc.diagnostics import AttncWarning, CallError
from attnc.explain import Report, explain
from attnc.ir.intervals import MAX_POSITION
from attnc.ir.module import AttentionModule
from attnc.ir.plan import KernelPlan, Tile
from attnc.passes.pipeline import PlanOptions, make_plan
from attnc.reference import reference
from attnc.torch_backend import run_torch

Backend = Literal["auto", "triton", "interpret", "cpp", "torch"]
_BACKENDS = ("auto", "triton", "interpret", "cpp", "torch")
#: Tiles of the torch back end: large, as each costs a few dozen torch calls.
_TORCH_TILE = Tile(256, 512)
#: Tiles of the interpreter: what a GPU would use for float32 costs seconds there.
_INTERPRET_TILE = Tile(32, 32)
_TILE_SIZES = (16, 32, 64, 128, 256, 512)


class Aux(dict[str, Tensor]):
    """The statistics of a call, as items and as attributes: `aux["lse"]`, `aux.lse`."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no statistic `{name}`; there are {', '.join(self) or 'none'}") from None


def compile(  # noqa: A001  # the public name; re.compile reads the same
    spec: str | Path | None = None,
    *,
    source: str | None = None,
    attention: str | None = None,
    backend: Backend = "auto",
    params: Mapping[str, bool | int | float] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    tile: tuple[int, int] | None = None,
    key_mask: str | None = None,
) -> Op:
    """Compile an attention from a file, from the standard library ("std:causal") or from text.

    `attention` picks one of several by name; `params` are the static parameters; `tensors` are used by every call that
    does not give its own; `tile` overrides the number of queries and keys per tile (16 to 512, powers of two);
    `key_mask` names one more tensor bool[B, M], and keys where it is false take no part: padding. Raises SpecError,
    whose `diagnostics` say what is wrong where, and CallError for the other arguments.
    """
    if backend not in _BACKENDS:
        refuse(f"backend: expected one of {', '.join(_BACKENDS)}, got {backend!r}")
    if backend == "cpp":
        refuse('backend: the C++ back end does not exist yet; use backend="torch" on a CPU')
    module = compile_module(spec, source=source, attention=attention, params=params or {}, key_mask=key_mask)
    return Op(module, backend, _check_tile(tile), dict(tensors or {}))


def _check_tile(tile: object) -> Tile | None:
    if tile is None:
        return None
    if isinstance(tile, tuple | list) and all(type(n) is int and n in _TILE_SIZES for n in cast(tuple[Any, ...], tile)):
        sizes = cast(tuple[int, ...], tile)
        if len(sizes) == 2:
            return Tile(*sizes)
    raise CallError(f"tile: expected (queries, keys), each one of {', '.join(map(str, _TILE_SIZES))}, got {tile!r}")


class Op:
    """A compiled attention. Call it with q [B, H, N, D], k [B, Hk, M, D], v [B, Hk, M, Dv] -> [B, H, N, Dv]."""

    def __init__(
        self, module: AttentionModule, backend: Backend, tile: Tile | None, tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        self.module = module
        self.backend: Backend = backend
        self._tile = tile
        self._tensors = tensors or {}
        self._plans: dict[PlanOptions, KernelPlan] = {}
        self._modules: dict[tuple[PlanOptions, Variant], TritonModule] = {}
        self._runners: dict[str, Any] = {}
        self._planned = self._options(64, 64, 2, "triton")
        self._emitted: tuple[PlanOptions, Variant] = (self._planned, Variant())

    def __repr__(self) -> str:
        return f"<attnc op {self.module.name}, backend {self.backend}>"

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        q_offset: int | Tensor | Literal["end"] = 0,
        k_offset: int | Tensor = 0,
        cu_seqlens: Tensor | tuple[Tensor, Tensor] | None = None,
        scale: float | None = None,
        return_aux: bool = False,
        checks: Checks = "basic",
        **tensors: Any,
    ) -> Any:
        """The output, in the dtype of q; with `return_aux` a pair (output, statistics [B, H, N] in float32).

        Tensors and dynamic parameters of the spec are given by name. Raises CallError.
        """
        raw = RawCall(q, k, v, q_offset, k_offset, cu_seqlens, scale, return_aux, checks, {**self._tensors, **tensors})
        call = check_call(self.module, raw)
        out, aux = self._run(call)
        return (out, Aux(aux)) if return_aux else out

    def reference(self, q: Tensor, k: Tensor, v: Tensor, **keywords: Any) -> Any:
        """The dense float64 meaning of the spec for the same arguments: the oracle. Needs N x M memory."""
        raw = {name: keywords.pop(name, default) for name, default in _CALL_DEFAULTS.items()}
        call = check_call(self.module, RawCall(q, k, v, **raw, named={**self._tensors, **keywords}))
        result = reference(
            self.module,
            q,
            k,
            v,
            tensors=call.tensors,
            params=call.params,
            q_offset=raw["q_offset"],
            k_offset=raw["k_offset"],
            cu_seqlens=raw["cu_seqlens"],
            scale=call.scale,
            return_aux=True,
        )
        return (result[0], Aux(result[1])) if raw["return_aux"] else result[0]

    # -- what was compiled -----------------------------------------------------------------------------------------

    @property
    def plan(self) -> KernelPlan:
        """The plan of the last call (before any: of 16-bit inputs with head dimension 64 on a GPU)."""
        return self._plan(self._planned)

    @property
    def source(self) -> str:
        """The Triton module of the last call that ran one (before any: for 16-bit inputs with head dimension 64)."""
        return self._module(*self._emitted).source

    def explain(self, n: int = 4096, m: int | None = None, *, target: str = "cuda:90") -> Report:
        """Tiles kept, operations, bytes and passes for N = n queries and M = m keys (n when not given).

        Of 16-bit inputs on the target, with the head dimensions of the last call (before any: 64).
        """
        options = PlanOptions(self._planned.head_dim, self._planned.value_dim, 2, self._tile)
        return explain(self._plan(options), n, n if m is None else m, target)

    # -- running ---------------------------------------------------------------------------------------------------

    def _run(self, call: CallInputs) -> tuple[Tensor, dict[str, Tensor]]:
        backend = self._choose(call)
        options = self._options(call.q.shape[-1], call.v.shape[-1], call.q.element_size(), backend)
        if backend == "torch":
            self._planned = options
            return run_torch(self._plan(options), call)
        _refuse_gradients(call)
        if backend == "interpret" and call.q.dtype == torch.bfloat16:
            return self._upcast(call)
        if call.q.dtype == torch.float64:
            refuse(f'q: float64 runs on backend="torch" only, not on "{backend}"')
        variant = _variant(call)
        self._planned, self._emitted = options, (options, variant)
        module = self._module(options, variant)
        return run_module(module, call, self._runner(module, backend))

    def _choose(self, call: CallInputs) -> str:
        device = call.q.device.type
        if self.backend == "auto":
            return "triton" if device == "cuda" else "torch"
        if self.backend == "triton" and device != "cuda":
            refuse(f'backend "triton" needs tensors on a GPU, got {device}; use "interpret" or "torch" there')
        if self.backend == "interpret" and device != "cpu":
            refuse(f'backend "interpret" needs CPU tensors, got {device}')
        return self.backend

    def _upcast(self, call: CallInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """bfloat16 in the interpreter, which computes on its bits: run in float32 and say so."""
        message = "Triton's interpreter cannot compute in bfloat16: this call runs in float32 and rounds at the end"
        warnings.warn(message, AttncWarning, stacklevel=4)
        wide = replace(
            call,
            q=call.q.float(),
            k=call.k.float(),
            v=call.v.float(),
            tensors={n: t.float() if t.dtype == torch.bfloat16 else t for n, t in call.tensors.items()},
        )
        out, aux = self._run(wide)
        return out.to(torch.bfloat16), aux

    def _options(self, head_dim: int, value_dim: int, itemsize: int, backend: str) -> PlanOptions:
        default = {"torch": _TORCH_TILE, "interpret": _INTERPRET_TILE}.get(backend)
        return PlanOptions(head_dim, value_dim, itemsize, self._tile or default)

    def _plan(self, options: PlanOptions) -> KernelPlan:
        if options not in self._plans:
            self._plans[options] = make_plan(self.module, options)
        return self._plans[options]

    def _module(self, options: PlanOptions, variant: Variant) -> TritonModule:
        key = (options, variant)
        if key not in self._modules:
            self._modules[key] = lower_triton(self._plan(options), variant)
        return self._modules[key]

    def _runner(self, module: TritonModule, backend: str) -> Any:
        key = f"{backend}:{module.source}"
        if key not in self._runners:
            self._runners[key] = _load(module, backend)
        return self._runners[key].run


_CALL_DEFAULTS: dict[str, Any] = {
    "q_offset": 0,
    "k_offset": 0,
    "cu_seqlens": None,
    "scale": None,
    "return_aux": False,
    "checks": "basic",
}


def _load(module: TritonModule, backend: str) -> Any:
    emitted = load_source(module.source)
    if backend == "interpret":
        return InterpretedModule(emitted, tuple(kernel.name for kernel in module.kernels))
    return _DeviceModule(emitted, module)


class _DeviceModule:
    """Kernels run by Triton's driver on a GPU."""

    def __init__(self, emitted: Any, module: TritonModule) -> None:
        self._emitted = emitted
        self._config = default_config(module.plan)

    def run(self, launch: Launch) -> None:
        """Run one launch on the current device."""
        kernel = getattr(self._emitted, launch.kernel.name)
        kernel[(launch.programs,)](**launch.arguments, num_warps=self._config.warps, num_stages=self._config.stages)


def _variant(call: CallInputs) -> Variant:
    """What a call changes in the text of its kernels."""

    def kind(offset: object) -> Any:
        return "tensor" if isinstance(offset, Tensor) else "end" if isinstance(offset, str) else "int"

    if call.cu_q is not None and any(isinstance(o, Tensor) for o in (call.q_offset, call.k_offset)):
        refuse('q_offset, k_offset: packed documents take an int or "end"')
    return Variant(
        packed=call.cu_q is not None,
        q_offset=kind(call.q_offset),
        k_offset=kind(call.k_offset),
        wide=_needs_wide(call),
        aux=call.return_aux,
        wide_tensors=frozenset(name for name, tensor in call.tensors.items() if tensor.dtype == torch.int64),
    )


def _needs_wide(call: CallInputs) -> bool:
    """Whether a position may be so large that sums of two of them leave 32 bits: offsets on the device may be."""
    if isinstance(call.q_offset, Tensor) or isinstance(call.k_offset, Tensor):
        return True
    q = call.q_offset if isinstance(call.q_offset, int) else 0
    reach = (abs(q) + call.q.shape[2], abs(call.k_offset) + call.k.shape[2])
    return max(reach) > MAX_POSITION


def _refuse_gradients(call: CallInputs) -> None:
    """No kernel has a backward yet: say so instead of returning an output without a graph."""
    if not torch.is_grad_enabled():
        return
    given = {"q": call.q, "k": call.k, "v": call.v, **call.tensors}
    names = [name for name, tensor in given.items() if tensor.requires_grad]
    if names:
        refuse(
            f"{', '.join(names)} requires grad, but the kernels have no backward yet; "
            'use backend="torch", or call under torch.no_grad()'
        )


__all__ = ["Aux", "Op", "compile"]

"""`attnc.compile`: a spec becomes a callable op.

An op compiles nothing when it is made. The first call of a kind (dtype, D, Dv, dtypes of tensors, packed or not) plans
and emits its kernels; sizes N, M, B, H never recompile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from attnc.block_tensors import BlockStages
from attnc.calls import Checks, RawCall, check_call, check_kinds, refuse
from attnc.compiler import Compiled, Program, compile_program, compile_spec
from attnc.diagnostics import CallError
from attnc.executor import Backend, Executor
from attnc.ir.module import AttentionModule
from attnc.ir.plan import KernelPlan, PlanOptions, Tile
from attnc.passes.block_tensors import measures_blocks
from attnc.passes.columns import reads_columns
from attnc.stages import Stages
from attnc.tables import Constants, tables_of
from attnc.torch_op import register

if TYPE_CHECKING:
    from attnc.explain import Report

_BACKENDS = ("auto", "triton", "interpret", "cpp", "torch")
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

    `attention` picks one of several by name; `params` are the static parameters; `tensors` are the static tensors of
    the spec, whose values are compiled in, and others, used by every call that does not give its own; `tile` overrides
    the number of queries and keys per tile (16 to 512, powers of two; C++ has its own); `key_mask` names one tensor
    more, bool[B, M], and keys where it is false take no part: padding. Raises SpecError, whose `diagnostics` say what
    is wrong where, and CallError for the other arguments.
    """
    if backend not in _BACKENDS:
        refuse(f"backend: expected one of {', '.join(_BACKENDS)}, got {backend!r}")
    given = dict(tensors or {})
    found = compile_spec(
        spec, source=source, attention=attention, params=params or {}, key_mask=key_mask, tables=tables_of(given)
    )
    static = {tensor.name for tensor in found.module.tensors if tensor.static}
    defaults = {name: tensor for name, tensor in given.items() if name not in static}
    return Op(found, backend, _check_tile(tile), defaults)


def _check_tile(tile: object) -> Tile | None:
    if tile is None:
        return None
    if isinstance(tile, tuple | list) and all(type(n) is int and n in _TILE_SIZES for n in cast(tuple[Any, ...], tile)):
        sizes = cast(tuple[int, ...], tile)
        if len(sizes) == 2:
            return Tile(*sizes)
    raise CallError(f"tile: expected (queries, keys), each one of {', '.join(map(str, _TILE_SIZES))}, got {tile!r}")


class Op:
    """A compiled attention. Call it with q [B, H, N, D], k [B, Hk, M, D], v [B, Hk, M, Dv] -> [B, H, N, Dv].

    Differentiable where its back end is. Works under torch.compile (fullgraph, dynamic shapes), torch.export,
    torch.func and autocast, which casts q, k, v. Copies and pickles are made from the text of the spec.
    """

    def __init__(
        self,
        compiled: Compiled | AttentionModule,
        backend: Backend,
        tile: Tile | None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        module, key = (compiled.module, compiled.key) if isinstance(compiled, Compiled) else (compiled, "")
        self.module = module
        self.backend: Backend = backend
        self._program = compiled.program if isinstance(compiled, Compiled) else None
        self._tile = tile
        self._tensors = dict(tensors or {})
        self._constants = Constants(module)
        self._executor, self._ops = register(Executor(module, backend, tile, key))
        self._stages = self._staged(module)

    def _staged(self, module: AttentionModule) -> BlockStages | Stages | None:
        """How to call what no single plan computes."""
        if measures_blocks(module):
            return BlockStages(module, lambda part: Op(part, self.backend, self._tile))
        if reads_columns(module):
            return Stages(module, lambda part: Op(part, self.backend, self._tile))
        return None

    def __repr__(self) -> str:
        return f"<attnc op {self.module.name}, backend {self.backend}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the text of the spec and compile it anew: from the cache, as a rule."""
        if self._program is None:
            raise TypeError("an op made from a module has no text to be copied by")
        return _from_program, (self._program, self.backend, self._tile, self._tensors)

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
        named = self._named(q, tensors)
        call = RawCall(q, k, v, q_offset, k_offset, cu_seqlens, scale, return_aux, checks, named)
        check_kinds(self.module, call)
        found = self._dispatch(call)
        if not return_aux:
            return found
        out, *aux = found if self._ops.signature.statistics else (found,)
        return out, Aux(zip(self._ops.signature.statistics, aux, strict=True))

    def _named(self, q: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """All tensors and parameters of a call: defaults, what is given, and the static ones."""
        self._constants.refuse_given(given)
        return {**self._tensors, **given, **self._constants.on(getattr(q, "device", None))}

    def _dispatch(self, call: RawCall) -> Any:
        """Through torch's dispatcher; recorded where somebody may ask for gradients (a dual tensor does not say so).

        Stage by stage where columns have statistics, or blocks values.
        """
        if self._stages is not None:
            return self._stages.run(call)
        args = self._ops.signature.flatten(_cast(call))
        names: list[str] = []
        if torch.is_grad_enabled():
            names = [n for n, x in zip(self._ops.signature.tensors, args, strict=False) if _requires_grad(x)]
        if not names and not (torch.is_grad_enabled() and _has_duals(args)):
            return (self._ops.stats if call.return_aux else self._ops.plain)(*args)
        self._check_gradients(call)
        if torch.compiler.is_compiling():
            args = _distinct(args)
        return (self._ops.stats_function if call.return_aux else self._ops.plain_function)(*args)

    def _check_gradients(self, call: RawCall) -> None:
        """Say what cannot be saved for the backward, before torch does."""
        if torch.compiler.is_compiling():
            return
        given = {"q": call.q, "k": call.k, "v": call.v, **call.named}
        made = [name for name, x in given.items() if isinstance(x, Tensor) and x.is_inference()]
        if made:
            refuse(f"{', '.join(made)}: made under inference_mode, so it cannot be saved for the backward; clone it")

    def reference(self, q: Tensor, k: Tensor, v: Tensor, **keywords: Any) -> Any:
        """The dense float64 meaning of the spec for the same arguments: the oracle. Needs N x M memory."""
        from attnc.reference import reference

        raw = {name: keywords.pop(name, default) for name, default in _CALL_DEFAULTS.items()}
        asked = RawCall(q, k, v, **raw, named=self._named(q, keywords))
        check_kinds(self.module, asked)
        call = check_call(self.module, asked)
        if q.device.type == "meta":
            refuse("q: a meta tensor has no data")
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

    def without_tensors(self) -> Op:
        """The same op, whose calls are given every tensor that is not static."""
        if not self._tensors or self._program is None:
            return self
        return _from_program(self._program, self.backend, self._tile, {})

    # -- what was compiled -----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of the registered op, torch.ops.attnc.NAME."""
        return self._ops.name

    @property
    def plan(self) -> KernelPlan:
        """The plan of the last call (before any: of 16-bit inputs with head dimension 64 on a GPU).

        Ops of the same content, back end and tile are one: the last call may have been another one's.
        """
        if self._stages is not None:
            return self._stages.rows.plan
        return self._executor.plan(self._executor.planned)

    @property
    def source(self) -> str:
        """The Triton or C++ text of the last call that ran one (before any: for 16-bit inputs, head dimension 64)."""
        return self._executor.source() if self._stages is None else self._stages.rows.source

    def explain(
        self,
        n: int | None = None,
        m: int | None = None,
        *,
        target: str = "cuda:90",
        params: Mapping[str, bool | int | float] | None = None,
    ) -> Report:
        """Tiles kept, operations, bytes and passes for N = n queries and M = m keys (n when not given), and facts.

        Without n: of the points of the grid, else of 4096. `params` are dynamic parameters. Of 16-bit inputs on the
        target, with the head dimensions of the last call (before any: 64).
        """
        from attnc.explain import explain, usual_size
        from attnc.ir.dependence import is_aligned
        from attnc.ir.long_calls import is_long

        n = usual_size(self.module) if n is None else n
        if self._stages is not None:
            return self._stages.explain(n, n if m is None else m, target=target, params=params)
        keys = n if m is None else m
        planned = self._executor.planned
        options = PlanOptions(
            planned.head_dim,
            planned.value_dim,
            2,
            self._tile,
            aligned=is_aligned(self.module, n, keys),
            states=is_long(n, keys, max(planned.head_dim, planned.value_dim)),
        )
        return explain(self._executor.plan(self._executor.numbered(options)), n, keys, target, params, with_facts=True)


def _from_program(program: Program, backend: Backend, tile: Tile | None, tensors: Mapping[str, Tensor]) -> Op:
    return Op(compile_program(program), backend, tile, tensors)


def _has_duals(args: list[Any]) -> bool:
    """Whether forward-mode differentiation is under way. torch.compile does not trace it."""
    if torch.compiler.is_compiling():
        return False
    forward_ad: Any = torch.autograd.forward_ad
    return any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in args)


def _requires_grad(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _distinct(args: list[Any]) -> list[Any]:
    """The arguments with a view in place of a tensor that occurs before: Dynamo takes no input twice."""
    found: list[Any] = []
    for arg in args:
        again = isinstance(arg, Tensor) and any(arg is other for other in found)
        found.append(arg.view_as(arg) if again else arg)
    return found


def _cast(call: RawCall) -> RawCall:
    """Under autocast q, k and v in its dtype, as for torch's own attention; tables and float64 stay as they are."""
    device = call.q.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return call
    dtype = torch.get_autocast_dtype(device)
    q, k, v = (x if x.dtype == torch.float64 or not x.is_floating_point() else x.to(dtype)
               for x in (call.q, call.k, call.v))  # fmt: skip
    return replace(call, q=q, k=k, v=v)


_CALL_DEFAULTS: dict[str, Any] = {
    "q_offset": 0,
    "k_offset": 0,
    "cu_seqlens": None,
    "scale": None,
    "return_aux": False,
    "checks": "basic",
}

__all__ = ["Aux", "Backend", "Op", "compile"]

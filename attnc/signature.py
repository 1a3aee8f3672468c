"""The flat argument list of a registered op: torch's dispatcher takes positional tensors, ints and floats.

q, k, v, q_offsets?, k_offsets?, cu_q?, cu_k?, TENSORS..., q_offset, k_offset, at_end, scale?, checks, PARAMETERS...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from attnc.calls import Checks, RawCall
from attnc.ir.expr import Const, Size
from attnc.ir.module import AttentionModule

#: Tensors that every op takes; those that may be None end in "?".
_TOKENS = ("q", "k", "v")
_OPTIONAL = ("q_offsets", "k_offsets", "cu_q", "cu_k")
_SCALARS = {"int": "SymInt", "bool": "bool", "real": "float"}
_BATCHED = {"q": 0, "k": 0, "v": 0, "q_offsets": 0, "k_offsets": 0}


@dataclass(frozen=True, slots=True)
class Signature:
    """How the calls of one module are laid out."""

    module: AttentionModule

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all tensors, in order."""
        return (*_TOKENS, *_OPTIONAL, *(tensor.name for tensor in self.module.tensors))

    @property
    def differentiable(self) -> tuple[str, ...]:
        """Names of the tensors that have a gradient: q, k, v and those of reals."""
        return (*_TOKENS, *(tensor.name for tensor in self.module.tensors if tensor.type.kind == "real"))

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the statistics that a call may return."""
        return tuple(binding.name for binding in self.module.aux)

    def schema(self) -> str:
        """The arguments in the dispatcher's language. Names of the spec are prefixed: they may be keywords there."""
        dynamic = [param for param in self.module.scalars if param.dynamic]
        return ", ".join(
            (
                *(f"Tensor {name}" for name in _TOKENS),
                *(f"Tensor? {name}" for name in _OPTIONAL),
                *(f"Tensor t_{tensor.name}" for tensor in self.module.tensors),
                "SymInt q_offset, SymInt k_offset, bool at_end, float? scale, str checks",
                *(f"{_SCALARS[param.type.kind]} p_{param.name}" for param in dynamic),
            )
        )

    def batch_dimension(self, name: str) -> int | None:
        """Which dimension of a tensor is the batch; None when it has none."""
        if name in _BATCHED:
            return _BATCHED[name]
        if name in _OPTIONAL:
            return None
        dims = self.module.tensor(name).dims
        return dims.index(Size("B")) if Size("B") in dims else None

    def flatten(self, call: RawCall) -> list[Any]:
        """The arguments of a call whose kinds have been checked."""
        q_offset, k_offset, starts = call.q_offset, call.k_offset, call.cu_seqlens
        cu_q, cu_k = cast("Sequence[Any]", starts) if isinstance(starts, tuple | list) else (starts, starts)
        of_queries, of_keys = isinstance(q_offset, Tensor), isinstance(k_offset, Tensor)
        at_end = isinstance(q_offset, str)
        return [
            call.q,
            call.k,
            call.v,
            q_offset if of_queries else None,
            k_offset if of_keys else None,
            cu_q,
            cu_k,
            *(call.named[tensor.name] for tensor in self.module.tensors),
            0 if of_queries or at_end else q_offset,
            0 if of_keys else k_offset,
            at_end,
            call.scale,
            call.checks,
            *(self._scalar(param.name, param.default, call) for param in self.module.scalars if param.dynamic),
        ]

    def _scalar(self, name: str, default: Any, call: RawCall) -> Any:
        return call.named[name] if name in call.named else cast("Const", default).value

    def unflatten(self, args: Sequence[Any], *, aux: bool, checks: Checks | None = None) -> RawCall:
        """The call that `flatten` laid out."""
        count = len(self.tensors)
        tensors = dict(zip(self.tensors, args[:count], strict=True))
        q_offset, k_offset, at_end, scale, asked, *values = args[count:]
        names = [param.name for param in self.module.scalars if param.dynamic]
        named = {tensor.name: tensors[tensor.name] for tensor in self.module.tensors}
        of_queries, of_keys = tensors["q_offsets"], tensors["k_offsets"]
        cu_q, cu_k = tensors["cu_q"], tensors["cu_k"]
        return RawCall(
            q=tensors["q"],
            k=tensors["k"],
            v=tensors["v"],
            q_offset="end" if at_end else q_offset if of_queries is None else of_queries,
            k_offset=k_offset if of_keys is None else of_keys,
            cu_seqlens=None if cu_q is None else (cu_q, cu_k),
            scale=scale,
            return_aux=aux,
            checks=checks or cast("Checks", asked),
            named={**named, **dict(zip(names, values, strict=True))},
        )

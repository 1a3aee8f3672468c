"""The attention function that transformers calls in every layer, for one spec."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from attnc.diagnostics import CallError
from attnc.integrations._hf_call import PADDING, Binding, Passed, Source, is_cross_attention, mask_of, refuse_dropout
from attnc.integrations._hf_check import Given, Implication
from attnc.integrations._hf_mask import ModelMask
from attnc.ir.expr import Const
from attnc.ir.module import AttentionModule
from attnc.ir.printer import print_module
from attnc.ops import Backend, Op
from attnc.ops import compile as compile_op
from attnc.tables import Constants


class Adapter:
    """One spec as an attention of transformers: called with a module, q, k, v and the model's mask."""

    def __init__(
        self,
        spec: str | Path | None,
        *,
        source: str | None,
        attention: str | None,
        backend: Backend,
        params: Mapping[str, bool | int | float],
        tensors: Mapping[str, Source],
        replaces: frozenset[str],
    ) -> None:
        values = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}

        def compiled(key_mask: str | None = None) -> Op:
            choice = {"source": source, "attention": attention, "key_mask": key_mask}
            op = compile_op(spec, backend=backend, params=params, tensors=values, **cast(Any, choice))
            return op.without_tensors()

        self._op = compiled()
        self.module = self._op.module
        self._constants = Constants(self.module)
        tensors = {name: value for name, value in tensors.items() if name not in self._constants.names}
        _check_sources(self.module, tensors)
        self._binding = Binding(self.module, dict(tensors), replaces)
        self._takes_padding = any(isinstance(value, str) and value == PADDING for value in tensors.values())
        self._keep = _free_name(self.module)
        self._padded = self._op if self._takes_padding else compiled(self._keep)
        self._implication = Implication(self.module)
        # It decides on values, which no graph can hold: torch.compile breaks its graph here.
        self._check: Any = cast(Any, torch.compiler).disable(self._compare)

    def digest(self) -> str:
        """Eight letters that differ between adapters which may compute different things."""
        binding = self._binding
        sources = [f"{name}={_identity(source)}" for name, source in sorted(binding.sources.items())]
        text = "\n".join((print_module(self.module), self._op.backend, *sources, *sorted(binding.replaces)))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def __call__(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any = None,
        scaling: float | None = None,
        dropout: float = 0.0,
        is_causal: bool | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """The output [B, N, H, Dv] as transformers lays it out, and no weights. Raises CallError."""
        refuse_dropout(dropout)
        mask = mask_of(module, query, key, attention_mask, is_causal)
        passed = Passed({**kwargs, PADDING: self._padding(mask)})
        arguments: dict[str, Any] = self._binding.arguments(module, passed)
        self._check(module, mask, query.shape[1], key.shape[1], arguments)
        scale = self._binding.scale(scaling, query.shape[-1], module)
        op = self._op
        if mask.keep is not None and not self._takes_padding:
            op, arguments[self._keep] = self._padded, mask.keep
        q, k, v = _cast(query, key, value)
        offset = mask.q_offset.expand(mask.batch) if isinstance(mask.q_offset, Tensor) else mask.q_offset
        out = op(q, k, v, q_offset=offset, k_offset=mask.k_offset, scale=scale, **arguments)
        return out.transpose(1, 2).contiguous(), None

    def _padding(self, mask: ModelMask) -> Tensor | None:
        """Which keys are no padding; a spec that reads it gets it always."""
        if mask.keep is None and self._takes_padding:
            return torch.ones(mask.batch, mask.keys, dtype=torch.bool, device=mask.device)
        return mask.keep

    def _compare(self, owner: Any, mask: ModelMask, heads: int, key_heads: int, arguments: Mapping[str, Any]) -> None:
        """Raise CallError when the spec has no meaning for this call, or sees what the model hides."""
        if self._binding.reads_positions() and is_cross_attention(owner, mask):
            raise CallError(
                f"{self.module.name} reads positions, but {type(owner).__name__} is cross-attention: its queries and "
                "keys are two sequences. Set the implementation on the self-attending part of the model alone"
            )
        named = {tensor.name for tensor in self.module.tensors}
        tensors = {name: value for name, value in arguments.items() if name in named}
        tensors |= self._constants.on(torch.device(mask.device))
        defaults = {s.name: s.default.value for s in self.module.scalars if isinstance(s.default, Const)}
        params = {**defaults, **{name: value for name, value in arguments.items() if name not in named}}
        self._implication.check(mask, Given(heads, key_heads, tensors, params))


def _check_sources(module: AttentionModule, sources: Mapping[str, Source]) -> None:
    """Every tensor of the spec has a source and every source a place."""
    dynamic = {scalar.name: scalar for scalar in module.scalars if scalar.dynamic}
    known = [*(tensor.name for tensor in module.tensors if not tensor.static), *dynamic]
    for name in sources:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean `{close[0]}`?" if close else f"it takes {', '.join(known) or 'none'}"
            raise CallError(f"tensors: {module.name} has no tensor or dynamic parameter `{name}`; {hint}")
    for name in known:
        if name not in sources and not (name in dynamic and dynamic[name].default is not None):
            raise CallError(
                f'{module.name} needs `{name}`: register with tensors={{"{name}": ...}}, a tensor, the name of what '
                "the model passes, or a function of the attention module and what it passes"
            )


def _free_name(module: AttentionModule) -> str:
    """A name for the padding that the spec does not use."""
    taken = {param.name for param in (*module.tensors, *module.scalars)}
    name = "keep"
    while name in taken:
        name += "_"
    return name


def _identity(source: Source) -> str:
    """What tells two sources apart: a value by itself, an object by its place."""
    return repr(source) if isinstance(source, str | bool | int | float) else f"{type(source).__name__}@{id(source)}"


def _cast(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Under autocast models mix dtypes and leave it to the attention to choose its own."""
    device = query.device.type
    if not torch.is_autocast_enabled(device):
        return query, key, value
    dtype = torch.get_autocast_dtype(device)
    return query.to(dtype), key.to(dtype), value.to(dtype)

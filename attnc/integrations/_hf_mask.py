"""What a transformers model asks of its attention in one forward pass, handed through the layers as its mask.

The model's mask function is kept as a function: nothing of size N x M is made. The object stands where models expect
a mask of four dimensions, so it answers to the few things that generation and device placement do with one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnc.diagnostics import CallError

#: What the mask functions of transformers are given and attnc has no use for: hints how to build a tensor.
_HINTS = frozenset({"allow_is_causal_skip", "allow_is_bidirectional_skip", "local_size", "dtype", "config"})
_MASKING = "transformers.masking_utils"


@dataclass(eq=False)
class ModelMask:
    """The positions of a forward pass, which pairs the model allows there, and which keys are no padding.

    Queries stand at q_offset .. q_offset + queries - 1, keys at k_offset .. k_offset + keys - 1. `allowed` is the
    model's predicate on index tensors (batch, head, query position, key position); with `use_vmap` it takes numbers
    only. `keep` is bool[B, keys], None when there is no padding. `checked` names the specs it was compared with.
    """

    batch: int
    queries: int
    keys: int
    q_offset: int | Tensor
    k_offset: int
    allowed: Callable[..., Any]
    keep: Tensor | None = None
    use_vmap: bool = False
    device: Any = "cpu"
    checked: set[Hashable] = field(default_factory=lambda: set())  # noqa: PLW0108  # torch.compile calls no set[...]

    ndim = 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of the tensor which it stands for."""
        return (self.batch, 1, self.queries, self.keys)

    def contiguous(self) -> ModelMask:
        """Itself: generation asks masks for this."""
        return self

    def to(self, device: Any = None, *_: Any, **__: Any) -> ModelMask:
        """On another device; a dtype changes nothing."""
        if not isinstance(device, str | torch.device | int):
            return self
        keep = None if self.keep is None else self.keep.to(device)
        offset = self.q_offset.to(device) if isinstance(self.q_offset, Tensor) else self.q_offset
        return replace(self, keep=keep, q_offset=offset, device=device)

    def __getitem__(self, _: object) -> NoReturn:
        raise CallError(
            "attention_mask: this model cuts its mask, but attnc has no mask tensor to cut; "
            'keep attn_implementation="sdpa" for it'
        )

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any, **__: Any) -> NoReturn:
        """Torch asks this when the object is used as a tensor."""
        raise CallError(
            f"attention_mask: this model computes with its mask ({getattr(function, '__name__', function)}), "
            'but attnc has no mask tensor; keep attn_implementation="sdpa" for it'
        )


def build_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    attention_mask: Any = None,
    use_vmap: bool = False,
    device: Any = "cpu",
    **hints: Any,
) -> ModelMask:
    """What transformers calls for the mask of a forward pass. Raises CallError."""
    if isinstance(attention_mask, ModelMask):  # generation with a static cache made it before the forward pass
        return attention_mask
    unknown = sorted(name for name, value in hints.items() if name not in _HINTS and value is not None)
    if unknown:
        raise CallError(f"the model's mask is built with {', '.join(unknown)}, which attnc does not know")
    return ModelMask(
        batch=batch_size,
        queries=q_length,
        keys=kv_length,
        q_offset=_position(q_offset),
        k_offset=kv_offset,
        allowed=mask_function,
        keep=_padding(attention_mask, kv_length, kv_offset),
        use_vmap=use_vmap,
        device=device,
    )


def _position(offset: int | Tensor) -> int | Tensor:
    """A static cache gives its own counter, which it raises before the attention runs: read it now."""
    if not isinstance(offset, Tensor):
        return offset
    waits = offset.device.type != "cpu" or torch.compiler.is_compiling()
    return offset.clone() if waits else int(offset)


def _padding(attention_mask: Tensor | None, length: int, offset: int) -> Tensor | None:
    """The 2-D mask for the keys of this pass; what lies beyond it are slots of a cache that nothing has filled."""
    if attention_mask is None:
        return None
    if attention_mask.ndim != 2:
        raise CallError(f"attention_mask: expected [batch, keys], got {list(attention_mask.shape)}")
    missing = length + offset - attention_mask.shape[-1]
    keep = pad(attention_mask.bool(), (0, missing)) if missing > 0 else attention_mask.bool()
    keep = keep[:, offset : offset + length]
    return None if not torch.compiler.is_compiling() and bool(keep.all()) else keep.contiguous()


def kind_of(function: Callable[..., Any]) -> Hashable | None:
    """What tells apart two of transformers' own predicates that look at positions alone; None for any other."""
    if getattr(function, "__module__", None) != _MASKING:
        return None
    parts = tuple(_frozen(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ())
    return None if None in parts else (function.__qualname__, parts)


def name_of(function: Callable[..., Any]) -> str:
    """For messages: the function's name, or those of the functions that transformers combined in it."""
    name = getattr(function, "__qualname__", type(function).__name__).split(".")[0]
    combined = {"and_masks": " and ", "or_masks": " or "}.get(name)
    if combined is None or getattr(function, "__module__", None) != _MASKING:
        return name
    (parts,) = (cell.cell_contents for cell in getattr(function, "__closure__", None) or ())
    return combined.join(name_of(part) for part in parts)


def _frozen(value: object) -> Hashable | None:
    if isinstance(value, bool | int):
        return value
    if isinstance(value, tuple):
        parts = tuple(_frozen(item) for item in cast(tuple[object, ...], value))
        return None if None in parts else parts
    return kind_of(value) if callable(value) else None

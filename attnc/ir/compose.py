"""Adding to a typed module from outside: what a caller wants of an attention that its text does not say."""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.build import conj
from attnc.ir.expr import Index, Lookup, Size
from attnc.ir.module import AttentionModule, TensorParam
from attnc.ir.types import BOOL


def with_key_mask(module: AttentionModule, name: str) -> AttentionModule:
    """The module with a tensor `name: bool[B, M]` and its mask and-ed with `name[b, j]`.

    Keys where it is false take no part: padding. Raises ValueError when the module declares that name already.
    """
    if any(param.name == name for param in (*module.tensors, *module.scalars)):
        raise ValueError(f"{module.name} declares `{name}` itself")
    keep = TensorParam(name, BOOL, (Size("B"), Size("M")))
    clause = Lookup(name, (Index("b"), Index("j")), BOOL)
    return replace(module, tensors=(*module.tensors, keep), mask=conj(module.mask, clause))

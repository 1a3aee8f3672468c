"""Packed calls, document by document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from attnc.codegen.launch import CallInputs
from attnc.ir.expr import Size
from attnc.ir.module import AttentionModule


def documents(module: AttentionModule, call: CallInputs) -> Iterator[CallInputs]:
    """The calls that a packed call stands for, one per document."""
    starts_q, starts_k = int_list(call.cu_q), int_list(call.cu_k)
    for n in range(len(starts_q) - 1):
        rows, keys = slice(starts_q[n], starts_q[n + 1]), slice(starts_k[n], starts_k[n + 1])
        tensors = {name: _slice(module, name, tensor, rows, keys) for name, tensor in call.tensors.items()}
        yield replace(
            call,
            q=call.q[:, :, rows],
            k=call.k[:, :, keys],
            v=call.v[:, :, keys],
            tensors=tensors,
            cu_q=None,
            cu_k=None,
        )


def _slice(module: AttentionModule, name: str, tensor: Tensor, rows: slice, keys: slice) -> Tensor:
    dims = module.tensor(name).dims
    places = {Size("N"): rows, Size("M"): keys}
    return tensor[tuple(places.get(dim, slice(None)) if isinstance(dim, Size) else slice(None) for dim in dims)]


def int_list(tensor: Tensor | None) -> list[int]:
    """The elements of an int or bool tensor in order; none for None."""
    if tensor is None:
        return []
    return [int(value) for value in tensor.reshape(-1).tolist()]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportUnknownArgumentType]

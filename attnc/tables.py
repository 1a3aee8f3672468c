"""Static tensors between torch and the typed module, which holds plain values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from attnc.diagnostics import CallError
from attnc.ir.module import MAX_TABLE, AttentionModule, Table

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.bool, torch.int32, torch.int64, torch.float32, torch.float16, torch.bfloat16, torch.float64)
}


def tables_of(tensors: Mapping[str, Any]) -> dict[str, partial[Table]]:
    """What makes the values of tensors, if the spec declares them static."""
    return {name: partial(_table, name, tensor) for name, tensor in tensors.items()}


def _table(name: str, tensor: Any) -> Table:
    """The values of a tensor. Raises CallError for one that a module cannot hold."""
    if not isinstance(tensor, Tensor):
        raise CallError(f"tensors: {name}: expected a tensor, got {type(tensor).__name__}")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _DTYPES or tensor.layout != torch.strided or tensor.device.type == "meta":
        known = ", ".join(_DTYPES)
        raise CallError(f"tensors: {name}: it is static, so it holds values of {known}, got {dtype} on {tensor.device}")
    if tensor.requires_grad:
        raise CallError(f"tensors: {name}: it is static, so it has no gradient, but requires grad; detach it")
    if tensor.numel() > MAX_TABLE:
        raise CallError(f"tensors: {name}: it is static, so it has at most {MAX_TABLE} elements, got {tensor.numel()}")
    values = cast("list[Any]", cast(Any, tensor.detach().cpu().flatten()).tolist())
    return Table(dtype, tuple(tensor.shape), tuple(values))


def constants_of(module: AttentionModule) -> dict[str, Tensor]:
    """The static tensors of a bound module, on the CPU."""
    return {tensor.name: tensor_of(tensor.value) for tensor in module.tensors if tensor.value is not None}


def tensor_of(table: Table) -> Tensor:
    """The values as a tensor on the CPU."""
    return torch.tensor(table.values, dtype=_DTYPES[table.dtype]).view(table.shape)


class Constants:
    """The static tensors of an op, copied once to every device on which it is called."""

    def __init__(self, module: AttentionModule) -> None:
        self._placed = {torch.device("cpu"): constants_of(module)}
        self.names = frozenset(self._placed[torch.device("cpu")])

    def on(self, device: Any) -> dict[str, Tensor]:
        """The tensors on a device."""
        if not self.names:
            return {}
        device = device if isinstance(device, torch.device) else torch.device("cpu")  # what has none is refused later
        found = self._placed.get(device)
        if found is None:
            found = {name: tensor.to(device) for name, tensor in self._placed[torch.device("cpu")].items()}
            if not torch.compiler.is_compiling():
                self._placed[device] = found
        return found

    def refuse_given(self, given: Mapping[str, Any]) -> None:
        """Raise CallError for a call that gives one of them."""
        for name in given:
            if name in self.names:
                raise CallError(f"{name}: it is static, so it was given when compiling; a call cannot give another")

"""Checking the arguments of a call: what was expected, what came, and for which name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NoReturn, cast

import torch
from torch import Tensor

from attnc.call_positions import INTEGERS, Checks, Positions, check_positions
from attnc.codegen.launch import CallInputs
from attnc.diagnostics import CallError
from attnc.ir.evaluate import UnknownValueError, evaluate_exact
from attnc.ir.expr import Const, Size
from attnc.ir.intervals import INT32
from attnc.ir.module import AttentionModule, Range, ScalarParam, TensorParam
from attnc.ir.printer import print_expr
from attnc.ir.traverse import walk

MAX_HEAD_DIM = 256
#: "meta" tensors have shapes only: their results, too.
DEVICES = ("cpu", "cuda", "meta")
REALS: Any = (int, float, torch.SymInt, torch.SymFloat)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True, slots=True)
class RawCall:
    """The arguments as the user gave them."""

    q: Any
    k: Any
    v: Any
    q_offset: Any
    k_offset: Any
    cu_seqlens: Any
    scale: Any
    return_aux: bool
    checks: Checks
    named: Mapping[str, Any]


def refuse(message: str) -> NoReturn:
    """Raise CallError."""
    raise CallError(message)


def check_kinds(module: AttentionModule, call: RawCall) -> None:
    """What torch's dispatcher would answer less clearly: names, and that everything is of the right kind."""
    for name, tensor in (("q", call.q), ("k", call.k), ("v", call.v)):
        _check_plain(name, tensor)
    if call.q.device.type not in DEVICES:
        refuse(f"q: there are back ends for {' and '.join(DEVICES[:2])} tensors, got one on {call.q.device}")
    _check_names(module, call.named)
    for param in module.tensors:
        _check_plain(param.name, call.named[param.name])
    for scalar in module.scalars:
        if scalar.dynamic:
            _check_scalar(scalar, call.named)
    _check_scale(module, call.scale, 1)
    if call.checks not in ("basic", "full", "shapes"):
        refuse(f'checks: expected "basic" or "full", got {call.checks!r}')
    for name, offset in (("q_offset", call.q_offset), ("k_offset", call.k_offset)):
        _offset_kind(name, offset)
    for starts in _both_starts(call.cu_seqlens):
        _check_plain("cu_seqlens", starts)


def check_call(module: AttentionModule, call: RawCall) -> CallInputs:
    """The call with defaults filled in. Raises CallError with the name, the expectation and what came."""
    sizes = _check_tokens(call.q, call.k, call.v)
    _check_names(module, call.named)
    cu_q, cu_k = _check_packing(call, sizes)
    offsets = (
        _check_offset("q_offset", call.q_offset, call, sizes),
        _check_offset("k_offset", call.k_offset, call, sizes),
    )
    tensors = {t.name: _check_tensor(t, call, sizes, packed=cu_q is not None) for t in module.tensors}
    params = {p.name: _check_scalar(p, call.named) for p in module.scalars if p.dynamic}
    check_positions(module, {**sizes, **params}, Positions(offsets, (cu_q, cu_k), call.checks))
    return CallInputs(
        q=call.q,
        k=call.k,
        v=call.v,
        tensors=tensors,
        params=params,
        scale=_check_scale(module, call.scale, sizes["D"]),
        q_offset=offsets[0],
        k_offset=offsets[1] if not isinstance(offsets[1], str) else refuse('k_offset: an int or int[B], not "end"'),
        cu_q=cu_q,
        cu_k=cu_k,
        return_aux=call.return_aux,
    )


# -- q, k, v ---------------------------------------------------------------------------------------------------------


def _check_tokens(q: Any, k: Any, v: Any) -> dict[str, int]:
    layouts = {"q": "[B, H, N, D]", "k": "[B, Hk, M, D]", "v": "[B, Hk, M, Dv]"}
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        _check_plain(name, tensor)
        if tensor.dim() != 4:
            refuse(f"{name}: expected 4 dimensions {layouts[name]}, got shape {list(tensor.shape)}")
        if tensor.dtype not in DTYPES:
            refuse(f"{name}: expected float32, float16, bfloat16 or float64, got {_dtype(tensor)}")
        if tensor.dtype != q.dtype:
            refuse(f"{name}: expected the dtype of q, {_dtype(q)}, got {_dtype(tensor)}")
        if tensor.device != q.device:
            refuse(f"{name}: expected the device of q, {q.device}, got {tensor.device}")
    names = ("B", "H", "N", "D", "Hk", "M", "Dv")
    sizes: dict[str, int] = dict(zip(names, (*q.shape, *v.shape[1:]), strict=True))
    _expect_shape(
        "k", k, (sizes["B"], sizes["Hk"], sizes["M"], sizes["D"]), "[B, Hk, M, D] with B, D of q and Hk, M of v"
    )
    if v.shape[0] != sizes["B"]:
        refuse(f"v: expected batch size {sizes['B']} as q, got {v.shape[0]}")
    _check_head_dims(sizes)
    return sizes


def _check_plain(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        refuse(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.layout != torch.strided or tensor.is_nested:
        refuse(f"{name}: expected a strided tensor, got {'nested' if tensor.is_nested else tensor.layout}")
    if tensor.is_quantized:
        refuse(f"{name}: expected a floating dtype, got {_dtype(tensor)}; dequantize it")


def _check_head_dims(sizes: Mapping[str, int]) -> None:
    for name in ("D", "Dv"):
        if not 1 <= sizes[name] <= MAX_HEAD_DIM:
            refuse(f"head dimension {name} is {sizes[name]}; it must be from 1 to {MAX_HEAD_DIM}")
    heads, key_heads = sizes["H"], sizes["Hk"]
    if heads and (key_heads == 0 or heads % key_heads):
        refuse(f"head grouping: {heads} query heads are not a multiple of {key_heads} key heads")


def _expect_shape(name: str, tensor: Tensor, shape: tuple[int, ...], layout: str) -> None:
    if tuple(tensor.shape) != shape:
        refuse(f"{name}: expected shape {list(shape)} = {layout}, got {list(tensor.shape)}")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


# -- names -----------------------------------------------------------------------------------------------------------


def _check_names(module: AttentionModule, named: Mapping[str, Any]) -> None:
    dynamic = [param.name for param in module.scalars if param.dynamic]
    known = [tensor.name for tensor in module.tensors] + dynamic
    for name in named:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean `{close[0]}`?" if close else f"; {module.name} takes {_listed(known)}"
            refuse(f"unknown argument `{name}`{hint}")
    for tensor in module.tensors:
        if tensor.name not in named:
            refuse(f"missing tensor `{tensor.name}`: {module.name} declares {describe_tensor(tensor)}")
    for param in module.scalars:
        if param.dynamic and param.default is None and param.name not in named:
            refuse(f"missing parameter `{param.name}`: {module.name} declares it dynamic, give it at the call")


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "no tensors"


def describe_tensor(tensor: TensorParam) -> str:
    """The declaration of a tensor as text."""
    dims = ", ".join(print_expr(dim) for dim in tensor.dims)
    return f"{tensor.name}: {tensor.type.kind}[{dims}]"


# -- tensors ---------------------------------------------------------------------------------------------------------

_TENSOR_DTYPES = {
    "int": ((torch.int32, torch.int64), "int32 or int64"),
    "bool": ((torch.bool,), "bool"),
    "real": (DTYPES, "a floating dtype"),
}


def _check_tensor(param: TensorParam, call: RawCall, sizes: Mapping[str, int], *, packed: bool) -> Tensor:
    tensor = call.named[param.name]
    _check_plain(param.name, tensor)
    allowed, words = _TENSOR_DTYPES[param.type.kind]
    if tensor.dtype not in allowed:
        refuse(f"{param.name}: expected {words}, got {_dtype(tensor)} ({describe_tensor(param)})")
    if param.type.kind == "real" and tensor.dtype == torch.float64 and call.q.dtype != torch.float64:
        refuse(f"{param.name}: expected {_dtype(call.q)} or float32, got float64; nothing is rounded silently")
    if tensor.device != call.q.device:
        refuse(f"{param.name}: expected the device of q, {call.q.device}, got {tensor.device}")
    if packed and any(not isinstance(dim, Const | Size) and _mentions_tokens(dim) for dim in param.dims):
        refuse(f"{param.name}: {describe_tensor(param)} cannot be used with cu_seqlens: its shape differs by document")
    shape = tuple(_dimension(param, axis, call, sizes) for axis in range(len(param.dims)))
    if tuple(tensor.shape) != shape:
        refuse(f"{param.name}: expected shape {list(shape)} ({describe_tensor(param)}), got {list(tensor.shape)}")
    if call.checks == "full" and param.range is not None and tensor.numel():
        _check_range(param.name, float(tensor.min()), param.range)
        _check_range(param.name, float(tensor.max()), param.range)
    return tensor


def _mentions_tokens(dim: Any) -> bool:
    return any(isinstance(node, Size) and node.name in ("N", "M") for node in walk(dim))


def _dimension(param: TensorParam, axis: int, call: RawCall, sizes: Mapping[str, int]) -> int:
    known = {**sizes, **{name: value for name, value in call.named.items() if isinstance(value, INTEGERS)}}
    try:
        return evaluate_exact(param.dims[axis], known)
    except (UnknownValueError, ZeroDivisionError):
        refuse(f"{param.name}: dimension {axis} of {describe_tensor(param)} has no value for this call")


def _check_range(name: str, value: float, bounds: Range) -> None:
    low, high = bounds.low, bounds.high
    below = low is not None and (value < low or (bounds.low_open and value == low))
    above = high is not None and (value > high or (bounds.high_open and value == high))
    if below or above or math.isnan(value):
        left, right = "(" if bounds.low_open else "[", ")" if bounds.high_open else "]"
        shown = f"{left}{'-inf' if low is None else low}, {'inf' if high is None else high}{right}"
        refuse(f"{name}: the value {value:g} is outside the declared range {shown}")


# -- scalars ---------------------------------------------------------------------------------------------------------


def _check_scalar(param: ScalarParam, named: Mapping[str, Any]) -> float:
    if param.name not in named:
        assert isinstance(param.default, Const)
        return param.default.value
    value: Any = named[param.name]
    allowed: Any = {"bool": (bool,), "int": INTEGERS, "real": REALS}[param.type.kind]
    if not isinstance(value, allowed) or (isinstance(value, bool) and param.type.kind != "bool"):
        refuse(f"{param.name}: expected a Python {param.type.kind}, got {type(value).__name__} {value!r}")
    if param.type.kind == "int" and not -INT32 <= value < INT32:
        refuse(f"{param.name}: {value} does not fit 32 bits")
    if param.range is not None:
        _check_range(param.name, value, param.range)
    return float(value) if param.type.kind == "real" else value


def _check_scale(module: AttentionModule, scale: Any, head_dim: int) -> float:
    if scale is None:
        return 1.0 / math.sqrt(head_dim)
    if not module.reads_scale:
        refuse(f"scale: {module.name} does not read `scale`, so giving one would change nothing")
    if isinstance(scale, bool) or not isinstance(scale, REALS) or not math.isfinite(scale):
        refuse(f"scale: expected a finite number, got {scale!r}")
    return float(scale)


# -- offsets and packing ---------------------------------------------------------------------------------------------


def _offset_kind(name: str, offset: Any) -> Literal["end", "tensor", "int"]:
    if isinstance(offset, str):
        if offset == "end" and name == "q_offset":
            return "end"
        refuse(f'{name}: expected an int, an int tensor [B] or (q_offset only) "end", got {offset!r}')
    if isinstance(offset, Tensor):
        return "tensor"
    if isinstance(offset, bool) or not isinstance(offset, INTEGERS):
        refuse(f"{name}: expected an int or an int tensor [B], got {type(offset).__name__}")
    return "int"


def _check_offset(name: str, offset: Any, call: RawCall, sizes: Mapping[str, int]) -> int | str | Tensor:
    kind = _offset_kind(name, offset)
    if kind == "end":
        return offset
    if kind == "tensor":
        if offset.dtype not in (torch.int32, torch.int64) or tuple(offset.shape) != (sizes["B"],):
            refuse(f"{name}: expected an int tensor [{sizes['B']}], got {_dtype(offset)} {list(offset.shape)}")
        if offset.device != call.q.device:
            refuse(f"{name}: expected the device of q, {call.q.device}, got {offset.device}")
        if _may_read(call, offset):
            for value in _numbers(offset):
                _check_reach(name, value, sizes)
        return offset.to(torch.int32).contiguous()
    _check_reach(name, offset, sizes)
    return offset


def _numbers(tensor: Tensor) -> list[int]:
    return cast(Any, tensor).tolist()


def _may_read(call: RawCall, tensor: Tensor) -> bool:
    """Whether the values of a tensor are to be looked at: always where that costs no waiting for a device."""
    return call.checks == "full" or (call.checks == "basic" and tensor.device.type == "cpu")


def _check_reach(name: str, offset: int, sizes: Mapping[str, int]) -> None:
    last = offset + sizes["N" if name == "q_offset" else "M"]
    if not -INT32 < offset or last >= INT32:
        refuse(f"{name}: positions {offset} to {last - 1} do not fit 32 bits")


def _both_starts(given: Any) -> tuple[Any, ...]:
    if given is None:
        return ()
    both: tuple[Any, ...] = (*given,) if isinstance(given, tuple | list) else (given, given)  # pyright: ignore[reportUnknownVariableType]
    if len(both) != 2:
        refuse(f"cu_seqlens: expected a tensor [S + 1] or a pair of them, got {len(both)} items")
    return both


def _check_packing(call: RawCall, sizes: Mapping[str, int]) -> tuple[Tensor | None, Tensor | None]:
    if call.cu_seqlens is None:
        return None, None
    both = _both_starts(call.cu_seqlens)
    if sizes["B"] != 1:
        refuse(f"cu_seqlens: packed documents need batch size 1, got {sizes['B']}")
    checked = [_check_starts(name, tensor, call, sizes[name]) for name, tensor in zip(("N", "M"), both, strict=True)]
    if checked[0].shape != checked[1].shape:
        refuse(f"cu_seqlens: {checked[0].shape[0] - 1} documents of queries but {checked[1].shape[0] - 1} of keys")
    return checked[0], checked[1]


def _check_starts(size: str, starts: Any, call: RawCall, total: int) -> Tensor:
    _check_plain("cu_seqlens", starts)
    if starts.dtype not in (torch.int32, torch.int64) or starts.dim() != 1 or starts.shape[0] < 1:
        refuse(f"cu_seqlens: expected an int tensor [S + 1], got {_dtype(starts)} {list(starts.shape)}")
    if starts.device != call.q.device:
        refuse(f"cu_seqlens: expected the device of q, {call.q.device}, got {starts.device}")
    if _may_read(call, starts):
        values = _numbers(starts)
        if values[0] != 0 or values[-1] != total or any(a > b for a, b in pairwise(values)):
            refuse(f"cu_seqlens: expected 0 <= ... <= {total} = {size}, never falling, got {values[:8]}...")
    return starts.to(torch.int32).contiguous()

"""Accumulators in memory, between the stages of an attention: float32, [B, H, N] or with features [B, H, N, Dv]."""

from __future__ import annotations

from attnc.codegen.context import Arg, Variant
from attnc.codegen.place import tensor_args
from attnc.codegen.token_loads import padded
from attnc.ir.plan import Accumulator, KernelPlan, Scatter

#: Begins the names of accumulators in memory.
STATE = "state:"
#: What an accumulator holds before any key.
IDENTITY = {"sum": "0.0", "max": 'float("-inf")', "min": 'float("inf")'}


def state_key(acc: Accumulator) -> str:
    """The name of the buffer among those of a call."""
    return f"{STATE}{acc.name}"


def has_buffers(plan: KernelPlan) -> bool:
    """Whether all accumulators of a plan are in memory, not only the saved ones."""
    return len(plan.stages) > 1 or plan.output is None or plan.states is not None


def column_key(acc: Accumulator) -> str:
    """The name of a sum over queries among what a call leaves: float32 [B, H or Hk, M] or [B, H or Hk, M, dim]."""
    return f"column:{acc.name}"


def scatter_key(scatter: Scatter) -> str:
    """The name of a sum over pairs among what a call leaves: of the shape of the tensor that it goes to."""
    return f"scatter:{scatter.name}"


def state_args(acc: Accumulator) -> list[Arg]:
    """Pointer and strides of the buffer."""
    return tensor_args(state_key(acc), _stem(acc), 4 if acc.weighted else 3, "float32")


def load_lines(acc: Accumulator, variant: Variant) -> list[str]:
    """The accumulator as an earlier stage left it."""
    address, mask = _place(acc, variant)
    return [*_features(acc), f"{acc.name} = tl.load({address}, mask={mask}, other={IDENTITY[acc.op]})"]


def store_lines(acc: Accumulator, variant: Variant) -> list[str]:
    """Leave the accumulator for a later stage."""
    address, mask = _place(acc, variant)
    return [*_features(acc), f"tl.store({address}, {acc.name}, mask={mask})"]


def _stem(acc: Accumulator) -> str:
    return f"state_{acc.name}"


def _features(acc: Accumulator) -> list[str]:
    return [f"d_{acc.name} = tl.arange(0, {padded(acc.dim)})"] if acc.weighted else []


def _place(acc: Accumulator, variant: Variant) -> tuple[str, str]:
    """Addresses and which of them exist."""
    stem = _stem(acc)
    row = "(q_start + row)" if variant.packed else "row"
    base = f"{stem}_ptr + b.to(tl.int64) * {stem}_s0 + h.to(tl.int64) * {stem}_s1"
    if not acc.weighted:
        return f"{base} + {row}.to(tl.int64) * {stem}_s2", "row_ok"
    address = f"{base} + {row}.to(tl.int64)[:, None] * {stem}_s2 + d_{acc.name}[None, :] * {stem}_s3"
    if padded(acc.dim) == acc.dim:
        return address, "row_ok[:, None]"
    return address, f"row_ok[:, None] & (d_{acc.name} < {acc.dim})[None, :]"

"""What kind of call a checked call is: what changes the text of its kernels, and what it lets them assume."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnc.calls import refuse
from attnc.codegen.context import Variant
from attnc.codegen.launch import CallInputs
from attnc.ir.intervals import MAX_POSITION
from attnc.ir.long_calls import is_long

#: Pairs of positions from which a call lists its tiles; a device has to be waited for, so it asks for more.
_LISTED = {"cpu": 1 << 12}
_LISTED_ON_DEVICE = 1 << 22


def variant_of(call: CallInputs) -> Variant:
    """What a call changes in the text of its kernels."""

    def kind(offset: object) -> Any:
        return "tensor" if isinstance(offset, Tensor) else "end" if isinstance(offset, str) else "int"

    if call.cu_q is not None and any(isinstance(o, Tensor) for o in (call.q_offset, call.k_offset)):
        refuse('q_offset, k_offset: packed documents take an int or "end"')
    return Variant(
        packed=call.cu_q is not None,
        q_offset=kind(call.q_offset),
        k_offset=kind(call.k_offset),
        wide=needs_wide(call),
        aux=call.return_aux,
        wide_tensors=frozenset(name for name, tensor in call.tensors.items() if tensor.dtype == torch.int64),
    )


def starts_at_zero(call: CallInputs) -> bool:
    """Whether row r of queries and of keys is position r."""
    starts = (call.q_offset, call.k_offset)
    return call.cu_q is None and all(isinstance(start, int) and start == 0 for start in starts)


def may_list(call: CallInputs) -> bool:
    """Whether a call is long enough to look at what its mask looks up, and its offsets are known on the host."""
    queries, keys = call.q.shape[2], call.k.shape[2]
    known = call.cu_q is None and not any(isinstance(x, Tensor) for x in (call.q_offset, call.k_offset))
    return known and queries > 1 and queries * keys >= _LISTED.get(call.q.device.type, _LISTED_ON_DEVICE)


def may_use_states(call: CallInputs) -> bool:
    """Whether a call is long enough for states to be less work than pairs, and its offsets are known on the host."""
    known = call.cu_q is None and not any(isinstance(x, Tensor) for x in (call.q_offset, call.k_offset))
    return known and is_long(call.q.shape[2], call.k.shape[2], max(call.q.shape[3], call.v.shape[3]))


def needs_wide(call: CallInputs) -> bool:
    """Whether a position may be so large that sums of two of them leave 32 bits: offsets on the device may be."""
    if isinstance(call.q_offset, Tensor) or isinstance(call.k_offset, Tensor):
        return True
    q = call.q_offset if isinstance(call.q_offset, int) else 0
    reach = (abs(q) + call.q.shape[2], abs(call.k_offset) + call.k.shape[2])
    return max(reach) > MAX_POSITION

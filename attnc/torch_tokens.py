"""What single tokens compute on torch: environments of expressions, values per token, sums into looked-up elements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from attnc.codegen.launch import CallInputs
from attnc.eager import Env, evaluate
from attnc.ir.expr import Expr, Lookup, Value
from attnc.ir.plan import Derived, KernelPlan
from attnc.ir.traverse import walk
from attnc.packing import documents

#: Features of all tokens that are computed together on a CPU.
_BLOCK = 1 << 18


def compute_dtype(call: CallInputs) -> torch.dtype:
    """What this back end computes a call in: float32, but float64 for float64, and for what is differentiated on a CPU.

    What a pair passes back is a small difference, and there is no speed to lose by more digits on a CPU.
    """
    double = call.q.dtype == torch.float32 and call.q.device.type == "cpu" and call.training
    return torch.float64 if double or call.q.dtype == torch.float64 else torch.float32


def environment(plan: KernelPlan, call: CallInputs, dtype: torch.dtype) -> Env:
    """What the expressions of a plan read of a call, but for rows and columns."""
    batch, heads, rows = call.q.shape[:3]
    key_heads, keys = call.k.shape[1:3]
    device = call.q.device
    head = torch.arange(heads, device=device).view(1, -1, 1, 1)
    q_offset = keys - rows if isinstance(call.q_offset, str) else call.q_offset
    return Env(
        indices={
            "b": torch.arange(batch, device=device).view(-1, 1, 1, 1),
            "h": head,
            "hk": head // max(heads // max(key_heads, 1), 1),
        },
        sizes={"B": batch, "H": heads, "Hk": key_heads, "N": rows, "M": keys, "D": plan.head_dim, "Dv": plan.value_dim},
        params=call.params,
        values={
            "q_offset": _offset(q_offset, device),
            "k_offset": _offset(call.k_offset, device),
            "scale": torch.tensor(call.scale, dtype=dtype, device=device),
        },
        tensors={name: x.to(dtype) if x.is_floating_point() else x for name, x in call.tensors.items()},
        dtype=dtype,
        device=device,
        relative=True,
    )


def _offset(offset: int | Tensor, device: torch.device) -> Tensor:
    if isinstance(offset, int):
        return torch.tensor(offset, device=device)
    return offset.to(torch.int64).view(-1, 1, 1, 1)


def at_rows(env: Env, rows: Tensor) -> Env:
    """The environment at stored rows of queries."""
    r = rows.view(1, 1, -1, 1)
    return replace(env, indices={**env.indices, "r": r, "i": env.values["q_offset"] + r}, whole=env.whole - {"r"})


def at_keys(env: Env, keys: Tensor) -> Env:
    """The environment at stored rows of keys."""
    c = keys.view(1, 1, 1, -1)
    return replace(env, indices={**env.indices, "c": c, "j": env.values["k_offset"] + c}, whole=env.whole - {"c"})


def token_values(given: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Those of q, k, v that are given in the layout of `eager`, keys repeated so that there are `heads`."""
    queries = {"q": given["q"].unsqueeze(3)} if "q" in given else {}
    return queries | {name: _repeated(given[name], heads).unsqueeze(2) for name in ("k", "v") if name in given}


def _repeated(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // max(x.shape[1], 1), dim=1)


def derived_tokens(plan: KernelPlan, call: CallInputs, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The values per token that a plan computes before its attention, [B, heads, tokens] or with features, float32.

    Computed in `dtype` and left in it, if one is given.
    """
    if not plan.derived:
        return {}
    if call.cu_q is None:
        return _derive_all(plan, call, dtype)
    found = [_derive_all(plan, part, dtype) for part in documents(plan.module, call)]
    if not found:
        return _derive_all(plan, replace(call, cu_q=None, cu_k=None), dtype)
    return {name: torch.cat([values[name] for values in found], dim=2) for name in found[0]}


def _derive_all(plan: KernelPlan, call: CallInputs, dtype: torch.dtype | None) -> dict[str, Tensor]:
    chosen = dtype or compute_dtype(call)
    read = reading(call, [derived.expr for derived in plan.derived])
    if _in_blocks(call):
        env = replace(environment(plan, read, chosen), whole=frozenset(("b", "h")))
        return {derived.name: _derive_in_blocks(derived, call, env) for derived in plan.derived}
    env = everywhere(plan, read, chosen)
    return {derived.name: _derive(derived, call, env).contiguous() for derived in plan.derived}


def _in_blocks(call: CallInputs) -> bool:
    """Whether tokens are computed some at a time, so that what is between stays in the caches of a CPU."""
    given = (call.q, call.k, call.v, *call.tensors.values())
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    return call.q.device.type == "cpu" and not recorded and max(call.q.numel(), call.k.numel()) > 2 * _BLOCK


def _derive_in_blocks(derived: Derived, call: CallInputs, env: Env) -> Tensor:
    tokens = call.q if derived.side == "q" else call.k
    count, step = tokens.shape[2], max(_BLOCK * tokens.shape[2] // max(tokens.numel(), 1), 1)
    whole: Tensor | None = None
    for first in range(0, count, step):
        here = slice(first, min(first + step, count))
        index = torch.arange(here.start, here.stop)
        if derived.side == "q":
            value = _derive(derived, replace(call, q=call.q[:, :, here]), at_rows(env, index))
        else:
            value = _derive(derived, replace(call, k=call.k[:, :, here], v=call.v[:, :, here]), at_keys(env, index))
        if whole is None:
            whole = value.new_empty((*value.shape[:2], count, *value.shape[3:]))
        whole[:, :, here] = value
    assert whole is not None
    return whole


def reading(call: CallInputs, exprs: Iterable[Expr]) -> CallInputs:
    """The call without the tensors that none of the expressions reads: an environment converts all that it has."""
    names = {node.tensor for expr in exprs for node in walk(expr) if isinstance(node, Lookup)}
    return replace(call, tensors={name: tensor for name, tensor in call.tensors.items() if name in names})


def everywhere(plan: KernelPlan, call: CallInputs, dtype: torch.dtype) -> Env:
    """The environment at all stored rows of queries and keys."""
    device = call.q.device
    env = at_rows(environment(plan, call, dtype), torch.arange(call.q.shape[2], device=device))
    return replace(at_keys(env, torch.arange(call.k.shape[2], device=device)), whole=frozenset(("b", "h", "r", "c")))


def _derive(derived: Derived, call: CallInputs, env: Env) -> Tensor:
    """The stored value per token: [B, heads, tokens] or with features."""
    heads = call.q.shape[1] if derived.heads == "H" else call.k.shape[1]
    if derived.heads == "Hk":
        index = torch.arange(heads, device=call.q.device).view(1, -1, 1, 1)
        env = replace(env, indices={**env.indices, "hk": index}, whole=env.whole | {"hk"})
    read = {node.name for node in walk(derived.expr) if isinstance(node, Value)}
    given = {name: x.to(env.dtype) for name, x in (("q", call.q), ("k", call.k), ("v", call.v)) if name in read}
    value = evaluate(derived.expr, replace(env, values={**env.values, **token_values(given, heads)}))
    tokens = call.q.shape[2] if derived.side == "q" else call.k.shape[2]
    shape = (call.q.shape[0], heads, tokens, 1) if derived.side == "q" else (call.q.shape[0], heads, 1, tokens)
    vector = value.dim() == 5
    full = value.expand(*shape, *value.shape[4:]) if value.dim() >= 4 else value.expand(shape)
    return full.reshape(call.q.shape[0], heads, tokens, *((value.shape[-1],) if vector else ()))


def add_at(into: Tensor, indices: tuple[Expr, ...], body: Tensor, env: Env) -> None:
    """Add `body` [B, H, N, M] at the elements of `into` that look-ups by `indices` read, in a fixed order."""
    if body.numel() == 0:
        return
    places = [evaluate(index, env) for index in indices]
    places = [place.view((1,) * (body.dim() - place.dim()) + place.shape) for place in places]
    clamped = tuple(place.clamp(0, size - 1) for place, size in zip(places, into.shape, strict=True))
    shape = [max((place.shape[axis] for place in clamped), default=1) for axis in range(body.dim())]
    together = body.sum_to_size(shape)  # what shares an element on whole axes
    into.index_put_(tuple(place.expand(shape) for place in clamped), together, accumulate=True)

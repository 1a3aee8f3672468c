"""The plain evaluation of an attention in one dtype: its dense formula as one would write it in torch.

It is the yardstick of `verify`, never the oracle: every step is rounded to the dtype, and the error that this costs
is what an error of a back end is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor

from attnc.drawing import Inputs
from attnc.eager import Env, evaluate
from attnc.ir.dependence import Axes, axes
from attnc.ir.expr import Const, Reduce, ReduceOp, Size, Value
from attnc.ir.module import AttentionModule, Grid
from attnc.ir.traverse import walk

Results = dict[str, Tensor]
_IDENTITY: dict[ReduceOp, float] = {"max": float("-inf"), "min": float("inf")}


def evaluate_plainly(module: AttentionModule, inputs: Inputs, dtype: torch.dtype) -> Results:
    """The output under the name "out" and the statistics under theirs, computed in `dtype`."""
    if "cu_seqlens" not in inputs.options:
        return _attend(module, inputs, dtype)
    parts = [_attend(module, part, dtype) for part in _documents(module, inputs)]
    return {name: torch.cat([part[name] for part in parts], dim=2) for name in parts[0]}


def _documents(module: AttentionModule, inputs: Inputs) -> Iterator[Inputs]:
    packing = inputs.options["cu_seqlens"]
    starts: tuple[Tensor, Tensor] = packing if isinstance(packing, tuple) else (packing, packing)  # pyright: ignore[reportUnknownVariableType]  # of any value
    rows, columns = ([slice(a, b) for a, b in pairwise(_numbers(side))] for side in starts)
    options = {name: value for name, value in inputs.options.items() if name != "cu_seqlens"}
    for row, column in zip(rows, columns, strict=True):
        places = {Size("N"): row, Size("M"): column}
        tensors = {
            name: tensor[tuple(places.get(dim, slice(None)) if isinstance(dim, Size) else slice(None) for dim in dims)]
            for name, tensor, dims in ((t.name, inputs.tensors[t.name], t.dims) for t in module.tensors)
        }
        yield replace(
            inputs,
            q=inputs.q[:, :, row],
            k=inputs.k[:, :, column],
            v=inputs.v[:, :, column],
            tensors=tensors,
            options=options,
        )


def _numbers(tensor: Tensor) -> list[int]:
    return cast(list[int], cast(Any, tensor).tolist())


def _attend(module: AttentionModule, inputs: Inputs, dtype: torch.dtype) -> Results:
    env = _environment(module, inputs, dtype)
    grid = tuple(env.sizes[name] for name in ("B", "H", "N", "M"))
    kept = evaluate(module.mask, env).expand(grid)
    env = replace(env, values={**env.values, "n_keys": kept.sum(-1, keepdim=True)})
    score = evaluate(module.score, env).to(dtype).expand(grid)
    if _reads_score(module):
        kept = kept & (kept & (score > float("-inf"))).any(-1, keepdim=True)
    env = replace(env, values={**env.values, "s": score}, reduce=partial(_reduce, kept))
    for binding in module.cascade:
        env = replace(env, refs={**env.refs, binding.name: evaluate(binding.expr, env)})
    row = _weighted_sum(env.refs["w"].to(dtype).expand(grid), evaluate(module.value, env), kept)
    out = evaluate(module.output, replace(env, values={**env.values, "o": row})).squeeze(-2)
    return {"out": out.expand(*grid[:3], out.shape[-1]), **_statistics(module, env, grid)}


def _reads_score(module: AttentionModule) -> bool:
    read = (node for binding in module.cascade for node in walk(binding.expr))
    return any(isinstance(node, Value) and node.name == "s" for node in read)


def _statistics(module: AttentionModule, env: Env, grid: tuple[int, ...]) -> Results:
    found: dict[str, Axes] = {}
    for binding in module.cascade:
        found[binding.name] = axes(binding.expr, found)
    results: Results = {}
    for aux in module.aux:
        value = evaluate(aux.expr, env).to(env.dtype)
        if "j" in axes(aux.expr, found):
            results[aux.name] = value.expand(*grid[:2], 1, grid[3]).squeeze(-2)
        else:
            results[aux.name] = value.expand(*grid[:3], 1).squeeze(-1)
    return results


def _environment(module: AttentionModule, inputs: Inputs, dtype: torch.dtype) -> Env:
    (batch, heads, n, d), (key_heads, m, dv) = inputs.q.shape, inputs.v.shape[1:]
    device = inputs.q.device
    head = torch.arange(heads, device=device).view(1, heads, 1, 1)
    group = head // max(heads // max(key_heads, 1), 1)
    offsets = {name: _offset(inputs, name, m - n) for name in ("q_offset", "k_offset")}
    rows, columns = torch.arange(n, device=device).view(1, 1, n, 1), torch.arange(m, device=device)
    scale = torch.tensor(inputs.options.get("scale", d**-0.5), dtype=dtype, device=device)
    k, v = (tokens.to(dtype)[:, group.flatten()].unsqueeze(2) for tokens in (inputs.k, inputs.v))
    defaults = {p.name: p.default.value for p in module.scalars if isinstance(p.default, Const)}
    sides: tuple[tuple[Literal["q", "k"], Grid | None], ...] = (("q", module.grid_q), ("k", module.grid_k))
    return Env(
        indices={
            "b": torch.arange(batch, device=device).view(batch, 1, 1, 1),
            "h": head,
            "hk": group,
            "i": rows + offsets["q_offset"],
            "j": columns + offsets["k_offset"],
        },
        sizes={"B": batch, "H": heads, "Hk": key_heads, "N": n, "M": m, "D": d, "Dv": dv},
        params={**defaults, **inputs.params},
        values={"q": inputs.q.to(dtype).unsqueeze(3), "k": k, "v": v, "scale": scale, **offsets},
        tensors={name: _in(dtype, tensor) for name, tensor in inputs.tensors.items()},
        dims={tensor.name: tensor.dims for tensor in module.tensors},
        grids={side: grid for side, grid in sides if grid is not None},
        dtype=dtype,
        device=device,
    )


def _offset(inputs: Inputs, name: str, end: int) -> Tensor:
    offset = inputs.options.get(name, 0)
    return torch.as_tensor(end if offset == "end" else offset, device=inputs.q.device).view(-1, 1, 1, 1)


def _in(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


# -- sums and extrema over what is kept ------------------------------------------------------------------------------


def _weighted_sum(weight: Tensor, value: Tensor, kept: Tensor) -> Tensor:
    weight = torch.where(kept, weight, 0.0)
    if value.shape[-3] == 1:
        return (weight @ value.expand(*kept.shape[:2], 1, *value.shape[3:]).squeeze(2)).unsqueeze(-2)
    return torch.where(kept.unsqueeze(-1), weight.unsqueeze(-1) * value, 0.0).sum(-2, keepdim=True)


def _reduce(kept: Tensor, node: Reduce, env: Env) -> Tensor:
    body = evaluate(node.body, env).expand(kept.shape)
    dim = -1 if node.axis == "j" else -2
    if node.group is None:
        return _fold(node.op, body, kept, dim)
    group = evaluate(node.group, env).expand(kept.shape)
    result = torch.zeros_like(body)
    for label in sorted(set(_numbers(group.flatten()))):
        member = group == label
        result = torch.where(member, _fold(node.op, body, kept & member, dim), result)
    return result


def _fold(op: ReduceOp, body: Tensor, kept: Tensor, dim: int) -> Tensor:
    match op:
        case "count":
            return (kept & body if body.dtype == torch.bool else kept).sum(dim, keepdim=True)
        case "sum":
            return torch.where(kept, body, 0).sum(dim, keepdim=True)
        case "mean":
            total = torch.where(kept, body, 0).sum(dim, keepdim=True)
            return total / kept.sum(dim, keepdim=True).clamp(min=1)
        case "max" | "min":
            return _extreme(op, body, kept, dim)


def _extreme(op: Literal["max", "min"], body: Tensor, kept: Tensor, dim: int) -> Tensor:
    if body.is_floating_point():
        empty: float = _IDENTITY[op]
    else:
        empty = torch.iinfo(body.dtype).min if op == "max" else torch.iinfo(body.dtype).max
    if body.shape[dim] == 0:
        return body.sum(dim, keepdim=True).fill_(empty)
    masked = torch.where(kept, body, empty)
    return masked.amax(dim, keepdim=True) if op == "max" else masked.amin(dim, keepdim=True)

"""The dense meaning of a typed module, in float64: the definition that every back end is tested against.

Interprets the module with whole [B, H, N, M] tensors and torch autograd. Imports `ir`, `eager` and
torch only; shares nothing with planning or emission.

What it defines beyond the formulas:
- a masked key does not exist: no reduction sees it, whatever its score would be;
- a score of -inf is a key of weight zero; a row whose kept scores are all -inf has no keys, and, where
  the cascade has statistics of columns, a column likewise (`n_keys` still counts what the mask keeps);
- a row without keys outputs 0 before the output maps, sends no gradient anywhere, and its statistics are
  those of the empty set: sum, count and mean 0; what depends on a max is -inf, on a min +inf;
- the gradient of a max or min is shared equally among ties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, assert_never, cast, overload

import torch
from torch import Tensor

from attnc.diagnostics import CallError
from attnc.eager import Env, evaluate, evaluate_int, guarded
from attnc.ir.dependence import Axes, axes
from attnc.ir.expr import Expr, Reduce, ReduceOp, Ref, Size, Value
from attnc.ir.module import AttentionModule, Binding, Grid
from attnc.ir.traverse import children, walk

Number = bool | int | float | Tensor
Offset = int | Tensor | Literal["end"]
Aux = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments of one call, converted once."""

    q: Tensor
    k: Tensor
    v: Tensor
    tensors: Mapping[str, Tensor]
    params: Mapping[str, Number]
    q_offset: Offset
    k_offset: Offset
    scale: Number | None


@overload
def reference(
    module: AttentionModule,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    params: Mapping[str, Number] | None = None,
    q_offset: Offset = 0,
    k_offset: Offset = 0,
    cu_seqlens: Tensor | Sequence[Tensor] | None = None,
    scale: Number | None = None,
    return_aux: Literal[False] = False,
) -> Tensor: ...
@overload
def reference(
    module: AttentionModule,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    params: Mapping[str, Number] | None = None,
    q_offset: Offset = 0,
    k_offset: Offset = 0,
    cu_seqlens: Tensor | Sequence[Tensor] | None = None,
    scale: Number | None = None,
    return_aux: Literal[True],
) -> tuple[Tensor, Aux]: ...
def reference(
    module: AttentionModule,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    params: Mapping[str, Number] | None = None,
    q_offset: Offset = 0,
    k_offset: Offset = 0,
    cu_seqlens: Tensor | Sequence[Tensor] | None = None,
    scale: Number | None = None,
    return_aux: bool = False,
) -> Tensor | tuple[Tensor, Aux]:
    """The output [B, H, N, Dv] in float64, and on request the statistics, [B, H, N] or [B, H, M].

    q [B, H, N, D], k [B, Hk, M, D], v [B, Hk, M, Dv]; `params` are the dynamic scalars.
    """
    call = _Call(
        q.double(),
        k.double(),
        v.double(),
        {name: _exact(tensor) for name, tensor in (tensors or {}).items()},
        params or {},
        q_offset,
        k_offset,
        scale,
    )
    output, aux = _attend(module, call) if cu_seqlens is None else _documents(module, call, cu_seqlens)
    return (output, aux) if return_aux else output


def _exact(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


# ------------------------------------------------------------------------------ packed documents


def _documents(module: AttentionModule, call: _Call, cu_seqlens: Tensor | Sequence[Tensor]) -> tuple[Tensor, Aux]:
    """Every document by itself: its i, j, N, M and n_keys are its own."""
    if call.q.shape[0] != 1:
        raise CallError(f"cu_seqlens needs a batch of 1, got {call.q.shape[0]}")
    sides = (cu_seqlens, cu_seqlens) if isinstance(cu_seqlens, Tensor) else tuple(cu_seqlens)
    rows = _spans(sides[0], call.q.shape[2])
    columns = _spans(sides[1], call.k.shape[2])
    if len(rows) != len(columns):
        raise CallError(f"cu_seqlens: {len(rows)} documents of queries, {len(columns)} of keys")
    parts = [_attend(module, _document(module, call, r, c)) for r, c in zip(rows, columns, strict=True)]
    output = torch.cat([part[0] for part in parts], dim=2)
    return output, {name: torch.cat([part[1][name] for part in parts], dim=2) for name in parts[0][1]}


def _spans(cu_seqlens: Tensor, length: int) -> list[slice]:
    bounds = [int(bound) for bound in cast(list[int], cast(Any, cu_seqlens).tolist())]
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != length or bounds != sorted(bounds):
        raise CallError(f"cu_seqlens must rise from 0 to the {length} tokens, got {bounds}")
    return [slice(low, high) for low, high in pairwise(bounds)]


def _document(module: AttentionModule, call: _Call, rows: slice, columns: slice) -> _Call:
    tensors = {name: _slice(module, name, tensor, rows, columns) for name, tensor in call.tensors.items()}
    return replace(call, q=call.q[:, :, rows], k=call.k[:, :, columns], v=call.v[:, :, columns], tensors=tensors)


def _slice(module: AttentionModule, name: str, tensor: Tensor, rows: slice, columns: slice) -> Tensor:
    ranges = {Size("N"): rows, Size("M"): columns}
    dims = module.tensor(name).dims
    return tensor[tuple(ranges.get(dim, slice(None)) if isinstance(dim, Size) else slice(None) for dim in dims)]


# ----------------------------------------------------------------------------------- one problem


def _attend(module: AttentionModule, call: _Call) -> tuple[Tensor, Aux]:
    env = _environment(module, call)
    _check_tensors(module, env)
    grid = tuple(env.sizes[name] for name in ("B", "H", "N", "M"))
    kept = evaluate(module.mask, env).expand(grid)
    env = replace(env, values={**env.values, "n_keys": kept.sum(-1, keepdim=True)})
    pairs = replace(_without_dead_tokens(env, kept), reduce=partial(_reduce, kept))
    score = evaluate(module.score, pairs).to(torch.float64).expand(grid)
    kept = _without_dead_scores(module, kept, score)
    pairs = replace(pairs, values={**pairs.values, "s": score}, reduce=partial(_reduce, kept))
    for binding in module.cascade:
        pairs = replace(pairs, refs={**pairs.refs, binding.name: evaluate(binding.expr, pairs)})
    row = _weighted_sum(pairs.refs["w"], evaluate(module.value, pairs), kept)
    tail = replace(env, refs=pairs.refs, values={**env.values, "s": score, "o": row}, reduce=pairs.reduce)
    output = evaluate(module.output, tail).squeeze(-2)
    output = output.expand(*grid[:3], output.shape[-1])
    return output, {aux.name: _statistic(module, aux, tail, kept) for aux in module.aux}


def _environment(module: AttentionModule, call: _Call) -> Env:
    (batch, heads, n, d), (key_heads, m, dv) = call.q.shape, call.v.shape[1:]
    if heads % max(key_heads, 1) or call.k.shape != (batch, key_heads, m, d):
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in (("q", call.q), ("k", call.k), ("v", call.v)))
        raise CallError(f"expected q [B, H, N, D], k [B, Hk, M, D], v [B, Hk, M, Dv] with H a multiple of Hk: {shapes}")
    device = call.q.device
    head = torch.arange(heads, device=device).view(1, heads, 1, 1)
    group = head // max(heads // max(key_heads, 1), 1)
    q_offset, k_offset = (_offset(offset, batch, m - n, device) for offset in (call.q_offset, call.k_offset))
    rows, columns = torch.arange(n, device=device).view(1, 1, n, 1), torch.arange(m, device=device)
    indices = {"b": torch.arange(batch, device=device).view(batch, 1, 1, 1), "h": head, "hk": group}
    scale = d**-0.5 if call.scale is None else call.scale
    values = {
        "q": call.q.unsqueeze(3),
        "k": call.k[:, group.flatten()].unsqueeze(2),
        "v": call.v[:, group.flatten()].unsqueeze(2),
        "scale": scale.double() if isinstance(scale, Tensor) else torch.tensor(float(scale), dtype=torch.float64),
        "q_offset": q_offset,
        "k_offset": k_offset,
    }
    env = Env(
        indices={**indices, "i": rows + q_offset, "j": columns + k_offset},
        sizes={"B": batch, "H": heads, "Hk": key_heads, "N": n, "M": m, "D": d, "Dv": dv},
        values=values,
        tensors=call.tensors,
        dims={tensor.name: tensor.dims for tensor in module.tensors},
        grids=_grids(module),
        device=device,
    )
    return replace(env, params=_parameters(module, call.params, env))


def _grids(module: AttentionModule) -> dict[Literal["q", "k"], Grid]:
    sides: tuple[tuple[Literal["q", "k"], Grid | None], ...] = (("q", module.grid_q), ("k", module.grid_k))
    return {side: grid for side, grid in sides if grid is not None}


def _offset(offset: Offset, batch: int, end: int, device: torch.device) -> Tensor:
    value = torch.as_tensor(end if isinstance(offset, str) else offset, dtype=torch.int64, device=device)
    if value.shape not in ((), (batch,)):
        raise CallError(f"an offset is one position or one for each of the {batch} sequences, got {tuple(value.shape)}")
    return value.view(-1, 1, 1, 1)


def _parameters(module: AttentionModule, given: Mapping[str, Number], env: Env) -> dict[str, Number]:
    unknown = sorted(given.keys() - {scalar.name for scalar in module.scalars})
    if unknown:
        raise CallError(f"{module.name} has no dynamic parameter {', '.join(unknown)}")
    found: dict[str, Number] = {}
    for scalar in module.scalars:
        if scalar.name in given:
            found[scalar.name] = given[scalar.name]
        elif scalar.default is not None:
            found[scalar.name] = evaluate(scalar.default, replace(env, params=found))
        else:
            raise CallError(f"{module.name} needs the parameter {scalar.name}")
    return found


def _check_tensors(module: AttentionModule, env: Env) -> None:
    declared = {tensor.name for tensor in module.tensors}
    if set(env.tensors) != declared:
        raise CallError(f"{module.name} takes the tensors {sorted(declared)}, got {sorted(env.tensors)}")
    for tensor in module.tensors:
        expected = tuple(evaluate_int(dim, env) for dim in tensor.dims)
        got = tuple(env.tensors[tensor.name].shape)
        if got != expected:
            raise CallError(f"tensor {tensor.name}: expected shape {expected}, got {got}")


# ------------------------------------------------------------------------------ keys that count


def _without_dead_tokens(env: Env, kept: Tensor) -> Env:
    """Tokens that take part in no pair are zeroed where they hold what would spoil the gradients of others."""
    alive = {"q": kept.any(-1, keepdim=True), "k": kept.any(-2, keepdim=True), "v": kept.any(-2, keepdim=True)}
    clean = {
        name: value if bool(value.isfinite().all()) else torch.where(alive[name].unsqueeze(-1), value, 0.0)
        for name, value in env.values.items()
        if name in alive
    }
    return replace(env, values={**env.values, **clean})


def _without_dead_scores(module: AttentionModule, kept: Tensor, score: Tensor) -> Tensor:
    """Rows (and columns, where there are column statistics) that keep nothing but -inf keep nothing."""
    nodes = [node for binding in (*module.cascade, *module.aux) for node in walk(binding.expr)]
    if not any(isinstance(node, Value) and node.name == "s" for node in nodes):
        return kept
    some = kept & (score != -torch.inf)
    kept = kept & some.any(-1, keepdim=True)
    if any(isinstance(node, Reduce) and node.axis == "i" for node in nodes):
        kept = kept & some.any(-2, keepdim=True)
    return kept


def _weighted_sum(weight: Tensor, value: Tensor, kept: Tensor) -> Tensor:
    """o as [B, H, N, 1, Dv]; what is not kept adds nothing, finite or not."""
    weight = torch.where(kept, weight.double(), 0.0)
    value = value.expand(*kept.shape[:2], *value.shape[2:])
    if value.shape[-3] == 1 and bool(value.isfinite().all()):
        return (weight @ value.squeeze(-3)).unsqueeze(-2)
    return torch.where(kept.unsqueeze(-1), weight.unsqueeze(-1) * value, 0.0).sum(-2, keepdim=True)


# ------------------------------------------------------------------------------------ reductions


def _reduce(kept: Tensor, node: Reduce, env: Env) -> Tensor:
    body = evaluate(node.body, env)
    if node.type.kind == "real":
        body = body.to(torch.float64)
    body = body.expand(kept.shape)
    dim = -1 if node.axis == "j" else -2
    if node.group is None:
        return _fold(node.op, body, kept, dim)
    group = evaluate(node.group, env).expand(kept.shape)
    result = torch.zeros_like(_fold(node.op, body, kept, dim)).expand(kept.shape)
    for label in cast(Tensor, cast(Any, torch).unique(group)):
        member = group == label
        result = torch.where(member, _fold(node.op, body, kept & member, dim), result)
    return result


def _fold(op: ReduceOp, body: Tensor, kept: Tensor, dim: int) -> Tensor:
    """The reduction of what is kept, with the reduced dimension left as one."""
    match op:
        case "max":
            return _extreme(torch.amax, body, kept, dim, low=True)
        case "min":
            return _extreme(torch.amin, body, kept, dim, low=False)
        case "sum":
            return torch.where(kept, body, 0).sum(dim, keepdim=True)
        case "count":
            return (kept & body).sum(dim, keepdim=True)
        case "mean":
            total, count = torch.where(kept, body, 0.0).sum(dim, keepdim=True), kept.sum(dim, keepdim=True)
            return total / count.clamp(min=1)
        case _:
            assert_never(op)


def _extreme(fold: Callable[..., Tensor], body: Tensor, kept: Tensor, dim: int, *, low: bool) -> Tensor:
    if body.is_floating_point():
        empty = -torch.inf if low else torch.inf
    else:
        info = torch.iinfo(body.dtype)
        empty = info.min if low else info.max
    if body.shape[dim] == 0:
        return body.new_full((), empty).expand(body.sum(dim, keepdim=True).shape)
    return guarded(partial(fold, dim=dim, keepdim=True), torch.where(kept, body, empty))


# ------------------------------------------------------------------------------------ statistics


def _statistic(module: AttentionModule, aux: Binding, env: Env, kept: Tensor) -> Tensor:
    """[B, H, N] or [B, H, M]; that of an empty row or column is the empty set's and has no gradient."""
    steps = {binding.name: binding.expr for binding in module.cascade}
    dim, axis = (-2, "i") if "j" in _axes(aux.expr, steps) else (-1, "j")
    some = kept.any(dim, keepdim=True)
    value = evaluate(aux.expr, env).to(torch.float64).expand(some.shape)
    ops = {node.op for node in _nodes(aux.expr, steps) if isinstance(node, Reduce) and node.axis == axis}
    empty = value.detach()
    if "max" in ops or "min" in ops:
        empty = torch.full_like(empty, -torch.inf if "max" in ops else torch.inf)
    return torch.where(some, value, empty).squeeze(dim)


def _axes(expr: Expr, steps: Mapping[str, Expr]) -> Axes:
    """Whether a value differs between queries ("i"), between keys ("j"), or both; `steps` is the cascade in order."""
    found: dict[str, Axes] = {}
    for name, step in steps.items():
        found[name] = axes(step, found)
    return axes(expr, found)


def _nodes(expr: Expr, steps: Mapping[str, Expr]) -> Iterator[Expr]:
    """The nodes of an expression and of the steps that it depends on, each step once.

    What a reduction reduces is not looked at: the sum over no keys is 0, whatever the terms would have read.
    """
    seen: set[str] = set()
    waiting = [expr]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Reduce):
            continue
        waiting.extend(children(node))
        if isinstance(node, Ref) and node.name not in seen:
            seen.add(node.name)
            waiting.append(steps[node.name])

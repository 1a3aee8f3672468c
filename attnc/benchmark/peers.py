"""Other implementations of attention that are measured beside an op, given what its spec says.

Each gets the spec's own mask and score: as a dense tensor, or as functions of the indices. Whether it then computes
what the spec means, `measure.py` finds out by comparing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from attnc.benchmark.problem import PRODUCT, CannotError, Problem
from attnc.eager import evaluate
from attnc.ir.expr import TRUE, Expr

#: Evaluating the mask of so many pairs takes a minute.
_MOST_PAIRS = 1 << 32
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Peer:
    """An implementation, ready to be called with q, k, v; `note` says how it was given the spec."""

    attend: Attend
    note: str


def _with_maps(problem: Problem, attend: Attend, note: str) -> Peer:
    """The maps of tokens that the spec has around an implementation that knows none."""
    query, key, value, output = problem.maps()

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return output(attend(query(q), key(k), value(v)))

    mapped = [each.name for each in (query, key, value, output) if not each.is_identity]
    return Peer(run, f"{note}, after torch maps of {', '.join(mapped)}" if mapped else note)


# -- memory ----------------------------------------------------------------------------------------------------------


def available_bytes(device: torch.device) -> int:
    """How much memory is free: on the GPU, or for this process under the limits of the system and its control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = [int(line.split()[1]) * 1024]
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():
        free.append(int(limit[0]) - int(used[0]))
    return max(0, min(free))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _require(problem: Problem, needed: int) -> None:
    free = available_bytes(problem.device)
    if needed > 0.8 * free:
        raise CannotError(f"needs about {memory(needed)} for pairs of queries and keys, {memory(free)} are free")


def memory(count: int) -> str:
    """Bytes as people say them."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


# -- scaled_dot_product_attention ------------------------------------------------------------------------------------


def sdpa(problem: Problem, *, compiled: bool = True) -> Peer:
    """torch's scaled_dot_product_attention with what the spec adds to the product as a dense mask or bias.

    A mask that keeps all pairs, or that is the causal one, is not given as a tensor, so that torch takes its fastest
    path. Raises CannotError.
    """
    del compiled
    mask, causal, note = _dense_mask(problem)
    scale, _ = problem.scale()
    grouped = {"enable_gqa": True} if problem.group > 1 else {}

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=scale, **grouped
        )

    return _with_maps(problem, attend, note)


def _dense_mask(problem: Problem) -> tuple[Tensor | None, bool, str]:
    """The mask or bias, whether it is the causal mask instead, and what it is."""
    bias = problem.bias()
    pairs = torch.Size(problem.dense_shape(problem.module.mask)).numel()
    if bias is None:
        if pairs > _MOST_PAIRS:
            raise CannotError(
                f"{pairs:.1e} pairs are too many to make a dense mask of, or to tell whether it is causal"
            )
        if _mask_is(problem, lambda _, columns: columns >= 0):
            return None, False, "no mask"
        if _mask_is(problem, lambda rows, columns: columns <= rows):
            return None, True, "is_causal"
    dtype = problem.inputs.q.dtype
    parts = [problem.module.mask] if bias is None else [problem.module.mask, bias]
    shapes = cast(tuple[int, ...], tuple(max(sizes) for sizes in zip(*map(problem.dense_shape, parts), strict=True)))
    _require(problem, torch.Size(shapes).numel() * (1 + 2 * dtype.itemsize))
    dense = problem.dense(problem.module.mask, torch.bool)
    if bias is not None:
        dense = torch.where(dense, problem.dense(bias, dtype), float("-inf"))
    size = dense.numel() * dense.element_size()
    kind = "bool mask" if bias is None else "bias"
    full = dense.expand(-1, -1, problem.case.queries, problem.case.keys)
    return full, False, f"dense {kind}, {memory(size)}"


def _mask_is(problem: Problem, like: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether the mask is the one that a function of the rows and columns of q and k says."""
    mask, case = problem.module.mask, problem.case
    columns = torch.arange(case.keys, device=problem.device).view(1, 1, 1, -1)
    for rows in problem.pieces(mask):
        every = slice(0, case.queries) if problem.dense_shape(mask)[2] == 1 else rows
        numbers = torch.arange(every.start, every.stop, device=problem.device).view(1, 1, -1, 1)
        if not bool((problem.piece(mask, rows) == like(numbers, columns)).all()):
            return False
    return True


# -- FlexAttention ---------------------------------------------------------------------------------------------------


def flex(problem: Problem, *, compiled: bool = True) -> Peer:
    """FlexAttention with the spec's mask and score as functions of the indices. Raises CannotError.

    `compiled` is how it is meant to be called; otherwise torch computes all pairs.
    """
    from torch.nn.attention.flex_attention import flex_attention

    scale, affine = problem.scale()
    options: dict[str, Any] = {"scale": scale if affine else 1.0, "enable_gqa": problem.group > 1}
    options["score_mod"] = _score_mod(problem, affine=affine)
    notes = [name for name in ("score_mod",) if options[name] is not None]
    if problem.module.mask != TRUE:
        options["block_mask"] = _block_mask(problem)
        notes.append("block mask")
    if compiled:
        torch.compiler.reset()
    compiler = cast(Any, torch).compile
    run: Any = compiler(flex_attention, dynamic=False, fullgraph=True) if compiled else flex_attention

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return run(q, k, v, **options)

    return _with_maps(problem, attend, ", ".join(notes) or "no mask")


def _score_mod(problem: Problem, *, affine: bool) -> Any:
    bias = problem.bias() if affine else None
    if affine and bias is None:
        return None
    changed = _index_function(problem, problem.score.rest if bias is None else bias, score=bias is None)

    def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return changed(score, b, h, i, j) if bias is None else score + changed(b, h, i, j)

    return score_mod


def _block_mask(problem: Problem) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    mask, case = problem.module.mask, problem.case
    batch, heads, _, _ = problem.dense_shape(mask)
    _require(problem, 3 * 8 * batch * heads * case.queries * case.keys)
    keeps = _index_function(problem, mask, score=False)

    def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:  # torch counts the arguments of its signature
        return keeps(b, h, i, j)

    return create_block_mask(
        mask_mod,
        case.batch if batch > 1 else None,
        case.heads if heads > 1 else None,
        case.queries,
        case.keys,
        device=problem.device,
    )


class _Table:
    """A tensor that is indexed by index tensors without dimensions as by any others; torch asks those for numbers."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self.shape = tensor.shape

    def __getitem__(self, index: Any) -> Tensor:
        return torch.ops.aten.index.Tensor(self._tensor, list(index))

    def new_zeros(self, shape: tuple[int, ...]) -> Tensor:
        """Zeros of the same type."""
        return self._tensor.new_zeros(shape)


def _index_function(problem: Problem, expr: Expr, *, score: bool) -> Callable[..., Tensor]:
    """An expression as a function of (inner product,) b, h, i, j that torch.compile can read: a graph of torch calls.

    The graph is recorded from one evaluation, as the compiler cannot follow the evaluation itself.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    env = problem.env(torch.float32)
    tensors = {name: cast(Any, _Table(t) if t.dim() else t) for name, t in env.tensors.items()}
    first, group, offset = replace(env, tensors=tensors), problem.group, problem.q_offset

    def values(*given: Tensor) -> Tensor:
        b, h, i, j = given[-4:]
        indices = {"b": b, "h": h, "hk": h // group, "i": i + offset, "j": j}
        refs = {PRODUCT: given[0]} if score else {}
        return evaluate(expr, replace(first, indices=indices, refs=refs))

    numbers = [torch.tensor(0, device=problem.device) for _ in range(4)]
    product = [torch.tensor(0.0, device=problem.device)] if score else []
    with torch.no_grad():
        traced = make_fx(values)(*product, *numbers)
    return _with_numbers(traced)


def _with_numbers(traced: Any) -> Any:
    """The graph with constants as numbers, which a kernel can hold, instead of tensors, which it would have to load."""
    graph = traced.graph
    for node in list(graph.nodes):
        if node.op == "get_attr":
            value = getattr(traced, node.target)
            if value.dim() == 0:
                with graph.inserting_before(node):
                    kind = {"dtype": value.dtype, "device": value.device}
                    number = graph.call_function(torch.ops.aten.full.default, ([], value.item()), kind)
                node.replace_all_uses_with(number)
                graph.erase_node(node)
    for node in list(graph.nodes):
        if node.target in (torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.detach.default):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()
    traced.recompile()
    return traced


PEERS: dict[str, Callable[..., Peer]] = {"sdpa": sdpa, "flex": flex}

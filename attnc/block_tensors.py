"""Calls of an attention that looks up values of blocks: these first, from its mask, then the attention itself.

What a block's value is made of are counts of pairs, summed up in pieces of bounded size on the device of the call.
Where the conditions look nothing up, calls of the same sizes, offsets and parameters share the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attnc.calls import RawCall, check_call, refuse
from attnc.codegen.launch import CallInputs
from attnc.eager import Env, evaluate
from attnc.ir.dims import evaluate_dim
from attnc.ir.expr import Expr, Lift, Lookup, Ref
from attnc.ir.module import AttentionModule
from attnc.ir.traverse import children, substitute, walk
from attnc.ir.types import BOOL
from attnc.lifts import Side
from attnc.passes.block_tensors import BlockTensor, Measured, measure_blocks
from attnc.stages import Stage

if TYPE_CHECKING:
    from attnc.explain import Report

#: Pairs whose condition is evaluated at once.
_PAIRS = 1 << 22
#: Blocks of one tensor.
_MAX_BLOCKS = 1 << 27
#: Calls whose tensors are kept.
_KEPT = 4


class BlockStages:
    """The op of a module whose tile lifts became look-ups, and the tensors that it is given."""

    def __init__(self, module: AttentionModule, make: Callable[[AttentionModule], Stage]) -> None:
        self._module = module
        self._make = make
        self._made: dict[bool, tuple[Measured, Stage]] = {}
        self._kept: dict[object, dict[str, Tensor]] = {}

    @property
    def rows(self) -> Stage:
        """The op that looks up."""
        return self._of_offsets(False)[1]

    def run(self, call: RawCall) -> Any:
        """The output; with statistics a tuple (output, statistics ...)."""
        if call.cu_seqlens is not None:
            refuse("cu_seqlens: blocks of packed documents have no values yet; call once for each document")
        measured, op = self._of_offsets(any(isinstance(x, Tensor) for x in (call.q_offset, call.k_offset)))
        tensors = self._tensors(measured, check_call(self._module, call))
        static = {tensor.name for tensor in self._module.tensors if tensor.static}
        named = {name: value for name, value in call.named.items() if name not in static}
        options: dict[str, Any] = {"q_offset": call.q_offset, "k_offset": call.k_offset, "scale": call.scale}
        found = op(
            call.q, call.k, call.v, **options, return_aux=call.return_aux, checks=call.checks, **named, **tensors
        )
        if not call.return_aux:
            return found
        return (found[0], *found[1].values()) if found[1] else found[0]

    def explain(self, n: int, m: int, *, target: str, params: Mapping[str, Any] | None) -> Report:
        """The report of the op that looks up."""
        return self.rows.explain(n, m, target=target, params=params)

    def _of_offsets(self, batches: bool) -> tuple[Measured, Stage]:
        if batches not in self._made:
            measured = measure_blocks(self._module, batches=batches)
            self._made[batches] = (measured, self._make(measured.module))
        return self._made[batches]

    def _tensors(self, measured: Measured, call: CallInputs) -> dict[str, Tensor]:
        key = _numbers(measured, call)
        if key is not None and key in self._kept:
            return self._kept[key]
        with torch.no_grad():
            found = _Blocks(self._module, measured, call).all()
        if key is not None:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[key] = found
        return found


def _numbers(measured: Measured, call: CallInputs) -> object:
    """What the tensors of a call depend on; None where that is data."""
    static = {tensor.name for tensor in measured.module.tensors if tensor.static}
    own = static | {tensor.name for tensor in measured.tensors}
    nodes = (node for tensor in measured.tensors for node in walk(tensor.value))
    offsets = (call.q_offset, call.k_offset)
    if any(isinstance(node, Lookup) and node.tensor not in own for node in nodes):
        return None
    if any(isinstance(offset, Tensor) for offset in offsets) or call.q.device.type == "meta":
        return None
    return (*call.q.shape[:3], *call.k.shape[1:3], *offsets, call.q.device, *sorted(call.params.items()))


@dataclass(slots=True)
class _Blocks:
    """The tensors of one call."""

    module: AttentionModule
    measured: Measured
    call: CallInputs

    def all(self) -> dict[str, Tensor]:
        """By name, each with those before it at hand."""
        env = self._env()
        found: dict[str, Tensor] = {}
        for tensor in self.measured.tensors:
            shape = [evaluate_dim(dim, env.sizes) for dim in tensor.dims]
            if shape[-1] * shape[-2] > _MAX_BLOCKS:
                refuse(
                    f"{shape[-2]} x {shape[-1]} blocks of {tensor.rows} x {tensor.keys} are too many to have values: "
                    "use larger ones"
                )
            found[tensor.name] = self._values(tensor, env, shape)
            env = replace(env, tensors={**env.tensors, tensor.name: found[tensor.name]})
        return found

    def _values(self, tensor: BlockTensor, env: Env, shape: list[int]) -> Tensor:
        """The values of a tensor's blocks; those without a pair are nobody's."""
        dtype = torch.bool if tensor.value.type == BOOL else torch.float32
        if self.call.q.device.type == "meta":
            return torch.empty(shape, dtype=dtype, device="meta")
        lifts = dict.fromkeys(_outer_lifts(tensor.value))
        names: dict[Expr, Expr] = {lift: Ref(f"lift {n}", lift.type) for n, lift in enumerate(lifts)}
        refs = {f"lift {n}": self._lifted(lift, tensor, env) for n, lift in enumerate(lifts)}
        found = evaluate(substitute(tensor.value, names), replace(env, refs=refs)).to(dtype)
        batch, heads = env.sizes["B"] if tensor.batches else 1, env.sizes["H"] if tensor.heads else 1
        return found.expand(batch, heads, *shape[-2:]).reshape(shape).contiguous()

    def _lifted(self, lift: Lift, tensor: BlockTensor, env: Env) -> Tensor:
        """One lift [B or 1, H or 1, blocks of queries, blocks of keys]."""
        queries, keys = self._side(-2, tensor.rows, env), self._side(-1, tensor.keys, env)
        ones = [side.summed(torch.ones_like(side.positions())) for side in (queries, keys)]
        there = ones[0] * ones[1]
        kept = torch.zeros((), dtype=torch.int64, device=env.device)
        step = max(_PAIRS // max(keys.count * env.sizes["B"] * env.sizes["H"], 1), 1)
        for first in range(0, queries.count, step):
            kept = kept + self._counted(lift.body, env, (queries, keys), range(first, min(first + step, queries.count)))
        match lift.op:
            case "any":
                return kept > 0
            case "all":
                return kept == there
            case "density":
                return kept.to(torch.float64) / there.clamp(min=1)

    def _counted(self, body: Expr, env: Env, sides: tuple[Side, Side], rows: range) -> Tensor:
        """Pairs of some rows that a condition keeps, per block."""
        queries, keys = sides
        at = {"i": queries.positions()[..., rows.start : rows.stop, :], "j": keys.positions()}
        kept = evaluate(body, replace(env, indices={**env.indices, **at})).long()
        kept = kept.reshape((1,) * (4 - kept.dim()) + kept.shape)
        kept = keys.summed(kept.expand(*kept.shape[:2], len(rows), keys.count))
        number = queries.numbers(at["i"]).expand(max(kept.shape[0], at["i"].shape[0]), kept.shape[1], -1, kept.shape[3])
        total = kept.new_zeros(*number.shape[:2], (queries.count - 1) // queries.block + 2, kept.shape[3])
        return total.scatter_add(2, number, kept.expand(number.shape))

    def _side(self, dim: int, block: int, env: Env) -> Side:
        first = env.values["q_offset" if dim == -2 else "k_offset"]
        return Side(dim, block, first, env.sizes["N" if dim == -2 else "M"], first)

    def _env(self) -> Env:
        call = self.call
        (batch, heads, n, d), (key_heads, m, dv) = call.q.shape, call.v.shape[1:]
        device = call.q.device
        head = torch.arange(heads, device=device).view(1, -1, 1, 1)
        offsets = {"q_offset": m - n if isinstance(call.q_offset, str) else call.q_offset, "k_offset": call.k_offset}
        grids: dict[Any, Any] = {"q": self.module.grid_q, "k": self.module.grid_k}
        return Env(
            indices={
                "b": torch.arange(batch, device=device).view(-1, 1, 1, 1),
                "h": head,
                "hk": head // max(heads // max(key_heads, 1), 1),
            },
            sizes={"B": batch, "H": heads, "Hk": key_heads, "N": n, "M": m, "D": d, "Dv": dv},
            params=call.params,
            values={name: _offset(offset, device) for name, offset in offsets.items()},
            tensors=call.tensors,
            dims={tensor.name: tensor.dims for tensor in self.measured.module.tensors},
            grids={side: grid for side, grid in grids.items() if grid is not None},
            dtype=torch.float64,
            device=device,
        )


def _offset(offset: int | Tensor, device: torch.device) -> Tensor:
    return offset.long().view(-1, 1, 1, 1) if isinstance(offset, Tensor) else torch.tensor(offset, device=device)


def _outer_lifts(expr: Expr) -> Iterator[Lift]:
    """Lifts that stand in no other."""
    if isinstance(expr, Lift):
        yield expr
        return
    for child in children(expr):
        yield from _outer_lifts(child)

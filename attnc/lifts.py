"""The meaning of tile lifts on torch tensors: counts of the pairs of each block.

Imports `ir` and torch only. Layout as in `eager.py`. A block holds the positions with the same quotient by its size
that exist: a ragged block at either end is a block of fewer pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from attnc.ir.expr import LiftOp


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the pairs: the first position of each sequence, how many there are, those that are asked for.

    `dim` is the side's dimension in the layout of pairs, -2 for queries and -1 for keys, `block` the size of a block.
    """

    dim: int
    block: int
    first: Tensor
    count: int
    asked: Tensor

    def positions(self) -> Tensor:
        """All positions that exist."""
        steps = torch.arange(self.count, device=self.first.device)
        return self.first + (steps.view(1, 1, -1, 1) if self.dim == -2 else steps)

    def numbers(self, positions: Tensor) -> Tensor:
        """Blocks of positions, counted from the first one that holds a position."""
        return positions // self.block - self.first // self.block

    def summed(self, counts: Tensor) -> Tensor:
        """Counts per position as counts per block."""
        index, counts = _broadcast(self.numbers(self.positions()), counts)
        shape = [*index.shape]
        shape[self.dim] = (self.count - 1) // self.block + 2
        return counts.new_zeros(shape).scatter_add(self.dim, index, counts)

    def chosen(self, counts: Tensor) -> Tensor:
        """Counts per block as counts per position that is asked for."""
        index = self.numbers(self.asked).clamp(0, counts.shape[self.dim] - 1)
        found, index = _broadcast(counts.movedim(self.dim, -1).unsqueeze(self.dim - 1), index.unsqueeze(-1))
        return found.gather(-1, index[..., :1]).squeeze(-1)


def lifted(op: LiftOp, body: Tensor, sides: tuple[Side, Side], dtype: torch.dtype) -> Tensor:
    """The lift of a condition on all pairs that exist, for those that are asked for.

    A side along which the condition does not vary makes no difference to it, and none to the shape of the result.
    """
    kept = body.long().reshape((1,) * (4 - body.dim()) + body.shape)
    there = torch.ones_like(kept)
    varying = [side for side in sides if kept.shape[side.dim] == side.count > 1]
    for side in varying:
        kept, there = side.summed(kept), side.summed(there)
    for side in varying:
        kept, there = side.chosen(kept), side.chosen(there)
    match op:
        case "any":
            return kept > 0
        case "all":
            return kept == there
        case "density":
            return kept.to(dtype) / there


def _broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    first, second = cast(Any, torch).broadcast_tensors(a, b)
    return first, second

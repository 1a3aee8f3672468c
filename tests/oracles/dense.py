"""Attention row by row, as the papers write it: plain torch in float64 and Python loops, nothing of attnc.

A mechanism says which keys a row keeps, how a pair is scored and how the logits of the kept keys become
weights. `tests/unit/test_stdlib.py` compares the standard library with these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """One call: q [B, H, N, D], k [B, Hk, M, D], v [B, Hk, M, Dv] in float64; positions per batch."""

    q: Tensor
    k: Tensor
    v: Tensor
    i: Sequence[Sequence[int]]
    j: Sequence[Sequence[int]]
    params: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    scale: float | None = None

    @property
    def factor(self) -> float:
        """What multiplies q . k."""
        return self.q.shape[-1] ** -0.5 if self.scale is None else self.scale

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.q.shape[1] // self.k.shape[1]


#: (problem, b, i, j) with absolute positions
Keep = Callable[[Problem, int, int, int], bool]
#: (problem, b, h, i, j), for masks that differ from head to head
KeepInHead = Callable[[Problem, int, int, int, int], bool]
#: problem -> [B, H, N, M]
Logits = Callable[[Problem], Tensor]
#: (logits of the kept keys, problem, h) -> (weights, log of the normalizer)
Weigh = Callable[[Tensor, Problem, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Row:
    """A row of one head and the keys that it keeps, as rows of the tensors."""

    b: int
    h: int
    row: int
    keys: Tensor


#: (logits of the kept keys, problem, row) -> weights, where these read more than logits
WeighRow = Callable[[Tensor, Problem, Row], Tensor]
#: (logits [B, H, N, M], kept pairs, problem) -> weights, where these read other rows
WeighAll = Callable[[Tensor, Tensor, Problem], Tensor]
#: (output, problem) -> output
Finish = Callable[[Tensor, Problem], Tensor]


def all_keys(_p: Problem, _b: int, _i: int, _j: int) -> bool:
    return True


def scaled_dot(p: Problem) -> Tensor:
    return p.factor * p.q @ p.k.repeat_interleave(p.group, dim=1).mT


def softmax(s: Tensor, _p: Problem, _h: int) -> tuple[Tensor, Tensor]:
    return torch.softmax(s, -1), torch.logsumexp(s, -1)


@dataclass(frozen=True)
class Mechanism:
    keep: Keep = all_keys
    logits: Logits = scaled_dot
    weigh: Weigh = softmax
    #: asked beside `keep`; both must hold
    keep_in_head: KeepInHead | None = None
    #: one of these instead of `weigh`
    weigh_row: WeighRow | None = None
    weigh_all: WeighAll | None = None
    finish: Finish | None = None


def kept(mechanism: Mechanism, p: Problem) -> Tensor:
    """bool [B, H, N, M]."""
    batch, heads, n, m = *p.q.shape[:3], p.k.shape[2]
    table = [[[mechanism.keep(p, b, i, j) for j in p.j[b]] for i in p.i[b]] for b in range(batch)]
    keep = torch.tensor(table).reshape(batch, 1, n, m).expand(batch, heads, n, m)
    if mechanism.keep_in_head is None:
        return keep
    by_head = [
        [[[mechanism.keep_in_head(p, b, h, i, j) for j in p.j[b]] for i in p.i[b]] for h in range(heads)]
        for b in range(batch)
    ]
    return keep & torch.tensor(by_head).reshape(batch, heads, n, m)


def attend(mechanism: Mechanism, p: Problem) -> tuple[Tensor, Tensor]:
    """The output [B, H, N, Dv] and the logarithm of the row sums [B, H, N]."""
    keep, logits = kept(mechanism, p), mechanism.logits(p)
    if mechanism.weigh_all is not None:
        weights = torch.where(keep, mechanism.weigh_all(logits, keep, p), 0.0)
        return weights @ p.v.repeat_interleave(p.group, dim=1), p.v.new_zeros(p.q.shape[:3])
    outputs: list[Tensor] = []
    statistics: list[Tensor] = []
    for b in range(p.q.shape[0]):
        for h in range(p.q.shape[1]):
            for row in range(p.q.shape[2]):
                keys = keep[b, h, row].nonzero().flatten()
                values = p.v[b, h // p.group, keys]
                if len(keys) == 0:
                    outputs.append(p.v.new_zeros(p.v.shape[-1]))
                    statistics.append(p.v.new_tensor(-torch.inf))
                    continue
                weights, statistic = _weights(mechanism, logits[b, h, row, keys], p, Row(b, h, row, keys))
                outputs.append(weights @ values)
                statistics.append(statistic)
    grid = p.q.shape[:3]
    output = torch.stack(outputs).reshape(*grid, -1)
    if mechanism.finish is not None:
        output = mechanism.finish(output, p)
    return output, torch.stack(statistics).reshape(grid)


def _weights(mechanism: Mechanism, logits: Tensor, p: Problem, row: Row) -> tuple[Tensor, Tensor]:
    if mechanism.weigh_row is None:
        return mechanism.weigh(logits, p, row.h)
    return mechanism.weigh_row(logits, p, row), logits.new_zeros(())

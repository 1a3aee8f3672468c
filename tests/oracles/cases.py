"""Calls of the standard library worth trying, for every test that sweeps it: `cases()`, `draw(case)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tests.oracles.case import Case
from tests.oracles.dense import Problem
from tests.oracles.grid_cases import GRID_CASES
from tests.oracles.pattern_cases import PATTERN_CASES, PATTERN_TENSORS
from tests.oracles.score_cases import SCORE_CASES, SCORE_TENSORS


def _document_ids(case: Case) -> Tensor:
    return torch.randint(0, 3, (case.batch, case.m)).sort(dim=-1).values


#: The tensors of a spec, beyond q, k, v.
TENSORS: dict[str, Callable[[Case], dict[str, Tensor]]] = {
    "prefix_lm": lambda case: {"prefix": torch.randint(0, case.m + 2, (case.batch,))},
    "document": lambda case: {"seg": _document_ids(case)},
    "alibi": lambda case: {"slope": 2.0 ** -torch.arange(1, case.heads + 1)},
    "relative_table": lambda case: {"table": torch.randn(case.heads, 2 * case.params["L"] - 1)},
    "t5": lambda case: {"table": torch.randn(32, case.heads)},
    "softmax_sink": lambda case: {"sink": torch.randn(case.heads)},
    **PATTERN_TENSORS,
    **SCORE_TENSORS,
}


@dataclass(frozen=True)
class Drawn:
    """Random inputs of a case; float64 leaves that want gradients."""

    q: Tensor
    k: Tensor
    v: Tensor
    tensors: dict[str, Tensor]
    offsets: dict[str, Any]
    problem: Problem

    @property
    def leaves(self) -> list[Tensor]:
        """What can have a gradient."""
        return [self.q, self.k, self.v, *(t for t in self.tensors.values() if t.is_floating_point())]


def draw(case: Case, *, scale_of_logits: float = 2.0) -> Drawn:
    """Inputs from torch's global generator. Logits have a standard deviation of about `scale_of_logits`."""
    q = (torch.randn(case.batch, case.heads, case.n, case.d, dtype=torch.float64) * scale_of_logits).requires_grad_()
    k = torch.randn(case.batch, case.key_heads, case.m, case.d, dtype=torch.float64, requires_grad=True)
    v = torch.randn(case.batch, case.key_heads, case.m, case.dv, dtype=torch.float64, requires_grad=True)
    tensors = {name: _leaf(tensor) for name, tensor in TENSORS.get(case.name, lambda _: {})(case).items()}
    i = _positions(case.m - case.n if case.q_offset == "end" else case.q_offset, case.n, case.batch)
    j = _positions(case.k_offset, case.m, case.batch)
    problem = Problem(q, k, v, i, j, case.params, tensors, case.scale)
    return Drawn(q, k, v, tensors, {"q_offset": _offset(case.q_offset), "k_offset": _offset(case.k_offset)}, problem)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.double().requires_grad_() if tensor.is_floating_point() else tensor


def _positions(offset: int | tuple[int, ...], length: int, batch: int) -> list[list[int]]:
    offsets = (offset,) * batch if isinstance(offset, int) else offset
    return [list(range(first, first + length)) for first in offsets]


def _offset(offset: int | tuple[int, ...] | Literal["end"]) -> int | str | Tensor:
    return torch.tensor(offset) if isinstance(offset, tuple) else offset


def _masks() -> list[Case]:
    return [
        Case("full"),
        Case("full", n=1, m=17, key_heads=2),
        Case("full", n=17, m=1, dv=5),
        Case("causal"),
        Case("causal", n=15, m=17, heads=6, key_heads=2, q_offset="end"),
        Case("causal", n=17, m=11, q_offset="end"),  # rows without keys
        Case("causal", q_offset=(3, 0), k_offset=(0, 5)),
        Case("sliding_window", {"size": 4}),
        Case("sliding_window", {"size": 4}, n=17, m=9, q_offset=2),  # rows without keys at the end
        Case("sliding_window", {"size": 1}, heads=3, key_heads=3),
        Case("prefix_lm"),
        Case("prefix_lm", n=9, m=16, q_offset="end"),
        Case("document"),
        Case("document", n=7, m=17, q_offset="end", heads=8, key_heads=1),
        Case("streaming", {"sink": 2, "window": 4}),
        Case("streaming", {"sink": 2, "window": 4}, n=5, m=16, q_offset="end"),
        Case("streaming", {"sink": 0, "window": 3}, q_offset=4, k_offset=8),
        Case("dilated_window", {"size": 6, "dilation": 3}),
        Case("dilated_window", {"size": 5, "dilation": 2}, n=17, m=10, k_offset=12),
    ]


def _scores_and_normalizers() -> list[Case]:
    cases = [Case("alibi", n=11, m=15, q_offset="end", heads=3), Case("alibi")]
    for causal in (False, True):
        flag = {"causal": causal}
        cases += [
            Case("relative_table", {"L": 5, **flag}),
            Case("relative_table", {"L": 40, **flag}, n=9, m=16, q_offset=100, k_offset=90),
            Case("t5", flag, scale=None),
            Case("t5", flag, n=3, m=150, q_offset=130, batch=1),
            Case("t5", flag, n=150, m=3, batch=1),
            Case("softcap", {"cap": 2.5, **flag}),
            Case("cosine", flag, scale=10.0),
            Case("softplus_reweighted", flag, n=14, m=14),
            Case("softplus_reweighted", {"power": 15, **flag}, n=5, m=12, q_offset=7, heads=4, key_heads=2),
            Case("rope", flag),
            Case("rope", {"theta": 100.0, **flag}, n=7, m=12, q_offset=1000, k_offset=1003),
        ]
        for name in ("softmax", "softmax_sink", "sigmoid", "relu2", "softplus_l1"):
            cases += [Case(name, flag), Case(name, flag, n=15, m=9, q_offset=-4, heads=4, key_heads=2, scale=0.5)]
    return cases


def cases() -> list[Case]:
    """At least one case for every file of stdlib/."""
    return [*_masks(), *PATTERN_CASES, *GRID_CASES, *_scores_and_normalizers(), *SCORE_CASES]

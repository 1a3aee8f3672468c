"""Calls of the scores, normalizers and feature maps of scores.py, and their tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.oracles.case import Case


def _performer(case: Case) -> dict[str, Tensor]:
    features = case.params["F"]
    keys = torch.randn(case.batch, case.key_heads, case.m, features)
    return {
        "query_features": torch.randn(case.batch, case.heads, case.n, features),
        "key_features": keys,
        "top": keys.amax((-2, -1)) * case.d**-0.25,
    }


def _differential(case: Case) -> dict[str, Tensor]:
    small = {name: 0.3 * torch.randn(case.d) for name in ("a1", "b1", "a2", "b2")}
    q2 = torch.randn(case.batch, case.heads, case.n, case.d)
    k2 = torch.randn(case.batch, case.key_heads, case.m, case.d)
    return {"q2": q2, "k2": k2, **small, "gain": 1 + 0.1 * torch.randn(case.dv)}


#: The tensors of a spec, beyond q, k, v.
SCORE_TENSORS: dict[str, Callable[[Case], dict[str, Tensor]]] = {
    "ssmax": lambda case: {"gain": 0.43 + 0.1 * torch.randn(case.heads)},
    "selective_temperature": lambda case: {"beta": torch.tensor([0.5])},
    "forgetting": lambda case: {"gates": -torch.rand(case.batch, case.heads, case.m).cumsum(-1)},
    "positional": lambda case: {
        "queries": torch.randn(case.heads, case.n, case.d),
        "keys": torch.randn(case.heads, case.m, case.d),
    },
    "urpe": lambda case: {"factor": 1 + 0.3 * torch.randn(case.heads, 2 * case.params["L"] - 1)},
    "parallax": lambda case: {"r": torch.randn(case.batch, case.heads, case.n, case.d)},
    "performer": _performer,
    "differential": _differential,
    "reattention": lambda case: {
        "rho": torch.rand(case.batch, case.heads, case.n),
        "rest": torch.randn(case.batch, case.heads, case.n, case.dv),
    },
    "additive": lambda case: {"u": torch.randn(case.heads, case.d)},
}


def _both(name: str, **params: int) -> list[Case]:
    """All keys and earlier ones; grouped heads, N != M, offsets."""
    return [
        Case(name, params),
        Case(name, {**params, "causal": True}, n=14, m=14),
        Case(name, params, n=7, m=12, heads=4, key_heads=2, dv=5),
        Case(name, {**params, "causal": True}, n=5, m=12, q_offset="end", heads=3, key_heads=1),
    ]


SCORE_CASES = (
    *_both("ssmax"),
    *_both("selective_temperature"),
    Case("forgetting"),
    Case("forgetting", n=5, m=16, q_offset="end", heads=4, key_heads=2),
    *_both("positional"),
    *_both("rbf"),
    *_both("urpe", L=5),
    *_both("parallax"),
    *_both("linear"),
    *_both("relu_linear"),
    *_both("based_taylor"),
    *_both("cosformer", length=20),
    *_both("hedgehog"),
    *_both("performer", F=11),
    Case("mala", {"height": 3, "width": 5}, n=15, m=15, d=16),
    Case("mala", {"height": 4, "width": 4}, n=16, m=16, heads=4, key_heads=2, dv=5),
    *_both("differential"),
    Case("differential", {"start": 0.35, "causal": True}, dv=16),
    Case("reattention", {"size": 4}),
    Case("reattention", {"size": 3}, n=17, m=9, q_offset=2),  # rows without keys at the end
    *_both("additive"),
    *_both("reversed"),
    Case("reversed", {"causal": True}, n=5, m=12, q_offset=3, k_offset=(0, 4)),  # keys that no query sees
    Case("flow"),
    Case("flow", n=7, m=12, heads=4, key_heads=2, dv=5),
)

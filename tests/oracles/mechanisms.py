"""The mechanisms of stdlib/ from the formulas of their papers; nothing of attnc.

Sources: Mistral, StreamingLLM, Longformer-style dilation (attention-gym), ALiBi, T5 as in Hugging Face
transformers, Gemma 2, gpt-oss, sigmoid attention (Apple), RoFormer. Masks of blocks and tables are in patterns.py,
those of images and videos in grids.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.oracles.dense import Mechanism, Problem, Weigh, scaled_dot
from tests.oracles.grids import GRIDS
from tests.oracles.patterns import PATTERNS
from tests.oracles.scores import SCORES

# ----------------------------------------------------------------------------------------- masks


def causal(_p: Problem, _b: int, i: int, j: int) -> bool:
    return j <= i


def causal_if_asked(p: Problem, _b: int, i: int, j: int) -> bool:
    return j <= i or not p.params.get("causal", False)


def sliding_window(p: Problem, _b: int, i: int, j: int) -> bool:
    return j in range(i - p.params["size"] + 1, i + 1)


def prefix_lm(p: Problem, b: int, i: int, j: int) -> bool:
    return j < int(p.tensors["prefix"][b]) or j <= i


def document(p: Problem, b: int, i: int, j: int) -> bool:
    seg, first = p.tensors["seg"][b].tolist(), p.j[b][0]
    return seg[i - first] == seg[j - first]


def streaming(p: Problem, _b: int, i: int, j: int) -> bool:
    recent = range(i - p.params["window"] + 1, i + 1)
    return j <= i and (j in recent or j in range(p.params["sink"]))


def dilated_window(p: Problem, _b: int, i: int, j: int) -> bool:
    size, dilation = p.params["size"], p.params["dilation"]
    return -size <= j - i <= size and abs(j - i) % dilation == 0


# ---------------------------------------------------------------------------------------- logits


def distances(p: Problem) -> Tensor:
    """i - j as [B, 1, N, M]."""
    return (torch.tensor(p.i)[:, :, None] - torch.tensor(p.j)[:, None, :])[:, None]


def alibi(p: Problem) -> Tensor:
    return scaled_dot(p) - p.tensors["slope"].double()[None, :, None, None] * distances(p).abs()


def relative_table(p: Problem) -> Tensor:
    length = p.params["L"]
    column = distances(p).clamp(1 - length, length - 1) + length - 1
    return scaled_dot(p) + torch.stack([row[column[:, 0]] for row in p.tensors["table"].double()], dim=1)


def t5_bucket(relative_position: Tensor, bidirectional: bool) -> Tensor:
    """As Hugging Face's T5 computes it; relative_position = key - query."""
    buckets, result = 32, torch.zeros_like(relative_position)
    if bidirectional:
        buckets //= 2
        result = result + (relative_position > 0).long() * buckets
        relative_position = relative_position.abs()
    else:
        relative_position = -torch.minimum(relative_position, torch.zeros_like(relative_position))
    exact = buckets // 2
    ratio = torch.log(relative_position.float() / exact) / math.log(128 / exact)
    large = exact + (ratio * (buckets - exact)).clamp(min=0).long()
    large = torch.minimum(large, torch.full_like(large, buckets - 1))
    return result + torch.where(relative_position < exact, relative_position, large)


def t5(p: Problem) -> Tensor:
    bucket = t5_bucket(-distances(p)[:, 0], not p.params.get("causal", False))
    bias = p.tensors["table"].double()[bucket]  # [B, N, M, H]
    return p.q @ p.k.repeat_interleave(p.group, dim=1).mT + bias.permute(0, 3, 1, 2)


def softcap(p: Problem) -> Tensor:
    cap = p.params.get("cap", 50.0)
    return cap * torch.tanh(scaled_dot(p) / cap)


def angle(p: Problem) -> Tensor:
    """The cosine between q and k."""
    k = p.k.repeat_interleave(p.group, dim=1)
    return torch.cosine_similarity(p.q[..., :, None, :], k[..., None, :, :], dim=-1, eps=1e-12)


def cosine(p: Problem) -> Tensor:
    return p.factor * angle(p)


def _rotate_half(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


def _rotated(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    width = x.shape[-1]
    frequency = 1.0 / theta ** (torch.arange(0, width, 2).double() / width)
    angle = (positions.double()[..., None] * frequency).repeat(1, 1, 2)[:, None]
    return x * angle.cos() + _rotate_half(x) * angle.sin()


def rope(p: Problem) -> Tensor:
    theta = p.params.get("theta", 10000.0)
    q, k = _rotated(p.q, torch.tensor(p.i), theta), _rotated(p.k, torch.tensor(p.j), theta)
    return p.factor * q @ k.repeat_interleave(p.group, dim=1).mT


# --------------------------------------------------------------------------------------- weights


def softmax_sink(s: Tensor, p: Problem, h: int) -> tuple[Tensor, Tensor]:
    logits = torch.cat((s, p.tensors["sink"].double()[h : h + 1]))
    return torch.softmax(logits, -1)[:-1], torch.logsumexp(logits, -1)


def _without_sum(weights: Tensor) -> tuple[Tensor, Tensor]:
    return weights, weights.new_zeros(())


def sigmoid(s: Tensor, p: Problem, _h: int) -> tuple[Tensor, Tensor]:
    return _without_sum(1 / (1 + torch.exp(math.log(p.k.shape[2]) - s)))


def relu2(s: Tensor, p: Problem, _h: int) -> tuple[Tensor, Tensor]:
    return _without_sum(torch.where(s > 0, s * s, 0.0) / p.k.shape[2])


def softplus_l1(s: Tensor, _p: Problem, _h: int) -> tuple[Tensor, Tensor]:
    weights = s.clamp(min=0) + torch.log1p(torch.exp(-s.abs()))
    return _without_sum(weights / weights.sum())


def softplus_reweighted(cosine: Tensor, p: Problem, _h: int) -> tuple[Tensor, Tensor]:
    n = len(cosine)
    u = torch.log1p(torch.exp(math.log(p.q.shape[-1]) * math.log(n) * cosine))
    x = n * u / u.sum() - (1 if n > 3 else 0)
    power = x.clamp(min=0) ** p.params.get("power", 3)
    return _without_sum(power / power.sum())


def _weighed(weigh: Weigh) -> Mechanism:
    return Mechanism(causal_if_asked, weigh=weigh)


MECHANISMS: dict[str, Mechanism] = {
    "full": Mechanism(),
    "causal": Mechanism(causal),
    "sliding_window": Mechanism(sliding_window),
    "prefix_lm": Mechanism(prefix_lm),
    "document": Mechanism(document),
    "streaming": Mechanism(streaming),
    "dilated_window": Mechanism(dilated_window),
    **PATTERNS,
    **GRIDS,
    **SCORES,
    "alibi": Mechanism(causal, alibi),
    "relative_table": Mechanism(causal_if_asked, relative_table),
    "t5": Mechanism(causal_if_asked, t5),
    "softcap": Mechanism(causal_if_asked, softcap),
    "cosine": Mechanism(causal_if_asked, cosine),
    "rope": Mechanism(causal_if_asked, rope),
    "softmax": Mechanism(causal_if_asked),
    "softmax_sink": _weighed(softmax_sink),
    "sigmoid": _weighed(sigmoid),
    "relu2": _weighed(relu2),
    "softplus_l1": _weighed(softplus_l1),
    "softplus_reweighted": Mechanism(causal_if_asked, angle, softplus_reweighted),
}

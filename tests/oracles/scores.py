"""More scores, normalizers and feature maps of stdlib/ from the formulas of their papers; nothing of attnc.

Sources: SSMax, SSA, FoX, URPE, Parallax, linear attention (fla), Based, cosFormer, Hedgehog, Performer, MALA,
Differential Transformer, Re-ttention, Bahdanau, DependencyViT, Flowformer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.oracles.dense import Keep, Mechanism, Problem, Row, all_keys, kept, scaled_dot, softmax


def _causal_if_asked(p: Problem, _b: int, i: int, j: int) -> bool:
    return j <= i or not p.params.get("causal", False)


def _causal(_p: Problem, _b: int, i: int, j: int) -> bool:
    return j <= i


def _heads(tensor: Tensor, p: Problem) -> Tensor:
    """A key-side tensor, repeated for query heads."""
    return tensor.repeat_interleave(p.group, dim=1)


def _given(p: Problem, name: str) -> Tensor:
    return p.tensors[name].to(p.q.dtype)


def _i(p: Problem) -> Tensor:
    return torch.tensor(p.i)[:, None, :, None]


def _j(p: Problem) -> Tensor:
    return torch.tensor(p.j)[:, None, None, :]


def _keys_of_rows(p: Problem, keep: Keep) -> Tensor:
    """The number of keys of a row, at least 1, as [B, H, N, 1]."""
    return kept(Mechanism(keep), p).sum(-1, keepdim=True).clamp(min=1).to(p.q.dtype)


# ---------------------------------------------------------------------------------------- logits


def ssmax(p: Problem) -> Tensor:
    gain = _given(p, "gain")[None, :, None, None]
    return scaled_dot(p) * gain * torch.log(_keys_of_rows(p, _causal_if_asked))


def selective_temperature(p: Problem) -> Tensor:
    growth = torch.exp(-torch.exp(_given(p, "beta")[0]))
    return scaled_dot(p) * (1 + growth * torch.log(_keys_of_rows(p, _causal_if_asked)))


def forgetting(p: Problem) -> Tensor:
    """The bias of every pair as the sum of what is between, not as a difference of two sums."""
    steps = torch.diff(_given(p, "gates"), dim=-1, prepend=_given(p, "gates").new_zeros(*p.q.shape[:2], 1))
    bias = steps.new_zeros(*p.q.shape[:3], p.k.shape[2])
    for b in range(p.q.shape[0]):
        first = p.j[b][0]
        for row, i in enumerate(p.i[b]):
            for column in range(i - first):
                bias[b, :, row, column] = steps[b, :, column + 1 : i - first + 1].sum(-1)
    return scaled_dot(p) + bias


def positional(p: Problem) -> Tensor:
    return p.factor * (_given(p, "queries") @ _given(p, "keys").mT).expand(p.q.shape[0], -1, -1, -1)


def rbf(p: Problem) -> Tensor:
    difference = p.q[..., :, None, :] - _heads(p.k, p)[..., None, :, :]
    return -p.factor * difference.square().sum(-1)


def additive(p: Problem) -> Tensor:
    hidden = torch.tanh(p.q[..., :, None, :] + _heads(p.k, p)[..., None, :, :])
    return (hidden * _given(p, "u")[None, :, None, None]).sum(-1)


# --------------------------------------------------------------------------------------- weights


def urpe(s: Tensor, p: Problem, row: Row) -> Tensor:
    length = p.params["L"]
    distance = p.i[row.b][row.row] - torch.tensor(p.j[row.b])[row.keys]
    factor = _given(p, "factor")[row.h, distance.clamp(1 - length, length - 1) + length - 1]
    return torch.softmax(s, -1) * factor


def parallax(s: Tensor, p: Problem, row: Row) -> Tensor:
    """E[v] - Cov(v, t), weight by weight."""
    t = p.k[row.b, row.h // p.group, row.keys] @ _given(p, "r")[row.b, row.h, row.row]
    weights = torch.softmax(s, -1)
    return weights - weights * (t - (weights * t).sum())


def based_taylor(s: Tensor, _p: Problem, _row: Row) -> Tensor:
    a = 1 + s + s * s / 2
    return a / (a.sum() + 1e-12)


# ----------------------------------------------------------------------------------- feature maps


def elu1(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, torch.exp(x.clamp(max=0)))


def _linear(s: Tensor, eps: float) -> Tensor:
    return s / (s.sum() + eps)


def linear(s: Tensor, _p: Problem, _row: Row) -> Tensor:
    return _linear(s, 1e-10)


def _products(q: Tensor, k: Tensor, p: Problem) -> Tensor:
    return q @ _heads(k, p).mT


def elu_products(p: Problem) -> Tensor:
    return _products(elu1(p.q), elu1(p.k), p)


def relu_products(p: Problem) -> Tensor:
    return _products(p.q.relu(), p.k.relu(), p)


def hedgehog_products(p: Problem) -> Tensor:
    q, k = (torch.softmax(torch.cat((2 * y, -2 * y), -1), -1) for y in (p.q, p.k))
    return _products(q, k, p)


def cosformer_products(p: Problem) -> Tensor:
    angle = math.pi / 2 * (_i(p) - _j(p)).to(p.q.dtype) / p.params["length"]
    return relu_products(p) * torch.cos(angle)


def cosformer(s: Tensor, _p: Problem, _row: Row) -> Tensor:
    return s / s.sum().clamp(min=1e-6)


def performer_products(p: Problem) -> Tensor:
    """Random features as performer-pytorch computes them; the largest key feature is given."""
    small, eps = p.q.shape[-1] ** -0.25, 1e-4
    if p.scale is not None:
        small = math.sqrt(p.scale)

    def exponent(x: Tensor, features: Tensor) -> Tensor:
        return small * features - (x * small).square().sum(-1, keepdim=True) / 2

    y = _given(p, "query_features") * small
    q = torch.exp(exponent(p.q, _given(p, "query_features")) - y.amax(-1, keepdim=True)) + eps
    k = torch.exp(exponent(p.k, _given(p, "key_features")) - _given(p, "top")[..., None, None]) + eps
    return _products(q, k, p)


def performer(s: Tensor, _p: Problem, _row: Row) -> Tensor:
    return s / s.sum()


# ------------------------------------------------------------------------------------------ MALA


def _turned(x: Tensor, place: Tensor) -> Tensor:
    """Neighbouring features turned by the angles of a coordinate, from 1 to 1/10000 with both ends."""
    rates = 1.0 / 10000 ** torch.linspace(0, 1, x.shape[-1] // 2, dtype=x.dtype)
    angle = place.to(x.dtype)[..., None] * rates
    a, b = x[..., ::2], x[..., 1::2]
    turned = (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin())
    return torch.stack(turned, -1).flatten(-2)


def mala_products(p: Problem) -> Tensor:
    width, half = p.params["width"], p.q.shape[-1] // 2

    def rotated(x: Tensor, places: Tensor) -> Tensor:
        y, x_ = places[:, None] // width, places[:, None] % width
        return torch.cat((_turned(x[..., :half], y), _turned(x[..., half:], x_)), -1)

    q, k = rotated(elu1(p.q), torch.tensor(p.i)), rotated(elu1(p.k), torch.tensor(p.j))
    return p.factor * _products(q, k, p)


def mala(s: Tensor, p: Problem, row: Row) -> Tensor:
    q, k = elu1(p.q[row.b, row.h, row.row]), elu1(p.k[row.b, row.h // p.group, row.keys])
    z = p.factor * (k.mean(0) @ q)
    return s / len(s) * (1 + 1 / (z + 1e-6)) - z / len(s)


# ---------------------------------------------------------------------------------- two attentions


def differential(s: Tensor, p: Problem, row: Row) -> Tensor:
    t = p.factor * _given(p, "k2")[row.b, row.h // p.group, row.keys] @ _given(p, "q2")[row.b, row.h, row.row]
    a1, b1, a2, b2 = (_given(p, name) for name in ("a1", "b1", "a2", "b2"))
    lam = torch.exp(a1 @ b1) - torch.exp(a2 @ b2) + p.params.get("start", 0.8)
    return torch.softmax(s, -1) - lam * torch.softmax(t, -1)


def normed(o: Tensor, p: Problem) -> Tensor:
    norm = torch.sqrt(o.square().mean(-1, keepdim=True) + 1e-5)
    return (1 - p.params.get("start", 0.8)) * o / norm * _given(p, "gain")


def near(p: Problem, _b: int, i: int, j: int) -> bool:
    return abs(i - j) < p.params["size"]


def completed(o: Tensor, p: Problem) -> Tensor:
    return _given(p, "rho")[..., None] * o + _given(p, "rest")


# ---------------------------------------------------------------------- statistics over the queries


def reversed_(s: Tensor, keep: Tensor, _p: Problem) -> Tensor:
    return torch.softmax(s.masked_fill(~keep, -torch.inf), dim=-2)


def flow(_s: Tensor, _keep: Tensor, p: Problem) -> Tensor:
    """As Flow_Attention.py without a mask, token by token; the weights instead of the two products."""
    eps, q, k = 1e-6, torch.sigmoid(p.q), torch.sigmoid(_heads(p.k, p))
    queries, keys = q.shape[2], k.shape[2]
    sink = 1 / ((q + eps) * (k.sum(2, keepdim=True) + eps)).sum(-1)
    source = 1 / ((k + eps) * (q.sum(2, keepdim=True) + eps)).sum(-1)
    into = ((q + eps) * ((k * source[..., None]).sum(2, keepdim=True) + eps)).sum(-1)
    out_of = ((k + eps) * ((q * sink[..., None]).sum(2, keepdim=True) + eps)).sum(-1).clamp(-1, 1)
    allocation = torch.sigmoid(into * queries / keys)
    competition = torch.softmax(out_of, -1) * keys
    return (allocation * sink)[..., None] * (q @ k.mT) * competition[..., None, :]


SCORES: dict[str, Mechanism] = {
    "ssmax": Mechanism(_causal_if_asked, ssmax),
    "selective_temperature": Mechanism(_causal_if_asked, selective_temperature),
    "forgetting": Mechanism(_causal, forgetting),
    "positional": Mechanism(_causal_if_asked, positional),
    "rbf": Mechanism(_causal_if_asked, rbf),
    "additive": Mechanism(_causal_if_asked, additive),
    "urpe": Mechanism(_causal_if_asked, weigh_row=urpe),
    "parallax": Mechanism(_causal_if_asked, weigh_row=parallax),
    "based_taylor": Mechanism(_causal_if_asked, weigh_row=based_taylor),
    "linear": Mechanism(_causal_if_asked, elu_products, weigh_row=linear),
    "relu_linear": Mechanism(_causal_if_asked, relu_products, weigh_row=linear),
    "hedgehog": Mechanism(_causal_if_asked, hedgehog_products, weigh_row=linear),
    "cosformer": Mechanism(_causal_if_asked, cosformer_products, weigh_row=cosformer),
    "performer": Mechanism(_causal_if_asked, performer_products, weigh_row=performer),
    "mala": Mechanism(all_keys, mala_products, weigh_row=mala),
    "differential": Mechanism(_causal_if_asked, weigh_row=differential, finish=normed),
    "reversed": Mechanism(_causal_if_asked, weigh_all=reversed_),
    "flow": Mechanism(weigh_all=flow),
    "reattention": Mechanism(near, weigh=softmax, finish=completed),
}

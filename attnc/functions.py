"""Builtins on torch tensors that torch has not, or has with another meaning. Imports torch only."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


def to_int(x: Tensor) -> Tensor:
    """A number rounded toward minus infinity."""
    return torch.floor(x).to(torch.int64)


def bit_length(x: Tensor) -> Tensor:
    """Number of bits of abs(x)."""
    rest, bits = x.abs(), torch.zeros_like(x)
    for step in (32, 16, 8, 4, 2, 1):
        high = rest >> step
        bits = torch.where(high > 0, bits + step, bits)
        rest = torch.where(high > 0, high, rest)
    return bits + rest


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)); unlike torch's own it never becomes the identity for large x."""
    return torch.logaddexp(x, torch.zeros_like(x))


def elu(x: Tensor) -> Tensor:
    """The identity above 0, exp(x) - 1 below."""
    return cast(Tensor, cast(Any, torch.nn.functional).elu(x))


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product over features; a query side meets a key side in one matrix product."""
    return cast(Tensor, cast(Any, torch).einsum("...d,...d->...", x, y))


def normalize(x: Tensor, eps: Tensor) -> Tensor:
    """The vector x / max(norm, eps)."""
    norm = cast(Tensor, cast(Any, torch.linalg).vector_norm(x, dim=-1, keepdim=True))
    return x / norm.clamp(min=float(eps))


def concat(*parts: Tensor) -> Tensor:
    """The features of all parts in order."""
    leading = cast(torch.Size, cast(Any, torch).broadcast_shapes(*(part.shape[:-1] for part in parts)))
    return torch.cat([part.expand(*leading, part.shape[-1]) for part in parts], dim=-1)


def rope(x: Tensor, position: Tensor, theta: Tensor, start: Tensor, dims: Tensor, interleaved: Tensor) -> Tensor:
    """Features start .. start + dims - 1 rotated in pairs by position * theta^(-2n/dims)."""
    first, width = int(start), int(dims)
    pair = torch.arange(width // 2, dtype=torch.float64, device=x.device)
    angle = position.double().unsqueeze(-1) * float(theta) ** (-2 * pair / width)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    part = x[..., first : first + width]
    a, b = (part[..., 0::2], part[..., 1::2]) if interleaved else (part[..., : width // 2], part[..., width // 2 :])
    turned = (a * cos - b * sin, a * sin + b * cos)
    rotated = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    return concat(x[..., :first], rotated, x[..., first + width :])


def in_grid(position: Tensor, start: Tensor, count: Tensor) -> Tensor:
    """Whether a position is one of `count` from `start` on."""
    return (position >= start) & (position < start + count)

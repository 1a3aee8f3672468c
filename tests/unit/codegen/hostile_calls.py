"""Calls that try to read or write what is not theirs; run by test_cpp_hostile.py under AddressSanitizer.

Each result is compared with the oracle. A wrong address ends the process with a report.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import torch

import attnc
from attnc.codegen import cpp_build

warnings.simplefilter("ignore")
torch.manual_seed(0)
HUGE = [2**62, -(2**62), 2**63 - 1, -(2**63), 2**31, -(2**31), 2**32 + 3, -1, 0, 1, 5, 9, 10, 11]
GRID = {"height": 9, "width": 15, "window_y": 3, "window_x": 5}


def tokens(*shape: int) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(shape)


def compare(op: attnc.ops.Op, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **call: object) -> None:
    """Fails unless the result is the oracle's."""
    out, aux = op(q, k, v, return_aux=True, **call)
    exact, statistics = op.reference(q, k, v, return_aux=True, **call)
    rounding = 1e-5 if q.dtype == torch.float32 else 0.02
    torch.testing.assert_close(out.double(), exact, rtol=rounding, atol=rounding)
    for name, value in aux.items():
        torch.testing.assert_close(value.double(), statistics[name], rtol=1e-4, atol=1e-4)


def indices() -> None:
    """Out of range in every dimension, on every level: by row, by column, by pair, of vectors."""
    op = attnc.compile(
        source="attention a(at: int[B, M], to: int[N], table: real[10], pair: real[H, 10, 10], u: real[10, D], "
        "e: real[0]) {\n"
        "  mask j + at[b, j] // 7 <= i + to[i] % 50 or table[to[i]] > 0\n"
        "  score dot(q, k + u[at[b, j]]) * scale + dot(q, u[to[i]]) / 9\n"
        "  bias table[at[b, j] + i] + pair[to[i], at[b, j], i - j] + table[at[b, j] * to[i]] + e[j]\n}",
        backend="cpp",
    )
    n, m = 65, 70
    at = torch.tensor(HUGE * 5)[None].repeat(2, 1)
    to = torch.tensor(HUGE * 5)[:n]
    tensors = {"table": tokens(10), "pair": tokens(2, 10, 10), "u": tokens(10, 5), "e": tokens(0)}
    compare(op, tokens(2, 2, n, 5), tokens(2, 1, m, 5), tokens(2, 1, m, 7), at=at, to=to, **tensors)


def odd_sizes() -> None:
    """Tensors of exactly as many numbers as they have, so that each read beside them is found."""
    op = attnc.compile("std:causal", backend="cpp")
    for n, m, d, dv in ((1, 1, 5, 33), (63, 15, 33, 5), (129, 257, 33, 5), (17, 0, 5, 33), (0, 9, 5, 33)):
        compare(op, tokens(1, 3, n, d), tokens(1, 1, m, d), tokens(1, 1, m, dv), q_offset=max(m - n, 0))
    compare(op, *(tokens(1, 2, 65, 80).half() for _ in range(3)))
    for m in (1, 63, 300):  # few queries, which read keys where they lie
        compare(op, tokens(1, 8, 1, 5), tokens(1, 1, m, 5), tokens(1, 1, m, 33), q_offset="end")
        compare(op, *(tokens(1, h, x, 7).half() for h, x in ((3, 2), (3, m), (3, m))), q_offset="end")


def packed() -> None:
    """Documents, some without queries or keys, whose tensors end with the last one."""
    op = attnc.compile(
        source="attention a(seg: int[B, M], w: real[N]) {\n  mask seg[b, i] == seg[b, j] and j <= i\n  bias w[i]\n}",
        backend="cpp",
    )
    lengths = torch.tensor([0, 0, 1, 66, 66, 131])
    seg = torch.tensor(HUGE * 10)[None, :131]
    compare(op, *(tokens(1, 2, 131, 9) for _ in range(3)), cu_seqlens=lengths, seg=seg, w=tokens(131))
    op = attnc.compile("std:causal", backend="cpp")
    ends = (torch.tensor([0, 0, 3, 70]), torch.tensor([0, 5, 5, 100]))
    compare(op, tokens(1, 4, 70, 6), tokens(1, 2, 100, 6), tokens(1, 2, 100, 6), cu_seqlens=ends)


def lists() -> None:
    """Tiles listed from ids, and boxes of a grid."""
    op = attnc.compile("std:document", backend="cpp")
    ids = torch.tensor([HUGE[n % 14] for n in range(150)]).sort().values[None]
    compare(op, *(tokens(1, 2, 150, 8) for _ in range(3)), seg=ids)
    op = attnc.compile("std:neighborhood_2d", backend="cpp", params=GRID)
    compare(op, *(tokens(1, 2, 135, 8) for _ in range(3)))


def strides() -> None:
    """Views whose elements lie beyond 2^31, share memory, or stand before others that belong to nobody."""
    op = attnc.compile("std:causal", backend="cpp")
    row = torch.zeros(1).expand(2**31 + 64)
    far = row.as_strided((1, 1, 70, 4), (0, 0, 0, 0))
    compare(op, far, far, far)
    wide = torch.empty(1).expand(1, 70, 3, 2**31 + 9)[..., 2**31 :].transpose(1, 2).fill_(0.5)
    compare(op, wide, wide, wide)
    flat = tokens(200)
    overlapping = flat.as_strided((1, 2, 65, 9), (0, 3, 2, 1))
    compare(op, overlapping, overlapping, overlapping)
    packed_heads = tokens(1, 65, 3, 2, 7)
    q, k, v = (packed_heads[:, :, n].transpose(1, 2) for n in range(3))
    compare(op, q, k, v)
    compare(op, flat[: 2 * 65].view(1, 2, 65, 1).expand(1, 2, 65, 1), *(tokens(1, 2, 65, 1) for _ in range(2)))


def gradients() -> None:
    """Sums over queries and into tables: indices out of range, sizes of no tile, documents, views."""
    op = attnc.compile(
        source="import std.softmax (softmax)\nattention a(at: int[B, M], table: real[10], pair: real[H, 10, 10], "
        "x: real[B, M], y: real[N]) {\n"
        "  mask j + at[b, j] // 7 <= i + 9\n  bias table[at[b, j] + i] + pair[h, at[b, j], i - j] + x[b, j] * y[i]\n"
        "  normalizer softmax\n}",
        backend="cpp",
    )
    for n, m in ((65, 70), (1, 1), (70, 0), (0, 3)):
        at = torch.tensor(HUGE * 5)[None, :m].repeat(2, 1)
        tensors = {"table": tokens(10), "pair": tokens(2, 10, 10), "x": tokens(2, m), "y": tokens(n)}
        differentiate(op, [tokens(2, 2, n, 5), tokens(2, 1, m, 5), tokens(2, 1, m, 7)], tensors, at=at)
    causal = attnc.compile("std:causal", backend="cpp")
    ends = (torch.tensor([0, 0, 3, 70]), torch.tensor([0, 5, 5, 100]))
    given = [tokens(1, 4, 70, 6), tokens(1, 2, 100, 6), tokens(1, 2, 100, 6)]
    differentiate(causal, given, {}, cu_seqlens=ends, q_offset="end")
    heads = tokens(1, 65, 3, 2, 7)
    differentiate(causal, [heads[:, :, n].transpose(1, 2) for n in range(3)], {})


def differentiate(
    op: attnc.ops.Op, given: list[torch.Tensor], tensors: dict[str, torch.Tensor], **call: object
) -> None:
    """Fails unless the gradients are those of the oracle."""

    def found(run: Callable[..., torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [x.detach().to(dtype).requires_grad_() for x in (*given, *tensors.values())]
        named = dict(zip(tensors, leaves[3:], strict=True))
        out = run(*leaves[:3], **named, **call)
        return [x.double() for x in torch.autograd.grad(out.sin().sum(), leaves, materialize_grads=True)]

    for mine, exact in zip(found(op, torch.float32), found(op.reference, torch.float64), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-4, atol=1e-4)


def beside() -> None:
    """What the sanitizer has to find: one row more than there is."""
    op = attnc.compile("std:full", backend="cpp")
    q = tokens(1, 1, 16, 8)
    short = tokens(1, 1, 16, 8)
    short.untyped_storage().resize_(15 * 8 * 4)
    op(q, short, q)


CALLS: dict[str, Callable[[], None]] = {
    f.__name__: f for f in (indices, odd_sizes, packed, lists, strides, gradients, beside)
}

if __name__ == "__main__":
    cpp_build.FLAGS = (*cpp_build.FLAGS, *sys.argv[2:])
    for name in sys.argv[1].split(","):
        CALLS[name]()

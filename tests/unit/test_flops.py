"""What torch's counter says of a call."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

import attnc


def _counted(spec: str, n: int, *, grad: bool = False, **params: int) -> int:
    op = attnc.compile(spec, params=params, backend="torch")
    q, k, v = (torch.randn(2, 3, n, 16, requires_grad=grad) for _ in range(3))
    with FlopCounterMode(display=False) as mode:
        out = op(q, k, v)
        if grad:
            out.sum().backward()
    return mode.get_total_flops()


def test_full_attention_counts_two_products() -> None:
    assert _counted("std:full", 256) == 2 * 3 * 256 * 256 * 4 * 16


def test_skipped_tiles_do_not_count() -> None:
    dense = 2 * 3 * 2048 * 2048 * 4 * 16
    assert dense / 2 < _counted("std:causal", 2048) < 0.7 * dense
    assert _counted("std:sliding_window", 2048, size=64) < 0.5 * dense


def test_a_backward_counts_five_products_beside_the_two() -> None:
    assert _counted("std:full", 256, grad=True) == 2 * 3 * 256 * 256 * (2 + 5) * 2 * 16


def test_a_counter_that_is_imported_later_knows_ops_that_were_there() -> None:
    text = """
import torch, attnc
op = attnc.compile("std:full", backend="torch")
q = torch.randn(1, 1, 8, 16)
op(q, q, q)
import sys
assert "torch.utils.flop_counter" not in sys.modules
from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as mode:
    op(q, q, q)
assert mode.get_total_flops() == 8 * 8 * 4 * 16, mode.get_total_flops()
"""
    subprocess.run([sys.executable, "-c", text], check=True, timeout=120)

"""The C++ back end beside torch's attention and compiled FlexAttention, on this machine.

    python benchmarks/cpu.py [--rounds R] [--longest N] [--json FILE] [--flex] [--docs]

Peers are called in turn within each round; the ratio is the median over the rounds of peer over attnc, so what slows
the machine down slows both. GFLOP/s count the pairs that the mask keeps (4 D each). B = 1, H = 4, as many threads as
torch has. `--docs` writes the table of docs/benchmarks.md and its picture.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpu_report import Found, report, write_docs

import attnc

HEADS = 4


@dataclass(frozen=True)
class Row:
    """One line of the table: milliseconds, useful GFLOP/s, and how many times longer each peer takes."""

    case: str
    dtype: str
    dim: int
    tokens: int
    ms: float
    gflops: float
    sdpa: float | None
    flex: float | None


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compared(
    mine: Callable[[], Any], peers: dict[str, Callable[[], Any]], rounds: int
) -> tuple[float, dict[str, float]]:
    """Median seconds, and the median ratio of each peer."""
    for function in (mine, *peers.values()):
        function()
    own: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        spent = min(timed(mine) for _ in range(2))
        own.append(spent)
        for name, peer in peers.items():
            ratios[name].append(min(timed(peer) for _ in range(2)) / spent)
    return statistics.median(own), {name: statistics.median(found) for name, found in ratios.items()}


def kept(mask: Callable[[Any, Any], Any] | None, n: int) -> int:
    """Pairs that a mask of positions keeps."""
    if mask is None:
        return n * n
    j = torch.arange(n)
    return sum(int(mask(torch.arange(i, min(i + 256, n))[:, None], j).sum()) for i in range(0, n, 256))


def flex_call(mask: Callable[[Any, Any], Any] | None, n: int, q: torch.Tensor) -> Callable[[], Any]:
    """Compiled FlexAttention with a block mask that was built before."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention)
    block = None if mask is None else create_block_mask(lambda _b, _h, i, j: mask(i, j), None, None, n, n, device="cpu")
    return lambda: compiled(q, q, q, block_mask=block)


def cases(n: int) -> dict[str, tuple[attnc.Op, Callable[[Any, Any], Any] | None, bool | None, dict[str, Any]]]:
    """Per name the op, its mask on positions, whether torch's attention has it (causal or not), and tensors."""
    lengths = torch.full((-(-n // 1000),), 1000)
    document = torch.repeat_interleave(torch.arange(len(lengths)), lengths)[:n]
    window = {size: attnc.compile("std:sliding_window", params={"size": size}, backend="cpp") for size in (256, 1024)}
    return {
        "full": (attnc.compile("std:full", backend="cpp"), None, False, {}),
        "causal": (attnc.compile("std:causal", backend="cpp"), lambda i, j: j <= i, True, {}),
        "window 1024": (window[1024], lambda i, j: (j <= i) & (i - j < 1024), None, {}),
        "window 256": (window[256], lambda i, j: (j <= i) & (i - j < 256), None, {}),
        "documents": (attnc.compile("std:document", backend="cpp"), lambda i, j: document[i] == document[j], None,
                      {"seg": document[None]}),
    }  # fmt: skip


def measure(name: str, dtype: torch.dtype, dim: int, n: int, rounds: int, *, flex: bool) -> Row:
    """One case."""
    op, mask, causal, tensors = cases(n)[name]
    q = torch.randn(1, HEADS, n, dim).to(dtype)
    peers: dict[str, Callable[[], Any]] = {}
    if causal is not None:
        peers["sdpa"] = lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=causal)
    if flex:
        peers["flex"] = flex_call(mask, n, q)
    with torch.no_grad():
        seconds, ratios = compared(lambda: op(q, q, q, **tensors), peers, rounds)
    gflops = 4e-9 * HEADS * kept(mask, n) * dim / seconds
    kind = str(dtype).removeprefix("torch.")
    return Row(name, kind, dim, n, 1e3 * seconds, gflops, ratios.get("sdpa"), ratios.get("flex"))


def overheads(n: int, rounds: int) -> dict[str, float]:
    """Time over that of plain causal attention, for scores and normalizers that cost more."""
    q = torch.randn(1, HEADS, n, 64)
    causal = attnc.compile("std:causal", backend="cpp")
    own: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
        "alibi": ("alibi", {}, {"slope": torch.rand(HEADS)}),
        "sink": ("softmax_sink", {"causal": True}, {"sink": torch.randn(HEADS)}),
        "sigmoid": ("sigmoid", {"causal": True}, {}),
        "softcap": ("softcap", {"causal": True}, {}),
    }
    found: dict[str, float] = {}
    for name, (spec, params, tensors) in own.items():
        op = attnc.compile(f"std:{spec}", params=params, backend="cpp")
        with torch.no_grad():
            plain: dict[str, Callable[[], Any]] = {"plain": lambda: causal(q, q, q)}
            found[name] = 1 / compared(lambda op=op, given=tensors: op(q, q, q, **given), plain, rounds)[1]["plain"]
    return found


def decoding(rounds: int) -> float:
    """One query row of eight heads that share 32k keys: bytes of K and V per second over those of a plain read."""
    k, v, q = torch.randn(1, 1, 32768, 128), torch.randn(1, 1, 32768, 128), torch.randn(1, 8, 1, 128)
    op = attnc.compile("std:full", backend="cpp")
    with torch.no_grad():
        return compared(lambda: op(q, k, v), {"read": lambda: (k.sum(), v.sum())}, rounds)[1]["read"]


def training(rounds: int) -> dict[str, float]:
    """Causal attention of 4096 tokens: time of the backward over that of the forward, and of both over torch's."""
    op = attnc.compile("std:causal", backend="cpp")
    q, k, v = (torch.randn(1, HEADS, 4096, 64, requires_grad=True) for _ in range(3))
    seed = torch.randn(1, HEADS, 4096, 64)

    def forward() -> None:
        with torch.no_grad():
            op(q, k, v)

    out = op(q, k, v)
    alone = {"forward": forward}
    backward = compared(lambda: torch.autograd.grad(out, (q, k, v), seed, retain_graph=True), alone, rounds)[1]

    def both(attend: Callable[..., torch.Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(attend(q, k, v), (q, k, v), seed)

    sdpa = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True)
    peers = compared(both(op), {"sdpa": both(sdpa)}, rounds)[1]
    return {"backward over forward": 1 / backward["forward"], "both over SDPA": peers["sdpa"]}


MASKS: dict[str, dict[str, int]] = {
    "streaming": {"sink": 4, "window": 1024},
    "dilated_window": {"size": 2048, "dilation": 4},
    "strided": {"stride": 32},
    "neighborhood_1d": {"length": 4096, "window": 1023},
    "neighborhood_2d": {"height": 64, "width": 64, "window_y": 24, "window_x": 24},
    "maxvit_grid": {"height": 64, "width": 64, "size": 16},
    "radial": {"frames": 16, "per_frame": 256},
}


def visited(op: attnc.Op) -> int:
    """Pairs in the tiles that the last call of an op visited, for one head."""
    total = 0
    for work in op._executor.worked:
        ends = np.concatenate(([0], np.cumsum(work.runs[:, 1])))
        tiles = ends[work.ranges[0, 0].sum(1)] - ends[work.ranges[0, 0, :, 0]]
        total += int((tiles * (work.unit_rows >= 0).sum(1)).sum()) * work.cols.shape[1]
    return total


def sparse(rounds: int) -> dict[str, float]:
    """GFLOP/s over the visited tiles of masks of the library, over that of full attention of as many tokens."""
    q = torch.randn(1, HEADS, 4096, 64)
    full = attnc.compile("std:full", backend="cpp")
    found: dict[str, float] = {}
    for name, params in MASKS.items():
        op = attnc.compile(f"std:{name}", params=params, backend="cpp")
        with torch.no_grad():
            ratio = compared(lambda op=op: op(q, q, q), {"full": lambda: full(q, q, q)}, rounds)[1]["full"]
        found[name] = ratio * visited(op) / 4096**2
    return found


START = """
import time, torch
q = torch.randn(1, 2, 300, 64)
start = time.perf_counter()
import attnc
attnc.compile("std:causal", backend="cpp")(q, q, q)
print(time.perf_counter() - start)
"""
MEMORY = """
import torch, attnc

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

op = attnc.compile("std:causal", backend="cpp")
q = torch.randn(1, 4, {n}, 64)
op(q[:, :, :100], q[:, :, :100], q[:, :, :100])
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew at what is in use
before = peak()
out = op(q, q, q)
print(peak() - before - out.numel() * 4 / 2**20)
"""


def in_process(text: str, cache: str) -> float:
    """What a new process prints, with a cache of its own."""
    environment = {**os.environ, "ATTNC_CACHE_DIR": cache}
    done = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


def around(rounds: int) -> dict[str, float]:
    """Seconds to a first output from an empty cache and from a warm one, of a call of one pair; MB beside tensors."""
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(in_process(START, cache))
            warm.append(in_process(START, cache))
    with tempfile.TemporaryDirectory() as cache:
        memory = {n: in_process(MEMORY.format(n=n), cache) for n in (4096, 16384)}
    op, q = attnc.compile("std:causal", backend="cpp"), torch.randn(1, 1, 1, 64)
    with torch.no_grad():
        calls = sorted(timed(lambda: op(q, q, q)) for _ in range(2000))
    return {"cold": statistics.median(cold), "warm": statistics.median(warm), "call": calls[len(calls) // 4],
            **{f"memory {n}": megabytes for n, megabytes in memory.items()}}  # fmt: skip


def means(rows: list[Row]) -> list[str]:
    """Geometric means over the lengths."""
    lines: list[str] = []
    for key in dict.fromkeys((row.case, row.dtype, row.dim) for row in rows):
        own = [row for row in rows if (row.case, row.dtype, row.dim) == key]
        texts = [f"{statistics.geometric_mean([row.gflops for row in own]):.0f} GFLOP/s"]
        for peer in ("sdpa", "flex"):
            found = [value for row in own if (value := getattr(row, peer)) is not None]
            texts += [f"{statistics.geometric_mean(found):.2f}x {peer}"] if found else []
        lines.append(f"{key[0]:<12} {key[1]:<9} D {key[2]:<4} {'   '.join(texts)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--longest", type=int, default=8192)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true", help="write the table and the picture of docs/benchmarks.md")
    parser.add_argument("--flex", action="store_true", help="measure FlexAttention, too; it compiles for minutes")
    options = parser.parse_args()
    lengths = [n for n in (1024, 2048, 4096, 8192, 16384) if n <= options.longest]
    kinds = [("full", torch.float32, 64), ("causal", torch.float32, 64), ("full", torch.float32, 128),
             ("causal", torch.float32, 128), ("full", torch.bfloat16, 64), ("causal", torch.bfloat16, 64),
             ("window 1024", torch.float32, 64), ("window 256", torch.float32, 64),
             ("documents", torch.float32, 64)]  # fmt: skip
    rows: list[Row] = []
    for name, dtype, dim in kinds:
        for n in lengths:
            rows.append(measure(name, dtype, dim, n, options.rounds, flex=options.flex and dim == 64))
            row = rows[-1]
            ratios = "  ".join(f"{x:.2f}x {p}" for p, x in (("sdpa", row.sdpa), ("flex", row.flex)) if x is not None)
            line = f"{row.case:<12}{row.dtype:<9} D {row.dim:<4} N {n:<6}{row.ms:9.2f} ms {row.gflops:6.0f} GFLOP/s"
            print(line, ratios, sep="  ", flush=True)
    print("\nGeometric means over N:", *means(rows), sep="\n")
    found = Found([asdict(row) for row in rows], overheads(4096, options.rounds), sparse(options.rounds),
                  decoding(4 * options.rounds), around(min(options.rounds, 3)), training(options.rounds),
                  lengths)  # fmt: skip
    text = report(found)
    print("", *text, sep="\n")
    if options.json:
        options.json.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
    if options.docs:
        write_docs(found, text)


if __name__ == "__main__":
    main()

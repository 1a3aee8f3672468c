"""Linear attention on the C++ back end: through states, by tiles of pairs, and the plain chunked formula in torch.

    python benchmarks/linear.py [--rounds R] [--tokens N ...] [--backward] [--json FILE]

The three are called in turn within each round; ratios are medians over the rounds, so what slows the machine down slows
all of them. B = 1, H = 4, D = Dv = 64, float32, as many threads as torch has. `growth` compares the longest call with
one of a quarter of its tokens. Tiles are left out beyond 16384 tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attnc
from attnc.ir import long_calls

HEADS, DIM, CHUNK = 4, 64, 128
#: Calls beyond this many tokens are not run by tiles.
MOST_BY_TILES = 16384
Run = Callable[[], Any]


def chunked(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """What one writes by hand: sums of chunks, their running sums, and the pairs of each chunk."""
    q, k = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
    values = torch.cat((v, v.new_ones((*v.shape[:3], 1))), dim=3)
    if not causal:
        found = q @ (k.transpose(2, 3) @ values)
        return found[..., :-1] / (found[..., -1:] + 1e-10)
    left, right, values = (x.unflatten(2, (-1, CHUNK)) for x in (q, k, values))
    sums = right.transpose(3, 4) @ values
    before = sums.cumsum(2) - sums
    found = ((left @ right.transpose(3, 4)).tril() @ values + left @ before).flatten(2, 3)
    return found[..., :-1] / (found[..., -1:] + 1e-10)


@contextmanager
def by_tiles() -> Iterator[None]:
    """No call is long enough for states."""
    fewest, long_calls.FEWEST = long_calls.FEWEST, 1 << 60
    try:
        yield
    finally:
        long_calls.FEWEST = fewest


def runs(tokens: int, *, causal: bool, backward: bool) -> dict[str, Run]:
    """The competitors, by name."""
    long_calls.FEWEST = 512  # also where calls would take tiles by themselves
    op = attnc.compile("std:linear", params={"causal": causal}, backend="cpp")
    q, k, v = (torch.randn(1, HEADS, tokens, DIM, requires_grad=backward) for _ in range(3))
    seed = torch.randn(1, HEADS, tokens, DIM)

    def run(function: Run) -> Run:
        if not backward:
            return function
        return lambda: torch.autograd.grad(function(), (q, k, v), seed)

    def tiles() -> Any:
        with by_tiles():
            return run(lambda: op(q, k, v))()

    found: dict[str, Run] = {
        "states": run(lambda: op(q, k, v)),
        "torch": run(lambda: chunked(q, k, v, causal=causal)),
    }
    return found | ({"tiles": tiles} if tokens <= MOST_BY_TILES else {})


def timed(function: Run) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def rounds_of(functions: list[Run], rounds: int) -> list[list[float]]:
    """Seconds of each function in each round, after one call of each that is not counted."""
    for function in functions:
        function()
    return [[timed(function) for function in functions] for _ in range(rounds)]


def measure(tokens: list[int], rounds: int, *, causal: bool, backward: bool) -> list[dict[str, Any]]:
    """A row for each number of tokens."""
    rows: list[dict[str, Any]] = []
    for n in tokens:
        named = runs(n, causal=causal, backward=backward)
        found = rounds_of(list(named.values()), rounds)
        row: dict[str, Any] = {"mask": "causal" if causal else "full", "backward": backward, "tokens": n}
        row["ms"] = round(1e3 * statistics.median(times[0] for times in found), 2)
        for place, name in enumerate(named):
            if place:
                row[name] = round(statistics.median(times[place] / times[0] for times in found), 2)
        rows.append(row)
        print(row, flush=True)
    return rows


def growth(tokens: int, rounds: int, *, causal: bool, backward: bool) -> dict[str, Any]:
    """How much longer the longest call takes than one of a quarter of its tokens."""
    pair = [runs(n, causal=causal, backward=backward)["states"] for n in (tokens // 4, tokens)]
    ratio = statistics.median(long / short for short, long in rounds_of(pair, rounds))
    row = {"mask": "causal" if causal else "full", "backward": backward, "tokens": tokens, "growth": round(ratio, 2)}
    print(row, flush=True)
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 16384, 65536])
    parser.add_argument("--backward", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for causal in (True, False):
        rows += measure(asked.tokens, asked.rounds, causal=causal, backward=asked.backward)
        rows.append(growth(max(asked.tokens), asked.rounds, causal=causal, backward=asked.backward))
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Where the time of a C++ kernel goes.

    python benchmarks/profile_cpp.py sliding_window --param size=256 --tokens 4096

The emitted text gets timers around the inner products, what is between the products of a full and of a partial tile,
the weighted sums, packing and the whole of a unit of queries. One thread, x86 only; of each the least of all calls, in
millions of ticks of the processor's clock counter. The last line is what a loop of multiply-adds alone reaches.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import tempfile
import time
from pathlib import Path
from typing import Any

SLOTS = ("inner products", "between, full tiles", "weighted sums", "between, partial tiles", "units", "packing")
TIMERS = """
#include <x86intrin.h>
static uint64_t ticks_[8];
extern "C" void read_ticks(uint64_t* to) { memcpy(to, ticks_, sizeof ticks_); memset(ticks_, 0, sizeof ticks_); }
struct Timer {
  int slot;
  uint64_t start;
  Timer(int slot) : slot(slot), start(__rdtsc()) {}
  ~Timer() { ticks_[slot] += __rdtsc() - start; }
};
extern "C" double peak() {
  vf sum[16];
  for (int n = 0; n < 16; n++) sum[n] = bf(n);
  vf x = bf(0.999f), y = bf(0.001f);
  asm volatile("" : "+v"(x), "+v"(y));
  const uint64_t start = __rdtsc();
  for (int n = 0; n < 1000000; n++) UNROLL for (int m = 0; m < 16; m++) sum[m] = sum[m] * x + y;
  const uint64_t spent = __rdtsc() - start;
  for (int m = 0; m < 16; m++) asm volatile("" : : "v"(sum[m]));
  return 16e6 * 2 * V / spent;
}
"""


def with_timers(source: str) -> str:
    """Emitted C++ with timers; other texts as they are."""
    if "stage0_unit" not in source:
        return source
    head, middle = "constexpr int ROWS", source.split("\n")
    lines: list[str] = []
    n = 0
    while n < len(middle):
        line, taken = middle[n], 1
        if line.startswith(head):
            lines += TIMERS.split("\n")
        slot = _slot(middle, n)
        if slot is not None and line.lstrip().startswith("for"):
            indent = line[: len(line) - len(line.lstrip())]
            taken = middle.index(indent + "}", n) - n + 1
        inside = middle[n : n + taken]
        lines += inside if slot is None else ["{", f"Timer timer({slot});", *inside, "}"]
        if line.startswith(("static void stage0_unit", "static void stage0_pack")):
            lines.append(f"Timer timer({4 if 'unit' in line else 5});")
        n += taken
    return "\n".join(lines)


def _slot(lines: list[str], n: int) -> int | None:
    text = lines[n].strip()
    if text.startswith("inner_products<"):
        return 0
    if text.startswith("weighted_sum<"):
        return 2
    if text.startswith("for (int s0 = 0; s0 < used"):
        return 3 if any("kept" in line for line in lines[n : n + 12]) else 1
    return None


def library() -> Any:
    """The module with timers that was loaded last."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    found = [line.split()[-1] for line in maps if os.environ["ATTNC_CACHE_DIR"] in line]
    return ctypes.CDLL(next(path for path in found if b"read_ticks" in Path(path).read_bytes()))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("spec")
    parser.add_argument("--param", action="append", default=[], help="name=int")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    os.environ["ATTNC_CACHE_DIR"] = tempfile.mkdtemp()
    import torch

    import attnc
    from attnc.codegen import cpp_build

    torch.set_num_threads(1)
    build = cpp_build._build  # pyright: ignore[reportPrivateUsage]

    def build_timed(source: str, path: str, flags: tuple[str, ...], key: str) -> None:
        build(with_timers(source), path, flags, key)

    cpp_build._build = build_timed  # pyright: ignore[reportPrivateUsage]
    params: dict[str, Any] = {name: int(value) for name, value in (text.split("=") for text in args.param)}
    op = attnc.compile(f"std:{args.spec}", params=params, backend="cpp")
    q = torch.randn(1, args.heads, args.tokens, args.dim).to(getattr(torch, args.dtype))
    best, spent, ticks = [float("inf")] * 8, float("inf"), (ctypes.c_uint64 * 8)()
    with torch.no_grad():
        op(q, q, q)
        timed = library()
        for _ in range(args.rounds):
            timed.read_ticks(ticks)
            start = time.perf_counter()
            op(q, q, q)
            spent = min(spent, time.perf_counter() - start)
            timed.read_ticks(ticks)
            best = [min(a, b) for a, b in zip(best, ticks, strict=True)]
    for name, number in zip(SLOTS, best, strict=False):
        print(f"{name:24} {number / 1e6:9.2f} million ticks")
    timed.peak.restype = ctypes.c_double
    print(f"{'the call':24} {1e3 * spent:9.2f} ms")
    print(f"{'multiply-adds alone':24} {max(timed.peak() for _ in range(20)):9.1f} FLOP a tick")


if __name__ == "__main__":
    main()

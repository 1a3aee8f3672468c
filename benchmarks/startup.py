"""How long a user waits: a cold `attnc check`, an op that was compiled before, and from a spec to Triton source once
everything is imported.

    python benchmarks/startup.py

Prints medians in milliseconds, and the bound of each where there is one. The times are of this machine, alone on it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 7
#: Static parameters of the standard library's files that have no defaults.
PARAMS: dict[str, dict[str, int | float]] = {
    "sliding_window": {"size": 1024},
    "streaming": {"sink": 4, "window": 1024},
    "dilated_window": {"size": 1024, "dilation": 4},
    "softcap": {"cap": 50.0},
    "relative_table": {"L": 128},
    "neighborhood_1d": {"length": 4096, "window": 63},
    "neighborhood_2d": {"height": 64, "width": 64, "window_y": 7, "window_x": 7},
    "neighborhood_3d": {"frames": 8, "height": 16, "width": 16, "window_t": 3, "window_y": 5, "window_x": 5},
}


def spec_of_50_lines() -> str:
    """A file with a dozen declarations of every kind, 50 lines long."""
    masks = [f"mask m{n}(size: int = {n + 1}) = 0 <= i - j < size or j < {n}" for n in range(10)]
    biases = [f"bias b{n}(slope: real[H]) = -slope[h] * abs(i - j) * {n + 1}" for n in range(10)]
    body = ["attention a(slope: real[H], t: real[H, N]) {"]
    body += [f"  mask  m{n}({n + 2}) and j <= i" for n in range(1)]
    body += ["  score dot(q, k) * scale"]
    body += [f"  bias  b{n}(slope)" for n in range(10)]
    body += ["  normalizer softmax", "  out = o * sigmoid(t[h, i])", "}"]
    lines = [*masks, "", *biases, "", *body]
    return "\n".join([*lines, *("# padding" for _ in range(50 - len(lines)))]) + "\n"


def cold_check() -> float:
    """Seconds of one `attnc check` of a 50-line spec in a new process."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "spec.attn"
        path.write_text(spec_of_50_lines())
        command = [sys.executable, "-c", "from attnc.cli import main; main()", "check", str(path)]
        # Compiled modules are kept, as they are for every user.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return time.perf_counter() - start


WARM = """
import time, torch
q = torch.randn(1, 2, 64, 64)
start = time.perf_counter()
import attnc
attnc.compile("std:causal")(q, q, q)
print(time.perf_counter() - start)
"""


def warm_op() -> float:
    """Seconds from `import attnc` to the first result of an op in the cache, in a new process that has torch."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", WARM], check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


def to_source(name: str) -> float:
    """Seconds from a standard-library spec to Triton source, nothing cached but imports."""
    import attnc

    with tempfile.TemporaryDirectory() as directory:
        os.environ["ATTNC_CACHE_DIR"] = directory
        start = time.perf_counter()
        op = attnc.compile(f"std:{name}", params=PARAMS.get(name, {}), backend="interpret", tile=(128, 64))
        op._executor.forget()
        assert op.source
        spent = time.perf_counter() - start
        del os.environ["ATTNC_CACHE_DIR"]
    return spent


def main() -> None:
    from attnc.driver import stdlib_names

    cold = statistics.median(cold_check() for _ in range(ROUNDS))
    print(f"cold attnc check, 50 lines      {1e3 * cold:7.1f} ms   (at most 300)")
    warm_op()
    warm = statistics.median(warm_op() for _ in range(ROUNDS))
    print(f"first result of a cached op     {1e3 * warm:7.1f} ms   (at most 200, torch imported)")
    to_source("causal")
    for name in stdlib_names():
        spent = statistics.median(to_source(name) for _ in range(3))
        print(f"spec to Triton {name:<16} {1e3 * spent:7.1f} ms   (at most 100)")


if __name__ == "__main__":
    main()

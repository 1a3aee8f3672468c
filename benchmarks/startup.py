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
#: Values of static parameters without a default, by name; those of one spec go first.
VALUES: dict[str, int | float] = {
    "size": 1024, "sink": 4, "window": 1024, "dilation": 4, "cap": 50.0, "L": 128, "length": 4096, "frames": 8,
    "height": 64, "width": 64, "window_t": 4, "window_y": 8, "window_x": 8, "stride": 128, "block": 64, "blocks": 32,
    "group": 2048, "axis": 0, "halo": 3, "shift": 0, "local": 4, "recent": 256, "num_verts": 4, "vertsize": 1,
    "alpha": 1024, "per_frame": 256, "decay": 1.0,
}  # fmt: skip
PARAMS: dict[str, dict[str, int | float]] = {
    "neighborhood_1d": {"window": 63},
    "maxvit_grid": {"size": 16},
    "maxvit_block": {"size": 16},
    "swin": {"window": 7, "height": 56, "width": 56},
    "halo": {"block": 8},
    "sliding_tile_3d": {"frames": 30, "height": 48, "width": 80},
}


def params_of(name: str) -> dict[str, int | float]:
    """Static parameters of a file of the standard library."""
    from attnc.driver import check, load_spec, select

    module = select(check(load_spec(f"std:{name}")))
    known = {**VALUES, **PARAMS.get(name, {})}
    return {p.name: known[p.name] for p in module.scalars if not p.dynamic and p.default is None}


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
        params = params_of(name)
        start = time.perf_counter()
        op = attnc.compile(f"std:{name}", params=params, backend="interpret", tile=(128, 64))
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

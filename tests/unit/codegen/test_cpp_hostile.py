"""Emitted C++ under AddressSanitizer: no input makes a kernel touch memory that is not its own."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from attnc.codegen.cpp_build import compiler
from attnc.codegen.cpp_kernel import native
from tests.unit.codegen.hostile_calls import CALLS

ROOT = Path(__file__).resolve().parents[3]
#: Checks as calls: written out they keep the compiler busy for ten times as long.
FLAGS = (
    "-O1",
    "-fsanitize=address,alignment,bounds,shift,integer-divide-by-zero",
    "-fno-sanitize-recover=all",
    "--param=asan-instrumentation-with-call-threshold=0",
)


@cache
def sanitizers() -> str:
    """What to load before Python; "" where the compiler has no AddressSanitizer to load."""
    path = compiler()
    if path is None or "clang" in Path(path).name:
        return ""
    found = [
        subprocess.run((path, f"-print-file-name={name}"), capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")  # the second, or its exceptions are not known to the first
    ]
    return " ".join(found) if all(Path(file).is_absolute() for file in found) else ""


def run(names: str) -> subprocess.CompletedProcess[str]:
    """Hostile calls in a process of their own, under the sanitizer."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    environment |= {"LD_PRELOAD": sanitizers(), "ASAN_OPTIONS": "detect_leaks=0"}
    command = (sys.executable, "-m", "tests.unit.codegen.hostile_calls", names, *FLAGS)
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


needs_sanitizer = pytest.mark.skipif(
    not sanitizers(), reason="the C++ compiler has no AddressSanitizer; runs with g++ and its libasan"
)


@needs_sanitizer
def test_hostile_calls_stay_inside() -> None:
    done = run(",".join(name for name in CALLS if name != "beside"))
    assert done.returncode == 0, done.stderr[:3000]


@needs_sanitizer
def test_the_sanitizer_sees_what_lies_beside() -> None:
    """The other tests would notice: a kernel told that its tensor has one row more is stopped."""
    done = run("beside")
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


def test_what_is_specific_to_a_machine_is_guarded() -> None:
    """Builtins of one architecture stand between preprocessor lines that ask for it."""
    for name in ("vector.h", "tiles.h", "pool.cpp"):
        guards: list[str] = []
        for line in native(name).splitlines():
            if line.startswith("#if"):
                guards.append(line)
            elif line.startswith("#endif"):
                guards.pop()
            elif "__builtin_ia32" in line or "immintrin" in line or "_mm" in line or "vld1" in line:
                assert any("__AVX512F__" in guard for guard in guards), line

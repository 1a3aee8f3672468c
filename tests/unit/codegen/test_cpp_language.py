"""The C++ back end has code for all that a kernel may contain: loops over cases and features, 64-bit integers."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attnc
from attnc.codegen.cpp_build import load_library
from attnc.codegen.cpp_kernel import native
from attnc.drawing import Case
from tests.property.agreement import assert_agrees

NEAR = "min(max(i - j, -4), 4) + 4"
SPECS = {
    "cases": "attention a(t: int[H, 40], u: int[B, M]) {\n"
    "  mask exists r in 0..40: j - t[h, r] == i % 7 or (exists p in 2..42: u[b, j] * p == i + r)\n}",
    "pairs": f"attention a(r: real[H, 9, D], z: real[H, 3], y: real[H, 9, 3]) {{\n"
    f"  score dot(q, k + r[h, {NEAR}]) * scale + dot(rope(q, i - j, theta: 100, dims: 6), k) / 4\n"
    f"  bias dot(concat(q * real(i - j) / 9, y[h, {NEAR}]), concat(k, z[h])) * scale + "
    f"dot(q * max[d](k), r[h, {NEAR}]) / 8\n}}",
    "outputs": "attention a(g: real[Dv]) {\n"
    "  out = rope(o / sqrt(mean[d](o * o) + 0.01) * g, -i, theta: 30, dims: 4) - max[d](o)\n}",
    "rotations": "attention a {\n"
    "  score dot(rope(q, i - j, theta: 50, dims: 4, start: 2, interleaved: true), k) * scale\n"
    "  out = sum[d](o) * normalize(o)\n}",
    "sweeps": "normalizer n {\n  m = max[j](s)\n  p = exp(s - m)\n  x = p / sum[j](p)\n  y = x ^ 2\n"
    "  w = y / sum[j](y)\n}\nattention a {\n  mask j <= i\n  normalizer n\n}",
    "guarded": "normalizer n {\n  m = max[j](s)\n  p = exp(s - m * m)\n  w = p / sum[j](p)\n}\n"
    "attention a {\n  mask j <= i\n  normalizer n\n}",
}
CASES = {
    "whole": Case(batch=2, heads=4, key_heads=2, queries=70, keys=131, head_dim=10, value_dim=20, ints=(-9, 60)),
    "packed": Case(
        heads=2, queries=40, keys=90, head_dim=7, value_dim=5, documents=((30, 80), (0, 3), (10, 7)), ints=(-9, 60)
    ),
    "far": Case(
        batch=2,
        heads=2,
        queries=33,
        keys=65,
        head_dim=8,
        value_dim=16,
        q_offset=((1 << 31) - 99, 5),
        k_offset=((1 << 31) - 99, -(1 << 30)),
    ),
}


@pytest.mark.parametrize(
    ("spec", "case"),
    [
        ("cases", "whole"),
        ("cases", "far"),
        ("pairs", "whole"),
        ("outputs", "packed"),
        ("rotations", "far"),
        ("sweeps", "whole"),
        ("guarded", "whole"),
    ],
)
def test_loops_inside_expressions(spec: str, case: str) -> None:
    assert_agrees(attnc.compile(source=SPECS[spec], backend="cpp"), CASES[case])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of x86-64; runs on one")
@pytest.mark.parametrize("march", ["haswell", "x86-64"])
@pytest.mark.parametrize(("spec", "case"), [("pairs", "whole"), ("cases", "far")])
def test_vectors_of_smaller_machines(monkeypatch: pytest.MonkeyPatch, march: str, spec: str, case: str) -> None:
    if march == "haswell" and "avx2" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        pytest.skip("this processor has no AVX2; runs on one that has")
    monkeypatch.setenv("ATTNC_MARCH", march)
    assert_agrees(attnc.compile(source=SPECS[spec], backend="cpp"), CASES[case])


HEADS = {
    "by head": "attention a(w: int[H]) {\n  mask 0 <= i - j < w[h]\n}",
    "by key head": "attention a(w: int[Hk]) {\n  mask 0 <= i - j < w[hk]\n}",
    "listed by head": "attention a(w: int[H, M]) {\n  mask w[h, i] == w[h, j] and j <= i\n}",
    "listed by batch": "attention a(w: int[B, M]) {\n  mask w[b, i] == w[b, j] and j <= i\n}",
}


@pytest.mark.parametrize("name", HEADS)
def test_tiles_of_a_head_are_its_own(name: str) -> None:
    op = attnc.compile(source=HEADS[name], backend="cpp")
    q, k = torch.randn(2, 4, 300, 8), torch.randn(2, 2, 300, 8)
    if "listed" in name:
        size = [4, 300] if "head" in name else [2, 300]
        w = (torch.arange(300) // torch.tensor([[300], [70], [7], [129]])[: size[0]]).int()
    else:
        w = torch.tensor([3, 299, 70, 1000] if name == "by head" else [3, 299])
    torch.testing.assert_close(op(q, k, k, w=w).double(), op.reference(q, k, k, w=w), rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("mask", ["abs(i - j) <= 100", "-150 <= i - j", "i // 128 == j // 128", "i - j < 150"])
def test_windows_that_reach_beyond_the_keys(mask: str) -> None:
    """Closed forms of visits end where the keys do, on both sides; rows without any key among them."""
    op = attnc.compile(source=f"attention a {{\n  mask {mask}\n}}", backend="cpp")
    for n, m, start in ((300, 130, -50), (70, 300, 40), (300, 70, 200)):
        q, k = torch.randn(1, 2, n, 8), torch.randn(1, 2, m, 8)
        (out, aux), (exact, statistics) = (f(q, k, k, q_offset=start, return_aux=True) for f in (op, op.reference))
        torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=3e-6)
        torch.testing.assert_close(aux.lse.double(), statistics.lse, rtol=1e-5, atol=3e-6)


EXTREMA = """normalizer n {
  m = max[j](s)
  p = exp(s - m)
  w = p / sum[j](p)
  aux m = m
  aux low = min[j](s)
}
attention a(t: real[B, M]) {
  mask j <= i
  bias t[b, j]
  normalizer n
}"""


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_statistics_of_what_is_not_finite(value: float) -> None:
    """A NaN reaches an extremum that is a result itself; a key of weight zero does not."""
    op = attnc.compile(source=EXTREMA, backend="cpp")
    q = torch.randn(1, 1, 150, 8)
    for at in (0, 3, 70, 149):
        bias = torch.zeros(1, 150)
        bias[0, at] = value
        found, exact = (f(q, q, q, t=bias, return_aux=True) for f in (op, op.reference))
        torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-5, atol=1e-5, equal_nan=True)
        for name in ("m", "low"):
            torch.testing.assert_close(found[1][name].double(), exact[1][name], rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bfloat"), (torch.float16, "half")])
def test_sixteen_bit_numbers_are_rounded_to_the_nearest(dtype: torch.dtype, name: str) -> None:
    text = f"""
extern "C" void on_numbers(const float* x, {name}* y, float* z, int64_t n) {{
  for (int64_t i = 0; i < n; i++) {{ put(y + i, x[i]); z[i] = number(y[i]); }}
}}
"""
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, np.uint32)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 65519.9, 65520.0, 1e-8, 3.4e38, 1.00390625, 1.01171875, 1.0029297]
    x = np.concatenate([np.array(special, np.float32), bits.view(np.float32)])
    y, z = np.empty(len(x), np.uint16), np.empty_like(x)
    pointers = (ctypes.c_void_p(array.ctypes.data) for array in (x, y, z))
    load_library(native("vector.h") + text).on_numbers(*pointers, ctypes.c_int64(len(x)))
    np.testing.assert_array_equal(z, torch.from_numpy(x).to(dtype).float().numpy())


# -- integers of 64 bits ---------------------------------------------------------------------------------------------

#: What is tried, as C++ of vectors x, y and a divisor, and as Python of numbers.
WIDE = {
    "x + y": lambda x, y: x + y,
    "x - y": lambda x, y: x - y,
    "-x": lambda x, y: -x,
    "x * bl(3)": lambda x, y: x * 3,
    "floordiv(x, bl(7))": lambda x, y: x // 7,
    "floormod(x, bl(7))": lambda x, y: x % 7,
    "(x >> 3)": lambda x, y: x >> 3,
    "(x & 15)": lambda x, y: x & 15,
    "min_(x, y)": min,
    "max_(x, y)": max,
    "abs_(x)": lambda x, y: abs(x),
    "sign_(x)": lambda x, y: (x > 0) - (x < 0),
    "bit_length(x)": lambda x, y: x.bit_length(),
    "clamp(x, 1000)": lambda x, y: min(max(x, 0), 999),
    "sel(narrow(x < y), x, bl(5))": lambda x, y: x if x < y else 5,
    "wide(narrow(x <= y) & narrow(x != y))": lambda x, y: -int(x < y),
    "wide(narrow(x >= y) ^ narrow(x == y))": lambda x, y: -int(x > y),
    "lanes([&](int n) { return (int64_t)real(x)[n]; })": lambda x, y: int(np.float32(x)),
    "wide(bit_length(narrow(x)))": lambda x, y: ((x + 2**31) % 2**32 - 2**31).bit_length(),
    "wide(narrow(x))": lambda x, y: (x + 2**31) % 2**32 - 2**31,
}


@pytest.fixture(scope="module")
def wide() -> Any:
    loops = "".join(
        f'extern "C" void on{n}(int64_t* px, const int64_t* py, int64_t n) {{\n'
        "  for (int64_t i = 0; i < n; i += V) {\n    vl x, y;\n"
        "    memcpy(&x, px + i, sizeof x); memcpy(&y, py + i, sizeof y);\n"
        f"    const vl z = {text};\n    memcpy(px + i, &z, sizeof z);\n  }}\n}}\n"
        for n, text in enumerate(WIDE)
    )
    return load_library(native("vector.h") + loops)


@pytest.mark.parametrize("text", WIDE)
def test_vectors_of_64_bit_integers_compute_like_python(wide: Any, text: str) -> None:
    random = np.random.default_rng(0)
    edges = [0, 1, -1, 6, 7, -7, -8, 999, 1000, 2**31, -(2**31), 2**40, -(2**40), 2**60, -(2**60), 3]
    x = np.array([*edges, *random.integers(-(2**60), 2**60, 240)], np.int64)
    y = np.array([*edges[3:], *edges[:3], *x[16:128], *random.integers(-(2**60), 2**60, 128)], np.int64)
    found = x.copy()
    function = getattr(wide, f"on{list(WIDE).index(text)}")
    function(*(ctypes.c_void_p(array.ctypes.data) for array in (found, y)), ctypes.c_int64(len(x)))
    assert found.tolist() == [WIDE[text](a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]


def test_what_has_many_cases_compiles_in_time() -> None:
    """Written out, 128 cases of 64-bit comparisons kept the compiler busy for minutes."""
    op = attnc.compile("std:bigbird", backend="cpp", params={"random": 128, "block": 16})
    q = torch.randn(1, 2, 100, 16)
    table = torch.randint(0, 6, (2, 6, 128))
    out = op(q, q, q, random_table=table)
    torch.testing.assert_close(out.double(), op.reference(q, q, q, random_table=table), rtol=1e-5, atol=3e-6)
    assert len(op.source) < 60_000

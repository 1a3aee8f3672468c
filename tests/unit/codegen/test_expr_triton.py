"""Builtins as Triton text: what the interpreter computes is what they mean, to a few units in the last place."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch

import attnc
from attnc.codegen.expr_triton import HELPERS, STRUCTURAL, TRITON
from attnc.ir.builtins import BUILTINS
from attnc.ops import Op

WIDTH = 64
ULP = 2.0**-23


def test_every_builtin_has_a_text() -> None:
    assert TRITON.keys().isdisjoint(STRUCTURAL)
    assert TRITON.keys() | STRUCTURAL == BUILTINS.keys()


def test_helpers_need_helpers_only() -> None:
    for name, (needed, source) in HELPERS.items():
        assert set(needed) <= HELPERS.keys()
        assert f"def {name}(" in source
        assert '"""' in source


def computed(score: str, header: str, **tensors: torch.Tensor) -> np.ndarray:
    """The score of one query with each of WIDTH keys, in the interpreter: the weights, read out by unit vectors."""
    text = f"normalizer n {{ w = s }}\nattention a({header}) {{ score {score}; normalizer n }}"
    op: Op = attnc.compile(source=text, backend="interpret", tile=(16, WIDTH))  # type: ignore[arg-type]
    token = torch.zeros(1, 1, 1, 1)
    unit = torch.eye(WIDTH)[None, None]
    return op(token, token.expand(1, 1, WIDTH, 1), unit, **tensors)[0, 0, 0].numpy().astype(np.float64)


#: name -> (text, exact value, domain, units in the last place). Exponentials lose |x| of them: x is rounded to base 2.
REALS: dict[str, tuple[str, Callable[[mpmath.mpf], mpmath.mpf], tuple[float, float], float]] = {
    "exp": ("exp(x[j])", mpmath.exp, (-8, 8), 10),
    "exp2": ("exp2(x[j])", lambda x: 2**x, (-20, 20), 3),
    "log": ("log(x[j])", mpmath.log, (1e-6, 1e6), 4),
    "log2": ("log2(x[j])", lambda x: mpmath.log(x, 2), (1e-6, 1e6), 4),
    "log1p": ("log1p(x[j])", mpmath.log1p, (-0.9, 100), 6),
    "sqrt": ("sqrt(x[j])", mpmath.sqrt, (0, 1e6), 1),
    "sin": ("sin(x[j])", mpmath.sin, (-3, 3), 4),
    "cos": ("cos(x[j])", mpmath.cos, (-1.5, 1.5), 4),
    "tanh": ("tanh(x[j])", mpmath.tanh, (-9, 9), 6),
    "sigmoid": ("sigmoid(x[j])", lambda x: 1 / (1 + mpmath.exp(-x)), (-9, 9), 14),
    "softplus": ("softplus(x[j])", lambda x: mpmath.log1p(mpmath.exp(x)), (-9, 9), 14),
    "elu": ("elu(x[j])", lambda x: x if x > 0 else mpmath.expm1(x), (-9, 9), 10),
    "relu": ("relu(x[j])", lambda x: max(x, mpmath.mpf(0)), (-9, 9), 0.5),
    "abs": ("abs(x[j])", abs, (-9, 9), 0.5),
    "sign": ("sign(x[j])", mpmath.sign, (-9, 9), 0.5),
    "floor": ("floor(x[j])", mpmath.floor, (-99, 99), 0.5),
    "cube": ("x[j] ^ 3", lambda x: x**3, (-9, 9), 2),
    "fifteenth": ("x[j] ^ 15", lambda x: x**15, (-2, 2), 10),
    "inverse_square": ("x[j] ^ -2", lambda x: x**-2, (0.1, 9), 3),
    "root": ("x[j] ^ 0.5", mpmath.sqrt, (0, 9), 1),
    "zeroth": ("x[j] ^ 0", lambda x: mpmath.mpf(1), (-9, 9), 0.5),
    "other_power": ("x[j] ^ 2.5", lambda x: x ** mpmath.mpf(2.5), (0.01, 20), 30),
    "odd_power": ("x[j] ^ 101", lambda x: x**101, (-1.2, -0.9), 60),
}


@pytest.mark.parametrize("name", REALS)
def test_reals_are_accurate(name: str, seed: int) -> None:
    text, exact, (low, high), units = REALS[name]
    generator = np.random.default_rng(seed)
    points = generator.uniform(low, high, WIDTH).astype(np.float32)
    points[:8] = [low, high, *generator.uniform(low / 1000, high / 1000, 6)] if low <= 0 else [low, high] * 4
    points = np.clip(points, np.float32(low), np.float32(high))
    found = computed(text, "x: real[M]", x=torch.from_numpy(points))
    for point, result in zip(points, found):
        wanted = exact(mpmath.mpf(float(point)))
        assert abs(result - wanted) <= units * ULP * abs(wanted) + 1e-37, (
            f"{name}({point!r}) = {result!r}, not {wanted}"
        )


@pytest.mark.parametrize("name", ["softplus", "sigmoid", "tanh", "elu", "log1p"])
def test_reals_near_zero_keep_their_digits(name: str) -> None:
    text, exact, _, units = REALS[name]
    points = np.concatenate([10.0 ** -np.arange(1, 33), -(10.0 ** -np.arange(1, 33))]).astype(np.float32)
    found = computed(text, "x: real[M]", x=torch.from_numpy(points))
    wanted = [exact(mpmath.mpf(float(point))) for point in points]
    assert all(abs(a - b) <= units * ULP * abs(b) + 1e-37 for a, b in zip(found, wanted))


@pytest.mark.parametrize(
    ("name", "at_low", "at_high"),
    [("softplus", 0.0, 100.0), ("sigmoid", 0.0, 1.0), ("tanh", -1.0, 1.0), ("elu", -1.0, 100.0), ("exp", 0.0, None)],
)
def test_reals_far_from_zero_do_not_overflow(name: str, at_low: float, at_high: float | None) -> None:
    points = np.full(WIDTH, -100.0 if name != "exp" else -1000.0, np.float32)
    if at_high is not None:
        points[1::2] = 100.0
    found = computed(REALS[name][0], "x: real[M]", x=torch.from_numpy(points))
    assert np.allclose(found[0::2], at_low, atol=1e-37)
    assert np.allclose(found[1::2], at_low if at_high is None else at_high)


INTS: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "floordiv": ("real(x[j] // 7 % 1000)", lambda x, _: x // 7 % 1000),
    "mod": ("real(x[j] % 7)", lambda x, _: x % 7),
    "bits": ("real(bit_length(x[j]))", lambda x, _: x.bit_length()),
    "sign": ("real(sign(x[j]))", lambda x, _: (x > 0) - (x < 0)),
    "abs": ("real(abs(x[j]) % 1000)", lambda x, _: abs(x) % 1000),
    "mask": ("real(x[j] & 1023)", lambda x, _: x & 1023),
    "min": ("real(min(x[j], y[j]) % 1000)", lambda x, y: min(x, y) % 1000),
    "product": ("real((x[j] * y[j]) % 1000)", lambda x, y: x * y % 1000),
    "sum": ("real((x[j] + y[j]) % 1000)", lambda x, y: (x + y) % 1000),
    "power": ("real(x[j] ^ 3 % 1000)", lambda x, _: x**3 % 1000),
    "select": ("real(where(x[j] < y[j], x[j], y[j] - 1) % 1000)", lambda x, y: (x if x < y else y - 1) % 1000),
}
EDGES = [0, 1, -1, 7, -7, 2**31 - 1, -(2**31) + 1]


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ints_are_exact(name: str, dtype: torch.dtype, seed: int) -> None:
    """Sums and products of 32-bit values are computed in 64 bits."""
    text, exact = INTS[name]
    generator = np.random.default_rng(seed)
    bound = 2**20 if name == "power" else 2**31 - 1
    x, y = (generator.integers(-bound, bound, WIDTH) >> generator.integers(0, 20, WIDTH) for _ in range(2))
    if name != "power":
        x[: len(EDGES)], y[: len(EDGES)] = EDGES, EDGES[::-1]
    tensors = {"x": torch.from_numpy(x).to(dtype)} | ({"y": torch.from_numpy(y).to(dtype)} if "y[" in text else {})
    found = computed(text, ", ".join(f"{key}: int[M]" for key in tensors), **tensors)
    assert found.tolist() == [exact(int(a), int(b)) for a, b in zip(x, y)]


@pytest.mark.parametrize("divisor", [1, 2, 3, 8, 17])
def test_divisions_round_down_on_both_sides_of_zero(divisor: int) -> None:
    x = torch.arange(-32, 32)
    for op, exact in (("//", np.floor_divide), ("%", np.mod)):
        found = computed(f"real((j - 32) {op} {divisor})", "")
        assert found.tolist() == exact(x.numpy(), divisor).tolist()

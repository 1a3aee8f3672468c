"""Builtins as Triton text: one row per builtin that acts on single numbers.

A row takes the texts of its operands, already of one kind and one width and broadcast against each other, each an
atom or in parentheses. Helpers are device functions of the emitted module, listed in HELPERS.
"""

from __future__ import annotations

import math
from collections.abc import Callable

LOG2E = 1.0 / math.log(2.0)
LN2 = math.log(2.0)


def _infix(op: str) -> Callable[..., str]:
    return lambda a, b: f"{a} {op} {b}"


def _function(name: str) -> Callable[..., str]:
    return lambda *args: f"{name}({', '.join(args)})"


TRITON: dict[str, Callable[..., str]] = {
    "add": _infix("+"),
    "sub": _infix("-"),
    "mul": _infix("*"),
    "div": _infix("/"),
    "floordiv": _function("floordiv"),
    "mod": _function("floormod"),
    "bitand": _infix("&"),
    "pow": _function("power"),
    "neg": lambda a: f"-{a}",
    "lt": _infix("<"),
    "le": _infix("<="),
    "gt": _infix(">"),
    "ge": _infix(">="),
    "eq": _infix("=="),
    "ne": _infix("!="),
    "and": _infix("&"),
    "or": _infix("|"),
    "not": lambda a: f"{a} == 0",
    "where": _function("tl.where"),
    "min": _function("tl.minimum"),
    "max": _function("tl.maximum"),
    "abs": _function("tl.abs"),
    "sign": _function("sign"),
    "floor": _function("tl.floor"),
    "real": lambda a: f"{a}.to(tl.float32)",
    "int": lambda a: f"tl.floor({a}).to(tl.int32)",
    "bit_length": _function("bit_length"),
    "exp": lambda a: f"tl.exp2({a} * {LOG2E!r})",
    "exp2": _function("tl.exp2"),
    "log": lambda a: f"tl.log2({a}) * {LN2!r}",
    "log2": _function("tl.log2"),
    "log1p": _function("log1p"),
    "sqrt": _function("tl.sqrt"),
    "sin": _function("tl.sin"),
    "cos": _function("tl.cos"),
    "tanh": _function("tanh"),
    "sigmoid": _function("sigmoid"),
    "softplus": _function("softplus"),
    "relu": lambda a: f"tl.maximum({a}, 0)",
    "elu": _function("elu"),
}

#: Builtins that are not functions of single numbers: the emitter takes them apart.
STRUCTURAL = frozenset(("dot", "normalize", "concat", "rope", "in_grid"))

#: Device functions that rows refer to: name -> (names it needs, source).
HELPERS: dict[str, tuple[tuple[str, ...], str]] = {
    "floordiv": (
        (),
        '''@triton.jit
def floordiv(a, b):
    """a // b rounded toward minus infinity, for b > 0 (Triton's own rounds toward zero)."""
    q = a // b
    return tl.where(q * b > a, q - 1, q)
''',
    ),
    "floormod": (
        (),
        '''@triton.jit
def floormod(a, b):
    """a % b with the sign of b, for b > 0 (Triton's own has the sign of a)."""
    r = a % b
    return tl.where(r < 0, r + b, r)
''',
    ),
    "sign": (
        (),
        '''@triton.jit
def sign(x):
    """-1, 0 or 1."""
    return tl.where(x > 0, 1, tl.where(x < 0, -1, 0)).to(x.dtype)
''',
    ),
    "bit_length": (
        (),
        '''@triton.jit
def bit_length(x):
    """Number of bits of |x|: halve the interval five (six) times."""
    x = tl.abs(x)
    n = x * 0
    for k in tl.static_range(0, 6):
        step = 32 >> k
        big = (x >> (step - 1)) >= 2 if step < 32 else (x >> 31) >= 2
        n = tl.where(big, n + step, n)
        x = tl.where(big, x >> (step - 1) >> 1, x)
    return n + (x > 0).to(x.dtype)
''',
    ),
    "power": (
        (),
        '''@triton.jit
def power(x, y):
    """x to the y for x >= 0; NaN for x < 0."""
    return tl.where(x < 0, float("nan"), tl.exp2(y * tl.log2(x)))
''',
    ),
    "log1p": (
        (),
        '''@triton.jit
def log1p(x):
    """log(1 + x): the rounding error of 1 + x is divided out again."""
    u = 1.0 + x
    exact = u == 1.0
    d = tl.where(exact, 1.0, u - 1.0)
    return tl.where(exact, x, tl.log2(u) * 0.6931471805599453 * (x / d))
''',
    ),
    "softplus": (
        ("log1p",),
        '''@triton.jit
def softplus(x):
    """log(1 + exp(x)), without overflow."""
    return tl.maximum(x, 0.0) + log1p(tl.exp2(-tl.abs(x) * 1.4426950408889634))
''',
    ),
    "sigmoid": (
        (),
        '''@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + tl.exp2(-x * 1.4426950408889634))
''',
    ),
    "elu": (
        (),
        '''@triton.jit
def elu(x):
    """x for x > 0, else exp(x) - 1, whose digits near 0 are kept by dividing the rounding error out."""
    y = tl.minimum(x, 0.0)
    u = tl.exp2(y * 1.4426950408889634)
    near = (u == 1.0) | (u < 0.1)
    d = tl.where(near, 1.0, tl.log2(tl.where(near, 2.0, u)) * 0.6931471805599453)
    fine = tl.where(u < 0.1, u - 1.0, tl.where(u == 1.0, y, (u - 1.0) * (y / d)))
    return tl.where(x > 0, x, fine)
''',
    ),
    "tanh": (
        (),
        '''@triton.jit
def tanh(x):
    """Hyperbolic tangent: an odd polynomial near 0 (Cephes), exponentials elsewhere."""
    a = tl.abs(x)
    z = x * x
    p = -5.70498872745e-3 * z + 2.06390887954e-2
    p = p * z - 5.37397155531e-2
    p = p * z + 1.33314422036e-1
    p = p * z - 3.33332819422e-1
    e = tl.exp2(a * -2.8853900817779268)
    far = (1.0 - e) / (1.0 + e)
    return tl.where(a < 0.625, x + x * z * p, tl.where(x < 0, -far, far))
''',
    ),
}

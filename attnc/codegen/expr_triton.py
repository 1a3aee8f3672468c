"""Builtins as Triton text: one row per builtin that acts on single numbers.

A row is a format over the texts of its operands, already of one kind and one width and broadcast against each other,
each an atom or in parentheses. Helpers are device functions of the emitted module, listed in HELPERS.
"""

from __future__ import annotations

import math

LOG2E = 1.0 / math.log(2.0)
LN2 = math.log(2.0)


TRITON: dict[str, str] = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "floordiv": "floordiv({0}, {1})",
    "mod": "floormod({0}, {1})",
    "bitand": "{0} & {1}",
    "pow": "power({0}, {1})",
    "neg": "-{0}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "not": "{0} == 0",
    "where": "tl.where({0}, {1}, {2})",
    "min": "tl.minimum({0}, {1})",
    "max": "tl.maximum({0}, {1})",
    "abs": "tl.abs({0})",
    "sign": "sign({0})",
    "floor": "tl.floor({0})",
    "real": "{0}.to(tl.float32)",
    "int": "tl.floor({0}).to(tl.int32)",
    "bit_length": "bit_length({0})",
    "exp": f"tl.exp2({{0}} * {LOG2E!r})",
    "exp2": "tl.exp2({0})",
    "log": f"tl.log2({{0}}) * {LN2!r}",
    "log2": "tl.log2({0})",
    "log1p": "log1p({0})",
    "sqrt": "tl.sqrt({0})",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
    "tanh": "tanh({0})",
    "sigmoid": "sigmoid({0})",
    "softplus": "softplus({0})",
    "relu": "tl.maximum({0}, 0)",
    "elu": "elu({0})",
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
    """x to the y; for x < 0 only whole y give a number."""
    size = tl.where(y == 0, 1.0, tl.exp2(y * tl.log2(tl.abs(x))))
    half = y * 0.5
    signed = tl.where(half == tl.floor(half), size, -size)
    return tl.where(x >= 0, size, tl.where(y == tl.floor(y), signed, float("nan")))
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

"""What expressions mean on plain numbers, and random expressions. Nothing of attnc but the nodes.

Reals are mpmath numbers: large exponents neither overflow nor vanish, infinities follow IEEE 754, and what has no real
value (a root of -1, inf - inf) is not a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mpmath
from hypothesis import strategies as st

from attnc.ir.expr import Call, Const, Expr, int_const, real_const
from attnc.ir.types import BOOL, INT, REAL

NAN = mpmath.nan
Leaves = Mapping[Expr, Any]


def value(expr: Expr, leaves: Leaves) -> Any:
    """The value: a bool, an int, or an mpmath number."""
    if expr in leaves:
        return leaves[expr]
    if isinstance(expr, Const):
        return mpmath.mpf(expr.value) if expr.type == REAL else expr.value
    assert isinstance(expr, Call), expr
    if expr.fn == "where":
        cond, then, orelse = expr.args
        return _as(expr, value(then if value(cond, leaves) else orelse, leaves))
    args = [value(arg, leaves) for arg in expr.args]
    if any(isinstance(arg, mpmath.mpf) and mpmath.isnan(arg) for arg in args):
        return NAN if expr.type == REAL else False
    return _as(expr, FUNCTIONS[expr.fn](*args))


def _as(expr: Expr, found: Any) -> Any:
    if expr.type != REAL:
        return found
    return NAN if isinstance(found, mpmath.mpc) else mpmath.mpf(found)


def _power(x: Any, y: Any) -> Any:
    if isinstance(x, int) and isinstance(y, int):
        return x**y
    if x == 0 and y < 0:
        return mpmath.inf
    return mpmath.power(x, y)


def _divide(x: Any, y: Any) -> Any:
    x, y = mpmath.mpf(x), mpmath.mpf(y)
    if y == 0:
        return NAN if x == 0 else mpmath.sign(x) * mpmath.inf
    return x / y


def _logarithm(x: Any) -> Any:
    return -mpmath.inf if x == 0 else mpmath.log(x)


def _exponential(x: Any) -> Any:
    return mpmath.mpf(0) if x == -mpmath.inf else mpmath.exp(x)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": _divide,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "bitand": lambda a, b: a & b,
    "pow": _power,
    "neg": lambda a: -a,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
    "min": min,
    "max": max,
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "relu": lambda a: max(a, 0),
    "bit_length": lambda a: abs(a).bit_length(),
    "real": mpmath.mpf,
    "exp": _exponential,
    "exp2": lambda a: _exponential(a * mpmath.log(2)),
    "log": _logarithm,
    "log2": lambda a: _logarithm(a) / mpmath.log(2),
    "sqrt": mpmath.sqrt,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tanh": mpmath.tanh,
    "sigmoid": lambda a: 1 / (1 + _exponential(-a)),
    "softplus": lambda a: max(a, 0) + mpmath.log1p(_exponential(-abs(a))),
    "elu": lambda a: a if a > 0 else _exponential(a) - 1,
}


# -- random expressions ----------------------------------------------------------------------------------------------


def call(fn: str, *args: Expr, type: Any = REAL) -> Call:
    """A call of a given type."""
    return Call(fn, args, type)


def _calls(fns: tuple[str, ...], *args: st.SearchStrategy[Expr], type: Any) -> st.SearchStrategy[Expr]:
    return st.builds(lambda fn, *xs: Call(fn, xs, type), st.sampled_from(fns), *args)


def ints(leaves: st.SearchStrategy[Expr], depth: int = 3) -> st.SearchStrategy[Expr]:
    """Int expressions; divisors are positive constants."""
    leaves = st.one_of(leaves, st.integers(-40, 40).map(int_const))
    return _grown(leaves, depth, _grow_int)


def _grow_int(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    divisors = st.integers(1, 9).map(int_const)
    return st.one_of(
        _calls(("add", "sub", "mul", "min", "max", "bitand"), inner, inner, type=INT),
        _calls(("floordiv", "mod"), inner, divisors, type=INT),
        _calls(("neg", "abs", "relu", "sign", "bit_length"), inner, type=INT),
        st.builds(lambda c, a, b: Call("where", (c, a, b), INT), conditions(inner), inner, inner),
    )


def conditions(numbers: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    """A comparison."""
    return _calls(("lt", "le", "gt", "ge", "eq", "ne"), numbers, numbers, type=BOOL)


def reals(
    leaves: st.SearchStrategy[Expr], depth: int, unary: tuple[str, ...], binary: tuple[str, ...]
) -> st.SearchStrategy[Expr]:
    """Real expressions of the given functions."""
    constants = st.sampled_from([-2.5, -1.0, 0.0, 0.5, 1.0, 3.0]).map(real_const)
    grow = lambda inner: st.one_of(  # noqa: E731
        _calls(unary, inner, type=REAL),
        _calls(binary, inner, inner, type=REAL),
    )
    return _grown(st.one_of(leaves, constants), depth, grow)


def _grown(
    leaves: st.SearchStrategy[Expr],
    depth: int,
    grow: Callable[[st.SearchStrategy[Expr]], st.SearchStrategy[Expr]],
) -> st.SearchStrategy[Expr]:
    found = leaves
    for _ in range(depth):
        found = st.one_of(leaves, grow(found))
    return found

"""Builtins as C++ text: one row per builtin that acts on single numbers.

A row is a format over the texts of its operands, names or calls, all numbers or all vectors. The functions are those
of `native/vector.h`, which has them for both.
"""

from __future__ import annotations

CPP: dict[str, str] = {
    "add": "({0} + {1})",
    "sub": "({0} - {1})",
    "mul": "({0} * {1})",
    "div": "({0} / {1})",
    "floordiv": "floordiv({0}, {1})",
    "mod": "floormod({0}, {1})",
    "bitand": "({0} & {1})",
    "pow": "power({0}, {1})",
    "neg": "(-{0})",
    "lt": "({0} < {1})",
    "le": "({0} <= {1})",
    "gt": "({0} > {1})",
    "ge": "({0} >= {1})",
    "eq": "({0} == {1})",
    "ne": "({0} != {1})",
    "and": "({0} & {1})",
    "or": "({0} | {1})",
    "not": "not_({0})",
    "where": "sel({0}, {1}, {2})",
    "min": "min_({0}, {1})",
    "max": "max_({0}, {1})",
    "abs": "abs_({0})",
    "sign": "sign_({0})",
    "floor": "floor_({0})",
    "real": "real({0})",
    "int": "integer({0})",
    "bit_length": "bit_length({0})",
    "exp": "exp_({0})",
    "exp2": "exp2_({0})",
    "log": "log_({0})",
    "log2": "log2_({0})",
    "log1p": "log1p_({0})",
    "sqrt": "sqrt_({0})",
    "sin": "sin_({0})",
    "cos": "cos_({0})",
    "tanh": "tanh_({0})",
    "sigmoid": "sigmoid({0})",
    "softplus": "softplus({0})",
    "relu": "relu_({0})",
    "elu": "elu({0})",
}

"""The one table of builtin functions and operators.

A new builtin is a row here, a row in `eager.py` (its meaning on torch tensors) and a row in
`codegen/expr_triton.py` (its text); a test compares the three key sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: How the result type follows from the arguments.
#: same: ints give int, any real gives real. real: ints are converted. bool: comparison of numbers.
#: logic: bool x bool -> bool. int: ints only. select: (bool, T, T) -> T. Every rule but `int` and the
#: special ones also works feature by feature when an argument is a vector (the result is that vector).
#: special: the checker has code of its own.
Rule = Literal["same", "real", "bool", "logic", "int", "select", "special"]


@dataclass(frozen=True, slots=True)
class Builtin:
    """`infix` is the operator in the text, if there is one; `named` are optional arguments with defaults."""

    name: str
    arity: int
    rule: Rule
    doc: str
    infix: str | None = None
    named: tuple[str, ...] = ()


_ROWS = (
    Builtin("add", 2, "same", "sum", "+"),
    Builtin("sub", 2, "same", "difference", "-"),
    Builtin("mul", 2, "same", "product", "*"),
    Builtin("div", 2, "real", "real quotient", "/"),
    Builtin("floordiv", 2, "int", "quotient rounded toward minus infinity", "//"),
    Builtin("mod", 2, "int", "remainder with the sign of the divisor", "%"),
    Builtin("bitand", 2, "int", "bitwise and", "&"),
    Builtin("pow", 2, "special", "power; int when the base is int and the exponent a constant >= 0", "^"),
    Builtin("neg", 1, "same", "negation", "-"),
    Builtin("lt", 2, "bool", "less", "<"),
    Builtin("le", 2, "bool", "less or equal", "<="),
    Builtin("gt", 2, "bool", "greater", ">"),
    Builtin("ge", 2, "bool", "greater or equal", ">="),
    Builtin("eq", 2, "bool", "equal", "=="),
    Builtin("ne", 2, "bool", "not equal", "!="),
    Builtin("and", 2, "logic", "both", "and"),
    Builtin("or", 2, "logic", "either", "or"),
    Builtin("not", 1, "logic", "negation of a condition", "not"),
    Builtin("where", 3, "select", "where(c, x, y): x where c holds, else y; the other branch is not touched"),
    Builtin("min", 2, "same", "smaller of two"),
    Builtin("max", 2, "same", "larger of two"),
    Builtin("abs", 1, "same", "absolute value"),
    Builtin("sign", 1, "same", "-1, 0 or 1"),
    Builtin("floor", 1, "real", "largest whole number not above x, as a real"),
    Builtin("real", 1, "real", "an int as a real"),
    Builtin("int", 1, "special", "a real rounded toward minus infinity, as an int"),
    Builtin("bit_length", 1, "int", "number of bits of abs(x); 0 for 0"),
    Builtin("exp", 1, "real", "e to the x"),
    Builtin("exp2", 1, "real", "2 to the x"),
    Builtin("log", 1, "real", "natural logarithm"),
    Builtin("log2", 1, "real", "binary logarithm"),
    Builtin("log1p", 1, "real", "log(1 + x), exact near 0"),
    Builtin("sqrt", 1, "real", "square root"),
    Builtin("sin", 1, "real", "sine of radians"),
    Builtin("cos", 1, "real", "cosine of radians"),
    Builtin("tanh", 1, "real", "hyperbolic tangent"),
    Builtin("sigmoid", 1, "real", "1 / (1 + exp(-x))"),
    Builtin("softplus", 1, "real", "log(1 + exp(x))"),
    Builtin("relu", 1, "same", "max(x, 0)"),
    Builtin("elu", 1, "real", "x for x > 0, else exp(x) - 1"),
    Builtin("dot", 2, "special", "inner product of two vectors of the same length"),
    Builtin("normalize", 1, "special", "x / max(norm(x), eps), the Euclidean norm over features", named=("eps",)),
    Builtin("concat", 2, "special", "the features of x, then those of y"),
    Builtin(
        "rope",
        2,
        "special",
        "rotary position embedding of x at a position: features start .. start + dims - 1 are rotated in pairs "
        "(n, n + dims/2), or (2n, 2n + 1) when interleaved, by position * theta^(-2n/dims)",
        named=("theta", "start", "dims", "interleaved"),
    ),
    Builtin("in_grid", 1, "special", "whether a position lies on its side's grid", "in"),
)

BUILTINS: dict[str, Builtin] = {row.name: row for row in _ROWS}

#: Operators of the text by arity: ("-", 1) is neg, ("-", 2) is sub.
INFIX: dict[tuple[str, int], str] = {
    (row.infix, row.arity): row.name for row in _ROWS if row.infix and row.name != "in_grid"
}
#: Names that a spec may call as functions.
CALLABLE: frozenset[str] = frozenset(row.name for row in _ROWS if row.infix is None)

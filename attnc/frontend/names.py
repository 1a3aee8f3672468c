"""The names that the language itself gives a meaning."""

from __future__ import annotations

from attnc.frontend.tokens import KEYWORDS
from attnc.ir.builtins import CALLABLE
from attnc.ir.expr import IndexName, LiftOp, ReduceOp, SizeName

INDICES: dict[str, IndexName] = {"b": "b", "h": "h", "hk": "hk", "i": "i", "j": "j"}
SIZES: dict[str, SizeName] = {"B": "B", "H": "H", "Hk": "Hk", "N": "N", "M": "M", "D": "D", "Dv": "Dv"}
#: Scalars and vectors that the language predefines.
VALUES: tuple[str, ...] = ("q", "k", "v", "o", "s", "scale", "n_keys")
REDUCTIONS: dict[str, ReduceOp] = {"max": "max", "min": "min", "sum": "sum", "mean": "mean", "count": "count"}
#: A condition on pairs as one on blocks of pairs.
LIFTS: dict[str, LiftOp] = {"any": "any", "all": "all", "density": "density"}
CALL_KEYWORDS: tuple[str, ...] = ("q_offset", "k_offset", "cu_seqlens", "return_aux", "checks")
TYPES: tuple[str, ...] = ("int", "real", "bool")
#: Names of other languages for the three kinds of numbers.
FOREIGN_TYPES: dict[str, str] = {
    **dict.fromkeys(("float", "double", "f16", "f32", "f64", "bf16", "float32", "half", "number"), "real"),
    **dict.fromkeys(("integer", "i32", "i64", "int32", "int64", "long", "uint", "index"), "int"),
    **dict.fromkeys(("boolean", "logical"), "bool"),
}

_RESERVED: dict[str, str] = {
    **dict.fromkeys(CALLABLE | REDUCTIONS.keys() | LIFTS.keys(), "a builtin"),
    **dict.fromkeys(KEYWORDS, "a word of the language"),
    **dict.fromkeys(CALL_KEYWORDS, "a keyword of the call"),
    **dict.fromkeys(TYPES, "a type"),
    **dict.fromkeys(VALUES, "a value that the language defines"),
    **dict.fromkeys(INDICES, "an index"),
    **dict.fromkeys(SIZES, "a size"),
    "self": "taken by the call from Python",
    "out": "the name of the output map",
    "pi": "a constant",
    "inf": "a bound of ranges",
}


def is_predefined(name: str) -> bool:
    """Whether an expression can read the name without a declaration."""
    return name in INDICES or name in SIZES or name in VALUES or name == "pi"


def reserved_as(name: str) -> str | None:
    """What the language uses `name` for; None when it is free."""
    return _RESERVED.get(name)

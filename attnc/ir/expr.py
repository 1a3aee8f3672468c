"""Typed expression nodes, shared by the typed module and the plan.

Nodes are immutable and compare by structure; spans and types do not take part where
the structure already determines them. Which leaves are legal depends on the level:
`ir/verify.py` states it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from attnc.ir.types import BOOL, INT, REAL, ScalarType, Type
from attnc.source import NOWHERE, Span

IndexName = Literal["b", "h", "hk", "i", "j", "r", "c"]
SizeName = Literal["B", "H", "Hk", "N", "M", "D", "Dv"]
ReduceOp = Literal["max", "min", "sum", "mean", "count"]
LiftOp = Literal["any", "all", "density"]


@dataclass(frozen=True, slots=True)
class Const:
    """A literal. `type` decides the kind: Const(1, REAL) is the real number one."""

    value: bool | int | float
    type: ScalarType
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Index:
    """An index of the iteration space.

    b batch, h query head, hk = h // (H // Hk) key head, i absolute query position,
    j absolute key position. The plan adds r = i - q_offset and c = j - k_offset,
    the rows that are read.
    """

    name: IndexName
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def type(self) -> ScalarType:
        return INT


@dataclass(frozen=True, slots=True)
class Size:
    """A size of the problem. All but D and Dv are known only at the call."""

    name: SizeName
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def type(self) -> ScalarType:
        return INT


@dataclass(frozen=True, slots=True)
class GridCoord:
    """Coordinate `axis` of position i (side "q") or j (side "k") on that side's grid."""

    side: Literal["q", "k"]
    axis: int
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def type(self) -> ScalarType:
        return INT


@dataclass(frozen=True, slots=True)
class Param:
    """A scalar parameter of the attention. Static ones vanish when the module is bound."""

    name: str
    type: ScalarType
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Value:
    """A value that the language predefines.

    "scale" real; "n_keys" int, the keys that row i sees; "s" real, the finished logit
    (normalizer only); "q" "k" vectors of length D, "v" of length Dv: the tokens as passed;
    "o" vector, the row's output before the output maps. The plan adds "q_offset", "k_offset".
    """

    name: str
    type: Type
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Var:
    """The variable that an enclosing `Exists` binds."""

    name: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def type(self) -> ScalarType:
        return INT


@dataclass(frozen=True, slots=True)
class Ref:
    """A named value of the same level: a binding of the cascade; in a plan also dot products and accumulators."""

    name: str
    type: Type
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Lookup:
    """An element of a tensor parameter, or a vector when the last dimension is left open.

    In a typed module indices are positions (see language.md: a dimension declared N is read at
    i - q_offset); in a plan they are rows of the tensor as passed. Out of range indices are clamped.
    """

    tensor: str
    indices: tuple[Expr, ...]
    type: Type
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """A builtin of `ir/builtins.py`, operators included, applied to arguments."""

    fn: str
    args: tuple[Expr, ...]
    type: Type
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Reduce:
    """A reduction: over the kept keys ("j"), the queries that keep this key ("i"), or features ("d").

    `group` restricts "j" to the keys of the same group. Over nothing: sum and count 0, max -inf, min +inf.
    """

    op: ReduceOp
    axis: Literal["j", "i", "d"]
    body: Expr
    group: Expr | None
    type: ScalarType
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Exists:
    """True when `body` holds for some integer `var` with low <= var < high (static bounds)."""

    var: str
    low: Expr
    high: Expr
    body: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def type(self) -> ScalarType:
        return BOOL


@dataclass(frozen=True, slots=True)
class Lift:
    """A condition on the block of a pair, `rows` queries by `keys` keys, blocks counted from position 0.

    The i and j of `body` range over the pairs of the block that exist: positions q_offset .. q_offset + N - 1 and
    k_offset .. k_offset + M - 1. "any" and "all" of them are conditions, "density" is the part of them that is kept.
    """

    op: LiftOp
    body: Expr
    rows: Expr
    keys: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def type(self) -> ScalarType:
        return REAL if self.op == "density" else BOOL


Expr = Const | Index | Size | GridCoord | Param | Value | Var | Ref | Lookup | Call | Reduce | Exists | Lift

TRUE = Const(True, BOOL)
FALSE = Const(False, BOOL)


def int_const(value: int, span: Span = NOWHERE) -> Const:
    return Const(value, INT, span)


def real_const(value: float, span: Span = NOWHERE) -> Const:
    return Const(float(value), REAL, span)

"""worlds: one call in numbers, and whether a condition holds at a point of it.

A world gives every size, offset, parameter and tensor of a call a value. `holds` evaluates a condition at one pair,
node by node with exact integers: the meaning of the language, independent of integer sets and of intervals. What is
shown as a counterexample has passed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnc.diagnostics import SpecError
from attnc.ir.dims import evaluate_dim
from attnc.ir.expr import Call, Const, Exists, Expr, Index, Lookup, Param, Size, Value, Var
from attnc.ir.fold import fold
from attnc.ir.module import TensorParam
from attnc.ir.types import BOOL, INT, REAL, ScalarType
from attnc.passes.mask_intervals import Boxes
from attnc.passes.spans import Span

Number = bool | int | float
Table = np.ndarray[Any, Any]

#: Elements of a tensor of a counterexample, and pairs that are looked at in one world.
MAX_ELEMENTS = 1 << 16
MAX_PAIRS = 1 << 12


class UndefinedError(Exception):
    """A condition that has no value at a point: a division by zero, a real that is not a number."""


@dataclass(slots=True)
class World:
    """The numbers of a call: `sizes` B, H, Hk, N, M, D, Dv, q_offset, k_offset, b, h, hk; parameters; tensors."""

    sizes: dict[str, int]
    params: dict[str, Number] = field(default_factory=dict[str, Number])
    tables: dict[str, Table] = field(default_factory=dict[str, Table])
    tensors: Mapping[str, TensorParam] = field(default_factory=dict[str, TensorParam])

    def value(self, leaf: Expr) -> Number | None:
        """The number of a leaf that is no position; None for one without."""
        match leaf:
            case Index(name=name) | Size(name=name) | Value(name=name):
                return self.sizes.get(name)
            case Param(name=name):
                return self.params.get(name)
            case _:
                return None

    def first_position(self, dim: Expr) -> int:
        """The position that row 0 of a dimension stands for."""
        match dim:
            case Size(name="N"):
                return self.sizes["q_offset"]
            case Size(name="M"):
                return self.sizes["k_offset"]
            case _:
                return 0

    def stored_row(self, tensor: str, axis: int, position: int) -> int:
        """The row that a position reads, within the tensor."""
        dim = self.tensors[tensor].dims[axis]
        row = position - self.first_position(dim)
        return min(max(row, 0), self.tables[tensor].shape[axis] - 1)

    def shape(self, tensor: TensorParam) -> tuple[int, ...]:
        """The sizes of a tensor. Raises ValueError for one that is too large to write down."""
        names = {name: value for name, value in {**self.sizes, **self.params}.items() if isinstance(value, int)}
        try:
            shape = tuple(max(evaluate_dim(dim, names), 0) for dim in tensor.dims)
        except (KeyError, ZeroDivisionError) as error:
            raise ValueError(f"`{tensor.name}` has no size") from error
        if int(np.prod([float(size) for size in shape])) > MAX_ELEMENTS:
            raise ValueError(f"`{tensor.name}` would have {shape} elements")
        return shape


def holds(cond: Expr, world: World, i: int, j: int) -> bool:
    """Whether a condition without grid coordinates holds for a pair. Raises UndefinedError."""
    return bool(_at(cond, world, {Index("i"): i, Index("j"): j}))


def number_at(expr: Expr, world: World, i: int, j: int) -> int:
    """The value of an int expression at a pair. Raises UndefinedError."""
    return int(_at(expr, world, {Index("i"): i, Index("j"): j}))


def _at(expr: Expr, world: World, local: Mapping[Expr, int]) -> Number:
    match expr:
        case Const(value=value):
            return value
        case Index() | Var() if expr in local:
            return local[expr]
        case Index() | Size() | Param() | Value():
            found = world.value(expr)
            if found is None:
                raise UndefinedError
            return found
        case Lookup():
            return _element(expr, world, local)
        case Call(fn="and" | "or" as fn, args=(a, b)):
            return _at(b, world, local) if bool(_at(a, world, local)) == (fn == "and") else fn == "or"
        case Call(fn="where", args=(c, a, b)):
            return _at(a if _at(c, world, local) else b, world, local)
        case Call():
            return _called(expr, [_at(arg, world, local) for arg in expr.args])
        case Exists(var=var, low=low, high=high, body=body):
            values = range(int(_at(low, world, local)), int(_at(high, world, local)))
            return any(_at(body, world, {**local, Var(var): value}) for value in values)
        case _:
            raise UndefinedError


def _called(call: Call, values: list[Number]) -> Number:
    """The builtin on numbers."""
    args = tuple(Const(value, _kind(arg, value)) for arg, value in zip(call.args, values, strict=True))
    try:
        found = fold(Call(call.fn, args, call.type, call.span))
    except SpecError as error:
        raise UndefinedError from error
    if not isinstance(found, Const):
        raise UndefinedError
    return found.value


def _kind(arg: Expr, value: Number) -> ScalarType:
    if isinstance(arg.type, ScalarType):
        return arg.type
    return BOOL if isinstance(value, bool) else INT


def _element(node: Lookup, world: World, local: Mapping[Expr, int]) -> Number:
    table = world.tables.get(node.tensor)
    if table is None or not isinstance(node.type, ScalarType):
        raise UndefinedError
    positions = [int(_at(index, world, local)) for index in node.indices]
    if 0 in table.shape:
        return False if node.type == BOOL else 0
    rows = tuple(world.stored_row(node.tensor, axis, position) for axis, position in enumerate(positions))
    return table[rows].item()


# -- all pairs at once -----------------------------------------------------------------------------------------------


def pairs_of(world: World) -> Boxes | None:
    """Every pair of a world as boxes of one point; None where there are too many."""
    n, m = world.sizes["N"], world.sizes["M"]
    if n * m > MAX_PAIRS:
        return None
    return _boxes(world, world.sizes["q_offset"] + np.arange(n)[:, None])


def row_of(world: World, i: int) -> Boxes:
    """Every pair of one row."""
    return _boxes(world, np.asarray(i))


def _boxes(world: World, rows: Table) -> Boxes:
    keys = world.sizes["k_offset"] + np.arange(world.sizes["M"])
    leaves: dict[Expr, Span] = {Index("i"): Span.of(rows), Index("j"): Span.of(keys[None, :] if rows.ndim else keys)}
    sizes = (Size("B"), Size("H"), Size("Hk"), Size("N"), Size("M"), Size("D"), Size("Dv"))
    leaves.update({size: Span.of(world.sizes[size.name]) for size in sizes})
    for name in ("b", "h", "hk"):
        leaves[Index(name)] = Span.of(world.sizes[name])
    for name in ("q_offset", "k_offset"):
        leaves[Value(name, INT)] = Span.of(world.sizes[name])
    for name, value in world.params.items():
        for kind in (BOOL, INT, REAL):
            leaves[Param(name, kind)] = Span.of(float(value))
    return Boxes(leaves, lambda node, indices: _elements(world, node, indices))


def _elements(world: World, node: Lookup, indices: tuple[Span, ...]) -> Span | None:
    """Elements at points; None for boxes."""
    table = world.tables.get(node.tensor)
    if table is None or 0 in table.shape or not all(index.is_point for index in indices):
        return None
    rows: list[Any] = []
    for axis, index in enumerate(indices):
        dim = world.tensors[node.tensor].dims[axis]
        row = index.low.astype(np.int64) - world.first_position(dim)
        rows.append(np.clip(row, 0, table.shape[axis] - 1))
    return Span.of(table[tuple(np.broadcast_arrays(*rows))])

"""positions: from positions to stored rows, from grid axes to arithmetic, from D and Dv to numbers.

Before: look-ups by position, grid coordinates, sizes D and Dv.
After: look-ups by stored row, `//` and `%` of positions, constants, and no tile lifts (see `tile_lifts`).

    bias[h, i] with bias: real[H, N]   ->  bias[h, r]
    seg[b, i]  with seg: int[B, M]     ->  seg[b, i - k_offset]
    i.y on grid (y: 4, x: 8)           ->  i // 8
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attnc.ir.build import call, compare, conj, is_const, mul, sub
from attnc.ir.expr import TRUE, Call, Const, Expr, GridCoord, Index, Lookup, Size, Value, int_const
from attnc.ir.fold import fold
from attnc.ir.module import AttentionModule, Grid, TensorParam
from attnc.ir.plan import Alignment
from attnc.ir.traverse import transform, walk
from attnc.ir.types import INT, VectorType
from attnc.passes.errors import NotLowerable, RotatedFeatures, fail
from attnc.passes.tile_lifts import without_lifts

Q_OFFSET = Value("q_offset", INT)
K_OFFSET = Value("k_offset", INT)


@dataclass(frozen=True, slots=True)
class Positions:
    """Rewrites expressions of one module for one D and Dv; `aligned`: for calls of N = M at offset 0, all of them on
    the grid if there is one, or "beside" others.
    """

    module: AttentionModule
    head_dim: int
    value_dim: int
    aligned: Alignment = False

    def lower(self, expr: Expr) -> Expr:
        """The expression over stored rows, folded. Raises SpecError for a rotation that does not fit the vector."""
        lowered = fold(without_lifts(fold(transform(self.on_grid(expr), self._node)), self._given()))
        for node in walk(lowered):
            if isinstance(node, Call) and node.fn == "rope":
                _check_rotation(node)
        return lowered

    def on_grid(self, expr: Expr) -> Expr:
        """The expression, not folded, without asking whether positions lie on their grid, where all of a call do."""
        return transform(expr, self._member) if self.aligned is True and self.module.grid_q is not None else expr

    def _member(self, node: Expr) -> Expr:
        if not isinstance(node, Call) or node.fn != "in_grid":
            return node
        grid = self.module.grid("q" if node.args[0] == Index("i") else "k")
        covers = is_const(grid.start, 0) and _product(grid.extents) == self._given()[Size("N")]
        return TRUE if covers else node

    def _given(self) -> dict[Expr, Expr]:
        """Sizes and offsets of the calls that the plan is for."""
        if not self.aligned:
            return {}
        grid = self.module.grid_q if self.aligned is True else None
        extents = (Size("N"),) if grid is None else grid.extents
        count = _product(extents) if all(isinstance(extent, Const) for extent in extents) else Size("N")
        return {Q_OFFSET: int_const(0), K_OFFSET: int_const(0), Size("N"): count, Size("M"): count}

    def _node(self, node: Expr) -> Expr:
        match node:
            case Size(name="D"):
                return int_const(self.head_dim, node.span)
            case Size(name="Dv"):
                return int_const(self.value_dim, node.span)
            case GridCoord(side=side, axis=axis):
                return grid_coordinate(self.module.grid(side), side, axis)
            case Call(fn="in_grid", args=(Index(name=name),)):
                side: Literal["q", "k"] = "q" if name == "i" else "k"
                return grid_member(self.module.grid(side), side)
            case Lookup():
                return self._lookup(node)
            case _:
                return self._sized(node)

    def _sized(self, node: Expr) -> Expr:
        """Vector types carry their length as an expression too."""
        if isinstance(node, Call | Value) and isinstance(node.type, VectorType):
            dim = self.lower(node.type.dim)
            if isinstance(node, Value):
                return Value(node.name, VectorType(dim), node.span)
            return Call(node.fn, node.args, VectorType(dim), node.span)
        return node

    def _lookup(self, node: Lookup) -> Lookup:
        tensor = self.module.tensor(node.tensor)
        rows = tuple(stored_row(index, tensor, axis) for axis, index in enumerate(node.indices))
        kind = node.type
        if isinstance(kind, VectorType):
            kind = VectorType(self.lower(kind.dim))
        return Lookup(node.tensor, rows, kind, node.span)


def _check_rotation(node: Call) -> None:
    _, _, _, start, dims, _ = node.args
    length = node.type.dim if isinstance(node.type, VectorType) else None
    if not (isinstance(start, Const) and isinstance(dims, Const) and isinstance(length, Const)):
        fail(NotLowerable("a rotation of features that are known only at the call", node.span, "make them static"))
    first, count, all_features = int(start.value), int(dims.value), int(length.value)
    if count % 2 or count < 2 or first < 0 or first + count > all_features:
        fail(RotatedFeatures(first, count, all_features, node.span))


def stored_row(index: Expr, tensor: TensorParam, axis: int) -> Expr:
    """The row of dimension `axis` that a position means: those declared N or M start at their offset."""
    dim = tensor.dims[axis]
    if dim == Size("N"):
        return Index("r", index.span) if index == Index("i") else sub(index, Q_OFFSET)
    if dim == Size("M"):
        return Index("c", index.span) if index == Index("j") else sub(index, K_OFFSET)
    return index


def _position(grid: Grid, side: Literal["q", "k"]) -> Expr:
    index = Index("i" if side == "q" else "j")
    return index if is_const(grid.start, 0) else sub(index, grid.start)


def _product(factors: tuple[Expr, ...]) -> Expr:
    total: Expr = int_const(1)
    for factor in factors:
        total = mul(total, factor)
    return total


def grid_coordinate(grid: Grid, side: Literal["q", "k"], axis: int) -> Expr:
    """((position - start) // slower stride) % extent; the slowest axis needs no remainder."""
    stride = _product(grid.extents[axis + 1 :])
    coordinate = _position(grid, side)
    if not is_const(stride, 1):
        coordinate = call("floordiv", coordinate, stride)
    return coordinate if axis == 0 else call("mod", coordinate, grid.extents[axis])


def grid_member(grid: Grid, side: Literal["q", "k"]) -> Expr:
    """Whether a position lies on the grid."""
    position = _position(grid, side)
    return conj(compare("le", int_const(0), position), compare("lt", position, _product(grid.extents)))

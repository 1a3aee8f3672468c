"""subjects: the masks of a claim, with grid coordinates as arithmetic or standing for themselves, and their domains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from attnc.ir.build import add, compare, conj
from attnc.ir.expr import Call, Expr, GridCoord, Index, Lift, Size, int_const
from attnc.ir.fold import fold
from attnc.ir.module import AttentionModule, Grid, TensorParam
from attnc.ir.traverse import map_children, transform, walk
from attnc.ir.types import BOOL
from attnc.passes.exact_reals import without_reals
from attnc.passes.mask_atoms import everything
from attnc.passes.positions import K_OFFSET, Q_OFFSET, grid_coordinate
from attnc.passes.tile_lifts import without_lifts

_I, _J = Index("i"), Index("j")


@dataclass(frozen=True, slots=True)
class Subject:
    """A mask and what it reads. In `mask` coordinates are arithmetic, in `raw` they stand for themselves.

    `beside_grid`: it does not read coordinates, or says itself what holds of positions beside its grid.
    """

    mask: Expr
    raw: Expr
    tensors: Mapping[str, TensorParam]
    grids: tuple[Grid, Grid] | None = None
    beside_grid: bool = False

    @staticmethod
    def of(module: AttentionModule) -> Subject:
        """The mask of a module. Raises SpecError for a tile lift that has no condition on blocks."""
        grids = (module.grid_q, module.grid_k) if module.grid_q and module.grid_k else None
        tensors = {tensor.name: tensor for tensor in module.tensors}
        nodes = [*walk(module.mask)]
        asks = any(isinstance(node, Call) and node.fn == "in_grid" for node in nodes)
        beside = asks or not any(isinstance(node, GridCoord) for node in nodes)
        mask, raw = (fold(without_reals(_without_grids(module, raw=raw), tensors)) for raw in (False, True))
        return Subject(mask, raw, tensors, grids, beside)


def _without_grids(module: AttentionModule, *, raw: bool) -> Expr:
    """Coordinates as arithmetic, inside of tile lifts always. A position lies on a grid where its slowest one does."""

    def lowered(node: Expr, raw: bool) -> Expr:
        match node:
            case GridCoord(side=side, axis=axis) if not raw:
                return grid_coordinate(module.grid(side), side, axis)
            case Call(fn="in_grid", args=(Index(name=name),)):
                side: Literal["q", "k"] = "q" if name == "i" else "k"
                return on_grid(module.grid(side), side, raw=raw)
            case _:
                return node

    def on_blocks(node: Expr) -> Expr:
        if isinstance(node, Lift):
            return without_lifts(fold(transform(node, lambda inner: lowered(inner, False))))
        return map_children(node, on_blocks)

    return fold(transform(on_blocks(module.mask), lambda node: lowered(node, raw)))


def on_grid(grid: Grid, side: Literal["q", "k"], *, raw: bool = False) -> Expr:
    """Whether the position of a side lies on its grid."""
    slowest = GridCoord(side, 0) if raw else grid_coordinate(grid, side, 0)
    return conj(compare("le", int_const(0), slowest), compare("lt", slowest, grid.extents[0]))


def pairs() -> Expr:
    """The pairs of a call."""
    first, last = compare("le", Q_OFFSET, _I), compare("lt", _I, add(Q_OFFSET, Size("N")))
    return everything((first, last, keys()))


def rows() -> Expr:
    """The rows of a call."""
    return conj(compare("le", Q_OFFSET, _I), compare("lt", _I, add(Q_OFFSET, Size("N"))))


def keys() -> Expr:
    """The keys of a call."""
    return conj(compare("le", K_OFFSET, _J), compare("lt", _J, add(K_OFFSET, Size("M"))))


def swapped(mask: Expr) -> Expr:
    """The mask with query and key exchanged."""

    def other(node: Expr) -> Expr:
        match node:
            case Index(name="i" | "j" as name):
                return Index("j" if name == "i" else "i", node.span)
            case GridCoord(side=side, axis=axis):
                return GridCoord("k" if side == "q" else "q", axis, node.span)
            case _:
                return node

    return transform(mask, other)


def negated(cond: Expr) -> Expr:
    """Where a condition does not hold."""
    return Call("not", (cond,), BOOL)

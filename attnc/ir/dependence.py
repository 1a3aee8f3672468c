"""Which axes of the iteration space an expression varies along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import assert_never

from attnc.ir.expr import (
    TRUE,
    Call,
    Const,
    Exists,
    Expr,
    GridCoord,
    Index,
    Lift,
    Lookup,
    Param,
    Reduce,
    Ref,
    Size,
    Value,
    Var,
)
from attnc.ir.module import AttentionModule
from attnc.ir.plan import Alignment
from attnc.ir.traverse import children, walk

#: "i": query positions, "j": key positions, "b"/"h"/"hk": batch and heads.
Axes = frozenset[str]

NONE: Axes = frozenset()
PAIR: Axes = frozenset("ij")

_VALUES: dict[str, Axes] = {
    "q": frozenset(("b", "h", "i")),
    "k": frozenset(("b", "hk", "j")),
    "v": frozenset(("b", "hk", "j")),
    "s": frozenset(("b", "h", "i", "j")),
    "dp": frozenset(("b", "h", "i", "j")),
    "o": frozenset(("b", "h", "i")),
    "n_keys": frozenset(("b", "h", "i")),
}
_INDICES: dict[str, Axes] = {"r": frozenset("i"), "c": frozenset("j")}


def union(parts: Iterable[Axes]) -> Axes:
    """Union of axis sets."""
    return NONE.union(*parts)


def axes(expr: Expr, refs: Mapping[str, Axes] | None = None) -> Axes:
    """Free axes of `expr`; `refs` tells those of named values (a row value when it is missing)."""
    match expr:
        case Const() | Size() | Param() | Var():
            return NONE
        case Index(name=name):
            return _INDICES.get(name, frozenset((name,)))
        case GridCoord(side=side):
            return frozenset("i" if side == "q" else "j")
        case Value(name=name):
            return _VALUES.get(name, NONE)
        case Ref(name=name):
            return (refs or {}).get(name, frozenset("i"))
        case Reduce(axis=axis):
            inner = union(axes(child, refs) for child in children(expr))
            return inner - {axis}
        case Call() | Lookup() | Exists() | Lift():
            return union(axes(child, refs) for child in children(expr))
        case _:
            assert_never(expr)


def varies(expr: Expr, axis: str, refs: Mapping[str, Axes] | None = None) -> bool:
    """Whether the value changes along `axis`."""
    return axis in axes(expr, refs)


def pair_axes(expr: Expr, refs: Mapping[str, Axes] | None = None) -> Axes:
    """The axes among i and j."""
    return axes(expr, refs) & PAIR


def conjuncts(mask: Expr) -> tuple[Expr, ...]:
    """The clauses of a conjunction; none for the mask that keeps everything."""
    if mask == TRUE:
        return ()
    if isinstance(mask, Call) and mask.fn == "and":
        return conjuncts(mask.args[0]) + conjuncts(mask.args[1])
    return (mask,)


def is_key_clause(clause: Expr) -> bool:
    """Whether a clause looks at the key alone: what it removes must not be read at all."""
    return pair_axes(clause) == frozenset("j")


def looks_up_positions(expr: Expr) -> bool:
    """Whether its value depends on what tensors hold at the query or at the key."""
    return any(isinstance(node, Lookup) and bool(pair_axes(node)) for node in walk(expr))


_NOT_AFFINE = ("mod", "floordiv", "min", "max", "abs", "where")


def has_tile_maps(module: AttentionModule) -> bool:
    """Whether tiles other than closed ranges of positions may suit the mask: it reads a grid, or is not affine."""
    nodes = tuple(walk(module.mask))
    return any(isinstance(x, GridCoord | Exists | Lift) or (isinstance(x, Call) and x.fn in _NOT_AFFINE) for x in nodes)


def alignment_of(module: AttentionModule) -> Alignment:
    """How the calls that a module is made for lie to its grid, when no call is known."""
    if not has_tile_maps(module):
        return False
    return "beside" if module.grid_q is not None and module.grid_q.beside else True


def is_aligned(module: AttentionModule, n: int, m: int) -> Alignment:
    """Whether a call of these sizes at offset 0 has tiles that follow its tokens, and how those lie to a grid."""
    if n != m or not has_tile_maps(module):
        return False
    grid = module.grid_q
    if grid is None:
        return True
    extents = [int(extent.value) for extent in grid.extents if isinstance(extent, Const)]
    if len(extents) < len(grid.extents) or not isinstance(grid.start, Const):
        return False
    start, others = int(grid.start.value), n - prod(extents)
    if start == others == 0:
        return True
    return "beside" if 0 <= start <= others else False

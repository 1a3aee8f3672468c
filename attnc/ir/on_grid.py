"""Whether the positions of a call lie on the grid whose coordinates an attention reads.

A position beside its grid has no coordinates: what a formula makes of it means nothing. An attention says with `at`, or
by asking `i in grid`, that it has such positions; every other one is called for the points of its grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from attnc.ir.evaluate import UnknownValueError, evaluate_exact
from attnc.ir.expr import Call, Expr, GridCoord, Index
from attnc.ir.module import AttentionModule, Grid
from attnc.ir.traverse import children


@dataclass(frozen=True, slots=True)
class GridSide:
    """A side whose positions have to lie on its grid."""

    grid: Grid
    size: Literal["N", "M"]
    offset: Literal["q_offset", "k_offset"]

    def extents(self, names: Mapping[str, int]) -> list[int] | None:
        """The extents in numbers; None where one has no value."""
        try:
            return [evaluate_exact(extent, names) for extent in self.grid.extents]
        except (UnknownValueError, ZeroDivisionError):
            return None


def grid_sides(module: AttentionModule) -> tuple[GridSide, ...]:
    """The sides of which the module reads coordinates and says nothing of positions beside the grid."""
    if module.grid_q is None and module.grid_k is None:
        return ()
    nodes = list(_nodes(module))
    read = {node.side for node in nodes if isinstance(node, GridCoord)}
    asked = {
        arg.name for node in nodes if isinstance(node, Call) and node.fn == "in_grid" for arg in node.args
        if isinstance(arg, Index)
    }  # fmt: skip
    found: list[GridSide] = []
    if module.grid_q is not None and not module.grid_q.beside and "q" in read and "i" not in asked:
        found.append(GridSide(module.grid_q, "N", "q_offset"))
    if module.grid_k is not None and not module.grid_k.beside and "k" in read and "j" not in asked:
        found.append(GridSide(module.grid_k, "M", "k_offset"))
    return tuple(found)


def _nodes(module: AttentionModule) -> Iterator[Expr]:
    """Every node once."""
    steps = [binding.expr for binding in (*module.cascade, *module.aux)]
    stack = [module.mask, module.score, *steps, module.value, module.output]
    seen = set[int]()
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            stack.extend(children(node))


def misfit(sides: tuple[GridSide, ...], names: Mapping[str, int]) -> str | None:
    """Why a call does not fit the grids, None when it does. `names` holds N, M, q_offset, k_offset and parameters.

    Positions beyond a grid never fit. Fewer positions than the grid has are a part of it, which one of the sizes or an
    offset has to show: a call at offset 0 of which no side has the size of its grid is of another grid.
    """
    parts = [_compared(side, names) for side in sides if names[side.size]]
    outside = [text for text, _, inside in parts if not inside]
    if outside:
        return outside[0]
    at_zero = names["q_offset"] == 0 and names["k_offset"] == 0
    if not parts or not at_zero or any(whole for _, whole, _ in parts):
        return None
    return (
        f"{parts[0][0]}; a part of a grid is computed with q_offset or k_offset, "
        "and where it is the first part with a tensor of zeros"
    )


def _compared(side: GridSide, names: Mapping[str, int]) -> tuple[str, bool, bool]:
    """What the sizes are, whether the call has all points of the grid, and whether it has no others."""
    extents = side.extents(names)
    if extents is None:
        return "", True, True
    points, count, first = prod(extents), names[side.size], names[side.offset]
    axes = ", ".join(f"{name}: {extent}" for name, extent in zip(side.grid.names, extents, strict=True))
    where = f" at {side.offset} = {first}" if first else ""
    text = f"grid ({axes}) has {points} positions, the call has {side.size} = {count}{where}"
    return text, first == 0 and count == points, first >= 0 and first + count <= points

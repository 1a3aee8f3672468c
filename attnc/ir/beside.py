"""Query tiles beside a grid: ranges of the rows before its first point and behind its last, of a part of boxes.

They visit nothing: a part covers all rows, so that each of its results has a program that writes it.
"""

from __future__ import annotations

from math import prod

from attnc.diagnostics import InternalError
from attnc.ir.expr import Const
from attnc.ir.plan import Part


def points_of(part: Part) -> int:
    """The points of the grid of a part with an origin."""
    extents = [int(axis.extent.value) for axis in part.axes if isinstance(axis.extent, Const)]
    if len(extents) < len(part.axes):
        raise InternalError("a grid beside other tokens has extents that are known")
    return prod(extents)


def tiles_beside(part: Part, n: int) -> int:
    """How many there are for n rows."""
    return 0 if part.origin is None else -(-(n - points_of(part)) // part.tile.rows)

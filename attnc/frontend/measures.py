"""Size, depth and leaves of typed expressions, each node looked at once however often it is shared."""

from __future__ import annotations

from typing import NamedTuple

from attnc.ir.expr import Expr, GridCoord, Index, Lookup, Param, Reduce, Ref, Size, Value
from attnc.ir.traverse import children


class Measure(NamedTuple):
    """`nodes` and `depth` as a tree; `reads` names the leaves.

    Indices and values stand for themselves (a grid coordinate for its position), sizes too; "[j]" is a
    reduction over j, "param NAME", "tensor NAME" and "binding NAME" are what they say.
    """

    nodes: int
    depth: int
    reads: frozenset[str]


class Measures:
    """Measures of the nodes seen so far. Keeps them alive, for it tells them apart by identity."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Expr, Measure]] = {}

    def of(self, expr: Expr) -> Measure:
        """The measure of an expression."""
        known = self._known.get(id(expr))
        if known is not None:
            return known[1]
        nodes, depth, reads = 1, 0, _reads_itself(expr)
        for child in children(expr):
            part = self.of(child)
            nodes += part.nodes
            depth = max(depth, part.depth)
            reads = reads | part.reads if reads else part.reads
        measure = Measure(nodes, depth + 1, reads)
        self._known[id(expr)] = (expr, measure)
        return measure


_NONE = frozenset[str]()


def _reads_itself(expr: Expr) -> frozenset[str]:
    match expr:
        case Index(name=name) | Value(name=name) | Size(name=name):
            return frozenset((name,))
        case GridCoord(side=side):
            return frozenset("i" if side == "q" else "j")
        case Param(name=name):
            return frozenset((f"param {name}",))
        case Lookup(tensor=name):
            return frozenset((f"tensor {name}",))
        case Ref(name=name):
            return frozenset((f"binding {name}",))
        case Reduce(axis=axis):
            return frozenset((f"[{axis}]",))
        case _:
            return _NONE

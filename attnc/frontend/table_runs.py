"""table-runs: look-ups in a static table of few runs of equal elements as comparisons of the index.

full: bool[Hk] static = [true, true, false, false]
full[hk]                               ->   hk < 2
size: int[Hk] static = [64, 64, 128]
size[hk]                               ->   where(hk < 2, 64, 128)

What reads the table then is affine where the index is, so masks have integer sets, one case per run. Rows of a table of
several dimensions are runs, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnc.ir.build import call, compare, conj, where
from attnc.ir.expr import FALSE, TRUE, Const, Expr, Lookup, Size, Var, int_const
from attnc.ir.module import TensorParam
from attnc.ir.traverse import walk
from attnc.ir.types import BOOL, INT

#: Runs of a table that is written out.
MAX_RUNS = 16
_ROWS = (Size("N"), Size("M"))
_Values = tuple[bool | int | float, ...]


def as_comparisons(node: Lookup, tensor: TensorParam, indices: Sequence[Expr]) -> Expr | None:
    """The look-up as comparisons; None where its table has many runs, or rows that depend on the offsets of a call."""
    table = tensor.value
    if table is None or tensor.type not in (BOOL, INT) or 0 in table.shape or any(dim in _ROWS for dim in tensor.dims):
        return None
    if any(isinstance(leaf, Var) for index in indices for leaf in walk(index)):  # an `exists` is written out instead
        return None
    found = _Runs(tensor, tuple(indices), node)
    return found.chosen(0, table.values) if found.count(0, table.values) <= MAX_RUNS else None


class _Runs:
    """The elements of a table by the runs along its dimensions; indices out of range are those at its ends."""

    def __init__(self, tensor: TensorParam, indices: tuple[Expr, ...], node: Lookup) -> None:
        assert tensor.value is not None
        self._shape, self._type, self._indices, self._span = tensor.value.shape, tensor.type, indices, node.span

    def _rows(
        self, depth: int, values: tuple[bool | int | float, ...]
    ) -> list[tuple[int, tuple[bool | int | float, ...]]]:
        """Runs of equal rows with the index at which the next one begins."""
        size = len(values) // self._shape[depth]
        rows = [values[n * size : (n + 1) * size] for n in range(self._shape[depth])]
        return [(n + 1, row) for n, row in enumerate(rows) if n + 1 == len(rows) or rows[n + 1] != row]

    def count(self, depth: int, values: _Values) -> int:
        """Elements that would be written."""
        if depth == len(self._shape):
            return 1
        rows = self._rows(depth, values)
        return len(rows) if len(rows) > MAX_RUNS else sum(self.count(depth + 1, row) for _, row in rows)

    def chosen(self, depth: int, values: _Values) -> Expr:
        """The element at the indices from `depth` on."""
        if depth == len(self._shape):
            return Const(values[0], self._type, self._span)
        *before, (_, last) = self._rows(depth, values)
        total = self.chosen(depth + 1, last)
        for end, row in reversed(before):
            total = _select(compare("lt", self._indices[depth], int_const(end)), self.chosen(depth + 1, row), total)
        return total


def _select(cond: Expr, then: Expr, orelse: Expr) -> Expr:
    """A choice, of conditions as a condition."""
    if then == orelse:
        return then
    if then == TRUE:
        return cond if orelse == FALSE else call("or", cond, orelse, type=BOOL)
    if then == FALSE:
        otherwise = call("not", cond, type=BOOL)
        return otherwise if orelse == TRUE else conj(otherwise, orelse)
    return where(cond, then, orelse)

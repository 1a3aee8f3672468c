"""truth-tables: a condition for all truth values of its comparisons.

A claim that follows from how its masks are put together, `subset(a and b, a)`, needs no integer set: whatever a and b
are, no truth values contradict it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnc.ir.expr import Call, Const, Expr
from attnc.ir.types import BOOL

#: Comparisons whose truth values are tried: a table has 2 to this power entries.
MAX_COMPARISONS = 12


def is_contradictory(cond: Expr) -> bool:
    """Whether no truth values of its comparisons make a condition true. False where they are too many."""
    found = _Cases().of(cond)
    return found is not None and not bool(np.any(found))


class _Cases:
    """The condition for all truth values of its comparisons: one array of 2 ** MAX_COMPARISONS entries."""

    def __init__(self) -> None:
        self._columns: dict[Expr, Any] = {}
        self._done: dict[int, Any] = {}

    def of(self, cond: Expr) -> Any:
        """The table of a condition; None when it has too many comparisons."""
        if id(cond) not in self._done:
            self._done[id(cond)] = self._table(cond)
        return self._done[id(cond)]

    def _table(self, cond: Expr) -> Any:
        match cond:
            case Call(fn="and" | "or" | "not" | "where" as fn, args=args):
                tables = [self.of(arg) for arg in args]
                return None if any(table is None for table in tables) else _LOGIC[fn](*tables)
            case Call(fn="eq" | "ne" as fn, args=(a, b)) if a.type == BOOL:
                x, y = self.of(a), self.of(b)
                return None if x is None or y is None else (x == y if fn == "eq" else x != y)
            case Const(value=value):
                return np.full(1 << MAX_COMPARISONS, bool(value))
            case _:
                return self._column(cond)

    def _column(self, cond: Expr) -> Any:
        """A comparison and its opposite are one column."""
        opposite = {"ge": "lt", "gt": "le", "ne": "eq"}
        if isinstance(cond, Call) and cond.fn in opposite:
            table = self._column(Call(opposite[cond.fn], cond.args, BOOL))
            return None if table is None else ~table
        if cond not in self._columns:
            bit = len(self._columns)
            if bit == MAX_COMPARISONS:
                return None
            self._columns[cond] = (np.arange(1 << MAX_COMPARISONS) >> bit & 1).astype(bool)
        return self._columns[cond]


def _where(cond: Any, then: Any, orelse: Any) -> Any:
    return (cond & then) | (~cond & orelse)


_LOGIC: dict[str, Any] = {"and": np.logical_and, "or": np.logical_or, "not": np.logical_not, "where": _where}

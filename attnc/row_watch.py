"""Saying of a call that some of its rows see no key: their outputs are 0, which is seldom what was meant.

The condition under which all rows see one is found once for each text, by integer sets, and kept in the cache. That
takes 5 to 50 ms where the work is bounded as here, beside plans that take longer, so it is done at the first call; what
would take longer stays unknown and nothing is said. Later calls of the same sizes cost a comparison, others 0.1 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnc.codegen.cache import key_of, load_entry, making, store_entry
from attnc.diagnostics import warn_user
from attnc.ir.evaluate import UnknownValueError, evaluate_exact
from attnc.ir.expand import written_out
from attnc.ir.expr import FALSE, Expr
from attnc.ir.module import AttentionModule
from attnc.ir.on_grid import grid_sides
from attnc.ir.serialize import MalformedError, dumps, loads

#: Operations of isl: with these the masks of the standard library take 5 to 50 ms.
MAX_OPERATIONS = 20_000
#: Nodes of a mask that is looked at, written out: more take seconds to write as a set.
MAX_NODES = 1000
#: Warnings of one op: a loop over growing sizes has said enough after these.
MAX_WARNINGS = 4


@dataclass(slots=True)
class RowWatch:
    """The calls of one module. `key` names its text in the cache; "" is a module without one, which nobody watches."""

    module: AttentionModule
    key: str
    _last: tuple[Any, ...] = ()
    _found: list[Expr | None] = field(default_factory=list["Expr | None"])
    _said: set[tuple[Any, ...]] = field(default_factory=set[tuple[Any, ...]])

    def is_new(self, call: tuple[Any, ...]) -> bool:
        """Whether the last call that was asked about was another one."""
        if call == self._last or not self.key:
            return False
        self._last = call
        return True

    def look(self, sizes: Mapping[str, Any], params: Mapping[str, Any]) -> None:
        """Warn of a row without keys, once for each sizes. Offsets that are no ints are left alone."""
        call = (*sizes.values(), *params.values())
        if not self.key or call in self._said or len(self._said) >= MAX_WARNINGS:
            return
        if not all(type(value) is int for value in sizes.values()):
            return
        if not self._found:
            self._found.append(self._condition())
        if self._found[0] is None or not sizes["N"] or not sizes["M"]:
            return
        text = None if _holds(self._found[0], {**sizes, **params}) else row_text(self.module, sizes, params)
        if text is not None:
            self._said.add(call)
            warn_user(f"{self.module.name}: {text}")

    def _condition(self) -> Expr | None:
        """When all rows see a key; None when that is always so, or not known. From the cache if it is there."""
        key = key_of("rows", self.key)
        found = _load(key)
        if found is None:
            with making(key):
                found = _load(key)
                if found is None:
                    found = (_find(self.module),)
                    store_entry("rows", key, dumps(found, spans=False))
        return found[0]


def _load(key: str) -> tuple[Expr | None] | None:
    body = load_entry("rows", key)
    try:
        return None if body is None else loads(body)
    except MalformedError:
        return None


def _find(module: AttentionModule) -> Expr | None:
    # A call lies on its grid, where what is known of rows is that they lie there.
    if grid_sides(module) or written_out(module.mask) > MAX_NODES:
        return None
    from attnc.passes.facts import nonempty_rows

    fact = nonempty_rows(module, MAX_OPERATIONS)
    return FALSE if fact.verdict == "never" else fact.condition


def _holds(condition: Expr, names: Mapping[str, Any]) -> bool:
    """Whether a condition holds, or depends on what only the device knows."""
    try:
        return bool(evaluate_exact(condition, names))
    except (UnknownValueError, ZeroDivisionError):
        return True


def row_text(module: AttentionModule, sizes: Mapping[str, int], params: Mapping[str, Any]) -> str | None:
    """What to say of a call with a row without keys; None when none was found."""
    from attnc.passes.empty_rows import empty_row

    found = empty_row(module, sizes, params)
    if found is None:
        return None
    of = f" of head {found.head[1]}" if found.head[1] else ""
    where = ", ".join(f"{name} = {sizes[name]}" for name in ("N", "M", "q_offset", "k_offset"))
    return f"row {found.row}{of} (i = {found.i}) sees no key for {where}; outputs of such rows are 0"

"""What a call tells of the tiles of a plan: tables of the axes of boxes, lists of what has no closed form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attnc.codegen.launch import CallInputs
from attnc.ir.plan import KernelPlan

if TYPE_CHECKING:
    from attnc.torch_tiles import PartTables

#: Lists of tiles that are kept for calls of the same numbers.
_KEPT_LISTS = 64


@dataclass(slots=True)
class CallTables:
    """Makes tables; those that depend on sizes and numbers alone are kept."""

    _axes: dict[object, PartTables | None] = field(default_factory=dict[object, "PartTables | None"])
    _lists: dict[object, PartTables | None] = field(default_factory=dict[object, "PartTables | None"])

    def of_part(self, plan: KernelPlan, number: int, call: CallInputs, key: object) -> PartTables | None:
        """Tables of one part of the plan that `key` names; None when one would be too long."""
        part = plan.parts[number]
        if part.listing is not None:
            return self._list(plan, number, call, key)
        if not part.axes:
            return ()
        from attnc.passes.tile_tables import tables_of

        size = call.q.shape[2]
        place = (key, number, size)
        if place not in self._axes:
            names = {"N": size, "M": size, "q_offset": 0, "k_offset": 0}
            self._axes[place] = tables_of(part.axes, names)
        return self._axes[place]

    def _list(self, plan: KernelPlan, number: int, call: CallInputs, key: object) -> PartTables | None:
        """The listed tiles, made anew where they depend on data."""
        from attnc.tile_lists import list_tiles, numbers_of_call

        part = plan.parts[number]
        assert part.listing is not None
        place = (key, number, numbers_of_call(call)) if part.listing.of_numbers else None
        if place is not None and place in self._lists:
            return self._lists[place]
        tiles = list_tiles(plan, part, call)
        found = None if tiles is None else (tiles,)
        if place is not None:
            if len(self._lists) >= _KEPT_LISTS:
                self._lists.clear()
            self._lists[place] = found
        return found

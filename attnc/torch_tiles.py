"""The tiles of a part of a plan, as the torch back end walks over them: all batches and heads of a tile together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attnc.codegen.launch import CallInputs
from attnc.eager import Env, evaluate
from attnc.ir.dependence import axes
from attnc.ir.plan import Part, Piece
from attnc.packing import int_list

if TYPE_CHECKING:
    from attnc.passes.tile_lists import TileList
    from attnc.passes.tile_tables import AxisTable

    #: What a call tells of the tiles of one part: nothing, a table per axis, or a list.
    PartTables = tuple[AxisTable, ...] | tuple[TileList]
else:
    PartTables = tuple


@dataclass(frozen=True, slots=True)
class Tokens:
    """Stored rows: `where` indexes a tensor with them (a range makes a view), `index` lists them."""

    where: slice | Tensor
    index: Tensor


class Tiling:
    """Query tiles of a part for one call, each with the key tiles that it visits, and whether those are full.

    A key tile is visited when any batch or head visits it, and full when it is full for all.
    """

    def __init__(self, part: Part, tables: PartTables, env: Env, call: CallInputs) -> None:
        self._part = part
        self._tables: Any = tables
        self._env = env
        self._device = call.q.device
        self._batch, self._heads, self._rows = call.q.shape[:3]
        self._keys = call.k.shape[2]

    def tiles(self) -> Iterator[tuple[Tokens, list[tuple[Tokens, bool]]]]:
        """At least one query tile, which may have no rows."""
        if self._part.axes and self._rows:
            yield from self._boxes()
            return
        step = self._part.tile.rows
        for tile, first in enumerate(range(0, max(self._rows, 1), step)):
            last = min(first + step, self._rows)
            found = self._visits(tile, first, last) if last > first and self._keys else []
            yield self._range(first, last), [(self._key_tile(key), full) for key, full in found]

    def _boxes(self) -> Iterator[tuple[Tokens, list[tuple[Tokens, bool]]]]:
        from attnc.passes.tile_tables import boxes  # most plans have none, and it loads isl

        split = any(visit.kind == "full" for visit in self._part.visits)
        sizes = {"N": self._rows, "M": self._keys}
        for box in boxes(self._part, self._tables, sizes):
            yield self._listed(box.rows), [(self._listed(keys), full and split) for keys, full in box.keys]

    def _key_tile(self, tile: int) -> Tokens:
        width = self._part.tile.keys
        return self._range(tile * width, min((tile + 1) * width, self._keys))

    def _range(self, first: int, last: int) -> Tokens:
        return Tokens(slice(first, last), torch.arange(first, last, device=self._device))

    def _listed(self, rows: Any) -> Tokens:
        index = torch.as_tensor(rows).to(self._device)
        return Tokens(index, index)

    # -- ranges of positions -----------------------------------------------------------------------------------------

    def _visits(self, tile: int, first: int, last: int) -> list[tuple[int, bool]]:
        """(key tile, full) of a query tile: from the list of the call, else from closed forms."""
        if self._tables:
            return self._tables[0].of_all(tile)
        start = self._env.values["q_offset"]
        env = replace(self._env, refs={"i0": start + first, "i1": start + last - 1})
        full: dict[int, int] = {}
        live: dict[int, None] = {}
        copies = 1
        for visit in self._part.visits:
            for piece in visit.pieces:
                ranges = self._ranges(piece, env)
                copies = max(copies, self._batch * self._heads)
                for key, count in ranges.items():
                    live[key] = None
                    if visit.kind == "full":
                        full[key] = full.get(key, 0) + count
        return [(key, full.get(key, 0) == copies) for key in sorted(live)]

    def _ranges(self, piece: Piece, env: Env) -> dict[int, int]:
        """Key tiles of a piece with the number of (batch, head) that visit them."""
        shape = (self._batch, self._heads, 1, 1)
        uniform = not any(axes(e) & {"b", "h", "hk"} for e in (piece.guard, piece.low, piece.high))
        uniform = uniform and env.refs["i0"].numel() == 1 and env.values["k_offset"].numel() == 1
        low, high, guard = (evaluate(e, env) for e in (piece.low, piece.high, piece.guard))
        if uniform:
            shape = (1, 1, 1, 1)
        weight = self._batch * self._heads if uniform else 1
        found: dict[int, int] = {}
        limits = zip(
            int_list(low.expand(shape)),
            int_list(high.expand(shape)),
            int_list(guard.expand(shape)),
            strict=True,
        )
        for a, b, holds in limits:
            for tile in range(a, b + 1, piece.step) if holds else ():
                found[tile] = found.get(tile, 0) + weight
        return found

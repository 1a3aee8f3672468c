"""The list of a call's tiles: what its mask looks up, summed up per tile of positions, on the device of the call.

Only the summaries leave the device: the least and the greatest value per tile of what depends on one side alone, and
of tensors over both sides whether any and whether all entries of a tile are set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnc.codegen.launch import CallInputs
from attnc.diagnostics import InternalError
from attnc.eager import Env, evaluate
from attnc.ir.dependence import PAIR, pair_axes
from attnc.ir.expand import cases_of
from attnc.ir.expr import Exists, Expr, Index, Lookup, Param, Size, Value, Var
from attnc.ir.fold import fold
from attnc.ir.plan import KernelPlan, Listing, Part, Tile
from attnc.ir.traverse import children, transform, walk
from attnc.ir.types import BOOL, INT
from attnc.packing import int_list
from attnc.passes.mask_sets import exists_values
from attnc.passes.spans import Span
from attnc.passes.tile_lists import BRANCH, MAX_WORK, Ints, Shape, Source, TileList, list_of_numbers, list_visits
from attnc.torch_tokens import environment

Numbers = NDArray[np.float64]
#: Integers below are exact in a double.
_EXACT = 2.0**53
#: Values of an `exists` that are looked at one by one.
_TRIED = 16


def list_tiles(plan: KernelPlan, part: Part, call: CallInputs) -> TileList | None:
    """The list of a part with a `listing`; None when it would be longer than it is worth.

    Offsets must be ints or "end", documents not packed. Reads the summaries back from the device of the call.
    """
    listing = part.listing
    if (
        listing is None
        or call.cu_q is not None
        or isinstance(call.q_offset, Tensor)
        or isinstance(call.k_offset, Tensor)
    ):
        raise InternalError("tiles are listed for one kind of part and call only")
    shape = _shape(listing, part.tile, call)
    relation = _unrolled(plan.mask_of(part))
    if listing.of_numbers and shape.groups == 1:
        return list_of_numbers(part.mask or relation, shape, _numbers_of(part.mask or relation, call))
    with torch.no_grad():
        sources = _sources(relation, _Place(plan, call, listing, shape))
    return list_visits(relation, shape, sources, work=MAX_WORK if listing.of_numbers else None)


def numbers_of_call(call: CallInputs) -> tuple[object, ...]:
    """What lists of numbers depend on: calls that agree in it share them."""
    return (*call.q.shape[:3], *call.k.shape[1:3], call.q_offset, call.k_offset, *sorted(call.params.items()))


def _numbers_of(mask: Expr, call: CallInputs) -> dict[Expr, int]:
    """Sizes, offsets and parameters that a mask reads, of a call."""
    batch, heads, queries = call.q.shape[:3]
    sizes = {"B": batch, "H": heads, "N": queries, "Hk": call.k.shape[1], "M": call.k.shape[2]}
    offset = sizes["M"] - queries if isinstance(call.q_offset, str) else call.q_offset
    names = {**call.params, **sizes, "q_offset": offset, "k_offset": call.k_offset}
    leaves = {node for node in walk(mask) if isinstance(node, Size | Value | Param) and node.type in (BOOL, INT)}
    return {leaf: int(names[leaf.name]) for leaf in leaves if leaf.name in names}


def _shape(listing: Listing, tile: Tile, call: CallInputs) -> Shape:
    batch, heads, queries = call.q.shape[:3]
    keys = call.k.shape[2]
    count = {"": 1, "h": heads, "hk": call.k.shape[1]}[listing.heads]
    q_offset = keys - queries if isinstance(call.q_offset, str) else call.q_offset
    if isinstance(q_offset, Tensor) or isinstance(call.k_offset, Tensor):
        raise InternalError("tiles are listed where the host knows the offsets")
    return Shape(tile, queries, keys, count * (batch if listing.batches else 1), q_offset, call.k_offset)


def _unrolled(mask: Expr) -> Expr:
    """Short `exists` written out, so that the look-ups inside depend on one side alone."""

    def written_out(node: Expr) -> Expr:
        values = exists_values(node) if isinstance(node, Exists) else None
        if not isinstance(node, Exists) or values is None or not 0 < len(values) <= _TRIED:
            return node
        return fold(cases_of(node, values))

    return transform(mask, written_out)


@dataclass(frozen=True, slots=True)
class _Place:
    """The call that expressions are evaluated in, and what its lists stand for."""

    plan: KernelPlan
    call: CallInputs
    listing: Listing
    shape: Shape

    def env(self) -> Env:
        env = environment(self.plan, self.call, torch.float32)
        r = torch.arange(self.shape.queries, device=env.device).view(1, 1, -1, 1)
        c = torch.arange(self.shape.keys, device=env.device).view(1, 1, 1, -1)
        indices = {**env.indices, "r": r, "i": env.values["q_offset"] + r, "c": c, "j": env.values["k_offset"] + c}
        return replace(env, indices=indices)

    def grouped(self, values: Tensor) -> Tensor:
        """Values [B or 1, H or 1, ...] as [groups, ...]."""
        heads, rest = values.shape[1], values.shape[2:]
        size = self.call.k.shape[1]
        if self.listing.heads == "hk" and heads > 1:
            values = values[:, :: heads // size]
        count = {"": 1, "h": self.call.q.shape[1], "hk": size}[self.listing.heads]
        batches = self.call.q.shape[0] if self.listing.batches else 1
        return values[:batches, :count].expand(batches, count, *rest).reshape(self.shape.groups, *rest)


def _sources(relation: Expr, place: _Place) -> dict[Expr, Source | Span]:
    """What is known of the leaves of a condition, and of its largest parts that depend on one side."""
    known: dict[Expr, Source | Span] = {}
    env = place.env()
    for node in _leaves(relation):
        if node in known:
            continue
        if pair_axes(node) == PAIR:
            source = _of_pairs(node, place)
            if source is not None:
                known[node] = source
            continue
        values = place.grouped(_aligned(evaluate(node, env)))
        known[node] = _of_tokens(values, node, place.shape)
    return known


def _leaves(expr: Expr) -> Iterator[Expr]:
    """Leaves that positions do not tell, look-ups of pairs, and the largest parts of one side that look anything up."""
    if isinstance(expr, Lookup) and pair_axes(expr) == PAIR:
        yield expr
        return
    one_side = len(pair_axes(expr)) < 2 and expr.type in (BOOL, INT)
    if one_side and _is_known(expr) and any(isinstance(node, Lookup) for node in walk(expr)):
        yield expr
        return
    if isinstance(expr, Size | Param | Value) or (isinstance(expr, Index) and expr.name in ("b", "h", "hk")):
        if expr.type in (BOOL, INT):
            yield expr
        return
    for child in children(expr):
        yield from _leaves(child)


def _is_known(expr: Expr) -> bool:
    """Whether it reads no variable that something around it binds."""
    return not any(isinstance(node, Var | Exists) for node in walk(expr))


def _aligned(values: Tensor) -> Tensor:
    """In the layout [B, H, N, M] whatever is left out: constants have no dimensions."""
    return values.reshape((1,) * (4 - values.ndim) + tuple(values.shape)) if values.ndim < 4 else values


# -- one side --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The least and the greatest value per group and tile; `side` tells whose tiles, "" for a value per group."""

    side: str
    levels: list[tuple[Numbers, Numbers]]

    def span(self, level: int, group: Ints, query: Ints, key: Ints) -> Span:
        """The values in some blocks."""
        while len(self.levels) <= level:
            low, high = self.levels[-1]
            self.levels.append(_coarser(low, high, 1))
        low, high = self.levels[level]
        block = query if self.side == "i" else key if self.side == "j" else np.zeros_like(query)
        return Span(low[group, block], high[group, block])


def _of_tokens(values: Tensor, node: Expr, shape: Shape) -> _Tokens:
    """Values [groups, N or 1, M or 1] summed up per tile."""
    side = "".join(sorted(pair_axes(node)))
    flat = values.reshape(values.shape[0], -1)
    size = {"i": shape.tile.rows, "j": shape.tile.keys}.get(side, 1)
    ragged = -flat.shape[1] % size
    if ragged:
        flat = torch.cat((flat, flat[:, -1:].expand(-1, ragged)), dim=1)
    tiles = flat.to(torch.int64).reshape(flat.shape[0], -1, size)
    return _Tokens(side, [_numbers(tiles.amin(-1), tiles.amax(-1))])


def _numbers(low: Tensor, high: Tensor) -> tuple[Numbers, Numbers]:
    """Bounds as doubles: without one where a double is not exact."""
    first, last = (x.cpu().numpy().astype(np.float64) for x in (low, high))
    return np.where(np.abs(first) >= _EXACT, -np.inf, first), np.where(np.abs(last) >= _EXACT, np.inf, last)


def _coarser(low: Numbers, high: Numbers, axis: int) -> tuple[Numbers, Numbers]:
    """Bounds of blocks of BRANCH along an axis."""
    starts: Any = range(0, low.shape[axis], BRANCH)
    return np.minimum.reduceat(low, starts, axis=axis), np.maximum.reduceat(high, starts, axis=axis)


# -- both sides ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The least and the greatest entry per group, query tile and key tile of a tensor over both sides."""

    levels: list[tuple[Numbers, Numbers]]

    def span(self, level: int, group: Ints, query: Ints, key: Ints) -> Span:
        """The entries in some blocks."""
        while len(self.levels) <= level:
            low, high = self.levels[-1]
            self.levels.append(_coarser(*_coarser(low, high, 1), 2))
        low, high = self.levels[level]
        return Span(low[group, query, key], high[group, query, key])


def _of_pairs(node: Expr, place: _Place) -> _Pairs | None:
    """A look-up at a row that the query tells and a column that the key tells; None for any other."""
    if not isinstance(node, Lookup) or node.type not in (BOOL, INT) or len(node.indices) < 2:
        return None
    *before, row, column = node.indices
    sides = [pair_axes(index) for index in node.indices]
    if any(sides[:-2]) or tuple(sides[-2:]) != (frozenset("i"), frozenset("j")):
        return None
    env, shape = place.env(), place.shape
    table = place.call.tensors[node.tensor]
    places = evaluate(row, env).reshape(-1), evaluate(column, env).reshape(-1)
    if (len(places[0]), len(places[1])) != (shape.queries, shape.keys) or 0 in table.shape:
        return None  # differs by batch or head
    first = _run(places[0], table.shape[-2]), _run(places[1], table.shape[-1])
    chosen = [int_list(place.grouped(_aligned(evaluate(index, env)))) for index in before]
    tables = [table[tuple(index[group] for index in chosen)] for group in range(shape.groups)]
    if first[0] is None or first[1] is None:
        bounds = [_between(each, places, shape.tile) for each in tables]
    else:
        rows, columns = slice(first[0], first[0] + shape.queries), slice(first[1], first[1] + shape.keys)
        bounds = [_tiled(each[rows, columns], shape.tile) for each in tables]
    low, high = (torch.stack(side) for side in zip(*bounds, strict=True))
    return _Pairs([_numbers(low, high)])


def _run(index: Tensor, length: int) -> int | None:
    """The first of consecutive rows that all lie inside; None when they do not."""
    rows = index.reshape(-1)
    first = int(rows[0])
    consecutive = bool((rows == torch.arange(first, first + len(rows), device=rows.device)).all())
    return first if consecutive and first >= 0 and first + len(rows) <= length else None


def _between(table: Tensor, places: tuple[Tensor, Tensor], tile: Tile) -> tuple[Tensor, Tensor]:
    """The least and the greatest entry between the first and the last row and column that a tile reads."""
    low = high = (table.to(torch.uint8) if table.dtype == torch.bool else table.to(torch.int64)).cpu().numpy()
    for axis, (index, size) in enumerate(zip(places, (tile.rows, tile.keys), strict=True)):
        inside = index.clamp(0, table.shape[axis] - 1).reshape(-1, 1)
        first, last = (
            bound.reshape(-1).cpu().numpy()
            for bound in (_blocks(inside, size).amin(-1), _blocks(inside, size).amax(-1))
        )
        low, high = _reduced(np.minimum, low, axis, first, last), _reduced(np.maximum, high, axis, first, last)
    return torch.as_tensor(low), torch.as_tensor(high)


def _reduced(function: Any, table: Any, axis: int, first: Any, last: Any) -> Any:
    """Rows `first` to `last` of an axis as one."""
    ends = np.stack((first, last + 1), axis=1).reshape(-1)
    longer = np.concatenate((table, table.take([-1], axis)), axis)  # an end may lie behind the last row
    return function.reduceat(longer, ends, axis=axis).take(range(0, len(ends), 2), axis)


def _tiled(pairs: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
    """The least and the greatest entry of each tile; ragged ones have the entries that exist."""
    low = high = pairs.to(torch.uint8) if pairs.dtype == torch.bool else pairs.to(torch.int64)
    for size in (tile.rows, tile.keys):
        # The blocked side comes last, so that the second turn sees the other one.
        low, high = _blocks(low, size).amin(-1), _blocks(high, size).amax(-1)
    return low, high


def _blocks(pairs: Tensor, size: int) -> Tensor:
    """Rows in blocks [columns, blocks, size] of entries, the last block filled up with the last row."""
    ragged = -pairs.shape[0] % size
    if ragged:
        pairs = torch.cat((pairs, pairs[-1:].expand(ragged, -1)))
    return pairs.reshape(-1, size, pairs.shape[1]).permute(2, 0, 1)

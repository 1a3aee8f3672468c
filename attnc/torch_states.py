"""Sums over the keys of full tiles by matrix products: what the accumulators of a plan with states begin at.

A state is the sum of column * g(k) v over some keys; a query takes row * f(q) . state from it. States follow each other
along the keys, and a segment of them is made at a time, with the queries that read them: what is between does not grow
with the call. Sums are float32 (float64 where the call is computed in it), whatever the inputs are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import gcd

import torch
from torch import Tensor

from attnc.codegen.launch import CallInputs
from attnc.codegen.place import operand_heads
from attnc.codegen.states import state_key
from attnc.eager import Env, evaluate
from attnc.ir.build import is_const
from attnc.ir.dependence import axes
from attnc.ir.expr import Expr
from attnc.ir.plan import Accumulator, KernelPlan, Run, States
from attnc.packing import int_list
from attnc.torch_tokens import everywhere, reading

#: Tokens of a segment, on a CPU (where it should stay in its caches) and on a device.
_SEGMENT = {"cpu": 4096}
_SEGMENT_ON_DEVICE = 1 << 17
#: Keys whose products are summed one after the other. Longer sums lose digits that all queries then miss together.
_BLOCK = 64
_IDENTITY = {"sum": 0.0, "max": float("-inf"), "min": float("inf")}


def starts(
    plan: KernelPlan, call: CallInputs, stored: Mapping[str, Tensor], rows: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Accumulators by name, [B, H, N] or [B, H, N, dim], after the keys that states stand for.

    `stored` are derived values by name, `rows` the queries of a tile of the back end.
    """
    assert plan.states is not None
    call = replace(call, tensors={**call.tensors, **stored})
    found = {acc.name: _identity(acc, call, dtype) for acc in plan.accumulators}
    if not call.q.shape[2] or not call.k.shape[2] or not call.q.shape[0] * call.q.shape[1]:
        return found
    products = [_Product(plan, call, kind, takers, dtype) for kind, takers in _products(plan, plan.states).items()]
    for run in plan.states.runs:
        chunks = _chunks(plan, run, call, rows)
        for product in products:
            product.add(chunks, rows, found)
        _extrema(plan, call, chunks, rows, found, dtype)
    return found


def start_buffers(
    plan: KernelPlan, call: CallInputs, stored: Mapping[str, Tensor], rows: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    """What `starts` finds, by the names that accumulators have in memory."""
    found = starts(plan, call, stored, rows, dtype)
    return {state_key(acc): found[acc.name] for acc in plan.accumulators}


def _identity(acc: Accumulator, call: CallInputs, dtype: torch.dtype) -> Tensor:
    shape = (*call.q.shape[:3], acc.dim) if acc.weighted else call.q.shape[:3]
    return torch.full(shape, _IDENTITY[acc.op], dtype=dtype, device=call.q.device)


# -- tiles -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Chunks:
    """Chunks of keys that each query tile takes, the keys first .. last - 1 of all of them, and the size of one.

    `moves` as that of a run: chunks are counted from `last` where it is "low".
    """

    of_tile: tuple[int, ...]
    first: int
    last: int
    size: int
    moves: str

    def keys(self, chunk: int, count: int) -> range:
        """The keys of some chunks."""
        if self.moves == "low":
            return range(self.last - (chunk + count) * self.size, self.last - chunk * self.size)
        return range(self.first + chunk * self.size, self.first + (chunk + count) * self.size)


def _chunks(plan: KernelPlan, run: Run, call: CallInputs, rows: int) -> _Chunks:
    """The closed forms of a run, evaluated on the host for all query tiles at once."""
    assert plan.states is not None
    low, high, guard = _bounds(run, call, rows)
    length = torch.clamp(high + 1 - low, min=0) * guard
    width = plan.parts[0].tile.keys
    if run.moves == "none":
        first, last = int(low[0]) * width, (int(high[0]) + 1) * width
        return _Chunks(tuple(int_list(length > 0)), first, last, last - first, "none")
    number = length // plan.states.chunk
    most = int(number.max()) * plan.states.chunk
    first = int(low[0]) if run.moves == "high" else int(high[0]) + 1 - most
    return _Chunks(tuple(int_list(number)), first * width, (first + most) * width, plan.states.chunk * width, run.moves)


def _bounds(run: Run, call: CallInputs, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """First and last key tile of every query tile, and whether it has any."""
    queries, keys = call.q.shape[2], call.k.shape[2]
    assert not isinstance(call.q_offset, Tensor)
    assert not isinstance(call.k_offset, Tensor)
    offset = keys - queries if isinstance(call.q_offset, str) else call.q_offset
    begin = torch.arange(0, queries, rows)
    env = Env(
        sizes={"B": call.q.shape[0], "H": call.q.shape[1], "Hk": call.k.shape[1], "N": queries, "M": keys},
        params=call.params,
        values={"q_offset": torch.tensor(offset), "k_offset": torch.tensor(call.k_offset)},
        refs={"i0": begin + offset, "i1": torch.clamp(begin + rows, max=queries) - 1 + offset},
    )
    low, high, guard = (
        evaluate(expr, env).expand(begin.shape) for expr in (run.tiles.low, run.tiles.high, run.tiles.guard)
    )
    return low, high, guard


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Query tiles first .. last - 1, one after the other, and the state that each reads."""

    first: int
    last: int
    states: tuple[int, ...]


def _segments(chunks: _Chunks, states: int, tiles: int) -> Iterator[tuple[range, list[_Stretch]]]:
    """States 1, 2, ... by segments of at most `states`, each with the query tiles that read them, at most `tiles`."""
    readers: dict[int, list[int]] = {}
    for tile, count in enumerate(chunks.of_tile):
        if count:
            readers.setdefault((count - 1) // states, []).append(tile)
    most = max(chunks.of_tile, default=0)
    for segment, start in enumerate(range(1, most + 1, states)):
        stretches: list[_Stretch] = []
        begin = 0
        found = readers.get(segment, [])
        for n, tile in enumerate(found, 1):
            if n == len(found) or found[n] != tile + 1 or n - begin == tiles:
                first = found[begin]
                stretches.append(_Stretch(first, tile + 1, chunks.of_tile[first : tile + 1]))
                begin = n
        yield range(start, min(start + states, most + 1)), stretches


# -- products --------------------------------------------------------------------------------------------------------

#: An inner product (or none) and a factor of keys: what sums of one state have in common.
_Kind = tuple[str, Expr]
#: An accumulator and the factor of a query.
_Taker = tuple[Accumulator, Expr]


def _products(plan: KernelPlan, states: States) -> dict[_Kind, list[_Taker]]:
    """The sums by state: those that differ in the factor of the query or in what weights them share one."""
    accumulators = {acc.name: acc for acc in plan.accumulators}
    found: dict[_Kind, list[_Taker]] = {}
    for total in states.sums:
        for term in total.terms:
            found.setdefault((term.dot, term.column), []).append((accumulators[total.accumulator], term.row))
    return found


class _Product:
    """One kind of state of one call."""

    def __init__(
        self, plan: KernelPlan, call: CallInputs, kind: _Kind, takers: list[_Taker], dtype: torch.dtype
    ) -> None:
        dot, column = kind
        self._call = call
        self._dtype = dtype
        self._tokens = {**call.tensors, "q": call.q, "k": call.k, "v": call.v}
        term = next((term for term in plan.dots if term.name == dot), None)
        self._left = None if term is None else self._tokens[term.left]
        self._right = None if term is None else self._tokens[term.right]
        self._takers = takers
        weighted = {plan.values_of(acc) if acc.weighted else "": None for acc, _ in takers}
        self._columns = tuple(weighted)
        self._plan = plan
        read = [name for name in (*weighted, "" if term is None else term.right) if name]
        per_head = "h" in axes(column) or any(operand_heads(plan, name) == "H" for name in read)
        self._heads = call.q.shape[1] if per_head else call.k.shape[1]
        env = everywhere(plan, reading(call, [column, *(row for _, row in takers)]), dtype)
        self._rows = [
            None if is_const(row, 1) else evaluate(row, env).expand(*call.q.shape[:3], 1) for _, row in takers
        ]
        self._factor = None if is_const(column, 1) else self._of_keys(column, env)

    def _of_keys(self, column: Expr, env: Env) -> Tensor:
        """The factor of the keys [B, heads, M, 1]."""
        if self._heads != self._call.q.shape[1]:
            index = torch.arange(self._heads, device=self._call.q.device).view(1, -1, 1, 1)
            env = replace(env, indices={**env.indices, "hk": index}, whole=env.whole | {"hk"})
        shape = (self._call.q.shape[0], self._heads, 1, self._call.k.shape[2])
        return evaluate(column, env).expand(shape).transpose(2, 3)

    def add(self, chunks: _Chunks, rows: int, into: Mapping[str, Tensor]) -> None:
        """Add what the queries take from their states."""
        tokens = _SEGMENT.get(self._call.q.device.type, _SEGMENT_ON_DEVICE)
        before: Tensor | None = None
        for states, stretches in _segments(chunks, max(tokens // max(chunks.size, 1), 1), max(tokens // rows, 1)):
            sums = self._running(chunks, states, tokens)
            last = sums[:, :, -1].to(torch.float64, copy=True)
            if before is not None:
                sums += before.to(self._dtype).unsqueeze(2)
                last = last + before
            before = last
            for stretch in stretches:
                self._take(stretch, sums, states.start, rows, into)

    # -- keys ----------------------------------------------------------------------------------------------------------

    def _running(self, chunks: _Chunks, states: range, tokens: int) -> Tensor:
        """Running sums over the chunks of some states [B, heads, states, F, W], beginning with the first of them."""
        if len(states) == 1:
            keys = chunks.keys(states.start - 1, 1)
            blocks = (keys[n : n + tokens] for n in range(0, len(keys), tokens))
            sums = sum((self._sums(block, len(block)) for block in blocks), torch.zeros((), dtype=self._dtype))
            assert isinstance(sums, Tensor)
        else:
            sums = self._sums(chunks.keys(states.start - 1, len(states)), chunks.size)
        if chunks.moves == "low":
            sums = sums.flip(2)
        if sums.device.type != "cpu":
            return sums.cumsum(2)
        for n in range(1, len(states)):  # one slab after the other: torch's own sum along this dimension is slow here
            sums[:, :, n] += sums[:, :, n - 1]
        return sums

    def _sums(self, keys: range, size: int) -> Tensor:
        """Sums over chunks of keys [B, heads, chunks, F, W]."""
        if self._right is None:
            left = self._call.k.new_ones((self._call.k.shape[0], self._heads, len(keys), 1), dtype=self._dtype)
        else:
            left = self._at(self._right, keys)
        if self._factor is not None:
            left = left * self._factor[:, :, keys.start : keys.stop]
        ones = left.new_ones((*left.shape[:3], 1))
        right = [self._at(self._tokens[name], keys) if name else ones for name in self._columns]
        weights = right[0] if len(right) == 1 else torch.cat(right, dim=3)
        block = gcd(size, _BLOCK)
        left, weights = (x.reshape(*x.shape[:2], -1, block, x.shape[3]) for x in (left, weights))
        blocks = left.transpose(3, 4) @ weights
        return blocks.reshape(*blocks.shape[:2], -1, size // block, *blocks.shape[3:]).sum(3)

    def _at(self, tokens: Tensor, keys: range) -> Tensor:
        """Vectors of some keys, for as many heads as there are states of."""
        found = tokens[:, :, keys.start : keys.stop].to(self._dtype)
        return found if found.shape[1] == self._heads else found.repeat_interleave(self._heads // found.shape[1], dim=1)

    # -- queries -------------------------------------------------------------------------------------------------------

    def _take(self, stretch: _Stretch, sums: Tensor, first: int, rows: int, into: Mapping[str, Tensor]) -> None:
        """What the queries of some tiles take; `first` is the number of the first of the states `sums`."""
        batch, heads, queries = self._call.q.shape[:3]
        here = slice(stretch.first * rows, min(stretch.last * rows, queries))
        count = here.stop - here.start
        left = sums.new_ones((batch, heads, count, 1)) if self._left is None else self._left[:, :, here].to(self._dtype)
        if len({*stretch.states}) == 1:
            found = _grouped(left.unsqueeze(2), self._heads) @ sums[:, :, stretch.states[0] - first].unsqueeze(2)
        else:
            tiles = len(stretch.states)
            left = _padded(left, tiles * rows).reshape(batch, heads, tiles, rows, -1)
            index = torch.tensor(stretch.states, device=sums.device) - first
            found = _grouped(left, self._heads) @ sums[:, :, index]
        found = _ungrouped(found, heads).flatten(2, 3)[:, :, :count]
        self._give(found, here, into)

    def _give(self, found: Tensor, here: slice, into: Mapping[str, Tensor]) -> None:
        """Add products [B, H, queries, W] to the accumulators that take them."""
        by_name: dict[str, Tensor] = {}
        for name in self._columns:
            width = self._tokens[name].shape[3] if name else 1
            by_name[name], found = found[..., :width], found[..., width:]
        for (acc, _), row in zip(self._takers, self._rows, strict=True):
            value = by_name[self._plan.values_of(acc) if acc.weighted else ""]
            value = value if row is None else value * row[:, :, here]
            into[acc.name][:, :, here] += value if acc.weighted else value.squeeze(3)


def _padded(left: Tensor, count: int) -> Tensor:
    """Queries [B, H, count, F], those that do not exist zero."""
    if left.shape[2] == count:
        return left
    found = left.new_zeros((*left.shape[:2], count, left.shape[3]))
    found[:, :, : left.shape[2]] = left
    return found


def _grouped(left: Tensor, heads: int) -> Tensor:
    """Queries [B, H, tiles, rows, F] of the query heads of each key head together."""
    if left.shape[1] == heads:
        return left
    batch, _, tiles, rows, features = left.shape
    return (
        left.reshape(batch, heads, -1, tiles, rows, features).transpose(2, 3).reshape(batch, heads, tiles, -1, features)
    )


def _ungrouped(found: Tensor, heads: int) -> Tensor:
    """[B, H, tiles, rows, W] again."""
    if found.shape[1] == heads:
        return found
    batch, own, tiles, _, width = found.shape
    return (
        found.reshape(batch, own, tiles, heads // own, -1, width)
        .transpose(2, 3)
        .reshape(batch, heads, tiles, -1, width)
    )


# -- extrema ---------------------------------------------------------------------------------------------------------


def _extrema(
    plan: KernelPlan, call: CallInputs, chunks: _Chunks, rows: int, into: dict[str, Tensor], dtype: torch.dtype
) -> None:
    """Extrema of what all keys share: that, wherever a query takes any key."""
    assert plan.states is not None
    found = {total.accumulator: total.row for total in plan.states.sums if total.row is not None}
    if not found:
        return
    taken = torch.tensor(chunks.of_tile, device=call.q.device).repeat_interleave(rows)[: call.q.shape[2]] > 0
    env = everywhere(plan, reading(call, found.values()), dtype)
    for name, expr in found.items():
        value = evaluate(expr, env).expand(*call.q.shape[:3], 1).squeeze(3)
        into[name] = torch.where(taken, value, into[name])

"""The work of a C++ call: units of queries, columns in tiles, and which tiles each unit visits, as tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnc.codegen.launch import CallInputs
from attnc.codegen.launch_cpp import AT_ONCE, FEW_ROWS, KEYS, ROWS, Work
from attnc.eager import Env, evaluate
from attnc.ir.dependence import axes, union
from attnc.ir.expr import Expr, Lookup, Ref, Size
from attnc.ir.plan import KernelPlan, Part, Piece
from attnc.ir.traverse import substitute, walk
from attnc.ir.types import INT
from attnc.packing import int_list
from attnc.torch_tiles import PartTables
from attnc.torch_tokens import environment

Ints = NDArray[Any]
_NAMES = ("N", "M")
#: Queries of a unit where tiles may have any size: a multiple of the queries that are in registers together.
_UNIT = 60


#: Units of one key head from which keys are packed for all of them.
_SHARED = 4
#: Segments of keys per thread, where there are fewer units than that: they even out what threads are held up by.
_PER_THREAD = 4
#: Strands per thread, of all heads together, and how many of them run side by side at most.
_STRANDS = 2
_AT_ONCE = 4
#: Key tiles that a segment has at least, where keys are packed and where they are not.
_SEGMENT = 16
_SEGMENT_OF_FEW = 4


#: Keys from which it matters that they are not packed; below, calls of all layouts round alike.
FEWEST_KEYS = 256


@dataclass(frozen=True, slots=True)
class Manner:
    """How the kernel of a call works: `query_heads` as it says of itself, whether it may split keys, whether it reads
    them where they lie, its threads, and whether it has sums over queries and sums into tables.
    """

    query_heads: bool
    splits: bool
    few: bool
    threads: int
    columns: bool = False
    tables: bool = False


@dataclass(frozen=True, slots=True)
class _Sequences:
    """Documents of a packed call, else batches: columns b, first query, first key, N, M, q_offset, k_offset."""

    rows: Ints
    groups: int
    per_group: int


def works_of(plan: KernelPlan, call: CallInputs, tables: tuple[PartTables, ...], manner: Manner) -> tuple[Work, ...]:
    """The work of each part of a plan."""
    sequences = _sequences(call)
    return tuple(
        _work(plan, part, call, found, sequences, manner)
        for part, found in zip(plan.parts, tables or ((),) * len(plan.parts), strict=True)
    )


def sizes_that_tell(call: CallInputs) -> tuple[object, ...] | None:
    """What the work of a call depends on when its plan does not read data; None when the call itself has such."""
    if call.cu_q is not None or isinstance(call.q_offset, Tensor) or isinstance(call.k_offset, Tensor):
        return None
    params = tuple(sorted((name, value) for name, value in call.params.items()))
    return (call.q.shape[:3], call.k.shape[1:3], call.q_offset, call.k_offset, params)


def few_rows(plan: KernelPlan, call: CallInputs) -> int:
    """Queries that meet a key at a time where so few share it that packing would cost more; else 0.

    Keys are then read where they lie, which needs features that are next to each other.
    """
    if call.k.shape[2] < FEWEST_KEYS:
        return 0
    rows = call.q.shape[2] * (call.q.shape[1] // max(call.k.shape[1], 1))
    beside = all(x.stride(3) == 1 or x.shape[3] == 1 for x in (call.k, call.v))
    if (
        not 0 < rows <= FEW_ROWS
        or not beside
        or plan.pair_dots
        or plan.columns
        or any(part.axes for part in plan.parts)
    ):
        return 0
    return min(1 << (rows - 1).bit_length(), AT_ONCE)


def reads_data(plan: KernelPlan) -> bool:
    """Whether the tiles depend on what a call looks up: by a list, or in closed forms."""
    if any(part.listing is not None for part in plan.parts):
        return True
    pieces = (piece for part in plan.parts for visit in part.visits for piece in visit.pieces)
    return any(isinstance(x, Lookup) for p in pieces for e in (p.guard, p.low, p.high) for x in walk(e))


def _sequences(call: CallInputs) -> _Sequences:
    batch, n, m = call.q.shape[0], call.q.shape[2], call.k.shape[2]
    if call.cu_q is None or call.cu_k is None:
        q_offset = m - n if isinstance(call.q_offset, str) else call.q_offset
        q0, k0 = (_column(offset, batch) for offset in (q_offset, call.k_offset))
        zeros = np.zeros(batch, np.int64)
        rows = np.stack((np.arange(batch), zeros, zeros, zeros + n, zeros + m, q0, k0), axis=1)
        return _Sequences(rows, batch, 1)
    q, k = np.array(int_list(call.cu_q), np.int64), np.array(int_list(call.cu_k), np.int64)
    ns, ms = np.diff(q), np.diff(k)
    zeros = np.zeros(len(ns), np.int64)
    q0 = ms - ns if isinstance(call.q_offset, str) else _column(call.q_offset, len(ns))
    rows = np.stack((zeros, q[:-1], k[:-1], ns, ms, q0, _column(call.k_offset, len(ns))), axis=1)
    return _Sequences(rows, 1, len(ns))


def _column(offset: int | Tensor | str, count: int) -> Ints:
    if isinstance(offset, Tensor):
        return np.array(int_list(offset), np.int64)
    return np.full(count, offset, np.int64)


def _work(plan: KernelPlan, part: Part, call: CallInputs, tables: Any, sequences: _Sequences, manner: Manner) -> Work:
    if part.axes:
        return _of_boxes(part, call, tables, sequences, manner)
    first = sequences.rows[: sequences.per_group]
    ns, ms = first[:, 3], first[:, 4]
    longest = int(ns.max(initial=0))
    heads = _heads_per_tile(part, call, longest, manner)
    size = (ROWS if part.listing is not None else _UNIT) // heads
    if longest <= size:
        size = max(longest, 1)
    counts = -(-ns // size)
    unit_seq = np.repeat(np.arange(len(ns)), counts)
    tile = np.arange(len(unit_seq)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = tile[:, None] * size + np.arange(size)
    rows = np.where(rows < ns[unit_seq][:, None], rows, -1)
    cols, col_seq, col_start = _columns(ms)
    if part.listing is not None:
        ranges, runs = _of_list(part, call, tables[0], len(unit_seq))
    else:
        ranges, runs = _of_closed_forms(plan, part, call, sequences, unit_seq, tile * size, size)
    tiles = _Tiles(unit_seq, rows, ranges, runs, cols, col_seq, col_start, heads)
    return replace(_finished(sequences, tiles, call, manner), rows=size)


@dataclass(frozen=True, slots=True)
class _Tiles:
    unit_seq: Ints
    rows: Ints
    ranges: Ints
    runs: Ints
    cols: Ints
    col_seq: Ints
    col_start: Ints
    heads: int


def _finished(sequences: _Sequences, tiles: _Tiles, call: CallInputs, manner: Manner) -> Work:
    runs, ranges = tiles.runs, tiles.ranges
    total = np.concatenate((np.zeros(1, np.int64), np.cumsum(runs[:, 1]))) if len(runs) else np.zeros(1, np.int64)
    counts = total[np.minimum(ranges.sum(-1), len(runs))] - total[np.minimum(ranges[..., 0], len(runs))]
    packs = 1 if manner.query_heads else call.q.shape[1] // max(call.k.shape[1], 1) // tiles.heads  # units of a pack
    shared = not manner.few and len(tiles.rows) * packs >= _SHARED
    heads = call.q.shape[1] if manner.query_heads else call.k.shape[1]
    together = sequences.groups * heads
    together = min(together, manner.threads) if shared else together
    items, unit_states, segment = _items(counts, together * packs, manner)
    strands, heads_at_once = _strands(sequences.groups * heads, len(tiles.rows), manner) if manner.columns else (1, 1)
    if manner.columns:
        items[:, 1] = _dealt(len(items), strands)
    starts = np.tile(tiles.col_start, sequences.groups)[: len(sequences.rows)]
    seqs = np.concatenate((sequences.rows, starts[:, None]), axis=1)
    return Work(
        np.ascontiguousarray(seqs, np.int64),
        tiles.unit_seq.astype(np.int32),
        np.ascontiguousarray(tiles.rows, np.int32),
        np.ascontiguousarray(ranges, np.int64),
        np.ascontiguousarray(items, np.int32),
        np.ascontiguousarray(unit_states, np.int32),
        np.ascontiguousarray(runs, np.int32),
        np.ascontiguousarray(tiles.cols, np.int32),
        np.ascontiguousarray(tiles.col_seq, np.int32),
        sequences.groups,
        sequences.per_group,
        tiles.heads,
        int(unit_states[:, 1].sum(where=unit_states[:, 1] > 1)),
        segment,
        shared,
        manner.threads,
        strands,
        heads_at_once,
    )


def _items(counts: Ints, together: int, manner: Manner) -> tuple[Ints, Ints, int]:
    """Units and segments of their keys in the order in which they start, the states of each unit, tiles of a segment.

    `counts` are key tiles [batches, heads, units]; `together` heads run side by side. A unit with more tiles than its
    share of them is split, so that all threads have work to the end; segments depend on the number of threads alone.
    """
    most = counts.max((0, 1), initial=0)
    least = _SEGMENT_OF_FEW if manner.few else _SEGMENT
    share = -(-int(most.sum()) * together // (_PER_THREAD * manner.threads))
    segment = max(least, share) if manner.splits and manner.threads > 1 else 1 << 40
    segments = np.maximum(-(-most // segment), 1)
    order = np.argsort(-counts.sum((0, 1)), kind="stable")
    units = np.repeat(order, segments[order])
    first = np.cumsum(segments[order]) - segments[order]
    number = np.arange(len(units)) - np.repeat(first, segments[order])
    split = np.where(segments > 1, segments, 0)
    first = np.cumsum(split) - split
    return np.stack((units, number), 1), np.stack((first, segments), 1), segment


def _strands(heads: int, units: int, manner: Manner) -> tuple[int, int]:
    """Strands of a head, and heads that run side by side: enough for all threads, with memory for that many."""
    strands = min(max(-(-_STRANDS * manner.threads // heads), 1), max(units, 1)) if manner.threads > 1 else 1
    most = manner.threads if manner.tables else _AT_ONCE * manner.threads
    return strands, max(-(-most // strands), 1)


def _dealt(units: int, strands: int) -> Ints:
    """A strand for each of the units, which are in the order of decreasing work: to and fro, to even it out."""
    turn = np.arange(units) % (2 * strands)
    return np.minimum(turn, 2 * strands - 1 - turn)


def _columns(ms: Ints) -> tuple[Ints, Ints, Ints]:
    """Columns of every key tile, its sequence, and the first tile of each sequence."""
    counts = -(-ms // KEYS)
    col_seq = np.repeat(np.arange(len(ms)), counts)
    start = np.cumsum(counts) - counts
    tile = np.arange(len(col_seq)) - start[col_seq]
    cols = tile[:, None] * KEYS + np.arange(KEYS)
    return np.where(cols < ms[col_seq][:, None], cols, -1), col_seq, start


def _heads_per_tile(part: Part, call: CallInputs, longest: int, manner: Manner) -> int:
    """Query heads of a group that share a unit: as many as short queries leave room for."""
    share = call.q.shape[1] // max(call.k.shape[1], 1)
    if manner.query_heads or (part.listing is not None and part.listing.heads == "h") or _head_axes(part) & {"h"}:
        return 1
    room = FEW_ROWS if manner.few else _UNIT
    fits = [n for n in range(1, share + 1) if share % n == 0 and longest <= room // n]
    return max(fits, default=1) if longest else 1


def _head_axes(part: Part) -> frozenset[str]:
    exprs = [e for visit in part.visits for piece in visit.pieces for e in (piece.guard, piece.low, piece.high)]
    return union(axes(e) for e in exprs) & {"b", "h", "hk"}


# -- closed forms ----------------------------------------------------------------------------------------------------


def _of_closed_forms(
    plan: KernelPlan, part: Part, call: CallInputs, sequences: _Sequences, unit_seq: Ints, first: Ints, size: int
) -> tuple[Ints, Ints]:
    """Ranges [batches, heads, units, 2] and runs, every closed form evaluated for all units at once."""
    read = _head_axes(part)
    offsets = any(isinstance(x, Tensor) for x in (call.q_offset, call.k_offset)) and call.cu_q is None
    batches = call.q.shape[0] if call.cu_q is None and ("b" in read or offsets) else 1
    heads = {True: call.q.shape[1], False: call.k.shape[1] if "hk" in read else 1}["h" in read]
    env, names = _unit_env(plan, call, sequences, unit_seq, first, size, batches)
    if "hk" in read and "h" not in read:
        index = torch.arange(heads).view(1, -1, 1, 1)
        env = replace(env, indices={**env.indices, "hk": index})
    shape = (batches, heads, len(unit_seq))
    keys = (np.broadcast_to(sequences.rows[:, 4][unit_seq], shape) - 1) // KEYS
    found: list[tuple[Ints, Ints, int, int]] = []
    for visit in part.visits:
        for piece in visit.pieces:
            low, high, guard = (_numbers(e, env, names, shape) for e in (piece.low, piece.high, piece.guard))
            found.append((*_span(piece, low, high, guard, keys), piece.step, int(visit.kind == "full")))
    if not found:
        return np.zeros((*shape, 2), np.int64), np.zeros((0, 4), np.int32)
    runs = np.stack([np.stack((low, count, np.full_like(low, step), np.full_like(low, full)), -1)
                     for low, count, step, full in found], axis=-2)  # fmt: skip
    number = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    ranges = np.stack((number * len(found), np.full_like(number, len(found))), -1)
    return ranges, runs.reshape(-1, 4)


def _span(piece: Piece, low: Ints, high: Ints, guard: Ints, last: Ints) -> tuple[Ints, Ints]:
    """First tile and number of tiles, kept inside the keys that exist."""
    skipped = np.maximum(-low, 0)
    low = low + (skipped + piece.step - 1) // piece.step * piece.step
    count = np.where(guard != 0, np.maximum((np.minimum(high, last) - low) // piece.step + 1, 0), 0)
    return low, count


def _unit_env(
    plan: KernelPlan, call: CallInputs, sequences: _Sequences, unit_seq: Ints, first: Ints, size: int, batches: int
) -> tuple[Env, dict[Expr, Expr]]:
    """Units along the third dimension: sizes and offsets become values of it."""
    seq = sequences.rows if call.cu_q is not None else sequences.rows[:batches]
    per_unit = seq[unit_seq][None] if call.cu_q is not None else seq[:, None, :]
    columns = {name: torch.as_tensor(np.ascontiguousarray(per_unit[..., n])).view(batches, 1, -1, 1)
               for n, name in ((3, "N"), (4, "M"), (5, "q_offset"), (6, "k_offset"))}  # fmt: skip
    tile = torch.as_tensor(first).view(1, 1, -1, 1)
    start = columns["q_offset"] + tile
    last = columns["q_offset"] + torch.minimum(tile + size, columns["N"]) - 1
    env = environment(plan, call, torch.float32)
    refs = {"i0": start, "i1": last, "size N": columns["N"], "size M": columns["M"]}
    values = {**env.values, "q_offset": columns["q_offset"], "k_offset": columns["k_offset"]}
    names: dict[Expr, Expr] = {Size(name): Ref(f"size {name}", INT) for name in _NAMES}
    return replace(env, refs=refs, values=values), names


def _numbers(expr: Expr, env: Env, names: dict[Expr, Expr], shape: tuple[int, ...]) -> Ints:
    value = evaluate(substitute(expr, names), env)
    return value.expand(*shape, 1).reshape(shape).to(torch.int64).numpy()


# -- lists and boxes -------------------------------------------------------------------------------------------------


def _of_list(part: Part, call: CallInputs, tiles: Any, units: int) -> tuple[Ints, Ints]:
    assert part.listing is not None
    heads = {"": 1, "h": call.q.shape[1], "hk": call.k.shape[1]}[part.listing.heads]
    batches = call.q.shape[0] if part.listing.batches else 1
    ranges = np.stack((tiles.starts, tiles.live), -1).reshape(batches, heads, units, 2)
    within = np.arange(len(tiles.entries)) - np.repeat(tiles.starts, tiles.live)
    full = within < np.repeat(tiles.full, tiles.live)
    ones = np.ones(len(tiles.entries), np.int64)
    return ranges, np.stack((tiles.entries, ones, ones, full), -1)


def _of_boxes(part: Part, call: CallInputs, tables: Any, sequences: _Sequences, manner: Manner) -> Work:
    """Tiles of tables along axes: queries and columns are lists of stored rows."""
    from attnc.passes.box_lists import box_lists

    split = any(visit.kind == "full" for visit in part.visits)
    names = {"N": call.q.shape[2], "M": call.k.shape[2], "q_offset": 0, "k_offset": 0}
    lists = box_lists(part, tables, names)
    count = np.bincount(lists.unit, minlength=len(lists.rows))
    starts = np.cumsum(count) - count
    ones = np.ones(len(lists.tile), np.int64)
    whole = lists.full & split & (part.tile.keys == KEYS)
    runs = np.stack((lists.tile, ones, ones, whole), -1)
    ranges = np.stack((starts, count), -1)[None, None]
    cols = np.full((len(lists.keys), KEYS), -1, np.int64)
    cols[:, : lists.keys.shape[1]] = lists.keys
    zeros, start = np.zeros(len(cols), np.int64), np.zeros(1, np.int64)
    unit_seq = np.zeros(len(lists.rows), np.int64)
    return _finished(sequences, _Tiles(unit_seq, lists.rows, ranges, runs, cols, zeros, start, 1), call, manner)

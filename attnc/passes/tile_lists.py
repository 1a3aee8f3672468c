"""Lists of the key tiles that query tiles visit, found from what is known about tiles of positions at a call.

Tiles are looked at from coarse to fine. A block of tiles of which the mask can keep nothing, or must keep everything,
is done with; only the others are split. So the work is proportional to the tiles that are visited, and to what is on
their border, wherever look-ups are alike in neighbouring positions: ids of documents, regions, padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from attnc.ir.expr import Call, Const, Expr, Index
from attnc.ir.plan import Tile
from attnc.ir.traverse import children, walk
from attnc.ir.types import INT
from attnc.passes.block_values import NotByBlocksError, grains, truth_by_blocks
from attnc.passes.mask_intervals import Boxes
from attnc.passes.spans import Span

Ints = NDArray[Any]
#: A block is split into this many on either side.
BRANCH = 4
#: Blocks that the search starts with, at most, and that are looked at together.
_START = 4096
_CHUNK = 1 << 15
#: Entries beyond which a list takes more memory than it is worth.
MAX_ENTRIES = 1 << 25
#: Blocks times nodes of a condition on numbers: about a second.
MAX_WORK = 1 << 26


class Source(Protocol):
    """What is known of an expression per group and block; `level` n has blocks of BRANCH ** n tiles."""

    def span(self, level: int, group: Ints, query: Ints, key: Ints) -> Span:
        """The values that it takes in some blocks."""
        ...


@dataclass(frozen=True, slots=True)
class Shape:
    """Queries and keys of a call in tiles; `groups` lists are asked for."""

    tile: Tile
    queries: int
    keys: int
    groups: int
    q_offset: int = 0
    k_offset: int = 0

    @property
    def query_tiles(self) -> int:
        return -(-self.queries // self.tile.rows)

    @property
    def key_tiles(self) -> int:
        return -(-self.keys // self.tile.keys)


@dataclass(frozen=True, slots=True)
class TileList:
    """Per unit (group * query tiles + tile) where its entries start, how many are full and live; full ones first."""

    groups: int
    query_tiles: int
    starts: Ints
    full: Ints
    live: Ints
    entries: Ints

    @property
    def units(self) -> int:
        return len(self.starts)

    def of_all(self, tile: int) -> list[tuple[int, bool]]:
        """Key tiles that a query tile visits in any group, and whether they are full in all of them."""
        live: dict[int, int] = {}
        for unit in range(tile, self.units, max(self.query_tiles, 1)):
            start, full = int(self.starts[unit]), int(self.full[unit])
            for n, key in enumerate(self.entries[start : start + int(self.live[unit])].tolist()):
                live[key] = live.get(key, 0) + (n < full)
        return [(key, count == self.groups) for key, count in sorted(live.items())]

    def packed(self) -> NDArray[np.int32]:
        """As the kernels read it: per unit tile, start, full, live, in each group the most work first; then entries."""
        tile = np.tile(np.arange(self.query_tiles), self.groups)
        header = np.stack((tile, self.starts + 4 * self.units, self.full, self.live), axis=1)
        by_group = self.live.reshape(self.groups, self.query_tiles)
        order = np.argsort(-by_group, axis=1, kind="stable") + self.query_tiles * np.arange(self.groups)[:, None]
        return np.concatenate((header[order.reshape(-1)].reshape(-1), self.entries)).astype(np.int32)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Blocks of one level, by number."""

    group: Ints
    query: Ints
    key: Ints

    def chosen(self, which: Any) -> _Blocks:
        return _Blocks(self.group[which], self.query[which], self.key[which])

    def chunks(self) -> Iterator[_Blocks]:
        for first in range(0, len(self.group), _CHUNK):
            yield self.chosen(slice(first, first + _CHUNK))

    def split(self, ratio: int, query_limit: int, key_limit: int) -> _Blocks:
        """Blocks `ratio` times smaller on either side, those that exist."""
        a, b = (x.reshape(-1) for x in np.meshgrid(np.arange(ratio), np.arange(ratio), indexing="ij"))
        query = (self.query[:, None] * ratio + a).reshape(-1)
        key = (self.key[:, None] * ratio + b).reshape(-1)
        group = np.repeat(self.group, ratio * ratio)
        return _Blocks(group, query, key).chosen((query < query_limit) & (key < key_limit))


def list_of_numbers(mask: Expr, shape: Shape, numbers: Mapping[Expr, int]) -> TileList | None:
    """The visits of a condition on positions and numbers, for one group; None where that would take too long.

    A condition that reads positions by blocks is evaluated on blocks, others over intervals.
    """
    found = grains(mask)
    if found is not None:
        try:
            return _from_blocks(mask, shape, numbers, found)
        except NotByBlocksError:
            pass
    known = {leaf: Span.of(number) for leaf, number in numbers.items()}
    return list_visits(mask, shape, known, work=MAX_WORK)


def _from_blocks(mask: Expr, shape: Shape, numbers: Mapping[Expr, int], grain: tuple[int, int]) -> TileList:
    """Tiles from the blocks that they touch."""
    sides = ((shape.q_offset, shape.queries, shape.tile.rows), (shape.k_offset, shape.keys, shape.tile.keys))
    blocks: list[Ints] = []
    spans: list[tuple[Ints, Ints]] = []
    for (offset, count, size), step in zip(sides, grain, strict=True):
        first, last = offset // step, (offset + max(count, 1) - 1) // step
        blocks.append(np.arange(first, last + 1, dtype=np.int64) * step)
        starts = np.arange(0, count, size, dtype=np.int64)
        ends = np.minimum(starts + size, count) - 1
        spans.append(((offset + starts) // step - first, (offset + ends) // step - first + 1))
    kept = truth_by_blocks(mask, blocks[0], blocks[1], numbers)
    total = np.zeros((kept.shape[0] + 1, kept.shape[1] + 1), np.int32)
    total[1:, 1:] = kept.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)
    (r0, r1), (c0, c1) = spans
    by_rows = total[r1] - total[r0]
    counts = by_rows[:, c1] - by_rows[:, c0]
    full = counts == (r1 - r0)[:, None] * (c1 - c0)
    return _listed(shape, [_of_group(full)], [_of_group((counts > 0) & ~full)])


def _of_group(chosen: Any) -> _Blocks:
    query, key = np.nonzero(chosen)
    return _Blocks(np.zeros(len(query), np.int64), query, key)


def list_visits(
    relation: Expr,
    shape: Shape,
    sources: Mapping[Expr, Source | Span],
    most: int | None = None,
    work: int | None = None,
) -> TileList | None:
    """The visits of a condition on positions and on what `sources` knows; None when they are clearly more than `most`.

    `most` is MAX_ENTRIES when not given; `work` bounds the blocks that are looked at, times the nodes of the condition.
    """
    most = MAX_ENTRIES if most is None else most
    nodes = len({id(node) for node in walk(relation)}) if work is not None else 0
    left = work if work is not None else 1
    level = _top(shape)
    blocks = _Blocks(*(x.reshape(-1) for x in np.indices((shape.groups, *_counts(shape, level)))))
    full: list[_Blocks] = []
    partial: list[_Blocks] = []
    count = 0
    while True:
        left -= nodes * len(blocks.group)
        if left < 0:
            return None
        must, split = _judged(relation, shape, sources, level, blocks)
        count += len(must.group) * BRANCH ** (2 * level)
        if count > most + BRANCH ** (2 * level) or len(split.group) > most:
            return None
        full.append(must.split(BRANCH**level, shape.query_tiles, shape.key_tiles))
        if level == 0:
            partial.append(split)
            return _listed(shape, full, partial)
        level -= 1
        blocks = split.split(BRANCH, *_counts(shape, level))


def _counts(shape: Shape, level: int) -> tuple[int, int]:
    """Blocks of a level along the queries and the keys."""
    size = BRANCH**level
    return -(-shape.query_tiles // size), -(-shape.key_tiles // size)


def _top(shape: Shape) -> int:
    level = 0
    while True:
        queries, keys = _counts(shape, level)
        if shape.groups * queries * keys <= _START or queries * keys == 1:
            return level
        level += 1


def _judged(
    relation: Expr, shape: Shape, sources: Mapping[Expr, Source | Span], level: int, blocks: _Blocks
) -> tuple[_Blocks, _Blocks]:
    """Blocks that must be kept whole, and those that may be kept in part."""
    musts: list[_Blocks] = [blocks.chosen(slice(0))]
    mays: list[_Blocks] = [blocks.chosen(slice(0))]
    of_sides = _of_sides(relation, shape, level)
    for part in blocks.chunks():
        known: dict[Expr, Span] = {expr: _at(spans, part) for expr, spans in of_sides.items()}
        for expr, source in sources.items():
            known[expr] = source if isinstance(source, Span) else source.span(level, part.group, part.query, part.key)
        truth = Boxes(known).truth(relation)
        may, must = (np.broadcast_to(x, part.group.shape) for x in (truth.may, truth.must))
        musts.append(part.chosen(must))
        mays.append(part.chosen(may & ~must))
    return _joined(musts), _joined(mays)


_NO_SIDE: frozenset[str] = frozenset()
#: The spans of an expression per query tile of a level, or per key tile.
_OfSide = tuple[Literal["query", "key"], Span]


def _of_sides(relation: Expr, shape: Shape, level: int) -> dict[Expr, _OfSide]:
    """What positions alone tell of each side, per block of a level: positions, and the largest ints made of them.

    A block of queries meets many blocks of keys, and need not be looked at for each of them.
    """
    queries, keys = _counts(shape, level)
    query_names, key_names = (Index("r"), Index("i")), (Index("c"), Index("j"))
    query = _positions(query_names, shape.tile.rows * BRANCH**level, queries, shape.queries, shape.q_offset)
    key = _positions(key_names, shape.tile.keys * BRANCH**level, keys, shape.keys, shape.k_offset)
    boxes = {"query": Boxes(query), "key": Boxes(key)}
    found: dict[Expr, _OfSide] = {expr: ("query", span) for expr, span in query.items()}
    found |= {expr: ("key", span) for expr, span in key.items()}
    for expr, side in _largest(relation):
        found[expr] = (side, boxes[side].number(expr))
    return found


def _positions(names: tuple[Index, Index], size: int, count: int, tokens: int, offset: int) -> dict[Expr, Span]:
    """The rows and the positions, by name, of the blocks of one side."""
    first = np.arange(count, dtype=np.int64) * size
    last = np.minimum(first + size, tokens) - 1
    return {names[0]: Span.of(first, last), names[1]: Span.of(first + offset, last + offset)}


def _largest(relation: Expr) -> Iterator[tuple[Expr, Literal["query", "key"]]]:
    """The largest operations on ints that read positions of one side and constants, each once."""
    sides: dict[int, frozenset[str] | None] = {}
    seen: set[int] = set()
    waiting = [relation]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        read = _read(node, sides)
        if read is not None and len(read) == 1 and node.type == INT and isinstance(node, Call):
            yield node, "query" if "i" in read else "key"
        else:
            waiting.extend(children(node))


def _read(node: Expr, known: dict[int, frozenset[str] | None]) -> frozenset[str] | None:
    """The sides whose positions an operation on ints reads; None where it reads anything else."""
    if id(node) not in known:
        known[id(node)] = _reads(node, known)
    return known[id(node)]


def _reads(node: Expr, known: dict[int, frozenset[str] | None]) -> frozenset[str] | None:
    match node:
        case Const():
            return _NO_SIDE
        case Index(name="i" | "r"):
            return frozenset("i")
        case Index(name="j" | "c"):
            return frozenset("j")
        case Call(args=args) if node.type == INT:
            sides = [_read(arg, known) for arg in args]
            read = [side for side in sides if side is not None]
            return _NO_SIDE.union(*read) if len(read) == len(sides) else None
        case _:
            return None


def _at(of_side: _OfSide, blocks: _Blocks) -> Span:
    """The spans for some blocks. Single numbers stay so."""
    side, span = of_side
    chosen = blocks.query if side == "query" else blocks.key
    if span.low.ndim == 0:
        return span
    low = span.low[chosen]
    return Span(low, low if span.high is span.low else span.high[chosen])


def _joined(parts: list[_Blocks]) -> _Blocks:
    if len(parts) == 1:
        return parts[0]
    return _Blocks(
        *(np.concatenate(arrays) for arrays in zip(*((p.group, p.query, p.key) for p in parts), strict=True))
    )


def _listed(shape: Shape, full: list[_Blocks], partial: list[_Blocks]) -> TileList:
    """Sorted by unit, kind and key tile. A full tile with keys that do not exist needs mask code."""
    whole, rest = _joined(full), _joined(partial)
    ragged = (whole.key == shape.key_tiles - 1) & (shape.keys % shape.tile.keys != 0)
    blocks = _joined([whole, rest])
    kind = np.concatenate((ragged, np.ones(len(rest.group), np.bool_)))
    unit = blocks.group * shape.query_tiles + blocks.query
    order = np.argsort((2 * unit + kind) * max(shape.key_tiles, 1) + blocks.key, kind="stable")
    units = shape.groups * shape.query_tiles
    live = np.bincount(unit, minlength=units)
    starts = np.concatenate(([0], np.cumsum(live)[:-1])) if units else live
    return TileList(
        shape.groups, shape.query_tiles, starts, np.bincount(unit[~kind], minlength=units), live, blocks.key[order]
    )

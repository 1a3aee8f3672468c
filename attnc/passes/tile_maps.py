"""tile-maps: tiles that follow the mask instead of the order of positions.

Before: the mask of a module whose queries and keys are the same tokens.
After: the axes of a tile map, or none when ranges of positions visit no more tiles.

On a grid whose mask asks something of single axes, a tile is a box: it is visited where every axis visits it. The sizes
along the axes are the ones that visit the fewest tiles. Where the mask keeps only pairs of equal remainder modulo m,
the axis is split into its m classes, and what was one pair of m becomes dense.

    i.y // 8 == j.y // 8 and i.x // 8 == j.x // 8   ->  boxes of 8 x 8 queries by 8 x 8 keys: every visited tile is full
    abs(i - j) <= 64 and (i - j) % 4 == 0           ->  4 classes, in each a window of 16 on both sides
    j <= i and (i - j < 64 or (i - j) % 64 == 0)    ->  a part of ranges for the window, one of 64 classes for the rest
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, reduce
from itertools import islice, product
from math import prod
from typing import Any

import numpy as np

from attnc.ir.build import add, call, compare, conj, mul
from attnc.ir.expr import TRUE, Call, Const, Expr, GridCoord, Index, Size, Value, int_const
from attnc.ir.fold import fold
from attnc.ir.module import AttentionModule, Grid
from attnc.ir.plan import Part, Tile, TileAxis, Visit
from attnc.ir.traverse import distinct, substitute
from attnc.ir.types import INT
from attnc.passes.block_sparsity import MAX_STEP, ROUGH, BlockSparsity
from attnc.passes.isl import isl
from attnc.passes.mask_axes import all_conjuncts, separated
from attnc.passes.mask_sets import Symbols, mask_bounds
from attnc.passes.mask_splits import MAX_CASES, Pair, ways
from attnc.passes.positions import Positions
from attnc.passes.tile_areas import all_tiles, area_of, int_of, is_static, rows_of, visited_boxes, visited_ranges
from attnc.passes.tile_tables import (
    class_count,
    coordinates,
    is_countable,
    kept_pairs,
    steps,
    values_of,
)

_I, _J = Index("i"), Index("j")
#: More residue classes make tiles of too few tokens; larger blocks are cut into tiles like anything else.
_MAX_DIVISOR = 256
#: Every so manieth row shows which moduli to prove: a prime, so that all remainders are among them.
_ROW_STEP = 7
#: Fewest queries, and fewest keys, of a tile.
_LEAST = 16
#: Positions by which one sees whether closed forms leave out any tile. Windows may be longer than the first.
_TRIED = (1 << 11, 1 << 16, 1 << 21)
#: Ranges of positions, found when they are asked for: classes of positions do without.
Flat = Callable[[], Part]


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of a grid before its tile sizes are chosen: the pairs that it keeps, class by class."""

    axis: TileAxis
    extent: int
    kept: tuple[Any, ...]
    _known: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    _blocks: dict[tuple[int, int], tuple[Any, ...]] = field(default_factory=dict[tuple[int, int], tuple[Any, ...]])

    def live(self, rows: int, keys: int) -> int:
        """Tiles of this size that are visited, over all classes. Sizes are powers of two."""
        if (rows, keys) not in self._known:
            self._known[rows, keys] = sum(int(blocks.sum()) for blocks in self._blocked(rows, keys))
        return self._known[rows, keys]

    def _blocked(self, rows: int, keys: int) -> tuple[Any, ...]:
        """Whether anything is kept in each tile, class by class: of two tiles half as long each."""
        found = self._blocks.get((rows, keys))
        if found is None and keys > 1:
            found = tuple(_joined(blocks.T).T for blocks in self._blocked(rows, keys // 2))
        elif found is None and rows > 1:
            found = tuple(map(_joined, self._blocked(rows // 2, 1)))
        return self._blocks.setdefault((rows, keys), self.kept if found is None else found)


def choose_parts(module: AttentionModule, positions: Positions, tile: Tile, flat: Flat) -> tuple[Part, ...]:
    """The parts with the fewest visited pairs: `flat`, one with axes, or a disjunction split in two."""
    module = replace(module, mask=fold(positions.on_grid(module.mask)))
    one = _choose(module, positions, tile, flat)
    cases = [_worth_trying(module, positions, way) for way in ways(module.mask)]
    best, least = (one,), area_of((one,), module) if any(cases) else None
    for orders in cases if least is not None else ():
        for masks in orders:
            found = None if least is None else _of_masks(masks, module, positions, tile, least)
            best, least = found or (best, least)
            if found is not None and all(part.exact for part in best):
                break  # the other order differs in the pairs that both masks keep
    return best


def _of_masks(
    masks: tuple[Expr, Expr], module: AttentionModule, positions: Positions, tile: Tile, least: int
) -> tuple[tuple[Part, ...], int] | None:
    """The parts of two masks and their area, when it is less than `least`; the second only when it may still be."""
    parts: tuple[Part, ...] = ()
    area: int | None = None
    for mask in masks:
        parts = (*parts, _of_mask(replace(module, mask=mask), positions, tile))
        area = area_of(parts, module)
        if area is None or area >= least:
            return None
    return (parts, area) if area is not None and any(part.axes for part in parts) else None


def _worth_trying(module: AttentionModule, positions: Positions, orders: tuple[Pair, Pair]) -> tuple[Pair, ...]:
    """The orders of a way in which a mask may have axes."""
    return tuple(masks for masks in orders if any(_may_have_axes(module, positions, mask) for mask in masks))


def _may_have_axes(module: AttentionModule, positions: Positions, mask: Expr) -> bool:
    """A quick look before a case is planned: a grid of which it asks something by axis, or a class that it may keep."""
    if module.grid_q is None and module.grid_k is None:
        return any(_likely_moduli(mask))
    if module.grid_q != module.grid_k or not is_static(module.grid_q):
        return False
    inside = _of_grid(mask) if positions.aligned == "beside" else mask
    return inside is not None and bool(separated(inside).axes)


def _likely_moduli(mask: Expr) -> Iterator[int]:
    """Moduli in a mask such that it keeps equal remainders only in some rows of the first positions, largest first."""
    moduli = sorted(set(_divisors(mask, "mod")), reverse=True)
    if not moduli or not is_countable(mask, frozenset(("i", "j"))):
        return
    i = np.arange(0, 2 * _MAX_DIVISOR, _ROW_STEP, dtype=np.int64)[:, None]
    j = np.arange(2 * _MAX_DIVISOR, dtype=np.int64)[None, :]
    kept = np.broadcast_to(np.asarray(values_of(mask, {"i": i, "j": j}), np.bool_), (i.size, j.size))
    yield from (m for m in moduli if not kept[i % m != j % m].any())


def _of_mask(module: AttentionModule, positions: Positions, tile: Tile) -> Part:
    """The best part for one of several masks."""
    lowered = positions.lower(module.mask)
    part = _choose(module, positions, tile, cache(lambda: BlockSparsity(is_whole=False).run(lowered, tile)))
    return replace(part, mask=lowered)


def _choose(module: AttentionModule, positions: Positions, tile: Tile, flat: Flat) -> Part:
    """The part with the fewest visited tiles: `flat`, or one with axes."""
    if module.grid_q is None and module.grid_k is None:
        return _by_class(module, tile) or _listed(module, positions, flat())
    found = _boxes(module, positions, tile)
    if found is None:
        return _listed(module, positions, flat())
    axes, is_product = found
    assert module.grid_q is not None
    size = rows_of(module.grid_q)
    boxes, ranges = visited_boxes(axes, size), visited_ranges(flat(), size)
    if boxes > ranges or (boxes == ranges and (flat().exact or not is_product)):
        return flat()
    part = _part(axes, boxes, ranges, is_product=is_product)
    return replace(part, origin=int_of(module.grid_q.start)) if positions.aligned == "beside" else part


def _part(axes: tuple[TileAxis, ...], boxes: int, ranges: int, *, is_product: bool) -> Part:
    """The part of boxes, with the comparison that chose it."""
    tile = Tile(prod(axis.rows for axis in axes), prod(axis.keys for axis in axes))
    kept = [kept_pairs(axis, {}) for axis in axes]
    shape = [" x ".join(str(n) for n in sizes) for sizes in ([a.rows for a in axes], [a.keys for a in axes])]
    why = f"boxes of {shape[0]} queries by {shape[1]} keys visit {boxes} tiles, ranges of positions {ranges}"
    classes = prod(class_count(axis, int_of(axis.extent)) for axis in axes)
    if classes > 1:
        kinds = {"blocks" if axis.block else "residue classes" for axis in axes if axis.block or axis.modulus > 1}
        why += f"; {classes} {' and '.join(sorted(kinds))}"
    if is_product and all(kept):
        area = boxes * tile.rows * tile.keys / prod(n or 1 for n in kept)
        why += f"; {area:.2f} times the pairs that the mask keeps"
    kinds = ("full", "partial") if is_product else ("partial",)
    return Part(tile, tuple(Visit(kind, ()) for kind in kinds), is_product, why, axes)


# -- boxes -----------------------------------------------------------------------------------------------------------


def _boxes(module: AttentionModule, positions: Positions, tile: Tile) -> tuple[tuple[TileAxis, ...], bool] | None:
    """Axes of boxes with the fewest visited tiles, and whether the mask is no more than their product."""
    grid = module.grid_q
    if grid is None or grid != module.grid_k or not is_static(grid):
        return None
    mask = _of_grid(module.mask) if positions.aligned == "beside" else module.mask
    if mask is None or (positions.aligned is True and grid.start != int_const(0)):
        return None
    parts = separated(mask)
    found: list[_Axis] = []
    for number in range(len(grid.names)):
        axis = _grid_axis(grid, number, parts.axes.get(number, TRUE), positions)
        if axis is None:
            return None
        found.append(axis)
    if all(len(axis.kept) == 1 and all(kept.all() for kept in axis.kept) for axis in found):
        return None
    sizes = min(_sizes(found, tile), key=lambda chosen: _cost(found, chosen), default=None)
    if sizes is None:
        return None
    axes = tuple(replace(a.axis, rows=r, keys=k) for a, (r, k) in zip(found, sizes, strict=True))
    return axes, parts.is_product and parts.uniform == TRUE


def _of_grid(mask: Expr) -> Expr | None:
    """The mask without its clauses that query and key are on the grid; None when it keeps any other token."""
    clauses = all_conjuncts(mask)
    members = [clause for clause in clauses if isinstance(clause, Call) and clause.fn == "in_grid"]
    if {member.args[0] for member in members} != {_I, _J}:
        return None
    return reduce(conj, (clause for clause in clauses if clause not in members), TRUE)


def _grid_axis(grid: Grid, number: int, clause: Expr, positions: Positions) -> _Axis | None:
    """One axis with what it keeps; None when that depends on more than coordinates."""
    alone: dict[Expr, Expr] = {GridCoord("q", number): _I, GridCoord("k", number): _J}
    relation = fold(substitute(clause, alone))
    if not is_countable(relation, frozenset(("i", "j"))):
        return None
    extent = int_of(grid.extents[number])
    x = np.arange(extent, dtype=np.int64)
    kept = np.broadcast_to(
        np.asarray(values_of(relation, {"i": x[:, None], "j": x[None, :]}), np.bool_), (extent, extent)
    )
    rows, columns = x[:, None], x[None, :]
    modulus = max((m for m in _divisors(relation, "mod") if not kept[rows % m != columns % m].any()), default=1)
    blocks = (w for w in _divisors(relation, "floordiv") if w < extent and not kept[rows // w != columns // w].any())
    block = min(blocks, default=0) if modulus == 1 else 0
    query, key = (positions.lower(GridCoord(side, number)) for side in ("q", "k"))
    stride = prod(int_of(e) for e in grid.extents[number + 1 :])
    axis = TileAxis(int_const(extent), int_const(stride), 1, 1, modulus, query, key, relation, block=block)
    members = [coordinates(axis, extent, c, x) for c in range(class_count(axis, extent))]
    return _Axis(axis, extent, tuple(kept[np.ix_(member, member)] for member in members))


def _divisors(relation: Expr, fn: str) -> Iterator[int]:
    """Constants that something in the relation is divided by, or taken modulo of."""
    for node in distinct(relation):
        match node:
            case Call(fn=name, args=(_, Const(value=value))) if name == fn and 2 <= value <= _MAX_DIVISOR:
                yield int(value)
            case _:
                pass


Sizes = tuple[tuple[int, int], ...]


def _sizes(axes: list[_Axis], tile: Tile) -> Iterator[Sizes]:
    """Ways to share the queries and the keys of a tile among the axes."""
    rows, keys = (list(_shares(size, axes)) for size in (tile.rows, tile.keys))
    for row, key in product(rows, keys):
        yield tuple(zip(row, key, strict=True))


def _shares(size: int, axes: list[_Axis]) -> Iterator[tuple[int, ...]]:
    """Powers of two whose product is `size`, none longer than its axis needs.

    Less where the longest class has fewer tokens; at least what a matrix unit takes.
    """
    limits = [1 << max(int(steps(a.axis, a.extent)[0]) - 1, 0).bit_length() for a in axes]
    room = prod(limits)
    size = min(size, max(room, _LEAST))
    powers = [[1 << n for n in range(size.bit_length()) if 1 << n <= max(limit, size // room)] for limit in limits]
    return (chosen for chosen in product(*powers) if prod(chosen) == size)


def _cost(axes: list[_Axis], sizes: Sizes) -> tuple[int, ...]:
    """Visited tiles first; then long runs of memory, along the last axis first."""
    visited = prod(axis.live(rows, keys) for axis, (rows, keys) in zip(axes, sizes, strict=True))
    return (visited, *(-rows * keys for rows, keys in reversed(sizes)))


def _joined(rows: Any) -> Any:
    """Whether one of two neighbouring rows is set, column by column; a last one stays alone."""
    found = rows[::2].copy()
    found[: len(rows) // 2] |= rows[1::2]
    return found


# -- classes of positions --------------------------------------------------------------------------------------------


def _by_class(module: AttentionModule, tile: Tile) -> Part | None:
    """Positions split by the modulus of a mask that keeps equal remainders only."""
    mask = module.mask
    modulus = next((m for m in islice(_likely_moduli(mask), MAX_CASES) if _keeps_classes(mask, m)), 1)
    if modulus == 1:
        return None
    inside = fold(substitute(mask, {index: _member(index, modulus) for index in (_I, _J)}))
    analysed = BlockSparsity(is_whole=False).run(inside, tile)
    if not analysed.visits:
        return None
    axis = TileAxis(Size("N"), int_const(1), tile.rows, tile.keys, modulus, _I, _J, mask, analysed.visits)
    why = f"{modulus} residue classes of positions, in each: {analysed.why}"
    return Part(tile, tuple(Visit(visit.kind, ()) for visit in analysed.visits), analysed.exact, why, (axis,))


def _listed(module: AttentionModule, positions: Positions, flat: Part) -> Part:
    """Ranges of positions listed in a table, where the set of the mask was too much for isl."""
    if flat.exact:
        return flat
    tile, mask = flat.tile, positions.lower(module.mask)
    known = frozenset(("i", "j", "r", "c", "N", "M", "q_offset", "k_offset"))
    if not is_countable(mask, known) or (flat.why != ROUGH and _leaves_out(flat, module)):
        return flat
    axis = TileAxis(Size("N"), int_const(1), tile.rows, tile.keys, 1, _I, _J, mask)
    why = "tiles listed in a table: the mask has no closed form within the bound"
    return Part(tile, (Visit("full", ()), Visit("partial", ())), True, why, (axis,))


def _leaves_out(flat: Part, module: AttentionModule) -> bool:
    """Whether closed forms leave out any tile at a length that the mask is for."""
    grid = module.grid_q
    extents = () if grid is None else grid.extents
    is_static = grid is not None and all(isinstance(extent, Const) for extent in extents)
    longest = prod(map(int_of, extents)) if is_static else max(_TRIED)
    lengths = sorted({min(n, longest) for n in _TRIED} | {longest})
    return any(visited_ranges(flat, n) < all_tiles(flat.tile, n) for n in lengths)


def _member(index: Index, modulus: int) -> Expr:
    return add(mul(int_const(modulus), index), Value("class", INT))


def _keeps_classes(mask: Expr, modulus: int) -> bool:
    """Proof that the mask keeps no pair of different remainders."""
    by = int_const(modulus)
    other = compare("ne", call("mod", _I, by, type=INT), call("mod", _J, by, type=INT))
    context = isl.Context()
    context.set_max_operations(MAX_STEP)
    try:
        return bool(mask_bounds(conj(mask, other), context, Symbols()).outer.is_empty())
    except isl.Error:
        return False

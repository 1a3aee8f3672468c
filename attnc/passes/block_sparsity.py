"""block-sparsity: which key tiles a query tile visits, split into full and partial.

Before: a mask over positions, a tile size.
After: for a query tile whose positions are i0 .. i1, ranges of key tiles as closed forms in i0, i1, M, k_offset and
the mask's parameters. Full tiles need no mask code. Nothing depends on the number of tiles.

    j <= i, tiles of 64 keys, k_offset 0
    ->  full:    0 .. min(M // 64, (i0 + 1) // 64) - 1
        partial: the rest up to min((M - 1) // 64, i1 // 64)

Where isl gives no short answer, one partial visit of a range of tiles that covers the mask, or of all tiles.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from attnc.ir.build import add, call, conj, sub, where
from attnc.ir.expr import TRUE, Expr, Ref, Size, int_const
from attnc.ir.plan import Part, Piece, Tile, Visit
from attnc.ir.types import INT
from attnc.passes.first_tile import is_first_live
from attnc.passes.head_cases import by_head, joined
from attnc.passes.isl import isl, renew
from attnc.passes.isl_ast import Loops, NotClosedError, scan
from attnc.passes.isl_ranges import disjoint, is_plain, ranges
from attnc.passes.mask_sets import Bounds, Symbols, mask_bounds
from attnc.passes.positions import K_OFFSET

#: More ranges than this are not short any more; a table would serve better.
MAX_PIECES = 10
#: Operations of isl that one step may take: about 10 ms. Every useful step of the standard library needs less.
MAX_STEP = 15_000

#: Why a part visits ranges that are more than its live tiles.
STRIDED = "ranges of tiles that cover the mask; not all are live"
ROUGH = "ranges of tiles that cover the mask, whose divisions are too much to analyse; not all are live"

FIRST = Ref("i0", INT)
LAST = Ref("i1", INT)


@dataclass(frozen=True, slots=True)
class BlockSparsity:
    """The pass. `max_operations` bounds the work of isl, step by step: a step that passes it ends the analysis there.

    What will not succeed is found out by trying, since no count of divisions or cases foretells it. It fails early: the
    tiles as they are projected, whose divisions isl has not named yet, are cheap to have, and naming them is a step.
    """

    max_operations: int = MAX_STEP
    #: Whether to prove that the first visited tile is live in every row: said of whole masks only, not of parts.
    is_whole: bool = True

    def run(self, mask: Expr, tile: Tile) -> Part:
        """The visits of a lowered mask."""
        cases = by_head(mask)
        if len(cases) > 1:
            return joined([(guard, self._run(each, tile)) for guard, each in cases])
        return self._run(mask, tile)

    def _run(self, mask: Expr, tile: Tile) -> Part:
        """The visits of a mask that is alike for all heads, but for numbers."""
        if mask == TRUE:
            return _dense(tile)
        try:
            return self._analyse(mask, tile)
        except isl.Error:
            return _all_partial(tile, "the analysis of the mask's set passed its bound: every tile is visited")
        except NotClosedError:
            return _all_partial(tile, "the mask's tiles have no closed form: every tile is visited")

    def _analyse(self, mask: Expr, tile: Tile) -> Part:
        context = isl.Context()
        context.set_max_operations(self.max_operations)
        symbols = Symbols()
        for leaf in (Size("M"), K_OFFSET, FIRST, LAST):
            symbols.name(leaf)
        bounds = mask_bounds(mask, context, symbols)
        sets = _TileSets(bounds, symbols, tile, context)
        live = _cover(sets) if sets.is_cover else _scan(sets.live, sets) or _cover(sets)
        if live is None:
            return _hull(sets, tile)
        if not live.exact:
            found = _ranges(tile, (), live.pieces, exact=False, why=ROUGH if sets.is_cover else STRIDED)
            return replace(found, covers=sets.is_cover)
        return _split(sets, live, tile, exact=bounds.exact, is_whole=self.is_whole)


class _TileSets:
    """Sets of key tiles, in the space [parameters] -> { [tile] }."""

    def __init__(self, bounds: Bounds, symbols: Symbols, tile: Tile, context: Any) -> None:
        self.leaves = symbols.expressions()
        renew(context)
        params = list(symbols.names.values())
        points = isl.Space.create_from_names(context, params=params, set=["i", "j"])
        pairs = isl.Space.create_from_names(context, params=params, in_=["t"], out=["i", "j"])
        m, k0, i0, i1 = (symbols.names[leaf] for leaf in (Size("M"), K_OFFSET, FIRST, LAST))
        small = _where(points, {i1: 1, i0: -1}, {i0: 1, i1: -1, 1: tile.rows - 1}, {m: 1, 1: -1})
        stored = _where(points, {"j": 1, k0: -1}, {k0: 1, m: 1, "j": -1, 1: -1})
        rows = ({"i": 1, i0: -1}, {i1: 1, "i": -1})
        first, past = {"j": 1, k0: -1, "t": -tile.keys}, {k0: 1, "t": tile.keys, "j": -1, 1: tile.keys - 1}
        self.context = small.params()
        among_keys = _where(points, {i0: 1, k0: -1}, {k0: 1, m: 1, i1: -1, 1: -1}).params()
        self.among_keys = among_keys.intersect(self.context)
        self.pairs = _where(pairs, *rows, first, past)
        self.kept = bounds.inner.intersect(stored)
        live = self.pairs.intersect_range(bounds.outer.intersect(stored)).domain()
        named = _named(live.coalesce(), context)
        self.is_cover = named is None  # of the live tiles, for want of something better
        self.live = self._tidy(live.remove_divs() if named is None else named)

    def full(self) -> Any:
        """Tiles all of whose pairs are stored and kept."""
        renew(self.live)
        dead = self.pairs.subtract_range(self.kept).domain()
        return self._tidy(self.live.subtract(dead).coalesce())

    def partial(self, full: Any) -> Any:
        """Live tiles that are not full. Raises isl.Error early, as `_named` does."""
        with _share(self.live.get_ctx(), 2):
            return self.live.subtract(full).coalesce()

    def _tidy(self, tiles: Any) -> Any:
        return tiles.compute_divs().coalesce().gist_params(self.context).coalesce()


def _named(tiles: Any, context: Any) -> Any | None:
    """The tiles with every division as a function of t and parameters, None where that takes too long.

    Most masks that are too much for isl fail here, and an operation takes longest here: a sixth of the bound has to do.
    """
    try:
        with _share(context, 6):
            return tiles.compute_divs()
    except isl.Error:
        return None


@contextmanager
def _share(context: Any, parts: int) -> Generator[None]:
    """A step with one of so many parts of the usual bound."""
    usual = context.get_max_operations()
    renew(context)
    context.set_max_operations(max(usual // parts, 1))
    try:
        yield
    finally:
        context.set_max_operations(usual)
        renew(context)


def _where(space: Any, *rows: Mapping[Any, int]) -> Any:
    """The points, or pairs of points, of a space at which sums of factor times name (1: the number) are at least 0."""
    found = isl.BasicMap.universe(space) if space.is_map() else isl.BasicSet.universe(space)
    for row in rows:
        found = found.add_constraint(isl.Constraint.ineq_from_names(space, row))
    return isl.Map.from_basic_map(found) if space.is_map() else isl.Set.from_basic_set(found)


def _scan(tiles: Any, sets: _TileSets) -> Loops | None:
    """The loops over a set of tiles, None when there are none or too many."""
    if is_plain(tiles, sets.leaves):
        return _plain(tiles, sets)
    renew(tiles)
    try:  # strides; isl's code generation knows them, but takes long
        loops = replace(scan(tiles, sets.context, sets.leaves), order=(tiles,))
    except (NotClosedError, isl.Error):
        return None
    return loops if len(loops.pieces) <= MAX_PIECES else None


def _plain(tiles: Any, sets: _TileSets) -> Loops | None:
    """Loops over a set of tiles without strides."""
    parts = disjoint(tiles, sets.context)
    pieces = ranges(parts, sets.leaves) if parts.n_basic_set() <= MAX_PIECES else None
    if pieces is None:
        return None
    order = map(isl.Set.from_basic_set, parts.get_basic_sets()) if pieces else ()
    return Loops(pieces, exact=True, order=tuple(order))


def _cover(sets: _TileSets) -> Loops | None:
    """Loops over the live tiles and those that strides leave out between them."""
    renew(sets.live)
    try:
        loops = _plain(sets.live.remove_divs_involving_dims(isl.dim_type.set, 0, 1).coalesce(), sets)
    except isl.Error:
        return None
    return None if loops is None else Loops(loops.pieces, exact=False)


def _split(sets: _TileSets, live: Loops, tile: Tile, *, exact: bool, is_whole: bool) -> Part:
    """Full and partial tiles apart; where that fails or takes too long, live tiles with mask code in all of them."""
    try:
        full_set = sets.full()
        full = _scan(full_set, sets)
        partial = None if full is None or not full.exact else _partial(sets, live, full, full_set)
    except isl.Error:
        full = partial = full_set = None
    if full is None or partial is None:
        return _ranges(tile, (), live.pieces, exact=False, why="live tiles as closed forms; the full ones have none")
    why = "closed forms from the mask's integer set"
    if not exact:
        why += ", with its data-dependent conditions taken as true where they only remove pairs"
    found = _ranges(tile, full.pieces, partial.pieces, exact=exact, why=why)
    if not (exact and is_whole):
        return found
    first_live = is_first_live(sets.live, partial.order, full_set, sets.pairs, sets.kept, sets.among_keys)
    return replace(found, first_live=first_live)


def _partial(sets: _TileSets, live: Loops, full: Loops, full_set: Any) -> Loops | None:
    """Live tiles that are not full: by arithmetic when the full ones are one range, else by isl."""
    if not full.pieces:
        return live
    if len(full.pieces) == 1 and full.pieces[0].step == 1 and all(piece.step == 1 for piece in live.pieces):
        pieces = tuple(rest for piece in live.pieces for rest in _difference(piece, full.pieces[0]))
        return replace(live, pieces=pieces)
    loops = _scan(sets.partial(full_set), sets)
    return loops if loops is not None and loops.exact else None


def _difference(live: Piece, full: Piece) -> tuple[Piece, ...]:
    """live minus full, as the tiles before and the tiles after the full range."""
    first = full.low
    last = _max(full.high, sub(first, int_const(1)))
    if full.guard != TRUE:
        last = where(full.guard, last, sub(first, int_const(1)))
    after = Piece(live.guard, _max(live.low, add(last, int_const(1))), live.high)
    if live.low == first:
        return (after,)
    before = Piece(live.guard, live.low, _min(live.high, sub(first, int_const(1))))
    return (before, after)


def _max(a: Expr, b: Expr) -> Expr:
    return a if a == b else call("max", a, b, type=INT)


def _min(a: Expr, b: Expr) -> Expr:
    return a if a == b else call("min", a, b, type=INT)


def _ranges(tile: Tile, full: tuple[Piece, ...], partial: tuple[Piece, ...], *, exact: bool, why: str) -> Part:
    visits = tuple(visit for visit in (Visit("full", full), Visit("partial", partial)) if visit.pieces)
    return Part(tile, visits, exact, why)


def _last_tile(tile: Tile) -> Expr:
    return call("floordiv", sub(Size("M"), int_const(1)), int_const(tile.keys), type=INT)


def _dense(tile: Tile) -> Part:
    """No mask: all tiles are full but a ragged last one."""
    whole = call("floordiv", Size("M"), int_const(tile.keys), type=INT)
    full = Piece(TRUE, int_const(0), sub(whole, int_const(1)))
    rest = Piece(TRUE, whole, _last_tile(tile))
    why = "no mask: every tile is full but a ragged last one"
    return replace(_ranges(tile, (full,), (rest,), exact=True, why=why), first_live=True)


def _all_partial(tile: Tile, why: str) -> Part:
    found = _ranges(tile, (), (Piece(TRUE, int_const(0), _last_tile(tile)),), exact=False, why=why)
    return replace(found, covers=True)


def _hull(sets: _TileSets, tile: Tile) -> Part:
    """The range from the first to the last live tile."""
    live = sets.live
    renew(live)
    hull = isl.Set.from_basic_set(live.simple_hull())
    loops = _scan(hull.gist_params(sets.context).coalesce(), sets)
    if loops is None or len(loops.pieces) != 1:
        return _all_partial(tile, "the mask's tiles have no short closed form: every tile is visited")
    clipped = _clip(loops.pieces[0], tile)
    found = _ranges(tile, (), (clipped,), exact=False, why="one range of tiles that covers the mask")
    return replace(found, covers=True)


def _clip(piece: Piece, tile: Tile) -> Piece:
    low = call("max", piece.low, int_const(0), type=INT)
    return Piece(conj(TRUE, piece.guard), low, _min(piece.high, _last_tile(tile)), 1)

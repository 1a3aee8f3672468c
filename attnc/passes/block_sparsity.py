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

from dataclasses import dataclass
from typing import Any

from attnc.ir.build import add, call, conj, sub, where
from attnc.ir.dependence import pair_axes
from attnc.ir.expr import TRUE, Call, Expr, Ref, Size, int_const
from attnc.ir.plan import Part, Piece, Tile, Visit
from attnc.ir.traverse import walk
from attnc.ir.types import INT
from attnc.passes.isl import isl
from attnc.passes.isl_ast import Loops, NotClosedError, scan
from attnc.passes.mask_sets import MAX_OPERATIONS, Bounds, Symbols, mask_bounds
from attnc.passes.positions import K_OFFSET

#: More ranges than this are not short any more; a table would serve better.
MAX_PIECES = 10
#: A division adds a variable to the sets, a minimum or maximum splits them in two. Beyond this many (a division counts
#: twice) the projection onto tiles exceeds its bound on every mask tried, so it is not started.
MAX_COMPLEXITY = 4

FIRST = Ref("i0", INT)
LAST = Ref("i1", INT)


@dataclass(frozen=True, slots=True)
class BlockSparsity:
    """The pass. `max_operations` bounds the work of isl."""

    max_operations: int = MAX_OPERATIONS

    def run(self, mask: Expr, tile: Tile) -> Part:
        """The visits of a lowered mask."""
        if mask == TRUE:
            return _dense(tile)
        if _complexity(mask) > MAX_COMPLEXITY:
            return _all_partial(tile, "the mask has too many divisions and cases to analyse: every tile is visited")
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
        live = _scan(sets.live, sets)
        if live is None:
            return _hull(sets, tile)
        if not live.exact:
            return _ranges(
                tile, (), live.pieces, exact=False, why="ranges of tiles that cover the mask; not all are live"
            )
        return _split(sets, live, tile, exact=bounds.exact)


class _TileSets:
    """Sets of key tiles, in the space [parameters] -> { [tile] }."""

    def __init__(self, bounds: Bounds, symbols: Symbols, tile: Tile, context: Any) -> None:
        params = ", ".join(symbols.names.values())
        self.leaves = symbols.expressions()
        m, k0, i0, i1 = (symbols.names[leaf] for leaf in (Size("M"), K_OFFSET, FIRST, LAST))
        inside = f"{i0} <= i <= {i1} and {tile.keys} t <= j - {k0} < {tile.keys} t + {tile.keys}"
        pairs = isl.Map.read_from_str(context, f"[{params}] -> {{ [t] -> [i, j] : {inside} }}")
        stored = isl.Set.read_from_str(context, f"[{params}] -> {{ [i, j] : {k0} <= j < {k0} + {m} }}")
        self.context = isl.Set.read_from_str(
            context, f"[{params}] -> {{ : {i0} <= {i1} < {i0} + {tile.rows} and {m} >= 1 }}"
        )
        self._pairs = pairs
        self._kept = bounds.inner.intersect(stored)
        self.live = self._tidy(pairs.intersect_range(bounds.outer.intersect(stored)).domain())

    def full(self) -> Any:
        """Tiles all of whose pairs are stored and kept."""
        dead = self._pairs.subtract_range(self._kept).domain()
        return self._tidy(self.live.subtract(dead))

    def partial(self, full: Any) -> Any:
        """Live tiles that are not full."""
        return self._tidy(self.live.subtract(full))

    def _tidy(self, tiles: Any) -> Any:
        return tiles.coalesce().gist_params(self.context).coalesce()


def _complexity(mask: Expr) -> int:
    """Distinct functions of positions that are not affine: divisions count twice, cases once."""
    calls = {node for node in walk(mask) if isinstance(node, Call) and pair_axes(node)}
    divisions = {call.args for call in calls if call.fn in ("floordiv", "mod")}
    cases = {call for call in calls if call.fn in ("min", "max", "abs", "where") and call.type == INT}
    return 2 * len(divisions) + len(cases)


def _scan(tiles: Any, sets: _TileSets) -> Loops | None:
    """The loops over a set of tiles, None when there are too many."""
    try:
        loops = scan(tiles, sets.context, sets.leaves)
    except NotClosedError:
        return None
    return loops if len(loops.pieces) <= MAX_PIECES else None


def _split(sets: _TileSets, live: Loops, tile: Tile, *, exact: bool) -> Part:
    """Full and partial tiles apart; where that fails or takes too long, live tiles with mask code in all of them."""
    try:
        full_set = sets.full()
        full = _scan(full_set, sets)
        partial = None if full is None or not full.exact else _partial(sets, live, full, full_set)
    except isl.Error:
        full = partial = None
    if full is None or partial is None:
        return _ranges(tile, (), live.pieces, exact=False, why="live tiles as closed forms; the full ones have none")
    why = "closed forms from the mask's integer set"
    if not exact:
        why += ", with its data-dependent conditions taken as true where they only remove pairs"
    return _ranges(tile, full.pieces, partial, exact=exact, why=why)


def _partial(sets: _TileSets, live: Loops, full: Loops, full_set: Any) -> tuple[Piece, ...] | None:
    """Live tiles that are not full: by arithmetic when the full ones are one range, else by isl."""
    if not full.pieces:
        return live.pieces
    if len(full.pieces) == 1 and full.pieces[0].step == 1 and all(piece.step == 1 for piece in live.pieces):
        return tuple(rest for piece in live.pieces for rest in _difference(piece, full.pieces[0]))
    loops = _scan(sets.partial(full_set), sets)
    return loops.pieces if loops is not None and loops.exact else None


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
    return _ranges(tile, (full,), (rest,), exact=True, why="no mask: every tile is full but a ragged last one")


def _all_partial(tile: Tile, why: str) -> Part:
    return _ranges(tile, (), (Piece(TRUE, int_const(0), _last_tile(tile)),), exact=False, why=why)


def _hull(sets: _TileSets, tile: Tile) -> Part:
    """The range from the first to the last live tile."""
    live = sets.live
    hull = isl.Set.from_basic_set(live.simple_hull())
    loops = _scan(hull.gist_params(sets.context).coalesce(), sets)
    if loops is None or len(loops.pieces) != 1:
        return _all_partial(tile, "the mask's tiles have no short closed form: every tile is visited")
    clipped = _clip(loops.pieces[0], tile)
    return _ranges(tile, (), (clipped,), exact=False, why="one range of tiles that covers the mask")


def _clip(piece: Piece, tile: Tile) -> Piece:
    low = call("max", piece.low, int_const(0), type=INT)
    return Piece(conj(TRUE, piece.guard), low, _min(piece.high, _last_tile(tile)), 1)

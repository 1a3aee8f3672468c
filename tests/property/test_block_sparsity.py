"""block-sparsity: closed forms of visited tiles against brute force, for random masks, sizes, offsets, parameters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attnc.ir.evaluate import evaluate_exact
from attnc.ir.expr import Expr, Index, Lookup, int_const
from attnc.ir.module import AttentionModule
from attnc.ir.plan import Part, Piece, Tile
from attnc.ir.printer import print_expr
from attnc.ir.traverse import transform
from attnc.passes.block_sparsity import BlockSparsity
from attnc.passes.pipeline import PlanOptions, make_plan
from attnc.passes.positions import Positions
from tests.oracles.modules import module_of, standard
from tests.property.masks import Numbers, Term, affine_masks, keep, masks, numbers, spec_text

MANY = settings(max_examples=3 * settings().max_examples)
sides = st.sampled_from([4, 8, 16])
tiles = st.builds(Tile, sides, sides)


def lowered_mask(text: str) -> Expr:
    """The mask of a spec as the pass sees it."""
    module: AttentionModule = module_of(text)
    return Positions(module, 16, 16).lower(module.mask)


@dataclass(frozen=True)
class Tiling:
    """The key tiles of one query tile: how often each is visited as full and as partial, and what is right."""

    full: Counter[int]
    partial: Counter[int]
    live: frozenset[int]
    all_kept: frozenset[int]
    first_misses: bool

    @property
    def visited(self) -> Counter[int]:
        return self.full + self.partial


def tilings(part: Part, kept: np.ndarray[Any, Any], here: Numbers) -> list[Tiling]:
    """The visits of every query tile, by the part and by brute force."""
    rows, keys = part.tile.rows, part.tile.keys
    found: list[Tiling] = []
    for first in range(0, here.n, rows):
        last = min(first + rows, here.n)
        names = {"N": here.n, "M": here.m, "B": 1, "b": 0, "h": 0, "hk": 0, "p": here.p, "w": here.w}
        names |= {"q_offset": here.q_offset, "k_offset": here.k_offset}
        names |= {"i0": here.q_offset + first, "i1": here.q_offset + last - 1}
        visits = {visit.kind: visited(visit.pieces, names, here.length) for visit in part.visits}
        block = kept[first:last]
        parts = {t: block[:, t * keys : (t + 1) * keys] for t in range(-(-here.m // keys))}
        live = frozenset(t for t, pairs in parts.items() if pairs.any())
        whole = frozenset(t for t, pairs in parts.items() if pairs.shape[1] == keys and pairs.all())
        order = [tile for visit in part.visits for tile in visited(visit.pieces, names, here.length)]
        seen = parts[order[0]].any(1) if order else False
        misses = bool((block.any(1) & ~np.asarray(seen)).any())
        found.append(Tiling(visits.get("full", Counter()), visits.get("partial", Counter()), live, whole, misses))
    return found


def visited(pieces: tuple[Piece, ...], names: dict[str, int], length: int) -> Counter[int]:
    """How often each tile is named."""
    tiles_of: Counter[int] = Counter()
    for piece in pieces:
        guard, low, high = (
            evaluate_exact(transform(e, partial(_known, length)), names) for e in (piece.guard, piece.low, piece.high)
        )
        tiles_of.update(range(low, high + 1, piece.step) if guard else ())
    return tiles_of


def _known(length: int, node: Expr) -> Expr:
    return int_const(length) if isinstance(node, Lookup) and node.indices == (Index("b"),) else node


def check(part: Part, kept: np.ndarray[Any, Any], here: Numbers) -> None:
    """The invariants of a part."""
    among_keys = here.k_offset <= here.q_offset and here.q_offset + here.n <= here.k_offset + here.m
    for tiling in tilings(part, kept, here):
        assert not (part.first_live and among_keys and tiling.first_misses), "the first tile misses a row"
        assert all(count == 1 for count in tiling.visited.values()), f"visited twice: {tiling.visited}"
        assert tiling.live <= tiling.visited.keys(), f"not visited: {sorted(tiling.live - tiling.visited.keys())}"
        assert tiling.full.keys() <= tiling.all_kept, f"not full: {sorted(tiling.full.keys() - tiling.all_kept)}"
        if part.exact and here.m:
            assert tiling.visited.keys() == tiling.live, f"dead: {sorted(tiling.visited.keys() - tiling.live)}"
            if "full ones have none" not in part.why:
                assert tiling.full.keys() == tiling.all_kept, f"full: {sorted(tiling.all_kept - tiling.full.keys())}"


@MANY
@given(mask=masks, tile=tiles, calls=st.lists(numbers, min_size=1, max_size=4))
def test_visits_of_random_masks(mask: Term, tile: Tile, calls: list[Numbers]) -> None:
    part = BlockSparsity().run(lowered_mask(spec_text(mask)), tile)
    for here in calls:
        check(part, keep(mask, here.world()), here)


@given(mask=affine_masks, tile=tiles, here=numbers)
@example(
    Term("(((i - j) % 3) == 0)", lambda world: (world["i"] - world["j"]) % 3 == 0),
    Tile(16, 4),
    Numbers(33, 40, -17, 5, 0, 0, 0, 0),
)
def test_a_small_budget_makes_visits_longer_not_wrong(mask: Term, tile: Tile, here: Numbers) -> None:
    for budget in (1, 3_000):
        part = BlockSparsity(max_operations=budget).run(lowered_mask(spec_text(mask)), tile)
        check(part, keep(mask, here.world()), here)


@given(first=masks, second=masks, tile=tiles, here=numbers, turned=st.booleans())
def test_masks_by_head(first: Term, second: Term, tile: Tile, here: Numbers, *, turned: bool) -> None:
    """Of head 0, which is the only one that is looked at."""
    one, other = f"(h < 1) and ({first.text})", f"(h >= 1) and ({second.text})"
    both = Term(f"({other}) or ({one})" if turned else f"({one}) or ({other})", first.value)
    part = BlockSparsity().run(lowered_mask(spec_text(both)), tile)
    check(part, keep(first, here.world()), here)


# -- masks whose exact closed forms are promised ---------------------------------------------------------------------

EXACT = {
    "causal": ("j <= i", lambda w: w["j"] <= w["i"]),
    "window": ("0 <= i - j < p", lambda w: (w["i"] - w["j"] >= 0) & (w["i"] - w["j"] < w["p"])),
    "both_sides": ("abs(i - j) <= 9", lambda w: abs(w["i"] - w["j"]) <= 9),
    "prefix": ("j < len[b] or j <= i", lambda w: (w["j"] < w["len"]) | (w["j"] <= w["i"])),
    "streaming": (
        "j <= i and (j < 3 or i - j < 17)",
        lambda w: (w["j"] <= w["i"]) & ((w["j"] < 3) | (w["i"] - w["j"] < 17)),
    ),
    "not_self": ("i != j", lambda w: w["i"] != w["j"]),
    "nothing": ("i < i", lambda w: w["i"] < w["i"]),
    "last_half": ("j >= M // 2", lambda w: w["j"] >= w["M"] // 2),
}  # fmt: skip


@cache
def planned(text: str, tile: Tile) -> Part:
    """The part of a mask, once per tile."""
    return BlockSparsity().run(lowered_mask(text), tile)


@pytest.mark.parametrize("name", EXACT)
@given(tile=tiles, here=numbers)
def test_masks_with_exact_closed_forms(name: str, tile: Tile, here: Numbers) -> None:
    text, value = EXACT[name]
    mask = Term(text, value)
    part = planned(spec_text(mask), tile)
    assert part.exact, part.why
    check(part, keep(mask, here.world()), here)


def test_a_mask_of_look_ups_visits_every_tile() -> None:
    part = BlockSparsity().run(
        lowered_mask("attention a(seg: int[B, M]) { mask seg[b, i] == seg[b, j] }"), Tile(16, 16)
    )
    here = Numbers(20, 40, 0, 0, 0, 0, 0, 0)
    for tiling in tilings(part, np.ones((20, 40), bool), here):
        assert tiling.visited == Counter([0, 1, 2])
        assert not tiling.full


def test_a_million_tokens_plan_as_fast_as_a_thousand() -> None:
    """The closed forms name no tile: their text does not depend on N and M."""
    module = standard("streaming", sink=4, window=4096)
    part = make_plan(module, PlanOptions(64, 64)).parts[0]
    for visit in part.visits:
        assert len(visit.pieces) <= 8
        for piece in visit.pieces:
            assert len(print_expr(piece.low)) + len(print_expr(piece.high)) < 600
    names = {"M": 10**6, "N": 10**6, "k_offset": 0, "q_offset": 0, "i0": 10**6 - 128, "i1": 10**6 - 1}
    count = sum(sum(visited(visit.pieces, names, 0).values()) for visit in part.visits)
    assert count <= 1 + 4096 // part.tile.keys + 128 // part.tile.keys + 2

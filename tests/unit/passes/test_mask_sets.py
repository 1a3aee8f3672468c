"""mask-sets: inner <= mask <= outer, point by point; equal where the mask is affine."""

from __future__ import annotations

from typing import Any

import islpy
import pytest
from hypothesis import assume, given, settings

from attnc.ir.dependence import pair_axes
from attnc.ir.evaluate import evaluate_exact
from attnc.ir.expr import Const, Expr, Index, Lookup, Var, int_const
from attnc.ir.printer import print_expr
from attnc.ir.traverse import transform, walk
from attnc.ir.types import BOOL
from attnc.passes.mask_sets import Bounds, Symbols, mask_bounds
from attnc.passes.positions import Positions
from tests.oracles.modules import module_of
from tests.property.masks import Numbers, Term, affine_masks, keep, masks, numbers, spec_text

MANY = settings(max_examples=3 * settings().max_examples)


def bounds_of(text: str) -> tuple[Bounds, Symbols]:
    """The bounds of a spec's mask and what their parameters stand for."""
    module = module_of(text)
    symbols = Symbols()
    return mask_bounds(Positions(module, 16, 16).lower(module.mask), islpy.Context(), symbols), symbols


def points(pairs: Any, symbols: Symbols, here: Numbers) -> set[tuple[int, int]]:
    """The pairs of a call that lie in a set."""
    names = {"N": here.n, "M": here.m, "p": here.p, "w": here.w, "q_offset": here.q_offset, "k_offset": here.k_offset}
    names |= {"b": 0, "h": 0, "hk": 0}

    def known(node: Expr) -> Expr:
        return int_const(here.length) if isinstance(node, Lookup) and node.indices == (Index("b"),) else node

    for position, expr in enumerate(symbols.names):
        pairs = pairs.fix_val(islpy.dim_type.param, position, evaluate_exact(transform(expr, known), names))
    box = pairs
    for axis, (start, count) in enumerate(((here.q_offset, here.n), (here.k_offset, here.m))):
        box = box.lower_bound_val(islpy.dim_type.set, axis, start)
        box = box.upper_bound_val(islpy.dim_type.set, axis, start + count - 1)
    found: set[tuple[int, int]] = set()
    place = [islpy.dim_type.set] * 2
    box.foreach_point(lambda p: found.add(tuple(p.get_coordinate_val(d, n).to_python() for n, d in enumerate(place))))
    return found


def kept(mask: Term, here: Numbers) -> set[tuple[int, int]]:
    table = keep(mask, here.world())
    return {(here.q_offset + r, here.k_offset + c) for r in range(here.n) for c in range(here.m) if table[r, c]}


def small(here: Numbers) -> Numbers:
    return Numbers(min(here.n, 9), min(here.m, 9), here.q_offset, here.k_offset, here.p, here.w, here.length, here.seed)


@MANY
@given(mask=masks, here=numbers)
def test_the_mask_lies_between_its_bounds(mask: Term, here: Numbers) -> None:
    here = small(here)
    bounds, symbols = bounds_of(spec_text(mask))
    exact = kept(mask, here)
    assert points(bounds.inner, symbols, here) <= exact <= points(bounds.outer, symbols, here)
    if bounds.exact:
        assert points(bounds.outer, symbols, here) == exact


def has_uniform_condition(text: str) -> bool:
    """Whether a condition is free of i and j: it counts as unknown."""
    nodes = walk(module_of(text).mask)
    return any(
        node.type == BOOL and not pair_axes(node) and not any(isinstance(inner, Var) for inner in walk(node))
        for node in nodes
        if not isinstance(node, Const)
    )


@given(mask=affine_masks, here=numbers)
def test_bounds_of_affine_masks_are_exact(mask: Term, here: Numbers) -> None:
    assume(not has_uniform_condition(spec_text(mask)))
    bounds, symbols = bounds_of(spec_text(mask))
    assert bounds.exact
    assert points(bounds.inner, symbols, small(here)) == kept(mask, small(here))


@pytest.mark.parametrize(
    ("mask", "outer", "inner"),
    [
        ("j <= i and seg[b, i] == seg[b, j]", "j <= i", "false"),
        ("j <= i or seg[b, i] == seg[b, j]", "true", "j <= i"),
        ("not (j <= i and seg[b, j] > 0)", "true", "j > i"),
        ("i * j < 4", "true", "false"),
        ("not true", "false", "false"),
        (
            "exists d in 0..3: j == i - 2 * d",
            "(i - j) % 2 == 0 and 0 <= i - j <= 4",
            "0 <= i - j < 5 and (j - i) % 2 == 0",
        ),
        ("where(j < p, j <= i, i == j)", "j < p and j <= i or j >= p and i == j", "j <= i and (j < p or j >= i)"),
        ("w + p <= j", "j - p >= w", "j >= p + w"),
        ("sign(i - j) == 1", "i > j", "j < i"),
        ("exists d in 0..100: i - j == 2 * d", "i >= j and (i - j) % 2 == 0", "i >= j and (j - i) % 2 == 0"),
        (
            "exists d in 0..12: i - j == 2 ^ d",
            "i - j == 1 or i - j == 2 or i - j == 4 or i - j == 8 or i - j == 16",
            "i - j == 1 or i - j == 2 or i - j == 4 or i - j == 8 or i - j == 16",
        ),
        ("exists d in 0..20: i - j == d and seg[b, j] > 0", "0 <= i - j < 20", "false"),
    ],
)
def test_what_cannot_be_analysed_bounds_from_both_sides(mask: str, outer: str, inner: str) -> None:
    here = Numbers(9, 9, -3, 1, 4, 2, 5, 0)
    header = "p: int dynamic, w: int dynamic, seg: int[B, M]"
    found, wanted_outer, wanted_inner = (
        bounds_of(f"attention a({header}) {{ mask {text} }}") for text in (mask, outer, inner)
    )
    assert points(found[0].outer, found[1], here) == points(wanted_outer[0].outer, wanted_outer[1], here)
    assert points(found[0].inner, found[1], here) == points(wanted_inner[0].inner, wanted_inner[1], here)


def test_what_is_free_of_positions_is_one_parameter() -> None:
    _, symbols = bounds_of("attention a(p: int dynamic, len: int[B]) { mask j < 2 * p + len[b] * len[b] and i < p }")
    assert len(symbols.names) == 2


def test_conditions_free_of_positions_can_be_parameters() -> None:
    module = module_of("attention a(flag: bool dynamic, p: int dynamic) { mask (flag or j <= i) and p < 3 }")
    symbols = Symbols()
    bounds = mask_bounds(module.mask, islpy.Context(), symbols, conditions=True)
    assert bounds.exact
    assert [print_expr(expr) for expr in symbols.names] == ["where(flag, 1, 0)", "where(p < 3, 1, 0)"]
    assert not mask_bounds(module.mask, islpy.Context(), Symbols()).exact


def test_the_operation_limit_ends_the_work() -> None:
    module = module_of(
        "attention a { mask (i // 3 + j // 5) % 7 == (i // 4 - j // 9) % 11 and (i + j) // 6 != i // 2 }"
    )
    context = islpy.Context()
    context.set_max_operations(1)
    with pytest.raises(islpy.Error):
        mask_bounds(module.mask, context, Symbols())

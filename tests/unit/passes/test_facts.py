"""facts, mask-axes, mask-atoms and mask-intervals on masks whose answer is known."""

from __future__ import annotations

import time

import numpy as np
import pytest

from attnc.ir.dependence import pair_axes
from attnc.ir.expr import Expr, GridCoord, Index, Lookup
from attnc.ir.printer import print_expr
from attnc.ir.traverse import walk
from attnc.ir.types import INT
from attnc.passes.facts import find_facts
from attnc.passes.mask_atoms import Atoms, TooLargeError
from attnc.passes.mask_axes import separated
from attnc.passes.mask_intervals import Boxes
from attnc.passes.spans import Span
from tests.oracles.modules import module_of, standard


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "attention a(w: int dynamic) { mask 0 <= i - j < w }",
            (
                "no empty row: when w >= 1 and w + M + k_offset >= N + q_offset + 1 and q_offset >= k_offset",
                "causal: always",
                "symmetric: when w <= 1",
                "same for batches: always",
                "same for heads: always",
                "distance: 0 <= i - j and i - j <= w - 1",
            ),
        ),
        (
            "attention a(seg: int[B, M]) { mask j <= i and seg[b, i] == seg[b, j] }",
            (
                (
                    "no empty row: when M + k_offset >= N + q_offset and q_offset >= k_offset, perhaps otherwise "
                    "(seg[b, i], seg[b, j])"
                ),
                "causal: always",
                "symmetric: unknown (seg[b, i], seg[b, j])",
                "same for batches: unknown (seg[b, i], seg[b, j])",
                "same for heads: always",
                "distance: 0 <= i - j",
            ),
        ),
        (
            "attention a(flag: bool dynamic) { mask flag or j <= i }",
            (
                "no empty row: when where(flag, 1, 0) == 1 or q_offset >= k_offset",
                "causal: when where(flag, 1, 0) == 0 or q_offset + 1 >= M + k_offset",
                "symmetric: when where(flag, 1, 0) == 1",
                "same for batches: always",
                "same for heads: always",
                "distance: not bounded",
            ),
        ),
        (
            "attention a { mask i != i }",
            (
                "no empty row: never",
                "causal: always",
                "symmetric: always",
                "same for batches: always",
                "same for heads: always",
                "distance: not bounded",
            ),
        ),
    ],
)
def test_facts_as_text(text: str, lines: tuple[str, ...]) -> None:
    assert find_facts(module_of(text)).lines() == lines


def test_conditions_read_nothing_that_varies_along_a_row() -> None:
    facts = find_facts(module_of("attention a(size: int[H], w: int dynamic) { mask abs(i - j) < size[h] + w }"))
    assert facts.symmetric.verdict == "always"
    for fact in (facts.nonempty_rows, facts.causal):
        assert fact.verdict == "when"
        assert fact.condition is not None
        assert not any(pair_axes(node) for node in walk(fact.condition))
    assert facts.farthest is not None
    assert print_expr(facts.farthest) == "size[h] + w - 1"


def test_rows_of_a_neighborhood_are_live_where_the_grid_is_the_keys() -> None:
    fact = find_facts(standard("neighborhood_2d", height=32, width=48, window_y=7, window_x=5)).nonempty_rows
    assert str(fact) == (
        "no empty row: when 0 <= q_offset and q_offset + N <= 1536 and (k_offset <= 0 and 1536 <= k_offset + M), "
        "perhaps otherwise"
    )


def test_a_mask_that_is_too_hard_has_unknown_facts() -> None:
    text = " or ".join(f"(i // {n + 2} + j // {n + 5}) % {n + 3} == {n}" for n in range(20))
    start = time.process_time()
    facts = find_facts(module_of(f"attention a {{ mask {text} }}"))
    assert time.process_time() - start < 5
    assert facts.nonempty_rows.verdict == "unknown"
    assert facts.nonempty_rows.unknowns == ("its integer set passed the bound on the work",)


# -- axes ------------------------------------------------------------------------------------------------------------


def test_a_mask_is_sorted_by_axis() -> None:
    module = module_of(
        "attention a(flag: bool dynamic, seg: int[B, M]) {\n  grid (t: 4, y: 5, x: 6)\n"
        "  mask abs(i.x - j.x) <= 1 and i.t == j.t and j.t > 0 and j <= i and flag and i.y + j.x < 4"
        " and seg[b, i] == seg[b, j] and not (i.y > 3 or j.y > 3)\n}"
    )
    found = separated(module.mask)
    assert {axis: print_expr(part) for axis, part in found.axes.items()} == {
        0: "i.0 == j.0 and j.0 > 0",
        1: "not i.1 > 3 and not j.1 > 3",
        2: "abs(i.2 - j.2) <= 1",
    }
    assert print_expr(found.flat) == "j <= i"
    assert print_expr(found.uniform) == "flag"
    assert print_expr(found.rest) == "i.1 + j.2 < 4 and seg[b, i] == seg[b, j]"
    assert not found.is_product


def test_neighborhoods_are_products() -> None:
    module = standard("neighborhood_3d", frames=4, height=5, width=6, window_t=3, window_y=3, window_x=3)
    found = separated(module.mask)
    assert found.is_product
    assert list(found.axes) == [0, 1, 2]
    for axis, part in found.axes.items():
        assert {node.axis for node in walk(part) if isinstance(node, GridCoord)} == {axis}


# -- atoms -----------------------------------------------------------------------------------------------------------


def test_what_is_not_affine_is_named_once() -> None:
    atoms = Atoms()
    module = module_of(
        "attention a(seg: int[B, M], n: int dynamic) { mask seg[b, i] == seg[b, j] and i * j < j * i + n * i }"
    )
    text = print_expr(atoms.abstract(module.mask))
    assert text == "u0 == u1 and u2 < u2 + u3"
    assert [sorted(atom.axes) for atom in atoms] == [["i"], ["j"], ["i", "j"], ["i"]]


def test_rewrites_of_reals_and_bits_are_affine() -> None:
    atoms = Atoms()
    mask = module_of("attention a { mask i < 2.5 and bit_length(i - j) <= 3 and (i & 7) == 1 }").mask
    assert print_expr(atoms.abstract(mask)) == "i < 3 and abs(i - j) < 8 and i % 8 == 1"
    assert len(atoms) == 0


def test_atoms_are_bounded() -> None:
    body = " or ".join(f"i - j == {n} * d + 2 ^ d" for n in range(40))
    module = module_of(f"attention a {{ mask exists d in 0..60: exists e in 0..60: {body} and e * d < 2 ^ e }}")
    with pytest.raises(TooLargeError):
        Atoms().abstract(module.mask)


# -- intervals -------------------------------------------------------------------------------------------------------


def test_a_table_of_tiles_is_one_evaluation() -> None:
    """A hundred thousand tiles of a window, of documents whose least and greatest id per tile are known."""
    module = module_of("attention a(seg: int[B, M]) { mask 0 <= i - j < 4096 and seg[b, i] == seg[b, j] }")
    tiles = np.arange(320)
    first, last = 64 * tiles, 64 * tiles + 63
    low, high = first // 1000, last // 1000
    query, key = (Lookup("seg", (Index("b"), Index(name)), INT) for name in "ij")
    leaves: dict[Expr, Span] = {
        Index("i"): Span.of(first[:, None], last[:, None]),
        Index("j"): Span.of(first, last),
        query: Span.of(low[:, None], high[:, None]),
        key: Span.of(low, high),
    }
    start = time.process_time()
    truth = Boxes(leaves).truth(module.mask)
    assert time.process_time() - start < 1
    assert truth.may.shape == (320, 320)
    i, j = np.arange(64 * 40)[:, None], np.arange(64 * 40)
    exact = ((i - j >= 0) & (i - j < 4096) & (i // 1000 == j // 1000)).reshape(40, 64, 40, 64)
    assert np.array_equal(truth.may[:40, :40], exact.any(axis=(1, 3)))
    assert np.array_equal(truth.must[:40, :40], exact.all(axis=(1, 3)))


@pytest.mark.parametrize(
    ("mask", "may", "must"),
    [
        ("i // 4 == 2", True, True),
        ("i % 4 < 4", True, True),
        ("i % 16 >= 8", True, True),
        ("abs(i - 9) <= 2", True, True),
        ("j - i > 0", True, True),
        ("i == j", False, False),
        ("i == 8", True, False),
        ("exists d in 0..3: i // 4 == d", True, True),
        ("exists d in 0..100: i == d", True, False),
        ("exists d in 0..100: j < d - 200", False, False),
        ("where(i < 12, j > 12, j < 12)", True, True),
        ("exp(real(i)) > 100", True, True),
        ("log(real(i) - 9) < 0", True, False),
        ("i * 1000000000 * 1000000000 > 0", True, False),
        ("bit_length(i) == 4", True, True),
        ("(i & 3) <= 11", True, True),
        ("min(i, j) >= 8 and max(i, j) <= 20", True, True),
    ],
)
def test_intervals_of_one_box(mask: str, may: bool, must: bool) -> None:
    """i in [8, 11], j in [16, 20]."""
    leaves: dict[Expr, Span] = {Index("i"): Span.of(8, 11), Index("j"): Span.of(16, 20)}
    truth = Boxes(leaves).truth(module_of(f"attention a {{ mask {mask} }}").mask)
    assert (bool(truth.may), bool(truth.must)) == (may, must)

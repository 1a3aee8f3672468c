"""Lists of tiles made from the numbers of a call, by brute force: masks by blocks, masks whose sets are too much."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnc
from attnc.explain import count_tiles
from attnc.ir.expr import Expr, Size, Value
from attnc.ir.plan import Part, PlanOptions, Tile
from attnc.ir.types import INT
from attnc.passes.block_values import NotByBlocksError, grains, truth_by_blocks
from attnc.passes.pipeline import make_plan
from attnc.passes.positions import Positions
from attnc.passes.tile_lists import Shape, TileList, list_of_numbers
from attnc.reference import reference
from attnc.visits import sizes_of, tile_map
from tests.oracles.modules import module_of, standard

#: Conditions that read i by blocks of multiples of 4, j by blocks of multiples of 6.
CLAUSES = (
    "i // 4 >= j // 6",
    "(i // 8 - j // 12) & 3 == 0",
    "bit_length(i // 4 - j // 6) != 2",
    "exists d in 0..3: i // 4 + d == j // 6 * 2",
    "int(2.0 / real(1 + i // 8)) == (j // 18) % 2",
    "where(i // 4 > N // 8, j // 6 < 3, i // 12 == j // 12)",
    "i // 4 * 4 + q_shift >= j // 6",
)
masks = st.lists(st.sampled_from(CLAUSES), min_size=1, max_size=3).map(lambda found: f"({') or ('.join(found)})")


def lowered(text: str) -> Expr:
    module = module_of(f"attention a(q_shift: int = 2) {{ mask {text} }}")
    return Positions(module, 16, 16).lower(module.mask)


def kept(text: str, n: int, m: int, q_offset: int, k_offset: int) -> np.ndarray[Any, Any]:
    """By the oracle: a row of the identity for each key."""
    module = module_of(f"attention a(q_shift: int = 2) {{ mask {text} }}")
    q, k, v = torch.zeros(1, 1, n, 1), torch.zeros(1, 1, m, 1), torch.eye(m).reshape(1, 1, m, m)
    return reference(module, q, k, v, q_offset=q_offset, k_offset=k_offset)[0, 0].numpy() != 0


def check(found: TileList, pairs: np.ndarray[Any, Any], tile: Tile) -> None:
    """The list has the tiles with a kept pair, full where all are kept."""
    for row in range(found.query_tiles):
        start, live, full = (int(x[row]) for x in (found.starts, found.live, found.full))
        entries = found.entries[start : start + live].tolist()
        band = pairs[row * tile.rows : (row + 1) * tile.rows]
        blocks = {n: band[:, n * tile.keys : (n + 1) * tile.keys] for n in range(-(-pairs.shape[1] // tile.keys))}
        assert sorted(entries) == [n for n, block in blocks.items() if block.any()]
        whole = [n for n, block in blocks.items() if block.shape[1] == tile.keys and block.all()]
        assert sorted(entries[:full]) == whole


@given(
    text=masks,
    tile=st.builds(Tile, *[st.sampled_from([4, 6, 8, 16])] * 2),
    sizes=st.tuples(*[st.integers(1, 60)] * 2),
    offsets=st.tuples(*[st.integers(0, 30)] * 2),
)
def test_masks_by_blocks_are_listed_exactly(
    text: str, tile: Tile, sizes: tuple[int, int], offsets: tuple[int, int]
) -> None:
    mask = lowered(text)
    assert grains(mask) is not None
    numbers: dict[Expr, int] = {Size("N"): sizes[0], Size("M"): sizes[1]}
    numbers |= {Value("q_offset", INT): offsets[0], Value("k_offset", INT): offsets[1]}
    found = list_of_numbers(mask, Shape(tile, *sizes, 1, *offsets), numbers)
    assert found is not None
    check(found, kept(text, *sizes, *offsets), tile)


@pytest.mark.parametrize("text", ["i - j < 4", "i // 4 == j", "j // 6 == t[i // 4]", "i // 4 == h and j // 4 == 0"])
def test_single_positions_and_tensors_are_not_read_by_blocks(text: str) -> None:
    module = module_of(f"attention a(t: int[N]) {{ mask {text} }}")
    assert grains(Positions(module, 16, 16).lower(module.mask)) is None


def test_too_many_blocks_are_refused() -> None:
    x = np.arange(0, 1 << 20, 4)
    with pytest.raises(NotByBlocksError):
        truth_by_blocks(lowered("i // 4 >= j // 6"), x, x, {})


def _listed(part: Part) -> bool:
    return part.listing is not None and part.listing.of_numbers


def test_a_video_in_frames_that_thin_out_visits_what_it_keeps() -> None:
    module = standard("radial", frames=6, per_frame=64, block=16)
    plan = make_plan(module, PlanOptions(16, 16, 4, Tile(16, 16), aligned=True, numbered=True))
    assert _listed(plan.parts[0])
    assert not any(map(_listed, make_plan(module, PlanOptions(16, 16, 4, Tile(16, 16), aligned=True)).parts))
    counts = count_tiles(tile_map(plan.parts[0], sizes_of(384, 384)))
    q, v = torch.zeros(1, 1, 384, 1), torch.eye(384).reshape(1, 1, 384, 384)
    pairs = reference(module, q, q, v)[0, 0].numpy() != 0
    blocks = pairs.reshape(24, 16, 24, 16)
    assert (counts.full, counts.visited) == (blocks.all((1, 3)).sum(), blocks.any((1, 3)).sum())


@pytest.mark.parametrize("backend", ["torch", "interpret", "cpp"])
def test_the_end_of_a_video_with_text_lists_its_tiles(backend: Any) -> None:
    sizes = {"frames": 3, "height": 8, "width": 12, "window_t": 1, "window_y": 3, "window_x": 3, "start": 5}
    op = attnc.compile("std:neighborhood_3d_text", params=sizes, backend=backend)
    q, k, v = (torch.randn(1, 1, 300, 16) for _ in range(3))
    q = q[:, :, 50:]
    out, exact = op(q, k, v, q_offset=50), op.reference(q, k, v, q_offset=50)
    torch.testing.assert_close(out.double(), exact, atol=1e-5, rtol=1e-5)
    assert _listed(op.plan.parts[0])


def test_text_beside_a_video_does_not_visit_all() -> None:
    sizes = {"frames": 12, "height": 8, "width": 12, "window_t": 1, "window_y": 3, "window_x": 3, "start": 5}
    counts = attnc.compile("std:neighborhood_3d_text", params=sizes, backend="torch").explain(1200).tiles
    assert counts.visited < counts.total / 2

"""isl-ranges: sets of tiles as ranges, against the points of the sets."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from attnc.ir.evaluate import evaluate_exact
from attnc.ir.expr import Expr, Ref
from attnc.ir.plan import Piece
from attnc.ir.printer import print_expr
from attnc.ir.types import INT
from attnc.passes.isl import isl
from attnc.passes.isl_ranges import disjoint, is_plain, ranges

LEAVES: dict[str, Expr] = {"p": Ref("p", INT), "w": Ref("w", INT)}
SETS = {
    "interval": "0 <= t <= p",
    "multiples": "p <= 7 t < w",
    "both_bounds_divide": "3 t >= p - 5 and 5 t <= w + 2 and t <= p and t >= -9",
    "guard": "0 <= t <= p and w >= 3",
    "equation": "3 t = p + w",
    "equal_parameters": "0 <= t < 9 and p = 2 w",
    "overlap": "(0 <= t <= p) or (w <= t <= w + 4)",
    "quotient_of_parameters": "0 <= t and t <= floor((p + 1) / 4) - 2 * floor(w / 3)",
    "quotient_grows_with_t": "-9 <= t <= 9 and 2 * floor((3 t + p) / 4) >= w",
    "quotient_falls_with_t": "-9 <= t <= 9 and 3 * floor((p - 2 t) / 5) <= w and 3 * floor((p - 2 t) / 5) >= -w",
    "nested": "0 <= t <= floor((p + floor(w / 2)) / 3)",
    "nothing": "t > p and t < p",
}


def _points(pieces: tuple[Piece, ...], names: dict[str, int]) -> list[int]:
    found: list[int] = []
    for piece in pieces:
        guard, low, high = (evaluate_exact(expr, names) for expr in (piece.guard, piece.low, piece.high))
        found += range(low, high + 1, piece.step) if guard else ()
    return sorted(found)


@pytest.mark.parametrize("text", SETS.values(), ids=SETS)
def test_ranges_name_every_tile_of_the_set_once(text: str) -> None:
    context = isl.Context()
    tiles = isl.Set.read_from_str(context, f"[p, w] -> {{ [t] : {text} }}")
    anywhere = isl.Set.read_from_str(context, "[p, w] -> { : }")
    assert is_plain(tiles, LEAVES)
    pieces = ranges(disjoint(tiles, anywhere), LEAVES)
    assert pieces is not None
    for p, w in product(range(-7, 12), range(-6, 13)):
        here = tiles.fix_val(isl.dim_type.param, 0, p).fix_val(isl.dim_type.param, 1, w)
        assert _points(pieces, {"p": p, "w": w}) == _tiles(here), (p, w)


def _tiles(points: Any) -> list[int]:
    found: list[int] = []

    def keep(point: Any) -> None:
        found.append(point.get_coordinate_val(isl.dim_type.set, 0).to_python())

    points.foreach_point(keep)
    return sorted(found)


def test_a_stride_is_no_range() -> None:
    tiles = isl.Set.read_from_str(isl.Context(), "[p, w] -> { [t] : 0 <= t <= p and t mod 3 = w mod 3 }")
    assert not is_plain(tiles, LEAVES)
    assert ranges(tiles, LEAVES) is None


def test_a_set_without_end_is_no_range() -> None:
    assert ranges(isl.Set.read_from_str(isl.Context(), "[p, w] -> { [t] : t >= p }"), LEAVES) is None


def test_bounds_are_short() -> None:
    """Multiples leave the division, and a number that all bounds share leaves the minimum."""
    tiles = isl.Set.read_from_str(
        isl.Context(), "[p, w] -> { [t] : 64 t >= 128 w and 64 t <= p - 64 and 64 t <= w - 65 }"
    )
    pieces = ranges(tiles, LEAVES)
    assert pieces is not None
    (piece,) = pieces
    assert print_expr(piece.low) == "2 * w"
    assert print_expr(piece.high) == "min((w - 1) // 64, p // 64) - 1"

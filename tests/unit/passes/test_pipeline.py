"""The order of the passes, what is told after each, and the tile sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attnc.diagnostics import InternalError
from attnc.ir.expr import Param
from attnc.ir.plan import Tile
from attnc.ir.printer import print_expr, print_plan
from attnc.ir.types import REAL
from attnc.passes import pipeline
from attnc.passes.exp2 import LOG2E
from attnc.passes.pipeline import PlanOptions, make_plan
from attnc.passes.tiling import choose_tile
from tests.oracles.modules import standard


def test_every_pass_reports_in_order() -> None:
    seen: list[str] = []
    make_plan(standard("rope", causal=True), PlanOptions(64, 64), lambda name, _result: seen.append(name))
    assert seen == ["positions", "normalizer-passes", "exp2", "operands", "block-sparsity", "work-order", "plan"]


def test_a_plan_depends_on_nothing_but_its_input() -> None:
    texts = {print_plan(make_plan(standard("streaming", sink=2, window=9), PlanOptions(64, 32))) for _ in range(3)}
    assert len(texts) == 1


def test_the_given_tile_is_used() -> None:
    assert make_plan(standard("causal"), PlanOptions(64, 64, tile=Tile(16, 32))).parts[0].tile == Tile(16, 32)


def test_facts_tell_how_tiles_were_found() -> None:
    assert make_plan(standard("causal"), PlanOptions(64, 64)).facts == (
        "full and partial tiles: closed forms from the mask's integer set",
    )


def test_a_broken_module_is_an_internal_error() -> None:
    broken = replace(standard("causal"), score=Param("unbound", REAL))
    with pytest.raises(InternalError, match="unbound"):
        make_plan(broken, PlanOptions(64, 64))


def test_a_broken_pass_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets_a_name(self: object, expr: object) -> str:
        del self, expr
        return "x77"

    monkeypatch.setattr(pipeline.Operands, "value", forgets_a_name)
    with pytest.raises(InternalError, match="x77"):
        make_plan(standard("causal"), PlanOptions(64, 64))


@pytest.mark.parametrize("head_dim", [1, 16, 64, 65, 128, 200, 256])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_tiles_are_powers_of_two_whose_operands_fit_shared_memory(head_dim: int, itemsize: int) -> None:
    tile = choose_tile(head_dim, head_dim, itemsize=itemsize)
    assert all(n >= 16 and n & (n - 1) == 0 for n in (tile.rows, tile.keys))
    padded = 1 << (head_dim - 1).bit_length()
    operands = itemsize * padded * (tile.rows + 2 * 2 * tile.keys)  # q, and two stages of k and v
    assert operands <= 166_912  # the smallest of NVIDIA's targets, cuda:80
    assert choose_tile(16, head_dim, itemsize=itemsize) == tile


def test_the_factor_of_base_2_joins_scale() -> None:
    plan = make_plan(standard("softmax"), PlanOptions(64, 64))
    assert plan.log2_score
    assert print_expr(plan.score) == f"dot0 * ({LOG2E!r} * scale)"

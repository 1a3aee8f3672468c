"""states: which sums and which full tiles go through states, what is left to visit, and why the rest does not."""

from __future__ import annotations

import re
from itertools import chain, product

import pytest

from attnc.ir.backward import BackwardPlan
from attnc.ir.evaluate import evaluate_exact
from attnc.ir.plan import KernelPlan, Piece, PlanOptions, Tile
from attnc.ir.printer import print_expr
from attnc.passes.pipeline import make_backward, make_plan
from attnc.passes.states import describe_states, state_size
from tests.oracles.modules import module_of, standard

TILE = Tile(32, 16)
OPTIONS = PlanOptions(16, 24, 4, TILE, states=True)
LINEAR = "a = dot(q, k); w = a / (sum[j](a) + 1)"


def plan_of(cascade: str = LINEAR, fields: str = "", header: str = "", **changes: object) -> KernelPlan:
    names = ", ".join(re.findall(r"(\w+):", header))
    own = re.sub(r" in \S+ \S+", "", header)
    text = f"normalizer n({own}) {{ {cascade} }}\nattention a({header}) {{ {fields}\n normalizer n({names}) }}"
    module = module_of(text)
    return make_plan(module, PlanOptions(16, 24, 4, TILE, **{"states": True, **changes}))  # type: ignore[arg-type]


def begins(plan: KernelPlan) -> dict[str, list[str]]:
    """The terms of each sum."""
    assert plan.states is not None, plan.no_states
    return {
        total.accumulator: [" * ".join((print_expr(t.row), t.dot or "1", print_expr(t.column))) for t in total.terms]
        for total in plan.states.sums
    }


# -- bodies ----------------------------------------------------------------------------------------------------------


def test_an_inner_product_is_one_term() -> None:
    assert begins(plan_of()) == {"a0": ["1.0 * dot0 * 1.0"], "a1": ["1.0 * dot0 * 1.0"]}


def test_factors_of_rows_leave_sums_and_those_of_keys_join_the_state() -> None:
    header = "r: real[B, H, N], c: real[B, Hk, M]"
    found = begins(plan_of("w = (dot(q, k) * r[b, h, i] - 2) * c[b, hk, j]", header=header))
    assert found == {"a0": ["r[b, h, r] * dot0 * c[b, hk, c]", "-2.0 * 1 * c[b, hk, c]"]}


def test_terms_in_which_inner_products_meet_values_of_single_tokens() -> None:
    header = "r: real[B, H, N], c: real[B, Hk, M]"
    plan = plan_of("w = dot(q, k) / c[b, hk, j] - relu(dot(elu(q), q) * r[b, h, i]) / (1 + r[b, h, i])", header=header)
    inside = "relu(x0[b, h, r] * r[b, h, r])"
    assert begins(plan) == {"a0": ["1.0 * dot0 * 1.0 / c[b, hk, c]", f"-({inside} / (1.0 + r[b, h, r])) * 1 * 1.0"]}


def test_a_statistic_of_the_row_is_a_factor() -> None:
    plan = plan_of("z = mean[j](dot(q, k)); w = (1 + 1 / (z + 4)) * s - z")
    assert sorted(begins(plan).values()) == [[], ["1.0 * 1 * 1.0"], ["1.0 * dot0 * 1.0"], ["scale * dot0 * 1.0"]]


@pytest.mark.parametrize(
    ("cascade", "why"),
    [
        ("w = dot(q, k) ^ 2", "multiplies inner products"),
        ("w = dot(q, k) * dot(elu(q), k)", "multiplies inner products"),
        ("w = relu(dot(q, k))", "`relu(dot0)` is no sum"),
        ("w = exp(s)", "is no sum of inner products"),
        ("m = max[j](s); p = exp(s - m); w = p / sum[j](p)", "is corrected as `exp2(a0.old - a0)` moves"),
        ("w = dot(q, k) * real(i - j)", "is no sum of inner products"),
        ("w = (real(i) + real(j)) ^ 2", "multiplies sums"),
    ],
)
def test_bodies_that_need_every_pair(cascade: str, why: str) -> None:
    plan = plan_of(cascade)
    assert plan.states is None
    assert why in plan.no_states
    assert plan.no_states in describe_states(plan)


def test_a_logit_that_may_take_a_key_away_is_visited() -> None:
    """-inf in a look-up is a key of weight zero: whether a row is empty depends on every pair then."""
    header = "c: real[B, Hk, M]"
    assert "needs every pair" in plan_of("w = s / sum[j](s)", "bias -c[b, hk, j]", header=header).no_states
    assert plan_of("w = s / sum[j](s)").states is not None


def test_sums_over_pairs_that_leave_the_row_are_visited() -> None:
    plan = make_backward(standard("linear"), OPTIONS)
    assert isinstance(plan, BackwardPlan)
    assert plan.joint.states is None
    assert "sums over queries" in plan.joint.no_states


# -- tiles -----------------------------------------------------------------------------------------------------------

MASKS = {
    "": "none",
    "j <= i": "high",
    "j < i": "high",
    "j >= i": "low",
    "j > i + 70": "low",
    "j // 48 <= i // 48": "high",
    "j <= i and j >= 100": "high",
    "j < 300": "none",
    "j <= i or j < 200": "high",
}


def tiles(piece: Piece, names: dict[str, int]) -> list[int]:
    if not evaluate_exact(piece.guard, names):
        return []
    return list(range(evaluate_exact(piece.low, names), evaluate_exact(piece.high, names) + 1, piece.step))


def full_tiles(plan: KernelPlan, names: dict[str, int]) -> list[int]:
    pieces = (piece for visit in plan.parts[0].visits if visit.kind == "full" for piece in visit.pieces)
    return [tile for piece in pieces for tile in tiles(piece, names)]


@pytest.mark.parametrize("mask", MASKS)
def test_runs_and_visits_share_the_full_tiles(mask: str) -> None:
    fields = f"mask {mask}" if mask else ""
    plan, without = plan_of(fields=fields), plan_of(fields=fields, states=False)
    assert without.states is None
    assert not without.no_states
    assert plan.states is not None
    assert MASKS[mask] in [run.moves for run in plan.states.runs]
    taken = 0
    for (n, m), q0, k0 in product(((1000, 1000), (65, 700), (900, 250)), (0, 130), (0, -33)):
        for first in range(0, n, TILE.rows):
            names = {"N": n, "M": m, "q_offset": q0, "k_offset": k0}
            names |= {"i0": q0 + first, "i1": q0 + min(first + TILE.rows, n) - 1}
            runs = [tiles(run.tiles, names) for run in plan.states.runs]
            assert sorted([*chain(*runs), *full_tiles(plan, names)]) == sorted(full_tiles(without, names))
            for run, found in zip(plan.states.runs, runs, strict=True):
                assert run.moves == "none" or len(found) % plan.states.chunk == 0
                taken += len(found)
    assert taken > 0


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        ("0 <= i - j < 512", "have no end that stays for all queries"),
        ("j <= i and j < 12", "fewer keys than a state has features"),
        ("j == i", "leaves no tile full"),
        ("j < keys[b]", "have no end that stays"),
    ],
)
def test_runs_that_are_visited(mask: str, why: str) -> None:
    header = "keys: int[B] in [0, 100000]" if "keys" in mask else ""
    plan = plan_of(fields=f"mask {mask}", header=header)
    assert plan.states is None
    assert why in plan.no_states


def test_the_backward_of_a_causal_mask_has_prefixes_for_queries_and_suffixes_for_keys() -> None:
    plan = make_backward(standard("linear", causal=True), OPTIONS)
    assert isinstance(plan, BackwardPlan)
    assert plan.query is not None
    assert plan.keys is not None
    assert [[run.moves for run in side.states.runs] for side in (plan.query, plan.keys) if side.states] == [
        ["high"],
        ["low"],
    ]


def test_states_are_no_larger_than_their_keys() -> None:
    for dim in (16, 128, 256):
        plan = make_plan(standard("linear", causal=True), PlanOptions(dim, dim, 4, TILE, states=True))
        assert plan.states is not None
        assert plan.states.chunk * TILE.keys >= max(dim, 128)
        assert state_size(plan) == dim * (dim + 1)
    assert describe_states(plan) == "full tiles through 256 x 257, one for 256 keys"

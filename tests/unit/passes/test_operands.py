"""operands: which inner products become products of stored operands, and what is shared."""

from __future__ import annotations

import pytest

from attnc.diagnostics import SpecError
from attnc.ir.plan import KernelPlan
from attnc.ir.printer import print_expr
from attnc.passes.pipeline import PlanOptions, make_plan
from tests.oracles.modules import module_of


def plan(fields: str, header: str = "") -> KernelPlan:
    return make_plan(module_of(f"attention a({header}) {{ {fields} }}"), PlanOptions(8, 8))


def derived(found: KernelPlan) -> list[str]:
    return [f"{d.side} {d.heads} {print_expr(d.expr)}" for d in found.derived]


def dots(found: KernelPlan) -> list[tuple[str, str, int]]:
    return [(dot.left, dot.right, dot.dim) for dot in found.dots]


def test_q_and_k_are_read_as_passed() -> None:
    found = plan("score dot(q, k)")
    assert dots(found) == [("q", "k", 8)]
    assert not found.derived
    assert found.values == "v"


def test_the_order_of_a_product_does_not_matter() -> None:
    found = plan("score dot(q, k) + 2 * dot(k, q) + sum[d](q * k)")
    assert dots(found) == [("q", "k", 8)]


def test_token_maps_are_stored_per_token_and_head() -> None:
    found = plan("q = rope(q, i); k = normalize(k); v = relu(v)", "")
    assert derived(found)[0].startswith("q H rope(q, i")
    assert derived(found)[1].startswith("k Hk normalize(k")
    assert derived(found)[2] == "k Hk relu(v)"
    assert dots(found) == [("x0", "x1", 8)]
    assert found.values == "x2"


def test_a_key_vector_that_reads_the_query_head_is_stored_for_every_query_head() -> None:
    found = plan("score dot(q, k * u[h])", "u: real[H, D]")
    assert derived(found) == ["k H k * u[h]"]


def test_products_of_one_token_are_numbers_per_token() -> None:
    found = plan("score dot(q, k) + dot(u[h], k) + dot(q, q) + max[d](k)", "u: real[H, D]")
    assert derived(found) == ["k H dot(u[h], k)", "q H dot(q, q)", "k Hk max[d](k)"]
    assert dots(found) == [("q", "k", 8)]
    assert "x2[b, hk, c]" in print_expr(found.score)
    assert "x0[b, h, c]" in print_expr(found.score)
    assert "x1[b, h, r]" in print_expr(found.score)


def test_equal_operands_are_stored_once() -> None:
    found = plan("let f = elu(q) + 1; score dot(f, k) * dot(f, k) + dot(f, elu(k) + 1) + dot(normalize(f), k)")
    assert len(found.derived) == 3
    assert len(found.dots) == 3


def test_products_with_vectors_of_both_positions_are_summed_feature_by_feature() -> None:
    found = plan("score dot(q, r[h, min(abs(i - j), 3)]) + dot(q, r[h, min(abs(i - j), 3)])", "r: real[H, 4, D]")
    assert [(print_expr(pair.left), print_expr(pair.right), pair.dim) for pair in found.pair_dots] == [
        ("q", "r[h, min(abs(i - j), 3)]", 8)
    ]
    assert not found.dots


def test_lengths_are_those_of_the_mapped_vectors() -> None:
    found = plan("q = concat(q, x[b, h, i]); k = concat(k, y[b, hk, j])", "x: real[B, H, N, 3], y: real[B, Hk, M, 3]")
    assert dots(found) == [("x0", "x1", 11)]


@pytest.mark.parametrize(
    ("score", "title"),
    [
        ("dot(q, normalize(r[h, i - j]))", "a norm or inner product inside a vector that depends on both positions"),
        ("max[d](q * k)", "this reduction over features"),
        ("dot(q * log(1 + n_keys), k)", "`n_keys` in a token map or inside `dot`"),
    ],
)
def test_what_has_no_kernel_says_so(score: str, title: str) -> None:
    with pytest.raises(SpecError) as found:
        plan(f"mask drop[b, j]; score {score}", "r: real[H, 4, D], drop: bool[B, M]")
    assert [d.code for d in found.value.diagnostics] == ["E401"]
    assert title in found.value.diagnostics[0].title

"""Printed expressions are the language: reading them again gives the same expression."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attnc.ir.expr import Expr
from attnc.ir.module import AttentionModule
from attnc.ir.printer import print_expr, print_module, print_plan
from attnc.passes.pipeline import PlanOptions, make_plan
from tests.oracles.modules import module_of, standard
from tests.property import masks
from tests.property.specs import PARAMETERS, Spec, specs

HEADER = ", ".join(PARAMETERS.values())


def mask_of(text: str) -> Expr:
    return module_of(f"attention a({masks.HEADER}) {{ mask {text} }}").mask


@given(mask=masks.masks)
def test_printed_masks_read_back(mask: masks.Term) -> None:
    assume(not any(f"{index}.{axis}" in mask.text for index in "ij" for axis in "xy"))
    expr = mask_of(mask.text)
    assert mask_of(print_expr(expr)) == expr


@given(spec=specs())
def test_printed_scores_read_back(spec: Spec) -> None:
    score = module_of(spec.text).score
    again = module_of(f"attention a({HEADER}) {{ score {print_expr(score)} }}")
    assert print_expr(again.score) == print_expr(score)
    assert again.score == score


@pytest.mark.parametrize(
    "text",
    [
        "-dot(q, k) ^ 2.0",
        "(-dot(q, k)) ^ 2.0",
        "2.0 ^ 3.0 ^ dot(q, k)",
        "(scale ^ dot(q, k)) ^ 3.0",
        "scale - (dot(q, k) - 1.0)",
        "scale - dot(q, k) - 1.0",
        "scale / (dot(q, k) / 3.0)",
        "-(-dot(q, k))",
        "where(not (i < j) and (i == 0 or j == 0), scale, -1.5e-07)",
        "where(exists d in 0..3: i == j + d or j == d, scale, 0.0)",
        "where((exists d in 0..3: i == j + d) and j > 0, scale, 0.0)",
        "real((i & 3) + (j & 5 - i))",
        "real(i - (j - 3) % 4 * 2 // 3)",
        "dot(rope(q, i, theta: 50.0, dims: 4, interleaved: true), k)",
        "dot(normalize(q), normalize(k, eps: 0.001))",
        "sum[d](q) + max[d](k * 2.0) + mean[d](q * k)",
    ],
)
def test_brackets_stand_where_they_are_needed(text: str) -> None:
    score = module_of(f"attention a {{ score {text} }}").score
    assert module_of(f"attention a {{ score {print_expr(score)} }}").score == score


@settings(max_examples=30)
@given(data=st.data())
def test_all_levels_print_the_same_every_time(data: st.DataObject) -> None:
    module = module_of(data.draw(specs()).text)
    assert print_module(module) == print_module(module)
    assert print_expr(module.mask) in print_module(module)


def test_a_module_prints_one_fact_per_line() -> None:
    module = module_of(
        "normalizer n { m = max[j](s); w = exp(s - m); aux top = m }\n"
        "attention a(w: int dynamic in [1, 9), t: real[H, 2*N] learned in (0, 1]) {\n"
        "  grid (y: 3, x: N)\n  mask i - j < w\n  bias t[h, j]\n  normalizer n\n  out = 2 * o\n}"
    )
    assert print_module(module).splitlines() == [
        "attention a",
        "  dynamic w: int in [1, 9)",
        "  tensor t: real[H, 2 * N] learned in (0.0, 1.0]",
        "  grid q (y: 3, x: N) at 0",
        "  grid k (y: 3, x: N) at 0",
        "  mask   i - j < w",
        "  score  dot(q, k) * scale + t[h, j]",
        "  m = max[j](s)",
        "  w = exp(s - m)",
        "  value  v",
        "  output 2.0 * o",
        "  aux top = m",
    ]


def test_a_plan_prints_tiles_sweeps_and_results() -> None:
    module: AttentionModule = standard("softmax", causal=True)
    text = print_plan(make_plan(module, PlanOptions(64, 32)))
    assert text.startswith("plan of softmax, D = 64, Dv = 32\n")
    for part in ("full:", "partial:", "dot0 = q . k", "sweep 0:", "a0 = max s", "output", "aux lse ="):
        assert part in text

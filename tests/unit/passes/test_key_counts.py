"""key-counts: the closed form counts what the mask keeps, row by row, and is there for the masks of the library."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from attnc.ir.dependence import varies
from attnc.ir.evaluate import evaluate_exact
from attnc.ir.expr import Exists, Expr, Index, Lookup, int_const
from attnc.ir.printer import print_expr
from attnc.ir.traverse import substitute, walk
from attnc.passes.key_counts import count_keys
from attnc.passes.positions import Positions
from tests.oracles.modules import module_of
from tests.property.masks import Numbers, Term, affine_masks, keep, masks, numbers, spec_text

MANY = settings(max_examples=3 * settings().max_examples)
LENGTH = Lookup("len", (Index("b"),), Index("b").type)


def form_of(text: str) -> Expr | None:
    module = module_of(text)
    return count_keys(Positions(module, 16, 16).lower(module.mask))


def counted(form: Expr, here: Numbers) -> list[int]:
    """The closed form for every row of a call."""
    names = {"N": here.n, "M": here.m, "p": here.p, "w": here.w, "q_offset": here.q_offset, "k_offset": here.k_offset}
    known = substitute(form, {LENGTH: int_const(here.length)})
    rows = range(here.q_offset, here.q_offset + here.n)
    return [int(evaluate_exact(known, {**names, "b": 0, "h": 0, "hk": 0, "i": i})) for i in rows]


def _looks_up_rows(node: Expr) -> bool:
    return isinstance(node, Lookup) and node != LENGTH


def assert_counts(mask: Term, here: Numbers) -> None:
    form = form_of(spec_text(mask))
    if form is None or any(isinstance(node, Exists) or _looks_up_rows(node) for node in walk(form)):
        return  # the exact evaluation has neither
    assert not varies(form, "j")
    assert counted(form, here) == keep(mask, here.world()).sum(1).tolist()


@MANY
@given(mask=affine_masks, here=numbers)
def test_affine_masks(mask: Term, here: Numbers) -> None:
    assert_counts(mask, here)


@given(mask=masks, here=numbers)
def test_any_masks(mask: Term, here: Numbers) -> None:
    assert_counts(mask, here)


SIMPLE = {
    "true": "M",
    "j <= i": "max(0, min(k_offset + M - 1, i) - k_offset + 1)",
}


@pytest.mark.parametrize("mask", SIMPLE)
def test_forms_are_short(mask: str) -> None:
    form = form_of(f"attention a {{ mask {mask} }}")
    assert form is not None
    assert print_expr(form) == SIMPLE[mask]


COUNTED = [
    "0 <= i - j < w",
    "abs(i - j) <= w",
    "j <= i and (j < 4 or i - j < w)",
    "j <= i and j < len[b]",
    "j <= i or j < len[b]",
    "i // 64 == j // 64 and j <= i",
    "(i - j) % 3 == 0 and abs(i - j) <= 3 * w",
    "j % 4 == i % 4 or 0 <= i - j < 4",
    "h % 2 == 0 or j <= i",
    "i != j",
    "min(i - j, j) <= 3",
]


@pytest.mark.parametrize("mask", COUNTED)
@pytest.mark.parametrize("here", [Numbers(9, 9, 0, 0, 2, 3, 5, 0), Numbers(17, 11, 4, -3, 2, 5, 7, 0)], ids=str)
def test_usual_masks_have_a_form(mask: str, here: Numbers) -> None:
    form = form_of(f"attention a(w: int dynamic, len: int[B]) {{ mask {mask} }}")
    assert form is not None
    rows = [(i, range(here.k_offset, here.k_offset + here.m)) for i in range(here.q_offset, here.q_offset + here.n)]
    text = mask.replace("len[b]", str(here.length))
    names = {"w": here.w, "h": 0}
    expected = [sum(bool(eval(text, {**names, "i": i, "j": j})) for j in keys) for i, keys in rows]  # noqa: S307
    assert counted(form, here) == expected


def test_look_ups_by_key_have_none() -> None:
    assert form_of("attention a(seg: int[B, M]) { mask seg[b, i] == seg[b, j] }") is None

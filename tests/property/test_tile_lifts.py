"""Tile lifts of random masks against loops over blocks: their dense meaning, and what is computed instead of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import given, reject
from hypothesis import strategies as st

import attnc
from tests.property.masks import GRID, Numbers, Term, World, affine_masks, keep, masks, spec_text

_OPS: dict[str, Callable[[Any], Any]] = {"any": np.any, "all": np.all, "density": np.mean}
POINTS = int(np.prod(list(GRID.values())))
sizes = st.integers(1, 9)


def lift(op: str, body: Term, rows: int, keys: int) -> Term:
    """A lift as a term: a condition, or the density as a number."""

    def value(world: World) -> Any:
        kept = keep(body, world)
        row, key = world["i"][:, 0] // rows, world["j"][0] // keys
        found = np.zeros(kept.shape)
        for r, c in np.ndindex(*kept.shape):
            found[r, c] = _OPS[op](kept[np.ix_(row == row[r], key == key[c])])
        return found if op == "density" else found.astype(bool)

    return Term(f"{op}({body.text}, {rows}, {keys})", value)


def _compared(density: Term, bound: float) -> Term:
    return Term(f"{density.text} > {bound}", lambda world: density.value(world) > bound)


def lifted(bodies: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    """`any` and `all` over blocks."""
    return st.builds(lift, st.sampled_from(["any", "all"]), bodies, sizes, sizes)


densities = st.builds(
    _compared, st.builds(lift, st.just("density"), masks, sizes, sizes), st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.6])
)
nested = lifted(st.one_of(affine_masks, lifted(affine_masks)))
calls = st.builds(
    Numbers,
    n=st.integers(1, 12),
    m=st.integers(1, 12),
    q_offset=st.integers(0, 40),
    k_offset=st.integers(0, 40),
    p=st.integers(-5, 9),
    w=st.integers(-5, 9),
    length=st.integers(0, 9),
    seed=st.integers(0, 99),
)
aligned = st.builds(
    lambda n, call: Numbers(n, n, 0, 0, call.p, call.w, call.length, call.seed), st.integers(1, 40), calls
)


def check(mask: Term, call: Numbers, *, dense: bool) -> None:
    """The pairs that an op keeps: with logits of 0 and one-hot values, the weights that are not 0."""
    op = attnc.compile(source=spec_text(mask), backend="torch", tile=(16, 16))
    if "seg" in mask.text:  # the table of keys holds the positions of the queries
        call = replace(call, m=max(call.n, call.m), q_offset=call.k_offset)
    reads_grid = re.search(r"\b[ij]\.", mask.text) is not None
    if reads_grid and call.q_offset == call.k_offset == 0:
        call = replace(call, n=POINTS, m=POINTS)
    world, m = call.world(), call.m
    q, k = torch.zeros(1, 1, call.n, 16), torch.zeros(1, 1, m, 16)
    v = torch.eye(m).view(1, 1, m, m)
    tensors = {
        "len": torch.tensor([call.length]),
        "seg": torch.as_tensor(world["seg"](world["j"][0])).view(1, m),
        "table": torch.as_tensor(world["table"](np.arange(7))).view(1, 7),
    }
    offsets: dict[str, Any] = {"q_offset": call.q_offset, "k_offset": call.k_offset}
    if reads_grid and call.n != POINTS:  # parts of a grid are computed with offsets that are data
        offsets = {name: torch.tensor([offset]) for name, offset in offsets.items()}
    try:
        out = (op.reference if dense else op)(q, k, v, p=call.p, w=call.w, **offsets, **tensors)
    except attnc.SpecError as error:
        assert {diagnostic.code for diagnostic in error.diagnostics} == {"E401"}
        reject()
    assert np.array_equal((out[0, 0] != 0).numpy(), keep(mask, world))


@given(mask=st.one_of(lifted(masks), nested, densities), call=calls)
def test_the_dense_meaning_of_a_lift(mask: Term, call: Numbers) -> None:
    check(mask, call, dense=True)


@given(mask=st.one_of(nested, lifted(masks), densities), call=st.one_of(calls, aligned))
def test_what_is_computed_for_a_lift(mask: Term, call: Numbers) -> None:
    check(mask, call, dense=False)

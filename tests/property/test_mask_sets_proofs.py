"""Proofs, facts and intervals against brute force, for random masks, sizes and parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attnc.ir.build import compare
from attnc.ir.evaluate import evaluate_exact
from attnc.ir.expr import Expr, GridCoord, Index, Lookup, Param, Size, Value, int_const
from attnc.ir.traverse import transform
from attnc.ir.types import INT
from attnc.passes.facts import Fact, find_facts
from attnc.passes.mask_axes import separated
from attnc.passes.mask_intervals import Boxes
from attnc.passes.spans import Span
from attnc.passes.subjects import Subject
from attnc.prover import Counterexample, prove
from tests.oracles.modules import module_of
from tests.property.masks import GRID, HEADER, TABLE_WIDTH, Numbers, Term, affine_masks, keep, masks, spec_text

FEW = settings(max_examples=max(1, settings().max_examples // 3))
AXES = ", ".join(f"{name}: {extent}" for name, extent in GRID.items())
POINTS = int(np.prod(list(GRID.values())))


# -- intervals -------------------------------------------------------------------------------------------------------


@given(mask=masks, data=st.data())
def test_intervals_are_sound(mask: Term, data: st.DataObject) -> None:
    """What is decided of a box holds for each of its pairs."""
    n, m, count = 12, 13, 6
    start = data.draw(st.integers(-20, 20))
    here = Numbers(n, m, start, 0, data.draw(st.integers(-5, 9)), data.draw(st.integers(-5, 9)), 4, 0)
    table = keep(mask, here.world())
    edges = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.integers(0, m - 1), st.integers(0, m - 1))
    boxes = data.draw(st.lists(edges, min_size=count, max_size=count))
    i0, i1, j0, j1 = (np.array(column) for column in zip(*boxes))
    i0, i1, j0, j1 = np.minimum(i0, i1), np.maximum(i0, i1), np.minimum(j0, j1), np.maximum(j0, j1)
    leaves: dict[Expr, Span] = {
        Index("i"): Span.of(start + i0, start + i1),
        Index("j"): Span.of(j0, j1),
        Size("N"): Span.of(n),
        Size("M"): Span.of(m),
        Param("p", INT): Span.of(here.p),
        Lookup("len", (Index("b"),), INT): Span.of(here.length),
    }
    truth = Boxes(leaves).truth(Subject.of(module_of(spec_text(mask))).mask)
    may, must = np.broadcast_to(truth.may, count), np.broadcast_to(truth.must, count)
    for k in range(count):
        block = table[i0[k] : i1[k] + 1, j0[k] : j1[k] + 1]
        assert not must[k] or block.all()
        assert may[k] or not block.any()


@FEW
@given(mask=affine_masks, start=st.integers(-20, 20), p=st.integers(-5, 9))
def test_intervals_of_one_pair_decide(mask: Term, start: int, p: int) -> None:
    here = Numbers(9, 10, start, 0, p, 3, 4, 0)
    world = here.world()
    leaves: dict[Expr, Span] = {Index("i"): Span.of(world["i"]), Index("j"): Span.of(world["j"])}
    leaves |= {Size("N"): Span.of(9), Size("M"): Span.of(10), Lookup("len", (Index("b"),), INT): Span.of(4)}
    leaves |= {Param("p", INT): Span.of(p), Param("w", INT): Span.of(3)}
    truth = Boxes(leaves).truth(Subject.of(module_of(spec_text(mask))).mask)
    assert not truth.undecided.any()
    assert np.array_equal(np.broadcast_to(truth.must, (9, 10)), keep(mask, world))


# -- proofs ----------------------------------------------------------------------------------------------------------


def body(mask: Term) -> str:
    return f"{{grid ({AXES}); mask {mask.text}}}"


def _logic(op: str, a: Term, b: Term) -> Term:
    both = np.logical_and if op == "and" else np.logical_or
    return Term(f"(({a.text}) {op} ({b.text}))", lambda world: both(a.value(world), b.value(world)))


def holds(claim: str, tables: list[np.ndarray[Any, Any]], here: Numbers) -> bool:
    """Whether a claim is true of the tables of one call."""
    first, last = tables[0], tables[-1]
    world = here.world()
    match claim:
        case "causal":
            return not (first & (world["j"] > world["i"])).any()
        case "nonempty_rows":
            return bool(first.any(axis=1).all())
        case "symmetric":
            both = range(max(here.q_offset, here.k_offset), min(here.q_offset + here.n, here.k_offset + here.m))
            rows, columns = (np.array([x - start for x in both], int) for start in (here.q_offset, here.k_offset))
            square = first[np.ix_(rows, columns)]
            return bool((square == square.T).all())
        case "subset":
            return not (first & ~last).any()
        case "disjoint":
            return not (first & last).any()
        case _:
            return bool((first == last).all())


def _world(found: Counterexample) -> Numbers:
    sizes = found.sizes
    p, w = int(found.params.get("p", 0)), int(found.params.get("w", 0))
    return Numbers(sizes["N"], sizes["M"], sizes["q_offset"], sizes["k_offset"], p, w, 0, 0)


def tables_of(found: Counterexample, terms: list[Term]) -> list[np.ndarray[Any, Any]]:
    """The masks in the call of a counterexample, by numpy."""
    here = _world(found)
    b, h = found.sizes.get("b", 0), found.sizes.get("h", 0)
    seg, table, length = (np.array(found.tensors[name]) for name in ("seg", "table", "len"))
    world = {
        **here.world(),
        "len": length[b],
        "seg": lambda position: seg[b][np.clip(position - here.k_offset, 0, max(here.m - 1, 0))],
        "table": lambda index: table[h][np.clip(index, 0, TABLE_WIDTH - 1)],
    }
    return [keep(term, world) for term in terms]


claims = st.sampled_from(["causal", "nonempty_rows", "symmetric", "subset", "equal", "disjoint"])
small_masks = st.one_of(affine_masks, masks)
calls = st.builds(
    Numbers,
    n=st.integers(1, 9),
    m=st.just(POINTS),
    q_offset=st.integers(0, 6),
    k_offset=st.just(0),
    p=st.integers(-4, 9),
    w=st.integers(-4, 9),
    length=st.integers(-2, 12),
    seed=st.integers(0, 5),
)


@given(
    claim=claims, a=small_masks, b=small_masks, shape=st.integers(0, 4), tried=st.lists(calls, min_size=6, max_size=6)
)
def test_proofs_hold_and_counterexamples_refute(claim: str, a: Term, b: Term, shape: int, tried: list[Numbers]) -> None:
    causal = Term("j <= i", lambda world: world["j"] <= world["i"])
    pairs = [(a, b), (_logic("and", a, b), a), (a, _logic("or", b, a)), (_logic("and", a, causal), b), (a, a)]
    terms = list(pairs[shape])[: 2 if claim in ("subset", "equal", "disjoint") else 1]
    assume(sum(len(term.text) for term in terms) < 400)
    proof = prove(f"{claim}({', '.join(map(body, terms))})", declare=HEADER, assume=f"q_offset >= 0 and M == {POINTS}")
    if proof.verdict == "proved":
        for here in tried:
            assert holds(claim, [keep(term, here.world()) for term in terms], here), (proof, here)
    if proof.counterexample is not None:
        found = proof.counterexample
        assume(all(isinstance(value, list) for value in found.tensors.values()))
        assert not holds(claim, tables_of(found, terms), _world(found)), proof


# -- facts -----------------------------------------------------------------------------------------------------------


def _true(condition: Expr, here: Numbers) -> bool:
    names = {"N": here.n, "M": here.m, "p": here.p, "w": here.w, "q_offset": here.q_offset, "k_offset": here.k_offset}
    names |= {"b": 0, "h": 0, "hk": 0, "H": 1, "B": 1, "Hk": 1}

    def known(node: Expr) -> Expr:
        return int_const(here.length) if isinstance(node, Lookup) and node.indices == (Index("b"),) else node

    return bool(evaluate_exact(transform(condition, known), names))


def check(fact: Fact, value: bool, here: Numbers) -> None:
    """A fact agrees with what is the case."""
    match fact.verdict:
        case "always":
            assert value, fact
        case "never":
            assert not value, fact
        case "when":
            assert fact.condition is not None
            sure = _true(fact.condition, here)
            assert value or not sure, fact
            assert sure or not fact.exact or not value, fact
        case _:
            return


facts_calls = st.builds(
    Numbers,
    n=st.integers(1, 9),
    m=st.integers(1, 16),
    q_offset=st.integers(-4, 9),
    k_offset=st.integers(-4, 4),
    p=st.integers(-4, 9),
    w=st.integers(-4, 9),
    length=st.integers(-2, 12),
    seed=st.integers(0, 5),
)


@FEW
@given(mask=st.one_of(affine_masks, masks), tried=st.lists(facts_calls, min_size=5, max_size=5))
def test_facts_agree_with_brute_force(mask: Term, tried: list[Numbers]) -> None:
    facts = find_facts(module_of(spec_text(mask)))
    for here in tried:
        table = keep(mask, here.world())
        check(facts.nonempty_rows, holds("nonempty_rows", [table], here), here)
        check(facts.causal, holds("causal", [table], here), here)
        square = Numbers(max(here.n, 2), max(here.n, 2), here.k_offset, here.k_offset, here.p, here.w, here.length, 0)
        check(facts.symmetric, holds("symmetric", [keep(mask, square.world())], square), square)
        world = here.world()
        apart = (world["i"] - world["j"])[table] if table.any() else np.zeros(0)
        for bound, sign in ((facts.nearest, 1), (facts.farthest, -1)):
            if bound is not None and apart.size:
                limit = _value(bound, here)
                assert ((apart - limit) * sign >= 0).all(), (bound, limit, here)


def _value(bound: Expr, here: Numbers) -> int:
    low, high = -10_000, 10_000
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _at_most(bound, middle, here) else (middle + 1, high)
    return low


def _at_most(bound: Expr, value: int, here: Numbers) -> bool:
    return _true(compare("le", bound, int_const(value)), here)


# -- axes ------------------------------------------------------------------------------------------------------------


@FEW
@given(parts=st.lists(affine_masks, min_size=1, max_size=3), here=calls)
def test_separated_parts_make_the_mask(parts: list[Term], here: Numbers) -> None:
    """Their conjunction is the mask, and each reads no more than it says."""
    whole = parts[0]
    for part in parts[1:]:
        whole = _logic("and", whole, part)
    module = module_of(spec_text(whole))
    found = separated(module.mask)
    pieces = [*found.axes.values(), found.flat, found.uniform, found.rest]
    total = np.ones((here.n, here.m), bool)
    world = here.world()
    leaves: dict[Expr, Span] = {Index("i"): Span.of(world["i"]), Index("j"): Span.of(world["j"])}
    leaves |= {Size("N"): Span.of(here.n), Size("M"): Span.of(here.m), Value("q_offset", INT): Span.of(here.q_offset)}
    leaves |= {Param("p", INT): Span.of(here.p), Param("w", INT): Span.of(here.w)}
    leaves |= {Lookup("len", (Index("b"),), INT): Span.of(here.length)}
    for side, index in (("q", "i"), ("k", "j")):
        leaves[GridCoord(side, 0)] = Span.of(world[index] // GRID["x"])
        leaves[GridCoord(side, 1)] = Span.of(world[index] % GRID["x"])
    for piece in pieces:
        total = total & Boxes(leaves).truth(piece).must
    assert np.array_equal(total, keep(whole, world))

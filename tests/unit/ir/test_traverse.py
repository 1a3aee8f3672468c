"""Walking and rebuilding; which axes an expression varies along."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnc.ir.dependence import axes, conjuncts, is_key_clause, pair_axes, varies
from attnc.ir.expr import TRUE, Call, Exists, Expr, Index, Lookup, Reduce, Ref, Size, Value, Var, int_const
from attnc.ir.printer import print_expr
from attnc.ir.traverse import children, count_nodes, map_children, substitute, transform, walk
from attnc.ir.types import BOOL, INT, REAL, VectorType
from tests.oracles.modules import module_of
from tests.unit.ir.numeric import ints

LEAVES = (Index("i"), Index("j"), Size("N"))
expressions = ints(st.sampled_from(LEAVES), 3)


@given(expr=expressions)
def test_a_rewrite_that_changes_nothing_returns_the_same_object(expr: Expr) -> None:
    assert map_children(expr, lambda child: child) is expr
    assert transform(expr, lambda node: node) is expr
    assert substitute(expr, {Index("h"): int_const(0)}) is expr


@given(expr=expressions)
def test_walk_visits_every_node_once_parents_first(expr: Expr) -> None:
    nodes = list(walk(expr))
    assert nodes[0] is expr
    assert len(nodes) == count_nodes(expr) == 1 + sum(count_nodes(child) for child in children(expr))


@given(expr=expressions)
def test_substitution_replaces_every_occurrence(expr: Expr) -> None:
    changed = substitute(expr, {Index("i"): Index("j")})
    assert not any(node == Index("i") for node in walk(changed))
    assert count_nodes(changed) == count_nodes(expr)


def test_substituted_values_are_not_visited_again() -> None:
    swapped = substitute(Call("sub", (Index("i"), Index("j")), INT), {Index("i"): Index("j"), Index("j"): Index("i")})
    assert print_expr(swapped) == "j - i"


def test_all_kinds_of_children_are_rebuilt() -> None:
    body = Call("lt", (Index("i"), Var("d")), BOOL)
    nodes: list[Expr] = [
        Lookup("seg", (Index("b"), Index("i")), INT),
        Reduce("sum", "j", Index("i"), Index("i"), INT),
        Reduce("sum", "j", Index("i"), None, INT),
        Exists("d", Index("i"), Size("N"), body),
    ]
    for node in nodes:
        changed = transform(node, lambda n: Index("j") if n == Index("i") else n)
        assert type(changed) is type(node)
        assert Index("i") not in list(walk(changed))
        assert Index("j") in list(walk(changed))


HEADER = "seg: int[B, M], u: real[H, D], uk: real[Hk, D], len: int[B]"


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("scale", ""),
        ("real(i)", "i"),
        ("real(seg[b, j])", "bj"),
        ("dot(q, k)", "bhij"),
        ("dot(u[h], k)", "bhj"),
        ("dot(uk[hk], k)", "bj"),
        ("real(n_keys)", "bhi"),
        ("real(len[b] + N)", "b"),
    ],
)
def test_axes(score: str, expected: str) -> None:
    found = axes(module_of(f"attention a({HEADER}) {{ score {score} }}").score)
    assert found - {"hk"} == set(expected)


def test_a_reduction_takes_its_axis_away() -> None:
    total = Reduce("sum", "j", Value("s", REAL), None, REAL)
    assert not varies(total, "j")
    assert varies(total, "i")


def test_names_vary_as_told() -> None:
    assert axes(Ref("a0", VectorType(int_const(4)))) == {"i"}
    assert axes(Ref("dot0", REAL), {"dot0": frozenset("ij")}) == {"i", "j"}
    assert pair_axes(Call("add", (Index("r"), Index("c")), INT)) == {"i", "j"}


def test_clauses_of_a_mask() -> None:
    mask = module_of(
        f"attention a({HEADER}) {{ mask j < len[b] and (i < j or i == 3) and seg[b, j] > 0 and i > 1 }}"
    ).mask
    clauses = conjuncts(mask)
    assert [print_expr(clause) for clause in clauses] == ["j < len[b]", "i < j or i == 3", "seg[b, j] > 0", "i > 1"]
    assert [is_key_clause(clause) for clause in clauses] == [True, False, True, False]
    assert conjuncts(TRUE) == ()

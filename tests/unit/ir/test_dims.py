"""Dimensions: equality for all sizes, evaluation, text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnc.ir.dims import dim_text, dims_text, evaluate_dim, same_dim
from attnc.ir.expr import Call, Const, Expr, Index, Param, Reduce, Size, int_const
from attnc.ir.types import INT, REAL

L, N, D = Param("L", INT), Size("N"), Size("D")


def _call(fn: str, *args: Expr | int) -> Expr:
    return Call(fn, tuple(int_const(arg) if isinstance(arg, int) else arg for arg in args), INT)


TWICE = _call("sub", _call("mul", 2, L), 1)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (TWICE, _call("sub", _call("add", L, L), 1), True),
        (TWICE, _call("add", _call("sub", L, 1), L), True),
        (_call("mul", _call("add", L, 1), _call("sub", L, 1)), _call("sub", _call("mul", L, L), 1), True),
        (_call("floordiv", _call("add", N, N), 2), _call("floordiv", _call("mul", 2, N), 2), True),
        (_call("floordiv", N, 2), _call("floordiv", N, 3), False),
        (_call("neg", L), _call("sub", 0, L), True),
        (L, N, False),
        (TWICE, _call("mul", 2, L), False),
        (int_const(3), _call("add", 1, 2), True),
        (_call("min", L, N), _call("min", N, L), False),
    ],
)
def test_equality(a: Expr, b: Expr, same: bool) -> None:
    assert same_dim(a, b) is same
    assert same_dim(b, a) is same


def _trees() -> st.SearchStrategy[Expr]:
    leaves = st.one_of(st.integers(-3, 5).map(int_const), st.sampled_from((L, N, D)))
    names = st.sampled_from(("add", "sub", "mul", "min", "max", "floordiv", "neg"))

    def grow(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        return st.tuples(names, inner, inner).map(lambda t: _call(t[0], *(t[1:2] if t[0] == "neg" else t[1:])))

    return st.recursive(leaves, grow, max_leaves=6)


@given(_trees(), _trees(), st.tuples(*[st.integers(0, 9)] * 3))
def test_equal_dimensions_have_equal_values(a: Expr, b: Expr, sizes: tuple[int, int, int]) -> None:
    values = dict(zip(("L", "N", "D"), sizes))
    assert same_dim(a, a)
    assert same_dim(_call("add", a, b), _call("add", b, a))
    assert same_dim(_call("mul", a, b), _call("mul", b, a))
    try:
        numbers = evaluate_dim(a, values), evaluate_dim(b, values)
    except ZeroDivisionError:
        return
    if same_dim(a, b):
        assert numbers[0] == numbers[1]


def test_products_of_many_terms_stay_small() -> None:
    dim: Expr = int_const(1)
    for n in range(40):
        dim = _call("mul", dim, _call("add", Param(f"p{n}", INT), 1))
    assert same_dim(dim, dim)
    assert not same_dim(dim, _call("add", dim, 1))


def test_evaluation() -> None:
    assert evaluate_dim(TWICE, {"L": 5}) == 9
    assert evaluate_dim(_call("floordiv", _call("sub", N, 7), 2), {"N": 0}) == -4
    assert evaluate_dim(_call("pow", 2, L), {"L": 10}) == 1024
    with pytest.raises(KeyError):
        evaluate_dim(TWICE, {"N": 5})
    with pytest.raises(ValueError, match="power"):
        evaluate_dim(_call("pow", 9, L), {"L": 10**9})
    with pytest.raises(ValueError, match="not a dimension"):
        evaluate_dim(Index("i"), {"i": 3})
    with pytest.raises(ValueError, match="not a dimension"):
        evaluate_dim(Reduce("sum", "j", Const(1.0, REAL), None, REAL), {})


def test_text() -> None:
    assert dim_text(TWICE) == "2*L - 1"
    assert dim_text(_call("mul", 2, _call("sub", L, _call("add", N, 1)))) == "2*(L - (N + 1))"
    assert dim_text(_call("max", L, _call("neg", N))) == "max(L, -N)"
    assert dims_text((Size("B"), Size("H"), TWICE)) == "[B, H, 2*L - 1]"

"""Static parameters to constants, and everything that can be wrong with them."""

from __future__ import annotations

import math

import pytest

from attnc.diagnostics import Diagnostic, SpecError
from attnc.driver import select
from attnc.frontend.bind import bind
from attnc.ir.expr import TRUE, Call, Const, Index
from attnc.ir.printer import print_expr
from attnc.ir.types import INT
from tests.unit.frontend.texts import checked, module_of

TEXT = """
attention a(n: int = 4, w: int in [1, 64], r: real = 2, c: bool = true, d: int dynamic, t: real[2*n, H]) {
  grid (y: n, x: w)
  mask (not c or j <= i) and (i - j) % w == 0 and i < d
  score r * dot(q, k) + t[n + 1, h]
}
"""


def _errors(text: str, **params: object) -> tuple[Diagnostic, ...]:
    module = select(checked(text))
    with pytest.raises(SpecError) as caught:
        bind(module, params)
    return caught.value.diagnostics


def test_values_and_defaults_take_the_place_of_parameters() -> None:
    module = module_of(TEXT, w=8, c=False)
    assert print_expr(module.mask) == "(i - j) % 8 == 0 and i < d"
    assert print_expr(module.score) == "2.0 * dot(q, k) + t[5, h]"
    assert [scalar.name for scalar in module.scalars] == ["d"]
    assert module.tensors[0].dims[0] == Const(8, INT)
    assert module.grid_q is not None
    assert module.grid_q.extents == (Const(4, INT), Const(8, INT))


def test_parts_that_nothing_changes_are_kept() -> None:
    module = select(checked("attention a(n: int = 1) { mask i < n }"))
    bound = bind(module, {})
    assert bound.score is module.score
    assert bind(bound, {}).mask is bound.mask


def test_a_condition_that_holds_vanishes() -> None:
    assert module_of("attention a(c: bool = false) { mask not c or j <= i }").mask == TRUE
    assert module_of("attention a(c: bool = true) { mask not c or j <= i }").mask == Call(
        "le", (Index("j"), Index("i")), TRUE.type
    )


class Seven:
    """Like a numpy int."""

    def __index__(self) -> int:
        return 7

    def __float__(self) -> float:
        return 7.0


def test_other_kinds_of_numbers() -> None:
    assert print_expr(module_of(TEXT, w=Seven(), r=Seven()).score) == "7.0 * dot(q, k) + t[5, h]"
    assert print_expr(module_of(TEXT, w=8, r=3).score).startswith("3.0 *")


@pytest.mark.parametrize(
    ("params", "code", "words"),
    [
        ({"w": 8, "m": 3}, "E501", "its static parameters are `n`, `w`, `r`, `c`"),
        ({"w": 8, "d": 3}, "E501", "`d` is dynamic: give it at the call"),
        ({"w": 8, "t": 3}, "E501", "`t` is a tensor: give it at the call"),
        ({}, "E502", "without a default"),
        ({"w": 2.5}, "E503", "must be an int of 64 bits, not 2.5"),
        ({"w": 2.0}, "E503", "must be an int of 64 bits, not 2.0"),
        ({"w": True}, "E503", "must be an int of 64 bits, not True"),
        ({"w": "8"}, "E503", "must be an int of 64 bits, not '8'"),
        ({"w": 1 << 63}, "E503", "must be an int of 64 bits"),
        ({"w": 8, "r": math.nan}, "E503", "must be a finite number, not nan"),
        ({"w": 8, "r": math.inf}, "E503", "must be a finite number, not inf"),
        ({"w": 8, "r": 10**400}, "E503", "must be a finite number"),
        ({"w": 8, "r": "1"}, "E503", "must be a finite number"),
        ({"w": 8, "r": False}, "E503", "must be a finite number, not False"),
        ({"w": 8, "r": None}, "E503", "must be a finite number, not None"),
        ({"w": 8, "c": 1}, "E503", "must be a bool, not 1"),
        ({"w": 65}, "E504", "is 65, outside [1, 64]"),
        ({"w": 0}, "E504", "is 0, outside [1, 64]"),
        ({"w": 8, "n": 0}, "E505", "the extent of `y` must be at least 1, not 0"),
        ({"w": 8, "n": -1}, "E505", "a dimension of `t` must be at least 0, not -2"),
        ({"w": 8, "n": 1 << 62}, "E330", "beyond 64 bits"),
    ],
)
def test_wrong_parameters(params: dict[str, object], code: str, words: str) -> None:
    found = _errors(TEXT, **params)
    assert code in [error.code for error in found]
    shown = " ".join(f"{error.title} {error.primary.text if error.primary else ''} {error.help}" for error in found)
    assert words in shown


def test_all_wrong_parameters_are_reported() -> None:
    assert [error.code for error in _errors(TEXT, x=1, n=1.5, c=0)] == ["E501", "E503", "E502", "E503"]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ("i % n == 0", "division by zero"),
        ("i // (n - 3) == 0", "a divisor must be at least 1, not -3"),
        ("i < 2 ^ (n - 1)", "an int to a negative power"),
        ("exists d in 0..200 + n: i == d", "the range of `exists` must be at most 128 values, not 200"),
        ("exists d in n - 1..3: i == 2 ^ d", "the exponent `d` must be at least 0, not from -1"),
        ("i < 9 ^ (n + 99)", "an int beyond 64 bits"),
        ("i < 1 % n", "division by zero"),
        ("exists a in n..64: exists c in n..65: i == a + c", "nested `exists` must be at most 4096"),
    ],
)
def test_what_becomes_wrong_with_the_values(mask: str, words: str) -> None:
    assert words in _errors(f"attention a(n: int) {{ mask {mask} }}", n=0)[0].title


def test_an_empty_range_holds_nothing() -> None:
    assert print_expr(module_of("attention a(n: int) { mask j < i or exists d in n..n: i == d }", n=3).mask) == "j < i"

"""Intervals hold every value that an expression can take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attnc.ir.expr import Call, Expr, GridCoord, Index, Lookup, Param, Size, Value, int_const
from attnc.ir.intervals import INT32, INT64, MAX_POSITION, Interval, interval
from attnc.ir.traverse import walk
from attnc.ir.types import INT
from tests.unit.ir.numeric import ints, value

SEG = Lookup("seg", (Index("b"), Index("c")), INT)
TABLE = Lookup("table", (Index("h"),), INT)
SIGNED = st.one_of(st.integers(-50, 50), st.sampled_from([-MAX_POSITION, MAX_POSITION, -(2**29), 2**29]))
COUNTS = st.one_of(st.integers(0, 50), st.sampled_from([MAX_POSITION, 2**29]))
ANY_32 = st.one_of(st.integers(-50, 50), st.sampled_from([-INT32, INT32 - 1]))
#: Leaves of plans and the values that they take in narrow kernels.
LEAVES: dict[Expr, st.SearchStrategy[int]] = {
    Index("i"): SIGNED,
    Index("j"): SIGNED,
    Index("r"): COUNTS,
    Index("c"): COUNTS,
    Index("b"): COUNTS,
    Index("hk"): COUNTS,
    Size("N"): COUNTS,
    Size("M"): COUNTS,
    Value("q_offset", INT): SIGNED,
    Value("k_offset", INT): SIGNED,
    Param("w", INT): ANY_32,
    SEG: ANY_32,
    TABLE: st.integers(3, 8),
}
KNOWN = {"table": Interval(3, 8)}
numbers = st.fixed_dictionaries(dict(LEAVES))
expressions = ints(st.sampled_from(list(LEAVES)), 3)


@settings(max_examples=10 * settings().max_examples)
@given(expr=expressions, leaves=numbers)
def test_every_value_lies_in_the_interval(expr: Expr, leaves: dict[Expr, Any]) -> None:
    parts = [(node, value(node, leaves)) for node in walk(expr) if isinstance(node, Call) and node.type == INT]
    assume(all(-INT64 <= found < INT64 for _, found in parts))
    for node, found in parts:
        bounds = interval(node, KNOWN)
        assert bounds.low <= found <= bounds.high, node


def test_what_is_known_of_a_tensor_is_used() -> None:
    assert interval(TABLE) == Interval(-INT32, INT32 - 1)
    assert interval(TABLE, KNOWN) == Interval(3, 8)


def _call(fn: str, *args: Expr | int) -> Call:
    return Call(fn, tuple(int_const(arg) if isinstance(arg, int) else arg for arg in args), INT)


ROW, KEY, COLUMN = Index("i"), Index("j"), Index("c")


@pytest.mark.parametrize(
    ("expr", "fits"),
    [
        (_call("sub", ROW, KEY), True),
        (_call("add", ROW, KEY), True),
        (_call("add", _call("add", ROW, KEY), 1), True),
        (_call("add", _call("add", ROW, KEY), COLUMN), False),
        (_call("mul", ROW, 3), False),
        (_call("mul", _call("floordiv", ROW, 4), 3), True),
        (_call("mod", _call("floordiv", KEY, 3), 5), True),
        (_call("sub", ROW, Param("w", INT)), False),
        (_call("min", _call("max", ROW, 0), 9), True),
        (_call("mul", _call("min", _call("max", ROW, 0), 9), 1000), True),
    ],
)
def test_which_expressions_fit_32_bits(expr: Expr, fits: bool) -> None:
    assert interval(expr).fits_32 == fits


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        (_call("mod", ROW, 7), Interval(0, 6)),
        (_call("mod", TABLE, 100), Interval(3, 8)),
        (_call("abs", _call("sub", TABLE, 10)), Interval(2, 7)),
        (_call("floordiv", _call("sub", TABLE, 10), 4), Interval(-2, -1)),
        (_call("bitand", ROW, 15), Interval(0, 15)),
        (_call("bit_length", ROW), Interval(0, 64)),
        (_call("relu", _call("neg", TABLE)), Interval(0, 0)),
        (GridCoord("q", 1), Interval(0, MAX_POSITION)),
    ],
)
def test_tight_bounds(expr: Expr, expected: Interval) -> None:
    assert interval(expr, KNOWN) == expected

"""A builtin has a meaning on tensors and a text in Triton, or its own place in the emitter."""

from __future__ import annotations

from attnc.codegen.expr_triton import HELPERS, STRUCTURAL, TRITON
from attnc.eager import FUNCTIONS
from attnc.ir.builtins import BUILTINS


def test_every_builtin_has_its_rows() -> None:
    assert FUNCTIONS.keys() == BUILTINS.keys()
    assert TRITON.keys() | STRUCTURAL == BUILTINS.keys()
    assert not TRITON.keys() & STRUCTURAL


def test_triton_rows_take_as_many_operands_as_the_builtin_has() -> None:
    for name, row in TRITON.items():
        arity = BUILTINS[name].arity
        names = [f"operand{n}" for n in range(arity)]
        assert all(operand in row.format(*names) for operand in names), name
        assert f"{{{arity}}}" not in row, name


def test_helpers_need_only_helpers() -> None:
    assert {needed for needs, _ in HELPERS.values() for needed in needs} <= HELPERS.keys()

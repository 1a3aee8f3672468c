"""Modules and plans as text and back."""

from __future__ import annotations

import json

import pytest

from attnc.compiler import compile_module
from attnc.ir.build import add
from attnc.ir.expr import Const, Index, int_const
from attnc.ir.plan import PlanOptions
from attnc.ir.serialize import MalformedError, dumps, loads
from attnc.ir.types import REAL
from attnc.passes.pipeline import make_plan
from tests.oracles.cases import cases
from tests.oracles.modules import last_stage, standard

ONE_CASE_EACH = {case.name: case for case in cases()}


@pytest.mark.parametrize("name", ONE_CASE_EACH)
def test_modules_and_plans_come_back_as_they_were(name: str) -> None:
    module = last_stage(standard(name, **ONE_CASE_EACH[name].params))
    assert loads(dumps(module)) == module
    assert dumps(loads(dumps(module))) == dumps(module)
    plan = make_plan(module, PlanOptions(32, 32))
    assert loads(dumps(plan)) == plan


def test_spans_come_back_or_are_left_out() -> None:
    module = compile_module(None, source="attention a { mask j <= i }", params={})
    again = loads(dumps(module))
    assert (again.mask.span.text, again.mask.span.line) == ("j <= i", 1)
    other = compile_module(None, source="\n\nattention a { mask   j <= i }", params={})
    assert dumps(other) != dumps(module)
    assert dumps(other, spans=False) == dumps(module, spans=False)


def test_what_is_shared_stays_shared() -> None:
    expr = add(Index("i"), int_const(1))
    for _ in range(60):
        expr = add(expr, expr)
    text = dumps(expr)
    assert len(text) < 10_000
    again = loads(text)
    assert again.args[0] is again.args[1]


@pytest.mark.parametrize("value", [True, 1, 1.0, -0.0, float("inf"), float("nan"), 2**62])
def test_numbers_keep_kind_and_value(value: float) -> None:
    again = loads(dumps(Const(value, REAL))).value
    assert (type(again), repr(again)) == (type(value), repr(value))


@pytest.mark.parametrize(
    "text",
    ["", "[]", '[["os"],["n",0]]', '[["Index"],["n",0]]', '[["n",0]]', '[["x",0]]', "{}", "[" * 100_000],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        loads(text)


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="cannot be written"):
        dumps((object(),))


def test_names_of_classes_are_looked_up_in_a_table() -> None:
    with pytest.raises(MalformedError, match="KeyError"):
        loads(json.dumps([["Popen", ["t", "ls"]], ["n", 0]]))

"""Every file of the standard library in C++ against the oracle: sizes, dtypes, heads, layouts, offsets, packing.

By default each file is called once, with the parameters of its oracle and what hypothesis draws beside them (the same
in every run); the slow test calls each many times and draws the parameters, too. Memory that a kernel has not written
yet holds NaN here.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from attnc.codegen import launch_cpp
from attnc.codegen.cpp_build import load_library
from attnc.diagnostics import CallError, SpecError
from attnc.drawing import Case, UndrawableError
from attnc.verify import Target
from attnc.verify_cases import LIMITS, cases
from tests.oracles.cases import cases as oracle_cases
from tests.property.agreement import assert_agrees

NAMES = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "stdlib").glob("*.attn"))
FEATURES = (1, 5, 16, 33, 64, 80, 128, 256)
QUIET = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))


PARAMS = {case.name: dict(case.params) for case in reversed(oracle_cases())}


@pytest.fixture(autouse=True)
def _nothing_is_zero_by_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays and buffers without a value begin as NaN."""

    def load(source: str) -> object:
        arrays = re.compile(r"^( +alignas\(64\) float (\w+)\[.*\];)$", re.MULTILINE)
        text, count = arrays.subn(r"\1 for (auto& x : \2) x = NAN;", source)
        buffer = "size = data ? floats : 0;"
        assert count
        assert buffer in text
        return load_library(text.replace(buffer, buffer + " for (size_t n = 0; n < size; n++) data[n] = NAN;"))

    monkeypatch.setattr(launch_cpp, "load_library", load)


def call(name: str, data: st.DataObject, params: dict[str, Any]) -> None:
    """One drawn call of a file; what the op refuses is no call."""
    target = Target(f"std:{name}", "cpp", params=params)
    module = target.load()
    drawn = data.draw(
        cases(module, lambda static: target.compile(module, static).module, tuple(params.items()), LIMITS["cpp"])
    )
    assume(drawn.queries > 0 and drawn.keys > 0)
    dims = [data.draw(st.sampled_from(FEATURES)) for _ in range(2)]
    case: Case = replace(drawn, head_dim=dims[0], value_dim=dims[1])
    try:
        assert_agrees(target.compile(module, case.static), case)
    except (CallError, UndrawableError):
        reject()
    except SpecError as error:
        if {diagnostic.code for diagnostic in error.diagnostics} != {"E403"}:  # a rotation of an odd number of features
            raise
        reject()


@pytest.mark.parametrize("name", NAMES)
@settings(QUIET, max_examples=1)
@given(data=st.data())
def test_a_call_of_every_file(name: str, data: st.DataObject) -> None:
    call(name, data, PARAMS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(QUIET, max_examples=25)
@given(data=st.data())
def test_many_calls_of_every_file(name: str, data: st.DataObject) -> None:
    call(name, data, {})

"""Random specs: what the back ends compute is what the oracle says, under the rule for errors of `attnc.verify`."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, reject, settings
from hypothesis import strategies as st

import attnc
from attnc.drawing import Case
from tests.property.agreement import assert_agrees
from tests.property.specs import Spec, cases, specs

FEW = settings(max_examples=max(1, settings().max_examples // 3))  # each compiles a module
MANY = settings(max_examples=3 * settings().max_examples)
calls = specs().flatmap(lambda spec: st.tuples(st.just(spec), cases(spec)))
tiles = st.sampled_from([(16, 16), (32, 16), (16, 32)])


def check(spec: Spec, case: Case, backend: str, tile: tuple[int, int]) -> None:
    """The output and every statistic of one call."""
    op = attnc.compile(source=spec.text, backend=backend, tile=tile)
    try:
        assert_agrees(op, case)
    except attnc.SpecError as error:
        if {diagnostic.code for diagnostic in error.diagnostics} <= {"E401"}:
            reject()  # it has a meaning but no kernel, and the message says so
        raise


@MANY
@given(call=calls, tile=tiles)
def test_the_torch_back_end_computes_random_specs(call: tuple[Spec, Case], tile: tuple[int, int]) -> None:
    check(*call, "torch", tile)


@given(call=calls, tile=tiles)
def test_interpreted_kernels_compute_random_specs(call: tuple[Spec, Case], tile: tuple[int, int]) -> None:
    check(*call, "interpret", tile)


def several_tiles(call: tuple[Spec, Case]) -> tuple[Spec, Case]:
    """The call with five times the tokens, where they are not packed: tiles of C++ are of 64 keys."""
    spec, case = call
    return spec, case if case.documents else replace(case, queries=5 * case.queries, keys=5 * case.keys)


@FEW
@given(call=st.one_of(calls, calls.map(several_tiles)))
def test_cpp_computes_random_specs(call: tuple[Spec, Case]) -> None:
    check(*call, "cpp", (64, 64))

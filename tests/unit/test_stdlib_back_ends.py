"""stdlib/: back ends compute what tests/oracles says, and parameters out of range are diagnostics."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

import attnc
from attnc.diagnostics import SpecError
from attnc.driver import check, load_spec, select
from attnc.ir.module import ScalarParam
from attnc.verify import allowed_error, largest_error
from tests.oracles.cases import Case, cases, draw
from tests.oracles.dense import Problem, attend
from tests.oracles.grids import GRIDS
from tests.oracles.mechanisms import MECHANISMS
from tests.oracles.modules import standard
from tests.oracles.patterns import PATTERNS
from tests.oracles.scores import SCORES

NAMES = sorted({*PATTERNS, *GRIDS, *SCORES} - {"neighborhood_1d", "neighborhood_2d", "neighborhood_3d"})
MASKS = [case for case in cases() if case.name in NAMES]
FIRST = {case.name: case for case in reversed(MASKS)}


def assert_agree(case: Case, *backends: Literal["torch", "interpret", "cpp"]) -> None:
    """Single-precision inputs; the error is at most twice that of the oracle computed in single precision."""
    drawn = draw(case)
    q, k, v = (x.detach().float() for x in (drawn.q, drawn.k, drawn.v))
    tensors = {name: t.detach().float() if t.is_floating_point() else t for name, t in drawn.tensors.items()}
    p = drawn.problem
    plain, _ = attend(MECHANISMS[case.name], Problem(q, k, v, p.i, p.j, p.params, tensors, p.scale))
    exact, _ = attend(
        MECHANISMS[case.name], Problem(q.double(), k.double(), v.double(), p.i, p.j, p.params, tensors, p.scale)
    )
    for backend in backends:
        op = attnc.compile(f"std:{case.name}", params=dict(case.params), backend=backend, tile=(16, 16))
        out = op(q, k, v, scale=case.scale, **tensors, **drawn.offsets)
        assert largest_error(out, exact) <= allowed_error(exact, plain, torch.float32), backend


@pytest.mark.parametrize("name", NAMES)
def test_a_case_of_every_file_agrees(name: str) -> None:
    assert_agree(FIRST[name], "torch", "interpret", "cpp")


OTHERS = [case for case in MASKS if case is not FIRST[case.name]]


@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_other_cases_agree_on_the_torch_back_end(case: Case) -> None:
    assert_agree(case, "torch")


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_other_cases_agree_on_the_interpreter_and_in_cpp(case: Case) -> None:
    assert_agree(case, "interpret", "cpp")


def _has_low(param: ScalarParam) -> bool:
    """Whether an integer parameter has a least value, be it that of another parameter."""
    return param.range is not None and (param.range.low is not None or param.range.low_of is not None)


def _low(param: ScalarParam) -> int:
    """The least value that an integer parameter takes; 1 for that of another parameter."""
    assert param.range is not None
    return 1 if param.range.low is None else int(param.range.low) + param.range.low_open


@pytest.mark.parametrize("name", NAMES)
def test_windows_and_extents_below_their_range_are_refused(name: str) -> None:
    params = select(check(load_spec(f"std:{name}")), None).scalars
    integers = [param for param in params if param.type.kind == "int"]
    assert all(map(_has_low, integers))
    for param in integers:
        with pytest.raises(SpecError, match=f"`{param.name}`"):
            standard(name, **{**FIRST[name].params, param.name: _low(param) - 1})

"""The number of sweeps is derived from the algebra of a cascade, not from its name or from how it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import attnc
from attnc.ir.module import AttentionModule
from attnc.passes.pipeline import PlanOptions, lower_module
from tests.oracles.modules import module_of, standard
from tests.property.cascades import Built, built, renamed, rewritten

#: Sweeps over the keys that the mechanisms need.
SWEEPS = {
    "softmax": 1, "softmax_sink": 1, "sigmoid": 1, "softplus_l1": 1, "relu2": 1, "mala": 1, "urpe": 1, "parallax": 1,
    "ssmax": 1, "selective_temperature": 1, "linear": 1, "based_taylor": 1, "performer": 1, "differential": 1,
    "softplus_reweighted": 2,
}  # fmt: skip
PARAMS = {"mala": {"height": 4, "width": 4}, "urpe": {"L": 5}, "performer": {"F": 8}}


def sweeps(module: AttentionModule) -> int:
    return len(lower_module(module, PlanOptions(8, 8)).sweeps)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", SWEEPS)
def test_mechanisms_of_the_library(name: str, causal: bool) -> None:
    params = PARAMS.get(name, {})
    given_params = params if name == "mala" else {**params, "causal": causal}
    assert sweeps(standard(name, **given_params)) == SWEEPS[name]


@pytest.mark.parametrize("name", SWEEPS)
@given(data=st.data())
def test_renamed_and_rewritten_copies(name: str, data: st.DataObject) -> None:
    module = data.draw(rewritten(renamed(standard(name, **PARAMS.get(name, {})))))
    assert sweeps(module) == SWEEPS[name]


@given(cascade=built())
def test_random_cascades(cascade: Built) -> None:
    module = module_of(f"normalizer n {{ {cascade.text} }}\nattention a {{ mask j <= i; normalizer n }}")
    assert sweeps(module) == cascade.sweeps


@pytest.mark.parametrize(("name", "expected"), [("reversed", 2), ("flow", 3)])
def test_statistics_over_the_queries_are_sweeps_of_their_own(name: str, expected: int) -> None:
    found = attnc.compile(f"std:{name}", backend="torch").explain(64).sweeps
    assert len(found) == expected
    assert found[-2].startswith("over the queries of each key: ")

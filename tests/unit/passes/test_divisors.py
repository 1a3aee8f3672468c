"""divisors: what can be 0 in a row with keys is found, what cannot is left alone."""

from __future__ import annotations

import pytest

from attnc.driver import check, load_spec, stdlib_names
from attnc.passes.divisors import zero_divisors
from tests.oracles.modules import module_of

FOUND = {
    "a = relu(s); w = a / sum[j](a)": ["sum[j](a)"],
    "w = s / sum[j](s)": ["sum[j](s)"],
    "w = dot(q, k) / sum[j](dot(q, k))": ["sum[j](dot(q, k))"],
    "z = sum[j](abs(s)); w = s / z": ["z"],
    "w = s / sqrt(sum[j](s * s))": ["sqrt(sum[j](s * s))"],
    "w = 1.0 / count[j](j < i - 3)": ["count[j](j < i - 3)"],
    "w = s / max[j](s)": ["max[j](s)"],
    "w = exp(s); aux r = 1 / sum[j](s - mean[j](s))": ["sum[j](s - mean[j](s))"],
}
SOUND = [
    "m = max[j](s); p = exp(s - m); w = p / sum[j](p)",
    "a = relu(s); w = a / (sum[j](a) + 1e-6)",
    "a = relu(s); w = a / max(sum[j](a), 1e-6)",
    "a = relu(s); z = sum[j](a); w = where(z > 0, a / z, 0.0)",
    "w = s / n_keys / M / count[j]",
    "a = dot(elu(q) + 1, elu(k) + 1); w = a / sum[j](a)",
    "w = s / sqrt(sum[j](s ^ 2) + 1)",
    "a = exp(s); m = max[j](a); w = a / m",
]


@pytest.mark.parametrize("cascade", FOUND)
def test_divisors_that_can_vanish(cascade: str) -> None:
    module = module_of(f"normalizer n {{ {cascade} }}\nattention a {{ normalizer n }}")
    assert [found.span.text for found in zero_divisors(module)] == FOUND[cascade]


@pytest.mark.parametrize("cascade", SOUND)
def test_divisors_that_cannot(cascade: str) -> None:
    module = module_of(f"normalizer n {{ {cascade} }}\nattention a {{ normalizer n }}")
    assert zero_divisors(module) == ()


@pytest.mark.parametrize("name", stdlib_names())
def test_the_library_divides_by_nothing_that_vanishes(name: str) -> None:
    assert [found for module in check(load_spec(f"std:{name}")).modules for found in zero_divisors(module)] == []

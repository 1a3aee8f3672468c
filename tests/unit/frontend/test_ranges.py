"""Ranges whose bounds read earlier parameters: what is read, what binding makes of them, what is refused."""

from __future__ import annotations

import pytest

from attnc.diagnostics import Diagnostic, SpecError
from attnc.driver import select
from attnc.frontend.bind import bind
from attnc.ir.expr import Param
from attnc.ir.module import Range
from attnc.ir.printer import print_module
from attnc.ir.ranges import range_text
from attnc.ir.serialize import dumps, loads
from attnc.ir.types import INT
from tests.unit.frontend.texts import checked, codes_of

TEXT = """
attention a(
  length: int in [1, inf), window: int in [1, length], stride: int in [1, window] = 1,
  dilation: int in [1, length // window] = 2, gain: real in (-window, 1.5 * stride) = 0.5
) {
  mask i - j < window * stride * dilation
  score gain * dot(q, k)
}
"""


def _errors(text: str, **params: object) -> list[Diagnostic]:
    with pytest.raises(SpecError) as caught:
        bind(select(checked(text)), params)
    return list(caught.value.diagnostics)


def test_bounds_are_typed_expressions() -> None:
    module = checked(TEXT).modules[0]
    window, gain = module.scalars[1].range, module.scalars[4].range
    assert window == Range(1, None, high_open=False, high_of=Param("length", INT))
    assert gain is not None
    assert range_text(gain) == "(real(-window), 1.5 * real(stride))"
    assert "  static dilation: int in [1, length // window] = 2\n" in print_module(module)


def test_bounds_are_written_and_read_back() -> None:
    module = checked(TEXT).modules[0]
    assert loads(dumps(module)) == module


def test_no_parameter_counts_as_unused_that_a_bound_reads() -> None:
    assert not checked("attention a(n: int, m: int in [0, n]) { mask i < m }").warnings


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"window": 17}, "parameter `window` is 17, outside [1, length] = [1, 16]"),
        ({"window": 8, "stride": 9}, "parameter `stride` is 9, outside [1, window] = [1, 8]"),
        ({"window": 6, "dilation": 3}, "parameter `dilation` is 3, outside [1, length // window] = [1, 2]"),
        ({"window": 9}, "parameter `dilation` is 2 by default, outside [1, length // window] = [1, 1]"),
        ({"window": 2, "gain": -2}, "is -2, outside (real(-window), 1.5 * real(stride)) = (-2, 1.5)"),
        ({"window": 2, "gain": 1.5}, "is 1.5, outside (real(-window), 1.5 * real(stride)) = (-2, 1.5)"),
        ({"window": 0}, "parameter `window` is 0, outside [1, length] = [1, 16]"),
    ],
)
def test_values_outside_of_a_range(params: dict[str, float], message: str) -> None:
    (error,) = _errors(TEXT, length=16, **params)
    assert error.code == "E504"
    assert message in error.title


STEPS = "attention a(n: int in [1, inf), m: int in [n, 40, n) = 8, p: int in (1, 9, 4] = 5) { mask i < m + p }"


def test_ranges_in_steps() -> None:
    module = checked(STEPS).modules[0]
    assert "  static m: int in [n, 40, n) = 8\n" in print_module(module)
    assert loads(dumps(module)) == module
    for n, m in ((1, 39), (4, 8), (8, 8), (13, 39)):
        bind(select(checked(STEPS)), {"n": n, "m": m, "p": 9})
    (error,) = _errors(STEPS, n=3)
    assert error.title == "parameter `m` is 8 by default, outside [n, 40) in steps of n = [3, 40) in steps of 3"
    assert [error.code for error in _errors(STEPS, n=1, p=4)] == ["E504"]


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("n: int in [4, inf, 0)", "a step is at least 1"),
        ("n: real in [4, inf, 2)", "only that of a static int has steps"),
        ("n: int dynamic in [0, 4, 2)", "only that of a static int has steps"),
        ("n: int in (-inf, 4, 2)", "steps are counted from its lowest value"),
    ],
)
def test_ranges_without_steps(header: str, why: str) -> None:
    (error,) = _errors(f"attention a({header}) {{ mask i < n }}", n=4)
    assert error.code == "E317"
    assert why in error.title


def test_the_sizes_stand_in_the_note() -> None:
    (error,) = _errors(TEXT, length=16, window=6, dilation=3)
    assert error.note == "here length = 16, window = 6"


def test_a_wrong_parameter_is_no_second_error_of_those_that_read_it() -> None:
    assert [error.code for error in _errors(TEXT, length=0, window=3, stride=5)] == ["E504", "E504"]
    assert [error.code for error in _errors(TEXT, stride=5)] == ["E502", "E502"]


def test_values_inside_of_a_range() -> None:
    assert bind(checked(TEXT).modules[0], {"length": 16, "window": 8, "stride": 8}).scalars == ()


def test_bounds_without_a_value() -> None:
    text = "attention a(n: int, m: int in [0, 8 // n], x: real in [0, log(n)] = 0) { mask i < m; score x }"
    assert [error.code for error in _errors(text, n=0, m=1)] == ["E330"]
    text = "attention a(n: int, x: real in [0, log(n)] = 0) { mask i < n; score x }"
    (error,) = _errors(text, n=0)
    assert (error.code, error.title) == ("E505", "a bound of the range of `x` must be a number, not `log(0.0)`")


def test_ranges_of_other_declarations_have_no_bounds_to_read() -> None:
    assert codes_of("mask m(w: int, n: int in [1, w]) = i - j < n * w") == ["E317"]

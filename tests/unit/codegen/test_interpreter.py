"""Running in the interpreter leaves Triton as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import triton.language as tl
from triton.language import core, standard

import attnc
from attnc.codegen.interpreter import plain_function, replaced_functions


def library() -> dict[str, object]:
    """The functions of triton.language."""
    return {
        f"{module.__name__}.{name}": value
        for module in (tl, standard, core, tl.math)
        for name, value in vars(module).items()
        if callable(value)
    }


def test_a_run_restores_the_library() -> None:
    before = library()
    attnc.compile("std:softmax", backend="interpret")(*(torch.randn(1, 1, 5, 4) for _ in range(3)))
    assert library() == before


def test_a_run_that_fails_restores_the_library() -> None:
    before = library()

    def fails() -> None:
        with replaced_functions(plain_function):
            assert library() != before
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fails()
    assert library() == before


def test_two_ops_run_in_turns() -> None:
    tensors = tuple(torch.randn(1, 1, 5, 4) for _ in range(3))
    ops = [attnc.compile(name, backend="interpret") for name in ("std:softmax", "std:relu2")]
    first = [op(*tensors) for op in ops]
    assert all(torch.equal(op(*tensors), out) for op, out in zip(ops, first))


def test_numbers_that_are_not_finite_cause_no_warning_of_numpy() -> None:
    """Rows without keys divide 0 by 0; pytest turns warnings into errors."""
    op = attnc.compile("std:causal", backend="interpret")
    out = op(*(torch.randn(1, 1, 5, 4) for _ in range(3)), q_offset=-3)
    assert out[:, :, :3].eq(0).all()


def test_the_interpreter_works_where_triton_was_never_imported_before() -> None:
    code = (
        "import torch, attnc; op = attnc.compile('std:causal', backend='interpret'); q = torch.ones(1, 1, 3, 4);"
        "assert torch.equal(op(q, q, q), q)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)

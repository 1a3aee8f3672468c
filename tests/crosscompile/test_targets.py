"""Emitted kernels compile for every target without a GPU, within its registers and shared memory."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import torch

import attnc
from attnc.codegen.config import SHARED_MEMORY, LaunchConfig, default_config
from attnc.codegen.context import Variant
from attnc.codegen.crosscompile import cross_compile, parse_target
from attnc.codegen.triton_module import lower_triton
from attnc.compiler import compile_module
from attnc.driver import stdlib_names
from attnc.passes.pipeline import PlanOptions, make_plan
from attnc.passes.steps import Step
from tests.golden.test_stages import PARAMS, plan_of

TARGETS = ("cuda:80", "cuda:90", "cuda:100", "hip:gfx942")
#: Specs of different kinds of code: token maps, look-ups by pair, data-dependent masks, a sink, a grid.
ROTATION = ("sliding_window", "rope", "softmax_sink", "relative_table", "document", "neighborhood_2d", "softplus_l1")


def emitted(name: str, target: str, dtype: str = "bf16", head_dim: int = 64) -> attnc.Artifact:
    return attnc.emit(f"std:{name}", params=PARAMS.get(name, {}), target=target, dtype=dtype, head_dim=head_dim)


def assert_within_limits(artifact: attnc.Artifact) -> None:
    for kernel in artifact.kernels:
        assert kernel.binary[:4] == b"\x7fELF"
        assert 0 < kernel.resources.registers <= 512
        assert kernel.resources.shared <= kernel.resources.shared_limit


@pytest.mark.parametrize("target", TARGETS)
def test_causal_compiles_for_every_target(target: str) -> None:
    artifact = emitted("causal", target)
    assert_within_limits(artifact)
    assert (artifact.ptx is None) == target.startswith("hip")
    assert (artifact.amdgcn is None) == target.startswith("cuda")


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("target", [target for target in TARGETS if target.startswith("cuda")])
def test_causal_does_not_spill(target: str, head_dim: int) -> None:
    artifact = emitted("causal", target, head_dim=head_dim)
    assert_within_limits(artifact)
    assert artifact.resources.spills == 0


@pytest.mark.parametrize("step", ["query", "keys"])
@pytest.mark.parametrize(
    ("target", "head_dim"),
    [
        *((t, 64) for t in TARGETS),
        ("cuda:90", 128),
        *(pytest.param(t, 128, marks=pytest.mark.slow) for t in ("cuda:80", "cuda:100", "hip:gfx942")),
    ],
)
def test_the_backward_of_causal_does_not_spill(step: Step, target: str, head_dim: int) -> None:
    artifact = attnc.emit("std:causal", target=target, head_dim=head_dim, step=step)
    assert_within_limits(artifact)
    assert artifact.resources.spills == 0


@pytest.mark.parametrize("step", ["training", "rows"])
def test_other_steps_of_training_compile(step: Step) -> None:
    assert_within_limits(attnc.emit("std:causal", step=step))


def test_a_backward_that_is_not_derived_is_an_error() -> None:
    source = "normalizer n { m = max[j](s); w = exp(s - m) }\nattention a { normalizer n }"
    with pytest.raises(attnc.CallError, match="no derived backward"):
        attnc.emit(source=source, step="query")


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [16, 64, 100, 128, 256])
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("step", ["query", "keys"])
def test_backwards_of_all_head_dimensions_fit(step: Step, target: str, dtype: Any, head_dim: int) -> None:
    assert_within_limits(attnc.emit("std:causal", target=target, dtype=dtype, head_dim=head_dim, step=step))


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [16, 64, 100, 128, 256])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["causal", "softmax_sink"])
def test_no_head_dimension_spills(name: str, target: str, dtype: str, head_dim: int) -> None:
    artifact = emitted(name, target, dtype, head_dim)
    assert_within_limits(artifact)
    assert [kernel.resources.spills for kernel in artifact.kernels] == [0] * len(artifact.kernels)


@pytest.mark.parametrize("name", ROTATION)
def test_specs_compile_for_a_target_in_rotation(name: str) -> None:
    assert_within_limits(emitted(name, TARGETS[ROTATION.index(name) % len(TARGETS)]))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_other_dtypes_compile(dtype: str) -> None:
    assert_within_limits(emitted("causal", "cuda:80", dtype))


@pytest.mark.parametrize(
    "variant",
    [
        Variant(packed=True, aux=True),
        Variant(q_offset="tensor", k_offset="tensor", wide=True),
        Variant(q_offset="end"),
    ],
)
def test_variants_of_calls_compile(variant: Variant) -> None:
    module = compile_module("std:sliding_window", params={"size": 512})
    plan = make_plan(module, PlanOptions(64, 64))
    (kernel,) = cross_compile(lower_triton(plan, variant), "cuda:90", "bfloat16", default_config(plan))
    assert kernel.resources.spills == 0


def full_loop(source: str) -> str:
    """The loop over full tiles of the attention kernel, without the line that numbers the tiles."""
    loop = source.split("# full tiles", 1)[1].split("# partial tiles", 1)[0].split("for t in ", 1)[1]
    return "\n".join(line for line in loop.splitlines() if "key_tile = " not in line)


def with_full_tiles() -> list[str]:
    """Specs of which some tiles need no mask."""
    return [name for name in stdlib_names() if any(visit.kind == "full" for visit in plan_of(name).parts[0].visits)]


def test_specs_without_full_tiles_are_known() -> None:
    """No tile is full where only data decides, where keys are strided, and on grids whose tiles are not boxes."""
    data = {"document", "graph", "naavit", "region"}
    strides = {"axial", "bigbird", "block_rank", "dilated_window", "fixed", "moa", "power_block", "s2", "strided"}
    grids = {"halo", "maxvit_block", "maxvit_grid", "neighborhood_1d", "neighborhood_2d", "neighborhood_3d",
             "neighborhood_3d_text", "radial", "sliding_tile_3d", "swin"}  # fmt: skip
    assert set(stdlib_names()) - set(with_full_tiles()) <= data | strides | grids


@pytest.mark.parametrize("name", with_full_tiles())
@pytest.mark.parametrize("variant", [Variant(), Variant(packed=True), Variant(q_offset="tensor", wide=True)], ids=str)
def test_full_tiles_carry_no_mask_code(name: str, variant: Variant) -> None:
    """No mask, no guard of a load but that of a look-up by pair, no comparison of positions."""
    body = full_loop(lower_triton(plan_of(name), variant).source)
    assert "keep" not in body
    assert "col_ok" not in body
    compared = [line for line in body.splitlines() if re.search(r"\b(i|j|row|col)\b[^,]*[<>]", line)]
    assert name in ("relative_table", "t5") or not compared, compared


def test_unknown_targets_are_refused() -> None:
    for name in ("cuda:nine", "cuda:999", "cuda", ""):
        with pytest.raises(attnc.AttncError, match=f"unknown target `{name}`"):
            parse_target(name)
    assert {parse_target(name).backend for name in SHARED_MEMORY} == {"cuda", "hip"}


def causal_in_the_interpreter() -> float:
    q = torch.randn(1, 1, 20, 16)
    op = attnc.compile("std:causal", backend="interpret")
    return float((op(q, q, q) - op.reference(q, q, q)).abs().max())


def test_interpreter_and_compiler_share_a_process() -> None:
    assert causal_in_the_interpreter() < 1e-5
    assert_within_limits(emitted("causal", "cuda:80"))
    assert causal_in_the_interpreter() < 1e-5
    assert_within_limits(emitted("cosine", "cuda:80"))


def test_compiles_where_triton_was_imported_as_an_interpreter() -> None:
    program = (
        "import os; os.environ['TRITON_INTERPRET'] = '1'\n"
        "import triton.language, torch, attnc\n"
        "q = torch.randn(1, 1, 20, 16)\n"
        "op = attnc.compile('std:softplus_l1', backend='interpret')\n"
        "assert (op(q, q, q) - op.reference(q, q, q)).abs().max() < 1e-5\n"
        "assert attnc.emit('std:softplus_l1', target='cuda:90').binary[:4] == b'\\x7fELF'\n"
        "assert (op(q, q, q) - op.reference(q, q, q)).abs().max() < 1e-5\n"
        "print('both')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "both\n", done.stderr


def test_fewer_warps_are_respected() -> None:
    plan = make_plan(compile_module("std:causal", params={}), PlanOptions(64, 64))
    (kernel,) = cross_compile(lower_triton(plan, Variant()), "cuda:90", "bfloat16", LaunchConfig(warps=4))
    assert kernel.resources.warps == 4


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", stdlib_names())
def test_every_spec_compiles_for_every_target(name: str, target: str) -> None:
    assert_within_limits(emitted(name, target))

"""Every file of the standard library at every level: source, typed module, plan, emitted Triton."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attnc.codegen.context import Variant
from attnc.codegen.triton_module import lower_triton
from attnc.compiler import compile_module
from attnc.driver import load_spec, stdlib_names
from attnc.ir.plan import KernelPlan
from attnc.ir.printer import print_module, print_plan
from attnc.passes.pipeline import PlanOptions, make_plan
from tests.oracles.modules import last_stage

#: Static parameters that have no default.
PARAMS: dict[str, dict[str, int | float]] = {
    "axial": {"height": 64, "width": 64, "axis": 0},
    "block_rank": {"block": 256, "blocks": 32},
    "dilated_window": {"size": 64, "dilation": 4},
    "halo": {"height": 64, "width": 64},
    "long_lora": {"group": 2048},
    "maxvit_block": {"height": 56, "width": 56},
    "maxvit_grid": {"height": 56, "width": 56},
    "neighborhood_1d": {"length": 4096, "window": 63},
    "neighborhood_2d": {"height": 64, "width": 64, "window_y": 7, "window_x": 7},
    "neighborhood_3d": {"frames": 8, "height": 16, "width": 16, "window_t": 3, "window_y": 5, "window_x": 5},
    "neighborhood_3d_text": {"frames": 8, "height": 16, "width": 16, "window_t": 3, "window_y": 5, "window_x": 5},
    "radial": {"frames": 30, "per_frame": 3600},
    "relative_table": {"L": 128},
    "urpe": {"L": 128},
    "cosformer": {"length": 4096},
    "performer": {"F": 128},
    "mala": {"height": 32, "width": 32},
    "reattention": {"size": 256},
    "sliding_tile_3d": {"frames": 30, "height": 48, "width": 80},
    "sliding_window": {"size": 1024},
    "softcap": {"cap": 50.0},
    "streaming": {"sink": 4, "window": 512},
    "strided": {"stride": 128},
    "swin": {"height": 56, "width": 56, "shift": 3},
}


def plan_of(name: str) -> KernelPlan:
    """The plan for 16-bit inputs with D = Dv = 64; where columns have statistics, of what reads them."""
    module = compile_module(f"std:{name}", params=PARAMS.get(name, {}))
    return make_plan(last_stage(module), PlanOptions(head_dim=64, value_dim=64))


def section(title: str, text: str) -> str:
    """One stage of a golden file."""
    return f"# {title}\n\n```\n{text.rstrip()}\n```\n"


@pytest.mark.parametrize("name", stdlib_names())
def test_stages(name: str, golden: Callable[[str, str], None]) -> None:
    plan = plan_of(name)
    stages = (
        section("SOURCE", load_spec(f"std:{name}").text),
        section("TYPED", print_module(plan.module)),
        section("PLAN", print_plan(plan)),
    )
    golden(f"stages/{name}.md", "\n".join(stages))


@pytest.mark.parametrize("name", stdlib_names())
def test_emitted_triton(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"triton/{name}.py.txt", lower_triton(plan_of(name), Variant(aux=True)).source)


def test_emission_is_deterministic() -> None:
    """Same input, same bytes: content hashes depend on it."""
    first, second = (lower_triton(plan_of("streaming"), Variant(packed=True)).source for _ in range(2))
    assert first == second

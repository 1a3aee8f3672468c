"""How kernels are launched: warps per program, stages of the software pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.ir.plan import KernelPlan


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """`warps` per program and `stages` of the software pipeline."""

    warps: int = 4
    stages: int = 2


def default_config(plan: KernelPlan) -> LaunchConfig:
    """Enough warps that an accumulator row block fits the registers: 16 rows a warp, as tensor cores take them.

    A rule of thumb until the GPU quality work searches a table per target.
    """
    wide = max(plan.head_dim, plan.value_dim) > 64
    return LaunchConfig(warps=8 if wide or plan.parts[0].tile.rows >= 128 else 4)

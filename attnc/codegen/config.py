"""The targets, and how kernels are launched on them: warps per program, stages of the software pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.ir.plan import KernelPlan

#: Targets with the bytes of shared memory that one program may use (CUDA C++ Programming Guide, table of compute
#: capabilities; AMD CDNA ISA guides: size of the LDS). Triton checks neither without a device: a capability that it
#: does not know ends the process.
SHARED_MEMORY = {
    "cuda:80": 166_912,
    "cuda:86": 101_376,
    "cuda:89": 101_376,
    "cuda:90": 232_448,
    "cuda:100": 232_448,
    "cuda:120": 101_376,
    "hip:gfx90a": 65_536,
    "hip:gfx942": 65_536,
    "hip:gfx950": 163_840,
}


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """`warps` per program and `stages` of the software pipeline."""

    warps: int = 4
    stages: int = 2


def default_config(plan: KernelPlan) -> LaunchConfig:
    """Enough warps that an accumulator row block fits the registers: 16 rows a warp, as tensor cores take them.

    A rule of thumb until the GPU quality work searches a table per target.
    """
    if plan.output is None:
        return LaunchConfig()  # a backward: few rows, many operands
    wide = max(plan.head_dim, plan.value_dim) > 64
    return LaunchConfig(warps=8 if wide or plan.parts[0].tile.rows >= 128 else 4)

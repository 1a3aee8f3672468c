"""One call of an attention of the standard library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Case:
    """std:NAME with static parameters, called with these sizes and offsets."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    n: int = 13
    m: int = 13
    heads: int = 2
    key_heads: int = 1
    batch: int = 2
    d: int = 8
    dv: int = 8
    q_offset: int | tuple[int, ...] | Literal["end"] = 0
    k_offset: int | tuple[int, ...] = 0
    scale: float | None = None

    def __str__(self) -> str:
        given = "-".join(f"{key}{value}" for key, value in self.params.items())
        offsets = f"-q{self.q_offset}-k{self.k_offset}" if (self.q_offset, self.k_offset) != (0, 0) else ""
        return f"{self.name}-{given}-{self.n}x{self.m}{offsets}"

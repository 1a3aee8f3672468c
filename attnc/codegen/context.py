"""What a template is rendered from: strings, ints and bools; all decisions are made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from attnc.ir.plan import KernelPlan

#: Where the launcher takes an argument from.
Role = Literal["pointer", "stride", "size", "param", "value", "offset", "tiles", "constexpr"]


@dataclass(frozen=True, slots=True)
class Arg:
    """One kernel argument. `key` names the tensor, size, parameter or offset; `axis` the stride's dimension.

    `kind` is the element kind behind a pointer, or the kind of the number: real, int, bool, "index" (int32).
    """

    name: str
    role: Role
    key: str
    axis: int = 0
    kind: str = "int"
    value: int = 0


def table_key(part: int, number: int = 0) -> str:
    """The key of a table of a part's tiles among the buffers of a call."""
    return f"table:{part}:{number}"


@dataclass(frozen=True, slots=True)
class Variant:
    """Properties of a call that change the text of the kernels."""

    packed: bool = False
    q_offset: Literal["int", "tensor", "end"] = "int"
    k_offset: Literal["int", "tensor"] = "int"
    wide: bool = False
    aux: bool = False
    wide_tensors: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class VisitText:
    """One loop over key tiles: lines before it, the text of its count, lines of its body."""

    kind: str
    before: tuple[str, ...]
    count: str
    body: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SweepText:
    """One pass over the keys."""

    title: str
    start: tuple[str, ...]
    visits: tuple[VisitText, ...]


@dataclass(frozen=True, slots=True)
class KernelText:
    """A kernel, ready for its template. `kind` picks the template, `grid_side` whose tokens the grid walks over."""

    kind: Literal["attention", "token_map"]
    name: str
    title: str
    notes: tuple[str, ...]
    args: tuple[Arg, ...]
    place: tuple[str, ...]
    prologue: tuple[str, ...]
    sweeps: tuple[SweepText, ...]
    epilogue: tuple[str, ...]
    block: int
    grid_side: Literal["q", "k"]
    grid_heads: Literal["H", "Hk"]
    output: str
    #: Number of the plan's part whose tiles it visits.
    part: int = 0


@dataclass(frozen=True, slots=True)
class EntryText:
    """The exported function of a C++ stage: floats per key tile of its `count` packed operands, as a list.

    `per_key`: 1 where keys are packed for each query head, else 0. `state`: floats that a segment of keys leaves.
    `columns`: floats per key tile of sums over queries; "" where there are none.
    """

    name: str
    sizes: str
    count: int
    per_key: int
    state: str
    columns: str


@dataclass(frozen=True, slots=True)
class KernelContext:
    """One emitted module."""

    header: tuple[str, ...]
    helpers: tuple[str, ...]
    kernels: tuple[KernelText, ...]


@dataclass(frozen=True, slots=True)
class TritonModule:
    """Emitted source. `kernels` are in launch order: token maps first, the attention last."""

    source: str
    kernels: tuple[KernelText, ...]
    plan: KernelPlan
    variant: Variant

    def launchable(self) -> TritonModule:
        """The module without the parts of its kernels' texts: what a cache has to keep besides `source`."""
        kernels = (replace(k, notes=(), place=(), prologue=(), sweeps=(), epilogue=()) for k in self.kernels)
        return replace(self, kernels=tuple(kernels))

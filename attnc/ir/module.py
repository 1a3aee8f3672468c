"""The typed module: one attention, checked, with its dense meaning fully defined.

`reference.py` interprets it, the passes plan it. After `driver.bind` no static parameter is left in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from attnc.ir.expr import Expr, Size
from attnc.ir.types import ScalarType
from attnc.source import NOWHERE, Span

#: Elements of a tensor that is known when compiling; a larger one is data.
MAX_TABLE = 1 << 16


@dataclass(frozen=True, slots=True)
class Range:
    """Allowed values: low to high; None is unbounded; `high_open` excludes `high` itself (likewise low).

    Of ints only low, low + step and so on. `low_of`, `high_of` and `step_of` are bounds over earlier static parameters,
    beside None (for a step 1) for the number. Binding makes them numbers.
    """

    low: float | int | None
    high: float | int | None
    low_open: bool = False
    high_open: bool = True
    low_of: Expr | None = None
    high_of: Expr | None = None
    step: int = 1
    step_of: Expr | None = None


@dataclass(frozen=True, slots=True)
class ScalarParam:
    """A scalar of the header. Static: known when compiling. Dynamic: given at every call."""

    name: str
    type: ScalarType
    dynamic: bool
    default: Expr | None
    range: Range | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Table:
    """The values of a tensor that is known when compiling, row by row.

    `dtype` is torch's name of it, or empty for numbers as they are written, until they are bound.
    """

    dtype: str
    shape: tuple[int, ...]
    values: tuple[bool | int | float, ...]

    def element(self, indices: tuple[int, ...]) -> bool | int | float:
        """One of them; indices out of range are clamped, as those of look-ups are."""
        place = 0
        for index, size in zip(indices, self.shape, strict=True):
            place = place * size + min(max(index, 0), size - 1)
        return self.values[place]


@dataclass(frozen=True, slots=True)
class TensorParam:
    """A tensor given at the call; `dims` are int expressions over sizes and static parameters.

    A static one is given when compiling; binding puts its `value` in, and the op passes it at every call. One that
    is `single` comes in float32, whatever the dtype of the call; others of real numbers may have either.
    """

    name: str
    type: ScalarType
    dims: tuple[Expr, ...]
    learned: bool = False
    static: bool = False
    range: Range | None = None
    value: Table | None = None
    single: bool = False
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Grid:
    """Named axes of a flat position, slowest first. Position `start` is the grid's first point.

    `beside`: the text says where the grid starts, so there may be positions beside it.
    """

    names: tuple[str, ...]
    extents: tuple[Expr, ...]
    start: Expr
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """A named step of a cascade, or a statistic that callers may ask for."""

    name: str
    expr: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class AttentionModule:
    """One attention. Uses of masks, biases, features, lets and token maps of q, k, v are already inlined.

    `mask` and `score` may read i, j, h, b; `score` includes the biases. `cascade` are the normalizer's
    bindings in order, the last is named "w"; a binding may read the earlier ones through `Ref`, the
    finished logit through Value("s"). `value` is the mapped v of key j, `output` the mapped Value("o"):
    output_row = output[o := sum over kept j of w * value]. `aux` may `Ref` cascade bindings.
    """

    name: str
    doc: str
    scalars: tuple[ScalarParam, ...]
    tensors: tuple[TensorParam, ...]
    grid_q: Grid | None
    grid_k: Grid | None
    mask: Expr
    score: Expr
    cascade: tuple[Binding, ...]
    value: Expr
    output: Expr
    aux: tuple[Binding, ...]
    reads_scale: bool
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def tensor(self, name: str) -> TensorParam:
        """The tensor parameter of that name. Raises KeyError when there is none."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    def grid(self, side: Literal["q", "k"]) -> Grid:
        """The grid of a side. Raises KeyError when there is none."""
        grid = self.grid_q if side == "q" else self.grid_k
        if grid is None:
            raise KeyError(side)
        return grid


def fixed_sizes(tensors: Mapping[str, TensorParam]) -> dict[Size, int]:
    """Sizes that tensors of known values have: those that are dimensions of one."""
    found: dict[Size, int] = {}
    for tensor in tensors.values():
        for dim, size in zip(tensor.dims, tensor.value.shape if tensor.value else (), strict=False):
            if isinstance(dim, Size):
                found.setdefault(dim, size)
    return found

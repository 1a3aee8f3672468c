"""Random inputs of an attention: a `Case` says in plain values what is called, `draw` makes its tensors.

Every tensor is made together with the Python text that makes it again, so that what went wrong can be shown as a
program. Needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from attnc.ir.dims import evaluate_dim
from attnc.ir.expr import Expr, Index, Lookup, Size
from attnc.ir.module import AttentionModule, Range, Table, TensorParam
from attnc.ir.traverse import walk
from attnc.tables import tensor_of

Scalar = bool | int | float
#: Values of static parameters by name.
Static = tuple[tuple[str, Scalar], ...]
DtypeName = Literal["fp32", "fp16", "bf16", "fp64"]
DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp64": torch.float64,
}
#: How a tensor of tokens lies in memory: as it is, [B, N, H, D] transposed, one batch for all, without its first
#: feature, every second feature.
Layout = Literal["contiguous", "transposed", "expanded", "sliced", "stepped"]
Offset = int | tuple[int, ...] | Literal["end"]


@dataclass(frozen=True, slots=True)
class Case:
    """One call in plain values: equal cases have equal inputs.

    `documents` are the lengths (queries, keys) of packed documents; they sum to the tokens, and the batch is 1.
    Int tensors without a range hold values from `ints[0]` to below `ints[1]`, each row in order when `ordered`;
    `wide` makes ints int64 and keeps real tensors in float32 beside 16-bit tokens. `gradients` are wanted, too.
    """

    dtype: DtypeName = "fp32"
    batch: int = 1
    heads: int = 1
    key_heads: int = 1
    queries: int = 1
    keys: int = 1
    head_dim: int = 16
    value_dim: int = 16
    layouts: tuple[Layout, Layout, Layout] = ("contiguous", "contiguous", "contiguous")
    q_offset: Offset = 0
    k_offset: int | tuple[int, ...] = 0
    documents: tuple[tuple[int, int], ...] = ()
    scale: float | None = None
    static: Static = ()
    dynamic: tuple[tuple[str, Scalar], ...] = ()
    ints: tuple[int, int] = (0, 4)
    ordered: bool = True
    wide: bool = False
    gradients: bool = False
    seed: int = 0

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes by their names in the language."""
        return {
            "B": self.batch,
            "H": self.heads,
            "Hk": self.key_heads,
            "N": self.queries,
            "M": self.keys,
            "D": self.head_dim,
            "Dv": self.value_dim,
        }


@dataclass(frozen=True, slots=True)
class Inputs:
    """The arguments of one call. `lines` is the Python text that makes those that are tensors, one a name.

    `static` are tensors that an op passes itself.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    tensors: Mapping[str, Tensor]
    params: Mapping[str, Scalar]
    options: Mapping[str, Any]
    lines: Mapping[str, str] = field(default_factory=dict[str, str])
    static: frozenset[str] = frozenset()

    @property
    def keywords(self) -> dict[str, Any]:
        """What a call takes beside q, k and v."""
        given = {name: tensor for name, tensor in self.tensors.items() if name not in self.static}
        return {**given, **self.params, **self.options}

    def to(self, device: str) -> Inputs:
        """The same values on another device."""

        def moved(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(moved, cast(tuple[Any, ...], value)))
            return value.to(device) if isinstance(value, Tensor) else value

        return replace(
            self,
            q=moved(self.q),
            k=moved(self.k),
            v=moved(self.v),
            tensors={name: moved(tensor) for name, tensor in self.tensors.items()},
            options={name: moved(value) for name, value in self.options.items()},
        )


class UndrawableError(Exception):
    """A tensor of the spec has no shape for the sizes of the case."""


def draw(module: AttentionModule, case: Case) -> Inputs:
    """The inputs of a case for a bound module. The global generator of torch is left as it was."""
    with cast(Any, torch.random).fork_rng(devices=[]):
        cast(Any, torch).manual_seed(case.seed)
        made = {
            "q": _tokens((case.batch, case.heads, case.queries, case.head_dim), case, 0),
            "k": _tokens((case.batch, case.key_heads, case.keys, case.head_dim), case, 1),
            "v": _tokens((case.batch, case.key_heads, case.keys, case.value_dim), case, 2),
        }
        named = {tensor.name: _tensor(module, tensor, case) for tensor in module.tensors}
    options = {name: _offset(offset) for name, offset in _offsets(case).items()}
    if case.documents:
        options["cu_seqlens"] = _packing(case)
    made_all = {**made, **named, **{name: item for name, item in options.items() if isinstance(item, _Made)}}
    return Inputs(
        q=made["q"].tensor,
        k=made["k"].tensor,
        v=made["v"].tensor,
        tensors={name: item.tensor for name, item in named.items()},
        params=dict(case.dynamic),
        options={
            **{name: item.tensor if isinstance(item, _Made) else item for name, item in options.items()},
            **({} if case.scale is None else {"scale": case.scale}),
        },
        lines={name: item.text for name, item in made_all.items()},
        static=frozenset(tensor.name for tensor in module.tensors if tensor.static),
    )


# -- tensors with their text -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Made:
    """A value (a tensor, or a pair of them) and the Python expression that it is the value of."""

    tensor: Any
    text: str

    def then(self, tensor: Any, text: str) -> _Made:
        return _Made(tensor, self.text + text)


def _normal(shape: tuple[int, ...], dtype: torch.dtype) -> _Made:
    return _Made(torch.randn(shape, dtype=dtype), f"torch.randn({shape}, dtype={dtype})")


def _tokens(shape: tuple[int, int, int, int], case: Case, which: int) -> _Made:
    batch, heads, length, features = shape
    dtype = DTYPES[case.dtype]
    match case.layouts[which]:
        case "contiguous":
            return _normal(shape, dtype)
        case "transposed":
            made = _normal((batch, length, heads, features), dtype)
            return made.then(made.tensor.transpose(1, 2), ".transpose(1, 2)")
        case "expanded":
            made = _normal((1, heads, length, features), dtype)
            return made.then(made.tensor.expand(batch, -1, -1, -1), f".expand({batch}, -1, -1, -1)")
        case "sliced":
            made = _normal((batch, heads, length, features + 1), dtype)
            return made.then(made.tensor[..., 1:], "[..., 1:]")
        case "stepped":
            made = _normal((batch, heads, length, 2 * features), dtype)
            return made.then(made.tensor[..., ::2], "[..., ::2]")


def _tensor(module: AttentionModule, tensor: TensorParam, case: Case) -> _Made:
    shape = shape_of(tensor, case)
    if tensor.value is not None:
        return _static(tensor, tensor.value, shape)
    if tensor.type.kind == "bool":
        return _Made(torch.rand(shape) < 0.8, f"torch.rand({shape}) < 0.8")
    if tensor.type.kind == "int":
        return _integers(shape, int_bounds(module, tensor, case), case)
    dtype = torch.float32 if case.wide and case.dtype != "fp64" else DTYPES[case.dtype]
    return _reals(shape, dtype, tensor.range)


def _static(tensor: TensorParam, table: Table, shape: tuple[int, ...]) -> _Made:
    """The values that were compiled in."""
    if shape != table.shape:
        raise UndrawableError(
            f"`{tensor.name}` was compiled with the shape {[*table.shape]}, the case needs {[*shape]}"
        )
    made = tensor_of(table)
    return _Made(made, f"torch.tensor({table.values}, dtype={made.dtype}).view({table.shape})")


def shape_of(tensor: TensorParam, case: Case) -> tuple[int, ...]:
    """The shape of a tensor for a case. Raises UndrawableError."""
    values = {**case.sizes, **{name: value for name, value in case.dynamic if isinstance(value, int)}}
    try:
        shape = tuple(evaluate_dim(dim, values) for dim in tensor.dims)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise UndrawableError(f"{tensor.name} has no shape") from error
    if any(size < 0 for size in shape):
        raise UndrawableError(f"{tensor.name} has a negative size")
    return shape


def _integers(shape: tuple[int, ...], bounds: tuple[int, int], case: Case) -> _Made:
    dtype = torch.int64 if case.wide else torch.int32
    made = _Made(
        torch.randint(*bounds, shape, dtype=dtype), f"torch.randint({bounds[0]}, {bounds[1]}, {shape}, dtype={dtype})"
    )
    if not case.ordered or not shape:
        return made
    return made.then(made.tensor.sort(dim=-1).values, ".sort(dim=-1).values")


def int_bounds(module: AttentionModule, tensor: TensorParam, case: Case) -> tuple[int, int]:
    """From which value to below which an int tensor is drawn: its range, the dimension that it indexes, or `ints`."""
    low, high = case.ints
    if tensor.range is not None:
        bounds = tensor.range
        low = None if bounds.low is None else int(bounds.low) + bounds.low_open
        high = None if bounds.high is None else int(bounds.high) + (not bounds.high_open)
        low = (high or 0) - 8 if low is None else low
        high = low + 8 if high is None else high
    else:
        indexed = [_extent(dim, case) for dim in indexed_dimensions(module, tensor.name)]
        if indexed:
            low, high = 0, min(indexed)
    return low, max(high, low + 1)


def _extent(dim: Expr, case: Case) -> int:
    try:
        return evaluate_dim(dim, case.sizes)
    except (KeyError, ValueError, ZeroDivisionError):
        return case.ints[1]


def indexed_dimensions(module: AttentionModule, name: str) -> list[Expr]:
    """The dimensions that values of the tensor `name` index."""
    return [
        module.tensor(node.tensor).dims[n]
        for node in nodes(module)
        if isinstance(node, Lookup)
        for n, index in enumerate(node.indices)
        if any(isinstance(inner, Lookup) and inner.tensor == name for inner in walk(index))
    ]


def nodes(module: AttentionModule) -> Iterator[Expr]:
    """Every node of every expression of a module."""
    steps = [binding.expr for binding in (*module.cascade, *module.aux)]
    for expr in (module.mask, module.score, *steps, module.value, module.output):
        yield from walk(expr)


def read_by_queries(module: AttentionModule) -> bool:
    """Whether a tensor over the keys is read at a query's position: the queries are then some of the keys."""
    return any(
        isinstance(node, Lookup)
        and any(
            module.tensor(node.tensor).dims[n] == Size("M") and index == Index("i")
            for n, index in enumerate(node.indices)
        )
        for node in nodes(module)
    )


def _reals(shape: tuple[int, ...], dtype: torch.dtype, bounds: Range | None) -> _Made:
    made = _normal(shape, dtype)
    if bounds is None or (bounds.low is None and bounds.high is None):
        return made
    if bounds.high is None:
        return _Made(made.tensor.abs() + bounds.low, f"{made.text}.abs() + {bounds.low}")
    if bounds.low is None:
        return _Made(bounds.high - made.tensor.abs(), f"{bounds.high} - {made.text}.abs()")
    margin = (bounds.high - bounds.low) / 64
    low, high = bounds.low + margin * bounds.low_open, bounds.high - margin * bounds.high_open
    text = f"torch.empty({shape}, dtype={dtype}).uniform_({low}, {high})"
    return _Made(torch.empty(shape, dtype=dtype).uniform_(low, high), text)


# -- offsets and packing ---------------------------------------------------------------------------------------------


def _offsets(case: Case) -> dict[str, Offset]:
    given: dict[str, Offset] = {"q_offset": case.q_offset, "k_offset": case.k_offset}
    return {name: offset for name, offset in given.items() if offset != 0}


def _offset(offset: Offset) -> Any:
    if isinstance(offset, tuple):
        return _Made(torch.tensor(offset), f"torch.tensor({list(offset)})")
    return offset


def _packing(case: Case) -> _Made:
    """One tensor where queries and keys are packed alike, else a pair."""
    rows, columns = ([0, *_running(lengths)] for lengths in zip(*case.documents, strict=True))
    if rows == columns:
        return _Made(torch.tensor(rows), f"torch.tensor({rows})")
    return _Made(
        (torch.tensor(rows), torch.tensor(columns)),
        f"(torch.tensor({rows}), torch.tensor({columns}))",
    )


def _running(lengths: tuple[int, ...]) -> list[int]:
    return [sum(lengths[: n + 1]) for n in range(len(lengths))]

"""vmap of an op: the mapped dimension becomes part of the batch where the spec allows it, else one call per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from attnc.ir.expr import Expr, Index, Lookup, Size
from attnc.ir.module import AttentionModule
from attnc.ir.traverse import children
from attnc.signature import Signature

Dims = Sequence[int | None]


@dataclass(frozen=True, slots=True)
class Folding:
    """The vmap rules of the ops with one signature."""

    signature: Signature

    def forward(self, op: Any, in_dims: Dims, args: Sequence[Any]) -> tuple[Any, Any]:
        """The rule of the forward op: results and their mapped dimensions."""
        samples = _samples(in_dims, args)
        if not self._foldable(in_dims, args):
            return _one_by_one(op, samples, in_dims, args)
        found: Any = op(*self._fold(samples, in_dims, args))
        return _outer(lambda x: _split(x, 0, samples), found), _outer(lambda _: 0, found)

    def backward(self, op: Any, seeds: int, in_dims: Dims, args: Sequence[Any]) -> tuple[Any, Any]:
        """The rule of the backward op: `seeds` gradients of outputs, the output, what was saved, `wanted`, the rest."""
        samples = _samples(in_dims, args)
        (out, saved, wanted), rest, rest_dims = args[seeds : seeds + 3], args[seeds + 3 :], in_dims[seeds + 3 :]
        out_dim, saved_dims = in_dims[seeds], cast("Any", in_dims[seeds + 1])
        dimensions = [self.signature.batch_dimension(name) for name in self.signature.differentiable]
        shared = any(want and place is None for want, place in zip(wanted, dimensions, strict=True))
        if shared or not self._foldable(rest_dims, rest):
            return _one_by_one(op, samples, in_dims, args)
        outer = [_merged(g, d, 0, samples) for g, d in zip(args[:seeds], in_dims[:seeds], strict=True)]
        left = [_merged(x, d, 0, samples) for x, d in zip(saved, saved_dims or [None] * len(saved), strict=True)]
        found = op(*outer, _merged(out, out_dim, 0, samples), left, wanted, *self._fold(samples, rest_dims, rest))
        places = [place if want else None for want, place in zip(wanted, dimensions, strict=True)]
        split = [x if place is None else _split(x, place, samples) for x, place in zip(found, places, strict=True)]
        return tuple(split), tuple(places)

    def _foldable(self, in_dims: Dims, args: Sequence[Any]) -> bool:
        """Whether every mapped tensor has a batch dimension and the spec never looks at the batch otherwise."""
        packed = args[self.signature.tensors.index("cu_q")] is not None
        mapped = [name for name, dim in zip(self.signature.tensors, in_dims, strict=False) if dim is not None]
        all_batched = all(self.signature.batch_dimension(name) is not None for name in mapped)
        return all_batched and not packed and not _reads_batch(self.signature.module)

    def _fold(self, samples: int, in_dims: Dims, args: Sequence[Any]) -> list[Any]:
        count = len(self.signature.tensors)
        folded = [
            _merged(tensor, dim, self.signature.batch_dimension(name), samples)
            for name, tensor, dim in zip(self.signature.tensors, args[:count], in_dims[:count], strict=True)
        ]
        return [*folded, *args[count:]]


def _samples(in_dims: Dims, args: Sequence[Any]) -> int:
    return next(arg.shape[dim] for arg, dim in zip(args, in_dims, strict=True) if type(dim) is int)


def _merged(tensor: Tensor | None, dim: int | None, place: int | None, samples: int) -> Tensor | None:
    """The tensor with its mapped dimension, or as many copies as samples, merged into dimension `place`."""
    if tensor is None or place is None:
        return tensor
    whole = tensor.unsqueeze(place).expand(*tensor.shape[:place], samples, *tensor.shape[place:])
    if dim is not None:
        whole = tensor.movedim(dim, place)
    return whole.flatten(place, place + 1)


def _split(tensor: Tensor, place: int, samples: int) -> Tensor:
    """The inverse of `_merged`: the mapped dimension at `place`."""
    shape = tensor.shape
    return tensor.reshape(*shape[:place], samples, shape[place] // samples, *shape[place + 1 :])


def _one_by_one(op: Callable[..., Any], samples: int, in_dims: Dims, args: Sequence[Any]) -> tuple[Any, Any]:
    """One call per sample."""
    calls = [op(*(_sample(arg, dim, n) for arg, dim in zip(args, in_dims, strict=True))) for n in range(samples)]
    stacked = _stacked(calls)
    return stacked, _outer(lambda _: 0, stacked)


def _sample(arg: Any, dim: Any, n: int) -> Any:
    """One sample of an argument, which may be a list of tensors."""
    if isinstance(dim, list | tuple):
        return [_sample(x, d, n) for x, d in zip(arg, cast("Sequence[Any]", dim), strict=True)]
    return arg.select(dim, n) if isinstance(dim, int) else arg


def _stacked(calls: list[Any]) -> Any:
    """The results of all samples: tensors stacked, tuples and lists of them item by item."""
    if isinstance(calls[0], Tensor):
        return torch.stack(calls)
    return type(calls[0])(_stacked(list(items)) for items in zip(*calls, strict=True))


def _outer(change: Callable[[Tensor], Any], found: Any) -> Any:
    """`change` applied to every tensor of a result."""
    if isinstance(found, Tensor):
        return change(found)
    return type(found)(_outer(change, x) for x in found)


def _reads_batch(module: AttentionModule) -> bool:
    """Whether the value of the batch index, or the batch size, matters beyond choosing a tensor's batch entry."""
    bindings = (*module.cascade, *module.aux)
    exprs = (module.mask, module.score, module.value, module.output, *(binding.expr for binding in bindings))
    return any(_looks_at_batch(expr, module) for expr in exprs)


def _looks_at_batch(expr: Expr, module: AttentionModule) -> bool:
    if expr in (Index("b"), Size("B")):
        return True
    if isinstance(expr, Lookup):
        dims = module.tensor(expr.tensor).dims
        pairs = zip(dims, expr.indices, strict=False)
        return any(_looks_at_batch(i, module) for dim, i in pairs if not (dim == Size("B") and i == Index("b")))
    return any(_looks_at_batch(child, module) for child in children(expr))

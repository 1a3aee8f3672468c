"""transpose: the same attention seen from its keys.

Before: rows are queries, a sweep goes over the keys of one query.
After: rows are keys, a sweep goes over the queries of one key. Positions, stored rows, sizes, offsets, grids and the
dimensions of tensors change sides; heads do not, so the group of a head becomes arithmetic.

    j <= i   ->  i <= j        T[b, h, r] with T: real[B, H, N]   ->  T[b, h, c] with T: real[B, H, M]
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.build import call
from attnc.ir.expr import Expr, GridCoord, Index, Lift, Param, Size, Value
from attnc.ir.module import AttentionModule, ScalarParam, TensorParam
from attnc.ir.traverse import transform
from attnc.ir.types import INT

#: The number of query heads per key head, where keys are given once per query head.
GROUP = "d:group"
_INDEX = {"i": Index("j"), "j": Index("i"), "r": Index("c"), "c": Index("r")}
_SIZE = {"N": Size("M"), "M": Size("N")}
_OFFSET = {"q_offset": Value("k_offset", INT), "k_offset": Value("q_offset", INT)}


def transposed(expr: Expr) -> Expr:
    """An expression with queries and keys exchanged."""
    return transform(expr, _node)


def _node(node: Expr) -> Expr:
    match node:
        case Index(name="hk"):
            return call("floordiv", Index("h"), Param(GROUP, INT))
        case Index(name=name):
            return _INDEX.get(name, node)
        case Size(name="Hk"):
            return call("floordiv", Size("H"), Param(GROUP, INT))
        case Size(name=name):
            return _SIZE.get(name, node)
        case Value(name="q_offset" | "k_offset" as name):
            return _OFFSET[name]
        case GridCoord(side=side):
            return replace(node, side="k" if side == "q" else "q")
        case Lift(rows=rows, keys=keys):
            return replace(node, rows=keys, keys=rows)
        case _:
            return node


def transposed_tensor(tensor: TensorParam) -> TensorParam:
    """The declaration of a tensor for the module whose rows are keys."""
    return replace(tensor, dims=tuple(map(transposed, tensor.dims)))


def transposed_module(module: AttentionModule) -> AttentionModule:
    """A module with the transposed mask, grids and tensors. Its other parts keep the forward's meaning: not for use."""
    group = ScalarParam(GROUP, INT, dynamic=True, default=None)
    return replace(
        module,
        scalars=(*module.scalars, group),
        tensors=tuple(map(transposed_tensor, module.tensors)),
        grid_q=module.grid_k,
        grid_k=module.grid_q,
        mask=transposed(module.mask),
    )

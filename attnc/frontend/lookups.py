"""Elements and rows of tensors: `table[h, i - j]`, a bare `u` for a vector."""

from __future__ import annotations

from collections.abc import Sequence

from attnc.frontend.environment import Elaborator, Env, all_or_none
from attnc.frontend.errors import names as name_errors
from attnc.frontend.errors import types as errors
from attnc.frontend.typing_rules import type_text
from attnc.ir.dims import dim_text, dims_text
from attnc.ir.expr import Expr, Index, Lookup, Size
from attnc.ir.module import TensorParam
from attnc.ir.types import INT, REAL, Type, VectorType
from attnc.source import Span

#: Bare indices that a dimension of this size takes.
_TAKES: dict[str, tuple[str, ...]] = {"B": ("b",), "H": ("h",), "Hk": ("hk",), "N": ("i",), "M": ("j", "i")}


def check_lookup(
    el: Elaborator, env: Env, tensor: TensorParam, indices: Sequence[Expr | None], span: Span
) -> Expr | None:
    """The element of a tensor at the indices, or a vector when exactly the last dimension is left open."""
    found = all_or_none(indices)
    if not env.place.looks_up:
        el.report(name_errors.not_readable_here(tensor.name, env.place.title, span, env.place.why), env)
        return None
    if found is None or not _ints(el, env, tensor, found):
        return None
    missing = len(tensor.dims) - len(found)
    if missing not in (0, 1):
        shape = f"{tensor.type.kind}{dims_text(tensor.dims)}"
        el.report(errors.index_count(tensor.name, shape, len(tensor.dims), len(found), span), env)
        return None
    fits = [_fits(el, env, tensor, dim, index) for dim, index in zip(tensor.dims, found, strict=False)]
    if not all(fits):
        return None
    if missing == 0:
        return Lookup(tensor.name, found, tensor.type, span)
    return _row(el, env, tensor, found, span)


def _row(el: Elaborator, env: Env, tensor: TensorParam, indices: tuple[Expr, ...], span: Span) -> Expr | None:
    if tensor.type != REAL:
        shape = f"{tensor.type.kind}{dims_text(tensor.dims)}"
        el.report(errors.index_count(tensor.name, shape, len(tensor.dims), len(indices), span), env)
        return None
    type_: Type = VectorType(tensor.dims[-1])
    return Lookup(tensor.name, indices, type_, span)


def _ints(el: Elaborator, env: Env, tensor: TensorParam, indices: tuple[Expr, ...]) -> bool:
    wrong = [index for index in indices if index.type != INT]
    for index in wrong:
        el.report(errors.wrong_type(f"an index of `{tensor.name}`", "int", type_text(index.type), index.span), env)
    return not wrong


def _fits(el: Elaborator, env: Env, tensor: TensorParam, dim: Expr, index: Expr) -> bool:
    """Whether an index can belong to a dimension; catches `hk` for `H`, a key position for a table over queries."""
    if not isinstance(dim, Size) or dim.name not in _TAKES:
        return True
    takes = _TAKES[dim.name]
    if isinstance(index, Index):
        right = index.name in takes
    else:
        right = dim.name != "N" or "j" not in el.reads(index)
    if not right:
        read = index.name if isinstance(index, Index) else "j"
        el.report(errors.wrong_index(tensor.name, dim_text(dim), read, takes, index.span), env)
    return right

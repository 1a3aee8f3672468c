"""Static tensors: their values in the module, and look-ups whose indices are known as the elements themselves.

dist: int[3] static = [1, 4, 9]
dist[0] + dist[1]                      ->   5
exists d in 0..3: i - j == dist[d]     ->   i - j == 1 or i - j == 4 or i - j == 9
size[hk], size = [64, 64, 128]         ->   where(hk < 2, 64, 128)
far[hk], of many different elements    ->   far[hk], a look-up in a tensor that the op passes itself
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from attnc.diagnostics import CallError, Diagnostic, SpecError
from attnc.frontend import ast, limits
from attnc.frontend.errors import parameters as errors
from attnc.frontend.parser import parse
from attnc.frontend.table_runs import as_comparisons
from attnc.ir.dims import dims_text
from attnc.ir.expr import FALSE, Call, Const, Exists, Expr, Lookup, Var, int_const
from attnc.ir.fold import fold
from attnc.ir.module import MAX_TABLE, AttentionModule, Range, Table, TensorParam
from attnc.ir.ranges import in_range, range_text
from attnc.ir.traverse import map_children, substitute, walk
from attnc.ir.types import BOOL, INT, REAL, ScalarType
from attnc.source import SourceFile

_KINDS = {"bool": "bool", "int32": "int", "int64": "int", "numbers": "numbers of another kind"}


def static_names(source: SourceFile) -> frozenset[str]:
    """The tensors that attentions of a text declare static. Raises SpecError for a text that cannot be read."""
    if "static" not in source.text:
        return frozenset()
    blocks = (item for item in parse(source).declarations if isinstance(item, ast.Block) and item.kind == "attention")
    params = (param for block in blocks for param in block.params if param.type is not None and param.type.dims)
    return frozenset(param.name.text for param in params if any(word.text == "static" for word in param.modifiers))


# ----------------------------------------------------------------------------------------- values


def with_tables(module: AttentionModule, tables: Mapping[str, Table]) -> tuple[AttentionModule, list[Diagnostic]]:
    """The module with the values of its static tensors, and what is wrong with them. Dimensions are bound already."""
    wrong: list[Diagnostic] = []
    found: list[TensorParam] = []
    for tensor in module.tensors:
        if tensor.static:
            table = _as_declared(tables.get(tensor.name, tensor.value), tensor)
            problem = _problem(module, tensor, table)
            if problem is not None:
                wrong.append(problem)
            elif table is not None:
                found.append(replace(tensor, value=table, range=tensor.range or _range(tensor, table)))
        else:
            found.append(tensor)
    known = tuple(tensor.name for tensor in module.tensors if tensor.static)
    wrong += [errors.unknown_table(name, module.name, known) for name in tables if name not in known]
    return replace(module, tensors=tuple(found)), wrong


def with_written(module: AttentionModule, tables: Mapping[str, Table]) -> AttentionModule:
    """The module with values that binding will check."""
    known = tuple(tensor.name for tensor in module.tensors if tensor.static)
    wrong = tuple(errors.unknown_table(name, module.name, known) for name in tables if name not in known)
    if wrong:
        raise SpecError(wrong)
    return replace(module, tensors=tuple(replace(t, value=tables.get(t.name, t.value)) for t in module.tensors))


def with_values(module: AttentionModule, tables: Mapping[str, Table]) -> AttentionModule:
    """The module in which every tensor of these names is static and has these values; binding will check them.

    For answers about one mask: kernels take tensors that are not static at the call.
    """
    known = tuple(tensor.name for tensor in module.tensors)
    for name in tables:
        if name not in known:
            raise CallError(f"tensors: `{module.name}` has no tensor `{name}`; it has {', '.join(known) or 'none'}")
    given = (replace(t, static=True, value=tables[t.name]) if t.name in tables else t for t in module.tensors)
    return replace(module, tensors=tuple(given))


def tables_of_values(tensors: Mapping[str, Any]) -> dict[str, Table]:
    """Nested lists, or anything that has `tolist()`, as tables of numbers as they are written. Raises CallError."""
    return {name: _of_values(name, value) for name, value in tensors.items()}


def _of_values(name: str, value: Any) -> Table:
    if isinstance(value, Table):
        return value
    try:
        shape, flat = nested(value.tolist() if hasattr(value, "tolist") else value)
    except ValueError:
        raise CallError(f"tensors: {name}: expected a tensor, or numbers in lists of equal length") from None
    return Table("", shape, flat)


def nested(values: Any) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """The shape and the elements of nested lists. Raises ValueError for ragged ones, and for what is no number."""
    if isinstance(values, bool | int | float):
        return (), (values,)
    parts = [nested(item) for item in cast("list[Any]", values)] if isinstance(values, list | tuple) else []
    shapes = {shape for shape, _ in parts}
    if len(shapes) != 1:
        raise ValueError
    return (len(parts), *shapes.pop()), tuple(value for _, found in parts for value in found)


def _as_declared(table: Table | None, tensor: TensorParam) -> Table | None:
    """Numbers as they are written as those of the declared kind; what is of another kind stays, and is an error."""
    if table is None or table.dtype:
        return table
    values = table.values
    if tensor.type == BOOL and all(value in (0, 1) for value in values):
        return Table("bool", table.shape, tuple(map(bool, values)))
    if tensor.type == INT and all(type(value) is int for value in values):
        return Table("int64", table.shape, values)
    if tensor.type == REAL and not any(isinstance(value, bool) for value in values):
        return Table("float32", table.shape, tuple(map(float, values)))
    return Table("numbers", table.shape, values)


def _problem(module: AttentionModule, tensor: TensorParam, table: Table | None) -> Diagnostic | None:
    wanted = f"{tensor.type.kind}{dims_text(tensor.dims)}"
    if table is None:
        return errors.missing_table(tensor.name, wanted, module.name, tensor.span)
    kind = _KINDS.get(table.dtype, "real")
    sizes = [dim.value if isinstance(dim, Const) else None for dim in tensor.dims]
    fits = len(sizes) == len(table.shape) and all(a in (None, b) for a, b in zip(sizes, table.shape, strict=True))
    if kind != tensor.type.kind or not fits:
        return errors.wrong_table(tensor.name, wanted, f"{table.dtype}{[*table.shape]}", tensor.span)
    if len(table.values) > MAX_TABLE:
        return errors.large_table(tensor.name, len(table.values), MAX_TABLE, tensor.span)
    if tensor.range is not None:
        for value in table.values:
            if not in_range(value, tensor.range):
                text = range_text(tensor.range)
                return errors.parameter_out_of_range(tensor.name, f"{value} somewhere", text, tensor.span)
    return None


def _range(tensor: TensorParam, table: Table) -> Range | None:
    """What the values of a table of ints lie in."""
    if tensor.type != INT or not table.values:
        return None
    return Range(min(table.values), max(table.values), high_open=False)


# ----------------------------------------------------------------------------------------- folding


class Folding:
    """Look-ups in the tables of a module with indices that are known, as elements. Shared nodes stay shared."""

    def __init__(self, tensors: Iterable[TensorParam]) -> None:
        self._tables = {tensor.name: tensor for tensor in tensors if tensor.value is not None}
        self._done: dict[int, tuple[Expr, Expr]] = {}

    def __call__(self, expr: Expr) -> Expr:
        """The folded expression."""
        return fold(self._put(expr)) if self._tables else expr

    def _put(self, expr: Expr) -> Expr:
        known = self._done.get(id(expr))
        if known is not None:
            return known[1]
        found = map_children(expr, self._put)
        match found:
            case Lookup():
                found = self._element(found)
            case Exists(low=Const(value=low), high=Const(value=high)) if self._is_read_by(found):
                found = self._written_out(found, range(int(low), int(high)))
            case _:
                pass
        self._done[id(expr)] = (expr, found)
        return found

    def _element(self, node: Lookup) -> Expr:
        tensor = self._tables.get(node.tensor)
        if tensor is None or tensor.value is None or len(node.indices) < len(tensor.value.shape):
            return node
        indices = [fold(index) for index in node.indices]
        if 0 in tensor.value.shape or not all(isinstance(index, Const) for index in indices):
            return as_comparisons(node, tensor, indices) or node
        value = tensor.value.element(tuple(int(index.value) for index in indices if isinstance(index, Const)))
        return node if isinstance(value, float) and not math.isfinite(value) else _literal(value, tensor.type, node)

    def _is_read_by(self, node: Exists) -> bool:
        """Whether a table is read at the variable of an `exists`, and at nothing that is known at the call only."""
        var = Var(node.var)
        return any(
            isinstance(inner, Lookup) and inner.tensor in self._tables and _is_of(inner.indices, var)
            for inner in walk(node.body)
        )

    def _written_out(self, node: Exists, values: range) -> Expr:
        if len(values) > limits.EXISTS_VALUES:  # an error, which is reported
            return node
        total: Expr = FALSE
        for value in values:
            part = fold(self._put(substitute(node.body, {Var(node.var): int_const(value)})))
            total = part if total == FALSE else Call("or", (total, part), BOOL, node.span)
        return total


def _is_of(indices: tuple[Expr, ...], var: Var) -> bool:
    leaves = [leaf for index in indices for leaf in walk(index) if not isinstance(leaf, Call)]
    return var in leaves and all(isinstance(leaf, Const | Var) for leaf in leaves)


def _literal(value: bool | int | float, kind: ScalarType, node: Lookup) -> Const:
    return Const(value, kind, node.span)

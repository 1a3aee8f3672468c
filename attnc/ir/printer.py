"""Stable text of expressions, modules and plans."""

from __future__ import annotations

import hashlib
from typing import assert_never

from attnc.ir.builtins import BUILTINS
from attnc.ir.expr import (
    Call,
    Const,
    Exists,
    Expr,
    GridCoord,
    Index,
    Lift,
    Lookup,
    Param,
    Reduce,
    Ref,
    Size,
    Value,
    Var,
)
from attnc.ir.module import AttentionModule, Range, ScalarParam, Table, TensorParam
from attnc.ir.plan import Accumulator, KernelPlan, Part, Piece, States, TileAxis
from attnc.ir.types import VectorType

_LEVELS = (("or",), ("and",), ("not",), ("lt", "le", "gt", "ge", "eq", "ne"), ("bitand",), ("add", "sub"),
           ("mul", "div", "floordiv", "mod"), ("neg",), ("pow",))  # fmt: skip
_LEVEL = {name: level for level, names in enumerate(_LEVELS) for name in names}
_ATOM = len(_LEVELS)
#: Values of a table that are printed.
_SHOWN = 16


def print_expr(expr: Expr) -> str:
    """The expression in the language's own syntax."""
    return _print(expr)[0]


def _print(expr: Expr) -> tuple[str, int]:
    match expr:
        case Const(value=value):
            return _literal(value), _ATOM if value >= 0 else _LEVEL["neg"]
        case Index(name=name) | Size(name=name) | Param(name=name) | Value(name=name) | Var(name=name) | Ref(name=name):
            return name, _ATOM
        case GridCoord(side=side, axis=axis):
            return f"{'i' if side == 'q' else 'j'}.{axis}", _ATOM
        case Lookup(tensor=tensor, indices=indices):
            return f"{tensor}[{', '.join(map(print_expr, indices))}]", _ATOM
        case Call():
            return _call(expr)
        case Reduce(op=op, axis=axis, body=body, group=group):
            by = "" if group is None else f" by {print_expr(group)}"
            return f"{op}[{axis}{by}]({print_expr(body)})", _ATOM
        case Exists(var=var, low=low, high=high, body=body):
            return f"exists {var} in {print_expr(low)}..{print_expr(high)}: {print_expr(body)}", -1
        case Lift(op=op, body=body, rows=rows, keys=keys):
            return f"{op}({', '.join(map(print_expr, (body, rows, keys)))})", _ATOM
        case _:
            assert_never(expr)


def _literal(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _call(expr: Call) -> tuple[str, int]:
    infix = BUILTINS[expr.fn].infix
    if infix is None or expr.fn == "in_grid":
        return f"{expr.fn}({', '.join(map(print_expr, expr.args))})", _ATOM
    level = _LEVEL[expr.fn]
    if len(expr.args) == 1:
        space = " " if expr.fn == "not" else ""
        return f"{infix}{space}{_operand(expr.args[0], level)}", level
    right = level + 1 if expr.fn != "pow" else level
    left = level if expr.fn != "pow" else level + 1
    return f"{_operand(expr.args[0], left)} {infix} {_operand(expr.args[1], right)}", level


def _operand(expr: Expr, level: int) -> str:
    text, own = _print(expr)
    return text if own >= level else f"({text})"


# -- modules ---------------------------------------------------------------------------------------------------------


def print_module(module: AttentionModule) -> str:
    """The typed module, everything inlined, one fact per line."""
    lines = [f"attention {module.name}"]
    lines += [f"  {_scalar(param)}" for param in module.scalars]
    lines += [f"  tensor {_tensor(tensor)}" for tensor in module.tensors]
    for side, grid in (("q", module.grid_q), ("k", module.grid_k)):
        if grid is not None:
            axes = ", ".join(f"{n}: {print_expr(e)}" for n, e in zip(grid.names, grid.extents, strict=True))
            lines.append(f"  grid {side} ({axes}) at {print_expr(grid.start)}")
    lines += [f"  mask   {print_expr(module.mask)}", f"  score  {print_expr(module.score)}"]
    lines += [f"  {binding.name} = {print_expr(binding.expr)}" for binding in module.cascade]
    lines += [f"  value  {print_expr(module.value)}", f"  output {print_expr(module.output)}"]
    lines += [f"  aux {binding.name} = {print_expr(binding.expr)}" for binding in module.aux]
    return "\n".join(lines) + "\n"


def _range(bounds: Range | None) -> str:
    if bounds is None:
        return ""
    low = print_expr(bounds.low_of) if bounds.low_of else "-inf" if bounds.low is None else str(bounds.low)
    high = print_expr(bounds.high_of) if bounds.high_of else "inf" if bounds.high is None else str(bounds.high)
    step = print_expr(bounds.step_of) if bounds.step_of else "" if bounds.step == 1 else str(bounds.step)
    last = f"{high}, {step}" if step else high
    return f" in {'(' if bounds.low_open else '['}{low}, {last}{')' if bounds.high_open else ']'}"


def _scalar(param: ScalarParam) -> str:
    default = "" if param.default is None else f" = {print_expr(param.default)}"
    return f"{'dynamic' if param.dynamic else 'static'} {param.name}: {param.type}{_range(param.range)}{default}"


def _tensor(tensor: TensorParam) -> str:
    dims = ", ".join(map(print_expr, tensor.dims))
    words = (" learned" if tensor.learned else "") + (" static" if tensor.static else "")
    value = "" if tensor.value is None else f" = {_table(tensor.value)}"
    return f"{tensor.name}: {tensor.type}[{dims}]{words}{_range(tensor.range)}{value}"


def _table(table: Table) -> str:
    """Its values; of many the first ones, and a hash of all."""
    if len(table.values) <= _SHOWN:
        return f"{table.dtype}{[*table.shape]} {', '.join(map(_literal, table.values))}"
    digest = hashlib.sha256(repr(table).encode()).hexdigest()[:16]
    return f"{table.dtype}{[*table.shape]} {', '.join(map(_literal, table.values[:_SHOWN]))}, ... ({digest})"


# -- plans -----------------------------------------------------------------------------------------------------------


def print_plan(plan: KernelPlan) -> str:
    """The plan, one fact per line."""
    lines = [f"plan of {plan.module.name}, D = {plan.head_dim}, Dv = {plan.value_dim}"]
    for part in plan.parts:
        lines += _part(part)
    for derived in plan.derived:
        shape = "real[D]" if isinstance(derived.expr.type, VectorType) else "real"
        lines.append(
            f"  per token {derived.name} ({derived.side}, {derived.heads}, {shape}) = {print_expr(derived.expr)}"
        )
    lines += [f"  {dot.name} = {dot.left} . {dot.right}" for dot in plan.dots]
    lines += [
        f"  {dot.name} = {print_expr(dot.left)} . {print_expr(dot.right)} (feature by feature)"
        for dot in plan.pair_dots
    ]
    unit = "s * log2(e)" if plan.log2_score else "s"
    lines += [f"  {unit} = {print_expr(plan.score)}", f"  mask {print_expr(plan.mask)}", f"  values {plan.values}"]
    for n, sweep in enumerate(plan.sweeps):
        lines.append(f"  sweep {n}: {sweep.why}")
        lines += [f"    {_accumulator(acc)}" for acc in sweep.accumulators]
        lines += [f"    per key: {_accumulator(acc)}" for acc in sweep.columns]
    lines += _states(plan.states) if plan.states is not None else []
    if plan.empty is not None:
        lines.append(f"  a row is empty when {print_expr(plan.empty)} is -inf")
    if plan.output is not None:
        lines.append(f"  output {print_expr(plan.output)}")
    lines += [f"  {s.name} = sum over pairs into {print_expr(s.target)}: {print_expr(s.body)}" for s in plan.scatters]
    lines += [f"  left for the backward: {', '.join(plan.saves)}"] if plan.saves else []
    lines += [f"  aux {binding.name} = {print_expr(binding.expr)}" for binding in plan.aux]
    return "\n".join(lines) + "\n"


def _part(part: Part) -> list[str]:
    lines = [f"  tiles of {part.tile.rows} x {part.tile.keys}; {part.why}"]
    lines += [line for number, axis in enumerate(part.axes) for line in _tile_axis(number, axis)]
    for visit in part.visits:
        lines += [f"    {visit.kind}: {_piece(piece)}" for piece in visit.pieces]
    if part.first_live:
        lines.append("    the first of them has a key for every row that sees any, when the queries are among the keys")
    return lines


def _tile_axis(number: int, axis: TileAxis) -> list[str]:
    classes = "" if axis.modulus == 1 else f", {axis.modulus} classes"
    classes += f", blocks of {axis.block}" if axis.block else ""
    head = f"    axis {number}: {print_expr(axis.extent)} coordinates {print_expr(axis.stride)} rows apart{classes}, "
    lines = [f"{head}{axis.rows} queries by {axis.keys} keys, {print_expr(axis.relation)}"]
    return lines + [f"      {visit.kind}: {_piece(piece)}" for visit in axis.visits for piece in visit.pieces]


def _piece(piece: Piece) -> str:
    text = f"{print_expr(piece.low)} .. {print_expr(piece.high)}"
    if piece.step != 1:
        text += f" step {piece.step}"
    guard = print_expr(piece.guard)
    return text if guard == "true" else f"{text} if {guard}"


def _states(states: States) -> list[str]:
    """What sums begin at."""
    ends = {"high": "chunks from the first", "low": "chunks from the last", "none": "one chunk"}
    lines = [f"  states of {states.chunk} key tiles"]
    lines += [f"    over {_piece(run.tiles)}, {ends[run.moves]}" for run in states.runs]
    for total in states.sums:
        terms = [" * ".join((print_expr(t.row), t.dot or "1", print_expr(t.column))) for t in total.terms]
        value = " + ".join(terms) if total.row is None else print_expr(total.row)
        lines.append(f"    {total.accumulator} begins with {value}")
    return lines


def _accumulator(acc: Accumulator) -> str:
    weighted = f" * {acc.by or 'v'}" if acc.weighted else ""
    text = f"{acc.name} = {acc.op} {print_expr(acc.body)}{weighted}"
    if acc.rescale is not None:
        text += f", rescaled by {print_expr(acc.rescale)}"
    return text

"""The text as a tree: untyped, immutable, every node with its span.

Written by `parser`, read by `resolve` and `check`. Names are not looked up here and nothing is typed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, assert_never

from attnc.source import SourceFile, Span


def _span() -> Span:
    return field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Word:
    """A name where it is written."""

    text: str
    span: Span = _span()


# ------------------------------------------------------------------------------------ expressions


@dataclass(frozen=True, slots=True)
class Number:
    """A literal; its Python type is its kind."""

    value: int | float
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Truth:
    """`true` or `false`."""

    value: bool
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Name:
    """A name that is read."""

    text: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Unary:
    """`-x` and `not x`."""

    op: str
    operand: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic, `&`, `@`, `and`, `or`."""

    op: str
    left: Expr
    right: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Compare:
    """`first op term op term ...`: the conjunction of neighbouring comparisons. `in` is one of the operators."""

    first: Expr
    rest: tuple[tuple[Word, Expr], ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Arg:
    """An argument by position (`name` is None) or by name."""

    name: Word | None
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Apply:
    """`callee(args)`."""

    callee: Expr
    args: tuple[Arg, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Subscript:
    """`base[items]`; the axis of a reduction may have a group: `sum[j by g(j)]`."""

    base: Expr
    items: tuple[Expr, ...]
    by: tuple[Word, Expr] | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Attribute:
    """`base.name`."""

    base: Expr
    name: Word
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Exists:
    var: Word
    low: Expr
    high: Expr
    body: Expr
    span: Span = _span()


Expr = Number | Truth | Name | Unary | Binary | Compare | Apply | Subscript | Attribute | Exists


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct subexpressions, in reading order."""
    match expr:
        case Number() | Truth() | Name():
            return ()
        case Unary(operand=operand):
            return (operand,)
        case Binary(left=left, right=right):
            return (left, right)
        case Compare(first=first, rest=rest):
            return (first, *(term for _, term in rest))
        case Apply(callee=callee, args=args):
            return (callee, *(arg.value for arg in args))
        case Subscript(base=base, items=items, by=by):
            return (base, *items) if by is None else (base, *items, by[1])
        case Attribute(base=base):
            return (base,)
        case Exists(low=low, high=high, body=body):
            return (low, high, body)
        case _:
            assert_never(expr)


# ------------------------------------------------------------------------------------- parameters


@dataclass(frozen=True, slots=True)
class TypeRef:
    """`int`, `real[B, H]`, `feature`."""

    name: Word
    dims: tuple[Expr, ...] | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class RangeRef:
    """`in [low, high)`, `in [low, high, step)`; a round bracket excludes its end."""

    low: Expr
    high: Expr
    step: Expr | None
    low_open: bool
    high_open: bool
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Param:
    """One entry of a header."""

    name: Word
    type: TypeRef | None
    modifiers: tuple[Word, ...]
    ranges: tuple[RangeRef, ...]
    default: Expr | None
    span: Span = _span()


# ------------------------------------------------------------------------------------- statements

FieldName = Literal["mask", "score", "bias", "normalizer", "output"]


@dataclass(frozen=True, slots=True)
class Field:
    """`mask EXPR` and its kind."""

    name: FieldName
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Let:
    """`let name = EXPR`: a name for a piece of text."""

    name: Word
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Aux:
    """`aux lse` selects a statistic of the normalizer, `aux lse = EXPR` defines one."""

    name: Word
    value: Expr | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class GridDecl:
    """`grid q (t: 30, y: 48) at 17`."""

    side: Word | None
    axes: tuple[tuple[Word, Expr], ...]
    start: tuple[Word, Expr] | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Assign:
    """`name = EXPR`; `over` is the second half of a branch (`softmax over window(64)`)."""

    name: Word
    value: Expr
    over: tuple[Word, Expr] | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class State:
    """`state S: real[D, Dv] = 0` of a recurrence."""

    keyword: Word
    name: Word
    type: TypeRef
    value: Expr
    span: Span = _span()


Statement = Field | Let | Aux | GridDecl | Assign | State

# ----------------------------------------------------------------------------------- declarations

DefinitionKind = Literal["def", "mask", "bias", "score", "feature"]
BlockKind = Literal["normalizer", "attention", "recurrence", "select"]


@dataclass(frozen=True, slots=True)
class Import:
    """`import std.NAME (x, y)`: `path` is the dotted name; `import "./f.attn" (x)`: the text between quotes."""

    path: tuple[str, ...] | str
    path_span: Span = field(compare=False, repr=False)
    names: tuple[Word, ...] | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Definition:
    """`mask NAME(params) = EXPR` and the other kinds that stand for an expression."""

    kind: DefinitionKind
    name: Word
    params: tuple[Param, ...]
    body: Expr
    doc: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Block:
    """`attention NAME(params) { statements }` and the other kinds with braces."""

    kind: BlockKind
    name: Word
    params: tuple[Param, ...]
    statements: tuple[Statement, ...]
    doc: str
    span: Span = _span()


Declaration = Import | Definition | Block


def names(expr: Expr) -> Iterator[Name]:
    """Every name that an expression reads."""
    stack = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Name):
            yield node
        stack.extend(children(node))


def expressions(declaration: Declaration) -> Iterator[Expr]:
    """Every outermost expression of a declaration: bodies, fields, dimensions, bounds, defaults."""
    if isinstance(declaration, Import):
        return
    for param in declaration.params:
        yield from _of_param(param)
    if isinstance(declaration, Definition):
        yield declaration.body
        return
    for statement in declaration.statements:
        yield from _of_statement(statement)


def _of_param(param: Param) -> Iterator[Expr]:
    if param.type is not None and param.type.dims is not None:
        yield from param.type.dims
    for range_ in param.ranges:
        yield from (range_.low, range_.high)
    if param.default is not None:
        yield param.default


def _of_statement(statement: Statement) -> Iterator[Expr]:
    if isinstance(statement, GridDecl):
        yield from (extent for _, extent in statement.axes)
        if statement.start is not None:
            yield statement.start[1]
        return
    if isinstance(statement, State):
        yield from statement.type.dims or ()
    if isinstance(statement, Assign) and statement.over is not None:
        yield statement.over[1]
    if statement.value is not None:
        yield statement.value


@dataclass(frozen=True, slots=True)
class File:
    """One parsed text. `summary` is the first line of its first comment."""

    source: SourceFile = field(compare=False)
    declarations: tuple[Declaration, ...]
    summary: str

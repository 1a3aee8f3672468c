"""Rules of the grammar to nodes of the tree, bottom up, while parsing. One method per rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from attnc.frontend import ast
from attnc.frontend.tokens import Token


def build(rule: str, items: list[Any]) -> Any:
    """The node of a rule whose children are built."""
    return _BUILDERS[rule](items)


def _word(token: Token) -> ast.Word:
    return ast.Word(token.text, token.span)


# ----------------------------------------------------------------------------------- declarations


def _start(items: Sequence[Any]) -> ast.Declaration:
    return items[0]


def _import(items: Sequence[Any]) -> ast.Import:
    keyword, (path, path_span), *names = items
    end = names[0][-1].span if names else path_span
    return ast.Import(path, path_span, names[0] if names else None, keyword.span.to(end))


def _import_path(items: Sequence[Any]) -> Any:
    first: Token = items[0]
    if first.type == "STRING":
        return first.text[1:-1], first.span
    return (first.text, *(word.text for word in items[1:])), first.span.to(items[-1].span)


def _names(items: Sequence[ast.Word]) -> tuple[ast.Word, ...]:
    return tuple(items)


def _name(items: Sequence[Token]) -> ast.Word:
    return _word(items[0])


def _definition(items: Sequence[Any]) -> ast.Definition:
    keyword, name, *params, body = items
    kind = cast(ast.DefinitionKind, keyword.text)
    return ast.Definition(kind, _word(name), params[0] if params else (), body, "", keyword.span.to(body.span))


def _block(items: Sequence[Any]) -> ast.Block:
    keyword, name, *rest, brace = items
    params: tuple[ast.Param, ...] = rest.pop(0) if rest and isinstance(rest[0], tuple) else ()
    kind = cast(ast.BlockKind, keyword.text)
    return ast.Block(kind, _word(name), params, tuple(rest), "", keyword.span.to(brace.span))


# ------------------------------------------------------------------------------------- parameters


def _params(items: Sequence[ast.Param]) -> tuple[ast.Param, ...]:
    return tuple(items)


def _param(items: Sequence[Any]) -> ast.Param:
    name, *rest = items
    type_ = next((item for item in rest if isinstance(item, ast.TypeRef)), None)
    modifiers = tuple(_word(item) for item in rest if isinstance(item, Token))
    ranges = tuple(item for item in rest if isinstance(item, ast.RangeRef))
    last = rest[-1] if rest else None
    default = None if isinstance(last, ast.TypeRef | ast.RangeRef | Token | None) else last
    end = items[-1].span
    return ast.Param(_word(name), type_, modifiers, ranges, default, name.span.to(end))


def _type(items: Sequence[Any]) -> ast.TypeRef:
    name, *dims = items
    if not dims:
        return ast.TypeRef(_word(name), None, name.span)
    bracket = dims.pop()
    return ast.TypeRef(_word(name), tuple(dims), name.span.to(bracket.span))


def _range(items: Sequence[Any]) -> ast.RangeRef:
    keyword, opener, low, high, *step, closer = items
    span = keyword.span.to(closer.span)
    return ast.RangeRef(low, high, step[0] if step else None, opener.type == "LPAR", closer.type == "RPAR", span)


# ------------------------------------------------------------------------------------- statements


def _field(items: Sequence[Any]) -> ast.Field:
    keyword, value = items
    return ast.Field(cast(ast.FieldName, keyword.text), value, keyword.span.to(value.span))


def _let(items: Sequence[Any]) -> ast.Let:
    keyword, name, value = items
    return ast.Let(_word(name), value, keyword.span.to(value.span))


def _aux(items: Sequence[Any]) -> ast.Aux:
    keyword, name, *value = items
    return ast.Aux(_word(name), value[0] if value else None, keyword.span.to(items[-1].span))


def _grid(items: Sequence[Any]) -> ast.GridDecl:
    keyword, *rest = items
    side = _word(rest.pop(0)) if isinstance(rest[0], Token) else None
    close = next(n for n, item in enumerate(rest) if isinstance(item, Token))
    start = rest[close + 1] if close + 1 < len(rest) else None
    end = rest[close].span if start is None else start[1].span
    return ast.GridDecl(side, tuple(rest[:close]), start, keyword.span.to(end))


def _word_and_expr(items: Sequence[Any]) -> tuple[ast.Word, ast.Expr]:
    return _word(items[0]), items[1]


def _assign(items: Sequence[Any]) -> ast.Assign:
    name, value, *over = items
    end = over[0][1].span if over else value.span
    return ast.Assign(_word(name), value, over[0] if over else None, name.span.to(end))


def _state(items: Sequence[Any]) -> ast.State:
    keyword, name, type_, value = items
    return ast.State(_word(keyword), _word(name), type_, value, keyword.span.to(value.span))


# ------------------------------------------------------------------------------------ expressions


def _binary(items: Sequence[Any]) -> ast.Binary:
    left, op, right = items
    return ast.Binary(op.text, left, right, left.span.to(right.span))


def _unary(items: Sequence[Any]) -> ast.Unary:
    op, operand = items
    return ast.Unary(op.text, operand, op.span.to(operand.span))


def _exists(items: Sequence[Any]) -> ast.Exists:
    keyword, var, _, low, _, high, body = items
    return ast.Exists(_word(var), low, high, body, keyword.span.to(body.span))


def _compare(items: Sequence[Any]) -> ast.Compare:
    first, *rest = items
    pairs = tuple(zip(rest[::2], rest[1::2], strict=True))
    return ast.Compare(first, pairs, first.span.to(items[-1].span))


def _apply(items: Sequence[Any]) -> ast.Apply:
    callee, *args, close = items
    return ast.Apply(callee, tuple(args), callee.span.to(close.span))


def _arg(items: Sequence[Any]) -> ast.Arg:
    if len(items) == 1:
        return ast.Arg(None, items[0], items[0].span)
    return ast.Arg(_word(items[0]), items[1], items[0].span.to(items[1].span))


def _subscript(items: Sequence[Any]) -> ast.Subscript:
    base, *rest, close = items
    by = rest.pop() if isinstance(rest[-1], tuple) else None
    return ast.Subscript(base, tuple(rest), by, base.span.to(close.span))


def _attribute(items: Sequence[Any]) -> ast.Attribute:
    base, name = items
    return ast.Attribute(base, name, base.span.to(name.span))


def _name_use(items: Sequence[Token]) -> ast.Name:
    return ast.Name(items[0].text, items[0].span)


def _integer(items: Sequence[Token]) -> ast.Number:
    return ast.Number(int(items[0].text), items[0].span)


def _real(items: Sequence[Token]) -> ast.Number:
    return ast.Number(float(items[0].text), items[0].span)


def _truth(items: Sequence[Token]) -> ast.Truth:
    return ast.Truth(items[0].text == "true", items[0].span)


def _parenthesis(items: Sequence[Any]) -> ast.Expr:
    opener, inner, closer = items
    return replace(inner, span=opener.span.to(closer.span))


_BUILDERS: dict[str, Callable[[Sequence[Any]], Any]] = {
    "start": _start,
    "import": _import,
    "import_path": _import_path,
    "names": _names,
    "name": _name,
    "definition": _definition,
    "block": _block,
    "params": _params,
    "param": _param,
    "type": _type,
    "range": _range,
    "field": _field,
    "let": _let,
    "aux": _aux,
    "grid": _grid,
    "axis": _word_and_expr,
    "tail": _word_and_expr,
    "assign": _assign,
    "state": _state,
    "binary": _binary,
    "unary": _unary,
    "exists": _exists,
    "compare": _compare,
    "comparator": _name,
    "apply": _apply,
    "arg": _arg,
    "subscript": _subscript,
    "attribute": _attribute,
    "name_use": _name_use,
    "integer": _integer,
    "real": _real,
    "truth": _truth,
    "parenthesis": _parenthesis,
}

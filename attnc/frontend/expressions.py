"""Untyped to typed expressions, one function per kind of node."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import assert_never

from attnc.frontend import ast
from attnc.frontend.calls import check_call
from attnc.frontend.environment import Broken, Elaborator, Env, Function, Local, Tensor, all_or_none
from attnc.frontend.errors import names as name_errors
from attnc.frontend.errors import support
from attnc.frontend.errors import types as errors
from attnc.frontend.lookups import check_lookup
from attnc.frontend.members import check_attribute, check_membership, readable
from attnc.frontend.names import INDICES, LIFTS, REDUCTIONS, SIZES, VALUES
from attnc.frontend.params import check_free
from attnc.frontend.reductions import check_reduction, is_reduction
from attnc.frontend.typing_rules import apply_builtin, is_static
from attnc.frontend.unknown import report_unknown
from attnc.frontend.uses import use_declared
from attnc.ir.builtins import CALLABLE, INFIX
from attnc.ir.expr import Call, Const, Exists, Expr, Index, Size, Value, Var
from attnc.ir.types import BOOL, INT, REAL, Type, VectorType
from attnc.source import Span


def elaborate(el: Elaborator, node: ast.Expr, env: Env) -> Expr | None:
    """The typed expression of a node; None after an error."""
    match node:
        case ast.Number(value=value):
            return Const(value, INT if isinstance(value, int) else REAL, node.span)
        case ast.Truth(value=value):
            return Const(value, BOOL, node.span)
        case ast.Name():
            return _name(el, node, env)
        case ast.Unary():
            return _unary(el, node, env)
        case ast.Binary():
            return _binary(el, node, env)
        case ast.Compare():
            return _compare(el, node, env)
        case ast.Apply():
            return check_call(el, node, env)
        case ast.Subscript():
            return _subscript(el, node, env)
        case ast.Attribute():
            return check_attribute(el, node, env)
        case ast.Exists():
            return _exists(el, node, env)
        case _:
            assert_never(node)


# ------------------------------------------------------------------------------------------ names


def _name(el: Elaborator, node: ast.Name, env: Env) -> Expr | None:
    meaning = env.names.get(node.text)
    match meaning:
        case Local():
            return _local(el, node, meaning, env)
        case Tensor(param=param):
            return check_lookup(el, env, param, (), node.span)
        case Function():
            el.report(errors.wrong_type("an operand", "a number", "a feature map", node.span), env)
            return None
        case Broken():
            return None
        case None:
            return _global(el, node.text, env, node.span)


def _local(el: Elaborator, node: ast.Name, local: Local, env: Env) -> Expr | None:
    """A local name, pointing to its use from now on. A `let` may hold what this place cannot read."""
    if local.definition is not None:
        reads = el.reads(local.expr)
        wrong = sorted(reads & env.place.forbids)
        wrong += sorted(name for name in reads if name.startswith("[") and name[1] not in env.place.reduces)
        if wrong:
            through = (node.text, local.definition)
            error = name_errors.not_readable_here(wrong[0], env.place.title, node.span, env.place.why, through=through)
            el.report(error, env)
            return None
    return replace(local.expr, span=node.span)


def _global(el: Elaborator, name: str, env: Env, span: Span) -> Expr | None:
    if name in INDICES:
        return Index(INDICES[name], span) if readable(el, env, name, span) else None
    if name in SIZES:
        return Size(SIZES[name], span) if readable(el, env, name, span) else None
    if name in VALUES:
        return _value(name, env, span) if readable(el, env, name, span) else None
    if name == "pi":
        return Const(math.pi, REAL, span)
    if name in CALLABLE or name in LIFTS or name in REDUCTIONS:
        wanted = f"`{name}(...)`" if name in CALLABLE or name in LIFTS else f"`{name}[j](...)`"
        el.report(name_errors.wrong_kind(name, ("function",), "a value", span, f"write {wanted}"), env)
        return None
    declared = el.library.find(env.scope, env.place.kinds, name)
    if declared is not None:
        found = use_declared(el, env, declared, (), span)
        return None if found is None else replace(found, span=span)
    report_unknown(el, env, name, span)
    return None


_VALUE_TYPES: dict[str, Type] = {
    "q": VectorType(Size("D")),
    "k": VectorType(Size("D")),
    "v": VectorType(Size("Dv")),
    "o": VectorType(Size("Dv")),
    "n_keys": INT,
}


def _value(name: str, env: Env, span: Span) -> Expr:
    mapped = env.tokens.get(name)
    return Value(name, _VALUE_TYPES.get(name, REAL), span) if mapped is None else replace(mapped, span=span)


# -------------------------------------------------------------------------------------- operators


def _unary(el: Elaborator, node: ast.Unary, env: Env) -> Expr | None:
    operand = el.expr(node.operand, env)
    if operand is None:
        return None
    if node.op == "-" and isinstance(operand, Const) and isinstance(node.operand, ast.Number):
        return Const(-operand.value, operand.type, node.span)
    return apply_builtin(el, env, INFIX[node.op, 1], (operand,), node.span)


def _binary(el: Elaborator, node: ast.Binary, env: Env) -> Expr | None:
    left, right = el.expr(node.left, env), el.expr(node.right, env)
    if left is None or right is None:
        return None
    if node.op == "@":
        el.report(support.not_yet("the matrix product `@`", node.span, "an inner product is `dot(x, y)`"), env)
        return None
    return apply_builtin(el, env, INFIX[node.op, 2], (left, right), node.span)


def _compare(el: Elaborator, node: ast.Compare, env: Env) -> Expr | None:
    """A chain is the conjunction of its neighbours; a middle term is typed once and shared."""
    found, left, left_node = None, el.expr(node.first, env), node.first
    failed = False
    for op, right_node in node.rest:
        if op.text == "in":
            part, right = check_membership(el, env, left_node, left, right_node), None
        else:
            right = el.expr(right_node, env)
            both = all_or_none((left, right))
            part = None if both is None else apply_builtin(el, env, INFIX[op.text, 2], both, node.span)
        failed = failed or part is None
        if part is not None:
            found = part if found is None else Call("and", (found, part), BOOL, node.span)
        left, left_node = right, right_node
    return None if failed else found


# ------------------------------------------------------------------------------------- subscripts


def _subscript(el: Elaborator, node: ast.Subscript, env: Env) -> Expr | None:
    if is_reduction(node):
        return check_reduction(el, env, node, None, node.span)
    if isinstance(node.base, ast.Name):
        meaning = env.names.get(node.base.text)
        if isinstance(meaning, Tensor):
            indices = [el.expr(item, env) for item in node.items]
            if node.by is not None:
                el.report(errors.bad_group(node.by[0].span), env)
                return None
            return check_lookup(el, env, meaning.param, indices, node.span)
    base = el.expr(node.base, env)
    if base is None:
        return None
    if isinstance(base.type, VectorType):
        help_ = "reduce the vector with `dot(x, y)` or `sum[d](x)`"
        el.report(support.not_yet("an element of a vector", node.span, help_), env)
        return None
    el.report(errors.not_indexable(node.base.span.text, "one number", node.span), env)
    return None


# ----------------------------------------------------------------------------------------- exists


def _exists(el: Elaborator, node: ast.Exists, env: Env) -> Expr | None:
    check_free(el, env, node.var)
    low = el.typed(node.low, env, INT, "a bound of `exists`")
    high = el.typed(node.high, env, INT, "a bound of `exists`")
    for bound in (low, high):
        if bound is not None and not is_static(el, bound):
            el.report(errors.bad_exists_range(bound.span), env)
            low = None
    name = node.var.text
    while name in env.vars:  # an inlined `exists` must not capture the variable of an outer one
        name += "_"
    names = {**env.names, node.var.text: Local(Var(name, node.var.span))}
    body = el.typed(node.body, replace(env, names=names, vars=(*env.vars, name)), BOOL, "the body of `exists`")
    if low is None or high is None or body is None:
        return None
    return Exists(name, low, high, body, node.span)

"""Reductions: `sum[j](x)`, `max[i](x)`, `sum[j by g(j)](x)`, `mean[d](x)`, `count[j]`."""

from __future__ import annotations

from attnc.frontend import ast
from attnc.frontend.environment import Elaborator, Env, ReduceAxis
from attnc.frontend.errors import support
from attnc.frontend.errors import types as errors
from attnc.frontend.names import REDUCTIONS
from attnc.frontend.typing_rules import to_real, type_text
from attnc.ir.expr import TRUE, Expr, Reduce, ReduceOp
from attnc.ir.types import BOOL, INT, REAL, ScalarType, VectorType
from attnc.source import Span

_AXES: dict[str, ReduceAxis] = {"j": "j", "i": "i", "d": "d"}


def is_reduction(node: ast.Expr) -> bool:
    """Whether the text is `max[...]` and the like."""
    return isinstance(node, ast.Subscript) and isinstance(node.base, ast.Name) and node.base.text in REDUCTIONS


def check_reduction(
    el: Elaborator, env: Env, head: ast.Subscript, args: tuple[ast.Arg, ...] | None, span: Span
) -> Expr | None:
    """`head` applied to `args`; None stands for a bare `count[j]`."""
    assert isinstance(head.base, ast.Name)
    op = REDUCTIONS[head.base.text]
    axis = _axis(el, env, op, head)
    if axis is None:
        return None
    if axis not in env.place.reduces:
        el.report(errors.reduction_not_here(f"{op}[{axis}]", env.place.title, head.span), env)
        return None
    group = None
    if head.by is not None:
        group = _group(el, env, axis, head.by)
        if group is None:
            return None
    body = _body(el, env, op, axis, args, span)
    return None if body is None else Reduce(op, axis, body[0], group, body[1], span)


def _axis(el: Elaborator, env: Env, op: ReduceOp, head: ast.Subscript) -> ReduceAxis | None:
    item = head.items[0] if len(head.items) == 1 else None
    if isinstance(item, ast.Name) and item.text in _AXES:
        return _AXES[item.text]
    if isinstance(item, ast.Compare):
        el.report(support.not_yet("a reduction over a block of keys", head.span, f"`{op}[j by GROUP](...)`"), env)
    else:
        el.report(errors.bad_axis(op, head.span), env)
    return None


def _group(el: Elaborator, env: Env, axis: ReduceAxis, by: tuple[ast.Word, ast.Expr]) -> Expr | None:
    word, node = by
    if word.text != "by" or axis != "j":
        el.report(errors.bad_group(word.span), env)
        return None
    return el.typed(node, env, INT, "a group")


def _body(
    el: Elaborator, env: Env, op: ReduceOp, axis: ReduceAxis, args: tuple[ast.Arg, ...] | None, span: Span
) -> tuple[Expr, ScalarType] | None:
    """The reduced expression and the type of the result."""
    if op == "count" and not args:
        return TRUE, INT
    if args is None or len(args) != 1 or args[0].name is not None:
        el.report(errors.reduction_body(f"{op}[{axis}]", span), env)
        return None
    body = el.expr(args[0].value, env)
    if body is None:
        return None
    if isinstance(body.type, VectorType) != (axis == "d"):
        return _wrong_shape(el, env, op, axis, body)
    if op == "count":
        return _counted(el, env, body)
    if body.type == BOOL:
        el.report(errors.bad_operand(f"{op}[{axis}]", "a number", "bool", body.span, f"count[{axis}]"), env)
        return None
    if body.type == INT and op != "mean":
        return body, INT
    return to_real(body), REAL


def _counted(el: Elaborator, env: Env, body: Expr) -> tuple[Expr, ScalarType] | None:
    if body.type == BOOL:
        return body, INT
    el.report(errors.bad_operand("count", "a condition", type_text(body.type), body.span), env)
    return None


def _wrong_shape(el: Elaborator, env: Env, op: ReduceOp, axis: ReduceAxis, body: Expr) -> None:
    if axis == "d":
        el.report(errors.bad_operand(f"{op}[d]", "a vector", type_text(body.type), body.span), env)
    else:
        help_ = f"reduce its dot product with the other side: `{op}[{axis}](dot(q, k))`"
        el.report(support.not_yet(f"`{op}[{axis}]` of a vector", body.span, help_), env)

"""A declaration on its own: whether its text is right before any use gives its parameters a meaning."""

from __future__ import annotations

from attnc.diagnostics import SpecError
from attnc.frontend import ast
from attnc.frontend.cascade import check_cascade
from attnc.frontend.environment import (
    ANYWHERE,
    BIAS,
    MASK,
    NORMALIZER,
    SCORE,
    Broken,
    Elaborator,
    Env,
    Function,
    Grids,
    Place,
)
from attnc.frontend.errors import types as errors
from attnc.frontend.params import check_header
from attnc.frontend.resolve import Declared
from attnc.frontend.uses import body_of, function_argument
from attnc.ir.expr import Expr
from attnc.ir.fold import fold

_PLACES: dict[str, Place] = {"mask": MASK, "bias": BIAS, "score": SCORE, "normalizer": NORMALIZER}


def check_declared(el: Elaborator, declared: Declared) -> None:
    """Report everything that is wrong with a declaration whatever its arguments."""
    node = declared.node
    header = check_header(el, declared.scope, node.params, attention=False)
    place = _PLACES.get(declared.kind, ANYWHERE)
    env = Env(header.names, declared.scope, place, grids=Grids(any_axis=True))
    for param in node.params:
        if isinstance(header.names.get(param.name.text), Function) and param.default is not None:
            header.names[param.name.text] = function_argument(el, env, param.default)
        elif param.type is None and not _is_token(declared, param):
            el.report(errors.missing_type(param.name.text, param.name.span), env)
            header.names[param.name.text] = Broken()
    if isinstance(node, ast.Definition):
        check_constants(el, env, body_of(el, env, declared, header.names))
        return
    cascade = check_cascade(el, node, env)
    for binding in (*cascade.bindings, *cascade.aux):
        check_constants(el, env, binding.expr)


def _is_token(declared: Declared, param: ast.Param) -> bool:
    return declared.kind == "feature" and param is declared.node.params[0]


def check_constants(el: Elaborator, env: Env, expr: Expr | None) -> None:
    """Report computations of literals that have no result."""
    if expr is None:
        return
    try:
        fold(expr)
    except SpecError as error:
        el.report(errors.arithmetic(error, expr.span), env)

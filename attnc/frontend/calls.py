"""Calls: builtins, reductions, feature parameters and declared things."""

from __future__ import annotations

from dataclasses import replace

from attnc.frontend import ast
from attnc.frontend.environment import Broken, Elaborator, Env, Function, all_or_none
from attnc.frontend.errors import types as errors
from attnc.frontend.lifts import check_lift
from attnc.frontend.names import LIFTS, REDUCTIONS
from attnc.frontend.reductions import check_reduction, is_reduction
from attnc.frontend.typing_rules import apply_builtin, convert, is_static, to_real, type_text
from attnc.frontend.unknown import report_unknown
from attnc.frontend.uses import apply_function, match_arguments, use_declared
from attnc.ir.builtins import BUILTINS, CALLABLE
from attnc.ir.expr import FALSE, Call, Const, Expr, int_const, real_const
from attnc.ir.types import BOOL, INT, REAL, VectorType

_FORMALS = {1: ("x",), 2: ("x", "y"), 3: ("condition", "x", "y")}


def check_call(el: Elaborator, node: ast.Apply, env: Env) -> Expr | None:
    """The typed call."""
    callee = node.callee
    if isinstance(callee, ast.Subscript) and is_reduction(callee):
        return check_reduction(el, env, callee, node.args, node.span)
    if not isinstance(callee, ast.Name):
        el.report(errors.not_callable(callee.span.text, "an expression", callee.span), env)
        return None
    meaning = env.names.get(callee.text)
    if isinstance(meaning, Function):
        return apply_function(el, env, meaning, callee.text, node.args, node.span)
    if isinstance(meaning, Broken):
        return None
    if meaning is not None:
        help_ = f"its elements are `{callee.text}[...]`; a product is written with `*`"
        el.report(errors.not_callable(callee.text, "a value", callee.span, help_), env)
        return None
    return _named_call(el, env, callee, node)


def _named_call(el: Elaborator, env: Env, callee: ast.Name, node: ast.Apply) -> Expr | None:
    name = callee.text
    if name in REDUCTIONS and (name not in CALLABLE or len(node.args) == 1):
        help_ = f"over the keys: `{name}[j](...)`, over features: `{name}[d](...)`"
        el.report(errors.not_callable(name, "a reduction without its axis", callee.span, help_), env)
        return None
    if name in ("rope", "normalize"):
        return _call_with_options(el, env, name, node)
    if name in LIFTS:
        return check_lift(el, node, name, env)
    if name in CALLABLE:
        return _builtin(el, env, name, node)
    declared = el.library.find(env.scope, env.place.kinds, name)
    if declared is None:
        report_unknown(el, env, name, callee.span)
        return None
    found = use_declared(el, env, declared, node.args, node.span)
    return None if found is None else replace(found, span=node.span)


def _builtin(el: Elaborator, env: Env, name: str, node: ast.Apply) -> Expr | None:
    formals = [(formal, True) for formal in _FORMALS[BUILTINS[name].arity]]
    given = match_arguments(el, env, name, formals, node.args, node.span)
    if given is None:
        return None
    args = all_or_none([el.expr(given[formal], env) for formal, _ in formals])
    return None if args is None else apply_builtin(el, env, name, args, node.span)


# ----------------------------------------------------------------------------- rope and normalize


def _call_with_options(el: Elaborator, env: Env, name: str, node: ast.Apply) -> Expr | None:
    builtin = BUILTINS[name]
    needed = ("x", "position")[: builtin.arity]
    formals = [*((formal, True) for formal in needed), *((formal, False) for formal in builtin.named)]
    given = match_arguments(el, env, name, formals, node.args, node.span)
    vector = None if given is None else el.expr(given["x"], env)
    if given is None or vector is None:
        return None
    if not isinstance(vector.type, VectorType):
        el.report(errors.bad_operand(name, "a vector", type_text(vector.type), vector.span), env)
        return None
    rest = _rope(el, env, vector.type, given) if name == "rope" else _eps(el, env, given)
    return None if rest is None else Call(name, (vector, *rest), vector.type, node.span)


def _eps(el: Elaborator, env: Env, given: dict[str, ast.Expr]) -> tuple[Expr, ...] | None:
    eps = el.typed(given["eps"], env, REAL, "`eps`") if "eps" in given else real_const(1e-12)
    return None if eps is None else (eps,)


def _rope(el: Elaborator, env: Env, type_: VectorType, given: dict[str, ast.Expr]) -> tuple[Expr, ...] | None:
    """Position, theta, start, dims, interleaved: all of them, the defaults filled in."""
    position = el.expr(given["position"], env)
    if position is not None and position.type != INT:
        position = convert(el, env, position, REAL, "a position")
    theta = el.typed(given["theta"], env, REAL, "`theta`") if "theta" in given else real_const(10000.0)
    start = _static(el, env, given, "start", int_const(0))
    dims = _static(el, env, given, "dims", _rest_of(type_, start))
    interleaved = el.typed(given["interleaved"], env, BOOL, "`interleaved`") if "interleaved" in given else FALSE
    return all_or_none((position, None if theta is None else to_real(theta), start, dims, interleaved))


def _static(el: Elaborator, env: Env, given: dict[str, ast.Expr], name: str, default: Expr) -> Expr | None:
    if name not in given:
        return default
    found = el.typed(given[name], env, INT, f"`{name}`")
    if found is None or is_static(el, found) or el.reads(found) <= {"D", "Dv"}:
        return found
    el.report(errors.not_static(f"`{name}`", given[name].span), env)
    return None


def _rest_of(type_: VectorType, start: Expr | None) -> Expr:
    if start is None or (isinstance(start, Const) and start.value == 0):
        return type_.dim
    return Call("sub", (type_.dim, start), INT, start.span)

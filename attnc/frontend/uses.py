"""Uses of declared things: arguments to parameters, then the declared text in place of the name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attnc.diagnostics import Diagnostic
from attnc.frontend import ast
from attnc.frontend.environment import SIZE, Broken, Elaborator, Env, Function, Local, Meaning, Tensor
from attnc.frontend.errors import types as errors
from attnc.frontend.params import SCALARS, check_dims, is_tensor_or_vector
from attnc.frontend.resolve import Declared
from attnc.frontend.typing_rules import apply_builtin, convert, type_text
from attnc.ir.builtins import BUILTINS
from attnc.ir.dims import dims_text, same_dim
from attnc.ir.expr import Expr
from attnc.ir.types import BOOL, REAL, VectorType
from attnc.source import Span


def match_arguments(
    el: Elaborator, env: Env, called: str, formals: Sequence[tuple[str, bool]], args: Sequence[ast.Arg], span: Span
) -> dict[str, ast.Expr] | None:
    """Which argument each parameter gets. `formals` are names and whether an argument is needed."""
    found = dict[str, ast.Expr]()
    names = [name for name, _ in formals]
    errors_before = 0
    for position, arg in enumerate(args):
        name = arg.name.text if arg.name is not None else (names[position] if position < len(names) else None)
        problem = _argument_problem(called, names, name, found, arg, len(args))
        if problem is not None or name is None:
            errors_before += 1
            if problem is not None:
                el.report(problem, env)
            continue
        found[name] = arg.value
    missing = [name for name, needed in formals if needed and name not in found]
    if missing and not errors_before:
        el.report(errors.missing_arguments(called, tuple(missing), tuple(names), span), env)
    return None if missing or errors_before else found


def _argument_problem(
    called: str, names: list[str], name: str | None, found: dict[str, ast.Expr], arg: ast.Arg, count: int
) -> Diagnostic | None:
    if name is None:
        return errors.too_many_arguments(called, tuple(names), count, arg.span)
    if name not in names:
        return errors.unknown_argument(called, name, tuple(names), arg.span)
    if name in found:
        return errors.repeated_argument(called, name, arg.span)
    return None


def bind_arguments(
    el: Elaborator, env: Env, declared: Declared, args: Sequence[ast.Arg], span: Span
) -> dict[str, Meaning] | None:
    """The meaning of every parameter of a declaration in one use; scalars first, for dimensions mention them."""
    params = declared.node.params
    formals = [(param.name.text, param.default is None) for param in params]
    given = match_arguments(el, env, declared.name, formals, args, span)
    if given is None:
        return None
    names = dict[str, Meaning]()
    inside = Env(names, declared.scope, SIZE, used_at=env.used_at or span)
    for param in sorted(params, key=is_tensor_or_vector):
        names[param.name.text] = _bind(el, env, inside, param, given.get(param.name.text))
    return None if any(isinstance(meaning, Broken) for meaning in names.values()) else names


def _bind(el: Elaborator, env: Env, inside: Env, param: ast.Param, arg: ast.Expr | None) -> Meaning:
    where, node = (env, arg) if arg is not None else (inside, param.default)
    assert node is not None
    if param.type is not None and param.type.name.text == "feature":
        return function_argument(el, where, node)
    if is_tensor_or_vector(param):
        return _bind_tensor(el, where, inside, param, node)
    expr = el.expr(node, where)
    if expr is not None and param.type is not None:
        kind = SCALARS[param.type.name.text]
        expr = convert(el, where, expr, kind, f"argument `{param.name.text}`")
    return Broken() if expr is None else Local(expr)


def _bind_tensor(el: Elaborator, env: Env, inside: Env, param: ast.Param, node: ast.Expr) -> Meaning:
    assert param.type is not None
    dims = check_dims(el, inside, param.type.dims or ())
    if dims is None:
        return Broken()
    meaning = env.names.get(node.text) if isinstance(node, ast.Name) else None
    wanted = f"{param.type.name.text}{dims_text(dims)}"
    if isinstance(meaning, Broken):
        return meaning
    if isinstance(meaning, Tensor):
        actual = meaning.param
        if actual.type == SCALARS[param.type.name.text] and _same_dims(dims, actual.dims):
            return meaning
        found = f"{actual.type.kind}{dims_text(actual.dims)}"
    else:
        expr = el.expr(node, env)
        if expr is None:
            return Broken()
        found = type_text(expr.type)
        if isinstance(expr.type, VectorType) and len(dims) == 1 and same_dim(expr.type.dim, dims[0]):
            return Local(expr)
    el.report(errors.wrong_tensor(param.name.text, wanted, found, node.span), env)
    return Broken()


def _same_dims(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> bool:
    return len(a) == len(b) and all(same_dim(x, y) for x, y in zip(a, b, strict=True))


# ----------------------------------------------------------------------------------- putting in place


def use_declared(el: Elaborator, env: Env, declared: Declared, args: Sequence[ast.Arg], span: Span) -> Expr | None:
    """The text of a mask, bias, score, feature or def with its parameters put in place."""
    if not el.sound(declared):
        return None
    names = bind_arguments(el, env, declared, args, span)
    if names is None:
        return None
    return body_of(el, replace(env, used_at=env.used_at or span), declared, names)


def body_of(el: Elaborator, env: Env, declared: Declared, names: dict[str, Meaning]) -> Expr | None:
    """The body of a definition where its parameters mean `names`, as the kind that the definition promises."""
    assert isinstance(declared.node, ast.Definition)
    body = declared.node.body
    expr = el.expr(body, replace(env, names=names, scope=declared.scope))
    if expr is None:
        return None
    match declared.kind:
        case "mask":
            return convert(el, env, expr, BOOL, "a mask")
        case "bias" | "score":
            return convert(el, env, expr, REAL, f"a {declared.kind}")
        case _:
            return expr


# --------------------------------------------------------------------------------------- features


def function_argument(el: Elaborator, env: Env, node: ast.Expr) -> Meaning:
    """What is given for a parameter of kind `feature`: a declared feature or a builtin of one argument."""
    if isinstance(node, ast.Name):
        meaning = env.names.get(node.text)
        if isinstance(meaning, Function | Broken):
            return meaning
        if node.text in BUILTINS and is_elementwise(node.text):
            return Function(node.text)
        declared = el.library.find(env.scope, ("feature",), node.text)
        if declared is not None:
            return Function(declared) if el.sound(declared) else Broken()
        if node.text in env.scope.silent:
            return Broken()
    known = el.library.known(env.scope, ("feature",))
    el.report(errors.no_feature(node.span.text, known, node.span), env)
    return Broken()


def is_elementwise(name: str) -> bool:
    """Whether a builtin maps one number to one number."""
    builtin = BUILTINS[name]
    return builtin.arity == 1 and builtin.rule in ("same", "real") and builtin.infix is None


def apply_function(
    el: Elaborator, env: Env, function: Function, name: str, args: Sequence[ast.Arg], span: Span
) -> Expr | None:
    """A feature parameter applied to a token."""
    if isinstance(function.target, Declared):
        return use_declared(el, env, function.target, args, span)
    given = match_arguments(el, env, name, [("x", True)], args, span)
    expr = None if given is None else el.expr(given["x"], env)
    if expr is None or function.target is None:
        return expr
    return apply_builtin(el, env, function.target, (expr,), span)

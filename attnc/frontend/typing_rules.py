"""Types of builtins and operators: from typed arguments to the typed call, conversions written out."""

from __future__ import annotations

from attnc.frontend.environment import Elaborator, Env
from attnc.frontend.errors import types as errors
from attnc.ir.builtins import BUILTINS, Builtin
from attnc.ir.dims import dim_text, same_dim
from attnc.ir.expr import Call, Const, Expr, Lookup, Param, Var, real_const
from attnc.ir.traverse import walk
from attnc.ir.types import BOOL, INT, REAL, ScalarType, Type, VectorType
from attnc.source import Span


def type_text(type_: Type) -> str:
    """The type as the user would write it."""
    return f"real[{dim_text(type_.dim)}]" if isinstance(type_, VectorType) else type_.kind


def to_real(expr: Expr) -> Expr:
    """An int as a real; a literal changes its kind. Everything else stays."""
    if expr.type != INT:
        return expr
    if isinstance(expr, Const):
        return real_const(expr.value, expr.span)
    return Call("real", (expr,), REAL, expr.span)


def convert(el: Elaborator, env: Env, expr: Expr, kind: ScalarType, what: str) -> Expr | None:
    """The expression as a scalar of a kind; an int becomes real where a real is wanted."""
    if expr.type == kind:
        return expr
    if kind == REAL and expr.type == INT:
        return to_real(expr)
    el.report(errors.wrong_type(what, kind.kind, type_text(expr.type), expr.span), env)
    return None


def apply_builtin(el: Elaborator, env: Env, fn: str, args: tuple[Expr, ...], span: Span) -> Expr | None:
    """The call of a builtin other than `rope` and `normalize`, which have named arguments."""
    builtin = BUILTINS[fn]
    match builtin.rule:
        case "logic":
            return _fixed(el, env, builtin, args, span, BOOL)
        case "int":
            return _integers(el, env, builtin, args, span)
        case "bool":
            return _comparison(el, env, builtin, args, span)
        case "same" | "real":
            return _arithmetic(el, env, builtin, args, span)
        case "select":
            return _select(el, env, builtin, args, span)
        case "special":
            return _special(el, env, builtin, args, span)


def _operand_error(el: Elaborator, env: Env, builtin: Builtin, arg: Expr, wanted: str) -> None:
    name = builtin.infix or builtin.name
    el.report(errors.bad_operand(name, wanted, type_text(arg.type), arg.span), env)


def _fixed(
    el: Elaborator, env: Env, builtin: Builtin, args: tuple[Expr, ...], span: Span, kind: ScalarType
) -> Expr | None:
    wrong = [arg for arg in args if arg.type != kind]
    for arg in wrong:
        _operand_error(el, env, builtin, arg, kind.kind)
    return None if wrong else Call(builtin.name, args, kind, span)


def _integers(el: Elaborator, env: Env, builtin: Builtin, args: tuple[Expr, ...], span: Span) -> Expr | None:
    call = _fixed(el, env, builtin, args, span, INT)
    if call is not None and builtin.name in ("floordiv", "mod") and not is_static(el, args[1]):
        el.report(errors.dynamic_divisor(str(builtin.infix), args[1].span), env)
        return None
    return call


def is_static(el: Elaborator, expr: Expr) -> bool:
    """Whether a value is known when compiling: made of literals, static parameters and elements of static tensors."""
    for node in walk(expr):
        match node:
            case Const() | Call():
                continue
            case Param(name=name) if name not in el.dynamic:
                continue
            case Lookup(tensor=name, type=ScalarType()) if name in el.tables:
                continue
            case _:
                return False
    return True


def _comparison(el: Elaborator, env: Env, builtin: Builtin, args: tuple[Expr, ...], span: Span) -> Expr | None:
    wrong = [arg for arg in args if arg.type not in (INT, REAL)]
    for arg in wrong:
        _operand_error(el, env, builtin, arg, "a number")
    if wrong:
        return None
    if any(arg.type == REAL for arg in args):
        args = tuple(to_real(arg) for arg in args)
    return Call(builtin.name, args, BOOL, span)


def _arithmetic(el: Elaborator, env: Env, builtin: Builtin, args: tuple[Expr, ...], span: Span) -> Expr | None:
    wrong = [arg for arg in args if arg.type == BOOL]
    for arg in wrong:
        _operand_error(el, env, builtin, arg, "a number")
    if wrong or not _equal_lengths(el, env, builtin, args):
        return None
    type_ = joined(args)
    if type_ == INT and builtin.rule == "same":
        return Call(builtin.name, args, INT, span)
    if builtin.name == "real":
        return args[0] if args[0].type != INT else Call("real", args, REAL, span)
    return Call(builtin.name, tuple(to_real(arg) for arg in args), REAL if type_ == INT else type_, span)


def joined(args: tuple[Expr, ...]) -> Type:
    """The type of numbers that meet: a vector before real before int."""
    vectors = [arg.type for arg in args if isinstance(arg.type, VectorType)]
    if vectors:
        return vectors[0]
    return INT if all(arg.type == INT for arg in args) else REAL


def _equal_lengths(el: Elaborator, env: Env, builtin: Builtin, args: tuple[Expr, ...]) -> bool:
    vectors = [(arg, arg.type) for arg in args if isinstance(arg.type, VectorType)]
    for arg, type_ in vectors[1:]:
        first, first_type = vectors[0]
        if not same_dim(first_type.dim, type_.dim):
            name = builtin.infix or builtin.name
            lengths = (dim_text(first_type.dim), dim_text(type_.dim))
            el.report(errors.unequal_lengths(name, lengths, (first.span, arg.span)), env)
            return False
    return True


def _select(el: Elaborator, env: Env, builtin: Builtin, args: tuple[Expr, ...], span: Span) -> Expr | None:
    cond, then, orelse = args
    if cond.type != BOOL:
        _operand_error(el, env, builtin, cond, "bool")
        return None
    if then.type == BOOL and orelse.type == BOOL:
        return Call("where", args, BOOL, span)
    wrong = [arg for arg in (then, orelse) if arg.type == BOOL]
    if wrong:
        el.report(errors.unequal_branches(type_text(then.type), type_text(orelse.type), span), env)
        return None
    if not _equal_lengths(el, env, builtin, (then, orelse)):
        return None
    type_ = joined((then, orelse))
    if type_ == INT:
        return Call("where", args, INT, span)
    return Call("where", (cond, to_real(then), to_real(orelse)), type_, span)


def _special(el: Elaborator, env: Env, builtin: Builtin, args: tuple[Expr, ...], span: Span) -> Expr | None:
    match builtin.name:
        case "pow":
            return _power(el, env, args, span)
        case "int":
            return _to_int(el, env, builtin, args[0], span)
        case "dot" | "concat":
            return _vectors(el, env, builtin, args, span)
        case _:
            raise AssertionError(builtin.name)


def _power(el: Elaborator, env: Env, args: tuple[Expr, ...], span: Span) -> Expr | None:
    """int ^ static int is int, checked to be >= 0 when parameters are bound; everything else is real."""
    base, exponent = args
    wrong = [arg for arg in args if arg.type == BOOL]
    if isinstance(exponent.type, VectorType):
        wrong.append(exponent)
    for arg in wrong:
        _operand_error(el, env, BUILTINS["pow"], arg, "a number")
    if wrong:
        return None
    whole = exponent.type == INT and (isinstance(exponent, Var) or is_static(el, exponent))
    if base.type == INT and whole:
        if isinstance(exponent, Const) and exponent.value < 0:
            el.report(errors.negative_exponent(exponent.span), env)
            return None
        return Call("pow", args, INT, span)
    type_ = base.type if isinstance(base.type, VectorType) else REAL
    return Call("pow", (to_real(base), exponent if whole else to_real(exponent)), type_, span)


def _to_int(el: Elaborator, env: Env, builtin: Builtin, arg: Expr, span: Span) -> Expr | None:
    if arg.type == INT:
        return arg
    if arg.type == REAL:
        return Call("int", (arg,), INT, span)
    _operand_error(el, env, builtin, arg, "a number")
    return None


def _vectors(el: Elaborator, env: Env, builtin: Builtin, args: tuple[Expr, ...], span: Span) -> Expr | None:
    dims = [arg.type.dim for arg in args if isinstance(arg.type, VectorType)]
    for arg in args:
        if not isinstance(arg.type, VectorType):
            _operand_error(el, env, builtin, arg, "a vector")
    if len(dims) != len(args):
        return None
    if builtin.name == "concat":
        return Call("concat", args, VectorType(Call("add", tuple(dims), INT, span)), span)
    return Call("dot", args, REAL, span) if _equal_lengths(el, env, builtin, args) else None

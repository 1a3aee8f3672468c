"""Parameters: types, dimensions, ranges and defaults of headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from attnc.frontend import ast
from attnc.frontend.environment import (
    CONSTANT,
    SIZE,
    Broken,
    Elaborator,
    Env,
    Function,
    Local,
    Meaning,
    Tensor,
    all_or_none,
)
from attnc.frontend.errors import names as name_errors
from attnc.frontend.errors import support
from attnc.frontend.errors import types as errors
from attnc.frontend.names import FOREIGN_TYPES, TYPES, is_predefined, reserved_as
from attnc.frontend.ranges import check_default, check_range, constant, no_range
from attnc.frontend.resolve import Scope
from attnc.frontend.typing_rules import convert
from attnc.ir.expr import Expr, Param, Ref, Size
from attnc.ir.module import Range, ScalarParam, TensorParam
from attnc.ir.types import BOOL, INT, REAL, ScalarType, VectorType

SCALARS: dict[str, ScalarType] = {"int": INT, "real": REAL, "bool": BOOL}
_MODIFIERS = ("learned", "static", "dynamic")


@dataclass(slots=True)
class Header:
    """The parameters of a declaration, typed. `names` is what its body starts from."""

    scalars: list[ScalarParam] = field(default_factory=list[ScalarParam])
    tensors: list[TensorParam] = field(default_factory=list[TensorParam])
    names: dict[str, Meaning] = field(default_factory=dict[str, Meaning])


def is_tensor_or_vector(param: ast.Param) -> bool:
    """Whether the parameter has dimensions."""
    return param.type is not None and param.type.dims is not None


def check_header(el: Elaborator, scope: Scope, params: Sequence[ast.Param], *, attention: bool) -> Header:
    """The header of a declaration. Of an attention, parameters come from outside; of others, from their use."""
    header = Header()
    _check_names(el, scope, params)
    for param in params:  # all scalars first: dimensions may mention later ones
        if not is_tensor_or_vector(param):
            header.names[param.name.text] = _scalar(el, scope, header, param, params, attention=attention)
    for param in params:
        if is_tensor_or_vector(param):
            header.names[param.name.text] = _tensor(el, scope, header, param, params, attention=attention)
    for name in [name for name in header.names if reserved_as(name) is not None]:
        # Reported. Where it is read it means what it means in the language, if that can be read.
        header.names[name] = Broken()
        if is_predefined(name):
            del header.names[name]
    return header


def _check_names(el: Elaborator, scope: Scope, params: Sequence[ast.Param]) -> None:
    env = Env({}, scope, CONSTANT)
    seen = dict[str, ast.Word]()
    for param in params:
        check_free(el, env, param.name)
        first = seen.setdefault(param.name.text, param.name)
        if first is not param.name:
            el.report(name_errors.duplicate_name("parameter", first.text, param.name.span, first.span), env)


def check_free(el: Elaborator, env: Env, word: ast.Word) -> None:
    """Report a name that the language uses itself."""
    meaning = reserved_as(word.text)
    if meaning is not None:
        el.report(name_errors.reserved_name(word.text, meaning, word.span), env)


# ---------------------------------------------------------------------------------------- scalars


def _scalar(
    el: Elaborator, scope: Scope, header: Header, param: ast.Param, params: Sequence[ast.Param], *, attention: bool
) -> Meaning:
    env = Env({}, scope, CONSTANT)
    if param.type is None:
        return _untyped(el, env, param, attention=attention)
    kind = param.type.name.text
    if kind == "feature" and not attention:
        return Function(None)
    if kind not in SCALARS:
        _report_type(el, env, param.type, attention=attention)
        return Broken()
    modifiers = _check_modifiers(el, env, param, ("dynamic", "static") if attention else ())
    scalar = ScalarParam(
        param.name.text,
        SCALARS[kind],
        "dynamic" in modifiers,
        _default(el, env, param, SCALARS[kind]),
        _scalar_range(el, env, header, param, params) if attention else no_range(el, env, param),
        param.name.span,
    )
    check_default(el, env, param, scalar)
    header.scalars.append(scalar)
    if scalar.dynamic:
        el.dynamic.add(scalar.name)
    return Local(Param(scalar.name, scalar.type, scalar.span))


def _untyped(el: Elaborator, env: Env, param: ast.Param, *, attention: bool) -> Meaning:
    """Only the token of a feature has no type: it is a vector of any length."""
    if attention:
        el.report(errors.missing_type(param.name.text, param.name.span), env)
        return Broken()
    return Local(Ref(param.name.text, VectorType(Size("D")), param.name.span))


def _report_type(el: Elaborator, env: Env, type_: ast.TypeRef, *, attention: bool) -> None:
    if type_.name.text in ("feature", "mask", "bias", "score"):
        what = f"a parameter of kind `{type_.name.text}`"
        help_ = "name it in the body: `normalizer linear(my_feature)`" if attention else "only `feature` can be passed"
        el.report(support.not_yet(what, type_.span, help_), env)
        return
    meant = FOREIGN_TYPES.get(type_.name.text)
    el.report(errors.unknown_type(type_.name.text, meant, TYPES, type_.name.span), env)


def _check_modifiers(el: Elaborator, env: Env, param: ast.Param, allowed: tuple[str, ...]) -> frozenset[str]:
    written = [word.text for word in param.modifiers]
    if {"static", "dynamic"} <= set(written) or len(set(written)) < len(written):
        el.report(errors.clashing_modifiers(param.name.text, param.modifiers[-1].span), env)
    for word in param.modifiers:
        if word.text not in allowed:
            known = allowed or _MODIFIERS
            el.report(errors.bad_modifier(word.text, param.name.text, known, word.text in _MODIFIERS, word.span), env)
    return frozenset(written)


def _default(el: Elaborator, env: Env, param: ast.Param, kind: ScalarType) -> Expr | None:
    return None if param.default is None else constant(el, env, param.default, kind, "a default")


def _scalar_range(
    el: Elaborator, env: Env, header: Header, param: ast.Param, params: Sequence[ast.Param]
) -> Range | None:
    """The range of a scalar of an attention; of a static one its bounds may read earlier static ones."""
    assert param.type is not None
    earlier = None if any(word.text == "dynamic" for word in param.modifiers) else header.names
    return check_range(el, env, param, SCALARS[param.type.name.text], params, earlier)


# ---------------------------------------------------------------------------------------- tensors


def _tensor(
    el: Elaborator, scope: Scope, header: Header, param: ast.Param, params: Sequence[ast.Param], *, attention: bool
) -> Meaning:
    assert param.type is not None
    env = Env(header.names, scope, SIZE)
    kind = SCALARS.get(param.type.name.text)
    dims = check_dims(el, env, param.type.dims or ())
    if kind is None:
        _report_type(el, env, param.type, attention=attention)
    allowed = ("learned", "static") if attention else ("learned",)
    modifiers = _check_modifiers(el, env, param, allowed)
    if {"learned", "static"} <= modifiers:
        el.report(errors.learned_table(param.name.text, param.modifiers[-1].span), env)
    if param.default is not None:
        el.report(errors.tensor_default(param.name.text, param.default.span), env)
    if kind is None or dims is None:
        return Broken()
    range_ = check_range(el, env, param, kind, params) if attention else no_range(el, env, param)
    tensor = TensorParam(
        param.name.text,
        kind,
        dims,
        learned="learned" in modifiers,
        static="static" in modifiers,
        range=range_,
        span=param.name.span,
    )
    if tensor.static:
        el.tables.add(tensor.name)
    header.tensors.append(tensor)
    return Tensor(tensor)


def check_dims(el: Elaborator, env: Env, nodes: Sequence[ast.Expr]) -> tuple[Expr, ...] | None:
    """Dimensions of a tensor: ints over sizes and static parameters."""
    return all_or_none([_dim(el, env, node) for node in nodes])


def _dim(el: Elaborator, env: Env, node: ast.Expr) -> Expr | None:
    dim = el.expr(node, replace(env, place=SIZE))
    dim = None if dim is None else convert(el, env, dim, INT, "a dimension")
    if dim is None:
        return None
    unknown = sorted(name for name in el.dynamic if f"param {name}" in el.reads(dim))
    if unknown:
        el.report(errors.dynamic_dim(unknown[0], node.span), env)
        return None
    return dim

"""Ranges of header parameters: `in [low, high)`, whose bounds are literals or, for static scalars, earlier ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from attnc.diagnostics import SpecError
from attnc.frontend import ast
from attnc.frontend.environment import BOUND, CONSTANT, Elaborator, Env, Meaning
from attnc.frontend.errors import types as errors
from attnc.frontend.errors.ranges import bound_reads
from attnc.ir.expr import Const, Expr
from attnc.ir.fold import fold
from attnc.ir.module import Range, ScalarParam
from attnc.ir.ranges import in_range, range_text
from attnc.ir.types import BOOL, INT, ScalarType


def constant(el: Elaborator, env: Env, node: ast.Expr, kind: ScalarType, what: str) -> Const | None:
    """The literal that a constant expression amounts to."""
    found = _folded(el, replace(env, place=CONSTANT), node, kind, what)
    if found is None or isinstance(found, Const):
        return found
    el.report(errors.not_constant(what, node.span), env)
    return None


def _folded(el: Elaborator, env: Env, node: ast.Expr, kind: ScalarType, what: str) -> Expr | None:
    expr = el.typed(node, env, kind, what)
    if expr is None:
        return None
    try:
        return fold(expr)
    except SpecError as error:
        el.report(errors.arithmetic(error, node.span), env)
        return None


def no_range(el: Elaborator, env: Env, param: ast.Param) -> None:
    """Report the ranges of a parameter that has none."""
    for range_ in param.ranges:
        el.report(errors.range_not_here(param.name.text, range_.span), env)


def check_range(
    el: Elaborator,
    env: Env,
    param: ast.Param,
    kind: ScalarType,
    params: Sequence[ast.Param],
    earlier: Mapping[str, Meaning] | None = None,
) -> Range | None:
    """The range of a parameter, None after an error. `earlier` are the names that its bounds may read."""
    if not param.ranges:
        return None
    node = param.ranges[0]
    if kind == BOOL or len(param.ranges) > 1:
        why = "a bool has no range" if kind == BOOL else "one range is enough"
        el.report(errors.bad_range(why, param.ranges[-1].span), env)
        return None
    bounds = (node.low, node.high, *(() if node.step is None else (node.step,)))
    known = [_reads_known(el, env, param, bound, params, earlier) for bound in bounds]
    if not all(known):
        return None
    values = [value for bound in bounds if (value := _bound(el, env, bound, kind, earlier)) is not None]
    if len(values) < len(bounds):
        return None
    low, high, *step = values
    if node.step is not None and (why := _no_steps(low, step[0], kind, earlier)):
        el.report(errors.bad_range(why, node.step.span), env)
        return None
    if _is_empty(low, high, is_open=node.low_open or node.high_open):
        el.report(errors.bad_range("no value lies in it", node.span), env)
        return None
    opens = (node.low_open, node.high_open)
    found = Range(_number(low), _number(high), *opens, _formula(low), _formula(high))
    return found if not step else replace(found, step=int(_number(step[0]) or 1), step_of=_formula(step[0]))


def _no_steps(
    low: float | Expr, step: float | Expr, kind: ScalarType, earlier: Mapping[str, Meaning] | None
) -> str | None:
    """Why a range has no steps, if so."""
    if earlier is None or kind != INT:
        return "only that of a static int has steps"
    if isinstance(low, int | float) and math.isinf(low):
        return "steps are counted from its lowest value"
    if isinstance(step, int | float) and not 1 <= step < math.inf:
        return "a step is at least 1"
    return None


def _is_empty(low: float | Expr, high: float | Expr, *, is_open: bool) -> bool:
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return False
    return low > high or (low == high and is_open)


def _number(bound: float | Expr) -> float | None:
    return bound if isinstance(bound, int | float) and not math.isinf(bound) else None


def _formula(bound: float | Expr) -> Expr | None:
    return None if isinstance(bound, int | float) else bound


def _reads_known(
    el: Elaborator,
    env: Env,
    param: ast.Param,
    bound: ast.Expr,
    params: Sequence[ast.Param],
    earlier: Mapping[str, Meaning] | None,
) -> bool:
    """Whether a bound reads no parameter but earlier static ones; reports the others."""
    declared = {other.name.text: other for other in reversed(params)}
    known = True
    for name in _names(bound):
        other = declared.get(name.text)
        why = None if other is None else _why_unknown(el, param, other, earlier)
        if other is not None and why is not None:
            el.report(bound_reads(param.name.text, name.text, why, name.span, other.name.span), env)
            known = False
    return known


def _why_unknown(
    el: Elaborator, param: ast.Param, other: ast.Param, earlier: Mapping[str, Meaning] | None
) -> str | None:
    if earlier is None:
        return "and only that of a static scalar may read others"
    if other.type is not None and other.type.dims is not None:
        return "which is a tensor"
    if other.name.text in el.dynamic:
        return "which is known at the call only"
    if other.name.text in earlier:
        return None
    return "which is the parameter itself" if other is param else "which stands after it"


def _names(expr: ast.Expr) -> Iterator[ast.Name]:
    if isinstance(expr, ast.Name):
        yield expr
    for child in ast.children(expr):
        yield from _names(child)


def _bound(
    el: Elaborator, env: Env, node: ast.Expr, kind: ScalarType, earlier: Mapping[str, Meaning] | None
) -> float | Expr | None:
    match node:
        case ast.Name(text="inf"):
            return math.inf
        case ast.Unary(op="-", operand=ast.Name(text="inf")):
            return -math.inf
        case _ if earlier is None:
            found: Expr | None = constant(el, env, node, kind, "a bound of a range")
        case _:
            found = _folded(el, replace(env, place=BOUND, names=earlier), node, kind, "a bound of a range")
    return found.value if isinstance(found, Const) else found


def check_default(el: Elaborator, env: Env, param: ast.Param, scalar: ScalarParam) -> None:
    """Report a default outside of its own range."""
    if param.default is None or scalar.range is None or not isinstance(scalar.default, Const):
        return
    if not in_range(scalar.default.value, scalar.range):
        text = range_text(scalar.range)
        el.report(errors.out_of_range(f"the default of `{scalar.name}`", text, param.default.span), env)

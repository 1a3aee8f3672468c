"""Static parameters to constants: what is compiled has none of them left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from operator import index

from attnc.diagnostics import Diagnostic, SpecError
from attnc.frontend import limits
from attnc.frontend.errors import parameters as errors
from attnc.frontend.tables import Folding, with_tables
from attnc.ir.expr import Call, Const, Exists, Expr, Lift, Lookup, Param, Ref, Value, Var
from attnc.ir.fold import fold
from attnc.ir.module import AttentionModule, Binding, Grid, ScalarParam, Table
from attnc.ir.printer import print_expr
from attnc.ir.ranges import in_range, range_text, read_by, resolved
from attnc.ir.traverse import children, map_children
from attnc.ir.types import BOOL, INT, VectorType

Scalar = bool | int | float


def bind(
    module: AttentionModule, params: Mapping[str, object], tables: Mapping[str, Table] | None = None
) -> AttentionModule:
    """The module with its static parameters replaced by `params` or their defaults, everything known computed.

    `tables` are the values of its static tensors. Raises SpecError (E5) with all parameters that are unknown, missing,
    of the wrong type or out of range.
    """
    statics = {scalar.name: scalar for scalar in module.scalars if not scalar.dynamic}
    found = [_unknown(module, name, tuple(statics)) for name in params if name not in statics]
    values = dict[str, Const]()
    for scalar in statics.values():
        value = _value(module, scalar, params)
        wrong = _out_of_range(scalar, value, params, values) if isinstance(value, Const) else value
        if wrong is None and isinstance(value, Const):
            values[scalar.name] = value
        else:
            found += () if wrong is None else (wrong,)
    _raise(found)
    bound, found = with_tables(_substituted(module, values), tables or {})
    _raise(found)
    if any(tensor.static for tensor in bound.tensors):
        bound = _rebuilt(bound, Folding(bound.tensors))
    _raise(_constant_errors(bound))
    return bound


def _raise(diagnostics: Iterable[Diagnostic]) -> None:
    found = tuple(dict.fromkeys(diagnostics))
    if found:
        raise SpecError(found[: limits.DIAGNOSTICS])


# ----------------------------------------------------------------------------------------- values


def _unknown(module: AttentionModule, name: str, known: tuple[str, ...]) -> Diagnostic:
    elsewhere = None
    if any(scalar.name == name for scalar in module.scalars):
        elsewhere = f"`{name}` is dynamic: give it at the call"
    elif any(tensor.name == name for tensor in module.tensors):
        elsewhere = f"`{name}` is a tensor: give it at the call"
    return errors.unknown_parameter(str(name), module.name, known, elsewhere)


def _value(module: AttentionModule, scalar: ScalarParam, params: Mapping[str, object]) -> Const | Diagnostic:
    if scalar.name not in params:
        if isinstance(scalar.default, Const):
            return scalar.default
        return errors.missing_parameter(scalar.name, scalar.type.kind, module.name, scalar.span)
    given = params[scalar.name]
    value = _as_kind(given, scalar)
    if value is None:
        wanted = {"int": "an int of 64 bits", "real": "a finite number", "bool": "a bool"}[scalar.type.kind]
        return errors.wrong_parameter(scalar.name, wanted, repr(given), scalar.span)
    return Const(value, scalar.type, scalar.span)


def _out_of_range(
    scalar: ScalarParam, value: Const, params: Mapping[str, object], known: Mapping[str, Const]
) -> Diagnostic | None:
    """What is wrong with a value for its range. Bounds over parameters without a value say nothing."""
    if scalar.range is None:
        return None
    bounds, text = resolved(scalar.range, known), range_text(scalar.range)
    for bound in (bounds.low_of, bounds.high_of, bounds.step_of):
        if bound is not None and not read_by(bounds):
            what = f"a bound of the range of `{scalar.name}`"
            return errors.bad_constant(what, "a number", f"`{print_expr(bound)}`", bound.span)
    if in_range(value.value, bounds):
        return None
    reads = sorted(read_by(scalar.range) & known.keys(), key=list(known).index)
    if reads:
        text += f" = {range_text(bounds)}"
    sizes = ", ".join(f"{name} = {known[name].value}" for name in reads)
    given = repr(params[scalar.name]) if scalar.name in params else f"{value.value} by default"
    return errors.parameter_out_of_range(scalar.name, given, text, scalar.span, sizes)


def _as_kind(given: object, scalar: ScalarParam) -> Scalar | None:
    """The value as the declared kind; None when it is not one. Never rounds, never takes a bool for a number."""
    if scalar.type == BOOL or isinstance(given, bool):
        return given if scalar.type == BOOL and isinstance(given, bool) else None
    if scalar.type == INT:
        try:
            value = index(given)  # type: ignore[arg-type]  # accepts numpy ints, refuses floats
        except TypeError:
            return None
        return value if -(1 << 63) <= value < 1 << 63 else None
    try:
        real = float(given) if not isinstance(given, str) else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return real if math.isfinite(real) else None


# ------------------------------------------------------------------------------------ substitution


def _substituted(module: AttentionModule, values: Mapping[str, Const]) -> AttentionModule:
    """Every expression with the values in place and folded. Shared nodes stay shared."""
    put = _Substitution(values)

    def done(expr: Expr) -> Expr:
        return fold(put(expr))

    bound = replace(
        module,
        scalars=tuple(_dynamic(scalar, values) for scalar in module.scalars if scalar.dynamic),
        tensors=tuple(replace(tensor, dims=tuple(map(done, tensor.dims))) for tensor in module.tensors),
        grid_q=_grid(module.grid_q, done),
        grid_k=_grid(module.grid_k, done),
    )
    return _rebuilt(bound, done)


def _rebuilt(module: AttentionModule, done: Callable[[Expr], Expr]) -> AttentionModule:
    """The module with everything that it computes replaced."""
    return replace(
        module,
        mask=done(module.mask),
        score=done(module.score),
        cascade=_bindings(module.cascade, done),
        value=done(module.value),
        output=done(module.output),
        aux=_bindings(module.aux, done),
    )


def _dynamic(scalar: ScalarParam, values: Mapping[str, Const]) -> ScalarParam:
    if scalar.range is None or not read_by(scalar.range):
        return scalar
    return replace(scalar, range=resolved(scalar.range, values))


class _Substitution:
    def __init__(self, values: Mapping[str, Const]) -> None:
        self._values = values
        self._done: dict[int, tuple[Expr, Expr]] = {}

    def __call__(self, expr: Expr) -> Expr:
        known = self._done.get(id(expr))
        if known is not None:
            return known[1]
        if isinstance(expr, Param) and expr.name in self._values:
            found: Expr = replace(self._values[expr.name], span=expr.span)
        else:
            found = self._typed(map_children(expr, self))
        self._done[id(expr)] = (expr, found)
        return found

    def _typed(self, expr: Expr) -> Expr:
        """The lengths of vectors are expressions too."""
        if not isinstance(expr, Call | Lookup | Value | Ref) or not isinstance(expr.type, VectorType):
            return expr
        dim = fold(self(expr.type.dim))
        return expr if dim == expr.type.dim else replace(expr, type=VectorType(dim))


def _grid(grid: Grid | None, done: Callable[[Expr], Expr]) -> Grid | None:
    return None if grid is None else replace(grid, extents=tuple(map(done, grid.extents)), start=done(grid.start))


def _bindings(bindings: tuple[Binding, ...], done: Callable[[Expr], Expr]) -> tuple[Binding, ...]:
    return tuple(replace(binding, expr=done(binding.expr)) for binding in bindings)


# --------------------------------------------------------------------------------- what is known now


def _constant_errors(module: AttentionModule) -> Iterator[Diagnostic]:
    """Divisors, exponents, `exists` ranges, extents and dimensions that are wrong now that they are numbers."""
    for grid in (module.grid_q, module.grid_k):
        for name, extent in zip(grid.names, grid.extents, strict=True) if grid else ():
            if isinstance(extent, Const) and extent.value < 1:
                yield errors.bad_constant(f"the extent of `{name}`", "at least 1", str(extent.value), extent.span)
    for tensor in module.tensors:
        for dim in tensor.dims:
            if isinstance(dim, Const) and dim.value < 0:
                what = f"a dimension of `{tensor.name}`"
                yield errors.bad_constant(what, "at least 0", str(dim.value), dim.span)
    lows, counts = dict[str, int](), dict[int, int]()
    for expr in (module.mask, module.score, module.value, module.output, *_weights(module)):
        if _combinations(expr, counts) > limits.EXISTS_COMBINATIONS:
            wanted = f"at most {limits.EXISTS_COMBINATIONS}"
            yield errors.bad_constant("the number of values of nested `exists`", wanted, "more", expr.span)
    for node in _nodes(module):
        yield from _node_errors(node, lows)


def _weights(module: AttentionModule) -> list[Expr]:
    return [binding.expr for binding in (*module.cascade, *module.aux)]


def _combinations(expr: Expr, known: dict[int, int]) -> int:
    """How often the innermost `exists` of an expression is tried."""
    if id(expr) not in known:
        count = max((_combinations(child, known) for child in children(expr)), default=1)
        if isinstance(expr, Exists) and isinstance(expr.low, Const) and isinstance(expr.high, Const):
            count *= max(1, int(expr.high.value) - int(expr.low.value))
        known[id(expr)] = count
    return known[id(expr)]


def _nodes(module: AttentionModule) -> Iterator[Expr]:
    """Every node once, parents before children."""
    stack = [module.output, module.value, *reversed(_weights(module)), module.score, module.mask]
    seen = set[int]()
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            stack.extend(reversed(children(node)))


def _node_errors(node: Expr, lows: dict[str, int]) -> Iterator[Diagnostic]:
    """`lows` are the lower bounds of the `exists` variables met so far."""
    match node:
        case Call(fn="floordiv" | "mod", args=(_, Const(value=value, span=span))) if value <= 0:
            yield errors.bad_constant("a divisor", "at least 1", str(value), span)
        case Call(fn="pow", args=(_, Var(name=name, span=span))) if lows.get(name, 0) < 0:
            yield errors.bad_constant(f"the exponent `{name}`", "at least 0", f"from {lows[name]}", span)
        case Exists(var=var, low=Const(value=low), high=Const(value=high)):
            lows[var] = min(int(low), lows.get(var, int(low)))
            if high - low > limits.EXISTS_VALUES:
                wanted = f"at most {limits.EXISTS_VALUES} values"
                yield errors.bad_constant("the range of `exists`", wanted, str(high - low), node.span)
        case Lift(rows=rows, keys=keys):
            for size in (rows, keys):
                if isinstance(size, Const) and not 1 <= size.value <= limits.BLOCK:
                    wanted = f"from 1 to {limits.BLOCK}"
                    yield errors.bad_constant("a block size", wanted, str(size.value), size.span)
        case _:
            return

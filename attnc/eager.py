"""The meaning of typed expressions on torch tensors.

Shared by the dense oracle (`reference.py`) and the torch back end, which evaluates the same nodes
on tiles. Imports `ir` and torch only.

Layout, fixed for every caller: a scalar per pair broadcasts to [B, H, N, M], per row it is
[B, H, N, 1], per key [B, H, 1, M]; constants have no dimension at all. Vectors carry one more,
trailing dimension of features: q is [B, H, N, 1, D], k is [B, H, 1, M, D]. Ints are int64.

Gradients: a result whose incoming gradient is exactly zero contributes nothing, even where the
derivative is infinite or not a number. That is what makes `where` a select and masked keys absent
without guards in every formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, assert_never, cast

import torch
from torch import Tensor

from attnc.diagnostics import CallError, InternalError
from attnc.functions import bit_length, concat, dot, elu, in_grid, normalize, rope, softplus, to_int
from attnc.ir.builtins import BUILTINS
from attnc.ir.expr import (
    Call,
    Const,
    Exists,
    Expr,
    GridCoord,
    Index,
    Lift,
    Lookup,
    Param,
    Reduce,
    Ref,
    Size,
    Value,
    Var,
)
from attnc.ir.module import Grid
from attnc.ir.traverse import walk
from attnc.ir.types import ScalarType, Type, VectorType
from attnc.lifts import Side, lifted

Function = Callable[..., Tensor]


def _no_reduction(node: Reduce, _: Env) -> Tensor:
    raise InternalError(f"a reduction over {node.axis} stands where none can be evaluated")


@dataclass(frozen=True, slots=True)
class Env:
    """What an expression is evaluated in. Every mapping is keyed by the name in the expression.

    `indices`: int64 tensors shaped for the pair grid; "i" and "j" hold absolute positions.
    `values`: the predefined values, among them "q_offset" and "k_offset", in the layout above.
    `dims`: the declared dimensions of each tensor. `relative`: indices of look-ups are already rows
    of the tensor (a plan), not positions (a typed module). `reduce` evaluates reductions over i and j;
    those over features need no help. `whole`: indices that run through all there are, b, h or hk, r and c along the
    dimensions 0, 1, 2 and 3, so that a look-up by them is the tensor itself.
    """

    indices: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    params: Mapping[str, bool | int | float | Tensor] = field(default_factory=dict[str, bool | int | float | Tensor])
    values: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    refs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    dims: Mapping[str, tuple[Expr, ...]] = field(default_factory=dict[str, tuple[Expr, ...]])
    vars: Mapping[str, int] = field(default_factory=dict[str, int])
    grids: Mapping[Literal["q", "k"], Grid] = field(default_factory=dict[Literal["q", "k"], Grid])
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    relative: bool = False
    reduce: Callable[[Reduce, Env], Tensor] = _no_reduction
    whole: frozenset[str] = frozenset()


def evaluate(expr: Expr, env: Env) -> Tensor:
    """The value of `expr`: bool, int64 or `env.dtype`, in the layout of this module."""
    match expr:
        case Const(value=value, type=type_):
            return _literal(value, type_, env)
        case Index(name=name):
            return env.indices[name]
        case Size(name=name):
            return torch.tensor(env.sizes[name], device=env.device)
        case GridCoord():
            return _grid_coordinate(expr, env)
        case Param(name=name, type=type_):
            return _literal(env.params[name], type_, env)
        case Value(name=name):
            return env.values[name]
        case Var(name=name):
            return torch.tensor(env.vars[name], device=env.device)
        case Ref(name=name):
            return env.refs[name]
        case Lookup():
            return _lookup(expr, env)
        case Call():
            return _call(expr, env)
        case Reduce():
            return reduce_features(expr, env) if expr.axis == "d" else env.reduce(expr, env)
        case Exists():
            return _exists(expr, env)
        case Lift():
            return _lift(expr, env)
        case _:
            assert_never(expr)


def evaluate_int(expr: Expr, env: Env) -> int:
    """The value of an expression that is one number (a dimension, an extent, a bound)."""
    return int(evaluate(expr, env).item())


def is_vector(expr: Expr) -> bool:
    """Whether the value carries a trailing dimension of features."""
    return isinstance(expr.type, VectorType)


# ---------------------------------------------------------------------------------------- leaves


def _literal(value: bool | int | float | Tensor, type_: ScalarType, env: Env) -> Tensor:
    dtype = {"bool": torch.bool, "int": torch.int64, "real": env.dtype}[type_.kind]
    if isinstance(value, Tensor):
        return value.to(env.device, dtype)
    return torch.tensor(value, dtype=dtype, device=env.device)


def _grid_coordinate(node: GridCoord, env: Env) -> Tensor:
    grid = env.grids[node.side]
    extents = [evaluate_int(extent, env) for extent in grid.extents]
    stride = 1
    for extent in extents[node.axis + 1 :]:
        stride *= extent
    position = env.indices["i" if node.side == "q" else "j"] - evaluate(grid.start, env)
    coordinate = position // stride
    return coordinate if node.axis == 0 else coordinate % extents[node.axis]


def _in_grid_call(call: Call, env: Env) -> Tensor:
    names = {node.name for node in walk(call.args[0]) if isinstance(node, Index)}
    grid = env.grids["q" if names & {"i", "r"} else "k"]
    count = 1
    for extent in grid.extents:
        count *= evaluate_int(extent, env)
    return in_grid(evaluate(call.args[0], env), evaluate(grid.start, env), torch.tensor(count, device=env.device))


def _lookup(node: Lookup, env: Env) -> Tensor:
    tensor = env.tensors[node.tensor]
    if _is_whole(node, env):
        return _converted(_laid_out(tensor, node), env)
    rows = [_row(node, n, index, env) for n, index in enumerate(node.indices)]
    if rows and 0 in tensor.shape[: len(rows)]:
        found = tensor.new_zeros((*broadcast(*rows)[0].shape, *tensor.shape[len(rows) :]))
    else:
        clamped = [row.clamp(0, size - 1) for row, size in zip(rows, tensor.shape, strict=False)]
        found = tensor[broadcast(*clamped)] if clamped else tensor
    return _converted(found, env)


def _converted(found: Tensor, env: Env) -> Tensor:
    if found.is_floating_point():
        return found.to(env.dtype)
    return found if found.dtype == torch.bool else found.to(torch.int64)


_AXES = {"b": 0, "h": 1, "hk": 1, "r": 2, "c": 3}


def _is_whole(node: Lookup, env: Env) -> bool:
    """Whether a look-up reads all of its tensor, in the order of the dimensions."""
    names = [index.name for index in node.indices if isinstance(index, Index)]
    if len(names) < len(node.indices) or not env.whole.issuperset(names):
        return False
    axes = [_AXES[name] for name in names]
    sizes = [env.indices[name].numel() for name in names]
    return axes == sorted(set(axes)) and sizes == list(env.tensors[node.tensor].shape[: len(sizes)])


def _laid_out(tensor: Tensor, node: Lookup) -> Tensor:
    shape = [1, 1, 1, 1]
    for size, index in zip(tensor.shape, node.indices, strict=False):
        assert isinstance(index, Index)
        shape[_AXES[index.name]] = size
    return tensor.reshape(*shape, *tensor.shape[len(node.indices) :])


def _row(node: Lookup, dim: int, index: Expr, env: Env) -> Tensor:
    position = evaluate(index, env)
    if env.relative:
        return position
    match env.dims[node.tensor][dim]:
        case Size(name="N"):
            return position - env.values["q_offset"]
        case Size(name="M"):
            return position - env.values["k_offset"]
        case _:
            return position


def _exists(node: Exists, env: Env) -> Tensor:
    found = torch.tensor(False, device=env.device)
    for value in range(evaluate_int(node.low, env), evaluate_int(node.high, env)):
        found = found | evaluate(node.body, replace(env, vars={**env.vars, node.var: value}))
    return found


def _lift(node: Lift, env: Env) -> Tensor:
    rows, keys = evaluate_int(node.rows, env), evaluate_int(node.keys, env)
    queries = Side(-2, rows, env.values["q_offset"], env.sizes["N"], env.indices["i"])
    sides = queries, Side(-1, keys, env.values["k_offset"], env.sizes["M"], env.indices["j"])
    everywhere = {**env.indices, "i": sides[0].positions(), "j": sides[1].positions()}
    return lifted(node.op, evaluate(node.body, replace(env, indices=everywhere)), sides, env.dtype)


def reduce_features(node: Reduce, env: Env) -> Tensor:
    """A reduction over the features of a vector."""
    body = evaluate(node.body, env)
    match node.op:
        case "max":
            return guarded(partial(torch.amax, dim=-1, keepdim=True), body).squeeze(-1)
        case "min":
            return guarded(partial(torch.amin, dim=-1, keepdim=True), body).squeeze(-1)
        case "sum":
            return body.sum(-1)
        case "mean":
            return body.mean(-1)
        case "count":
            return torch.tensor(body.shape[-1], device=env.device)
        case _:
            assert_never(node.op)


# ----------------------------------------------------------------------------------------- calls


def _call(call: Call, env: Env) -> Tensor:
    if call.fn == "rope":
        return _rope_call(call, env)
    if call.fn == "in_grid":
        return _in_grid_call(call, env)
    args = tuple(evaluate(arg, env) for arg in call.args)
    if call.fn not in _WHOLE_VECTOR:
        args = _aligned(call, _promoted(call, args, env))
    function = FUNCTIONS[call.fn]
    return guarded(function, *args) if call.fn in _SINGULAR else function(*args)


def _promoted(call: Call, args: tuple[Tensor, ...], env: Env) -> tuple[Tensor, ...]:
    """Ints become reals where the rule of the builtin says so; conditions stay."""
    rule = BUILTINS[call.fn].rule
    if rule in ("logic", "int") or call.fn == "int":
        return args
    if rule == "select":
        return (args[0], *(_as_type(arg, call.type, env) for arg in args[1:]))
    if rule == "bool":
        real = any(arg.is_floating_point() for arg in args)
        return tuple(arg.to(env.dtype) for arg in args) if real else args
    return tuple(_as_type(arg, call.type, env) for arg in args)


def _as_type(tensor: Tensor, type_: Type, env: Env) -> Tensor:
    real = isinstance(type_, VectorType) or type_.kind == "real"
    return tensor.to(env.dtype) if real else tensor


def _aligned(call: Call, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A scalar that meets a vector gets a dimension of one feature."""
    vectors = [is_vector(arg) for arg in call.args]
    if not any(vectors):
        return args
    return tuple(arg if flag else arg.unsqueeze(-1) for arg, flag in zip(args, vectors, strict=True))


def _rope_call(call: Call, env: Env) -> Tensor:
    vector = evaluate(call.args[0], env)
    exact = replace(env, dtype=torch.float64)
    return rope(vector, *(evaluate(arg, exact) for arg in call.args[1:]))


# ----------------------------------------------------------------- gradients through singularities


def guarded(fn: Function, *args: Tensor) -> Tensor:
    """fn(*args) whose backward maps an incoming zero to zero, also where the derivative is infinite.

    fn works element by element, or reduces and keeps the dimension as one.
    """
    if not (torch.is_grad_enabled() and any(arg.requires_grad for arg in args)):
        return fn(*args)
    return cast(Tensor, cast(Any, _ZeroStaysZero).apply(fn, *broadcast(*args)))


def broadcast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All tensors expanded to their common shape."""
    return tuple(cast(Any, torch).broadcast_tensors(*tensors))


class _ZeroStaysZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fn: Function, *args: Tensor) -> Tensor:
        ctx.fn = fn
        ctx.save_for_backward(*args)
        return fn(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():  # a gradient of zero has lost how it depends on its inputs
            raise CallError("second derivatives are not supported: call backward without create_graph")
        (grad,) = cast(tuple[Tensor], grads)
        wanted = cast(tuple[bool, ...], ctx.needs_input_grad)[1:]
        saved = cast(tuple[Tensor, ...], ctx.saved_tensors)
        args = [arg.detach().requires_grad_(flag) for arg, flag in zip(saved, wanted, strict=True)]
        with torch.enable_grad():
            result = cast(Tensor, ctx.fn(*args))
        found = iter(torch.autograd.grad(result, [arg for arg in args if arg.requires_grad], grad))
        return None, *(torch.where(grad == 0, 0.0, next(found)) if flag else None for flag in wanted)


#: name -> meaning on aligned tensors of the right kind; one row for every builtin.
FUNCTIONS: dict[str, Function] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "floordiv": torch.floor_divide,
    "mod": torch.remainder,
    "bitand": torch.bitwise_and,
    "pow": torch.pow,
    "neg": torch.neg,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "where": torch.where,
    "min": torch.minimum,
    "max": torch.maximum,
    "abs": torch.abs,
    "sign": torch.sign,
    "floor": torch.floor,
    "real": torch.positive,
    "int": to_int,
    "bit_length": bit_length,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "log": torch.log,
    "log2": torch.log2,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": softplus,
    "relu": torch.relu,
    "elu": elu,
    "dot": dot,
    "normalize": normalize,
    "concat": concat,
    "rope": rope,
    "in_grid": in_grid,
}

#: Builtins that see features together: no alignment of scalars with vectors.
_WHOLE_VECTOR = frozenset({"dot", "normalize", "concat"})
#: Builtins with a derivative that can be infinite, or not a number, where the result is not wanted.
_SINGULAR = {name for name, row in BUILTINS.items() if row.rule == "real"} | {"mul", "pow", "abs", "min", "max"}

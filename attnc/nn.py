"""`attnc.nn.Attention`: a compiled attention as a torch module; its learned tensors are the parameters.

    layer = attnc.nn.Attention("std:softmax_sink", heads=8)
    out = layer(q, k, v)

Needs torch; imports the op and what an op is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from operator import index
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from attnc.calls import DTYPES, refuse
from attnc.drawing import nodes
from attnc.ir.dims import dim_text, dims_text, evaluate_dim
from attnc.ir.expr import Call, Expr, Lookup, Size
from attnc.ir.module import AttentionModule, Range, TensorParam
from attnc.ir.traverse import walk
from attnc.ops import Backend, Op
from attnc.ops import compile as compile_op

Number = bool | int | float
#: How one learned tensor starts: with these values, with one number everywhere, or as a function leaves it, which gets
#: the parameter and fills it in place (`torch.nn.init.normal_`) or returns its values.
Init = Tensor | int | float | Callable[[Tensor], Any]

#: The sizes of the language and the keyword that gives them here.
_SIZES = {"H": "heads=", "Hk": "key_heads=", "D": "head_dim=", "Dv": "value_dim="}
_PER_CALL = {"N": "the number of queries", "M": "the number of keys", "B": "the batch size"}
_KINDS = {"real": "floating", "int": "int32 or int64", "bool": "bool"}
#: Half the width of what is drawn where zeros would never learn.
_SPREAD = 0.02


class Attention(nn.Module):
    """An attention with parameters: every tensor that the spec declares `learned` is an `nn.Parameter` of its name.

    `spec`, `source`, `attention`, `params`, `backend`, `tile` and `key_mask` are those of `attnc.compile`. `heads`,
    `key_heads` (`heads` when not given), `head_dim` and `value_dim` (`head_dim` when not given), or
    `sizes={"H": 8}`, give learned tensors their shapes; the sizes given are checked at every call. A learned tensor
    over N, M or B needs that size in `sizes`: a parameter has one shape. `tensors` holds others by name; they become
    buffers, and a call may give its own.

    `init` says by name how a learned tensor starts: a tensor, a number, or a function like those of `torch.nn.init`.
    Otherwise it starts with zeros, where its declared range holds 0; else with 1 above or below the one end of the
    range, or half-way between two. Learned tensors that are multiplied with each other would stay zero for ever: they
    are drawn uniformly from [-0.02, 0.02], as far as the range goes. The range is not enforced in training; a call with
    `checks="full"` tests it.

    Raises SpecError for a wrong spec and CallError for the other arguments.
    """

    op: Op

    def __init__(
        self,
        spec: str | Path | None = None,
        *,
        source: str | None = None,
        attention: str | None = None,
        params: Mapping[str, Number] | None = None,
        backend: Backend = "auto",
        tile: tuple[int, int] | None = None,
        key_mask: str | None = None,
        heads: int | None = None,
        key_heads: int | None = None,
        head_dim: int | None = None,
        value_dim: int | None = None,
        sizes: Mapping[str, int] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        init: Mapping[str, Init] | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        choice = {"source": source, "attention": attention, "params": params, "key_mask": key_mask}
        given = _mapping("tensors", tensors)
        self.op = compile_op(spec, backend=backend, tile=tile, tensors=given, **cast(Any, choice)).without_tensors()
        self.sizes = _sizes({"H": heads, "Hk": key_heads, "D": head_dim, "Dv": value_dim}, _mapping("sizes", sizes))
        self._params = dict(params or {})
        self._init: dict[str, Init | None] = {}
        static = {tensor.name for tensor in self.op.module.tensors if tensor.static}
        self._register({name: tensor for name, tensor in given.items() if name not in static}, device, dtype)
        self.reset_parameters(init)

    def _register(self, tensors: Mapping[str, Tensor], device: Any, dtype: Any) -> None:
        learned = {tensor.name: tensor for tensor in self.op.module.tensors if tensor.learned}
        self._learned = tuple(learned)
        self._held = tuple(_held(self.op.module, tensors))
        for name in (*self._learned, *self._held):
            if hasattr(self, name):
                refuse(f"`{name}`: a torch module has something else of that name; call the tensor otherwise")
        for name in self._held:
            self.register_buffer(name, tensors[name].detach().to(device))
        for name, tensor in learned.items():
            data = torch.empty(_shape(tensor, self.sizes), device=device, dtype=_floating(dtype))
            self.register_parameter(name, nn.Parameter(data))

    def reset_parameters(self, init: Mapping[str, Init] | None = None) -> None:
        """Start again: with `init` where it says something, then with the `init` of the constructor, then as usual."""
        for name, value in _mapping("init", init).items():
            _check_init(name, value, self._learned, self._held)
            self._init[name] = value
        products = _multiplied(self.op.module)
        for name in self._learned:
            param, tensor = cast(nn.Parameter, getattr(self, name)), self.op.module.tensor(name)
            if name not in self._init:
                _start(param, tensor.range, dead=name in products)
            elif (value := self._init[name]) is None:
                refuse(f"init: pickle did not keep the function that starts `{name}`; give it to reset_parameters")
            else:
                _fill(param, tensor, value)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, **keywords: Any) -> Any:
        """What the op returns for q [B, H, N, D], k [B, Hk, M, D], v [B, Hk, M, Dv] and its keywords; the module adds
        its own tensors. Raises CallError.
        """
        if self.sizes:
            _check_sizes(self.sizes, q, v)
        for name in self._learned:
            if name in keywords:
                refuse(f"`{name}` is a parameter of this module, not an argument; torch.func.functional_call swaps it")
            keywords[name] = getattr(self, name)
        for name in self._held:
            if name not in keywords:
                keywords[name] = getattr(self, name)
        return self.op(q, k, v, **keywords)

    def extra_repr(self) -> str:
        """The attention, its static parameters, its sizes, its learned tensors, its back end."""
        module = self.op.module
        given = [f"{name}={value}" for name, value in {**self._params, **self.sizes}.items()]
        learned = [f"{name}: real{list(getattr(self, name).shape)} learned" for name in self._learned]
        return ", ".join([module.name, *given, *learned, f"backend={self.op.backend}"])

    # -- copies: a copy shares the op, a pickle holds its text --------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> Attention:
        """Parameters of its own; the compiled op, which never changes, is shared."""
        memo[id(self.op)] = self.op
        copied = cast(Attention, self.__class__.__new__(self.__class__))
        memo[id(self)] = copied
        copied.__dict__.update({name: deepcopy(value, memo) for name, value in self.__dict__.items()})
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """The attributes; functions given as `init` stay behind."""
        init = {name: None if callable(value) else value for name, value in self._init.items()}
        return {**self.__dict__, "_init": init}


def _mapping(name: str, given: Any) -> Mapping[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        refuse(f"{name}: expected values by name, got {type(given).__name__}")
    return cast(Mapping[str, Any], given or {})


# -- sizes and shapes ------------------------------------------------------------------------------------------------


def _sizes(keywords: Mapping[str, int | None], others: Mapping[str, int]) -> dict[str, int]:
    """The sizes by their names in the language; key heads and features of v follow those of q."""
    named = {f"{_SIZES[size][:-1]}": (size, value) for size, value in keywords.items() if value is not None}
    found: dict[str, int] = {size: _whole(name, value) for name, (size, value) in named.items()}
    for size, given in others.items():
        if size not in _SIZES and size not in _PER_CALL:
            refuse(f"sizes: unknown size {size!r}; there are {', '.join((*_SIZES, *_PER_CALL))}")
        value = _whole(f"sizes[{size!r}]", given)
        if found.setdefault(size, value) != value:
            refuse(f"sizes: {size} is {value} there, but {_SIZES[size]}{found[size]} is given, too")
    for size, like in (("Hk", "H"), ("Dv", "D")):
        if like in found:
            found.setdefault(size, found[like])
    if "H" in found and found["H"] % found["Hk"]:
        refuse(f"heads: {found['H']} query heads are not a multiple of {found['Hk']} key heads")
    return found


def _whole(name: str, value: Any) -> int:
    try:
        number = index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        refuse(f"{name}: expected a whole number of at least 1, got {value!r}")
    return number


def _shape(tensor: TensorParam, sizes: Mapping[str, int]) -> tuple[int, ...]:
    for dim in tensor.dims:
        for node in walk(dim):
            if isinstance(node, Size) and node.name not in sizes:
                _refuse_unknown_size(tensor, node.name)
    try:
        shape = tuple(evaluate_dim(dim, sizes) for dim in tensor.dims)
    except (ValueError, ZeroDivisionError) as error:
        refuse(f"{_declared(tensor)}: it has no shape for {_text(sizes)}: {error}")
    for dim, size in zip(tensor.dims, shape, strict=True):
        if size < 0:
            refuse(f"{_declared(tensor)}: {dim_text(dim)} is {size} for {_text(sizes)}")
    return shape


def _refuse_unknown_size(tensor: TensorParam, size: str) -> None:
    if size in _PER_CALL:
        refuse(
            f"{_declared(tensor)}: its shape depends on {size}, {_PER_CALL[size]}, but a parameter has one shape; "
            f'when every call has the same, give it: sizes={{"{size}": ...}}'
        )
    refuse(f"{_declared(tensor)}: give {_SIZES[size]}...")


def _declared(tensor: TensorParam) -> str:
    return f"{tensor.name}: {tensor.type.kind}{dims_text(tensor.dims)} learned"


def _text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in sizes.items())


def _check_sizes(sizes: Mapping[str, int], q: Any, v: Any) -> None:
    """That a call has the sizes that the module was made for; what else is wrong with q and v, the op says."""
    for tensor, names in ((q, ("B", "H", "N", "D")), (v, ("B", "Hk", "M", "Dv"))):
        if not isinstance(tensor, Tensor) or tensor.dim() != 4:
            continue
        for axis, name in enumerate(names):
            if name in sizes and tensor.shape[axis] != sizes[name]:
                refuse(f"this module was made for {name} = {sizes[name]}, the call has {name} = {tensor.shape[axis]}")


def _held(module: AttentionModule, tensors: Mapping[str, Any]) -> list[str]:
    """The names of the tensors that become buffers."""
    known = {tensor.name: tensor for tensor in module.tensors}
    others = [f"`{name}`" for name, tensor in known.items() if not tensor.learned]
    for name, value in tensors.items():
        if name not in known:
            refuse(f"tensors: {module.name} has no tensor `{name}`; it takes {', '.join(others) or 'none'}")
        tensor = known[name]
        if tensor.learned:
            refuse(f'tensors: `{name}` is learned, so it is a parameter; say how it starts: init={{"{name}": ...}}')
        if not isinstance(value, Tensor):
            refuse(f"{name}: expected a tensor, got {type(value).__name__}")
        if _kind(value) != tensor.type.kind or value.dim() != len(tensor.dims):
            refuse(
                f"{name}: expected {_KINDS[tensor.type.kind]} with the dimensions {dims_text(tensor.dims)}, "
                f"got {_dtype(value)} {list(value.shape)}"
            )
    return list(tensors)


def _kind(tensor: Tensor) -> str:
    kinds = {torch.int32: "int", torch.int64: "int", torch.bool: "bool"}
    return "real" if tensor.dtype in DTYPES else kinds.get(tensor.dtype, "")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _floating(dtype: Any) -> torch.dtype:
    wanted = torch.get_default_dtype() if dtype is None else dtype
    if wanted not in DTYPES:
        refuse(f"dtype: expected float32, float16, bfloat16 or float64, got {wanted!r}")
    return wanted


# -- how learned tensors start ---------------------------------------------------------------------------------------


def _check_init(name: Any, value: Any, learned: tuple[str, ...], held: tuple[str, ...]) -> None:
    if name not in learned:
        why = "a buffer" if name in held else "no learned tensor"
        there = ", ".join(f"`{each}`" for each in learned) or "none"
        refuse(f"init: `{name}` is {why}; the learned tensors are {there}")
    if isinstance(value, bool) or not (isinstance(value, Tensor | int | float) or callable(value)):
        refuse(f"init: `{name}`: expected a tensor, a number or a function, got {type(value).__name__}")


@torch.no_grad()
def _fill(param: Tensor, tensor: TensorParam, value: Init) -> None:
    if callable(value) and not isinstance(value, Tensor):
        value = cast(Any, value)(param)
        if value is None or value is param:
            value = param
    if isinstance(value, Tensor):
        if value.shape != param.shape:
            refuse(f"init: {_declared(tensor)} has the shape {list(param.shape)} here, got {list(value.shape)}")
        param.copy_(value)
    elif isinstance(value, int | float):
        param.fill_(value)
    else:
        refuse(f"init: `{tensor.name}`: its function returned {type(value).__name__}; expected a tensor, or nothing")
    ends = () if param.is_meta or not param.numel() else (float(param.min()), float(param.max()))
    if not all(_holds(tensor.range, end) for end in ends):
        refuse(f"init: `{tensor.name}` starts outside its declared range {_range_text(tensor.range)}")


def _holds(bounds: Range | None, value: float) -> bool:
    """Whether a range holds a value; no range holds NaN."""
    low, high = (None, None) if bounds is None else (bounds.low, bounds.high)
    if bounds is not None and value in (low if bounds.low_open else None, high if bounds.high_open else None):
        return False
    return value == value and (low is None or value >= low) and (high is None or value <= high)


def _range_text(bounds: Range | None) -> str:
    if bounds is None:
        return "(a number)"
    low, high = "-inf" if bounds.low is None else bounds.low, "inf" if bounds.high is None else bounds.high
    return f"{'(' if bounds.low_open else '['}{low}, {high}{')' if bounds.high_open else ']'}"


@torch.no_grad()
def _start(param: Tensor, bounds: Range | None, *, dead: bool) -> None:
    """The usual start. `dead`: with zeros this tensor would never learn."""
    low, high = (None, None) if bounds is None else (bounds.low, bounds.high)
    if _holds(bounds, 0):
        param.zero_()
        if dead:
            param.uniform_(
                -_SPREAD if low is None else max(low, -_SPREAD), _SPREAD if high is None else min(high, _SPREAD)
            )
    elif low is not None and high is not None:
        param.fill_((low + high) / 2)
    else:
        param.fill_(low + 1 if low is not None else cast(float, high) - 1)


def _multiplied(module: AttentionModule) -> set[str]:
    """Learned tensors that at zero get the gradient zero: factors of learned ones, and what is flat at zero."""
    learned = {tensor.name for tensor in module.tensors if tensor.learned}
    found: set[str] = set()
    for node in nodes(module):
        if isinstance(node, Call) and node.fn in ("mul", "dot", "abs", "relu", "pow"):
            sides = [_looked_up(arg) & learned for arg in node.args]
            if all(sides) or node.fn == "pow":
                found = found.union(*sides)
    return found


def _looked_up(expr: Expr) -> set[str]:
    return {node.tensor for node in walk(expr) if isinstance(node, Lookup)}

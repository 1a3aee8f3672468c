"""Loads of tensor elements: the address, what guards it, and the range of every index.

Indices come from users' tensors and are not trusted: one that is not in range by construction is clamped, a dimension
without rows is not read, lanes that hold no token load nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnc.codegen.code import Code, Load, TensorCode, union
from attnc.ir.expr import Call, Const, Expr, Index, Size, int_const
from attnc.ir.intervals import interval
from attnc.ir.types import INT

if TYPE_CHECKING:
    from attnc.codegen.emitter import Emitter


#: Element kinds of a dimension without rows.
_NOTHING = {"real": "0.0", "int": "0", "bool": "False"}


def emit_load(emitter: Emitter, load: Load) -> Code:
    """The loaded values."""
    info = load.tensor
    if any(dim == int_const(0) for dim in info.dims):
        return Code(_NOTHING[load.kind], kind=load.kind)
    codes = [_row(emitter, info, axis, index) for axis, index in enumerate(load.indices)]
    inner = any(code.inner for code in codes)
    if load.feature is not None:
        inner = inner or load.feature.inner
        codes.append(Code(load.feature.text, load.feature.axes))
    target = union(code.axes for code in codes)
    terms = (
        f"{_int64(emitter, code, target)} * {info.stem}_s{axis}" for axis, code in enumerate(codes) if code.text != "0"
    )
    pointer = " + ".join((f"{info.stem}_ptr", *terms))
    text = f"tl.load({pointer}{_guard(emitter, load, target)})"
    if load.kind == "real":
        text += ".to(tl.float32)"
    elif load.kind == "bool":
        text = f"({text} != 0)"
    return Code(text, target, load.kind, inner=inner, wide=load.wide)


def _guard(emitter: Emitter, load: Load, target: str) -> str:
    """Lanes without a token, dimensions without a row and features past the end of the vector load nothing."""
    mask = emitter.condition_mask(target)
    parts = [mask] if mask else []
    for dim, index in zip(load.tensor.dims, load.indices, strict=False):
        if not (in_range(index, dim) or interval(dim).low > 0):
            parts.append(f"({emitter.emit(dim).text} > 0)")
    if load.feature is not None and load.feature.axes:
        last = emitter.emit(load.tensor.dims[-1])
        inside = Code(f"{load.feature.text} < {last.text}", "d", "bool", atom=False)
        parts.append(emitter.broadcast(inside, target))
    return f", mask={' & '.join(dict.fromkeys(parts))}, other=0" if parts else ""


def _row(emitter: Emitter, info: TensorCode, axis: int, index: Expr) -> Code:
    code = emitter.emit(index)
    dim = info.dims[axis]
    if not in_range(index, dim):
        last = emitter.emit(Call("sub", (dim, int_const(1)), INT))
        inside = f"tl.maximum(tl.minimum({code.text}, {last.text}), 0)"
        code = emitter.name(Code(inside, code.axes, "int", inner=code.inner or last.inner, wide=code.wide))
    if info.starts[axis]:
        code = Code(f"{info.starts[axis]} + {code.tight}", code.axes, "int", atom=False, inner=code.inner)
    return code


def _int64(emitter: Emitter, code: Code, target: str) -> str:
    text = emitter.broadcast(code, target)
    if code.text.lstrip("-").isdigit() or code.wide:
        return text
    return f"{text}.to(tl.int64)"


def in_range(index: Expr, dim: Expr) -> bool:
    """Whether a row is inside its dimension by construction."""
    pairs = {("b", "B"), ("h", "H"), ("hk", "Hk"), ("r", "N"), ("c", "M")}
    if isinstance(index, Index) and isinstance(dim, Size):
        return (index.name, dim.name) in pairs
    found = interval(index)
    return isinstance(dim, Const) and found.low >= 0 and found.high < int(dim.value)

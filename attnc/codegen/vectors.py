"""Vector builtins in Triton: each is a function of the feature index.

A vector is never built: `emit_vector` answers what its feature at some index is. Rotations and concatenations ask
their operand at another index, norms sum over the whole feature axis.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attnc.codegen.code import Code, Feature
from attnc.diagnostics import InternalError
from attnc.ir.expr import Call, Const, Expr, Reduce
from attnc.ir.types import VectorType

if TYPE_CHECKING:
    from attnc.codegen.emitter import Emitter


def length(vector: Expr) -> int:
    """The number of features, which a plan knows."""
    if isinstance(vector.type, VectorType) and isinstance(vector.type.dim, Const):
        return int(vector.type.dim.value)
    raise InternalError("a vector of unknown length reached code generation")


def emit_vector(emitter: Emitter, expr: Call, feature: Feature) -> Code:
    """One of normalize, concat, rope at a feature index."""
    match expr.fn:
        case "normalize":
            return _normalize(emitter, expr, feature)
        case "concat":
            return _concat(emitter, expr, feature)
        case _:
            return _rope(emitter, expr, feature)


def emit_feature_reduction(emitter: Emitter, expr: Reduce) -> Code:
    """sum[d], max[d], ... over the whole feature axis."""
    dim = length(expr.body)
    body = emitter.emit(expr.body, emitter.whole)
    outside = {"sum": "0.0", "mean": "0.0", "max": 'float("-inf")', "min": 'float("inf")'}
    if expr.op == "count":
        return Code(str(dim))
    target = body.axes
    inside = emitter.broadcast(Code(f"d < {dim}", "d", "bool", atom=False), target)
    function = "sum" if expr.op == "mean" else expr.op
    text = f"tl.{function}(tl.where({inside}, {body.text}, {outside[expr.op]}), axis={target.index('d')})"
    if expr.op == "mean":
        text = f"{text} / {float(dim)}"
    return Code(text, target.replace("d", ""), "real", atom=expr.op != "mean", inner=body.inner)


def _normalize(emitter: Emitter, expr: Call, feature: Feature) -> Code:
    vector, eps = expr.args
    square = Call("mul", (vector, vector), vector.type)
    total = emitter.emit(Reduce("sum", "d", square, None, eps.type))  # type: ignore[arg-type]
    norm = emitter.fresh(
        Code(f"tl.maximum(tl.sqrt({total.text}), {emitter.emit(eps).text})", total.axes, "real", inner=total.inner)
    )
    value = emitter.emit(vector, feature)
    return Code(
        f"{value.tight} / {emitter.broadcast(norm, value.axes)}", value.axes, "real", atom=False, inner=value.inner
    )


def _concat(emitter: Emitter, expr: Call, feature: Feature) -> Code:
    first, second = expr.args
    split = length(first)
    low = emitter.emit(first, _at(emitter, f"tl.minimum({feature.text}, {split - 1})", feature))
    high = emitter.emit(second, _at(emitter, f"tl.maximum({feature.text} - {split}, 0)", feature))
    target = "".join(axis for axis in "ijd" if axis in low.axes + high.axes + feature.axes)
    chosen = emitter.broadcast(Code(f"{feature.text} < {split}", feature.axes, "bool", atom=False), target)
    text = f"tl.where({chosen}, {emitter.broadcast(low, target)}, {emitter.broadcast(high, target)})"
    return Code(text, target, "real", inner=low.inner or high.inner)


def _at(emitter: Emitter, text: str, feature: Feature) -> Feature:
    """A named feature index; inside a loop over features it belongs to the loop."""
    named = emitter.fresh(Code(text, feature.axes, "int", inner=feature.inner))
    return Feature(named.text, feature.axes, feature.inner)


def _rope(emitter: Emitter, expr: Call, feature: Feature) -> Code:
    """Rotate pairs of features by position * theta^(-2n/dims); the angle is formed in double precision.

    A position of 10^5 times a frequency has an error of about 10^-2 radians in single precision; reducing it
    modulo a full turn in double precision keeps every digit that sine and cosine can use.
    """
    vector, position, theta, start, dims, interleaved = expr.args
    if not all(isinstance(arg, Const) for arg in (start, dims, interleaved)):
        raise InternalError("rope with a start, dims or interleaved that is not static")
    first, count, pairs = int(start.value), int(dims.value), bool(interleaved.value)  # type: ignore[union-attr]
    n, partner, sign = _pairing(emitter, feature, first, count, interleaved=pairs)
    here = emitter.emit(vector, feature)
    there = emitter.emit(vector, Feature(partner, feature.axes, feature.inner))
    cosine, sine = _rotation(emitter, position, theta, n, count, feature)
    target = "".join(axis for axis in "ijd" if axis in here.axes + cosine.axes)
    x, y, c, s = (emitter.broadcast(code, target) for code in (here, there, cosine, sine))
    turned = f"{x} * {c} + {emitter.broadcast(Code(sign, feature.axes), target)} * {y} * {s}"
    inner = here.inner or cosine.inner
    if first == 0 and count == length(vector):
        return Code(turned, target, "real", atom=False, inner=inner)
    inside = f"({feature.text} >= {first}) & ({feature.text} < {first + count})"
    chosen = emitter.broadcast(Code(inside, feature.axes, "bool", atom=False), target)
    return Code(f"tl.where({chosen}, {turned}, {x})", target, "real", inner=inner)


def _pairing(emitter: Emitter, feature: Feature, first: int, count: int, *, interleaved: bool) -> tuple[str, str, str]:
    """Texts of the pair number, the partner's feature index and the sign of the partner's term."""

    def name(text: str) -> str:
        return emitter.fresh(Code(text, feature.axes, "int", inner=feature.inner)).text

    half = count // 2
    e = name(f"tl.minimum(tl.maximum({feature.text} - {first}, 0), {count - 1})")
    if interleaved:
        n, low = name(f"{e} // 2"), f"{e} % 2 == 0"
        partner = name(f"tl.where({low}, {e} + 1, {e} - 1) + {first}")
    else:
        n, low = name(f"{e} % {half}"), f"{e} < {half}"
        partner = name(f"tl.where({low}, {e} + {half}, {e} - {half}) + {first}")
    sign = name(f"tl.where({low}, -1.0, 1.0)")
    return n, partner, sign


def _rotation(emitter: Emitter, position: Expr, theta: Expr, n: str, count: int, feature: Feature) -> tuple[Code, Code]:
    """Cosine and sine of the angle of pair `n`."""
    place = emitter.emit(position)
    base = emitter.emit(theta)
    if isinstance(theta, Const):
        per_pair = -2.0 * math.log2(float(theta.value)) / count
        exponent = f"{n}.to(tl.float64) * {per_pair!r}"
    else:
        exponent = f"{n}.to(tl.float64) * tl.log2({base.tight}.to(tl.float64)) * {-2.0 / count!r}"
    target = "".join(axis for axis in "ijd" if axis in place.axes + feature.axes)
    inner = place.inner or feature.inner
    frequency = Code(f"tl.exp2({exponent})", feature.axes, "real", inner=feature.inner)
    turns = f"{emitter.broadcast(place, target)}.to(tl.float64) * {emitter.broadcast(frequency, target)}"
    turn = emitter.fresh(Code(f"({turns}) * {1.0 / (2.0 * math.pi)!r}", target, "real", inner=inner)).text
    angle = emitter.fresh(
        Code(f"(({turn} - tl.floor({turn})) * {2.0 * math.pi!r}).to(tl.float32)", target, "real", inner=inner)
    ).text
    cosine = emitter.fresh(Code(f"tl.cos({angle})", target, "real", inner=inner))
    sine = emitter.fresh(Code(f"tl.sin({angle})", target, "real", inner=inner))
    return cosine, sine

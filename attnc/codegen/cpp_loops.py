"""Loops inside expressions of C++: over the cases of an `exists`, and over features where a vector is read one by one.

What varies in a loop is computed inside of it, the rest before it on the level where its operands exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from attnc.codegen.cpp_levels import VECTORS, Level, NoCppError, Val, join
from attnc.diagnostics import InternalError
from attnc.ir.expr import Call, Const, Exists, Expr, Reduce, Var
from attnc.ir.traverse import walk
from attnc.ir.types import REAL, VectorType

if TYPE_CHECKING:
    from attnc.codegen.cpp_emitter import CppEmitter

_START = {"sum": "0.0f", "mean": "0.0f", "max": "(-INFINITY)", "min": "INFINITY"}
_STEP = {"sum": "{0} + {1}", "mean": "{0} + {1}", "max": "max_({0}, {1})", "min": "min_({0}, {1})"}


@dataclass
class Loop:
    """The inside of a loop: its index, the variable that it stands for ("" for features), lines and what they name."""

    index: str
    var: str = ""
    lines: list[str] = field(default_factory=list[str])
    memo: dict[Expr, Val] = field(default_factory=dict[Expr, Val])

    @cached_property
    def _variable(self) -> Var:
        return Var(self.var)

    def varies(self, expr: Expr) -> bool:
        """Whether an expression has another value each time round."""
        if not self.var:
            return isinstance(expr.type, VectorType)
        return any(node == self._variable for node in walk(expr))


def length(vector: Expr) -> int:
    """The number of features, which a plan knows."""
    if isinstance(vector.type, VectorType) and isinstance(vector.type.dim, Const):
        return int(vector.type.dim.value)
    raise InternalError("a vector of unknown length reached code generation")


def emit_cases(emitter: CppEmitter, expr: Exists, low: int, high: int) -> Val:
    """Whether some case holds, as a loop."""
    loop = Loop(emitter.fresh("n"), expr.var)
    with emitter.inside(loop):
        case = emitter.emit(expr.body)
    start = "vi{}" if case.level in VECTORS else "false"

    def lines(name: str) -> list[str]:
        head = f"for (int64_t {loop.index} = {low}; {loop.index} < {high}; {loop.index}++) {{"
        return [f"{name} = {start};", head, *loop.lines, f"{name} |= {case.text};", "}"]

    return emitter.variable(expr, case.level, "bool", lines)


def emit_feature_reduction(emitter: CppEmitter, expr: Reduce) -> Val:
    """sum[d], max[d], ... of a vector."""
    dim = length(expr.body)
    if expr.op == "count":
        return Val(f"int64_t({dim})", "const", "int")
    loop = Loop(emitter.fresh("f"))
    with emitter.inside(loop):
        body = emitter.emit(expr.body)

    def lines(name: str) -> list[str]:
        head = f"for (int64_t {loop.index} = 0; {loop.index} < {dim}; {loop.index}++) {{"
        step = f"{name} = {_STEP[expr.op].format(name, emitter.at(body, body.level))};"
        start = emitter.at(Val(_START[expr.op], "const", "real"), body.level)
        rest = [f"{name} = {name} / {float(dim)}f;"] if expr.op == "mean" else []
        return [f"{name} = {start};", head, *loop.lines, step, "}", *rest]

    return emitter.variable(expr, body.level, "real", lines)


def emit_vector(emitter: CppEmitter, expr: Call) -> Val:
    """A normalized, joined or rotated vector: at the feature of the loop, else as lanes, one after the other."""
    if expr.fn == "normalize":
        return _normalized(emitter, expr)
    if emitter.feature is not None:
        return _concat(emitter, expr) if expr.fn == "concat" else _rope(emitter, expr)
    return by_lanes(emitter, expr)


def by_lanes(emitter: CppEmitter, expr: Expr) -> Val:
    """A vector of features whose lanes are computed one after the other."""
    loop = Loop(emitter.fresh("f"))
    with emitter.inside(loop):
        value = emitter.emit(expr)
    if value.level in VECTORS:
        raise InternalError("features and columns in one vector")

    def lines(name: str) -> list[str]:
        inside = f"const int64_t {loop.index} = min_(int64_t(t * V + lane), int64_t({length(expr) - 1}));"
        return ["for (int lane = 0; lane < V; lane++) {", inside, *loop.lines, f"{name}[lane] = {value.text};", "}"]

    return emitter.variable(expr, "feature", "real", lines)


def _normalized(emitter: CppEmitter, expr: Call) -> Val:
    vector, eps = expr.args
    squares = Reduce("sum", "d", Call("mul", (vector, vector), vector.type), None, REAL)
    norm = Call("max", (Call("sqrt", (squares,), REAL), eps), REAL)
    return emitter.emit(Call("div", (vector, norm), vector.type))


def _at(emitter: CppEmitter, vector: Expr, index: str) -> Val:
    """A vector at another feature than that of the loop."""
    name = emitter.fresh("f")
    here = emitter.loop
    here.lines.append(f"const int64_t {name} = {index};")
    with emitter.inside(Loop(name, lines=here.lines)):
        return emitter.emit(vector)


def _concat(emitter: CppEmitter, expr: Call) -> Val:
    first, second = expr.args
    split, feature = length(first), emitter.feature
    low = _at(emitter, first, f"min_({feature}, int64_t({split - 1}))")
    high = _at(emitter, second, f"max_({feature} - {split}, int64_t(0))")
    level = join((low.level, high.level))
    return Val(f"({feature} < {split} ? {emitter.at(low, level)} : {emitter.at(high, level)})", level, "real")


def _rope(emitter: CppEmitter, expr: Call) -> Val:
    """Rotate pairs of features by position * theta^(-2n/dims), the angle reduced to a turn in double precision."""
    vector, position, theta, start, dims, interleaved = expr.args
    if not (isinstance(start, Const) and isinstance(dims, Const) and isinstance(interleaved, Const)):
        raise NoCppError("a rotation whose features are not static")
    first, count, feature, lines = int(start.value), int(dims.value), emitter.feature, emitter.loop.lines
    e, n, low, partner, turn = (emitter.fresh("f") for _ in range(5))
    half = 1 if interleaved.value else count // 2
    lines.append(f"const int64_t {e} = min_(max_({feature} - {first}, int64_t(0)), int64_t({count - 1}));")
    lines.append(f"const int64_t {n} = {f'{e} / 2' if interleaved.value else f'{e} % {half}'};")
    lines.append(f"const bool {low} = {f'{e} % 2 == 0' if interleaved.value else f'{e} < {half}'};")
    lines.append(f"const int64_t {partner} = {first} + ({low} ? {e} + {half} : {e} - {half});")
    lines.append(f"const double {turn} = turns({n}, {count}, {emitter.emit(theta).text});")
    here, there = emitter.emit(vector), _at(emitter, vector, partner)
    place = emitter.emit(position)
    angle = emitter.fresh("x")
    lines.append(f"const {Val('', place.level, 'real').type} {angle} = angle({place.text}, {turn});")
    level = join((here.level, there.level, place.level))
    x, y = emitter.at(here, level), emitter.at(there, level)
    cosine, sine = (emitter.at(Val(f"{fn}({angle})", place.level, "real"), level) for fn in ("cos_", "sin_"))
    turned = f"{x} * {cosine} + ({low} ? -1.0f : 1.0f) * {y} * {sine}"
    inside = f"{feature} >= {first} && {feature} < {first + count}"
    return Val(f"({inside} ? {turned} : {x})", level, "real")


def level_lines(
    level: Level, name: str, kind: str, lines: Callable[[str], list[str]]
) -> tuple[list[str], list[str], Val]:
    """What declares a variable of a level before its lines, the lines that fill it, and how it is read."""
    value = Val(name, level, kind)
    if level in ("row", "key"):
        index, count = ("s", "ROWS") if level == "row" else ("t", "KV")
        found = Val(f"{name}[{index}]", level, kind)
        return [f"{value.type} {name}[{count}];"], lines(found.text), found
    return [], [f"{value.type} {name};", *lines(name)], value

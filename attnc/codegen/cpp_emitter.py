"""From typed expressions to lines of C++.

A value lives on a level: `const` (once per unit of work), `row` (per query of the tile, in arrays), `run` (per query
after a sweep), `rows` (while keys go by: vectors of the queries from `s0` on), `key` (per column of a key tile, vectors
in arrays), `pair` (vectors of columns for one query `s`) or `feature` (vectors of features of one query). Each is
computed on the lowest level where its operands exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from attnc.codegen.code import TensorCode
from attnc.codegen.cpp_levels import LEVELS, VECTORS, Level, NoCppError, Val, join
from attnc.codegen.cpp_loops import Loop, by_lanes, emit_cases, emit_feature_reduction, emit_vector, length, level_lines
from attnc.codegen.expr_cpp import CPP
from attnc.codegen.lookups import in_range
from attnc.ir.expand import cases_of, operand_kind, repeated_product
from attnc.ir.expr import Call, Const, Exists, Expr, Index, Lookup, Param, Reduce, Ref, Size, Value, Var, int_const
from attnc.ir.intervals import Interval, interval
from attnc.ir.traverse import walk
from attnc.ir.types import BOOL, INT, REAL, VectorType

_SPLAT = {"real": "bf", "int": "bi", "bool": "bb"}
_LOOK = {"real": "look_real", "int": "look_int", "bool": "look_bool"}
_MAX_SQUARINGS = 1024
_NAME = re.compile(r"\w+(\[[st]\])?")
_ARRAY = re.compile(r"(\w+)\[s\]")
_LOADED = re.compile(r"ldu?\((\w+) \+ s0\)")
#: Nodes of all cases of an `exists` up to which they are written out: constants then fold into each of them.
_WRITTEN_OUT = 256


@dataclass(slots=True)
class Lines:
    """Lines of one level and what they define; arrays are declared before the loop that fills them."""

    lines: list[str] = field(default_factory=list[str])
    declared: list[str] = field(default_factory=list[str])
    memo: dict[Expr, Val] = field(default_factory=dict[Expr, Val])
    stored: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Element:
    """The place of an element in its tensor, and the condition under which the tensor has any."""

    where: Val
    exists: str


class CppEmitter:
    """Writes expressions into `levels`; `refs` are named values, `leaves` those of indices, sizes and scalars.

    `vectors` tell what a token or a weighted accumulator is at one feature.
    """

    def __init__(
        self,
        leaves: Mapping[str, Val],
        tensors: Mapping[str, TensorCode],
        ranges: Mapping[str, Interval],
        *,
        wide: bool,
    ) -> None:
        self.levels: dict[Level, Lines] = {level: Lines() for level in LEVELS}
        self.refs: dict[str, Val] = {}
        self.vectors: dict[str, Callable[[str], Val]] = {}
        self.tensors_used: set[str] = set()
        self.scalars_used: set[str] = set()
        self._leaves = leaves
        self._tensors = tensors
        self._ranges = ranges
        self._wide = wide
        self._count = 0
        self._loops: list[Loop] = []

    def restart(self, *levels: Level) -> list[Lines]:
        """Begin anew on some levels; returns what they held."""
        old = [self.levels[level] for level in levels]
        for level in levels:
            self.levels[level] = Lines()
        return old

    # -- interface -----------------------------------------------------------------------------------------------

    def emit(self, expr: Expr) -> Val:
        """The value of an expression."""
        loop = self._loop_of(expr)
        known = [loop.memo] if loop is not None else [lines.memo for lines in self.levels.values()]
        for memo in known:
            if expr in memo:
                return memo[expr]
        value = self._node(expr)
        if isinstance(expr, Call | Lookup | Exists | Reduce):
            value = self.name(value, loop)
            self._memo(value, loop)[expr] = value
        return value

    def _loop_of(self, expr: Expr) -> Loop | None:
        """The innermost loop in which an expression varies."""
        return next((loop for loop in reversed(self._loops) if loop.varies(expr)), None)

    def _memo(self, value: Val, loop: Loop | None) -> dict[Expr, Val]:
        return self.levels[value.level].memo if loop is None else loop.memo

    @contextmanager
    def inside(self, loop: Loop) -> Generator[None]:
        """What is emitted meanwhile is inside a loop, which the caller writes."""
        self._loops.append(loop)
        yield
        self._loops.pop()

    @property
    def loop(self) -> Loop:
        """The innermost loop."""
        return self._loops[-1]

    @property
    def feature(self) -> str | None:
        """The index of the feature that a loop is at; None where vectors are lanes."""
        return next((loop.index for loop in reversed(self._loops) if not loop.var), None)

    def fresh(self, stem: str) -> str:
        """A new name."""
        self._count += 1
        return f"{stem}{self._count}"

    def variable(self, expr: Expr, level: Level, kind: str, lines: Callable[[str], list[str]]) -> Val:
        """The value of a loop: `lines` fill the variable that they are given the text of."""
        name, loop = self.fresh("x"), self._loop_of(expr)
        place = self.levels[level] if loop is None else loop
        if loop is not None:
            value = Val(name, level, kind)
            place.lines += [f"{value.type} {name};", *lines(name)]
            return value
        declared, body, value = level_lines(level, name, kind, lines)
        self.levels[level].declared += declared
        place.lines += body
        return value

    def at(self, value: Val, level: Level, *, wide: bool = False) -> str:
        """The text of a value where level needs it: as a vector on those of vectors."""
        if value.level == "rows" and level != "rows":
            return self._of_query(value)
        if level == "rows" and value.level in ("row", "run"):
            return _of_queries(value, wide=wide)
        if level not in VECTORS or value.level in VECTORS:
            text = value.text
            return f"wide({text})" if wide and value.level in VECTORS and not value.wide else text
        splat = "bl" if wide and value.kind == "int" else _SPLAT[value.kind]
        return f"{splat}({value.text})"

    def _of_query(self, value: Val) -> str:
        """One query's number of a vector of queries, from memory."""
        array = _LOADED.fullmatch(value.text)
        if array is not None:
            return f"bf({array[1]}[s])"
        value, lines = self.name(value), self.levels["rows"]
        if value.text not in lines.stored:
            stored = lines.stored[value.text] = self.fresh("of")
            kind = {"vf": "float", "vi": "int32_t", "vl": "int64_t"}[value.type]
            lines.lines.append(f"alignas(64) {kind} {stored}[V]; st({stored}, {value.text});")
        splat = "bl" if value.wide else "bf" if value.kind == "real" else "bi"
        return f"{splat}({lines.stored[value.text]}[s - s0])"

    def name(self, value: Val, loop: Loop | None = None) -> Val:
        """The value under a name of its own, in a line of its level or of a loop."""
        if _NAME.fullmatch(value.text):
            return value  # it has one
        name = self.fresh("x")
        if loop is not None:
            loop.lines.append(f"const {value.type} {name} = {value.text};")
            return Val(name, value.level, value.kind, value.wide)
        lines = self.levels[value.level]
        if value.level == "row":
            lines.declared.append(f"{value.type} {name}[ROWS];")
            lines.lines.append(f"{name}[s] = {value.text};")
            return Val(f"{name}[s]", "row", value.kind)
        if value.level == "key":
            lines.declared.append(f"{value.type} {name}[KV];")
            lines.lines.append(f"{name}[t] = {value.text};")
            return Val(f"{name}[t]", "key", value.kind, value.wide)
        lines.lines.append(f"const {value.type} {name} = {value.text};")
        return Val(name, value.level, value.kind, value.wide)

    # -- nodes ---------------------------------------------------------------------------------------------------

    def _node(self, expr: Expr) -> Val:
        match expr:
            case Const(value=value, type=kind):
                return Val(literal(value, kind.kind), "const", kind.kind)
            case Index(name=name):
                return self._leaf(name)
            case Size(name=name):
                return self._leaf(f"size:{name}")
            case Param(name=name):
                return self._leaf(f"param:{name}")
            case Value(name=name) | Ref(name=name) if name in self.vectors:
                return self._vector(name, expr)
            case Value(name=name):
                return self.refs[name] if name in self.refs else self._leaf(f"value:{name}")
            case Ref(name=name):
                return self.refs[name]
            case Var(name=name):
                return Val(next(loop.index for loop in reversed(self._loops) if loop.var == name), "const", "int")
            case Lookup():
                return self._lookup(expr)
            case Call():
                return self._call(expr)
            case Exists(low=Const(value=low), high=Const(value=high)):
                if (high - low) * sum(1 for _ in walk(expr)) <= _WRITTEN_OUT:
                    return self.emit(cases_of(expr, range(int(low), int(high))))
                return emit_cases(self, expr, int(low), int(high))
            case Reduce(axis="d"):
                return emit_feature_reduction(self, expr)
            case _:
                raise NoCppError(f"a {type(expr).__name__.lower()} inside a kernel")

    def _vector(self, name: str, expr: Expr) -> Val:
        if self.feature is not None:
            return self.vectors[name](self.feature)
        return self.refs[name] if name in self.refs else by_lanes(self, expr)

    def _leaf(self, key: str) -> Val:
        if key not in self._leaves:
            raise NoCppError(f"{key.rpartition(':')[2]} outside an inner product")
        self.scalars_used.add(key)
        return self._leaves[key]

    # -- calls ---------------------------------------------------------------------------------------------------

    def _call(self, expr: Call) -> Val:
        if expr.fn in ("normalize", "concat", "rope"):
            return emit_vector(self, expr)
        if expr.fn not in CPP:
            raise NoCppError(f"{expr.fn} inside a kernel")
        if expr.fn == "pow" and isinstance(expr.args[1], Const):
            return self._constant_power(expr, expr.args[1].value)
        if expr.fn in ("eq", "ne") and expr.args[0].type == BOOL:
            return self._equal_truth(expr)
        return self._elementwise(expr, [self.emit(arg) for arg in expr.args])

    def _elementwise(self, expr: Call, args: list[Val]) -> Val:
        level = join(arg.level for arg in args)
        kind = "real" if isinstance(expr.type, VectorType) else expr.type.kind
        compares = expr.fn in ("lt", "le", "gt", "ge", "eq", "ne")
        operand = operand_kind(expr, kind)
        wide = operand == "int" and level in VECTORS and self._needs_wide(expr, args)
        if expr.fn == "real":
            return Val(f"real({self.at(args[0], level, wide=args[0].wide)})", level, "real")
        texts = [self.at(self._converted(arg, operand), level, wide=wide and arg.kind == "int") for arg in args]
        text = self._power_of_two(expr, texts) or CPP[expr.fn].format(*texts)
        if compares and wide:
            text = f"narrow({text})"
        return Val(text, level, kind, wide and kind == "int")

    def _needs_wide(self, expr: Call, args: list[Val]) -> bool:
        parts = [expr, *(arg for arg in expr.args if arg.type == INT)]
        fits = all(interval(part, self._ranges).fits_32 for part in parts if part.type == INT)
        return self._wide or not fits or any(arg.wide for arg in args)

    def _converted(self, arg: Val, kind: str) -> Val:
        if kind == "real" and arg.kind == "int":
            return Val(f"real({arg.text})", arg.level, "real")
        return arg

    def _power_of_two(self, expr: Call, texts: list[str]) -> str | None:
        """Shifts and masks, which round toward minus infinity too."""
        if expr.fn not in ("floordiv", "mod") or not isinstance(expr.args[1], Const):
            return None
        divisor = int(expr.args[1].value)
        if divisor & (divisor - 1) or divisor < 1:
            return None
        return (
            f"({texts[0]} >> {divisor.bit_length() - 1})" if expr.fn == "floordiv" else f"({texts[0]} & {divisor - 1})"
        )

    def _equal_truth(self, expr: Call) -> Val:
        args = [self.emit(arg) for arg in expr.args]
        level = join(arg.level for arg in args)
        text = f"({self.at(args[0], level)} ^ {self.at(args[1], level)})"
        return Val(text if expr.fn == "ne" else f"not_({text})", level, "bool")

    def _constant_power(self, expr: Call, power: float) -> Val:
        base, kind = expr.args[0], expr.type
        if power == 0:
            return Val("1" if kind == INT else "1.0f", "const", "int" if kind == INT else "real")
        if float(power).is_integer() and abs(power) <= _MAX_SQUARINGS:
            product = repeated_product(base, int(abs(power)), kind)
            return self.emit(Call("div", (Const(1.0, REAL), product), kind) if power < 0 else product)
        if power == 0.5:
            return self.emit(Call("sqrt", (base,), kind))
        return self._elementwise(expr, [self.emit(arg) for arg in expr.args])

    # -- look-ups ------------------------------------------------------------------------------------------------

    def element(self, expr: Lookup, stem: str, first_axis: int = 0) -> Element:
        """Where the element of a look-up is, in a tensor whose strides are called by `stem` and number of axis."""
        vector = isinstance(expr.type, VectorType)
        info = self._tensors[expr.tensor]
        indices = [self.emit(index) for index in expr.indices]
        lanes = vector and self.feature is None
        level = join((*(index.level for index in indices), *(("feature",) if lanes else ())))
        rows = [self._row(info, axis, expr.indices[axis], value) for axis, value in enumerate(indices)]
        if lanes:
            rows.append(Val(f"clamp(features(t), {length(expr)})", "feature", "int", wide=True))
        elif vector:
            rows.append(Val(str(self.feature), "const", "int"))
        terms = [f"{self.at(row, level, wide=True)} * {stem}_s{axis}" for axis, row in enumerate(rows, first_axis)]
        sizes = (f"{self.emit(dim).text} > 0" for dim in info.dims if not isinstance(dim, Const))
        return Element(Val(" + ".join(terms), level, "int", wide=level in VECTORS), " && ".join(["true", *sizes]))

    def _lookup(self, expr: Lookup) -> Val:
        kind = "real" if isinstance(expr.type, VectorType) else expr.type.kind
        info = self._tensors[expr.tensor]
        self.tensors_used.add(expr.tensor)
        if any(dim == int_const(0) for dim in info.dims):
            return Val({"real": "0.0f", "int": "0", "bool": "false"}[kind], "const", kind)
        place = self.element(expr, info.stem)
        inside, level = f"{info.stem}_ptr, {place.where.text}, {place.exists}", place.where.level
        if level not in VECTORS:
            return Val(f"look({inside})", level, kind)
        wide = kind == "int" and not self._ranges.get(expr.tensor, Interval(0, 0)).fits_32
        return Val(f"{'look_wide' if wide else _LOOK[kind]}({inside})", level, kind, wide)

    def _row(self, info: TensorCode, axis: int, index: Expr, value: Val) -> Val:
        """A stored row: clamped unless in range by construction, with the first row of its document."""
        text = self.at(value, value.level, wide=True)
        if not in_range(index, info.dims[axis]):
            text = f"clamp({text}, {self.emit(info.dims[axis]).text})"
        if info.starts[axis]:
            text = f"({text} + {info.starts[axis]})"
        return Val(text, value.level, "int", wide=value.level in VECTORS)


def _of_queries(value: Val, *, wide: bool) -> str:
    """What each query has, as a vector of those from s0 on."""
    array = _ARRAY.fullmatch(value.text)
    if value.kind == "real" and array is not None:
        return f"ldu({array[1]} + s0)"
    kind = {"real": "vf", "int": "vl" if wide else "vi", "bool": "vi"}[value.kind]
    sign = "-" if value.kind == "bool" else ""
    return f"queries<{kind}>([&](int s) {{ return {sign}{value.text}; }}, s0)"


def literal(value: float, kind: str) -> str:
    """A constant."""
    if kind == "bool":
        return "true" if value else "false"
    if kind == "int":
        return f"int64_t({int(value)})"
    number = float(value)
    if number != number:
        return "NAN"
    if number in (float("inf"), float("-inf")):
        return "INFINITY" if number > 0 else "(-INFINITY)"
    return f"{number!r}f" if "e" in repr(number) or "." in repr(number) else f"{number!r}.0f"

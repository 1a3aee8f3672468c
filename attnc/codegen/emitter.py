"""From typed expressions to lines of Triton.

An expression is a value per point of some axes: i (the rows of a query tile), j (the columns of a key tile), d
(features). Its text has one dimension per axis, in this order. Each line is written into the outermost block where
its operands exist, so what does not change inside a loop is computed before it; equal expressions are written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attnc.codegen.expr_triton import TRITON
from attnc.codegen.tidy import is_atom
from attnc.diagnostics import InternalError
from attnc.ir.expr import Call, Const, Exists, Expr, Index, Lookup, Param, Reduce, Ref, Size, Value, Var, int_const
from attnc.ir.intervals import Interval, interval
from attnc.ir.traverse import children, substitute
from attnc.ir.types import BOOL, INT, REAL, VectorType

_ORDER = "ijd"


@dataclass(frozen=True, slots=True)
class Code:
    """A piece of Triton text. `atom` texts need no parentheses; `inner`: only valid in the inner block."""

    text: str
    axes: str = ""
    kind: str = "int"
    atom: bool = True
    inner: bool = False
    wide: bool = False

    @property
    def tight(self) -> str:
        """The text, in parentheses unless it is an atom."""
        return self.text if self.atom else f"({self.text})"


@dataclass(frozen=True, slots=True)
class Feature:
    """Where on the feature axis a vector is read: the text of the index, with axis d or (inside a loop) without."""

    text: str
    axes: str = "d"


@dataclass(frozen=True, slots=True)
class TensorCode:
    """How a tensor is reached: argument stem (PTR is stem_ptr, strides stem_s0 ...), sizes of its dimensions.

    `starts` has, per dimension, the text to add to a stored row (packed documents), or "".
    """

    stem: str
    dims: tuple[Expr, ...]
    kind: str
    starts: tuple[str, ...]


@dataclass(slots=True)
class Block:
    """Lines of one level of the kernel and what they define."""

    lines: list[str] = field(default_factory=list[str])
    memo: dict[tuple[Expr, str], Code] = field(default_factory=dict[tuple[Expr, str], Code])


class Emitter:
    """Writes expressions into `outer` (before the loops) or `inner` (the current loop body, when there is one)."""

    def __init__(
        self,
        *,
        indices: Mapping[str, Code],
        scalars: Mapping[str, Code],
        tensors: Mapping[str, TensorCode],
        ranges: Mapping[str, Interval],
        wide: bool = False,
    ) -> None:
        self.outer = Block()
        self.inner: Block | None = None
        self.ranges = Block()
        self.helpers: set[str] = set()
        self.tensors_used: set[str] = set()
        self.scalars_used: set[str] = set()
        self.refs: dict[str, Code] = {}
        self.lane_masks: dict[str, str] = {}
        self._indices = indices
        self._scalars = scalars
        self._tensors = tensors
        self._ranges = ranges
        self._wide = wide
        self._count = 0

    # -- interface -----------------------------------------------------------------------------------------------

    def emit(self, expr: Expr, feature: Feature | None = None) -> Code:
        """The value of an expression (of a vector: its features at `feature`)."""
        where = feature.text if feature is not None else ""
        found = self._find(expr, where)
        if found is not None:
            return found
        code = self._node(expr, feature)
        if children(expr) or isinstance(expr, Lookup) or (feature and isinstance(expr, Value)):
            code = self._name(code)
            self._remember(expr, where, code)
        return code

    def fresh(self, code: Code) -> Code:
        """The value under a name of its own."""
        return self._name(code, always=True)

    def line(self, text: str) -> None:
        """A line at the current level."""
        (self.inner or self.outer).lines.append(text)

    def broadcast(self, code: Code, target: str) -> str:
        """The text with a dimension of size one for each axis of `target` that it lacks."""
        if code.axes == target or not code.axes:
            return code.tight
        inside = ", ".join(":" if axis in code.axes else "None" for axis in target)
        return f"{code.tight}[{inside}]"

    def condition_mask(self, axes: str) -> str:
        """The lanes of these axes that exist, as text broadcast over `axes`; "" when all do."""
        parts = [self.broadcast(Code(self.lane_masks[axis], axis), axes) for axis in axes if self.lane_masks.get(axis)]
        return " & ".join(parts)

    # -- nodes ---------------------------------------------------------------------------------------------------

    def _node(self, expr: Expr, feature: Feature | None) -> Code:
        match expr:
            case Const(value=value, type=kind):
                return _literal(value, kind.kind)
            case Index(name=name):
                return self._indices[name]
            case Size(name=name):
                return self._scalar(f"size:{name}")
            case Param(name=name):
                return self._scalar(f"param:{name}")
            case Ref(name=name):
                return self._ref(name)
            case Value(name=name):
                return self._value(name, feature)
            case Lookup():
                return self._lookup(expr, feature)
            case Call():
                return self._call(expr, feature)
            case Exists():
                return self._exists(expr)
            case Reduce(axis="d"):
                return self._feature_reduction(expr)
            case _:
                raise InternalError(f"{type(expr).__name__} reached code generation")

    def _scalar(self, key: str) -> Code:
        self.scalars_used.add(key)
        return self._scalars[key]

    def _ref(self, name: str) -> Code:
        if name in self.refs:
            return self.refs[name]
        return self._scalar(f"ref:{name}")

    def _value(self, name: str, feature: Feature | None) -> Code:
        if feature is not None and name in ("q", "k", "v"):
            return self._load_token(name, feature)
        return self._scalar(f"value:{name}")

    def _load_token(self, name: str, feature: Feature) -> Code:
        """A feature of a token as passed: q by its row and head, k and v by their column and key head."""
        head = "h" if name == "q" else "hk"
        row = Index("r") if name == "q" else Index("c")
        return self._address(name, (Index("b"), Index(head), row), feature, REAL.kind)

    # -- look-ups ------------------------------------------------------------------------------------------------

    def _lookup(self, expr: Lookup, feature: Feature | None) -> Code:
        open_dim = isinstance(expr.type, VectorType)
        kind = "real" if isinstance(expr.type, VectorType) else expr.type.kind
        return self._address(expr.tensor, expr.indices, feature if open_dim else None, kind)

    def _address(self, tensor: str, indices: tuple[Expr, ...], feature: Feature | None, kind: str) -> Code:
        info = self._tensors[tensor]
        self.tensors_used.add(tensor)
        codes = [self._row(info, axis, index) for axis, index in enumerate(indices)]
        inner = any(code.inner for code in codes)
        if feature is not None:
            inner = inner or not feature.axes
            codes.append(Code(feature.text, feature.axes))
        target = _union(code.axes for code in codes)
        offset = " + ".join(
            f"{self._int64(code, target)} * {info.stem}_s{axis}" for axis, code in enumerate(codes) if code.text != "0"
        )
        pointer = f"{info.stem}_ptr + {offset}" if offset else f"{info.stem}_ptr"
        text = f"tl.load({pointer}{self._guard(target, info, feature)})"
        if kind == "real":
            text += ".to(tl.float32)"
        elif kind == "bool":
            text = f"({text} != 0)"
        wide = kind == "int" and not self._ranges.get(tensor, Interval(0, 0)).fits_32
        return Code(text, target, kind, atom=True, inner=inner, wide=wide)

    def _guard(self, target: str, info: TensorCode, feature: Feature | None) -> str:
        """Lanes without a token, and features past the end of the vector, load nothing."""
        mask = self.condition_mask(target)
        if feature is not None and feature.axes:
            last = self.emit(info.dims[-1])
            inside = self.broadcast(Code(f"{feature.text} < {last.text}", "d", "bool", atom=False), target)
            mask = f"{mask} & {inside}" if mask else inside
        return f", mask={mask}, other=0" if mask else ""

    def _row(self, info: TensorCode, axis: int, index: Expr) -> Code:
        code = self.emit(index)
        dim = info.dims[axis]
        if not _in_range(index, dim):
            last = self.emit(Call("sub", (dim, int_const(1)), INT))
            inside = f"tl.maximum(tl.minimum({code.text}, {last.text}), 0)"
            code = self._name(Code(inside, code.axes, "int", inner=code.inner or last.inner, wide=code.wide))
        if info.starts[axis]:
            code = Code(f"{info.starts[axis]} + {code.tight}", code.axes, "int", atom=False, inner=code.inner)
        return code

    def _int64(self, code: Code, target: str) -> str:
        text = self.broadcast(code, target)
        if code.text.lstrip("-").isdigit() or code.wide:
            return text
        return f"{text}.to(tl.int64)"

    # -- calls ---------------------------------------------------------------------------------------------------

    def _call(self, expr: Call, feature: Feature | None) -> Code:
        if isinstance(expr.type, VectorType) and expr.fn in ("normalize", "concat", "rope"):
            from attnc.codegen.vectors import emit_vector

            if feature is None:
                raise InternalError("a vector outside a feature axis")
            return emit_vector(self, expr, feature)
        if expr.fn == "dot":
            return self._feature_reduction(
                Reduce("sum", "d", Call("mul", expr.args, expr.args[0].type), None, REAL, expr.span)
            )
        if expr.fn == "pow" and isinstance(expr.args[1], Const):
            return self._constant_power(expr, feature)
        if expr.fn in ("and", "or", "not", "eq", "ne") and expr.args[0].type == BOOL:
            return self._logic(expr)
        return self._elementwise(expr, [self.emit(arg, _feature_of(arg, feature)) for arg in expr.args])

    def _elementwise(self, expr: Call, args: list[Code]) -> Code:
        target = _union(arg.axes for arg in args)
        kind = "real" if isinstance(expr.type, VectorType) else expr.type.kind
        operand = _operand_kind(expr, kind)
        wide = operand == "int" and (self._wide or any(arg.wide for arg in args) or not self._fits(expr))
        texts = [self.broadcast(self._converted(arg, operand, wide=wide), target) for arg in args]
        if expr.fn == "real":
            texts = [self.broadcast(args[0], target)]
        text = self._division(expr, texts) or TRITON[expr.fn].format(*texts)
        self._need(text)
        atom = is_atom(text)
        inner = any(arg.inner for arg in args)
        return Code(text, target, kind, atom=atom, inner=inner, wide=wide and kind == "int")

    def _converted(self, arg: Code, kind: str, *, wide: bool) -> Code:
        if arg.kind == "bool" or kind == "bool":
            return arg
        if kind == "real" and arg.kind == "int":
            return Code(_as_real(arg), arg.axes, "real", inner=arg.inner)
        if kind == "int" and wide and not arg.wide and not _is_number(arg.text):
            return Code(f"{arg.tight}.to(tl.int64)", arg.axes, "int", inner=arg.inner, wide=True)
        return arg

    def _fits(self, expr: Call) -> bool:
        parts = [expr, *(arg for arg in expr.args if arg.type == INT)]
        return all(interval(part, self._ranges).fits_32 for part in parts if part.type == INT)

    def _division(self, expr: Call, texts: list[str]) -> str | None:
        """Plain `//` and `%` where the dividend cannot be negative."""
        if expr.fn not in ("floordiv", "mod") or interval(expr.args[0], self._ranges).low < 0:
            return None
        return f"{texts[0]} {'//' if expr.fn == 'floordiv' else '%'} {texts[1]}"

    def _constant_power(self, expr: Call, feature: Feature | None) -> Code:
        base, exponent = expr.args
        assert isinstance(exponent, Const)
        power = exponent.value
        kind = expr.type
        if float(power).is_integer() and 1 <= abs(power) <= 64:
            product = _repeated(base, int(abs(power)), kind)
            if power < 0:
                product = Call("div", (Const(1.0, REAL), product), kind, expr.span)
            return self.emit(product, feature)
        if power == 0.5:
            return self.emit(Call("sqrt", (base,), kind, expr.span), feature)
        return self._elementwise(expr, [self.emit(arg, _feature_of(arg, feature)) for arg in expr.args])

    def _logic(self, expr: Call) -> Code:
        args = [self.emit(arg) for arg in expr.args]
        target = _union(arg.axes for arg in args)
        text = TRITON[expr.fn].format(*(self.broadcast(arg, target) for arg in args))
        return Code(text, target, "bool", atom=False, inner=any(arg.inner for arg in args))

    def _exists(self, expr: Exists) -> Code:
        if not (isinstance(expr.low, Const) and isinstance(expr.high, Const)):
            raise InternalError("`exists` over a range that is not static")
        total: Expr = Const(False, BOOL)
        for value in range(int(expr.low.value), int(expr.high.value)):
            part = substitute(expr.body, {Var(expr.var): int_const(value)})
            total = part if total == Const(False, BOOL) else Call("or", (total, part), BOOL)
        return self.emit(total)

    def _feature_reduction(self, expr: Reduce) -> Code:
        from attnc.codegen.vectors import emit_feature_reduction

        return emit_feature_reduction(self, expr)

    # -- names ---------------------------------------------------------------------------------------------------

    def _name(self, code: Code, *, always: bool = False) -> Code:
        """Short scalar texts stay as they are; the rest gets a line of its own."""
        if not always and (_is_number(code.text) or code.text.isidentifier()):
            return code
        block = self.inner if code.inner and self.inner is not None else self.outer
        name = f"v{self._count}"
        self._count += 1
        block.lines.append(f"{name} = {code.text}")
        return Code(name, code.axes, code.kind, inner=code.inner, wide=code.wide)

    def _find(self, expr: Expr, where: str) -> Code | None:
        for block in (self.inner, self.outer):
            if block is not None and (expr, where) in block.memo:
                return block.memo[expr, where]
        return None

    def _remember(self, expr: Expr, where: str, code: Code) -> None:
        block = self.inner if code.inner and self.inner is not None else self.outer
        block.memo[expr, where] = code

    def _need(self, text: str) -> None:
        head = text.split("(", 1)[0]
        if head.isidentifier():
            self.helpers.add(head)


def _feature_of(arg: Expr, feature: Feature | None) -> Feature | None:
    return feature if isinstance(arg.type, VectorType) else None


def _union(parts: object) -> str:
    seen = "".join(parts)  # type: ignore[arg-type]
    return "".join(axis for axis in _ORDER if axis in seen)


def _operand_kind(expr: Call, kind: str) -> str:
    """The kind that operands are converted to: comparisons and selects look at their operands."""
    if expr.fn in ("lt", "le", "gt", "ge", "eq", "ne"):
        kinds = [arg.type for arg in expr.args]
        return "int" if all(arg == INT for arg in kinds) else "real"
    if expr.fn in ("int", "floor"):
        return "real"
    return kind


def _in_range(index: Expr, dim: Expr) -> bool:
    """Whether a row is inside its dimension by construction."""
    pairs = {("b", "B"), ("h", "H"), ("hk", "Hk"), ("r", "N"), ("c", "M")}
    if isinstance(index, Index) and isinstance(dim, Size):
        return (index.name, dim.name) in pairs
    found = interval(index)
    return isinstance(dim, Const) and found.low >= 0 and found.high < int(dim.value)


def _repeated(base: Expr, power: int, kind: object) -> Expr:
    """base ^ power by squaring: equal factors are written once."""
    if power == 1:
        return base
    half = _repeated(base, power // 2, kind)
    square = Call("mul", (half, half), kind)  # type: ignore[arg-type]
    return square if power % 2 == 0 else Call("mul", (square, base), kind)  # type: ignore[arg-type]


def _literal(value: float, kind: str) -> Code:
    if kind == "bool":
        return Code("True" if value else "False", kind="bool")
    if kind == "int":
        return Code(str(int(value)), atom=value >= 0)
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        return Code(f'float("{number}")', kind="real")
    return Code(repr(number), kind="real", atom=number >= 0)


def _is_number(text: str) -> bool:
    return text.replace(".", "").replace("-", "").replace("e", "").replace("+", "").isdigit() or text.startswith(
        "float("
    )


def _as_real(arg: Code) -> str:
    return f"{arg.text}.0" if _is_number(arg.text) else f"{arg.tight}.to(tl.float32)"

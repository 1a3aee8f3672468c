"""From typed expressions to lines of Triton.

An expression is a value per point of some axes: i (the rows of a query tile), j (the columns of a key tile), d
(features). Its text has one dimension per axis, in this order. Each line is written into the outermost block where
its operands exist, so what does not change inside a loop is computed before it; equal expressions are written once.
"""

from __future__ import annotations

from collections.abc import Mapping

from attnc.codegen.code import Block, Code, Feature, Load, TensorCode, is_number, union
from attnc.codegen.expr_triton import TRITON
from attnc.codegen.lookups import emit_load
from attnc.codegen.tidy import is_atom
from attnc.codegen.vectors import emit_feature_reduction, emit_vector
from attnc.diagnostics import InternalError
from attnc.ir.expand import cases_of, operand_kind, repeated_product
from attnc.ir.expr import Call, Const, Exists, Expr, Index, Lookup, Param, Reduce, Ref, Size, Value
from attnc.ir.intervals import Interval, interval
from attnc.ir.traverse import children
from attnc.ir.types import BOOL, INT, REAL, VectorType

#: Powers up to this are products; beyond, exponentials of logarithms.
_MAX_SQUARINGS = 1024


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
        self.pieces = Block()
        #: The feature axis of the kernel, padded to a power of two.
        self.whole = Feature("d")
        self.helpers: set[str] = set()
        self.tensors_used: set[str] = set()
        self.scalars_used: set[str] = set()
        self.refs: dict[str, Code] = {}
        self.lane_masks: dict[str, str] = {}
        self._indices = indices
        self._scalars = scalars
        self._tensors = tensors
        self.ranges = ranges
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
            code = self.name(code)
            self._remember(expr, where, code)
        return code

    def fresh(self, code: Code) -> Code:
        """The value under a name of its own."""
        return self.name(code, always=True)

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
        return self._load(name, (Index("b"), Index(head), row), feature, REAL.kind)

    # -- look-ups ------------------------------------------------------------------------------------------------

    def _lookup(self, expr: Lookup, feature: Feature | None) -> Code:
        vector = isinstance(expr.type, VectorType)
        kind = "real" if isinstance(expr.type, VectorType) else expr.type.kind
        return self._load(expr.tensor, expr.indices, feature if vector else None, kind)

    def _load(self, tensor: str, indices: tuple[Expr, ...], feature: Feature | None, kind: str) -> Code:
        self.tensors_used.add(tensor)
        wide = kind == "int" and not self.ranges.get(tensor, Interval(0, 0)).fits_32
        return emit_load(self, Load(self._tensors[tensor], indices, feature, kind, wide))

    # -- calls ---------------------------------------------------------------------------------------------------

    def _call(self, expr: Call, feature: Feature | None) -> Code:
        if isinstance(expr.type, VectorType) and expr.fn in ("normalize", "concat", "rope"):
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
        target = union(arg.axes for arg in args)
        kind = "real" if isinstance(expr.type, VectorType) else expr.type.kind
        operand = operand_kind(expr, kind)
        wide = operand == "int" and (self._wide or any(arg.wide for arg in args) or not self._fits(expr))
        texts = [self.broadcast(self._converted(arg, operand, wide=wide), target) for arg in args]
        if expr.fn == "real":
            if is_number(args[0].text):
                return Code(_as_real(args[0]), kind="real")
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
        if kind == "int" and wide and not arg.wide and not is_number(arg.text):
            return Code(f"{arg.tight}.to(tl.int64)", arg.axes, "int", inner=arg.inner, wide=True)
        return arg

    def _fits(self, expr: Call) -> bool:
        parts = [expr, *(arg for arg in expr.args if arg.type == INT)]
        return all(interval(part, self.ranges).fits_32 for part in parts if part.type == INT)

    def _division(self, expr: Call, texts: list[str]) -> str | None:
        """Plain `//` and `%` where the dividend cannot be negative."""
        if expr.fn not in ("floordiv", "mod") or interval(expr.args[0], self.ranges).low < 0:
            return None
        return f"{texts[0]} {'//' if expr.fn == 'floordiv' else '%'} {texts[1]}"

    def _constant_power(self, expr: Call, feature: Feature | None) -> Code:
        base, exponent = expr.args
        assert isinstance(exponent, Const)
        power = exponent.value
        kind = expr.type
        if power == 0:
            return Code("1" if expr.type == INT else "1.0", kind="int" if expr.type == INT else "real")
        if float(power).is_integer() and abs(power) <= _MAX_SQUARINGS:
            product = repeated_product(base, int(abs(power)), kind)
            if power < 0:
                product = Call("div", (Const(1.0, REAL), product), kind, expr.span)
            return self.emit(product, feature)
        if power == 0.5:
            return self.emit(Call("sqrt", (base,), kind, expr.span), feature)
        return self._elementwise(expr, [self.emit(arg, _feature_of(arg, feature)) for arg in expr.args])

    def _logic(self, expr: Call) -> Code:
        args = [self.emit(arg) for arg in expr.args]
        target = union(arg.axes for arg in args)
        text = TRITON[expr.fn].format(*(self.broadcast(arg, target) for arg in args))
        return Code(text, target, "bool", atom=False, inner=any(arg.inner for arg in args))

    def _exists(self, expr: Exists) -> Code:
        if not (isinstance(expr.low, Const) and isinstance(expr.high, Const)):
            raise InternalError("`exists` over a range that is not static")
        return self.emit(cases_of(expr, range(int(expr.low.value), int(expr.high.value))))

    def _feature_reduction(self, expr: Reduce) -> Code:
        return emit_feature_reduction(self, expr)

    # -- names ---------------------------------------------------------------------------------------------------

    def name(self, code: Code, *, always: bool = False) -> Code:
        """Short scalar texts stay as they are; the rest gets a line of its own."""
        if not always and (is_number(code.text) or code.text.isidentifier()):
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


def _literal(value: float, kind: str) -> Code:
    if kind == "bool":
        return Code("True" if value else "False", kind="bool")
    if kind == "int":
        return Code(str(int(value)), atom=value >= 0)
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        return Code(f'float("{number}")', kind="real")
    return Code(repr(number), kind="real", atom=number >= 0)


def _as_real(arg: Code) -> str:
    return f"{arg.text}.0" if is_number(arg.text) else f"{arg.tight}.to(tl.float32)"

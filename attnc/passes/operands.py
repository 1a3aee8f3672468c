"""operands: inner products become products of stored operands.

Before: dot(a, b) of any vector expressions, reductions over features.
After: names. What depends on one token only is computed once per token and stored (`Derived`); a product of a
query-side and a key-side vector is a `DotTerm`; a product whose operand depends on both positions is a `PairDot`.

    dot(rope(q, i), rope(k, j)) + dot(u[h], k)   ->   dot0 + x2[b, h, c]
        x0 = rope(q, i)   x1 = rope(k, j)   dot0 = x0 . x1   x2 = dot(u[h], k)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from attnc.ir.dependence import Axes, axes, pair_axes
from attnc.ir.expr import Call, Const, Expr, Index, Lookup, Reduce, Ref, Value
from attnc.ir.plan import Derived, DotTerm, PairDot
from attnc.ir.traverse import map_children, walk
from attnc.ir.types import REAL, VectorType
from attnc.passes.errors import NotLowerable, fail

Side = Literal["q", "k"]
_INDEX: dict[Side, Index] = {"q": Index("r"), "k": Index("c")}


@dataclass(slots=True)
class Operands:
    """Collects what the expressions of one plan need; equal things are shared."""

    derived: list[Derived] = field(default_factory=list[Derived])
    dots: list[DotTerm] = field(default_factory=list[DotTerm])
    pair_dots: list[PairDot] = field(default_factory=list[PairDot])

    def lower(self, expr: Expr) -> Expr:
        """The scalar expression with its inner products replaced by names."""
        match expr:
            case Call(fn="dot", args=(a, b)):
                return self._dot(a, b)
            case Reduce(axis="d", op="sum", body=Call(fn="mul", args=(a, b))) if _both_vectors(a, b):
                return self._dot(a, b)
            case Reduce(axis="d"):
                return self._token_scalar(expr)
            case _:
                return map_children(expr, self.lower)

    def lower_rows(self, expr: Expr) -> Expr:
        """An expression of finished accumulators: products that read these, or gradients of rows, stay."""
        match expr:
            case Call(fn="dot") | Reduce(axis="d") if any(_is_of_row(node) for node in walk(expr)):
                return expr
            case Call(fn="dot") | Reduce(axis="d"):
                return self.lower(expr)
            case _:
                return map_children(expr, self.lower_rows)

    def value(self, expr: Expr) -> str:
        """The stored values: "v" as passed, or the name of a derived vector."""
        return self._vector(expr, "k")

    def _dot(self, a: Expr, b: Expr) -> Expr:
        left, right = pair_axes(a), pair_axes(b)
        if len(left | right) < 2:
            return self._token_scalar(Call("dot", (a, b), REAL, a.span))
        if "j" in left and "i" in right and len(left) == len(right) == 1:
            return self._dot(b, a)
        dim = _length(a)
        if len(left) == len(right) == 1:
            return self._named(DotTerm(f"dot{len(self.dots)}", self._vector(a, "q"), self._vector(b, "k"), dim))
        return self._named_pair(PairDot(f"pair{len(self.pair_dots)}", a, b, dim))

    def _named(self, term: DotTerm) -> Expr:
        for known in self.dots:
            if (known.left, known.right) == (term.left, term.right):
                return Ref(known.name, REAL)
        self.dots.append(term)
        return Ref(term.name, REAL)

    def _named_pair(self, term: PairDot) -> Expr:
        for known in self.pair_dots:
            if (known.left, known.right) == (term.left, term.right):
                return Ref(known.name, REAL)
        _check_pair_vector(term.left)
        _check_pair_vector(term.right)
        self.pair_dots.append(term)
        return Ref(term.name, REAL)

    def _vector(self, expr: Expr, side: Side) -> str:
        if isinstance(expr, Value) and expr.name in ("q", "k", "v"):
            return expr.name
        return self._store(expr, side).name

    def _token_scalar(self, expr: Expr) -> Expr:
        found = pair_axes(expr)
        if len(found) == 2:
            fail(NotLowerable("this reduction over features", expr.span, "write it as dot(x, y) of two vectors"))
        side: Side = "k" if "j" in found else "q"
        stored = self._store(expr, side)
        head = Index("h") if stored.heads == "H" else Index("hk")
        return Lookup(stored.name, (Index("b"), head, _INDEX[side]), REAL, expr.span)

    def _store(self, expr: Expr, side: Side) -> Derived:
        for node in walk(expr):
            if isinstance(node, Ref):  # stored before the first sweep, so statistics do not exist yet
                fail(NotLowerable("`n_keys` in a token map or inside `dot`", node.span, "multiply the score by it"))
        for known in self.derived:
            if (known.expr, known.side) == (expr, side):
                return known
        heads = "Hk" if side == "k" and "h" not in axes(expr) else "H"
        new = Derived(f"x{len(self.derived)}", side, heads, expr)
        self.derived.append(new)
        return new

    def ref_axes(self) -> dict[str, Axes]:
        """The axes of the names that `lower` introduced."""
        everything = frozenset(("b", "h", "i", "j"))
        return {term.name: everything for term in (*self.dots, *self.pair_dots)}


def _is_of_row(node: Expr) -> bool:
    """Whether a value exists only when a row is finished; no identifier has a colon."""
    return isinstance(node, Ref) or (isinstance(node, Lookup) and ":" in node.tensor)


def _both_vectors(a: Expr, b: Expr) -> bool:
    return isinstance(a.type, VectorType) and isinstance(b.type, VectorType)


def _length(vector: Expr) -> int:
    assert isinstance(vector.type, VectorType)
    dim = vector.type.dim
    if not isinstance(dim, Const):
        fail(NotLowerable("a vector whose length is known only at the call", vector.span, "declare its length static"))
    return int(dim.value)


def _check_pair_vector(vector: Expr) -> None:
    """Feature-by-feature evaluation needs every feature to stand alone."""
    if isinstance(vector, Reduce) or (isinstance(vector, Call) and vector.fn in ("normalize", "dot")):
        if len(pair_axes(vector)) == 2 or isinstance(vector, Call):
            fail(
                NotLowerable(
                    "a norm or inner product inside a vector that depends on both positions",
                    vector.span,
                    "apply it to a vector of one position only",
                )
            )
        return
    for child in vector.indices if isinstance(vector, Lookup) else ():
        _check_pair_vector(child)
    if isinstance(vector, Call):
        for child in vector.args:
            _check_pair_vector(child)

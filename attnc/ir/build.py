"""Short constructors for typed expressions that passes make."""

from __future__ import annotations

from attnc.ir.expr import TRUE, Call, Const, Expr, int_const, real_const
from attnc.ir.types import BOOL, INT, REAL, Type, VectorType
from attnc.source import NOWHERE, Span


def call(fn: str, *args: Expr, type: Type | None = None, span: Span = NOWHERE) -> Call:
    """A builtin applied to arguments; the type defaults to that of the arguments joined."""
    return Call(fn, args, type or _join(args), span)


def _join(args: tuple[Expr, ...]) -> Type:
    vectors = [arg.type for arg in args if isinstance(arg.type, VectorType)]
    if vectors:
        return vectors[0]
    return INT if all(arg.type == INT for arg in args) else REAL


def add(a: Expr, b: Expr) -> Expr:
    """a + b, without adding zero."""
    if is_const(a, 0):
        return b
    if is_const(b, 0):
        return a
    if isinstance(a, Const) and isinstance(b, Const) and a.type == INT and b.type == INT:
        return int_const(int(a.value) + int(b.value))
    if isinstance(b, Call) and b.fn == "neg":
        return sub(a, b.args[0])
    if isinstance(a, Call) and a.fn == "neg":
        return sub(b, a.args[0])
    return call("add", a, b, span=a.span)


def sub(a: Expr, b: Expr) -> Expr:
    """a - b, without subtracting zero."""
    if is_const(b, 0):
        return a
    if is_const(a, 0):
        return neg(b)
    if isinstance(a, Const) and isinstance(b, Const) and a.type == INT and b.type == INT:
        return int_const(int(a.value) - int(b.value))
    if isinstance(b, Call) and b.fn == "neg":
        return add(a, b.args[0])
    return call("sub", a, b, span=a.span)


def neg(a: Expr) -> Expr:
    """-a."""
    if isinstance(a, Const):
        return Const(-a.value, a.type, a.span)
    if isinstance(a, Call) and a.fn == "neg":
        return a.args[0]
    if isinstance(a, Call) and a.fn == "sub":
        return sub(a.args[1], a.args[0])
    return call("neg", a, span=a.span)


def mul(a: Expr, b: Expr) -> Expr:
    """a * b, without multiplying by one."""
    if is_const(a, 1):
        return b
    if is_const(b, 1):
        return a
    if isinstance(a, Const) and isinstance(b, Const):
        value = a.value * b.value
        return int_const(int(value)) if a.type == INT and b.type == INT else real_const(value)
    return call("mul", a, b, span=a.span)


def div(a: Expr, b: Expr) -> Expr:
    """a / b as a real, without dividing by one."""
    if is_const(b, 1):
        return a
    kind = a.type if isinstance(a.type, VectorType) else REAL
    return call("div", a, b, type=kind, span=a.span)


def conj(a: Expr, b: Expr) -> Expr:
    """a and b."""
    if a == TRUE:
        return b
    if b == TRUE or a == b:
        return a
    return call("and", a, b, type=BOOL, span=a.span)


def compare(fn: str, a: Expr, b: Expr) -> Expr:
    """A comparison."""
    return call(fn, a, b, type=BOOL, span=a.span)


def where(cond: Expr, then: Expr, orelse: Expr) -> Expr:
    """A select."""
    return call("where", cond, then, orelse, type=_join((then, orelse)), span=then.span)


def is_const(expr: Expr, value: float) -> bool:
    """Whether the node is the literal `value` (a bool never is)."""
    return isinstance(expr, Const) and expr.type != BOOL and expr.value == value

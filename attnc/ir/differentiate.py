"""Reverse-mode differentiation of real expressions: what the result passes back to its leaves, as expressions.

    adjoints(exp(s - m) / l, dp, leaves s, m, l)
        s -> dp / l * exp(s - m)    m -> -(dp / l * exp(s - m))    l -> -(dp * (exp(s - m) / l) / l)

A branch of `where` that is not taken passes back nothing, even where its derivative is infinite: what comes out of a
branch is selected again, not multiplied by zero. Where a function has a kink the derivative is torch's: the mean of
both sides for `max`, `min` and `abs`, 0 for `relu`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from attnc.ir.build import add, call, compare, div, mul, neg, sub, where
from attnc.ir.expr import Call, Const, Expr, int_const, real_const
from attnc.ir.traverse import children, walk
from attnc.ir.types import REAL, VectorType

LN2 = math.log(2.0)
#: Tells what an expression is differentiated by.
LeafTest = Callable[[Expr], bool]
_ONE, _ZERO, _HALF = real_const(1.0), real_const(0.0), real_const(0.5)


class NotDifferentiableError(Exception):
    """A term of an expression that has no derivative here. `term` is the node."""

    def __init__(self, term: Expr) -> None:
        super().__init__("no derivative")
        self.term = term


def adjoints(expr: Expr, seed: Expr, is_leaf: LeafTest) -> dict[Expr, Expr]:
    """The derivative of a real expression by each of its leaves, times `seed`.

    Leaves that it does not depend on, or only through ints and conditions, are not named. Raises
    NotDifferentiableError for a vector or a reduction on the way to a leaf.
    """
    order = _order(expr, is_leaf)
    passed: dict[Expr, Expr] = {expr: seed}
    found: dict[Expr, Expr] = {}
    for node in order:
        if node not in passed:
            continue
        back = passed.pop(node)
        if is_leaf(node):
            _collect(found, node, back)
        elif isinstance(node, Call) and node.fn == "where":
            for leaf, value in _through_where(node, back, is_leaf).items():
                _collect(found, leaf, value)
        else:
            for child, value in _through(node, back, is_leaf):
                _collect(passed, child, value)
    return found


def _collect(into: dict[Expr, Expr], key: Expr, value: Expr) -> None:
    into[key] = add(into[key], value) if key in into else value


def _order(expr: Expr, is_leaf: LeafTest) -> list[Expr]:
    """Every node once, users before what they use. Branches of `where` are left to themselves."""
    seen: dict[Expr, None] = {}

    def visit(node: Expr) -> None:
        if node in seen:
            return
        if not is_leaf(node) and not (isinstance(node, Call) and node.fn == "where"):
            for child in children(node):
                visit(child)
        seen[node] = None

    visit(expr)
    return list(seen)[::-1]


def _depends(expr: Expr, is_leaf: LeafTest) -> bool:
    return any(is_leaf(node) for node in walk(expr))


def _through_where(node: Call, seed: Expr, is_leaf: LeafTest) -> dict[Expr, Expr]:
    cond, then, orelse = node.args
    found: dict[Expr, Expr] = {}
    for leaf, value in adjoints(then, seed, is_leaf).items():
        _collect(found, leaf, where(cond, value, _ZERO))
    for leaf, value in adjoints(orelse, seed, is_leaf).items():
        _collect(found, leaf, where(cond, _ZERO, value))
    return found


def _through(node: Expr, seed: Expr, is_leaf: LeafTest) -> list[tuple[Expr, Expr]]:
    """What a node passes to its arguments."""
    reals = [n for n, x in enumerate(children(node)) if x.type == REAL or isinstance(x.type, VectorType)]
    wanted = [n for n in reals if _depends(children(node)[n], is_leaf)]
    if not wanted:
        return []
    if not isinstance(node, Call) or node.type != REAL or node.fn not in _RULES:
        raise NotDifferentiableError(node)
    return [(node.args[n], _RULES[node.fn](node, seed, n)) for n in wanted]


# -- rules: (node, seed, argument) -> what is passed to the argument ---------------------------------------------------

_Rule = Callable[[Call, Expr, int], Expr]


def _unary(derivative: Callable[[Expr, Expr], Expr]) -> _Rule:
    """The rule of a function of one argument, from its derivative as a function of argument and value."""
    return lambda node, seed, _: mul(seed, derivative(node.args[0], node))


def _product(node: Call, seed: Expr, n: int) -> Expr:
    return mul(seed, node.args[1 - n])


def _quotient(node: Call, seed: Expr, n: int) -> Expr:
    a, b = node.args
    return div(seed, b) if n == 0 else neg(div(div(mul(seed, a), b), b))


def _power(node: Call, seed: Expr, n: int) -> Expr:
    base, exponent = node.args
    if n == 1:
        return mul(seed, mul(node, call("log", base)))
    if not isinstance(exponent, Const):
        real = exponent if exponent.type == REAL else call("real", exponent, type=REAL)
        return mul(seed, mul(real, call("pow", base, sub(exponent, _unit(exponent)), type=REAL)))
    if exponent.value == 1:
        return seed
    smaller = Const(exponent.value - 1, exponent.type)
    rest = base if smaller.value == 1 else call("pow", base, smaller, type=REAL)
    return mul(seed, mul(real_const(float(exponent.value)), rest))


def _unit(exponent: Expr) -> Expr:
    return _ONE if exponent.type == REAL else int_const(1)


def _larger(node: Call, seed: Expr, n: int) -> Expr:
    mine, other = node.args[n], node.args[1 - n]
    wins = compare("gt" if node.fn == "max" else "lt", mine, other)
    return mul(seed, where(wins, _ONE, where(compare("eq", mine, other), _HALF, _ZERO)))


_RULES: dict[str, _Rule] = {
    "add": lambda _node, seed, _: seed,
    "sub": lambda _node, seed, n: seed if n == 0 else neg(seed),
    "neg": lambda _node, seed, _: neg(seed),
    "mul": _product,
    "div": _quotient,
    "pow": _power,
    "max": _larger,
    "min": _larger,
    "abs": _unary(lambda x, _: call("sign", x, type=REAL)),
    "sign": _unary(lambda _x, _: _ZERO),
    "floor": _unary(lambda _x, _: _ZERO),
    "exp": _unary(lambda _, y: y),
    "exp2": _unary(lambda _, y: mul(real_const(LN2), y)),
    "log": lambda node, seed, _: div(seed, node.args[0]),
    "log2": lambda node, seed, _: div(div(seed, node.args[0]), real_const(LN2)),
    "log1p": lambda node, seed, _: div(seed, add(_ONE, node.args[0])),
    "sqrt": lambda node, seed, _: div(mul(seed, _HALF), node),
    "sin": _unary(lambda x, _: call("cos", x)),
    "cos": _unary(lambda x, _: neg(call("sin", x))),
    "tanh": _unary(lambda _, y: sub(_ONE, mul(y, y))),
    "sigmoid": _unary(lambda _, y: mul(y, sub(_ONE, y))),
    "softplus": _unary(lambda x, _: call("sigmoid", x)),
    "relu": _unary(lambda x, _: where(compare("gt", x, _ZERO), _ONE, _ZERO)),
    "elu": _unary(lambda x, y: where(compare("gt", x, _ZERO), _ONE, add(y, _ONE))),
}

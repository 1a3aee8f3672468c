"""Extrema that only keep numbers in range: results stay the same when they move, so nothing passes through them.

    m = max s; w = exp(s - m) / sum exp(s - m)      m is one
    m = max s; w = exp(s - m)                       m is not

When m moves, a sum whose body changes by a factor that is free of the key changes by that factor (`products.ratio`).
What then happens to the weight and to the statistics is a formula in a few row values, whose identity is tested at
random points in float64: formulas of this kind that agree at such points are equal.
"""

from __future__ import annotations

import random

from attnc.diagnostics import SpecError
from attnc.ir.build import mul, sub
from attnc.ir.expr import Call, Const, Expr, Ref, int_const, real_const
from attnc.ir.fold import fold
from attnc.ir.plan import Accumulator
from attnc.ir.traverse import children, substitute, transform, walk
from attnc.ir.types import BOOL, INT, REAL
from attnc.passes.accumulators import is_inner_product, is_row
from attnc.passes.products import ratio, refs

_POINTS = 8
_CLOSE = 1e-9
_BENT = frozenset(("relu", "abs", "max", "min", "where", "elu", "sign", "floor", "int"))


def is_stabiliser(name: str, found: list[Accumulator], results: tuple[Expr, ...]) -> bool:
    """Whether no result depends on the extremum `name` itself. Results are weights of pairs or row values."""
    if next(acc for acc in found if acc.name == name).op == "sum":
        return False
    new: dict[Expr, Expr] = {Ref(name, REAL): Ref(name, REAL)}
    for acc in found:
        moving = frozenset(ref.name for ref in new if isinstance(ref, Ref))
        if acc.weighted or acc.name == name or not refs(acc.body) & moving:
            continue
        factor = _ratio(acc.body, moving) if acc.op == "sum" else None
        if factor is None:
            return False
        new[acc.ref] = mul(Ref(f"{acc.name}.old", REAL), substitute(factor, new))
    return all(_stays(branch, new) for result in results for branch in _branches(result, frozenset(new)))


def _ratio(expr: Expr, moving: frozenset[str]) -> Expr | None:
    old: dict[Expr, Expr] = {Ref(name, REAL): Ref(f"{name}.old", REAL) for name in moving}
    return ratio(expr, moving, old, is_row, near=True)


def _branches(expr: Expr, moving: frozenset[Expr]) -> list[Expr]:
    """The expressions that a result may be; a small step does not change which one."""
    for node in walk(expr):
        if isinstance(node, Call) and node.fn == "where" and any(leaf in moving for leaf in walk(node.args[0])):
            cond = node.args[0]
            return [b for n in (1, 2) for b in _branches(_decided(expr, cond, n), moving)]
    return [expr]


def _decided(expr: Expr, cond: Expr, chosen: int) -> Expr:
    """The expression where a condition is known."""

    def change(node: Expr) -> Expr:
        if isinstance(node, Call) and node.fn == "where" and node.args[0] == cond:
            return node.args[chosen]
        return node

    return transform(expr, change)


def _stays(result: Expr, new: dict[Expr, Expr]) -> bool:
    moving = frozenset(ref.name for ref in new if isinstance(ref, Ref))
    if not refs(result) & moving:
        return True
    factor = None if is_row(result) else _ratio(result, moving)
    if factor is not None:
        return _is_zero(sub(substitute(factor, new), real_const(1.0)))
    old: dict[Expr, Expr] = {Ref(name, REAL): Ref(f"{name}.old", REAL) for name in moving}
    change = sub(substitute(result, new), substitute(result, old))
    return (is_row(result) or _is_smooth(result)) and _is_zero(change)


def _is_smooth(expr: Expr) -> bool:
    """Whether one formula holds everywhere, so that points tell about all pairs and not about one side of a bend."""
    return not any(isinstance(node, Call) and (node.fn in _BENT or node.type == BOOL) for node in walk(expr))


def _is_zero(expr: Expr) -> bool:
    """Whether a value is 0 at random points."""
    expr = _without_products(expr)
    leaves: list[Expr] = [node for node in dict.fromkeys(walk(expr)) if not isinstance(node, Call | Const)]
    inner = {child for leaf in leaves for child in children(leaf)}
    leaves = [leaf for leaf in leaves if leaf not in inner]
    draw = random.Random(0)
    return all(_vanishes(expr, leaves, draw) for _ in range(_POINTS))


def _without_products(expr: Expr) -> Expr:
    """With a number in place of each inner product."""
    products = [node for node in dict.fromkeys(walk(expr)) if is_inner_product(node)]
    return substitute(expr, {node: Ref(f"product{n}", REAL) for n, node in enumerate(products)})


def _vanishes(expr: Expr, leaves: list[Expr], draw: random.Random) -> bool:
    values: dict[Expr, Expr] = {
        leaf: int_const(draw.randint(3, 9)) if leaf.type in (INT, BOOL) else real_const(draw.uniform(0.5, 2.0))
        for leaf in leaves
    }
    try:
        found = fold(substitute(expr, values))
    except SpecError:  # a point outside of a function's domain proves nothing
        return False
    return isinstance(found, Const) and abs(float(found.value)) < _CLOSE

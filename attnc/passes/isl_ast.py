"""isl's loops as pieces of a plan: the AST that isl prints for a set of tiles, flattened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attnc.ir.build import add, call, compare, conj, mul, neg, sub, where
from attnc.ir.expr import TRUE, Call, Const, Expr, Ref, int_const
from attnc.ir.plan import Piece
from attnc.ir.types import BOOL, INT
from attnc.passes.isl import isl


class NotClosedError(Exception):
    """The loops are not a short list of plain ranges."""


@dataclass(frozen=True, slots=True)
class Loops:
    """`pieces` cover the set; `exact` unless a condition on the tile itself had to be dropped.

    `order` are the sets that the pieces scan, one after the other, each in increasing order.
    """

    pieces: tuple[Piece, ...]
    exact: bool
    order: tuple[Any, ...] = ()


def scan(tiles: Any, context: Any, leaves: Mapping[str, Expr]) -> Loops:
    """Ranges that scan a one-dimensional set of tiles in increasing order.

    `context` is the set of parameters that can occur, `leaves` tells what each parameter name stands for. The ranges
    are disjoint. Raises NotClosedError, or isl.Error past the operation limit.
    """
    build = isl.AstBuild.from_context(context)
    identity = isl.Map.identity(isl.Space.map_from_set(tiles.get_space())).intersect_domain(tiles)
    node = build.node_from_schedule_map(isl.UnionMap.from_map(identity))
    flattener = _Flattener(dict(leaves))
    flattener.visit(node, TRUE)
    return Loops(tuple(flattener.pieces), flattener.exact)


def condition_of(points: Any, context: Any, leaves: Mapping[str, Expr]) -> Expr:
    """A set of parameters as a condition on what they stand for, where `context` holds. Raises NotClosedError."""
    return _Flattener(dict(leaves)).expression(isl.AstBuild.from_context(context).expr_from_set(points))


def number_of(value: Any, context: Any, leaves: Mapping[str, Expr]) -> Expr:
    """A piecewise function of parameters as an int expression. Raises NotClosedError."""
    return _Flattener(dict(leaves)).expression(isl.AstBuild.from_context(context).expr_from_pw_aff(value))


class _Flattener:
    def __init__(self, leaves: dict[str, Expr]) -> None:
        self.pieces: list[Piece] = []
        self.exact = True
        self._leaves = leaves
        self._iterator: str | None = None

    def visit(self, node: Any, guard: Expr) -> None:
        kind = node.get_type()
        if kind == isl.ast_node_type.block:
            children = node.block_get_children()
            for n in range(children.n_ast_node()):
                self.visit(children.get_at(n), guard)
        elif kind == isl.ast_node_type.if_:
            self._branch(node, guard)
        elif kind == isl.ast_node_type.for_:
            self._loop(node, guard)
        elif kind == isl.ast_node_type.user:
            tile = self.expression(node.user_get_expr().get_op_arg(1))
            self.pieces.append(Piece(guard, tile, tile))
        else:
            raise NotClosedError

    def _branch(self, node: Any, guard: Expr) -> None:
        cond = self.expression(node.if_get_cond())
        self.visit(node.if_get_then_node(), conj(guard, cond))
        if node.if_has_else_node():
            self.visit(node.if_get_else_node(), conj(guard, call("not", cond, type=BOOL)))

    def _loop(self, node: Any, guard: Expr) -> None:
        iterator = node.for_get_iterator().get_id().get_name()
        low = self.expression(node.for_get_init())
        high = self._last(node)
        step = self.expression(node.for_get_inc())
        if not isinstance(step, Const):
            raise NotClosedError
        self._check_body(node.for_get_body(), iterator)
        self.pieces.append(Piece(guard, low, high, int(step.value)))

    def _last(self, node: Any) -> Expr:
        """The inclusive upper bound: isl prints `iterator <= e` or `iterator < e`."""
        cond = node.for_get_cond()
        bound = self.expression(cond.get_op_arg(1))
        kind = cond.get_op_type()
        if kind == isl.ast_expr_op_type.le:
            return bound
        if kind == isl.ast_expr_op_type.lt:
            return sub(bound, int_const(1))
        raise NotClosedError

    def _check_body(self, body: Any, iterator: str) -> None:
        """The body is the tile itself; a condition inside makes the loop a superset."""
        kind = body.get_type()
        if kind == isl.ast_node_type.user:
            tile = body.user_get_expr().get_op_arg(1)
            if tile.get_type() != isl.ast_expr_type.id or tile.get_id().get_name() != iterator:
                raise NotClosedError
        elif kind == isl.ast_node_type.if_:
            self.exact = False
        else:
            raise NotClosedError

    def expression(self, expr: Any) -> Expr:
        """An isl AST expression as a typed integer or condition."""
        kind = expr.get_type()
        if kind == isl.ast_expr_type.int:
            return int_const(expr.get_val().get_num_si())
        if kind == isl.ast_expr_type.id:
            name = expr.get_id().get_name()
            if name not in self._leaves:
                raise NotClosedError
            return self._leaves[name]
        args = tuple(self.expression(expr.get_op_arg(n)) for n in range(expr.get_op_n_arg()))
        return _operation(expr.get_op_type(), args)


def _operation(kind: Any, args: tuple[Expr, ...]) -> Expr:
    op = isl.ast_expr_op_type
    comparisons = {op.le: "le", op.lt: "lt", op.ge: "ge", op.gt: "gt", op.eq: "eq"}
    divisions = {op.fdiv_q: "floordiv", op.pdiv_q: "floordiv", op.div: "floordiv", op.pdiv_r: "mod", op.zdiv_r: "mod"}
    if kind in comparisons:
        return compare(comparisons[kind], *args)
    if kind in divisions:
        return call(divisions[kind], *args, type=INT)
    if kind in (op.min, op.max):
        return _fold(("min" if kind == op.min else "max"), args)
    if kind in (op.and_, op.and_then):
        return conj(args[0], args[1])
    if kind in (op.or_, op.or_else):
        return call("or", *args, type=BOOL)
    if kind in (op.cond, op.select):
        return where(*args)
    simple = {op.add: add, op.sub: sub, op.mul: mul}
    if kind in simple:
        return simple[kind](args[0], args[1])
    if kind == op.minus:
        return neg(args[0])
    raise NotClosedError


def _fold(fn: str, args: tuple[Expr, ...]) -> Expr:
    total = args[0]
    for arg in args[1:]:
        total = call(fn, total, arg, type=INT)
    return total


__all__ = ["Call", "Loops", "NotClosedError", "Ref", "scan"]

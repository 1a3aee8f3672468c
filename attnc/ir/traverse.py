"""Walking and rebuilding typed expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import assert_never

from attnc.ir.expr import (
    Call,
    Const,
    Exists,
    Expr,
    GridCoord,
    Index,
    Lift,
    Lookup,
    Param,
    Reduce,
    Ref,
    Size,
    Value,
    Var,
)


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct subexpressions, in reading order."""
    match expr:
        case Const() | Index() | Size() | GridCoord() | Param() | Value() | Var() | Ref():
            return ()
        case Lookup(indices=indices):
            return indices
        case Call(args=args):
            return args
        case Reduce(body=body, group=group):
            return (body,) if group is None else (body, group)
        case Exists(low=low, high=high, body=body):
            return (low, high, body)
        case Lift(body=body, rows=rows, keys=keys):
            return (body, rows, keys)
        case _:
            assert_never(expr)


def map_children(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The node with `change` applied to its children; the same object when nothing changed."""
    old = children(expr)
    new = tuple(change(child) for child in old)
    if all(a is b for a, b in zip(old, new, strict=True)):
        return expr
    match expr:
        case Lookup():
            return replace(expr, indices=new)
        case Call():
            return replace(expr, args=new)
        case Reduce():
            return replace(expr, body=new[0], group=new[1] if expr.group is not None else None)
        case Exists():
            return replace(expr, low=new[0], high=new[1], body=new[2])
        case Lift():
            return replace(expr, body=new[0], rows=new[1], keys=new[2])
        case _:
            return expr


def transform(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """Bottom-up rewrite: `change` sees every node after its children were rewritten, shared ones once."""
    done: dict[int, Expr] = {}

    def rewrite(node: Expr) -> Expr:
        known = done.get(id(node))
        if known is None:
            known = done[id(node)] = change(map_children(node, rewrite))
        return known

    return rewrite(expr)


def substitute(expr: Expr, mapping: Mapping[Expr, Expr]) -> Expr:
    """Replace every occurrence of a key by its value (outermost match first, values are not revisited).

    Shared nodes are rewritten once, and stay shared.
    """
    kinds = {type(key) for key in mapping}  # looking up a node costs as much as its size
    done: dict[int, Expr] = {}

    def change(node: Expr) -> Expr:
        known = done.get(id(node))
        if known is None:
            found = mapping.get(node) if type(node) in kinds else None
            known = done[id(node)] = map_children(node, change) if found is None else found
        return known

    return change(expr)


def walk(expr: Expr) -> Iterator[Expr]:
    """Every node, parents before children."""
    waiting = [expr]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(children(node)[::-1])


def distinct(expr: Expr) -> Iterator[Expr]:
    """Every node once, however many others share it."""
    seen: set[int] = set()
    waiting = [expr]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting.extend(children(node)[::-1])


def count_nodes(expr: Expr) -> int:
    """Number of nodes of the tree."""
    return sum(1 for _ in walk(expr))

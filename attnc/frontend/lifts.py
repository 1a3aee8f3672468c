"""Tile lifts: `any(m, 64, 64)`, `all(m, 64, 64)`, `density(m, 64, 64)`, a mask as a condition on blocks of pairs."""

from __future__ import annotations

from dataclasses import replace

from attnc.frontend import ast
from attnc.frontend.environment import MASK, Elaborator, Env, all_or_none
from attnc.frontend.errors import types as errors
from attnc.frontend.names import LIFTS
from attnc.frontend.typing_rules import is_static
from attnc.frontend.uses import match_arguments
from attnc.ir.expr import Expr, Lift
from attnc.ir.types import BOOL, INT

_FORMALS = [("condition", True), ("queries", True), ("keys", True)]


def check_lift(el: Elaborator, node: ast.Apply, name: str, env: Env) -> Expr | None:
    """The typed lift. Its condition is a mask, wherever the lift stands."""
    given = match_arguments(el, env, name, _FORMALS, node.args, node.span)
    if given is None:
        return None
    place = replace(
        MASK,
        title=f"the condition of `{name}`",
        forbids=MASK.forbids | env.place.forbids,
        why=env.place.why or MASK.why,
        kinds=tuple(kind for kind in MASK.kinds if kind in env.place.kinds),
    )
    body = el.typed(given["condition"], replace(env, place=place), BOOL, place.title)
    parts = all_or_none((body, _size(el, env, given["queries"]), _size(el, env, given["keys"])))
    if parts is None:
        return None
    condition, queries, keys = parts
    return Lift(LIFTS[name], condition, queries, keys, node.span)


def _size(el: Elaborator, env: Env, node: ast.Expr) -> Expr | None:
    found = el.typed(node, env, INT, "a block size")
    if found is None or is_static(el, found):
        return found
    el.report(errors.not_static("a block size", node.span, "literals and static parameters"), env)
    return None

"""The `grid` fields of an attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attnc.frontend import ast
from attnc.frontend.environment import SIZE, Elaborator, Env, Grids
from attnc.frontend.errors import syntax as syntax_errors
from attnc.frontend.errors import types as errors
from attnc.frontend.errors.wording import did_you_mean
from attnc.ir.expr import Const, Expr, int_const
from attnc.ir.module import Grid
from attnc.ir.types import INT


def check_grids(el: Elaborator, env: Env, nodes: Sequence[ast.GridDecl]) -> Grids:
    """The grids of both sides; one without a side serves both."""
    found = dict[str, Grid]()
    first = dict[str, ast.GridDecl]()
    for node in nodes:
        sides = _sides(el, env, node)
        repeated = [side for side in sides if side in first]
        if repeated:
            help_ = "one `grid` for both sides, or one `grid q` and one `grid k`"
            el.report(syntax_errors.repeated_field("grid", node.span, first[repeated[0]].span, help_), env)
        grid = _grid(el, env, node)
        for side in sides:
            first.setdefault(side, node)
            if grid is not None:
                found.setdefault(side, grid)
    failed = len(found) < len(first)
    return Grids(found.get("q"), found.get("k"), any_axis=failed)


def _sides(el: Elaborator, env: Env, node: ast.GridDecl) -> tuple[str, ...]:
    if node.side is None:
        return ("q", "k")
    if node.side.text in ("q", "k"):
        return (node.side.text,)
    el.report(
        errors.bad_grid(f"a grid has no side `{node.side.text}`", node.side.span, "write `grid q` or `grid k`"), env
    )
    return ()


def _grid(el: Elaborator, env: Env, node: ast.GridDecl) -> Grid | None:
    env = replace(env, place=SIZE)
    names = tuple(word.text for word, _ in node.axes)
    for n, (word, _) in enumerate(node.axes):
        if word.text in names[:n]:
            el.report(errors.bad_grid(f"axis `{word.text}` is named twice", word.span), env)
    extents = [_extent(el, env, word, extent) for word, extent in node.axes]
    start = _start(el, env, node)
    kept = tuple(extent for extent in extents if extent is not None)
    if start is None or len(kept) < len(extents) or len(set(names)) < len(names):
        return None
    return Grid(names, kept, start, beside=node.start is not None)


def _extent(el: Elaborator, env: Env, word: ast.Word, node: ast.Expr) -> Expr | None:
    extent = el.typed(node, env, INT, f"the extent of `{word.text}`")
    if isinstance(extent, Const) and extent.value < 1:
        el.report(errors.bad_grid(f"the extent of `{word.text}` must be at least 1", node.span), env)
        return None
    return extent


def _start(el: Elaborator, env: Env, node: ast.GridDecl) -> Expr | None:
    if node.start is None:
        return int_const(0)
    word, position = node.start
    if word.text != "at":
        help_ = did_you_mean(word.text, ("at",)) or "write `grid (...) at POSITION`"
        el.report(errors.bad_grid(f"`{word.text}` cannot follow a grid", word.span, help_), env)
        return None
    return el.typed(position, env, INT, "the start of a grid")

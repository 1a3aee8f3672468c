"""`i.t`, `grid.t`, `i in grid`, and which predefined names a place can read."""

from __future__ import annotations

from typing import Literal

from attnc.frontend import ast
from attnc.frontend.environment import Elaborator, Env
from attnc.frontend.errors import names as name_errors
from attnc.frontend.errors import types as errors
from attnc.frontend.errors.wording import did_you_mean, listing
from attnc.ir.dims import same_dim
from attnc.ir.expr import Call, Expr, GridCoord, Index, Size
from attnc.ir.module import Grid
from attnc.ir.types import BOOL
from attnc.source import Span

_DECLARE = "declare it in the attention: `grid (y: 32, x: 32)`"


def readable(el: Elaborator, env: Env, name: str, span: Span) -> bool:
    """Whether the place can read a predefined name; reports when it cannot."""
    if name not in env.place.forbids:
        return True
    help_ = None
    if name == "h" and "hk" not in env.place.forbids:
        help_ = "key heads are indexed by `hk`"
    elif name == "s":
        help_ = "the logits are known in a `normalizer`"
    elif name == "o":
        help_ = "write `out = ...`"
    el.report(name_errors.not_readable_here(name, env.place.title, span, env.place.why, help_), env)
    return False


def check_attribute(el: Elaborator, node: ast.Attribute, env: Env) -> Expr | None:
    """`i.t` is a coordinate, `grid.t` an extent."""
    base = node.base.text if isinstance(node.base, ast.Name) else ""
    if base in ("i", "j") and base not in env.names:
        if not readable(el, env, base, node.base.span):
            return None
        return _coordinate(el, env, "q" if base == "i" else "k", node.name, node.span)
    if base == "grid":
        return _extent(el, env, node.name, node.span)
    title = f"`{node.base.span.text}` has no parts"
    help_ = "coordinates are `i.AXIS` and `j.AXIS`, extents `grid.AXIS`"
    el.report(errors.bad_member(title, node.span, help_), env)
    return None


def _coordinate(el: Elaborator, env: Env, side: Literal["q", "k"], axis: ast.Word, span: Span) -> Expr | None:
    if env.grids.any_axis:
        return GridCoord(side, 0, span)
    grid = _grid(env, side)
    if grid is None:
        position, other = ("i", "queries") if side == "q" else ("j", "keys")
        title = f"`{position}.{axis.text}` needs a grid of the {other}"
        el.report(errors.bad_grid(title, span, _DECLARE), env)
        return None
    number = _axis(el, env, grid, axis)
    return None if number is None else GridCoord(side, number, span)


def _grid(env: Env, side: Literal["q", "k"]) -> Grid | None:
    return env.grids.q if side == "q" else env.grids.k


def _axis(el: Elaborator, env: Env, grid: Grid, axis: ast.Word) -> int | None:
    if axis.text in grid.names:
        return grid.names.index(axis.text)
    help_ = did_you_mean(axis.text, grid.names) or f"its axes are {listing(grid.names)}"
    el.report(errors.bad_member(f"the grid has no axis `{axis.text}`", axis.span, help_), env)
    return None


def _extent(el: Elaborator, env: Env, axis: ast.Word, span: Span) -> Expr | None:
    if env.grids.any_axis:
        return Size("N", span)
    grids = [grid for grid in (env.grids.q, env.grids.k) if grid is not None]
    if not grids:
        el.report(errors.bad_grid(f"`grid.{axis.text}` needs a grid", span, _DECLARE), env)
        return None
    having = [grid for grid in grids if axis.text in grid.names] or grids[:1]
    number = _axis(el, env, having[0], axis)
    if number is None:
        return None
    extents = [grid.extents[grid.names.index(axis.text)] for grid in having]
    if any(not same_dim(extents[0], extent) for extent in extents[1:]):
        title = f"`grid.{axis.text}` differs between queries and keys"
        el.report(errors.bad_grid(title, span, "write the extent that is meant"), env)
        return None
    return extents[0]


def check_membership(el: Elaborator, env: Env, left: ast.Expr, typed: Expr | None, right: ast.Expr) -> Expr | None:
    """`i in grid`."""
    span = left.span.to(right.span)
    if not (isinstance(right, ast.Name) and right.text == "grid"):
        title = "`in` asks whether a position lies on the grid"
        el.report(errors.bad_grid(title, span, "write `i in grid`; for numbers write `low <= x < high`"), env)
        return None
    if typed is None:
        return None
    if not isinstance(typed, Index) or typed.name not in ("i", "j"):
        el.report(errors.bad_grid("only `i` and `j` lie on a grid", left.span, "write `i in grid`"), env)
        return None
    if not env.grids.any_axis and _grid(env, "q" if typed.name == "i" else "k") is None:
        el.report(errors.bad_grid(f"`{typed.name} in grid` needs a grid", span, _DECLARE), env)
        return None
    return Call("in_grid", (typed,), BOOL, span)

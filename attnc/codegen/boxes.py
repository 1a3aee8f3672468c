"""Tiles that are boxes: rows of a program, key tiles of a visit, from the axes of a tile map and their tables.

Names per axis n: `unit` its entry in the table, `class` and `y` the coordinates of the tile, x what they make together.
Tables (see `passes/tile_tables.py`) have, per unit: start, number of live key tiles and of full ones; full ones first.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnc.codegen.context import Arg, table_key
from attnc.ir.beside import points_of
from attnc.ir.expr import Const, Expr, Size
from attnc.ir.plan import Part, TileAxis


def extent_text(axis: TileAxis) -> str:
    """The number of coordinates: a literal, or N."""
    return _text(axis.extent)


def _text(expr: Expr) -> str:
    if isinstance(expr, Const):
        return str(int(expr.value))
    assert isinstance(expr, Size)
    return expr.name


def query_lines(part: Part) -> list[str]:
    """Rows of the tile of this program, and where the axes' tables tell its visits."""
    axes, rows = part.axes, part.tile.rows
    lines = ["rest = tile"]
    for n, axis in reversed(list(enumerate(axes))):
        lines += [
            f"tiles{n} = tl.cdiv({_longest(axis)}, {axis.rows})",
            f"unit{n} = rest % (tiles{n} * {_classes(axis)})",
        ]
        lines += [f"rest = rest // (tiles{n} * {_classes(axis)})"] if n else []
        if _has_classes(axis):
            lines.append(f"class{n} = unit{n} // tiles{n}")
    lines.append(f"slots = tl.arange(0, {rows})")
    inner = 1
    for n, axis in reversed(list(enumerate(axes))):
        start = f"unit{n} % tiles{n}" if _has_classes(axis) else f"unit{n}"
        lines.append(f"y{n} = ({start}) * {axis.rows} + {_slot('slots', inner, axis.rows, rows)}")
        lines.append(f"x{n} = {_coordinate(axis, n, f'y{n}')}")
        inner *= axis.rows
    lines.append(f"row = {_row(part, 'x')}")
    lines.append(f"row_ok = {_inside(axes, 'x', 'y')}")
    lines += _beside_lines(part)
    lines.append("i = q_offset + row")
    for n in range(len(axes)):
        lines += [
            f"start{n} = tl.load(axis{n}_ptr + 3 * unit{n})",
            f"live{n} = tl.load(axis{n}_ptr + 3 * unit{n} + 1)",
            f"full{n} = tl.load(axis{n}_ptr + 3 * unit{n} + 2)",
        ]
    if part.origin is not None:
        lines += [f"{name}0 = tl.where(beside, 0, {name}0)" for name in ("live", "full")]
    return lines


def _beside_lines(part: Part) -> list[str]:
    """Programs after those of all boxes have the rows before and behind the grid, in ranges."""
    if part.origin is None:
        return []
    units = " * ".join(f"(tiles{n} * {_classes(axis)})" for n, axis in enumerate(part.axes))
    return [
        f"boxes = {units}",
        "beside = tile >= boxes",
        f"other = (tile - boxes) * {part.tile.rows} + slots",
        f"other = tl.where(other < {part.origin}, other, other + {points_of(part)})",
        "row = tl.where(beside, other, row)",
        "row_ok = tl.where(beside, other < N, row_ok)",
    ]


def count_text(axes: Sequence[TileAxis], kind: str, *, split: bool) -> str:
    """How many times the loop of a visit runs. `split`: full tiles have a loop of their own."""
    numbers = range(len(axes))
    if kind == "full":
        return " * ".join(f"full{n}" for n in numbers)
    live = " * ".join(f"live{n}" for n in numbers)
    if not split:
        return live
    all_full = " & ".join(f"(full{n} == live{n})" for n in numbers)
    return f"tl.where({all_full}, 0, {live})"


def key_lines(part: Part, kind: str) -> list[str]:
    """Columns of the key tile that the loop counter `t` stands for."""
    axes, keys = part.axes, part.tile.keys
    count = "full" if kind == "full" else "live"
    lines = [] if len(axes) == 1 else ["rest = t"]
    for n, _ in reversed(list(enumerate(axes))):
        lines += [f"t{n} = rest % {count}{n}", f"rest = rest // {count}{n}"] if n else []
    if len(axes) == 1:
        lines.append("t0 = t")
    else:
        lines.append("t0 = rest")
    inner = 1
    for n, axis in reversed(list(enumerate(axes))):
        tile = f"tl.load(axis{n}_ptr + start{n} + t{n})"
        lines.append(f"ky{n} = {tile} * {axis.keys} + {_slot('lanes', inner, axis.keys, keys)}")
        lines.append(f"kx{n} = {_coordinate(axis, n, f'ky{n}')}")
        inner *= axis.keys
    lines.append(f"col = {_row(part, 'kx')}")
    lines.append("j = k_offset + col")
    return lines


def inside_text(axes: Sequence[TileAxis]) -> str:
    """Which columns of a key tile exist."""
    return _inside(axes, "kx", "ky")


def not_full_text(axes: Sequence[TileAxis]) -> str:
    """Whether the loop over live tiles stands at one that the loop over full ones has not done."""
    return " | ".join(f"(t{n} >= full{n})" for n in range(len(axes)))


def table_args(axes: Sequence[TileAxis], part: int) -> list[Arg]:
    """Pointers to the tables."""
    return [Arg(f"axis{n}_ptr", "pointer", table_key(part, n), kind="int") for n in range(len(axes))]


def _slot(lanes: str, inner: int, size: int, total: int) -> str:
    """The place of each lane along one axis; the last axis moves fastest."""
    text = lanes if inner == 1 else f"{lanes} // {inner}"
    return text if inner * size == total else f"{text} % {size}"


def _has_classes(axis: TileAxis) -> bool:
    return axis.modulus > 1 or axis.block > 0


def _classes(axis: TileAxis) -> str:
    return f"tl.cdiv({extent_text(axis)}, {axis.block})" if axis.block else str(axis.modulus)


def _longest(axis: TileAxis) -> str:
    """The number of y of the longest class."""
    if axis.block:
        return str(axis.block)
    return extent_text(axis) if axis.modulus == 1 else f"tl.cdiv({extent_text(axis)}, {axis.modulus})"


def _coordinate(axis: TileAxis, n: int, y: str) -> str:
    if axis.block:
        return f"class{n} * {axis.block} + {y}"
    return y if axis.modulus == 1 else f"class{n} + {axis.modulus} * {y}"


def _inside(axes: Sequence[TileAxis], x: str, y: str) -> str:
    terms = [f"({x}{n} < {extent_text(axis)})" for n, axis in enumerate(axes)]
    terms += [f"({y}{n} < {axis.block})" for n, axis in enumerate(axes) if axis.block]
    return " & ".join(terms)


def _row(part: Part, name: str) -> str:
    terms = [
        f"{name}{n}" if _text(axis.stride) == "1" else f"{name}{n} * {_text(axis.stride)}"
        for n, axis in enumerate(part.axes)
    ]
    return " + ".join([*([str(part.origin)] if part.origin else []), *terms])

"""`attnc.show`: a picture of the tiles that a plan visits and of the pairs that its mask keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal

from attnc.diagnostics import CallError
from attnc.driver import check, load_spec, select
from attnc.explain import bind_all, check_fit, defaults, in_reach
from attnc.frontend.tables import tables_of_values, with_values
from attnc.ir.dependence import is_aligned
from attnc.ir.expr import Expr, Size
from attnc.ir.module import AttentionModule
from attnc.ir.plan import KernelPlan, PlanOptions, Tile
from attnc.ir.traverse import walk
from attnc.passes.block_tensors import measure_blocks
from attnc.passes.pipeline import make_plan
from attnc.pictures.bounds import by_part
from attnc.pictures.html import matrix_html, neighbourhood_html
from attnc.pictures.matrix import Matrix, draw_matrix
from attnc.pictures.matrix_sheet import matrix_sheet
from attnc.pictures.neighbourhood import Neighbourhood, draw_neighbourhood, grid_of
from attnc.pictures.neighbourhood_sheet import neighbourhood_sheet
from attnc.pictures.png import sheet_png
from attnc.pictures.svg import Sheet, sheet_svg
from attnc.pictures.text import MAX_CELLS as TEXT_CELLS
from attnc.pictures.text import matrix_text, neighbourhood_text
from attnc.visits import sizes_of

Window = tuple[int, int]
View = Literal["auto", "tiles", "grid"]
#: Positions that kernels hold in 32 bits: longer calls are not drawn.
MAX_DRAWN_TOKENS = 1 << 30
#: Drawn cells on a side of a page, which holds numbers about each of them.
_PAGE_CELLS = 150
SUFFIXES = (".svg", ".html", ".png", ".txt")


@dataclass(frozen=True)
class Picture:
    """A picture that is drawn when it is asked for. In a notebook it shows itself.

    `rows` and `keys` are windows: of queries and keys, or along the last two axes of the grid where one query's
    neighbourhood is drawn. A plan of several parts has a matrix for each, which keep different pairs.
    """

    plan: KernelPlan
    names: Mapping[str, Any]
    on_grid: bool
    query: tuple[int, ...] | None = None
    rows: Window | None = None
    keys: Window | None = None

    def svg(self) -> str:
        """As an SVG file."""
        return sheet_svg(self._sheet)

    def html(self) -> str:
        """As a page that explains the cell under the pointer."""
        if self.on_grid:
            return neighbourhood_html(self._neighbourhood(with_reasons=True))
        return matrix_html(self._matrices((_PAGE_CELLS, _PAGE_CELLS), with_reasons=True))

    def text(self, *, plain: bool = False) -> str:
        """As lines of a terminal; `plain` keeps to ASCII."""
        if self.on_grid:
            return neighbourhood_text(self._neighbourhood(max_cells=TEXT_CELLS[1]), plain=plain)
        return "\n".join(matrix_text(matrix, plain=plain) for matrix in self._matrices(TEXT_CELLS))

    def png(self) -> bytes:
        """As a PNG file, by matplotlib. Raises CallError where that is not installed."""
        return sheet_png(self._sheet)

    def save(self, path: str | Path) -> None:
        """Write it as the suffix of the path says: .svg, .html, .png or .txt. Raises CallError, OSError."""
        Path(path).write_bytes(self.encoded(Path(path).suffix))

    def encoded(self, suffix: str) -> bytes:
        """The file of a suffix. Raises CallError for another one."""
        match suffix.lower():
            case ".svg":
                return self.svg().encode()
            case ".html":
                return self.html().encode()
            case ".png":
                return self.png()
            case ".txt":
                return self.text().encode()
            case _:
                raise CallError(f"picture: a file ends in {', '.join(SUFFIXES)}, not in {suffix!r}")

    def __str__(self) -> str:
        return self.text()

    def _repr_svg_(self) -> str:
        return self.svg()

    @cached_property
    def _sheet(self) -> Sheet:
        if self.on_grid:
            return neighbourhood_sheet(self._neighbourhood())[0]
        return matrix_sheet(self._matrices())[0]

    def _matrices(self, max_cells: tuple[int, int] = (200, 200), **options: Any) -> tuple[Matrix, ...]:
        """One for each part of the plan."""
        plans = by_part(self.plan)
        found = (
            draw_matrix(plan, self.names, rows=self.rows, keys=self.keys, max_cells=max_cells, **options)
            for plan in plans
        )
        if len(plans) == 1:
            return tuple(found)
        return tuple(
            replace(matrix, name=f"{matrix.name}, part {n} of {len(plans)}", is_part=True)
            for n, matrix in enumerate(found, 1)
        )

    def _neighbourhood(self, **options: Any) -> Neighbourhood:
        given = {"query": self.query, "rows": self.rows, "keys": self.keys}
        return draw_neighbourhood(self.plan, self.names, **given, **options)


def show(
    spec: str | Path | None = None,
    n: int | None = None,
    m: int | None = None,
    *,
    source: str | None = None,
    attention: str | None = None,
    params: Mapping[str, bool | int | float] | None = None,
    tensors: Mapping[str, Any] | None = None,
    tile: tuple[int, int] | None = None,
    head_dim: int = 64,
    **options: Any,
) -> Picture:
    """The picture of a spec for n queries and m keys (n when not given; on a grid all of its points).

    `params` are static and dynamic parameters, `tensors` values of tensors, as tensors or as lists, `tile`
    the numbers of queries and keys of a tile; for `options` see `picture_of`. Raises SpecError and CallError.
    """
    if spec is None and source is None:
        raise CallError('give a spec: a path, "std:NAME", or source="..."')
    module = select(check(load_spec("<source>" if spec is None else spec, source)), attention)
    module = with_values(module, tables_of_values(tensors)) if tensors else module
    bound, dynamic = bind_all(module, params or {})
    shape = PlanOptions(head_dim, head_dim, 2, Tile(*tile) if tile else None)
    return picture_of(bound, shape, n, m, params=dynamic, **options)


def picture_of(
    module: AttentionModule,
    shape: PlanOptions,
    n: int | None = None,
    m: int | None = None,
    *,
    params: Mapping[str, Any] | None = None,
    head: int = 0,
    heads: int | None = None,
    view: View = "auto",
    query: tuple[int, ...] | None = None,
    rows: Window | None = None,
    keys: Window | None = None,
) -> Picture:
    """The picture of a bound module, for calls at offset 0.

    `head` is drawn of `heads`. `view` "grid" draws what one `query` of a grid sees, "tiles" queries by keys; "auto"
    is the former where there is a grid of two axes or more. `rows`, `keys` are windows (first, last + 1).
    """
    grid = grid_of(module)
    if view not in ("auto", "tiles", "grid"):
        raise CallError(f"view: expected auto, tiles or grid, got {view!r}")
    if view == "grid" and grid is None:
        raise CallError("view: there is no grid of two axes or more whose extents are known; only tiles can be drawn")
    on_grid = grid is not None and view != "tiles"
    if query is not None and not on_grid:
        raise CallError("query: only a neighbourhood on a grid is drawn for one query; take a window instead")
    n, m = _sizes(n, m, grid)
    if grid is not None and on_grid and m < prod(grid[0]) + grid[1]:
        raise CallError(f"view: the grid has {prod(grid[0]) + grid[1]} points, there are {m} keys; ask for tiles")
    aligned = is_aligned(module, n, m)
    tile_of = (shape.head_dim, shape.value_dim, shape.itemsize, shape.tile)
    plan = make_plan(measure_blocks(module).module, PlanOptions(*tile_of, aligned, numbered=True))
    names = {**sizes_of(n, m), **defaults(plan), **(params or {}), **_heads(module, head, heads)}
    check_fit(module, names)
    return Picture(in_reach(plan, names), names, on_grid, query, rows, keys)


def _sizes(n: int | None, m: int | None, grid: tuple[tuple[int, ...], int] | None) -> tuple[int, int]:
    if n is None and grid is not None:
        n = prod(grid[0]) + grid[1]
    if n is None:
        raise CallError("n: give the number of queries")
    m = n if m is None else m
    for name, size in (("n", n), ("m", m)):
        if not 0 <= size <= MAX_DRAWN_TOKENS:
            raise CallError(f"{name}: expected 0 to {MAX_DRAWN_TOKENS} tokens, got {size}")
    return n, m


def _heads(module: AttentionModule, head: int, heads: int | None) -> dict[str, int]:
    """What the mask may read of heads, every query head with keys of its own."""
    if heads is not None and heads < 1:
        raise CallError(f"heads: expected at least 1, got {heads}")
    if head < 0 or (heads is not None and head >= heads):
        raise CallError(f"head: expected 0 to {heads - 1 if heads else '...'}, got {head}")
    counts: set[Expr] = {Size("H"), Size("Hk")}
    if heads is None and any(node in counts for node in walk(module.mask)):
        raise CallError("heads: the mask reads the number of heads; say how many there are")
    found = {"h": head, "hk": head}
    return found if heads is None else {**found, "H": heads, "Hk": heads}


__all__ = ["Picture", "picture_of", "show"]

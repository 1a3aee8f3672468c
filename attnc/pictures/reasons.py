"""Which clause of a mask removed a cell: found clause by clause, with the analysis that found the tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attnc.ir.expr import Expr, GridCoord, Var
from attnc.ir.module import AttentionModule, Grid
from attnc.ir.plan import KernelPlan
from attnc.ir.printer import print_expr
from attnc.ir.traverse import count_nodes, substitute
from attnc.kept import Ints, pairs_of, truth_of
from attnc.passes.block_sparsity import BlockSparsity
from attnc.passes.mask_axes import all_conjuncts
from attnc.passes.positions import Positions
from attnc.passes.tile_tables import NotCountableError
from attnc.pictures.raster import raster
from attnc.visits import UnknownVisitsError, tile_map

#: Clauses that are told apart; a mask of more is one clause.
MAX_CLAUSES = 12
#: Clauses longer than this are quoted from their file, and cut.
_MAX_NODES, _MAX_TEXT = 80, 200


@dataclass(frozen=True)
class Reasons:
    """Of each cell a number into `texts`, -1 where it is visited or, with `of_pairs`, a kept pair."""

    texts: tuple[str, ...]
    code: NDArray[np.int16]
    of_pairs: bool


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition of a mask as the text has it, and as the plan reads it."""

    text: str
    lowered: Expr


def clauses_of(plan: KernelPlan) -> tuple[Clause, ...]:
    """The conjunction that the mask is."""
    module = plan.module
    positions = Positions(module, plan.head_dim, plan.value_dim)
    found = all_conjuncts(module.mask)
    if len(found) > MAX_CLAUSES:
        found = (module.mask,)
    return tuple(Clause(clause_text(module, clause), positions.lower(clause)) for clause in found)


def clause_text(module: AttentionModule, clause: Expr) -> str:
    """In the language, coordinates by the names of their axes; a long one as its file has it, cut short."""
    if count_nodes(clause) > _MAX_NODES:
        text = " ".join(clause.span.text.split()) or "the mask"
        return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ..."
    named: dict[Expr, Expr] = {}
    sides: tuple[tuple[Literal["q", "k"], Grid | None, str], ...]
    sides = (("q", module.grid_q, "i"), ("k", module.grid_k, "j"))
    for side, grid, index in sides:
        for axis, name in enumerate(grid.names if grid else ()):
            named[GridCoord(side, axis)] = Var(f"{index}.{name}")
    return print_expr(substitute(clause, named))


def pair_reasons(plan: KernelPlan, names: Mapping[str, Any], rows: Ints, keys: Ints) -> Reasons | None:
    """Of single pairs: every clause that is false. None where a clause has no value before the kernel runs."""
    clauses = clauses_of(plan)
    here = pairs_of(names, rows, keys)
    try:
        false = [~truth_of(clause.lowered, here) for clause in clauses]
    except NotCountableError:
        return None
    shape = (len(rows), len(keys))
    return _joined(clauses, [np.broadcast_to(x, shape) for x in false], np.zeros(shape, np.bool_), of_pairs=True)


def tile_reasons(plan: KernelPlan, names: Mapping[str, Any], window: tuple[Ints, Ints], live: Ints) -> Reasons | None:
    """Of cells of tiles, ranges of positions: every clause that alone leaves none of them live."""
    clauses = clauses_of(plan)
    dead: list[NDArray[np.bool_]] = []
    for clause in clauses:
        try:
            alone = tile_map(BlockSparsity().run(clause.lowered, plan.parts[0].tile), names)
            dead.append(raster(alone, *window)[1] == 0)
        except UnknownVisitsError:
            dead.append(np.zeros(live.shape, np.bool_))
    return _joined(clauses, dead, live > 0, of_pairs=False)


def _joined(
    clauses: tuple[Clause, ...], dead: list[NDArray[np.bool_]], visited: NDArray[np.bool_], *, of_pairs: bool
) -> Reasons:
    """Number the sets of clauses that occur. Where pairs are looked at, none is removed by no clause."""
    bits = np.zeros(visited.shape, np.int64)
    for n, one in enumerate(dead):
        bits |= one.astype(np.int64) << n
    together = 1 << len(clauses)
    if not of_pairs:
        bits[bits == 0] = together
        bits[visited] = 0
    sets = [int(x) for x in np.unique(bits) if x]
    code = np.where(bits > 0, np.searchsorted(sets, bits), -1).astype(np.int16)
    return Reasons(tuple(_text(clauses, x) for x in sets), code, of_pairs)


def _text(clauses: tuple[Clause, ...], bits: int) -> str:
    if bits >> len(clauses):
        return "no single clause; all of them together"
    return " and ".join(f"not ({clause.text})" for n, clause in enumerate(clauses) if bits >> n & 1)

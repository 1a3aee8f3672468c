"""Where the queries and keys of a call lie: beside the tensors that they read, and on the grid of their coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from attnc.diagnostics import CallError
from attnc.ir.expr import Index, Lookup, Size
from attnc.ir.module import AttentionModule
from attnc.ir.on_grid import GridSide, grid_sides, misfit
from attnc.ir.traverse import walk

#: "basic" reads shapes, and document starts on a CPU; "full" reads values, too; "shapes" reads no data at all.
Checks = Literal["basic", "full", "shapes"]
#: Sizes are symbols while torch traces a call.
INTEGERS: Any = (int, torch.SymInt)
_MAX_ASKED = 256


@dataclass(frozen=True, slots=True)
class Positions:
    """Offsets of queries and keys, the starts of their documents, and how much may be read to check them."""

    offsets: tuple[Any, Any]
    starts: tuple[Tensor | None, Tensor | None]
    checks: Checks


def check_positions(module: AttentionModule, names: Mapping[str, Any], where: Positions) -> None:
    """Raise CallError for positions without a value or without coordinates. `names` are sizes and parameters."""
    asked = _asked(module)
    if asked.query_indexed and all(isinstance(offset, INTEGERS) for offset in where.offsets):
        _check_pair_tensor(asked.query_indexed, where.offsets, names)
    if asked.sides:
        _check_grids(asked.sides, where, names)


# -- what a module asks of positions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a module asks of the positions of its calls; looked for once. `query_indexed` is one of M that i indexes."""

    module: AttentionModule
    sides: tuple[GridSide, ...]
    query_indexed: str | None


_ASKED: dict[int, _Asked] = {}


def _asked(module: AttentionModule) -> _Asked:
    """A look-up by identity: comparing modules would cost more than what is kept here."""
    known = _ASKED.get(id(module))
    if known is None or known.module is not module:
        if len(_ASKED) >= _MAX_ASKED:
            _ASKED.clear()
        known = _ASKED[id(module)] = _Asked(module, grid_sides(module), next(_query_indexed(module), None))
    return known


def _query_indexed(module: AttentionModule) -> Iterator[str]:
    """Tensors with a dimension M that the position i alone indexes."""
    for expr in (module.mask, module.score, *(b.expr for b in module.cascade), module.output):
        for node in walk(expr):
            if isinstance(node, Lookup):
                dims = module.tensor(node.tensor).dims
                if any(dims[n] == Size("M") and index == Index("i") for n, index in enumerate(node.indices)):
                    yield node.tensor


# -- checks ----------------------------------------------------------------------------------------------------------


def _check_pair_tensor(name: str, offsets: tuple[Any, Any], sizes: Mapping[str, Any]) -> None:
    """A tensor declared over M that queries index too: its rows must hold the queries' positions."""
    first, last = offsets[0], offsets[0] + sizes["N"]
    start, stop = offsets[1], offsets[1] + sizes["M"]
    if sizes["N"] and not (start <= first and last <= stop):
        raise CallError(
            f"{name}: it is declared over M = {sizes['M']} keys at positions {start} to {stop - 1}, but queries "
            f"at positions {first} to {last - 1} read it; give q_offset / k_offset so that they lie inside"
        )


def _check_grids(sides: tuple[GridSide, ...], where: Positions, names: Mapping[str, Any]) -> None:
    """Positions lie on the grid. Offsets and documents on the device are not read back for that."""
    q_offset, k_offset = where.offsets
    if where.checks == "shapes" or isinstance(q_offset, Tensor) or isinstance(k_offset, Tensor):
        return
    for document, n, m in _documents(where, names):
        first = m - n if isinstance(q_offset, str) else q_offset
        why = misfit(sides, {**names, "N": n, "M": m, "q_offset": first, "k_offset": k_offset})
        if why is not None:
            raise CallError(document + why)


def _documents(where: Positions, names: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Queries and keys of each document, with its number in words."""
    rows, columns = where.starts
    if rows is None or columns is None:
        return [("", names["N"], names["M"])]
    if where.checks != "full":
        return []
    counts: list[Any] = [torch.diff(starts).tolist() for starts in (rows, columns)]  # pyright: ignore[reportUnknownMemberType]  # torch types it so
    return [(f"document {s}: ", n, m) for s, (n, m) in enumerate(zip(*counts, strict=True))]

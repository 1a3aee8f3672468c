"""empty_rows: a row of a call that sees no key, found and then looked at key by key.

Before: a bound module, the sizes of a call.
After: a row without keys, or None where there is none or none was found. Bounded work.

    j <= i, N = 3, M = 4, q_offset = 0, k_offset = 2   ->   row 0, at i = 0
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from attnc.diagnostics import SpecError
from attnc.ir.build import compare, conj
from attnc.ir.expr import TRUE, Expr, Index, Param, Size, Value, int_const
from attnc.ir.module import AttentionModule
from attnc.ir.types import INT
from attnc.passes.claims import Claims
from attnc.passes.subjects import Subject, keys, negated, rows
from attnc.passes.worlds import World, row_of

Number = bool | int | float
#: Keys of a row that are looked at, and operations of isl in search of the row.
MAX_KEYS = 1 << 20
MAX_OPERATIONS = 20_000
_SIZES = ("B", "H", "Hk", "N", "M", "q_offset", "k_offset")
_LEAVES: tuple[Size | Value, ...] = (
    Size("B"),
    Size("H"),
    Size("Hk"),
    Size("N"),
    Size("M"),
    Value("q_offset", INT),
    Value("k_offset", INT),
)


@dataclass(frozen=True, slots=True)
class EmptyRow:
    """Row `row` of the call is position `i`; `head` where the mask differs between batches or heads."""

    row: int
    i: int
    head: tuple[int, int]


def empty_row(module: AttentionModule, sizes: Mapping[str, int], params: Mapping[str, Number]) -> EmptyRow | None:
    """A row without keys. `sizes` are B, H, Hk, N, M, q_offset, k_offset; `params` dynamic parameters."""
    if not all(sizes[name] for name in ("B", "H", "Hk", "N")) or sizes["M"] > MAX_KEYS:
        return None
    try:
        subject = Subject.of(module)
    except SpecError:  # a tile lift without a condition on blocks
        return None
    for i, head in _candidates(subject, sizes, params):
        world = World({**sizes, **head, "D": 1, "Dv": 1}, dict(params), tensors=subject.tensors)
        if 0 <= i - sizes["q_offset"] < sizes["N"] and _sees_nothing(subject.mask, world, i):
            return EmptyRow(i - sizes["q_offset"], i, (head["b"], head["h"]))
    return None


def _sees_nothing(mask: Expr, world: World, i: int) -> bool:
    """Whether no key of the row is kept, whatever tensors hold."""
    return world.sizes["M"] == 0 or bool(np.all(row_of(world, i).truth(negated(mask)).must))


def _candidates(
    subject: Subject, sizes: Mapping[str, int], params: Mapping[str, Number]
) -> Iterator[tuple[int, dict[str, int]]]:
    """The first and the last row, where windows and offsets leave rows empty, then one that integer sets name."""
    first = {"b": 0, "h": 0, "hk": 0}
    yield sizes["q_offset"], first
    yield sizes["q_offset"] + sizes["N"] - 1, first
    found = Claims([subject], _call(sizes, params), max_operations=MAX_OPERATIONS).empty_rows(
        subject.mask, rows(), keys()
    )
    if found.frame is not None and not found.impossible:
        point = found.sample()
        group = max(sizes["H"] // max(sizes["Hk"], 1), 1)
        of_key_head = point.get(Index("hk"), 0) * group
        h = point.get(Index("h"), of_key_head)
        yield point.get(Index("i"), sizes["q_offset"]), {"b": point.get(Index("b"), 0), "h": h, "hk": h // group}


def _call(sizes: Mapping[str, int], params: Mapping[str, Number]) -> Expr:
    """The sizes of the call as assumptions."""
    known: list[tuple[Expr, int]] = [(leaf, sizes[leaf.name]) for leaf in _LEAVES]
    known += [(Param(name, INT), value) for name, value in params.items() if type(value) is int]
    return reduce(conj, (compare("eq", leaf, int_const(value)) for leaf, value in known), TRUE)

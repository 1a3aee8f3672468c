"""Whether a mask keeps no pair at all: a warning of `attnc check` and `attnc.compile`.

A few pairs are tried first, in plain Python. As soon as one is kept, or depends on data, the mask is left alone; so
integer sets, which take a tenth of a second to load, are asked about suspicious masks only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from attnc.diagnostics import Diagnostic, SpecError, warn_user
from attnc.ir.expr import FALSE, TRUE, Call, Const, Expr, GridCoord, Index, Param, Size, int_const
from attnc.ir.fold import fold
from attnc.ir.module import AttentionModule, ScalarParam
from attnc.ir.printer import print_expr
from attnc.ir.ranges import in_range, read_by
from attnc.ir.traverse import count_nodes, transform
from attnc.ir.types import BOOL, REAL
from attnc.source import NOWHERE

MAX_NODES = 500
_PAIRS = ((0, 0), (8, 7), (0, 1), (40, 3), (3, 40), (200, 100), (100, 200))
#: What parameters without a default are tried at.
_VALUES = (4, 1, 64, 0)


def empty_mask_warnings(modules: Iterable[AttentionModule]) -> Iterator[Diagnostic]:
    """W502 for every module whose mask keeps no pair, whatever the call and the parameters."""
    for module in modules:
        if count_nodes(module.mask) <= MAX_NODES and not _may_keep(module):
            yield from _proved(module)


def warn_of_empty_mask(module: AttentionModule) -> None:
    """The same as a warning of Python's."""
    for warning in empty_mask_warnings((module,)):
        warn_user(f"{warning.title}: {warning.note or warning.help}")


def _may_keep(module: AttentionModule) -> bool:
    """Whether one of a few pairs is kept, or cannot be told from numbers alone."""
    for value in _VALUES:
        params = {scalar.name: _tried(scalar, value) for scalar in module.scalars}
        if any(_at(module.mask, params, i, j) != FALSE for i, j in _PAIRS):
            return True
    return False


def _at(mask: Expr, params: Mapping[str, Const], i: int, j: int) -> Expr:
    """What is left of a mask at a pair."""
    try:
        return fold(transform(mask, lambda node: _put(node, params, i, j)))
    except SpecError:  # a division by zero, or a number beyond 64 bits: of these values only
        return FALSE


def _tried(scalar: ScalarParam, value: int) -> Const:
    if scalar.type == BOOL:
        return Const(value > 1, BOOL)
    bounds = scalar.range
    if bounds is not None and not read_by(bounds) and not in_range(value, bounds) and bounds.low is not None:
        value = int(bounds.low) + 1
    return Const(float(value), REAL) if scalar.type == REAL else int_const(value)


def _put(node: Expr, params: Mapping[str, Const], i: int, j: int) -> Expr:
    match node:
        case Index(name="i" | "j" as name):
            return int_const(i if name == "i" else j)
        case Index():
            return int_const(0)
        case GridCoord(side=side, axis=axis):  # of some grid
            return int_const((i if side == "q" else j) // 3**axis % 3)
        case Call(fn="in_grid"):
            return TRUE
        case Size(name="N" | "M"):
            return int_const(256)
        case Size():
            return int_const(2)
        case Param(name=name) if name in params:
            return params[name]
        case _:
            return node


def _proved(module: AttentionModule) -> Iterator[Diagnostic]:
    from attnc.passes.contradictions import excluding_clauses
    from attnc.passes.errors import EmptyMask

    clauses = excluding_clauses(module)
    if clauses is not None:
        span = module.span if module.mask.span is NOWHERE else module.mask.span
        yield EmptyMask(module.name, tuple(map(print_expr, clauses)), span).diagnostic()

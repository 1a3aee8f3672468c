"""What must hold at each level. A violation is a mistake of attnc, never of the user."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from attnc.diagnostics import InternalError
from attnc.ir.dependence import axes
from attnc.ir.expr import Call, Expr, GridCoord, Index, Lift, Lookup, Param, Reduce, Ref, Size, Value
from attnc.ir.module import AttentionModule
from attnc.ir.plan import Accumulator, KernelPlan, Piece, Sweep, TileAxis
from attnc.ir.printer import print_expr
from attnc.ir.traverse import walk
from attnc.ir.types import BOOL, INT, REAL, VectorType

#: What every expression may read: texts cannot name them, passes can.
_OFFSETS = frozenset(("q_offset", "k_offset"))
_PAIR_VALUES = frozenset(("scale", "n_keys", "q", "k", "v"))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InternalError(message)


def verify_module(module: AttentionModule, *, bound: bool = True) -> None:
    """A typed module: types fit, every name is defined before it is read. `bound`: no static parameter is left."""
    _require(module.mask.type == BOOL, f"the mask of {module.name} is {module.mask.type}")
    _require(module.score.type == REAL, f"the score of {module.name} is {module.score.type}")
    _require(isinstance(module.value.type, VectorType), f"the value of {module.name} is {module.value.type}")
    _require(isinstance(module.output.type, VectorType), f"the output of {module.name} is {module.output.type}")
    _require(bool(module.cascade) and module.cascade[-1].name == "w", f"the cascade of {module.name} has no weight w")
    _check_values(module.mask, frozenset())
    _check_values(module.score, _PAIR_VALUES)
    known: set[str] = set()
    for binding in module.cascade:
        _check_refs(binding.expr, known)
        known.add(binding.name)
    for binding in module.aux:
        _check_refs(binding.expr, known)
    for expr in _expressions(module):
        _check_leaves(expr, module, bound=bound)


def _expressions(module: AttentionModule) -> Iterable[Expr]:
    yield from (module.mask, module.score, module.value, module.output)
    yield from (binding.expr for binding in (*module.cascade, *module.aux))


def _check_values(expr: Expr, allowed: frozenset[str]) -> None:
    allowed = allowed | _OFFSETS
    for node in walk(expr):
        if isinstance(node, Value) and node.name not in allowed:
            raise InternalError(f"`{node.name}` in {print_expr(expr)}")


def _check_refs(expr: Expr, known: set[str]) -> None:
    for node in walk(expr):
        if isinstance(node, Ref):
            _require(node.name in known, f"`{node.name}` is read before it is defined")


def _check_leaves(expr: Expr, module: AttentionModule, *, bound: bool) -> None:
    dynamic = {param.name for param in module.scalars if param.dynamic}
    names = {tensor.name for tensor in module.tensors}
    for node in walk(expr):
        if isinstance(node, Param) and bound:
            _require(node.name in dynamic, f"static parameter `{node.name}` is not bound")
        elif isinstance(node, Lookup):
            _require(node.tensor in names, f"look-up in `{node.tensor}`, which is not declared")
        elif isinstance(node, GridCoord):
            _require((module.grid_q if node.side == "q" else module.grid_k) is not None, "a coordinate without a grid")
        elif isinstance(node, Index):
            _require(node.name not in ("r", "c"), "a stored row in a typed module")


def verify_plan(plan: KernelPlan) -> None:
    """A plan: only names that a back end defines, in the order in which it defines them."""
    pairs = {term.name for term in (*plan.dots, *plan.pair_dots)}
    stored = {derived.name for derived in plan.derived} | {tensor.name for tensor in plan.module.tensors}
    optional = (plan.output, plan.empty)
    results = (*(expr for expr in optional if expr), *(binding.expr for binding in plan.aux))
    finished = verify_sweeps(plan.sweeps, results, pairs)
    _check_plan_refs(plan.score, finished | pairs)
    _check_plan_refs(plan.mask, set())
    for derived in plan.derived:
        _check_plan_refs(derived.expr, set())
    _check_operands(plan, stored)
    for expr in _plan_expressions(plan):
        _check_plan_leaves(expr, stored)
    _check_visits(plan)
    _check_states(plan)


def verify_sweeps(sweeps: Iterable[Sweep], results: Iterable[Expr], pairs: set[str] | None = None) -> set[str]:
    """Accumulators in an order in which each reads what exists; `results` read finished ones. Returns all names.

    `pairs` are the names of inner products, once there are any.
    """
    finished: set[str] = set()
    for sweep in sweeps:
        names = [acc.name for acc in sweep.accumulators]
        _require(len(names) == len({*names} - finished), f"two accumulators of one name among {names}")
        _check_sweep(sweep, finished, pairs or set())
        finished |= set(names)
    for expr in results:
        _check_plan_refs(expr, finished)
    return finished


def _check_operands(plan: KernelPlan, stored: set[str]) -> None:
    """Inner products and values read what is stored."""
    for term in plan.dots:
        _require(term.left in stored | {"q"}, f"{term.name} reads `{term.left}`, which is not stored")
        _require(term.right in stored | {"k", "v"}, f"{term.name} reads `{term.right}`, which is not stored")
    for pair in plan.pair_dots:
        for expr in (pair.left, pair.right):
            _check_plan_refs(expr, set())
            _check_plan_leaves(expr, stored)
    for name in {plan.values, *(plan.values_of(acc) for acc in plan.accumulators if acc.weighted)}:
        _require(name in stored | {"k", "v"}, f"values `{name}` are not stored")
    for acc in plan.columns:
        _require(not acc.weighted or acc.by in stored | {"q"}, f"values `{acc.by}` of queries are not stored")
    _require(set(plan.saves) <= {acc.name for acc in plan.accumulators}, "an accumulator is saved that does not exist")


def _plan_expressions(plan: KernelPlan) -> Iterable[Expr]:
    yield from (plan.score, plan.mask)
    if plan.output is not None:
        yield plan.output
    for scatter in plan.scatters:
        yield from (scatter.target, scatter.body)
    yield from (binding.expr for binding in plan.aux)
    yield from (derived.expr for derived in plan.derived)
    for acc in (*plan.accumulators, *plan.columns):
        yield acc.body
        if acc.rescale is not None:
            yield acc.rescale


def _check_sweep(sweep: Sweep, finished: set[str], pairs: set[str]) -> None:
    """Accumulators read finished statistics and running ones that stand before them."""
    running: set[str] = set()
    for acc in sweep.accumulators:
        _check_plan_refs(acc.body, finished | running | pairs)
        _check_rescale(acc, finished | running, running)
        running.add(acc.name)
    for acc in sweep.columns:
        _check_plan_refs(acc.body, finished | pairs)
        _require(acc.op == "sum" and acc.rescale is None, f"{acc.name}, one per key, is not a plain sum")


def _check_rescale(acc: Accumulator, known: set[str], running: set[str]) -> None:
    moving = {node.name for node in walk(acc.body) if isinstance(node, Ref) and node.name in running}
    _require(acc.rescale is not None or not moving, f"{acc.name} reads running statistics but is never rescaled")
    if acc.rescale is not None:
        _check_plan_refs(acc.rescale, known | {f"{name}.old" for name in running})


def _check_plan_refs(expr: Expr, known: set[str]) -> None:
    for node in walk(expr):
        if isinstance(node, Ref) and node.name not in known:  # texts may be long: printed when there is an error
            raise InternalError(f"`{node.name}` is not defined where {print_expr(expr)} reads it")


def _check_plan_leaves(expr: Expr, stored: set[str]) -> None:
    for node in walk(expr):
        _require(not isinstance(node, GridCoord), "a grid coordinate in a plan")
        _require(not isinstance(node, Lift), "a tile lift in a plan")
        if isinstance(node, Size) and node.name in ("D", "Dv"):
            raise InternalError(f"size {node} in a plan")
        if isinstance(node, Reduce) and node.axis != "d":
            raise InternalError(f"a reduction in a plan: {print_expr(expr)}")
        if isinstance(node, Lookup) and node.tensor not in stored:
            raise InternalError(f"unknown tensor in {print_expr(expr)}")
        _require(not (isinstance(node, Call) and node.fn == "in_grid"), "in_grid in a plan")


def _check_visits(plan: KernelPlan) -> None:
    for part in plan.parts:
        kinds = [visit.kind for visit in part.visits]
        _require(len(kinds) == len(set(kinds)), "two visits of one kind")
        for visit in part.visits:
            for piece in visit.pieces:
                _check_piece(piece)
        for axis in part.axes:
            _check_tile_axis(axis)
        if part.axes:
            rows, keys = prod(axis.rows for axis in part.axes), prod(axis.keys for axis in part.axes)
            _require((rows, keys) == (part.tile.rows, part.tile.keys), "axes that do not make up the tile")
            _require(not any(visit.pieces for visit in part.visits), "a part with axes and with pieces")


def _check_states(plan: KernelPlan) -> None:
    """States begin every accumulator, from inner products and values of single tokens."""
    if plan.states is None:
        return
    _require(len(plan.parts) == 1 and len(plan.sweeps) == 1, "states of several sweeps or parts")
    _require(not plan.columns and not plan.scatters, "states and sums over pairs that they leave out")
    names = [total.accumulator for total in plan.states.sums]
    _require(names == [acc.name for acc in plan.accumulators], "states that do not begin every accumulator")
    for run in plan.states.runs:
        _check_piece(run.tiles)
    for term in (term for total in plan.states.sums for term in total.terms):
        _require(not term.dot or any(dot.name == term.dot for dot in plan.dots), f"`{term.dot}` is no inner product")
        _require("j" not in axes(term.row) and "i" not in axes(term.column), "a factor of a state that is one of pairs")


def _check_tile_axis(axis: TileAxis) -> None:
    """Sizes are powers of two, coordinates and relation are ints and a condition."""
    _require(axis.modulus >= 1 and axis.block >= 0, "an axis without classes")
    _require(not (axis.block and axis.modulus > 1), "an axis of blocks and of residue classes")
    _require(all(n >= 1 and n & (n - 1) == 0 for n in (axis.rows, axis.keys)), "a tile size that is no power of two")
    _require(axis.extent.type == INT and axis.stride.type == INT, "an axis whose extent or stride is no int")
    _require(axis.relation.type == BOOL, "an axis whose relation is no condition")
    for visit in axis.visits:
        for piece in visit.pieces:
            _check_piece(piece)


def _check_piece(piece: Piece) -> None:
    """Ranges are ints that depend on the query tile, never on one position."""
    _require(piece.step >= 1, "a piece with a step below 1")
    _require(piece.guard.type == BOOL, f"a piece whose guard is {piece.guard.type}")
    _require(piece.low.type == INT and piece.high.type == INT, "a piece whose bounds are no ints")
    for expr in (piece.guard, piece.low, piece.high):
        _check_plan_refs(expr, {"i0", "i1"})
        for node in walk(expr):
            if isinstance(node, Index) and node.name in ("i", "j", "r", "c"):
                raise InternalError(f"a piece reads `{print_expr(node)}`")

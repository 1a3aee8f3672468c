"""facts: what a bound mask is for all calls, or for which.

Before: a bound module.
After: for each property `always`, `never`, the condition on sizes, offsets and parameters under which it holds, or the
part of the mask that stands in the way of knowing. Conditions are evaluated at launch, on the host.

    0 <= i - j < size   ->   causal: always,  no empty row: when size > N - M + q_offset - k_offset and size >= 1 ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, TypeVar

from attnc.diagnostics import SpecError
from attnc.ir.build import add, call, compare, conj
from attnc.ir.dependence import axes
from attnc.ir.expr import TRUE, Expr, Index, Ref, Size, Value, int_const
from attnc.ir.fold import fold
from attnc.ir.module import AttentionModule, Grid
from attnc.ir.printer import print_expr
from attnc.ir.traverse import children, walk
from attnc.ir.types import INT
from attnc.passes.claims import Claims, Contradiction
from attnc.passes.isl import isl
from attnc.passes.isl_ast import NotClosedError, condition_of, number_of
from attnc.passes.mask_atoms import Atom
from attnc.passes.mask_sets import Frame, as_number, condition_set
from attnc.passes.positions import K_OFFSET, Q_OFFSET
from attnc.passes.subjects import Subject, keys, negated, on_grid, pairs, rows, swapped

Verdict = Literal["always", "never", "when", "unknown"]
_T = TypeVar("_T")
_DISTANCE = Ref("distance", INT)
_LATER = compare("gt", Index("j"), Index("i"))
_CALL = (compare("ge", Size("N"), int_const(1)), compare("ge", Size("M"), int_const(1)))
_SQUARE = (
    compare("ge", Size("N"), int_const(2)),
    compare("eq", Size("M"), Size("N")),
    compare("eq", Q_OFFSET, K_OFFSET),
)
#: Work of isl for each fact.
MAX_OPERATIONS = 150_000
#: Pieces of a condition that is still worth printing and evaluating.
_MAX_PIECES = 12


@dataclass(frozen=True, slots=True)
class Fact:
    """One property of a mask. `condition` is there for `when`: it holds exactly then; unless `exact`, at least then.

    `unknowns` are the parts of the mask that keep it from being exact.
    """

    name: str
    verdict: Verdict
    condition: Expr | None = None
    exact: bool = True
    unknowns: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.name}: {self.verdict}"
        if self.condition is not None:
            text += f" {print_expr(self.condition)}{'' if self.exact else ', perhaps otherwise'}"
        return f"{text} ({', '.join(self.unknowns)})" if self.unknowns and self.verdict != "always" else text


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of a mask. `nearest` and `farthest` bound i - j over all kept pairs; None where there is no bound."""

    nonempty_rows: Fact
    causal: Fact
    symmetric: Fact
    same_for_batches: Fact
    same_for_heads: Fact
    nearest: Expr | None
    farthest: Expr | None

    def lines(self) -> tuple[str, ...]:
        """One line per fact, for people."""
        return (*map(str, self.listed()), self.distance())

    def listed(self) -> tuple[Fact, ...]:
        """The facts that hold, never hold, or hold when something does."""
        return (self.nonempty_rows, self.causal, self.symmetric, self.same_for_batches, self.same_for_heads)

    def distance(self) -> str:
        """The line about the distance of kept pairs."""
        low, high = (None if bound is None else print_expr(bound) for bound in (self.nearest, self.farthest))
        found = [text for text in (low and f"{low} <= i - j", high and f"i - j <= {high}") if text]
        return f"distance: {' and '.join(found) or 'not bounded'}"


def nonempty_rows(module: AttentionModule, max_operations: int = MAX_OPERATIONS) -> Fact:
    """Whether every row of a bound module sees a key, for any positions. Bounded work, as `find_facts`."""
    try:
        subject = Subject.of(module)
    except SpecError as error:
        return _no_facts(module, error.diagnostics[0].title).nonempty_rows
    claims = Claims([subject], _all(_CALL), max_operations=max_operations)
    return _fact("no empty row", lambda: claims.empty_rows(subject.mask, rows(), keys()), _CALL)


def find_facts(module: AttentionModule, max_operations: int = MAX_OPERATIONS) -> Facts:
    """The facts of a bound module. Bounded work; never raises for a mask that is too hard.

    `symmetric` is about self-attention: N = M, the same offsets, at least two tokens.
    """
    try:
        subject = Subject.of(module)
    except SpecError as error:  # a tile lift without a condition on blocks
        return _no_facts(module, error.diagnostics[0].title)
    mask = subject.mask
    claims = Claims([subject], _all(_CALL), max_operations=max_operations)
    square = Claims([subject], _all(_SQUARE), max_operations=max_operations)
    back = conj(mask, negated(swapped(mask)))
    low, high = _bounds(claims.distances(mask, _DISTANCE))
    on_grid_only = _on_grids(subject, claims)
    return Facts(
        nonempty_rows=on_grid_only.get("no empty row")
        or _fact("no empty row", lambda: claims.empty_rows(mask, rows(), keys()), _CALL),
        causal=on_grid_only.get("causal") or _fact("causal", lambda: claims.pairs(conj(mask, _LATER), pairs()), _CALL),
        symmetric=on_grid_only.get("symmetric")
        or _fact("symmetric", lambda: square.pairs(back, conj(pairs(), swapped(pairs()))), _SQUARE),
        same_for_batches=_independence("same for batches", mask, {"b"}),
        same_for_heads=_independence("same for heads", mask, {"h", "hk"}),
        nearest=low,
        farthest=high,
    )


def _no_facts(module: AttentionModule, why: str) -> Facts:
    """What can be said without the set of the mask."""
    unknown = (Fact(name, "unknown", None, False, (why,)) for name in ("no empty row", "causal", "symmetric"))
    same = (
        _independence(name, module.mask, names)
        for name, names in (("same for batches", {"b"}), ("same for heads", {"h", "hk"}))
    )
    return Facts(*unknown, *same, nearest=None, farthest=None)


def _on_grids(subject: Subject, claims: Claims) -> dict[str, Fact]:
    """What holds where positions lie on the grid, and for rows where every point of it is a key."""
    if subject.grids is None or subject.beside_grid:
        return {}
    grid_q, grid_k = subject.grids
    row, key = on_grid(grid_q, "q", raw=True), on_grid(grid_k, "k", raw=True)
    raw, domain, found = subject.raw, conj(row, key), dict[str, Fact]()
    queries, all_keys = _lie_on(grid_q, Q_OFFSET, Size("N")), _lie_on(grid_k, K_OFFSET, Size("M"))
    if claims.certainly_not(conj(raw, _LATER), domain):
        found["causal"] = Fact("causal", "when", fold(conj(queries, all_keys)), exact=False)
    if claims.certainly_not(conj(raw, negated(swapped(raw))), conj(domain, swapped(domain))):
        found["symmetric"] = Fact("symmetric", "when", fold(conj(queries, all_keys)), exact=False)
    if claims.rows_on_grid(raw, row, key):
        covered = conj(compare("le", K_OFFSET, grid_k.start), compare("le", _end(grid_k), add(K_OFFSET, Size("M"))))
        found["no empty row"] = Fact("no empty row", "when", fold(conj(queries, covered)), exact=False)
    return found


def _lie_on(grid: Grid, first: Expr, count: Expr) -> Expr:
    """All positions of a side lie on its grid."""
    return conj(compare("le", grid.start, first), compare("le", add(first, count), _end(grid)))


def _end(grid: Grid) -> Expr:
    return add(grid.start, points_of(grid))


def points_of(grid: Grid) -> Expr:
    """Number of points of a grid."""
    return fold(reduce(lambda a, b: call("mul", a, b), grid.extents))


def _independence(name: str, mask: Expr, names: set[str]) -> Fact:
    """By what the mask reads."""
    reading = dict.fromkeys(print_expr(part) for part in _smallest(mask, names))
    return Fact(name, "unknown", exact=False, unknowns=tuple(reading)) if reading else Fact(name, "always")


def _smallest(expr: Expr, names: set[str]) -> Iterable[Expr]:
    """The look-ups that read an axis, or the conditions around its bare index."""
    if not axes(expr) & names:
        return
    inner = [child for child in children(expr) if axes(child) & names]
    if not inner or any(isinstance(child, Index) for child in inner):
        yield expr
        return
    for child in inner:
        yield from _smallest(child, names)


def _fact(name: str, ask: Callable[[], Contradiction], context: tuple[Expr, ...]) -> Fact:
    """The calls that nothing contradicts."""
    contradiction = ask()
    varying = tuple(print_expr(atom.source) for atom in contradiction.unknowns if atom.axes)
    unknown = Fact(name, "unknown", exact=False, unknowns=varying or (contradiction.why,))
    if contradiction.frame is None:
        return unknown
    too_long = Fact(name, "unknown", exact=False, unknowns=varying or ("its condition is too long",))
    return _bounded(lambda: _when(name, contradiction, varying, context), too_long)


def _when(name: str, contradiction: Contradiction, varying: tuple[str, ...], context: tuple[Expr, ...]) -> Fact:
    if contradiction.impossible:
        return Fact(name, "always")
    bad, allowed, leaves = _calls(contradiction, context)
    good = allowed.subtract(bad).coalesce()
    if good.is_empty():
        return Fact(name, "unknown", None, False, varying) if varying else Fact(name, "never")
    good = good.gist_params(allowed).coalesce()
    if good.n_basic_set() > _MAX_PIECES:
        return Fact(name, "unknown", None, False, varying or ("its condition is too long",))
    return Fact(name, "when", fold(condition_of(good, allowed, leaves)), not varying, varying)


def _bounds(contradiction: Contradiction) -> tuple[Expr | None, Expr | None]:
    """The least and the greatest value of the first dimension."""
    if contradiction.frame is None or not contradiction.frame.dims:
        return None, None

    def bounds() -> tuple[Expr | None, Expr | None]:
        count = contradiction.points.dim(isl.dim_type.set)
        apart = contradiction.points.project_out(isl.dim_type.set, 1, count - 1).coalesce()
        _, allowed, leaves = _calls(contradiction, ())
        low = apart.dim_min(0) if apart.dim_has_lower_bound(isl.dim_type.set, 0) else None
        high = apart.dim_max(0) if apart.dim_has_upper_bound(isl.dim_type.set, 0) else None
        return _number(low, allowed, leaves), _number(high, allowed, leaves)

    return _bounded(bounds, (None, None))


def _number(value: Any, context: Any, leaves: dict[str, Expr]) -> Expr | None:
    if value is None or value.n_piece() == 0 or value.n_piece() > _MAX_PIECES:
        return None
    return fold(number_of(value.gist_params(context), context, leaves))


def _calls(contradiction: Contradiction, context: tuple[Expr, ...]) -> tuple[Any, Any, dict[str, Expr]]:
    """The calls that contradict for some batch and head, those that can be, and what the parameters stand for."""
    frame = contradiction.frame
    assert frame is not None
    atoms: dict[Expr, Atom] = {atom.ref: atom for atom in contradiction.unknowns}
    leaves = dict(zip(frame.param_names(), (_source(leaf, atoms) for leaf in frame.params), strict=True))
    read = {*frame.params}
    known = [cond for cond in context if all(leaf in read for leaf in walk(cond) if isinstance(leaf, Size | Value))]
    truths = [leaf for leaf in frame.params if leaf in atoms and atoms[leaf].is_condition]
    known += [compare("ge", leaf, int_const(1)) for leaf in frame.params if isinstance(leaf, Size)]
    known += [compare(fn, leaf, int_const(n)) for leaf in truths for fn, n in (("ge", 0), ("le", 1))]
    bad, allowed = (
        contradiction.points.params(),
        condition_set(_all(tuple(known)), Frame(frame.context, frame.params, ())),
    )
    allowed = allowed.params()
    for n, leaf in reversed(list(enumerate(frame.params))):
        if isinstance(leaf, Index):
            bad = bad.project_out(isl.dim_type.param, n, 1)
            allowed = allowed.project_out(isl.dim_type.param, n, 1)
    return bad, allowed, leaves


def _all(conditions: tuple[Expr, ...]) -> Expr:
    return reduce(conj, conditions, TRUE)


def _source(leaf: Expr, atoms: dict[Expr, Atom]) -> Expr:
    atom = atoms.get(leaf)
    if atom is None:
        return leaf
    return as_number(atom.source) if atom.is_condition else atom.source


def _bounded(compute: Callable[[], _T], otherwise: _T) -> _T:
    """The result, unless isl passes its bound or the answer is no formula."""
    try:
        return compute()
    except (isl.Error, NotClosedError):
        return otherwise

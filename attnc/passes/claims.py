"""claims: questions about masks as sets of counterexamples.

Before: masks of bound or unbound modules, assumptions about sizes and parameters.
After: the calls and pairs that would contradict a claim, as an integer set over positions and the unknowns of
`mask_atoms`. Where the set is empty the claim holds for all sizes, parameters and tensors. Every step is bounded.

    subset(0 <= i - j < w, j <= i)   ->   { (i, j) : 0 <= i - j < w and j > i } = { }
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from attnc.ir.build import compare, conj, sub
from attnc.ir.dependence import conjuncts
from attnc.ir.expr import FALSE, TRUE, Call, Expr, GridCoord, Index, Param, Ref, Size, Value, int_const
from attnc.ir.module import Grid, TensorParam
from attnc.ir.traverse import walk
from attnc.passes.isl import isl
from attnc.passes.mask_atoms import Atom, Atoms, TooLargeError, everything
from attnc.passes.mask_axes import all_conjuncts, separated
from attnc.passes.mask_axioms import axioms, divisors, order_of_grids
from attnc.passes.mask_sets import Frame, NotAffineError, condition_set
from attnc.passes.positions import grid_coordinate
from attnc.passes.subjects import Subject, negated, pairs
from attnc.passes.truth_tables import is_contradictory

#: isl gives up after this many operations, with divisions and unknowns after fewer: each makes every operation dearer.
MAX_OPERATIONS = 400_000
_BUDGET = 25_000_000
#: Unknowns that vary with a position, and clauses that are contradicted one by one.
MAX_ATOMS = 16
MAX_CASES = 16
#: Attempts that pass the bound before no other is made.
MAX_FAILURES = 3

_I, _J = Index("i"), Index("j")
_OF_ROW = frozenset("i")
_EXTENT: dict[str, Size] = {"b": Size("B"), "h": Size("H"), "hk": Size("Hk")}


@dataclass(frozen=True, slots=True)
class Contradiction:
    """What could contradict a claim: `points` is None when the bound on the work was reached.

    `over` are the leaves in the order of parameters and dimensions of the set; `unknowns` what stands in the way of
    calling a point of it a counterexample.
    """

    points: Any
    frame: Frame | None
    unknowns: tuple[Atom, ...]
    why: str

    @property
    def impossible(self) -> bool:
        """Whether the claim is proved."""
        return self.frame is not None and bool(self.points.is_empty())

    def sample(self) -> dict[Expr, int]:
        """One point: a number for every parameter and dimension."""
        if self.frame is None:
            return {}
        point = self.points.sample_point()
        found: dict[Expr, int] = {}
        for kind, leaves in ((isl.dim_type.param, self.frame.params), (isl.dim_type.set, self.frame.dims)):
            for n, leaf in enumerate(leaves):
                value = point.get_coordinate_val(kind, n)
                found[leaf] = value.to_python() if value.is_int() else 0
        return found


_NOTHING = Contradiction(None, None, (), "")


class Claims:
    """Questions about some masks that share sizes, parameters, tensors and assumptions."""

    def __init__(self, subjects: Iterable[Subject], assumptions: Expr, *, max_operations: int = MAX_OPERATIONS) -> None:
        self._subjects = tuple(subjects)
        self._assumptions = assumptions
        self._max_operations = max_operations
        self._gave_up = 0
        self._tensors = {name: tensor for subject in self._subjects for name, tensor in subject.tensors.items()}
        self._grids = tuple(dict.fromkeys(subject.grids for subject in self._subjects if subject.grids))

    def pairs(self, violation: Expr, domain: Expr, raw: tuple[Expr, Expr] | None = None) -> Contradiction:
        """Pairs of a domain at which a condition holds.

        `raw` are both with coordinates that stand for themselves, which is tried first: what holds for any coordinates
        holds for those of positions.
        """
        if raw is not None and self._has_coordinates(raw[0]):
            found = self._by_cases(raw[0], raw[1], True)
            if found is not None:
                return found
        whole = self._bounded(violation, False, lambda question: question.pairs(domain))
        found = self._by_cases(violation, domain, False) if whole.frame is None else None
        return found or whole

    def _by_cases(self, violation: Expr, domain: Expr, coordinates: bool) -> Contradiction | None:
        """The proof that each case of a violation is impossible; None where one may not be."""
        found: Contradiction | None = None
        for case in _cases(violation):
            parts = _sufficient(case) if coordinates else (case,)
            tried = (self._bounded(part, coordinates, lambda question: question.pairs(domain)) for part in parts)
            found = next((one for one in tried if one.impossible), None)
            if found is None:
                return None
        return found

    def certainly_not(self, raw: Expr, domain: Expr) -> bool:
        """Whether a condition on coordinates that stand for themselves holds for no pair of a domain."""
        return self._has_coordinates(raw) and self._by_cases(raw, domain, True) is not None

    def rows_on_grid(self, raw: Expr, row: Expr, key: Expr) -> bool:
        """Whether every row on a grid sees a key when all points of the grid are keys. False where that is open."""
        if not self._has_coordinates(raw) or _J in set(walk(raw)):
            return False
        asked = (
            self._bounded(part, True, lambda question: question.empty_rows_on_grid(row, key)) for part in _factors(raw)
        )
        return all(part.impossible for part in asked)

    def empty_rows(self, mask: Expr, row: Expr, key: Expr, raw: tuple[Expr, Expr, Expr] | None = None) -> Contradiction:
        """Rows that see no key.

        `raw` are the three with coordinates that stand for themselves, where every point of the grid is a key.
        """
        if raw is not None and self.rows_on_grid(*raw):
            return self._bounded(FALSE, False, lambda question: question.pairs(FALSE))
        return self._bounded(mask, False, lambda question: question.empty_rows(row, key))

    def _has_coordinates(self, raw: Expr) -> bool:
        return len(self._grids) == 1 and any(isinstance(node, GridCoord) for node in walk(raw))

    def distances(self, mask: Expr, distance: Ref) -> Contradiction:
        """How far keys lie behind their query, as the first dimension of the set."""
        return self._bounded(mask, False, lambda question: question.distances(distance))

    def contradictory_assumptions(self) -> bool:
        """Whether no call fulfils the assumptions. False where that cannot be decided."""
        found = self._bounded(TRUE, False, lambda question: question.pairs(TRUE))
        return found.impossible

    def allowed(self) -> dict[Expr, int]:
        """Numbers that fulfil the assumptions; none where there are none, or they cannot be found."""
        found = self._bounded(TRUE, False, lambda question: question.pairs(pairs()))
        return {} if found.frame is None or found.impossible else found.sample()

    def _bounded(self, cond: Expr, coordinates: bool, ask: Callable[[_Question], Contradiction]) -> Contradiction:
        if self._gave_up >= MAX_FAILURES:
            return replace(_NOTHING, why="its integer set passed the bound on the work")
        try:
            question = _Question(cond, self._assumptions, self._max_operations)
            question.learn(self._tensors, self._grids, coordinates=coordinates)
            if len(question.varying) > MAX_ATOMS:
                return replace(_NOTHING, unknowns=question.read, why="it reads too many things that are not affine")
            return ask(question)
        except TooLargeError:
            return replace(_NOTHING, why="it is too large to analyse")
        except NotAffineError:
            return replace(_NOTHING, why="it has a part that is not affine")
        except isl.Error:
            self._gave_up += 1
            return replace(_NOTHING, why="its integer set passed the bound on the work")


class _Question:
    """One condition, abstracted, with all that is known about what it reads."""

    def __init__(self, cond: Expr, assumptions: Expr, max_operations: int) -> None:
        self._atoms = Atoms()
        self._cond = self._atoms.abstract(cond)
        self.read = tuple(self._atoms)
        self._assumed = self._atoms.abstract(assumptions)
        self._known: list[Expr] = []
        self._context = isl.Context()
        self._max_operations = max_operations

    def learn(
        self, tensors: Mapping[str, TensorParam], grids: Iterable[tuple[Grid, Grid]], *, coordinates: bool
    ) -> None:
        """Collect what is known about the unknowns."""
        order: list[Expr] = []
        for pair in grids:
            if coordinates or self._reads(pair):
                order += order_of_grids(self._atoms, *pair, coordinates=coordinates)
        self._known = [*divisors(self._atoms), *order, *axioms(self._atoms, tensors)]
        budget = _BUDGET // (1 + _divisions(self._cond) + len(self.varying) // 3) ** 3
        self._context.set_max_operations(max(1, min(self._max_operations, budget)))

    @property
    def varying(self) -> tuple[Atom, ...]:
        """The unknowns that are dimensions of the sets."""
        return tuple(atom for atom in self._atoms if atom.axes)

    def _reads(self, grids: tuple[Grid, Grid]) -> bool:
        """Whether a coordinate on a pair of grids is among the unknowns."""
        sides: tuple[tuple[Grid, Literal["q", "k"]], ...] = ((grids[0], "q"), (grids[1], "k"))
        coordinates = {grid_coordinate(grid, side, n) for grid, side in sides for n in range(len(grid.extents))}
        return any(atom.source in coordinates for atom in self._atoms)

    # -- answers -------------------------------------------------------------------------------------------------

    def _settled(self, why: str) -> Contradiction:
        """Nothing contradicts the claim."""
        frame = Frame(self._context, (), ())
        return Contradiction(isl.Set.empty(frame.space()), frame, (), why)

    def pairs(self, domain: Expr) -> Contradiction:
        """Points of the domain at which the condition holds."""
        if is_contradictory(self._cond):
            return self._settled("its conditions exclude each other, whatever they are")
        frame = self._frame((_I, _J, *(atom.ref for atom in self.varying)), domain)
        points = condition_set(self._cond, frame).coalesce()
        for fact in (*self._facts(domain, frame), *self._known):
            if points.is_empty():
                break
            points = points.intersect(condition_set(fact, frame))
        return Contradiction(
            points.coalesce(), frame, self.read, "the integer set of what could contradict it is empty"
        )

    def distances(self, distance: Ref) -> Contradiction:
        """Values of `distance`, the first dimension, that are i - j for a kept pair, whatever the sizes are."""
        dims = (distance, _I, _J, *(atom.ref for atom in self.varying))
        frame = self._frame(dims, TRUE)
        apart = condition_set(compare("eq", distance, sub(_I, _J)), frame)
        points = self._all(condition_set(self._cond, frame).intersect(apart), self._facts(TRUE, frame), frame)
        return Contradiction(points.coalesce(), frame, self.read, "an integer set")

    def empty_rows(self, row: Expr, key: Expr) -> Contradiction:
        """Rows of which no key fulfils the condition, whatever the unknowns of the keys are."""
        return self._empty_rows(row, key, (_J,))

    def empty_rows_on_grid(self, row: Expr, key: Expr) -> Contradiction:
        """The same where every point of the grid is a key, and the mask reads nothing else of keys."""
        self._known = [fact for fact in self._known if _J not in _leaves(fact)]
        own = tuple(atom.ref for atom in self.varying if atom.source in _key_coordinates(self.varying))
        return self._empty_rows(row, key, own)

    def _empty_rows(self, row: Expr, key: Expr, key_dims: tuple[Expr, ...]) -> Contradiction:
        of_row = tuple(atom.ref for atom in self.varying if atom.axes == _OF_ROW)
        of_key = tuple(atom.ref for atom in self.varying if atom.axes != _OF_ROW and atom.ref not in key_dims)
        both = conj(row, key)
        full = self._frame((_I, *of_row, *key_dims, *of_key), both)
        short = replace(full, dims=(_I, *of_row))
        middle = replace(full, dims=(_I, *of_row, *key_dims))
        facts = self._facts(both, full)
        dead = self._all(condition_set(negated(self._cond), full), facts, full)
        dead = dead.project_out(isl.dim_type.set, len(middle.dims), len(of_key)).coalesce()
        stored = self._all(isl.Set.universe(middle.space()), facts, middle)
        kept = stored.subtract(dead).coalesce()
        seen = kept.project_out(isl.dim_type.set, len(short.dims), len(key_dims)).coalesce()
        every = self._all(isl.Set.universe(short.space()), self._facts(row, full), short)
        return Contradiction(
            every.subtract(seen).coalesce(), short, self.read, "the integer set of what could contradict it is empty"
        )

    def _all(self, points: Any, facts: tuple[Expr, ...], frame: Frame) -> Any:
        """Points that agree with the facts that speak of nothing outside the frame."""
        inside = {*frame.params, *frame.dims}
        for fact in (*facts, *self._known):
            if all(leaf in inside for leaf in _leaves(fact)):
                points = points.intersect(condition_set(fact, frame))
        return points

    def _facts(self, domain: Expr, frame: Frame) -> tuple[Expr, ...]:
        return conjuncts(everything((self._atoms.abstract(domain), self._assumed, *_sizes(frame.params))))

    def _frame(self, dims: tuple[Expr, ...], domain: Expr) -> Frame:
        conditions = (self._cond, self._assumed, self._atoms.abstract(domain), *self._known)
        found = dict.fromkeys(leaf for cond in conditions for leaf in _leaves(cond) if leaf not in dims)
        extents = [_EXTENT[leaf.name] for leaf in found if isinstance(leaf, Index)]
        return Frame(self._context, tuple(dict.fromkeys((*found, *extents))), dims)


def _factors(mask: Expr) -> list[Expr]:
    """Conditions each of which some key has to fulfil: the axes of a product, else the mask itself.

    Keys with the coordinates wanted along every axis exist when every point of the grid is a key.
    """
    parts = separated(mask)
    if not parts.is_product:
        return [mask]
    found = [*parts.axes.values()] or [TRUE]
    return [conj(parts.uniform, part) for part in found]


def _sufficient(violation: Expr) -> Iterable[Expr]:
    """Conditions that hold wherever the violation does, the smallest first: its conjuncts on one axis, then itself."""
    yield from separated(violation).axes.values()
    yield violation


def _cases(violation: Expr) -> list[Expr]:
    """The violation as a disjunction: one case per clause of a conjunction that does not hold."""
    clauses = all_conjuncts(violation)
    for n, clause in enumerate(clauses):
        if isinstance(clause, Call) and clause.fn == "not":
            rest = everything((*clauses[:n], *clauses[n + 1 :]))
            found = [conj(rest, negated(wanted)) for wanted in all_conjuncts(clause.args[0])]
            return found if len(found) <= MAX_CASES else [violation]
    return [violation]


def _key_coordinates(atoms: Iterable[Atom]) -> set[Expr]:
    return {atom.source for atom in atoms if isinstance(atom.source, GridCoord) and atom.source.side == "k"}


def _divisions(cond: Expr) -> int:
    """Distinct quotients and remainders: isl gives each a variable of its own."""
    calls = (node for node in walk(cond) if isinstance(node, Call) and node.fn in ("floordiv", "mod"))
    return len({call.args for call in calls})


def _leaves(cond: Expr) -> Iterable[Expr]:
    return (node for node in walk(cond) if isinstance(node, Index | Size | Param | Value | Ref))


def _sizes(leaves: Iterable[Expr]) -> Iterable[Expr]:
    """What holds for every call."""
    for leaf in leaves:
        if isinstance(leaf, Size):
            yield compare("ge", leaf, int_const(0 if leaf.name in ("N", "M") else 1))
        elif isinstance(leaf, Index):
            yield compare("ge", leaf, int_const(0))
            yield compare("lt", leaf, _EXTENT[leaf.name])

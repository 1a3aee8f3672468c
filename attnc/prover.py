"""Proofs about masks: `attnc.prove("subset(std:sliding_window, std:causal)")`.

A claim is proved for all sizes, positions, parameters and tensors, or refuted by a call in numbers that has been
evaluated, or it stays unknown. Imports no torch. See docs/prove.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

from attnc.diagnostics import CallError
from attnc.frontend.tables import tables_of_values
from attnc.ir.build import add, compare, conj
from attnc.ir.expr import TRUE, Call, Const, Expr, Index, Param, Size, int_const
from attnc.ir.module import Grid, ScalarParam, fixed_sizes
from attnc.ir.printer import print_expr
from attnc.ir.ranges import conditions
from attnc.ir.traverse import walk
from attnc.ir.types import BOOL, INT
from attnc.passes.claims import Claims, Contradiction
from attnc.passes.counterexamples import TRIED_FIRST, TRIED_LATER, Found, Inputs, Search, constants, from_point
from attnc.passes.facts import points_of
from attnc.passes.positions import K_OFFSET, Q_OFFSET
from attnc.passes.subjects import Subject, keys, negated, on_grid, pairs, rows, swapped
from attnc.passes.worlds import UndefinedError, World, holds
from attnc.prover_statement import Statement, mentioned, parse_assumption, parse_statement

Verdict = Literal["proved", "refuted", "unknown"]
#: Elements of a tensor that a counterexample shows.
_SHOWN = 64
#: Undecided parts that are printed.
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A call at which a claim fails: `j` is None where the whole row fails, `masks` says what each mask does there."""

    sizes: dict[str, int]
    params: dict[str, bool | int | float]
    tensors: dict[str, Any]
    i: int
    j: int | None
    masks: tuple[str, ...]

    def __str__(self) -> str:
        values = {**self.sizes, **self.params, "i": self.i} | ({} if self.j is None else {"j": self.j})
        lines = [", ".join(f"{name} = {_value(value)}" for name, value in values.items())]
        lines += [f"{name} = {value}" for name, value in self.tensors.items()]
        return "\n".join([*lines, *self.masks])


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of a statement. `assumptions` hold throughout; `unknowns` are the parts that stand in the way."""

    statement: str
    verdict: Verdict
    reason: str
    assumptions: tuple[str, ...]
    symbols: tuple[str, ...]
    unknowns: tuple[str, ...] = ()
    counterexample: Counterexample | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        found = self.counterexample
        point = None if found is None else {name: getattr(found, name) for name in found.__slots__}
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "counterexample": point}

    def __str__(self) -> str:
        lines = [f"{self.verdict}: {self.statement}", f"  {self.reason}"]
        if self.counterexample is not None:
            lines += [f"    {line}" for line in str(self.counterexample).splitlines()]
        lines += [f"  undecided: {text}" for text in self.unknowns[:_NAMED]]
        if len(self.unknowns) > _NAMED:
            lines.append(f"  and {len(self.unknowns) - _NAMED} more")
        if self.verdict != "refuted":
            lines.append(f"  for all {', '.join(self.symbols)}")
        return "\n".join([*lines, f"  assuming {', '.join(self.assumptions) or 'nothing'}"])


def prove(
    statement: str,
    *,
    assume: str | Sequence[str] = (),
    declare: str = "",
    file: str | None = None,
    tensors: Mapping[str, Any] | None = None,
) -> Proof:
    """Prove or refute a statement such as `subset(std:sliding_window(size=64), mask j <= i)`.

    `assume` are conditions on sizes, q_offset, k_offset and parameters; `declare` is a header of parameters that masks
    written as text read, such as `w: int, seg: int[B, M]`; `file` a spec whose names they may use; `tensors` are
    values of tensors, as tensors or as lists, in every mask that has them; the others are any. Raises SpecError and
    CallError.
    """
    parsed = parse_statement(statement, declare, file, tables_of_values(tensors or {}))
    given = [assume] if isinstance(assume, str) else list(assume)
    return _Proving(parsed, given).proof()


class _Proving:
    """One statement with its assumptions."""

    def __init__(self, statement: Statement, given: list[str]) -> None:
        self._statement = statement
        self._subjects = tuple(map(Subject.of, statement.modules))
        own = [parse_assumption(text, statement) for text in given]
        own += [compare("eq", size, int_const(value)) for size, value in fixed_sizes(statement.tensors).items()]
        grids = [subject.grids for subject in self._subjects if subject.grids and not subject.beside_grid]
        self._grids: tuple[tuple[Grid, Grid], ...] = tuple(dict.fromkeys(grids))
        standing = _standing(self._grids, mentioned(own))
        self._covers = bool(self._grids) and "M" not in mentioned(own) and "k_offset" not in mentioned(own)
        ranges = [cond for scalar in statement.scalars.values() for cond in _range(scalar)]
        ranges += [cond for cond in statement.known if cond not in ranges]
        self._assumptions = _all([*standing, *own, *filter(_is_linear, ranges)])
        self._allowed = _all([*standing, *own, *ranges])
        self._texts = tuple(map(print_expr, (*standing, *own, *ranges)))
        if self._grids:
            self._texts += ("positions lie on the grid",)
        self._claims = Claims(self._subjects, self._assumptions)

    def proof(self) -> Proof:
        """The answer."""
        if self._claims.contradictory_assumptions():
            raise CallError(f"no call fulfils the assumptions: {', '.join(self._texts)}")
        search = self._search()
        example = search.next(TRIED_FIRST)  # most wrong claims fail in the first calls
        if example is not None:
            return self._answer("refuted", "it fails here", example=self._shown(example))
        found = [self._contradiction(violation, raw) for violation, raw in self._violations()]
        open_ = [contradiction for contradiction in found if not contradiction.impossible]
        if not open_:
            return self._answer("proved", found[0].why)
        example = self._from_points(found) or search.next(TRIED_LATER)
        if example is not None:
            return self._answer("refuted", "it fails here", example=self._shown(example))
        atoms = dict.fromkeys(print_expr(atom.source) for contradiction in open_ for atom in contradiction.unknowns)
        gave_up = [contradiction.why for contradiction in open_ if contradiction.frame is None]
        whys = ("it fails in calls that are too large to evaluate", "it fails if the parts below take certain values")
        why = gave_up[0] if gave_up else whys[bool(atoms)]
        return self._answer("unknown", f"{why}; no counterexample was found in small calls", tuple(atoms))

    # -- contradictions ------------------------------------------------------------------------------------------

    def _violations(self) -> list[tuple[Expr, Expr]]:
        """Conditions on a pair that contradict the claim, with coordinates as arithmetic and as themselves."""
        lowered = _violations(self._statement.claim, [subject.mask for subject in self._subjects])
        raw = _violations(self._statement.claim, [subject.raw for subject in self._subjects])
        return list(zip(lowered, raw, strict=True))

    def _contradiction(self, violation: Expr, raw: Expr) -> Contradiction:
        row, key = self._domain("q", raw=False), self._domain("k", raw=False)
        raw_row, raw_key = self._domain("q", raw=True), self._domain("k", raw=True)
        if self._about_rows:
            on_grid_only = (negated(raw), raw_row, raw_key) if self._covers else None
            return self._claims.empty_rows(negated(violation), conj(rows(), row), conj(keys(), key), on_grid_only)
        domain, raw_domain = _all([pairs(), row, key]), conj(raw_row, raw_key)
        if self._statement.claim == "symmetric":
            domain, raw_domain = conj(domain, swapped(domain)), conj(raw_domain, swapped(raw_domain))
        return self._claims.pairs(violation, domain, (raw, raw_domain))

    def _domain(self, side: Literal["q", "k"], *, raw: bool) -> Expr:
        """Where the positions of a side lie."""
        return _all([on_grid(grids[side == "k"], side, raw=raw) for grids in self._grids])

    def _search(self) -> Search:
        """For a pair that contradicts the claim, in whatever way."""
        violations = [violation for violation, _ in self._violations()]
        wanted = reduce(lambda a, b: Call("or", (a, b), BOOL), violations)
        wanted = wanted if self._about_rows else conj(wanted, self._within())
        return Search(self._inputs(), wanted, self._claims.allowed(), empty_row=self._about_rows)

    def _from_points(self, found: list[Contradiction]) -> Found | None:
        """A counterexample from the sets of contradictions."""
        inputs = self._inputs()
        for contradiction, (violation, _) in zip(found, self._violations(), strict=True):
            if contradiction.frame is not None and not contradiction.impossible:
                wanted = violation if self._about_rows else conj(violation, self._within())
                example = from_point(inputs, contradiction, wanted, empty_row=self._about_rows)
                if example is not None:
                    return example
        return None

    @property
    def _about_rows(self) -> bool:
        return self._statement.claim == "nonempty_rows"

    def _within(self) -> Expr:
        domain = _all([pairs(), self._domain("q", raw=False), self._domain("k", raw=False)])
        return conj(domain, swapped(domain)) if self._statement.claim == "symmetric" else domain

    def _inputs(self) -> Inputs:
        violations = [violation for violation, _ in self._violations()]
        tensors = self._statement.tensors
        grids = tuple(grid for pair in self._grids for grid in pair)
        divisors = {divisor for cond in violations for node in walk(cond) for divisor in _divisor(node)}
        extents = {extent for grid in grids for extent in grid.extents}
        positive = frozenset(
            node.name for expr in (*divisors, *extents) for node in walk(expr) if isinstance(node, Param)
        )
        seeds = constants(*violations, self._assumptions)
        return Inputs(self._statement.scalars, tensors, grids if self._covers else (), self._allowed, positive, seeds)

    # -- answers -------------------------------------------------------------------------------------------------

    def _answer(
        self, verdict: Verdict, reason: str, unknowns: tuple[str, ...] = (), example: Counterexample | None = None
    ) -> Proof:
        names = [*self._statement.scalars, *(n for n, t in self._statement.tensors.items() if t.value is None)]
        symbols = ("sizes", "offsets", *names)
        return Proof(self._statement.text, verdict, reason, self._texts, symbols, unknowns, example)

    def _shown(self, found: Found) -> Counterexample:
        world = found.world
        read = [node for subject in self._subjects for node in walk(subject.mask)]
        sizes = {name: world.sizes[name] for name in ("N", "M", "q_offset", "k_offset")}
        others = {node.name for node in read if isinstance(node, Size | Index)} - {"i", "j"}
        sizes |= {name: world.sizes[name] for name in sorted(others)}
        params = {name: world.params[name] for name in self._statement.scalars}
        tables = {name: world.tables[name] for name in self._statement.tensors}
        tensors = {name: table.tolist() for name, table in tables.items() if table.size <= _SHOWN}
        tensors |= {name: f"of {table.shape}" for name, table in tables.items() if table.size > _SHOWN}
        names = zip(self._statement.texts, self._subjects, strict=True)
        masks = tuple(_deed(text, subject.mask, world, found, self._statement.claim) for text, subject in names)
        return Counterexample(sizes, params, tensors, found.i, found.j, masks)


def _violations(claim: str, masks: list[Expr]) -> list[Expr]:
    first, last = masks[0], masks[-1]
    match claim:
        case "causal":
            return [conj(first, compare("gt", Index("j"), Index("i")))]
        case "nonempty_rows":
            return [negated(first)]
        case "symmetric":
            return [conj(first, negated(swapped(first)))]
        case "subset":
            return [conj(first, negated(last))]
        case "disjoint":
            return [conj(first, last)]
        case _:
            return [conj(first, negated(last)), conj(last, negated(first))]


def _standing(grids: tuple[tuple[Grid, Grid], ...], said: frozenset[str]) -> list[Expr]:
    """What is assumed of sizes and offsets about which the user says nothing."""
    found: list[Expr] = []
    if "k_offset" not in said:
        found += [compare("eq", K_OFFSET, grid_k.start) for _, grid_k in grids] or [
            compare("eq", K_OFFSET, int_const(0))
        ]
    if "q_offset" not in said:
        found.append(compare("ge", Q_OFFSET, K_OFFSET if grids else int_const(0)))
    if not {"N", "M"} & said:
        last = add(K_OFFSET, Size("M")) if grids else Size("M")
        found.append(compare("le", add(Q_OFFSET, Size("N")), last))
    if not {"M", "k_offset"} & said:
        found += [compare("eq", Size("M"), points_of(grid_k)) for _, grid_k in grids]
    return list(dict.fromkeys(found))


def _range(scalar: ScalarParam) -> Iterable[Expr]:
    """The declared range of an int parameter."""
    if scalar.type == INT:
        yield from conditions(Param(scalar.name, INT), scalar.range)


def _is_linear(cond: Expr) -> bool:
    """Whether integer sets take a condition as it is. Others only rule out counterexamples: proofs do without them."""
    return not any(
        isinstance(node, Call) and (node.fn in ("floordiv", "mod", "pow", "bitand", "bit_length") or _is_product(node))
        for node in walk(cond)
    )


def _is_product(node: Call) -> bool:
    return node.fn == "mul" and not any(isinstance(arg, Const) for arg in node.args)


def _deed(text: str, mask: Expr, world: World, found: Found, claim: str) -> str:
    if found.j is None:
        return f"{text}: row {found.i} sees no key"
    try:
        kept = holds(mask, world, found.i, found.j)
        back = claim == "symmetric" and holds(mask, world, found.j, found.i)
    except UndefinedError:
        return f"{text}: undefined"
    shown = f"{text} {'keeps' if kept else 'drops'} ({found.i}, {found.j})"
    return f"{shown} and {'keeps' if back else 'drops'} ({found.j}, {found.i})" if claim == "symmetric" else shown


def _divisor(node: Expr) -> tuple[Expr, ...]:
    return (node.args[1],) if isinstance(node, Call) and node.fn in ("floordiv", "mod") else ()


def _all(conditions: Sequence[Expr]) -> Expr:
    return reduce(conj, conditions, TRUE)


def _value(value: bool | int | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

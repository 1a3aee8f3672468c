"""verify: each invariant of modules and plans, broken on purpose, is an internal error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from attnc.diagnostics import InternalError
from attnc.driver import stdlib_names
from attnc.ir.expr import (
    FALSE,
    TRUE,
    Call,
    Expr,
    GridCoord,
    Index,
    Lookup,
    Param,
    Reduce,
    Ref,
    Size,
    Value,
    int_const,
    real_const,
)
from attnc.ir.module import AttentionModule, Binding
from attnc.ir.plan import Derived, DotTerm, KernelPlan, PairDot, Piece, Visit
from attnc.ir.types import BOOL, INT, REAL, VectorType
from attnc.ir.verify import verify_module, verify_plan
from attnc.passes.pipeline import PlanOptions, make_plan
from tests.oracles.cases import cases
from tests.oracles.modules import last_stage, module_of, standard

TEXT = """
normalizer n {
  m = max[j](s); p = exp(s - m); r = p / sum[j](p); w = r ^ 2 / sum[j](r ^ 2); aux lse = m + log(sum[j](p))
}
attention a(slope: real[H], seg: int[B, M], width: int dynamic) {
  mask seg[b, i] == seg[b, j] and i - j < width
  q = rope(q, i)
  score dot(q, k) * scale - slope[h] * abs(i - j)
  normalizer n
}
"""
UNKNOWN = Lookup("x9", (), VectorType(int_const(8)))
STATISTIC = Ref("zz", REAL)


def module() -> AttentionModule:
    return module_of(TEXT)


def plan() -> KernelPlan:
    return make_plan(module(), PlanOptions(8, 8))


def add(expr: Expr, other: Expr) -> Expr:
    return Call("add", (expr, other), REAL)


def below(mask: Expr, x: Expr) -> Expr:
    """The mask, and x < 1."""
    return Call("and", (mask, Call("lt", (x, int_const(1)), BOOL)), BOOL)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_modules_and_plans_of_the_standard_library_are_sound(case: object) -> None:
    from tests.oracles.cases import Case

    assert isinstance(case, Case)
    found = last_stage(standard(case.name, **case.params))
    verify_module(found)
    verify_plan(make_plan(found, PlanOptions(16, 16)))


def test_every_file_of_the_standard_library_is_a_case() -> None:
    assert {case.name for case in cases()} == set(stdlib_names())


# -- modules ---------------------------------------------------------------------------------------------------------

MODULES: dict[str, tuple[Callable[[AttentionModule], AttentionModule], str]] = {
    "mask_type": (lambda m: replace(m, mask=m.score), "the mask of a is real"),
    "score_type": (lambda m: replace(m, score=m.mask), "the score of a is bool"),
    "value_type": (lambda m: replace(m, value=m.score), "the value of a is real"),
    "output_type": (lambda m: replace(m, output=m.score), "the output of a is real"),
    "no_weight": (lambda m: replace(m, cascade=m.cascade[:-1]), "no weight w"),
    "no_cascade": (lambda m: replace(m, cascade=()), "no weight w"),
    "mask_reads_q": (lambda m: replace(m, mask=below(m.mask, Value("scale", REAL))), "scale"),
    "score_reads_s": (lambda m: replace(m, score=add(m.score, Value("s", REAL))), "`s`"),
    "late_binding": (lambda m: replace(m, cascade=(m.cascade[1], m.cascade[0], *m.cascade[2:])), "`m` is read before"),
    "aux": (lambda m: replace(m, aux=(Binding("t", STATISTIC),)), "`zz` is read before"),
    "unbound": (lambda m: replace(m, score=add(m.score, Param("cap", REAL))), "`cap` is not bound"),
    "tensor": (lambda m: replace(m, score=add(m.score, Lookup("bias", (Index("b"),), REAL))), "look-up in `bias`"),
    "grid": (lambda m: replace(m, mask=below(m.mask, GridCoord("q", 0))), "without a grid"),
    "row": (lambda m: replace(m, mask=below(m.mask, Index("r"))), "a stored row"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_a_broken_module_is_found(name: str) -> None:
    break_it, words = MODULES[name]
    with pytest.raises(InternalError) as found:
        verify_module(break_it(module()))
    assert words in str(found.value)


def test_static_parameters_may_be_left_before_binding() -> None:
    loose = replace(module(), score=Param("cap", REAL))
    verify_module(loose, bound=False)


# -- plans -----------------------------------------------------------------------------------------------------------


def with_accumulator(found: KernelPlan, which: str, **change: object) -> KernelPlan:
    """The plan with one accumulator changed."""
    assert any(acc.name == which for acc in found.accumulators)
    sweeps = tuple(
        replace(sweep, accumulators=tuple(replace(a, **change) if a.name == which else a for a in sweep.accumulators))  # type: ignore[arg-type]
        for sweep in found.sweeps
    )
    return replace(found, sweeps=sweeps)


def with_piece(found: KernelPlan, **change: object) -> KernelPlan:
    part = found.parts[0]
    visit = part.visits[0]
    pieces = (replace(visit.pieces[0], **change), *visit.pieces[1:])  # type: ignore[arg-type]
    return replace(found, parts=(replace(part, visits=(replace(visit, pieces=pieces), *part.visits[1:])),))


def corrected(found: KernelPlan) -> str:
    """The accumulator of the first sweep that is corrected when the maximum moves."""
    return next(acc.name for acc in found.sweeps[0].accumulators if acc.rescale is not None)


def last(found: KernelPlan) -> str:
    return found.sweeps[-1].accumulators[-1].name


def read_by_row(found: KernelPlan) -> KernelPlan:
    visit = Visit("full", (Piece(TRUE, Index("i"), int_const(3)),))
    return replace(found, parts=(replace(found.parts[0], visits=(visit,)),))


PLANS: dict[str, tuple[Callable[[KernelPlan], KernelPlan], str]] = {
    "undefined": (lambda p: with_accumulator(p, "a0", body=STATISTIC), "`zz` is not defined"),
    "later_sweep": (lambda p: with_accumulator(p, "a0", body=Ref(last(p), REAL)), "is not defined"),
    "itself": (lambda p: with_accumulator(p, "a0", body=Ref("a0", REAL)), "`a0` is not defined"),
    "no_correction": (lambda p: with_accumulator(p, corrected(p), rescale=None), "is never rescaled"),
    "old_of_nothing": (lambda p: with_accumulator(p, corrected(p), rescale=Ref("a7.old", REAL)), "`a7.old`"),
    "old_of_a_finished_sweep": (
        lambda p: with_accumulator(p, last(p), rescale=Ref("a0.old", REAL)), "`a0.old` is not defined"),
    "output": (lambda p: replace(p, output=add(p.output, STATISTIC)), "`zz` is not defined"),
    "aux": (lambda p: replace(p, aux=(Binding("t", STATISTIC),)), "`zz` is not defined"),
    "score": (lambda p: replace(p, score=add(p.score, STATISTIC)), "`zz` is not defined"),
    "mask": (lambda p: replace(p, mask=below(p.mask, STATISTIC)), "`zz` is not defined"),
    "empty": (lambda p: replace(p, empty=STATISTIC), "`zz` is not defined"),
    "values": (lambda p: replace(p, values="x9"), "values `x9`"),
    "coordinate": (lambda p: replace(p, mask=below(p.mask, GridCoord("q", 0))), "a grid coordinate"),
    "in_grid": (lambda p: replace(p, mask=Call("in_grid", (Index("i"),), BOOL)), "in_grid"),
    "size": (lambda p: replace(p, score=add(p.score, Call("real", (Size("D"),), REAL))), "in a plan"),
    "reduction": (lambda p: replace(p, score=Reduce("sum", "j", p.score, None, REAL)), "a reduction in a plan"),
    "tensor": (lambda p: replace(p, score=add(p.score, Lookup("x9", (Index("b"),), REAL))), "unknown tensor"),
    "derived": (lambda p: replace(p, derived=(Derived("x0", "q", "H", UNKNOWN),)), "unknown tensor"),
    "derived_statistic": (lambda p: replace(p, derived=(*p.derived, Derived("x9", "q", "H", STATISTIC))), "`zz` is"),
    "dot_left": (lambda p: replace(p, dots=(DotTerm("dot0", "x9", "k", 8),)), "x9"),
    "dot_right": (lambda p: replace(p, dots=(DotTerm("dot0", "q", "x9", 8),)), "x9"),
    "pair_dot": (lambda p: replace(p, pair_dots=(PairDot("pair0", UNKNOWN, UNKNOWN, 8),)), "x9"),
    "two_accumulators": (lambda p: with_accumulator(p, last(p), name="a0"), "a0"),
    "two_visits": (lambda p: replace(p, parts=(replace(p.parts[0], visits=p.parts[0].visits[:1] * 2),)), "two visits"),
    "step": (lambda p: with_piece(p, step=0), "a step below 1"),
    "bounds": (lambda p: with_piece(p, high=real_const(1.0)), "no ints"),
    "guard": (lambda p: with_piece(p, guard=int_const(1)), "guard"),
    "visit_by_row": (read_by_row, "`i`"),
    "visit_statistic": (lambda p: with_piece(p, low=Ref("zz", INT)), "`zz` is not defined"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_a_broken_plan_is_found(name: str) -> None:
    break_it, words = PLANS[name]
    with pytest.raises(InternalError) as found:
        verify_plan(break_it(plan()))
    assert words in str(found.value)


def test_the_plan_that_is_broken_here_is_sound() -> None:
    found = plan()
    verify_plan(found)
    assert len(found.sweeps) == 2
    assert found.derived
    assert found.mask not in (TRUE, FALSE)

"""One call of an op against the oracle, under the rule for errors of `attnc.verify`."""

from __future__ import annotations

from dataclasses import replace

from attnc.drawing import Case, draw
from attnc.ops import Op
from attnc.verify import Comparison, compare

#: Errors beyond this multiple of what is allowed are wrong results, not bad luck.
WRONG = 8.0
#: Further draws that decide about a smaller excess.
REPEATS = 6


def comparisons(op: Op, case: Case) -> list[Comparison]:
    """The output and every statistic of the case's call."""
    inputs = draw(op.module, case)
    out, aux = op(inputs.q, inputs.k, inputs.v, return_aux=True, **inputs.keywords)
    assert out.dtype == inputs.q.dtype
    assert list(aux) == [binding.name for binding in op.module.aux]
    return compare(op, inputs, {"out": out, **aux})


def assert_agrees(op: Op, case: Case) -> None:
    """The rule compares the roundings of two evaluations, so a sound op exceeds it now and then, by little.

    (One small draw in two hundred.) Such a draw is repeated with other numbers: an op that is less exact than the
    rule allows exceeds it most of the time.
    """
    wrong = _excesses(op, case)
    if not wrong:
        return
    assert all(result.error <= WRONG * result.allowed for result in wrong), wrong
    again = [_excesses(op, replace(case, seed=case.seed + 1000 + n)) for n in range(REPEATS)]
    assert sum(map(bool, again)) <= REPEATS // 2, (wrong, again)


def _excesses(op: Op, case: Case) -> list[Comparison]:
    return [result for result in comparisons(op, case) if not result.passed]

"""Measuring an op and its peers: in turn, in one process, and only what computes the same thing.

Before anything is timed the op is compared with its oracle at a small size, and every peer with the op. A peer whose
result differs by more than rounding computes something else, and has no ratio.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from time import perf_counter
from typing import Any, Literal, cast

import torch
from torch import Tensor

from attnc.benchmark.peers import PEERS, Attend
from attnc.benchmark.problem import CannotError, Problem, make_problem
from attnc.diagnostics import AttncError, CallError
from attnc.drawing import Case
from attnc.ops import Op
from attnc.verify import compare, compare_gradients
from attnc.verify_gradients import op_gradients

Pass = Literal["forward", "backward"]
Status = Literal["ok", "differs", "cannot", "failed"]
#: The name of the op's own rows.
OP = "attnc"
#: At most so many queries and keys in the comparison before the timing.
SMALL = 96
#: What rounding explains, of the largest value of a result: so many units of the dtype, at least this much.
_ROUNDINGS, _LEAST = 16, 1e-4
#: A round calls a short function again until it took so many seconds.
_ROUND_SECONDS, _MOST_CALLS = 0.01, 100


@dataclass(frozen=True, slots=True)
class Row:
    """One implementation in one pass. `rounds` are seconds of a call, `setup` those of everything up to the first.

    `ratio` is the time in units of the op's, None for what computes something else or did not run; `difference` is the
    largest from the op's result in the same run.
    """

    name: str
    which: Pass
    status: Status
    note: str = ""
    rounds: tuple[float, ...] = ()
    setup: float | None = None
    difference: float | None = None
    ratio: float | None = None

    @property
    def seconds(self) -> float | None:
        """The median."""
        return median(self.rounds) if self.rounds else None


@dataclass(frozen=True, slots=True)
class _Entrant:
    """What is timed, the seconds that building it took, and how it was given the spec."""

    name: str
    attend: Attend
    setup: float = 0.0
    note: str = ""


@dataclass(slots=True)
class _Run:
    """An entrant in one pass: how to call it, and what came of that."""

    entrant: _Entrant
    sample: Sample
    results: Results
    setup: float
    calls: int
    rounds: list[float] = field(default_factory=list[float])


Results = tuple[Tensor, ...]
#: One call: the seconds that the pass took, and its results.
Sample = Callable[[], tuple[float, Results]]


def benchmark(
    op: Op, case: Case, peers: Sequence[str], *, device: str, repeats: int = 5, passes: Sequence[Pass] = ("forward",)
) -> list[Row]:
    """The rows of one size: pass by pass, in each the op first, then the peers in the order given.

    Raises CallError when the op refuses the call or its own result is wrong, UndrawableError, SpecError.
    """
    problem = make_problem(op.module, case, device)
    small = make_problem(op.module, _small(case), device)
    with quiet():
        check_op(op, small)
        entrants = [_Entrant(OP, attend_with(op, problem))]
        refused: dict[str, Row] = {}
        for name in peers:
            found = _enter(name, op, problem, small)
            if isinstance(found, Row):
                refused[name] = found
            else:
                entrants.append(found)
        rows: list[Row] = []
        for which in passes:
            measured = _measure(op, problem, small, entrants, which, repeats)
            known = {**{name: replace(row, which=which) for name, row in refused.items()}, **measured}
            rows += [known[name] for name in (OP, *peers) if name in known]
    return rows


@contextmanager
def quiet() -> Generator[None]:
    """Without the warnings of libraries: they say nothing about the op."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _small(case: Case) -> Case:
    return replace(case, dtype="fp32", queries=min(case.queries, SMALL), keys=min(case.keys, SMALL))


# -- the same thing? -------------------------------------------------------------------------------------------------


def attend_with(op: Op, problem: Problem) -> Attend:
    """The op as a function of q, k and v alone."""
    keywords = problem.inputs.keywords
    return lambda q, k, v: op(q, k, v, **keywords)


def check_op(op: Op, small: Problem) -> None:
    """Compare the op with its oracle: what is wrong is not timed. Raises CallError."""
    inputs = small.inputs
    with torch.no_grad():
        out, aux = op(inputs.q, inputs.k, inputs.v, return_aux=True, **inputs.keywords)
    _refuse_wrong(compare(op, inputs, {"out": out, **aux}))


def _refuse_wrong(comparisons: Sequence[Any]) -> None:
    for item in comparisons:
        if not item.passed:
            message = f"its largest error is {item.error:.3g}, allowed is {item.allowed:.3g}; `attnc verify` says more"
            raise CallError(f"nothing was timed, as {item.name} is wrong at a small size: {message}")


def _enter(name: str, op: Op, problem: Problem, small: Problem) -> _Entrant | Row:
    """A peer that computes what the op does, or the row that says why not."""
    try:
        trial = PEERS[name](small, compiled=False).attend
        found, wanted = _results(trial, small, "forward"), _results(attend_with(op, small), small, "forward")
        if not same(found, wanted):
            note = f"computes something else: differs by {difference(found, wanted):.2g} at a small size"
            return Row(name, "forward", "differs", note)
        start = perf_counter()
        peer = PEERS[name](problem)
        return _Entrant(name, peer.attend, perf_counter() - start, peer.note)
    except Exception as error:
        return _failure(name, "forward", error)


def _failure(name: str, which: Pass, error: Exception) -> Row:
    status: Status = "cannot" if isinstance(error, CannotError | AttncError) else "failed"
    return Row(name, which, status, _reason(error))


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "not enough memory"
    return lines[0] if len(lines[0]) <= 160 else f"{lines[0][:160]}..."


def difference(found: Results, wanted: Results) -> float:
    """The largest absolute difference; infinite where one alone is no number, or the shapes differ."""
    return max((_difference(a, b) for a, b in zip(found, wanted, strict=True)), default=0.0)


def _difference(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    if not found.numel():
        return 0.0
    equal = (found == wanted) | (found.isnan() & wanted.isnan())
    return float(torch.where(equal, 0.0, (found.float() - wanted.float()).abs().nan_to_num(float("inf"))).max())


def same(found: Results, wanted: Results) -> bool:
    """Whether rounding explains how two results differ."""
    return all(_difference(a, b) <= _bound(b) for a, b in zip(found, wanted, strict=True))


def _bound(wanted: Tensor) -> float:
    values = wanted.float().abs()
    scale = float(torch.where(values.isfinite(), values, 0.0).max()) if values.numel() else 0.0
    return max(_ROUNDINGS * torch.finfo(wanted.dtype).eps, _LEAST) * scale + 1e-6


# -- one pass --------------------------------------------------------------------------------------------------------


def _measure(
    op: Op, problem: Problem, small: Problem, entrants: Sequence[_Entrant], which: Pass, repeats: int
) -> dict[str, Row]:
    """The rows of one pass by name; where the op has no such pass, its own alone."""
    rows: dict[str, Row] = {}
    runs: list[_Run] = []
    for entrant in entrants:
        try:
            if which == "backward":
                _check_gradients(op, entrant, small)
            runs.append(_warm_up(entrant, problem, which))
        except Exception as error:
            if entrant.name == OP and which == "forward":
                raise CallError(_reason(error)) if isinstance(error, MemoryError) else error from None
            rows[entrant.name] = _failure(entrant.name, which, error)
            if entrant.name == OP:
                return rows
    for number in range(repeats):
        turn = number % len(runs)
        for run in runs[turn:] + runs[:turn]:
            run.rounds.append(sum(run.sample()[0] for _ in range(run.calls)) / run.calls)
    return {**rows, **{run.entrant.name: _row(run, runs[0], which) for run in runs}}


def _check_gradients(op: Op, entrant: _Entrant, small: Problem) -> None:
    """The op's against the oracle, a peer's against the op's. Raises CannotError, CallError."""
    if entrant.name == OP:
        gradients = op_gradients(op, small.inputs)
        _refuse_wrong(compare_gradients(op, small.inputs, gradients))
        return
    trial = PEERS[entrant.name](small, compiled=False).attend
    found, wanted = _results(trial, small, "backward"), _results(attend_with(op, small), small, "backward")
    if not same(found, wanted):
        raise CannotError(f"computes something else: differs by {difference(found, wanted):.2g} at a small size")


def _results(attend: Attend, problem: Problem, which: Pass) -> Results:
    return _sampler(attend, problem, which)()[1]


def _sampler(attend: Attend, problem: Problem, which: Pass) -> Sample:
    inputs = problem.inputs
    if which == "forward":

        def forward() -> tuple[float, Results]:
            with torch.no_grad():
                start = _now(problem)
                out = attend(inputs.q, inputs.k, inputs.v)
                return _now(problem) - start, (out,)

        return forward
    leaves = [tokens.detach().requires_grad_() for tokens in (inputs.q, inputs.k, inputs.v)]

    def backward() -> tuple[float, Results]:
        out = attend(*leaves)
        count = torch.arange(out.numel(), device=out.device).view(out.shape)
        weights = ((count * 7 % 9 - 4) / 4).to(out.dtype)
        start = _now(problem)
        found = cast(Any, torch.autograd).grad(out, leaves, weights)
        return _now(problem) - start, tuple(found)

    return backward


def _now(problem: Problem) -> float:
    if problem.device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter()


def _warm_up(entrant: _Entrant, problem: Problem, which: Pass) -> _Run:
    sample = _sampler(entrant.attend, problem, which)
    start = perf_counter()
    _, results = sample()
    setup = perf_counter() - start + (entrant.setup if which == "forward" else 0.0)
    seconds, _ = sample()
    calls = min(_MOST_CALLS, max(1, round(_ROUND_SECONDS / max(seconds, 1e-9))))
    return _Run(entrant, sample, results, setup, calls)


def _row(run: _Run, first: _Run, which: Pass) -> Row:
    name, note, rounds = run.entrant.name, run.entrant.note, tuple(run.rounds)
    if run is first:
        return Row(name, which, "ok", note, rounds, run.setup, None, 1.0)
    found = difference(run.results, first.results)
    if not same(run.results, first.results):
        return Row(name, which, "differs", f"computes something else ({note})", rounds, run.setup, found)
    return Row(name, which, "ok", note, rounds, run.setup, found, median(rounds) / median(first.rounds))

"""Whether a back end computes what a spec means: the rule for errors, and a property test of a spec.

The rule (`allowed_error`): the oracle is `op.reference` in float64. A tensor passes when its largest absolute error is
at most twice that of the plain same-dtype torch evaluation of the same formula, plus two units in the last place of
the output's scale.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

import torch
from torch import Tensor

from attnc.diagnostics import CallError, SpecError
from attnc.drawing import Case, Inputs, Scalar, Static, UndrawableError, draw
from attnc.driver import check, load_spec, select
from attnc.frontend.bind import bind
from attnc.ir.module import AttentionModule
from attnc.ops import Op
from attnc.verify_plain import Results, evaluate_plainly

BackendName = Literal["torch", "interpret"]
#: What the error of a back end may exceed that of the plain evaluation by; sound fp32 backwards need eight.
FACTOR = 2.0
GRADIENT_FACTOR = 8.0
#: The code of a static parameter without a value.
_MISSING = "E502"
#: Seconds that shrinking a failure may take.
SHRINKING = 60.0


# -- the rule --------------------------------------------------------------------------------------------------------


def allowed_error(exact: Tensor, plain: Tensor, dtype: torch.dtype, *, factor: float = FACTOR) -> float:
    """The largest absolute error that a result of type `dtype` may have, by the rule of this module.

    `exact` is the oracle's, `plain` that of the plain evaluation, whose error counts where both are finite.
    """
    exact, plain = exact.double(), plain.double()
    finite = exact.isfinite() & plain.isfinite()
    rounding = float((plain - exact)[finite].abs().max()) if bool(finite.any()) else 0.0
    scale = float(exact[exact.isfinite()].abs().max()) if bool(exact.isfinite().any()) else 0.0
    info = torch.finfo(dtype)
    return factor * rounding + 2 * info.eps * max(scale, info.smallest_normal)


def largest_error(found: Tensor, exact: Tensor) -> float:
    """The largest absolute error of a result: infinite where the oracle is no finite number of its dtype and the
    result is not the same, or the other way round.
    """
    if found.shape != exact.shape:
        return float("inf")
    rounded = exact.to(found.dtype).double()
    found, exact = found.double(), exact.double()
    same = (found == rounded) | (found.isnan() & rounded.isnan())
    error = torch.where(rounded.isfinite(), (found - exact).abs(), torch.where(same, 0.0, float("inf")))
    return float(error.nan_to_num(nan=float("inf"), posinf=float("inf")).max()) if error.numel() else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """One tensor of a result against the oracle."""

    name: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed


def compare(op: Op, inputs: Inputs, found: Results) -> list[Comparison]:
    """The output and the statistics of a call, `found`, against the oracle's."""
    out, aux = op.reference(inputs.q, inputs.k, inputs.v, return_aux=True, **inputs.keywords)
    exact: Results = {"out": out, **aux}
    plain = plain_results(op, inputs, exact)
    return [
        Comparison(
            name, largest_error(found[name], exact[name]), allowed_error(exact[name], plain[name], found[name].dtype)
        )
        for name in exact
    ]


def plain_results(op: Op, inputs: Inputs, exact: Mapping[str, Tensor]) -> Results:
    """The plain evaluation that the rule asks for: in the dtype of the inputs, or rounded to it at the end.

    The latter where the back end does so (bfloat16 in the interpreter) and for a tensor with which the former
    leaves the range of the dtype although the exact values are inside.
    """
    dtype = inputs.q.dtype
    rounds_once = op.backend == "interpret" and dtype == torch.bfloat16
    plain = {} if rounds_once else evaluate_plainly(op.module, inputs, dtype)
    fits = {name: bool((plain[name].isfinite() | ~exact[name].isfinite()).all()) for name in plain}
    if len(fits) == len(exact) and all(fits.values()):
        return plain
    once = {name: x.to(dtype) for name, x in evaluate_plainly(op.module, inputs, torch.float32).items()}
    return {name: plain[name] if fits.get(name) else once[name] for name in exact}


# -- one case --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """What is verified: an attention of a spec (`source` is its text where there is no file) on a back end."""

    spec: str
    backend: BackendName
    source: str | None = None
    attention: str | None = None
    params: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])

    def load(self) -> AttentionModule:
        """The attention before its static parameters are given. Raises SpecError."""
        return select(check(load_spec(self.spec, self.source)), self.attention)

    def compile(self, module: AttentionModule, static: Static = ()) -> Op:
        """The op of the loaded attention, with `static` beside the given parameters. Raises SpecError."""
        return Op(bind(module, {**self.params, **dict(static)}), self.backend, None)


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that a back end does not compute as the oracle does. `kind` tells failures apart while shrinking."""

    kind: str
    message: str
    case: Case
    snippet: str


class RefusedError(Exception):
    """The op refuses the arguments of a case with a CallError."""


def run_case(op: Op, case: Case, target: Target) -> Failure | None:
    """Run one case and compare. Raises RefusedError, UndrawableError, and SpecError for what cannot be compiled."""
    inputs = draw(op.module, case)
    snippet = program(target, case, inputs, "out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is slow, and what numpy says about the interpreter's divisions
            out, aux = op(inputs.q, inputs.k, inputs.v, return_aux=True, **inputs.keywords)
    except CallError as error:
        raise RefusedError(str(error)) from error
    except SpecError:
        raise
    except Exception as error:
        return Failure(f"raises {type(error).__name__}", _first_lines(error), case, snippet)
    try:
        comparisons = compare(op, inputs, {"out": out, **aux})
    except CallError as error:
        return Failure("oracle refuses", f"the op takes this call, op.reference does not: {error}", case, snippet)
    if out.dtype != inputs.q.dtype:
        return Failure("dtype", f"out is {out.dtype}, not {inputs.q.dtype} as q", case, snippet)
    worst = [item for item in comparisons if not item.passed]
    if not worst:
        return None
    name, error, allowed = worst[0].name, worst[0].error, worst[0].allowed
    message = f"largest error of {name} is {error:.3g}, allowed is {allowed:.3g}"
    return Failure(f"error of {name}", message, case, program(target, case, inputs, name))


def _first_lines(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "\n".join([f"{type(error).__name__}: {lines[0] if lines else ''}", *lines[1:6]])


def program(target: Target, case: Case, inputs: Inputs, name: str) -> str:
    """A Python program that makes the inputs of a case and prints the largest error of `name`."""
    given: dict[str, str] = {key: inputs.lines.get(key, repr(value)) for key, value in inputs.keywords.items()}
    call = [f"    {key!r}: {text}," for key, text in given.items()]
    params = {**target.params, **dict(case.static)}
    arguments = [repr(target.spec), f"source={target.source!r}" if target.source is not None else ""]
    arguments += [f"attention={target.attention!r}" if target.attention else "", f"backend={target.backend!r}"]
    arguments += [f"params={params!r}" if params else ""]
    found, exact = ("out", "exact") if name == "out" else (f"aux[{name!r}]", f"exact_aux[{name!r}]")
    return "\n".join(
        [
            "import torch",
            "",
            "import attnc",
            "",
            f"torch.manual_seed({case.seed})",
            *(f"{token} = {inputs.lines[token]}" for token in ("q", "k", "v")),
            *(["call = {", *call, "}"] if call else ["call = {}"]),
            f"op = attnc.compile({', '.join(filter(None, arguments))})",
            "out, aux = op(q, k, v, return_aux=True, **call)",
            "exact, exact_aux = op.reference(q, k, v, return_aux=True, **call)",
            f"print(({found}.double() - {exact}).abs().max())",
            "",
        ]
    )


# -- the property ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found. `refused` are calls that the op does not take, by what it says."""

    target: Target
    ran: int
    refused: Mapping[str, int]
    failure: Failure | None

    @property
    def passed(self) -> bool:
        return self.failure is None and self.ran > 0


class _Search:
    """The predicate that hypothesis minimises. It remembers, so that the last run of the minimum agrees."""

    def __init__(self, target: Target, progress: Callable[[], None]) -> None:
        self.module = target.load()
        self.target = target
        self._progress = progress
        self._ops: dict[Static, Op] = {}
        self._known: dict[Case, Failure | None] = {}
        self._until = float("inf")
        self.kind: str | None = None
        self.ran = 0
        self.refused: dict[str, int] = {}
        self.stopped: SpecError | None = None

    def op(self, static: Static) -> Op:
        if static not in self._ops:
            self._ops[static] = self.target.compile(self.module, static)
        return self._ops[static]

    def fails(self, case: Case) -> bool:
        if case not in self._known and self.stopped is None and monotonic() < self._until:
            self._known[case] = self._run(case)
        failure = self._known.get(case)
        if failure is None:
            return False
        if self.kind is None:
            self.kind, self._until = failure.kind, monotonic() + SHRINKING
        return failure.kind == self.kind

    def failure(self, case: Case) -> Failure | None:
        return self._known[case]

    def _run(self, case: Case) -> Failure | None:
        try:
            failure = run_case(self.op(case.static), case, self.target)
        except RefusedError as error:
            self.refused[str(error)] = self.refused.get(str(error), 0) + 1
            return None
        except UndrawableError:
            return None
        except SpecError as error:
            self.stopped = error
            return None
        if self.kind is None:
            self.ran += 1
            self._progress()
        return failure


def _nothing() -> None:
    return


def verify(target: Target, *, examples: int = 50, seed: int = 0, progress: Callable[[], None] = _nothing) -> Outcome:
    """Compare a back end with the oracle on random calls; a call that differs is shrunk to a simple one.

    `progress` is called after every call but those of the shrinking. Raises SpecError.
    """
    from attnc.verify_cases import LIMITS, cases, search

    state = _Search(target, progress)
    _check_given(state)
    strategy = cases(state.module, lambda static: state.op(static).module, tuple(target.params), LIMITS[target.backend])
    found = search(strategy, state.fails, examples=examples, seed=seed)
    if state.stopped is not None:
        raise state.stopped
    return Outcome(target, state.ran, state.refused, None if found is None else state.failure(found))


def _check_given(state: _Search) -> None:
    """Raise SpecError for given parameters that are wrong; those that are missing will be drawn."""
    try:
        state.op(())
    except SpecError as error:
        wrong = [diagnostic for diagnostic in error.diagnostics if diagnostic.code != _MISSING]
        if wrong:
            raise SpecError(wrong) from None

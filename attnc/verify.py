"""Whether a back end computes what a spec means: the rule for errors, and a property test of a spec.

The rule (`allowed_error`): the oracle is `op.reference` in float64. A tensor passes when its largest absolute error is
at most twice that of the plain same-dtype torch evaluation of the same formula, plus two units in the last place of
the output's scale.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Literal

import torch
from torch import Tensor

from attnc.diagnostics import CallError, SpecError
from attnc.drawing import Case, Inputs, Scalar, Static, UndrawableError, draw
from attnc.driver import check, load_spec, select
from attnc.frontend.bind import bind
from attnc.frontend.tables import tables_of_values, with_written
from attnc.ir.module import AttentionModule
from attnc.ops import Op
from attnc.tables import constants_of
from attnc.verify_gradients import exact_gradients, op_gradients, plain_gradients
from attnc.verify_plain import Results, evaluate_plainly

BackendName = Literal["torch", "interpret", "cpp"]
#: What the error of a back end may exceed that of the plain evaluation by; sound fp32 backwards need eight.
FACTOR = 2.0
GRADIENT_FACTOR = 8.0
#: The code of a static parameter without a value.
_MISSING = "E502"
#: Seconds that shrinking a failure may take.
SHRINKING = 60.0
#: Refused calls after which a search without any other ends.
HOPELESS = 20


# -- the rule --------------------------------------------------------------------------------------------------------


def allowed_error(exact: Tensor, plain: Tensor, dtype: torch.dtype, *, factor: float = FACTOR) -> float:
    """The largest absolute error that a result of type `dtype` may have, by the rule of this module.

    `exact` is the oracle's, `plain` that of the plain evaluation, whose error counts where both are finite.
    """
    exact, plain = exact.double(), plain.double()
    finite = exact.isfinite()
    rounding = _largest(torch.where(finite & plain.isfinite(), plain - exact, 0.0))
    scale = _largest(torch.where(finite, exact, 0.0))
    info = torch.finfo(dtype)
    return factor * rounding + 2 * info.eps * max(scale, info.smallest_normal)


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


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
    return _largest(error.nan_to_num(nan=float("inf"), posinf=float("inf")))


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
    rounds_once = op.backend == "interpret" and inputs.q.dtype == torch.bfloat16
    plain = _yardstick(
        exact, inputs.q.dtype, lambda dtype: evaluate_plainly(op.module, inputs, dtype), rounds_once=rounds_once
    )
    return [_comparison(name, found.get(name), exact[name], plain[name], FACTOR) for name in exact]


def compare_gradients(op: Op, inputs: Inputs, found: Results) -> list[Comparison]:
    """Gradients by the names of the inputs, as `op_gradients` makes them, against the oracle's."""
    exact = exact_gradients(op, inputs)
    plain = _yardstick(exact, inputs.q.dtype, lambda dtype: plain_gradients(op, inputs, dtype))
    return [
        replace(item, name=f"gradient of {item.name}")
        for item in (_comparison(name, found[name], exact[name], plain[name], GRADIENT_FACTOR) for name in exact)
    ]


def _comparison(name: str, found: Tensor | None, exact: Tensor, plain: Tensor, factor: float) -> Comparison:
    if found is None:
        return Comparison(name, float("inf"), 0.0)
    return Comparison(name, largest_error(found, exact), allowed_error(exact, plain, found.dtype, factor=factor))


def _yardstick(
    exact: Results, dtype: torch.dtype, evaluate: Callable[[torch.dtype], Results], *, rounds_once: bool = False
) -> Results:
    """The plain evaluation that the rule asks for: in the dtype of the inputs, or rounded to it at the end.

    The latter where the back end does so (bfloat16 in the interpreter) and for a tensor with which the former
    leaves the range of the dtype although the exact values are inside.
    """
    plain = {} if rounds_once else evaluate(dtype)
    fits = {name: bool((plain[name].isfinite() | ~exact[name].isfinite()).all()) for name in plain}
    if len(fits) == len(exact) and all(fits.values()):
        return plain
    once = {name: x.to(dtype) for name, x in evaluate(torch.float32).items()}
    return {name: plain[name] if fits.get(name) else once[name] for name in exact}


# -- one case --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """What is verified: an attention of a spec (`source` is its text where there is no file) on a back end.

    `tensors` are values of its static tensors, as tensors or as lists.
    """

    spec: str
    backend: BackendName
    source: str | None = None
    attention: str | None = None
    params: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    tensors: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def load(self) -> AttentionModule:
        """The attention before its static parameters are given. Raises SpecError."""
        return with_written(
            select(check(load_spec(self.spec, self.source)), self.attention), tables_of_values(self.tensors)
        )

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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is slow, and what numpy says about the interpreter's divisions
            out, aux = op(inputs.q, inputs.k, inputs.v, return_aux=True, **inputs.keywords)
            gradients = op_gradients(op, inputs) if case.gradients else {}
    except CallError as error:
        raise RefusedError(str(error)) from error
    except SpecError as error:
        if {diagnostic.code for diagnostic in error.diagnostics} == {"E403"}:  # not for this head dimension
            raise RefusedError(error.diagnostics[0].title) from error
        raise
    except Exception as error:
        return Failure(f"raises {type(error).__name__}", _first_lines(error), case, program(target, case, inputs))
    if out.dtype != inputs.q.dtype:
        return Failure("dtype", f"out is {out.dtype}, q {inputs.q.dtype}", case, program(target, case, inputs))
    try:
        comparisons = compare(op, inputs, {"out": out, **aux})
        comparisons += compare_gradients(op, inputs, gradients) if gradients else []
    except CallError as error:
        return Failure("oracle", f"op.reference refuses: {error}", case, program(target, case, inputs))
    for item in comparisons:
        if not item.passed:
            message = f"largest error of {item.name} is {item.error:.3g}, allowed is {item.allowed:.3g}"
            return Failure(f"error of {item.name}", message, case, program(target, case, inputs, item.name))
    return None


def _first_lines(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "\n".join([f"{type(error).__name__}: {lines[0] if lines else ''}", *lines[1:6]])


def program(target: Target, case: Case, inputs: Inputs, name: str = "out") -> str:
    """A Python program that makes the inputs of a case and prints the largest error of `name`."""
    given: dict[str, str] = {key: inputs.lines.get(key, repr(value)) for key, value in inputs.keywords.items()}
    call = [f"    {key!r}: {text}," for key, text in given.items()]
    params = {**target.params, **dict(case.static)}
    arguments = [repr(target.spec), f"source={target.source!r}" if target.source is not None else ""]
    arguments += [f"attention={target.attention!r}" if target.attention else "", f"backend={target.backend!r}"]
    arguments += [f"params={params!r}" if params else ""]
    static = ", ".join(f"{name!r}: {inputs.lines[name]}" for name in sorted(inputs.static))
    arguments += [f"tensors={{{static}}}" if static else ""]
    return "\n".join(
        [
            "import torch",
            "",
            "import attnc",
            "from attnc.verify import errors",
            "",
            f"torch.manual_seed({case.seed})",
            *(f"{token} = {inputs.lines[token]}" for token in ("q", "k", "v")),
            *(["call = {", *call, "}"] if call else ["call = {}"]),
            f"op = attnc.compile({', '.join(filter(None, arguments))})",
            f"print(errors(op, q, k, v{', gradients=True' if case.gradients else ''}, **call)[{name!r}])",
            "",
        ]
    )


def errors(op: Op, q: Tensor, k: Tensor, v: Tensor, *, gradients: bool = False, **call: Any) -> dict[str, float]:
    """Largest errors of a call against the oracle: of "out", of statistics, and of gradients ("gradient of q")."""
    static = constants_of(op.module)
    tensors = static | {t.name: call.pop(t.name) for t in op.module.tensors if t.name not in static}
    params = {param.name: call.pop(param.name) for param in op.module.scalars if param.name in call}
    inputs = Inputs(q, k, v, tensors, params, call, static=frozenset(static))
    out, aux = op(q, k, v, return_aux=True, **inputs.keywords)
    compared = compare(op, inputs, {"out": out, **aux})
    if gradients:
        compared += compare_gradients(op, inputs, op_gradients(op, inputs))
    return {item.name: item.error for item in compared}


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
        self.last_error: SpecError | None = None

    def op(self, static: Static) -> Op:
        if static not in self._ops:
            self._ops[static] = self.target.compile(self.module, static)
        return self._ops[static]

    def fails(self, case: Case) -> bool | None:
        """None for a case that is no call of this op."""
        if case not in self._known and monotonic() < self._until and not self._hopeless:
            try:
                self._known[case] = run_case(self.op(case.static), case, self.target)
            except UndrawableError:
                return None
            except RefusedError as error:
                return self._refuse(str(error))
            except SpecError as error:
                self.last_error = error
                return self._refuse(error.diagnostics[0].title)
            self._count()
        failure = self._known.get(case)
        if failure is None:
            return False
        if self.kind is None:
            self.kind, self._until = failure.kind, monotonic() + SHRINKING
        return failure.kind == self.kind

    def failure(self, case: Case) -> Failure | None:
        return self._known[case]

    @property
    def _hopeless(self) -> bool:
        return self.ran == 0 and sum(self.refused.values()) >= HOPELESS

    def _refuse(self, why: str) -> None:
        self.refused[why] = self.refused.get(why, 0) + 1

    def _count(self) -> None:
        if self.kind is None:
            self.ran += 1
            self._progress()


def _nothing() -> None:
    return


def verify(target: Target, *, examples: int = 50, seed: int = 0, progress: Callable[[], None] = _nothing) -> Outcome:
    """Compare a back end with the oracle on random calls; a call that differs is shrunk to a simple one.

    `progress` is called after every call but those of the shrinking. Raises SpecError.
    """
    from attnc.verify_cases import LIMITS, cases, search

    state = _Search(target, progress)
    _check_given(state)
    strategy = cases(
        state.module, lambda static: state.op(static).module, tuple(target.params.items()), LIMITS[target.backend]
    )
    found = search(strategy, state.fails, examples=examples, seed=seed)
    if state.ran == 0 and state.last_error is not None:
        raise state.last_error
    return Outcome(target, state.ran, state.refused, None if found is None else state.failure(found))


def _check_given(state: _Search) -> None:
    """Raise SpecError for given parameters that are wrong; those that are missing will be drawn."""
    try:
        state.op(())
    except SpecError as error:
        wrong = [diagnostic for diagnostic in error.diagnostics if diagnostic.code != _MISSING]
        if wrong:
            raise SpecError(wrong) from None

"""`attnc verify`: random calls of a spec, each compared with the oracle; a failure is shrunk to a short program."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from attnc.cli.output import plural
from attnc.cli.specs import (
    Scalar,
    Spec,
    attention_option,
    param_option,
    read_spec,
    seed_option,
    specs_argument,
    tensor_option,
)

if TYPE_CHECKING:
    from attnc.verify import Outcome, Target

_BACKENDS = {"torch": ("torch",), "interpret": ("interpret",), "cpp": ("cpp",), "all": ("torch", "interpret")}
#: Seconds without a progress bar.
_PATIENCE = 1.0


class Progress:
    """A bar on a terminal, from the second second on."""

    def __init__(self, title: str, total: int) -> None:
        self._title = title
        self._total = total
        self._done = 0
        self._start = monotonic()
        self._bar: Any = None

    def __call__(self) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
        elif sys.stderr.isatty() and monotonic() - self._start > _PATIENCE:
            self._show()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import Progress as Bar

        self._bar = Bar(console=Console(stderr=True), transient=True)
        self._task: Any = self._bar.add_task(self._title, total=self._total, completed=self._done)
        self._bar.start()

    @property
    def shown(self) -> bool:
        return self._bar is not None

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@click.command("verify", short_help="Compare back ends with the oracle on random calls.")
@specs_argument
@click.option(
    "--backend", type=click.Choice(tuple(_BACKENDS)), default="all", show_default=True, help="all: torch and interpret."
)
@click.option("--examples", type=click.IntRange(1), default=40, show_default=True, help="Calls for each back end.")
@param_option
@tensor_option
@attention_option
@seed_option
@click.pass_context
def command(
    ctx: click.Context,
    specs: tuple[str, ...],
    backend: str,
    examples: int,
    params: tuple[tuple[str, Scalar], ...],
    attention: str | None,
    seed: int,
) -> None:
    """Compare back ends with the dense float64 oracle on random calls.

    Shapes, dtypes, strides, offsets, packed documents, tensors and the parameters that --param does not give are
    drawn. The same seed draws the same calls. A call that fails is shrunk and printed as a program.
    """
    passed = True
    for name in dict.fromkeys(specs):
        spec = read_spec(name)
        for wanted in attentions(spec, attention):
            for each in _BACKENDS[backend]:
                passed &= _verify(spec, wanted, each, dict(params), examples, seed)
    ctx.exit(0 if passed else 1)


def attentions(spec: Spec, wanted: str | None) -> list[str]:
    """The one that is wanted, else all of the file. Raises SpecError."""
    from attnc.driver import select

    checked = spec.check()
    if wanted is not None or not checked.modules:
        return [select(checked, wanted).name]
    return [module.name for module in checked.modules]


def _verify(spec: Spec, attention: str, backend: Any, params: dict[str, Scalar], examples: int, seed: int) -> bool:
    from attnc.verify import Target, verify

    target = Target(spec.name, backend, spec.text, attention, params, spec.tables)
    progress = Progress(f"{attention}, {backend}", examples)
    start = monotonic()
    try:
        outcome = verify(target, examples=examples, seed=seed, progress=progress)
    finally:
        progress.close()
    _report(target, outcome, monotonic() - start)
    return outcome.passed


def _report(target: Target, outcome: Outcome, seconds: float) -> None:
    verdict = "ok" if outcome.passed else "FAILED"
    color = "green" if outcome.passed else "red"
    found = f"{plural(outcome.ran, 'call')}, {seconds:.1f} s"
    click.echo(f"{click.style(verdict, fg=color, bold=True)} {target.attention}, {target.backend}: {found}")
    if outcome.refused:
        example = max(outcome.refused, key=lambda message: outcome.refused[message])
        click.echo(f"  {plural(sum(outcome.refused.values()), 'call')} refused: {example}", err=True)
    if outcome.failure is not None:
        click.echo(f"{outcome.failure.message}\n")
        click.echo(outcome.failure.snippet)
    elif not outcome.ran:
        click.echo("no call could be made: give parameters with --param, or declare their ranges in the spec", err=True)

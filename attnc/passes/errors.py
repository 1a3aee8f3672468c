"""What a checked spec may still ask that cannot be lowered: codes E4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from attnc.diagnostics import Diagnostic, Label, SpecError
from attnc.source import Span


@dataclass(frozen=True, slots=True)
class NotLowerable:
    """A construct that has a meaning (the oracle computes it) but no kernel yet."""

    what: str
    span: Span
    help: str

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            code="E401",
            title=f"{self.what} cannot be compiled to a kernel",
            primary=Label(self.span, "needed here"),
            note="the dense oracle `op.reference` computes it; see the list of limits in docs/language.md",
            help=self.help,
        )


@dataclass(frozen=True, slots=True)
class TooLarge:
    """An analysis that would exceed its bound."""

    what: str
    limit: int
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            code="E402",
            title=f"{self.what} exceeds the limit of {self.limit}",
            primary=Label(self.span),
            help="name intermediate results once instead of repeating them, or simplify the expression",
        )


@dataclass(frozen=True, slots=True)
class RotatedFeatures:
    """A rotation of features that the vector does not have, or of an odd number of them."""

    start: int
    dims: int
    length: int
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            code="E403",
            title=f"`rope` rotates features {self.start} to {self.start + self.dims - 1} of a vector of {self.length}",
            primary=Label(self.span, "here, for the D of this call"),
            note="it rotates pairs of features: their number is even, and all of them lie inside the vector",
            help=f"choose `start` and `dims` so that dims is even and start + dims <= {self.length}",
        )


@dataclass(frozen=True, slots=True)
class EmptyMask:
    """A mask that no pair fulfils, whatever the call. `parts` exclude each other; none where that is not known."""

    attention: str
    parts: tuple[str, ...]
    span: Span

    def diagnostic(self) -> Diagnostic:
        """The warning."""
        parts = " and ".join(f"`{part}`" for part in self.parts)
        return Diagnostic(
            code="W502",
            title=f"the mask of `{self.attention}` keeps no pair",
            primary=Label(self.span, "no query sees a key"),
            note=f"{parts} never hold{'s' if len(self.parts) == 1 else ' together'}" if self.parts else None,
            help="outputs of rows without keys are 0",
            severity="warning",
        )


@dataclass(frozen=True, slots=True)
class ZeroDivisor:
    """A divisor of a normalizer that can be 0 in a row with keys."""

    attention: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        """The warning, with the term as the text has it."""
        text = " ".join(self.span.text.split())
        return Diagnostic(
            code="W503",
            title=f"`{text}` can be 0 in a row that has keys, and divides",
            primary=Label(self.span, "the divisor"),
            note=f"`{self.attention}` would return inf or NaN there",
            help=f"add a small number, `{text} + 1e-6`, or choose with `where({text} > 0, ...)`",
            severity="warning",
        )


def fail(error: NotLowerable | RotatedFeatures | TooLarge) -> NoReturn:
    """Raise the error as a SpecError."""
    raise SpecError((error.diagnostic(),))

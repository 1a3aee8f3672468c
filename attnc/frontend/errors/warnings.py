"""W5: the spec is right, and probably not what was meant."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.diagnostics import Diagnostic, Label
from attnc.source import Span


@dataclass(frozen=True, slots=True)
class Unused:
    """A parameter, `let` or import that nothing reads."""

    what: str
    name: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "W501",
            f"{self.what} `{self.name}` is never read",
            Label(self.span),
            help="remove it, or read it",
            severity="warning",
        )

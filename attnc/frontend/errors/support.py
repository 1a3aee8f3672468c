"""E4: what the language has, or will have, and attnc cannot do."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.diagnostics import Diagnostic, Label
from attnc.source import Span

#: Where the limits are listed.
_TRACKED = "see docs/language.md, section Limits"


@dataclass(frozen=True, slots=True)
class NotYet:
    """A construct of the language that is not built; `instead` is the nearest thing that works."""

    what: str
    span: Span
    instead: str

    def diagnostic(self) -> Diagnostic:
        title = f"{self.what} is not supported yet"
        return Diagnostic("E410", title, Label(self.span), note=_TRACKED, help=self.instead)


@dataclass(frozen=True, slots=True)
class NotADeclaredBlock:
    """`recurrence` and `select`: read, kept, and not compiled."""

    kind: str
    name: str
    span: Span
    instead: str

    def diagnostic(self) -> Diagnostic:
        title = f"{self.kind} `{self.name}` cannot be compiled yet"
        return Diagnostic("E411", title, Label(self.span), note=_TRACKED, help=self.instead)


@dataclass(frozen=True, slots=True)
class Branches:
    """Several attentions in one."""

    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E412",
            "an attention of several branches is not supported yet",
            Label(self.span, "a branch"),
            note=_TRACKED,
            help="write one `attention` per branch and add their outputs in the model",
        )

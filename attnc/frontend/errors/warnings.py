"""W5: the spec is right, and probably not what was meant."""

from __future__ import annotations

from attnc.diagnostics import Diagnostic, Label
from attnc.source import Span


def unused(what: str, name: str, span: Span) -> Diagnostic:
    """W501: a parameter, `let` or import that nothing reads."""
    return Diagnostic(
        "W501",
        f"{what} `{name}` is never read",
        Label(span),
        help="remove it, or read it",
        severity="warning",
    )

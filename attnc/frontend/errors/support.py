"""E4: what the language has, or will have, and attnc cannot do."""

from __future__ import annotations

from attnc.diagnostics import Diagnostic, Label
from attnc.source import Span

#: Where the limits are listed.
_TRACKED = "see docs/language.md, section Limits"


def not_yet(what: str, span: Span, instead: str) -> Diagnostic:
    """E410: a construct of the language that is not built; `instead` is the nearest thing that works."""
    title = f"{what} is not supported yet"
    return Diagnostic("E410", title, Label(span), note=_TRACKED, help=instead)


def not_a_declared_block(kind: str, name: str, span: Span, instead: str) -> Diagnostic:
    """E411: `recurrence` and `select`: read, kept, and not compiled."""
    title = f"{kind} `{name}` cannot be compiled yet"
    return Diagnostic("E411", title, Label(span), note=_TRACKED, help=instead)


def branches(span: Span) -> Diagnostic:
    """E412: several attentions in one."""
    return Diagnostic(
        "E412",
        "an attention of several branches is not supported yet",
        Label(span, "a branch"),
        note=_TRACKED,
        help="write one `attention` per branch and add their outputs in the model",
    )

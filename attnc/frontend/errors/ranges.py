"""E317: bounds of ranges that read what is not known yet."""

from __future__ import annotations

from attnc.diagnostics import Diagnostic, Label
from attnc.source import Span


def bound_reads(param: str, name: str, why: str, span: Span, declared: Span) -> Diagnostic:
    """E317: a bound that reads a parameter without a value at that point."""
    return Diagnostic(
        "E317",
        f"bad range: the range of `{param}` reads `{name}`, {why}",
        Label(span),
        (Label(declared, "declared here"),),
        help="the range of a static parameter may read static parameters that stand before it",
    )

"""Comments of emitted code that point back to the spec."""

from __future__ import annotations

from attnc.ir.expr import Expr
from attnc.ir.printer import print_expr

#: Longer texts are cut: a comment is a pointer, not a copy.
_WIDTH = 80


def plain(text: str) -> str:
    """Text as it may stand in a comment or docstring of emitted code: one printable ASCII line, no quotes."""
    kept = "".join(char if char.isascii() and char.isprintable() else "?" for char in " ".join(text.split()))
    kept = kept.replace("\\", "/").replace('"', "'")
    return kept if len(kept) <= _WIDTH else f"{kept[: _WIDTH - 3]}..."


def describe(expr: Expr) -> str:
    """What an expression says and where it stands: `j <= i  (causal.attn:3)`."""
    span = expr.span
    where = f"  ({plain(span.source.name)}:{span.line})" if span.text else ""
    return f"{plain(print_expr(expr))}{where}"

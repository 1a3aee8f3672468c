"""Messages to the user, how they are drawn, and the errors that carry them.

May be imported by everything; imports only `source`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from attnc.source import Span

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Label:
    """A piece of source and the few words that stand under it."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `title` makes sense alone; `note` says why, `help` what to type.

    Codes: E1 syntax, E2 names, E3 types and shapes, E4 not lowerable, E5 calls and
    parameters given from outside, W5 performance and other warnings.
    """

    code: str
    title: str
    primary: Label | None = None
    secondary: tuple[Label, ...] = ()
    note: str | None = None
    help: str | None = None
    severity: Severity = "error"

    def to_json(self) -> dict[str, Any]:
        """Flat dictionary of the stable fields (`attnc check --json`)."""
        where: dict[str, Any] = {"file": None, "line": None, "column": None, "end_line": None, "end_column": None}
        if self.primary is not None:
            span = self.primary.span
            line, column = span.source.position(span.start)
            end_line, end_column = span.source.position(span.end)
            where = {
                "file": span.source.name,
                "line": line,
                "column": column,
                "end_line": end_line,
                "end_column": end_column,
            }
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.title,
            "label": self.primary.text if self.primary else None,
            "note": self.note,
            "help": self.help,
            **where,
        }


def _snippet(label: Label, marker: str, width: int) -> list[str]:
    source = label.span.source
    line, column = source.position(label.span.start)
    text = source.line(line)
    shown = text.replace("\t", " ")
    length = max(1, min(label.span.end - label.span.start, len(text) - column + 1))
    left = 0
    if len(shown) > 160:  # a bomb on one line must not flood the terminal
        left = max(0, column - 60)
        shown = shown[left : left + 160]
        length = max(1, min(length, left + 160 - column + 1))
    underline = " " * (column - 1 - left) + marker * length
    return [
        f"{line:>{width}} | {shown}",
        f"{'':>{width}} | {underline} {label.text}".rstrip(),
    ]


def render(diagnostic: Diagnostic) -> str:
    """The diagnostic as plain text in the layout that Rust made familiar."""
    head = f"{diagnostic.severity}[{diagnostic.code}]: {diagnostic.title}"
    lines = [head]
    width = 1
    if diagnostic.primary is not None:
        labels = [(diagnostic.primary, "^"), *((label, "-") for label in diagnostic.secondary)]
        labels.sort(key=lambda item: (item[0].span.source.name, item[0].span.start))
        width = max(len(str(label.span.line)) for label, _ in labels)
        span = diagnostic.primary.span
        line, column = span.source.position(span.start)
        lines.append(f"{'':>{width}}--> {span.source.name}:{line}:{column}")
        lines.append(f"{'':>{width}} |")
        for label, marker in labels:
            if label.span.source.name != span.source.name:
                lines.append(f"{'':>{width}} ::: {label.span.source.name}:{label.span.line}")
            lines += _snippet(label, marker, width)
        lines.append(f"{'':>{width}} |")
    if diagnostic.note:
        lines.append(f"{'':>{width}} = note: {diagnostic.note}")
    if diagnostic.help:
        lines.append(f"{'':>{width}} = help: {diagnostic.help}")
    return "\n".join(lines)


def render_all(diagnostics: Sequence[Diagnostic]) -> str:
    """All diagnostics, a blank line between two of them."""
    return "\n\n".join(render(diagnostic) for diagnostic in diagnostics)


class AttncError(Exception):
    """Base of everything that attnc raises on purpose."""


class SpecError(AttncError):
    """A spec, or what was given together with it, is wrong. `diagnostics` says where and why."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n" + render_all(self.diagnostics))


class CallError(AttncError, ValueError):
    """The arguments of a call do not fit the compiled op."""


class AttncWarning(UserWarning):
    """Something works, but not as fast or as exact as the user may expect."""


def warn_user(message: str) -> None:
    """An AttncWarning that points at the first line outside this package and the libraries that call it back."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("attnc", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, AttncWarning, stacklevel=level + 1)


class InternalError(AttncError):
    """A mistake of attnc itself."""

    def __init__(self, message: str) -> None:
        super().__init__(
            f"internal error in attnc: {message}\n"
            "This is a mistake in attnc, not in your input. Please report it with the spec and the call that caused it."
        )

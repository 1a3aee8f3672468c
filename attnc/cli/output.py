"""What the verbs print: diagnostics, errors, tables, JSON. Imports nothing slow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import click

from attnc.diagnostics import Diagnostic, render

#: Version of the layout of everything that --json prints.
JSON_VERSION = 1

_COLORS = {"error": "red", "warning": "yellow"}


def error(message: str) -> None:
    """One message about what is wrong, to stderr."""
    head, _, rest = message.partition("\n")
    click.echo(click.style("error", fg="red", bold=True) + click.style(f": {head}", bold=True), err=True)
    if rest:
        click.echo(rest, err=True)


def warning(message: str) -> None:
    """One message about what the user may want to know, to stderr."""
    click.echo(click.style("warning", fg="yellow", bold=True) + f": {message}", err=True)


def show_diagnostics(diagnostics: Iterable[Diagnostic], *, err: bool = True) -> None:
    """Diagnostics as text, each followed by a blank line."""
    for diagnostic in diagnostics:
        click.echo(f"{painted(diagnostic)}\n", err=err)


def painted(diagnostic: Diagnostic) -> str:
    """The diagnostic with colors, which click removes where nobody sees them."""
    color = _COLORS[diagnostic.severity]
    head, *rest = render(diagnostic).split("\n")
    kind, _, title = head.partition(": ")
    lines = [click.style(kind, fg=color, bold=True) + click.style(f": {title}", bold=True)]
    return "\n".join([*lines, *(_painted_line(line, color) for line in rest)])


def _painted_line(line: str, color: str) -> str:
    margin = re.match(r" *(\d+ )?(-->|:::|\||=) ?", line)
    if margin is None:
        return line
    rest = line[margin.end() :]
    underline = re.match(r" *(\^+|-+)( .*)?$", rest) if margin[1] is None and "|" in margin[0] else None
    if underline is not None:
        rest = click.style(rest, fg=color if "^" in underline[1] else "blue", bold=True)
    return click.style(margin[0], fg="blue", bold=True) + rest


def table(rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()) -> str:
    """Columns of equal width; those numbered in `right` are aligned to the right. The first row is the header."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in texts) for n in range(len(texts[0]))]

    def line(row: list[str]) -> str:
        cells = (c.rjust(w) if n in right else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True)))
        return "  ".join(cells).rstrip()

    return "\n".join(map(line, texts))


def print_json(data: dict[str, Any]) -> None:
    """One JSON document with the version of its layout."""
    import json

    click.echo(json.dumps({"version": JSON_VERSION, **data}, indent=2, default=str))


def plural(count: int, word: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"

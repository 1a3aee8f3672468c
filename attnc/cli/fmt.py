"""`attnc fmt`: specs in canonical layout."""

from __future__ import annotations

from pathlib import Path

import click

from attnc.cli.files import write_whole
from attnc.cli.output import plural, show_diagnostics
from attnc.cli.specs import Spec, read_spec, specs_argument
from attnc.diagnostics import CallError, InternalError, SpecError
from attnc.source import SourceFile


@click.command("fmt", short_help="Lay out specs in place.")
@specs_argument
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 when a file would change, and name it.")
@click.option("--diff", is_flag=True, help="Write nothing; show what would change; exit with 1 when something would.")
@click.pass_context
def command(ctx: click.Context, specs: tuple[str, ...], check: bool, diff: bool) -> None:
    """Lay out specs in place; - formats standard input to standard output."""
    changed, wrong = 0, False
    for name in dict.fromkeys(specs):
        try:
            changed += _format(read_spec(name), check=check, diff=diff)
        except SpecError as error:
            show_diagnostics(error.diagnostics)
            wrong = True
    if changed or check or diff:
        click.echo(f"{plural(changed, 'file')} {'would change' if check or diff else 'changed'}", err=True)
    ctx.exit(1 if wrong or (changed and (check or diff)) else 0)


def _format(spec: Spec, *, check: bool, diff: bool) -> bool:
    """Format one spec and say whether that changes it."""
    from attnc.driver import load_spec

    if spec.name.startswith("std:"):
        raise CallError(f"{spec.name}: the standard library is not yours to format; give a path")
    source = load_spec(spec.name, spec.text)
    text = formatted(source)
    before = source.text if spec.text is not None else Path(spec.name).read_bytes().decode("utf-8")
    changed = text != before
    if diff and changed:
        _show_diff(SourceFile(spec.name, before), text)
    elif check and changed:
        click.echo(spec.name)
    if spec.text is not None and not (check or diff):
        click.echo(text, nl=False)
    elif changed and not (check or diff):
        write_whole(Path(spec.name), text.encode())
    return changed and (spec.text is None or check or diff)


def formatted(source: SourceFile) -> str:
    """The text in canonical layout, of which it is sure that it says the same, comments included.

    Raises SpecError for a text that is not in the language.
    """
    from attnc.frontend.format import format_text
    from attnc.frontend.lexer import lex
    from attnc.frontend.parser import parse

    text = format_text(source)
    after = SourceFile(source.name, text)
    same_comments = [c.text.rstrip() for c in lex(source).comments] == [c.text.rstrip() for c in lex(after).comments]
    if not same_comments or parse(after) != parse(source) or format_text(after) != text:
        raise InternalError(f"the layout of {source.name} would change what it says; it was left as it is")
    return text


def _show_diff(before: SourceFile, after: str) -> None:
    import difflib

    lines = difflib.unified_diff(
        before.text.splitlines(), after.splitlines(), before.name, f"{before.name} (formatted)", lineterm=""
    )
    colors = {"+": "green", "-": "red", "@": "cyan"}
    for line in lines:
        head = line.startswith(("+++", "---"))
        click.secho(line, bold=head, fg=None if head else colors.get(line[:1]))

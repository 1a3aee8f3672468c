"""The command `attnc`: one verb, one module of this package, imported when it is called.

Exit codes: 0 fine, 1 the spec or the input is wrong, 2 usage, 3 a mistake of attnc itself. What was asked for goes to
stdout, everything else to stderr. Nothing slow is imported here or at the top of a verb's module.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from dataclasses import replace
from importlib import import_module
from typing import Any, TextIO

import click

from attnc import __version__
from attnc.cli.output import error, show_diagnostics, warning
from attnc.diagnostics import AttncError, AttncWarning, Diagnostic, InternalError, SpecError

VERBS = ("check", "fmt", "compile", "run", "verify", "prove", "bench", "explain", "show", "list", "cache", "completion")
#: Exit codes.
WRONG_INPUT = 1
INTERNAL = 3


class Verbs(click.Group):
    """Finds a verb in its module, and turns errors into messages and exit codes."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click does it; a shell that asks how a line goes on is answered by `completion.py`."""
        if "_ATTNC_COMPLETE" in os.environ:
            import_module("attnc.cli.completion").register()
        return super().main(*args, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [*VERBS]  # `list` is the module of that verb once it was imported

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in VERBS:
            return None
        return import_module(f"attnc.cli.{cmd_name}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a suggestion for a near-miss."""
        if args and args[0] not in VERBS and not args[0].startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(args[0], VERBS, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(VERBS)}"
            raise click.UsageError(f"no command `{args[0]}`; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb. Only mistakes of attnc itself leave with a traceback, and only under --debug."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except SpecError as found:
            show_diagnostics(map(_for_commands, found.diagnostics))
            ctx.exit(WRONG_INPUT)
        except InternalError as found:
            _report_internal(ctx, str(found))
        except AttncError as found:
            error(str(found))
            ctx.exit(WRONG_INPUT)
        except OSError as found:
            if found.errno == errno.EPIPE:
                raise  # click ends quietly when the reader of our output has gone
            error(f"{found.filename or 'system'}: {found.strerror or found}")
            ctx.exit(WRONG_INPUT)
        except Exception as found:
            _report_internal(ctx, str(InternalError(f"{type(found).__name__}: {found}")))


def _for_commands(diagnostic: Diagnostic) -> Diagnostic:
    """Help that says what to type in Python, as what to type here."""
    if diagnostic.help is None:
        return diagnostic
    text = re.sub(r'when compiling: `params={"(\w+)": \.\.\.}`', r"here: `--param \1=...`", diagnostic.help)
    return replace(diagnostic, help=text)


def _report_internal(ctx: click.Context, message: str) -> None:
    if ctx.params.get("debug"):
        import traceback

        traceback.print_exc(file=sys.stderr)
    error(message if ctx.params.get("debug") else f"{message}\nattnc --debug {ctx.invoked_subcommand} ... shows where.")
    ctx.exit(INTERNAL)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Those of attnc as one line; others come from libraries and are of no use to the user of a command."""
    del filename, lineno, file, line
    if issubclass(category, AttncWarning):
        warning(str(message))


@click.command(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Shell completion: `attnc completion --help`.",
)
@click.version_option(__version__, prog_name="attnc", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an internal error.")
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:
    """A compiler for attention mechanisms.

    A SPEC is the path of an .attn file, std:NAME for one of the standard library (`attnc list`), or - for standard
    input. Exit codes: 0 fine, 1 the spec or the input is wrong, 2 usage, 3 an internal error.
    """
    del debug  # read by Verbs.invoke
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    ctx.with_resource(warnings.catch_warnings())
    warnings.showwarning = _show_warning

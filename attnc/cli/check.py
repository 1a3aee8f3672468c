"""`attnc check`: what is wrong with specs."""

from __future__ import annotations

import click

from attnc.cli.output import plural, print_json, show_diagnostics
from attnc.cli.specs import json_option, read_spec, specs_argument
from attnc.diagnostics import Diagnostic, SpecError


@click.command("check", short_help="Show everything that is wrong with specs.")
@specs_argument
@json_option
@click.pass_context
def command(ctx: click.Context, specs: tuple[str, ...], as_json: bool) -> None:
    """Check specs and show everything that is wrong with them.

    Exits with 1 when there is an error; warnings alone are fine.
    """
    found: list[Diagnostic] = []
    for spec in dict.fromkeys(specs):
        new = _findings(spec)
        found += new
        if not as_json:
            show_diagnostics(new, err=False)
    errors = sum(diagnostic.severity == "error" for diagnostic in found)
    if as_json:
        print_json({"files": len(set(specs)), "errors": errors, "diagnostics": [d.to_json() for d in found]})
    else:
        click.echo(_summary(len(set(specs)), errors, len(found) - errors), err=True)
    ctx.exit(1 if errors else 0)


def _findings(spec: str) -> list[Diagnostic]:
    from attnc.driver import check, load_spec
    from attnc.empty_masks import empty_mask_warnings
    from attnc.passes.divisors import zero_divisors

    given = read_spec(spec)
    try:
        checked = check(load_spec(given.name, given.text))
        divisors = [found.diagnostic() for module in checked.modules for found in zero_divisors(module)]
        return [*checked.warnings, *dict.fromkeys(divisors), *empty_mask_warnings(checked.modules)]
    except SpecError as error:
        return list(error.diagnostics)


def _summary(files: int, errors: int, warnings: int) -> str:
    found = [plural(count, word) for count, word in ((errors, "error"), (warnings, "warning")) if count]
    return f"{plural(files, 'file')} checked: {', '.join(found) or 'no problems'}"

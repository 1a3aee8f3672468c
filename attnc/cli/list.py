"""`attnc list`: the standard library."""

from __future__ import annotations

from typing import Any

import click

from attnc.cli.output import print_json, table
from attnc.cli.specs import json_option


@click.command("list", short_help="List the standard library.")
@json_option
def command(as_json: bool) -> None:
    """List the standard library: name, what a file declares under that name, and what it is."""
    from attnc.driver import stdlib_names

    entries = [_entry(name) for name in stdlib_names()]
    if as_json:
        print_json({"specs": entries})
        return
    rows = [(f"std:{entry['name']}", ", ".join(entry["kinds"]), entry["summary"]) for entry in entries]
    click.echo(table(rows))


def _entry(name: str) -> dict[str, Any]:
    from attnc.driver import check, load_spec

    docs = check(load_spec(f"std:{name}")).docs
    own = [doc for doc in docs if doc.name == name]
    attention = [doc for doc in own if doc.kind == "attention"]
    summary = (attention or own or list(docs))[0].summary
    kinds = [doc.kind for doc in own]
    declared = [{"kind": doc.kind, "name": doc.name, "summary": doc.summary} for doc in docs]
    return {"name": name, "kinds": kinds, "summary": summary, "declares": declared}

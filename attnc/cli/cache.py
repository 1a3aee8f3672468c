"""`attnc cache`: what was compiled and kept on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from attnc.cli.output import JSON_VERSION, plural, table

if TYPE_CHECKING:
    from attnc.codegen.cache import CacheInfo


@click.group("cache", short_help="Show or clear what was compiled before.")
def command() -> None:
    """What was compiled is kept in $ATTNC_CACHE_DIR, else in attnc/ of the user's cache folder, for this user alone.

    Every file can be made again; clearing costs only time.
    """


@command.command("info")
@click.option("as_json", "--json", is_flag=True, help="Machine-readable output.")
def info(as_json: bool) -> None:
    """Print where the cache is and what it holds."""
    from attnc.codegen.cache import cache_info

    found = cache_info()
    if as_json:
        kinds = {kind: {"files": files, "bytes": size} for kind, (files, size) in found.kinds.items()}
        click.echo(json.dumps({"version": JSON_VERSION, "directory": str(found.directory), "kinds": kinds}, indent=2))
        return
    click.echo(found.directory)
    if found.kinds:
        rows = [(kind, files, size) for kind, (files, size) in found.kinds.items()]
        click.echo(table([("kind", "files", "bytes"), *rows], right=(1, 2)))
    else:
        click.echo("empty")


@command.command("clear")
def clear() -> None:
    """Remove what attnc wrote there, and nothing else."""
    from attnc.codegen.cache import clear_cache

    removed = clear_cache()
    click.echo(f"removed {plural(_files(removed), 'file')} from {removed.directory}")


def _files(found: CacheInfo) -> int:
    return sum(files for files, _ in found.kinds.values())

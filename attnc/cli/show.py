"""`attnc show`: a picture of the tiles that a plan visits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from attnc.cli.files import write_whole
from attnc.cli.specs import (
    Scalar,
    attention_option,
    dtype_option,
    head_dim_option,
    param_option,
    read_spec,
    spec_argument,
    tensor_option,
    value_dim_option,
)

SUFFIXES = (".svg", ".html", ".png", ".txt")
ITEMSIZE = {"fp32": 4, "fp16": 2, "bf16": 2}


def _ints(separator: str, wanted: str, count: int | None) -> Callable[..., tuple[int, ...] | None]:
    """A callback that reads numbers with a separator between them."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
        if value is None:
            return None
        try:
            found = tuple(int(part) for part in value.split(separator))
        except ValueError:
            found = ()
        if not found or (count is not None and len(found) != count):
            raise click.BadParameter(f"expected {wanted}, got {value!r}", ctx, param)
        return found

    return read


def _output(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix.lower() not in SUFFIXES:
        raise click.BadParameter(f"expected a file that ends in {', '.join(SUFFIXES)}, got {value.name!r}", ctx, param)
    return value


@click.command("show", short_help="Draw which tiles are visited: text, SVG, HTML, PNG.")
@spec_argument
@click.option("-n", "--n", "n", type=click.IntRange(0), metavar="N", help="Queries; on a grid, when not given, all.")
@click.option("-m", "--m", "m", type=click.IntRange(0), metavar="M", help="Keys; as many as queries when not given.")
@click.option(
    "-o",
    "out",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_output,
    metavar="FILE",
    help="A file .svg, .html (explains cells under the pointer), .png (needs matplotlib) or .txt; else the terminal.",
)
@param_option
@tensor_option
@attention_option
@click.option("--head", type=click.IntRange(0), default=0, show_default=True, help="The head that is drawn.")
@click.option("--heads", type=click.IntRange(1), metavar="H", help="How many there are, where the mask reads it.")
@click.option("--view", type=click.Choice(("auto", "tiles", "grid")), default="auto", show_default=True,
              help="Queries by keys, or what one query of a grid sees.")  # fmt: skip
@click.option("--query", metavar="Y,X", callback=_ints(",", "coordinates Y,X or T,Y,X", None),
              help="The query on the grid; its centre when not given.")  # fmt: skip
@click.option("--rows", metavar="A:B", callback=_ints(":", "A:B", 2), help="Queries A to B - 1 only; on a grid, rows.")
@click.option("--keys", metavar="C:D", callback=_ints(":", "C:D", 2), help="Keys C to D - 1 only; on a grid, columns.")
@head_dim_option
@value_dim_option
@dtype_option
def command(
    spec: str,
    out: Path | None,
    params: tuple[tuple[str, Scalar], ...],
    attention: str | None,
    head_dim: int,
    value_dim: int | None,
    dtype: str,
    **options: Any,
) -> None:
    """Draw which tiles of the mask are full, partial and skipped, as the plan visits them in a call at offset 0.

    Of a mask on a grid: what one query sees, and the key tiles that its tile visits.
    """
    from attnc.explain import bind_all
    from attnc.ir.plan import PlanOptions
    from attnc.showing import picture_of

    module, dynamic = bind_all(read_spec(spec).select(attention), dict(params))
    shape = PlanOptions(head_dim, value_dim or head_dim, ITEMSIZE[dtype])
    picture = picture_of(module, shape, options.pop("n"), options.pop("m"), params=dynamic, **options)
    if out is not None:
        write_whole(out, picture.encoded(out.suffix))
        click.echo(str(out))
    else:
        click.echo(picture.text(plain=not _is_unicode()), nl=False)


def _is_unicode() -> bool:
    """Whether the terminal's encoding has the characters of a picture."""
    try:
        "·█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True

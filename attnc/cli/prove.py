"""`attnc prove`: what holds of masks for all sizes, or where it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from attnc.cli.output import print_json
from attnc.cli.specs import json_option, tables_of_context, tensor_option

if TYPE_CHECKING:
    from attnc.prover import Proof

_COLORS = {"proved": "green", "refuted": "red", "unknown": "yellow"}


@click.command("prove", short_help="Prove or refute statements about masks.")
@click.argument("statements", nargs=-1, required=True, metavar="STATEMENT...")
@click.option(
    "--assume",
    multiple=True,
    metavar="CONDITION",
    help="A condition on sizes, q_offset, k_offset or parameters: --assume 'size >= 1'. Repeatable.",
)
@click.option(
    "--declare",
    default="",
    metavar="HEADER",
    help="Parameters that masks written as text read: 'w: int, seg: int[B, M]'.",
)
@click.option("--file", metavar="SPEC", help="A spec whose masks and defs the statements may name.")
@tensor_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    statements: tuple[str, ...],
    assume: tuple[str, ...],
    declare: str,
    file: str | None,
    as_json: bool,
) -> None:
    """Prove statements about masks for all sizes, or show a call in numbers at which they fail.

    A STATEMENT is causal(m), nonempty_rows(m), symmetric(m), subset(m1, m2), equal(m1, m2) or disjoint(m1, m2). A mask
    is std:NAME or a path, perhaps with parameters, or a text: subset(std:sliding_window(size=64), mask j <= i).

    Exits with 0 when all are proved, with 1 when one is refuted or unknown.
    """
    from attnc.prover import prove

    tables = tables_of_context()
    proofs = [prove(text, assume=assume, declare=declare, file=file, tensors=tables) for text in statements]
    if as_json:
        print_json({"proofs": [proof.to_json() for proof in proofs]})
    else:
        click.echo("\n".join(map(_painted, proofs)))
    ctx.exit(0 if all(proof.verdict == "proved" for proof in proofs) else 1)


def _painted(proof: Proof) -> str:
    _, rest = str(proof).split(":", 1)
    return click.style(proof.verdict, fg=_COLORS[proof.verdict], bold=True) + f":{rest}"

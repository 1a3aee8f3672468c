"""What several verbs take: a spec, an attention of it, parameters, dtypes and sizes. Imports nothing slow."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import click

from attnc.diagnostics import CallError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from attnc.driver import CheckedFile
    from attnc.ir.module import AttentionModule, Table

Scalar = bool | int | float
#: Where the context of a verb keeps the values of static tensors.
_TABLES = "attnc.tables"
DTYPES = ("fp32", "fp16", "bf16")


@dataclass(frozen=True, slots=True)
class Spec:
    """A spec as given: its name and, when it came from standard input, its text."""

    name: str
    text: str | None
    tables: Mapping[str, Table] = field(default_factory=dict[str, "Table"])

    @property
    def label(self) -> str:
        """What to call it in a line of output."""
        return self.name.removeprefix("std:") if self.text is None else self.name

    def check(self) -> CheckedFile:
        """Load and check it; warnings go to stderr. Raises SpecError."""
        from attnc.cli.output import show_diagnostics
        from attnc.driver import check, load_spec

        checked = check(load_spec(self.name, self.text))
        show_diagnostics(checked.warnings)
        return checked

    def select(self, attention: str | None) -> AttentionModule:
        """The attention before its parameters are given. Raises SpecError."""
        from attnc.driver import select
        from attnc.frontend.tables import with_written

        module = select(self.check(), attention)
        return with_written(module, self.tables) if self.tables else module

    def bind(self, attention: str | None, params: Mapping[str, Scalar]) -> AttentionModule:
        """The attention with its static parameters. Raises SpecError."""
        from attnc.frontend.bind import bind

        return bind(self.select(attention), params)


def tables_of_context() -> dict[str, Table]:
    """The values of tensors on the command line."""
    context = click.get_current_context(silent=True)
    return cast("dict[str, Table]", {} if context is None else context.meta.get(_TABLES, {}))


def read_spec(spec: str) -> Spec:
    """The spec of an argument; `-` reads standard input. Raises CallError for what is no text."""
    tables = tables_of_context()
    if spec != "-":
        return Spec(spec, None, tables)
    try:
        return Spec("<stdin>", sys.stdin.buffer.read().decode("utf-8-sig"), tables)
    except UnicodeDecodeError as error:
        raise CallError(f"<stdin>: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _parameters(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, Scalar], ...]:
    return tuple(_parameter(value, ctx, param) for value in values)


def _parameter(value: str, ctx: click.Context, param: click.Parameter) -> tuple[str, Scalar]:
    name, equals, text = (part.strip() for part in value.partition("="))
    if not equals or not name:
        raise click.BadParameter(f"expected name=value, got {value!r}", ctx, param)
    found = _scalar(text)
    if found is None:
        raise click.BadParameter(f"{name}: expected true, false or a number, got {text!r}", ctx, param)
    return name, found


def _keep_tables(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> None:
    """Remember the values of static tensors for `read_spec`."""
    ctx.meta[_TABLES] = dict(_written(value, ctx, param) for value in values)


def _written(value: str, ctx: click.Context, param: click.Parameter) -> tuple[str, Table]:
    """`full=1,0,1`, or rows in brackets as in JSON: `dist=[[1, 2], [3, 4]]`."""
    from attnc.frontend.tables import nested
    from attnc.ir.module import Table

    name, equals, text = (part.strip() for part in value.partition("="))
    try:
        shape, flat = nested(json.loads(text if text.startswith("[") else f"[{text}]") if equals and name else None)
    except ValueError:
        raise click.BadParameter(f"expected name=1,0,1 or name=[[1, 0], [0, 1]], got {value!r}", ctx, param) from None
    return name, Table("", shape, flat)


def _scalar(text: str) -> Scalar | None:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _target(ctx: click.Context, param: click.Parameter, value: str) -> str:
    from attnc.codegen.config import SHARED_MEMORY

    if value not in SHARED_MEMORY:
        raise click.BadParameter(f"unknown target {value!r}; known are {', '.join(SHARED_MEMORY)}", ctx, param)
    return value


def _complete(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]:
    """What can stand there, as `completion.py` knows it; only a shell that completes a line asks."""

    def found(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        del param
        from attnc.cli import completion

        if kind in ("parameters", "attentions"):
            return getattr(completion, kind)(ctx, incomplete)
        return getattr(completion, kind)(incomplete)

    return found


spec_argument = click.argument("spec", type=click.Path(allow_dash=True), shell_complete=_complete("specs"))
specs_argument = click.argument(
    "specs",
    nargs=-1,
    required=True,
    metavar="SPEC...",
    type=click.Path(allow_dash=True),
    shell_complete=_complete("specs"),
)
attention_option = click.option(
    "--attention",
    metavar="NAME",
    shell_complete=_complete("attentions"),
    help="Which attention, where a file holds several.",
)
param_option = click.option(
    "params",
    "--param",
    multiple=True,
    callback=_parameters,
    metavar="NAME=VALUE",
    shell_complete=_complete("parameters"),
    help="Value of a parameter: --param size=128. Repeatable.",
)
tensor_option = click.option(
    "--tensor",
    multiple=True,
    callback=_keep_tables,
    expose_value=False,
    metavar="NAME=VALUES",
    help="Values of a static tensor: --tensor full=1,0,1 or --tensor 'dist=[[1, 2], [3, 4]]'. Repeatable.",
)
dtype_option = click.option("--dtype", type=click.Choice(DTYPES), default="bf16", show_default=True)
target_option = click.option(
    "--target",
    callback=_target,
    default="cuda:90",
    show_default=True,
    shell_complete=_complete("targets"),
    help="The GPU: cuda:80, cuda:90, cuda:100, hip:gfx942, ...",
)
head_dim_option = click.option("--head-dim", type=click.IntRange(1, 256), default=64, show_default=True, metavar="D")
value_dim_option = click.option(
    "--value-dim", type=click.IntRange(1, 256), metavar="DV", help="Features of v, when not those of q."
)
seed_option = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random data.")
json_option = click.option("as_json", "--json", is_flag=True, help="Print JSON.")


def dynamic_values(module: AttentionModule, given: dict[str, Scalar]) -> tuple[tuple[str, Scalar], ...]:
    """Every dynamic parameter with its value. Raises CallError for one that has none."""
    from attnc.ir.expr import Const

    values: list[tuple[str, Scalar]] = []
    for param in module.scalars:
        if param.name in given:
            values.append((param.name, given[param.name]))
        elif isinstance(param.default, Const):
            values.append((param.name, param.default.value))
        else:
            raise CallError(f"`{module.name}` needs a value for `{param.name}`: --param {param.name}=...")
    return tuple(values)

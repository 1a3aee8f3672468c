"""What `attnc compile --print-after` and `--stop-after` see: the result of every stage, as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, cast

import click


class StoppedError(Exception):
    """The stage of --stop-after is done."""


@dataclass(slots=True)
class Stages:
    """Called with the name and the result of each stage, in order."""

    print_after: tuple[str, ...]
    stop_after: str | None
    seen: list[str] = field(default_factory=list[str])

    def __call__(self, name: str, result: object) -> None:
        """Print what was asked for; raises StoppedError after the last stage that was asked for."""
        self.seen.append(name)
        if name in self.print_after or "all" in self.print_after or name == self.stop_after:
            click.echo(click.style(f"# after {name}", bold=True))
            click.echo(f"{text_of(result).rstrip()}\n")
        if name == self.stop_after:
            raise StoppedError

    def refuse_unknown(self) -> None:
        """Raise a usage error for a stage that did not come. Call it when all stages have."""
        for name in (*self.print_after, *filter(None, [self.stop_after])):
            if name not in (*self.seen, "all"):
                near = get_close_matches(name, self.seen, 1)
                hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(self.seen)}"
                raise click.UsageError(f"no stage `{name}`; {hint}")


def text_of(result: object) -> str:
    """Modules, plans and sources in their own syntax, other results field by field."""
    from attnc.codegen.triton_module import TritonModule
    from attnc.ir.module import AttentionModule
    from attnc.ir.plan import KernelPlan
    from attnc.ir.printer import print_module, print_plan

    match result:
        case AttentionModule():
            return print_module(result)
        case KernelPlan():
            return print_plan(result)
        case TritonModule():
            return result.source
        case _:
            return "\n".join(_lines(result, ""))


def _lines(value: object, indent: str) -> Iterator[str]:
    """One value over as many lines as it needs; short ones on one line."""
    short = _short(value)
    if len(indent) + len(short) <= 110:
        yield indent + short
        return
    if isinstance(value, list | tuple):
        for item in cast(tuple[object, ...], value):
            yield from _lines(item, indent)
    elif _is_node(value):
        yield f"{indent}{type(value).__name__}"
        for name, item in _parts(value):
            first, *rest = _lines(item, f"{indent}    ")
            if rest:
                yield f"{indent}  {name}:"
                yield from (first, *rest)
            else:
                yield f"{indent}  {name}: {first.strip()}"
    else:
        yield indent + short


def _short(value: object) -> str:
    from attnc.ir.expr import Expr
    from attnc.ir.printer import print_expr

    if isinstance(value, Expr):
        return print_expr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, cast(tuple[object, ...], value)))}]"
    if _is_node(value):
        return f"{type(value).__name__}({', '.join(f'{name}={_short(item)}' for name, item in _parts(value))})"
    return value if isinstance(value, str) else repr(value)


def _is_node(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _parts(value: object) -> list[tuple[str, Any]]:
    """The fields that say something: no spans, nothing that is empty or as it usually is."""
    named = ((f.name, getattr(value, f.name), f.default) for f in fields(cast(Any, value)) if f.repr and f.compare)
    return [(name, item) for name, item, usual in named if item not in (None, (), "", usual)]

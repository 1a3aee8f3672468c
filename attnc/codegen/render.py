"""The one jinja environment."""

from __future__ import annotations

from functools import cache

import jinja2

from attnc.codegen.context import EntryText, KernelContext
from attnc.codegen.provenance import plain


def plain_line(text: str) -> str:
    """`plain` of each part of a text that two spaces separate, so that a location survives the cut."""
    return "  ".join(plain(part) for part in text.split("  "))


@cache
def environment() -> jinja2.Environment:
    """Templates of `attnc/codegen/templates`; an undefined name is an error."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("attnc.codegen", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    env.filters["comment"] = plain_line
    return env


def render_module(context: KernelContext) -> str:
    """A Triton module as text."""
    return environment().get_template("triton_module.py.j2").render(module=context)


def render_entry(entry: EntryText) -> str:
    """The function of a C++ stage that runs all its units."""
    return environment().get_template("strands.cpp.j2" if entry.columns else "entry.cpp.j2").render(entry=entry)

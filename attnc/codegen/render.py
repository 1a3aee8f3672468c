"""The one jinja environment."""

from __future__ import annotations

from functools import cache

import jinja2

from attnc.codegen.context import KernelContext


def comment(text: str) -> str:
    """Text as it may stand in a comment or docstring of emitted code: one printable ASCII line, no quotes."""
    kept = "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
    return kept.replace("\\", "/").replace('"', "'")


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
    env.filters["comment"] = comment
    return env


def render_module(context: KernelContext) -> str:
    """A Triton module as text."""
    return environment().get_template("triton_module.py.j2").render(module=context)

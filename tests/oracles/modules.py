"""Typed modules from text, bound to their static parameters."""

from __future__ import annotations

from functools import cache
from typing import Any

from attnc.driver import CheckedFile, check, load_spec, select
from attnc.frontend.bind import bind
from attnc.ir.module import AttentionModule
from attnc.passes.columns import reads_columns, split_columns
from attnc.source import SourceFile


@cache
def _checked(text: str) -> CheckedFile:
    return check(load_spec(text) if text.startswith("std:") else SourceFile("test.attn", text))


def module_of(text: str, name: str | None = None, **params: Any) -> AttentionModule:
    """The attention of a text; the one called `name` where there are several."""
    return bind(select(_checked(text), name), params)


def standard(name: str, **params: Any) -> AttentionModule:
    """The attention std:NAME."""
    return module_of(f"std:{name}", **params)


def last_stage(module: AttentionModule) -> AttentionModule:
    """What has a plan of its own: the module, or what reads the statistics of its columns."""
    return split_columns(module, 1).rows if reads_columns(module) else module

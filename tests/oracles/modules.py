"""Typed modules from text, bound to their static parameters."""

from __future__ import annotations

from typing import Any

from attnc.driver import check, load_spec
from attnc.frontend.bind import bind
from attnc.ir.module import AttentionModule
from attnc.source import SourceFile


def module_of(text: str, name: str | None = None, **params: Any) -> AttentionModule:
    """The attention of a text; the one called `name` where there are several."""
    (module,) = (m for m in check(SourceFile("test.attn", text)).modules if name in (None, m.name))
    return bind(module, params)


def standard(name: str, **params: Any) -> AttentionModule:
    """The attention std:NAME."""
    (module,) = (m for m in check(load_spec(f"std:{name}")).modules if m.name == name)
    return bind(module, params)

"""From what a user names to the bound typed module: the front half of every entry point. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attnc.diagnostics import CallError
from attnc.driver import check, load_spec, select
from attnc.frontend.bind import bind
from attnc.ir.compose import with_key_mask
from attnc.ir.module import AttentionModule


def compile_module(
    spec: str | Path | None,
    *,
    source: str | None = None,
    attention: str | None = None,
    params: Mapping[str, bool | int | float],
    key_mask: str | None = None,
) -> AttentionModule:
    """Load, check and bind: the attention called `attention`, with `params` for its static parameters.

    `spec` is a path or "std:NAME"; `source` is text to compile instead of a file; `key_mask` names a tensor
    bool[B, M] that the mask is and-ed with. Raises SpecError, and CallError when that name is taken.
    """
    if spec is None and source is None:
        raise CallError('give a spec: a path, "std:NAME", or source="..."')
    if spec is None:
        spec = "<source>"
    module = bind(select(check(load_spec(spec, source)), attention), params)
    if key_mask is None:
        return module
    try:
        return with_key_mask(module, key_mask)
    except ValueError as error:
        raise CallError(f"key_mask: {error}") from None

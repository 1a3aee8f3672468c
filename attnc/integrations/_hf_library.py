"""What attnc uses of transformers, loaded when it is first needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

TESTED = "5.23.0"
_WAY_OUT = f"pip install -U transformers (tested with {TESTED})"


@dataclass(frozen=True)
class Library:
    """The two registries of transformers and three of its functions on masks."""

    attentions: Any
    masks: Any
    sdpa_mask: Callable[..., Any]
    causal: Callable[..., Any]
    bidirectional: Callable[..., Any]


@cache
def library() -> Library:
    """transformers, or an ImportError that says what to install."""
    try:
        version = str(import_module("transformers").__version__)
    except ImportError as error:
        raise ImportError(f"attnc.integrations.transformers needs transformers: {_WAY_OUT}") from error
    try:
        masking = import_module("transformers.masking_utils")
        found = Library(
            import_module("transformers.modeling_utils").AttentionInterface,
            masking.AttentionMaskInterface,
            masking.sdpa_mask,
            masking.causal_mask_function,
            masking.bidirectional_mask_function,
        )
    except (ImportError, AttributeError) as error:
        raise _too_old(version) from error
    if not {"q_length", "q_offset", "kv_offset"} <= inspect.signature(found.sdpa_mask).parameters.keys():
        raise _too_old(version)  # its mask functions are called with other arguments
    return found


def _too_old(version: str) -> ImportError:
    return ImportError(f"transformers {version} is too old for attnc (no usable AttentionMaskInterface): {_WAY_OUT}")

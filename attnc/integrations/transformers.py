"""attnc as the attention of Hugging Face transformers.

    from attnc.integrations.transformers import register
    model.set_attn_implementation(register("std:sliding_window", size=1024))

`register` puts the attention and the mask function of a spec under one key. What models then may rely on:

- padding (the 2-D `attention_mask`) is and-ed to the spec's mask; a row without keys gives 0;
- with a KV cache, queries and keys stand at their positions in the text;
- grouped key heads are not repeated.

The spec replaces the model's attention whole, its mask included, under one rule: on every pair of positions of a
call, what the spec sees the model's own mask must allow; a spec may see less. A spec that sees more is refused, as
is all that the model asks for and the spec does not contain: dropout, soft caps, sinks, biases, another scale, the
matrix of weights, masks made by the user. Every refusal is a CallError that names the argument.

transformers is imported by the first call of `register`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from attnc.diagnostics import CallError
from attnc.integrations._hf_adapter import Adapter
from attnc.integrations._hf_call import Source
from attnc.integrations._hf_library import library
from attnc.integrations._hf_mask import build_mask
from attnc.ops import Backend

#: Words that transformers looks for in keys: each sends the model down a path of its own.
_RESERVED = ("flash", "sdpa", "eager", "flex", "paged")
_lock = threading.Lock()
_registered: dict[str, Adapter] = {}


def register(
    spec: str | Path | None = None,
    name: str | None = None,
    *,
    source: str | None = None,
    attention: str | None = None,
    backend: Backend = "auto",
    tensors: Mapping[str, Source] | None = None,
    replaces: Collection[str] = (),
    **params: bool | int | float,
) -> str:
    """Register a spec as an attention implementation; returns the key for `model.set_attn_implementation`.

    `spec`, `source`, `attention`, `backend` and `params` are those of `attnc.compile`. `tensors` tells where each
    tensor and dynamic parameter of the spec comes from: a tensor or number; the name of what the model passes to its
    attention ("position_bias", "s_aux", "softcap", or "attention_mask" for the padding, bool[B, M]); or a function of
    the attention module and a mapping of all that it passes. `replaces` names what the model passes and the spec
    computes itself ("position_bias", "scaling", ...); it is then ignored.

    `name` is the key to use, letters, digits and `_`; without one it is made of the spec's name and a hash. The same
    arguments give the same key. Raises SpecError, CallError, and ImportError when transformers is missing or too old.
    """
    found = library()
    if isinstance(replaces, str):
        raise CallError(f'replaces: expected a collection of names, got "{replaces}"; write ("{replaces}",)')
    adapter = Adapter(
        spec,
        source=source,
        attention=attention,
        backend=backend,
        params=params,
        tensors=tensors or {},
        replaces=frozenset(replaces),
    )
    digest = adapter.digest()
    key = _automatic_key(adapter.module.name, digest) if name is None else _checked_key(name)
    with _lock:
        if key in _registered and _registered[key].digest() == digest:
            return key
        if key in _registered or key in found.attentions() or key in found.masks():
            raise CallError(f"name: {key} is registered for something else; take another name, or unregister it")
        found.masks.register(key, build_mask)
        found.attentions.register(key, adapter)
        _registered[key] = adapter
    return key


def unregister(key: str) -> None:
    """Forget a key of `register` and the tensors that it holds. Models that are set to it stop working."""
    with _lock:
        if _registered.pop(key, None) is None:
            raise CallError(f"{key} is no key of attnc; there are {', '.join(sorted(_registered)) or 'none'}")
        for interface in (library().attentions, library().masks):
            interface._global_mapping.pop(key, None)  # transformers has no public way to take one back


def _automatic_key(spec: str, digest: str) -> str:
    shown = "spec" if any(word in spec.lower() for word in _RESERVED) else spec
    return f"attnc_{shown}_{digest}"


def _checked_key(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise CallError(f"name: expected letters, digits and _, got {name!r}")
    word = next((word for word in _RESERVED if word in name.lower()), None)
    if word is not None:
        raise CallError(f"name: transformers treats names with `{word}` in its own way; {name!r} has it")
    return name


__all__ = ["register", "unregister"]

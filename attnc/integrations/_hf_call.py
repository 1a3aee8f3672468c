"""One call of an attention function of transformers, translated: what the model passes and what the spec needs.

Everything a model passes is used, stood for by the spec because the user says so, known to change nothing, or refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor

from attnc.diagnostics import CallError
from attnc.integrations._hf_library import library
from attnc.integrations._hf_mask import ModelMask, kind_of
from attnc.ir.expr import Call, GridCoord, Index
from attnc.ir.module import AttentionModule
from attnc.ir.traverse import walk

#: A tensor or dynamic parameter of the spec: its value, the name of what the model passes, or a function of the
#: attention module and all that the model passes.
Source = Tensor | bool | int | float | str | Callable[[Any, Mapping[str, Any]], Any]

PADDING = "attention_mask"
#: What models pass on that no attention of a spec depends on. A window is in the model's mask already.
_HARMLESS = frozenset(
    {
        PADDING,
        "position_ids",
        "cache_position",
        "use_cache",
        "num_items_in_batch",
        "output_hidden_states",
        "output_router_logits",
        "sliding_window",
    }
)
_WHY = {
    "softcap": "the model caps its logits",
    "s_aux": "the model has a learned sink in every row",
    "position_bias": "the model adds a bias to every pair",
}
_IMPOSSIBLE = {
    "output_attentions": 'a fused attention has no matrix of weights; attn_implementation="eager" has',
    "cache": "attnc does not read paged caches; generate without continuous batching",
}


class Passed(Mapping[str, Any]):
    """What the model passes by name; remembers what was read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def unread(self) -> dict[str, Any]:
        """What nobody asked for."""
        return {name: value for name, value in self._values.items() if name not in self.read}


@dataclass(frozen=True)
class Binding:
    """Where the tensors and dynamic parameters of a spec come from, and which arguments of the model it replaces."""

    module: AttentionModule
    sources: Mapping[str, Source]
    replaces: frozenset[str]

    def arguments(self, owner: Any, passed: Passed) -> dict[str, Any]:
        """The named arguments of the op. Raises CallError for what the model passes and nothing uses."""
        found = {name: self._value(name, source, owner, passed) for name, source in self.sources.items()}
        for name, value in passed.unread().items():
            if value is not None and value is not False and name not in self.replaces and name not in _HARMLESS:
                self._refuse(name, owner)
        return found

    def _refuse(self, name: str, owner: Any) -> NoReturn:
        if name in _IMPOSSIBLE:
            raise CallError(f"{name}: {_IMPOSSIBLE[name]}")
        why = f" ({_WHY[name]})" if name in _WHY else ""
        raise CallError(
            f"{name}: {type(owner).__name__} passes it{why}, but {self.module.name} has no place for it. Give it to a "
            f'tensor or parameter of the spec with tensors={{"...": "{name}"}}, or, if the spec computes it itself, '
            f'register with replaces=("{name}",)'
        )

    def _value(self, name: str, source: Source, owner: Any, passed: Passed) -> Any:
        if isinstance(source, Tensor | bool | int | float):
            return source
        if not isinstance(source, str):
            return source(owner, passed)
        if source not in passed or passed[source] is None:
            there = ", ".join(sorted(passed)) or "nothing"
            raise CallError(
                f"{name}: it is to come from `{source}`, which {type(owner).__name__} does not pass; it passes {there}"
            )
        return passed[source]

    def scale(self, scaling: float | None, head_dim: int, owner: Any) -> float | None:
        """The `scale` of the op. Raises CallError when the spec scales otherwise than the model asks."""
        wanted = 1 / math.sqrt(head_dim) if scaling is None else float(scaling)
        if self.module.reads_scale:
            return wanted
        if wanted == 1.0 or "scaling" in self.replaces:
            return None
        raise CallError(
            f"scaling: {type(owner).__name__} multiplies q . k by {wanted:g}, but {self.module.name} does not read "
            '`scale`. If the spec scales by itself, register with replaces=("scaling",)'
        )

    def reads_positions(self) -> bool:
        """Whether the spec depends on where queries or keys stand."""
        module = self.module
        exprs = (module.mask, module.score, *(b.expr for b in module.cascade), module.value, module.output)
        return any(_is_position(node) for expr in exprs for node in walk(expr))


def _is_position(node: Any) -> bool:
    if isinstance(node, Index):
        return node.name in ("i", "j")
    return isinstance(node, GridCoord) or (isinstance(node, Call) and node.fn == "rope")


def refuse_dropout(dropout: float) -> None:
    """No spec drops weights at random."""
    if dropout:
        raise CallError(
            f"dropout: the model drops {dropout:g} of the weights in training, and attnc has no dropout. Set the "
            "config's attention dropout to 0, or call model.eval()"
        )


def mask_of(owner: Any, query: Tensor, key: Tensor, attention_mask: Any, is_causal: bool | None) -> ModelMask:
    """What the model asks, also where it gives no mask. Raises CallError for a mask that the user made."""
    if isinstance(attention_mask, ModelMask):
        return _fitting(attention_mask, query, key)
    if attention_mask is not None:
        shape = list(getattr(attention_mask, "shape", ()))
        raise CallError(
            f"attention_mask: got a {type(attention_mask).__name__} {shape} where the model's own mask was expected. A "
            "ready-made mask cannot be part of a spec: pass a padding mask [batch, keys], and write the rest as a spec"
        )
    causal = getattr(owner, "is_causal", True) if is_causal is None else is_causal
    queries, keys = query.shape[2], key.shape[2]
    if causal and queries not in (1, keys):
        raise CallError(
            f"attention_mask: {type(owner).__name__} gives none for {queries} queries and {keys} keys; where the "
            "queries stand among the keys is then unknown"
        )
    allowed = library().causal if causal else library().bidirectional
    offset = keys - queries if causal else 0
    return ModelMask(query.shape[0], queries, keys, offset, 0, allowed, device=query.device)


def _fitting(mask: ModelMask, query: Tensor, key: Tensor) -> ModelMask:
    asked = (mask.batch, mask.queries, mask.keys)
    came = (query.shape[0], query.shape[2], key.shape[2])
    if asked != came:
        names = ("sequences", "queries", "keys")
        shown = [", ".join(f"{n} {name}" for n, name in zip(sizes, names, strict=True)) for sizes in (asked, came)]
        raise CallError(f"attention_mask: the model made its mask for {shown[0]}, but this layer has {shown[1]}")
    return mask


def is_cross_attention(owner: Any, mask: ModelMask) -> bool:
    """Whether queries and keys come from two sequences, whose positions have nothing to do with each other."""
    if getattr(owner, "is_cross_attention", False) or "Cross" in type(owner).__name__:
        return True
    if getattr(owner, "is_decoder", False) and getattr(owner, "is_causal", None) is False:
        return True
    unaligned = mask.queries != mask.keys and isinstance(mask.q_offset, int) and mask.q_offset == mask.k_offset == 0
    return unaligned and kind_of(mask.allowed) == kind_of(library().bidirectional)

"""Calls of an attention whose columns have statistics: the exchanged attention first, then the attention itself.

Both are ops, so that every back end runs them, and torch differentiates their composition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from attnc.calls import RawCall, refuse
from attnc.ir.module import AttentionModule
from attnc.ir.plan import KernelPlan
from attnc.passes.columns import Columns, split_columns

if TYPE_CHECKING:
    from attnc.explain import Report


class Stage(Protocol):
    """An op, as far as stages use it."""

    @property
    def plan(self) -> KernelPlan:
        """Its plan."""
        ...

    @property
    def source(self) -> str:
        """Its text."""
        ...

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **keywords: Any) -> Any:
        """A call."""
        ...

    def explain(self, n: int, m: int, *, target: str, params: Mapping[str, Any] | None) -> Report:
        """What a call does."""
        ...


class Stages:
    """The two ops of a module, made for each number of query heads per key head."""

    def __init__(self, module: AttentionModule, make: Callable[[AttentionModule], Stage]) -> None:
        self._module = module
        self._make = make
        self._made: dict[int, tuple[Columns, Stage, Stage]] = {}

    @property
    def rows(self) -> Stage:
        """The second op."""
        return self._of_group(1)[2]

    def run(self, call: RawCall) -> Any:
        """The output; with statistics a tuple (output, statistics ...)."""
        split, keys, rows = self._of_group(call.q.shape[1] // max(call.k.shape[1], 1))
        columns = self._columns(split, keys, call)
        static = {tensor.name for tensor in self._module.tensors if tensor.static}
        named = {name: value for name, value in {**call.named, **columns}.items() if name not in static}
        options = {"q_offset": call.q_offset, "k_offset": call.k_offset, "cu_seqlens": call.cu_seqlens}
        found = rows(
            call.q, call.k, call.v, **options, scale=call.scale, return_aux=call.return_aux, checks=call.checks, **named
        )
        if not call.return_aux or not split.aux:
            return found[0] if call.return_aux else found
        return (found[0], *({**columns, **found[1]}[place] for _, place in split.aux))

    def explain(self, n: int, m: int, *, target: str, params: Mapping[str, Any] | None) -> Report:
        """The report of the second op, with the sweeps of both."""
        _, keys, rows = self._of_group(1)
        first = keys.explain(m, n, target=target, params=params)
        report = rows.explain(n, m, target=target, params=params)
        before = tuple(map(_exchanged, first.sweeps))
        return replace(report, sweeps=(*before, *report.sweeps))

    def _of_group(self, group: int) -> tuple[Columns, Stage, Stage]:
        if group not in self._made:
            split = split_columns(self._module, group)
            self._made[group] = (split, self._make(split.keys), self._make(split.rows))
        return self._made[group]

    def _columns(self, split: Columns, keys: Stage, call: RawCall) -> dict[str, Tensor]:
        """The statistics of keys [B, H, M] by name; those of a key that no query sees are 0, and nobody's."""
        offset = call.q_offset
        if isinstance(offset, str):
            if call.cu_seqlens is not None:
                refuse('q_offset: "end" of packed documents is not supported with statistics over the queries')
            offset = call.k.shape[2] - call.q.shape[2]
        packed = call.cu_seqlens
        if isinstance(packed, tuple):
            packed = cast("tuple[Tensor, Tensor]", packed)[::-1]
        k = call.k.repeat_interleave(call.q.shape[1] // max(call.k.shape[1], 1), dim=1)
        static = {tensor.name for tensor in self._module.tensors if tensor.static}
        named = {name: value for name, value in call.named.items() if name not in static}
        values = call.q.new_zeros((*call.q.shape[:3], 1))
        options: dict[str, Any] = {
            "q_offset": call.k_offset,
            "k_offset": offset,
            "cu_seqlens": packed,
            "checks": call.checks,
        }
        _, found = keys(k, call.q, values, **options, scale=call.scale, return_aux=True, **named)
        return {name: torch.where(found[name].isfinite(), found[name], 0.0) for name in split.names}


def _exchanged(why: str) -> str:
    """What the exchanged op says of a sweep, seen from here."""
    ours, theirs = "over the queries of each key: ", "over the keys of each query: "
    return why.replace(ours, theirs, 1) if why.startswith(ours) else ours + why

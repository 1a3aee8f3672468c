# The counter of torch has no complete types.
# pyright: reportUnknownMemberType=false
"""Operations of calls, for `torch.utils.flop_counter`.

Counted are the products of visited tiles: what a kernel computes, not what a dense formula would. Tiles that only the
values of tensors tell count as visited. Nothing is counted of functions of single pairs, as in torch's own formulas.

Torch's counter takes most of a second to import and copies its registry whenever a mode begins. So formulas are
registered where it has been imported, and otherwise as soon as somebody imports it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from attnc.codegen.launch import CallInputs
from attnc.ir.plan import KernelPlan

_COUNTER = "torch.utils.flop_counter"
_WAITING: list[tuple[Any, Callable[..., int]]] = []


def register_formula(op: Any, formula: Callable[..., int]) -> None:
    """Tell torch's counter of an op, now or once it is imported; `formula` takes the arguments of a call."""
    counter = sys.modules.get(_COUNTER)
    if counter is not None and hasattr(counter, "FlopCounterMode"):
        _register(counter, op, formula)
        return
    _WAITING.append((op, formula))
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def forward_flops(plan: KernelPlan, call: CallInputs) -> int:
    """Operations of a plan for one call, all batches and heads."""
    from attnc.explain import flops_of_pair

    return call.q.shape[1] * _pairs(plan, call) * flops_of_pair(plan)


def _pairs(plan: KernelPlan, call: CallInputs) -> int:
    """Pairs of visited tiles of one head, of all batches; at most all pairs."""
    from attnc.explain import count_tiles, in_reach
    from attnc.visits import sizes_of, tile_map

    batch, n, m = call.q.shape[0], call.q.shape[2], call.k.shape[2]
    if call.cu_q is not None or call.cu_k is not None or n * m == 0:
        return batch * n * m
    offset = m - n if call.q_offset == "end" else call.q_offset
    if not isinstance(offset, int) or not isinstance(call.k_offset, int):
        return batch * n * m
    names: dict[str, Any] = {**sizes_of(n, m), **call.params, "q_offset": offset, "k_offset": call.k_offset}
    reached = in_reach(plan, names)
    counts = [count_tiles(tile_map(part, names)) for part in reached.parts]
    if any(count.why_unknown for count in counts):
        return batch * n * m
    areas = (count.visited * part.tile.rows * part.tile.keys for count, part in zip(counts, reached.parts, strict=True))
    return batch * min(sum(areas), n * m)


def _register(counter: ModuleType, op: Any, formula: Callable[..., int]) -> None:
    counter.register_flop_formula(op, get_raw=True)(formula)


class _Finder(MetaPathFinder):
    """Finds the counter as anybody else would, once."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        if fullname != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads the counter and registers what waits for it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        while _WAITING:
            _register(module, *_WAITING.pop())

"""Whether a spec sees nothing that the model hides.

The rule: on every pair of positions that a call computes, and that padding leaves, what the spec's mask keeps the
model's own mask must allow. A spec that keeps less is what the user asked for; one that keeps more would show tokens
to each other that the model hides, and is refused.

Two masks that look at positions alone are compared once, on the square from 0 to the next power of two; where they
differ there, and for masks that read data, the pairs of the call itself decide. Up to `DENSE` pairs all are looked
at. Beyond, a sample of the rows is, each with all its keys: the first, the last, those around powers of two, and
others evenly spread.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from attnc.diagnostics import AttncError, CallError
from attnc.eager import Env, evaluate
from attnc.integrations._hf_library import library
from attnc.integrations._hf_mask import ModelMask, kind_of, name_of
from attnc.ir.dependence import axes
from attnc.ir.expr import Call, Const, Exists, Expr, Index, Lookup, Param, Var
from attnc.ir.module import AttentionModule, Grid
from attnc.ir.traverse import walk

DENSE = 1 << 22
_SMALLEST_SQUARE = 256
_REMEMBERED = 1024


@dataclass(frozen=True)
class Given:
    """What a call gives besides positions: heads, tensors and dynamic parameters of the spec."""

    heads: int
    key_heads: int
    tensors: Mapping[str, Tensor]
    params: Mapping[str, Any]


class Implication:
    """Compares the mask of one spec with those of models, and remembers what held."""

    def __init__(self, module: AttentionModule) -> None:
        self._module = module
        self._per_head = bool(axes(module.mask) & {"h", "hk"})
        self._reads_data = any(isinstance(node, Lookup | Param) for node in walk(module.mask))  # may differ by layer
        self._fixed = not (module.grid_q or module.grid_k) and _reads_positions_alone(module.mask)
        self._squares: dict[Hashable, int] = {}
        self._calls: set[Hashable] = set()

    def check(self, mask: ModelMask, given: Given) -> None:
        """Raise CallError when the spec sees a pair of this call that the model hides."""
        heads = (given.heads, given.key_heads) if self._per_head else (1, 1)
        if (id(self), heads) in mask.checked:  # by another layer of this forward pass
            return
        given = replace(given, heads=heads[0], key_heads=heads[1])
        kind = kind_of(mask.allowed)
        if kind == kind_of(library().bidirectional):
            return
        if kind is None or not self._fixed or not self._holds_on_square(mask, (kind, heads), given):
            self._check_once(mask, given, self._call_key(mask, kind, heads))
        if not self._reads_data:
            mask.checked.add((id(self), heads))

    def _check_once(self, mask: ModelMask, given: Given, call: Hashable | None) -> None:
        if call is not None and call in self._calls:
            return
        self._check_call(mask, given)
        if call is not None and len(self._calls) < _REMEMBERED:
            self._calls.add(call)

    def _call_key(self, mask: ModelMask, kind: Hashable, heads: tuple[int, int]) -> Hashable | None:
        """What decides the answer, when neither mask reads data."""
        reads_data = self._module.tensors or any(scalar.dynamic for scalar in self._module.scalars)
        if kind is None or reads_data or mask.keep is not None or isinstance(mask.q_offset, Tensor):
            return None
        return (kind, heads, mask.batch, mask.queries, mask.keys, mask.q_offset, mask.k_offset)

    def _holds_on_square(self, mask: ModelMask, key: Hashable, given: Given) -> bool:
        last_query = 0 if isinstance(mask.q_offset, Tensor) else mask.q_offset + mask.queries
        reach = max(last_query, mask.k_offset + mask.keys)
        if isinstance(mask.q_offset, int) and mask.q_offset < 0:
            return False
        if reach > self._squares.get(key, 0):
            side = max(_SMALLEST_SQUARE, 1 << (reach - 1).bit_length())
            square = ModelMask(1, side, side, 0, 0, mask.allowed, use_vmap=mask.use_vmap, device=mask.device)
            if self._first_leak(square, given) is not None:
                return False
            self._squares[key] = side
        return True

    def _check_call(self, mask: ModelMask, given: Given) -> None:
        try:
            leak = self._first_leak(mask, given)
        except (AttncError, KeyError, IndexError, RuntimeError) as error:
            raise CallError(
                f"{self._module.name}: its mask cannot be compared with the model's on this call: {error}"
            ) from error
        if leak is not None:
            b, h, i, j = leak
            where = f" (sequence {b}, head {h})" if mask.batch > 1 or self._per_head else ""
            raise CallError(
                f"{self._module.name} sees more than this model allows: query {i} sees key {j}{where}, which the "
                f"model's own mask hides ({_describe(mask)}). Register a spec whose mask is part of the model's"
            )

    def _first_leak(self, mask: ModelMask, given: Given) -> tuple[int, int, int, int] | None:
        """The first (b, h, i, j) that the spec keeps and the model hides."""
        device = torch.device(mask.device)
        per_row = max(mask.batch * given.heads * mask.keys, 1)
        rows = _sample(mask.queries, DENSE // per_row).to(device)
        step = max(1, DENSE // 4 // per_row)
        for first in range(0, rows.shape[0], step):
            positions = rows[first : first + step] + mask.q_offset
            leak = self._kept(mask, given, positions, device) & ~_allowed(mask, positions)
            if bool(leak.any()):
                b, h, row, column = (int(n) for n in leak.nonzero()[0])
                return b, h, int(positions[row]), column + mask.k_offset
        return None

    def _kept(self, mask: ModelMask, given: Given, rows: Tensor, device: torch.device) -> Tensor:
        """The spec's mask and the padding for some query positions and all keys, broadcastable to [B, H, rows, M]."""
        kept = evaluate(self._module.mask, self._environment(mask, given, rows, device))
        kept = kept | torch.zeros(1, 1, rows.shape[0], mask.keys, dtype=torch.bool, device=device)
        return kept if mask.keep is None else kept & mask.keep[:, None, None, :]

    def _environment(self, mask: ModelMask, given: Given, rows: Tensor, device: torch.device) -> Env:
        module = self._module
        head = torch.arange(given.heads, device=device).view(1, -1, 1, 1)
        indices = {
            "b": torch.arange(mask.batch, device=device).view(-1, 1, 1, 1),
            "h": head,
            "hk": head // max(given.heads // given.key_heads, 1),
            "i": rows.view(1, 1, -1, 1),
            "j": torch.arange(mask.keys, device=device) + mask.k_offset,
        }
        sizes = {"B": mask.batch, "H": given.heads, "Hk": given.key_heads, "N": mask.queries, "M": mask.keys}
        sides: tuple[tuple[Literal["q", "k"], Grid | None], ...] = (("q", module.grid_q), ("k", module.grid_k))
        return Env(
            indices=indices,
            sizes=sizes,
            params=given.params,
            values={name: torch.as_tensor(n) for name, n in (("q_offset", mask.q_offset), ("k_offset", mask.k_offset))},
            tensors=given.tensors,
            dims={tensor.name: tensor.dims for tensor in module.tensors},
            grids={side: grid for side, grid in sides if grid is not None},
            device=device,
        )


def _allowed(mask: ModelMask, rows: Tensor) -> Tensor:
    """The model's mask for some query positions and all keys, [B, 1, rows, M], by transformers' own expansion."""

    def at_rows(b: Any, h: Any, row: Any, j: Any) -> Any:
        return mask.allowed(b, h, rows[row], j)

    return library().sdpa_mask(
        batch_size=mask.batch,
        q_length=rows.shape[0],
        kv_length=mask.keys,
        kv_offset=mask.k_offset,
        mask_function=at_rows,
        allow_is_causal_skip=False,
        use_vmap=mask.use_vmap,
        device=mask.device,
    )


def _sample(length: int, limit: int) -> Tensor:
    """All rows, or about `limit` of them (32 at least) with the boundaries among them."""
    if length <= max(limit, 32):
        return torch.arange(length)
    powers = [1 << n for n in range(length.bit_length())]
    near = [p + d for p in powers for d in (-1, 0, 1)] + [length - 1, length - 2]
    spread = range(0, length, length // max(limit, 32))
    return torch.tensor(sorted({n for n in (*near, *spread) if 0 <= n < length}))


def _reads_positions_alone(mask: Expr) -> bool:
    """Whether the mask depends on i, j and heads only: no batch, size, tensor or parameter."""
    return all(
        isinstance(node, Const | Call | Exists | Var) or (isinstance(node, Index) and node.name != "b")
        for node in walk(mask)
    )


def _describe(mask: ModelMask) -> str:
    start = "" if isinstance(mask.q_offset, Tensor) else f" from {mask.q_offset}"
    return f"{name_of(mask.allowed)}; {mask.queries} queries{start}, {mask.keys} keys from {mask.k_offset}"

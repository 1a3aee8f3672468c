"""Calls like an earlier one: what was found out about dtypes, shapes, strides and numbers is not found out again.

A call that repeats another differs from it in addresses and values only. Everything that a call is checked for, and
everything that the host prepares, then is as before, unless the values of a tensor matter: offsets and starts of
documents that are tensors, checks of ranges, and visits that depend on data are never taken for known.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

#: Kinds of calls that an op remembers.
_MOST = 256
#: Where the arguments of an op have optional tensors, and how far behind its last tensor it says what to check.
_OPTIONAL = slice(3, 7)
_CHECKS = 4


@dataclass(frozen=True, slots=True)
class Repeats:
    """The calls of one op; `names` are those of its tensors."""

    names: tuple[str, ...]
    known: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any])

    def key(self, args: Sequence[Any]) -> Hashable:
        """What tells that a call is like another; None where its values matter."""
        if any(x is not None for x in args[_OPTIONAL]) or args[len(self.names) + _CHECKS] != "basic":
            return None
        parts: list[Hashable] = [torch.get_num_threads()]
        for x in args:
            if isinstance(x, Tensor):
                if not x.is_cpu:
                    return None
                parts += (x.dtype, x.shape, x.stride())
            else:
                parts.append(x.hex() if type(x) is float else x)  # 0.0 and -0.0 differ
        return tuple(parts)

    def keep(self, key: Hashable, found: object) -> None:
        """Remember how to run a call."""
        if key is None:
            return
        if len(self.known) >= _MOST:
            self.known.clear()
        self.known[key] = found

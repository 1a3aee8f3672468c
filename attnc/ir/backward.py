"""The plan of a backward: sweeps over keys and over queries, apart or as one, and where their results go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attnc.ir.expr import Expr, Lookup
from attnc.ir.plan import KernelPlan

#: Which plan leaves a gradient: row values, the sweep over keys (per query), the sweep over queries (per key).
Source = Literal["rows", "query", "keys"]
#: Which plan runs: `joint` leaves what `query` and `keys` leave.
Step = Literal["rows", "query", "keys", "joint"]


@dataclass(frozen=True, slots=True)
class TokenGradient:
    """The gradient of a vector per token: `token` is "q", "k", "v" or a derived value.

    It is `factor`, a number for all tokens, times the accumulator `name`.
    """

    token: str
    source: Source
    name: str
    factor: Expr


@dataclass(frozen=True, slots=True)
class LookupGradient:
    """What each query or key passes to the element that it looks up: a number per token of `source`.

    The indices of `target` read b, h, hk and the row r, or the column c when the source is "keys".
    It is `factor`, a number for all tokens, times what is left under `name`.
    """

    target: Lookup
    source: Source
    name: str
    factor: Expr


@dataclass(frozen=True, slots=True)
class BackwardPlan:
    """The derived backward of a module.

    The forward leaves `saved` accumulators. `rows` computes stored tokens again, and row values from gradients and
    what was left. `query` and `keys` read these as tensors, by the same names; `keys` has queries and keys exchanged.
    `joint` does the work of both in one pass over the pairs, for those who can sum over queries and over keys at
    once: its columns are the accumulators of `keys`, in their order. `core` is the row before the output `maps`, over
    saved accumulators; where there are no maps, `core` is None and the gradient of the row is that of the output.
    """

    saved: tuple[str, ...]
    rows: KernelPlan
    query: KernelPlan | None
    keys: KernelPlan | None
    joint: KernelPlan
    tokens: tuple[TokenGradient, ...]
    lookups: tuple[LookupGradient, ...]
    core: Expr | None
    maps: Expr


@dataclass(frozen=True, slots=True)
class Underivable:
    """Why there is no derived backward: a term, and what is the matter with it."""

    what: str
    term: Expr

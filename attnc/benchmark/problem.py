"""What is measured: one call of an op, and the parts of its spec that other implementations are given.

Most implementations of attention take a score of the form f(q . k, b, h, i, j): one inner product per pair, changed by
a function of it and of the position. `split_score` brings a spec to that form where it has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor

from attnc.drawing import Case, Inputs, draw
from attnc.eager import Env, evaluate
from attnc.ir.dependence import axes
from attnc.ir.expr import Call, Const, Expr, Reduce, Ref, Size, Value
from attnc.ir.module import AttentionModule, Grid
from attnc.ir.traverse import substitute, walk
from attnc.ir.types import REAL, VectorType

#: Pairs of one piece of a dense tensor while it is made.
_PIECE = 1 << 22
#: The inner product in `Score.rest`.
PRODUCT = "product"
_TOKENS = (Value("q", VectorType(Size("D"))), Value("k", VectorType(Size("D"))))


class CannotError(Exception):
    """An implementation cannot be given this spec, these inputs, or this much memory; the text says why."""


@dataclass(frozen=True, slots=True)
class Score:
    """The score of a spec as `rest` of one inner product, Ref("product"), of a map of q and a map of k."""

    query: Expr
    key: Expr
    rest: Expr


def split_score(module: AttentionModule) -> Score:
    """The score in terms of one inner product of q and k. Raises CannotError."""
    products = {node for node in walk(module.score) if isinstance(node, Call) and node.fn == "dot" and _reads(node)}
    found = [product for product in products if _sides(product) is not None]
    product = found[0] if found else None
    rest = module.score if product is None else substitute(module.score, {product: Ref(PRODUCT, REAL)})
    for node in walk(rest):
        if isinstance(node, Value) and node.name in ("q", "k", "v"):
            raise CannotError(f"the score reads {node.name} elsewhere than in one inner product of q and k")
        if isinstance(node, Value) and node.name == "n_keys":
            raise CannotError("the score reads the number of keys of its row")
        if isinstance(node, Reduce) and node.axis != "d":
            raise CannotError(f"the score reduces over {node.axis}")
    query, key = (_sides(product) if product is not None else None) or _TOKENS
    return Score(query, key, rest)


def _reads(expr: Expr) -> frozenset[str]:
    return frozenset(node.name for node in walk(expr) if isinstance(node, Value)) & {"q", "k"}


def _sides(product: Call) -> tuple[Expr, Expr] | None:
    """The map of q and that of k, where a product is one of those."""
    for query, key in (product.args, product.args[::-1]):
        if (
            _reads(query) == frozenset("q")
            and "j" not in axes(query)
            and _reads(key) == frozenset("k")
            and not axes(key) & {"h", "i"}
        ):
            return query, key
    return None


@dataclass(frozen=True)
class Problem:
    """One call: the module, the case, and the inputs that were drawn for it, on their device."""

    module: AttentionModule
    case: Case
    inputs: Inputs

    @cached_property
    def score(self) -> Score:
        """The score in terms of one inner product. Raises CannotError."""
        return split_score(self.module)

    @property
    def device(self) -> torch.device:
        return self.inputs.q.device

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.case.heads // self.case.key_heads

    @property
    def q_offset(self) -> int:
        """The position of the first query."""
        offset = self.inputs.options.get("q_offset", 0)
        return self.case.keys - self.case.queries if offset == "end" else int(offset)

    # -- evaluating expressions ------------------------------------------------------------------------------------

    def env(self, dtype: torch.dtype) -> Env:
        """What expressions read beside indices and tokens."""
        defaults = {p.name: p.default.value for p in self.module.scalars if isinstance(p.default, Const)}
        given = self.inputs.options.get("scale", self.case.head_dim**-0.5)
        values = {"q_offset": self._number(self.q_offset), "k_offset": self._number(0)}
        sides: tuple[tuple[Literal["q", "k"], Grid | None], ...] = (
            ("q", self.module.grid_q),
            ("k", self.module.grid_k),
        )
        return Env(
            sizes=self.case.sizes,
            params={**defaults, **self.inputs.params},
            values={**values, "scale": self._number(given, dtype)},
            tensors=self.inputs.tensors,
            dims={tensor.name: tensor.dims for tensor in self.module.tensors},
            grids={side: grid for side, grid in sides if grid is not None},
            dtype=dtype,
            device=self.device,
        )

    def _number(self, value: float, dtype: torch.dtype | None = None) -> Tensor:
        return torch.tensor(value, dtype=dtype, device=self.device)

    def _count(self, start: int, stop: int, dim: int) -> Tensor:
        shape = [1, 1, 1, 1]
        shape[dim] = -1
        return torch.arange(start, stop, device=self.device).view(shape)

    def pair_env(self, dtype: torch.dtype, rows: slice | None = None, columns: slice | None = None) -> Env:
        """An environment for the pairs of some queries and some keys, of all when not given."""
        rows, columns = rows or slice(0, self.case.queries), columns or slice(0, self.case.keys)
        heads = self._count(0, self.case.heads, 1)
        indices = {
            "b": self._count(0, self.case.batch, 0),
            "h": heads,
            "hk": heads // self.group,
            "i": self._count(rows.start, rows.stop, 2) + self.q_offset,
            "j": self._count(columns.start, columns.stop, 3),
        }
        return replace(self.env(dtype), indices=indices)

    def maps(self) -> tuple[TokenMap, TokenMap, TokenMap, TokenMap]:
        """The maps of q, k, v and of the output."""
        score, module = self.score, self.module
        return (
            TokenMap(self, score.query, "q"),
            TokenMap(self, score.key, "k"),
            TokenMap(self, module.value, "v"),
            TokenMap(self, module.output, "o"),
        )

    def dense(self, expr: Expr, dtype: torch.dtype, refs: Mapping[str, Tensor] | None = None) -> Tensor:
        """The values of an expression for all pairs, [B, H, N, M] with 1 where it does not vary, made in pieces."""
        result = torch.empty(self.dense_shape(expr), dtype=dtype, device=self.device)
        for rows in self.pieces(expr):
            part = self.piece(expr, rows, refs)
            target = result[:, :, rows] if result.shape[2] > 1 else result
            target.copy_(part)
        return result

    def dense_shape(self, expr: Expr) -> tuple[int, int, int, int]:
        """The shape of `dense`."""
        found = axes(expr)
        case = self.case
        return (
            case.batch if "b" in found else 1,
            case.heads if found & {"h", "hk"} else 1,
            case.queries if "i" in found else 1,
            case.keys if "j" in found else 1,
        )

    def pieces(self, expr: Expr) -> list[slice]:
        """The queries in runs for which the values of an expression take little memory."""
        batch, heads, queries, keys = self.dense_shape(expr)
        if queries == 1:
            return [slice(0, 1)]
        step = max(1, _PIECE // max(1, batch * heads * keys))
        return [slice(start, min(start + step, queries)) for start in range(0, queries, step)]

    def piece(self, expr: Expr, rows: slice, refs: Mapping[str, Tensor] | None = None) -> Tensor:
        """The values of an expression for some queries and all keys, in float32 where they are reals."""
        env = self.pair_env(torch.float32, rows)
        return evaluate(expr, replace(env, refs=refs or {}))

    # -- the function of the inner product -------------------------------------------------------------------------

    def scale(self) -> tuple[float, bool]:
        """By how much the score grows with the inner product, and whether that is so for all pairs and values.

        Found by trying a corner of the pairs; what comes of it is compared with the op anyway.
        """
        corner = self.pair_env(torch.float64, slice(0, min(32, self.case.queries)), slice(0, min(32, self.case.keys)))
        at = {
            x: evaluate(self.score.rest, replace(corner, refs={PRODUCT: self._number(x, torch.float64)}))
            for x in (0.0, 1.0, -3.0)
        }
        slopes = cast(Any, torch).broadcast_tensors(at[1.0] - at[0.0], (at[0.0] - at[-3.0]) / 3)
        values = torch.stack([slope.flatten() for slope in slopes]).flatten()
        values = values[values.isfinite()]
        if not values.numel():
            return 1.0, False
        slope = float(values[0])
        return slope, bool(((values - slope).abs() <= 1e-9 * max(1.0, abs(slope))).all())

    def bias(self) -> Expr | None:
        """What is added to the scaled inner product, None where it is 0 for every pair."""
        zero = Const(0.0, REAL)
        rest = substitute(self.score.rest, {Ref(PRODUCT, REAL): zero})
        if all(bool((self.piece(rest, rows) == 0).all()) for rows in self.pieces(rest)):
            return None
        return rest


@dataclass(frozen=True)
class TokenMap:
    """What a spec does to tokens [B, heads, length, features]."""

    problem: Problem
    expr: Expr
    name: Literal["q", "k", "v", "o"]

    @property
    def is_identity(self) -> bool:
        return self.expr == Value(self.name, self.expr.type)

    def __call__(self, tokens: Tensor) -> Tensor:
        """The mapped tokens; the same ones where the spec does nothing to them."""
        if self.is_identity:
            return tokens
        found = evaluate(self.expr, self._env(tokens))
        return found.squeeze(self._other).expand(*tokens.shape[:3], -1)

    @property
    def _other(self) -> int:
        """The dimension of the other side's positions."""
        return 3 if self.name in ("q", "o") else 2

    def _env(self, tokens: Tensor) -> Env:
        env = self.problem.pair_env(tokens.dtype)
        heads = torch.arange(tokens.shape[1], device=tokens.device).view(1, -1, 1, 1)
        by_key = {} if self._other == 3 else {"hk": heads}
        values = {**env.values, self.name: tokens.unsqueeze(self._other)}
        return replace(env, values=values, indices={**env.indices, **by_key})


def make_problem(module: AttentionModule, case: Case, device: str) -> Problem:
    """Draw the inputs of a case. Raises UndrawableError."""
    return Problem(module, case, draw(module, case).to(device))

"""The torch back end: the plan executed tile by tile with torch ops, on any device.

Slow, never wrong. It reads the same visits, sweeps and accumulators as the kernels; only the meaning of single
expressions comes from `eager.py`. 16-bit inputs are computed in float32, float64 stays float64. Differentiable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnc.codegen.launch import CallInputs
from attnc.codegen.states import scatter_key, state_key
from attnc.eager import Env, evaluate
from attnc.ir.dependence import conjuncts, is_key_clause
from attnc.ir.expr import Expr, Ref
from attnc.ir.plan import Accumulator, KernelPlan, Scatter, Stage, Sweep
from attnc.ir.traverse import walk
from attnc.packing import documents
from attnc.torch_states import starts
from attnc.torch_tiles import PartTables, Tiling, Tokens
from attnc.torch_tokens import add_at, at_keys, at_rows, compute_dtype, derived_tokens, environment, token_values

Tables = Sequence[PartTables]

#: The name of the output among what stages leave; no binding can have it.
_OUTPUT = "out of a row"
_IDENTITY = {"sum": 0.0, "max": float("-inf"), "min": float("inf")}


def run_torch(plan: KernelPlan, call: CallInputs, tables: Tables = ()) -> tuple[Tensor, dict[str, Tensor]]:
    """The output [B, H, N, Dv] in the dtype of q and the statistics [B, H, N], float32 (float64 for float64).

    `tables` are those of each part of the plan, when its tiles are boxes or listed. The accumulators that the plan
    saves are among the statistics, by `state_key`. Of a plan without an output all of its accumulators are, and its
    scatters by `scatter_key`; the output has no features then.
    """
    found = dict(_sweep(plan, call, tables))
    out = found.pop(_OUTPUT) if plan.output is not None else call.q.new_empty((*call.q.shape[:3], 0))
    return out.to(call.q.dtype), found


def _sweep(plan: KernelPlan, call: CallInputs, tables: Tables) -> dict[str, Tensor]:
    if call.cu_q is None or call.cu_k is None:
        return _Execution(plan, call, tables).run()
    results = [_Execution(plan, part).run() for part in documents(plan.module, call)]
    if not results:
        return _Execution(plan, replace(call, cu_q=None, cu_k=None)).run()
    summed = {scatter_key(scatter) for scatter in plan.scatters}
    return {
        name: sum((result[name] for result in results[1:]), results[0][name])
        if name in summed
        else torch.cat([result[name] for result in results], dim=2)
        for name in results[0]
    }


def differentiate(
    plan: KernelPlan,
    call: CallInputs,
    gradients: tuple[Tensor, Mapping[str, Tensor]],
    wanted: frozenset[str],
    tables: Tables = (),
) -> dict[str, Tensor]:
    """Gradients of the `wanted` among q, k, v and the tensors, by name: the call run again and differentiated.

    `gradients` are those of the output and of statistics by name. What the result does not depend on gets zeros.
    """
    given = {"q": call.q, "k": call.k, "v": call.v, **call.tensors}
    leaves = {name: given[name].detach().requires_grad_() for name in sorted(wanted)}
    inputs = {**given, **leaves}
    tensors = {name: inputs[name] for name in call.tensors}
    again = replace(call, q=inputs["q"], k=inputs["k"], v=inputs["v"], tensors=tensors, return_aux=bool(gradients[1]))
    with torch.enable_grad():
        out, aux = run_torch(plan, again, tables)
        pairs = [(out, gradients[0]), *((aux[name], gradient) for name, gradient in gradients[1].items())]
        pairs = [(value, gradient) for value, gradient in pairs if value.requires_grad]
        if not pairs:
            return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        values, seeds = zip(*pairs, strict=True)
        found = torch.autograd.grad(values, list(leaves.values()), seeds, allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


@dataclass(frozen=True, slots=True)
class _Pass:
    """A sweep of some rows over what one mask keeps."""

    sweep: Sweep
    mask: Expr
    env: Env
    rows: Tokens


@dataclass(slots=True)
class _Tile:
    """What the expressions of one (query tile, key tile) read; `values` by name."""

    env: Env
    keep: Tensor | None
    values: dict[str, Tensor]
    shape: tuple[int, ...]


class _Execution:
    def __init__(self, plan: KernelPlan, call: CallInputs, tables: Tables = ()) -> None:
        self._plan = plan
        self._tables = tables
        self._call = call
        self._dtype = compute_dtype(call)
        self._device = call.q.device
        self._batch, self._heads, self._rows = call.q.shape[:3]
        self._key_heads, self._keys = call.k.shape[1:3]
        self._stored: dict[str, Tensor] = {
            "q": call.q.to(self._dtype),
            "k": call.k.to(self._dtype),
            "v": call.v.to(self._dtype),
        }
        self._base = environment(plan, call, self._dtype)
        self._scattered = {
            scatter.name: torch.zeros_like(call.tensors[scatter.target.tensor], dtype=self._dtype)
            for scatter in plan.scatters
        }

    def run(self) -> dict[str, Tensor]:
        """Output and statistics by name, or accumulators and scatters where there is no output."""
        self._stored.update(derived_tokens(self._plan, self._call, self._dtype) if self._plan.derived else {})
        self._base = replace(self._base, tensors={**self._base.tensors, **self._stored})
        self._stored = {**self._base.tensors, **self._stored}
        found = self._starts()
        for stage, tables in zip(self._plan.stages, self._stage_tables(), strict=True):
            found.update(self._stage(stage, tables, found))
        if self._plan.output is None:
            left = {state_key(acc): _result(found[acc.name]) for acc in self._plan.accumulators}
            return {**left, **{scatter_key(s): self._scattered[s.name] for s in self._plan.scatters}}
        exact = self._dtype == self._call.q.dtype
        asked = self._plan.aux if self._call.return_aux else ()
        rounded = {b.name: found[b.name] if exact else found[b.name].float() for b in asked}
        saved = {state_key(acc): _result(found[acc.name]) for acc in self._plan.saved}
        return {_OUTPUT: found[_OUTPUT], **rounded, **saved}

    def _starts(self) -> dict[str, Tensor]:
        """What accumulators begin at: sums over the keys that states stand for."""
        if self._plan.states is None:
            return {}
        found = starts(self._plan, self._call, self._stored, self._plan.parts[0].tile.rows, self._dtype)
        return {name: value.unsqueeze(3) for name, value in found.items()}

    def _stage_tables(self) -> list[PartTables]:
        """The tables of each stage's part; none for calls that need none."""
        parts = self._plan.parts
        return [self._tables[parts.index(stage.part)] if self._tables else () for stage in self._plan.stages]

    def _stage(self, stage: Stage, tables: PartTables, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a stage leaves, of all rows: output and statistics, or accumulators."""
        tiles: list[dict[str, Tensor]] = []
        order: list[Tensor] = []
        tiling = Tiling(stage.part, tables, self._base, self._call)
        for rows, visits in tiling.tiles():
            tiles.append(self._query_tile(stage, rows, visits, before))
            order.append(rows.index)
        place = torch.argsort(torch.cat(order)) if stage.part.axes else None
        return {name: _joined([tile[name] for tile in tiles], place) for name in tiles[0]}

    # -- tiles ---------------------------------------------------------------------------------------------------

    def _query_tile(
        self, stage: Stage, rows: Tokens, visits: list[tuple[Tokens, bool]], before: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        env = at_rows(self._base, rows.index)
        refs = {name: value[:, :, rows.where] for name, value in before.items()}
        found: dict[str, Tensor] = {}
        for number in stage.sweeps:
            sweep = self._plan.sweeps[number]
            start = {acc.name: refs[acc.name] for acc in sweep.accumulators} if stage.resumes else None
            found = self._sweep(_Pass(sweep, self._plan.mask_of(stage.part), env, rows), visits, refs, start)
            refs.update(found)
        if not stage.finishes:
            return found
        left = {acc.name: refs[acc.name] for acc in self._plan.saved}
        return {**left, **self._finish(replace(env, refs=refs), rows.index.numel())}

    def _finish(self, env: Env, rows: int) -> dict[str, Tensor]:
        """Output and statistics of some rows."""
        shape = (self._batch, self._heads, rows)
        assert self._plan.output is not None
        out = evaluate(self._plan.output, env).expand(*shape, 1, self._plan.value_dim).squeeze(3)
        asked = self._plan.aux if self._call.return_aux else ()
        return {_OUTPUT: out, **{b.name: evaluate(b.expr, env).expand(*shape, 1).squeeze(3) for b in asked}}

    def _sweep(
        self,
        here: _Pass,
        visits: list[tuple[Tokens, bool]],
        refs: Mapping[str, Tensor],
        start: Mapping[str, Tensor] | None,
    ) -> dict[str, Tensor]:
        state = {acc.name: self._identity(acc, here.rows.index.numel()) for acc in here.sweep.accumulators}
        state.update(start or {})
        for keys, full in visits:
            if keys.index.numel():
                state = self._update(here.sweep, self._tile(here, refs, keys, full=full), refs, state)
        return state

    def _identity(self, acc: Accumulator, rows: int) -> Tensor:
        shape = (self._batch, self._heads, rows, 1)
        if acc.weighted:
            shape = (*shape, acc.dim)
        return torch.full(shape, _IDENTITY[acc.op], dtype=self._dtype, device=self._device)

    def _tile(self, here: _Pass, refs: Mapping[str, Tensor], keys: Tokens, *, full: bool) -> _Tile:
        env, rows = at_keys(here.env, keys.index), here.rows
        alive = _alive(here.mask, env)
        found = {**refs, **self._dots(rows, keys, alive)}
        env = replace(env, refs=found)
        found.update({p.name: self._pair(env, p.left, p.right, rows, keys) for p in self._plan.pair_dots})
        keep = None if full else evaluate(here.mask, env)
        shape = (self._batch, self._heads, rows.index.numel(), keys.index.numel())
        keep = None if keep is None else keep.expand(shape)
        if here.sweep.reads_logit or self._plan.scatters:
            score = evaluate(self._plan.score, env).expand(shape)
            if keep is not None:
                score = torch.where(keep, score, torch.full_like(score, float("-inf")))
            env = replace(env, values={**env.values, "s": score})
        names = {self._plan.values_of(acc) for acc in here.sweep.accumulators if acc.weighted}
        values = {name: _cleared(self._grouped(name)[:, :, keys.where], alive) for name in names}
        tile = _Tile(env, keep, values, shape)
        for scatter in self._plan.scatters:
            self._scatter(scatter, tile)
        return tile

    def _scatter(self, scatter: Scatter, tile: _Tile) -> None:
        """Add what the pairs of a tile pass to the elements that they look up."""
        body = evaluate(scatter.body, tile.env).expand(tile.shape)
        if tile.keep is not None:
            body = torch.where(tile.keep, body, torch.zeros_like(body))
        add_at(self._scattered[scatter.name], scatter.target.indices, body, tile.env)

    def _grouped(self, name: str) -> Tensor:
        """A stored key-side value, repeated for the query heads of a group."""
        value = self._stored[name]
        return value if value.shape[1] == self._heads else value.repeat_interleave(self._heads // value.shape[1], dim=1)

    def _dots(self, rows: Tokens, keys: Tokens, alive: Tensor | None) -> dict[str, Tensor]:
        def product(left: Tensor, right: Tensor) -> Tensor:
            return left[:, :, rows.where] @ _cleared(right[:, :, keys.where], alive).transpose(2, 3)

        return {t.name: product(self._stored[t.left], self._grouped(t.right)) for t in self._plan.dots}

    def _pair(self, env: Env, left: Expr, right: Expr, rows: Tokens, keys: Tokens) -> Tensor:
        tokens = token_values(self._stored, self._heads)
        values = {"q": tokens["q"][:, :, rows.where], "k": tokens["k"][:, :, :, keys.where]}
        here = replace(env, values={**env.values, **values})
        return (evaluate(left, here) * evaluate(right, here)).sum(-1)

    # -- accumulators --------------------------------------------------------------------------------------------

    def _update(
        self, sweep: Sweep, tile: _Tile, refs: Mapping[str, Tensor], state: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        new: dict[str, Tensor] = {}
        running: dict[str, Tensor] = dict(refs)
        for acc in sweep.accumulators:
            env = replace(tile.env, refs={**tile.env.refs, **running})
            body = evaluate(acc.body, env).expand(tile.shape)
            if tile.keep is not None and acc.needs_mask:
                body = torch.where(tile.keep, body, torch.full_like(body, _IDENTITY[acc.op]))
            old = state[acc.name]
            if acc.rescale is not None:
                old = old * self._factor(acc, env, state)
            values = tile.values[self._plan.values_of(acc)] if acc.weighted else None
            new[acc.name] = _combine(acc, old, body, values)
            if acc.op != "sum":
                value = new[acc.name]
                started = value != _IDENTITY[acc.op]
                running[acc.name] = torch.where(started, value, torch.zeros_like(value))
                running[f"{acc.name}.old"] = state[acc.name]
        return new

    def _factor(self, acc: Accumulator, env: Env, state: Mapping[str, Tensor]) -> Tensor:
        assert acc.rescale is not None
        factor = evaluate(acc.rescale, env)
        if acc.rescale_guard:
            names = {node.name.removesuffix(".old") for node in walk(acc.rescale)
                     if isinstance(node, Ref) and node.name.endswith(".old")}  # fmt: skip
            for name in names:
                factor = torch.where(torch.isfinite(state[name]), factor, torch.zeros_like(factor))
        return factor.unsqueeze(-1) if acc.weighted else factor


def _joined(parts: list[Tensor], place: Tensor | None) -> Tensor:
    """Rows of all tiles, in the order of the tokens."""
    whole = torch.cat(parts, dim=2)
    return whole if place is None else whole.index_select(2, place)


def _alive(mask: Expr, env: Env) -> Tensor | None:
    """Keys [B, H, keys, 1] that clauses on the key alone leave; what they remove must not leak, NaN or not."""
    alive: Tensor | None = None
    for clause in conjuncts(mask):
        if is_key_clause(clause):
            holds = evaluate(clause, env)
            alive = holds if alive is None else alive & holds
    return None if alive is None else alive.transpose(2, 3)


def _cleared(tokens: Tensor, alive: Tensor | None) -> Tensor:
    """Key-side vectors [B, H, keys, features] with zeros where a key is not alive."""
    return tokens if alive is None else torch.where(alive, tokens, torch.zeros_like(tokens))


def _result(value: Tensor) -> Tensor:
    """An accumulator as a tensor of tokens: [B, H, N, 1] or [B, H, N, 1, dim] without the one."""
    return value.squeeze(3)


def _combine(acc: Accumulator, old: Tensor, body: Tensor, values: Tensor | None) -> Tensor:
    if values is not None:
        return old + (body @ values).unsqueeze(3)
    if acc.op == "sum":
        return old + body.sum(-1, keepdim=True)
    extremum = body.amax(-1, keepdim=True) if acc.op == "max" else body.amin(-1, keepdim=True)
    return torch.maximum(old, extremum) if acc.op == "max" else torch.minimum(old, extremum)

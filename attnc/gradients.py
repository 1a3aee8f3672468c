"""Running a derived backward: row values, the sweeps of a back end, then what single tokens pass back.

The sweeps are the back end's, quadratic in the tokens. What is linear in them (token maps, output maps, look-ups by
one position) is torch's own differentiation of single tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from attnc.codegen.launch import CallInputs
from attnc.codegen.states import STATE, column_key, scatter_key, state_key
from attnc.eager import Env, evaluate
from attnc.ir.backward import BackwardPlan, LookupGradient, Source, Step
from attnc.ir.expr import Expr
from attnc.passes.derive_backward import VALUES
from attnc.passes.row_values import OUTPUT, SAVED
from attnc.passes.transpose import GROUP
from attnc.torch_tokens import add_at, compute_dtype, derived_tokens, environment, everywhere, reading, token_values

#: Runs one of the plans and returns what it leaves: derived values of "rows" by name, sums by their keys.
RunPlan = Callable[[Step, CallInputs], Mapping[str, Tensor]]
_OUT = "d:out"


@dataclass(frozen=True, slots=True)
class Seeds:
    """What the forward left and what comes back: `saved` accumulators by name, gradients of output and statistics."""

    out: Tensor
    saved: Mapping[str, Tensor]
    gradient: Tensor
    statistics: Mapping[str, Tensor]


@dataclass(slots=True)
class Backward:
    """One backward of one call; `joint`: both sides in one pass over the pairs."""

    plan: BackwardPlan
    call: CallInputs
    seeds: Seeds
    wanted: frozenset[str]
    execute: RunPlan
    joint: bool = False

    def run(self) -> dict[str, Tensor]:
        """Gradients of the `wanted` among q, k, v and the tensors, in their dtypes."""
        found: dict[str, Tensor] = {}
        call = self._before_maps(self._given(), found)
        stored = dict(self.execute("rows", call))
        call = replace(call, tensors={**call.tensors, **stored})
        left: dict[Source, Mapping[str, Tensor]] = self._jointly(call) if self.joint else self._by_sides(call)
        left["rows"] = stored
        self._of_tokens(left, found)
        for lookup in self.plan.lookups:
            value = left[lookup.source][_key(lookup.source, lookup.name)] * self._number(lookup.factor)
            self._look_up(lookup, value, found)
        for scatter in self.plan.query.scatters if self.plan.query is not None else ():
            if scatter.target.tensor in self.wanted:
                _add(found, scatter.target.tensor, left["query"][scatter_key(scatter)])
        self._through_maps(found)
        return {name: self._finished(name, found) for name in self.wanted}

    def _jointly(self, call: CallInputs) -> dict[Source, Mapping[str, Tensor]]:
        found = self.execute("joint", call)
        assert self.plan.keys is not None
        pairs = zip(self.plan.keys.accumulators, self.plan.joint.columns, strict=True)
        columns = {state_key(acc): found[column_key(column)] for acc, column in pairs}
        return {"query": found, "keys": columns}

    def _by_sides(self, call: CallInputs) -> dict[Source, Mapping[str, Tensor]]:
        left: dict[Source, Mapping[str, Tensor]] = {}
        if self.plan.query is not None:
            left["query"] = self.execute("query", call)
        if self.plan.keys is not None:
            left["keys"] = self.execute("keys", self._exchanged(call))
        return left

    # -- what the plans read -----------------------------------------------------------------------------------------

    def _given(self) -> CallInputs:
        seeds = self.seeds
        given = {f"{SAVED}{name}": tensor for name, tensor in seeds.saved.items()}
        given |= {f"d:{name}": tensor for name, tensor in seeds.statistics.items()}
        given |= {_OUT: seeds.gradient, OUTPUT: seeds.out}
        absent = {tensor.name for tensor in self.plan.rows.module.tensors} - {*given, *self.call.tensors}
        shape = self.call.q.shape[:3]
        given |= {name: seeds.gradient.new_zeros(shape, dtype=torch.float32) for name in absent}
        return replace(self.call, tensors={**self.call.tensors, **given})

    def _before_maps(self, call: CallInputs, found: dict[str, Tensor]) -> CallInputs:
        """With the gradient of the row before the output maps; what the maps read gets its own."""
        if self.plan.core is None:
            return call
        env = everywhere(self.plan.rows, reading(self.call, [self.plan.core]), compute_dtype(self.call))
        refs = {name: saved.to(env.dtype).unsqueeze(3) for name, saved in self.seeds.saved.items()}
        core = evaluate(self.plan.core, replace(env, refs=refs)).detach().requires_grad_()
        with torch.enable_grad():
            leaves, inputs = self._leaves()
            given = {name: x.to(env.dtype) if x.is_floating_point() else x for name, x in inputs.items()}
            tensors = {name: given[name] for name in self.call.tensors}
            values = {**env.values, **token_values(given, self.call.q.shape[1]), "o": core}
            out = evaluate(self.plan.maps, replace(env, refs=refs, tensors=tensors, values=values))
            shape = (*self.call.q.shape[:3], out.shape[-1])
            seed = self.seeds.gradient.to(out.dtype)
            out = out.expand(*shape[:3], 1, shape[3]).squeeze(3)
            passed = _differentiated((out,), {"o": core, **leaves}, (seed,))
        of_core = passed.pop("o", torch.zeros_like(core))
        for name, gradient in passed.items():
            _add(found, name, gradient)
        shape = (*self.call.q.shape[:3], 1, core.shape[-1])
        return replace(
            call, tensors={**call.tensors, _OUT: of_core.expand(shape).squeeze(3).to(self.seeds.gradient.dtype)}
        )

    def _leaves(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What is differentiated by, and all inputs with it."""
        inputs = {"q": self.call.q, "k": self.call.k, "v": self.call.v, **self.call.tensors}
        leaves = {name: inputs[name].detach().requires_grad_() for name in sorted(self.wanted)}
        return leaves, inputs | leaves

    def _exchanged(self, call: CallInputs) -> CallInputs:
        """The call whose rows are keys. Keys and values are repeated for the query heads of their group."""
        heads, key_heads = call.q.shape[1], call.k.shape[1]
        group = heads // max(key_heads, 1)

        def repeated(x: Tensor) -> Tensor:
            return x if group == 1 else x.repeat_interleave(group, dim=1)

        assert self.plan.keys is not None
        tensors = dict(call.tensors)
        for derived in self.plan.rows.derived:
            if derived.heads == "Hk" and tensors[derived.name].dim() == 4:
                tensors[derived.name] = repeated(tensors[derived.name])
        tensors[VALUES] = repeated(call.v)
        offset = call.k.shape[2] - call.q.shape[2] if isinstance(call.q_offset, str) else call.q_offset
        return replace(
            call,
            q=repeated(call.k),
            k=call.q,
            v=call.tensors[_OUT],
            tensors=tensors,
            params={**call.params, GROUP: group},
            q_offset=call.k_offset,
            k_offset=offset,
            cu_q=call.cu_k,
            cu_k=call.cu_q,
            return_aux=False,
        )

    # -- where results go --------------------------------------------------------------------------------------------

    def _of_tokens(self, left: Mapping[Source, Mapping[str, Tensor]], found: dict[str, Tensor]) -> None:
        heads = {"q": "H", "k": "Hk", "v": "Hk", **{d.name: d.heads for d in self.plan.rows.derived}}
        for token in self.plan.tokens:
            gradient = left[token.source][_key(token.source, token.name)] * self._number(token.factor)
            _add(found, token.token, self._per_key_head(gradient) if heads[token.token] == "Hk" else gradient)

    def _number(self, factor: Expr) -> float:
        """A number that is the same for all tokens."""
        return float(evaluate(factor, environment(self.plan.rows, reading(self.call, [factor]), torch.float64)))

    def _per_key_head(self, gradient: Tensor) -> Tensor:
        """Summed over the query heads of each key head."""
        heads = self.call.k.shape[1]
        if gradient.shape[1] == heads:
            return gradient
        batch, all_heads, *rest = gradient.shape
        return gradient.reshape(batch, heads, all_heads // max(heads, 1), *rest).sum(2)

    def _look_up(self, lookup: LookupGradient, value: Tensor, found: dict[str, Tensor]) -> None:
        """Add numbers per token at the elements that they come from."""
        name = lookup.target.tensor
        derived = {d.name: d for d in self.plan.rows.derived}
        if name in derived:  # the value of the token itself
            _add(found, name, self._per_key_head(value) if derived[name].heads == "Hk" else value)
            return
        if name not in self.wanted:
            return
        into = torch.zeros_like(self.call.tensors[name], dtype=value.dtype)
        body = value.unsqueeze(2) if lookup.source == "keys" else value.unsqueeze(3)
        add_at(into, lookup.target.indices, body, self._positions(lookup.target.indices))
        _add(found, name, into)

    def _positions(self, indices: tuple[Expr, ...]) -> Env:
        """All stored rows of both sides, for `indices`. Positions of packed documents start anew with each."""
        env = everywhere(self.plan.rows, reading(self.call, indices), torch.float32)
        if self.call.cu_q is None or self.call.cu_k is None:
            return env
        i = _within(self.call.cu_q, env.indices["r"]) + env.values["q_offset"]
        j = _within(self.call.cu_k, env.indices["c"]) + env.values["k_offset"]
        return replace(env, indices={**env.indices, "i": i, "j": j})

    # -- single tokens -----------------------------------------------------------------------------------------------

    def _through_maps(self, found: dict[str, Tensor]) -> None:
        """From gradients of derived tokens to those of what they are derived from."""
        derived = tuple(d for d in self.plan.rows.derived if d.name in found)
        if not derived:
            return
        leaves, inputs = self._leaves()
        tensors = {name: inputs[name] for name in self.call.tensors}
        call = replace(self.call, q=inputs["q"], k=inputs["k"], v=inputs["v"], tensors=tensors)
        with torch.enable_grad():
            values = derived_tokens(replace(self.plan.rows, module=self.plan.rows.module, derived=derived), call)
            pairs = [(value, found.pop(name).to(value.dtype)) for name, value in values.items()]
            pairs = [(value, gradient) for value, gradient in pairs if value.requires_grad]
            if not pairs:
                return
            outputs, seeds = zip(*pairs, strict=True)
            passed = _differentiated(outputs, leaves, seeds)
        for name, gradient in passed.items():
            _add(found, name, gradient.to(torch.promote_types(gradient.dtype, torch.float32)))

    def _finished(self, name: str, found: Mapping[str, Tensor]) -> Tensor:
        given = {"q": self.call.q, "k": self.call.k, "v": self.call.v, **self.call.tensors}[name]
        return found[name].to(given.dtype) if name in found else torch.zeros_like(given)


def _differentiated(
    outputs: tuple[Tensor, ...], leaves: Mapping[str, Tensor], seeds: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    """Gradients by those of the leaves that the outputs depend on."""
    found = torch.autograd.grad(outputs, list(leaves.values()), seeds, allow_unused=True)
    optional = cast("tuple[Tensor | None, ...]", found)  # as `allow_unused` has it
    return {name: gradient for name, gradient in zip(leaves, optional, strict=True) if gradient is not None}


def _within(starts: Tensor, row: Tensor) -> Tensor:
    """Rows of packed documents, counted from the first of their own."""
    document = torch.searchsorted(starts, row.flatten().to(starts.dtype), right=True) - 1
    return row - starts[document].view(row.shape)


def _key(source: Source, name: str) -> str:
    """The name of a result among what a plan leaves."""
    return name if source == "rows" else f"{STATE}{name}"


def _add(into: dict[str, Tensor], name: str, value: Tensor) -> None:
    into[name] = into[name] + value if name in into else value

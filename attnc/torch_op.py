# torch.library and autograd.Function have no complete types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""A module as ops of torch's dispatcher: what torch.compile, torch.export, autograd and vmap see.

    attnc::NAME_HASH                 (arguments) -> out
    attnc::NAME_HASH_train           (arguments) -> out, saved[]
    attnc::NAME_HASH_backward        (gradient, out, saved[], wanted, arguments) -> gradients...
    attnc::NAME_HASH_stats...        the same three with statistics beside the output

`saved` is what the forward leaves for a derived backward (see `training`).

The name holds a digest of the module, the back end and the compiler: torch's own caches know ops by name only.
Forward and backward are separate functional ops without an autograd formula; `autograd.Function` around the forward is
what makes torch.func transforms work (see docs/decisions/0008). Outputs are contiguous, so their strides depend on
shapes alone.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attnc.calls import check_call, refuse
from attnc.codegen.cache import fingerprint
from attnc.codegen.launch import CallInputs
from attnc.empty_masks import warn_of_empty_mask
from attnc.executor import Executor
from attnc.flops import forward_flops, register_formula
from attnc.folding import Folding
from attnc.repeats import Repeats
from attnc.row_watch import RowWatch
from attnc.signature import Signature
from attnc.training import Training

_LIBRARY = torch.library.Library("attnc", "FRAGMENT")  # ops live as long as their library
_REGISTERED: dict[str, TorchOps] = {}
_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class TorchOps:
    """The registered ops of one executor, without and with the statistics as outputs."""

    name: str
    signature: Signature
    plain: Callable[..., Any]
    stats: Callable[..., Any]
    plain_function: Callable[..., Any]
    stats_function: Callable[..., Any]


def register(executor: Executor) -> tuple[Executor, TorchOps]:
    """The ops of an executor. One of the same content that was registered before is used instead, with its plans."""
    digest = hashlib.sha256((fingerprint() + executor.description()).encode()).hexdigest()[:16]
    name = f"{executor.module.name}_{digest}"
    with _LOCK:
        if name not in _REGISTERED:
            _REGISTERED[name] = _register(name, executor)
            _EXECUTORS[name] = executor
            if executor.key:  # compiled from a text, which somebody wrote
                warn_of_empty_mask(executor.module)
        return _EXECUTORS[name], _REGISTERED[name]


_EXECUTORS: dict[str, Executor] = {}


def _register(name: str, executor: Executor) -> TorchOps:
    signature, watch = Signature(executor.module), RowWatch(executor.module, executor.key)
    training = Training(executor)

    def registered(name: str, *, aux: bool) -> tuple[Any, Any]:
        repeats = Repeats(signature.tensors)
        return _Registration(name, executor, training, signature, aux, watch, repeats).register()

    plain, plain_function = registered(name, aux=False)
    if signature.statistics:
        stats, stats_function = registered(f"{name}_stats", aux=True)
    else:
        stats, stats_function = plain, plain_function
    return TorchOps(name, signature, plain, stats, plain_function, stats_function)


@dataclass(frozen=True, slots=True)
class _Registration:
    """One forward op and its backward."""

    name: str
    executor: Executor
    training: Training
    signature: Signature
    aux: bool
    watch: RowWatch
    repeats: Repeats  # each op its own

    def register(self) -> tuple[Any, Any]:
        """The overload of the forward, and the autograd function around it."""
        forward, backward = self.name, f"{self.name}_backward"
        train = f"{self.name}_train"
        outputs = ", ".join(["Tensor"] * (1 + len(self._names)))
        seeds = ", ".join(f"Tensor g{n}" for n in range(1 + len(self._names)))
        found = ", ".join(["Tensor"] * len(self.signature.differentiable))
        arguments = self.signature.schema()
        _LIBRARY.define(f"{forward}({arguments}) -> ({outputs})")
        _LIBRARY.define(f"{train}({arguments}) -> ({outputs}, Tensor[])")
        _LIBRARY.define(f"{backward}({seeds}, Tensor out, Tensor[] saved, bool[] wanted, {arguments}) -> ({found})")
        for name, run, fake in (
            (forward, self._forward, self._fake_forward),
            (train, self._train, self._fake_train),
            (backward, self._backward, self._fake_backward),
        ):
            for device in ("CPU", "CUDA"):
                _LIBRARY.impl(name, _below(run), device)
            torch.library.register_fake(f"attnc::{name}", fake, lib=_LIBRARY)
        ops: Any = torch.ops.attnc
        forward_op, train_op, backward_op = (getattr(ops, name).default for name in (forward, train, backward))
        self._register_vmap(forward_op, train_op, backward_op)
        register_formula(getattr(ops, forward), self._forward_flops)
        register_formula(getattr(ops, train), self._forward_flops)
        register_formula(getattr(ops, backward), self._backward_flops)
        return forward_op, _function(self, train_op, backward_op)

    @property
    def _names(self) -> tuple[str, ...]:
        return self.signature.statistics if self.aux else ()

    # -- implementations ---------------------------------------------------------------------------------------------

    def _forward(self, *args: Any) -> Any:
        key = self.repeats.key(args)
        known = self.repeats.known.get(key)
        if known is not None:
            out, aux = self.executor.repeat(known, dict(zip(self.repeats.names, args, strict=False)))
            return _outputs(out, *(aux[name] for name in self._names))
        call = check_call(self.executor.module, self.signature.unflatten(args, aux=self.aux))
        _look_at_rows(self.watch, call)
        out, aux = self.executor.run(call, partial(self.repeats.keep, key))
        return _outputs(out.contiguous(), *(aux[name].contiguous() for name in self._names))

    def _train(self, *args: Any) -> Any:
        call = check_call(self.executor.module, self.signature.unflatten(args, aux=self.aux))
        _look_at_rows(self.watch, call)
        out, aux, saved = self.training.run(call)
        left = [x.contiguous() for x in saved]
        return (out.contiguous(), *(aux[name].contiguous() for name in self._names), left)

    def _backward(self, *args: Any) -> tuple[Tensor, ...]:
        count = 1 + len(self._names)
        seeds, (out, saved, wanted), rest = args[:count], args[count : count + 3], args[count + 3 :]
        raw = self.signature.unflatten(rest, aux=self.aux)
        call = check_call(self.executor.module, raw)
        named = {"q": call.q, "k": call.k, "v": call.v, **call.tensors}
        names = [name for name, want in zip(self.signature.differentiable, wanted, strict=True) if want]
        gradients = (seeds[0], dict(zip(self._names, seeds[1:], strict=True)))
        found = self.training.differentiate(call, gradients, frozenset(names), (out, saved))
        return tuple(
            found[name].contiguous() if name in found else named[name].new_empty(0)
            for name in self.signature.differentiable
        )

    def _fake_forward(self, *args: Any) -> Any:
        raw = self.signature.unflatten(args, aux=self.aux, checks="shapes")
        check_call(self.executor.module, raw)
        shape = (*raw.q.shape[:3], raw.v.shape[3])
        dtype = torch.float64 if raw.q.dtype == torch.float64 else torch.float32
        return _outputs(raw.q.new_empty(shape), *(raw.q.new_empty(shape[:3], dtype=dtype) for _ in self._names))

    def _fake_train(self, *args: Any) -> Any:
        raw = self.signature.unflatten(args, aux=self.aux, checks="shapes")
        call = check_call(self.executor.module, raw)
        found = self._fake_forward(*args)
        return (*(found if self._names else (found,)), self.training.saved_like(call))

    def _fake_backward(self, *args: Any) -> tuple[Tensor, ...]:
        count = 1 + len(self._names)
        wanted, rest = args[count + 2], args[count + 3 :]
        tensors = dict(zip(self.signature.tensors, rest, strict=False))
        given = [tensors[name] for name in self.signature.differentiable]
        return tuple(x.new_empty(x.shape) if want else x.new_empty(0) for x, want in zip(given, wanted, strict=True))

    # -- operations --------------------------------------------------------------------------------------------------

    def _forward_flops(self, *args: Any, **_named: Any) -> int:
        call = check_call(self.executor.module, self.signature.unflatten(args, aux=self.aux, checks="shapes"))
        return forward_flops(self.executor.plan(self.executor.options(call, "torch")), call)

    def _backward_flops(self, *args: Any, **_named: Any) -> int:
        raw = self.signature.unflatten(args[len(self._names) + 4 :], aux=self.aux, checks="shapes")
        call = check_call(self.executor.module, raw)
        plans = self.training.plans(call)
        forward = self.executor.plan(self.executor.options(call, "torch"))
        return sum(forward_flops(plan, call) for plan in plans) or 2 * forward_flops(forward, call)

    # -- vmap --------------------------------------------------------------------------------------------------------

    def _register_vmap(self, forward: Any, train: Any, backward: Any) -> None:
        folding = Folding(self.signature)
        count = 1 + len(self._names)

        def forward_rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> Any:
            del info
            return folding.forward(forward, in_dims, args)

        def train_rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> Any:
            del info
            return folding.forward(train, in_dims, args)

        def backward_rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> Any:
            del info
            return folding.backward(backward, count, in_dims, args)

        torch.library.register_vmap(forward, forward_rule, lib=_LIBRARY)
        torch.library.register_vmap(train, train_rule, lib=_LIBRARY)
        torch.library.register_vmap(backward, backward_rule, lib=_LIBRARY)


def _look_at_rows(watch: RowWatch, call: CallInputs) -> None:
    """Warn of rows without keys, where the host knows the positions of the call."""
    if call.cu_q is not None or isinstance(call.q_offset, Tensor) or isinstance(call.k_offset, Tensor):
        return
    key = (call.q.shape, call.k.shape, call.q_offset, call.k_offset, *call.params.values())
    if not watch.is_new(key):
        return
    (batch, heads, queries, _), (_, key_heads, keys, _) = call.q.shape, call.k.shape
    first = keys - queries if isinstance(call.q_offset, str) else call.q_offset
    sizes = {"B": batch, "H": heads, "Hk": key_heads, "N": queries, "M": keys}
    watch.look({**sizes, "q_offset": first, "k_offset": call.k_offset}, call.params)


def _outputs(out: Tensor, *statistics: Tensor) -> Any:
    """As the dispatcher wants them: one tensor by itself, several as a tuple."""
    return (out, *statistics) if statistics else out


def _below(run: Any) -> Any:
    """An implementation that is neither recorded nor cast: both have happened above the dispatcher."""

    def implementation(*args: Any) -> Any:
        device = args[0].device.type
        if torch.is_autocast_enabled(device):
            with torch.no_grad(), torch.autocast(device, enabled=False):
                return run(*args)
        if not torch.is_grad_enabled():
            return run(*args)
        with torch.no_grad():
            return run(*args)

    return implementation


# -- autograd --------------------------------------------------------------------------------------------------------


def _function(registration: _Registration, train_op: Any, backward_op: Any) -> Any:
    """The autograd function of a forward op. Static methods and no state: what torch.func and Dynamo can trace.

    What the forward leaves for the backward is an output without a gradient, as transforms want it.
    """
    signature = registration.signature
    places = [signature.tensors.index(name) for name in signature.differentiable]
    count = len(signature.tensors)
    results = 1 + (len(signature.statistics) if registration.aux else 0)
    differentiate = _once(backward_op)

    class Attention(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Any:
            *found, saved = train_op(*args)
            return (*found, *saved)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.mark_non_differentiable(*output[results:])
            ctx.save_for_backward(*inputs[:count], output[0], *output[results:])
            ctx.rest = inputs[count:]

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            wanted = [ctx.needs_input_grad[place] for place in places]
            run = backward_op if torch.compiler.is_compiling() else differentiate
            tensors = ctx.saved_tensors  # once: checkpointing frees what it has handed out
            inputs, (out, *saved) = tensors[:count], tensors[count:]
            found = run(*gradients[:results], out, saved, wanted, *inputs, *ctx.rest)
            passed: list[Any] = [None] * (count + len(ctx.rest))
            for place, want, gradient in zip(places, wanted, found, strict=True):
                if want:
                    passed[place] = gradient
            return tuple(passed)

    def apply(*args: Any) -> Any:
        found = Attention.apply(*args)
        return found[:results] if results > 1 else found[0]

    return apply


def _once(backward_op: Any) -> Any:
    """The backward op, whose own gradient is refused aloud; under torch.compile torch itself refuses it."""

    class Gradients(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Any:
            return backward_op(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            del ctx, inputs, output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            del ctx, gradients
            refuse("the gradient of a gradient: attention ops can be differentiated once")

    return Gradients.apply

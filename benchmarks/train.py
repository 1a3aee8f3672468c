"""A small transformer trained on text through attnc, beside the same one through the dense formula in float32.

    python benchmarks/train.py [--steps S] [--json FILE] [--docs]

The text are the documents of this repository, a byte a token; the model guesses bytes that were hidden. Both runs have
the same weights, batches and optimiser, so their losses differ by rounding alone: what is printed is the largest
difference on the way, beside the goal of 1e-3. `--docs` writes the table of docs/benchmarks.md and its picture.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from train_report import Curve, report, write_docs

import attnc
from attnc.drawing import Inputs
from attnc.verify_plain import evaluate_plainly

ROOT = Path(__file__).resolve().parents[1]
TOKENS, BATCH, WIDTH, HEADS, LAYERS = 128, 8, 64, 4, 2
HIDDEN, SHARE = 256, 0.15  # the token that stands for hidden bytes, and how many are hidden
RATE = 1e-3

Attend = Callable[..., Tensor]


@dataclass(frozen=True)
class Mechanism:
    """A spec of the library, its parameters, and the shapes of what it learns itself."""

    name: str
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    learned: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])


MECHANISMS = (
    Mechanism("mala", {"height": 8, "width": 16}),
    Mechanism("softplus_reweighted"),
    Mechanism("sliding_window", {"size": 32}),
    Mechanism("relative_table", {"L": 32}, {"table": (HEADS, 63)}),
)


class Block(nn.Module):
    """Attention and a small network, each on normalised tokens and added to them."""

    def __init__(self, attend: Attend, learned: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._attend = attend
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.network = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.own = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(shape)) for name, shape in learned.items()})

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, width]."""
        split = self.qkv(self.first(x)).view(*x.shape[:2], 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        found = self._attend(split[0], split[1], split[2], **dict(self.own.items()))
        x = x + self.out(found.transpose(1, 2).reshape(x.shape))
        return x + self.network(self.second(x))


class Model(nn.Module):
    """Bytes in, logits of bytes out."""

    def __init__(self, attend: Attend, learned: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(257, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.blocks = nn.Sequential(*(Block(attend, learned) for _ in range(LAYERS)))
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, N]."""
        return self.head(self.blocks(self.bytes(tokens) + self.places.weight))


def text() -> Tensor:
    """All documents, as bytes."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return torch.frombuffer(bytearray(b"\n".join(path.read_bytes() for path in paths)), dtype=torch.uint8).long()


def train(attend: Attend, mechanism: Mechanism, steps: int, data: Tensor) -> tuple[list[float], float]:
    """The losses, and the seconds that it took."""
    torch.manual_seed(0)
    model = Model(attend, mechanism.learned)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    losses: list[float] = []
    start = time.perf_counter()
    for step in range(steps):
        random = torch.Generator().manual_seed(step)
        first = torch.randint(len(data) - TOKENS, (BATCH,), generator=random)
        batch = data[first[:, None] + torch.arange(TOKENS)]
        hidden = torch.rand(batch.shape, generator=random) < SHARE
        logits = model(torch.where(hidden, HIDDEN, batch))
        loss = nn.functional.cross_entropy(logits[hidden], batch[hidden])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses, time.perf_counter() - start


def curve(mechanism: Mechanism, steps: int, data: Tensor) -> Curve:
    """Both runs of a mechanism."""
    op = attnc.compile(f"std:{mechanism.name}", params=mechanism.params)

    def dense(q: Tensor, k: Tensor, v: Tensor, **tensors: Tensor) -> Tensor:
        return evaluate_plainly(op.module, Inputs(q, k, v, tensors, {}, {}), torch.float32)["out"]

    losses, seconds = train(op, mechanism, steps, data)
    exact, seconds_exact = train(dense, mechanism, steps, data)
    return Curve(mechanism.name, losses, exact, seconds, seconds_exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true", help="write the table and the picture of docs/benchmarks.md")
    options = parser.parse_args()
    data = text()
    curves: list[Curve] = []
    for mechanism in MECHANISMS:
        curves.append(curve(mechanism, options.steps, data))
        found = curves[-1]
        print(
            f"{found.name:<22}{found.losses[0]:.3f} to {found.losses[-1]:.3f}, apart by {found.apart:.1e}", flush=True
        )
    lines = report(curves)
    print("", *lines, sep="\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(x) for x in curves], indent=2) + "\n", encoding="utf-8")
    if options.docs:
        write_docs(curves, lines)


if __name__ == "__main__":
    main()

"""Calls of the masks that are made of blocks, tables and distances on a line, and their tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.oracles.case import Case


def _some(case: Case, *shape: int, share: float = 0.3) -> Tensor:
    return torch.rand(case.batch, *shape) < share


def _random_table(case: Case) -> Tensor:
    """Repeats, and blocks that the row sees anyway, are allowed: the keys are a set."""
    blocks = case.m // case.params["block"]
    return torch.randint(0, blocks, (case.heads, blocks, case.params["random"]))


#: The tensors of a spec, beyond q, k, v.
PATTERN_TENSORS: dict[str, Callable[[Case], dict[str, Tensor]]] = {
    "longformer": lambda case: {"is_global": _some(case, case.m, share=0.15)},
    "bigbird": lambda case: {"random_table": _random_table(case)},
    "duo": lambda case: {"full": torch.arange(case.key_heads) % 2 == 1},
    "moa": lambda case: {
        "alpha": torch.tensor([-9, 0, 6, 13])[: case.heads],
        "beta": torch.tensor([0.25, 0.0, 0.5, 0.25])[: case.heads],
    },
    "naavit": lambda case: {"visual": _some(case, case.m, share=0.5)},
    "region": lambda case: {"id": torch.randint(-1, 3, (case.batch, case.m))},
    "graph": lambda case: {"adjacency": _some(case, case.m, case.m)},
}

PATTERN_CASES = (
    Case("longformer", {"window": 2}, n=17, m=17, heads=1),
    Case("longformer", {"window": 1}, n=7, m=17, q_offset="end", heads=4, key_heads=2),
    Case("bigbird", {"block": 2, "random": 2}, n=20, m=20, heads=3, key_heads=3, batch=1),
    Case("bigbird", {"block": 3, "random": 1}, n=6, m=18, q_offset="end", batch=1),
    Case("bigbird", {"block": 4, "random": 3}, n=4, m=4, batch=1),  # one block
    Case("strided", {"stride": 4}, n=17, m=17, batch=1),
    Case("strided", {"stride": 3, "merged": True}, n=17, m=17, batch=1),
    Case("strided", {"stride": 1}, n=3, m=9, q_offset="end", batch=1),
    Case("fixed", {"block": 2, "stride": 4, "num_verts": 2, "vertsize": 2}, n=21, m=21, heads=3, key_heads=1, batch=1),
    Case("fixed", {"block": 1, "stride": 3, "num_verts": 1, "vertsize": 1}, n=9, m=17, q_offset="end", batch=1),
    Case("fixed", {"block": 3, "stride": 2, "num_verts": 2, "vertsize": 1}, n=23, m=23, batch=1),
    Case("power", {}, n=19, m=19, batch=1),
    Case("power", {"window": 3, "sink": 2}, n=5, m=40, q_offset="end", batch=1),
    Case("power_block", {"block": 2, "window": 2, "sink": 1}, n=25, m=25, batch=1),
    Case("power_block", {"block": 1, "window": 1, "sink": 0}, n=4, m=36, q_offset="end", batch=1),
    Case("s2", {"block": 2, "local": 2, "stride": 3}, n=17, m=17, heads=3, key_heads=3, batch=1),
    Case("s2", {"block": 3, "local": 1, "stride": 4, "step": 2, "offset": 1, "dense": 1}, n=7, m=30, q_offset="end",
         heads=4, key_heads=2, batch=1),
    Case("s2", {"block": 2, "local": 1, "stride": 2, "step": 0}, n=13, m=13, batch=1),
    Case("duo", {"sink": 2, "recent": 3}, n=17, m=17, heads=2, key_heads=2, batch=1),
    Case("duo", {"sink": 0, "recent": 1}, n=5, m=16, q_offset="end", heads=4, key_heads=2, batch=1),
    Case("moa", {"block": 3}, n=24, m=24, heads=4, key_heads=2, batch=1),
    Case("moa", {"block": 2}, n=5, m=20, q_offset="end", batch=1),
    Case("long_lora", {"group": 4}, n=16, m=16, heads=3, batch=1),
    Case("long_lora", {"group": 6}, n=18, m=18, heads=2, batch=1),
    Case("long_lora", {"group": 4, "rolled": True}, n=16, m=16, heads=4, key_heads=2, batch=1),
    Case("block_rank", {"block": 3, "blocks": 5}, n=15, m=15, batch=1),
    Case("block_rank", {"block": 4, "blocks": 4}, n=4, m=16, q_offset="end", batch=1),
    Case("block_rank", {"block": 5, "blocks": 1}, n=5, m=5, batch=1),
    Case("naavit"),
    Case("naavit", {"frozen": True}, n=9, m=17, q_offset="end"),
    Case("region"),
    Case("region", n=8, m=17, q_offset="end", heads=4, key_heads=1),
    Case("graph"),
    Case("graph", {"self_loops": True}, n=12, m=12),
)  # fmt: skip

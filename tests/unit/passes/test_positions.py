"""positions: what is read by position is read by row, grid axes are arithmetic, D and Dv are numbers."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from attnc.eager import Env, evaluate
from attnc.ir.expr import Call, Expr, GridCoord, Size
from attnc.ir.module import AttentionModule
from attnc.ir.printer import print_expr
from attnc.ir.traverse import walk
from attnc.passes.positions import Positions
from tests.oracles.modules import module_of


def lowered(fields: str, header: str = "") -> AttentionModule:
    return module_of(f"attention a({header}) {{ {fields} }}")


def mask_text(mask: str, header: str = "", grid: str = "") -> str:
    module = lowered(f"{grid}; mask {mask}", header)
    return print_expr(Positions(module, 8, 4).lower(module.mask))


def score_text(score: str, header: str = "") -> str:
    module = lowered(f"score {score}", header)
    return print_expr(Positions(module, 8, 4).lower(module.score))


def test_tensors_over_queries_and_keys_are_read_by_row() -> None:
    header = "x: real[B, H, N], y: real[B, M], z: real[N, M]"
    assert score_text("x[b, h, i]", header) == "x[b, h, r]"
    assert score_text("y[b, j]", header) == "y[b, c]"
    assert score_text("y[b, i]", header) == "y[b, i - k_offset]"
    assert score_text("x[b, h, i - 1]", header) == "x[b, h, i - 1 - q_offset]"
    assert score_text("y[b, j // 2]", header) == "y[b, j // 2 - k_offset]"
    assert score_text("z[i, j]", header) == "z[r, c]"


def test_tables_are_read_by_position() -> None:
    assert score_text("t[h, i - j]", "t: real[H, 9]") == "t[h, i - j]"
    assert score_text("t[2 * N - i]", "t: real[N + M]") == "t[2 * N - i]"


def test_grid_axes_are_divisions_and_remainders() -> None:
    grid = "grid (t: 2, y: 3, x: 5)"
    assert mask_text("i.t == j.x", grid=grid) == "i // 15 == j % 5"
    assert mask_text("i.y == 1", grid=grid) == "i // 5 % 3 == 1"
    assert mask_text("i.t == grid.y", grid=grid) == "i // 15 == 3"


def test_a_grid_may_start_anywhere_and_differ_by_side() -> None:
    grid = "grid q (y: 3, x: 5) at 7; grid k (x: 4)"
    assert mask_text("i.y == j.x", grid=grid) == "(i - 7) // 5 == j"
    assert mask_text("i in grid and j in grid", grid=grid) == "0 <= i - 7 and i - 7 < 15 and (0 <= j and j < 4)"


def test_head_dimensions_are_numbers() -> None:
    module = lowered("score dot(q, u[h]) * D / Dv", "u: real[H, D]")
    score = Positions(module, 8, 4).lower(module.score)
    assert print_expr(score) == "dot(q, u[h]) * 8.0 / 4.0"
    assert not any(node in (Size("D"), Size("Dv")) for node in walk(score))
    dot = next(node for node in walk(score) if isinstance(node, Call) and node.fn == "dot")
    assert [str(arg.type) for arg in dot.args] == ["real[8]", "real[8]"]


MASKS = [
    "seg[b, i] == seg[b, j]",
    "i.y == j.y and abs(i.x - j.x) <= 1",
    "near[i] < far[j] + 1",
    "table[h, i - j] > 0 or j in grid",
    "near[i - 1] == near[i]",
]
HEADER = "seg: int[B, M], near: int[N], far: int[M], table: int[H, 6]"


@given(mask=st.sampled_from(MASKS), q_offset=st.integers(-6, 9), k_offset=st.integers(-6, 9), seed=st.integers(0, 9))
def test_the_meaning_stays(mask: str, q_offset: int, k_offset: int, seed: int) -> None:
    """The typed mask over positions and the lowered one over rows keep the same pairs."""
    module = lowered(f"grid (y: 2, x: 3) at 1; mask {mask}", HEADER)
    env = environment(module, q_offset, k_offset, seed)
    after = Positions(module, 8, 8).lower(module.mask)
    assert not any(isinstance(node, GridCoord) for node in walk(after))
    assert torch.equal(pairs(module.mask, env, rows=False), pairs(after, env, rows=True))


def environment(module: AttentionModule, q_offset: int, k_offset: int, seed: int) -> Env:
    """Two heads, 5 queries, 7 keys."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"seg": (1, 7), "near": (5,), "far": (7,), "table": (2, 6)}
    r, c = torch.arange(5).view(1, 1, 5, 1), torch.arange(7).view(1, 1, 1, 7)
    assert module.grid_q is not None
    assert module.grid_k is not None
    return Env(
        indices={
            "b": torch.zeros(1, 1, 1, 1, dtype=torch.int64),
            "h": torch.arange(2).view(1, 2, 1, 1),
            "r": r,
            "c": c,
            "i": r + q_offset,
            "j": c + k_offset,
        },
        sizes={"B": 1, "H": 2, "N": 5, "M": 7},
        values={"q_offset": torch.tensor(q_offset), "k_offset": torch.tensor(k_offset)},
        tensors={name: torch.randint(-2, 3, shape, generator=generator) for name, shape in shapes.items()},
        dims={tensor.name: tensor.dims for tensor in module.tensors},
        grids={"q": module.grid_q, "k": module.grid_k},
    )


def pairs(mask: Expr, env: Env, *, rows: bool) -> torch.Tensor:
    return evaluate(mask, replace(env, relative=rows)).expand(1, 2, 5, 7)

"""Static tensors: values given when compiling, as literals where their indices are known, as tensors elsewhere."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import attnc
from attnc.cli import main
from attnc.ir.printer import print_expr

SOURCE = """
attention tabled(full: bool[Hk] static, dist: int[3] static, weight: real[2, 4] static, w: int[1] static) {
  mask (full[hk] or exists d in 0..3: i - j == dist[d]) and i // w[0] >= j // w[0]
  bias weight[h % 2, i % 4]
}
"""
TENSORS = {
    "full": torch.tensor([True, False]),
    "dist": torch.tensor([0, 3, 9]),
    "weight": torch.tensor([[0.0, 1.0, -1.0, 0.5], [2.0, 0.0, 0.0, 1.0]]),
    "w": torch.tensor([4], dtype=torch.int32),
}


def tokens(heads: int = 4, key_heads: int = 2, n: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(1, count, n, 16) for count in (heads, key_heads, key_heads))
    return q, k, v


def compiled(source: str = SOURCE, backend: Any = "torch", **changes: Any) -> attnc.Op:
    tensors = {name: value for name, value in {**TENSORS, **changes}.items() if value is not None}
    return attnc.compile(source=source, backend=backend, tensors=tensors)


def test_elements_with_known_indices_are_literals() -> None:
    assert print_expr(compiled().module.mask) == (
        "(hk < 1 or (i - j == 0 or i - j == 3 or i - j == 9)) and i // 4 >= j // 4"
    )


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("j <= i + t[1, 0]", "j <= i + 3"),
        ("j <= i + t[9, -4]", "j <= i + 3"),  # out of range is clamped
        ("j <= i + t[t[0, 0] - 1, 1]", "j <= i + 2"),
        ("exists d in 0..t[0, 1]: i == j + d * 7", "exists d in 0..2: i == j + d * 7"),
        ("i % t[1, 1] == j % t[1, 1]", "i % 4 == j % 4"),
        ("j < t[h, 0]", "j < where(h < 1, 1, 3)"),
        ("j < t[h, j]", "j < where(h < 1, where(j < 1, 1, 2), where(j < 1, 3, 4))"),
        ("exists d in 0..2: j // 4 == t[i // 4, d]", "exists d in 0..2: j // 4 == t[i // 4, d]"),
    ],
)
def test_folding(mask: str, expected: str) -> None:
    source = f"attention a(t: int[2, 2] static) {{ mask {mask} }}"
    op = attnc.compile(source=source, tensors={"t": torch.tensor([[1, 2], [3, 4]])}, backend="torch")
    assert print_expr(op.module.mask) == expected
    q, k, v = tokens(2)
    torch.testing.assert_close(op(q, k, v).double(), op.reference(q, k, v), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "interpret"])
def test_back_ends(backend: Any) -> None:
    op, (q, k, v) = compiled(backend=backend), tokens()
    exact = op.reference(q, k, v)
    torch.testing.assert_close(op(q, k, v).double(), exact, atol=1e-5, rtol=1e-5)
    for other in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):  # noqa: S301  # its own bytes
        torch.testing.assert_close(other(q, k, v).double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("full", "expected"),
    [
        ([True] * 3, "true"),
        ([False] * 3, "j <= i"),
        ([True, True, False], "hk < 2 or j <= i"),
        ([False, True, True, False], "not hk < 1 and hk < 3 or j <= i"),
        ([True, False] * 9, "full[hk] or j <= i"),
    ],
)
def test_tables_of_few_runs_are_comparisons(full: list[bool], expected: str) -> None:
    source = "attention a(full: bool[Hk] static) { mask full[hk] or j <= i }"
    op = attnc.compile(source=source, tensors={"full": torch.tensor(full)}, backend="torch")
    assert print_expr(op.module.mask) == expected
    q, k, v = tokens(2 * len(full), len(full))
    again = attnc.compile(source=source.replace(" static", ""), backend="torch")
    torch.testing.assert_close(op(q, k, v), again(q, k, v, full=torch.tensor(full)))


def test_rows_of_a_table_by_stored_row_are_looked_up() -> None:
    source = "attention a(keep: bool[M] static) { mask keep[j] }"
    op = attnc.compile(source=source, tensors={"keep": torch.tensor([True] * 39 + [False])}, backend="torch")
    assert print_expr(op.module.mask) == "keep[j]"


def test_values_take_part_in_the_content_of_an_op() -> None:
    q, k, v = tokens()
    other = compiled(full=torch.tensor([False, True]))
    assert other.name != compiled().name == compiled().name
    torch.testing.assert_close(other(q, k, v).double(), other.reference(q, k, v), atol=1e-5, rtol=1e-5)
    assert (other(q, k, v) - compiled()(q, k, v)).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile does so itself
def test_gradients_and_compiled_graphs() -> None:
    op, (q, k, v) = compiled(), tokens()
    q.requires_grad_()
    op(q, k, v).sum().backward()
    assert q.grad is not None
    graph = torch.compile(op, fullgraph=True, backend="eager")
    torch.testing.assert_close(graph(q, k, v), op(q, k, v))


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"full": torch.tensor([1, 0])}, "E510", "must be bool[Hk], not int64[2]"),
        ({"dist": torch.tensor([1, 2])}, "E510", "must be int[3], not int64[2]"),
        ({"dist": torch.ones(3)}, "E510", "not float32[3]"),
        ({"weight": torch.ones(8)}, "E510", "not float32[8]"),
        ({"dist": None}, "E509", "needs the values of `dist`"),
        ({"w": torch.tensor([0])}, "E330", "division by zero"),
        ({"w": torch.tensor([-3])}, "E505", "a divisor must be at least 1"),
    ],
)
def test_wrong_values(changes: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(attnc.SpecError) as found:
        compiled(**changes)
    assert found.value.diagnostics[0].code == code
    assert message in str(found.value)


def test_values_lie_in_the_declared_range() -> None:
    source = "attention a(t: int[2] static in [0, 4)) { mask j <= i + t[h] }"
    assert attnc.compile(source=source, tensors={"t": torch.tensor([0, 3])}).module.tensors[0].range is not None
    with pytest.raises(attnc.SpecError, match=r"outside \[0, 4\)"):
        attnc.compile(source=source, tensors={"t": torch.tensor([0, 4])})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0, 3, 9], "expected a tensor, got list"),
        (torch.zeros(3, dtype=torch.int8), "holds values of bool"),
        (torch.zeros(1 << 17, dtype=torch.int64), "at most 65536 elements"),
        (torch.zeros(3, requires_grad=True), "has no gradient"),
    ],
)
def test_tensors_that_cannot_be_static(value: Any, message: str) -> None:
    with pytest.raises(attnc.CallError, match=message):
        compiled(dist=value)


def test_calls_give_no_static_tensor_and_fit_their_sizes() -> None:
    op = compiled()
    with pytest.raises(attnc.CallError, match="full: it is static"):
        op(*tokens(), full=TENSORS["full"])
    with pytest.raises(attnc.CallError, match=r"full: expected shape \[4\]"):
        op(*tokens(key_heads=4))


def test_learned_tensors_are_not_static() -> None:
    with pytest.raises(attnc.SpecError, match="do not go together"):
        attnc.compile(source="attention a(t: real[4] learned static) { bias t[i % 4] }")


def test_modules_hold_other_tensors_only() -> None:
    source = "attention a(full: bool[Hk] static, seg: int[1, M]) { mask full[hk] or seg[0, i] == seg[0, j] }"
    seg = torch.arange(40).view(1, 40) // 8
    layer = attnc.nn.Attention(source=source, tensors={"full": TENSORS["full"], "seg": seg}, backend="torch")
    assert [name for name, _ in layer.named_buffers()] == ["seg"]
    q, k, v = tokens()
    exact = layer.op.reference(q, k, v, seg=seg)
    torch.testing.assert_close(layer(q, k, v).double(), exact, atol=1e-5, rtol=1e-5)


def invoke(*words: str) -> Any:
    return CliRunner().invoke(main, [*words])


def test_values_on_the_command_line(tmp_path: Path) -> None:
    spec = tmp_path / "tabled.attn"
    spec.write_text(SOURCE)
    given = ["--tensor", "full=1,0", "--tensor", "dist=[0, 3, 9]", "--tensor", "weight=[[0, 1, 2, 3], [4, 5, 6, 7.5]]"]
    shape = ["--shape", "1,4,32,16", "--kv-heads", "2"]
    ran = invoke("run", str(spec), *shape, *given, "--tensor", "w=4")
    assert ran.exit_code == 0, ran.output
    assert invoke("explain", str(spec), "-n", "256", *given, "--tensor", "w=4").exit_code == 0
    assert (
        invoke("verify", str(spec), "--backend", "torch", "--examples", "2", *given, "--tensor", "w=4").exit_code == 0
    )
    missing = invoke("run", str(spec), *shape, *given)
    assert missing.exit_code == 1
    assert "--tensor w=..." in missing.output
    assert invoke("run", str(spec), *shape, *given, "--tensor", "w=4", "--tensor", "v=1").exit_code == 1
    assert invoke("run", str(spec), *shape, "--tensor", "w=[[1, 2], [3]]").exit_code == 2
    assert invoke("run", str(spec), *shape, *given, "--tensor", "w=2.5").exit_code == 1

"""Tile lifts as conditions on block numbers: which, for which calls, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attnc
from attnc.ir.printer import print_expr
from attnc.passes.facts import find_facts
from attnc.passes.pipeline import PlanOptions, make_plan
from attnc.passes.positions import Positions
from tests.oracles.modules import module_of

PARAMS = "w: int dynamic, full: bool[Hk], seg: int[B, M], len: int[B]"


def text_of(mask: str) -> str:
    return f"attention a({PARAMS}) {{ mask {mask} }}"


def lowered(mask: str, *, aligned: bool = True) -> str:
    module = module_of(text_of(mask))
    return print_expr(Positions(module, 16, 16, aligned).lower(module.mask))


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("any(0 <= i - j < 100, 64, 64)", "i // 64 >= j // 64 and j // 64 + 2 >= i // 64"),
        ("any(j <= i, 64, 32)", "2 * (i // 64) + 1 >= j // 32"),
        ("all(j <= i, 1, 1)", "i >= j"),
        ("any(full[hk] and j <= i, 8, 8)", "full[hk] and i // 8 >= j // 8"),
        ("any(i - j == 100, 64, 64) or all(j < 4, 2, 2)", None),
        ("any(j <= i and i - j < w, 8, 8)", "w >= 1 and i // 8 >= j // 8 and w + 8 * (j // 8) + 6 >= 8 * (i // 8)"),
        ("any(true, 8, 8)", "true"),
        ("all(i < 0, 8, 8)", None),
        ("density(j <= i, 8, 8) > 0", "i // 8 >= j // 8"),
        ("0 < density(j <= i, 8, 8)", "i // 8 >= j // 8"),
        ("density(j <= i, 8, 8) <= 0", "not i // 8 >= j // 8"),
        ("any(any(j <= i, 2, 2), 4, 4)", "i // 4 >= j // 4"),
        ("any(j < len[b], 4, 4)", None),
        ("exists d in 0..3: any(i - j == d * 16, 4, 4)", None),
    ],
)
def test_conditions_of_self_attention(mask: str, expected: str | None) -> None:
    found = lowered(mask)
    assert not any(word in found for word in ("any(", "all(", "density(", "q_offset", "M"))
    assert expected is None or found == expected


def test_conditions_of_any_call_say_what_the_call_must_fulfil() -> None:
    assert lowered("any(j <= i, 64, 64)", aligned=False) == ("q_offset + N >= k_offset + 1 and i // 64 >= j // 64")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("any(seg[b, i] == seg[b, j], 4, 4)", "looks up `seg` by position"),
        ("any(i * j == 4, 4, 4)", "is not affine in i and j"),
        ("density(j <= i, 4, 4) > 0.5", "a density of blocks cannot be compiled"),
        ("all(exists d in 0..4: i - j == d * w, 2, 2)", "passed the bound on the work"),
    ],
)
def test_a_plan_holds_no_lift_without_condition(mask: str, message: str) -> None:
    op = attnc.compile(source=text_of(mask), backend="torch")
    with pytest.raises(attnc.SpecError) as found:
        make_plan(op.module, PlanOptions(16, 16))
    assert found.value.diagnostics[0].code == "E401"
    assert message in str(found.value)
    assert find_facts(op.module).causal.verdict == "unknown"
    with pytest.raises(attnc.CallError, match="call once for each document"):
        op(**{**call(op, 8), "cu_seqlens": torch.tensor([0, 3, 8])})


@pytest.mark.parametrize("size", [0, -1, 2**31])
def test_sizes_of_blocks(size: int) -> None:
    with pytest.raises(attnc.SpecError) as found:
        attnc.compile(source="attention a(n: int) { mask any(j <= i, 4, n) }", params={"n": size})
    assert found.value.diagnostics[0].code == "E505"


def call(op: attnc.Op, n: int, m: int | None = None, **options: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(n)
    m = n if m is None else m
    q, k, v = (torch.randn(2, heads, size, 16, generator=generator) for heads, size in ((4, n), (2, m), (2, m)))
    given: dict[str, Any] = {
        "w": 3,
        "full": torch.tensor([True, False]),
        "seg": torch.arange(m).expand(2, m) // 5,
        "len": torch.tensor([3, m]),
    }
    return {"q": q, "k": k, "v": v, **{name: given[name] for name in given}, **options}


@pytest.mark.parametrize("backend", ["torch", "interpret"])
@pytest.mark.parametrize(
    "mask",
    [
        "any(0 <= i - j < 9, 4, 8)",
        "all(abs(i - j) < 40, 8, 8)",
        "(full[hk] or any(j < len[b], 8, 4)) and j <= i",
        "any(density(seg[b, i] == seg[b, j], 4, 8) > 0.25 and full[hk], 8, 8) and density(j <= i, 16, 8) >= 0.5",
    ],
)
def test_back_ends(mask: str, backend: Any) -> None:
    op = attnc.compile(source=text_of(mask), backend=backend)
    offsets = torch.tensor([3, 9])
    calls = (call(op, 40), call(op, 20, 33, q_offset="end"), call(op, 17, 30, q_offset=offsets, k_offset=2))
    for arguments in calls:
        torch.testing.assert_close(op(**arguments).double(), op.reference(**arguments), atol=1e-5, rtol=1e-5)


def test_densities_of_nobody() -> None:
    op = attnc.compile(source="attention a { mask density(j <= i, 4, 4) > 0.5 }", backend="torch")
    for n, m in ((0, 5), (5, 0), (1, 1)):
        q, k, v = (torch.randn(1, 1, size, 16) for size in (n, m, m))
        torch.testing.assert_close(op(q, k, v).double(), op.reference(q, k, v), atol=1e-5, rtol=1e-5)
    many = torch.empty(1, 1, 1 << 17, 16, device="meta")
    with pytest.raises(attnc.CallError, match="too many to have values"):
        op(many, many, many)
    assert op(*(torch.empty(1, 1, 9, 16, device="meta") for _ in range(3))).shape == (1, 1, 9, 16)


def test_a_density_in_a_score_has_gradients_of_what_stands_beside_it() -> None:
    source = """
    attention a(slope: real[H] learned) {
      mask exists d in 0..3: density(abs(i - j) == d, 4, 4) > 0.2
      score dot(q, k) * scale - slope[h] * density(j <= i, 8, 4)
      aux lse
    }"""
    op = attnc.compile(source=source, backend="torch")
    q, k, v = (torch.randn(1, 2, 22, 16) for _ in range(3))
    slope = torch.rand(2, requires_grad=True)
    out, aux = op(q, k, v, slope=slope, return_aux=True)
    expected, exact = op.reference(q, k, v, slope=slope, return_aux=True)
    torch.testing.assert_close(aux.lse.double(), exact.lse, atol=1e-5, rtol=1e-5)
    found, wanted = (torch.autograd.grad(x.sum(), slope)[0] for x in (out, expected))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_packed_documents_have_blocks_of_their_own() -> None:
    op = attnc.compile(source="attention a { mask any(0 <= i - j < 3, 4, 4) }", backend="torch")
    q, k, v = (torch.randn(1, 2, 30, 16) for _ in range(3))
    starts = torch.tensor([0, 7, 8, 30])
    packed = op(q, k, v, cu_seqlens=starts)
    parts = [op.reference(*(x[:, :, a:b] for x in (q, k, v))) for a, b in ((0, 7), (7, 8), (8, 30))]
    torch.testing.assert_close(packed.double(), torch.cat(parts, dim=2), atol=1e-5, rtol=1e-5)


def test_a_lift_in_scores_and_token_maps() -> None:
    source = """
    attention a {
      q = q * where(any(i % 5 == 0, 4, 4), 1.0, 2.0)
      k = k * where(all(j < 10, 4, 4), 1.0, 2.0)
      score dot(q, k) * where(any(j <= i, 4, 4), 1.0, 0.5)
    }"""
    op = attnc.compile(source=source, backend="torch")
    q, k, v = (torch.randn(1, 2, 22, 16) for _ in range(3))
    torch.testing.assert_close(op(q, k, v).double(), op.reference(q, k, v), atol=1e-5, rtol=1e-5)


def test_on_a_grid_blocks_are_made_of_positions() -> None:
    source = "attention a { grid (y: 6, x: 8)\n mask any(abs(i.y - j.y) <= 1 and i.x == j.x, 4, 4) }"
    op = attnc.compile(source=source, backend="torch")
    q, k, v = (torch.randn(1, 2, 48, 16) for _ in range(3))
    torch.testing.assert_close(op(q, k, v).double(), op.reference(q, k, v), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("statement", "verdict"),
    [
        ("subset(mask j <= i, mask any(j <= i, 64, 32))", "proved"),
        ("subset(mask all(j <= i, 64, 32), mask j <= i)", "proved"),
        ("causal(mask any(j <= i, 64, 64))", "refuted"),
        ("equal(mask any(all(j <= i, 4, 4), 4, 4), mask all(j <= i, 4, 4))", "proved"),
        ("symmetric(mask any(abs(i - j) < 9, 4, 4))", "proved"),
    ],
)
def test_proofs(statement: str, verdict: str) -> None:
    assert attnc.prove(statement).verdict == verdict


def test_proofs_take_blocks_of_known_size() -> None:
    with pytest.raises(attnc.SpecError, match="blocks of unknown size"):
        attnc.prove("causal(mask any(j <= i, n, n))", declare="n: int")

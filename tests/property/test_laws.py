"""Laws that hold for every op, on both back ends that run on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import attnc
from attnc.codegen import cpp_build
from attnc.drawing import Case, Inputs, Layout, draw
from attnc.ir.expr import Size
from attnc.ops import Op
from tests.property.agreement import assert_agrees, comparisons

BACKENDS = ("torch", "interpret", "cpp")
INF = float("inf")


@dataclass(frozen=True)
class Named:
    """An attention of the standard library with static parameters."""

    name: str
    params: tuple[tuple[str, Any], ...] = ()
    ordered: bool = True

    def __str__(self) -> str:
        return self.name

    def compile(self, backend: str, tile: tuple[int, int] | None = None) -> Op:
        return attnc.compile(f"std:{self.name}", params=dict(self.params), backend=backend, tile=tile)  # type: ignore[arg-type]


CAUSAL = Named("causal")
SPECS = (
    CAUSAL,
    Named("sliding_window", (("size", 20),)),
    Named("document"),
    Named("prefix_lm"),
    Named("alibi"),
    Named("relative_table", (("L", 9), ("causal", True))),
    Named("rope", (("causal", True),)),
    Named("softmax_sink", (("causal", True),)),
    Named("softplus_l1", (("causal", True),)),
    Named("softcap", (("cap", 2.0),)),
)
SMALL = Case(heads=2, key_heads=1, queries=40, keys=40, head_dim=8, value_dim=8)

on_backends = pytest.mark.parametrize("backend", BACKENDS)


def specs_on_backends(law: int, specs: tuple[Named, ...] = SPECS) -> pytest.MarkDecorator:
    """Every spec on the torch back end; on the others a few, others for the next law, the rest when slow."""
    pairs = [
        pytest.param(
            spec, backend, id=f"{spec}-{backend}",
            marks=pytest.mark.slow if backend != "torch" and (n - law) % 5 else (),
        )
        for backend in BACKENDS
        for n, spec in enumerate(specs)
    ]  # fmt: skip
    return pytest.mark.parametrize(("spec", "backend"), pairs)


def results(op: Op, inputs: Inputs, **changed: Any) -> dict[str, Tensor]:
    """The output under "out" and the statistics."""
    keywords = {**inputs.keywords, **changed}
    out, aux = op(keywords.pop("q", inputs.q), keywords.pop("k", inputs.k), keywords.pop("v", inputs.v),
                  return_aux=True, **keywords)  # fmt: skip
    return {"out": out, **aux}


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), f"{name}: off by {(found[name] - tensor).abs().max():.1e}"


# -- what must not change a result -----------------------------------------------------------------------------------


@specs_on_backends(0)
def test_the_tile_size_changes_rounding_only(spec: Named, backend: str) -> None:
    for tile in ((16, 64), (64, 16), (32, 32)):
        assert_agrees(spec.compile(backend, tile), SMALL)


@specs_on_backends(1)
def test_packed_documents_are_those_documents_one_by_one(spec: Named, backend: str) -> None:
    op = spec.compile(backend, (16, 16))
    lengths = (17, 0, 1, 22)
    case = replace(SMALL, documents=tuple((n, n) for n in lengths))
    inputs = draw(op.module, case)
    packed = results(op, inputs)
    starts = [sum(lengths[:n]) for n in range(len(lengths) + 1)]
    alone = [results(op, document(op, inputs, slice(a, b))) for a, b in pairwise(starts)]
    assert_equal(packed, {name: torch.cat([part[name] for part in alone], dim=2) for name in packed})


def document(op: Op, inputs: Inputs, tokens: slice) -> Inputs:
    """One document of self-attention by itself."""
    sliced: dict[str, Tensor] = {}
    for tensor in op.module.tensors:
        places = tuple(tokens if dim in (Size("N"), Size("M")) else slice(None) for dim in tensor.dims)
        sliced[tensor.name] = inputs.tensors[tensor.name][places]
    rest = {name: value for name, value in inputs.options.items() if name != "cu_seqlens"}
    q, k, v = (x[:, :, tokens] for x in (inputs.q, inputs.k, inputs.v))
    return Inputs(q, k, v, sliced, inputs.params, rest)


@on_backends
def test_packed_queries_and_keys_of_different_lengths(backend: str) -> None:
    op = CAUSAL.compile(backend, (16, 16))
    case = replace(SMALL, documents=((3, 20), (17, 0), (20, 20)), q_offset="end")
    assert_agrees(op, case)


@specs_on_backends(2)
def test_grouped_heads_are_repeated_heads(spec: Named, backend: str) -> None:
    op = spec.compile(backend, (32, 32))
    inputs = draw(op.module, replace(SMALL, heads=4, key_heads=2))
    wide = {name: x.repeat_interleave(2, dim=1) for name, x in (("k", inputs.k), ("v", inputs.v))}
    assert_equal(results(op, inputs), results(op, inputs, **wide))


IMPLIED = [
    ("j <= i", "j <= i and j <= i + 5"),
    ("0 <= i - j < 9", "0 <= i - j < 9 and i - j < 100 and j <= i"),
    ("drop[b, j] and j <= i", "drop[b, j] and j <= i and (drop[b, j] or i < 3)"),
    ("i // 8 == j // 8", "i // 8 == j // 8 and abs(i - j) < 8"),
    ("j < len[b] or j <= i", "(j < len[b] or j <= i) and (j < len[b] + 3 or j <= i)"),
]


@on_backends
@pytest.mark.parametrize(("mask", "longer"), IMPLIED, ids=[mask for mask, _ in IMPLIED])
def test_an_implied_mask_changes_nothing(mask: str, longer: str, backend: str) -> None:
    header = "drop: bool[B, M], len: int[B]"
    ops = [
        attnc.compile(source=f"attention a({header}) {{ mask {text} }}", backend=backend, tile=(16, 16))  # type: ignore[arg-type]
        for text in (mask, longer)
    ]
    inputs = draw(ops[0].module, replace(SMALL, q_offset=3, ints=(0, 30)))
    first, second = (results(op, inputs) for op in ops)
    assert_equal(first, second)


LAYOUTS: tuple[Layout, ...] = ("transposed", "expanded", "sliced", "stepped")


@on_backends
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_inputs_are_their_contiguous_copies(layout: Layout, backend: str) -> None:
    for spec in (CAUSAL, SPECS[6]):
        op = spec.compile(backend, (32, 32))
        inputs = draw(
            op.module, replace(SMALL, batch=2, heads=2, key_heads=2, queries=20, layouts=(layout, layout, layout))
        )
        assert not inputs.k.is_contiguous()
        copies = {name: getattr(inputs, name).contiguous() for name in ("q", "k", "v")}
        assert_equal(results(op, inputs), results(op, inputs, **copies))


@on_backends
def test_strided_tensors_of_the_spec_are_their_contiguous_copies(backend: str) -> None:
    op = SPECS[5].compile(backend, (32, 32))
    inputs = draw(op.module, SMALL)
    table = inputs.tensors["table"]
    strided = torch.stack((table, table * torch.nan), dim=-1)[..., 0]
    assert not strided.is_contiguous()
    assert_equal(results(op, inputs, table=strided), results(op, inputs))


@specs_on_backends(3)
def test_memory_that_is_not_written_is_not_read(spec: Named, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op = spec.compile(backend, (16, 16))
    inputs = draw(op.module, replace(SMALL, queries=19, keys=19, head_dim=6, value_dim=5))
    wanted = results(op, inputs)
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
    assert torch.empty(1).isnan().all()
    assert_equal(results(op, inputs), wanted)


def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The allocator with its memory full of NaN, or of a large number."""

    def filled(*args: Any, **keywords: Any) -> Tensor:
        tensor = allocate(*args, **keywords)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else 77)

    return filled


@on_backends
@pytest.mark.parametrize("offset", [2**31 - 100, 2**30 - 20, -(2**31) + 100], ids=["last", "middle", "first"])
@pytest.mark.parametrize("kind", [int, torch.tensor])
def test_positions_may_be_anywhere_in_32_bits(
    offset: int, kind: Callable[[Any], Any], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What depends on distances only is the same everywhere.

    In C++ positions of 64 bits are another text, whose sums and products a compiler may join otherwise: not here.
    """
    flags = tuple(flag for flag in cpp_build.FLAGS if not flag.startswith("-ffp-contract"))
    monkeypatch.setattr(cpp_build, "FLAGS", (*flags, "-ffp-contract=off"))
    text = "attention apart { mask 0 <= i - j < 20 and (i + 1) * 2 - j - j > 1; bias -0.1 * abs(i - j) }"
    op = attnc.compile(source=text, backend=backend, tile=(16, 16))  # type: ignore[arg-type]
    inputs = draw(op.module, SMALL)
    given = offset if kind is int else torch.tensor([offset])
    assert_equal(results(op, inputs, q_offset=given, k_offset=given), results(op, inputs))


@on_backends
def test_the_end_is_the_offset_of_the_last_queries(backend: str) -> None:
    op = CAUSAL.compile(backend, (16, 16))
    inputs = draw(op.module, replace(SMALL, queries=7))
    for offset in (33, torch.tensor([33])):
        assert_equal(results(op, inputs, q_offset="end"), results(op, inputs, q_offset=offset))


# -- sizes -----------------------------------------------------------------------------------------------------------

LENGTHS = (1, 2, 15, 16, 17, 63, 100, 127, 128, 129)


@on_backends
@pytest.mark.parametrize("n", LENGTHS)
def test_lengths(n: int, backend: str) -> None:
    spec = SPECS[LENGTHS.index(n) % len(SPECS)]
    assert_agrees(spec.compile(backend, (32, 32)), replace(SMALL, heads=1, queries=n, keys=n))


@on_backends
@pytest.mark.parametrize(("n", "m"), [(5, 100), (100, 5), (1, 129), (33, 1), (16, 17), (17, 16)])
def test_queries_and_keys_of_different_number(n: int, m: int, backend: str) -> None:
    for spec in (CAUSAL, SPECS[4]):
        assert_agrees(spec.compile(backend, (32, 32)), replace(SMALL, heads=1, queries=n, keys=m, q_offset="end"))


@specs_on_backends(2)
@pytest.mark.parametrize(("n", "m"), [(0, 20), (20, 0), (0, 0)])
def test_no_queries_or_no_keys(n: int, m: int, spec: Named, backend: str) -> None:
    op = spec.compile(backend, (16, 16))
    case = replace(SMALL, queries=n, keys=m, q_offset="end" if m == 0 else 0)
    found = results(op, draw(op.module, case))
    assert found["out"].shape == (1, 2, n, 8)
    assert found["out"].eq(0).all()
    assert all(found[name].eq(-INF).all() and found[name].shape == (1, 2, n) for name in found if name != "out")
    assert all(result.passed for result in comparisons(op, case))


@on_backends
@pytest.mark.parametrize("change", [{"batch": 0}, {"heads": 0, "key_heads": 0}, {"heads": 0, "key_heads": 2}], ids=str)
def test_no_batch_or_no_heads(change: dict[str, int], backend: str) -> None:
    op = CAUSAL.compile(backend, (16, 16))
    case = replace(SMALL, **change)
    found = results(op, draw(op.module, case))
    assert found["out"].shape == (case.batch, case.heads, 40, 8)
    assert found["lse"].shape == (case.batch, case.heads, 40)


@on_backends
@pytest.mark.parametrize(("d", "dv"), [(1, 1), (5, 3), (33, 16), (16, 33), (100, 7), (256, 256)])
def test_head_dimensions(d: int, dv: int, backend: str) -> None:
    assert_agrees(CAUSAL.compile(backend, (16, 16)), replace(SMALL, heads=1, head_dim=d, value_dim=dv))


@on_backends
@pytest.mark.parametrize(("heads", "key_heads"), [(1, 1), (3, 1), (3, 3), (8, 1), (8, 8)])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_groups_of_heads(heads: int, key_heads: int, dtype: Any, backend: str) -> None:
    case = replace(SMALL, dtype=dtype, heads=heads, key_heads=key_heads, queries=17, keys=17)
    assert_agrees(Named("softmax_sink").compile(backend, (32, 32)), case)


# -- rows and tiles without keys, what is not finite -----------------------------------------------------------------


@specs_on_backends(4, tuple(spec for spec in SPECS if spec.name not in ("document", "softcap", "prefix_lm")))
def test_rows_without_keys_are_zero(spec: Named, backend: str) -> None:
    op = spec.compile(backend, (16, 16))
    case = replace(SMALL, q_offset=-19)
    found = results(op, draw(op.module, case))
    assert found["out"][:, :, :19].eq(0).all()
    assert found["out"][:, :, 19:].ne(0).any(-1).all()
    assert all(found[name][:, :, :19].eq(-INF).all() for name in found if name != "out")
    assert_agrees(op, case)


NORMALIZERS = {
    "softmax": "m = max[j](s); p = exp(s - m); w = p / sum[j](p); aux lse = m + log(sum[j](p))",
    "sink": "m = max(max[j](s), -3.0); p = exp(s - m); z = sum[j](p) + exp(-3.0 - m); w = p / z; aux lse = m + log(z)",
    "l1": "a = softplus(s); w = a / sum[j](a)",
    "min": "m = min[j](s); p = exp(m - s); w = p / sum[j](p); aux m = m",
    "two": "m = max[j](s); p = exp(s - m); n = p / sum[j](p); y = n ^ 2; w = y / sum[j](y); aux top = max[j](n)",
}


def with_normalizer(body: str, fields: str, header: str, backend: str) -> Op:
    text = f"normalizer n {{ {body} }}\nattention a({header}) {{ {fields}; normalizer n }}"
    return attnc.compile(source=text, backend=backend, tile=(16, 16))  # type: ignore[arg-type]


@on_backends
@pytest.mark.parametrize("name", NORMALIZERS)
def test_whole_tiles_without_keys(name: str, backend: str) -> None:
    """First, in between and last; the look-up hides them from the planner, which visits them."""
    op = with_normalizer(NORMALIZERS[name], "mask drop[b, j]", "drop: bool[B, M]", backend)
    inputs = draw(op.module, replace(SMALL, keys=96))
    kept = torch.zeros(1, 96, dtype=torch.bool)
    kept[:, 18:32] = kept[:, 48:64] = True
    found = results(op, inputs, drop=kept)
    alone = with_normalizer(NORMALIZERS[name], "mask j >= 0", "", backend)
    keys = {part: getattr(inputs, part)[:, :, kept[0]] for part in ("k", "v")}
    exact, statistics = alone.reference(inputs.q, keys["k"], keys["v"], return_aux=True)
    torch.testing.assert_close(found["out"].double(), exact, rtol=0, atol=3e-6)
    for statistic in statistics:
        torch.testing.assert_close(found[statistic].double(), statistics[statistic], rtol=0, atol=3e-6)


@on_backends
@pytest.mark.parametrize("name", ["softmax", "sink", "l1", "two"])
def test_a_score_of_minus_infinity_is_a_key_of_weight_zero(name: str, backend: str) -> None:
    header = "gone: real[B, M], gone_rows: real[B, N]"
    biased = with_normalizer(NORMALIZERS[name], "bias gone[b, j] + gone_rows[b, i]", header, backend)
    masked = with_normalizer(
        NORMALIZERS[name], "mask drop[b, j] and rows[b, i]", "drop: bool[B, M], rows: bool[B, N]", backend
    )
    inputs = draw(biased.module, SMALL)
    keys, rows = torch.arange(40) % 3 > 0, torch.arange(40) > 4
    keys[:17] = False
    bias = {"gone": torch.where(keys, 0.0, -INF)[None], "gone_rows": torch.where(rows, 0.0, -INF)[None]}
    plain = Inputs(inputs.q, inputs.k, inputs.v, {}, {}, {})
    assert_equal(results(biased, plain, **bias), results(masked, plain, drop=keys[None], rows=rows[None]))


@on_backends
@pytest.mark.parametrize("value", [float("nan"), INF, -INF])
@pytest.mark.parametrize(
    ("mask", "dead"),
    [
        ("j < len[b]", slice(21, 40)),
        ("j < lens[h] and j <= i", slice(30, 40)),
        ("lens[h] <= j and j <= i", slice(0, 21)),
    ],
)
def test_keys_that_a_clause_on_the_key_removes_never_leak(mask: str, dead: slice, value: float, backend: str) -> None:
    header = "len: int[B], lens: int[H]"
    op = attnc.compile(source=f"attention a({header}) {{ mask {mask} }}", backend=backend, tile=(16, 16))  # type: ignore[arg-type]
    inputs = draw(op.module, SMALL)
    lengths = {"len": torch.tensor([21]), "lens": torch.tensor([21, 30])}
    dirty = {name: getattr(inputs, name).clone() for name in ("k", "v")}
    for tensor in dirty.values():
        tensor[:, :, dead] = value
    assert_equal(results(op, inputs, **lengths, **dirty), results(op, inputs, **lengths))


@on_backends
def test_keys_removed_by_a_clause_never_leak_through_token_maps(backend: str) -> None:
    text = """attention a(len: int[B], u: real[H, D]) {
      mask j < len[b]
      q = rope(q, i); k = normalize(rope(k, j)); v = tanh(v)
      score dot(q, k) * scale + dot(u[h], k)
    }"""
    op = attnc.compile(source=text, backend=backend, tile=(16, 16))  # type: ignore[arg-type]
    inputs = draw(op.module, SMALL)
    dirty = {name: getattr(inputs, name).index_fill(2, torch.arange(21, 40), torch.nan) for name in ("k", "v")}
    length = torch.tensor([21])
    assert_equal(results(op, inputs, len=length, **dirty), results(op, inputs, len=length))


# -- large addresses -------------------------------------------------------------------------------------------------


def far_apart(shape: tuple[int, ...], axis: int) -> Tensor:
    """Random half-precision values that lie 2^31 elements apart along `axis`; the 4.3 GB between are not touched."""
    strides = [0] * 4
    step = 1
    for n in reversed(range(4)):
        strides[n] = 2**31 if n == axis else step
        step *= 1 if n == axis else shape[n]
    storage = torch.empty(2**31 + step, dtype=torch.float16)
    return storage.as_strided(shape, strides).copy_(torch.randn(shape))


@on_backends
@pytest.mark.parametrize("axis", [0, 1, 2], ids=["batch", "head", "token"])
def test_elements_beyond_two_to_the_31(axis: int, backend: str) -> None:
    sizes = [1, 1, 20, 8]
    sizes[axis] = 2
    op = CAUSAL.compile(backend, (16, 16))
    q, k, v = (torch.randn(sizes, dtype=torch.float16) for _ in range(3))
    wanted = op(q, k, v)
    far = far_apart((sizes[0], sizes[1], sizes[2], sizes[3]), axis)
    for name in ("q", "k", "v"):
        tokens = {"q": q, "k": k, "v": v}
        far.copy_(tokens[name])
        assert torch.equal(op(**{**tokens, name: far}), wanted)

"""attnc.compile and Op: what is refused and how, what is returned, what can be looked at."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import attnc
from attnc.ir.plan import Tile
from attnc.ops import Op
from attnc.verify import allowed_error

SPEC = """
attention a(
  slope: real[H] in [0, 1], seg: int[B, M] in [0, 9), keep: bool[B, M], rows: real[B, N, 3], pair: real[M + 1],
  width: int dynamic in [1, 100), temper: real dynamic = 1.0, causal: bool dynamic = true
) {
  mask   keep[b, j] and (not causal or 0 <= i - j < width)
  score  temper * dot(q, k) * scale - slope[h] * abs(i - j) + rows[b, i, 2] + pair[j - i] * real(seg[b, j])
}
"""
SHARED = "attention a(seg: int[B, M]) { mask seg[b, i] == seg[b, j] }"
NO_SCALE = "attention a { score dot(q, k) }"

B, H, HK, N, M, D, DV = 1, 2, 1, 5, 7, 4, 6


@dataclass
class Call:
    """Right arguments for SPEC; a test changes one."""

    q: Any = field(default_factory=lambda: torch.randn(B, H, N, D))
    k: Any = field(default_factory=lambda: torch.randn(B, HK, M, D))
    v: Any = field(default_factory=lambda: torch.randn(B, HK, M, DV))
    named: dict[str, Any] = field(
        default_factory=lambda: {
            "slope": torch.rand(H),
            "seg": torch.randint(0, 9, (B, M)),
            "keep": torch.rand(B, M) < 0.9,
            "rows": torch.randn(B, N, 3),
            "pair": torch.randn(M + 1),
            "width": 4,
        }
    )

    def changed(self, **change: Any) -> Call:
        """The same call with other arguments; a function is applied to the argument that was there."""
        for name, value in change.items():
            if name in ("q", "k", "v"):
                setattr(self, name, value(getattr(self, name)) if callable(value) else value)
            else:
                self.named[name] = value(self.named[name]) if callable(value) else value
        return self

    def without(self, name: str) -> Call:
        del self.named[name]
        return self

    def run(self, op: Op) -> Any:
        return op(self.q, self.k, self.v, **self.named)


@pytest.fixture(scope="module")
def op() -> Op:
    return attnc.compile(source=SPEC, backend="torch")


def qkv(n: int = N, m: int = M, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(B, heads, length, 8, dtype=dtype) for heads, length in ((2, n), (1, m), (1, m)))


def test_right_arguments_are_accepted(op: Op) -> None:
    call = Call()
    assert call.run(op).shape == (B, H, N, DV)
    assert call.changed(checks="full", q_offset="end", causal=False, temper=2).run(op).shape == (B, H, N, DV)


# -- what is refused -------------------------------------------------------------------------------------------------

META = torch.device("meta")
Change = Callable[[Call], Call]


def ints(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def twice(x: Tensor) -> Tensor:
    return x.expand(2, -1, -1, -1)


BAD: list[tuple[str, Change, tuple[str, ...]]] = [
    # tokens
    ("no_tensor", lambda c: c.changed(q=[1.0]), ("q: expected a tensor", "list")),
    ("sparse", lambda c: c.changed(v=lambda v: v.to_sparse()), ("v: expected a strided tensor", "sparse")),
    ("meta", lambda c: c.changed(q=lambda q: q.to(META)), ("k: expected the device of q, meta, got cpu",)),
    ("rank", lambda c: c.changed(k=lambda k: k[0]), ("k: expected 4 dimensions [B, Hk, M, D]", "[1, 7, 4]")),
    ("int_tokens", lambda c: c.changed(q=lambda q: q.int()), ("q: expected float32, float16", "int32")),
    ("dtypes", lambda c: c.changed(v=lambda v: v.half()), ("v: expected the dtype of q, float32", "float16")),
    ("batch_k", lambda c: c.changed(k=twice), ("k: expected shape [1, 1, 7, 4]", "[2, 1, 7, 4]")),
    ("batch_v", lambda c: c.changed(v=twice), ("v: expected batch size 1", "2")),
    ("keys", lambda c: c.changed(k=lambda k: k[:, :, 1:]), ("k: expected shape [1, 1, 7, 4]", "[1, 1, 6, 4]")),
    ("features", lambda c: c.changed(k=lambda k: k[..., 1:]), ("k: expected shape", "[1, 1, 7, 3]")),
    ("heads", lambda c: c.changed(k=lambda k: k.repeat(1, 3, 1, 1), v=lambda v: v.repeat(1, 3, 1, 1)),
     ("2 query heads", "3 key heads")),
    ("no_key_heads", lambda c: c.changed(k=lambda k: k[:, :0], v=lambda v: v[:, :0]), ("2 query heads", "0 key heads")),
    ("wide_head", lambda c: c.changed(v=torch.randn(B, HK, M, 257)), ("Dv is 257", "1 to 256")),
    ("no_features", lambda c: c.changed(v=lambda v: v[..., :0]), ("Dv is 0", "1 to 256")),
    # names
    ("unknown", lambda c: c.changed(slop=1), ("unknown argument `slop`", "did you mean `slope`")),
    ("far_off", lambda c: c.changed(zzz=1), ("unknown argument `zzz`", "`slope`", "`width`")),
    ("missing", lambda c: c.without("seg"), ("missing tensor `seg`", "seg: int[B, M]")),
    ("missing_number", lambda c: c.without("width"), ("missing parameter `width`", "dynamic")),
    # tensors
    ("tensor_kind", lambda c: c.changed(slope=0.5), ("slope: expected a tensor", "float")),
    ("tensor_int", lambda c: c.changed(seg=lambda t: t.float()), ("seg: expected int32 or int64", "float32")),
    ("tensor_bool", lambda c: c.changed(keep=lambda t: t.int()), ("keep: expected bool", "int32")),
    ("tensor_real", lambda c: c.changed(slope=lambda t: t.int()), ("slope: expected a floating dtype", "int32")),
    ("tensor_double", lambda c: c.changed(slope=lambda t: t.double()), ("slope: expected float32", "float64")),
    ("tensor_rank", lambda c: c.changed(slope=lambda t: t[:, None]), ("slope: expected shape [2]", "[2, 1]")),
    ("tensor_size", lambda c: c.changed(rows=lambda t: t[:, :4]), ("rows: expected shape [1, 5, 3]", "[1, 4, 3]")),
    ("tensor_sum", lambda c: c.changed(pair=lambda t: t[1:]), ("pair: expected shape [8]", "[7]")),
    ("tensor_range", lambda c: c.changed(seg=lambda t: t + 20, checks="full"), ("seg: the value", "[0, 9)")),
    ("real_range", lambda c: c.changed(slope=lambda t: t - 3, checks="full"), ("slope: the value", "declared range")),
    ("nan_range", lambda c: c.changed(slope=lambda t: t * torch.nan, checks="full"), ("slope: the value nan",)),
    # numbers
    ("number_kind", lambda c: c.changed(width=4.0), ("width: expected a Python int", "float 4.0")),
    ("number_bool", lambda c: c.changed(width=True), ("width: expected a Python int", "bool True")),
    ("number_none", lambda c: c.changed(width=None), ("width: expected a Python int", "NoneType")),
    ("number_tensor", lambda c: c.changed(temper=torch.tensor(1.0)), ("temper: expected a Python real", "Tensor")),
    ("bool_int", lambda c: c.changed(causal=1), ("causal: expected a Python bool", "int 1")),
    ("number_range", lambda c: c.changed(width=100), ("width: the value 100", "[1, 100)")),
    ("number_huge", lambda c: c.changed(width=2**31), ("width: 2147483648 does not fit 32 bits",)),
    ("scale_nan", lambda c: c.changed(scale=float("nan")), ("scale: expected a finite number", "nan")),
    ("scale_bool", lambda c: c.changed(scale=True), ("scale: expected a finite number", "True")),
    ("scale_text", lambda c: c.changed(scale="1"), ("scale: expected a finite number", "'1'")),
    # offsets
    ("offset_text", lambda c: c.changed(q_offset="start"), ("q_offset: expected an int", "'start'")),
    ("offset_end_k", lambda c: c.changed(k_offset="end"), ("k_offset: expected an int", "'end'")),
    ("offset_real", lambda c: c.changed(q_offset=1.0), ("q_offset: expected an int", "float")),
    ("offset_bool", lambda c: c.changed(q_offset=True), ("q_offset: expected an int", "bool")),
    ("offset_shape", lambda c: c.changed(k_offset=ints([1, 2])), ("k_offset: expected an int tensor [1]", "[2]")),
    ("offset_dtype", lambda c: c.changed(k_offset=torch.tensor([1.0])), ("k_offset: expected", "float32")),
    ("offset_high", lambda c: c.changed(q_offset=2**31 - N), ("q_offset: positions 2147483643", "32 bits")),
    ("offset_far", lambda c: c.changed(k_offset=torch.tensor([2**32])), ("k_offset: positions 4294967296", "32 bits")),
    ("offset_low", lambda c: c.changed(k_offset=-(2**31)), ("k_offset: positions -2147483648", "32 bits")),
    # packed documents
    ("packed_pair", lambda c: c.changed(cu_seqlens=(ints([0, N]),) * 3), ("cu_seqlens", "3 items")),
    ("packed_kind", lambda c: c.changed(cu_seqlens=5), ("cu_seqlens: expected a tensor", "int")),
    ("packed_dtype", lambda c: c.changed(cu_seqlens=torch.tensor([0.0, N])), ("cu_seqlens: expected an int tensor",)),
    ("packed_rank", lambda c: c.changed(cu_seqlens=ints([[0, N]])), ("cu_seqlens: expected an int tensor",)),
    ("packed_none", lambda c: c.changed(cu_seqlens=ints([])), ("cu_seqlens: expected an int",)),
    ("packed_total", lambda c: c.changed(cu_seqlens=(ints([0, N - 1]), ints([0, M]))), ("<= 5 = N", "[0, 4]")),
    ("packed_start", lambda c: c.changed(cu_seqlens=(ints([0, N]), ints([1, M]))), ("<= 7 = M", "[1, 7]")),
    ("packed_falls", lambda c: c.changed(cu_seqlens=ints([0, 6, 3, N])), ("never falling", "[0, 6, 3, 5]")),
    ("packed_counts", lambda c: c.changed(cu_seqlens=(ints([0, N]), ints([0, 2, M]))),
     ("1 documents of queries but 2 of keys",)),
    ("packed_shapes", lambda c: c.changed(cu_seqlens=(ints([0, N]), ints([0, M]))),
     ("pair: ", "cannot be used with cu_seqlens")),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), [pytest.param(c, w, id=name) for name, c, w in BAD])
def test_a_bad_argument_is_refused_with_what_was_expected_and_what_came(
    op: Op, change: Change, words: tuple[str, ...]
) -> None:
    with pytest.raises(attnc.CallError) as found:
        change(Call()).run(op)
    missing = [word for word in words if word not in str(found.value)]
    assert not missing, f"{missing} not in: {found.value}"


@pytest.mark.parametrize(("change", "words"), [pytest.param(c, w, id=name) for name, c, w in BAD])
def test_the_oracle_refuses_the_same_arguments(op: Op, change: Change, words: tuple[str, ...]) -> None:
    call = change(Call())
    with pytest.raises(attnc.CallError) as found:
        op.reference(call.q, call.k, call.v, **call.named)
    assert all(word in str(found.value) for word in words), str(found.value)


def test_ranges_are_checked_on_demand_only(op: Op) -> None:
    call = Call().changed(seg=lambda t: t + 20)
    assert call.run(op).isfinite().all()


def test_batch_of_packed_documents_is_one() -> None:
    q, k, v = (x.expand(2, -1, -1, -1) for x in qkv(5, 5))
    with pytest.raises(attnc.CallError, match="batch size 1, got 2"):
        attnc.compile("std:causal", backend="torch")(q, k, v, cu_seqlens=ints([0, 5]))


def test_packed_documents_take_no_offset_tensors() -> None:
    op = attnc.compile("std:causal", backend="interpret")
    with pytest.raises(attnc.CallError, match="packed documents take an int"):
        op(*qkv(5, 5), cu_seqlens=ints([0, 5]), q_offset=ints([1]))


def test_queries_that_read_a_key_tensor_are_among_the_keys() -> None:
    op = attnc.compile(source=SHARED, backend="torch")
    seg = torch.zeros(1, 7, dtype=torch.int32)
    with pytest.raises(attnc.CallError, match=r"seg: .* keys at positions 0 to 6.* queries at positions 3 to 7"):
        op(*qkv(5, 7), seg=seg, q_offset=3)
    assert op(*qkv(5, 7), seg=seg, q_offset=2).shape == (1, 2, 5, 8)


def test_a_spec_that_never_reads_scale_refuses_it() -> None:
    with pytest.raises(attnc.CallError, match="scale: a does not read `scale`"):
        attnc.compile(source=NO_SCALE, backend="torch")(*qkv(), scale=0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "cuda"}, "backend: expected one of auto, triton, interpret, cpp, torch, got 'cuda'"),
        *(({"tile": tile}, "tile: expected") for tile in (16, "ab", (16,), (16, 16, 16), (15, 16), (8, 16), (16.0, 16),
                                                          (True, 16), (0, 16), (-16, 16), (2**20, 16))),
    ],
)  # fmt: skip
def test_bad_options_of_compile_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(attnc.CallError) as found:
        attnc.compile("std:causal", **options)
    assert words in str(found.value)


def test_compile_needs_a_spec() -> None:
    with pytest.raises(attnc.CallError, match="give a spec"):
        attnc.compile()


def test_the_attention_of_a_file_is_chosen_by_name() -> None:
    text = "attention a { mask j <= i }\nattention c { score dot(q, k) }"
    assert attnc.compile(source=text, attention="c").module.name == "c"
    with pytest.raises(attnc.SpecError, match=r"`a`.*`c`|a, c"):
        attnc.compile(source=text)
    with pytest.raises(attnc.SpecError, match="attention `d`"):
        attnc.compile(source=text, attention="d")


@pytest.mark.parametrize("backend", ["triton", "interpret"])
def test_a_back_end_for_other_devices_is_refused(backend: str) -> None:
    op = attnc.compile("std:causal", backend=backend)
    if backend == "triton":
        with pytest.raises(attnc.CallError, match='backend "triton" needs tensors on a GPU, got cpu'):
            op(*qkv())
    else:
        with pytest.raises(attnc.CallError, match="float64 runs on"):
            op(*qkv(dtype=torch.float64))


# -- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "interpret"])
def test_statistics_are_returned_on_request(backend: str) -> None:
    op = attnc.compile("std:softmax", backend=backend)
    q, k, v = qkv()
    out = op(q, k, v)
    assert isinstance(out, Tensor)
    again, aux = op(q, k, v, return_aux=True)
    assert torch.equal(out, again)
    assert list(aux) == ["lse"]
    assert aux.lse is aux["lse"]
    assert aux.lse.shape == (B, 2, N)
    assert aux.lse.dtype == torch.float32
    with pytest.raises(AttributeError, match="no statistic `top`; there are lse"):
        _ = aux.top


def test_a_spec_without_statistics_returns_none() -> None:
    op = attnc.compile("std:relu2", backend="torch")
    _, aux = op(*qkv(), return_aux=True)
    assert aux == {}
    with pytest.raises(AttributeError, match="there are none"):
        _ = aux.lse


def test_the_torch_back_end_keeps_double_precision() -> None:
    op = attnc.compile("std:softmax", backend="torch")
    q, k, v = qkv(dtype=torch.float64)
    out, aux = op(q, k, v, return_aux=True)
    exact, statistics = op.reference(q, k, v, return_aux=True)
    assert out.dtype == aux.lse.dtype == torch.float64
    torch.testing.assert_close(out, exact, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(aux.lse, statistics.lse, rtol=1e-13, atol=1e-14)


def test_dynamic_parameters_have_defaults_and_change_the_result(op: Op) -> None:
    call = Call()
    out = call.run(op)
    assert torch.equal(out, call.changed(temper=1.0, causal=True).run(op))
    assert not torch.equal(out, call.changed(temper=2.0).run(op))
    assert not torch.equal(out, call.changed(temper=1.0, causal=False).run(op))


def test_tensors_of_compile_are_used_where_the_call_gives_none() -> None:
    q, k, v = qkv()
    slope, other = torch.tensor([0.5, 0.25]), torch.tensor([0.1, 0.7])
    fixed = attnc.compile("std:alibi", backend="torch", tensors={"slope": slope})
    plain = attnc.compile("std:alibi", backend="torch")
    assert torch.equal(fixed(q, k, v), plain(q, k, v, slope=slope))
    assert torch.equal(fixed(q, k, v, slope=other), plain(q, k, v, slope=other))
    assert torch.equal(fixed.reference(q, k, v), plain.reference(q, k, v, slope=slope))


# -- gradients -------------------------------------------------------------------------------------------------------


def test_the_torch_back_end_is_differentiable() -> None:
    op = attnc.compile("std:alibi", backend="torch")
    leaves = [x.double().requires_grad_() for x in (*qkv(), torch.rand(2))]
    found, wanted = (
        torch.autograd.grad(run(*leaves[:3], slope=leaves[3]).square().sum(), leaves) for run in (op, op.reference)
    )
    for gradient, exact in zip(found, wanted):
        torch.testing.assert_close(gradient, exact, rtol=1e-9, atol=1e-11)


# -- bfloat16 in the interpreter -------------------------------------------------------------------------------------


def test_bfloat16_in_the_interpreter_warns_once_per_call_and_rounds_at_the_end() -> None:
    op = attnc.compile("std:softmax", backend="interpret")
    q, k, v = qkv(dtype=torch.bfloat16)
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            out, aux = op(q, k, v, return_aux=True)
        ours = [warning for warning in caught if issubclass(warning.category, attnc.AttncWarning)]
        assert len(ours) == 1
        assert "bfloat16" in str(ours[0].message)
        assert ours[0].filename == __file__
    assert out.dtype == torch.bfloat16
    assert aux.lse.dtype == torch.float32
    exact = op.reference(q, k, v)
    assert (out.double() - exact).abs().max() <= allowed_error(exact, exact.to(torch.bfloat16), torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_do_not_warn(dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert attnc.compile("std:causal", backend="interpret")(*qkv(dtype=dtype)).dtype == dtype


# -- what was compiled -----------------------------------------------------------------------------------------------


def test_plan_source_and_report_exist_before_any_call() -> None:
    op = attnc.compile("std:sliding_window", params={"size": 100})
    assert (op.plan.head_dim, op.plan.value_dim) == (64, 64)
    assert "def attention(" in op.source
    report = op.explain(1000)
    assert (report.n, report.m) == (1000, 1000)
    assert "sliding_window" in str(report)


@pytest.mark.parametrize("backend", ["torch", "interpret"])
def test_the_plan_is_that_of_the_last_call(backend: str) -> None:
    op = attnc.compile("std:causal", backend=backend, tile=(16, 32))
    op(*(torch.randn(1, 1, 3, d) for d in (8, 8, 24)))
    assert (op.plan.head_dim, op.plan.value_dim, op.plan.parts[0].tile) == (8, 24, Tile(16, 32))
    assert op.explain(100, 200).m == 200


def test_the_source_is_that_of_the_last_call_that_ran_kernels() -> None:
    op = attnc.compile("std:causal", backend="interpret", tile=(32, 16))  # ops of the same content are one
    before = op.source
    op(*(torch.randn(1, 1, 3, d) for d in (8, 8, 24)))
    assert op.source != before
    assert "D = 8, Dv = 24" in op.source
    assert "aux0_ptr" not in op.source
    op(*(torch.randn(1, 1, 3, d) for d in (8, 8, 24)), return_aux=True)
    assert "aux0_ptr" in op.source


def test_sizes_do_not_compile_again() -> None:
    op = attnc.compile("std:causal", backend="interpret", tile=(16, 16))
    op(*qkv(3, 3))
    plan, source = op.plan, op.source
    op(*qkv(9, 17), q_offset=4)
    assert op.plan is plan
    assert op.source is source


def test_tiles_of_the_report_are_those_of_the_mask() -> None:
    op = attnc.compile("std:causal", tile=(64, 64))
    tiles = op.explain(64 * 10).tiles
    assert (tiles.full, tiles.partial, tiles.skipped, tiles.total) == (45, 10, 45, 100)


def test_a_report_says_what_it_cannot_know() -> None:
    tiles = attnc.compile("std:prefix_lm").explain(1000).tiles
    assert "prefix[b]" in str(tiles.why_unknown)


def test_repr_names_the_attention_and_the_back_end() -> None:
    assert repr(attnc.compile("std:causal", backend="torch")) == "<attnc op causal, backend torch>"


def test_the_report_is_of_the_tiles_that_a_prefill_call_has() -> None:
    op = attnc.compile("std:dilated_window", params={"size": 9, "dilation": 2}, backend="torch")
    assert "residue classes" in str(op.explain(64))
    assert "residue classes" not in str(op.explain(64, 65))


@pytest.mark.parametrize(
    ("name", "words"),
    [("1x", "a name such as"), ("", "a name such as"), ("scale", "a value"), ("q_offset", "a keyword"), (3, "a name")],
)
def test_a_key_mask_has_a_name_that_a_tensor_can_have(name: Any, words: str) -> None:
    with pytest.raises(attnc.CallError, match=f"key_mask: .*{words}"):
        attnc.compile("std:causal", key_mask=name)


def test_a_spec_is_a_name() -> None:
    with pytest.raises(attnc.CallError, match=r"spec: expected a path or .*, got int"):
        attnc.compile(3)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_quantized_tensors_are_refused() -> None:
    q = torch.randn(1, 1, 4, 8)
    with pytest.raises(attnc.CallError, match="q: expected a floating dtype, got qint8"):
        attnc.compile("std:causal")(torch.quantize_per_tensor(q, 0.1, 0, torch.qint8), q, q)

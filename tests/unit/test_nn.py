"""attnc.nn: an attention as a torch module."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnc
from attnc.diagnostics import CallError, SpecError
from attnc.nn import Attention

HEADS, TOKENS, FEATURES = 4, 20, 8


def spec(header: str, body: str = "") -> str:
    return f"attention a({header}) {{\n{body}\n}}"


def slope(range_: str = "", use: str = "-slope[h] * abs(i - j)") -> str:
    return spec(f"slope: real[H] learned {range_}", f"bias {use}")


def made(source: str, **keywords: Any) -> Attention:
    return Attention(source=source, backend="torch", **{"heads": HEADS, **keywords})


def tokens(heads: int = HEADS, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(2, heads, TOKENS, FEATURES, dtype=dtype) for _ in range(3))
    return q, k, v


# -- parameters, buffers, state ---------------------------------------------------------------------------------------


def test_learned_tensors_are_parameters_and_get_gradients() -> None:
    layer = Attention("std:softmax_sink", heads=HEADS, backend="torch", params={"causal": True})
    assert list(layer.state_dict()) == ["sink"]
    q, k, v = (x.requires_grad_() for x in tokens())
    out = layer(q, k, v)
    sink = layer.sink.detach().clone().requires_grad_()
    op = attnc.compile("std:softmax_sink", backend="torch", params={"causal": True})
    assert torch.equal(out, op(q, k, v, sink=sink))
    out.square().sum().backward()
    op.reference(q, k, v, sink=sink).square().sum().backward()
    assert layer.sink.grad is not None
    torch.testing.assert_close(layer.sink.grad, sink.grad.float())


def test_module_learns() -> None:
    layer = made(slope(), init={"slope": 0.1})
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    q, k, v = tokens()
    wanted = layer.op(q, k, v, slope=torch.tensor([0.5, 0.25, 0.125, 0.0])).detach()
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (layer(q, k, v) - wanted).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_other_tensors_become_buffers_that_a_call_may_replace() -> None:
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0])
    layer = Attention("std:alibi", tensors={"slope": slopes}, backend="torch")
    q, k, v = tokens()
    assert dict(layer.named_buffers())["slope"].tolist() == slopes.tolist()
    assert not list(layer.parameters())
    assert torch.equal(layer(q, k, v), layer.op(q, k, v, slope=slopes))
    assert torch.equal(layer(q, k, v, slope=2 * slopes), layer.op(q, k, v, slope=2 * slopes))


def test_call_keywords_reach_the_op() -> None:
    layer = Attention("std:causal", backend="torch", key_mask="keep")
    q, k, v = tokens()
    keep = torch.rand(2, TOKENS) < 0.7
    out, aux = layer(q, k, v, keep=keep, q_offset=3, return_aux=True, scale=0.5)
    wanted, wanted_aux = layer.op(q, k, v, keep=keep, q_offset=3, return_aux=True, scale=0.5)
    assert torch.equal(out, wanted)
    assert set(aux) == set(wanted_aux)


def test_state_dict_round_trip_and_torch_error_for_wrong_shapes() -> None:
    layer, other = made(slope(), init={"slope": torch.randn(HEADS)}), made(slope())
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer.slope, other.slope)
    with pytest.raises(RuntimeError, match="size mismatch for slope"):
        made(slope(), heads=8).load_state_dict(layer.state_dict())


def test_module_moves_with_its_tensors() -> None:
    layer = Attention("std:softmax_sink", heads=HEADS, backend="torch", dtype=torch.float16)
    assert layer.sink.dtype == torch.float16
    assert layer.to(torch.float64).sink.dtype == torch.float64
    assert layer(*tokens(dtype=torch.float64)).dtype == torch.float64
    with pytest.raises(CallError, match=r"sink: expected float32 or float32, got float64|nothing is rounded silently"):
        layer(*tokens())


def test_meta_device_then_reset_parameters() -> None:
    layer = made(slope(), init={"slope": partial(nn.init.constant_, val=0.25)}, device="meta")
    assert layer.slope.is_meta
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert layer.slope.tolist() == [0.25] * HEADS
    with torch.device("meta"):
        assert made(slope()).slope.is_meta


# -- copies -----------------------------------------------------------------------------------------------------------


def test_deepcopy_has_its_own_parameters_and_the_same_op() -> None:
    layer = made(slope())
    copied = copy.deepcopy(nn.Sequential(layer, nn.Linear(2, 2)))[0]
    assert copied.op is layer.op
    assert copied.slope is not layer.slope
    with torch.no_grad():
        copied.slope += 1
    assert layer.slope.tolist() == [0.0] * HEADS


@pytest.mark.parametrize("save", [pickle.dumps, None], ids=["pickle", "torch.save"])
def test_pickle_round_trip(save: Callable[[Any], bytes] | None) -> None:
    layer = made(slope(), init={"slope": torch.randn(HEADS)}, tile=(32, 32), params={})
    if save is None:
        buffer = io.BytesIO()
        torch.save(layer, buffer)
        buffer.seek(0)
        loaded = torch.load(buffer, weights_only=False)
    else:
        loaded = pickle.loads(save(layer))  # noqa: S301  # its own
    q, k, v = tokens()
    assert torch.equal(loaded(q, k, v), layer(q, k, v))
    assert repr(loaded) == repr(layer)
    assert copy.deepcopy(loaded).op is loaded.op


def test_pickle_needs_no_function_but_says_when_one_is_missing() -> None:
    layer = made(slope(), init={"slope": lambda tensor: tensor.fill_(1)})
    loaded = pickle.loads(pickle.dumps(layer))  # noqa: S301  # its own
    assert loaded.slope.tolist() == [1.0] * HEADS
    with pytest.raises(CallError, match="pickle did not keep the function that starts `slope`"):
        loaded.reset_parameters()
    loaded.reset_parameters({"slope": 2})
    assert loaded.slope.tolist() == [2.0] * HEADS


def test_functional_call_swaps_parameters() -> None:
    layer, q = made(slope()), tokens()
    swapped = {"slope": torch.ones(HEADS)}
    assert torch.equal(torch.func.functional_call(layer, swapped, q), layer.op(*q, **swapped))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile does so itself
def test_torch_compile_gives_the_same() -> None:
    layer, q = made(slope(), init={"slope": 0.5}), tokens()
    assert torch.equal(torch.compile(layer, backend="eager", fullgraph=True)(*q), layer(*q))


# -- how parameters start ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("range_", "start"),
    [
        ("", 0.0),
        ("in [0, inf)", 0.0),
        ("in [-1, 1)", 0.0),
        ("in (0, inf)", 1.0),
        ("in [2, inf)", 3.0),
        ("in (0, 1)", 0.5),
        ("in (-inf, -1)", -2.0),
        ("in (-inf, 0)", -1.0),
    ],
)
def test_default_start_lies_in_the_declared_range(range_: str, start: float) -> None:
    layer = made(slope(range_))
    assert layer.slope.tolist() == [start] * HEADS
    assert layer(*tokens(), checks="full").isfinite().all()


@pytest.mark.parametrize(
    ("header", "body", "low"),
    [
        ("x: real[H, 3] learned, y: real[H, 3] learned", "bias dot(x[h], y[h]) * real(i)", -0.02),
        ("x: real[H] learned, y: real[H] learned", "bias (1 + x[h]) * y[h] * j", -0.02),
        ("x: real[H] learned in [0, inf), y: real[H] learned", "bias x[h] * y[h] * j", 0.0),
        ("x: real[H] learned", "bias -abs(x[h]) * j", -0.02),
        ("x: real[H] learned", "bias x[h] ^ 2 * j", -0.02),
    ],
)
def test_factors_do_not_start_at_zero_where_they_would_stay(header: str, body: str, low: float) -> None:
    layer = made(spec(header, body))
    layer(*tokens()).square().sum().backward()
    for name, param in layer.named_parameters():
        assert (param != 0).all()
        assert param.abs().max() <= 0.02
        assert param.min() >= (low if name == "x" else -0.02)
        assert param.grad is not None
        assert (param.grad != 0).any()


def test_one_factor_alone_starts_at_zero() -> None:
    assert made(spec("x: real[H] learned, y: real[H]", "bias x[h] * y[h] * j")).x.tolist() == [0.0] * HEADS


@pytest.mark.parametrize(
    ("init", "start"),
    [
        (torch.arange(HEADS), [0.0, 1.0, 2.0, 3.0]),
        (0.5, [0.5] * HEADS),
        (nn.init.ones_, [1.0] * HEADS),
        (lambda tensor: torch.linspace(0, 3, len(tensor)), [0.0, 1.0, 2.0, 3.0]),
        (lambda tensor: None, [0.0] * HEADS),
    ],
    ids=["tensor", "number", "in place", "returned", "nothing"],
)
def test_init_says_how_a_tensor_starts(init: Any, start: list[float]) -> None:
    layer = made(slope())
    layer.reset_parameters({"slope": init})
    assert layer.slope.tolist() == start
    assert layer.slope.requires_grad
    assert layer.slope.is_leaf


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"slop": 1}, "`slop` is no learned tensor; the learned tensors are `slope`"),
        ({"slope": "ones"}, "expected a tensor, a number or a function, got str"),
        ({"slope": True}, "expected a tensor, a number or a function, got bool"),
        ({"slope": torch.ones(3)}, r"slope: real\[H\] learned has the shape \[4\] here, got \[3\]"),
        ({"slope": -1}, r"`slope` starts outside its declared range \[0.0, inf\)"),
        ({"slope": float("nan")}, "outside its declared range"),
        ({"slope": lambda tensor: "x"}, "its function returned str"),
    ],
)
def test_wrong_init_is_refused(init: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError, match=message):
        made(slope("in [0, inf)"), init=init)


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_shapes_follow_sizes_and_static_parameters() -> None:
    text = spec("L: int, t: real[H, 2*L - 1] learned, u: real[Hk, D + Dv] learned", "bias t[h, 0] + u[hk, 1]")
    layer = made(text, params={"L": 5}, key_heads=2, head_dim=8, value_dim=16)
    assert layer.t.shape == (HEADS, 9)
    assert layer.u.shape == (2, 24)
    assert made(text, params={"L": 1}, heads=None, sizes={"H": 6, "D": 4}).u.shape == (6, 8)


def test_learned_tensor_over_tokens_needs_its_size() -> None:
    text = spec("p: real[H, N] learned", "bias p[h, i]")
    with pytest.raises(CallError, match=r'depends on N, the number of queries.* sizes=\{"N": ...\}'):
        made(text)
    layer = made(text, sizes={"N": TOKENS})
    layer(*tokens())
    q, k, v = tokens()
    with pytest.raises(CallError, match="made for N = 20, the call has N = 19"):
        layer(q[:, :, 1:], k, v)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"heads": None}, r"slope: real\[H\] learned: give heads="),
        ({"heads": 0}, "heads: expected a whole number of at least 1, got 0"),
        ({"heads": 2.5}, "heads: expected a whole number"),
        ({"heads": True}, "heads: expected a whole number"),
        ({"key_heads": 3}, "4 query heads are not a multiple of 3 key heads"),
        ({"sizes": {"H": 8}}, "sizes: H is 8 there, but heads=4 is given, too"),
        ({"sizes": 3}, "sizes: expected values by name, got int"),
        ({"init": [1]}, "init: expected values by name, got list"),
        ({"sizes": {"X": 8}}, "unknown size 'X'"),
        ({"dtype": torch.int32}, "dtype: expected float32"),
        ({"tensors": {"slope": torch.ones(4)}}, "`slope` is learned"),
        ({"tensors": {"ids": torch.ones(4)}}, "has no tensor `ids`; it takes none"),
    ],
)
def test_wrong_arguments_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError, match=message):
        made(slope(), **keywords)


def test_negative_shapes_are_refused() -> None:
    with pytest.raises(CallError, match="D - 9 is -1 for"):
        made(spec("t: real[H, D - 9] learned", "bias t[h, 0]"), head_dim=8)


def test_wrong_tensors_are_refused() -> None:
    with pytest.raises(CallError, match="seg: expected a tensor, got list"):
        Attention("std:document", tensors={"seg": [1]})
    with pytest.raises(
        CallError, match=r"seg: expected int32 or int64 with the dimensions \[B, M\], got float32 \[4\]"
    ):
        Attention("std:document", tensors={"seg": torch.ones(4)})


def test_name_that_a_module_has_is_refused() -> None:
    with pytest.raises(CallError, match="`training`: a torch module has something else of that name"):
        made(spec("training: real[H] learned", "bias training[h]"))


def test_wrong_specs_raise_what_compile_raises() -> None:
    with pytest.raises(SpecError):
        Attention("std:no_such")
    with pytest.raises(CallError, match="give a spec"):
        Attention()


def test_wrong_calls_are_refused() -> None:
    layer, (q, k, v) = made(slope()), tokens()
    with pytest.raises(CallError, match="`slope` is a parameter of this module"):
        layer(q, k, v, slope=torch.ones(HEADS))
    with pytest.raises(CallError, match="made for H = 4, the call has H = 8"):
        layer(*tokens(8))
    with pytest.raises(CallError, match="q: expected a tensor, got str"):
        layer("q", k, v)
    with pytest.raises(CallError, match="unknown argument `slop`"):
        layer(q, k, v, slop=1)


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_repr_says_what_it_is() -> None:
    layer = Attention("std:relative_table", params={"L": 3}, heads=2, backend="torch")
    assert repr(layer) == "Attention(relative_table, L=3, H=2, Hk=2, table: real[2, 5] learned, backend=torch)"


def test_nn_is_an_attribute_of_attnc_that_loads_lazily() -> None:
    program = "import sys, attnc; assert 'torch' not in sys.modules; attnc.nn.Attention; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)

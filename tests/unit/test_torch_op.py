"""The op as torch sees it: opcheck, torch.compile, export, torch.func, autocast, tensors of other devices."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import attnc
from attnc.calls import RawCall
from attnc.ops import Op

#: torch uses parts of itself that it has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

WINDOW = """
attention near(window: int dynamic = 5, tilt: real dynamic = 0.5, slope: real[H] learned, keep: bool[B, M]) {
  mask j <= i and i - j < window and keep[b, j]
  bias -slope[h] * tilt * (i - j)
}"""


@pytest.fixture(scope="module")
def op() -> Op:
    return attnc.compile(source=WINDOW, backend="torch")


def inputs(n: int = 10, m: int = 12, dtype: torch.dtype = torch.float32, **shape: int) -> dict[str, Any]:
    """Arguments of a call of WINDOW with grouped heads."""
    batch, heads, key_heads = shape.get("b", 2), shape.get("h", 4), shape.get("hk", 2)
    generator = torch.Generator().manual_seed(n * 100 + m)

    def randn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=dtype)

    keep = torch.rand(batch, m, generator=generator) < 0.8
    return {
        "q": randn(batch, heads, n, 8),
        "k": randn(batch, key_heads, m, 8),
        "v": randn(batch, key_heads, m, 6),
        "slope": randn(heads).abs(),
        "keep": keep,
    }


def called(op: Op, given: dict[str, Any], **more: Any) -> Any:
    """The op called with `inputs`."""
    return op(given["q"], given["k"], given["v"], slope=given["slope"], keep=given["keep"], **more)


def flat(op: Op, given: dict[str, Any]) -> tuple[Any, ...]:
    """The same as the arguments of the registered op."""
    named = {"slope": given["slope"], "keep": given["keep"]}
    raw = RawCall(given["q"], given["k"], given["v"], 0, 0, None, None, False, "basic", named)
    return tuple(op._ops.signature.flatten(raw))


# -- the registered op -----------------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[], dict[str, Any]]] = {
    "contiguous": inputs,
    "transposed": lambda: {n: _transposed(x) if x.dim() == 4 else x for n, x in inputs().items()},
    "one head each": lambda: inputs(h=3, hk=3),
    "no queries": lambda: inputs(n=0),
    "no keys": lambda: inputs(m=0),
    "no batch": lambda: inputs(b=0),
    "half": lambda: inputs(dtype=torch.float16),
}


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


@pytest.mark.parametrize(
    ("backend", "layout"), [*(("torch", layout) for layout in LAYOUTS), ("interpret", "transposed")]
)
def test_opcheck(backend: Any, layout: str) -> None:
    op = attnc.compile(source=WINDOW, backend=backend, tile=(16, 16))
    args = flat(op, LAYOUTS[layout]())
    for overload in (op._ops.plain, op._ops.stats):
        torch.library.opcheck(overload, args)


def test_outputs_are_contiguous_whatever_comes_in(op: Op) -> None:
    out, aux = called(op, LAYOUTS["transposed"](), return_aux=True)
    assert out.is_contiguous()
    assert aux.lse.is_contiguous()


def test_the_name_is_made_of_the_content(op: Op) -> None:
    again = attnc.compile(source=WINDOW, backend="torch")
    assert again.name == op.name
    assert hasattr(torch.ops.attnc, op.name)
    others = [
        attnc.compile(source=WINDOW, backend="auto"),
        attnc.compile(source=WINDOW, backend="torch", tile=(16, 16)),
        attnc.compile(source=WINDOW.replace("j <= i", "j < i"), backend="torch"),
        attnc.compile(source=WINDOW, backend="torch", key_mask="padding"),
    ]
    assert len({op.name, *(other.name for other in others)}) == 5


def test_where_a_text_stands_does_not_matter_to_the_name(op: Op, tmp_path: Path) -> None:
    path = tmp_path / "anything.attn"
    path.write_text(f"\n\n{WINDOW}", encoding="utf-8")
    assert attnc.compile(path, backend="torch").name == op.name


# -- tracing ---------------------------------------------------------------------------------------------------------


class Layer(torch.nn.Module):
    """A projection before the op, a sum of both outputs after it."""

    def __init__(self, op: Op) -> None:
        super().__init__()
        self.op = op
        self.project = torch.nn.Linear(8, 8)
        self.slope = torch.nn.Parameter(torch.rand(4))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        out, aux = self.op(self.project(q), k, v, q_offset="end", slope=self.slope, keep=keep, return_aux=True)
        return out * 2 + torch.where(aux.lse.isfinite(), aux.lse, 0.0).unsqueeze(-1)


def test_compiles_whole_with_dynamic_sizes(op: Op) -> None:
    layer = Layer(op)
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    frames: list[int] = []
    for n in (10, 17, 33):
        given = inputs(n, n + 3)
        args = (given["q"].requires_grad_(), given["k"], given["v"], given["keep"])
        expected, found = layer(*args), compiled(*args)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        leaves = [args[0], layer.slope, layer.project.weight]
        torch.testing.assert_close(
            torch.autograd.grad(found.square().sum(), leaves),
            torch.autograd.grad(expected.square().sum(), leaves),
            rtol=1e-6,
            atol=1e-6,
        )
        frames.append(counter.frame_count)
    assert frames[0] == frames[-1]  # sizes are symbols from the first call on


@pytest.mark.parametrize("case", ["window", "packed", "offsets", "end"])
def test_compiles_every_kind_of_call(op: Op, case: str) -> None:
    given = inputs(12, 12, b=1)
    more: dict[str, dict[str, Any]] = {
        "window": {"window": 3, "tilt": 0.25},
        "packed": {"cu_seqlens": torch.tensor([0, 5, 12])},
        "offsets": {"q_offset": torch.tensor([2])},
        "end": {"q_offset": "end", "scale": 0.5},
    }
    torch._dynamo.reset()
    compiled = torch.compile(lambda g: called(op, g, **more[case]), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(given), called(op, given, **more[case]), rtol=0, atol=0)


def test_compiles_one_tensor_in_three_places(op: Op) -> None:
    given = inputs(9, 9, h=2)
    q = given["q"].requires_grad_()
    torch._dynamo.reset()

    def loss(x: Tensor) -> Tensor:
        return called(op, {**given, "q": x, "k": x, "v": x}).square().sum()

    (expected,) = torch.autograd.grad(loss(q), q)
    found = torch.compile(loss, fullgraph=True, backend="aot_eager")(q)
    torch.testing.assert_close(torch.autograd.grad(found, q), (expected,), rtol=1e-6, atol=1e-6)


def test_compiled_code_checks_its_arguments(op: Op) -> None:
    given = inputs()
    torch._dynamo.reset()
    compiled = torch.compile(lambda g: called(op, g), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="k: expected shape"):
        compiled({**given, "k": given["k"][..., :3]})


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_dynamic_sizes(op: Op, strict: bool, tmp_path: Path) -> None:
    layer = Layer(op).eval()
    n, m = torch.export.Dim("n", min=2, max=512), torch.export.Dim("m", min=2, max=512)
    given = inputs(16, 20)
    args = (given["q"], given["k"], given["v"], given["keep"])
    with torch.no_grad():
        exported = torch.export.export(layer, args, dynamic_shapes=({2: n}, {2: m}, {2: m}, {1: m}), strict=strict)
        torch.export.save(exported, tmp_path / "layer.pt2")
        loaded = torch.export.load(tmp_path / "layer.pt2").module()
        given = inputs(30, 40)
        args = (given["q"], given["k"], given["v"], given["keep"])
        torch.testing.assert_close(loaded(*args), layer(*args), rtol=0, atol=0)


def test_the_gpu_path_is_traced_with_fake_tensors() -> None:
    op = attnc.compile(source=WINDOW, backend="triton")
    with FakeTensorMode():
        given = {n: torch.empty_like(x, device="cuda") for n, x in inputs(dtype=torch.float16).items()}
        out, aux = called(op, given, return_aux=True)
        assert (out.shape, out.device.type, out.stride()) == ((2, 4, 10, 6), "cuda", (240, 60, 6, 1))
        assert (aux.lse.shape, aux.lse.dtype) == ((2, 4, 10), torch.float32)
        with pytest.raises(attnc.CallError, match="k: expected the device of q, cuda:0, got cpu"):
            called(op, {**given, "k": given["k"].cpu()})


def test_the_gpu_path_is_traced_into_a_graph() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    op = attnc.compile(source=WINDOW, backend="triton")
    with FakeTensorMode(), torch.no_grad():
        given = {n: torch.empty_like(x, device="cuda") for n, x in inputs(dtype=torch.bfloat16).items()}
        graph = make_fx(lambda g: called(op, g))(given)
    assert [node.name for node in graph.graph.nodes if node.op == "call_function"] == [op.name]


def test_meta_tensors_give_the_shape(op: Op) -> None:
    out = called(op, {name: tensor.to("meta") for name, tensor in inputs().items()})
    assert (out.shape, out.device.type) == ((2, 4, 10, 6), "meta")


# -- autograd and torch.func -----------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_meaning(op: Op) -> None:
    given = inputs(3, 4, torch.float64, b=1, h=2, hk=1)  # gradcheck calls the op twice per element
    for name in ("q", "k", "v", "slope"):
        given[name].requires_grad_()

    def both(q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        out, aux = called(op, {**given, "q": q, "k": k, "v": v, "slope": slope}, q_offset="end", return_aux=True)
        return out, torch.where(aux.lse.isfinite(), aux.lse, 0.0)

    assert torch.autograd.gradcheck(both, tuple(given[name] for name in ("q", "k", "v", "slope")))


def test_a_gradient_of_a_gradient_is_refused(op: Op) -> None:
    given = inputs()
    given["q"].requires_grad_()
    (gradient,) = torch.autograd.grad(called(op, given).square().sum(), given["q"], create_graph=True)
    with pytest.raises(attnc.CallError, match="gradient of a gradient"):
        gradient.sum().backward()


def test_functional_gradients(op: Op) -> None:
    given = inputs()

    def loss(q: Tensor) -> Tensor:
        return called(op, {**given, "q": q}).square().sum()

    q = given["q"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(q), q)
    torch.testing.assert_close(torch.func.grad(loss)(given["q"]), expected, rtol=0, atol=0)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(loss, (given["q"],), (given["q"],))


def test_inference_tensors(op: Op) -> None:
    with torch.inference_mode():
        given = inputs()
        expected = called(op, given)
    with torch.no_grad():
        torch.testing.assert_close(called(op, given), expected, rtol=0, atol=0)
    q = given["q"].clone().requires_grad_()
    with pytest.raises(attnc.CallError, match=r"k, v, slope, keep: made under inference_mode"):
        called(op, {**given, "q": q})


def test_tensors_that_alias(op: Op) -> None:
    given = inputs(9, 9, h=2)
    given["v"] = given["k"]
    expected = called(op, {name: tensor.clone() for name, tensor in given.items()})
    torch.testing.assert_close(called(op, given), expected, rtol=0, atol=0)


def test_activation_checkpointing(op: Op) -> None:
    given = inputs()
    q = given["q"].requires_grad_()
    (expected,) = torch.autograd.grad(called(op, given).square().sum(), q)
    found: Any = checkpoint(lambda x: called(op, {**given, "q": x}), q, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), q), (expected,), rtol=0, atol=0)


# -- vmap ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapped", [("q",), ("q", "k", "v"), ("keep",), ("slope", "q"), ("slope",)])
@pytest.mark.parametrize("where", [0, -1])
def test_vmap(op: Op, mapped: tuple[str, ...], where: int) -> None:
    samples = [inputs(7, 9) for _ in range(3)]
    for n, sample in enumerate(samples):
        sample.update({name: _moved(tensor, n) for name, tensor in sample.items()})
    first = samples[0]
    stacked = [torch.stack([sample[name] for sample in samples], dim=where) for name in mapped]

    def one(*tensors: Tensor) -> Any:
        out, aux = called(op, {**first, **dict(zip(mapped, tensors, strict=True))}, return_aux=True)
        return out, aux.lse

    found = torch.vmap(one, in_dims=where)(*stacked)
    each = [one(*(sample[name] for name in mapped)) for sample in samples]
    for n, expected in enumerate(zip(*each, strict=True)):
        torch.testing.assert_close(found[n], torch.stack(expected), rtol=1e-6, atol=1e-6)


def _moved(tensor: Tensor, by: int) -> Tensor:
    return tensor.roll(by, -1)


@pytest.mark.parametrize("leaf", ["q", "slope"])
def test_gradients_per_sample(op: Op, leaf: str) -> None:
    given = inputs(7, 9)
    queries = torch.stack([given["q"], given["q"] + 1, -given["q"]])

    def loss(tensor: Tensor, q: Tensor) -> Tensor:
        return called(op, {**given, "q": q, leaf: tensor}).square().sum()

    def of(tensor: Tensor, q: Tensor) -> Tensor:
        return torch.func.grad(loss)(q if leaf == "q" else tensor, q)

    found = torch.vmap(of, in_dims=(None, 0))(given[leaf], queries)
    torch.testing.assert_close(found, torch.stack([of(given[leaf], q) for q in queries]), rtol=1e-5, atol=1e-5)


def test_vmap_where_the_batch_is_read() -> None:
    op = attnc.compile(source="attention own(t: real[H]) { bias t[h] * b * (i - j) }", backend="torch")
    q, t = torch.randn(3, 2, 2, 5, 4), torch.rand(2)
    found = torch.vmap(lambda x: op(x, x, x, t=t))(q)
    torch.testing.assert_close(found, torch.stack([op(x, x, x, t=t) for x in q]), rtol=0, atol=0)


# -- autocast --------------------------------------------------------------------------------------------------------


def test_autocast_casts_tokens_and_leaves_tables(op: Op) -> None:
    given = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = called(op, given)
    low = {name: tensor.bfloat16() if tensor.dim() == 4 else tensor for name, tensor in given.items()}
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, called(op, low), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert called(op, inputs(dtype=torch.float64)).dtype == torch.float64


def test_autocast_gives_gradients_in_the_dtype_of_the_leaves(op: Op) -> None:
    given = inputs()
    q = given["q"].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (gradient,) = torch.autograd.grad(called(op, given).sum(), q)
    assert gradient.dtype == torch.float32


# -- copies ----------------------------------------------------------------------------------------------------------


def test_copies_and_pickles_are_made_by_the_text(tmp_path: Path) -> None:
    (tmp_path / "part.attn").write_text("mask near = i - j < 3 and j <= i\n", encoding="utf-8")
    whole = tmp_path / "whole.attn"
    whole.write_text('import "./part.attn" (near)\nattention whole { mask near }\n', encoding="utf-8")
    slope = torch.rand(4)
    ops = [attnc.compile(whole), attnc.compile("std:alibi", tensors={"slope": slope}), attnc.compile(source=WINDOW)]
    data = pickle.dumps(ops)
    for path in tmp_path.iterdir():
        path.unlink()
    q = torch.randn(1, 4, 9, 8)
    for again in (pickle.loads(data), copy.deepcopy(ops)):  # noqa: S301  # written two lines above
        assert [op.name for op in again] == [op.name for op in ops]
        torch.testing.assert_close(again[1](q, q, q), ops[1](q, q, q), rtol=0, atol=0)


def test_a_copy_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "op.pickle"
    op = attnc.compile("std:sliding_window", params={"size": 3})
    path.write_bytes(pickle.dumps(op))
    code = f"import pickle; print(pickle.load(open({str(path)!r}, 'rb')).name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == op.name


def test_calls_like_an_earlier_one_differ_in_values_and_addresses_only() -> None:
    op = attnc.compile("std:sliding_window", params={"size": 5}, backend="cpp")
    random = torch.Generator().manual_seed(0)
    for shape, scale in [((1, 2, 9, 8), None), ((1, 2, 9, 8), None), ((1, 2, 9, 8), 0.5), ((2, 2, 7, 8), None)] * 2:
        q, k, v = torch.randn((3, *shape), generator=random)
        exact = op.reference(q, k, v, scale=scale, q_offset=1)
        torch.testing.assert_close(op(q, k, v, scale=scale, q_offset=1).double(), exact, rtol=1e-5, atol=1e-5)
        spread = q.transpose(1, 2).contiguous().transpose(1, 2)
        torch.testing.assert_close(op(spread, k, v, scale=scale, q_offset=1).double(), exact, rtol=1e-5, atol=1e-5)


def test_a_call_like_an_earlier_one_is_still_checked() -> None:
    op = attnc.compile("std:causal", backend="cpp")
    q = torch.zeros(1, 1, 4, 8)
    starts = torch.tensor([0, 4])
    op(q, q, q, cu_seqlens=starts)
    with pytest.raises(attnc.CallError, match="cu_seqlens"):
        op(q, q, q, cu_seqlens=torch.tensor([0, 5]))
    op(q, q, q, q_offset=torch.tensor([3]))
    with pytest.raises(attnc.CallError, match="q_offset"):
        op(q, q, q, q_offset=torch.tensor([2**31 - 2]))
    op(q, q, q)
    with pytest.raises(attnc.CallError, match="dtype"):
        op(q, q.half(), q)

"""eager: what each builtin, look-up, grid coordinate and quantifier means on tensors, and its gradient."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attnc.diagnostics import CallError, InternalError
from attnc.eager import FUNCTIONS, Env, evaluate, guarded
from attnc.ir.builtins import BUILTINS
from attnc.ir.expr import Call as Node
from attnc.ir.expr import (
    Const,
    Exists,
    Expr,
    GridCoord,
    Index,
    Lookup,
    Param,
    Reduce,
    Ref,
    Size,
    Value,
    Var,
    int_const,
    real_const,
)
from attnc.ir.module import Grid
from attnc.ir.types import BOOL, INT, REAL, Type, VectorType

VECTOR = VectorType(Size("D"))
Q, K = Value("q", VECTOR), Value("k", VECTOR)
ROW, COL = Index("i"), Index("j")
B, H, N, M, D = 2, 4, 5, 7, 6


def call(fn: str, *args: Expr, type: Type = REAL) -> Node:
    return Node(fn, args, type)


@pytest.fixture
def env() -> Env:
    return Env(
        indices={
            "b": torch.arange(B).view(B, 1, 1, 1),
            "h": torch.arange(H).view(1, H, 1, 1),
            "i": torch.arange(N).view(1, 1, N, 1) + 10,
            "j": torch.arange(M).view(1, 1, 1, M) + 20,
        },
        sizes={"B": B, "H": H, "N": N, "M": M, "D": D},
        values={
            "q": torch.randn(B, H, N, 1, D, dtype=torch.float64),
            "k": torch.randn(B, H, 1, M, D, dtype=torch.float64),
            "q_offset": torch.tensor(10),
            "k_offset": torch.tensor(20),
        },
    )


def test_every_builtin_has_a_meaning() -> None:
    assert FUNCTIONS.keys() == BUILTINS.keys()


# ------------------------------------------------------------------------------------- functions

X, Y = real_const(0.7), real_const(-1.3)
NUMBERS: list[tuple[Node, float | int | bool]] = [
    (call("add", X, Y), 0.7 + -1.3),
    (call("sub", X, Y), 0.7 - -1.3),
    (call("mul", X, Y), 0.7 * -1.3),
    (call("div", int_const(3), int_const(4)), 0.75),
    (call("floordiv", int_const(-7), int_const(2), type=INT), -4),
    (call("mod", int_const(-7), int_const(3), type=INT), 2),
    (call("bitand", int_const(12), int_const(10), type=INT), 8),
    (call("pow", int_const(3), int_const(4), type=INT), 81),
    (call("pow", X, Y), 0.7**-1.3),
    (call("neg", int_const(3), type=INT), -3),
    (call("lt", int_const(1), X, type=BOOL), False),
    (call("le", X, X, type=BOOL), True),
    (call("gt", int_const(1), X, type=BOOL), True),
    (call("ge", int_const(2), int_const(3), type=BOOL), False),
    (call("eq", int_const(2), real_const(2.0), type=BOOL), True),
    (call("ne", int_const(2), int_const(2), type=BOOL), False),
    (call("and", Const(True, BOOL), Const(False, BOOL), type=BOOL), False),
    (call("or", Const(True, BOOL), Const(False, BOOL), type=BOOL), True),
    (call("not", Const(True, BOOL), type=BOOL), False),
    (call("where", Const(False, BOOL), int_const(1), X), 0.7),
    (call("where", Const(True, BOOL), int_const(1), int_const(2), type=INT), 1),
    (call("min", int_const(1), X), 0.7),
    (call("max", int_const(1), int_const(4), type=INT), 4),
    (call("abs", Y), 1.3),
    (call("sign", Y), -1.0),
    (call("floor", Y), -2.0),
    (call("real", int_const(3)), 3.0),
    (call("int", Y, type=INT), -2),
    (call("bit_length", int_const(-5), type=INT), 3),
    (call("exp", X), math.exp(0.7)),
    (call("exp2", X), 2**0.7),
    (call("log", X), math.log(0.7)),
    (call("log2", X), math.log2(0.7)),
    (call("log1p", X), math.log1p(0.7)),
    (call("sqrt", X), math.sqrt(0.7)),
    (call("sin", X), math.sin(0.7)),
    (call("cos", X), math.cos(0.7)),
    (call("tanh", X), math.tanh(0.7)),
    (call("sigmoid", X), 1 / (1 + math.exp(-0.7))),
    (call("softplus", X), math.log1p(math.exp(0.7))),
    (call("softplus", real_const(30.0)), 30 + math.log1p(math.exp(-30))),
    (call("relu", Y), 0.0),
    (call("relu", int_const(4), type=INT), 4),
    (call("elu", Y), math.expm1(-1.3)),
    (call("elu", X), 0.7),
]


@pytest.mark.parametrize(("node", "expected"), NUMBERS, ids=lambda value: getattr(value, "fn", ""))
def test_scalar_builtin(node: Node, expected: float | int | bool) -> None:
    result = evaluate(node, Env())
    kind = {bool: torch.bool, int: torch.int64, float: torch.float64}[type(expected)]
    assert result.dtype == kind
    assert result.item() == pytest.approx(expected, rel=1e-15)


def test_every_scalar_builtin_is_tried() -> None:
    special = {"dot", "normalize", "concat", "rope", "in_grid"}
    assert {node.fn for node, _ in NUMBERS} == BUILTINS.keys() - special


@given(st.integers(-(2**62), 2**62), st.integers(-(2**40), 2**40).filter(bool))
def test_integers_are_those_of_python(x: int, y: int) -> None:
    a, b = int_const(x), int_const(y)
    assert evaluate(call("floordiv", a, b, type=INT), Env()).item() == x // y
    assert evaluate(call("mod", a, b, type=INT), Env()).item() == x % y
    assert evaluate(call("bit_length", a, type=INT), Env()).item() == abs(x).bit_length()


def test_literals_follow_the_dtype() -> None:
    assert evaluate(call("add", int_const(1), X), Env(dtype=torch.float32)).dtype == torch.float32


# --------------------------------------------------------------------------------------- vectors


def test_dot_of_query_and_key_is_per_pair(env: Env) -> None:
    q, k = env.values["q"], env.values["k"]
    torch.testing.assert_close(evaluate(call("dot", Q, K), env), (q * k).sum(-1))
    torch.testing.assert_close(evaluate(call("dot", Q, Q), env), (q * q).sum(-1))


def test_dot_with_a_vector_per_pair(env: Env) -> None:
    table = torch.randn(H, 12, D, dtype=torch.float64)
    row = Lookup("r", (Index("h"), call("sub", ROW, COL, type=INT)), VECTOR)
    env = replace(env, tensors={"r": table}, dims={"r": (Size("H"), int_const(12), Size("D"))})
    found = evaluate(call("dot", Q, row), env)
    near = table[:, (torch.arange(N)[:, None] - torch.arange(M) - 10).clamp(0, 11)]
    torch.testing.assert_close(found, torch.einsum("bhnd,hnmd->bhnm", env.values["q"].squeeze(3), near))


def test_scalars_meet_vectors_feature_by_feature(env: Env) -> None:
    scaled = evaluate(call("mul", call("add", ROW, COL, type=INT), K, type=VECTOR), env)
    expected = (env.indices["i"] + env.indices["j"]).unsqueeze(-1) * env.values["k"]
    torch.testing.assert_close(scaled, expected)
    chosen = evaluate(call("where", call("lt", ROW, int_const(12), type=BOOL), Q, real_const(0.0), type=VECTOR), env)
    assert chosen.shape == (B, H, N, 1, D)
    assert chosen[:, :, 2:].eq(0).all()


def test_normalize_divides_by_the_norm_or_eps(env: Env) -> None:
    env.values["q"].data[0, 0, 0] = 0
    result = evaluate(call("normalize", Q, real_const(1e-6), type=VECTOR), env)
    assert result[0, 0, 0].eq(0).all()
    torch.testing.assert_close(result[1].norm(dim=-1), torch.ones(H, N, 1, dtype=torch.float64))


def test_concat_broadcasts(env: Env) -> None:
    vector = Lookup("u", (Index("h"),), VectorType(int_const(2)))
    env = replace(env, tensors={"u": torch.randn(H, 2)}, dims={"u": (Size("H"), int_const(2))})
    joined = evaluate(call("concat", Q, vector, type=VectorType(int_const(8))), env)
    assert joined.shape == (B, H, N, 1, 8)
    torch.testing.assert_close(joined[1, :, 3, 0, 6:], env.tensors["u"].double())


@pytest.mark.parametrize("op", ["max", "min", "sum", "mean", "count"])
def test_reduction_over_features(env: Env, op: str) -> None:
    found = evaluate(Reduce(op, "d", Q, None, REAL), env)  # pyright: ignore[reportArgumentType]
    q = env.values["q"]
    expected = {"max": q.amax(-1), "min": q.amin(-1), "sum": q.sum(-1), "mean": q.mean(-1), "count": torch.tensor(D)}
    torch.testing.assert_close(found, expected[op])


def _rotated(x: Tensor, angle: float) -> Tensor:
    """(x0, x1) times e^(i angle)."""
    z = complex(*x.tolist()) * cmath.exp(1j * angle)
    return torch.tensor([z.real, z.imag], dtype=torch.float64)


@pytest.mark.parametrize(("start", "dims", "interleaved"), [(0, 6, False), (0, 6, True), (2, 4, False), (1, 2, True)])
def test_rope_turns_pairs(env: Env, start: int, dims: int, interleaved: bool) -> None:
    flags = (real_const(100.0), int_const(start), int_const(dims), Const(interleaved, BOOL))
    found = evaluate(call("rope", Q, ROW, *flags, type=VECTOR), env)
    expected = env.values["q"].clone()
    for pair in range(dims // 2):
        at = [2 * pair, 2 * pair + 1] if interleaved else [pair, pair + dims // 2]
        at = [start + n for n in at]
        for row in range(N):
            angle = (row + 10) * 100.0 ** (-2 * pair / dims)
            expected[0, 0, row, 0, at] = _rotated(env.values["q"][0, 0, row, 0, at], angle)
    torch.testing.assert_close(found[0, 0], expected[0, 0])


def test_rope_depends_on_the_distance_only(env: Env) -> None:
    def score(shift: int) -> Tensor:
        i, j = (call("add", index, int_const(shift), type=INT) for index in (ROW, COL))
        turned = [call("rope", x, p, real_const(1e4), int_const(0), int_const(D), Const(False, BOOL), type=VECTOR)
                  for x, p in ((Q, i), (K, j))]  # fmt: skip
        return evaluate(call("dot", *turned), env)

    torch.testing.assert_close(score(0), score(1_000_003), rtol=0, atol=1e-8)


# ------------------------------------------------------------------- positions, look-ups, quantifier


def _seg_env(env: Env, relative: bool = False) -> Env:
    seg = torch.arange(B * M).view(B, M)
    return replace(env, tensors={"seg": seg}, dims={"seg": (Size("B"), Size("M"))}, relative=relative)


def test_lookup_reads_positions_relative_to_the_offset(env: Env) -> None:
    found = evaluate(Lookup("seg", (Index("b"), COL), INT), _seg_env(env))
    assert found.shape == (B, 1, 1, M)
    assert found.flatten().tolist() == list(range(B * M))


def test_lookup_clamps(env: Env) -> None:
    found = evaluate(Lookup("seg", (Index("b"), ROW), INT), _seg_env(env))  # i - 20 < 0
    assert found.shape == (B, 1, N, 1)
    assert found[1].eq(M).all()


def test_lookup_by_rows_in_a_plan(env: Env) -> None:
    env = replace(_seg_env(env, relative=True), indices={**env.indices, "c": torch.arange(M)})
    assert evaluate(Lookup("seg", (Index("b"), Index("c")), INT), env)[1].flatten().tolist() == list(range(M, 2 * M))


def test_lookup_of_other_dimensions_ignores_the_offset(env: Env) -> None:
    env = replace(env, tensors={"t": torch.arange(40)}, dims={"t": (call("mul", Size("N"), int_const(8), type=INT),)})
    assert evaluate(Lookup("t", (COL,), INT), env).flatten().tolist() == list(range(20, 27))


def test_lookup_in_nothing_is_zero(env: Env) -> None:
    env = replace(env, tensors={"seg": torch.zeros(B, 0)}, dims={"seg": (Size("B"), Size("M"))})
    assert evaluate(Lookup("seg", (Index("b"), ROW), REAL), env).eq(0).all()


def test_lookup_converts_reals(env: Env) -> None:
    env = replace(env, tensors={"slope": torch.ones(H)}, dims={"slope": (Size("H"),)})
    assert evaluate(Lookup("slope", (Index("h"),), REAL), env).dtype == torch.float64


GRID = Grid(("t", "y", "x"), (Param("frames", INT), int_const(3), int_const(4)), int_const(12))


def test_grid_coordinates_are_row_major(env: Env) -> None:
    env = replace(env, grids={"k": GRID}, params={"frames": 2}, indices={"j": torch.arange(60).view(1, 1, 1, 60)})
    t, y, x = (evaluate(GridCoord("k", axis), env).flatten() for axis in range(3))
    p = torch.arange(60) - 12
    assert torch.equal(12 * t + 4 * y + x, p)
    assert y.min() == 0
    assert y.max() == 2
    assert x.max() == 3
    assert t.tolist()[:12] == [-1] * 12  # the slowest axis does not wrap
    assert t.max() == 3
    inside = evaluate(call("in_grid", Index("j"), type=BOOL), env).flatten()
    assert torch.equal(inside, (p >= 0) & (p < 24))


def test_exists_tries_the_values_below_high(env: Env) -> None:
    square = call("mul", Var("d"), Var("d"), type=INT)
    far = call("eq", call("sub", COL, ROW, type=INT), square, type=BOOL)
    found = evaluate(Exists("d", int_const(2), int_const(4), far), env)
    distance = env.indices["j"] - env.indices["i"]
    assert torch.equal(found, (distance == 4) | (distance == 9))
    assert not evaluate(Exists("d", int_const(4), int_const(4), far), env)


def test_parameters_and_refs(env: Env) -> None:
    env = replace(env, params={"x": 2, "t": torch.tensor(0.5)}, refs={"m": torch.tensor(1.0)})
    assert evaluate(call("add", Param("x", REAL), Ref("m", REAL)), env).item() == 3.0
    assert evaluate(Param("t", REAL), env).dtype == torch.float64


def test_reductions_over_keys_need_a_caller_that_can(env: Env) -> None:
    with pytest.raises(InternalError, match="reduction over j"):
        evaluate(Reduce("sum", "j", X, None, REAL), env)


# ------------------------------------------------------------------------------------- gradients


def _grad(fn: Callable[[Tensor], Tensor], at: float) -> float:
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    fn(x).backward()
    assert x.grad is not None
    return x.grad.item()


@pytest.mark.parametrize("name", ["log", "sqrt", "log1p", "exp", "div", "pow"])
def test_a_branch_that_is_not_taken_sends_no_gradient(name: str) -> None:
    p = Param("x", REAL)
    args = {"div": (real_const(1.0), p), "pow": (p, real_const(-0.5))}.get(name, (p,))
    at = {"log1p": -1.0, "exp": 1e4}.get(name, 0.0)
    node = call("where", Const(False, BOOL), call(name, *args), call("mul", real_const(3.0), p))
    assert _grad(lambda x: evaluate(node, Env(params={"x": x})), at) == 3.0


def test_gradients_are_those_of_torch_elsewhere() -> None:
    x = torch.rand(3, 1, dtype=torch.float64, requires_grad=True)
    y = torch.rand(1, 4, dtype=torch.float64, requires_grad=True)
    for fn in (torch.div, torch.mul, torch.pow, torch.maximum):
        assert torch.autograd.gradcheck(lambda a, b, fn=fn: guarded(fn, a, b), (x, y))
    assert torch.autograd.gradcheck(lambda a: guarded(FUNCTIONS["elu"], a - 0.5), (x,))
    assert torch.autograd.gradcheck(lambda a: guarded(FUNCTIONS["softplus"], a - 0.5), (x,))


def test_second_derivatives_are_refused() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    with pytest.raises(CallError, match="second derivatives"):
        torch.autograd.grad(guarded(torch.log, x), x, create_graph=True)

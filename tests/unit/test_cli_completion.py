"""attnc completion: the scripts, and what a shell that runs them is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from attnc.cli import VERBS, main
from attnc.driver import stdlib_names

ROOT = Path(__file__).resolve().parents[2]


def completed(line: str, shell: str = "bash") -> list[str]:
    """What is offered for the end of a line, as a shell's script asks for it."""
    env = {"_ATTNC_COMPLETE": f"{shell}_complete", "COMP_LINE": line, "COMP_WORDS": line}
    words = line.split() + [""] * line.endswith(" ")
    env["COMP_CWORD"] = words[-1] if shell == "fish" else str(len(words) - 1)
    result = CliRunner().invoke(main, [], env=env, prog_name="attnc")
    assert result.exit_code == 0, result.output
    assert not result.stderr
    lines = result.stdout.strip("\n").splitlines()
    if shell == "zsh":
        return [value.replace(r"\:", ":") for value in lines[1::3]]
    return [value.partition(",")[2].partition("\t")[0] for value in lines]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with specs, made the current one."""
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("one.attn", "two.attn", "other.txt", "deep/three.attn", "with space.attn"):
        (tmp_path / name).write_text("attention a(size: int, near: real dynamic = 1) { mask j <= i + size }\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_completes_verbs_options_and_specs(shell: str, folder: Path) -> None:
    assert completed("attnc ", shell) == list(VERBS)
    assert completed("attnc ver", shell) == ["verify"]
    assert "--backend" in completed("attnc verify --b", shell)
    assert completed("attnc check std:sliding_w", shell) == ["std:sliding_window"]
    assert completed("attnc check o", shell) == ["one.attn"]
    assert completed("attnc explain std:causal --target cuda:9", shell) == ["cuda:90"]


def test_specs_are_the_standard_library_attn_files_and_directories(folder: Path) -> None:
    names = [f"std:{name}" for name in stdlib_names()]
    assert completed("attnc run ") == [*names, "deep/", "one.attn", "two.attn", "with space.attn"]
    assert completed("attnc run std:") == names
    assert completed("attnc run deep/") == ["deep/three.attn"]
    assert completed(f"attnc run {folder}/deep/t") == [f"{folder}/deep/three.attn"]
    assert completed("attnc run .h") == [".hidden/"]
    assert completed("attnc run nowhere/") == []
    assert completed("attnc run ~nobody_there/") == []
    assert completed("attnc check one.attn two.attn de") == ["deep/"]


def test_option_values_are_completed(folder: Path) -> None:
    assert completed("attnc verify std:causal --backend ") == ["torch", "interpret", "cpp", "all"]
    assert completed("attnc compile std:causal --target=hip:gfx94") == ["hip:gfx942"]
    assert completed("attnc run std:sliding_window --param ") == ["size="]
    assert completed("attnc verify one.attn std:t5 --param ") == ["size=", "near=", "causal="]
    assert completed("attnc run one.attn --attention ") == ["a"]
    assert completed("attnc run missing.attn --attention ") == []
    assert completed("attnc completion ") == ["bash", "zsh", "fish"]


@pytest.mark.parametrize("line", ["attnc nonsense ", "attnc", "", "attnc check 'std:ca", "attnc --version check "])
def test_odd_lines_are_no_errors(line: str) -> None:
    completed(line)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_is_printed(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_ATTNC_COMPLETE={shell}_complete" in result.stdout
    assert not result.stderr
    assert CliRunner().invoke(main, ["completion", "tcsh"]).exit_code == 2


def test_completing_loads_no_slow_library() -> None:
    env = {**os.environ, "_ATTNC_COMPLETE": "bash_complete", "COMP_LINE": "attnc run std:alibi --param "}
    code = (
        "import atexit, sys; from attnc.cli import main\n"
        "atexit.register(lambda: sys.stderr.write(str(sorted(set(sys.modules) & {'torch', 'islpy', 'sympy'}))))\n"
        "main(prog_name='attnc')"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "[]"


# -- in bash itself ---------------------------------------------------------------------------------------------------

_BASH = r"""
eval "$(attnc completion bash)"
COMP_LINE="$1"; COMP_POINT=${#COMP_LINE}
_attnc_completion attnc 2>/dev/null
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine; runs where there is one")
@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("attnc veri", ["verify"]),
        ("attnc check std:sliding_w", ["sliding_window"]),  # bash replaces what stands behind the colon
        ("attnc check st", [f"std:{name}" for name in stdlib_names()]),
        ("attnc explain std:causal --target cuda:9", ["90"]),
        ("attnc explain std:causal --target=cuda:9", ["90"]),
        ("attnc explain std:causal --target=cu", ["cuda:"]),
        ("attnc run on", ["one.attn"]),
        ("attnc run wi", [r"with\ space.attn"]),
        ("attnc run nothing_like_this", [""]),
    ],
)
def test_bash_script_gives_readline_what_it_needs(line: str, replies: list[str], folder: Path) -> None:
    bin_ = folder / ".bin"
    bin_.mkdir()
    program = "from attnc.cli import main; main(prog_name='attnc')"
    (bin_ / "attnc").write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{program}" "$@"\n')
    (bin_ / "attnc").chmod(0o755)
    env = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", _BASH, "bash", line], env=env, capture_output=True, text=True, check=True)
    assert not done.stderr
    found = done.stdout.splitlines()
    assert all(reply.startswith("cuda:") for reply in found) if replies == ["cuda:"] else found == replies

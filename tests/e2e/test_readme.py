"""README.md shows what is: its spec is the example's, and its code prints what stands below it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _blocks(text: str) -> list[re.Match[str]]:
    return list(re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


def test_readme_spec_is_the_example_without_comments() -> None:
    shown = _blocks((ROOT / "README.md").read_text(encoding="utf-8"))[0][2]
    lines = (ROOT / "examples" / "newsroom.attn").read_text(encoding="utf-8").splitlines()
    assert [line for line in shown.splitlines() if line] == [line for line in lines if line and line[0] != "#"]


def test_readme_output_is_what_the_code_prints(golden) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code, output = _blocks(text)[1:3]
    assert code[1] == "python"
    done = subprocess.run([sys.executable, "-c", code[2]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    golden(ROOT / "README.md", text[: output.start(2)] + done.stdout + text[output.end(2) :])

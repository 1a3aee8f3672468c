"""attnc.cli: what each verb prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import attnc.driver
from attnc.cli import VERBS, main
from attnc.cli.files import write_whole
from attnc.cli.output import painted, table
from attnc.diagnostics import SpecError

ROOT = Path(__file__).resolve().parents[2]
CAUSAL = "attention causal {\n  mask j <= i\n}\n"
WINDOW = """\
## The last few keys.
attention window(size: int, slope: real[H], near: int dynamic = 2) {
  mask 0 <= i - j < size
  bias where(i - j < near, 0.0, -slope[h])
  normalizer softmax
  aux  lse
}
"""
TWO = "attention past { mask j <= i }\nattention rest { mask i <= j }\n"
UGLY = "attention a{\n# kept\nmask j<=i   # why\n}"
BROKEN = "attention a {\n  mask casual\n  score dot(q, k) * foo\n}\n"


def attnc_(*args: str, text: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, list(args), input=text, prog_name="attnc")


@pytest.fixture
def spec(tmp_path: Path) -> Callable[[str], str]:
    """Writes a spec and returns its path."""

    def write(text: str, name: str = "spec.attn") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def good(*args: str, text: str | bytes | None = None) -> str:
    """What goes to stdout when all is well."""
    result = attnc_(*args, text=text)
    assert result.exit_code == 0, result.output
    return result.stdout


def bad(*args: str, text: str | bytes | None = None, code: int = 1) -> str:
    """What goes to stderr when the command fails; never a traceback."""
    result = attnc_(*args, text=text)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stderr


# ------------------------------------------------------------------------------------- all verbs


def test_help_names_every_verb() -> None:
    text = good("--help")
    assert all(re.search(rf"^  {verb} ", text, re.MULTILINE) for verb in VERBS)
    assert "attnc completion --help" in text
    assert all("Usage: attnc" in good(verb, "--help") for verb in VERBS)


def test_version() -> None:
    assert good("--version") == f"attnc {attnc.__version__}\n"


def test_unknown_verb_is_a_usage_error_with_a_suggestion() -> None:
    assert "did you mean `compile`?" in bad("compil", code=2)
    assert "there are check, fmt" in bad("xyz", code=2)


@pytest.mark.parametrize("verb", ["explain", "compile"])
def test_unknown_spec_gets_a_suggestion(verb: str) -> None:
    rest = ["--n", "8"] if verb == "explain" else ["--stop-after", "typed"]
    assert "did you mean `sliding_window`?" in bad(verb, "std:sliding_windw", *rest)
    assert "`std:causal`" in bad(verb, "causal", *rest)


@pytest.mark.parametrize("given", ["size", "=3", "size=", "size=four"])
def test_parameter_that_is_no_number_is_a_usage_error(given: str) -> None:
    assert "--param" in bad("explain", "std:sliding_window", "--n", "8", "--param", given, code=2)


def test_wrong_parameters_are_errors_of_the_input() -> None:
    missing = bad("explain", "std:prefix_lm", "--n", "8", "--param", "prefx=3")
    assert "has no static parameter `prefx`" in missing
    assert "here: `--param length=...`" in bad("explain", "std:neighborhood_1d", "--n", "8")


def test_attention_of_several_is_chosen_by_name(spec: Callable[[str], str]) -> None:
    path = spec(TWO)
    assert "holds several attentions" in bad("explain", path, "--n", "8")
    assert good("explain", path, "--n", "8", "--attention", "rest").startswith("rest: N = 8")
    assert "did you mean `past`?" in bad("explain", path, "--n", "8", "--attention", "pasd")


def test_standard_input_is_a_spec() -> None:
    assert good("explain", "-", "--n", "8", text=CAUSAL).startswith("causal: N = 8")
    assert "<stdin>:2:8" in bad("explain", "-", "--n", "8", text=BROKEN)
    assert "not UTF-8" in bad("check", "-", text=b"attention \xff")


def test_internal_error_asks_for_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("wheel fell off")

    monkeypatch.setattr(attnc.driver, "check", fail)
    message = bad("check", "std:causal", code=3)
    assert "wheel fell off" in message
    assert "report" in message
    shown = attnc_("--debug", "check", "std:causal")
    assert shown.exit_code == 3
    assert "Traceback" in shown.stderr


def test_warnings_go_to_stderr(spec: Callable[[str], str]) -> None:
    path = spec("attention a(size: int = 3) { mask j <= i }")
    result = attnc_("explain", path, "--n", "8", "--json")
    assert "size" in result.stderr
    assert json.loads(result.stdout)["name"] == "a"


def test_colors_only_where_asked_for() -> None:
    with pytest.raises(SpecError) as error:
        attnc.driver.check(attnc.driver.load_spec("x.attn", BROKEN))
    text = painted(error.value.diagnostics[0])
    assert "\x1b[" in text
    assert "\x1b[" not in bad("check", "-", text=BROKEN)
    colored = CliRunner().invoke(main, ["explain", "-", "--n", "8"], input=BROKEN, color=True)
    plain = CliRunner(env={"NO_COLOR": "1"}).invoke(main, ["explain", "-", "--n", "8"], input=BROKEN, color=True)
    assert "\x1b[" in colored.stderr
    assert "\x1b[" not in plain.stderr
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored.stderr) == plain.stderr


def test_table_aligns_columns() -> None:
    assert table([("a", "bb"), ("ccc", 1)], right=(1,)) == "a    bb\nccc   1"


# ----------------------------------------------------------------------------------------- check


def test_check_right_files(spec: Callable[[str], str]) -> None:
    result = attnc_("check", spec(CAUSAL), "std:alibi")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "2 files checked: no problems\n"


def test_check_shows_all_mistakes_of_all_files(spec: Callable[[str], str]) -> None:
    path = spec(BROKEN)
    result = attnc_("check", path, "absent.attn")
    assert result.exit_code == 1
    assert f" --> {path}:2:8\n" in result.stdout
    assert "did you mean `causal`?" in result.stdout
    assert "`foo`" in result.stdout
    assert "absent.attn" in result.stdout
    assert result.stderr == "2 files checked: 3 errors\n"


def test_check_warnings_alone_are_fine(spec: Callable[[str], str]) -> None:
    result = attnc_("check", spec("attention a(size: int = 3) { mask j <= i }"))
    assert result.exit_code == 0
    assert "warning[W" in result.stdout
    assert result.stderr == "1 file checked: 1 warning\n"


def test_check_json(spec: Callable[[str], str]) -> None:
    path = spec(BROKEN)
    result = attnc_("check", "--json", path)
    data = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (data["version"], data["files"], data["errors"]) == (1, 1, 2)
    first = data["diagnostics"][0]
    assert (first["code"], first["line"], first["column"], first["file"]) == ("E201", 2, 8, path)
    assert json.loads(good("check", "--json", "std:causal"))["diagnostics"] == []


def test_check_needs_a_file() -> None:
    bad("check", code=2)


# ------------------------------------------------------------------------------------------- fmt


def test_fmt_in_place_keeps_mode_and_comments(spec: Callable[[str], str]) -> None:
    path = Path(spec(UGLY))
    path.chmod(0o640)
    good("fmt", str(path))
    text = path.read_text()
    assert "mask j <= i" in text
    assert "# kept" in text
    assert "# why" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(path.parent.iterdir()) == [path]
    good("fmt", str(path))
    assert path.read_text() == text


def test_fmt_check_and_diff_write_nothing(spec: Callable[[str], str]) -> None:
    path = spec(UGLY)
    check, diff = attnc_("fmt", "--check", path), attnc_("fmt", "--diff", path)
    assert (check.exit_code, check.stdout) == (1, f"{path}\n")
    assert diff.exit_code == 1
    assert "\n-mask j<=i   # why\n" in diff.stdout
    assert Path(path).read_text() == UGLY
    good("fmt", path)
    assert good("fmt", "--check", path) == good("fmt", "--diff", path) == ""


def test_fmt_of_standard_input(spec: Callable[[str], str]) -> None:
    path = spec(UGLY)
    text = good("fmt", "-", text=UGLY)
    good("fmt", path)
    assert text == Path(path).read_text()
    assert attnc_("fmt", "--check", "-", text=UGLY).exit_code == 1
    assert good("fmt", "-", text=text) == text


def test_fmt_leaves_what_it_cannot_read(spec: Callable[[str], str]) -> None:
    broken = "attention a { mask ( }"
    path, other = spec(broken), spec(UGLY, "other.attn")
    assert "error[E1" in bad("fmt", path, other)
    assert Path(path).read_text() == broken
    assert Path(other).read_text() != UGLY


def test_fmt_does_not_trust_the_layout(spec: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = spec(UGLY)
    for wrong in ("attention a {\n  mask j < i # kept\n}\n", "attention a {\n  mask j <= i\n}\n"):
        monkeypatch.setattr("attnc.frontend.format.format_text", lambda _, text=wrong: text)
        assert "would change what it says" in bad("fmt", path, code=3)
        assert Path(path).read_text() == UGLY


def test_fmt_refuses_the_standard_library() -> None:
    assert "give a path" in bad("fmt", "std:causal")


def test_fmt_normalises_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.attn"
    path.write_bytes(b"\xef\xbb\xbf" + CAUSAL.replace("\n", "\r\n").encode())
    assert attnc_("fmt", "--check", str(path)).exit_code == 1
    good("fmt", str(path))
    assert path.read_bytes() == CAUSAL.encode()


def test_write_whole_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_whole_follows_links(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "link"
    path.write_text("old")
    link.symlink_to(path)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert path.read_text() == "new"


# -------------------------------------------------------------------------------- list and explain


def test_list_has_a_line_for_every_spec() -> None:
    lines = good("list").splitlines()
    assert [line.split()[0] for line in lines] == [f"std:{name}" for name in attnc.driver.stdlib_names()]
    (causal,) = (line for line in lines if line.startswith("std:causal "))
    assert re.fullmatch(r"std:causal +mask, attention +Softmax attention over the past and oneself\.", causal)


def test_list_json() -> None:
    specs = {entry["name"]: entry for entry in json.loads(good("list", "--json"))["specs"]}
    assert specs["softmax"]["kinds"] == ["normalizer", "attention"]
    assert all(entry["summary"] for entry in specs.values())


def test_explain_is_the_report_of_the_op(spec: Callable[[str], str]) -> None:
    path = spec(WINDOW)
    arguments = ["explain", path, "--n", "4096", "--m", "8192", "--param", "size=128", "--dtype", "fp16"]
    text = good(*arguments)
    assert text.startswith("window: N = 4096, M = 8192")
    data = json.loads(good(*arguments, "--json"))
    tiles = data["tiles"]
    assert tiles["full"] + tiles["partial"] + tiles["skipped"] == tiles["total"]
    assert 0 < tiles["partial"] < tiles["total"] / 8
    assert (data["n"], data["m"], data["target"]) == (4096, 8192, "cuda:90")


def test_explain_unknown_target_is_a_usage_error() -> None:
    assert "cuda:80" in bad("explain", "std:causal", "--n", "8", "--target", "cuda", code=2)


# --------------------------------------------------------------------------------------- compile


def test_compile_writes_source_and_plan_without_compiling(spec: Callable[[str], str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    text = good("compile", spec(WINDOW), "--param", "size=64", "--emit", "triton,plan", "-o", str(out), "--aux")
    assert text.split() == [str(out / "window.py"), str(out / "window.plan.txt")]
    assert "@triton.jit" in (out / "window.py").read_text()
    assert (out / "window.plan.txt").read_text().startswith("plan of window, D = 64, Dv = 64")
    assert stat.S_IMODE((out / "window.py").stat().st_mode) & 0o444


def test_compile_prints_every_stage(spec: Callable[[str], str], tmp_path: Path) -> None:
    text = good(
        "compile", spec(WINDOW), "--param", "size=64", "--print-after", "all", "--emit", "plan", "-o", str(tmp_path)
    )
    stages = re.findall(r"^# after (\S+)$", text, re.MULTILINE)
    assert len(set(stages)) == len(stages)
    assert stages[:3] == ["ast", "typed", "bound"]
    assert stages[-2:] == ["plan", "triton"]
    assert {"normalizer-passes", "block-sparsity"} <= set(stages)
    assert "static size: int" in text
    assert "span" not in text


def test_compile_stops_after_a_stage(spec: Callable[[str], str], tmp_path: Path) -> None:
    path, out = spec(WINDOW), tmp_path / "out"
    text = good("compile", path, "--stop-after", "typed", "-o", str(out))
    assert text.startswith("# after typed\nattention window\n")
    assert not out.exists()
    wrong = bad("compile", path, "--param", "size=64", "--stop-after", "plann", "-o", str(out), code=2)
    assert "did you mean `plan`?" in wrong
    assert not out.exists()


def test_compile_refuses_what_the_target_has_not() -> None:
    assert "hip:gfx942 has no ptx" in bad("compile", "std:causal", "--target", "hip:gfx942", "--emit", "ptx", code=2)
    assert "unknown output" in bad("compile", "std:causal", "--emit", "pdf", code=2)


def test_compile_for_a_gpu(tmp_path: Path) -> None:
    kinds = ("py", "ttgir", "ptx", "cubin", "json")
    emit = ",".join(("triton", *kinds[1:]))
    text = good(
        "compile", "std:causal", "--head-dim", "16", "--dtype", "fp16", "--emit", emit, "-o", str(tmp_path / "out")
    )
    files = {kind: tmp_path / "out" / f"causal.{kind}" for kind in kinds}
    assert text.split("\n\n")[0].splitlines() == [str(path) for path in files.values()]
    assert ".target sm_90" in files["ptx"].read_text()
    assert files["cubin"].read_bytes()[:4] == b"\x7fELF"
    data = json.loads(files["json"].read_text())
    assert (data["target"], data["dtype"], data["head_dim"]) == ("cuda:90", "fp16", 16)
    assert data["files"] == [path.name for kind, path in files.items() if kind != "json"]
    (kernel,) = data["kernels"]
    assert kernel["registers"] > 0
    header, row = (line.split() for line in text.splitlines()[-2:])
    assert header[:2] == ["kernel", "registers"]
    assert row[1:5] == [str(kernel[key]) for key in ("registers", "spills", "shared", "shared_limit")]


# ------------------------------------------------------------------------------------------- run


def test_run_compares_and_times(spec: Callable[[str], str]) -> None:
    arguments = ["--shape", "2,4,33,16", "--kv-heads", "2", "--keys", "40", "--param", "size=9", "--param", "near=3"]
    text = good("run", spec(WINDOW), *arguments, "--dtype", "fp32", "--value-dim", "5")
    assert "window: B 2, H 4, Hk 2, N 33, M 40, D 16, Dv 5, float32 on cpu, back end auto" in text
    assert "first call" in text
    assert [line.split()[-1] for line in text.splitlines()[-2:]] == ["ok", "ok"]


def test_run_fails_when_the_error_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnc import executor

    run_torch = executor.run_torch

    def inexact(*call: Any) -> tuple[Any, Any]:
        out, aux = run_torch(*call)
        return out + 1e-3, aux

    monkeypatch.setattr(executor, "run_torch", inexact)
    result = attnc_("run", "std:full", "--shape", "1,1,4,8", "--dtype", "fp32", "--backend", "torch")
    assert result.exit_code == 1
    assert re.search(r"out +0\.001 .* TOO LARGE", result.stdout)


@pytest.mark.filterwarnings("default")
def test_run_in_the_interpreter_says_what_it_does_instead() -> None:
    result = attnc_("run", "std:full", "--shape", "1,1,4,16", "--backend", "interpret")
    assert result.exit_code == 0, result.output
    assert "warning: Triton's interpreter cannot compute in bfloat16" in result.stderr


def test_run_refuses_wrong_input(spec: Callable[[str], str]) -> None:
    assert "--shape" in bad("run", "std:full", "--shape", "1,2,3", code=2)
    assert "not a multiple" in bad("run", "std:full", "--shape", "1,3,4,8", "--kv-heads", "2")
    assert "GiB" in bad("run", "std:full", "--shape", "1,16,100000,64")
    dynamic = spec("attention a(size: int dynamic) { mask i - j < size }")
    assert "--param size=..." in bad("run", dynamic, "--shape", "1,1,4,8")


def test_run_says_when_there_is_not_enough_memory() -> None:
    shape = f"1,1,{1 << 44},64"
    assert "not enough memory" in bad("run", "std:full", "--shape", shape, "--no-oracle")


def test_run_without_the_oracle() -> None:
    assert "largest error" not in good("run", "std:full", "--shape", "1,1,4,8", "--no-oracle")


# ---------------------------------------------------------------------------------------- verify


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small calls only."""
    from attnc import verify_cases

    monkeypatch.setitem(verify_cases.LIMITS, "torch", verify_cases.Limits(20, 1 << 12, 16, ("fp32",)))


@pytest.mark.usefixtures("small")
def test_verify_prints_a_line_for_each_attention_and_back_end(spec: Callable[[str], str]) -> None:
    path = spec(TWO)
    lines = good("verify", path, "--examples", "2", "--backend", "torch").splitlines()
    assert [re.sub(r"[\d.]+ s$", "", line) for line in lines] == [
        "ok past, torch: 2 calls, ",
        "ok rest, torch: 2 calls, ",
    ]
    assert "pasd" in bad("verify", path, "--attention", "pasd")
    assert "sise" in bad("verify", "std:sliding_window", "--param", "sise=3")


@pytest.mark.usefixtures("small")
def test_verify_prints_a_program_for_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnc import executor

    run_torch = executor.run_torch
    monkeypatch.setattr(executor, "run_torch", lambda *call: (run_torch(*call)[0] + 1, run_torch(*call)[1]))
    result = attnc_("verify", "-", "--examples", "2", "--backend", "torch", text=CAUSAL)
    assert result.exit_code == 1
    assert result.stdout.startswith("FAILED causal, torch")
    assert "largest error of out is 1, allowed is" in result.stdout
    assert f"source={CAUSAL!r}" in result.stdout


def test_verify_shows_a_bar_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnc.cli import verify

    monkeypatch.setattr(verify, "_PATIENCE", -1.0)
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        progress = verify.Progress("causal", 3)
        progress()
        assert progress.shown == terminal
        progress()
        progress.close()
        assert not progress.shown


# ------------------------------------------------------------------------------------ processes


def attnc_process(*args: str, cwd: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    program = "from attnc.cli import main; main(prog_name='attnc')"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program, *args],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=env,
    )


def test_process_check_loads_nothing_slow(tmp_path: Path) -> None:
    (tmp_path / "a.attn").write_text(CAUSAL)
    program = (
        "import sys; from attnc.cli import main\n"
        "try: main(['check', 'a.attn', 'std:t5'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(*({'torch', 'sympy', 'islpy', 'numpy', 'rich', 'hypothesis'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, env=env
    )
    assert done.stdout.strip() == ""
    assert done.stderr == "2 files checked: no problems\n"


def test_process_output_to_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    program = f"'{sys.executable}' -c 'from attnc.cli import main; main()' list | head -1; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    assert done.stdout.startswith("std:")
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)


def test_process_reads_standard_input(tmp_path: Path) -> None:
    done = attnc_process("fmt", "-", cwd=tmp_path, text=UGLY)
    assert (done.returncode, done.stdout) == (0, good("fmt", "-", text=UGLY))
    assert attnc_process("check", "-", cwd=tmp_path, text=BROKEN).returncode == 1


def test_no_module_hides_a_function_of_the_package() -> None:
    package = Path(attnc.__file__).parent
    modules = {path.stem for path in package.glob("*.py")} | {path.name for path in package.iterdir() if path.is_dir()}
    assert modules & set(attnc.__all__) <= {"nn"}


# -- cache -----------------------------------------------------------------------------------------------------------


def test_cache_info_and_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    assert attnc_("cache", "info").stdout.splitlines() == [str(tmp_path), "empty"]
    assert attnc_("compile", "std:causal", "--emit", "triton", "-o", str(tmp_path / "out")).exit_code == 0
    import attnc

    attnc.compile("std:causal")
    found = json.loads(attnc_("cache", "info", "--json").stdout)
    assert found["directory"] == str(tmp_path)
    assert found["kinds"]["module"]["files"] == 1
    cleared = attnc_("cache", "clear")
    assert "removed 1 file" in cleared.stdout
    assert (tmp_path / "out").is_dir()
    assert attnc_("cache", "info").stdout.splitlines()[1] == "empty"

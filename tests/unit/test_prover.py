"""Proofs: a table of true and false statements, assumptions, bad input, the command, and that nothing hangs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import attnc
from attnc.cli import main
from attnc.diagnostics import CallError, SpecError
from attnc.prover import prove

N2 = "frames=3, height=4, width=5, window_t=3, window_y=3, window_x=3, defaults"
MANUAL = Path(__file__).parents[2] / "docs" / "prove.md"
#: Statement, assumptions, declared parameters.
TRUE = [
    ("causal(std:causal)", "", ""),
    ("causal(std:sliding_window)", "", ""),
    ("subset(std:sliding_window(size=64), std:causal)", "", ""),
    ("subset(mask sliding_window(w), mask sliding_window(w + 1))", "", "w: int"),
    ("nonempty_rows(std:causal)", "", ""),
    ("nonempty_rows(std:sliding_window)", "", ""),
    ("nonempty_rows(mask sliding_window(w))", "w >= 1", "w: int"),
    ("nonempty_rows(std:document)", "", ""),
    ("symmetric(std:document)", "", ""),
    ("symmetric(std:dilated_window(size=9, dilation=3))", "", ""),
    ("subset(std:causal, std:prefix_lm)", "", ""),
    ("causal(std:prefix_lm)", "prefix[b] <= 1", ""),
    ("disjoint(mask j <= i, mask j > i and seg[b, i] == seg[b, j])", "", "seg: int[B, M]"),
    ("equal(mask i // 4 == j // 4, mask i - i % 4 <= j < i - i % 4 + 4)", "", ""),
    ("equal(mask exists d in 0..100: j == i - d, mask 0 <= i - j < 100)", "", ""),
    ("subset(mask j <= i, mask j // w <= i // w)", "", "w: int"),
    ("subset(mask i // w == j // w, mask abs(i - j) < w)", "", "w: int"),
    ("nonempty_rows(std:neighborhood_2d(defaults))", "", ""),
    (f"nonempty_rows(std:neighborhood_3d({N2}))", "", ""),
    ("causal({grid (y: r, x: c); mask i.y >= j.y and j.x <= i.x})", "", "r: int, c: int"),
    ("subset(mask keep[b, j] and j <= i, mask j <= i)", "", "keep: bool[B, M]"),
    ("subset(mask seg[b, i] == seg[b, j] and seg[b, j] == c, mask seg[b, i] == c)", "", "seg: int[B, M], c: int"),
    ("equal(mask (i - j) & 7 == 0, mask (i - j) % 8 == 0)", "", ""),
    ("subset(mask flag and j <= i, mask j <= i or not flag)", "", "flag: bool"),
    ("disjoint(mask h % 2 == 0, mask h % 2 == 1)", "", ""),
    ("subset(mask j <= real(i) * 0.5, mask j <= i)", "", ""),
    ("equal(mask j < int(real(i) * 0.75 + 0.5), mask 4 * j < 3 * i - (3 * i + 2) % 4 + 2)", "", ""),
]
FALSE = [
    ("causal(mask abs(i - j) <= 3)", "", ""),
    ("causal(std:full)", "", ""),
    ("causal(std:prefix_lm)", "", ""),
    ("subset(std:causal, std:sliding_window(size=64))", "", ""),
    ("subset(mask sliding_window(w + 1), mask sliding_window(w))", "", "w: int"),
    ("nonempty_rows(mask sliding_window(w))", "", "w: int"),
    ("nonempty_rows(std:causal)", "q_offset == M - N", ""),
    ("nonempty_rows(std:causal)", "q_offset == -3", ""),
    ("nonempty_rows(mask j < i)", "", ""),
    ("symmetric(std:causal)", "", ""),
    ("symmetric(std:streaming)", "", ""),
    ("symmetric(std:neighborhood_1d(length=12, window=5, defaults))", "", ""),
    ("disjoint(std:document, mask j > i)", "", ""),
    ("equal(mask i // 4 == j // 4, mask abs(i - j) < 4)", "", ""),
    ("equal(mask j <= i, mask j <= i and i - j < 1000)", "", ""),
    ("causal(mask j <= i or j >= i + 1000000)", "", ""),
    ("nonempty_rows(mask j >= 100000 and j >= i)", "", ""),
    ("subset(mask j < len[b], mask j < 100)", "", "len: int[B]"),
    ("subset(mask j <= i, mask keep[b, j])", "", "keep: bool[B, M]"),
    ("causal({grid (y: r, x: c); mask i.y >= j.y})", "", "r: int, c: int"),
    ("subset(mask j // w == i // w, mask i - j < 2)", "", "w: int"),
    ("subset(mask real(i) * t < j, mask i < 2 * j)", "", "t: real"),
    ("symmetric(mask i * i <= j)", "", ""),
    ("disjoint(mask flag, mask j <= i)", "", "flag: bool"),
    ("subset(mask j <= i, mask j <= real(i) * 0.5)", "", ""),
]


@pytest.mark.parametrize(("statement", "assume", "declare"), TRUE)
def test_true_statements_are_proved(statement: str, assume: str, declare: str) -> None:
    proof = prove(statement, assume=[assume] if assume else [], declare=declare)
    assert proof.verdict == "proved", str(proof)
    assert proof.counterexample is None


@pytest.mark.parametrize(("statement", "assume", "declare"), FALSE)
def test_false_statements_are_refuted(statement: str, assume: str, declare: str) -> None:
    proof = prove(statement, assume=[assume] if assume else [], declare=declare)
    assert proof.verdict == "refuted", str(proof)
    assert proof.counterexample is not None


def test_the_table_has_twenty_of_each() -> None:
    assert min(len(TRUE), len(FALSE)) >= 20


def test_the_table_of_the_manual_is_that_of_the_tests(golden: Any) -> None:
    """All that is in it is proved or refuted above."""
    lines = ["These are proved:", "", *_rows(TRUE), "", "These are refuted, by a call in numbers:", "", *_rows(FALSE)]
    text = MANUAL.read_text(encoding="utf-8")
    before, rest = text.split("<!-- statements -->")
    _, after = rest.split("<!-- end of statements -->")
    shown = "\n".join(lines)
    golden(MANUAL, f"{before}<!-- statements -->\n{shown}\n<!-- end of statements -->{after}")


def _rows(statements: list[tuple[str, str, str]]) -> list[str]:
    rows = [f"| `{text}` | {_code(declare)} | {_code(assume)} |" for text, assume, declare in statements]
    return ["| statement | declared | assumed besides |", "|---|---|---|", *rows]


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def test_what_cannot_be_decided_is_named() -> None:
    proof = prove("subset(mask exp(real(i)) < t, mask exp(real(i)) < t + 1)", declare="t: real")
    assert proof.verdict == "unknown"
    assert proof.unknowns == ("exp(real(i)) < t", "exp(real(i)) < t + 1.0")
    assert "undecided: exp(real(i)) < t" in str(proof)


# -- assumptions -----------------------------------------------------------------------------------------------------


def test_the_standing_assumption_is_printed_and_replaced() -> None:
    assert prove("causal(std:causal)").assumptions == ("k_offset == 0", "q_offset >= 0", "q_offset + N <= M")
    assert prove("causal(std:causal)", assume="N <= 7").assumptions == ("k_offset == 0", "q_offset >= 0", "N <= 7")
    assert prove("causal(std:causal)", assume="k_offset <= q_offset").assumptions == (
        "q_offset + N <= M",
        "k_offset <= q_offset",
    )


def test_grids_assume_that_their_points_are_the_keys() -> None:
    found = prove("causal({grid (y: 4, x: 8); mask i.y == j.y and j.x <= i.x})").assumptions
    assert "M == 32" in found
    assert "positions lie on the grid" in found
    beside = prove("causal({grid (y: 4, x: 8); mask j in grid and i.y == j.y and j.x <= i.x})").assumptions
    assert "positions lie on the grid" not in beside


def test_ranges_of_parameters_are_assumed() -> None:
    assert prove("nonempty_rows(mask 0 <= i - j < w)", declare="w: int in [1, inf)").verdict == "proved"
    assert prove("nonempty_rows(mask j < len[b])", declare="len: int[B] in [1, inf)").verdict == "proved"


# -- masks -----------------------------------------------------------------------------------------------------------


def test_masks_of_a_file_by_name(tmp_path: Path) -> None:
    spec = tmp_path / "mine.attn"
    spec.write_text("mask near(w: int) = abs(i - j) < w\nattention mine(w: int = 3) { mask near(w) }\n")
    assert prove("subset(mask near(2), mask near(3))", file=str(spec)).verdict == "proved"
    assert prove(f"symmetric({spec}:mine(w=4))").verdict == "proved"
    assert prove(f"equal({spec}(defaults), 'abs(i - j) <= 2')").verdict == "proved"


def test_one_name_is_one_parameter() -> None:
    assert prove("equal(mask i - j < w, mask i - j <= w - 1)", declare="w: int").verdict == "proved"


def test_a_counterexample_shows_the_call() -> None:
    found = prove("subset(mask j < len[b], mask j < 100)", declare="len: int[B]").counterexample
    assert found is not None
    assert found.j is not None
    assert 100 <= found.j < found.tensors["len"][0]
    assert found.masks == (
        f"mask j < len[b] keeps ({found.i}, {found.j})",
        f"mask j < 100 drops ({found.i}, {found.j})",
    )


def test_the_same_statement_has_the_same_answer() -> None:
    assert str(prove("symmetric(std:streaming)")) == str(prove("symmetric(std:streaming)"))


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "assume", "message"),
    [
        ("causal(", (), "not a statement"),
        ("prove it", (), "not a statement"),
        ("foo(std:causal)", (), "write one of causal"),
        ("subset(std:causal)", (), "is about two masks, given 1"),
        ("causal(std:causal, std:full)", (), "is about one mask, given 2"),
        ("causal((j <= i)", (), "do not match"),
        ("causal(std:nope)", (), "has no `nope`"),
        ("causal(nofile.attn)", (), "no such file"),
        ("causal(std:causal:b)", (), "no attention `b`"),
        ("causal(std:sliding_window(sise=3))", (), "did you mean `size`"),
        ("causal(std:sliding_window(size=x))", (), "expected name=value"),
        ("causal(std:sliding_window(size=1, size=2))", (), "given twice"),
        ("causal(std:sliding_window(size=2.5))", (), "must be an int"),
        ("causal(std:dilated_window(size=3, dilation=0))", (), "is 0, outside"),
        ("causal(std:neighborhood_1d(length=9, window=3, stride=4))", (), "is 4, outside [1, window] = [1, 3]"),
        ("causal({grid (y: 4); mask i.y % (j.y - j.y) == 0})", (), "divisor"),
        ("causal(mask j <= w)", (), "unknown name `w`"),
        ("causal(mask j + 1)", (), "a mask must be bool"),
        ("subset({grid (y: 0); mask i.y == j.y}, mask true)", (), "at least 1"),
        ("causal(std:causal)", ("i < 3",), "not of i and j"),
        ("causal(std:causal)", ("foo < 3",), "unknown name `foo`"),
        ("causal(std:causal)", ("N",), "must be bool"),
        ("causal(std:causal)", ("",), "not an assumption"),
        ("causal(std:causal)", ("N < 3 and N > 5",), "no call fulfils the assumptions"),
        ("causal(" + "x" * 200_000 + ")", (), "at most 100000 characters"),
    ],
)
def test_bad_input_is_an_error(statement: str, assume: tuple[str, ...], message: str) -> None:
    with pytest.raises((attnc.SpecError, attnc.CallError)) as found:
        prove(statement, assume=assume)
    assert message in str(found.value)


def test_tables_of_reals_with_few_digits_are_known() -> None:
    spans = {"alpha": [64, 128], "beta": [0.5, 0.0]}
    wider = "mask j < 64 or i // 64 - j // 64 < max(2, M // 128 + 1)"
    assert prove(f"subset(std:moa(block=64), {wider})", tensors=spans).verdict == "proved"
    assert prove(f"subset({wider}, std:moa(block=64))", tensors=spans).verdict == "refuted"
    assert prove("subset(std:sliding_window(size=64), std:moa(defaults))", tensors=spans).verdict == "proved"
    assert prove("nonempty_rows(std:moa)", tensors=spans).verdict == "proved"
    # 0.1 has no finite number of binary digits: what a product with it is rounded to is not known
    tenths = {"alpha": [64], "beta": [0.1]}
    assert prove(f"subset(std:moa(block=64), {wider})", tensors=tenths).verdict != "proved"


def test_one_name_of_two_kinds_is_an_error(tmp_path: Path) -> None:
    spec = tmp_path / "mine.attn"
    spec.write_text("attention mine(size: bool) { mask size }\n")
    with pytest.raises(attnc.CallError, match="`size` is bool in one mask and int in the other"):
        prove(f"subset({spec}, std:sliding_window)")


def _chain(join: str, term: str, count: int) -> str:
    return join.join(term.format(n=n, a=n + 2, b=n + 3) for n in range(count))


_NESTED = "j"
for _n in range(60):
    _NESTED = f"abs({_NESTED} - {_n})"

BOMBS = {
    "divisions": f"causal(mask {_chain(' and ', '(i // {a} + j) % {b} != {n}', 60)})",
    "residues": f"nonempty_rows(mask {_chain(' or ', '(i // {a} + j) % {b} == {n}', 40)})",
    "look_ups": f"symmetric(mask {_chain(' or ', 'seg[b, i + {n}] == seg[b, j + {n}]', 30)})",
    "cases": f"causal(mask {_NESTED} <= i)",
    "products": "subset(mask i * j * (i + 1) <= N * M, mask i * i * i <= j * j * N)",
    "exists": "causal(mask exists d in 0..64: exists e in 0..64: i - j == d * 97 - e * 89)",
    "nested": f"causal(mask {'(' * 90}j <= i{')' * 90})",
    "mixed": "nonempty_rows(mask (i // 3 + j // 5) % 7 == (i // 4 - j // 9) % 11 and (i + j) // 6 != i // 2 "
    "or (i // 7 + j // 11) % 13 == (i - j) // 17 % 5 or i == j)",
}


@pytest.mark.parametrize("name", BOMBS)
def test_masks_that_explode_are_answered(name: str) -> None:
    """In about a second on a quiet machine; the bound leaves room for a busy one."""
    start = time.process_time()
    proof = prove(BOMBS[name], declare="seg: int[B, M]")
    assert time.process_time() - start < 5
    if name in ("divisions", "residues", "look_ups", "cases"):
        assert proof.verdict == "unknown"
        assert "no counterexample was found" in proof.reason


# -- the command -----------------------------------------------------------------------------------------------------


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["prove", *args])


def test_command_exits_with_0_when_all_is_proved() -> None:
    found = run("causal(std:causal)", "subset(std:causal, std:prefix_lm)")
    assert found.exit_code == 0
    assert found.stdout.count("proved: ") == 2
    assert "assuming k_offset == 0, q_offset >= 0, q_offset + N <= M" in found.stdout


@pytest.mark.parametrize("statement", ["causal(std:full)", "subset(mask exp(real(i)) < 2, mask exp(real(i)) < 3)"])
def test_command_exits_with_1_when_something_is_not_proved(statement: str) -> None:
    found = run("causal(std:causal)", statement)
    assert found.exit_code == 1
    assert found.stdout.startswith("proved")
    assert "refuted: " in found.stdout or "unknown: " in found.stdout


def test_command_prints_json() -> None:
    data = json.loads(run("causal(std:full)", "--json", "--assume", "N == 2 and M == 2").stdout)
    (proof,) = data["proofs"]
    assert proof["verdict"] == "refuted"
    assert proof["counterexample"]["i"] == 0
    assert proof["counterexample"]["j"] == 1
    assert "N == 2 and M == 2" in proof["assumptions"]


def test_command_reports_bad_input() -> None:
    found = run("causal(std:nope)")
    assert found.exit_code == 1
    assert "E508" in found.stderr
    assert run("causal(").exit_code == 1
    assert run().exit_code == 2


def test_proving_needs_no_torch() -> None:
    code = "import sys, attnc; attnc.prove('causal(std:full)'); print('torch' in sys.modules, 'triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_function_is_not_hidden_by_its_module() -> None:
    code = "import attnc, attnc.prover, attnc.cli.prove; assert attnc.prove('causal(std:causal)').verdict == 'proved'"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- values of tensors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "full", "verdict"),
    [
        ("std:causal", [True, True], "proved"),
        ("std:causal", [True, False], "refuted"),
        ("std:streaming(sink=4, window=8)", [False, False], "proved"),
        ("std:streaming(sink=4, window=8)", [False, True], "refuted"),
        ("mask j <= i and (hk == 1 or j < 4 or i - j < 8)", [False, True, False], "proved"),
    ],
)
def test_values_of_tensors_decide(other: str, full: list[bool], verdict: str) -> None:
    proof = prove(f"equal(std:duo(sink=4, recent=8), {other})", tensors={"full": full})
    assert proof.verdict == verdict
    assert f"Hk == {len(full)}" in proof.assumptions
    assert "full" not in proof.symbols


def test_values_of_tensors_that_no_mask_has() -> None:
    with pytest.raises(CallError, match="no mask of the statement has a tensor `ful`"):
        prove("causal(std:duo)", tensors={"ful": [True]})
    with pytest.raises(CallError, match="numbers in lists of equal length"):
        prove("causal(std:duo)", tensors={"full": [[True], []]})
    with pytest.raises(SpecError, match="full"):
        prove("causal(std:duo)", tensors={"full": [3]})

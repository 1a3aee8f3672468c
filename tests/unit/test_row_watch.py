"""Warnings of calls with rows that see no key, and the facts that `explain` prints."""

from __future__ import annotations

import json
import warnings
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import attnc
from attnc import row_watch
from attnc.cli import main
from attnc.diagnostics import AttncWarning
from attnc.explain import facts_of
from attnc.ir.module import AttentionModule
from attnc.ir.plan import PlanOptions
from attnc.passes.empty_rows import EmptyRow, empty_row
from attnc.passes.pipeline import make_plan
from attnc.row_watch import RowWatch
from tests.oracles.modules import module_of

SIZES = {"B": 1, "H": 2, "Hk": 2, "N": 17, "M": 17, "q_offset": 0, "k_offset": 0}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path / "cache"))


def said(op: attnc.Op, n: int, m: int, **options: Any) -> list[str]:
    q, k = torch.randn(1, 2, n, 8), torch.randn(1, 2, m, 8)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        op(q, k, k, **options)
    assert all(issubclass(warning.category, AttncWarning) for warning in found)
    return [str(warning.message) for warning in found]


_NUMBERS = count()


def op_of(mask: str, header: str = "") -> attnc.Op:
    """An op of its own: those of one text share what was said."""
    return attnc.compile(source=f"attention rows{next(_NUMBERS)}({header}) {{ mask {mask} }}", backend="torch")


def mask_of(mask: str) -> AttentionModule:
    return module_of(f"attention a {{ mask {mask} }}")


def test_a_call_with_an_empty_row_is_warned_of_once_for_its_sizes() -> None:
    op = op_of("j <= i")
    (message,) = said(op, 17, 11, q_offset="end")
    assert message == (
        f"{op.module.name}: row 0 (i = -6) sees no key for N = 17, M = 11, q_offset = -6, k_offset = 0; "
        "outputs of such rows are 0"
    )
    assert said(op, 17, 11, q_offset="end") == []
    assert said(op, 17, 17) == []
    assert said(op, 17, 11, q_offset=-6) == []
    assert "q_offset = -5" in said(op, 17, 11, q_offset=-5)[0]


def test_the_warning_points_at_the_call() -> None:
    op = op_of("j < i")
    q = torch.randn(1, 1, 3, 8)
    with pytest.warns(AttncWarning, match="row 0 ") as found:
        op(q, q, q)
    assert found[0].filename == __file__


@pytest.mark.parametrize(
    ("mask", "row"),
    [
        ("i % 7 != 3 and j <= i", "row 3 (i = 3)"),
        ("(h != 1 or i != 5) and j <= i", "row 5 of head 1 (i = 5)"),
        ("(hk != 1 or i != 5) and j <= i", "row 5 of head 1 (i = 5)"),
        ("j <= i and i - j < 4 and j < 9", "row 16 (i = 16)"),
    ],
)
def test_the_row_is_an_empty_one(mask: str, row: str) -> None:
    (message,) = said(op_of(mask), 17, 17)
    assert row in message


def test_rows_of_which_only_the_device_knows_are_left_alone() -> None:
    op = op_of("j <= i and seg[b, i] == seg[b, j] and j >= 2", "seg: int[B, M]")
    seg = torch.zeros(1, 17, dtype=torch.int32)
    assert "row 0 " in said(op, 17, 17, seg=seg)[0]
    assert said(op_of("keep[b, j]", "keep: bool[B, M]"), 17, 17, keep=seg.bool()) == []


def test_offsets_on_the_device_documents_and_calls_without_keys_are_left_alone() -> None:
    op = op_of("j < i")
    assert said(op, 3, 3, q_offset=torch.tensor([0])) == []
    assert said(op, 3, 3, cu_seqlens=torch.tensor([0, 2, 3])) == []
    assert said(op, 3, 0) == said(op, 0, 3) == []


def test_dynamic_parameters_are_part_of_the_call() -> None:
    op = op_of("0 <= i - j < w", "w: int dynamic")
    assert said(op, 5, 5, w=3) == []
    assert "row 0 " in said(op, 5, 5, w=0)[0]


def test_a_loop_over_sizes_is_not_warned_of_for_ever() -> None:
    op = op_of("j < i")
    assert sum(len(said(op, n, n)) for n in range(2, 20)) == row_watch.MAX_WARNINGS


def test_traced_calls_are_looked_at_when_they_run() -> None:
    op = op_of("j < i")
    compiled = torch.compile(op, backend="eager", fullgraph=True, dynamic=True)
    q = torch.randn(1, 1, 5, 8)
    with pytest.warns(AttncWarning, match="N = 5, M = 5"):
        compiled(q, q, q)


def test_conditions_are_found_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    module = mask_of("j < i")
    with pytest.warns(AttncWarning):
        RowWatch(module, "some text").look(SIZES, {})
    monkeypatch.setattr(row_watch, "_find", None)
    with pytest.warns(AttncWarning):
        RowWatch(module, "some text").look(SIZES, {})
    RowWatch(module, "").look(SIZES, {})  # what no text names is not watched


def test_masks_that_would_take_long_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_watch, "MAX_NODES", 2)
    RowWatch(mask_of("j < i"), "another text").look(SIZES, {})


def test_calls_of_the_same_sizes_evaluate_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    op = op_of("j <= i")
    assert said(op, 9, 9) == []
    monkeypatch.setattr(row_watch, "evaluate_exact", None)
    assert said(op, 9, 9) == []
    with pytest.raises(TypeError):
        said(op, 9, 10)


def test_long_rows_are_not_looked_at() -> None:
    module = mask_of("j < i")
    assert empty_row(module, SIZES, {}) == EmptyRow(0, 0, (0, 0))
    assert empty_row(module, {**SIZES, "M": 1 << 21}, {}) is None
    assert empty_row(mask_of("j <= i"), SIZES, {}) is None


# -- explain and run -------------------------------------------------------------------------------------------------


def test_facts_are_evaluated_for_the_sizes() -> None:
    plan = make_plan(mask_of("0 <= i - j < 4"), PlanOptions(64, 64))
    assert facts_of(plan, 8, 8)[0].startswith("no empty row: holds for these sizes (when ")
    assert facts_of(plan, 20, 8)[0].startswith("no empty row: does not hold for these sizes (when ")
    assert facts_of(plan, 8, 8)[1] == "causal: always"
    assert facts_of(plan, 8, 8)[-2] == "distance: 0 <= i - j and i - j <= 3"
    assert facts_of(plan, 8, 8)[-1] == "first visited tile live in every row: unknown"


def test_the_first_visited_tile_of_a_causal_mask_has_a_key_for_every_row() -> None:
    plan = make_plan(mask_of("j <= i"), PlanOptions(64, 64))
    fact = "first visited tile live in every row that sees a key"
    assert facts_of(plan, 8, 8)[-1] == f"{fact}: holds for these sizes (when the queries are among the keys)"
    assert facts_of(plan, 9, 8)[-1].startswith(f"{fact}: not known for these sizes")
    assert not make_plan(mask_of("0 <= i - j < 4"), PlanOptions(64, 64)).parts[0].first_live
    assert make_plan(mask_of("0 <= i - j < 400"), PlanOptions(64, 64)).parts[0].first_live


@pytest.mark.parametrize("spec", ["prefix_lm", "streaming", "duo"])
def test_the_first_visited_tile_has_a_key_for_every_row_also_where_ranges_take_turns(spec: str) -> None:
    assert make_plan(attnc.compile(f"std:{spec}", backend="torch").module, PlanOptions(64, 64)).parts[0].first_live


def test_explain_prints_facts() -> None:
    sizes = ["-n", "100", "-m", "50"]
    shown = CliRunner().invoke(main, ["explain", "std:causal", *sizes])
    assert "  fact      causal: always\n" in shown.output
    assert "  fact      no empty row: holds for these sizes (when q_offset >= k_offset)\n" in shown.output
    data = json.loads(CliRunner().invoke(main, ["explain", "std:causal", *sizes, "--json"]).output)
    assert "causal: always" in data["facts"]


def test_run_says_which_row_is_empty() -> None:
    shown = CliRunner().invoke(
        main, ["run", "std:sliding_window", "--param", "size=4", "--shape", "1,2,20,8", "--keys", "9"]
    )
    assert "warning: row 19 (i = 19) sees no key" in shown.output, shown.output

"""attnc.show: what is drawn against every pair of a small call; files that are small, well formed and safe."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from attnc.cli import main
from attnc.diagnostics import CallError
from attnc.pictures.matrix import Matrix, draw_matrix
from attnc.pictures.neighbourhood import Neighbourhood, draw_neighbourhood
from attnc.pictures.shapes import boxes_of
from attnc.showing import Picture, show

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
IMAGE = {"height": 24, "width": 40, "window_y": 7, "window_x": 9}
VIDEO = {"frames": 5, "height": 6, "width": 8, "window_t": 3, "window_y": 3, "window_x": 4}
DILATED = {"size": 20, "dilation": 4}


def _text(mask: str, header: str = "", grid: str = "") -> dict[str, str]:
    return {"source": f"attention a{header} {{\n {grid}\n mask {mask}\n}}"}


def _matrix(picture: Picture, **options: Any) -> Matrix:
    return draw_matrix(picture.plan, picture.names, rows=picture.rows, keys=picture.keys, **options)


def _scene(picture: Picture, **options: Any) -> Neighbourhood:
    given = {"query": picture.query, "rows": picture.rows, "keys": picture.keys}
    return draw_neighbourhood(picture.plan, picture.names, **given, **options)


def attnc_(*args: str) -> Result:
    return CliRunner().invoke(main, ["show", *args], prog_name="attnc")


# -- the matrix ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "params", "n", "m", "keep"),
    [
        ("std:causal", {}, 130, 130, lambda i, j: j <= i),
        ("std:causal", {}, 50, 120, lambda i, j: j <= i),
        ("std:sliding_window", {"size": 40}, 200, 200, lambda i, j: (0 <= i - j) & (i - j < 40)),
        ("std:streaming", {"sink": 3, "window": 20}, 100, 100, lambda i, j: (j <= i) & ((j < 3) | (i - j < 20))),
        ("std:dilated_window", DILATED, 131, 131, lambda i, j: (abs(i - j) <= 20) & ((i - j) % 4 == 0)),
        ("std:neighborhood_1d", {"length": 90, "window": 9}, 90, 90,
         lambda i, j: (np.clip(i - 4, 0, 81) <= j) & (j < np.clip(i - 4, 0, 81) + 9)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cells", [200, 3])
def test_cells_are_those_of_brute_force(spec: str, params: Any, n: int, m: int, keep: Any, cells: int) -> None:
    matrix = _matrix(show(spec, n, m, params=params, tile=(16, 16)), max_cells=(cells, cells))
    rows, keys = matrix.rows.tokens, matrix.keys.tokens
    assert rows is not None
    assert keys is not None
    assert sorted(rows) == list(range(n))
    assert sorted(keys) == list(range(m))
    kept = np.broadcast_to(keep(rows[:, None], keys[None, :]), (n, m))
    assert matrix.pairs is not None
    assert (matrix.pairs == kept).all()
    live = np.add.reduceat(np.add.reduceat(kept, matrix.rows.edges[:-1], 0), matrix.keys.edges[:-1], 1) > 0
    assert (live <= (matrix.live > 0)).all()
    if "exact" in matrix.representation or "closed forms" in matrix.representation:
        assert (live == (matrix.live > 0)).all()
    assert matrix.live.sum() == matrix.counts.full + matrix.counts.partial
    assert matrix.full.sum() == matrix.counts.full
    assert matrix.total.sum() == matrix.counts.total
    assert matrix.empty is not None
    assert not matrix.empty.any()


def test_boxes_are_drawn_in_the_order_of_kernels() -> None:
    matrix = _matrix(show("std:neighborhood_3d", params=VIDEO, tile=(16, 16), view="tiles"))
    assert matrix.live.sum() == matrix.counts.partial + matrix.counts.full
    assert matrix.order is not None
    coarse = _matrix(show("std:neighborhood_3d", params=VIDEO, tile=(16, 16), view="tiles"), max_cells=(4, 5))
    assert coarse.live.shape == (4, 5)
    assert coarse.live.sum() == matrix.live.sum()


def test_rows_without_a_key_are_flagged() -> None:
    picture = show(**_text("j + 20 < i"), n=100, tile=(16, 16))
    matrix = _matrix(picture)
    assert matrix.empty is not None
    assert matrix.empty.tolist() == [True, True, False, False, False, False, False]
    assert matrix.kept.empty_rows == 21
    assert "a query here sees no key" in picture.svg()
    assert "!" in picture.text()
    assert "a query here sees no key" not in show("std:causal", 100).svg()


def test_a_mask_that_keeps_nothing() -> None:
    picture = show(**_text("false"), n=100)
    assert "0 full, 0 partial, 2 skipped of 2" in picture.text()
    assert "0 pairs kept, 100 queries without any key." in picture.svg()


def test_windows_show_a_part() -> None:
    whole = _matrix(show("std:causal", 1_000_000))
    part = _matrix(show("std:causal", 1_000_000, rows=(500_000, 500_300), keys=(499_990, 500_400)))
    assert whole.is_aggregated
    assert not part.is_aggregated
    assert part.counts == whole.counts
    assert part.rows.window == (499_968, 500_352)  # whole tiles of 128
    assert part.pairs is not None
    assert part.pairs.shape == (384, 448)


def test_windows_outside_are_refused() -> None:
    for window in [(0, 101), (5, 5), (-1, 4), (9, 3)]:
        with pytest.raises(CallError, match="expected a range"):
            show("std:causal", 100, rows=window).svg()
    with pytest.raises(CallError, match="expected a range"):
        show("std:neighborhood_2d", params=IMAGE, keys=(0, 41)).svg()


@pytest.mark.parametrize("spec", ["std:causal", "std:streaming", "std:dilated_window"])
def test_a_million_tokens_make_small_files(spec: str) -> None:
    params = {"size": 4000, "dilation": 7} if "dilated" in spec else {}
    picture = show(spec, 1_000_000, params=params)
    assert len(picture.svg()) < 200_000
    assert len(picture.html()) < 1_000_000
    assert len(picture.text()) < 10_000


def test_a_thousand_million_tokens_are_a_sample_that_says_so() -> None:
    matrix = _matrix(show("std:causal", 1_000_000_000))
    assert "One query tile of 60 was looked at." in matrix.notes
    assert (matrix.live <= matrix.total).all()
    assert matrix.live.sum() == pytest.approx(matrix.total.sum() / 2, rel=1e-2)
    exact = _matrix(show("std:causal", 10_000_000))
    assert exact.live.sum() == exact.counts.full + exact.counts.partial


def test_the_worst_pattern_makes_a_file_below_a_megabyte() -> None:
    picture = show(**_text("(i - j) % 2 == 0 or j == 0 and i // 64 % 2 == 0"), n=512)
    assert len(picture.svg()) < 1_000_000
    assert len(picture.html()) < 1_000_000


def test_shares_add_up_when_tiles_are_many() -> None:
    matrix = _matrix(show("std:streaming", 300_000, params={"window": 1000}))
    assert matrix.live.sum() == matrix.counts.full + matrix.counts.partial
    assert max(matrix.live.shape) <= 200


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("m", [0, 1, 2])
def test_tiny_calls(n: int, m: int) -> None:
    for made in (show("std:causal", n, m), show(**_text("false"), n=n, m=m)):
        ET.fromstring(made.svg())
        assert made.text()
        assert made.html()


# -- data ------------------------------------------------------------------------------------------------------------


def test_visits_that_depend_on_data_are_drawn_as_bounds() -> None:
    matrix = _matrix(show("std:prefix_lm", 640))
    assert (matrix.live == matrix.total).all()  # any key may be below the prefix
    assert matrix.sure.sum() == 5 * 5 + 5  # keys up to the query are seen whatever the prefix
    assert "prefix" in matrix.notes[0]
    svg = show("std:prefix_lm", 640).svg()
    assert "depends on data" in svg
    assert "?" in show("std:prefix_lm", 640).text()


def test_pairs_that_depend_on_data_are_an_outer_bound() -> None:
    picture = show("std:document", 300)
    assert "outer bound" in picture.svg()
    assert "seg" in picture.text()


def test_heads_are_checked() -> None:
    text = _text("j <= i and (h < H // 2 or i - j < 8)")
    with pytest.raises(CallError, match="say how many"):
        show(**text, n=64)
    assert "2080 pairs kept" in show(**text, n=64, heads=4, head=1).text()
    assert "484 pairs kept" in show(**text, n=64, heads=4, head=2).text()
    for head in (-1, 4):
        with pytest.raises(CallError, match="head: expected"):
            show(**text, n=64, heads=4, head=head)


def test_dynamic_parameters_are_params() -> None:
    text = _text("0 <= i - j < w", "(w: int dynamic)")
    assert "12 pairs kept" in show(**text, n=12, params={"w": 1}).text()
    assert "depends on `w`" in show(**text, n=12).text()


# -- grids -----------------------------------------------------------------------------------------------------------


def test_a_neighbourhood_is_what_the_query_sees() -> None:
    scene = _scene(show("std:neighborhood_2d", params=IMAGE))
    (panel,) = scene.panels
    assert scene.query == (12, 20)
    expected = np.zeros((24, 40))
    expected[9:16, 16:25] = 1
    assert (panel.kept == expected).all()
    assert (panel.visited >= expected).all()
    tiled = np.zeros((24, 40))
    for left, top, right, bottom in panel.tiles:
        assert not tiled[top:bottom, left:right].any()
        tiled[top:bottom, left:right] = 1
    assert (tiled == panel.visited).all()
    assert scene.seen == 63


def test_a_video_has_a_panel_per_frame() -> None:
    scene = _scene(show("std:neighborhood_3d", params=VIDEO, query=(0, 5, 0)))
    assert [panel.label for panel in scene.panels] == [f"t = {t}" for t in range(5)]
    assert [panel.has_query for panel in scene.panels] == [True, False, False, False, False]
    assert [panel.kept.sum() for panel in scene.panels] == [12, 12, 12, 0, 0]
    assert scene.seen == 36


def test_dilated_neighbours_are_not_outlined() -> None:
    scene = _scene(show("std:neighborhood_2d", params={**IMAGE, "window_x": 5, "dilation_x": 3}))
    (panel,) = scene.panels
    assert panel.tiles == ()
    assert set(np.nonzero(panel.kept)[1] % 3) == {20 % 3}
    assert (panel.kept <= panel.visited).all()


def test_large_grids_are_aggregated_and_zoomed() -> None:
    params = {"height": 256, "width": 256, "window_y": 80, "window_x": 80, "stride_y": 16, "stride_x": 16}
    whole = _scene(show("std:neighborhood_2d", params=params))
    assert whole.is_aggregated
    assert whole.seen == 80 * 80
    area = np.diff(whole.rows)[:, None] * np.diff(whole.columns)[None, :]
    assert (whole.panels[0].kept * area).sum() == pytest.approx(80 * 80)
    part = _scene(show("std:neighborhood_2d", params=params, rows=(100, 140), keys=(90, 150)))
    assert not part.is_aggregated
    assert part.panels[0].kept.shape == (40, 60)


def test_grids_without_boxes_are_drawn_from_ranges() -> None:
    text = _text("abs(i.y - j.y) + abs(i.x - j.x) <= 3", grid="grid (y: 12, x: 16)")
    scene = _scene(show(**text, tile=(16, 16)))
    assert scene.seen == 25
    assert (scene.panels[0].kept <= scene.panels[0].visited).all()


def test_queries_outside_the_grid_are_refused() -> None:
    for query in [(24, 0), (0,), (0, -1), (1, 2, 3)]:
        with pytest.raises(CallError, match="expected coordinates"):
            show("std:neighborhood_2d", params=IMAGE, query=query).svg()
    with pytest.raises(CallError, match="there are 100 keys"):
        show("std:neighborhood_2d", 100, params=IMAGE)
    with pytest.raises(CallError, match="no grid"):
        show("std:causal", 10, view="grid")
    with pytest.raises(CallError, match="number of queries"):
        show("std:causal")
    points = IMAGE["height"] * IMAGE["width"]
    assert "100 queries" in show("std:neighborhood_2d", 100, points, params=IMAGE, view="tiles").text()
    with pytest.raises(CallError, match=f"has {points} positions, the call has N = 100"):
        show("std:neighborhood_2d", 100, params=IMAGE, view="tiles")


# -- files -----------------------------------------------------------------------------------------------------------

EXAMPLES = [
    show("std:causal", 300),
    show("std:prefix_lm", 300),
    show("std:dilated_window", 300, params=DILATED),
    show("std:neighborhood_2d", params=IMAGE),
    show("std:neighborhood_3d", params=VIDEO),
]


@pytest.mark.parametrize("picture", EXAMPLES, ids=lambda picture: picture.plan.module.name)
def test_svg_is_well_formed_and_alone(picture: Picture) -> None:
    svg = picture.svg()
    root = ET.fromstring(svg)
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    assert root.attrib["viewBox"] == f"0 0 {width:g} {height:g}"
    assert picture.svg() == svg
    assert not re.search(r"href|<script|<image|https?://(?!www\.w3\.org/2000/svg)", svg)
    assert "prefers-color-scheme:dark" in svg
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        assert 0 <= float(text.attrib["x"]) <= width
        assert 0 <= float(text.attrib["y"]) <= height


@pytest.mark.parametrize("picture", EXAMPLES, ids=lambda picture: picture.plan.module.name)
def test_html_says_why_a_cell_is_empty(picture: Picture) -> None:
    page = picture.html()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert data["plots"]
    data |= data["plots"][0]
    reasons = data.get("reasons", [])
    name = picture.plan.module.name
    if name == "causal":
        assert reasons == ["not (j <= i)"]
        assert data["codes"][0][:3] == "'(("
    if name == "neighborhood_2d":
        assert any("i.y" in reason and "i.x" not in reason for reason in reasons)


def test_reasons_of_tiles_name_the_clause() -> None:
    matrix = _matrix(show("std:sliding_window", 100_000, params={"size": 3000}), with_reasons=True)
    assert matrix.reasons is not None
    assert matrix.reasons.texts[matrix.reasons.code[0, -1]] == "not (0 <= i - j)"
    assert matrix.reasons.texts[matrix.reasons.code[-1, 0]] == "not (i - j < 3000)"
    assert (matrix.reasons.code[matrix.live > 0] == -1).all()
    assert (matrix.reasons.code[matrix.live == 0] >= 0).all()


def test_text_of_others_is_escaped() -> None:
    picture = show(**_text("j <= i"), n=20)
    object.__setattr__(picture.plan.module, "name", '</title><script>alert("&")</script>\x00')
    for file in (picture.svg(), picture.html()):
        assert "<script>alert" not in file
        assert "\x00" not in file
    ET.fromstring(picture.svg())


def test_png_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.collections"):
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    with pytest.raises(CallError, match="pip install matplotlib"):
        EXAMPLES[0].png()


def test_png_shows_the_same() -> None:
    pytest.importorskip("matplotlib", reason="draws PNG files; install matplotlib to run this")
    for picture in EXAMPLES:
        assert picture.png().startswith(b"\x89PNG")


def test_files_are_chosen_by_suffix(tmp_path: Path) -> None:
    for suffix in (".svg", ".html", ".txt"):
        EXAMPLES[0].save(tmp_path / f"mask{suffix}")
        assert (tmp_path / f"mask{suffix}").stat().st_size > 100
    with pytest.raises(CallError, match="ends in"):
        EXAMPLES[0].save(tmp_path / "mask.pdf")


def test_rectangles_cover_the_marked_cells() -> None:
    marked = np.random.default_rng(7).random((30, 40)) < 0.5
    again = np.zeros_like(marked)
    for left, top, right, bottom in boxes_of(marked):
        assert not again[top:bottom, left:right].any()
        again[top:bottom, left:right] = True
    assert (again == marked).all()


# -- the command -----------------------------------------------------------------------------------------------------


def test_command_prints_a_text() -> None:
    done = attnc_("std:causal", "-n", "256")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("causal: 256 queries, 256 keys\ntiles: 2 full, 4 partial, 2 skipped of 8")


def test_command_keeps_to_the_encoding_of_the_terminal() -> None:
    code = "from attnc.cli import main; main(['show', 'std:causal', '-n', '256'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=True, env={"PYTHONIOENCODING": "ascii"}
    )
    assert b"#" in done.stdout


def test_command_writes_files(tmp_path: Path) -> None:
    out = tmp_path / "mask.svg"
    done = attnc_(
        "std:neighborhood_2d", *[f"--param={k}={v}" for k, v in IMAGE.items()], "--query", "3,4", "-o", str(out)
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(out)
    assert "y = 3, x = 4" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-n", "10", "-o", "mask.pdf"], 2, "ends in"),
        (["-n", "10", "--rows", "5"], 2, "expected A:B"),
        (["-n", "10", "--rows", "5:3"], 1, "expected a range"),
        (["-n", "10", "--query", "x"], 2, "expected coordinates"),
        (["-n", "10", "--query", "1,2"], 1, "only a neighbourhood"),
        (["-n", "-1"], 2, "-1"),
        (["-n", "99999999999"], 1, "expected 0 to"),
        (["-n", "10", "--head", "3", "--heads", "2"], 1, "head: expected 0 to 1"),
        (["-n", "10", "-o", "no/such/folder/mask.svg"], 1, "No such file"),
        ([], 1, "number of queries"),
    ],
)
def test_command_refuses(arguments: list[str], code: int, message: str) -> None:
    done = attnc_("std:causal", *arguments)
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output


# -- the pictures of the manual --------------------------------------------------------------------------------------

MANUAL = {
    "sliding_window.svg": lambda: show("std:sliding_window", 448, params={"size": 128}, tile=(64, 64)),
    "streaming.svg": lambda: show("std:streaming", 16_384, params={"sink": 64, "window": 2048}),
    "neighborhood_2d.svg": lambda: show(
        "std:neighborhood_2d", params={"height": 32, "width": 48, "window_y": 9, "window_x": 13}
    ),
    "radial.svg": lambda: show("std:radial", 12 * 960, params={"frames": 12, "per_frame": 960}),
}


@pytest.mark.parametrize("name", MANUAL)
def test_pictures_of_the_manual_are_what_is_drawn(name: str, golden: Any) -> None:
    golden(PICTURES / name, MANUAL[name]().svg())
    assert f"pictures/{name}" in (ROOT / "docs" / "masks.md").read_text(encoding="utf-8")


# -- parts -----------------------------------------------------------------------------------------------------------


def test_a_mask_in_two_parts_is_drawn_part_by_part() -> None:
    picture = show("std:strided", 512, params={"stride": 64, "merged": True}, tile=(64, 64), view="tiles")
    assert len(picture.plan.parts) == 2
    first, second = picture.text().split("\n\n")
    assert first.startswith("strided, part 1 of 2: 512 queries")
    assert "residue modulo 64" in first
    assert second.startswith("strided, part 2 of 2: 512 queries")
    kept = sum(int(re.findall(r"(\d+) pairs kept in this part", text)[0]) for text in (first, second))
    i, j = np.arange(512)[:, None], np.arange(512)
    assert kept == ((j <= i) & ((i - j < 64) | ((i - j) % 64 == 0))).sum()
    assert picture.svg().count("part 1 of 2") == 2  # the title of the file and that of the matrix
    data = json.loads(re.findall(r'id="data">(.*?)</script>', picture.html(), re.DOTALL)[0])
    assert [len(plot["live"]) for plot in data["plots"]] == [len(plot["rows"]) - 1 for plot in data["plots"]]
    assert len(data["plots"]) == 2


def test_a_query_on_a_grid_sees_the_tiles_of_all_parts() -> None:
    source = "attention cross { grid (y: 32, x: 32)\n mask i.y == j.y or i.x == j.x }"
    picture = show(source=source, query=(5, 9))
    assert len(picture.plan.parts) == 2
    assert "63 keys kept" in picture.text()

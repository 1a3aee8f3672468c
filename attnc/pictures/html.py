"""The SVG in a page that says, under the pointer, what a cell is and which clause of the mask removed it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from attnc.pictures.matrix import Matrix
from attnc.pictures.matrix_sheet import Plot, matrix_sheet
from attnc.pictures.neighbourhood import Neighbourhood
from attnc.pictures.neighbourhood_sheet import neighbourhood_sheet
from attnc.pictures.svg import Sheet, escaped, sheet_svg

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body{{margin:12px;background:#fff;color:#1b1b1b;font:13px system-ui,sans-serif}}
#tip{{position:fixed;pointer-events:none;display:none;max-width:32em;padding:6px 9px;border-radius:4px;background:#222;
color:#fff;white-space:pre-line}}
svg{{max-width:100%;height:auto}}
@media(prefers-color-scheme:dark){{body{{background:#16181c;color:#e6e6e6}}}}
</style></head><body>
{svg}
<p>Point at a cell. The wheel zooms, a double click shows all again.</p>
<div id="tip"></div>
<script type="application/json" id="data">{data}</script>
<script>
{script}
</script></body></html>
"""

_SCRIPT = """\
const data = JSON.parse(document.getElementById("data").textContent);
const svg = document.querySelector("svg"), tip = document.getElementById("tip"), whole = svg.getAttribute("viewBox");
const point = e => new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
const cell = (edges, at) => { let n = 0; while (n < edges.length - 2 && at >= edges[n + 1]) n++; return n; };
function said(p) {
  for (const plot of data.plots) {
    const x = (p.x - plot.x) / plot.width, y = (p.y - plot.y) / plot.height;
    if (x < 0 || x >= 1 || y < 0 || y >= 1) continue;
    const all = {...data, ...plot};
    const row = all.rows[0] + y * (all.rows.at(-1) - all.rows[0]);
    const column = all.columns[0] + x * (all.columns.at(-1) - all.columns[0]);
    const r = cell(all.rows, row), c = cell(all.columns, column);
    return plot.kinds ? oneQuery(plot, r, c) : tiles(all, row, column, r, c);
  }
}
function span(edges, n) {
  return edges[n + 1] - edges[n] > 1 ? edges[n] + " to " + (edges[n + 1] - 1) : "" + edges[n];
}
function tiles(data, row, column, r, c) {
  const total = data.row_tiles[r] * data.column_tiles[c], live = data.live[r][c], full = data.full[r][c];
  let text = data.what[0] + " " + span(data.rows, r) + ", " + data.what[1] + " " + span(data.columns, c) + "\\n";
  const sure = data.sure ? data.sure[r][c] : live;
  if (total == 1) text += live == 0 ? "skipped" : sure == 0 ? "depends on data" : full ? "full" : "partial";
  else {
    text += live + " of " + total + " tiles visited, " + full + " of them full";
    if (live > sure) text += ", " + (live - sure) + " depending on data";
  }
  if (!data.codes) return text;
  const y = Math.floor(row - data.rows[0]), x = Math.floor(column - data.columns[0]);
  const code = data.of_pairs ? data.codes[y].charCodeAt(x) - 40 : data.codes[r].charCodeAt(c) - 40;
  if (data.of_pairs) text += "\\npair " + data.row_tokens[y] + ", " + data.column_tokens[x];
  if (data.of_pairs && code < 0) text += ": kept";
  return code < 0 ? text : text + "\\nremoved: " + data.reasons[code];
}
function oneQuery(plot, r, c) {
  const what = plot.kinds[r][c], names = data.what;
  return (plot.label ? plot.label + ", " : "") + names[0] + " " + span(data.rows, r) + ", " + names[1] + " " +
    span(data.columns, c) + "\\n" + (what == "2" ? "seen" : what == "1" ? "visited, masked out" : "skipped") +
    (plot.codes && plot.codes[r].charCodeAt(c) >= 40 ? "\\nremoved: " + data.reasons[plot.codes[r].charCodeAt(c) - 40]
      : "");
}
svg.addEventListener("pointermove", e => {
  const text = said(point(e));
  tip.style.display = text ? "block" : "none";
  tip.textContent = text || "";
  tip.style.left = Math.min(e.clientX + 14, innerWidth - 340) + "px";
  tip.style.top = e.clientY + 14 + "px";
});
svg.addEventListener("pointerleave", () => { tip.style.display = "none"; });
svg.addEventListener("wheel", e => {
  e.preventDefault();
  const p = point(e), by = e.deltaY < 0 ? 0.8 : 1.25, box = svg.viewBox.baseVal;
  svg.setAttribute("viewBox", [p.x - (p.x - box.x) * by, p.y - (p.y - box.y) * by, box.width * by, box.height * by]
    .join(" "));
}, { passive: false });
svg.addEventListener("dblclick", () => svg.setAttribute("viewBox", whole));"""


def matrix_html(matrices: Sequence[Matrix]) -> str:
    """The page of matrices."""
    sheet, plots = matrix_sheet(matrices)
    drawn = [pair for pair in zip(matrices, plots, strict=True) if pair[0].rows.cells and pair[0].keys.cells]
    return _page(matrices[0].name, sheet, {"plots": [_plot_data(matrix, plot) for matrix, plot in drawn]})


def _plot_data(matrix: Matrix, plot: Plot) -> dict[str, Any]:
    data: dict[str, Any] = {
        "x": plot.x,
        "y": plot.y,
        "width": plot.width,
        "height": plot.height,
        "what": ["queries", "keys"] if matrix.order is None else ["queries (in order)", "keys (in order)"],
        "rows": matrix.rows.edges.tolist(),
        "columns": matrix.keys.edges.tolist(),
        "row_tiles": matrix.rows.tiles_of_cells.tolist(),
        "column_tiles": matrix.keys.tiles_of_cells.tolist(),
        "full": matrix.full.tolist(),
        "live": matrix.live.tolist(),
    }
    if (matrix.sure != matrix.live).any():
        data["sure"] = matrix.sure.tolist()
    if matrix.reasons is not None:
        data["codes"] = [_text(row) for row in matrix.reasons.code]
        data["of_pairs"] = matrix.reasons.of_pairs
        data["reasons"] = list(matrix.reasons.texts)
        if matrix.rows.tokens is not None and matrix.keys.tokens is not None:
            data["row_tokens"], data["column_tokens"] = matrix.rows.tokens.tolist(), matrix.keys.tokens.tolist()
    return data


def neighbourhood_html(scene: Neighbourhood) -> str:
    """The page of a neighbourhood."""
    sheet, places = neighbourhood_sheet(scene)
    plots: list[dict[str, Any]] = []
    for panel, place in zip(scene.panels, places, strict=True):
        kinds = np.where(panel.kept > 0, 2, np.where(panel.visited > 0, 1, 0))
        plot = {"x": place.x, "y": place.y, "width": place.width, "height": place.height, "label": panel.label}
        plots.append({**plot, "kinds": ["".join(map(str, row)) for row in kinds.tolist()]})
        if panel.codes is not None:
            plots[-1]["codes"] = [_text(row) for row in panel.codes]
    data = {
        "plots": plots,
        "what": list(scene.axes[-2:]),
        "rows": scene.rows.tolist(),
        "columns": scene.columns.tolist(),
        "reasons": list(scene.reasons),
    }
    return _page(scene.name, sheet, data)


def _text(codes: Any) -> str:
    """A character per cell: ( is the first reason, ' none."""
    return "".join(chr(40 + code) for code in codes.tolist())


def _page(name: str, sheet: Sheet, data: dict[str, Any]) -> str:
    # Nothing in the data can end the script element or start another one.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
    return _PAGE.format(title=escaped(name), svg=sheet_svg(sheet), data=text, script=_SCRIPT)

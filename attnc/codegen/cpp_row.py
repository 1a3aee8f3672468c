"""The lines of C++ for the queries of a unit and one key tile."""

from __future__ import annotations

from attnc.codegen.cpp_columns import scatter_lines, weight_buffers
from attnc.codegen.cpp_emitter import CppEmitter, Lines
from attnc.codegen.cpp_levels import Val
from attnc.codegen.cpp_text import IDENTITY, indented
from attnc.codegen.provenance import describe
from attnc.ir.dependence import conjuncts
from attnc.ir.expr import TRUE, Expr, Ref, Value
from attnc.ir.plan import Accumulator, KernelPlan, Sweep
from attnc.ir.traverse import substitute, walk
from attnc.ir.types import REAL

_LOGIT = Value("s", REAL)


class RowText:
    """The lines of all queries and one key tile: accumulators in phases, each after the extrema that it reads.

    A vector of queries goes through all phases before the next. What a phase finds for each of them in lanes of columns
    (`part_x`, [query][lane]) is reduced for all together, so that a number for each query costs no more than a lane.
    """

    def __init__(
        self, emitter: CppEmitter, plan: KernelPlan, mask: Expr, sweep: Sweep, *, partial: bool, spans: bool
    ) -> None:
        self._sweep = sweep
        self._partial = partial
        self._emitter = emitter
        self._plan = plan
        self._mask = mask
        self._bare = _bare_extrema(plan)
        self._weights = weight_buffers(sweep)
        bodies = (scatter.body for scatter in plan.scatters)
        self._reads_logit = sweep.reads_logit or any(node == _LOGIT for body in bodies for node in walk(body))
        self._groups = self._phases()
        self._spans = spans and partial and mask != TRUE
        self._unmasked = _products_of_unmasked(plan, sweep)

    @property
    def spans(self) -> str:
        """What products and sums read of the columns that queries keep."""
        return "spans" if self._spans else "nullptr"

    def kept_lines(self) -> list[str]:
        """Which pairs are kept, and of which columns every few queries keep some; nothing where all is computed."""
        if not self._spans:
            return []
        self._emitter.restart("rows", "pair")
        texts = self._kept_texts()
        lines = [f"// mask: {describe(self._mask)}", *self._emitter.levels["pair"].lines]
        self._emitter.restart("rows", "pair")
        return [
            "for (int s = 0; s < used; s++) UNROLL for (int t = 0; t < KV; t++) {",
            *indented([*lines, f"kept_pairs[s * KV + t] = {' & '.join(texts)};"], 2),
            "}",
            "find_spans<MR>(kept_pairs, used, spans);",
        ]

    def _kept_texts(self) -> list[str]:
        emitter = self._emitter
        return ["col_ok[t]", *(emitter.at(emitter.emit(clause), "pair") for clause in conjuncts(self._mask))]

    def lines(self) -> list[str]:
        """All of them."""
        sums = (*self._sweep.accumulators, *self._sweep.columns)
        needs = self._partial and (bool(self._plan.scatters) or any(acc.needs_mask for acc in sums))
        lines = [f"vf logit[{self._kept_rows}];"] if self._reads_logit else []
        lines += [f"vi keep[{self._kept_rows}];"] if needs and not self._spans else []
        last = len(self._groups) - 1
        for number, phase in enumerate(self._groups):
            lines += self._phase(phase, first=number == 0, last=number == last, keeps=needs)
        lines += [f"st({acc.name} + s0, {acc.name}_new);" for acc in self._sweep.accumulators if not acc.weighted]
        return ["for (int s0 = 0; s0 < used; s0 += V) {",
                "  const int rows_end = s0 + V < used ? s0 + V : used;", *indented(lines, 2), "}"]  # fmt: skip

    @property
    def _kept_rows(self) -> str:
        """Logits are kept from phase to phase."""
        return "KV" if len(self._groups) == 1 else "V * KV"

    @property
    def _here(self) -> str:
        return "[t]" if len(self._groups) == 1 else "[(s - s0) * KV + t]"

    def _skipped(self) -> list[str]:
        """A query that does not exist adds nothing to columns."""
        if not self._sweep.columns:
            return []
        buffers = {self._weights[acc.name] for acc in self._sweep.columns if acc.weighted}
        zeros = [f"memset({name} + s * KB, 0, 4 * KB);" for name in sorted(buffers)]
        return ["if (!exists[s]) {", *indented([*zeros, "continue;"], 2), "}"]

    def _phases(self) -> list[list[Accumulator]]:
        phases: list[list[Accumulator]] = []
        moving: set[str] = set()
        for acc in self._sweep.accumulators:
            exprs = (acc.body, *((acc.rescale,) if acc.rescale is not None else ()))
            read = {node.name for expr in exprs for node in walk(expr) if isinstance(node, Ref)}
            if not phases or read & moving:
                phases.append([])
                moving = set()
            phases[-1].append(acc)
            moving |= {acc.name} if acc.op != "sum" else set()
        return phases or [[]]

    def _phase(self, phase: list[Accumulator], *, first: bool, last: bool, keeps: bool) -> list[str]:
        emitter = self._emitter
        emitter.restart("rows", "pair")
        pair = emitter.levels["pair"]
        for term in (*self._plan.dots, *self._plan.pair_dots):
            emitter.refs[term.name] = Val(self._product(term.name), "pair", "real")
        if first:
            self._head(pair.lines, keeps=keeps)
        if self._reads_logit:
            emitter.refs["s"] = Val(f"logit{self._here}", "pair", "real")
        factors = [(acc, self._factor(acc)) for acc in phase]
        reduced = [acc for acc in phase if not acc.weighted]
        starts = [f"vf {acc.name}_v = bf({IDENTITY[acc.op]});" for acc in reduced]
        for acc in phase:
            self._lift(acc, pair)
        if last:
            self._others(pair)
        rows = list(emitter.levels["rows"].lines)
        ends = [line for acc, factor in factors for line in self._combine(acc, factor)]
        emitter.restart("rows", "pair")
        return [
            *rows,
            "for (int s = s0; s < rows_end; s++) {",
            *indented([*self._skipped(), *starts], 2),
            "  UNROLL for (int t = 0; t < KV; t++) {",
            *indented(pair.lines, 4),
            "  }",
            *(f"  st(part_{acc.name} + (s - s0) * V, {acc.name}_v);" for acc in reduced),
            "}",
            *ends,
        ]

    def _product(self, name: str) -> str:
        """A product of a pair. Where no query keeps a column it was not computed: what lies there may be no number, and
        a weight of zero would not hide it.
        """
        text = f"ld(s_{name} + s * KB + t * V)"
        if not self._spans or name not in self._unmasked:
            return text
        return f"sel(kept_pairs[s * KV + t], {text}, bf(0.0f))"

    def _head(self, lines: list[str], *, keeps: bool) -> None:
        """The logit and which pairs are kept."""
        emitter = self._emitter
        texts = ["kept_pairs[s * KV + t]"] if self._spans else ["col_ok[t]"]
        if self._partial and self._mask != TRUE and not self._spans:
            lines.append(f"// mask: {describe(self._mask)}")
            texts = self._kept_texts()
        score = emitter.at(emitter.emit(self._plan.score), "pair") if self._reads_logit else ""
        if self._partial:
            lines.append(f"const vi kept = {' & '.join(texts)};")
        lines += [f"keep{self._here} = kept;"] if keeps and not self._spans else []
        if self._reads_logit:
            value = f"sel(kept, {score}, bf(-INFINITY))" if self._partial else score
            lines.append(f"logit{self._here} = {value};")

    def _lift(self, acc: Accumulator, pair: Lines) -> None:
        text = self._of_pair(acc.body, acc)
        if acc.weighted:
            self._weigh(acc, text, pair)
        elif acc.op == "sum":
            pair.lines.append(f"{acc.name}_v += {text};")
        else:
            sign = ">" if acc.op == "max" else "<"
            larger = f"y {sign} {acc.name}_v ? y : {acc.name}_v"
            if acc.name in self._bare:
                larger = f"{acc.op}_(y, {acc.name}_v)"
            pair.lines.append(f"{{ const vf y = {text}; {acc.name}_v = {larger}; }}")

    def _others(self, pair: Lines) -> None:
        """What columns and tables get from the pairs of this query."""
        for acc in self._sweep.columns:
            text = self._of_pair(acc.body, acc)
            if acc.weighted:
                self._weigh(acc, text, pair)
            else:
                pair.lines.append(f"st({acc.name} + t * V, ld({acc.name} + t * V) + {text});")
        for scatter in self._plan.scatters:
            pair.lines += scatter_lines(self._emitter, scatter, self._of_pair(scatter.body))

    def _of_pair(self, body: Expr, acc: Accumulator | None = None) -> str:
        """A pair value, the identity where the pair is masked."""
        text = self._emitter.at(self._emitter.emit(substitute(body, {_LOGIT: Ref("s", REAL)})), "pair")
        if not self._partial or (acc is not None and not acc.needs_mask):
            return text
        keep = "kept_pairs[s * KV + t]" if self._spans else f"keep{self._here}"
        return f"sel({keep}, {text}, bf({IDENTITY['sum' if acc is None else acc.op]}))"

    def _weigh(self, acc: Accumulator, text: str, pair: Lines) -> None:
        buffer = self._weights[acc.name]
        line = f"st({buffer} + s * KB + t * V, {text});"
        if buffer == f"w_{acc.name}":
            pair.lines.append(line)

    def _combine(self, acc: Accumulator, factor: str | None) -> list[str]:
        """The accumulator with this tile; extrema become what later phases read."""
        name = acc.name
        if acc.weighted:
            return [f"st(f_{name} + s0, {factor or 'bf(1.0f)'});"]
        old = f"ld({name} + s0)"
        if acc.op == "sum":
            old = old if factor is None else f"{old} * {factor}"
            tile = f"reduce_each(part_{name}, [](vf a, vf b) {{ return a + b; }})"
            return [f"const vf {name}_new = {old} + {tile};"]
        self._emitter.refs[name] = Val(f"{name}_safe", "rows", "real")
        self._emitter.refs[f"{name}.old"] = Val(old, "rows", "real")
        larger = {"max": "greater", "min": "less"}[acc.op]
        larger = f"{acc.op}_" if name in self._bare else larger
        tile = f"reduce_each(part_{name}, [](vf a, vf b) {{ return {larger}(a, b); }})"
        return [
            f"const vf {name}_new = {larger}({tile}, {old});",
            f"const vf {name}_safe = {name}_new == bf({IDENTITY[acc.op]}) ? vf{{}} : {name}_new;",
        ]

    def _factor(self, acc: Accumulator) -> str | None:
        if acc.rescale is None:
            return None
        text = self._emitter.at(self._emitter.emit(acc.rescale), "rows")
        if not acc.rescale_guard:
            return text
        old = sorted({node.name for node in walk(acc.rescale) if isinstance(node, Ref) and node.name.endswith(".old")})
        started = " & ".join(f"(abs_(ld({name.removesuffix('.old')} + s0)) < INFINITY)" for name in old)
        return f"sel({started}, {text}, vf{{}})"


def _bare_extrema(plan: KernelPlan) -> frozenset[str]:
    """Extrema that a result reads without a sum of what they rescale: they have to pass NaN on themselves.

    Such a sum turns NaN with any of its terms, so the usual comparison, which loses NaN, is enough for other extrema.
    """
    rescaled = {acc.name: _names(acc.body) for acc in plan.accumulators if acc.op == "sum"}
    extrema = {acc.name for acc in plan.accumulators if acc.op != "sum"}
    found: set[str] = set()
    results = () if plan.output is None else (plan.output,)
    for expr in (*results, *(binding.expr for binding in plan.aux)):
        read = _names(expr)
        found |= (read & extrema).difference(*(rescaled[name] for name in read if name in rescaled))
    return frozenset(found)


def _names(expr: Expr) -> set[str]:
    return {node.name for node in walk(expr) if isinstance(node, Ref)}


def _products_of_unmasked(plan: KernelPlan, sweep: Sweep) -> set[str]:
    """The products that bodies read which vanish with the logit of a masked pair, so that nothing else masks them."""
    bodies = [acc.body for acc in (*sweep.accumulators, *sweep.columns) if not acc.needs_mask]
    read = {name for body in bodies for name in _names(body)}
    return read & {term.name for term in (*plan.dots, *plan.pair_dots)}

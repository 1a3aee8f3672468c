"""The C++ of one stage of a plan: packing of a key tile, one unit of queries, and the function that runs them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from attnc.codegen.context import Arg, EntryText, Variant
from attnc.codegen.cpp_columns import STRAND, Columns, scatter_args, weight_buffers
from attnc.codegen.cpp_emitter import CppEmitter, Lines
from attnc.codegen.cpp_keys import Keys, Operand, PackedKeys, StridedKeys
from attnc.codegen.cpp_levels import Val
from attnc.codegen.cpp_merge import leave_lines, merge_lines, state_size
from attnc.codegen.cpp_pairs import operands, pair_lines, token_features
from attnc.codegen.cpp_row import RowText
from attnc.codegen.cpp_text import (
    CppStage,
    CppVariant,
    declared_lines,
    finished_feature,
    finished_value,
    function_text,
    indented,
    leaving,
    padded_text,
    running_value,
    sequence_lines,
    state_place,
    tensor_arguments,
    unpacking,
    wide_tensors,
)
from attnc.codegen.place import is_vector, operand_heads, ranges, tensor_codes
from attnc.codegen.render import render_entry
from attnc.codegen.states import state_key
from attnc.codegen.token_loads import plain_name
from attnc.ir.dependence import conjuncts, is_key_clause
from attnc.ir.expr import Expr, Ref
from attnc.ir.merge import splits
from attnc.ir.plan import Accumulator, KernelPlan, Stage, Sweep
from attnc.ir.traverse import walk


def key_clauses(mask: Expr) -> list[Expr]:
    """Clauses that look at the key alone: what they remove is not read."""
    return [clause for clause in conjuncts(mask) if is_key_clause(clause)]


#: Which queries the slots of a unit stand for; those that do not exist compute with zeros.
_ROWS = (
    "const int slots = call.rows_per_head * call.heads_per_tile;",
    "int used = 0;",
    "int64_t row[ROWS], pos[ROWS], head[ROWS];",
    "bool exists[ROWS];",
    "for (int s = 0, at = 0, heads = 0; s < ROWS; s++) {",
    "  const int64_t r = s < slots ? call.unit_rows[unit * call.rows_per_head + at] : -1;",
    "  exists[s] = r >= 0;",
    "  if (exists[s]) used = s + 1;",
    "  row[s] = r < 0 ? 0 : r;",
    "  pos[s] = q_offset + row[s];",
    "  head[s] = head0 + (s < slots ? heads : 0);",
    "  if (++at == call.rows_per_head) at = 0, heads++;",
    "}",
)


class StageText:
    """The text of one stage."""

    def __init__(self, plan: KernelPlan, variant: CppVariant, stage: Stage, number: int, *, query_heads: bool) -> None:
        self._plan = plan
        self._variant = variant
        self._stage = stage
        self._name = f"stage{number}"
        self._mask = plan.mask_of(stage.part)
        self._query_heads = query_heads
        base = Variant(packed=variant.packed, wide=variant.wide)
        self._codes = tensor_codes(plan, base)
        self._ranges = ranges(plan.module, replace(base, wide_tensors=frozenset(wide_tensors(variant))))
        self._emitter = self._new_emitter(
            {"r": Val("row[s]", "row", "int"), "i": Val("pos[s]", "row", "int"), "h": Val("head[s]", "row", "int"),
             "c": Val("cv[t]", "key", "int", variant.wide), "j": Val("jv[t]", "key", "int", variant.wide)}
        )  # fmt: skip
        self._used: set[str] = set()
        self._done = [acc for n in range(stage.sweeps[0]) for acc in plan.sweeps[n].accumulators]
        self._scalars: set[str] = set()
        self._lefts, self._rights = operands(plan)
        self._emitter.vectors.update(token_features(self._lefts, self._rights))
        self._columns = Columns(plan.columns, "h" if query_heads else "hk")
        self._weights = {name: buffer for n in stage.sweeps for name, buffer in weight_buffers(plan.sweeps[n]).items()}
        self._keys = self._read_keys()

    def _read_keys(self) -> Keys:
        values = [(self._plan.values_of(acc), acc.dim) for acc in self._plan.accumulators if acc.weighted]
        read = (*self._rights.items(), *dict(values).items())
        found = tuple(self._operand(name, dim) for name, dim in read)
        if self._variant.few:
            return StridedKeys(self._name, found, len(self._rights), self._variant.few)
        return PackedKeys(self._name, found, len(self._rights), padded=bool(self._plan.columns))

    def _new_emitter(self, indices: Mapping[str, Val]) -> CppEmitter:
        leaves = {"b": Val("b", "const", "int"), "hk": Val("hk", "const", "int"), **indices}
        for size in ("B", "H", "Hk", "N", "M"):
            leaves[f"size:{size}"] = Val("HK" if size == "Hk" else size, "const", "int")
        for size, value in (("D", self._plan.head_dim), ("Dv", self._plan.value_dim)):
            leaves[f"size:{size}"] = Val(f"int64_t({value})", "const", "int")
        for offset in ("q_offset", "k_offset"):
            leaves[f"value:{offset}"] = Val(offset, "const", "int")
        leaves["value:scale"] = Val("scale", "const", "real")
        for n, param in enumerate(self._plan.module.scalars):
            leaves[f"param:{param.name}"] = Val(f"p{n}", "const", param.type.kind)
        return CppEmitter(leaves, self._codes, self._ranges, wide=self._variant.wide)

    # -- the whole -----------------------------------------------------------------------------------------------

    def build(self) -> tuple[str, CppStage]:
        prepare = self._prepare()
        unit = self._unit()
        args = self._args()
        prelude = indented(unpacking(args), 2)
        texts = [prepare, unit, *([self._columns.function(self._name)] if self._columns.accumulators else [])]
        text = "\n".join((*(line.replace("@ARGS@", "\n".join(prelude).lstrip()) for line in texts), self._entry()))
        return text, CppStage(self._name, args, self._plan.parts.index(self._stage.part))

    def _prepare(self) -> str:
        """The function that makes one key tile of one key head ready."""
        emitter = self._new_emitter({"c": Val("c", "const", "int"), "j": Val("(k_offset + c)", "const", "int"),
                                     "h": Val("h", "const", "int")})  # fmt: skip
        alive = [emitter.emit(clause) for clause in key_clauses(self._mask)]
        self._note(emitter, [x.name for x in self._keys.operands])
        texts = " && ".join(["true", *(v.text for v in alive)])
        return self._keys.prepare([*emitter.levels["const"].lines, f"const bool alive = {texts};"])

    def _operand(self, name: str, dim: int) -> Operand:
        kind = dict(self._variant.types).get(name, "float")
        return Operand(name, dim, kind, self._stem(name), self._pointer(name, "c"))

    def _stem(self, name: str) -> str:
        return self._codes[name].stem

    def _pointer(self, name: str, row: str) -> str:
        """The address of a token's vector; `h` is the query head."""
        stem, heads = self._stem(name), "h" if operand_heads(self._plan, name) == "H" else "hk"
        start = {"c": "k_start + ", "row[s]": "q_start + "}[row]
        head = "head[s]" if heads == "h" and row == "row[s]" else heads
        return f"{stem}_ptr + b * {stem}_s0 + {head} * {stem}_s1 + ({start}{row}) * {stem}_s2"

    def _note(self, emitter: CppEmitter, operands: list[str]) -> None:
        self._used |= emitter.tensors_used | set(operands)
        self._scalars |= emitter.scalars_used

    # -- one unit ------------------------------------------------------------------------------------------------

    def _unit(self) -> str:
        plan, stage = self._plan, self._stage
        lefts = self._lefts.items()
        sweeps = [line for n in stage.sweeps for line in self._sweep(plan.sweeps[n])]
        if splits(plan):
            sweeps = self._split(plan.sweeps[0], sweeps)
        finish = self._finish() if stage.finishes else self._leave()
        const, row = self._emitter.levels["const"], self._emitter.levels["row"]
        self._note(self._emitter, [*self._lefts])
        strides = {name: self._keys.left_stride(dim) for name, dim in lefts}
        loads = [f"read_row(left_{plain_name(name)} + s * {strides[name]}, {self._pointer(name, 'row[s]')}, "
                 f"{self._stem(name)}_s3, {dim}, {strides[name]}, exists[s]);" for name, dim in lefts]  # fmt: skip
        accumulators = [acc for n in range(max(stage.sweeps) + 1) for acc in plan.sweeps[n].accumulators]
        return function_text(
            f"static void {self._name}_unit(const Call& call, int64_t group, int64_t hk, int64_t head0, int64_t unit, "
            f"int64_t segment, float* states, float* const* shared{STRAND if self._columns.accumulators else ''})",
            [
                "@ARGS@",
                "const int64_t* seq = call.seqs + 8 * (group * call.seqs_per_group + call.unit_seq[unit]);",
                *sequence_lines(),
                *_ROWS,
                *const.lines,
                *(f"alignas(64) float left_{plain_name(name)}[ROWS * {strides[name]}];" for name, _ in lefts),
                *row.declared,
                *(line for acc in accumulators for line in declared_lines(acc)),
                "for (int s = 0; s < ROWS; s++) {",
                *indented([*loads, *row.lines, *self._resumed()], 2),
                "}",
                *self._tile_buffers(),
                "const int64_t range_batch = call.range_batches > 1 ? group : 0;",
                "const int64_t range_head = call.range_heads <= 1 ? 0 : call.range_heads == HK ? hk : head0;",
                "const int64_t list = range_batch * call.range_heads + range_head;",
                "const int64_t* range = call.ranges + 2 * (list * call.units + unit);",
                *sweeps,
                *finish,
            ],
        )

    def _tile_buffers(self) -> list[str]:
        lines = [f"alignas(64) float s_{t.name}[ROWS * KB];" for t in (*self._plan.dots, *self._plan.pair_dots)]
        lines += [f"alignas(64) float {buffer}[ROWS * KB];" for buffer in dict.fromkeys(self._weights.values())]
        lines += [f"alignas(64) float f_{a.name}[ROWS];" for a in self._weighted()]
        reduced = [a for n in self._stage.sweeps for a in self._plan.sweeps[n].accumulators if not a.weighted]
        if not self._variant.few:
            lines += ["vi kept_pairs[ROWS * KV];", "Span spans[ROWS / MR + 1];"]
        lines += [f"alignas(64) float part_{a.name}[V * V] = {{}};" for a in reduced]
        return [*lines, *self._keys.buffers()]

    def _split(self, sweep: Sweep, lines: list[str]) -> list[str]:
        """A unit computes one segment of its keys, or, as segment -1, merges all of them."""
        merged = merge_lines(sweep, self._emitter)
        for acc in sweep.accumulators:
            self._emitter.refs[acc.name] = finished_value(acc)
        return ["if (segment < 0) {", *indented(merged, 2), "} else {", *indented(lines, 2), "}", *leave_lines(sweep)]

    def _weighted(self) -> list[Accumulator]:
        return [a for n in self._stage.sweeps for a in self._plan.sweeps[n].accumulators if a.weighted]

    def _resumed(self) -> list[str]:
        """Accumulators as earlier stages left them."""
        stage = self._stage
        sweeps = [*range(stage.sweeps[0]), *(stage.sweeps if stage.resumes else ())]
        lines: list[str] = []
        for acc in (acc for n in sweeps for acc in self._plan.sweeps[n].accumulators):
            place = state_place(acc)
            if acc.weighted:
                dim = padded_text(acc.dim)
                lines.append(f"if (exists[s]) memcpy({acc.name} + s * {dim}, {place}, 4 * {acc.dim});")
            else:
                lines.append(f"if (exists[s]) {acc.name}[s] = *({place});")
        return lines

    def _leave(self) -> list[str]:
        """Leave the accumulators of the last sweep to the next stage."""
        lines = [line for acc in self._plan.sweeps[self._stage.sweeps[-1]].accumulators for line in leaving(acc)]
        return ["for (int s = 0; s < used; s++) {", "  if (!exists[s]) continue;", *indented(lines, 2), "}"]

    # -- sweeps --------------------------------------------------------------------------------------------------

    def _sweep(self, sweep: Sweep) -> list[str]:
        full, partial = self._tile(sweep, partial=False), self._tile(sweep, partial=True)
        self._done += sweep.accumulators
        for acc in self._done:
            self._emitter.refs[acc.name] = finished_value(acc)
            if acc.weighted:
                self._emitter.vectors[acc.name] = finished_feature(acc)
        return [
            f"// Sweep: {', '.join(acc.name for acc in sweep.accumulators)}.",
            "// `seen`: tiles so far; those before the segment are negative.",
            "for (int64_t n = range[0], seen = -segment * call.segment; n < range[0] + range[1]; n++) {",
            "  const int32_t* run = call.runs + 4 * n;",
            "  const int64_t end = min_((int64_t)run[1], call.segment - seen);",
            "  for (int64_t step = max_(-seen, (int64_t)0); step < end; step++) {",
            "    const int64_t at = seq[7] + run[0] + step * run[2];",
            *indented(self._columns.places(), 4),
            *indented(self._keys.ready("head0" if self._query_heads else "0"), 4),
            "    if (run[3]) {",
            *indented(full, 6),
            "    } else {",
            *indented(partial, 6),
            "    }",
            "  }",
            "  seen += run[1];",
            "}",
        ]

    def _tile(self, sweep: Sweep, *, partial: bool) -> list[str]:
        """One key tile: inner products of all queries, what is made of them, then sums.

        So the packed keys stay in the first cache for all queries, and then the values.
        """
        emitter = self._emitter
        emitter.restart("key")
        for acc in sweep.accumulators:
            emitter.refs.pop(acc.name, None)
        self._emitter.refs |= {acc.name: finished_value(acc) for acc in self._done}
        pairs = [line for p in self._plan.pair_dots if self._reads(sweep, p.name) for line in pair_lines(emitter, p)]
        self._emitter.refs |= {acc.name: running_value(acc) for acc in self._done}
        rows = RowText(self._emitter, self._plan, self._mask, sweep, partial=partial, spans=not self._variant.few)
        kept, body = rows.kept_lines(), rows.lines()
        key = emitter.levels["key"]
        emitter.restart("key")
        text = "".join((*pairs, *kept, *body))
        reads = "jv[t]" in text or "cv[t]" in text
        columns_lines = self._of_columns(key, partial=partial) if partial or key.lines or reads else []
        dots = [self._keys.dot(t, rows.spans) for t in self._plan.dots if self._reads(sweep, t.name)]
        sums = [self._keys.sums(acc, self._weights[acc.name], self._plan.values_of(acc), rows.spans)
                for acc in sweep.accumulators if acc.weighted]  # fmt: skip
        return [
            *columns_lines,
            *kept,
            *dots,
            *pairs,
            *body,
            *sums,
            *self._columns.sums(
                self._weights, {name: self._keys.left_stride(dim) for name, dim in self._lefts.items()}
            ),
        ]

    def _of_columns(self, key: Lines, *, partial: bool) -> list[str]:
        """Positions of the columns of a tile, which of them exist, and what depends on them alone."""
        wide = self._variant.wide
        return [
            f"{'vl' if wide else 'vi'} cv[KV], jv[KV];",
            *(["vi col_ok[KV];"] if partial else []),
            *key.declared,
            "for (int t = 0; t < KV; t++) {",
            "  const vi col = *(const viu*)(call.cols + at * KB + t * V);",
            "  const vi safe = max_(col, vi{});",
            "  cv[t] = wide(safe);" if wide else "  cv[t] = safe;",
            "  jv[t] = cv[t] + k_offset;" if wide else "  jv[t] = cv[t] + (int32_t)k_offset;",
            *(["  col_ok[t] = col >= 0;"] if partial else []),
            *indented(key.lines, 2),
            "}",
        ]

    def _reads(self, sweep: Sweep, name: str) -> bool:
        bodies = [acc.body for acc in (*sweep.accumulators, *sweep.columns)] + [s.body for s in self._plan.scatters]
        read = {node.name for body in bodies for node in walk(body) if isinstance(node, Ref)}
        if sweep.reads_logit:
            read |= {node.name for node in walk(self._plan.score) if isinstance(node, Ref)}
        return name in read

    # -- results -------------------------------------------------------------------------------------------------

    def _finish(self) -> list[str]:
        plan, emitter = self._plan, self._emitter
        emitter.restart("run", "feature")
        aux = [(n, emitter.emit(b.expr)) for n, b in enumerate(plan.aux)] if self._variant.aux else []
        assert plan.output is not None
        saved = [line for acc in plan.saved for line in leaving(acc)]
        out = emitter.emit(plan.output)
        run, feature = emitter.levels["run"], emitter.levels["feature"]
        token = "(q_start + row[s])"
        place = f"b * out_s0 + head[s] * out_s1 + {token} * out_s2"
        stores = [f"aux{n}_ptr[b * aux{n}_s0 + head[s] * aux{n}_s1 + {token} * aux{n}_s2] = {emitter.at(v, 'run')};"
                  for n, v in aux]  # fmt: skip
        return [
            "for (int s = 0; s < used; s++) {",
            "  if (!exists[s]) continue;",
            *indented([*run.lines, *stores, *saved], 2),
            f"  for (int t = 0; t < {padded_text(plan.value_dim)} / V; t++) {{",
            *indented(feature.lines, 4),
            f"    write_row(out_ptr, {place} + t * V, {emitter.at(out, 'feature')}, {plan.value_dim} - t * V);",
            "  }",
            "}",
        ]

    # -- around --------------------------------------------------------------------------------------------------

    def _args(self) -> tuple[Arg, ...]:
        plan, types = self._plan, dict(self._variant.types)
        args: list[Arg] = [Arg(size, "size", size) for size in ("B", "H")]
        args.append(Arg("HK", "size", "Hk"))
        for name, code in self._codes.items():
            if name in self._used:
                vector = any(d.name == name and is_vector(d) for d in plan.derived)
                rank = 4 if name in ("q", "k", "v") or vector else len(code.dims)
                args += tensor_arguments(name, code.stem, rank, types.get(name, "float"))
        if "value:scale" in self._scalars:
            args.append(Arg("scale", "value", "scale", kind="real"))
        for n, param in enumerate(plan.module.scalars):
            if f"param:{param.name}" in self._scalars:
                args.append(Arg(f"p{n}", "param", param.name, kind=param.type.kind))
        return (*args, *self._result_args())

    def _result_args(self) -> list[Arg]:
        plan, stage = self._plan, self._stage
        own = stage.resumes or not stage.finishes
        states = [a for sweep in plan.sweeps[: stage.sweeps[0] + own] for a in sweep.accumulators]
        states += [acc for acc in plan.saved if stage.finishes and acc not in states]
        args = self._columns.args()
        for acc in states:
            args += tensor_arguments(state_key(acc), f"state_{acc.name}", 4 if acc.weighted else 3, "float")
        for scatter in plan.scatters:
            args += scatter_args(scatter)
        if not stage.finishes:
            return args
        args += tensor_arguments("out", "out", 3, dict(self._variant.types)["q"])
        for n, binding in enumerate(plan.aux if self._variant.aux else ()):
            args += tensor_arguments(f"aux:{binding.name}", f"aux{n}", 3, "float")
        return args

    def _entry(self) -> str:
        """The exported function: keys of a head packed where several units read them, units shared among threads."""
        sizes, columns = self._keys.sizes, self._columns
        state = state_size(self._plan.sweeps[0]) if splits(self._plan) else "0"
        per_key = int(self._query_heads)
        size = columns.size if columns.accumulators else ""
        return render_entry(EntryText(self._name, ", ".join(sizes), len(sizes), per_key, state, size))

"""The attention kernel of a plan: sweeps over the visits, accumulators, output and statistics."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.codegen import boxes
from attnc.codegen.code import Block, Code, Feature
from attnc.codegen.context import Arg, KernelText, SweepText, Variant, VisitText
from attnc.codegen.emitter import Emitter
from attnc.codegen.loops import piece_lines
from attnc.codegen.place import (
    make_emitter,
    place_args,
    place_lines,
    program_lines,
    tensor_args,
    tensor_codes,
    used_args,
)
from attnc.codegen.provenance import describe
from attnc.ir.dependence import conjuncts, is_key_clause
from attnc.ir.expr import TRUE, Expr, Ref, Value
from attnc.ir.plan import Accumulator, KernelPlan, PairDot, Part, Sweep, Visit
from attnc.ir.traverse import substitute, walk
from attnc.ir.types import REAL

_IDENTITY = {"sum": "0.0", "max": 'float("-inf")', "min": 'float("inf")'}
_LOGIT = Value("s", REAL)


def padded(dim: int) -> int:
    """Features as a block: a power of two, at least what a tensor core takes."""
    return max(16, 1 << (dim - 1).bit_length())


def attention_kernel(plan: KernelPlan, variant: Variant) -> tuple[KernelText, Emitter]:
    """The kernel text of the only part of a plan."""
    return _AttentionKernel(plan, variant, plan.parts[0]).build()


@dataclass(frozen=True, slots=True)
class _Operand:
    """A stored vector that the kernel loads: its tensor, length, side and the head that it is read for."""

    name: str
    stem: str
    dim: int
    heads: str


class _AttentionKernel:
    def __init__(self, plan: KernelPlan, variant: Variant, part: Part) -> None:
        self._plan = plan
        self._variant = variant
        self._part = part
        indices = {
            "b": Code("b"),
            "h": Code("h"),
            "hk": Code("hk"),
            "r": Code("row", "i", wide=variant.wide),
            "i": Code("i", "i", wide=variant.wide),
            "c": Code("col", "j", inner=True, wide=variant.wide),
            "j": Code("j", "j", inner=True, wide=variant.wide),
        }
        scalars = {"ref:i0": Code("i0"), "ref:i1": Code("i1")}
        self._emitter = make_emitter(plan, variant, indices, scalars)
        self._emitter.lane_masks["i"] = "row_ok"
        for n, axis in enumerate(part.axes):
            self._emitter.outer.memo[axis.query, ""] = Code(f"x{n}", "i")
        self._stems = {name: code.stem for name, code in tensor_codes(plan, variant).items()}

    def build(self) -> tuple[KernelText, Emitter]:
        tile = self._part.tile
        queries = self._query_lines()
        sweeps = tuple(self._sweep(n, sweep) for n, sweep in enumerate(self._plan.sweeps))
        epilogue = self._epilogue()
        prologue = tuple(self._emitter.outer.lines)
        kernel = KernelText(
            kind="attention",
            name="attention",
            title=f"Attention of one tile of {tile.rows} queries of one head.",
            notes=self._notes(),
            args=self._args(),
            place=self._place(),
            prologue=(*queries, *prologue),
            sweeps=sweeps,
            epilogue=epilogue,
            block=tile.rows,
            grid_side="q",
            grid_heads="H",
            output="out",
        )
        return kernel, self._emitter

    def _place(self) -> tuple[str, ...]:
        tile = self._part.tile
        lanes = f"lanes = tl.arange(0, {tile.keys})"
        if self._part.axes:
            rows = boxes.query_lines(self._part.axes, tile.rows)
            return (*program_lines("H", self._variant), *rows, lanes)
        return (
            *place_lines("q", "H", tile.rows, self._variant),
            f"i0 = q_offset + tile * {tile.rows}",
            f"i1 = q_offset + tl.minimum(tile * {tile.rows} + {tile.rows}, N) - 1",
            lanes,
        )

    # -- operands ------------------------------------------------------------------------------------------------

    def _operand(self, name: str, dim: int) -> _Operand:
        heads = {"q": "h", "k": "hk", "v": "hk"}.get(name)
        if heads is None:
            derived = next(d for d in self._plan.derived if d.name == name)
            heads = "h" if derived.heads == "H" else "hk"
        return _Operand(name, self._stems[name], dim, heads)

    def _base(self, operand: _Operand) -> str:
        stem, heads = operand.stem, operand.heads
        return f"{stem}_ptr + b.to(tl.int64) * {stem}_s0 + {heads}.to(tl.int64) * {stem}_s1"

    def _query_lines(self) -> tuple[str, ...]:
        """Query-side operands are loaded once."""
        lines: list[str] = []
        for name in dict.fromkeys(term.left for term in self._plan.dots):
            dim = next(term.dim for term in self._plan.dots if term.left == name)
            operand = self._operand(name, dim)
            start = "q_start + " if self._variant.packed else ""
            block = padded(dim)
            mask = "row_ok[:, None]" if block == dim else f"row_ok[:, None] & (f_{name} < {dim})[None, :]"
            lines += [
                f"f_{name} = tl.arange(0, {block})",
                (
                    f"left_{name} = tl.load({self._base(operand)} + ({start}row).to(tl.int64)[:, None] * "
                    f"{operand.stem}_s2 + f_{name}[None, :] * {operand.stem}_s3, mask={mask}, other=0.0)"
                ),
            ]
        for name in dict.fromkeys(term.right for term in self._plan.dots):
            dim = next(term.dim for term in self._plan.dots if term.right == name)
            lines += self._key_base(name, dim, "k")
        return (*lines, *self._key_base(self._plan.values, self._plan.value_dim, "v"))

    def _key_base(self, name: str, dim: int, role: str) -> list[str]:
        operand = self._operand(name, dim)
        start = f" + k_start * {operand.stem}_s2" if self._variant.packed else ""
        return [
            f"f{role}_{name} = tl.arange(0, {padded(dim)})",
            f"base{role}_{name} = {self._base(operand)}{start}",
        ]

    def _key_load(self, name: str, dim: int, role: str, column_mask: str) -> str:
        """A tile of a key-side operand: keys as columns for the logits, as rows for the values."""
        stem = self._stems[name]
        row, feature = ("[None, :]", "[:, None]") if role == "k" else ("[:, None]", "[None, :]")
        masks = [f"{column_mask}{row}"] if column_mask else []
        if padded(dim) != dim:
            masks.append(f"(f{role}_{name} < {dim}){feature}")
        mask = f", mask={' & '.join(masks)}, other=0.0" if masks else ""
        return (
            f"tl.load(base{role}_{name} + col.to(tl.int64){row} * {stem}_s2 + "
            f"f{role}_{name}{feature} * {stem}_s3{mask})"
        )

    # -- sweeps --------------------------------------------------------------------------------------------------

    def _sweep(self, number: int, sweep: Sweep) -> SweepText:
        tile = self._part.tile
        start: list[str] = []
        for acc in sweep.accumulators:
            shape = f"[{tile.rows}, {padded(acc.dim)}]" if acc.weighted else f"[{tile.rows}]"
            start.append(f"{acc.name} = tl.full({shape}, {_IDENTITY[acc.op]}, tl.float32)")
        visits = tuple(self._visit(sweep, visit) for visit in self._part.visits)
        for acc in sweep.accumulators:
            self._emitter.refs[acc.name] = Code(acc.name, "id" if acc.weighted else "i", "real", inner=True)
        title = f"Sweep {number} over the keys: {', '.join(acc.name for acc in sweep.accumulators)}."
        return SweepText(title, tuple(start), visits)

    def _visit(self, sweep: Sweep, visit: Visit) -> VisitText:
        emitter = self._emitter
        before, count, columns = self._columns(visit)
        emitter.inner = Block(memo=self._key_coordinates())
        partial = visit.kind == "partial"
        emitter.lane_masks["j"] = "col_ok" if partial else ""
        keep = self._keep() if partial else None
        self._tile(sweep, keep)
        lines = (*columns, *self._unless_full(visit, emitter.inner.lines))
        emitter.inner = None
        for acc in sweep.accumulators:
            emitter.refs.pop(acc.name, None)
            emitter.refs.pop(f"{acc.name}.old", None)
        return VisitText(visit.kind, tuple(before), count, lines)

    def _columns(self, visit: Visit) -> tuple[list[str], str, list[str]]:
        """Lines before the loop of a visit, its count, and the lines that turn its counter into columns."""
        tile, axes = self._part.tile, self._part.axes
        if axes:
            count = boxes.count_text(axes, visit.kind, split=len(self._part.visits) > 1)
            return [], count, boxes.key_lines(axes, visit.kind, tile.keys)
        before, count, index = piece_lines(self._emitter, visit)
        wide = ".to(tl.int64)" if self._variant.wide else ""
        return before, count, [*index, f"col = key_tile * {tile.keys} + lanes{wide}", "j = k_offset + col"]

    def _unless_full(self, visit: Visit, lines: list[str]) -> list[str]:
        """The loop over live boxes passes by those that the loop over full ones has done."""
        if not self._part.axes or visit.kind == "full" or len(self._part.visits) == 1:
            return lines
        return [f"if {boxes.not_full_text(self._part.axes)}:", *(f"    {line}" for line in lines)]

    def _key_coordinates(self) -> dict[tuple[Expr, str], Code]:
        """Coordinates that the tile map has at hand, so that they are not divided out of positions again."""
        return {(axis.key, ""): Code(f"kx{n}", "j", inner=True) for n, axis in enumerate(self._part.axes)}

    def _keep(self) -> str:
        """Which pairs of a partial tile exist; clauses on the key alone also guard the loads of K and V."""
        emitter = self._emitter
        emitter.line(f"col_ok = {boxes.inside_text(self._part.axes) if self._part.axes else 'col < M'}")
        if self._plan.mask != TRUE:
            emitter.line(f"# mask: {describe(self._plan.module.mask)}")
        clauses = conjuncts(self._plan.mask)
        own = [clause for clause in clauses if is_key_clause(clause)]
        other = [clause for clause in clauses if not is_key_clause(clause)]
        if own:
            texts = [emitter.emit(clause).tight for clause in own]
            emitter.line(f"col_ok = {' & '.join(('col_ok', *texts))}")
        parts = ["col_ok[None, :]", *(emitter.broadcast(emitter.emit(clause), "ij") for clause in other)]
        emitter.line(f"keep = {' & '.join(parts)}")
        return "keep"

    def _tile(self, sweep: Sweep, keep: str | None) -> None:
        emitter = self._emitter
        self._dots(sweep, keep)
        if sweep.reads_logit:
            self._score(keep)
        fresh = [self._update(acc, keep) for acc in sweep.accumulators]
        for name, new in fresh:
            emitter.line(f"{name} = {new}")

    def _dots(self, sweep: Sweep, keep: str | None) -> None:
        """The inner products that this sweep reads, through the logit or directly."""
        emitter = self._emitter
        read = {node.name for acc in sweep.accumulators for node in walk(acc.body) if isinstance(node, Ref)}
        if sweep.reads_logit:
            read |= {node.name for node in walk(self._plan.score) if isinstance(node, Ref)}
        terms = [term for term in self._plan.dots if term.name in read]
        for name, dim in {term.right: term.dim for term in terms}.items():
            emitter.line(f"right_{name} = {self._key_load(name, dim, 'k', 'col_ok' if keep else '')}")
        for term in terms:
            emitter.line(f'{term.name} = tl.dot(left_{term.left}, right_{term.right}, input_precision="ieee")')
            emitter.refs[term.name] = Code(term.name, "ij", "real", inner=True)
        for pair in self._plan.pair_dots:
            if pair.name in read:
                self._pair_dot(pair)

    def _score(self, keep: str | None) -> None:
        emitter = self._emitter
        emitter.line(f"# logit: {describe(self._plan.module.score)}")
        text = self._as_pair(emitter.emit(self._plan.score))
        emitter.line(f's = tl.where({keep}, {text}, float("-inf"))' if keep else f"s = {text}")
        emitter.refs["s"] = Code("s", "ij", "real", inner=True)

    def _pair_dot(self, pair: PairDot) -> None:
        """An inner product of vectors that depend on both positions: a loop over the features."""
        emitter = self._emitter
        tile = self._part.tile
        assert emitter.inner is not None
        emitter.line(f"{pair.name} = tl.zeros([{tile.rows}, {tile.keys}], tl.float32)")
        outer, emitter.inner = emitter.inner, Block(memo=dict(emitter.inner.memo))
        here = Feature("f", "", inner=True)
        x = emitter.emit(pair.left, here)
        y = emitter.emit(pair.right, here)
        product = f"{emitter.broadcast(x, 'ij')} * {emitter.broadcast(y, 'ij')}"
        body = [*emitter.inner.lines, f"{pair.name} += {product}"]
        emitter.inner = outer
        outer.lines += [
            f"for feature in range(0, {pair.dim}):",
            "    f = feature + 0 * tile",  # a tensor in the interpreter too, where range yields Python ints
            *(f"    {line}" for line in body),
        ]
        emitter.refs[pair.name] = Code(pair.name, "ij", "real", inner=True)

    def _as_pair(self, code: Code) -> str:
        """The text as a full tile."""
        if code.axes == "ij":
            return code.text
        shape = f"({self._part.tile.rows}, {self._part.tile.keys})"
        if not code.axes:
            return f"tl.full({shape}, 0.0, tl.float32) + {code.tight}"
        return f"tl.broadcast_to({self._emitter.broadcast(code, 'ij')}, {shape})"

    # -- accumulators --------------------------------------------------------------------------------------------

    def _update(self, acc: Accumulator, keep: str | None) -> tuple[str, str]:
        """Lines that compute the new value of an accumulator; returns its name and the name of the new value."""
        emitter = self._emitter
        body = substitute(acc.body, {_LOGIT: Ref("s", REAL)})
        text = self._as_pair(emitter.emit(body))
        if keep and acc.needs_mask:
            text = f"tl.where({keep}, {text}, {_IDENTITY[acc.op]})"
        new = f"{acc.name}_new"
        factor = self._factor(acc)
        if acc.weighted:
            values = self._values(keep)
            old = acc.name if factor is None else f"{acc.name} * {emitter.broadcast(factor, 'id')}"
            emitter.line(f'{new} = {old} + tl.dot(({text}).to({values}.dtype), {values}, input_precision="ieee")')
        elif acc.op == "sum":
            old = acc.name if factor is None else f"{acc.name} * {factor.tight}"
            emitter.line(f"{new} = {old} + tl.sum({text}, axis=1)")
        else:
            function = "maximum" if acc.op == "max" else "minimum"
            emitter.line(f"{new} = tl.{function}({acc.name}, tl.{acc.op}({text}, axis=1))")
            self._running(acc, new)
        return acc.name, new

    def _running(self, acc: Accumulator, new: str) -> None:
        """Bodies read the running extremum; while it is still the identity they read 0, so that nothing is NaN."""
        emitter = self._emitter
        safe = f"{acc.name}_safe"
        emitter.line(f"{safe} = tl.where({new} == {_IDENTITY[acc.op]}, 0.0, {new})")
        emitter.refs[acc.name] = Code(safe, "i", "real", inner=True)
        emitter.refs[f"{acc.name}.old"] = Code(acc.name, "i", "real", inner=True)

    def _factor(self, acc: Accumulator) -> Code | None:
        if acc.rescale is None:
            return None
        code = self._emitter.emit(acc.rescale)
        if not acc.rescale_guard:
            return code
        old = sorted({node.name for node in walk(acc.rescale) if isinstance(node, Ref) and node.name.endswith(".old")})
        started = " & ".join(f'(tl.abs({name.removesuffix(".old")}) < float("inf"))' for name in old)
        return self._emitter.fresh(Code(f"tl.where({started}, {code.text}, 0.0)", "i", "real", inner=True))

    def _values(self, keep: str | None) -> str:
        emitter = self._emitter
        assert emitter.inner is not None
        name = f"values_{self._plan.values}"
        if not any(line.startswith(f"{name} = ") for line in emitter.inner.lines):
            load = self._key_load(self._plan.values, self._plan.value_dim, "v", "col_ok" if keep else "")
            emitter.line(f"{name} = {load}")
        return name

    # -- epilogue ------------------------------------------------------------------------------------------------

    def _epilogue(self) -> tuple[str, ...]:
        emitter = self._emitter
        emitter.inner = Block()
        dim = self._plan.value_dim
        start = "q_start + " if self._variant.packed else ""
        emitter.line(f"d = tl.arange(0, {padded(dim)})")
        emitter.whole = Feature("d", inner=True)
        output = emitter.emit(self._plan.output, emitter.whole)
        inside = "row_ok[:, None]" if padded(dim) == dim else f"row_ok[:, None] & (d < {dim})[None, :]"
        emitter.line(f"stored = ({start}row).to(tl.int64)")
        emitter.line(
            "tl.store(out_ptr + b.to(tl.int64) * out_s0 + h.to(tl.int64) * out_s1 + stored[:, None] * out_s2 + "
            f"d[None, :] * out_s3, ({emitter.broadcast(output, 'id')}).to(out_ptr.dtype.element_ty), mask={inside})"
        )
        for n, binding in enumerate(self._plan.aux if self._variant.aux else ()):
            code = emitter.emit(binding.expr)
            value = code.text if code.axes else f"tl.zeros_like(a0) + {code.tight}"
            emitter.line(
                f"tl.store(aux{n}_ptr + b.to(tl.int64) * aux{n}_s0 + h.to(tl.int64) * aux{n}_s1 + "
                f"stored * aux{n}_s2, {value}, mask=row_ok)"
            )
        lines = tuple(emitter.inner.lines)
        emitter.inner = None
        return lines

    def _args(self) -> tuple[Arg, ...]:
        plan = self._plan
        operands = {term.left for term in plan.dots} | {term.right for term in plan.dots} | {plan.values}
        args = [*place_args(self._variant), *used_args(self._emitter, plan, tuple(operands))]
        args += [*boxes.table_args(self._part.axes), *tensor_args("out", "out", 4, "real")]
        for n in range(len(plan.aux) if self._variant.aux else 0):
            args += tensor_args(f"aux:{plan.aux[n].name}", f"aux{n}", 3, "float32")
        return tuple(args)

    def _notes(self) -> tuple[str, ...]:
        plan = self._plan
        notes = [f"logit: {describe(plan.module.score)}", f"mask: {describe(plan.module.mask)}", *plan.facts]
        if plan.log2_score:
            notes.append("s is the logit times log2(e): exponentials are powers of two")
        sums = (f"{a.name}: {a.op} over the keys{' of value vectors' if a.weighted else ''}" for a in plan.accumulators)
        return (*notes, *sums)

"""The attention kernel of a plan: sweeps over the visits, accumulators, output and statistics."""

from __future__ import annotations

from attnc.codegen import boxes, states
from attnc.codegen.code import Block, Code, Feature
from attnc.codegen.context import Arg, KernelText, SweepText, Variant, VisitText, table_key
from attnc.codegen.emitter import Emitter
from attnc.codegen.listings import listed_tile_lines, listing_lines
from attnc.codegen.loops import piece_lines
from attnc.codegen.place import make_emitter, place_args, program_lines, row_lines, tensor_args, used_args
from attnc.codegen.provenance import describe
from attnc.codegen.states import IDENTITY
from attnc.codegen.token_loads import TokenLoads, padded, plain_name
from attnc.ir.dependence import conjuncts, is_key_clause
from attnc.ir.expr import TRUE, Expr, Ref, Value
from attnc.ir.plan import Accumulator, KernelPlan, PairDot, Stage, Sweep, Visit
from attnc.ir.traverse import substitute, walk
from attnc.ir.types import REAL

_LOGIT = Value("s", REAL)


def attention_kernels(plan: KernelPlan, variant: Variant) -> list[tuple[KernelText, Emitter]]:
    """The kernel texts of a plan's stages, in the order in which they run."""
    stages = plan.stages
    names = ["attention"] if len(stages) == 1 else [f"attention_{n}" for n in range(len(stages))]
    return [_AttentionKernel(plan, variant, stage, name).build() for stage, name in zip(stages, names, strict=True)]


class _AttentionKernel:
    def __init__(self, plan: KernelPlan, variant: Variant, stage: Stage, name: str) -> None:
        self._plan = plan
        self._variant = variant
        self._stage = stage
        self._name = name
        self._part = part = stage.part
        self._number = plan.parts.index(part)
        self._mask = plan.mask_of(part)
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
        self._tokens = TokenLoads(plan, variant)

    def build(self) -> tuple[KernelText, Emitter]:
        tile = self._part.tile
        queries = (*self._tokens.query_lines(), *self._finished())
        sweeps = tuple(self._sweep(n, self._plan.sweeps[n]) for n in self._stage.sweeps)
        epilogue = (*self._epilogue(), *self._saved()) if self._stage.finishes else self._left()
        prologue = tuple(self._emitter.outer.lines)
        kernel = KernelText(
            kind="attention",
            name=self._name,
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
            part=self._number,
        )
        return kernel, self._emitter

    def _place(self) -> tuple[str, ...]:
        tile = self._part.tile
        lanes = f"lanes = tl.arange(0, {tile.keys})"
        program = program_lines("H", self._variant, descending=self._part.descending)
        if self._part.axes:
            return (*program, *boxes.query_lines(self._part), lanes)
        listed = () if self._part.listing is None else listing_lines(self._part.listing)
        return (
            *program,
            *listed,
            *row_lines("q", tile.rows, self._variant),
            f"i0 = q_offset + tile * {tile.rows}",
            f"i1 = q_offset + tl.minimum(tile * {tile.rows} + {tile.rows}, N) - 1",
            lanes,
        )

    # -- stages ---------------------------------------------------------------------------------------------------

    def _finished(self) -> list[str]:
        """What earlier stages finished: the accumulators of sweeps before this one."""
        before = [acc for sweep in self._plan.sweeps[: self._stage.sweeps[0]] for acc in sweep.accumulators]
        for acc in before:
            self._emitter.refs[acc.name] = Code(acc.name, "id" if acc.weighted else "i", "real", inner=True)
        return [line for acc in before for line in states.load_lines(acc, self._variant)]

    def _left(self) -> tuple[str, ...]:
        """The accumulators that a stage which does not finish leaves to the next."""
        accumulators = self._plan.sweeps[self._stage.sweeps[-1]].accumulators
        return tuple(line for acc in accumulators for line in states.store_lines(acc, self._variant))

    def _saved(self) -> tuple[str, ...]:
        """Accumulators that the backward reads. Those of sweeps in earlier stages have been left already."""
        own = {acc.name for n in self._stage.sweeps for acc in self._plan.sweeps[n].accumulators}
        saved = [acc for acc in self._plan.saved if acc.name in own]
        return tuple(line for acc in saved for line in states.store_lines(acc, self._variant))

    # -- sweeps --------------------------------------------------------------------------------------------------

    def _sweep(self, number: int, sweep: Sweep) -> SweepText:
        tile = self._part.tile
        start: list[str] = []
        for acc in sweep.accumulators:
            if self._stage.resumes:
                start += states.load_lines(acc, self._variant)
                continue
            shape = f"[{tile.rows}, {padded(acc.dim)}]" if acc.weighted else f"[{tile.rows}]"
            start.append(f"{acc.name} = tl.full({shape}, {IDENTITY[acc.op]}, tl.float32)")
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
        axes = self._part.axes
        if axes:
            count = boxes.count_text(axes, visit.kind, split=len(self._part.visits) > 1)
            return [], count, boxes.key_lines(self._part, visit.kind)
        if self._part.listing is not None:
            return [], f"{visit.kind}_count", [*listed_tile_lines(visit.kind), *self._column_lines()]
        before, count, index = piece_lines(self._emitter, visit)
        return before, count, [*index, *self._column_lines()]

    def _column_lines(self) -> list[str]:
        """Columns of a key tile that is a range of positions."""
        wide = ".to(tl.int64)" if self._variant.wide else ""
        return [f"col = key_tile * {self._part.tile.keys} + lanes{wide}", "j = k_offset + col"]

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
        if self._mask != TRUE:
            emitter.line(f"# mask: {describe(self._mask if self._part.mask else self._plan.module.mask)}")
        clauses = conjuncts(self._mask)
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
            load = self._tokens.key_load(name, dim, "k", "col_ok" if keep else "")
            emitter.line(f"right_{plain_name(name)} = {load}")
        for term in terms:
            operands = f"left_{plain_name(term.left)}, right_{plain_name(term.right)}"
            emitter.line(f'{term.name} = tl.dot({operands}, input_precision="ieee")')
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
            text = f"tl.where({keep}, {text}, {IDENTITY[acc.op]})"
        new = f"{acc.name}_new"
        factor = self._factor(acc)
        if acc.weighted:
            values = self._values(acc, keep)
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
        emitter.line(f"{safe} = tl.where({new} == {IDENTITY[acc.op]}, 0.0, {new})")
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

    def _values(self, acc: Accumulator, keep: str | None) -> str:
        emitter = self._emitter
        assert emitter.inner is not None
        operand = self._plan.values_of(acc)
        name = f"values_{plain_name(operand)}"
        if not any(line.startswith(f"{name} = ") for line in emitter.inner.lines):
            load = self._tokens.key_load(operand, acc.dim, "v", "col_ok" if keep else "")
            emitter.line(f"{name} = {load}")
        return name

    # -- epilogue ------------------------------------------------------------------------------------------------

    def _epilogue(self) -> tuple[str, ...]:
        emitter = self._emitter
        emitter.inner = Block()
        assert self._plan.output is not None
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
        operands = {term.left for term in plan.dots} | {term.right for term in plan.dots} | {*self._tokens.values()}
        args = [*place_args(self._variant), *used_args(self._emitter, plan, tuple(operands))]
        args += boxes.table_args(self._part.axes, self._number)
        if self._part.listing is not None:
            args.append(Arg("list_ptr", "pointer", table_key(self._number), kind="int"))
        args += [arg for acc in self._stored() for arg in states.state_args(acc)]
        if not self._stage.finishes:
            return tuple(args)
        args += tensor_args("out", "out", 4, "real")
        for n in range(len(plan.aux) if self._variant.aux else 0):
            args += tensor_args(f"aux:{plan.aux[n].name}", f"aux{n}", 3, "float32")
        return tuple(args)

    def _stored(self) -> tuple[Accumulator, ...]:
        """Accumulators that this stage reads from memory or leaves there."""
        stage = self._stage
        first = stage.sweeps[0]
        own = stage.resumes or not stage.finishes
        found = [acc for sweep in self._plan.sweeps[: first + own] for acc in sweep.accumulators]
        saved = [acc for acc in self._plan.saved if stage.finishes and acc not in found]
        return (*found, *saved)

    def _notes(self) -> tuple[str, ...]:
        plan = self._plan
        notes = [f"logit: {describe(plan.module.score)}", f"mask: {describe(plan.module.mask)}", *plan.facts]
        if plan.log2_score:
            notes.append("s is the logit times log2(e): exponentials are powers of two")
        sums = (f"{a.name}: {a.op} over the keys{' of value vectors' if a.weighted else ''}" for a in plan.accumulators)
        return (*notes, *sums)

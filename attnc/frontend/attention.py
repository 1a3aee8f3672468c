"""One `attention`: its fields in the order of the text, to an `AttentionModule`."""

from __future__ import annotations

from dataclasses import replace

from attnc.frontend import ast
from attnc.frontend.cascade import Cascade, check_aux, check_cascade
from attnc.frontend.declared import check_constants
from attnc.frontend.environment import (
    BIAS,
    K_MAP,
    LET,
    MASK,
    OUTPUT,
    Q_MAP,
    SCORE,
    V_MAP,
    Broken,
    Elaborator,
    Env,
    Local,
    Meaning,
    Place,
)
from attnc.frontend.errors import names as name_errors
from attnc.frontend.errors import support
from attnc.frontend.errors import syntax as syntax_errors
from attnc.frontend.errors import types as errors
from attnc.frontend.grids import check_grids
from attnc.frontend.params import Header, check_free, check_header
from attnc.frontend.resolve import Declared
from attnc.frontend.typing_rules import type_text
from attnc.frontend.uses import bind_arguments
from attnc.ir.expr import TRUE, Call, Expr, Size, Value
from attnc.ir.module import AttentionModule, Binding
from attnc.ir.types import BOOL, REAL, VectorType
from attnc.source import Span

_MAPS: dict[str, Place] = {"q": Q_MAP, "k": K_MAP, "v": V_MAP}
_ONE = "join them into one"


def check_attention(el: Elaborator, declared: Declared) -> AttentionModule | None:
    """The typed module of an attention; None after an error."""
    assert isinstance(declared.node, ast.Block)
    return _Attention(el, declared, declared.node).check()


class _Attention:
    """Collects the fields. A field that failed leaves `ok` False and a harmless value."""

    def __init__(self, el: Elaborator, declared: Declared, node: ast.Block) -> None:
        self.el = el
        self.node = node
        self.declared = declared
        self.header = Header()
        self.names: dict[str, Meaning] = {}
        self.tokens: dict[str, Expr] = {}
        self.env = Env(self.names, declared.scope, LET, self.tokens)
        self.ok = True
        self.named = {param.name.text: param.name for param in node.params}
        self.first: dict[str, Span] = {}
        self.read_at: dict[str, Span] = {}
        self.mask: Expr = TRUE
        self.score: Expr | None = None
        self.biases: list[Expr] = []
        self.cascade: Cascade | None = None
        self.output: Expr | None = None

    def check(self) -> AttentionModule | None:
        statements = self.node.statements
        branch = next((statement for statement in statements if self._is_branch(statement)), None)
        if branch is not None:
            self.el.report(support.branches(branch.span), self.env)
            return None
        self.el.dynamic.clear()
        self.el.tables.clear()
        self.header = check_header(self.el, self.declared.scope, self.node.params, attention=True)
        self.names.update(self.header.names)
        grids = [statement for statement in statements if isinstance(statement, ast.GridDecl)]
        self.env = replace(self.env, grids=check_grids(self.el, self.env, grids))
        for statement in statements:
            self._statement(statement)
        if self.cascade is None and "normalizer" not in self.first:
            self._normalizer(ast.Name("softmax", self.node.name.span))
        score = self._finished_score()
        output = self.output or self._row_value()
        aux = self._aux([statement for statement in statements if isinstance(statement, ast.Aux)])
        if score is None or self.cascade is None or aux is None or not self.ok:
            return None
        return self._module(score, self.cascade, output, aux)

    def _is_branch(self, statement: ast.Statement) -> bool:
        """`a = softmax over ...` or `a = NORMALIZER`: one of several attentions whose outputs are mixed."""
        if not isinstance(statement, ast.Assign) or statement.name.text in (*_MAPS, "out"):
            return False
        value = statement.value.callee if isinstance(statement.value, ast.Apply) else statement.value
        if statement.over is not None or not isinstance(value, ast.Name):
            return statement.over is not None
        return self.el.library.find(self.declared.scope, ("normalizer",), value.text) is not None

    # ---------------------------------------------------------------------------------- fields

    def _statement(self, statement: ast.Statement) -> None:
        match statement:
            case ast.Field():
                self._field(statement)
            case ast.Let():
                self._let(statement)
            case ast.Assign():
                self._assign(statement)
            case ast.State():
                help_ = "a `state` belongs to a `recurrence`"
                self._wrong("`state`", statement.span, help_)
            case ast.Aux() | ast.GridDecl():
                return

    def _field(self, node: ast.Field) -> None:
        if node.name != "bias" and not self._is_first(node.name, node.span):
            return
        match node.name:
            case "mask":
                self.mask = self._typed(node.value, MASK) or TRUE
            case "score":
                self.score = self._typed(node.value, SCORE)
                self._note_reads(self.score, node.span)
            case "bias":
                bias = self._typed(node.value, BIAS)
                self.biases += () if bias is None else (bias,)
                self._note_reads(bias, node.span)
            case "normalizer":
                self._normalizer(node.value)
            case "output":
                self._output(node.value, "output", node.span)

    def _is_first(self, field: str, span: Span) -> bool:
        first = self.first.setdefault(field, span)
        if first is span:
            return True
        help_ = "join the masks with `and` or `or`" if field == "mask" else _ONE
        self.el.report(syntax_errors.repeated_field(field, span, first, help_), self.env)
        self.ok = False
        return False

    def _typed(self, node: ast.Expr, place: Place) -> Expr | None:
        kind = BOOL if place is MASK else REAL
        found = self.el.typed(node, replace(self.env, place=place), kind, place.title)
        self.ok = self.ok and found is not None
        return found

    def _note_reads(self, expr: Expr | None, span: Span) -> None:
        """Remember that a token was read as mapped so far."""
        for token in () if expr is None else self.el.reads(expr) & _MAPS.keys():
            self.read_at.setdefault(token, span)

    def _let(self, node: ast.Let) -> None:
        name = node.name.text
        check_free(self.el, self.env, node.name)
        first = self.named.setdefault(name, node.name)
        if first is not node.name:
            self.el.report(name_errors.duplicate_name("name", name, node.name.span, first.span), self.env)
            self.ok = False
            return
        found = self.el.expr(node.value, replace(self.env, place=LET))
        self.ok = self.ok and found is not None
        self.names[name] = Broken() if found is None else Local(found, node.span)
        self._note_reads(found, node.span)

    # -------------------------------------------------------------------------- maps of tokens

    def _assign(self, node: ast.Assign) -> None:
        name = node.name.text
        if name == "out":
            self._output(node.value, "out", node.span)
        elif name in _MAPS:
            self._map(node)
        else:
            help_ = f"write `let {name} = ...`; only `q`, `k`, `v` and `out` are mapped"
            self._wrong(f"an assignment to `{name}`", node.name.span, help_)
            self.names.setdefault(name, Broken())

    def _wrong(self, what: str, span: Span, help_: str) -> None:
        self.el.report(syntax_errors.wrong_field(what, "an attention", span, help_), self.env)
        self.ok = False

    def _map(self, node: ast.Assign) -> None:
        name = node.name.text
        read = self.read_at.get(name)
        if read is not None:
            self.el.report(errors.late_token_map(name, node.span, read), self.env)
        found = self._vector(node.value, _MAPS[name])
        if found is not None and read is None:
            self.tokens[name] = found
        else:
            self.ok = False

    def _vector(self, node: ast.Expr, place: Place) -> Expr | None:
        found = self.el.expr(node, replace(self.env, place=place))
        if found is not None and not isinstance(found.type, VectorType):
            self.el.report(errors.wrong_type(place.title, "a vector", type_text(found.type), node.span), self.env)
            found = None
        self.ok = self.ok and found is not None
        return found

    def _row_value(self) -> Expr:
        """`o` before the output map; it is as long as the mapped v."""
        value = self.tokens.get("v")
        return Value("o", VectorType(Size("Dv")) if value is None else value.type, self.node.name.span)

    def _output(self, node: ast.Expr, field: str, span: Span) -> None:
        first = self.first.setdefault("output", span)
        if first is not span:
            help_ = "write one map: `out = f(g(o))`"
            self.el.report(syntax_errors.repeated_field(field, span, first, help_), self.env)
            self.ok = False
            return
        self.tokens["o"] = self._row_value()
        self.output = self._vector(node, OUTPUT)
        del self.tokens["o"]
        self.read_at.setdefault("v", span)

    # ------------------------------------------------------------------------------ normalizer

    def _normalizer(self, node: ast.Expr) -> None:
        self.cascade = self._cascade(node)
        if self.cascade is None or not self.cascade.ok:
            self.ok = False
        else:
            for binding in self.cascade.bindings:
                self._note_reads(binding.expr, node.span)

    def _cascade(self, node: ast.Expr) -> Cascade | None:
        name = node.callee if isinstance(node, ast.Apply) else node
        if not isinstance(name, ast.Name):
            self.el.report(errors.not_a_normalizer(node.span), self.env)
            return None
        declared = self.el.library.find(self.declared.scope, ("normalizer",), name.text)
        if declared is None:
            self._unknown_normalizer(name)
            return None
        if not self.el.sound(declared):
            return None
        assert isinstance(declared.node, ast.Block)
        args = node.args if isinstance(node, ast.Apply) else ()
        names = bind_arguments(self.el, self.env, declared, args, node.span)
        if names is None:
            return None
        inside = replace(self.env, names=names, scope=declared.scope, used_at=node.span)
        return check_cascade(self.el, declared.node, inside)

    def _unknown_normalizer(self, name: ast.Name) -> None:
        scope = self.declared.scope
        if name.text in scope.silent:
            return
        kinds = self.el.library.kinds_of(scope, name.text)
        if kinds:
            self.el.report(name_errors.wrong_kind(name.text, kinds, "a normalizer", name.span), self.env)
            return
        known = self.el.library.known(scope, ("normalizer",))
        self.el.report(name_errors.unknown_name("normalizer", name.text, name.span, known), self.env)

    # --------------------------------------------------------------------------------- results

    def _finished_score(self) -> Expr | None:
        """The score and its biases; `dot(q, k) * scale` where the field is left out."""
        score = self.score
        if "score" not in self.first:
            span = self.node.name.span
            q, k = (ast.Arg(None, ast.Name(token, span), span) for token in ("q", "k"))
            dot = ast.Apply(ast.Name("dot", span), (q, k), span)
            score = self._typed(ast.Binary("*", dot, ast.Name("scale", span), span), SCORE)
        for bias in self.biases:
            score = None if score is None else Call("add", (score, bias), REAL, score.span.to(bias.span))
        return score

    def _aux(self, nodes: list[ast.Aux]) -> tuple[Binding, ...] | None:
        """The statistics that the attention names; all of the normalizer's where it names none."""
        if self.cascade is None:
            return None
        if not nodes:
            return tuple(self.cascade.aux)
        found = [self._aux_entry(self.cascade, node) for node in nodes]
        for n, node in enumerate(nodes):
            first = next(other for other in nodes if other.name.text == node.name.text)
            if first is not nodes[n]:
                error = name_errors.duplicate_name("aux", node.name.text, node.name.span, first.name.span)
                self.el.report(error, self.env)
                return None
        kept = tuple(binding for binding in found if binding is not None)
        return kept if len(kept) == len(found) else None

    def _aux_entry(self, cascade: Cascade, node: ast.Aux) -> Binding | None:
        if node.value is not None:
            names = {**cascade.visible, **self.names}
            return check_aux(self.el, replace(self.env, names=names), node, node.value, cascade.varies)
        for binding in cascade.aux:
            if binding.name == node.name.text:
                return binding
        if cascade.ok:
            known = tuple(binding.name for binding in cascade.aux)
            help_ = None if known else f"define it: `aux {node.name.text} = ...`"
            error = name_errors.unknown_name("statistic", node.name.text, node.name.span, known, help_)
            self.el.report(error, self.env)
        return None

    def _module(self, score: Expr, cascade: Cascade, output: Expr, aux: tuple[Binding, ...]) -> AttentionModule:
        value = self.tokens.get("v") or Value("v", VectorType(Size("Dv")), self.node.name.span)
        weights = [binding.expr for binding in (*cascade.bindings, *aux)]
        exprs = [self.mask, value, output, *weights]
        if any("s" in self.el.reads(expr) for expr in weights):
            exprs.append(score)
        for expr in exprs:
            check_constants(self.el, self.env, expr)
        return AttentionModule(
            name=self.declared.name,
            doc=self.node.doc or self.declared.scope.summary,
            scalars=tuple(self.header.scalars),
            tensors=tuple(self.header.tensors),
            grid_q=self.env.grids.q,
            grid_k=self.env.grids.k,
            mask=self.mask,
            score=score,
            cascade=tuple(cascade.bindings),
            value=value,
            output=output,
            aux=aux,
            reads_scale=any("scale" in self.el.reads(expr) for expr in exprs),
            span=self.node.name.span,
        )

"""The checker: one run over one file, its findings, and the bounds on its work."""

from __future__ import annotations

from dataclasses import replace

from attnc.diagnostics import Diagnostic, Label
from attnc.frontend import ast, limits
from attnc.frontend.declared import check_declared
from attnc.frontend.environment import ANYWHERE, Env
from attnc.frontend.errors import names as name_errors
from attnc.frontend.errors import syntax as errors
from attnc.frontend.expressions import elaborate
from attnc.frontend.measures import Measures
from attnc.frontend.resolve import Declared, Library
from attnc.frontend.typing_rules import convert
from attnc.ir.expr import Expr
from attnc.ir.types import ScalarType
from attnc.source import Span


class Checker:
    """Implements `environment.Elaborator`."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.dynamic: set[str] = set()
        self.tables: set[str] = set()
        self.diagnostics: list[Diagnostic] = []
        self._seen: set[tuple[str, int, int, int, str]] = set()
        self._measures = Measures()
        self._sound: dict[int, bool] = {}
        self._checking: list[Declared] = []
        self._depth = 0
        self._work = 0

    # ----------------------------------------------------------------------------- expressions

    def expr(self, node: ast.Expr, env: Env) -> Expr | None:
        if env.used_at is not None:
            self._count(env.used_at, env)
        if self._depth >= limits.EXPRESSION_DEPTH:
            self.report(errors.too_deep("the expression is", limits.EXPRESSION_DEPTH, node.span), env)
            return None
        self._depth += 1
        try:
            found = elaborate(self, node, env)
        finally:
            self._depth -= 1
        return found if found is None or self._is_bounded(found, node, env) else None

    def _count(self, use: Span, env: Env) -> None:
        self._work += 1
        if self._work > limits.USED_NODES:
            self.report(errors.too_many_uses(use), env)
            raise limits.Exhausted

    def _is_bounded(self, expr: Expr, node: ast.Expr, env: Env) -> bool:
        nodes, depth, _ = self._measures.of(expr)
        if nodes > limits.EXPRESSION_NODES:
            self.report(errors.too_many_nodes(node.span), env)
            return False
        if depth > limits.EXPRESSION_DEPTH:
            self.report(errors.too_deep("the expression is", limits.EXPRESSION_DEPTH, node.span), env)
            return False
        return True

    def typed(self, node: ast.Expr, env: Env, kind: ScalarType, what: str) -> Expr | None:
        found = self.expr(node, env)
        return None if found is None else convert(self, env, found, kind, what)

    def reads(self, expr: Expr) -> frozenset[str]:
        return self._measures.of(expr).reads

    # ---------------------------------------------------------------------------- declarations

    def sound(self, declared: Declared) -> bool:
        known = self._sound.get(id(declared))
        if known is not None:
            return known
        if declared in self._checking:
            return self._cyclic(declared)
        before = len(self._seen)
        dynamic, self.dynamic = self.dynamic, set()
        tables, self.tables = self.tables, set()
        self._checking.append(declared)
        check_declared(self, declared)
        self._checking.pop()
        self.dynamic, self.tables = dynamic, tables
        self._sound[id(declared)] = self._sound.get(id(declared), True) and len(self._seen) == before
        return self._sound[id(declared)]

    def _cyclic(self, declared: Declared) -> bool:
        cycle = self._checking[self._checking.index(declared) :]
        for member in cycle:
            self._sound[id(member)] = False
        chain = tuple(member.name for member in cycle)
        env = Env({}, declared.scope, ANYWHERE)
        self.report(name_errors.cyclic_definition(chain, declared.node.name.span), env)
        return False

    # -------------------------------------------------------------------------------- findings

    def report(self, error: Diagnostic, env: Env) -> None:
        """Record an error once, with the use that brought its text here."""
        span = error.primary.span if error.primary else None
        key = (error.code, *_place(span), error.title)
        if key in self._seen:
            return
        self._seen.add(key)
        if env.used_at is not None and span is not None and not _covers(span, env.used_at):
            error = replace(error, secondary=(*error.secondary, Label(env.used_at, "used here")))
        self.diagnostics.append(error)
        if len(self.diagnostics) > limits.DIAGNOSTICS:
            raise limits.Exhausted


def _place(span: Span | None) -> tuple[int, int, int]:
    return (0, 0, 0) if span is None else (id(span.source), span.start, span.end)


def _covers(a: Span, b: Span) -> bool:
    return a.source is b.source and a.start <= b.start and b.end <= a.end

"""One file: text to typed modules, or all that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnc.diagnostics import Diagnostic, SpecError
from attnc.frontend import ast, limits
from attnc.frontend.attention import check_attention
from attnc.frontend.checker import Checker
from attnc.frontend.environment import ANYWHERE, Env
from attnc.frontend.errors import support, warnings
from attnc.frontend.errors import syntax as errors
from attnc.frontend.resolve import Declared, Library, Loader, Scope, unused_imports
from attnc.ir.module import AttentionModule
from attnc.source import SourceFile, Span

_INSTEAD = {
    "recurrence": "linear attention without decay is an `attention` with a normalizer over `dot(phi(q), phi(k))`",
    "select": "choose the keys outside and pass their ids as an int tensor that the mask compares",
}


@dataclass(frozen=True, slots=True)
class FileContents:
    """What a right file holds. `docs` are (kind, name, first line of its documentation)."""

    modules: tuple[AttentionModule, ...]
    warnings: tuple[Diagnostic, ...]
    docs: tuple[tuple[str, str, str], ...]


def check_file(source: SourceFile, loader: Loader) -> FileContents:
    """Check every declaration of a file. Raises SpecError with all that is wrong with it and with what it uses."""
    library = Library(loader)
    checker = Checker(library)
    scope = Scope(source)
    modules = list[AttentionModule]()
    try:
        scope = library.open(source)
        modules = [] if scope.broken else _check_all(checker, scope)
    except limits.Exhausted:
        pass
    found = (*library.diagnostics, *checker.diagnostics)
    if found:
        raise SpecError(_in_order(found, source))
    docs = tuple((declared.kind, declared.name, _summary(declared)) for declared in scope.own)
    return FileContents(tuple(modules), tuple(_unused(library, scope)), docs)


def _check_all(checker: Checker, scope: Scope) -> list[AttentionModule]:
    modules = list[AttentionModule]()
    for declared in scope.own:
        if declared.kind == "attention":
            module = check_attention(checker, declared)
            modules += () if module is None else (module,)
        elif declared.kind in _INSTEAD:
            error = support.not_a_declared_block(
                declared.kind, declared.name, declared.node.name.span, _INSTEAD[declared.kind]
            )
            checker.report(error, Env({}, scope, ANYWHERE))
        else:
            checker.sound(declared)
    return modules


def _in_order(found: tuple[Diagnostic, ...], source: SourceFile) -> list[Diagnostic]:
    """Those of the file itself first, each file from top to bottom, not more than the user can read."""

    def key(diagnostic: Diagnostic) -> tuple[bool, str, int]:
        span = diagnostic.primary.span if diagnostic.primary else Span(source, 0, 0)
        return span.source is not source, span.source.name, span.start

    ordered = sorted(found, key=key)
    if len(ordered) <= limits.DIAGNOSTICS:
        return ordered
    return [*ordered[: limits.DIAGNOSTICS], errors.too_many_errors(Span(source, 0, 0))]


def _summary(declared: Declared) -> str:
    text = declared.node.doc or declared.scope.summary
    return text.splitlines()[0] if text else ""


# --------------------------------------------------------------------------------------- warnings


def _unused(library: Library, scope: Scope) -> Iterator[Diagnostic]:
    """Imports, parameters and lets that the text never mentions again."""
    for word in unused_imports(library, scope):
        yield warnings.unused("import", word.text, word.span)
    for declared in scope.own:
        read = {name.text for expr in ast.expressions(declared.node) for name in ast.names(expr)}
        for param in declared.node.params:
            if param.name.text not in read:
                yield warnings.unused("parameter", param.name.text, param.name.span)
        for statement in _statements(declared.node):
            if isinstance(statement, ast.Let) and statement.name.text not in read:
                yield warnings.unused("let", statement.name.text, statement.name.span)


def _statements(node: ast.Definition | ast.Block) -> tuple[ast.Statement, ...]:
    return node.statements if isinstance(node, ast.Block) else ()

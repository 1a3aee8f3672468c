"""Text to `ast.File`. Reports every syntax error that can be found by going on after each one.

A text is cut into its top-level declarations, each parsed on its own. After an error the statement that holds
it is left out and the declaration parsed again; a declaration whose brackets are wrong is not parsed at all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

from attnc.diagnostics import Diagnostic, SpecError
from attnc.frontend import ast, limits
from attnc.frontend.builder import build
from attnc.frontend.errors import syntax as errors
from attnc.frontend.hints import explain
from attnc.frontend.lexer import lex
from attnc.frontend.table import END, Rejected, load_table, run
from attnc.frontend.tokens import Comment, Token
from attnc.source import SourceFile, Span

#: Tokens that may be parsed again in search of further errors.
_RETRY_TOKENS = 40_000


def parse(source: SourceFile) -> ast.File:
    """The tree of a text. Raises SpecError with all syntax errors."""
    if len(source.text) > limits.FILE_CHARACTERS:
        limit = f"{limits.FILE_CHARACTERS} characters"
        raise SpecError((errors.too_long("the text", limit, Span(source, 0, 1)),))
    lexed = lex(source)
    if lexed.fatal:
        raise SpecError(lexed.diagnostics)
    parser = _Parser(lexed.diagnostics)
    declarations = [
        declaration
        for chunk in _chunks(lexed.tokens)
        if not _holds_any(chunk, lexed.broken) and (declaration := parser.declaration(chunk)) is not None
    ]
    if parser.diagnostics:
        raise SpecError(sorted(parser.diagnostics, key=_position))
    documented = tuple(_with_doc(declaration, lexed.comments) for declaration in declarations)
    summary = lexed.comments[0].content if lexed.comments else ""
    return ast.File(source, documented, summary)


def _position(diagnostic: Diagnostic) -> int:
    return diagnostic.primary.span.start if diagnostic.primary else 0


def _chunks(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """The tokens of each top-level declaration."""
    chunk, depth = list[Token](), 0
    for token in tokens:
        depth += {"LBRACE": 1, "RBRACE": -1}.get(token.type, 0)
        if token.type == "_NEWLINE" and depth <= 0:
            if chunk:
                yield chunk
            chunk, depth = [], 0
        else:
            chunk.append(token)
    if chunk:
        yield chunk


def _holds_any(chunk: Sequence[Token], offsets: Sequence[int]) -> bool:
    start, end = chunk[0].span.start, chunk[-1].span.end
    return any(start <= offset < end for offset in offsets)


class _Parser:
    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = list(diagnostics)
        self.retry_tokens = _RETRY_TOKENS

    def declaration(self, chunk: list[Token]) -> ast.Declaration | None:
        """The declaration of a chunk; None when it has errors, which are then reported."""
        found = self._attempt(chunk)
        failed = found is None
        while found is None and chunk and len(self.diagnostics) <= limits.DIAGNOSTICS:
            chunk = _without_statement(chunk, self.rejected_at)
            self.retry_tokens -= self.rejected_at
            if not chunk or self.retry_tokens < 0:
                return None
            found = self._attempt(chunk)
        if failed or found is None:
            return None
        deep = next(_too_deep(found), None)
        if deep is not None:
            error = errors.too_deep("the expression is", limits.EXPRESSION_DEPTH, _start_of(deep.span))
            self.diagnostics.append(error)
            return None
        return found

    def _attempt(self, chunk: Sequence[Token]) -> ast.Declaration | None:
        last = chunk[-1].span
        end = Token(END, "", Span(last.source, last.end, last.end))
        try:
            return cast(ast.Declaration, run(load_table(), chunk, end, build))
        except Rejected as rejected:
            self.rejected_at = rejected.index
            self._report(explain((*chunk, end), rejected.index, rejected.accepts))
            return None

    def _report(self, diagnostic: Diagnostic) -> None:
        """Record an error, unless a wrong character on its line is the likely cause of it."""
        lines = {other.primary.span.line for other in self.diagnostics if other.primary and other.code != "E101"}
        if diagnostic.primary is None or diagnostic.primary.span.line not in lines:
            self.diagnostics.append(diagnostic)


def _without_statement(chunk: list[Token], index: int) -> list[Token]:
    """The chunk less the statement that holds token `index`; empty when that is the declaration itself."""
    bounds = [n for n, token in enumerate(chunk) if token.type in ("LBRACE", "_NEWLINE", "RBRACE")]
    at = bisect_left(bounds, index)
    if at == 0 or at == len(bounds):
        return []
    first, last = bounds[at - 1], bounds[at]
    if chunk[last].type == "_NEWLINE":
        return chunk[: first + 1] + chunk[last + 1 :]
    if chunk[first].type == "_NEWLINE":
        return chunk[:first] + chunk[last:]
    return chunk[: first + 1] + chunk[last:] if last > first + 1 else []


# ------------------------------------------------------------------------------------------ depth


def _start_of(span: Span) -> Span:
    return Span(span.source, span.start, min(span.end, span.start + 1))


def _too_deep(declaration: ast.Declaration) -> Iterator[ast.Expr]:
    """Expressions nested beyond the limit; without recursion, for they may be deep."""
    stack = [(expr, 1) for expr in ast.expressions(declaration)]
    while stack:
        expr, depth = stack.pop()
        if depth > limits.EXPRESSION_DEPTH:
            yield expr
            return
        own = len(expr.rest) if isinstance(expr, ast.Compare) else 1  # a chain becomes nested conjunctions
        stack.extend((child, depth + own) for child in ast.children(expr))


# ------------------------------------------------------------------------------------------- docs


def _with_doc(declaration: ast.Declaration, comments: Sequence[Comment]) -> ast.Declaration:
    """The declaration with the `##` lines that stand directly above it."""
    if isinstance(declaration, ast.Import):
        return declaration
    lines = list[str]()
    start = declaration.span.start
    for comment in reversed(comments[: bisect_left(comments, start, key=lambda comment: comment.span.start)]):
        between = declaration.span.source.text[comment.span.end : start]
        if not comment.is_doc or between.strip() or between.count("\n") != 1 or not _is_alone(comment.span):
            break
        lines.append(comment.content)
        start = comment.span.start
    return replace(declaration, doc="\n".join(reversed(lines))) if lines else declaration


def _is_alone(span: Span) -> bool:
    text = span.source.text
    return not text[text.rfind("\n", 0, span.start) + 1 : span.start].strip()

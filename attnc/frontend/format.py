"""Canonical layout of a text. Only spaces and line ends change, and `name = x` in a call, which becomes `name: x`.

Works on tokens, so that comments keep their place: a text is cut into rows, the fields of an attention are
aligned, rows are printed. Line breaks inside a statement stay where the author put them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from attnc.frontend.lexer import lex
from attnc.frontend.parser import parse
from attnc.frontend.spacing import spaces_before, with_colons
from attnc.frontend.tokens import Comment, Token
from attnc.source import SourceFile

_WIDTH = 120
_INDENT = 2
_ALIGNED = frozenset(("MASK", "SCORE", "BIAS", "NORMALIZER", "OUTPUT", "AUX"))


def format_text(source: SourceFile) -> str:
    """The text in canonical layout. Raises SpecError when it is not in the language."""
    parse(source)
    lexed = lex(source)
    rows = _Layout(with_colons(lexed.tokens)).rows(lexed.comments)
    _align(rows)
    printer = _Printer()
    lines = [line for row in rows for line in printer.lines(row)]
    return "\n".join(lines).strip("\n") + "\n" if lines else ""


@dataclass(slots=True)
class _Row:
    """One line: tokens, each with the space before it, and a comment. `fresh`: a statement starts with it."""

    level: int
    block: str
    fresh: bool
    blank_before: bool
    words: list[tuple[str, Token]] = field(default_factory=list[tuple[str, Token]])
    comment: str = ""
    pad: int = 0

    @property
    def last(self) -> Token | None:
        return self.words[-1][1] if self.words else None


# --------------------------------------------------------------------------------------- printing


def _align(rows: Sequence[_Row]) -> None:
    """Pad the fields of each attention to its longest field name."""
    group = list[_Row]()
    for row in (*rows, _Row(0, "", True, False)):
        if row.block == "ATTENTION" and row.fresh and row.words and row.words[0][1].type in _ALIGNED:
            group.append(row)
        elif row.block != "ATTENTION":
            width = max((len(member.words[0][1].text) for member in group), default=0)
            for member in group:
                member.pad = width
            group = []


class _Printer:
    """Rows to text. A row that goes on inside a bracket starts below what follows the bracket."""

    def __init__(self) -> None:
        #: Of each open bracket: the column of a row inside it, and of a row that starts with its end.
        self._open: list[tuple[int, int]] = []

    def lines(self, row: _Row) -> Iterator[str]:
        """The row, after an empty line where there was one."""
        if row.blank_before:
            yield ""
        text = " " * self._indent(row)
        start = len(text)
        for number, (space, token) in enumerate(row.words):
            text += space + (token.text.ljust(row.pad) if number == 0 and len(row.words) > 1 else token.text)
            self._track(token, number == len(row.words) - 1, start, len(text))
        if row.comment:
            text += ("  " if row.words else "") + row.comment
        yield text

    def _indent(self, row: _Row) -> int:
        if row.fresh:
            self._open.clear()
        elif self._open:
            inside, closing = self._open[-1]
            starts_with_end = bool(row.words) and row.words[0][1].type in ("RPAR", "RSQB")
            return closing if starts_with_end else inside
        return _INDENT * (row.level if row.fresh else row.level + 1)

    def _track(self, token: Token, is_last: bool, start: int, end: int) -> None:
        if token.type in ("LPAR", "LSQB"):
            self._open.append((start + _INDENT if is_last else end, start if is_last else end - 1))
        elif token.type in ("RPAR", "RSQB") and self._open:
            self._open.pop()


# ----------------------------------------------------------------------------------------- cutting


class _Layout:
    """Cuts tokens and comments into rows."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._spaces = spaces_before(tokens)
        self._closers = dict(_brace_pairs(tokens))
        self._rows: list[_Row] = []
        self._blocks: list[str] = []
        self._statement = 0
        self._fresh = True
        self._inline_until = -1

    def rows(self, comments: Sequence[Comment]) -> list[_Row]:
        """All rows."""
        pending = list(reversed(comments))
        end = 0
        for index, token in enumerate(self._tokens):
            while pending and pending[-1].span.start < token.span.start:
                self._fresh = self._fresh or token.type == "RBRACE"
                end = self._comment(pending.pop(), end)
            if token.type == "_NEWLINE":
                self._statement_end(index, token)
            else:
                self._token(index, token, _breaks(token, end))
                end = token.span.end
        self._fresh = True
        for comment in reversed(pending):
            end = self._comment(comment, end)
        return self._rows

    def _comment(self, comment: Comment, end: int) -> int:
        """Put a comment behind the row that it stands on, or on a row of its own."""
        text = re.sub(r"^(#+)(?=[^\s#!])", r"\1 ", comment.text.rstrip())
        breaks = _breaks(comment, end)
        if breaks == 0 and self._rows and not self._rows[-1].comment:
            self._rows[-1].comment = text
        else:
            self._open_row(blank=breaks > 1).comment = text
        return comment.span.end

    def _token(self, index: int, token: Token, breaks: int) -> None:
        if token.type == "RBRACE":
            self._blocks.pop()
            self._fresh = index != self._inline_until
        elif self._fresh:
            self._statement = index
        row = self._rows[-1] if self._rows else None
        stays = breaks == 0 or token.type == "LBRACE" or index <= self._inline_until
        if row is None or self._fresh or row.comment or not stays:
            row = self._open_row(blank=breaks > 1 and token.type != "RBRACE")
            row.words.append(("", token))
        else:
            row.words.append((self._spaces[index], token))
        self._fresh = False
        if token.type == "LBRACE":
            self._open_block(index)

    def _open_row(self, *, blank: bool) -> _Row:
        after = self._rows[-1].last if self._rows else None
        opens = after is not None and after.type == "LBRACE"
        block = self._blocks[-1] if self._blocks else ""
        row = _Row(len(self._blocks), block, self._fresh, blank and self._fresh and not opens)
        self._rows.append(row)
        return row

    def _statement_end(self, index: int, token: Token) -> None:
        if index < self._inline_until:
            self._rows[-1].words.append(("", Token(token.type, ";", token.span)))
        else:
            self._fresh = True

    def _open_block(self, index: int) -> None:
        self._blocks.append(self._tokens[self._statement].type)
        if self._fits_on_line(index, self._closers[index]):
            self._inline_until = self._closers[index]
        else:
            self._fresh = True

    def _fits_on_line(self, opener: int, closer: int) -> bool:
        """Whether the author wrote the block on one line and it fits."""
        first, last = self._tokens[opener].span, self._tokens[closer].span
        between = first.source.text[first.end : last.start]
        if "\n" in between or "#" in between:
            return False
        width = sum(len(space) + len(token.text) for space, token in self._rows[-1].words)
        width += sum(len(self._spaces[n]) + len(self._tokens[n].text) for n in range(opener + 1, closer + 1))
        return width <= _WIDTH


def _breaks(item: Token | Comment, end: int) -> int:
    """Line ends between offset `end` and an item."""
    return item.span.source.text.count("\n", end, item.span.start)


def _brace_pairs(tokens: Sequence[Token]) -> Iterator[tuple[int, int]]:
    open_ = list[int]()
    for index, token in enumerate(tokens):
        if token.type == "LBRACE":
            open_.append(index)
        elif token.type == "RBRACE":
            yield open_.pop(), index

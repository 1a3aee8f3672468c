"""Text to tokens: line ends that matter, bracket pairs, limits against hostile input.

Wrong characters are reported here and repaired where the meaning is clear (`&&` becomes `and`),
so that one slip gives one message.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from attnc.diagnostics import Diagnostic
from attnc.frontend import limits
from attnc.frontend.errors import syntax as errors
from attnc.frontend.tokens import CONTINUES, DECLARATIONS, FOREIGN, KEYWORDS, OPERATORS, Comment, Token
from attnc.source import SourceFile, Span


def _any_of(texts: list[str]) -> str:
    return "|".join(re.escape(text) for text in texts)


_PATTERN = re.compile(
    r"(?P<space>[ \t\r\f]+)"
    r"|(?P<comment>\#[^\n]*)"
    r"|(?P<end>[\n;][\s;]*)"
    r"|(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?P<glued>\w+)?)"
    r"|(?P<word>[^\W\d]\w*)"
    r'|(?P<string>"[^"\n]*")'
    rf"|(?P<foreign>{_any_of(sorted(FOREIGN.keys() - {'!'}, key=lambda text: (-len(text), text)))})"
    rf"|(?P<operator>{_any_of(list(OPERATORS))})"
    r"|(?P<bang>!)"
    r"|(?P<other>.)",
    re.DOTALL,
)
#: What stands between the end of a header and its brace, or the indented line that lacks one.
_AFTER_HEADER = re.compile(r"(?:[ \t\r\f]*(?:\#[^\n]*)?\n)*(?P<indent>[ \t]*)(?P<next>\S|$)")
_BLOCKS = frozenset(("NORMALIZER", "ATTENTION", "RECURRENCE", "SELECT"))
_CLOSER = {"LPAR": ")", "LSQB": "]", "LBRACE": "}"}
_ROUND = frozenset(("LPAR", "LSQB"))
#: Words that start a line only outside round and square brackets: meeting one inside proves a forgotten bracket.
_NOT_IN_BRACKETS = frozenset(DECLARATIONS) - {"feature"} | {"let", "aux", "output"}
#: Likewise for braces.
_NOT_IN_BRACES = frozenset(("import", "def", "feature", "attention", "recurrence", "select"))


@dataclass(slots=True)
class Lexed:
    """The result. A declaration that holds one of the `broken` offsets has wrong brackets and is not parsed.

    `fatal`: a limit was hit, the tokens are not all of the text.
    """

    tokens: list[Token] = field(default_factory=list[Token])
    comments: list[Comment] = field(default_factory=list[Comment])
    diagnostics: list[Diagnostic] = field(default_factory=list[Diagnostic])
    broken: list[int] = field(default_factory=list[int])
    fatal: bool = False


def lex(source: SourceFile) -> Lexed:
    """Tokens and comments of a text, with everything that is wrong about its characters and brackets."""
    lexer = _Lexer(source)
    lexer.run()
    return lexer.result


class _Lexer:
    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.result = Lexed()
        self.open: list[Token] = []
        self.line_start = True
        self.statement = 0

    def run(self) -> None:
        for match in _PATTERN.finditer(self.source.text):
            if match.lastgroup != "space":
                self._take(match)
            if self.result.fatal or self._over_limits(match.start()):
                return
        self._drop_line_end()
        end = self.result.tokens[-1].span.end if self.result.tokens else 0
        self._close_all(Span(self.source, end, end), from_=0)

    def _over_limits(self, at: int) -> bool:
        result, here = self.result, Span(self.source, at, at + 1)
        if len(result.tokens) + len(result.comments) > limits.TOKENS:
            self._stop(errors.too_long("the text", f"{limits.TOKENS} words, numbers and signs", here))
        elif len(self.open) > limits.BRACKET_DEPTH:
            self._stop(errors.too_deep("brackets are", limits.BRACKET_DEPTH, self.open[-1].span))
        elif len(result.diagnostics) > limits.DIAGNOSTICS:
            self._stop(errors.too_many_errors(here))
        return result.fatal

    def _stop(self, diagnostic: Diagnostic) -> None:
        self.result.diagnostics.append(diagnostic)
        self.result.fatal = True

    def _take(self, match: re.Match[str]) -> None:
        text, span = match.group(), Span(self.source, match.start(), match.end())
        match match.lastgroup:
            case "end":
                self._end(text, span)
                return
            case "comment":
                self.result.comments.append(Comment(text, span))
                return
            case "number" | "glued":
                self._number(text, match.group("glued"), span)
            case "word":
                self._word(text, span)
            case "string":
                self._emit("STRING", text, span)
            case "foreign" | "bang":
                self._foreign(text, span)
            case "operator":
                self._operator(text, span)
            case _:
                self._report(errors.bad_character(text, span))
        self.line_start = False

    def _emit(self, type_: str, text: str, span: Span) -> None:
        self.result.tokens.append(Token(type_, text, span))

    def _report(self, diagnostic: Diagnostic) -> None:
        self.result.diagnostics.append(diagnostic)

    # ------------------------------------------------------------------------------- line ends

    def _end(self, text: str, span: Span) -> None:
        if "\n" in text:
            self.line_start = True
        if self.open and self.open[-1].type in _ROUND:
            if ";" not in text:
                return
            self._close_all(span)
        tokens = self.result.tokens
        if not tokens or tokens[-1].type in CONTINUES:
            return
        if self._lacks_brace(span):
            self._report(errors.missing_brace(tokens[self.statement].text, tokens[-1].span))
            self._emit("LBRACE", "{", Span(self.source, span.start, span.start))
            self.open.append(tokens[-1])
        else:
            self._emit("_NEWLINE", text, span)
            self.statement = len(tokens)

    def _lacks_brace(self, span: Span) -> bool:
        """Whether a header ends here and an indented line follows instead of `{`."""
        tokens = self.result.tokens
        if self.open or self.statement >= len(tokens) or tokens[self.statement].type not in _BLOCKS:
            return False
        if any(token.type == "LBRACE" for token in tokens[self.statement :]):
            return False
        following = _AFTER_HEADER.match(self.source.text, span.start)
        return following is not None and bool(following["indent"]) and following["next"] not in ("{", "")

    def _drop_line_end(self) -> None:
        tokens = self.result.tokens
        if tokens and tokens[-1].type == "_NEWLINE":
            tokens.pop()

    # -------------------------------------------------------------------------------- brackets

    def _operator(self, text: str, span: Span) -> None:
        type_ = OPERATORS[text]
        if type_ in ("LBRACE", "RBRACE"):
            self._close_all(span)
            self._drop_line_end()
        if type_ in ("RPAR", "RSQB", "RBRACE"):
            matching = ("LBRACE",) if type_ == "RBRACE" else _ROUND
            if not self.open or self.open[-1].type not in matching:
                self._report(errors.unmatched_bracket(text, span))
                return
            self.open.pop()
        self._emit(type_, text, span)
        if type_ in _CLOSER:
            self.open.append(self.result.tokens[-1])

    def _close_all(self, before: Span, *, from_: int | None = None) -> None:
        """Give up the open round and square brackets, or everything opened since `from_`."""
        first = len(self.open) if from_ is None else from_
        while from_ is None and first and self.open[first - 1].type in _ROUND:
            first -= 1
        for opener in self.open[first:]:
            closer = _CLOSER[opener.type]
            self._report(errors.unclosed_bracket(opener.text, closer, opener.span, before))
            self.result.broken.append(opener.span.start)
        del self.open[first:]

    # ----------------------------------------------------------------------------------- words

    def _word(self, text: str, span: Span) -> None:
        if not text.isascii():
            self._report(errors.non_ascii_name(text, span))
        if self.line_start and self.open:
            self._resynchronise(text, span)
        self._emit(KEYWORDS.get(text, "NAME"), text, span)

    def _resynchronise(self, word: str, span: Span) -> None:
        if word in _NOT_IN_BRACES and span.start == self._line_begin(span.start):
            self._close_all(span, from_=0)
        elif word in _NOT_IN_BRACKETS:
            self._close_all(span)
        else:
            return
        if self.open and self.open[-1].type in _ROUND:
            return
        if self.result.tokens[-1].type not in ("_NEWLINE", "LBRACE"):
            self._emit("_NEWLINE", "\n", Span(self.source, span.start, span.start))

    def _line_begin(self, offset: int) -> int:
        return self.source.text.rfind("\n", 0, offset) + 1

    def _foreign(self, text: str, span: Span) -> None:
        meant = FOREIGN[text]
        self._report(errors.foreign_operator(text, meant, span))
        self._emit(KEYWORDS.get(meant) or OPERATORS[meant], meant, span)

    # --------------------------------------------------------------------------------- numbers

    def _number(self, text: str, glued: str | None, span: Span) -> None:
        digits = text.removesuffix(glued or "")
        real = not digits.isdigit()
        problem = _number_problem(digits, glued, real=real)
        if problem is not None:
            self._report(errors.bad_number(text, span, *problem))
            digits = "1"
        self._emit("REAL" if real else "INT", digits, span)


def _number_problem(digits: str, glued: str | None, *, real: bool) -> tuple[str, str | None] | None:
    if glued is not None:
        return "letters follow the digits", f"write `{digits[:20]} * {glued[:20]}`, or start the name with a letter"
    if len(digits) > limits.LITERAL_CHARACTERS:
        return f"more than {limits.LITERAL_CHARACTERS} characters", None
    if not real and int(digits) >= 1 << (limits.INT_BITS - 1):
        return "does not fit into 64 bits", None
    if real and math.isinf(float(digits)):
        return "does not fit into a double", None
    return None

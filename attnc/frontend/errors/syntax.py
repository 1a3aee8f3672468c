"""E1: the text is not in the language, or too large for it."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.diagnostics import Diagnostic, Label
from attnc.frontend import limits
from attnc.frontend.errors.wording import clip
from attnc.source import Span


@dataclass(frozen=True, slots=True)
class UnexpectedToken:
    """The parser met something that cannot stand here."""

    found: str
    span: Span
    expected: str | None = None
    note: str | None = None
    help: str | None = None

    def diagnostic(self) -> Diagnostic:
        label = f"expected {self.expected}" if self.expected else "cannot stand here"
        return Diagnostic("E101", f"unexpected {self.found}", Label(self.span, label), note=self.note, help=self.help)


@dataclass(frozen=True, slots=True)
class UnclosedBracket:
    bracket: str
    closer: str
    span: Span
    before: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E102",
            f"unclosed `{self.bracket}`",
            Label(self.span, "opened here"),
            (Label(self.before, f"still open here; expected `{self.closer}`"),),
            help=f"close it with `{self.closer}`",
        )


@dataclass(frozen=True, slots=True)
class UnmatchedBracket:
    bracket: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic("E103", f"unmatched `{self.bracket}`", Label(self.span, "nothing is open here"))


@dataclass(frozen=True, slots=True)
class BadCharacter:
    text: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        shown = f"`{self.text}`" if self.text.isprintable() else f"U+{ord(self.text[0]):04X}"
        hints = {
            '"': "a string ends on its line; only import paths are strings",
            "'": 'strings are written with `"`, and only import paths are strings',
            "?": "a choice is written `where(condition, x, y)`",
            "\\": "a line continues inside brackets or after an operator",
            "$": "parameters are written by their name alone",
        }
        return Diagnostic(
            "E104", f"{shown} does not belong to the language", Label(self.span), help=hints.get(self.text)
        )


@dataclass(frozen=True, slots=True)
class ForeignOperator:
    """An operator of another language whose meaning is clear."""

    written: str
    meant: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        note = "power is `^`" if self.written == "**" else None
        title = f"`{self.written}` is not an operator of the language"
        return Diagnostic("E105", title, Label(self.span), note=note, help=f"write `{self.meant}`")


@dataclass(frozen=True, slots=True)
class NonAsciiName:
    name: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E106",
            f"`{clip(self.name)}` is not a name",
            Label(self.span),
            note="names consist of ASCII letters, digits and `_`",
            help="spell the letter out, for example `beta`",
        )


@dataclass(frozen=True, slots=True)
class BadNumber:
    text: str
    span: Span
    why: str
    help: str | None = None

    def diagnostic(self) -> Diagnostic:
        title = f"`{clip(self.text)}` is not a number of the language"
        return Diagnostic("E107", title, Label(self.span, self.why), help=self.help)


@dataclass(frozen=True, slots=True)
class TooLong:
    """A text, or a part of it, beyond a limit of size."""

    what: str
    limit: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E108",
            f"{self.what} is too large",
            Label(self.span, f"the limit is {self.limit}"),
            note="the limits keep every text answered within a second",
            help="split the text, or give what is repeated a name with `def`",
        )


@dataclass(frozen=True, slots=True)
class TooDeep:
    what: str
    limit: int
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E109",
            f"{self.what} nested more than {self.limit} deep",
            Label(self.span, "here"),
            help="name parts of it with `let` or `def`",
        )


@dataclass(frozen=True, slots=True)
class TooManyNodes:
    """Names put in place make an expression explode."""

    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E110",
            f"this grows to more than {limits.EXPRESSION_NODES} operations when its names are put in place",
            Label(self.span, "here"),
            note="every use of a `let`, `def`, `mask`, `bias` or `score` stands for its whole text",
        )


@dataclass(frozen=True, slots=True)
class TooManyErrors:
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic("E111", f"more than {limits.DIAGNOSTICS} errors; the rest is not shown", Label(self.span))


@dataclass(frozen=True, slots=True)
class WrongField:
    """A statement that its block does not take."""

    field: str
    block: str
    span: Span
    help: str

    def diagnostic(self) -> Diagnostic:
        title = f"{self.field} cannot stand in {self.block}"
        return Diagnostic("E112", title, Label(self.span), help=self.help)


@dataclass(frozen=True, slots=True)
class RepeatedField:
    field: str
    span: Span
    first: Span
    help: str

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E113",
            f"`{self.field}` is given twice",
            Label(self.span, "again here"),
            (Label(self.first, "first given here"),),
            help=self.help,
        )


@dataclass(frozen=True, slots=True)
class UnreadableText:
    """A file that cannot be read as text of the language."""

    name: str
    why: str
    help: str | None = None

    def diagnostic(self) -> Diagnostic:
        return Diagnostic("E114", f"cannot read `{clip(self.name, 200)}`: {self.why}", help=self.help)


@dataclass(frozen=True, slots=True)
class TooComplex:
    """The last net: something recursed deeper than every limit foresaw."""

    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E115",
            "the text nests too deeply to be checked",
            Label(self.span),
            help="name parts of long expressions with `let` or `def`",
        )

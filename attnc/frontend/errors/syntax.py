"""E1: the text is not in the language, or too large for it."""

from __future__ import annotations

from attnc.diagnostics import Diagnostic, Label
from attnc.frontend import limits
from attnc.frontend.errors.wording import clip
from attnc.source import Span


def unexpected_token(found: str, span: Span, expected: str | None, help_: str | None) -> Diagnostic:
    """E101: the parser met something that cannot stand here."""
    label = f"expected {expected}" if expected else "cannot stand here"
    return Diagnostic("E101", f"unexpected {found}", Label(span, label), help=help_)


def unknown_field(name: str, span: Span, meant: str | None) -> Diagnostic:
    """E101: a statement that starts with a word which is no field."""
    help_ = f"did you mean `{meant}`?" if meant else "the fields are mask, score, bias, normalizer, output, aux, grid"
    return Diagnostic("E101", f"unknown field `{clip(name)}`", Label(span), help=help_)


def unclosed_bracket(bracket: str, closer: str, span: Span, before: Span) -> Diagnostic:
    """E102: a bracket that is still open where it cannot be."""
    return Diagnostic(
        "E102",
        f"unclosed `{bracket}`",
        Label(span, "opened here"),
        (Label(before, f"still open here; expected `{closer}`"),),
        help=f"close it with `{closer}`",
    )


def missing_brace(keyword: str, span: Span) -> Diagnostic:
    """E102: a header followed by indented lines without a brace."""
    return Diagnostic(
        "E102",
        f"the body of this `{keyword}` is not in braces",
        Label(Span(span.source, span.end, span.end), "expected `{`"),
        help=f"write `{keyword} NAME {{ ... }}`",
    )


def unmatched_bracket(bracket: str, span: Span) -> Diagnostic:
    """E103: a closing bracket without an open one."""
    return Diagnostic("E103", f"unmatched `{bracket}`", Label(span, "nothing is open here"))


def bad_character(text: str, span: Span) -> Diagnostic:
    """E104: a character that no construct uses."""
    shown = f"`{text}`" if text.isprintable() else f"U+{ord(text[0]):04X}"
    hints = {
        '"': "a string ends on its line; only import paths are strings",
        "'": 'strings are written with `"`, and only import paths are strings',
        "?": "a choice is written `where(condition, x, y)`",
        "\\": "a line continues inside brackets or after an operator",
        "$": "parameters are written by their name alone",
    }
    return Diagnostic("E104", f"{shown} does not belong to the language", Label(span), help=hints.get(text))


def foreign_operator(written: str, meant: str, span: Span) -> Diagnostic:
    """E105: an operator of another language whose meaning is clear."""
    title = f"`{written}` is not an operator of the language"
    help_ = "power is `^`" if written == "**" else f"write `{meant}`"
    return Diagnostic("E105", title, Label(span), help=help_)


def non_ascii_name(name: str, span: Span) -> Diagnostic:
    """E106: a name with letters outside ASCII."""
    return Diagnostic(
        "E106",
        f"`{clip(name)}` is not a name",
        Label(span),
        note="names consist of ASCII letters, digits and `_`",
        help="spell the letter out, for example `beta`",
    )


def bad_number(text: str, span: Span, why: str, help_: str | None = None) -> Diagnostic:
    """E107: a number that is too long, too large or glued to a word."""
    title = f"`{clip(text)}` is not a number of the language"
    return Diagnostic("E107", title, Label(span, why), help=help_)


def too_long(what: str, limit: str, span: Span) -> Diagnostic:
    """E108: a text, or a part of it, beyond a limit of size."""
    return Diagnostic(
        "E108",
        f"{what} is too large",
        Label(span, f"the limit is {limit}"),
        note="the limits keep every text answered within a second",
        help="split the text, or give what is repeated a name with `def`",
    )


def too_deep(what: str, limit: int, span: Span) -> Diagnostic:
    """E109: brackets or operations nested beyond the limit."""
    return Diagnostic(
        "E109",
        f"{what} nested more than {limit} deep",
        Label(span, "here"),
        help="name parts of it with `let` or `def`",
    )


def too_many_nodes(span: Span) -> Diagnostic:
    """E110: names put in place make an expression explode."""
    return Diagnostic(
        "E110",
        f"this grows to more than {limits.EXPRESSION_NODES} operations when its names are put in place",
        Label(span, "here"),
        note="every use of a `let`, `def`, `mask`, `bias` or `score` stands for its whole text",
    )


def too_many_uses(span: Span) -> Diagnostic:
    """E110: the uses of one file, all together, explode."""
    return Diagnostic(
        "E110",
        f"what this file uses amounts to more than {limits.USED_NODES} operations",
        Label(span, "reached here"),
        note="every use of a `def`, `mask`, `bias`, `score` or `feature` stands for its whole text",
        help="give what is used repeatedly a name with `let`, or split the file",
    )


def too_many_errors(span: Span) -> Diagnostic:
    """E111: the place where a phase stopped looking for more errors."""
    return Diagnostic("E111", f"more than {limits.DIAGNOSTICS} errors; the rest is not shown", Label(span))


def wrong_field(field: str, block: str, span: Span, help_: str) -> Diagnostic:
    """E112: a statement that its block does not take."""
    title = f"{field} cannot stand in {block}"
    return Diagnostic("E112", title, Label(span), help=help_)


def repeated_field(field: str, span: Span, first: Span, help_: str) -> Diagnostic:
    """E113: a field that can be given once."""
    return Diagnostic(
        "E113",
        f"`{field}` is given twice",
        Label(span, "again here"),
        (Label(first, "first given here"),),
        help=help_,
    )


def unreadable_text(name: str, why: str, help_: str | None = None) -> Diagnostic:
    """E114: a file that cannot be read as text of the language."""
    return Diagnostic("E114", f"cannot read `{clip(name, 200)}`: {why}", help=help_)


def too_complex(span: Span) -> Diagnostic:
    """E115: the last net: something recursed deeper than every limit foresaw."""
    return Diagnostic(
        "E115",
        "the text nests too deeply to be checked",
        Label(span),
        help="name parts of long expressions with `let` or `def`",
    )

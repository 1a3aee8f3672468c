"""E2: names, declarations and imports."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.diagnostics import Diagnostic, Label
from attnc.frontend.errors.wording import clip, did_you_mean, listing, with_article
from attnc.source import Span


def unknown_name(what: str, name: str, span: Span, known: tuple[str, ...] = (), help_: str | None = None) -> Diagnostic:
    """E201: `what` is the kind of thing looked for; `known` are the names that would have been found."""
    help_ = help_ or did_you_mean(name, known)
    if help_ is None and 0 < len(known) <= 12:
        help_ = f"there is {listing(sorted(set(known)))}"
    return Diagnostic("E201", f"unknown {what} `{clip(name)}`", Label(span), help=help_)


def reserved_name(name: str, meaning: str, span: Span) -> Diagnostic:
    """E202: a declaration named like something of the language."""
    return Diagnostic(
        "E202",
        f"`{name}` cannot be declared: it is {meaning}",
        Label(span),
        help="choose another name",
    )


def duplicate_name(what: str, name: str, span: Span, first: Span) -> Diagnostic:
    """E203: one name for two things of one kind."""
    return Diagnostic(
        "E203",
        f"{what} `{clip(name)}` is declared twice",
        Label(span, "again here"),
        (Label(first, "first declared here"),),
        help="rename one of the two",
    )


def cyclic_definition(chain: tuple[str, ...], span: Span) -> Diagnostic:
    """E204: definitions that use each other."""
    return Diagnostic(
        "E204",
        f"`{chain[0]}` is defined through itself",
        Label(span, " -> ".join((*chain, chain[0]))),
        note="the language has no recursion",
    )


def bad_import(path: str, why: str, span: Span, help_: str | None = None) -> Diagnostic:
    """E205: an import whose file cannot be used."""
    title = f"cannot import `{clip(path, 80)}`: {why}"
    return Diagnostic("E205", title, Label(span), help=help_)


def not_in_file(name: str, file: str, span: Span, known: tuple[str, ...]) -> Diagnostic:
    """E206: an imported name that its file does not declare."""
    help_ = did_you_mean(name, known)
    if help_ is None and known:
        help_ = f"it declares {listing(sorted(set(known)))}"
    title = f"`{clip(file, 80)}` declares no `{clip(name)}`"
    return Diagnostic("E206", title, Label(span), help=help_)


def import_cycle(chain: tuple[str, ...], span: Span) -> Diagnostic:
    """E207: files that import each other."""
    return Diagnostic(
        "E207",
        "files import each other",
        Label(span, " -> ".join(clip(name) for name in chain)),
        help="move what both need into a third file",
    )


def wrong_kind(name: str, found: tuple[str, ...], wanted: str, span: Span, help_: str | None = None) -> Diagnostic:
    """E208: a name that exists, as something that cannot stand here."""
    title = f"`{name}` is {' and '.join(map(with_article, found))}, not {wanted}"
    return Diagnostic("E208", title, Label(span), help=help_)


def not_readable_here(
    name: str,
    place: str,
    span: Span,
    why: str | None = None,
    help_: str | None = None,
    through: tuple[str, Span] | None = None,
) -> Diagnostic:
    """E209: a predefined value, index or reduction in a place that does not have it."""
    secondary = () if through is None else (Label(through[1], f"`{through[0]}` reads it here"),)
    title = f"{place} cannot read `{name}`"
    return Diagnostic("E209", title, Label(span), secondary, note=why, help=help_)


def names_of(pairs: Iterable[tuple[str, str]], kinds: Iterable[str]) -> tuple[str, ...]:
    """The names declared as one of `kinds`, from (kind, name) pairs."""
    wanted = set(kinds)
    return tuple(sorted({name for kind, name in pairs if kind in wanted}))

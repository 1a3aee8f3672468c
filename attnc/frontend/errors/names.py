"""E2: names, declarations and imports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attnc.diagnostics import Diagnostic, Label
from attnc.frontend.errors.wording import clip, did_you_mean, listing
from attnc.source import Span


@dataclass(frozen=True, slots=True)
class UnknownName:
    """`what` is the kind of thing looked for; `known` are the names that would have been found."""

    what: str
    name: str
    span: Span
    known: tuple[str, ...] = ()
    help: str | None = None

    def diagnostic(self) -> Diagnostic:
        help_ = self.help or did_you_mean(self.name, self.known)
        if help_ is None and 0 < len(self.known) <= 12:
            help_ = f"there is {listing(sorted(set(self.known)))}"
        return Diagnostic("E201", f"unknown {self.what} `{clip(self.name)}`", Label(self.span), help=help_)


@dataclass(frozen=True, slots=True)
class ReservedName:
    name: str
    meaning: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E202",
            f"`{self.name}` cannot be declared: it is {self.meaning}",
            Label(self.span),
            help="choose another name",
        )


@dataclass(frozen=True, slots=True)
class DuplicateName:
    what: str
    name: str
    span: Span
    first: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E203",
            f"{self.what} `{clip(self.name)}` is declared twice",
            Label(self.span, "again here"),
            (Label(self.first, "first declared here"),),
            help="rename one of the two",
        )


@dataclass(frozen=True, slots=True)
class CyclicDefinition:
    chain: tuple[str, ...]
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E204",
            f"`{self.chain[0]}` is defined through itself",
            Label(self.span, " -> ".join((*self.chain, self.chain[0]))),
            note="the language has no recursion",
        )


@dataclass(frozen=True, slots=True)
class BadImport:
    """An import whose file cannot be used."""

    path: str
    why: str
    span: Span
    help: str | None = None

    def diagnostic(self) -> Diagnostic:
        title = f"cannot import `{clip(self.path, 80)}`: {self.why}"
        return Diagnostic("E205", title, Label(self.span), help=self.help)


@dataclass(frozen=True, slots=True)
class NotInFile:
    """An imported name that its file does not declare."""

    name: str
    file: str
    span: Span
    known: tuple[str, ...]

    def diagnostic(self) -> Diagnostic:
        help_ = did_you_mean(self.name, self.known)
        if help_ is None and self.known:
            help_ = f"it declares {listing(sorted(set(self.known)))}"
        title = f"`{clip(self.file, 80)}` declares no `{clip(self.name)}`"
        return Diagnostic("E206", title, Label(self.span), help=help_)


@dataclass(frozen=True, slots=True)
class ImportCycle:
    chain: tuple[str, ...]
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E207",
            "files import each other",
            Label(self.span, " -> ".join(clip(name) for name in self.chain)),
            help="move what both need into a third file",
        )


@dataclass(frozen=True, slots=True)
class WrongKind:
    """A name that exists, as something that cannot stand here."""

    name: str
    found: tuple[str, ...]
    wanted: str
    span: Span
    help: str | None = None

    def diagnostic(self) -> Diagnostic:
        title = f"`{self.name}` is a {' and a '.join(self.found)}, not {self.wanted}"
        return Diagnostic("E208", title, Label(self.span), help=self.help)


@dataclass(frozen=True, slots=True)
class NotReadableHere:
    """A predefined value, index or reduction in a place that does not have it."""

    name: str
    place: str
    span: Span
    why: str | None = None
    help: str | None = None
    through: tuple[str, Span] | None = None

    def diagnostic(self) -> Diagnostic:
        secondary = () if self.through is None else (Label(self.through[1], f"`{self.through[0]}` reads it here"),)
        title = f"{self.place} cannot read `{self.name}`"
        return Diagnostic("E209", title, Label(self.span), secondary, note=self.why, help=self.help)


def names_of(pairs: Iterable[tuple[str, str]], kinds: Iterable[str]) -> tuple[str, ...]:
    """The names declared as one of `kinds`, from (kind, name) pairs."""
    wanted = set(kinds)
    return tuple(sorted({name for kind, name in pairs if kind in wanted}))

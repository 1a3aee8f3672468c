"""From a text to its typed modules. Imports no torch, sympy or islpy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from attnc.diagnostics import Diagnostic, SpecError
from attnc.files import STANDARD, FileLoader, load_spec, standard_directory, stdlib_names, unreadable
from attnc.frontend.check import check_file
from attnc.frontend.errors import parameters as errors
from attnc.frontend.errors.syntax import too_complex
from attnc.frontend.loading import Loader, Unreadable
from attnc.ir.module import AttentionModule
from attnc.source import SourceFile, Span

__all__ = [
    "CheckedFile",
    "Doc",
    "FileLoader",
    "check",
    "load_spec",
    "select",
    "standard_directory",
    "stdlib_names",
]


@dataclass(frozen=True, slots=True)
class Doc:
    """One declaration for `attnc list`."""

    kind: str
    name: str
    summary: str


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A right file: its attentions, what may not be meant, and its documentation."""

    source: SourceFile
    modules: tuple[AttentionModule, ...]
    warnings: tuple[Diagnostic, ...]
    docs: tuple[Doc, ...]


def check(source: SourceFile, loader: Loader | None = None) -> CheckedFile:
    """Check a text. Raises SpecError with everything that is wrong with it."""
    try:
        found = check_file(source, loader or FileLoader())
    except Unreadable as error:
        raise unreadable(source.name, error) from None
    except RecursionError:
        raise SpecError((too_complex(Span(source, 0, 0)),)) from None
    return CheckedFile(source, found.modules, found.warnings, tuple(Doc(*entry) for entry in found.docs))


def select(checked: CheckedFile, name: str | None = None) -> AttentionModule:
    """The attention called `name`; without a name the only one, or the one called like the file. Raises SpecError."""
    known = tuple(module.name for module in checked.modules)
    file = checked.source.name
    if name is not None and name not in known:
        raise SpecError((errors.unknown_attention(name, file, known),))
    wanted = name if name is not None else _default_name(file, known)
    if wanted is None:
        raise SpecError((errors.ambiguous_attention(file, known),))
    return checked.modules[known.index(wanted)]


def _default_name(file: str, known: Iterable[str]) -> str | None:
    names = tuple(known)
    if len(names) == 1:
        return names[0]
    stem = Path(file.removeprefix(STANDARD)).stem
    return stem if stem in names else None

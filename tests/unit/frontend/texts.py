"""What the tests of the front end share: a library in memory, and short ways to check a text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import pytest

from attnc.diagnostics import Diagnostic, SpecError
from attnc.driver import CheckedFile, check, select
from attnc.frontend.bind import bind
from attnc.frontend.loading import Unreadable
from attnc.ir.module import AttentionModule
from attnc.source import SourceFile

SOFTMAX = """
normalizer softmax {
  m = max[j](s)
  p = exp(s - m)
  w = p / sum[j](p)
  aux lse = m + log(sum[j](p))
}
"""


class MemoryLoader:
    """A standard library and a directory, both given as texts."""

    def __init__(self, standard: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None) -> None:
        library = {"softmax": SOFTMAX, **(standard or {})}
        self.standard = {name: SourceFile(f"std:{name}", text) for name, text in library.items()}
        self.files = {name: SourceFile(name, text) for name, text in (files or {}).items()}
        self.read: list[str] = []

    def standard_names(self) -> tuple[str, ...]:
        return tuple(sorted(self.standard))

    def read_standard(self, name: str) -> SourceFile:
        self.read.append(name)
        return self.standard[name]

    def read_import(self, importer: SourceFile, path: str) -> SourceFile:
        self.read.append(f"{importer.name} {path}")
        if path not in self.files:
            raise Unreadable("there is no such file")
        return self.files[path]


def source_of(text: str) -> SourceFile:
    return SourceFile("t.attn", textwrap.dedent(text))


def checked(text: str, loader: MemoryLoader | None = None) -> CheckedFile:
    return check(source_of(text), loader or MemoryLoader())


def module_of(text: str, loader: MemoryLoader | None = None, **params: object) -> AttentionModule:
    """The only attention of a text, its static parameters bound."""
    return bind(select(checked(text, loader)), params)


def errors_of(text: str, loader: MemoryLoader | None = None) -> tuple[Diagnostic, ...]:
    with pytest.raises(SpecError) as caught:
        checked(text, loader)
    return caught.value.diagnostics


def codes_of(text: str, loader: MemoryLoader | None = None) -> list[str]:
    return [diagnostic.code for diagnostic in errors_of(text, loader)]

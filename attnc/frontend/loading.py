"""How the front end gets at files: the interface of loaders."""

from __future__ import annotations

from typing import Protocol

from attnc.source import SourceFile


class Unreadable(Exception):
    """A loader cannot or may not read a file."""

    def __init__(self, why: str, help_: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.help = help_


class Loader(Protocol):
    """The only access to files. The same file is always the same SourceFile object."""

    def standard_names(self) -> tuple[str, ...]:
        """Names of the files of the standard library, in order."""
        ...

    def read_standard(self, name: str) -> SourceFile:
        """A file of the standard library. Raises Unreadable."""
        ...

    def read_import(self, importer: SourceFile, path: str) -> SourceFile:
        """The file that `importer` calls `path`. Raises Unreadable."""
        ...

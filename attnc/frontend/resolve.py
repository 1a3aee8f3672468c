"""Declarations by name: those of a file, what it imports, and the standard library behind them.

A kind has its own namespace. A name that a file neither declares nor imports falls back to the file of that
name in the standard library, so `normalizer softmax` works without an import. Files come from a `Loader`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from attnc.diagnostics import Diagnostic, SpecError
from attnc.frontend import ast, limits
from attnc.frontend.errors import names as errors
from attnc.frontend.errors.wording import near, with_article
from attnc.frontend.loading import Loader, Unreadable
from attnc.frontend.names import reserved_as
from attnc.frontend.parser import parse
from attnc.source import SourceFile

Kind = Literal["def", "mask", "bias", "score", "feature", "normalizer", "attention", "recurrence", "select"]
#: Kinds whose uses are put in place of a name.
IMPORTABLE: tuple[Kind, ...] = ("mask", "bias", "score", "feature", "def", "normalizer")
_COLLECTIONS: dict[str, Kind] = {f"{kind}es" if kind == "bias" else f"{kind}s": kind for kind in IMPORTABLE}


#: Finds declarations of the standard library without parsing every file.
_DECLARATION = re.compile(r"^(mask|bias|score|feature|def|normalizer)[ \t]+(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, eq=False)
class Declared:
    """A declaration and the file in whose terms its text is to be read."""

    kind: Kind
    node: ast.Definition | ast.Block
    scope: Scope

    @property
    def name(self) -> str:
        return self.node.name.text


@dataclass(slots=True, eq=False)
class Scope:
    """The names of one file. `silent` are names whose import failed: using them is no further error."""

    source: SourceFile
    names: dict[tuple[Kind, str], Declared] = field(default_factory=dict[tuple[Kind, str], Declared])
    own: list[Declared] = field(default_factory=list[Declared])
    imported: dict[tuple[Kind, str], ast.Word] = field(default_factory=dict[tuple[Kind, str], ast.Word])
    silent: set[str] = field(default_factory=set[str])
    broken: bool = False
    summary: str = ""


class Library:
    """All files that one check looks at, each parsed once. Collects what is wrong with them."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._scopes: dict[int, Scope] = {}
        self._loading: list[SourceFile] = []
        self._imported_files = 0
        self._index: dict[tuple[str, str], str] | None = None
        self.diagnostics: list[Diagnostic] = []
        self.used_imports: set[tuple[int, Kind, str]] = set()

    # ----------------------------------------------------------------------------------- files

    def open(self, source: SourceFile) -> Scope:
        """The names of a file, its imports followed."""
        if id(source) in self._scopes:
            return self._scopes[id(source)]
        scope = self._scopes[id(source)] = Scope(source)
        try:
            file = parse(source)
        except SpecError as error:
            self.diagnostics += error.diagnostics
            scope.broken = True
            return scope
        scope.summary = file.summary
        self._loading.append(source)
        for declaration in file.declarations:
            if isinstance(declaration, ast.Import):
                self._import(declaration, scope)
            else:
                self._declare(declaration, scope)
        self._loading.pop()
        return scope

    def _declare(self, node: ast.Definition | ast.Block, scope: Scope) -> None:
        declared = Declared(node.kind, node, scope)
        key = (declared.kind, declared.name)
        meaning = _conflict(declared)
        first = scope.names.get(key)
        if meaning is not None:
            self._report(errors.reserved_name(declared.name, meaning, node.name.span))
        elif first is not None:
            before = scope.imported.get(key, first.node.name)
            self._report(errors.duplicate_name(declared.kind, declared.name, node.name.span, before.span))
        scope.names.setdefault(key, declared)
        scope.own.append(declared)

    # --------------------------------------------------------------------------------- imports

    def _import(self, node: ast.Import, scope: Scope) -> None:
        words = node.names or ()
        shown = node.path if isinstance(node.path, str) else ".".join(node.path)
        if not words:
            help_ = f"list them: `import {shown} (name)`"
            self._report(errors.bad_import(shown, "the names to import are missing", node.span, help_))
        elif isinstance(node.path, tuple) and len(node.path) == 2 and node.path[1] in _COLLECTIONS:
            self._import_from_all(node, words, _COLLECTIONS[node.path[1]], scope)
        else:
            found = self._imported_scope(node, shown, scope)
            for word in words:
                self._import_name(word, found, shown, IMPORTABLE, scope)

    def _imported_scope(self, node: ast.Import, shown: str, scope: Scope) -> Scope | None:
        try:
            source = self._read(node, scope)
        except Unreadable as error:
            self._report(errors.bad_import(shown, error.why, node.path_span, error.help))
            return None
        if any(source is loading for loading in self._loading):
            chain = (*(loading.name for loading in self._loading), source.name)
            self._report(errors.import_cycle(chain, node.path_span))
            return None
        found = self.open(source)
        return None if found.broken else found

    def _read(self, node: ast.Import, scope: Scope) -> SourceFile:
        self._imported_files += 1
        if self._imported_files > limits.IMPORTED_FILES:
            raise Unreadable(f"more than {limits.IMPORTED_FILES} imports")
        if isinstance(node.path, str):
            return self._loader.read_import(scope.source, node.path)
        if node.path[0] != "std" or len(node.path) != 2:
            raise Unreadable("unknown library", 'write `import std.NAME (...)` or `import "./file.attn" (...)`')
        return self._read_standard(node.path[1])

    def _read_standard(self, name: str) -> SourceFile:
        known = self._loader.standard_names()
        if name not in known:
            found = near(name, (*known, *_COLLECTIONS))
            raise Unreadable("the standard library has no such file", f"did you mean `std.{found}`?" if found else None)
        return self._loader.read_standard(name)

    def _import_name(
        self, word: ast.Word, found: Scope | None, shown: str, kinds: Sequence[Kind], scope: Scope
    ) -> None:
        if found is None:
            scope.silent.add(word.text)
            return
        entries = [declared for declared in found.own if declared.name == word.text and declared.kind in kinds]
        if not entries:
            scope.silent.add(word.text)
            self._report_missing(word, found, shown, kinds)
        for declared in entries:
            self._add_import(word, declared, scope)

    def _report_missing(self, word: ast.Word, found: Scope, shown: str, kinds: Sequence[Kind]) -> None:
        others = tuple(declared.kind for declared in found.own if declared.name == word.text)
        if others:
            help_ = "only what stands for an expression, and normalizers, can be imported"
            self._report(errors.wrong_kind(word.text, others, " or ".join(map(with_article, kinds)), word.span, help_))
            return
        known = tuple(declared.name for declared in found.own if declared.kind in kinds)
        self._report(errors.not_in_file(word.text, shown, word.span, known))

    def _add_import(self, word: ast.Word, declared: Declared, scope: Scope) -> None:
        key = (declared.kind, declared.name)
        first = scope.names.get(key)
        if first is not None:
            before = scope.imported.get(key, first.node.name)
            self._report(errors.duplicate_name(declared.kind, declared.name, word.span, before.span))
            return
        scope.names[key] = declared
        scope.imported[key] = word

    def _import_from_all(self, node: ast.Import, words: Sequence[ast.Word], kind: Kind, scope: Scope) -> None:
        """`import std.masks (x)`: mask `x` of whichever file of the standard library declares it."""
        for word in words:
            file = self._standard_index().get((kind, word.text))
            found = None if file is None else self._standard_file(file).names.get((kind, word.text))
            if found is not None:
                self._add_import(word, found, scope)
                continue
            scope.silent.add(word.text)
            known = errors.names_of(self._standard_index(), (kind,))
            self._report(errors.not_in_file(word.text, ".".join(node.path), word.span, known))

    def _standard_index(self) -> dict[tuple[str, str], str]:
        """The file of the standard library that declares each (kind, name)."""
        if self._index is None:
            self._index = {
                (match[1], match[2]): file
                for file in self._loader.standard_names()
                for match in _DECLARATION.finditer(self._loader.read_standard(file).text)
            }
        return self._index

    def _standard_file(self, name: str) -> Scope:
        return self.open(self._loader.read_standard(name))

    # --------------------------------------------------------------------------------- look-up

    def find(self, scope: Scope, kinds: Iterable[Kind], name: str) -> Declared | None:
        """The declaration that `name` means in a file, the first of `kinds` first."""
        wanted = tuple(kinds)
        for kind in wanted:
            found = scope.names.get((kind, name))
            if found is not None:
                self.used_imports.add((id(scope), kind, name))
                return found
        for kind in wanted:
            found = self._standard(name, kind)
            if found is not None:
                return found
        return None

    def kinds_of(self, scope: Scope, name: str) -> tuple[Kind, ...]:
        """The kinds that `name` has in a file or in the standard library."""
        every: tuple[Kind, ...] = (*IMPORTABLE, "attention", "recurrence", "select")
        return tuple(kind for kind in every if self.find(scope, (kind,), name) is not None)

    def known(self, scope: Scope, kinds: Iterable[Kind]) -> tuple[str, ...]:
        """Names for suggestions: those of the file in `kinds`, and of the standard library's files."""
        own = errors.names_of(scope.names.keys(), kinds)
        return (*own, *self._loader.standard_names())

    def _standard(self, name: str, kind: Kind) -> Declared | None:
        if name not in self._loader.standard_names():
            return None
        return self._standard_file(name).names.get((kind, name))

    def _report(self, error: Diagnostic) -> None:
        self.diagnostics.append(error)
        if len(self.diagnostics) > limits.DIAGNOSTICS:
            raise limits.Exhausted


def _conflict(declared: Declared) -> str | None:
    """What forbids the name. A normalizer may be called like a builtin: it never stands in an expression."""
    meaning = reserved_as(declared.name)
    if meaning == "a builtin" and declared.kind not in ("def", "mask", "bias", "score", "feature"):
        return None
    return meaning


def unused_imports(library: Library, scope: Scope) -> tuple[ast.Word, ...]:
    """Imported names that nothing looked up."""
    used = {(kind, name) for owner, kind, name in library.used_imports if owner == id(scope)}
    words = {word.span.start: word for key, word in scope.imported.items() if key not in used}
    kept = {word.span.start for key, word in scope.imported.items() if key in used}
    return tuple(words[start] for start in sorted(words.keys() - kept))

"""From a spec's name or path to its typed modules. Reads the files; imports no torch, sympy or islpy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from attnc.diagnostics import Diagnostic, SpecError
from attnc.frontend import limits
from attnc.frontend.check import check_file
from attnc.frontend.errors import parameters as errors
from attnc.frontend.errors.syntax import too_complex, unreadable_text
from attnc.frontend.resolve import Loader, Unreadable
from attnc.ir.module import AttentionModule
from attnc.source import SourceFile, Span

SUFFIX = ".attn"
_STANDARD = "std:"


# ------------------------------------------------------------------------------------------ files


@cache
def standard_directory() -> Path:
    """Where the standard library lies: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "stdlib"
    return inside if inside.is_dir() else package.parent / "stdlib"


@cache
def stdlib_names() -> tuple[str, ...]:
    """Names of the files of the standard library, in order."""
    return tuple(sorted(path.stem for path in standard_directory().glob(f"*{SUFFIX}")))


class FileLoader:
    """Reads the files of one check. `paths` are real paths, by which imports are confined to a directory."""

    def __init__(self) -> None:
        self._sources: dict[Path, SourceFile] = {}
        self._paths: dict[int, Path] = {}

    def standard_names(self) -> tuple[str, ...]:
        return stdlib_names()

    def read_standard(self, name: str) -> SourceFile:
        return self._read((standard_directory() / f"{name}{SUFFIX}").resolve(), f"{_STANDARD}{name}")

    def read_import(self, importer: SourceFile, path: str) -> SourceFile:
        """The file called `path` by `importer`. Nothing outside the importer's directory can be read."""
        importer_path = self._paths.get(id(importer)) or _existing(importer.name)
        if importer_path is None:
            raise Unreadable("a text without a file has no directory to import from", "write the spec to a file")
        directory = importer_path.parent
        if "\0" in path or not path.endswith(SUFFIX):
            raise Unreadable(f"not a {SUFFIX} file", f'write `import "./name{SUFFIX}" (...)`')
        target = _resolved(directory / path)
        if not target.is_relative_to(directory):
            raise Unreadable("it lies outside the directory of the importing file", "move it below that directory")
        shown = str(Path(importer.name).parent / path)
        return self._read(target, shown)

    def _read(self, path: Path, name: str) -> SourceFile:
        if path not in self._sources:
            source = SourceFile(name, read_text(path))
            self._sources[path] = source
            self._paths[id(source)] = path
        return self._sources[path]


def _existing(name: str) -> Path | None:
    path = _resolved(Path(name)) if name.endswith(SUFFIX) else None
    return path if path is not None and path.is_file() else None


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise Unreadable("the path cannot be followed") from error


def read_text(path: Path) -> str:
    """The text of a file, bounded. Raises Unreadable."""
    try:
        if path.is_dir():
            raise Unreadable("it is a directory")
        with path.open("rb") as file:
            data = file.read(4 * limits.FILE_CHARACTERS + 1)
    except FileNotFoundError:
        raise Unreadable("there is no such file") from None
    except (OSError, ValueError) as error:
        raise Unreadable(getattr(error, "strerror", None) or "it cannot be opened") from None
    if len(data) > limits.FILE_CHARACTERS:
        raise Unreadable(f"it is larger than {limits.FILE_CHARACTERS} bytes", "split it into files that are imported")
    return _decoded(data)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"line {line} is not UTF-8 text", "save it as UTF-8") from None


# ------------------------------------------------------------------------------------------ specs


def load_spec(spec: str | Path, source: str | None = None) -> SourceFile:
    """The text of a spec: `std:NAME`, a path, or `source` itself, which `spec` then names. Raises SpecError."""
    if source is not None:
        if len(source) > limits.FILE_CHARACTERS:
            why = f"it is larger than {limits.FILE_CHARACTERS} characters"
            raise SpecError((unreadable_text(str(spec), why),))
        return SourceFile(str(spec), source)
    name = str(spec)
    try:
        if isinstance(spec, str) and spec.startswith(_STANDARD):
            return _load_standard(spec.removeprefix(_STANDARD))
        return SourceFile(name, read_text(Path(name)))
    except Unreadable as error:
        raise SpecError((unreadable_text(name, error.why, error.help or _other_spec(name)),)) from None


def _load_standard(name: str) -> SourceFile:
    if name not in stdlib_names():
        raise SpecError((errors.unknown_standard(name, stdlib_names()),))
    return SourceFile(f"{_STANDARD}{name}", read_text(standard_directory() / f"{name}{SUFFIX}"))


def _other_spec(name: str) -> str | None:
    return f"the standard library has it: `{_STANDARD}{name}`" if name in stdlib_names() else None


# ---------------------------------------------------------------------------------------- checking


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
        raise SpecError((unreadable_text(source.name, error.why, error.help),)) from None
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
    stem = Path(file.removeprefix(_STANDARD)).stem
    return stem if stem in names else None

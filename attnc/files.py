"""The texts of specs: `std:NAME`, paths, imports. Reads files; loads nothing else of the front end until one is bad.

An op that was compiled before needs its text and no parser.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from attnc.diagnostics import SpecError
from attnc.frontend import limits
from attnc.frontend.loading import Unreadable
from attnc.source import SourceFile

SUFFIX = ".attn"
STANDARD = "std:"


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


@dataclass(frozen=True, slots=True)
class Imported:
    """A file that another one imported: the name that diagnostics print, its real path, its text."""

    name: str
    path: str
    text: str

    def is_current(self) -> bool:
        """Whether the file still says that."""
        try:
            return read_text(Path(self.path)) == self.text
        except Unreadable:
            return False


class FileLoader:
    """Reads the files of one check. `paths` are real paths, by which imports are confined to a directory."""

    def __init__(self) -> None:
        self._sources: dict[Path, SourceFile] = {}
        self._paths: dict[int, Path] = {}
        self._imports: dict[Path, str] = {}

    def standard_names(self) -> tuple[str, ...]:
        return stdlib_names()

    def read_standard(self, name: str) -> SourceFile:
        return self._read((standard_directory() / f"{name}{SUFFIX}").resolve(), f"{STANDARD}{name}")

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
        self._imports[target] = _shown(importer, path)
        return self._read(target, self._imports[target])

    def imported(self) -> tuple[Imported, ...]:
        """The files that were read but for the standard library."""
        return tuple(Imported(name, str(path), self._sources[path].text) for path, name in self._imports.items()
                     if path in self._sources)  # fmt: skip

    def _read(self, path: Path, name: str) -> SourceFile:
        if path not in self._sources:
            source = SourceFile(name, read_text(path))
            self._sources[path] = source
            self._paths[id(source)] = path
        return self._sources[path]


class TextLoader:
    """Imports from texts at hand instead of files: those of a program that was compiled elsewhere."""

    def __init__(self, imported: Iterable[Imported]) -> None:
        self._imported = tuple(imported)
        self._texts = {item.name: SourceFile(item.name, item.text) for item in self._imported}
        self._standard = FileLoader()

    def standard_names(self) -> tuple[str, ...]:
        return stdlib_names()

    def read_standard(self, name: str) -> SourceFile:
        return self._standard.read_standard(name)

    def read_import(self, importer: SourceFile, path: str) -> SourceFile:
        """The text of that name."""
        if _shown(importer, path) not in self._texts:
            raise Unreadable("it did not come with the program")
        return self._texts[_shown(importer, path)]

    def imported(self) -> tuple[Imported, ...]:
        """All of them."""
        return self._imported


def _shown(importer: SourceFile, path: str) -> str:
    return str(Path(importer.name).parent / path)


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
            raise unreadable(str(spec), Unreadable(why))
        return SourceFile(str(spec), source)
    name = str(spec)
    try:
        if isinstance(spec, str) and spec.startswith(STANDARD):
            return _load_standard(spec.removeprefix(STANDARD))
        return SourceFile(name, read_text(Path(name)))
    except Unreadable as error:
        raise unreadable(name, Unreadable(error.why, error.help or _other_spec(name))) from None


def _load_standard(name: str) -> SourceFile:
    if name not in stdlib_names():
        from attnc.frontend.errors.parameters import unknown_standard

        raise SpecError((unknown_standard(name, stdlib_names()),))
    return SourceFile(f"{STANDARD}{name}", read_text(standard_directory() / f"{name}{SUFFIX}"))


def _other_spec(name: str) -> str | None:
    return f"the standard library has it: `{STANDARD}{name}`" if name in stdlib_names() else None


def unreadable(name: str, found: Unreadable) -> SpecError:
    """What to raise for a text that cannot be read."""
    from attnc.frontend.errors.syntax import unreadable_text

    return SpecError((unreadable_text(name, found.why, found.help),))

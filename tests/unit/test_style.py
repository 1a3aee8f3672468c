"""The house rules that no linter checks: short functions, short files, public functions that say what they do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "attnc"
MAX_FUNCTION = 40
MAX_FILE = 400

#: Functions that may be longer, by "file:qualified name", with the reason: a flat `match` or table.
LONG: dict[str, str] = {}


@dataclass(frozen=True)
class Function:
    """A function or method of attnc/ and where it stands. `bases` are those of a method's class."""

    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    public: bool
    bases: list[ast.expr] | None

    def is_said_elsewhere(self, said: set[str]) -> bool:
        """Whether a protocol of attnc documents this method, or the library whose class it derives from."""
        if self.bases is None:
            return False
        return self.node.name in said or any(isinstance(base, ast.Attribute) for base in self.bases)

    @property
    def statements(self) -> list[ast.stmt]:
        """The body without the docstring."""
        return self.node.body[1:] if ast.get_docstring(self.node) else self.node.body

    @property
    def length(self) -> int:
        """Lines from `def` to the end, the docstring not counted."""
        total = (self.node.end_lineno or 0) - self.node.lineno + 1
        if ast.get_docstring(self.node):
            first = self.node.body[0]
            total -= (first.end_lineno or 0) - first.lineno + 1
        return total


def _functions(path: Path) -> Iterator[Function]:
    file = path.relative_to(PACKAGE).as_posix()

    def visit(node: ast.AST, prefix: str, public: bool, bases: list[ast.expr] | None) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                shown = public and not child.name.startswith("_")
                yield Function(f"{file}:{prefix}{child.name}", child, shown, bases)
                yield from visit(child, f"{prefix}{child.name}.", public=False, bases=None)
            elif isinstance(child, ast.ClassDef):
                shown = public and not child.name.startswith("_")
                yield from visit(child, f"{prefix}{child.name}.", public=shown, bases=child.bases)
            else:
                yield from visit(child, prefix, public, bases)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), "", public=True, bases=None)


FILES = sorted(PACKAGE.rglob("*.py"))
FUNCTIONS = [function for path in FILES for function in _functions(path)]


def test_functions_are_short() -> None:
    long = {f.name: f.length for f in FUNCTIONS if f.length > MAX_FUNCTION and f.name not in LONG}
    assert not long, f"longer than {MAX_FUNCTION} lines: {long}"


def test_long_functions_are_still_long() -> None:
    needed = {f.name for f in FUNCTIONS if f.length > MAX_FUNCTION}
    assert set(LONG) <= needed, f"take {set(LONG) - needed} off the list"


def test_files_are_short() -> None:
    lines = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").count("\n") for path in FILES}
    long = {file: count for file, count in lines.items() if count > MAX_FILE}
    assert not long, f"longer than {MAX_FILE} lines: {long}"


def test_public_functions_say_what_they_do() -> None:
    """Except where that is said already: by the one statement of a short function, or by what a method implements."""
    said = {f.node.name for f in FUNCTIONS if f.bases is not None and ast.get_docstring(f.node)}
    silent = [
        f.name
        for f in FUNCTIONS
        if f.public and len(f.statements) > 1 and not ast.get_docstring(f.node) and not f.is_said_elsewhere(said)
    ]
    assert not silent, f"no docstring: {silent}"


def test_modules_say_their_job() -> None:
    silent = [
        p.relative_to(ROOT).as_posix()
        for p in FILES
        if p.read_text() and not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert not silent, f"no module docstring: {silent}"

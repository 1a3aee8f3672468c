"""Who may import whom in attnc/, and which library is loaded where. Reads the code, imports none of it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "attnc"

#: A unit is a module or a subpackage of attnc/; the first pattern that fits names it. A unit may import
#: itself and the units listed. frontend, passes and codegen meet in ir only.
BASE = ("source", "diagnostics")
PHASES = ("ir", "frontend", "passes", "codegen")
ALLOWED: dict[str, tuple[str, ...]] = {
    "source": (),
    "diagnostics": ("source",),
    "ir": BASE,
    "frontend": (*BASE, "ir"),
    "passes": (*BASE, "ir"),
    "codegen": (*BASE, "ir"),
    "files": (*BASE, "frontend"),
    "driver": (*BASE, *PHASES, "files"),
    "empty_masks": (*BASE, "ir", "passes"),
    "compiler": (*BASE, *PHASES, "files", "driver"),
    "functions": (),
    "lifts": (*BASE, "ir"),
    "eager": (*BASE, "ir", "functions", "lifts"),  # what expressions mean on torch tensors
    "reference": (*BASE, "ir", "eager"),  # the oracle: shares nothing with planning or emission
    "packing": (*BASE, "ir", "codegen"),
    "call_positions": (*BASE, "ir"),
    "calls": (*BASE, "ir", "codegen", "call_positions"),
    "torch_tiles": (*BASE, "ir", "passes", "codegen", "eager", "packing"),
    "torch_tokens": (*BASE, "ir", "codegen", "eager", "packing"),
    "torch_states": (*BASE, "ir", "codegen", "eager", "packing", "torch_tokens"),
    "torch_backend": (*BASE, "ir", "codegen", "eager", "packing", "torch_tiles", "torch_tokens", "torch_states"),
    "tile_lists": (*BASE, "ir", "passes", "codegen", "eager", "packing", "torch_tokens"),
    "call_tables": (*BASE, "ir", "passes", "codegen", "torch_tiles", "tile_lists"),
    "gradients": (*BASE, "ir", "passes", "codegen", "eager", "torch_tokens"),
    "training": (*BASE, "ir", "passes", "codegen", "call_kinds", "executor", "gradients", "torch_tokens"),
    "prover*": (*BASE, "ir", "frontend", "passes", "driver"),
    "visits": (*BASE, "ir", "passes"),  # the tiles that a plan visits for given sizes
    "kept": (*BASE, "ir", "passes", "visits"),
    "explain": (*BASE, *PHASES, "compiler", "driver", "visits", "kept"),
    "pictures": (*BASE, "ir", "passes", "visits", "kept", "explain"),
    "showing": (*BASE, *PHASES, "compiler", "driver", "visits", "explain", "pictures"),
    "artifact": (*BASE, *PHASES, "compiler", "driver", "tables"),
    "cpp_work": (*BASE, "ir", "passes", "codegen", "eager", "packing", "torch_tokens", "torch_tiles"),
    "call_kinds": (*BASE, "ir", "codegen", "calls"),
    "executor": (
        *(*BASE, *PHASES, "torch_tiles", "torch_tokens", "torch_states", "torch_backend"),
        *("call_tables", "cpp_work", "calls", "call_kinds"),
    ),
    "signature": (*BASE, "ir", "calls"),
    "folding": (*BASE, "ir", "signature"),
    "tables": (*BASE, "ir"),
    "row_watch": (*BASE, "ir", "passes", "codegen"),
    "repeats": (),
    "flops": (*BASE, "ir", "codegen", "explain", "visits"),
    "torch_op": (
        *(*BASE, "ir", "codegen", "repeats", "row_watch", "empty_masks", "calls", "executor"),
        *("training", "signature", "folding", "flops"),
    ),
    "stages": (*BASE, "ir", "passes", "calls", "explain"),
    "block_tensors": (*BASE, "ir", "passes", "codegen", "calls", "eager", "explain", "lifts", "stages"),
    "ops": (
        *BASE,
        "ir",
        "passes",
        "block_tensors",
        "stages",
        "compiler",
        "reference",
        "calls",
        "executor",
        "torch_op",
        "explain",
        "visits",
        "tables",
    ),
    "integrations": (*BASE, "ir", "eager", "ops", "tables"),  # other libraries: each module one
    "drawing": (*BASE, "ir", "eager", "tables"),
    "nn": (*BASE, "ir", "calls", "drawing", "ops"),
    "verify*": (*BASE, *PHASES, "compiler", "driver", "eager", "reference", "ops", "drawing", "tables"),
    "benchmark": (*BASE, "ir", "eager", "ops", "drawing", "verify*"),
    "cli": (
        *(*BASE, *PHASES, "compiler", "driver", "explain", "artifact", "ops", "drawing", "visits", "showing"),
        *("verify*", "benchmark", "prover*", "row_watch", "empty_masks", "__init__"),
    ),
    "__init__": (*BASE, "compiler", "driver", "explain", "artifact", "showing", "nn", "ops", "verify*", "prover*"),
    "__main__": ("cli",),
}

#: The heavy or replaceable libraries, and the only files that may import them.
TORCH = (
    "codegen/launch*.py",
    "codegen/interpreter*.py",
    "codegen/crosscompile*.py",
    "functions.py",
    "lifts.py",
    "eager.py",
    "reference.py",
    "torch_tokens.py",
    "torch_states.py",
    "torch_backend.py",
    "gradients.py",
    "training.py",
    "call_positions.py",
    "call_kinds.py",
    "torch_tiles.py",
    "tile_lists.py",
    "cpp_work.py",
    "calls.py",
    "packing.py",
    "executor.py",
    "signature.py",
    "folding.py",
    "repeats.py",
    "torch_op.py",
    "tables.py",
    "ops.py",
    "block_tensors.py",
    "stages.py",
    "nn.py",
    "integrations/*.py",
    "drawing.py",
    "verify*.py",
    "benchmark/*.py",
    "cli/*.py",
)
ONLY_IN: dict[str, tuple[str, ...]] = {
    "lark": ("frontend/*.py",),
    "jinja2": ("codegen/render.py",),
    "islpy": ("passes/*.py",),
    "sympy": ("passes/*.py",),
    "numpy": ("passes/*.py", "visits.py", "kept.py", "pictures/*.py", *TORCH),
    "torch": TORCH,
    "triton": TORCH,
    "hypothesis": ("drawing.py", "verify*.py"),
    "click": ("cli/*.py",),
    "rich": ("cli/*.py",),
}
#: What takes 0.1 s to 2 s to load; `attnc check`, `fmt` and the help answer without it.
SLOW = {"torch", "triton", "numpy", "islpy", "sympy"}


@dataclass(frozen=True)
class Import:
    """One import statement: `file` below attnc/, the dotted `target`; `lazy` when it runs in a function."""

    file: str
    line: int
    target: str
    lazy: bool

    def __str__(self) -> str:
        return f"attnc/{self.file}:{self.line} imports {self.target}"


def _imports(path: Path) -> Iterator[Import]:
    file = path.relative_to(PACKAGE).as_posix()

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                    for other in child.orelse:
                        yield from visit(other, lazy)
                case ast.Import(names=names):
                    yield from (Import(file, child.lineno, alias.name, lazy) for alias in names)
                case ast.ImportFrom(module=module, names=names, level=level):
                    assert level == 0, f"attnc/{file}:{child.lineno}: a relative import"
                    for alias in names:
                        # `from attnc.ir import expr` imports a module, `from attnc.ir.expr import Expr` does not
                        is_module = _path(f"{module}.{alias.name}") is not None
                        yield Import(file, child.lineno, f"{module}.{alias.name}" if is_module else str(module), lazy)
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                    yield from visit(child, True)
                case _:
                    yield from visit(child, lazy)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False)


def _path(module: str) -> str | None:
    """The file of a dotted module of attnc, below attnc/."""
    if module.split(".", maxsplit=1)[0] != "attnc":
        return None
    stem = PACKAGE.joinpath(*module.split(".")[1:])
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path.relative_to(PACKAGE).as_posix()
    return None


FILES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [found for path in FILES for found in _imports(path)]
INSIDE = [found for found in IMPORTS if found.target.split(".")[0] == "attnc"]


def _unit(file: str) -> str:
    head = file.split("/", maxsplit=1)[0].removesuffix(".py")
    for pattern in ALLOWED:
        if fnmatchcase(head, pattern):
            return pattern
    pytest.fail(f"attnc/{file} belongs to no layer; give it a row in ALLOWED")


def _fits(file: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(file, pattern) for pattern in patterns)


def test_layers_import_only_what_lies_below_them() -> None:
    wrong = []
    for found in INSIDE:
        target = _path(found.target)
        assert target is not None, f"{found}, which is no module of attnc"
        here, there = _unit(found.file), _unit(target)
        if there != here and there not in ALLOWED[here]:
            wrong.append(f"{found}: {here} may not use {there}")
    assert not wrong, "\n".join(wrong)


def test_layers_table_has_no_cycle() -> None:
    tuple(TopologicalSorter(ALLOWED).static_order())


def test_libraries_are_imported_where_they_belong() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if (library := found.target.split(".")[0]) in ONLY_IN and not _fits(found.file, ONLY_IN[library])
    ]
    assert not wrong, "\n".join(wrong)


def test_libraries_of_attnc_are_in_the_table() -> None:
    used = {found.target.split(".")[0] for found in IMPORTS} - set(sys.stdlib_module_names) - {"attnc", "__future__"}
    assert used <= set(ONLY_IN), f"say in ONLY_IN where {used - set(ONLY_IN)} may be imported"


def test_modules_import_each_other_without_a_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for found in INSIDE:
        target = _path(found.target)
        if target is not None and not found.lazy and target != found.file:
            graph.setdefault(found.file, set()).add(target)
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_subpackages_do_nothing_on_import() -> None:
    for path in PACKAGE.glob("*/__init__.py"):
        if path.parent.name == "cli":  # the entry point `attnc.cli:main`
            continue
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body), path


def _loaded_after(code: str) -> set[str]:
    """The slow libraries that are loaded once `code` has run in a new process."""
    program = f"import sys\n{code}\nprint(*sorted(set(sys.modules) & {SLOW!r}), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_attnc_loads_no_slow_library() -> None:
    assert _loaded_after("import attnc") == set()


def test_check_loads_no_slow_library() -> None:
    code = "from attnc.driver import check, load_spec; check(load_spec('std:neighborhood_2d'))"
    assert _loaded_after(code) == set()


def test_command_line_help_loads_no_slow_library() -> None:
    code = "from click.testing import CliRunner; from attnc.cli import main; CliRunner().invoke(main, ['--help'])"
    assert _loaded_after(code) == set()

"""From what a user names to the bound typed module: the front half of every entry point. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attnc.codegen.cache import key_of, load_entry, making, store_entry
from attnc.diagnostics import CallError
from attnc.files import FileLoader, Imported, TextLoader, load_spec
from attnc.ir.compose import with_key_mask
from attnc.ir.module import AttentionModule, Table
from attnc.ir.serialize import MalformedError, dumps, loads
from attnc.source import SourceFile

Scalars = Mapping[str, bool | int | float]
#: Values of tensors by name, made for those that the text declares static only.
Tables = Mapping[str, Callable[[], Table]]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Raised when what an entry of the cache holds changes its form.
_FORMAT = "module 2"


@dataclass(frozen=True, slots=True)
class Program:
    """What a user asked for: a text by name, the texts it imports, and the choices that bind it.

    Holds everything that compiling takes but the standard library, so a program can be sent to another process.
    """

    source: SourceFile
    attention: str | None
    params: Scalars
    key_mask: str | None = None
    imported: tuple[Imported, ...] = ()
    tables: Mapping[str, Table] = field(default_factory=dict[str, Table])


@dataclass(frozen=True, slots=True)
class Compiled:
    """A bound module with the program it came from."""

    program: Program
    module: AttentionModule
    key: str = field(repr=False)


def compile_module(
    spec: str | Path | None,
    *,
    source: str | None = None,
    attention: str | None = None,
    params: Scalars,
    key_mask: str | None = None,
    tables: Tables | None = None,
) -> AttentionModule:
    """Load, check and bind: the attention called `attention`, with `params` for its static parameters.

    `spec` is a path or "std:NAME"; `source` is text to compile instead of a file; `key_mask` names a tensor
    bool[B, M] that the mask is and-ed with; `tables` make the values of static tensors. Raises SpecError, and CallError
    when that name is taken.
    """
    choices = {"source": source, "attention": attention, "key_mask": key_mask}
    return compile_spec(spec, params=params, tables=tables, **choices).module


def compile_spec(
    spec: str | Path | None,
    *,
    source: str | None = None,
    attention: str | None = None,
    params: Scalars,
    key_mask: str | None = None,
    tables: Tables | None = None,
) -> Compiled:
    """As `compile_module`, with the program; from the cache when the same was compiled before."""
    if spec is not None and not isinstance(spec, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CallError(f'spec: expected a path or "std:NAME", got {type(spec).__name__}')
    if spec is None and source is None:
        raise CallError('give a spec: a path, "std:NAME", or source="..."')
    text = load_spec("<source>" if spec is None else spec, source)
    values = {name: make() for name, make in (tables or {}).items() if name in _static_names(text)}
    return compile_program(Program(text, attention, dict(params), key_mask, tables=values))


def _static_names(text: SourceFile) -> frozenset[str]:
    """The tensors whose values take part in compiling. Only a text with the word `static` is read for them."""
    if "static" not in text.text:
        return frozenset()
    from attnc.frontend.tables import static_names

    return static_names(text)


def compile_program(program: Program) -> Compiled:
    """The bound module of a program. Raises SpecError, CallError."""
    key = _key(program)
    if key is None:
        return _compile(program, "")
    found = _cached(program, key)
    if found is None:
        with making(key):
            found = _cached(program, key) or _store(_compile(program, key))
    return found


def _key(program: Program) -> str | None:
    """The name of a program's entry; None when the choices are not ones that bind takes: it will say so."""
    params = dict(program.params)
    if not all(isinstance(name, str) and type(value) in (bool, int, float) for name, value in params.items()):  # pyright: ignore[reportUnnecessaryIsInstance]
        return None
    choices = json.dumps([program.attention, sorted(params.items()), program.key_mask, dumps(program.tables)])
    given = [text for item in program.imported for text in (item.name, item.text)]
    return key_of(_FORMAT, program.source.name, program.source.text, choices, *given)


def _compile(program: Program, key: str) -> Compiled:
    from attnc.driver import check, select
    from attnc.frontend.bind import bind

    loader = TextLoader(program.imported) if program.imported else FileLoader()
    module = bind(select(check(program.source, loader), program.attention), program.params, program.tables)
    if program.key_mask is not None:
        module = _masked(module, program.key_mask)
    whole = replace(program, imported=loader.imported())
    return Compiled(whole, module, key)


def _masked(module: AttentionModule, name: str) -> AttentionModule:
    """The module with a clause on the keys, whose tensor has a name that a spec could give it."""
    from attnc.frontend.names import reserved_as

    if not isinstance(name, str) or not _NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CallError(f"key_mask: expected a name such as `keep`, got {name!r}")
    taken = reserved_as(name)
    if taken is not None:
        raise CallError(f"key_mask: `{name}` is {taken}; choose another name")
    try:
        return with_key_mask(module, name)
    except ValueError as error:
        raise CallError(f"key_mask: {error}") from None


# -- entries ---------------------------------------------------------------------------------------------------------


def _store(compiled: Compiled) -> Compiled:
    files = [[item.name, item.path, item.text] for item in compiled.program.imported]
    store_entry("module", compiled.key, json.dumps([files, dumps(compiled.module)]))
    return compiled


def _cached(program: Program, key: str) -> Compiled | None:
    body = load_entry("module", key)
    if body is None:
        return None
    try:
        files, text = json.loads(body)
        imported = tuple(Imported(*item) for item in files)
        module: Any = loads(text)
    except (ValueError, TypeError, MalformedError):
        return None
    if not program.imported and not all(item.is_current() for item in imported):
        return None
    whole = replace(program, imported=imported)
    return Compiled(whole, module, key)

"""Typed nodes as text and back: for caches and for names made of content. Nothing is executed in reading.

A text is a JSON list of nodes, children before parents, each [class, field, ...]; the last one is the value. What is
shared stays shared. Spans may be left out, so that the text depends on the meaning alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, cast

from attnc.ir import backward, expr, module, plan, types
from attnc.source import NOWHERE, SourceFile, Span

_MODULES = (expr, types, module, plan, backward)
_PLAIN = (str, int, float, bool, type(None))


class MalformedError(Exception):
    """A text that `dumps` did not write."""


@cache
def _classes() -> dict[str, type]:
    found: dict[str, type] = {"Span": Span, "SourceFile": SourceFile}
    for source in _MODULES:
        found.update({name: cls for name, cls in vars(source).items() if isinstance(cls, type) and is_dataclass(cls)})
    return found


@cache
def _fields(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls) if field.init)


def dumps(value: object, *, spans: bool = True, classes: tuple[type, ...] = ()) -> str:
    """The text of a node or a tuple, set or mapping of nodes. `classes` are further dataclasses that may occur.

    Raises TypeError for anything else.
    """
    writer = _Writer({**_classes(), **{cls.__name__: cls for cls in classes}}, spans=spans)
    root = writer.value(value)
    return json.dumps([*writer.nodes, root], separators=(",", ":"))


def loads(text: str, *, classes: tuple[type, ...] = ()) -> Any:
    """The value that a text stands for. Raises MalformedError."""
    known = {**_classes(), **{cls.__name__: cls for cls in classes}}
    try:
        *nodes, root = json.loads(text)
        reader = _Reader(known)
        for name, *values in nodes:
            reader.node(name, values)
        return reader.value(root)
    except (KeyError, ValueError, TypeError, IndexError, RecursionError) as error:
        raise MalformedError(f"{type(error).__name__}: {error}") from error


class _Writer:
    def __init__(self, known: Mapping[str, type], *, spans: bool) -> None:
        self.nodes: list[list[Any]] = []
        self._places: dict[int, int] = {}
        self._alive: list[object] = []  # an id names an object only while it lives
        self._known = known
        self._spans = spans

    def value(self, value: object) -> Any:
        """Plain values as they are, everything else as a list that starts with its kind."""
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, tuple):
            return ["t", *map(self.value, cast("tuple[object, ...]", value))]
        if isinstance(value, frozenset):
            return ["s", *sorted(map(self.value, cast("frozenset[object]", value)))]
        if isinstance(value, Mapping):
            return ["m", *([self.value(k), self.value(v)] for k, v in cast("Mapping[object, object]", value).items())]
        return ["n", self._node(value)]

    def _node(self, node: object) -> int:
        if id(node) not in self._places:
            cls = type(node)
            if self._known.get(cls.__name__) is not cls:
                raise TypeError(f"{cls.__name__} cannot be written")
            entry = [cls.__name__, *(self._field(getattr(node, name)) for name in _fields(cls))]
            self._places[id(node)] = len(self.nodes)
            self._alive.append(node)
            self.nodes.append(entry)
        return self._places[id(node)]

    def _field(self, value: object) -> Any:
        return None if isinstance(value, Span) and (value is NOWHERE or not self._spans) else self.value(value)


class _Reader:
    def __init__(self, known: Mapping[str, type]) -> None:
        self._known = known
        self._nodes: list[object] = []

    def node(self, name: str, values: list[Any]) -> None:
        """One more node; those that it refers to have been read."""
        cls = self._known[name]
        names = _fields(cls)
        if len(names) != len(values):
            raise ValueError(f"{name} has {len(names)} fields")
        given = {
            key: NOWHERE if key == "span" and value is None else self.value(value)
            for key, value in zip(names, values, strict=True)
        }
        self._nodes.append(cls(**given))

    def value(self, value: Any) -> Any:
        """The value of what `_Writer.value` wrote."""
        if not isinstance(value, list):
            return value
        kind, *items = cast("list[Any]", value)
        match kind:
            case "n":
                return self._nodes[items[0]]
            case "t":
                return tuple(map(self.value, items))
            case "s":
                return frozenset(map(self.value, items))
            case "m":
                return {self.value(k): self.value(v) for k, v in items}
            case _:
                raise ValueError(f"no kind {kind!r}")

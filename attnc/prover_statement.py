"""Statements about masks: `subset(std:sliding_window(size=64), mask j <= i)` to typed modules and conditions.

A mask is `std:NAME` or the path of a file, perhaps with `:ATTENTION` and parameters in brackets, or a text of the
language: `mask j <= i`, `"j <= i"`, the body of an attention in braces. Parameters that are not given stay symbols,
unless `defaults` stands among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from attnc.diagnostics import CallError, SpecError
from attnc.driver import check, load_spec, select
from attnc.frontend.bind import bind
from attnc.frontend.errors import parameters as errors
from attnc.frontend.tables import with_values
from attnc.ir.dims import dims_text
from attnc.ir.expr import TRUE, Const, Expr, Index, Param, Size, Value
from attnc.ir.fold import fold
from attnc.ir.module import AttentionModule, Range, ScalarParam, Table, TensorParam
from attnc.ir.ranges import conditions, read_by, resolved
from attnc.ir.traverse import transform, walk
from attnc.ir.types import INT
from attnc.source import SourceFile

#: Claim -> number of masks.
CLAIMS = {"causal": 1, "nonempty_rows": 1, "symmetric": 1, "subset": 2, "equal": 2, "disjoint": 2}
MAX_CHARACTERS = 100_000

_SPEC = re.compile(r"(?P<spec>std:\w+|[^\s\"'(){}]+\.attn)(?::(?P<name>\w+))?\s*(?P<args>\(.*\))?", re.S)
_OFFSETS = ("q_offset", "k_offset")
#: The argument that gives every parameter left out its default.
_DEFAULTS = "defaults"
#: What an offset is called while the text of an assumption is checked: the language has no name for it.
_STAND_IN = "{}_"


@dataclass(frozen=True, slots=True)
class Statement:
    """A claim about masks. `texts` are the masks as written, `modules` what they mean.

    `known` is what ranges say that read other parameters.
    """

    text: str
    claim: str
    texts: tuple[str, ...]
    modules: tuple[AttentionModule, ...]
    known: tuple[Expr, ...] = ()

    @property
    def scalars(self) -> dict[str, ScalarParam]:
        """Parameters that stay symbols, by name. One name is one parameter."""
        found: dict[str, ScalarParam] = {}
        for scalar in (scalar for module in self.modules for scalar in module.scalars):
            found[scalar.name] = _narrowed(found.get(scalar.name, scalar), scalar)
        return found

    @property
    def tensors(self) -> dict[str, TensorParam]:
        """Tensors by name. One name is one tensor."""
        return {tensor.name: tensor for module in self.modules for tensor in module.tensors}


def parse_statement(
    text: str, declare: str = "", file: str | None = None, tables: Mapping[str, Table] | None = None
) -> Statement:
    """A claim and its masks. `declare` is a header for masks written as text, `file` a spec whose names they may use.

    `tables` are values of tensors. Raises CallError and SpecError.
    """
    if len(text) > MAX_CHARACTERS:
        raise CallError(f"a statement has at most {MAX_CHARACTERS} characters, this one {len(text)}")
    found = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", text, re.S)
    known = ", ".join(f"{name}({', '.join(['m1', 'm2'][:count])})" for name, count in CLAIMS.items())
    if found is None or found[1] not in CLAIMS:
        raise CallError(f"not a statement: {_short(text)}\nwrite one of {known}")
    masks = [part.strip() for part in split(found[2])]
    if len(masks) != CLAIMS[found[1]] or not all(masks):
        wanted = "one mask" if CLAIMS[found[1]] == 1 else "two masks"
        raise CallError(f"`{found[1]}` is about {wanted}, given {sum(map(bool, masks))}\nwrite one of {known}")
    given = _Given(declare, file, tables or {})
    read = [_module(mask, given) for mask in masks]
    unread = [name for name in given.tables if name not in given.read]
    if unread:
        raise CallError(f"tensors: no mask of the statement has a tensor `{unread[0]}`")
    modules, known = tuple(module for module, _ in read), tuple(cond for _, conds in read for cond in conds)
    statement = Statement(" ".join(text.split()), found[1], tuple(masks), modules, tuple(dict.fromkeys(known)))
    _check_alike(statement)
    return statement


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def split(text: str) -> list[str]:
    """The text at commas outside brackets and quotes. Raises CallError."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        depth += 0 if quote else {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(sign, 0)
        if depth < 0:
            break
        if sign == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    if depth or quote:
        raise CallError(f"brackets or quotes do not match in {_short(text)}")
    return parts


# -- masks -----------------------------------------------------------------------------------------------------------


#: A mask and what is known of its parameters.
_Mask = tuple[AttentionModule, tuple[Expr, ...]]


@dataclass(frozen=True, slots=True)
class _Given:
    """What masks are read with; `read` are the tables that some mask has."""

    declare: str
    file: str | None
    tables: Mapping[str, Table]
    read: set[str] = field(default_factory=set[str])

    def put(self, module: AttentionModule) -> AttentionModule:
        """The module with the values of its own tensors."""
        own = {tensor.name: self.tables[tensor.name] for tensor in module.tensors if tensor.name in self.tables}
        self.read.update(own)
        return with_values(module, own) if own else module


def _module(text: str, given: _Given) -> _Mask:
    if text[0] in "\"'" and text[-1] == text[0] and len(text) > 1:
        return _module(text[1:-1].strip() or "true", given)
    found = _SPEC.fullmatch(text)
    if found is None:
        return _given(given.put(_written(text, given.declare, given.file)), {})
    module = select(check(load_spec(found["spec"])), found["name"])
    return _given(given.put(module), _arguments(module, found["args"] or "()", text))


def _written(text: str, declare: str, file: str | None) -> AttentionModule:
    """A text of the language as the mask of an attention of its own, at the end of a file whose names it may use."""
    before = "" if file is None else load_spec(file).text.rstrip() + "\n"
    body = text[1:-1] if text.startswith("{") and text.endswith("}") else f"mask {text.removeprefix('mask ')}"
    name = "statement" if file is None else file
    source = SourceFile(name, f"{before}attention statement_mask({declare}) {{\n{body}\n}}")
    modules = check(source).modules
    if modules[-1].name != "statement_mask" or (file is None and len(modules) != 1):
        raise CallError(f"not one mask: {_short(text)}")
    return modules[-1]


def _arguments(module: AttentionModule, text: str, mask: str) -> dict[str, bool | int | float]:
    found: dict[str, bool | int | float] = {}
    parts = [part.strip() for part in split(text.strip()[1:-1])]
    for part in parts:
        if part in ("", _DEFAULTS):
            continue
        name, equals, value = (piece.strip() for piece in part.replace(":", "=", 1).partition("="))
        number = _number(value)
        if not equals or number is None:
            raise CallError(f"{mask}: expected name=value with a number, true or false, got {part.strip()!r}")
        if name in found:
            raise CallError(f"{mask}: `{name}` is given twice")
        found[name] = number
    if _DEFAULTS in parts:
        defaults = ((scalar.name, scalar.default) for scalar in module.scalars)
        found = {name: default.value for name, default in defaults if isinstance(default, Const)} | found
    return found


def _number(text: str) -> bool | int | float | None:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?\d{1,20}", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d+\.\d+(e[+-]?\d{1,3})?|-?\d+e[+-]?\d{1,3}", text) else None


def _given(module: AttentionModule, values: Mapping[str, bool | int | float]) -> _Mask:
    """The module with some parameters in numbers; the others stay."""
    names = tuple(scalar.name for scalar in module.scalars)
    unknown = tuple(errors.unknown_parameter(name, module.name, names, None) for name in values if name not in names)
    if unknown:
        raise SpecError(unknown)
    chosen = tuple(replace(scalar, dynamic=False) for scalar in module.scalars if scalar.name in values)
    rest = tuple(replace(scalar, dynamic=True) for scalar in module.scalars if scalar.name not in values)
    bound = bind(replace(module, scalars=(*chosen, *rest)), values)
    return bound, tuple(_between(bound.scalars, chosen, values))


def _between(
    rest: tuple[ScalarParam, ...], chosen: tuple[ScalarParam, ...], values: Mapping[str, bool | int | float]
) -> Iterator[Expr]:
    """What ranges say about several parameters, of which some are in numbers."""
    known = {scalar.name: Const(values[scalar.name], scalar.type) for scalar in chosen}
    named: list[tuple[Expr, ScalarParam]] = [(known[scalar.name], scalar) for scalar in chosen]
    named += [(Param(scalar.name, scalar.type), scalar) for scalar in rest]
    for value, scalar in named:
        bounds = None if scalar.range is None else resolved(scalar.range, known)
        if scalar.type == INT and read_by(bounds):
            yield from (cond for cond in map(fold, conditions(value, bounds)) if cond != TRUE)


# -- names in common -------------------------------------------------------------------------------------------------


def _narrowed(a: ScalarParam, b: ScalarParam) -> ScalarParam:
    """A parameter of both masks lies in both ranges."""
    if a.range is None or b.range is None or a.range == b.range:
        return a if b.range is None else b
    lows = [(r.low, r.low_open) for r in (a.range, b.range) if r.low is not None]
    highs = [(r.high, not r.high_open) for r in (a.range, b.range) if r.high is not None]
    low, low_open = max(lows, default=(None, False))
    high, high_closed = min(highs, default=(None, False))
    return replace(a, range=Range(low, high, low_open, not high_closed))


def _check_alike(statement: Statement) -> None:
    """One name means the same in both masks."""
    kinds: dict[str, str] = {}
    for module in statement.modules:
        for scalar in module.scalars:
            _note(kinds, scalar.name, str(scalar.type))
        for tensor in module.tensors:
            _note(kinds, tensor.name, f"{tensor.type}{dims_text(tensor.dims)}")


def _note(kinds: dict[str, str], name: str, kind: str) -> None:
    known = kinds.setdefault(name, kind)
    if known != kind:
        raise CallError(f"`{name}` is {known} in one mask and {kind} in the other: one name is one parameter")


# -- assumptions -----------------------------------------------------------------------------------------------------


def parse_assumption(text: str, statement: Statement) -> Expr:
    """A condition on sizes, offsets and the parameters of a statement. Raises CallError and SpecError."""
    if len(text) > MAX_CHARACTERS:
        raise CallError(f"an assumption has at most {MAX_CHARACTERS} characters, this one {len(text)}")
    if not text.strip() or "\n" in text.strip():
        raise CallError(f"not an assumption: {_short(text)}\nwrite one condition, such as `N <= M`")
    for name in _OFFSETS:
        text = re.sub(rf"\b{name}\b", _STAND_IN.format(name), text)
    header = [f"{name}: {scalar.type}" for name, scalar in statement.scalars.items()]
    header += [f"{name}: {tensor.type}{dims_text(tensor.dims)}" for name, tensor in statement.tensors.items()]
    header += [f"{_STAND_IN.format(name)}: int" for name in _OFFSETS]
    source = SourceFile("assumption", f"attention assumed({', '.join(header)}) {{\nmask {text}\n}}")
    checked = check(source).modules
    cond = transform(checked[0].mask, _offset)
    if any(isinstance(node, Index) and node.name in ("i", "j") for node in walk(cond)):
        raise CallError(f"an assumption speaks of sizes, offsets and parameters, not of i and j: {_short(text)}")
    return cond


def _offset(node: Expr) -> Expr:
    for name in _OFFSETS:
        if isinstance(node, Param) and node.name == _STAND_IN.format(name):
            return Value(name, INT, node.span)
    return node


def mentioned(conditions: Sequence[Expr]) -> frozenset[str]:
    """Names of the sizes and offsets that conditions speak of."""
    leaves = (node for cond in conditions for node in walk(cond))
    return frozenset(node.name for node in leaves if isinstance(node, Size | Value))

"""The LALR table of `grammar.lark`, and the automaton that runs it.

lark computes the table; computing it and importing lark take half a second, so the table is kept beside the
grammar as JSON (never a pickle) and carries the grammar's checksum. lark is imported only when that differs,
while the grammar is being edited. `python -m attnc.frontend.table` prints the table; a test compares.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypedDict, cast
from zlib import crc32

from attnc.frontend.tokens import Token

#: Child of a rule: dropped, kept, or a list whose items become children.
_DROP, _KEEP, _INLINE = ".", "k", "i"
END = "$END"
_FAIL = -(1 << 30)


class _Json(TypedDict):
    """The table as stored. An action >= 0 enters that state, -1 - n reduces by rule n."""

    grammar: str
    end: int
    rules: list[list[str]]
    states: list[dict[str, int]]


@dataclass(frozen=True, slots=True)
class Rule:
    """`children` has one letter per symbol. `passes`: a single child needs no node of its own."""

    origin: str
    callback: str
    passes: bool
    children: str
    #: The rule only gives its one symbol another name, as most steps of the precedence ladder do.
    renames: bool


@dataclass(frozen=True, slots=True)
class Table:
    end: int
    rules: tuple[Rule, ...]
    states: list[dict[str, int]]


class Rejected(Exception):
    """Token number `index` cannot follow; `accepts` are the terminals that could."""

    def __init__(self, index: int, accepts: frozenset[str]) -> None:
        super().__init__(index, accepts)
        self.index = index
        self.accepts = accepts


def run(table: Table, tokens: Sequence[Token], end: Token, build: Callable[[str, list[Any]], Any]) -> Any:
    """Parse; `build` makes the node of a rule from its children. Raises Rejected."""
    states, values = [0], list[Any]()
    for index, token in enumerate((*tokens, end)):
        while (action := table.states[states[-1]].get(token.type, _FAIL)) < 0:
            if action == _FAIL:
                raise Rejected(index, _accepts(table, tokens[:index]))
            rule = table.rules[-1 - action]
            if rule.renames:
                states.pop()
            else:
                _reduce(rule, states, values, build)
            states.append(table.states[states[-1]][rule.origin])
            if token is end and states[-1] == table.end:
                return values[-1]
        states.append(action)
        values.append(token)
    raise AssertionError("the end token neither ends nor fails the parse")


def _reduce(rule: Rule, states: list[int], values: list[Any], build: Callable[[str, list[Any]], Any]) -> None:
    """Replace the symbols of a rule by its value."""
    size = len(rule.children)
    symbols = values[len(values) - size :]
    del states[len(states) - size :], values[len(values) - size :]
    items = _children(rule, symbols)
    if rule.origin.startswith("_"):
        values.append(items)
    elif rule.passes and len(items) == 1:
        values.append(items[0])
    else:
        values.append(build(rule.callback, items))


def _children(rule: Rule, symbols: list[Any]) -> list[Any]:
    if rule.children.startswith(_INLINE):  # a long list grows in place
        items, start = symbols[0], 1
    else:
        items, start = list[Any](), 0
    for kind, symbol in zip(rule.children[start:], symbols[start:], strict=True):
        if kind == _KEEP:
            items.append(symbol)
        elif kind == _INLINE:
            items.extend(symbol)
    return items


def _accepts(table: Table, tokens: Sequence[Token]) -> frozenset[str]:
    """The terminals that may follow. Replays the tokens: the rejected one may have reduced what it should not."""
    states = [0]
    for token in tokens:
        _shifts(table, states, token.type)
    terminals = {symbol for symbol in table.states[states[-1]] if not symbol.strip("_").islower()}
    return frozenset(terminal for terminal in terminals if _shifts(table, list(states), terminal))


def _shifts(table: Table, stack: list[int], terminal: str) -> bool:
    """Whether a terminal can follow the states on the stack, which then hold it."""
    while True:
        action = table.states[stack[-1]].get(terminal)
        if action is None:
            return False
        if action >= 0:
            stack.append(action)
            return True
        rule = table.rules[-1 - action]
        del stack[len(stack) - len(rule.children) :]
        stack.append(table.states[stack[-1]][rule.origin])
        if terminal == END and stack[-1] == table.end:
            return True


# ---------------------------------------------------------------------------------------- loading


def grammar_text() -> str:
    return _resource("grammar.lark")


def stored_table() -> str:
    return _resource("grammar_table.json")


def _resource(name: str) -> str:
    data = pkgutil.get_data("attnc.frontend", name)
    if data is None:
        raise FileNotFoundError(name)
    return data.decode()


@cache
def load_table() -> Table:
    """The table of the grammar: the stored one, or a new one where the grammar was edited since."""
    grammar = grammar_text()
    stored = cast(_Json, json.loads(stored_table()))
    if stored["grammar"] != _digest(grammar):
        stored = cast(_Json, json.loads(build_table(grammar)))
    return Table(stored["end"], tuple(_rule(row) for row in stored["rules"]), stored["states"])


def _rule(row: list[str]) -> Rule:
    origin, callback, passes, kinds = row
    return Rule(origin, callback, bool(passes), kinds, renames=bool(passes) and kinds == _KEEP)


def _digest(grammar: str) -> str:
    return f"{crc32(grammar.encode()):08x}"


# --------------------------------------------------------------------------------------- building


def build_table(grammar: str) -> str:
    """The JSON text of a grammar's table, the same for every version of lark: states and rules are put in order."""
    parser, memo = _lark_data(grammar)
    rules = {key: _rule_row(value) for key, value in memo.items() if value["__type__"] == "Rule"}
    symbols = cast(dict[int, str], parser["tokens"])
    states = {
        number: {symbols[symbol]: _action(action) for symbol, action in row.items()}
        for number, row in cast(dict[int, dict[int, Any]], parser["states"]).items()
    }
    order = _breadth_first(states, parser["start_states"]["start"])
    used = sorted({rules[act[1]][1] for row in states.values() for act in row.values() if act[0] == "reduce"})
    numbers = {row: n for n, row in enumerate(used)}
    rows = [
        {
            symbol: order[target] if kind == "shift" else -1 - numbers[rules[target][1]]
            for symbol, (kind, target) in sorted(states[number].items())
        }
        for number in order
    ]
    return _dump(grammar, order[parser["end_states"]["start"]], [json.loads(row) for row in used], rows)


def _lark_data(grammar: str) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    from lark import Lark
    from lark.grammar import Rule as LarkRule
    from lark.lexer import Lexer, TerminalDef

    class NoLexer(Lexer):
        def __init__(self, conf: object) -> None:
            pass

        def lex(self, lexer_state: Any, parser_state: Any) -> Any:
            return iter(())

    lark = cast(Any, Lark(grammar, parser="lalr", lexer=NoLexer, maybe_placeholders=False))
    data, memo = lark.memo_serialize([TerminalDef, LarkRule])
    return data["parser"]["parser"], memo


def _action(action: tuple[int, Any]) -> tuple[str, int]:
    kind, target = action
    return ("shift", target) if kind == 0 else ("reduce", target["@"])


def _rule_row(rule: dict[str, Any]) -> tuple[str, str]:
    """(origin, row as JSON text)."""
    origin, options = rule["origin"]["name"], rule["options"]
    kinds = "".join(_child_kind(symbol) for symbol in rule["expansion"])
    passes = "?" if options["expand1"] and not rule["alias"] else ""
    return origin, json.dumps([origin, rule["alias"] or origin, passes, kinds])


def _child_kind(symbol: dict[str, Any]) -> str:
    if symbol["__type__"] == "Terminal":
        return _DROP if symbol["filter_out"] else _KEEP
    return _INLINE if symbol["name"].startswith("_") else _KEEP


def _breadth_first(states: dict[int, dict[str, tuple[str, int]]], start: int) -> dict[int, int]:
    order = {start: 0}
    for number in (queue := [start]):
        for _, (kind, target) in sorted(states[number].items()):
            if kind == "shift" and target not in order:
                order[target] = len(order)
                queue.append(target)
    return order


def _dump(grammar: str, end: int, rules: list[Any], states: list[dict[str, int]]) -> str:
    def lines(rows: list[Any]) -> str:
        return ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)

    head = f'"grammar": "{_digest(grammar)}",\n"end": {end}'
    return f'{{\n{head},\n"rules": [\n{lines(rules)}\n],\n"states": [\n{lines(states)}\n]\n}}\n'


if __name__ == "__main__":
    print(build_table(grammar_text()), end="")

"""The space before each token, and the one sign that the formatter changes. Knows no lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from attnc.frontend.tokens import Token

_OPENERS = frozenset(("LPAR", "LSQB"))
_CLOSERS = frozenset(("RPAR", "RSQB"))
_OPERANDS = frozenset(("NAME", "GRID", "INT", "REAL", "STRING", "TRUE", "FALSE", "RPAR", "RSQB"))
#: Tokens without a space before them, and those without one on either side.
_LEANS = frozenset(("COMMA", "COLON", "_NEWLINE", "RPAR", "RSQB"))
_TIGHT = frozenset(("DOT", "DOTDOT"))
#: Operators without spaces in the dimensions of a type: `real[H, 2*L - 1]`.
_TIGHT_IN_DIMS = frozenset(("STAR", "SLASH", "DSLASH", "PERCENT", "CARET"))
_DECLARATIONS = frozenset(
    ("DEF", "MASK", "BIAS", "SCORE", "FEATURE", "NORMALIZER", "ATTENTION", "RECURRENCE", "SELECT")
)


def spaces_before(tokens: Sequence[Token]) -> list[str]:
    """The space that belongs before each token when it does not start its line."""
    start, found = 0, list[str]()
    for index, inside in enumerate(_surroundings(tokens)):
        if index and tokens[index - 1].type in ("_NEWLINE", "LBRACE"):
            start = index
        found.append(" " if index and _is_apart(tokens, index, inside, start) else "")
    return found


def with_colons(tokens: Sequence[Token]) -> list[Token]:
    """The tokens with `name = x` in calls written `name: x`."""
    return [
        replace(token, type="COLON", text=":") if token.type == "EQUAL" and inside == "call" else token
        for token, inside in zip(tokens, _surroundings(tokens), strict=True)
    ]


def _surroundings(tokens: Sequence[Token]) -> Iterator[str]:
    """What the innermost bracket around each token holds: a header, the dimensions of a type, or a call."""
    open_, depth = list[str](), 0
    for index, token in enumerate(tokens):
        if token.type in _OPENERS:
            open_.append(_bracket_kind(tokens, index, open_[-1] if open_ else "", depth))
        yield open_[-1] if open_ else ""
        if token.type in _CLOSERS and open_:
            open_.pop()
        depth += {"LBRACE": 1, "RBRACE": -1}.get(token.type, 0)


def _bracket_kind(tokens: Sequence[Token], index: int, outer: str, depth: int) -> str:
    before = tokens[index - 2].type if index >= 2 else ""
    if depth == 0 and not outer and before in _DECLARATIONS:
        return "header"
    is_type = tokens[index].type == "LSQB" and before == "COLON" and outer in ("header", "")
    return "dims" if is_type or outer == "dims" else "call"


def _is_apart(tokens: Sequence[Token], index: int, inside: str, start: int) -> bool:
    last, token = tokens[index - 1], tokens[index]
    if last.type in _OPENERS or token.type in _LEANS or (last.type, token.type) == ("LBRACE", "RBRACE"):
        return False
    if last.type in _TIGHT or token.type in _TIGHT or _is_sign(tokens, index - 1):
        return False
    if inside == "dims" and (last.type in _TIGHT_IN_DIMS or token.type in _TIGHT_IN_DIMS):
        return False
    return token.type not in _OPENERS or not _follows_callee(tokens, index, start)


def _is_sign(tokens: Sequence[Token], index: int) -> bool:
    """Whether a token is a minus with one operand."""
    return tokens[index].type == "MINUS" and (index == 0 or tokens[index - 1].type not in _OPERANDS)


def _follows_callee(tokens: Sequence[Token], index: int, start: int) -> bool:
    """Whether a bracket belongs to the callee, tensor or type before it."""
    last = tokens[index - 1]
    if last.type not in ("NAME", "RPAR", "RSQB", "FEATURE") or tokens[start].type == "IMPORT":
        return False
    if tokens[start].type == "GRID" and index - start <= 2 and tokens[index].type == "LPAR":
        return False
    is_word = last.type == "NAME" and index >= 2 and tokens[index - 2].type in _OPERANDS
    return not is_word  # `by`, `at`, `over` after an operand

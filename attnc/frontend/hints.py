"""What to say when the parser meets a token that cannot follow: the likely slip and its repair."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attnc.diagnostics import Diagnostic
from attnc.frontend.errors.syntax import unexpected_token, unknown_field
from attnc.frontend.errors.wording import clip, near
from attnc.frontend.table import END
from attnc.frontend.tokens import DECLARATIONS, FIELDS, KEYWORDS, OPERATORS, Token

_SIGNS = {terminal: text for text, terminal in OPERATORS.items()} | {"_NEWLINE": "a new line", END: "the end"}
_STATEMENTS = (*FIELDS, "let", "aux", "grid", "out")
_CONTINUES_LINE = "a line goes on after an operator or inside brackets: end the line before with the operator"
_LOOPS = frozenset(("for", "while", "return", "yield", "lambda"))


def explain(tokens: Sequence[Token], index: int, accepts: frozenset[str]) -> Diagnostic:
    """The error for token `index`, which cannot follow those before it."""
    token = tokens[index]
    start = _statement_start(tokens, index)
    if start and index == start + 2 and accepts == frozenset(("COLON",)):
        # NAME NAME: the grammar hopes for a `state`, the author wrote a field
        return unknown_field(tokens[start].text, tokens[start].span, near(tokens[start].text, _STATEMENTS))
    help_ = next((text for hint in _HINTS if (text := hint(tokens, index, accepts)) is not None), None)
    return unexpected_token(_found(token), token.span, _expected(accepts), help_)


def _found(token: Token) -> str:
    match token.type:
        case "_NEWLINE":
            return "end of the line"
        case "$END":
            return "end of the declaration"
        case "INT" | "REAL":
            return f"number `{token.text}`"
        case "NAME":
            return f"name `{clip(token.text)}`"
        case "STRING":
            return "string"
        case _:
            return f"`{token.text}`"


def _expected(accepts: frozenset[str]) -> str | None:
    """A phrase for the tokens that could follow; None when there are too many to help."""
    if "LPAR" in accepts and "INT" in accepts:
        return "an expression"
    if accepts == frozenset(("NAME",)):
        return "a name"
    if len(accepts) > 4:
        return None
    words = sorted(_spelled(terminal) for terminal in accepts)
    return " or ".join(words) if words else None


def _spelled(terminal: str) -> str:
    if terminal in ("_NEWLINE", END):
        return _SIGNS[terminal]
    if terminal == "NAME":
        return "a name"
    return f"`{_SIGNS.get(terminal) or terminal.lower()}`"


# ------------------------------------------------------------------------------------------ hints
# Each looks at the tokens and answers with a help line, or None when it does not apply.


def _declaration_word(tokens: Sequence[Token], index: int, accepts: frozenset[str]) -> str | None:
    if index != 0:
        return None
    if tokens[0].type in OPERATORS.values():
        return _CONTINUES_LINE
    found = near(tokens[0].text, DECLARATIONS)
    if found is not None and tokens[0].type == "NAME":
        return f"did you mean `{found}`?"
    if tokens[0].type in KEYWORDS.values() and tokens[0].text not in _STATEMENTS:
        return _CONTINUES_LINE
    if tokens[0].text in _STATEMENTS:
        return f"`{tokens[0].text}` stands inside the braces of an `attention`"
    return "a declaration starts with " + ", ".join(f"`{word}`" for word in DECLARATIONS[:-1])


def _field_word(tokens: Sequence[Token], index: int, accepts: frozenset[str]) -> str | None:
    """`normaliser softmax` and the like: a statement that starts with a name and goes on with an expression."""
    start = _statement_start(tokens, index)
    first = tokens[start]
    if start == 0 or index != start + 1 or first.type != "NAME":
        return None
    found = near(first.text, _STATEMENTS)
    if found is not None:
        return f"did you mean `{found}`?"
    return "a statement is a field (`mask`, `score`, ...), `let NAME = ...` or a token map like `q = ...`"


def _assignment(tokens: Sequence[Token], index: int, accepts: frozenset[str]) -> str | None:
    if tokens[index].type == "EQUAL" and "EQ" in accepts:
        return "to compare write `==`"
    if tokens[index].type == "EQUAL" and tokens[index - 1].text in KEYWORDS:
        return f"`{tokens[index - 1].text}` is a word of the language; choose another name"
    return None


def _definition(tokens: Sequence[Token], index: int, accepts: frozenset[str]) -> str | None:
    if "EQUAL" in accepts and tokens[0].text in FIELDS and index > 1 and "{" not in {t.text for t in tokens[:index]}:
        return f"a {tokens[0].text} is defined by `{tokens[0].text} NAME = ...`; used, it stands in an `attention`"
    return None


def _brace(tokens: Sequence[Token], index: int, accepts: frozenset[str]) -> str | None:
    if "LBRACE" in accepts and tokens[0].type in KEYWORDS.values():
        return f"the body of `{tokens[0].text}` stands in braces: `{tokens[0].text} NAME {{ ... }}`"
    return None


def _keyword_as_name(tokens: Sequence[Token], index: int, accepts: frozenset[str]) -> str | None:
    if tokens[index].type == "NOT":
        return "`not` binds more loosely: write `(not ...)`"
    if "NAME" in accepts and tokens[index].text in KEYWORDS:
        return (
            f"`{tokens[index].text}` is a word of the language; choose another name, or add what is missing before it"
        )
    return None


def _line_starts_with_operator(tokens: Sequence[Token], index: int, accepts: frozenset[str]) -> str | None:
    if index > 0 and tokens[index - 1].type == "_NEWLINE" and tokens[index].type != "NAME":
        return _CONTINUES_LINE
    return None


def _other_language(tokens: Sequence[Token], index: int, accepts: frozenset[str]) -> str | None:
    nearby = {token.text for token in tokens[max(0, index - 1) : index + 1]}
    if nearby & {"if", "else", "elif"}:
        return "a choice is written `where(condition, x, y)`"
    if nearby & _LOOPS:
        return "the language has no loops: `sum[j](...)` reduces, `exists d in 0..n: ...` searches"
    if tokens[index].type == "COLON" and _innermost(tokens, index) == "LSQB":
        return "there are no slices; leave a last index out to read the whole vector"
    return None


def _missing_operator(tokens: Sequence[Token], index: int, accepts: frozenset[str]) -> str | None:
    ends = ("NAME", "INT", "REAL", "RPAR", "RSQB")
    if "STAR" not in accepts or tokens[index].type not in ("NAME", "INT", "REAL") or tokens[index - 1].type not in ends:
        return None
    if tokens[index].span.start == tokens[index - 1].span.end and tokens[index - 1].type in ("INT", "REAL"):
        return "a number starts with a digit and has digits after its point: `0.5`, `1.0`"
    return "an operator is missing between the two; a product is written with `*`"


def _number(tokens: Sequence[Token], index: int, accepts: frozenset[str]) -> str | None:
    if tokens[index].type == "DOT" or (tokens[index - 1].type == "DOT" and tokens[index - 2].type == "INT"):
        return "a number starts with a digit and has digits after its point: `0.5`, `1.0`"
    return None


def _closing(tokens: Sequence[Token], index: int, accepts: frozenset[str]) -> str | None:
    opener = _innermost(tokens, index)
    if tokens[index].type in ("RPAR", "RSQB") and opener is not None:
        closer = {"LPAR": "RPAR", "LSQB": "RSQB"}[opener]
        if closer != tokens[index].type and closer in accepts:
            return f"the bracket opened with `{_SIGNS[opener]}` closes with `{_SIGNS[closer]}`"
    return None


_HINTS: tuple[Callable[[Sequence[Token], int, frozenset[str]], str | None], ...] = (
    _declaration_word,
    _other_language,
    _assignment,
    _definition,
    _brace,
    _number,
    _field_word,
    _line_starts_with_operator,
    _keyword_as_name,
    _closing,
    _missing_operator,
)


def _statement_start(tokens: Sequence[Token], index: int) -> int:
    for n in range(index - 1, -1, -1):
        if tokens[n].type in ("LBRACE", "_NEWLINE"):
            return n + 1
    return 0


def _innermost(tokens: Sequence[Token], index: int) -> str | None:
    """The terminal of the innermost bracket that is open before `index`."""
    depth = 0
    for token in reversed(tokens[:index]):
        if token.type in ("RPAR", "RSQB"):
            depth += 1
        elif token.type in ("LPAR", "LSQB"):
            if depth == 0:
                return token.type
            depth -= 1
    return None

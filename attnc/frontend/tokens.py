"""What the text consists of: tokens, comments, and the fixed words of the language."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.source import Span

#: Words that are never names, and the terminal each one is.
KEYWORDS: dict[str, str] = {
    word: word.upper()
    for word in (
        "import def mask bias score feature normalizer attention recurrence select "
        "let aux grid output and or not in exists true false"
    ).split()
}

#: Operators and brackets, longest first where one starts another, and the terminal each one is.
OPERATORS: dict[str, str] = {
    "..": "DOTDOT",
    "//": "DSLASH",
    "<=": "LE",
    ">=": "GE",
    "==": "EQ",
    "!=": "NE",
    "(": "LPAR",
    ")": "RPAR",
    "[": "LSQB",
    "]": "RSQB",
    "{": "LBRACE",
    "}": "RBRACE",
    ",": "COMMA",
    ":": "COLON",
    ".": "DOT",
    "=": "EQUAL",
    "<": "LT",
    ">": "GT",
    "+": "PLUS",
    "-": "MINUS",
    "*": "STAR",
    "/": "SLASH",
    "%": "PERCENT",
    "@": "AT",
    "^": "CARET",
    "&": "AMPERSAND",
}

#: What other languages and papers write, and what is meant here.
FOREIGN: dict[str, str] = {
    "&&": "and",
    "||": "or",
    "**": "^",
    "===": "==",
    "!==": "!=",
    "<>": "!=",
    "!": "not",
    "|": "or",
    "~": "not",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "−": "-",
    "–": "-",
    "×": "*",
    "·": "*",
    "⋅": "*",
    "∧": "and",
    "∨": "or",
    "¬": "not",
    "∃": "exists",
}

#: Fields of an attention that hold one expression.
FIELDS: tuple[str, ...] = ("mask", "score", "bias", "normalizer", "output")
#: Words that start a top-level declaration.
DECLARATIONS: tuple[str, ...] = tuple(
    "import def mask bias score feature normalizer attention recurrence select".split()
)

#: Terminals after which a line end does not end the statement.
CONTINUES: frozenset[str] = frozenset(
    "DOTDOT DSLASH LE GE EQ NE COMMA COLON DOT EQUAL LT GT PLUS MINUS STAR SLASH PERCENT AT CARET AMPERSAND "
    "AND OR NOT IN LBRACE _NEWLINE".split()
)


@dataclass(frozen=True, slots=True)
class Token:
    """A terminal of the grammar. `_NEWLINE` is a line end or `;` that ends a statement."""

    type: str
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Comment:
    """`# text` up to the line end; `##` marks documentation."""

    text: str
    span: Span

    @property
    def is_doc(self) -> bool:
        return self.text.startswith("##")

    @property
    def content(self) -> str:
        return self.text.lstrip("#").strip()

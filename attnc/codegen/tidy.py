"""Making emitted lines read as if a person had written them: values used once move to their use."""

from __future__ import annotations

import re

#: No line becomes longer than this by moving a value into it.
WIDTH = 100

_DEFINITION = re.compile(r"^(\s*)(v\d+) = (.*)$")
_NAME = re.compile(r"\bv\d+\b")


def inline_single_uses(lines: list[str], elsewhere: str = "") -> list[str]:
    """Lines with each `vN = text` that exactly one later line of the list uses moved there, when it stays short.

    `elsewhere` is the rest of the kernel: a name that occurs there stays. Only names v0, v1, ... are touched: they
    are assigned once, and what they read does not change between the definition and the use.
    """
    kept = set(_NAME.findall(elsewhere))
    result = list(lines)
    for n in range(len(result)):
        match = _DEFINITION.match(result[n])
        if match is None or match[2] in kept:
            continue
        use = _only_use(result, n, match[2], match[1])
        if use is None:
            continue
        text = _substitute(result[use], match[2], match[3])
        if len(text) <= WIDTH:
            result[use] = text
            result[n] = ""
    return [line for line in result if line]


def _only_use(lines: list[str], start: int, name: str, indent: str) -> int | None:
    """The one line that uses a name, at the same depth; None when there are several."""
    pattern = re.compile(rf"\b{name}\b")
    code = ["" if line.lstrip().startswith("#") else line for line in lines]  # comments quote the spec
    uses = [(n, len(pattern.findall(code[n]))) for n in range(len(code)) if n != start and pattern.search(code[n])]
    if len(uses) != 1 or uses[0][1] != 1 or uses[0][0] < start:
        return None
    line = lines[uses[0][0]]
    return uses[0][0] if len(line) - len(line.lstrip()) == len(indent) else None


def _substitute(line: str, name: str, text: str) -> str:
    """The line with the name replaced, in parentheses where an operator would otherwise bind differently."""
    whole = re.fullmatch(rf"(.* = ){name}", line)
    if whole:
        return f"{whole[1]}{text}"
    alone = re.search(rf"[(,] ?{name}[,)]", line) and not re.search(rf"{name}\)(\.|\[)", line)
    inner = text if alone or is_atom(text) else f"({text})"
    return re.sub(rf"\b{name}\b", lambda _: inner, line, count=1)


def is_atom(text: str) -> bool:
    """Whether no operator stands outside all parentheses."""
    depth = 0
    for n, char in enumerate(text):
        if depth == 0 and (char == " " or (char in "-~" and n == 0)):
            return False
        depth += (char in "([") - (char in ")]")
    return True

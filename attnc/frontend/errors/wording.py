"""Phrases that several messages share."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

#: Names beyond these are not compared: a hostile text may hold thousands.
_NEAR_LENGTH, _NEAR_CANDIDATES = 40, 300


def near(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was most likely meant to be."""
    if len(name) > _NEAR_LENGTH:
        return None
    candidates = sorted({word for word in known if word != name and abs(len(word) - len(name)) <= 3})
    lowered = {candidate.lower(): candidate for candidate in reversed(candidates[:_NEAR_CANDIDATES])}
    found = get_close_matches(name.lower(), lowered, n=1, cutoff=0.7)
    return lowered[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A help line for a near-miss; None when nothing is near."""
    found = near(name, known)
    return None if found is None else f"did you mean `{found}`?"


def listing(names: Iterable[str], limit: int = 12) -> str:
    """`a`, `b` and 3 more."""
    ordered = list(names)
    shown = ", ".join(f"`{name}`" for name in ordered[:limit])
    rest = len(ordered) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown


def clip(text: str, limit: int = 40) -> str:
    """Text of the user for a title: one line, bounded."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def with_article(noun: str) -> str:
    """`a mask`, `an attention`."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"

"""From which sizes on a call is long enough for states instead of pairs."""

from __future__ import annotations

#: Queries and keys that such a call has in any case, and for each feature of a token. On a CPU states and tiles take
#: the same time at about 2048 (benchmarks/linear.py): below, what a call does besides its pairs costs more than they.
FEWEST = 2048
PER_FEATURE = 4


def is_long(queries: int, keys: int, features: int) -> bool:
    """Whether states are less work than pairs, for tokens with so many features."""
    return min(queries, keys) >= max(FEWEST, PER_FEATURE * features)

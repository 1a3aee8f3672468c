"""From which sizes on a call is long enough for states instead of pairs."""

from __future__ import annotations

#: Queries and keys that such a call has in any case, and for each feature of a token: the work of a state is that of
#: as many pairs, and its queries and keys near the mask's border are visited by pairs as before.
FEWEST = 512
PER_FEATURE = 4


def is_long(queries: int, keys: int, features: int) -> bool:
    """Whether states are less work than pairs, for tokens with so many features."""
    return min(queries, keys) >= max(FEWEST, PER_FEATURE * features)

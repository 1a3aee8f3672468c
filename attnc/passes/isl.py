"""islpy under one name. Its stubs do not know half of isl, so everything that comes from it is Any."""

from __future__ import annotations

from typing import Any

import islpy

isl: Any = islpy


def renew(thing: Any) -> None:
    """A new step begins: operations are counted from here. `thing` is a context, or an object of it."""
    context = thing if isinstance(thing, isl.Context) else thing.get_ctx()
    context.reset_operations()

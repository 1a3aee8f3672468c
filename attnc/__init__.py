"""attnc: attention mechanisms as text, compiled to fused kernels.

    import attnc
    op = attnc.compile("std:sliding_window", params={"size": 1024})
    out = op(q, k, v)

Importing this package loads neither torch nor anything else that is slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnc.diagnostics import AttncError, AttncWarning, CallError, Diagnostic, InternalError, SpecError

if TYPE_CHECKING:
    from attnc import nn
    from attnc.artifact import Artifact, emit
    from attnc.ops import Op, compile  # noqa: A004  # the public name; re.compile reads the same
    from attnc.prover import Proof, prove
    from attnc.showing import Picture, show

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "AttncError",
    "AttncWarning",
    "CallError",
    "Diagnostic",
    "InternalError",
    "Op",
    "Picture",
    "Proof",
    "SpecError",
    "__version__",
    "compile",
    "emit",
    "nn",
    "prove",
    "show",
]

_LAZY = {
    "Picture": "attnc.showing",
    "show": "attnc.showing",
    "Artifact": "attnc.artifact",
    "emit": "attnc.artifact",
    "Op": "attnc.ops",
    "compile": "attnc.ops",
    "Proof": "attnc.prover",
    "prove": "attnc.prover",
}
_MODULES = ("nn",)


def __getattr__(name: str) -> Any:
    """Names that need torch are imported when they are first used (PEP 562)."""
    if name not in _LAZY and name not in _MODULES:
        raise AttributeError(f"module 'attnc' has no attribute {name!r}")
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"attnc.{name}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

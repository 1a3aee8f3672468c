# Triton has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownParameterType=false
"""Running emitted kernels in Triton's interpreter, on CPU tensors.

Triton decides when `triton.language` is imported whether its own library functions (tl.max, tl.sum, ...) are compiled
or interpreted. Here both kinds have to work in one process, whatever was imported first: for the time of a run,
library functions are replaced by their plain Python bodies, and the emitted module's helpers are plain functions.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

from attnc.codegen.launch import Launch


def plain_function(function: Any) -> Any:
    """The Python body of a function under `triton.jit`, compiled or interpreted kind."""
    return getattr(function, "fn", function)


def _is_jit(value: object) -> bool:
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    return isinstance(value, JITFunction | InterpretedFunction)


@contextmanager
def replaced_functions(change: Any, *, private: bool = False) -> Generator[None]:
    """Library functions of triton.language replaced by change(function) for a while.

    The `private` ones are the combine functions that the interpreter recognises by identity: it needs them as they are.
    """
    import triton.language as tl

    saved: list[tuple[ModuleType, str, Any]] = []
    for module in (tl, tl.standard, tl.core, tl.math):
        for name, value in list(vars(module).items()):
            if _is_jit(value) and (private or not name.startswith("_")):
                saved.append((module, name, value))
                setattr(module, name, change(value))
    try:
        yield
    finally:
        for module, name, value in saved:
            setattr(module, name, value)


class InterpretedModule:
    """The kernels of an emitted Python module, ready for the interpreter."""

    def __init__(self, module: ModuleType, kernels: tuple[str, ...]) -> None:
        import triton.experimental.gluon  # noqa: F401  # pyright: ignore[reportUnusedImport]  # lazily imported, it would see replaced functions
        import triton.language as tl
        from triton.runtime.interpreter import InterpretedFunction

        vars(module)["core"] = tl.core  # the interpreter patches the library modules that it finds in the globals
        for name, value in list(vars(module).items()):
            if _is_jit(value) and name not in kernels:
                setattr(module, name, plain_function(value))
        self._kernels = {name: InterpretedFunction(plain_function(getattr(module, name))) for name in kernels}

    def run(self, launch: Launch) -> None:
        """Run one launch, program after program."""
        arguments = dict(launch.arguments)
        kernel = self._kernels[launch.kernel.name]
        # On a GPU 0 / 0 and the maximum of NaNs are NaN without a word; so they are here.
        with replaced_functions(plain_function), np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            kernel.run(grid=(launch.programs,), warmup=False, **arguments)


def needs_upcast(dtype: torch.dtype) -> bool:
    """The interpreter of Triton 3.7 computes on the bits of bfloat16: such inputs run in float32."""
    return dtype == torch.bfloat16

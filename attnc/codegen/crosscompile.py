# Triton has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownParameterType=false
"""Compiling emitted kernels for a GPU that need not be there, down to the binary, and reading its resources."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from attnc.codegen.cache import load_source
from attnc.codegen.config import SHARED_MEMORY, LaunchConfig
from attnc.codegen.context import Arg, KernelText, TritonModule
from attnc.codegen.interpreter import plain_function, replaced_functions
from attnc.diagnostics import AttncError

_ELEMENTS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class Resources:
    """What one compiled kernel uses: registers and spilled bytes per thread, shared memory per program in bytes."""

    registers: int
    spills: int
    shared: int
    shared_limit: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Binary:
    """One kernel for one target. `assembly` is PTX or AMDGCN text, `binary` a cubin or hsaco file."""

    name: str
    target: str
    stages: Mapping[str, str | bytes]
    assembly: str
    binary: bytes
    resources: Resources


def cross_compile(module: TritonModule, target: str, dtype: str, config: LaunchConfig) -> tuple[Binary, ...]:
    """Compile every kernel of a module for `target`. Raises AttncError for a target that is not known."""
    emitted = load_source(module.source)
    with _compiled_library():
        _as_compiled(emitted)
        return tuple(_compile(emitted, kernel, target, dtype, config) for kernel in module.kernels)


def parse_target(target: str) -> Any:
    """The triton target of a name such as "cuda:90" or "hip:gfx942". Raises AttncError for one that is not listed."""
    from triton.backends.compiler import GPUTarget

    if target not in SHARED_MEMORY:
        raise AttncError(f"unknown target `{target}`; known are {', '.join(SHARED_MEMORY)}")
    family, architecture = target.split(":")
    return GPUTarget(family, int(architecture), 32) if family == "cuda" else GPUTarget(family, architecture, 64)


@contextmanager
def _compiled_library() -> Generator[None]:
    """triton.language as the compiler needs it, also when it was imported under TRITON_INTERPRET=1."""
    from triton import knobs
    from triton.language import standard
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    interpreted = isinstance(standard.max, InterpretedFunction)
    saved, knobs.runtime.interpret = knobs.runtime.interpret, False
    library: Any = nullcontext()
    if interpreted:
        library = replaced_functions(lambda f: JITFunction(plain_function(f)), private=True)
    try:
        with library:
            yield
    finally:
        knobs.runtime.interpret = saved


def _as_compiled(module: ModuleType) -> None:
    """Functions of a module that was loaded under TRITON_INTERPRET=1, as the compiler needs them."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    for name, value in list(vars(module).items()):
        if isinstance(value, InterpretedFunction):
            setattr(module, name, JITFunction(plain_function(value)))


def _compile(module: ModuleType, kernel: KernelText, target: str, dtype: str, config: LaunchConfig) -> Binary:
    import triton
    from triton.compiler import ASTSource

    signature, constants, attributes = _signature(kernel, dtype)
    source = ASTSource(getattr(module, kernel.name), signature, constants, attributes)
    options = {"num_warps": config.warps, "num_stages": config.stages}
    compiled: Any = triton.compile(source, target=parse_target(target), options=options)
    stages: dict[str, str | bytes] = {name: text for name, text in compiled.asm.items() if name != "source"}
    nvidia = target.startswith("cuda")
    assembly, binary = str(stages["ptx" if nvidia else "amdgcn"]), stages["cubin" if nvidia else "hsaco"]
    assert isinstance(binary, bytes)
    registers, spills = _nvidia_usage(binary) if nvidia else _amd_usage(assembly)
    shared = int(compiled.metadata.shared)
    resources = Resources(registers, spills, shared, SHARED_MEMORY[target], config.warps, config.stages)
    return Binary(kernel.name, target, stages, assembly, binary, resources)


def _signature(
    kernel: KernelText, dtype: str
) -> tuple[dict[str, str], dict[tuple[int, ...], Any], dict[tuple[int, ...], Any]]:
    """Argument types as the GPU launcher would specialise them: last strides 1, the rest divisible by 16."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    last = {arg.key: arg.axis for arg in kernel.args if arg.role == "stride"}
    for n, arg in enumerate(kernel.args):
        signature[arg.name] = _type(arg, dtype)
        if arg.role == "stride" and arg.axis == last[arg.key]:
            signature[arg.name] = "constexpr"
            constants[(n,)] = 1
        elif arg.role == "stride" or arg.role == "pointer":
            attributes[(n,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def _type(arg: Arg, dtype: str) -> str:
    if arg.role == "pointer":
        fixed = {"int": "i32", "bool": "u8", "float32": "fp32", "token_number": "fp32"}
        return f"*{fixed.get(arg.kind, _ELEMENTS[dtype])}"
    if arg.role in ("tiles", "offset") and arg.kind == "index":
        return "*i32"
    return {"real": "fp32", "int": "i32", "bool": "i32"}.get(arg.kind, "i32")


def _tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def _nvidia_usage(cubin: bytes) -> tuple[int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [_tool("cuobjdump"), "-res-usage", file.name], capture_output=True, text=True, check=True, timeout=60
        )
    found = re.search(r"REG:(\d+) STACK:(\d+).* LOCAL:(\d+)", done.stdout)
    if found is None:
        raise AttncError(f"cuobjdump printed no resource usage: {done.stdout!r}")
    return int(found[1]), int(found[2]) + int(found[3])


def _amd_usage(assembly: str) -> tuple[int, int]:
    def value(key: str) -> int:
        found = re.search(rf"\.{key}:\s+(\d+)", assembly)
        return int(found[1]) if found else 0

    # Scalar registers spill into lanes of vector registers, not into memory.
    return value("vgpr_count"), 4 * value("vgpr_spill_count")

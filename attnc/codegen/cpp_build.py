"""Compiling emitted C++ for this machine and loading it: one shared library per text, kept in the cache.

The compiler is `$CXX`, else g++, clang++ or c++. A library is named by its text, the compiler and what the machine can
do, written by rename, and loaded only if its digest is the one that was stored.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from attnc.codegen.cache import cache_directory, key_of, load_entry, making, store_entry
from attnc.codegen.cpp_text import native
from attnc.diagnostics import AttncError, InternalError

FLAGS = ("-std=c++17", "-O2", "-shared", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math", "-w",
         "-ffp-contract=fast", "-fwrapv")  # fmt: skip
_EXPORTED = re.compile(r'^extern "C" \w+ (\w+)\(', re.MULTILINE)
#: Seconds that a compiler may take for one module.
PATIENCE = 120


class CompilerError(AttncError):
    """The C++ compiler is missing, fails, takes too long, or makes something that does not load."""


@cache
def compiler() -> str | None:
    """The path of the C++ compiler; None when there is none."""
    named = os.environ.get("CXX")
    candidates = (named,) if named else ("g++", "clang++", "c++")
    return next((found for name in candidates if (found := shutil.which(name))), None)


def _run(command: tuple[str, ...]) -> tuple[int, str, str]:
    """Exit status, output and errors of a command; one that takes too long ends with all that it started."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    ) as process:
        try:
            out, complaint = process.communicate(timeout=PATIENCE)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, out, complaint


@cache
def _version(path: str) -> str:
    try:
        return _run((path, "--version"))[1]
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompilerError(f"the C++ compiler {path} does not run: {error}") from None


@cache
def _features() -> str:
    """What the processor can do, as the kernel lists it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def machine_flags() -> tuple[str, ...]:
    """Flags that make the compiler use all of this machine, or what `$ATTNC_MARCH` names (`haswell`, `x86-64`)."""
    named = os.environ.get("ATTNC_MARCH")
    if named:
        return (f"-march={named}",)
    if "avx512f" in _features():
        return ("-march=native", "-mprefer-vector-width=512")
    return ("-march=native",)


def load_library(source: str) -> ctypes.CDLL:
    """The library of a text, compiled if the cache has none. Raises CompilerError."""
    path = compiler()
    if path is None:
        raise CompilerError("no C++ compiler: install g++ or clang++, or name one by CXX")
    flags = (*FLAGS, *machine_flags())
    key = key_of("cpp", source, path, _version(path), " ".join(flags), _features())
    found = _load(key)
    if found is not None:
        return found
    with making(key):
        found = _load(key)
        if found is not None:
            return found
        _build(source, path, flags, key)
    found = _load(key)
    if found is None:
        raise CompilerError(f"what the C++ compiler {path} made does not load")
    return found


def _file(key: str) -> Path:
    return cache_directory() / f"{key}.so"


def _load(key: str) -> ctypes.CDLL | None:
    digest = load_entry("so", key)
    path = _file(key)
    if digest is None or not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def _build(source: str, path: str, flags: tuple[str, ...], key: str) -> None:
    with tempfile.TemporaryDirectory(dir=cache_directory()) as folder:
        text, made = Path(folder) / "module.cpp", Path(folder) / "module.so"
        text.write_text(source, encoding="utf-8")
        command = (path, *flags, str(text), "-o", str(made))
        try:
            status, _, complaint = _run(command)
        except subprocess.TimeoutExpired:
            raise CompilerError(f"the C++ compiler {path} took longer than {PATIENCE} s") from None
        except OSError as error:
            raise CompilerError(f"the C++ compiler {path} does not run: {error}") from None
        if status != 0 or not made.is_file():
            raise CompilerError(f"the C++ compiler {path} failed ({status}){_excerpt(complaint)}")
        data = made.read_bytes()
        wrong = _what_is_wrong(made, data, source)
        if wrong:
            raise CompilerError(f"what the C++ compiler {path} made does not load: {wrong}")
        made.chmod(0o600)
        made.replace(_file(key))
        store_entry("so", key, hashlib.sha256(data).hexdigest())


def _what_is_wrong(made: Path, data: bytes, source: str) -> str:
    """Why a new library is not what its source says; "" when it is."""
    if not _is_whole(data):
        return "it is cut short"
    try:
        library = ctypes.CDLL(str(made))
    except OSError as error:
        return str(error)
    missing = [name for name in _EXPORTED.findall(source) if not hasattr(library, name)]
    return f"it has no function {missing[0]}" if missing else ""


def _is_whole(data: bytes) -> bool:
    """Whether a library has the table that linkers put last: loading one that is cut short ends the process."""
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < 64:
        return data[:4] != b"\x7fELF"  # the loader refuses what is no library
    start = int.from_bytes(data[40:48], "little")
    size, count = (int.from_bytes(data[at : at + 2], "little") for at in (58, 60))
    return start + size * count <= len(data)


def _excerpt(text: str) -> str:
    lines = text.splitlines()
    return ":\n" + "\n".join(lines[:20]) if lines else ""


@cache
def parallel() -> Any:
    """The address of the pool's `attnc_parallel`, shared by all kernels of the process."""
    function: Any = load_library(native("pool.cpp")).attnc_parallel
    address = ctypes.cast(function, ctypes.c_void_p).value
    if address is None:
        raise InternalError("the pool of threads has no entry")
    return address

"""Emitted files on disk: content-addressed, in a directory that only its owner can write.

A file's name is the digest of its content, so an entry is checked by reading it; anything else is written again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from attnc.diagnostics import AttncError, InternalError


def cache_directory() -> Path:
    """`$ATTNC_CACHE_DIR`, else `attnc` in the user's cache directory. Created with mode 0700.

    Raises AttncError when the directory belongs to somebody else or others may write to it.
    """
    named = os.environ.get("ATTNC_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(named) if named else Path(base) / "attnc"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = path.stat()
    if info.st_uid != os.geteuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise AttncError(f"the cache directory {path} is not yours alone: make it 0700, or set ATTNC_CACHE_DIR")
    return path


def store_text(text: str, suffix: str) -> Path:
    """The path of a file with this content, written if there is none."""
    data = text.encode()
    path = cache_directory() / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
    if path.is_file() and path.read_bytes() == data:
        return path
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def load_source(text: str) -> ModuleType:
    """Import emitted Python source (from a real file: Triton reads the source of its functions)."""
    path = store_text(text, ".py")
    name = f"attnc_emitted_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InternalError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

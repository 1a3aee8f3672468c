"""What was compiled, on disk: in a directory that only its owner can write, each file checked by its digest.

Emitted sources are named by the digest of their text. Entries (plans, typed modules) are named by the digest of what
they were made from; their first line is the digest of the rest. Nothing read here is executed but emitted source, and
that only when its text is the one that is asked for.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from attnc.diagnostics import AttncError, InternalError, warn_user

PACKAGE = Path(__file__).resolve().parent.parent
#: Seconds after which a process stops waiting for another one that makes the same entry, and makes it itself.
LOCK_PATIENCE = 20.0
_OURS = re.compile(r"(?P<key>[0-9a-f]{32})\.(?P<kind>[a-z]+(?:\.json|\.so)|py)")


def cache_directory() -> Path:
    """`$ATTNC_CACHE_DIR`, else `attnc` in the user's cache directory. Created with mode 0700.

    Where none can be created (a read-only home), a directory for this process alone. Raises AttncError when the
    directory belongs to somebody else or others may write to it.
    """
    named = os.environ.get("ATTNC_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or str(_home() / ".cache")
    path = Path(named) if named else Path(base) / "attnc"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return _private_directory(path, str(error.strerror))
    info = path.stat()
    if info.st_uid != os.geteuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise AttncError(f"the cache directory {path} is not yours alone: make it 0700, or set ATTNC_CACHE_DIR")
    return path if os.access(path, os.W_OK | os.X_OK) else _private_directory(path, "it cannot be written")


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user without a home
        return Path("/nonexistent")


@cache
def _private_directory(wanted: Path, why: str) -> Path:
    message = f"no cache in {wanted} ({why}): what is compiled is forgotten at the end; set ATTNC_CACHE_DIR"
    warn_user(message)
    holder = tempfile.TemporaryDirectory(prefix="attnc-")
    _HOLDERS.append(holder)
    return Path(holder.name)


#: Temporary directories live as long as the process.
_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []


# -- keys ------------------------------------------------------------------------------------------------------------


@cache
def fingerprint() -> str:
    """A digest of the compiler itself: its sources, templates and the standard library."""
    standard = PACKAGE / "stdlib" if (PACKAGE / "stdlib").is_dir() else PACKAGE.parent / "stdlib"
    digest = hashlib.sha256()
    for root in (PACKAGE, standard):
        for name in _source_files(root):
            data = (root / name).read_bytes()
            digest.update(f"{name} {len(data)}\n".encode())
            digest.update(data)
    return digest.hexdigest()[:32]


def _source_files(root: Path) -> list[str]:
    found: list[str] = []
    for folder, _, files in os.walk(root):
        below = os.path.relpath(folder, root)
        found += [
            f"{below}/{file}"
            for file in files
            if file.endswith((".py", ".j2", ".lark", ".json", ".attn", ".h", ".cpp"))
        ]
    return sorted(found)


def key_of(*parts: str) -> str:
    """A name for what is made from `parts` by this compiler."""
    digest = hashlib.sha256(fingerprint().encode())
    for part in parts:
        data = part.encode()
        digest.update(f"{len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()[:32]


# -- entries ---------------------------------------------------------------------------------------------------------


def load_entry(kind: str, key: str) -> str | None:
    """The text stored under a key; None when there is none. One that is damaged or not ours is removed."""
    path = cache_directory() / f"{key}.{kind}.json"
    try:
        data = _read_own(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        _refuse(path, str(error.strerror or error))
        return None
    head, _, body = data.partition(b"\n")
    if head != hashlib.sha256(body).hexdigest().encode():
        _refuse(path, "its digest is wrong")
        return None
    return body.decode()


def _read_own(path: Path) -> bytes:
    """The content of a plain file that its owner, this user, alone can write. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
            raise PermissionError(0, "it is not a file of this user")
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(0, "others may write to it")
        return file.read()


def _refuse(path: Path, why: str) -> None:
    warn_user(f"the cache entry {path} is refused and made anew: {why}")
    path.unlink(missing_ok=True)


def store_entry(kind: str, key: str, body: str) -> None:
    """Store a text under a key, in place of what was there."""
    data = body.encode()
    _write(cache_directory() / f"{key}.{kind}.json", hashlib.sha256(data).hexdigest().encode() + b"\n" + data)


@contextmanager
def making(key: str) -> Generator[None]:
    """Held by one process at a time, so that the same work is not done twice. Given up after LOCK_PATIENCE."""
    handle = os.open(cache_directory() / f"lock-{key[:2]}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE
    while time.monotonic() < deadline:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.01)


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing: readers never see a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


# -- emitted source --------------------------------------------------------------------------------------------------


def store_text(text: str, suffix: str) -> Path:
    """The path of a file with this content, written if there is none."""
    data = text.encode()
    path = cache_directory() / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
    try:
        if _read_own(path) == data:
            return path
    except OSError:
        path.unlink(missing_ok=True)
    _write(path, data)
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


# -- what is there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What the cache holds: files and bytes by kind ("module", "plan", "kernels", "py", ...)."""

    directory: Path
    kinds: dict[str, tuple[int, int]]


def cache_info() -> CacheInfo:
    """Count what is there; other files in the directory are not ours and not counted."""
    kinds: dict[str, tuple[int, int]] = {}
    for path, kind in _files():
        files, size = kinds.get(kind, (0, 0))
        kinds[kind] = (files + 1, size + path.lstat().st_size)
    return CacheInfo(cache_directory(), dict(sorted(kinds.items())))


def clear_cache() -> CacheInfo:
    """Remove what is ours; returns what was there."""
    before = cache_info()
    for path, _ in _files():
        path.unlink(missing_ok=True)
    return before


def _files() -> Iterable[tuple[Path, str]]:
    for path in sorted(cache_directory().iterdir()):
        found = _OURS.fullmatch(path.name)
        if found is not None:
            yield path, found["kind"].split(".")[0]

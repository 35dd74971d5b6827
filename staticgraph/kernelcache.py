"""Compiled kernels on disk: one small file per key, plus the generated source for people to read.

The cache is only ever an optimisation: a missing, read-only, full or torn cache means that kernels
are compiled again, never an error. Files appear whole (written aside, then renamed), so processes
may race; each carries a checksum, so a torn one is noticed and replaced.

Under the cache directory lie `kernels/ab/<key>.sgk` and `source/<name>-<key>.sgk.py`. Only files so
named are ever counted or deleted, whatever else a user keeps in that directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from staticgraph.errors import InputError

DEFAULT_BYTES = 512 << 20
MAGIC = b"sgkernel"
SEAL = struct.Struct("<8s32s")  # magic, sha256 of what follows
SIZES = struct.Struct("<dII")  # compile seconds, bytes of object code, bytes of packed bitcode
TOUCH_AFTER = 3600.0  # seconds; a hit this fresh leaves the file's time alone
ABANDONED_AFTER = 3600.0  # seconds; a temporary file this old has lost its writer


@dataclass(frozen=True)
class Entry:
    """What is kept of one compiled kernel."""

    code: bytes
    packed_bitcode: bytes
    compile_seconds: float

    @property
    def bitcode(self) -> bytes:
        return zlib.decompress(self.packed_bitcode)

    def pack(self) -> bytes:
        sizes = SIZES.pack(self.compile_seconds, len(self.code), len(self.packed_bitcode))
        body = sizes + self.code + self.packed_bitcode
        return SEAL.pack(MAGIC, hashlib.sha256(body).digest()) + body

    @classmethod
    def unpack(cls, raw: bytes) -> Entry | None:
        """The entry, or None where `raw` is not exactly what `pack` wrote."""
        if len(raw) < SEAL.size + SIZES.size:
            return None
        magic, digest = SEAL.unpack_from(raw)
        if magic != MAGIC or hashlib.sha256(memoryview(raw)[SEAL.size :]).digest() != digest:
            return None
        seconds, code, _ = SIZES.unpack_from(raw, SEAL.size)
        start = SEAL.size + SIZES.size
        return cls(raw[start : start + code], raw[start + code :], seconds)


class Stored(NamedTuple):
    """One kernel on disk: its name, key, bytes, when it was last used, and what compiling took."""

    name: str
    key: str
    size: int
    used: float
    seconds: float


def directory() -> Path:
    """STATICGRAPH_CACHE_DIR, else `staticgraph` in the XDG cache directory."""
    chosen = os.environ.get("STATICGRAPH_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "staticgraph"


def limit_bytes() -> int:
    """STATICGRAPH_CACHE_SIZE in MiB, else the default."""
    chosen = os.environ.get("STATICGRAPH_CACHE_SIZE")
    if not chosen:
        return DEFAULT_BYTES
    try:
        return max(0, int(float(chosen) * (1 << 20)))
    except ValueError:
        raise InputError(
            f"STATICGRAPH_CACHE_SIZE must be a number of MiB, not {chosen!r}"
        ) from None


@dataclass
class KernelCache:
    """The disk store under `root`; beyond `limit` bytes the least recently used files go."""

    root: Path
    limit: int = DEFAULT_BYTES
    _written: int | None = field(default=None, init=False)  # since the last sweep, if any
    _silent: bool = field(default=False, init=False)

    def _entry_path(self, key: str) -> Path:
        return self.root / "kernels" / key[:2] / f"{key}.sgk"

    def source_path(self, name: str, key: str) -> Path:
        return self.root / "source" / f"{name}-{key[:16]}.sgk.py"

    def load(self, key: str) -> tuple[Entry | None, str]:
        """The entry of `key`, and `disk`; else None and why: `absent` or `damaged`."""
        path = self._entry_path(key)
        try:
            with open(path, "rb") as file:
                raw = file.read()
                age = time.time() - os.fstat(file.fileno()).st_mtime
        except OSError:
            return None, "absent"
        entry = Entry.unpack(raw)
        if entry is None:
            return None, "damaged"
        if age > TOUCH_AFTER:
            with contextlib.suppress(OSError):  # a read-only cache still serves
                os.utime(path)
        return entry, "disk"

    def store(self, key: str, entry: Entry) -> None:
        self._write(self._entry_path(key), entry.pack())

    def store_source(self, name: str, key: str, text: str) -> Path | None:
        """Put the source where a person can open it; None where the disk takes no file."""
        path = self.source_path(name, key)
        return path if path.exists() or self._write(path, text.encode()) else None

    def _write(self, path: Path, content: bytes) -> bool:
        if self.limit == 0:
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".sgk.tmp")
            try:
                with open(handle, "wb") as file:
                    file.write(content)
                os.replace(aside, path)
            except BaseException:
                os.unlink(aside)
                raise
        except OSError as error:
            self._warn_once(error)
            return False
        self._account(len(content))
        return True

    def _warn_once(self, error: OSError) -> None:
        if self._silent:
            return
        self._silent = True
        warnings.warn(
            f"staticgraph: the kernel cache {self.root} cannot be written ({error.strerror}); "
            "kernels will be compiled again in every process. "
            "Set STATICGRAPH_CACHE_DIR to a writable directory.",
            RuntimeWarning,
            stacklevel=2,
        )

    def _account(self, count: int) -> None:
        """Sweep on the first write of a process and after each eighth of the limit written."""
        if self._written is None or self._written + count > self.limit // 8:
            self._written = 0
            self.sweep()
        self._written += count

    def _files(self) -> Iterator[tuple[float, int, str]]:
        for folder, _, names in os.walk(self.root):
            for name in names:
                if not name.endswith((".sgk", ".sgk.py", ".sgk.tmp")):
                    continue
                path = os.path.join(folder, name)
                try:
                    status = os.stat(path)
                except OSError:
                    continue  # another process was faster
                yield status.st_mtime, status.st_size, path

    def sweep(self) -> None:
        """Drop abandoned temporary files, and the least recently used down to 3/4 of the limit."""
        now = time.time()
        kept = []
        for when, size, path in self._files():
            if path.endswith(".tmp"):
                if now - when > ABANDONED_AFTER:
                    _remove(path)
            else:
                kept.append((when, size, path))
        total = sum(size for _, size, _ in kept)
        if total <= self.limit:
            return
        for _, size, path in sorted(kept):
            _remove(path)
            total -= size
            if total <= self.limit * 3 // 4:
                return

    def clear(self) -> None:
        for _, _, path in list(self._files()):
            _remove(path)

    def stored(self) -> Iterator[Stored]:
        """Every kernel here; its name is that of its source, where that is still there."""
        names = {}
        for path in (self.root / "source").glob("*.sgk.py"):
            name, _, short = path.name.removesuffix(".sgk.py").rpartition("-")
            names[short] = name
        for when, size, path in self._files():
            if not path.endswith(".sgk"):
                continue
            try:
                with open(path, "rb") as file:
                    head = file.read(SEAL.size + SIZES.size)
                seconds, _, _ = SIZES.unpack_from(head, SEAL.size)
            except (OSError, struct.error):
                continue  # gone, or torn
            key = os.path.basename(path).removesuffix(".sgk")
            yield Stored(names.get(key[:16], "?"), key, size, when, seconds)

    def usage(self) -> tuple[int, int]:
        """Number of files and their bytes."""
        sizes = [size for _, size, _ in self._files()]
        return len(sizes), sum(sizes)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):  # already gone, or not ours to remove
        os.unlink(path)

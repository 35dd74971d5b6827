"""Generated kernels become machine code here: from memory, else from disk, else through Numba.

A kernel is the text of a Python module with `def k(lo, hi, bufs, scratch)`. Its key is that text
and all that shapes the machine code: CPU, versions, the code generator's own files. Equal kernels
compile once per process; with the disk cache the next process starts without importing Numba.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import functools
import gc
import hashlib
import importlib.util
import os
import re
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from staticgraph import kernelcache, native
from staticgraph.errors import InternalError
from staticgraph.kernelcache import Entry, KernelCache

# Numba's runtime and object support: machine code that calls them only works beside Numba.
FOREIGN = ("numba_", "NRT_", "_ZN5numba")

_lock = threading.RLock()
# A child forked while another thread compiles would find the lock taken for ever.
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)
_kernels: dict[str, Kernel] = {}


@dataclass(frozen=True)
class KernelSource:
    """What to compile: a module's text and the function in it, which takes `arity` int64s."""

    name: str
    text: str
    entry: str = "k"
    arity: int = 4


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel.

    `origin` tells how this request was served: `memory` or `disk`, or compiled because the disk
    had it `absent`, `damaged` or `unlinkable`. `compile_seconds` is what compiling took, whenever
    that was. `address` is a C function of int64s, valid until the process ends.
    """

    name: str
    source: str
    key: str
    address: int
    compile_seconds: float
    origin: str
    entry: Entry = field(repr=False)

    @property
    def cache_hit(self) -> bool:
        return self.origin in ("memory", "disk")

    @property
    def path(self) -> Path:
        """A file with the source, written again if someone removed it."""
        return source_file(self.name, self.key, self.source)

    @property
    def llvm(self) -> str:
        """The optimised LLVM assembly."""
        return native.llvm_text(self.entry.bitcode)

    @property
    def asm(self) -> str:
        """The machine code as text."""
        return native.assembly(self.entry.bitcode)

    @property
    def code_bytes(self) -> int:
        """Size of the object file."""
        return len(self.entry.code)


def compile_kernels(sources: Iterable[KernelSource]) -> list[Kernel]:
    """Machine code for each source, in order. Equal sources share one piece of code."""
    sources = list(sources)
    keys = [kernel_key(source) for source in sources]
    wanted = dict(zip(keys, sources, strict=True))
    with _lock:
        missing = {key: source for key, source in wanted.items() if key not in _kernels}
        if missing:
            _kernels.update(_obtain(missing))
        served = []
        for key, source in zip(keys, sources, strict=True):
            origin = missing.pop(key, None) and _kernels[key].origin
            served.append(replace(_kernels[key], name=source.name, origin=origin or "memory"))
        return served


def recalled(name: str, key: str) -> tuple[str, Entry] | None:
    """Source and code of a kernel by its key, as far as this process or the disk still has it."""
    with _lock:
        kernel = _kernels.get(key)
    if kernel is not None:
        return kernel.source, kernel.entry
    cache = disk_cache()
    entry, _ = cache.load(key)
    try:
        source = cache.source_path(_file_name(name), key).read_text()
    except OSError:
        source = ""
    return None if entry is None else (source, entry)


def kernel_key(source: KernelSource) -> str:
    """Name of the machine code that `source` gives on this machine, in hexadecimal."""
    digest = hashlib.sha256(_environment())
    digest.update(f"{source.entry}\0{source.arity}\0{source.text}".encode())
    return digest.hexdigest()


@functools.cache
def _environment() -> bytes:
    """Digest of everything besides the source that shapes machine code."""
    digest = hashlib.sha256(repr((sys.version_info[:2], *native.host())).encode())
    here = Path(__file__).parent
    for file in (
        here / "direct.py",
        here / "jit.py",
        here / "native.py",
        *sorted(here.glob("codegen/*.py")),
    ):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    for package in ("numba", "llvmlite"):
        # Read, not imported: importing Numba is what a warm start must avoid.
        version = Path(importlib.util.find_spec(package).origin).with_name("_version.py")
        digest.update(hashlib.sha256(version.read_bytes()).digest())
    return digest.digest()


@functools.cache
def _cache_at(root: Path, limit: int) -> KernelCache:
    return KernelCache(root, limit)


def disk_cache() -> KernelCache:
    """The disk cache that the environment variables choose now."""
    return _cache_at(kernelcache.directory(), kernelcache.limit_bytes())


def _symbol(key: str) -> str:
    return f"sg_{key[:32]}"


def _obtain(wanted: dict[str, KernelSource]) -> dict[str, Kernel]:
    """Kernels that this process does not have yet, from disk or from the compiler."""
    cache = disk_cache()
    entries, origin = {}, {}
    for key in wanted:
        entry, origin[key] = cache.load(key)
        if entry is not None:
            entries[key] = entry
    entries |= _build({k: s for k, s in wanted.items() if k not in entries}, cache)
    try:
        linked = native.link({_symbol(key): entry.code for key, entry in entries.items()})
    except native.LinkError:
        linked = _link_singly(wanted, entries, origin, cache)
    return {
        key: Kernel(
            source.name,
            source.text,
            key,
            linked[_symbol(key)],
            entries[key].compile_seconds,
            origin[key],
            entries[key],
        )
        for key, source in wanted.items()
    }


def _link_singly(
    wanted: dict[str, KernelSource],
    entries: dict[str, Entry],
    origin: dict[str, str],
    cache: KernelCache,
) -> dict[str, int]:
    """Link each alone, so that of a batch only what does not link is compiled again."""
    linked = {}
    for key, source in wanted.items():
        try:
            linked |= native.link({_symbol(key): entries[key].code})
        except native.LinkError:
            origin[key] = "unlinkable"
            entries |= _build({key: source}, cache)
            linked |= native.link({_symbol(key): entries[key].code})
    return linked


def _build(wanted: dict[str, KernelSource], cache: KernelCache) -> dict[str, Entry]:
    if not wanted:
        return {}
    with _old_objects_frozen():
        built = {key: _compile(key, source) for key, source in wanted.items()}
    for key, entry in built.items():
        cache.store(key, entry)
    return built


@contextlib.contextmanager
def _old_objects_frozen() -> Iterator[None]:
    """Keep the garbage collector off what lived before.

    Compiling allocates fast enough to start full collections, and with Numba imported each of them
    walks its 400,000 objects: 25 ms, more than a kernel takes to compile.
    """
    if gc.get_freeze_count():  # somebody else's; leave it alone
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _compile(key: str, source: KernelSource) -> Entry:
    from staticgraph import jit  # here, because it imports Numba

    started = time.perf_counter()
    path = source_file(source.name, key, source.text)
    try:
        namespace = {"__name__": f"staticgraph.kernel.{source.name}", "__file__": str(path)}
        tree = ast.parse(source.text, path)
        exec(compile(tree, path, "exec"), namespace)
        text, libraries = jit.lower(tree, namespace, source.entry, source.arity, _symbol(key))
        module = native.optimise(text, source.name, libraries, keep=_symbol(key))
        for function in module.functions:
            if function.is_declaration and function.name.startswith(FOREIGN):
                raise ValueError(f"it calls {function.name}, which is part of Numba")
        code = native.object_code(module)
    except Exception as error:
        raise InternalError(
            f"kernel {source.name} does not compile, see {path}: {error}"
        ) from error
    packed = zlib.compress(module.as_bitcode(), 1)
    return Entry(code, packed, time.perf_counter() - started)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)[:60]


def source_file(name: str, key: str, text: str) -> Path:
    """A file that holds a kernel's source."""
    name = _file_name(name)
    path = disk_cache().store_source(name, key, text)
    if path is None:
        path = _fallback_directory() / f"{name}-{key[:16]}.py"
        path.write_text(text)
    return path


@functools.cache
def _fallback_directory() -> Path:
    """Where sources go, for this process's life, when the cache directory takes no files."""
    folder = tempfile.TemporaryDirectory(prefix="staticgraph-")
    atexit.register(folder.cleanup)
    return Path(folder.name)

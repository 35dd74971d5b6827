"""LAPACK and BLAS as SciPy exports them: addresses for kernels, and no threads but ours.

A kernel calls the external symbol `lapack_dgetrf`; linking puts in the address of SciPy's `dgetrf`.
So cached machine code holds no address, and SciPy is imported when a kernel that needs it is
linked, not before.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

PREFIX = "lapack_"
_CALL = re.compile(PREFIX.encode() + rb"([sdcz][a-z0-9]+)")

#: how the common libraries tell and set the number of threads they use
_THREADS = (
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    ("bli_thread_get_num_threads", "bli_thread_set_num_threads"),
)


def symbols(code: bytes) -> dict[str, int]:
    """The symbols of LAPACK that object code names, with their addresses in this process."""
    names = {found.decode() for found in _CALL.findall(code)}
    return {PREFIX + name: address(name) for name in sorted(names)}


def uses_lapack(source: str) -> bool:
    """Whether the text of a kernel calls LAPACK."""
    return _CALL.search(source.encode()) is not None


@functools.cache
def _modules() -> tuple[Any, Any]:
    return tuple(importlib.import_module(f"scipy.linalg.cython_{k}") for k in ("lapack", "blas"))


@functools.cache
def address(name: str) -> int:
    """Address of SciPy's C function for a routine of LAPACK or BLAS."""
    capsule = next((m.__pyx_capi__[name] for m in _modules() if name in m.__pyx_capi__), None)
    if capsule is None:
        raise ImportError(f"scipy has no {name} for kernels")
    signature = _capsule_name(capsule)
    if b"int *" not in signature:
        raise ImportError(f"scipy's {name} does not take 32-bit integers: {signature.decode()}")
    return _capsule_pointer(capsule, signature)


_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.argtypes, _capsule_name.restype = (ctypes.py_object,), ctypes.c_char_p
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_capsule_pointer.restype = ctypes.c_void_p


class _Threads:
    """The threads of SciPy's library: one while any plan that calls it runs, then as before.

    Its own threads would compete with ours, and results would depend on how many there are.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.running = 0
        self.before = 1

    @functools.cached_property
    def controls(self) -> tuple[Any, Any] | None:
        """Functions that get and set the count; None for a library that we do not know."""
        library = ctypes.CDLL(_modules()[0].__file__)  # finds symbols in what it depends on, too
        for names in _THREADS:
            if all(hasattr(library, name) for name in names):
                return tuple(getattr(library, name) for name in names)
        return None

    def enter(self) -> None:
        with self.lock:
            if self.running == 0 and self.controls is not None:
                self.before = self.controls[0]()
                self.set(1)
            self.running += 1

    def leave(self) -> None:
        with self.lock:
            self.running -= 1
            if self.running == 0:
                self.set(self.before)

    def set(self, count: int) -> None:
        if self.before != 1 and self.controls is not None:
            self.controls[1](count)

    def renew(self) -> None:
        """In a forked child no plan runs, and the lock may be held by a thread that is gone."""
        self.lock = threading.Lock()
        if self.running:
            self.running = 1
            self.leave()


_threads = _Threads()
os.register_at_fork(after_in_child=_threads.renew)


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Within the block SciPy's LAPACK uses the calling thread alone."""
    _threads.enter()
    try:
        yield
    finally:
        _threads.leave()

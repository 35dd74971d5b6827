"""What this package asks of `numba.cuda`: kernels from source, memory on the device, launches.

Importing this file imports `numba.cuda`; `NUMBA_ENABLE_CUDASIM=1`, set before Python starts, makes
that the simulator.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
from numba import cuda
from numba.np import numpy_support

from staticgraph.cudamath import SIMULATED
from staticgraph.errors import InternalError, TargetError

#: code runs on every GPU from this compute capability on
OLDEST = (7, 5)

HELP = (
    "compile: target='cuda' needs one of: an NVIDIA GPU with its driver; the CUDA toolkit, to"
    " compile without a GPU (pip install 'numba-cuda[cu13]', or set CUDA_HOME to one installed);"
    " or Numba's simulator (set NUMBA_ENABLE_CUDASIM=1 before Python starts)"
)

_simulator, _compiling = threading.Lock(), threading.Lock()

if not SIMULATED:
    from numba.cuda import dispatcher
else:
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    def _shared_array(self, shape, dtype):
        """One array per line of source, in one step: the simulator's own test-and-set is a race
        between the threads of a block, and walks the stack each time."""
        key = sys._getframe(1).f_lineno
        return self._allocations.setdefault(key, np.empty(shape, numpy_support.as_dtype(dtype)))

    FakeCUDAShared.array = _shared_array


@functools.cache
def state() -> str:
    """What there is: 'simulator', 'device', or 'toolkit' to compile only. Else TargetError."""
    if SIMULATED:
        return "simulator"
    if cuda.is_available():
        return "device"
    try:
        cuda.compile_ptx(_nothing, (), cc=OLDEST)
    except Exception as error:
        found = str(error).strip().split("\n")[0]
        raise TargetError(f"{HELP}; found no GPU and no toolkit ({found})") from None
    return "toolkit"


def _nothing():
    pass


# ---------------------------------------------------------------------------- kernels


@functools.lru_cache(maxsize=4096)
def function(name: str, text: str, path: Path) -> Callable:
    """The Python function of a kernel's text."""
    namespace: dict = {"__name__": f"staticgraph.kernel.{name}", "__file__": str(path)}
    try:
        exec(compile(text, str(path), "exec"), namespace)
    except Exception as error:
        raise InternalError(f"kernel {name} is no Python, see {path}: {error}") from error
    return namespace["k"]


def signature(dtypes: Sequence[str]):
    """Flat contiguous arrays."""
    return numba.void(*(numba.from_dtype(np.dtype(d))[::1] for d in dtypes))


@functools.lru_cache(maxsize=4096)
def compiled(name: str, text: str, path: Path, dtypes: tuple[str, ...]):
    """The kernel for the GPU at hand; equal texts compile once."""
    made = function(name, text, path)
    try:
        return cuda.jit(signature(dtypes))(made)
    except Exception as error:
        raise InternalError(f"kernel {name} does not compile, see {path}: {error}") from error


def ptx(name: str, text: str, path: Path, dtypes: tuple[str, ...], cc: tuple[int, int]) -> str:
    """The kernel as PTX for a compute capability."""
    if SIMULATED:
        raise TargetError("the simulator runs kernels in Python and compiles no PTX")
    with _capability(cc):
        return cuda.compile_ptx(function(name, text, path), signature(dtypes), cc=cc)[0]


@contextlib.contextmanager
def _capability(cc: tuple[int, int]) -> Iterator[None]:
    """Numba asks the GPU at hand how to compile device functions: answer where there is none."""
    if state() == "device":
        yield
        return
    with _compiling:
        ask = dispatcher.get_current_device
        dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=cc)
        try:
            yield
        finally:
            dispatcher.get_current_device = ask


def bound(kernel, blocks: int, threads: int, arrays: Sequence) -> Callable[[], None]:
    """A launch with everything given."""
    if not SIMULATED:
        with warnings.catch_warnings():
            # Numba warns of small grids, which is how small graphs are.
            warnings.simplefilter("ignore")
            configured = kernel[blocks, threads]
        return functools.partial(configured, *arrays)

    def run() -> None:
        # The simulator runs one kernel at a time, and its scalars warn where arithmetic wraps.
        with _simulator, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kernel[blocks, threads](*arrays)

    return run


# ---------------------------------------------------------------------------- memory


def allocate(nbytes: int):
    """Bytes on the device; at least 16, so that every dtype has an element to point at."""
    return cuda.device_array(max(nbytes, 16), np.uint8)


def part(buffer, offset: int, nbytes: int, dtype: str):
    """Elements of a dtype in bytes of a buffer."""
    itemsize = np.dtype(dtype).itemsize
    count = max(nbytes // itemsize, 1)
    return buffer[offset : offset + count * itemsize].view(np.dtype(dtype))


def upload(array: np.ndarray, target) -> None:
    if array.size:
        target.copy_to_device(array.reshape(-1))


def download(source, array: np.ndarray) -> np.ndarray:
    if array.size:
        source.copy_to_host(array.reshape(-1))
    return array

"""The contenders: which library each needs and its best documented settings on a CPU.

A name with a space is a second way to use the same library ("jax donated").
"""

import importlib
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A library: what to import, and the settings made before anything is built."""

    module: str
    setup: str = ""


PEERS = {
    "staticgraph": Peer("staticgraph"),
    "jax": Peer("jax", "setup_jax"),
    "torch": Peer("torch", "setup_torch"),
    "torch.compile": Peer("torch", "setup_torch"),
    "pytensor": Peer("pytensor", "setup_pytensor"),
    "numexpr": Peer("numexpr", "setup_numexpr"),
    "numpy": Peer("numpy"),
}


def peer_of(contender):
    return PEERS[contender.split()[0]]


def environment(threads, cache):
    """Variables of a contender's process: one thread budget, and every disk cache under `cache`."""
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "NUMBA_NUM_THREADS": count,
        "NUMEXPR_MAX_THREADS": count,
        "STATICGRAPH_CACHE_DIR": f"{cache}/staticgraph",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "PYTENSOR_FLAGS": f"base_compiledir={cache}/pytensor",
    }


def load(contender, threads):
    """Import the contender's library on `threads` CPUs; ImportError when it is not there."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    importlib.import_module(peer_of(contender).module)


def configure(contender, dtype, threads):
    """The settings to make before anything is built."""
    setup = peer_of(contender).setup
    if setup:
        globals()[setup](dtype, threads)


def setup_jax(dtype, threads):
    """XLA sizes its pool from the CPU affinity; float64 needs the switch."""
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    jax.devices()


def setup_torch(dtype, threads):
    import torch

    torch.set_num_threads(threads)


def setup_pytensor(dtype, threads):
    import pytensor

    pytensor.config.floatX = dtype
    pytensor.config.numba__fastmath = True


def setup_numexpr(dtype, threads):
    import numexpr

    numexpr.set_num_threads(threads)

"""What one call does to the process it runs in: resident memory, time, bits."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from staticgraph import tree
from staticgraph.compile import Function, compile
from staticgraph.frontend import input as graph_input

ROUNDS = 5  # pairs of calls, at least
_SELF = Path("/proc/self")


def measurable() -> bool:
    """Whether this system says how much memory a process has had resident."""
    return hasattr(os, "fork") and "VmHWM:" in _status()


def rise(fn: Function, arrays: Sequence[np.ndarray]) -> int | None:
    """Bytes by which a first call raises resident memory at most; outputs are there before.

    `fn` must not have been called: its arena is then new to the child process in which this is
    looked at. None where the system does not say.
    """
    if not measurable():
        return None
    other = _launcher()
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Python warns of threads at a fork; the launcher's are started anew in the child.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _answer(write, fn, arrays, other)
    os.close(write)
    try:
        with os.fdopen(read) as stream:
            answer = stream.read()
    finally:
        os.waitpid(child, 0)
    return json.loads(answer) if answer else None


def _answer(write: int, fn: Function, arrays: Sequence[np.ndarray], other: Function) -> None:
    """The child: writes the number and ends, whatever happens."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        other(np.zeros((256, 64), np.float32))  # the launcher's threads belong to no model
        leaves = [np.ones(t.shape, t.type.dtype) for t in fn.graph.outputs]
        out = leaves[0] if fn.form == tree.LEAF else tree.unflatten(fn.form, leaves)
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # or the arena may lie where memory was freed before
        with contextlib.suppress(OSError):
            (_SELF / "clear_refs").write_text("5")  # the high-water mark down to what is there
        before = _kilobytes("VmRSS")
        fn(*arrays, out=out)
        os.write(write, json.dumps(_kilobytes("VmHWM") - before).encode())
    finally:
        os._exit(0)


def _launcher() -> Function:
    x = graph_input("x", (256, 64))
    return compile(x + 1.0, [x])


def _status() -> str:
    try:
        return (_SELF / "status").read_text()
    except OSError:
        return ""


def _kilobytes(field: str) -> int:
    line = next(line for line in _status().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) << 10


@contextlib.contextmanager
def variables_kept(fn: Function) -> Iterator[None]:
    """Variables have their values back afterwards."""
    saved = [(v, v.storage.copy()) for v in fn.plan.variables]
    try:
        yield
    finally:
        for v, value in saved:
            with v.lock:
                v.storage[...] = value


def results(fn: Function, arrays: Sequence[np.ndarray]) -> list[bytes]:
    """The bits of the outputs, and of the new values of variables in the order of the graph."""
    with variables_kept(fn):
        made, _ = tree.flatten(fn(*arrays))
        bits = [np.ascontiguousarray(a).tobytes() for a in made]
        return bits + [v.storage.tobytes() for v, _ in fn.graph.updates]


def times(
    base: Function, fn: Function, arrays: Sequence[np.ndarray], seconds: float
) -> tuple[float, float]:
    """Median times of calls of both in turns, so that a machine's change of speed meets both."""
    taken: tuple[list[float], list[float]] = ([], [])
    with variables_kept(base):
        base(*arrays), fn(*arrays)
        end = time.perf_counter() + seconds
        while len(taken[0]) < ROUNDS or time.perf_counter() < end:
            order = ((0, base), (1, fn)) if len(taken[0]) % 2 else ((1, fn), (0, base))
            for which, called in order:
                begin = time.perf_counter()
                called(*arrays)
                taken[which].append(time.perf_counter() - begin)
    return float(np.median(taken[0])), float(np.median(taken[1]))

"""The thread budget: how many threads a call may use, per calling thread.

Results do not depend on it, by construction: tiles depend on shapes only. The threads themselves
are the launcher's own pool (see `launch`), so that neither OpenMP nor TBB has to be installed.
"""

from __future__ import annotations

import functools
import math
import operator
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from staticgraph.errors import InputError

MOST_THREADS = 1024


class Layer(NamedTuple):
    """How parallel steps run here. `note` is one sentence when there is something to know."""

    name: str
    note: str = ""


@functools.cache
def default_threads() -> int:
    """NUMBA_NUM_THREADS if set, else the cores this process may use (affinity and cgroup quota)."""
    chosen = os.environ.get("NUMBA_NUM_THREADS")
    if chosen:
        return check_threads(chosen, "NUMBA_NUM_THREADS")
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _quota(), MOST_THREADS))


def _quota() -> int:
    """Cores that a container's CPU quota amounts to; threads beyond it would only be throttled."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.ceil(int(limit) / int(period))
    except (OSError, ValueError):  # no quota is written `max`
        return MOST_THREADS


def check_threads(count: object, name: str = "threads") -> int:
    """`count` as a valid number of threads; InputError for anything else."""
    try:
        if isinstance(count, bool):
            raise TypeError
        number = int(count) if isinstance(count, str) else operator.index(count)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a whole number of threads, not {count!r}") from None
    if not 1 <= number <= MOST_THREADS:
        raise InputError(f"{name} must be from 1 to {MOST_THREADS}, not {number}")
    return number


class _Caller(threading.local):
    """What the launcher wants to know about the thread that calls it."""

    def __init__(self):
        self.budget = default_threads()
        self.is_main = threading.current_thread() is threading.main_thread()


caller = _Caller()


def threads(count: int) -> AbstractContextManager[None]:
    """Within the block, calls made by this thread use at most `count` threads each.

    Results do not depend on it. Raises InputError for what is no whole number from 1 on.
    """
    return _budget(check_threads(count))


@contextmanager
def _budget(count: int) -> Iterator[None]:
    before = caller.budget
    caller.budget = count
    try:
        yield
    finally:
        caller.budget = before


def get_threads() -> int:
    """The budget of calls made by this thread."""
    return caller.budget


def layer() -> Layer:
    """What runs parallel steps on this machine."""
    if sys.platform == "win32":
        return Layer("serial", "No POSIX threads here: every call runs on one thread.")
    if default_threads() == 1:
        return Layer("pool", "This process may use one core only: every call runs on one thread.")
    return Layer("pool")

"""Running a plan: one call into compiled code, whatever the number of kernels and threads.

A `Program` is the plan as flat arrays; a `Frame` is what one call at a time needs to run it. The
compiled loop (`codegen/launchloop.py`) is itself a Python builtin, so that neither ctypes nor
Numba's dispatcher stands between Python and it.

Parallel steps are shared by a pool of our own: POSIX threads that run compiled code only and never
touch Python. A step waits for no worker that was late, many calls may use the pool at once, and
after `fork` the child starts threads of its own; GNU OpenMP offers none of the three. Measured on
two cores, microseconds per parallel step of 4 and of 20 us of work each: 4.7 and 8.8 here as on
OpenMP while the cores are free; 24 and 43 here, 1200 and 400 on OpenMP, while others use them.

Ctrl-C: in the main thread the loop looks for signals every 50 ms, between steps and between chunks
of a large one, and runs Python's handler there. If that raises, the workers finish their tiles and
the exception leaves the call. After a COMMIT step (updates of variables in place) the run goes to
its end first, so that updates happen entirely or not at all.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import signal
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from staticgraph.codegen import launchwords as w
from staticgraph.errors import InternalError
from staticgraph.kernels import KernelSource, compile_kernels
from staticgraph.native import immortal
from staticgraph.threads import caller

CACHE_LINE = 64
METH_O = 8


class Seat(NamedTuple):
    """One thread's part of a step: from its first tile to its last, and how many it computed."""

    thread: int
    begin: int
    end: int
    tiles: int


class Stamp(NamedTuple):
    """One executed step: its row in the program, times in ns of `time.perf_counter_ns`.

    `seats` are the threads that computed; thread 0 is the one that called.
    """

    step: int
    begin: int
    end: int
    seats: tuple[Seat, ...]

    @property
    def workers(self) -> int:
        return len(self.seats)

    @property
    def busy(self) -> int:
        """The ns of all threads together."""
        return sum(seat.end - seat.begin for seat in self.seats)

    @property
    def busiest(self) -> int:
        """The ns of the thread that took longest."""
        return max((seat.end - seat.begin for seat in self.seats), default=0)


class Program:
    """A plan as arrays: steps (int64[n, 8], see `launchwords`), and the table of operand addresses.

    Entry i of the table is bases[slot[i]] + offset[i], found at the start of each run; slot -1
    means no base, so that the entry is the number `offset[i]` itself (a LOOP's count).
    """

    def __init__(
        self,
        steps: np.ndarray,
        slot: np.ndarray,
        offset: np.ndarray,
        *,
        bases: int,
        scratch_bytes: int = 0,
        hold_gil: bool = False,
    ):
        """
        Arguments:
            bases: how many base addresses each call gives
            scratch_bytes: private memory of one thread
            hold_gil: keep Python's lock during the run; for plans of a few microseconds
        """
        self.steps = np.ascontiguousarray(steps, np.int64).reshape(-1, w.STEP_WORDS)
        self.slot = np.ascontiguousarray(slot, np.int64)
        self.offset = np.ascontiguousarray(offset, np.int64)
        self.bases = bases
        self.scratch_bytes = -(-scratch_bytes // CACHE_LINE) * CACHE_LINE
        self.hold_gil = hold_gil
        self._verify()
        self.slot = np.where(self.slot < 0, bases, self.slot)

    def _verify(self) -> None:
        """A wrong index would write somewhere in the process's memory, so none gets past here."""
        entries = len(self.slot)
        if self.offset.shape != (entries,) or self.slot.shape != (entries,):
            raise InternalError("program: slot and offset must be vectors of one length")
        if entries and not (self.slot.min() >= -1 and self.slot.max() < self.bases):
            raise InternalError(f"program: slots must lie in -1..{self.bases - 1}")
        opcode, a, b, c = self.steps[:, :4].T
        rules = (
            ("opcode", range(len(w.OPCODES)), opcode, 0, len(w.OPCODES)),
            ("tiles", (w.KERNEL,), b, 0, None),
            ("kernel address", (w.KERNEL,), a, 1, None),
            ("first operand", (w.KERNEL,), c, 0, entries + 1),
            ("target", (w.JUMP_IF_FALSE, w.JUMP, w.LOOP), b, 0, len(self.steps) + 1),
            ("entry", (w.JUMP_IF_FALSE, w.COPY, w.CHECK, w.ZERO), a, 0, entries),
            ("entry", (w.ADVANCE, w.LOOP), a, 0, entries),
            ("entry", (w.RESET,), a, 0, entries + 1),
            ("end", (w.RESET,), a + b, 0, entries + 1),
            ("entry", (w.COPY,), b, 0, entries),
            ("bytes", (w.COPY,), c, 0, None),
            ("bytes", (w.ZERO, w.RESET), b, 0, None),
        )
        for what, opcodes, values, low, high in rules:
            concerned = np.isin(opcode, opcodes) if what != "opcode" else slice(None)
            chosen = values[concerned]
            if chosen.size and (chosen.min() < low or (high is not None and chosen.max() >= high)):
                raise InternalError(f"program: {what} out of range in {chosen.tolist()}")


class Frame:
    """One call's state. Frames of one program run at the same time; one frame runs once at a time.

    `bases` takes the base addresses of the call. The arrays behind them must stay alive.
    """

    __slots__ = ("_keep", "_start", "_threads", "_words", "bases", "program")

    def __init__(self, program: Program):
        code = _code()
        self.program = program
        bases = np.zeros(program.bases + 1, np.int64)  # the last one is what slot -1 means
        table = np.zeros(len(program.slot), np.int64)
        words = np.zeros(w.FRAME_WORDS, np.int64)
        for index, array in (
            (w.STEPS, program.steps),
            (w.TABLE, table),
            (w.SLOT, program.slot),
            (w.OFFSET, program.offset),
            (w.BASES, bases),
        ):
            words[index] = array.ctypes.data
        words[w.STEP_COUNT] = len(program.steps)
        words[w.TABLE_COUNT] = len(table)
        words[w.SCRATCH_STRIDE] = program.scratch_bytes
        words[w.HOLD_GIL] = program.hold_gil
        words[w.POOL] = _pool.address
        words[w.POLL] = code.poll
        words[w.MOVE] = code.move
        self.bases = memoryview(bases)
        self._words = memoryview(words)
        self._keep = {"table": table}
        self._start = _new_builtin(ctypes.addressof(code.method), words.ctypes.data, None)
        self._reserve(1)

    def _reserve(self, threads: int) -> None:
        """Memory for that many threads: their tile ranges, then their scratch."""
        ranges = threads * w.RANGE_WORDS * 8
        size = ranges + threads * self.program.scratch_bytes
        memory = np.zeros(size + CACHE_LINE, np.uint8)
        start = -(-memory.ctypes.data // CACHE_LINE) * CACHE_LINE
        self._words[w.RANGES] = start
        self._words[w.SCRATCH] = start + ranges
        self._keep["memory"] = memory
        self._threads = threads

    def run(self, arrays: tuple[np.ndarray, ...] = ()) -> int:
        """Run the program: DONE, FAILED (see `failure`) or STOPPED.

        The memory of `arrays` becomes bases 1, 2, ...; they must be NumPy arrays, no more than the
        program has bases. Raises what a signal handler raised meanwhile, such as KeyboardInterrupt.
        """
        argument = caller.budget
        if argument > 1:
            if argument > self._threads:
                self._reserve(argument)
            if argument > _pool.ready:
                _pool.grow(argument)
        if caller.is_main:
            argument |= w.MAIN_THREAD
        status = self._start((argument, *arrays))
        if status == w.STOPPED:
            self._words[w.STOP] = 0
        return status

    def stop(self) -> None:
        """Ask a run of this frame, from any thread, to end as soon as it can (with STOPPED)."""
        self._words[w.STOP] = 1

    @property
    def failure(self) -> tuple[int, int]:
        """After FAILED: the CHECK step that failed and the status word it met."""
        return self._words[w.ENDED_AT], self._words[w.CODE]

    def record(self, rows: int, threads: int | None = None) -> None:
        """Time each executed step of the following runs, up to `rows` of them; 0 ends it.

        Each row has room for `threads` threads, by default those of the caller's budget.
        """
        seats = threads or caller.budget
        stamps = np.zeros((rows, w.STAMP_WORDS + seats * w.SEAT_WORDS), np.int64)
        self._keep["stamps"] = stamps
        self._words[w.STAMP_SEATS] = seats
        self._words[w.STAMP_ROWS] = rows
        self.recording(rows > 0)

    def recording(self, on: bool) -> None:
        """Whether the following runs write the rows that `record` made; those off pay nothing."""
        self._words[w.STAMPS] = self._keep["stamps"].ctypes.data if on else 0

    def rows(self) -> tuple[np.ndarray, int]:
        """The stamps of the last run as `launchwords` lays them out, and the steps it executed."""
        executed = self._words[w.STAMPED]
        return self._keep["stamps"][:executed], executed

    def stamps(self) -> tuple[list[Stamp], int]:
        """What the last run recorded, and how many steps it executed (perhaps more than fitted)."""
        rows, executed = self.rows()
        found = []
        for step, begin, end, *words in rows.tolist():
            triples = [words[k : k + w.SEAT_WORDS] for k in range(0, len(words), w.SEAT_WORDS)]
            seats = tuple(Seat(k, *triple) for k, triple in enumerate(triples) if triple[-1])
            found.append(Stamp(step, begin, end, seats))
        return found, executed


class _Code(NamedTuple):
    """The compiled launcher."""

    method: ctypes.Structure
    poll: int
    worker: int
    move: int


class _MethodDef(ctypes.Structure):
    """Python's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_new_builtin = ctypes.pythonapi.PyCFunction_NewEx
_new_builtin.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
_new_builtin.restype = ctypes.py_object


def launcher_sources() -> list[KernelSource]:
    """The launcher as kernel sources, so that it is compiled and cached as they are."""
    folder = Path(__file__).parent / "codegen"
    text = "".join((folder / f"{name}.py").read_text() for name in ("launchworkers", "launchloop"))
    arity = {"start": 2, "poll": 3, "worker": 1, "move": 4}
    return [KernelSource(f"launch_{name}", text, name, count) for name, count in arity.items()]


@functools.cache
def _code() -> _Code:
    start, poll, worker, move = (kernel.address for kernel in compile_kernels(launcher_sources()))
    # Threads may get here at once, and only one of their results stays in the cache.
    return _Code(immortal(_MethodDef(b"run_plan", start, METH_O, None)), poll, worker, move)


class _Pool:
    """The threads that help with parallel steps, and the memory through which they are asked."""

    def __init__(self):
        self._memory = np.zeros(w.POOL_WORDS * 8 + CACHE_LINE, np.uint8)
        self.address = -(-self._memory.ctypes.data // CACHE_LINE) * CACHE_LINE
        self.renew()

    def renew(self) -> None:
        """As at the start of the process: no threads, no jobs. In a forked child there are none."""
        self.ready = 1  # threads that a parallel step can have, the caller included
        self._lock = threading.Lock()
        self._memory[:] = 0
        _libc.pthread_mutex_init(ctypes.c_void_p(self.address + 8 * w.MUTEX), None)
        _libc.pthread_cond_init(ctypes.c_void_p(self.address + 8 * w.CONDITION), None)

    def grow(self, threads: int) -> None:
        with self._lock:
            # A worker must never be the thread that the system picks to handle a signal.
            masked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                while self.ready < threads and self._start_worker():
                    self.ready += 1
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            if self.ready < threads:
                warnings.warn(
                    f"staticgraph: the system gave only {self.ready} of {threads} threads",
                    RuntimeWarning,
                    stacklevel=3,
                )
                self.ready = threads

    def _start_worker(self) -> bool:
        thread = ctypes.c_ulong()
        function, argument = ctypes.c_void_p(_code().worker), ctypes.c_void_p(self.address)
        if _libc.pthread_create(ctypes.byref(thread), None, function, argument):
            return False
        _libc.pthread_detach(thread)
        return True

    def close(self) -> None:
        """Send the workers home before the interpreter takes itself apart."""
        ctypes.c_int64.from_address(self.address + 8 * w.SHUTDOWN).value = 1
        _libc.pthread_mutex_lock(ctypes.c_void_p(self.address + 8 * w.MUTEX))
        _libc.pthread_cond_broadcast(ctypes.c_void_p(self.address + 8 * w.CONDITION))
        _libc.pthread_mutex_unlock(ctypes.c_void_p(self.address + 8 * w.MUTEX))


def _after_fork() -> None:
    _pool.renew()
    caller.is_main = True  # the thread that forked is the child's main thread


_libc = ctypes.CDLL(None)
_pool = _Pool()
atexit.register(_pool.close)
os.register_at_fork(after_in_child=_after_fork)

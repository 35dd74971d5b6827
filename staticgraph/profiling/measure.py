"""Measuring a compiled function: plain runs for its wall time, stamped runs between them for the
times of its steps.

Both kinds of run are the user's own call, on one frame, so that they differ by the stamps alone.
They alternate, and the order within a pair does too: a machine that changes speed meanwhile does
so for both.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from staticgraph.codegen import launchwords as w
from staticgraph.compile import Function
from staticgraph.launch import Frame, Program
from staticgraph.profiling import stats
from staticgraph.threads import caller

LEAST_RUNS = 10
MOST_RUNS = 2000
USUAL_SECONDS = 1.0
MOST_WARMUP = 200
#: seconds that the warm-up may take before it is cut off, and is called unstable
WARMUP_SECONDS = 2.0
#: kernels shorter than this are also timed by repeating them: a stamp is not small beside them
SHORT_NS = 5_000
REPEAT_NS = 200_000
REPEAT_ROUNDS = 9

Progress = Callable[[int, int | None], None]


@dataclass
class Sample:
    """One stamped run: its ends in ns, and a row of `launchwords` per executed step."""

    begin: int
    end: int
    rows: np.ndarray


@dataclass
class Recording:
    """All that was measured of one function in one process."""

    threads: int
    plain: list[int] = field(default_factory=list)
    stamped: list[Sample] = field(default_factory=list)
    warmup: int = 0
    stable: bool = False
    interrupted: bool = False
    #: step of the plan -> ns per execution when repeated back to back
    repeats: dict[int, float] = field(default_factory=dict)
    stamp_ns: float = 0.0


class Session:
    """A function with its arrays, ready to be called with and without stamps."""

    def __init__(self, fn: Function, arrays: list[np.ndarray]):
        self.fn = fn
        self.arrays = arrays
        self.threads = fn.threads or caller.budget
        self.held = fn.executable.frame()
        self.frame: Frame = self.held[0]
        self.room = len(fn.plan.steps) + 1
        self.frame.record(self.room, self.threads)

    def call(self, stamped: bool) -> tuple[int, int]:
        """One call of the function on this session's frame: its begin and end."""
        frames = self.fn.executable.frames
        self.frame.recording(stamped)
        frames.append(self.held)
        try:
            begin = time.perf_counter_ns()
            self.fn(*self.arrays)
            end = time.perf_counter_ns()
        finally:
            frames.remove(self.held)
        return begin, end

    def stamped(self) -> Sample:
        """One stamped run. Loops may execute more steps than fit; then again, with room for all."""
        while True:
            begin, end = self.call(True)
            rows, executed = self.frame.rows()
            if executed <= self.room:
                return Sample(begin, end, rows.copy())
            self.room = 2 * executed
            self.frame.record(self.room, self.threads)


def record(
    fn: Function,
    arrays: list[np.ndarray],
    *,
    runs: int | None,
    seconds: float | None,
    warmup: int | None,
    progress: Progress | None = None,
) -> Recording:
    """Measure; without `runs` and `seconds`, for as long as is usually enough.

    Variables have their values back afterwards; Ctrl-C keeps the rounds done.
    """
    session = Session(fn, arrays)
    made = Recording(session.threads)
    with variables_kept(fn), _collector_off():
        try:
            _warm_up(session, made, warmup)
            _rounds(session, made, runs, seconds, progress)
            _repeats(session, made)
        except KeyboardInterrupt:
            if not made.stamped:
                raise
            made.interrupted = True
    return made


@contextlib.contextmanager
def variables_kept(fn: Function) -> Iterator[None]:
    """What a function updates has its value back afterwards."""
    saved = [(v, v.storage.copy()) for v in fn.plan.variables]
    try:
        yield
    finally:
        for v, value in saved:
            with v.lock:
                v.storage[...] = value


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _warm_up(session: Session, made: Recording, wanted: int | None) -> None:
    """Run until times no longer fall; the first runs touch memory and wake threads."""
    times: list[int] = []
    limit = time.perf_counter() + WARMUP_SECONDS
    session.stamped()
    while wanted is not None or not stats.is_stable(times):
        if len(times) >= (MOST_WARMUP if wanted is None else wanted):
            break
        if wanted is None and times and time.perf_counter() > limit:
            break
        begin, end = session.call(False)
        times.append(end - begin)
    made.warmup = len(times) + 1
    made.stable = stats.is_stable(times) or wanted is not None


def _rounds(
    session: Session,
    made: Recording,
    runs: int | None,
    seconds: float | None,
    progress: Progress | None,
) -> None:
    """Pairs of a plain and a stamped run, in alternating order.

    Where a time was asked for, all of it is used; of more pairs than MOST_RUNS every second goes,
    again and again, so that those kept are spread over the whole time.
    """
    limit = time.perf_counter() + (USUAL_SECONDS if seconds is None else seconds)
    done, every = 0, 1
    while runs is None or done < runs:
        kept = len(made.plain)
        if runs is None:
            if done >= LEAST_RUNS and time.perf_counter() > limit:
                break
            if kept == MOST_RUNS and seconds is None:
                break
            if kept == MOST_RUNS:
                del made.plain[1::2], made.stamped[1::2]
                every *= 2
        if done // every % 2:
            sample = session.stamped()
            begin, end = session.call(False)
        else:
            begin, end = session.call(False)
            sample = session.stamped()
        if done % every == 0:
            made.plain.append(end - begin)
            made.stamped.append(sample)
        done += 1
        if progress is not None:
            progress(done, runs)


# ---------------------------------------------------------------------------- short kernels


def _repeats(session: Session, made: Recording) -> None:
    """Time kernels of a few microseconds by running each many times between two looks at the clock.

    Their operands are what the last run left in memory, so the time is that of warm caches.
    """
    rows = np.concatenate([s.rows for s in made.stamped])
    steps = rows[:, w.STAMP_STEP]
    times = rows[:, w.STAMP_END] - rows[:, w.STAMP_BEGIN]
    for step in np.unique(steps).tolist():
        if session.fn.plan.steps[step].kind != "kernel":
            continue
        once = float(np.median(times[steps == step]))
        if once < SHORT_NS:
            made.repeats[step] = _repeated(session, step, once)
    made.stamp_ns = _stamp_cost(session)


def _repeated(session: Session, step: int, once: float) -> float:
    count = max(1, int(REPEAT_NS / max(once, 20.0)))
    frame, arrays = _loop(session, session.frame.program.steps[step], count)
    times = []
    for _ in range(REPEAT_ROUNDS):
        begin = time.perf_counter_ns()
        frame.run(arrays)
        times.append(time.perf_counter_ns() - begin)
    alone, _ = _loop(session, session.frame.program.steps[step], 1)
    begins = []
    for _ in range(REPEAT_ROUNDS):
        begin = time.perf_counter_ns()
        alone.run(arrays)
        begins.append(time.perf_counter_ns() - begin)
    return max(0.0, float(np.median(times) - np.median(begins)) / max(1, count - 1))


def _loop(session: Session, row: np.ndarray, count: int) -> tuple[Frame, tuple[np.ndarray, ...]]:
    """A program that executes one step `count` times, on the memory of the session's frame."""
    program = session.frame.program
    entry = len(program.slot)
    slot = np.where(program.slot == program.bases, -1, program.slot)
    loop = np.zeros(w.STEP_WORDS, np.int64)
    loop[:3] = w.LOOP, entry, 0
    made = Program(
        np.array([row, loop]),
        np.append(slot, -1),
        np.append(program.offset, count),
        bases=program.bases,
        scratch_bytes=program.scratch_bytes,
        hold_gil=True,
    )
    frame = Frame(made)
    frame.bases[:] = session.frame.bases
    outputs = [make() for make in session.fn.executable.makers]
    return frame, (*session.arrays, *outputs)


def _stamp_cost(session: Session) -> float:
    """ns that recording one step costs: a plan of empty copies, with stamps and without."""
    count = 200
    step = np.array([[w.ZERO, 0, 1, 0, 0, 0, 0, 0]] * count)
    frame = Frame(Program(step, np.array([0]), np.array([0]), bases=1, hold_gil=True))
    memory = np.zeros(64, np.uint8)
    frame.bases[0] = memory.ctypes.data
    frame.record(count, 1)
    times: dict[bool, list[int]] = {True: [], False: []}
    for k in range(2 * REPEAT_ROUNDS):
        frame.recording(k % 2 == 0)
        begin = time.perf_counter_ns()
        frame.run()
        times[k % 2 == 0].append(time.perf_counter_ns() - begin)
    return max(0.0, float(np.median(times[True]) - np.median(times[False])) / count)


def random_inputs(fn: Function, seed: int) -> list[np.ndarray]:
    """Arrays for the inputs of a function: small numbers, integers from 0 to 9, bools."""
    rng = np.random.default_rng(seed)
    made: list[Any] = []
    for t in fn.types:
        dtype = np.dtype(t.dtype)
        if dtype.kind == "b":
            value = rng.random(t.shape) < 0.5
        elif dtype.kind in "iu":
            value = rng.integers(0, 10, t.shape)
        elif dtype.kind == "c":
            value = rng.standard_normal(t.shape) + 1j * rng.standard_normal(t.shape)
        else:
            value = rng.standard_normal(t.shape)
        made.append(np.ascontiguousarray(value, dtype).reshape(t.shape))
    return made

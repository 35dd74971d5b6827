"""Rows, and how they are measured.

Every contender of a row lives in a process of its own (no shared thread pools, its own peak
memory) and builds the same data from the same seed. Results are compared before anything is
timed. Then the contenders take turns: in each round everyone runs for a fraction of a second, the
order rotating, so that drift of the machine hits all alike. Times are medians over all calls of
all rounds; the first call of each turn is not counted.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import peers

OURS = "staticgraph"
ROOT = Path(__file__).resolve().parent.parent


class Call(NamedTuple):
    """A contender ready to run: `run()` is one complete call, `fetch` turns its value to arrays."""

    run: Callable[[], Any]
    fetch: Callable[[Any], list[np.ndarray]]
    function: Any = None


@dataclass(frozen=True)
class Row:
    """One line of the table: data, the contenders, and what to reach.

    `reach` maps "best" or a contender's name to the wanted ratio (its time / ours); `limit` is a
    bound on our own seconds. `check_calls`: the value of which call is compared (a training step
    shows its updates only in a later loss). `work`: floating-point operations of a call, where
    that is the usual measure.
    """

    name: str
    title: str
    dtype: str
    data: Callable[[], dict[str, np.ndarray]]
    contenders: Mapping[str, Callable[[dict[str, np.ndarray]], Call]]
    reach: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None
    tolerance: float = 1e-5
    check_calls: int = 1
    work: int | None = None


@dataclass(frozen=True)
class ProcessRow:
    """A row whose every sample is a fresh process.

    A contender is a function run in that process; it returns named seconds. `clock` is the one
    the row is about, or "process" for the wall time from spawn to exit. `warm`: the disk caches
    were filled by an untimed run; otherwise they are empty.
    """

    name: str
    title: str
    contenders: Mapping[str, Callable[[], dict[str, float]]]
    clock: str
    warm: bool
    reach: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None
    dtype: str = "float32"


@dataclass
class Measured:
    """One contender on one row; `note` says why there are no times."""

    seconds: list[float] = field(default_factory=list)
    build_seconds: float | None = None
    peak_bytes: int | None = None
    note: str = ""

    @property
    def median(self):
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def quartiles(self):
        return tuple(np.percentile(self.seconds, (25, 75))) if self.seconds else None


@dataclass(frozen=True)
class Options:
    rounds: int = 12
    turn_seconds: float = 0.2
    threads: int = 2
    only: frozenset[str] = frozenset()
    pythons: Mapping[str, str] = field(default_factory=dict)

    def takes(self, contender):
        return not self.only or contender.split()[0] in {OURS, *self.only}

    def python(self, contender):
        return self.pythons.get(contender.split()[0], sys.executable)


class Worker:
    """The far end of a contender's process."""

    def __init__(self, module, row, contender, options, cache):
        self.pipe, far = multiprocessing.Pipe()
        environment = peers.environment(options.threads, cache)
        where = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            [
                options.python(contender),
                *("-m", "benchmarks.worker", module, row.name, contender),
                *(str(options.threads), str(far.fileno())),
            ],
            pass_fds=[far.fileno()],
            env={**os.environ, **environment, "PYTHONPATH": where},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
        )
        far.close()

    def send(self, *message):
        self.pipe.send(message)

    def receive(self):
        """The answer to the last message; an ended process is an answer too."""
        try:
            return self.pipe.recv()
        except EOFError:
            return "failed", f"process ended with code {self.process.wait()}"

    def ask(self, *message):
        self.send(*message)
        return self.receive()

    def close(self):
        self.pipe.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def difference(got, wanted):
    """The largest distance of two lists of arrays, relative to the largest entry."""
    if [a.shape for a in got] != [b.shape for b in wanted]:
        return f"shapes {[a.shape for a in got]} instead of {[b.shape for b in wanted]}"
    worst = 0.0
    for a, b in zip(got, wanted, strict=True):
        scale = float(np.max(np.abs(b), initial=0.0)) or 1.0
        wide = np.result_type(np.float64, a, b)
        gap = float(np.max(np.abs(np.subtract(a, b, dtype=wide)), initial=0.0)) / scale
        worst = max(worst, gap if np.isfinite(gap) else np.inf)
    return worst


def disagreement(row, values, reference):
    """A word when a contender's values are not the reference's, else an empty string."""
    gap = difference(values, reference)
    if isinstance(gap, str):
        return gap
    return f"differs by {gap:.1e}" if gap > row.tolerance else ""


def measure(module, row, options):
    """{contender: Measured} for a row of either kind."""
    run = measure_processes if isinstance(row, ProcessRow) else measure_calls
    with tempfile.TemporaryDirectory(prefix="staticgraph-bench-") as cache:
        return run(module, row, options, cache)


def measure_calls(module, row, options, cache):
    results = {name: Measured() for name in row.contenders if options.takes(name)}
    workers = {}
    try:
        reference = None
        for name, result in results.items():
            worker = Worker(module, row, name, options, f"{cache}/{name.replace(' ', '-')}")
            state, answer = worker.ask("build")
            if state == "ok":
                result.build_seconds, values = answer
                reference = values if reference is None else reference
                result.note = disagreement(row, values, reference)
            else:
                result.note = answer
            if result.note:
                worker.close()
            else:
                workers[name] = worker
        take_turns(workers, results, options)
        for name, worker in workers.items():
            state, answer = worker.ask("peak")
            results[name].peak_bytes = answer if state == "ok" else None
    finally:
        for worker in workers.values():
            worker.close()
    return results


def take_turns(workers, results, options):
    order = list(workers)
    for _ in range(options.rounds):
        for name in order:
            state, answer = workers[name].ask("time", options.turn_seconds)
            if state == "ok":
                results[name].seconds += answer
            else:
                results[name].note = answer
            time.sleep(0.01)  # OpenMP threads of the last contender may still spin
        order = order[1:] + order[:1]


def measure_processes(module, row, options, cache):
    """Each round starts every contender once; a cold one gets an empty cache directory."""
    results = {name: Measured() for name in row.contenders if options.takes(name)}
    order = list(results)
    if row.warm:
        for name, result in results.items():
            result.note = one_process(module, row, name, options, cache)[1]
    for turn in range(max(3, options.rounds // 3)):
        for name in order:
            result = results[name]
            if result.note:
                continue
            directory = cache if row.warm else f"{cache}/{turn}-{name.replace(' ', '-')}"
            answer, result.note = one_process(module, row, name, options, directory)
            if answer is not None:
                seconds, result.peak_bytes = answer
                result.seconds.append(seconds)
        order = order[1:] + order[:1]
    return results


def one_process(module, row, name, options, cache):
    """((seconds, peak bytes), "") of one fresh process, or (None, what went wrong)."""
    began = time.perf_counter()
    worker = Worker(module, row, name, options, cache)
    state, answer = worker.ask("once")
    worker.close()
    elapsed = time.perf_counter() - began
    if state != "ok":
        return None, answer
    clocks, peak = answer
    return ({**clocks, "process": elapsed}[row.clock], peak), ""

"""Fresh processes: what differs from process to process, such as where memory lies, is sampled.

The parent sends a task as JSON to the child's stdin, the child answers with JSON on its stdout.
What the user's code prints in the child goes to stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from staticgraph import count
from staticgraph.cli.models import Model, Request, load_model
from staticgraph.cli.naming import user_code
from staticgraph.cli.problems import Problem, failed
from staticgraph.errors import StaticGraphError
from staticgraph.profiling import stats
from staticgraph.profiling.rows import decode, encode
from staticgraph.threads import get_threads

_MOST_WARMUP = 2.0  # seconds


@dataclass(frozen=True)
class Task:
    """What a child does with a model: profile it, or only time calls."""

    request: Request
    seconds: float = 1.0
    runs: int | None = None
    warmup: int | None = None
    roofs: bool = False
    results: str = ""  # an .npz file for the results of one call
    stamps: bool = True


@dataclass
class Latency:
    """Times of whole calls in one process, in seconds, and how it came to them."""

    model: str
    threads: int
    inputs: str
    samples: list[float]
    warmup: int
    stable: bool
    compile: float
    first: float
    flops: int
    bytes: int


# ------------------------------------------------------------------------------------ the parent


def profile_afresh(task: Task) -> dict[str, Any]:
    """The report of a fresh process, as the data of its JSON."""
    return _ask(task)


def time_afresh(task: Task, under: Sequence[str] = ()) -> Latency:
    """Times of whole calls in a fresh process, started by the command `under`."""
    return decode(Latency, _ask(task, under, stamps=False))


def _ask(task: Task, under: Sequence[str] = (), **changed: Any) -> dict[str, Any]:
    """Start a child and wait for its answer; Ctrl-C reaches us alone, and we end it."""
    child = subprocess.Popen(
        [*under, sys.executable, "-m", "staticgraph.cli.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        out, _ = child.communicate(json.dumps(asdict(task) | changed))
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode or not out:
        raise failed(f"{task.request.model}: a measuring process ended with {child.returncode}")
    answer = json.loads(out)
    if "problem" in answer:
        raise Problem(*answer["problem"])
    return answer


# ------------------------------------------------------------------------------------- the child


def answer(task: Task) -> dict[str, Any]:
    """What a child does."""
    if not task.stamps:
        return encode(time_calls(task))
    model = load_model(task.request)
    if task.results:
        keep_results(model, task.results)
    report = model.profile(
        runs=task.runs, seconds=task.seconds, warmup=task.warmup, roofs=task.roofs
    )
    return encode(report)


def time_calls(task: Task) -> Latency:
    """Load a model and time calls of it in this process."""
    start = time.perf_counter()
    model = load_model(task.request)
    loaded = time.perf_counter()
    fn, arrays = model.function, model.arrays
    with user_code(model.label, "while it ran"):
        fn(*arrays)
        first = time.perf_counter()
        warm: list[float] = []
        while _warming(warm, task.warmup):
            warm.append(_timed(fn, arrays))
        samples: list[float] = []
        end = time.perf_counter() + task.seconds
        while _measuring(len(samples), task.runs, end):
            samples.append(_timed(fn, arrays))
    work = count.total(fn.optimized)
    return Latency(
        model=model.label,
        threads=fn.threads or get_threads(),
        inputs=", ".join(dict.fromkeys(model.origins)) or "none",
        samples=samples,
        warmup=len(warm) + 1,
        stable=stats.is_stable(warm) or task.warmup is not None,
        compile=loaded - start,
        first=first - loaded,
        flops=work.flops,
        bytes=work.bytes_read + work.bytes_written,
    )


def _timed(fn: Any, arrays: list[np.ndarray]) -> float:
    begin = time.perf_counter_ns()
    fn(*arrays)
    return (time.perf_counter_ns() - begin) * 1e-9


def _warming(warm: list[float], wanted: int | None) -> bool:
    if wanted is not None:
        return len(warm) < wanted
    return not stats.is_stable(warm) and sum(warm) < _MOST_WARMUP


def _measuring(done: int, runs: int | None, end: float) -> bool:
    if runs is not None:
        return done < runs
    return done < 3 or time.perf_counter() < end


def keep_results(model: Model, path: str) -> None:
    """Outputs and new values of variables after one call; variables have their values back."""
    variables = model.function.plan.variables
    before = [v.value for v in variables]
    outputs = {f"output {k}": a for k, a in enumerate(model.run())}
    after = {f"variable {v.name} ({k})": v.value for k, v in enumerate(variables)}
    for v, value in zip(variables, before, strict=True):
        v.value = value
    np.savez(path, **outputs, **after)


def main() -> None:
    """Answer one task from stdin."""
    data = json.load(sys.stdin)
    asked = {k: tuple(v) if isinstance(v, list) else v for k, v in data["request"].items()}
    task = Task(**{**data, "request": Request(**asked)})
    out = os.dup(1)
    os.dup2(2, 1)  # the user's prints, and those of libraries, are no answer
    try:
        made = answer(task)
    except Problem as problem:
        made = {"problem": [problem.message, problem.exit_code, problem.detail]}
    except StaticGraphError as error:
        made = {"problem": [f"{task.request.model}: {error.summary}", 1, ""]}
    with os.fdopen(out, "w") as stream:
        json.dump(made, stream)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()

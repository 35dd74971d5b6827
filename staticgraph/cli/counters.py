"""`--counters`: what the processor counted per call, where Linux's `perf` can ask it.

A whole process is counted twice, with so many calls and with more; the difference is that of the
calls alone. Nothing is estimated: what the processor does not count is not there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from staticgraph.cli.problems import Problem, failed
from staticgraph.cli.worker import Task, time_afresh

EVENTS = ("instructions", "cycles", "branch-misses", "cache-references", "cache-misses")
#: calls of the shorter process, and of the longer
FEW, MANY = 20, 220


def require() -> str:
    """The path of `perf`; Problem where there is none."""
    found = shutil.which("perf")
    if found is None:
        raise _none("perf: not installed")
    return found


def counted(task: Task) -> dict[str, float]:
    """Events per call. Problem where this machine counts none of them."""
    perf = require()
    few, many = (_process(perf, replace(task, runs=n, warmup=0)) for n in (FEW, MANY))
    found = {e: max(0.0, (many[e] - few[e]) / (MANY - FEW)) for e in few if e in many}
    if not found:
        raise _none("perf: not supported, VM?")
    return found


def _process(perf: str, task: Task) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="staticgraph-") as folder:
        out = Path(folder, "counts")
        command = [perf, "stat", "-j", "-o", str(out), "-e", ",".join(EVENTS), "--"]
        try:
            time_afresh(task, command)
        except Problem as problem:
            if out.exists() and out.stat().st_size:
                raise  # the model's own; else perf itself may count nothing here
            raise _none("perf: not permitted") from problem
        return parsed(out.read_text() if out.exists() else "")


def parsed(text: str) -> dict[str, float]:
    """The counts in the lines of `perf stat -j`; what it could not count is left out."""
    found = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
            name = row["event"].partition(":")[0]
            if name in EVENTS:
                found[name] = float(row["counter-value"])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # a heading, or '<not supported>' in place of a number
    return found


def _none(why: str) -> Problem:
    return failed(f"hardware counters asked for (--counters) but this machine exposes none ({why})")

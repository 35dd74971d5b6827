"""A report in the formats of other tools: CSV, Chrome trace (Perfetto), speedscope, folded stacks.

Trace, speedscope and folded stacks all show the runs of `report.timeline`, one after the other.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from staticgraph.profiling.rows import Event, Interval, KernelRow, Place, Profile

PLAN_THREAD = 0


def to_csv(report: Profile) -> str:
    """One line per kernel; lists are joined by '|'."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [f.name for f in fields(KernelRow)]
    columns = [n for n in names if n != "ci"]
    writer.writerow([*columns, "ci_low", "ci_high", "label"])
    for row in report.kernels:
        interval: Interval = row.ci
        cells = [_cell(getattr(row, n)) for n in columns]
        writer.writerow([*cells, interval.low, interval.high, row.label])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return "|".join(str(v) for v in value)
    if isinstance(value, Place):
        return str(value)
    return "" if value is None else value


# ---------------------------------------------------------------------------- Chrome trace


def to_trace(report: Profile) -> dict[str, Any]:
    """Complete events: thread 0 is the plan (runs and their kernels), thread k + 1 is thread k.

    Arrows lead from a kernel of the plan to its part on each thread.
    """
    rows = {r.index: r for r in report.kernels}
    live = report.memory.timeline
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": PLAN_THREAD, "name": "thread_name", "args": {"name": "plan"}}
    ]
    threads: set[int] = set()
    start, flows = 0.0, 0
    for number, run in enumerate(report.timeline, 1):
        events.append(_slice(f"run {number}", PLAN_THREAD, start, run.end))
        for event in run.events:
            row = rows.get(event.kernel)
            args = _args(row) if row is not None else {}
            name = row.name if row is not None else "step"
            at = start + event.begin
            events.append(_slice(name, PLAN_THREAD, at, event.end - event.begin, args))
            if row is not None and live:
                events.append(
                    {"ph": "C", "pid": 1, "name": "live bytes", "ts": at * 1e6,
                     "args": {"bytes": live[row.step]}}
                )  # fmt: skip
            for span in event.threads:
                threads.add(span.thread)
                length = span.end - span.begin
                tiles = {"tiles": span.tiles}
                events.append(_slice(name, span.thread + 1, start + span.begin, length, tiles))
                flows += 1
                events.append(_flow("s", flows, PLAN_THREAD, at))
                events.append(_flow("f", flows, span.thread + 1, start + span.begin))
        start += run.end
    for thread in sorted(threads):
        name = {"name": f"thread {thread}"}
        events.append({"ph": "M", "pid": 1, "tid": thread + 1, "name": "thread_name", "args": name})
    return {"displayTimeUnit": "ns", "traceEvents": events}


def _slice(
    name: str, thread: int, begin: float, length: float, args: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "ph": "X", "pid": 1, "tid": thread, "name": name, "ts": begin * 1e6, "dur": length * 1e6,
        "args": args or {},
    }  # fmt: skip


def _flow(phase: str, number: int, thread: int, at: float) -> dict[str, Any]:
    """The begin ('s') or the end ('f') of an arrow between the slices that begin there."""
    bound = {"bp": "e"} if phase == "f" else {}
    return {
        "ph": phase, "id": number, "pid": 1, "tid": thread, "name": "runs on", "cat": "kernel",
        "ts": at * 1e6, **bound,
    }  # fmt: skip


def _args(row: KernelRow) -> dict[str, Any]:
    return {
        "kernel": row.index,
        "where": row.label,
        "ops": row.ops,
        "shapes": row.shapes,
        "flops": row.flops,
        "bytes": row.bytes,
    }


# ---------------------------------------------------------------------------- flame graphs


def _spans(report: Profile) -> Iterator[tuple[int, KernelRow | None, int, int]]:
    """(thread, kernel, begin, end) in ns of the timeline, in order for each thread."""
    rows = {r.index: r for r in report.kernels}
    start = 0
    for run in report.timeline:
        for event in run.events:
            for thread, begin, end in _parts(event):
                yield thread, rows.get(event.kernel), start + begin, start + end
        start += _ns(run.end)


def _parts(event: Event) -> Iterator[tuple[int, int, int]]:
    for span in event.threads:
        yield span.thread, _ns(span.begin), _ns(span.end)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _frames(row: KernelRow | None) -> tuple[tuple[str, Place | None], ...]:
    """The stack of a kernel: the user's line, then the kernel."""
    if row is None:
        return (("step", None),)
    line = row.forward_where or row.where
    return ((row.label or "?", line), (f"{row.name} #{row.index}", line))


def to_speedscope(report: Profile) -> dict[str, Any]:
    """An evented profile per thread; times in nanoseconds."""
    numbers: dict[str, int] = {}
    frames: list[dict[str, Any]] = []
    profiles: dict[int, list[dict[str, Any]]] = {}
    for thread, row, begin, end in _spans(report):
        stack = []
        for name, line in _frames(row):
            if name not in numbers:
                numbers[name] = len(frames)
                place = {"file": line.file, "line": line.line} if line is not None else {}
                frames.append({"name": name, **place})
            stack.append(numbers[name])
        events = profiles.setdefault(thread, [])
        events += [{"type": "O", "frame": f, "at": begin} for f in stack]
        events += [{"type": "C", "frame": f, "at": end} for f in reversed(stack)]
    whole = sum(_ns(run.end) for run in report.timeline)
    return {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "name": report.model.name or "staticgraph",
        "exporter": report.schema,
        "activeProfileIndex": 0,
        "shared": {"frames": frames},
        "profiles": [
            {"type": "evented", "name": f"thread {thread}", "unit": "nanoseconds",
             "startValue": 0, "endValue": whole, "events": events}
            for thread, events in sorted(profiles.items())
        ],
    }  # fmt: skip


def to_folded(report: Profile) -> str:
    """`mlp.py:15;tanh_mul #3;thread 0 123456`, in nanoseconds, one line per stack."""
    found: Counter[str] = Counter()
    for thread, row, begin, end in _spans(report):
        names = [name.replace(";", ",") for name, _ in _frames(row)]
        found[";".join([*names, f"thread {thread}"])] += end - begin
    return "".join(f"{stack} {ns}\n" for stack, ns in sorted(found.items()))

"""`staticgraph bench MODEL`: whole calls in fresh processes, without stamps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from staticgraph.cli.check import refuse
from staticgraph.cli.checks import Range, parse_checks, verdict
from staticgraph.cli.columns import Column
from staticgraph.cli.measuring import Budget
from staticgraph.cli.models import Request
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.problems import INTERRUPTED
from staticgraph.cli.terminal import Terminal
from staticgraph.cli.worker import Latency, Task, time_afresh, time_calls
from staticgraph.profiling import stats, units
from staticgraph.profiling.rows import Interval, encode

SCHEMA = "staticgraph.bench/1"
METRICS = ("median", "min", "p95", "p99", "throughput", "compile", "first")
_FILES = {"json": ".json", "csv": ".csv"}


@dataclass
class Bench:
    """What whole calls take, in seconds; `processes` holds one Latency each."""

    model: str
    threads: int
    median: float
    ci: Interval
    min: float
    p95: float
    p99: float
    throughput: float
    flops: int
    bytes: int
    processes: list[Latency]
    interrupted: bool = False
    schema: str = SCHEMA


def run(o: Any) -> int:
    """The command."""
    checks = parse_checks(o.fail_if, METRICS)
    budget = Budget.of(o)
    terminal = Terminal(o)
    outputs = Outputs(o, f"{Path(o.model).name}-bench", _FILES)
    refuse(o)
    made = bench(Request.of(o, o.model), budget, terminal)
    outputs.write("json", lambda: json.dumps(encode(made)))
    outputs.write("csv", lambda: _csv(made))
    if not outputs.stdout_taken:
        _print(terminal, made)
    metrics: dict[str, Range | float | None] = {
        "median": Range(made.ci.low, made.ci.high),
        "min": made.min,
        "p95": made.p95,
        "p99": made.p99,
        "throughput": Range(1 / made.ci.high, 1 / made.ci.low),
        "compile": made.processes[0].compile,
        "first": made.processes[0].first,
    }
    code = verdict(checks, metrics, terminal.problem)
    return INTERRUPTED if made.interrupted else code


def bench(request: Request, budget: Budget, terminal: Terminal) -> Bench:
    """Time calls in as many processes as the budget says; after Ctrl-C those that are done."""
    task = Task(request, budget.seconds, budget.runs, budget.warmup)
    done: list[Latency] = []
    interrupted = False
    with terminal.progress(f"{request.model}, fresh processes") as advance:
        try:
            advance(0, budget.processes)
            for k in range(budget.processes):
                done.append(time_calls(task) if budget.processes == 1 else time_afresh(task))
                advance(k + 1, budget.processes)
        except KeyboardInterrupt:
            interrupted = True
    if not done:
        raise click.Abort
    flat = np.concatenate([p.samples for p in done])
    median = float(np.median(flat))
    return Bench(
        model=done[0].model,
        threads=done[0].threads,
        median=median,
        ci=stats.process_interval([p.samples for p in done]),
        min=float(flat.min()),
        p95=float(np.percentile(flat, 95)),
        p99=float(np.percentile(flat, 99)),
        throughput=1 / median,
        flops=done[0].flops,
        bytes=done[0].bytes,
        processes=done,
        interrupted=interrupted,
    )


def _print(terminal: Terminal, made: Bench) -> None:
    first = made.processes[0]
    part = "   INTERRUPTED" if made.interrupted else ""
    terminal.facts("model", f"{made.model}   threads {made.threads}   inputs: {first.inputs}")
    terminal.facts(
        "latency",
        f"{units.seconds(made.median)}   99 % CI [{units.seconds(made.ci.low)},"
        f" {units.seconds(made.ci.high)}]   min {units.seconds(made.min)}"
        f"   p95 {units.seconds(made.p95)}   p99 {units.seconds(made.p99)}",
    )
    terminal.facts(
        "throughput",
        f"{units.digits(made.throughput)} runs/s   {units.rate(made.flops / made.median, 'FLOP')}"
        f"   {units.rate(made.bytes / made.median, 'B')}   (counted work over measured time)",
    )
    terminal.facts(
        "start",
        f"load and compile {units.seconds(first.compile)}"
        f"   first call {units.seconds(first.first)}",
    )
    terminal.facts("processes", f"{len(made.processes)} {_spread(made)}{part}")
    terminal.line()
    terminal.table(
        [
            Column("process"),
            Column("median"),
            Column("min"),
            Column("p95"),
            Column("runs", drop=2),
            Column("IQR", drop=1),
            Column("warm-up", drop=3),
        ],
        [_process(k, p) for k, p in enumerate(made.processes, 1)],
    )


def _spread(made: Bench) -> str:
    if len(made.processes) == 1:
        return "(noise between processes is unknown; --processes 5)"
    medians = [float(np.median(p.samples)) for p in made.processes]
    cv = float(np.std(medians, ddof=1) / np.mean(medians))
    return f"(their medians differ by {100 * cv:.1f} %)"


def _process(number: int, p: Latency) -> list[str]:
    return [
        str(number),
        units.seconds(float(np.median(p.samples))),
        units.seconds(min(p.samples)),
        units.seconds(float(np.percentile(p.samples, 95))),
        str(len(p.samples)),
        f"{units.percent(stats.spread(p.samples))}%",
        f"{p.warmup} ({'stable' if p.stable else 'NOT stable'})",
    ]


def _csv(made: Bench) -> str:
    lines = ["process,run,seconds"]
    for k, p in enumerate(made.processes, 1):
        lines += [f"{k},{j},{s!r}" for j, s in enumerate(p.samples, 1)]
    return "\n".join(lines) + "\n"

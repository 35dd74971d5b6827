"""`staticgraph profile MODEL`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from staticgraph.cli.check import refuse
from staticgraph.cli.checks import parse_checks
from staticgraph.cli.columns import Column
from staticgraph.cli.counters import counted, require
from staticgraph.cli.measuring import Budget, measured
from staticgraph.cli.models import Request
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.problems import INTERRUPTED, Problem
from staticgraph.cli.reporting import METRICS, SUFFIXES, emit
from staticgraph.cli.terminal import Terminal
from staticgraph.cli.worker import Task
from staticgraph.profiling import units
from staticgraph.profiling.report import Report
from staticgraph.profiling.rows import encode

SWEEP_SCHEMA = "staticgraph.sweep/1"
_SWEEP_FILES = {"json": ".json", "csv": ".csv"}


def run(o: Any) -> int:
    """The command."""
    if o.model is None:
        raise Problem("profile needs a MODEL", detail=_what_next())
    checks = parse_checks(o.fail_if, METRICS)
    budget = Budget.of(o)
    terminal = Terminal(o)
    request = Request.of(o, o.model)
    if o.counters:
        require()
    refuse(o)
    if o.sweep:
        return _sweep(o, request, budget, terminal)
    outputs = Outputs(o, Path(o.model).name, SUFFIXES)
    report = measured(request, budget, terminal, o.roofs)
    if o.counters and not report.interrupted:
        report.counters = counted(Task(request))
    return emit(report, o, outputs, terminal, checks)


def _what_next() -> str:
    """Files here that use staticgraph, else how a model is named."""
    here = [p for p in sorted(Path().glob("*.py")) + sorted(Path().glob("*/*.py")) if _uses(p)]
    lines = [f"  staticgraph profile {p}    lists what it holds" for p in here[:5]]
    lines = lines or ["  staticgraph profile mlp.py           lists what a file holds"]
    lines += [
        "  staticgraph profile mlp.py:step      profiles a function of it",
        "  staticgraph profile --help           all options",
    ]
    return "try:\n" + "\n".join(lines)


def _uses(path: Path) -> bool:
    try:
        return "import staticgraph" in path.read_text(errors="ignore")
    except OSError:
        return False


# ------------------------------------------------------------------------------------------ sweep


def variants(request: Request, sweep: str) -> list[tuple[str, Request]]:
    """One request per value of `threads=1,2,4` or of a factory's argument."""
    name, equals, values = sweep.partition("=")
    words = [v.strip() for v in values.split(",") if v.strip()]
    if not equals or not words:
        raise Problem(f"--sweep {sweep}: write NAME=A,B,C, such as threads=1,2,4")
    if name != "threads":
        return [(v, replace(request, define=(*request.define, f"{name}={v}"))) for v in words]
    if not all(v.isdigit() and int(v) for v in words):
        raise Problem(f"--sweep {sweep}: threads are whole numbers from 1 on")
    return [(v, replace(request, threads=int(v))) for v in words]


def _sweep(o: Any, request: Request, budget: Budget, terminal: Terminal) -> int:
    if len(o.sweep) > 1:
        raise Problem("--sweep: one at a time")
    surplus = [n for n in SUFFIXES if n not in _SWEEP_FILES and getattr(o, n) is not None]
    surplus += ["counters"] * o.counters
    if surplus or o.fail_if:
        raise Problem(f"--{(surplus or ['fail-if'])[0]} does not go with --sweep")
    outputs = Outputs(o, f"{Path(o.model).name}-sweep", _SWEEP_FILES)
    name = o.sweep[0].partition("=")[0]
    rows: list[tuple[str, Report]] = []
    interrupted, problem = False, None
    for value, one in variants(request, o.sweep[0]):
        try:
            terminal.remark(f"{name}={value}")
            rows.append((value, measured(one, budget, terminal, o.roofs)))
        except KeyboardInterrupt:
            interrupted = True
        except Problem as error:
            if not rows:
                raise
            problem = error  # what was measured before is shown all the same
            break
        interrupted = interrupted or bool(rows and rows[-1][1].interrupted)
        if interrupted:
            break
    document = {
        "schema": SWEEP_SCHEMA,
        "model": o.model,
        "name": name,
        "runs": [{"value": value, "report": encode(report)} for value, report in rows],
    }
    columns, cells = _sweep_table(name, rows)
    outputs.write("json", lambda: json.dumps(document))
    outputs.write("csv", lambda: _sweep_csv(name, rows))
    if not outputs.stdout_taken:
        terminal.table(columns, cells)
    if problem is not None:
        raise problem
    return INTERRUPTED if interrupted else 0


def _sweep_table(name: str, rows: list[tuple[str, Report]]) -> tuple[list[Column], list[list[str]]]:
    columns = [
        Column(name),
        Column("median"),
        Column("99% CI", drop=3),
        Column("times"),
        Column("kernels", drop=2),
        Column("peak", drop=1),
        Column("GFLOP/s", drop=4),
    ]
    cells = []
    for value, r in rows:
        flops = sum(k.flops * k.calls for k in r.kernels)
        cells.append(
            [
                value,
                units.seconds(r.wall.median),
                f"{units.seconds(r.wall.ci.low)}..{units.seconds(r.wall.ci.high)}",
                f"{rows[0][1].wall.median / r.wall.median:.2f}x",
                str(len(r.kernels)),
                units.size(r.memory.peak),
                f"{flops / r.wall.median / 1e9:.1f}",
            ]
        )
    return columns, cells


def _sweep_csv(name: str, rows: list[tuple[str, Report]]) -> str:
    lines = [f"{name},median,ci_low,ci_high,kernels,peak"]
    for value, r in rows:
        numbers = (r.wall.median, r.wall.ci.low, r.wall.ci.high, len(r.kernels), r.memory.peak)
        lines.append(",".join([value, *map(repr, numbers)]))
    return "\n".join(lines) + "\n"

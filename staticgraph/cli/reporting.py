"""A report on the screen, in files and as the numbers of `--fail-if`. Imports nothing heavy."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from staticgraph.cli.checks import Check, Range, verdict
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.problems import INTERRUPTED, Problem, meant
from staticgraph.cli.terminal import Terminal
from staticgraph.errors import ReportError
from staticgraph.profiling.report import Report, load_report

SUFFIXES = {
    "output": ".sgprof",
    "json": ".json",
    "csv": ".csv",
    "trace": ".trace.json",
    "speedscope": ".speedscope.json",
    "folded": ".folded",
    "html": ".html",
}


#: what `--fail-if` can ask of a report, and of each kernel in it
METRICS = (
    *("median", "min", "mean", "p95", "peak", "lower_bound", "compile", "kernels", "gaps"),
    *("overhead", "noise", "k#.median", "k#.min", "k#.share", "k#.bytes", "k#.flops", "k#.rate"),
    *("k#.bandwidth", "k#.imbalance", "k#.could_save", "k#.roof"),
)


def emit(report: Report, o: Any, outputs: Outputs, terminal: Terminal, checks: list[Check]) -> int:
    """Everything a command does with a report; the exit code."""
    contents = {
        "output": lambda: gzip.compress(report.to_json().encode(), mtime=0),
        "json": report.to_json,
        "csv": report.to_csv,
        "trace": lambda: json.dumps(report.to_trace()),
        "speedscope": lambda: json.dumps(report.to_speedscope()),
        "folded": report.to_folded,
        "html": lambda: report.to_html(source=not o.no_source),
    }
    written = {name: outputs.write(name, content) for name, content in contents.items()}
    if not outputs.stdout_taken:
        width = 0 if terminal.plain else terminal.width
        terminal.report(report.table(width, o.top, o.sort, select=o.select, by=o.by))
    for place in filter(None, written.values()):
        terminal.remark(f"wrote {place}")
    code = verdict(checks, metrics(report), terminal.problem)
    return INTERRUPTED if report.interrupted else code


def metrics(report: Report) -> dict[str, Range | float | None]:
    """What `--fail-if` can ask of a report, in s, bytes, flop and fractions."""
    wall, memory = report.wall, report.memory
    found: dict[str, Range | float | None] = {
        "median": Range(wall.ci.low, wall.ci.high),
        "min": wall.min,
        "mean": wall.mean,
        "p95": wall.p95,
        "peak": float(memory.peak),
        "lower_bound": float(memory.lower_bound),
        "compile": report.compile.total,
        "kernels": float(len(report.kernels)),
        "gaps": report.coverage.gaps,
        "overhead": report.overhead.fraction,
        "noise": report.noise.resolvable,
    }
    for k in report.kernels:
        name = f"k{k.index}"
        found |= {
            f"{name}.median": Range(k.ci.low, k.ci.high),
            f"{name}.min": k.minimum,
            f"{name}.share": k.share,
            f"{name}.bytes": float(k.bytes),
            f"{name}.flops": float(k.flops),
            f"{name}.rate": k.gflops * 1e9,
            f"{name}.bandwidth": k.gbps * 1e9,
            f"{name}.imbalance": k.imbalance,
            f"{name}.could_save": k.could_save,
            f"{name}.roof": _roof(k),
        }
    return found


def _roof(k: Any) -> Range | None:
    if k.roof_percent is None:
        return None
    ends = [p for p in (k.roof_low, k.roof_high) if p is not None] or [k.roof_percent]
    return Range(min(ends) / 100, max(ends) / 100)


def read_report(name: str) -> Report:
    """A saved profile; Problem where the file is missing or none."""
    path = Path(name)
    if not path.is_file():
        beside = path.parent if path.parent.is_dir() else Path()
        raise Problem(
            f"there is no file {name}{meant(path.name, [p.name for p in beside.glob('*.sgprof')])}"
        )
    try:
        return load_report(path)
    except ReportError as error:
        raise Problem(error.summary) from error

"""`staticgraph show FILE`: a saved profile on the screen or in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from staticgraph.cli.checks import parse_checks
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.problems import Problem, meant
from staticgraph.cli.reporting import METRICS, SUFFIXES, emit
from staticgraph.cli.terminal import Terminal
from staticgraph.errors import ReportError
from staticgraph.profiling.report import Report, load_report


def run(o: Any) -> int:
    """The command."""
    checks = parse_checks(o.fail_if, METRICS)
    outputs = Outputs(o, Path(o.file).stem, SUFFIXES)
    return emit(read_report(o.file), o, outputs, Terminal(o), checks)


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

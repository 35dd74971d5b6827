"""`staticgraph show FILE`: a saved profile on the screen or in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from staticgraph.cli.checks import parse_checks
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.reporting import METRICS, SUFFIXES, emit, read_report
from staticgraph.cli.terminal import Terminal


def run(o: Any) -> int:
    """The command."""
    checks = parse_checks(o.fail_if, METRICS)
    outputs = Outputs(o, Path(o.file).stem, SUFFIXES)
    report, terminal = read_report(o.file), Terminal(o)
    code = emit(report, o, outputs, terminal, checks)
    if o.open or o.open_trace:
        # Here, because a server is nothing that showing a report should wait for.
        from staticgraph.cli import opening

        if o.open:
            opening.open_page(report, terminal, source=not o.no_source)
        if o.open_trace:
            opening.open_trace(report, terminal)
    return code

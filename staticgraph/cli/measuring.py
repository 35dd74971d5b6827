"""How long and in how many processes to measure, and the measuring itself with its progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from staticgraph.cli.models import Request, load_model
from staticgraph.cli.problems import Problem
from staticgraph.cli.quantity import quantity
from staticgraph.cli.terminal import Terminal
from staticgraph.cli.worker import Task, profile_afresh
from staticgraph.profiling.machine import is_due
from staticgraph.profiling.report import Report
from staticgraph.profiling.rows import decode
from staticgraph.profiling.summary import merged


@dataclass(frozen=True)
class Budget:
    """What a measurement may take. `runs` replaces `seconds` where given."""

    processes: int
    seconds: float
    runs: int | None = None
    warmup: int | None = None

    @classmethod
    def of(
        cls,
        o: Any,
        usual: tuple[int, float] = (5, 0.5),
        quick: tuple[int, float] = (1, 1.0),
        rigorous: tuple[int, float] = (10, 3.0),
    ) -> Budget:
        """From the options; processes and seconds of each by default."""
        if o.quick and o.rigorous:
            raise Problem("--quick and --rigorous exclude each other")
        processes, seconds = quick if o.quick else rigorous if o.rigorous else usual
        if o.warmup != "auto" and not o.warmup.isdigit():
            raise Problem(f"--warmup {o.warmup}: write auto or a number of runs")
        return cls(
            o.processes or processes,
            quantity(o.seconds, "--time") if o.seconds else seconds,
            o.runs,
            None if o.warmup == "auto" else int(o.warmup),
        )


def measured(request: Request, budget: Budget, terminal: Terminal, roofs: bool) -> Report:
    """A report of one process, this one, or of several fresh ones; partial after Ctrl-C."""
    if roofs and is_due():
        terminal.remark("measuring what this machine can do first; it takes some seconds")
    if budget.processes == 1:
        model = load_model(request)
        with terminal.progress(model.label) as advance:
            return model.profile(
                runs=budget.runs,
                seconds=budget.seconds,
                warmup=budget.warmup,
                roofs=roofs,
                on_round=advance,
            )
    task = Task(request, budget.seconds, budget.runs, budget.warmup, roofs=roofs)
    reports: list[Report] = []
    interrupted = False
    with terminal.progress(f"{request.model}, fresh processes") as advance:
        try:
            advance(0, budget.processes)
            for k in range(budget.processes):
                reports.append(decode(Report, profile_afresh(task)))
                advance(k + 1, budget.processes)
        except KeyboardInterrupt:
            interrupted = True
    if not reports:
        raise click.Abort
    made = merged(reports)
    made.interrupted = interrupted
    return made

"""`staticgraph pareto MODEL|dag.json`: memory against recomputation, planned, proved, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from staticgraph.cli.columns import Column
from staticgraph.cli.models import Request, load_model
from staticgraph.cli.naming import user_code
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.problems import FAILED, INTERRUPTED, Problem, failed, meant
from staticgraph.cli.quantity import quantity
from staticgraph.cli.terminal import Terminal
from staticgraph.errors import BudgetError, DagError, StaticGraphError
from staticgraph.passes.remat import STRATEGIES, load
from staticgraph.profiling import units
from staticgraph.study import Study, of_dag, pareto
from staticgraph.study.budgets import budgets_of
from staticgraph.study.text import cells, titles

_FILES = {"json": ".json", "csv": ".csv", "svg": ".svg"}
#: which columns go first where the terminal is narrow, and how those that stay are aligned
_DROPPED = {"predicted": 5, "planned": 6, "extra flops": 4, "bits": 2, "gap": 1}
_LEFT = ("strategy", "bits", "recomputed")


def run(o: Any) -> int:
    """The command."""
    strategies = _strategies(o.strategies)
    _check(o)
    terminal = Terminal(o)
    is_dag = o.model.endswith(".json")
    outputs = Outputs(o, Path(o.model).stem if is_dag else f"{o.model}-pareto", _FILES)
    study = _of_file(o, strategies, terminal) if is_dag else _of_model(o, strategies, terminal)
    if study.points:
        outputs.write("json", study.to_json)
        outputs.write("csv", study.to_csv)
        outputs.write("svg", lambda: _picture(study, o))
    if not outputs.stdout_taken:
        show(terminal, study)
    if study.interrupted:
        terminal.problem(f"interrupted: {len(study.points)} points were done")
        return INTERRUPTED
    return 0


def _strategies(text: str) -> list[str]:
    names = [s.strip() for s in text.split(",") if s.strip()]
    if not names:
        raise Problem("--strategies: there is none; name some, such as best,chen-sqrt")
    for name in names:
        if name not in STRATEGIES:
            known = sorted(STRATEGIES)
            raise Problem(f"--strategies: there is no {name!r}{meant(name, known, len(known))}")
    return names


def _check(o: Any) -> None:
    """What can be known to be wrong before any work."""
    try:
        budgets_of(o.budgets, 1 << 30)
        if o.at is not None and len(budgets_of(o.at, 1 << 30)) != 1:
            raise BudgetError(f"budgets: --at takes one budget, got {o.at!r}")
    except BudgetError as error:
        raise Problem(error.summary.replace("budgets:", "--budgets:", 1)) from error


def _of_file(o: Any, strategies: list[str], terminal: Terminal) -> Study:
    """A study of a plain dag in a file."""
    try:
        dag = load(o.model)
    except OSError as error:
        raise Problem(f"{o.model}: {error.strerror}") from error
    except (DagError, UnicodeDecodeError) as error:
        raise failed(f"{o.model}: {getattr(error, 'summary', error)}") from error
    with terminal.progress("plans") as advance:
        return _studied(
            lambda: of_dag(
                dag, o.budgets, strategies, progress=advance, time_limit=_seconds(o.time_limit)
            ),
            o.model,
        )


def _of_model(o: Any, strategies: list[str], terminal: Terminal) -> Study:
    if o.memory_budget is not None:
        raise Problem("--memory-budget: a study takes --budgets")
    return study_of(Request.of(o, o.model), o.budgets, strategies, terminal, o.plan_only,
                    _seconds(o.time_limit))  # fmt: skip


def study_of(
    request: Request,
    budgets: str,
    strategies: list[str],
    terminal: Terminal,
    plan_only: bool = False,
    time_limit: float = 5.0,
) -> Study:
    """The study of a model of the command line."""
    model = load_model(request)
    if model.function.options["target"] != "cpu":
        raise failed("--device cuda: a study looks at the arena of the CPU")
    doing = terminal.progress("plans" if plan_only else "plans and runs")
    with doing as advance, user_code(model.label, "while it ran"):
        return _studied(
            lambda: pareto(
                model.function,
                model.arrays,
                budgets,
                strategies,
                measure=not plan_only,
                progress=advance,
                time_limit=time_limit,
                name=model.label,
            ),
            model.label,
        )


def _studied(study: Any, label: str) -> Study:
    try:
        return study()
    except StaticGraphError as error:
        raise Problem(f"{label}: {error.summary}", FAILED) from error


def _seconds(text: str) -> float:
    seconds = quantity(text, "--time-limit")
    if seconds <= 0:
        raise Problem(f"--time-limit {text}: a search needs more than no time")
    return seconds


def _picture(study: Study, o: Any) -> str:
    budget = None if o.at is None else budgets_of(o.at, study.peak)[0]
    if budget is not None:
        near = [p.budget for p in study.points if p.ok]
        budget = min(near, key=lambda b: abs(b - budget)) if near else budget
    try:
        return study.to_svg(o.picture, budget=budget)
    except LookupError as error:
        raise failed(f"--svg: {error.args[0]}") from error


def show(terminal: Terminal, study: Study) -> None:
    """Facts and the table of a study."""
    wall = "" if study.predicted is None else f"   a call takes {units.seconds(study.predicted)}"
    terminal.facts(
        "without",
        f"{units.size(study.peak)}   {len(study.dag)} values{wall}"
        f"   floor {units.size(study.floor)}",
    )
    if not study.points:
        return
    terminal.line()
    chosen = titles(study)
    terminal.table(
        [
            Column(t, "<" if t in _LEFT else ">", _DROPPED.get(t, 0),
                   "right" if t == "recomputed" else "")
            for t in chosen
        ],
        [[cells(study, p)[t] for t in chosen] for p in study.points],
    )  # fmt: skip

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
from staticgraph.errors import BudgetError, DagError, InputError, StaticGraphError
from staticgraph.passes.remat import STRATEGIES, load
from staticgraph.profiling import units
from staticgraph.study import Study, explain, of_dag, pareto
from staticgraph.study.budgets import budgets_of
from staticgraph.study.text import LEFT, cells, titles

#: files of a study, and what an option without a file name ends in
FILES = {"json": ".json", "csv": ".csv", "svg": ".svg", "png": ".png", "html": ".html"}
#: which columns go first where the terminal is narrow, and how those that stay are aligned
_DROPPED = {"predicted": 5, "planned": 6, "extra flops": 4, "bits": 2, "gap": 1}


def run(o: Any) -> int:
    """The command."""
    strategies = _strategies(o.strategies)
    _check(o)
    terminal = Terminal(o)
    is_dag = o.model.endswith(".json")
    outputs = Outputs(o, Path(o.model).stem if is_dag else f"{o.model}-pareto", FILES)
    study = _of_file(o, strategies, terminal) if is_dag else _of_model(o, strategies, terminal)
    if study.points:
        outputs.write("json", study.to_json)
        outputs.write("csv", study.to_csv)
        write_pictures(outputs, study, o, "pareto")
    if not outputs.stdout_taken:
        show(terminal, study)
        show_reasons(terminal, study, o)
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
    except BudgetError as error:
        raise Problem(error.summary.replace("budgets:", "--budgets:", 1)) from error
    check_at(o.at)


def check_at(at: str | None) -> None:
    """Raise Problem unless --at is one budget."""
    try:
        if at is not None and len(budgets_of(at, 1 << 30)) != 1:
            raise BudgetError(f"budgets: takes one budget, got {at!r}")
    except BudgetError as error:
        raise Problem(error.summary.replace("budgets:", "--at:", 1)) from error


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


def write_pictures(outputs: Outputs, study: Study, o: Any, usual: str) -> None:
    """The pictures and the page that the options ask for; `usual` is drawn where none is named."""
    picture = o.picture or usual
    try:
        outputs.write("svg", lambda: study.to_svg(picture, budget=_near(study, o.at)))
        outputs.write("png", lambda: study.to_png(picture, budget=_near(study, o.at)))
    except LookupError as error:
        raise failed(f"--picture {picture}: {error.args[0]}") from error
    outputs.write("html", study.to_html)


def show_reasons(terminal: Terminal, study: Study, o: Any) -> None:
    """What --explain asks, of the first strategy's plan."""
    try:
        for v in o.why if study.points else ():
            value = int(v) if v.isdecimal() else v
            reason = explain(study, value, budget=_near(study, o.at))
            terminal.line()
            terminal.line(str(reason))
    except LookupError as error:
        raise failed(f"--explain: {error.args[0]}") from error
    except InputError as error:
        raise Problem(error.summary.replace("explain:", "--explain:", 1)) from error


def _near(study: Study, at: str | None) -> int | None:
    """The budget of the study next to that of --at; None where the option is not given."""
    if at is None:
        return None
    wanted = budgets_of(at, study.peak)[0]
    near = [p.budget for p in study.points if p.ok and p.strategy == study.strategies[0]]
    return min(near, key=lambda b: abs(b - wanted)) if near else wanted


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
            Column(t, "<" if t in LEFT else ">", _DROPPED.get(t, 0),
                   "right" if t == "recomputed" else "")
            for t in chosen
        ],
        [[cells(study, p)[t] for t in chosen] for p in study.points],
    )  # fmt: skip

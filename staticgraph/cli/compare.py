"""`staticgraph compare A [B]`: models in rounds of fresh processes, or two saved profiles."""

from __future__ import annotations

import json
import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from staticgraph.cli.checks import Range, parse_checks, verdict
from staticgraph.cli.columns import Column
from staticgraph.cli.comparison import Change, Comparison, compare, compare_files
from staticgraph.cli.measuring import Budget
from staticgraph.cli.models import Request
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.problems import INTERRUPTED, Problem
from staticgraph.cli.reporting import read_report
from staticgraph.cli.terminal import Terminal
from staticgraph.cli.verdicts import LEAST_ROUNDS
from staticgraph.profiling import units
from staticgraph.profiling.rows import encode

METRICS = ("a", "b", "ratio", "differences")
_FILES = {"json": ".json"}


def run(o: Any) -> int:
    """The command."""
    checks = parse_checks(o.fail_if, METRICS)
    budget = Budget.of(o, usual=(10, 0.3), quick=(8, 0.1), rigorous=(30, 1.0))
    terminal = Terminal(o)
    names = [o.a, o.b or o.a]
    outputs = Outputs(o, f"{Path(names[0]).name}-compare", _FILES)
    files = [_is_profile(name) for name in names]
    if all(files):
        short = [Path(name).name for name in names]
        made = compare_files(*map(read_report, names), short, o.force)
    elif any(files):
        raise Problem(f"{names[0]} and {names[1]}: compare two models or two profiles")
    else:
        with terminal.progress("rounds of fresh processes") as advance:
            made = compare(
                _side(o, names[0], o.a_options),
                _side(o, names[1], o.b_options),
                rounds=budget.processes,
                seconds=budget.seconds,
                runs=budget.runs,
                warmup=budget.warmup,
                on_round=advance,
            )
    outputs.write("json", lambda: json.dumps(encode(made)))
    if not outputs.stdout_taken:
        _print(terminal, made)
    low, high = made.wall.low, made.wall.high
    known = low is not None and high is not None
    metrics: dict[str, Range | float | None] = {
        "a": made.a_median,
        "b": Range(made.a_median * low, made.a_median * high) if known else None,
        "ratio": Range(low, high) if known else None,
        "differences": float(len(made.differences)),
    }
    code = verdict(checks, metrics, terminal.problem)
    return INTERRUPTED if made.interrupted else code


def _is_profile(name: str) -> bool:
    path = Path(name)
    return path.suffix in (".sgprof", ".json") or (
        path.is_file() and path.suffix not in (".py", ".sg") and not zipfile.is_zipfile(path)
    )


def _side(o: Any, model: str, chosen: dict[str, Any]) -> Request:
    """The request of one side: the common options, then those after --a or --b."""
    base = Request.of(o, model)
    changed: dict[str, Any] = {}
    for f in fields(Request):
        if f.name not in chosen:
            continue
        old = getattr(base, f.name)
        new = chosen[f.name]
        changed[f.name] = (*old, *new) if isinstance(old, tuple) else new
    return replace(base, **changed)


def _print(terminal: Terminal, made: Comparison) -> None:
    wall = made.wall
    how = "fresh processes, order alternated" if made.paired else "recorded at different times"
    part = "   INTERRUPTED" if made.interrupted else ""
    terminal.facts("a", made.a)
    terminal.facts("b", made.b)
    terminal.facts("rounds", f"{wall.rounds}   {how}{part}")
    for d in made.differences:
        terminal.facts("results", f"DIFFER in {d.name}: {d.text}", "bold")
    if made.paired and not made.differences:
        terminal.facts("results", "equal bits")
    terminal.facts(
        "wall",
        f"a {units.seconds(made.a_median)}   b {units.seconds(made.b_median)}   {_ratio(made)}",
    )
    if made.changes:
        difference = made.b_median - made.a_median
        terminal.facts(
            "kernels",
            f"{_signed(made.explained)} of {_signed(difference)} explained by changed kernels"
            f" ({made.tested} equal ones, Holm-corrected)",
        )
        terminal.table(
            [Column("a", "<", cut="right"), Column("b", "<", cut="right"), Column("b - a")],
            [_change(c) for c in made.changes],
        )
    elif made.tested:
        terminal.facts("kernels", f"the same {made.tested}, none of another speed")
    style = {"slower": "bold red", "faster": "bold green"}.get(made.verdict, "bold")
    terminal.facts("verdict", str(wall), style)


def _ratio(made: Comparison) -> str:
    wall = made.wall
    slower = wall.ratio >= 1
    ratio, word = (wall.ratio, "slower") if slower else (1 / wall.ratio, "faster")
    text = f"b is {ratio:.3f}x {word}"
    if made.paired and (made.b_median > made.a_median) != slower:
        text += " pair by pair"  # the two medians, of different moments, say otherwise
    if wall.low is None or wall.high is None:
        return f"{text}   no interval below {LEAST_ROUNDS} rounds"
    low, high = (wall.low, wall.high) if slower else (1 / wall.high, 1 / wall.low)
    return f"{text}   99 % CI [{low:.3f}, {high:.3f}]"


def _signed(x: float) -> str:
    return f"{'+' if x >= 0 else '-'}{units.seconds(abs(x))}"


def _change(c: Change) -> list[str]:
    return [", ".join(c.a) or "-", ", ".join(c.b) or "-", _signed(c.seconds)]

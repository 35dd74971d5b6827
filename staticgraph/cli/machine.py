"""`staticgraph machine`: what this machine can do at most, measured."""

from __future__ import annotations

import json
from typing import Any

from staticgraph.cli.columns import Column
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.terminal import Terminal
from staticgraph.profiling import units
from staticgraph.profiling.machine import SCHEMA, machine, machine_file
from staticgraph.profiling.rows import Level, Machine, Roof, encode

_FILES = {"json": ".json"}
_COLUMNS = [
    Column("roof", "<"),
    Column("of", "<"),
    Column("best"),
    Column("median", drop=2),
    Column("spread", drop=1),
    Column("over", drop=3),
]


def run(o: Any) -> int:
    """The command."""
    terminal = Terminal(o)
    outputs = Outputs(o, "machine", _FILES)
    if o.refresh or not machine_file().exists():
        terminal.remark("measuring this machine; it takes some seconds")
    made = machine(refresh=o.refresh)
    outputs.write("json", lambda: json.dumps({"schema": SCHEMA} | encode(made)))
    if not outputs.stdout_taken:
        terminal.facts("cpu", f"{made.cpu}   {made.cores} cores, {made.threads} threads used")
        terminal.facts(
            "measured",
            f"{made.date} in {units.seconds(made.seconds)}   again with --redo"
            f"   kept in {machine_file()}",
        )
        if made.busy:
            terminal.facts(
                "busy",
                f"{made.busy}   roofs may be too low   the next command that needs them measures"
                " again, after a quarter of an hour",
            )
        terminal.line()
        terminal.table(_COLUMNS, rows(made))
    return 0


def rows(made: Machine) -> list[list[str]]:
    """A line for each roof."""
    found: list[list[str]] = []
    for threads, levels in ((made.threads, made.levels), (1, made.levels_one)):
        for level in levels:
            over = units.size(level.working_set)
            found.append(_roof(_cache(level), _of("read", threads), level.read, "B", over))
            found.append(_roof(_cache(level), _of("triad", threads), level.triad, "B", over))
        if made.threads == 1:
            break
    found += [_roof("fma", _of(dtype, made.threads), r, "FLOP") for dtype, r in made.fma.items()]
    if made.threads > 1:
        found += [_roof("fma", _of(dtype, 1), r, "FLOP") for dtype, r in made.fma_one.items()]
    found += [_roof("exp", _of(dtype, made.threads), r, "calls") for dtype, r in made.math.items()]
    if made.threads > 1:
        found += [_roof("exp", _of(dtype, 1), r, "calls") for dtype, r in made.math_one.items()]
    found.append(_roof("matmul", "float32, ours", made.sgemm, "FLOP"))
    found.append(_roof("matmul", "float32, NumPy's BLAS", made.blas, "FLOP"))
    return found


def _of(what: str, threads: int) -> str:
    return f"{what}, {threads} thread{'s' * (threads > 1)}"


def _cache(level: Level) -> str:
    return f"{level.name} {units.size(level.size)}" if level.size else level.name


def _roof(name: str, of: str, roof: Roof, unit: str, over: str = "") -> list[str]:
    median, best = units.rate(roof.low, unit), units.rate(roof.high, unit)
    return [name, of, best, median, f"+-{100 * roof.cv:.0f}%", over]

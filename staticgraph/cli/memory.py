"""`staticgraph memory MODEL`: the peak, who is alive there, and whether it is what is allocated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import psutil

from staticgraph.budget import POLICY
from staticgraph.cli.checks import parse_checks, verdict
from staticgraph.cli.columns import Column
from staticgraph.cli.models import Model, Request, load_model
from staticgraph.cli.outputs import Outputs
from staticgraph.cli.pareto import (
    FILES,
    check_at,
    show,
    show_reasons,
    study_of,
    write_pictures,
)
from staticgraph.cli.problems import INTERRUPTED, failed
from staticgraph.cli.terminal import Terminal
from staticgraph.compile import compile
from staticgraph.frontend import input as graph_input
from staticgraph.plan import ALIGN
from staticgraph.profiling import units
from staticgraph.profiling.arena import memory_of
from staticgraph.profiling.rows import LiveRow, Memory, encode
from staticgraph.study import as_planned
from staticgraph.threads import get_threads

SCHEMA = "staticgraph.memory/1"
METRICS = ("peak", "lower_bound", "inputs", "outputs", "state", "rss", "difference")
_PLOT_ROWS = 6
_COLUMNS = [
    Column("live at the peak", "<", cut="right"),
    Column("type", "<", drop=2, cut="right"),
    Column("size"),
    Column("born..dies", drop=1),
    Column("kind", "<"),
    Column("where", "<", cut="left"),
]


@dataclass
class Measured:
    """What the system says beside the plan: bytes of the arena that is really there, and the rise
    of resident memory over a call, without the outputs it returned."""

    allocated: int
    rss_rise: int
    planned: int  # arena and the scratch of all threads


def run(o: Any) -> int:
    """The command."""
    checks = parse_checks(o.fail_if, METRICS)
    check_at(o.at)
    terminal = Terminal(o)
    model = load_model(Request.of(o, o.model))
    outputs = Outputs(o, model.label, FILES)
    if model.function.options["target"] != "cpu":
        raise failed("--device cuda: memory looks at the arena of the CPU")
    measured = measure(model)
    memory = memory_of(model.function, [])
    swept = drawn = None
    if o.sweep_budget is not None:
        swept = drawn = study_of(Request.of(o, o.model), o.sweep_budget, [POLICY], terminal)
    elif any(name in outputs.targets for name in ("svg", "png", "html")) or o.why:
        drawn = as_planned(model.function, model.label)
    document = {
        "schema": SCHEMA,
        "model": model.label,
        "memory": encode(memory),
        "measured": encode(measured),
        **({"sweep": swept.to_dict()} if swept is not None else {}),
    }
    outputs.write("json", lambda: json.dumps(document))
    outputs.write("csv", lambda: _csv(memory))
    if drawn is not None and drawn.points:
        write_pictures(outputs, drawn, o, "memory" if swept is None else "pareto")
    if not outputs.stdout_taken:
        _print(terminal, model, memory, measured, o.top)
        if swept is not None:
            terminal.line()
            show(terminal, swept)
        if drawn is not None:
            show_reasons(terminal, drawn, o)
    metrics = {
        "peak": float(memory.peak),
        "lower_bound": float(memory.lower_bound),
        "inputs": float(memory.inputs),
        "outputs": float(memory.outputs),
        "state": float(memory.state),
        "rss": float(measured.rss_rise),
        "difference": float(measured.allocated - memory.peak),
    }
    if swept is not None and swept.interrupted:
        return INTERRUPTED
    return verdict(checks, metrics, terminal.problem)


def measure(model: Model) -> Measured:
    """One first call: the arena it allocated, and how far resident memory rose.

    Results are held while looking, so that their memory is known and can be taken off.
    """
    fn = model.function
    process = psutil.Process()
    _warm_launcher()
    before = process.memory_info().rss
    results = model.run()
    after = process.memory_info().rss
    arena: np.ndarray = fn.executable.frames[-1][1]
    threads = fn.threads or get_threads()
    return Measured(
        allocated=arena.nbytes - ALIGN,
        rss_rise=after - before - sum(a.nbytes for a in results),
        planned=fn.memory.peak_bytes + threads * fn.memory.scratch_bytes,
    )


def _warm_launcher() -> None:
    """Run something else first: the launcher's own code and threads belong to no model."""
    x = graph_input("x", (64,))
    compile(x + 1.0, [x])(np.zeros(64, np.float32))


def _print(terminal: Terminal, model: Model, memory: Memory, measured: Measured, top: int) -> None:
    at = ""
    if memory.peak:
        step = memory.steps[memory.peak_step]
        at = f" at step {memory.peak_step} of {len(memory.steps)} [{step}]"
    least = units.size(memory.lower_bound)
    terminal.facts("peak", f"{units.size(memory.peak)}{at}   least for this order {least}")
    difference = measured.allocated - memory.peak
    same = "planned = allocated" if not difference else f"allocated {difference:+} B"
    terminal.facts("measured", f"{same}   resident memory rose {units.size(measured.rss_rise)}")
    terminal.facts(
        "beside it",
        f"inputs {units.size(memory.inputs)}   outputs {units.size(memory.outputs)}"
        f"   state {units.size(memory.state)}   constants {units.size(memory.constants)}"
        f"   scratch {units.size(memory.scratch)} per thread",
    )
    if not memory.live:
        return
    kinds = sorted(memory.by_kind.items(), key=lambda item: -item[1])
    terminal.facts("at the peak", "   ".join(f"{k} {units.size(n)}" for k, n in kinds))
    terminal.line()
    shown = memory.live[: top or None]
    terminal.table(_COLUMNS, [_live(row) for row in shown])
    rest = memory.live[len(shown) :]
    if rest:
        terminal.line(f"... {len(rest)} more, {units.size(sum(r.bytes for r in rest))}")
    if not terminal.plain:
        terminal.line()
        for line in plot(memory.timeline, memory.peak_step, min(terminal.width, 100)):
            terminal.line(line)


def _live(row: LiveRow) -> list[str]:
    where = str(row.where or "") + (" (grad)" if row.is_gradient else "")
    return [row.what, row.type, units.size(row.bytes), f"{row.born}..{row.dies}", row.kind, where]


def plot(timeline: list[int], peak_step: int, width: int) -> list[str]:
    """Live bytes over the steps of the plan, as text; each column shows the most of its steps."""
    top = max(timeline, default=0)
    if not top:
        return []
    room = max(10, width - 22)
    columns = min(room, len(timeline))
    cuts = [k * len(timeline) // columns for k in range(columns + 1)]
    most = [max(timeline[a:b]) for a, b in pairwise(cuts)]
    wide = max(1, min(room // columns, 4))
    peak_column = next(k for k in range(columns) if cuts[k] <= peak_step < cuts[k + 1])
    lines = []
    for row in range(_PLOT_ROWS, 0, -1):
        level = top * (row - 0.5) / _PLOT_ROWS
        bars = "".join(("#" if m >= level else " ") * wide for m in most)
        label = units.size(top * row / _PLOT_ROWS) if row in (_PLOT_ROWS, _PLOT_ROWS // 2) else ""
        lines.append(f"{label:>9} |{bars.rstrip()}".rstrip())
    lines.append(f"{'0B':>9} +{'-' * (columns * wide)} step {len(timeline) - 1}")
    lines.append(f"{'':>11}{'':>{peak_column * wide}}^ peak")
    return lines


def _csv(memory: Memory) -> str:
    lines = ["what,type,bytes,offset,born,dies,kind,where"]
    for b in memory.buffers:
        text = f'"{b.what}","{b.type}"'
        lines.append(f"{text},{b.bytes},{b.offset},{b.born},{b.dies},{b.kind},{b.where or ''}")
    return "\n".join(lines) + "\n"

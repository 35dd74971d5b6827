"""The pictures of a study: all curves above the bound, memory over time, what is kept when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.simulate import last_uses, simulate
from staticgraph.profiling import units
from staticgraph.study import canvas as c
from staticgraph.study.rows import Point, Study, labels

NAMED = 7  # values with a colour of their own
_ROWS = 40  # rows of a grid that get a name each
_FLOOR, _BELOW = "#C4D9EA", "#F3E3DC"
_KEPT, _FIRST, _AGAIN = "#BBD7EA", c.COLOURS[0], c.COLOURS[1]
_UNPLANNED = "#8A8F98"
_OTHERS = "others"
_WIDE = 210.0  # room for the names of rows


def draw(study: Study, picture: str, strategy: str | None, budget: int | None) -> str:
    """See `Study.to_svg`."""
    if picture == "pareto":
        return pareto(study)
    if picture not in ("memory", "grid"):
        raise ValueError(f"picture is 'pareto', 'memory' or 'grid', not {picture!r}")
    point = study.find(strategy, budget)
    return (memory if picture == "memory" else grid)(study, point)


def _title(study: Study, what: str) -> str:
    return f"{study.name}: {what}" if study.name else what[:1].upper() + what[1:]


# ---------------------------------------------------------------------------- curves


def pareto(study: Study) -> str:
    """Extra cost over bytes, one curve for each strategy; below the bound lies no plan."""
    done = [p for p in study.points if p.ok]
    size, unit = c.byte_unit(study.peak)
    most = max([study.peak, *(p.budget for p in done)])
    shown = [100 * (p.extra or 0.0) for p in done]
    shown += [100 * (p.slowdown - 1) for p in done if p.slowdown is not None]
    high = 1.08 * max([*shown, 1.0])
    low = min([0.0, *(1.08 * s for s in shown)])
    left = 0.8 * study.floor / size
    plot = c.Plot(
        _title(study, "memory or recomputation"),
        f"without a budget {_bytes(study.peak)}; {len(study.dag)} values"
        + ("; hollow marks: measured" if any(p.seconds for p in done) else ""),
        (left, 1.03 * most / size),
        (low, high),
    )
    _shade(plot, study, done, size, low, high)
    plot.axes(
        f"memory, {unit}",
        "extra time per call, %",
        [(t, c.number(t)) for t in c.ticks(left, most / size)],
        [(t, c.number(t)) for t in c.ticks(low, high)],
    )
    for k, strategy in enumerate(study.strategies):
        colour, mark = c.COLOURS[k % len(c.COLOURS)], c.MARKS[k % len(c.MARKS)]
        dash = "" if k < len(c.COLOURS) else "5 3"
        points = sorted((p for p in done if p.strategy == strategy), key=_bytes_of)
        plot.line([(_bytes_of(p) / size, 100 * (p.extra or 0.0)) for p in points], colour, 2, dash)
        for p in points:
            x = _bytes_of(p) / size
            plot.mark(x, 100 * (p.extra or 0.0), colour, mark, True, _says(p))
            if p.slowdown is not None:
                plot.mark(x, 100 * (p.slowdown - 1), colour, mark, False, _says(p))
        plot.entry(strategy, colour, mark, dash)
    plot.entry("no plan: the bound", _FLOOR)
    plot.entry("no plan: below the floor", _BELOW)
    return plot.svg()


def _shade(
    plot: c.Plot, study: Study, done: Sequence[Point], size: int, low: float, high: float
) -> None:
    """Where no plan can be: under the bound, and at fewer bytes than the floor."""
    bounds = sorted({p.budget: 100 * (p.bound or 0.0) for p in done}.items())
    if bounds:
        corners = [(bounds[0][0] / size, low)]
        for (b0, y0), (b1, _) in pairwise([*bounds, (plot.x[1] * size, 0.0)]):
            # Up to the next budget no plan may cost less than at that one: a step, not a slope.
            after = dict(bounds).get(b1, 0.0)
            corners += [(b0 / size, y0), (b0 / size, after), (b1 / size, after)]
        plot.area([*corners, (plot.x[1], low)], _FLOOR, "no plan costs less")
    edge = study.floor / size
    start = plot.x[0]
    plot.area(
        [(start, low), (start, high), (edge, high), (edge, low)],
        _BELOW,
        "no plan needs fewer bytes",
    )


def _bytes_of(point: Point) -> int:
    return point.allocated if point.allocated is not None else point.planned or 0


def _says(p: Point) -> str:
    time = "" if p.seconds is None else f", {units.seconds(p.seconds)} measured"
    extra, gap = 100 * (p.extra or 0.0), 100 * (p.gap or 0.0)
    return f"{p.strategy}: {_bytes(_bytes_of(p))}, {extra:.2f} % extra, gap {gap:.2f} %{time}"


def _bytes(value: float) -> str:
    size, unit = c.byte_unit(value)
    return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value / size:.0f} {unit}"


# ---------------------------------------------------------------------------- memory over time


def memory(study: Study, point: Point) -> str:
    """Bytes live at each step of a plan, the largest values of the fullest step by name."""
    dag, sequence = study.dag, point.sequence
    curve = simulate(dag, sequence).curve
    before = simulate(dag, range(len(dag))).curve
    size, unit = c.byte_unit(max(study.peak, int(curve.max())))
    steps = len(sequence)
    high = 1.06 * max(study.peak, int(curve.max()), int(before.max())) / size
    plot = c.Plot(
        _title(study, "memory over time"),
        f"{point.strategy} within {_bytes(point.budget)}: peak {_bytes(int(curve.max()))},"
        f" {steps} steps instead of {len(dag)}",
        (0.0, float(max(steps, len(dag)))),
        (0.0, high),
    )
    plot.axes(
        "step",
        f"live memory, {unit}",
        [(t, c.number(t)) for t in c.ticks(0, plot.x[1])],
        [(t, c.number(t)) for t in c.ticks(0, high)],
    )
    layers = _layers(dag, sequence, curve)
    base = np.zeros(steps)
    for k, (label, amount) in enumerate(layers):
        _stack(plot, base / size, (base + amount) / size, _colour(k, label), label)
        base = base + amount
    for k, (label, _) in reversed(list(enumerate(layers))):
        plot.entry(label, _colour(k, label))
    plot.line(_stairs(before / size), _UNPLANNED, 1.6, "5 3")
    plot.entry("without a budget", _UNPLANNED, "line", "5 3")
    plot.line([(0, point.budget / size), (plot.x[1], point.budget / size)], "#C0182A", 1.4)
    plot.entry("the budget", "#C0182A", "line")
    return plot.svg()


def _colour(k: int, label: str) -> str:
    return c.REST if label == _OTHERS else c.COLOURS[k % len(c.COLOURS)]


def _layers(dag: Dag, sequence: Sequence[int], curve: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Bytes at each step of the values that are largest where most is live, and of the others.

    The others take what is left of the curve: temporaries too, less what is written in place.
    """
    last = last_uses(dag, sequence)
    fullest = int(np.argmax(curve))
    held: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(len(sequence)))
    for step, v in enumerate(sequence):
        held[v][step : last[step] + 1] += dag.size[v]
    live = [v for v in held if held[v][fullest] > 0]
    named = sorted(live, key=lambda v: (-dag.size[v], v))[:NAMED]
    rest = np.maximum(curve - sum((held[v] for v in named), np.zeros(len(sequence))), 0.0)
    names = labels(dag)
    return [*((names[v], held[v]) for v in named), (_OTHERS, rest)]


def _stairs(values: np.ndarray) -> list[tuple[float, float]]:
    return [(float(k + side), float(y)) for k, y in enumerate(values) for side in (0, 1)]


def _stack(plot: c.Plot, low: np.ndarray, high: np.ndarray, colour: str, label: str) -> None:
    """The area between two stairs, in pieces where it is not empty."""
    there = np.flatnonzero(high > low)
    if not len(there):
        return
    for run in np.split(there, np.flatnonzero(np.diff(there) > 1) + 1):
        a = int(run[0])
        upper = [(a + x, y) for x, y in _stairs(high[run])]
        lower = [(a + x, y) for x, y in _stairs(low[run])]
        plot.area([*upper, *reversed(lower)], colour, label)


# ---------------------------------------------------------------------------- grids


def grid(study: Study, point: Point) -> str:
    """Checkmate's grid: a row for each value, a column for each step."""
    dag, sequence = study.dag, point.sequence
    last = last_uses(dag, sequence)
    n, steps = len(dag), len(sequence)
    again = steps - n
    height = c.TOP + c.BOTTOM + min(1400.0, max(300.0, (14.0 if n <= _ROWS else 5.0) * n))
    plot = c.Plot(
        _title(study, "what is computed and kept when"),
        f"{point.strategy} within {_bytes(point.budget)}: {again} of {steps} steps compute again",
        (0.0, float(steps)),
        (float(n), 0.0),
        height,
        _WIDE if n <= _ROWS else c.LEFT,
    )
    rows = [(k + 0.5, c.cut(name, 25)) for k, name in enumerate(labels(dag))] if n <= _ROWS else []
    rows = rows or [(t + 0.5, c.number(t)) for t in c.ticks(0, n - 1, 10)]
    columns = [(t + 0.5, c.number(t)) for t in c.ticks(0, steps - 1, 10)]
    plot.axes("step", "value" if n <= _ROWS else "value, in the order of the graph", columns, rows)
    seen: set[int] = set()
    for step, v in enumerate(sequence):
        end = min(last[step] + 1, steps)
        if end > step + 1:
            says = f"{dag.label(v)} held at steps {step}..{end - 1}"
            plot.bar(step + 1, end, v + 0.1, v + 0.9, _KEPT, says)
        colour = _AGAIN if v in seen else _FIRST
        plot.bar(step, step + 1, v, v + 1, colour, f"step {step} computes {dag.label(v)}")
        seen.add(v)
    plot.entry("computed", _FIRST)
    plot.entry("computed again", _AGAIN)
    plot.entry("kept", _KEPT)
    return plot.svg()

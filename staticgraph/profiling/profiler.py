"""`Function.profile`: measure, then say what the numbers mean."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Any

import numpy as np

from staticgraph.byhand.table import BY_HAND
from staticgraph.compile import Function
from staticgraph.errors import InputError, NumericError, TargetError
from staticgraph.fusion import CONTRACTIONS
from staticgraph.ir import Node
from staticgraph.profiling import units
from staticgraph.profiling.advice import advise
from staticgraph.profiling.arena import memory_of
from staticgraph.profiling.kernelrows import (
    NS,
    gap_rows,
    is_gradient,
    kernel_rows,
    members,
    op_rows,
    times_of,
)
from staticgraph.profiling.machine import machine, versions
from staticgraph.profiling.measure import Progress, Recording, random_inputs, record, variables_kept
from staticgraph.profiling.report import Report
from staticgraph.profiling.roofline import apply_roofs
from staticgraph.profiling.rows import (
    Compile,
    Event,
    Input,
    KernelRow,
    Machine,
    Model,
    Overhead,
    PassRow,
    Run,
    Span,
)
from staticgraph.profiling.summary import noise_of, wall_of

#: runs whose every event is kept for timelines; more would only make files large
TIMELINE_RUNS = 5


def profile(
    fn: Function,
    arrays: tuple[Any, ...],
    named: dict[str, Any],
    *,
    runs: int | None = None,
    seconds: float | None = None,
    warmup: int | None = None,
    seed: int = 0,
    roofs: bool | Machine = True,
    on_round: Progress | None = None,
) -> Report:
    """See `Function.profile`."""
    if fn.options["target"] != "cpu":
        raise TargetError(f"profile: measures target='cpu', this is {fn.options['target']!r}")
    if runs is not None and runs < 1:
        raise InputError(f"profile: runs must be at least 1, got {runs}")
    given = bool(arrays or named)
    values = fn.arguments(arrays, named) if given or not fn.types else _usable_inputs(fn, seed)
    # Roofs first: their kernels would stand in the caches, and warm the machine, either way.
    limits = machine() if roofs is True else roofs or None
    recording = record(fn, values, runs=runs, seconds=seconds, warmup=warmup, progress=on_round)
    times = times_of(recording)
    rows = kernel_rows(fn, recording, times)
    if limits is not None:
        apply_roofs(rows, fn.plan, limits, _main_dtype(rows), recording.threads)
    report = Report(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model=_model(fn, recording, "given" if given else f"random, seed {seed}"),
        machine=limits,
        compile=_compile(fn),
        wall=wall_of([[t * NS for t in recording.plain]], recording.warmup, recording.stable),
        kernels=rows,
        ops=op_rows(fn, rows),
        gaps=gap_rows(times),
        coverage=times.coverage,
        overhead=_overhead(recording, rows),
        memory=memory_of(fn, rows),
        noise=noise_of([t * NS for t in recording.plain]),
        timeline=_timeline(recording, rows),
        interrupted=recording.interrupted,
    )
    report.advice = advise(report)
    return report


def _usable_inputs(fn: Function, seed: int) -> list[np.ndarray]:
    """Random inputs; where the model refuses them (an index out of range), integers become 0."""
    values = random_inputs(fn, seed)
    try:
        with variables_kept(fn):
            fn(*values)
    except NumericError:
        values = [np.zeros_like(v) if v.dtype.kind in "iu" else v for v in values]
    return values


def _main_dtype(rows: list[KernelRow]) -> str:
    """The float type that most kernels work in: which peak they are held against."""
    wide = sum("f64" in text or "c128" in text for row in rows for text in row.shapes)
    return "float64" if 2 * wide > sum(len(row.shapes) for row in rows) else "float32"


# ---------------------------------------------------------------------------- parts of a report


def _model(fn: Function, recording: Recording, origin: str) -> Model:
    nodes = [n for s in fn.plan.steps if s.node is not None for n in members(s.node)]
    kinds = Counter(_kind(s.node) for s in fn.plan.steps if s.kind == "kernel" and s.node)
    types = [t.type for n in nodes for t in n.results]
    derived = any(map(is_gradient, nodes))
    pipeline = fn.options["pipeline"]
    return Model(
        name="",
        description="forward+grad" if derived else "forward",
        target=fn.options["target"],
        threads=recording.threads,
        dtypes=sorted({t.dtype for t in types} or {t.dtype for t in fn.types}),
        nodes=len(fn.graph),
        kernels=len(fn.plan.launches),
        gradient=derived,
        inputs=[Input(name, str(t), origin) for name, t in zip(fn.names, fn.types, strict=True)],
        passes=pipeline if isinstance(pipeline, str) else repr(pipeline),
        kernel_mix=dict(kinds),
        versions=versions(),
    )


def _kind(node: Node) -> str:
    contraction = next((n.op.name for n in members(node) if n.op.name in CONTRACTIONS), None)
    return contraction or ("by hand" if node.op.name in BY_HAND else "generated")


def _compile(fn: Function) -> Compile:
    origins = Counter(k.origin for k in fn.kernels)
    hits = sum(k.cache_hit for k in fn.kernels)
    return Compile(
        total=fn.times.total,
        passes=[PassRow(p.name, p.seconds, p.before, p.after) for p in fn.times.passes],
        plan=fn.times.plan,
        kernels=fn.times.kernels,
        cache_hits=hits,
        cache_misses=len(fn.kernels) - hits,
        origins=dict(origins),
    )


def _overhead(recording: Recording, rows: list[KernelRow]) -> Overhead:
    """Stamped against plain runs: the median ratio within the pairs, which noise shifts least."""
    stamped = np.array([s.end - s.begin for s in recording.stamped], np.float64)
    plain = np.array(recording.plain, np.float64)[: len(stamped)]
    fraction = float(np.median(stamped[: len(plain)] / plain) - 1)
    short = [row for row in rows if row.timing == "repeat"]
    word = "slower" if fraction >= 0 else "faster"
    note = f"stamped runs were {100 * abs(fraction):.1f} % {word} than plain runs"
    if short:
        kernels = units.some(len(short), "kernel")
        note += f"; {kernels} below 5 us also timed by repeating (rates use that)"
    return Overhead(
        stamped_median=float(np.median(stamped)) * NS,
        plain_median=float(np.median(plain)) * NS,
        fraction=fraction,
        stamp_seconds=recording.stamp_ns * NS,
        repeat_timed=bool(short),
        note=note,
    )


def _timeline(recording: Recording, rows: list[KernelRow]) -> list[Run]:
    """The runs nearest to the median, in the order in which they were made."""
    walls = np.array([s.end - s.begin for s in recording.stamped])
    near = np.argsort(np.abs(walls - np.median(walls)), kind="stable")[:TIMELINE_RUNS]
    number = {row.step: row.index for row in rows}
    runs = []
    for k in sorted(near.tolist()):
        sample = recording.stamped[k]
        events = []
        for step, begin, end, *words in (sample.rows - _shift(sample)).tolist():
            seats = [words[j : j + 3] for j in range(0, len(words), 3)]
            spans = [Span(j, b * NS, e * NS, n) for j, (b, e, n) in enumerate(seats) if n > 0]
            events.append(Event(number.get(step, 0), begin * NS, end * NS, spans))
        runs.append(Run((sample.end - sample.begin) * NS, events))
    return runs


def _shift(sample: Any) -> np.ndarray:
    """What to take from a row so that its times count from the begin of the run."""
    seats = (sample.rows.shape[1] - 3) // 3
    return np.array([0, sample.begin, sample.begin, *[sample.begin, sample.begin, 0] * seats])

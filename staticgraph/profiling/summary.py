"""Summaries of running times, and several processes' profiles as one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from staticgraph.errors import ReportError
from staticgraph.profiling import stats
from staticgraph.profiling.rows import Coverage, GapRow, KernelRow, Noise, Profile, Wall

R = TypeVar("R", bound=Profile)


def wall_of(samples: list[list[float]], warmup: int, stable: bool) -> Wall:
    """Statistics of plain runs, one list per process."""
    flat = np.concatenate([np.asarray(s) for s in samples])
    return Wall(
        median=float(np.median(flat)),
        ci=stats.process_interval(samples),
        min=float(flat.min()),
        p95=float(np.percentile(flat, 95)),
        mean=float(flat.mean()),
        iqr=float(np.subtract(*np.percentile(flat, (75, 25)))),
        runs=len(flat),
        processes=len(samples),
        warmup=warmup,
        stable=stable,
        outliers=int(stats.outliers(flat).sum()),
        samples=[list(s) for s in samples],
    )


def noise_of(samples: list[float]) -> Noise:
    """How far apart equal runs are, and whether others use the cores."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cores = os.cpu_count() or 1
    median = float(np.median(samples))
    interval = stats.median_interval(samples)
    # Medians of one process also hide what differs between processes: 2 % at the least.
    resolvable = max(0.02, (interval.high - interval.low) / median)
    busy = f"load {load:.1f} on {cores} cores: " if load > 0.6 * cores else ""
    return Noise(
        load=load,
        cores=cores,
        cv=float(np.std(samples) / np.mean(samples)),
        iqr_fraction=stats.spread(samples),
        resolvable=resolvable,
        note=f"{busy}differences below {100 * resolvable:.0f} % are not resolvable in this run",
    )


# ---------------------------------------------------------------------------- several processes


def merged(reports: Sequence[R]) -> R:
    """Profiles of one model from several processes as one: medians of processes, intervals that
    hold between them. The timeline and the memory are those of the first.
    """
    first = reports[0]
    if len(reports) == 1:
        return first
    names = [row.name for row in first.kernels]
    if any([row.name for row in r.kernels] != names for r in reports):
        raise ReportError("merged: the profiles are not of one plan")
    walls = [samples for r in reports for samples in r.wall.samples]
    ns = [sum(getattr(r.coverage, k) for r in reports) for k in ("wall_ns", "kernel_ns", "gap_ns")]
    rows = [_joined([r.kernels[k] for r in reports], ns[0]) for k in range(len(names))]
    running = 0.0
    for row in sorted(rows, key=lambda each: -each.share):
        running += row.share
        row.cum = running
    flat = [t for samples in walls for t in samples]
    stable = all(r.wall.stable for r in reports)
    return replace(
        first,
        wall=wall_of(walls, max(r.wall.warmup for r in reports), stable),
        kernels=rows,
        gaps=[_joined_gap([r.gaps[k] for r in reports], ns[0]) for k in range(len(first.gaps))],
        coverage=Coverage(*ns, ns[1] / ns[0], ns[2] / ns[0]),
        overhead=replace(
            first.overhead, fraction=float(np.median([r.overhead.fraction for r in reports]))
        ),
        noise=noise_of(flat),
        interrupted=any(r.interrupted for r in reports),
    )


def _joined(rows: Sequence[KernelRow], wall_ns: int) -> KernelRow:
    first = rows[0]
    median = float(np.median([r.median for r in rows]))
    total = sum(r.total for r in rows)
    repeats = [r.repeat for r in rows if r.repeat is not None]
    made = replace(
        first,
        median=median,
        ci=stats.process_interval([[r.median] for r in rows if r.median > 0]),
        minimum=min(r.minimum for r in rows),
        mean=float(np.mean([r.mean for r in rows])),
        calls=float(np.mean([r.calls for r in rows])),
        runs=sum(r.runs for r in rows),
        total=total,
        share=total * 1e9 / wall_ns,
        repeat=float(np.median(repeats)) if repeats else None,
        imbalance=float(np.median([r.imbalance for r in rows])),
    )
    faster = first.seconds / made.seconds if made.seconds > 0 else 1.0
    made.gbps, made.gflops = first.gbps * faster, first.gflops * faster
    if first.roof_percent is not None:
        for name in ("roof_percent", "roof_low", "roof_high"):
            setattr(made, name, getattr(first, name) * faster)
    if first.could_save is not None:
        made.could_save = max(0.0, first.could_save + median - first.median)
    return made


def _joined_gap(gaps: Sequence[GapRow], wall_ns: int) -> GapRow:
    total = sum(g.total for g in gaps)
    median = float(np.median([g.median for g in gaps]))
    return GapRow(gaps[0].name, median, total, total * 1e9 / wall_ns)

"""Tables and JSON of what was measured; no measuring here."""

import os
import platform
from importlib import metadata
from math import exp, fsum, log
from pathlib import Path

from benchmarks.harness import OURS

LIBRARIES = ("numba", "llvmlite", "numpy", "jax", "torch", "pytensor", "numexpr")


def machine():
    """The CPU and the versions a reader needs to compare two tables."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((a.split(":")[1].strip() for a in lines if a.startswith("model name")), model)
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"cpu": model, "cpus": len(os.sched_getaffinity(0)), "versions": versions}


def duration(seconds):
    if seconds is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def megabytes(count):
    return "-" if count is None else f"{count / 1e6:.1f}"


def best_peer(results):
    """The fastest other contender's name, or None."""
    times = {
        name: got.median for name, got in results.items() if name.split()[0] != OURS and got.seconds
    }
    return min(times, key=times.get) if times else None


def ratios(row, results):
    """[(against, ratio or None, wanted)] for each target of the row, the best peer always first."""
    ours, best = results.get(OURS), best_peer(results)
    pairs = {"best": row.reach.get("best")} | dict(row.reach)
    found = []
    for against, wanted in pairs.items():
        # "jax" as a target means the faster of the ways JAX was used.
        names = [best] if against == "best" else [n for n in results if n.split()[0] == against]
        times = [results[name].median for name in names if name and results[name].seconds]
        ratio = min(times) / ours.median if times and ours and ours.seconds else None
        found.append((against, ratio, wanted))
    return found


def verdict(row, results):
    """(text of ratios and targets, True when all are reached, False, or None when unknown)."""
    parts, states = [], []
    for against, ratio, wanted in ratios(row, results):
        name = f"best ({best_peer(results)})" if against == "best" else against
        text = f"{'-' if ratio is None else f'{ratio:.2f}'} x {name}"
        if wanted is not None:
            text += f", to reach {wanted:.2g}"
            states.append(None if ratio is None else ratio >= wanted)
        parts.append(text)
    if row.limit is not None:
        ours = results.get(OURS)
        median = ours.median if ours else None
        parts.append(f"{duration(median)}, at most {duration(row.limit)}")
        states.append(None if median is None else median <= row.limit)
    state = None if None in states or not states else all(states)
    return "; ".join(parts), state


def row_table(row, results):
    """The block printed when a row is done."""
    lines = [f"{row.title}   [{row.name}]"]
    work = getattr(row, "work", None)
    lines.append(
        f"  {'':19} {'median':>9}  {'middle half':>19}  {'calls':>5}  {'build':>8}  {'peak MB':>8}"
        + ("  GFLOP/s" if work else "")
    )
    for name, got in results.items():
        if got.seconds:
            spread = " .. ".join(duration(value) for value in got.quartiles)
            lines.append(
                f"  {name:19} {duration(got.median):>9}  {spread:>19}  {len(got.seconds):5}"
                f"  {duration(got.build_seconds):>8}  {megabytes(got.peak_bytes):>8}"
                + (f"  {work / got.median / 1e9:7.0f}" if work else "")
            )
        if got.note:
            lines.append(f"  {name:19} {got.note}")
    text, state = verdict(row, results)
    word = {True: "reached", False: "NOT reached", None: "no target met or missed"}[state]
    lines.append(f"  ratio: {text}  -> {word}")
    return "\n".join(lines)


def summary(measured):
    """One line per row of all that was measured."""
    lines = [f"{'row':30} {'ours':>8} {'best peer':>28} {'ratio':>6}  {'to reach':20}      peak MB"]
    for row, results in measured:
        ours, best = results.get(OURS), best_peer(results)
        (_, ratio, _), *_ = ratios(row, results)
        mark = {True: "ok", False: "LESS", None: ""}[verdict(row, results)[1]]
        peer = f"{best} {duration(results[best].median)}" if best else "-"
        peaks = [megabytes(results[name].peak_bytes) for name in (OURS, best) if name in results]
        targets = [f"{wanted:.2g} x {against}" for against, wanted in row.reach.items()]
        targets += [] if row.limit is None else [duration(row.limit)]
        lines.append(
            f"{row.name:30} {duration(ours.median if ours else None):>8} {peer:>28}"
            f" {'-' if ratio is None else f'{ratio:.2f}':>6}"
            f"  {', '.join(targets):20} {mark:4} {' / '.join(peaks)}"
        )
    return "\n".join(lines)


def totals(measured):
    """The geometric mean of the rows' ratios to the best peer, and the rows that are slower."""
    found = [(row.name, ratios(row, results)[0][1]) for row, results in measured]
    found = [(name, ratio) for name, ratio in found if ratio is not None]
    if not found:
        return "no row was measured beside a peer"
    mean = exp(fsum(log(ratio) for _, ratio in found) / len(found))
    slower = sorted((ratio, name) for name, ratio in found if ratio < 1)
    lines = [
        f"geometric mean of the ratios to the best peer, {len(found)} rows: {mean:.2f}",
        f"slower than the best peer: {len(slower) or 'none'}",
    ]
    return "\n".join(lines + [f"  {name:30} {ratio:.2f}" for ratio, name in slower])


def record(row, results):
    """The row as JSON: seconds and bytes, never scaled."""
    text, state = verdict(row, results)
    return {
        "row": row.name,
        "title": row.title,
        "dtype": row.dtype,
        "verdict": text,
        "reached": state,
        "contenders": {
            name: {
                "median_seconds": got.median,
                "quartile_seconds": got.quartiles,
                "calls": len(got.seconds),
                "build_seconds": got.build_seconds,
                "peak_bytes": got.peak_bytes,
                "note": got.note,
            }
            for name, got in results.items()
        },
    }

"""Rules that turn a report into what to do next; each names the command that shows more."""

from __future__ import annotations

from collections.abc import Iterator

from staticgraph.profiling.rows import Advice, KernelRow, Profile

#: a kernel must take this part of the wall time before it is worth a line
WORTH = 0.05
MOST = 6


def advise(report: Profile) -> list[Advice]:
    """What could be saved, dearest first."""
    model = report.model.name or "MODEL"
    found = [*_whole(report, model)]
    for row in report.kernels:
        if row.share >= WORTH:
            found += _kernel(row, report, model)
    found.sort(key=lambda a: -(a.seconds or 0.0))
    return found[:MOST]


def _whole(report: Profile, model: str) -> Iterator[Advice]:
    gaps = report.coverage.gaps
    if gaps > 0.2:
        yield Advice(
            f"{100 * gaps:.0f} % of the call is no kernel: the work per call is small;"
            " batch more of it into one call",
            f"staticgraph bench {model}",
            seconds=gaps * report.wall.median,
        )
    if not report.wall.stable:
        yield Advice(
            "times still changed when the warm-up ended: the machine is busy",
            "staticgraph doctor",
        )
    if report.wall.processes == 1 and report.noise.iqr_fraction > 0.1:
        yield Advice(
            f"runs differ by {100 * report.noise.iqr_fraction:.0f} % (IQR) within this process",
            f"staticgraph bench {model} --rigorous",
        )
    memory = report.memory
    kept = memory.by_kind.get("activation", 0)
    if memory.peak and kept > memory.peak // 2:
        yield Advice(
            f"{100 * kept / memory.peak:.0f} % of the peak is kept for the derivative;"
            " recomputing some of it needs less",
            f"staticgraph memory {model} --sweep-budget 100%..40%",
        )


def _kernel(row: KernelRow, report: Profile, model: str) -> Iterator[Advice]:
    explain = f"staticgraph explain {model} {row.index}"
    percent, waste = row.roof_percent, row.could_save
    if row.bound == "launch":
        yield Advice(
            f"#{row.index} {row.name} is too short to be bound by anything but its start",
            explain, row.index, waste,
        )  # fmt: skip
    elif percent is not None and percent < 50 and waste is not None:
        what = "compute peak" if row.bound == "compute" else f"{row.bound} bandwidth"
        threads = report.model.threads
        serial = " on one thread" if not row.parallel and threads > 1 else ""
        yield Advice(
            f"#{row.index} {row.name} runs at {percent:.0f} % of the {what}{serial}",
            explain, row.index, waste,
        )  # fmt: skip
    if row.imbalance > 0.2:
        busy = report.noise.load > 0.6 * report.noise.cores
        others = "; other programs use the cores" if busy else f" ({row.tiles} tiles)"
        yield Advice(
            f"#{row.index} {row.name}: its slowest thread is busy {100 * row.imbalance:.0f} %"
            f" longer than their mean{others}",
            f"staticgraph profile {model} --sweep threads=1,{report.model.threads}",
            row.index,
            row.median * row.imbalance / (1 + row.imbalance),
        )

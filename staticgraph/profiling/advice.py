"""Rules that turn a report into what to do next; each names the command that shows more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from staticgraph.profiling.rows import Advice, KernelRow, Profile

#: a kernel must take this part of the wall time before it is worth a line
WORTH = 0.05
MOST = 6


def advise(report: Profile) -> list[Advice]:
    """What could be saved, dearest first."""
    model = report.model.name or "MODEL"
    worth = [row for row in report.kernels if row.share >= WORTH]
    found = [*_whole(report, model), *_short(worth, model), *_uneven(worth, report, model)]
    found += _far(worth, report, model)
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


def _short(rows: Sequence[KernelRow], model: str) -> Iterator[Advice]:
    """Kernels that end as they have begun, in one line."""
    short = [row for row in rows if row.bound == "launch"]
    if short:
        verb = "is" if len(short) == 1 else "are"
        yield Advice(
            f"{_named(short)} {verb} too short to be bound by anything but the start",
            f"staticgraph explain {model}",
            short[0].index,
            sum(row.could_save or 0.0 for row in short),
        )


def _named(rows: Sequence[KernelRow], most: int = 3) -> str:
    """'#1 exp', '#1 exp and #4 sum', '#1 exp, #4 sum, #5 add and 3 more'."""
    names = [f"#{row.index} {row.name}" for row in rows[:most]]
    if len(rows) > most:
        names.append(f"{len(rows) - most} more")
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _far(rows: Sequence[KernelRow], report: Profile, model: str) -> Iterator[Advice]:
    """Kernels far from their roofs; those of one name and kind in one line, by the dearest."""
    alike: dict[tuple[str, str], list[KernelRow]] = {}
    for row in rows:
        far = row.bound not in (None, "launch") and (row.roof_percent or 100.0) < 50
        if far and row.could_save is not None:
            alike.setdefault((row.name, row.bound or ""), []).append(row)
    for (name, bound), same in alike.items():
        row = max(same, key=lambda r: r.could_save or 0.0)
        roofs = {"compute": "compute peak", "math": "measured rate of exp"}
        what = roofs.get(bound, f"{bound} bandwidth")
        serial = " on one thread" if not row.parallel and report.model.threads > 1 else ""
        others = f", as do {len(same) - 1} more of that name" if len(same) > 1 else ""
        others = others.replace("do 1", "does 1")
        yield Advice(
            f"#{row.index} {name} runs at {row.roof_percent:.0f} % of the {what}{serial}{others}",
            f"staticgraph explain {model} {row.index}",
            row.index,
            sum(r.could_save or 0.0 for r in same),
        )


def _uneven(rows: Sequence[KernelRow], report: Profile, model: str) -> Iterator[Advice]:
    """Threads that wait for each other, in one line."""
    uneven = sorted((r for r in rows if r.imbalance > 0.2), key=lambda r: -_waited(r))
    busy = report.noise.load > 0.6 * report.noise.cores
    sweep = f"staticgraph profile {model} --sweep threads=1,{report.model.threads}"
    if not uneven:
        return
    if len(uneven) == 1 and not busy:
        (row,) = uneven
        text = (
            f"#{row.index} {row.name}: its slowest thread is busy {100 * row.imbalance:.0f} %"
            f" longer than their mean ({row.tiles} tiles)"
        )
    else:
        text = (
            f"threads of {_named(uneven)} wait for each other, for up to"
            f" {100 * max(map(_waiting, uneven)):.0f} % of the time"
            f": other programs use the cores{'' if busy else ', or tiles are uneven'}"
        )
    yield Advice(text, sweep, uneven[0].index, sum(map(_waited, uneven)))


def _waiting(row: KernelRow) -> float:
    """The part of a kernel's time for which its threads wait, on average."""
    return row.imbalance / (1 + row.imbalance)


def _waited(row: KernelRow) -> float:
    return row.median * _waiting(row)

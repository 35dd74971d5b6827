"""Each kernel against the measured roofs: which level of memory it runs from, and what binds it.

Where a kernel's operands lie is told by reuse distance: how many distinct bytes the plan touches
between two uses of a buffer, call after call. Memory time is the sum over buffers of their bytes
at the bandwidth of that level. Functions such as tanh are held against exp, and come on top of the
other arithmetic. Percentages may exceed 100: a roof is a measurement too.
"""

from __future__ import annotations

from collections.abc import Sequence

from staticgraph.plan import Plan
from staticgraph.profiling.kernelrows import Traffic
from staticgraph.profiling.rows import KernelRow, Level, Machine, Roof

#: a kernel this short, and far from every roof, is bound by being started at all
LAUNCH_SECONDS = 2e-6

Buffer = tuple[str, int]


def apply_roofs(
    rows: Sequence[KernelRow], plan: Plan, machine: Machine, dtype: str, threads: int
) -> None:
    """Fill in level, percent, bound and what could be saved."""
    distances = reuse_distances(rows, Traffic(plan))
    for row in rows:
        wide = row.parallel and row.tiles > 1 and threads > 1
        roofs = (machine.levels, machine.fma, machine.math)
        levels, fma, math = (
            roofs if wide else (machine.levels_one, machine.fma_one, machine.math_one)
        )
        if row.median > 0:
            _against(row, distances[row.step], levels, fma.get(dtype), math.get(dtype))


def reuse_distances(
    rows: Sequence[KernelRow], traffic: Traffic
) -> dict[int, list[tuple[int, int]]]:
    """step -> (bytes moved, distinct bytes touched since the last use) of each buffer it uses."""
    last: dict[Buffer, tuple[int, int]] = {}  # when it was used, and how much of it
    found: dict[int, list[tuple[int, int]]] = {}
    clock = 0
    for turn in range(2):  # the first walk only fills in `last`
        for step in (row.step for row in rows):
            read, written = traffic.reads[step], traffic.writes[step]
            used = {b: max(read.get(b, 0), written.get(b, 0)) for b in read.keys() | written.keys()}
            own = sum(used.values())
            pairs = []
            for b in sorted(used) if turn else ():
                since, _ = last[b]
                others = sum(n for c, (t, n) in last.items() if t > since and c not in used)
                pairs.append((read.get(b, 0) + written.get(b, 0), others + own))
            found[step] = pairs
            clock += 1
            last.update((b, (clock, n)) for b, n in used.items())
    return found


def _against(
    row: KernelRow,
    pairs: Sequence[tuple[int, int]],
    levels: Sequence[Level],
    fma: Roof | None,
    math: Roof | None,
) -> None:
    seconds = dict.fromkeys((level.name for level in levels), 0.0)
    for moved, distance in pairs:
        if row.repeat is not None:  # timed back to back: between two uses lies the kernel itself
            distance = row.working_set
        level = level_for(distance, levels)
        seconds[level.name] += moved / bandwidth(row, level).value
    memory = sum(seconds.values())
    row.roof_level = max(seconds, key=lambda name: seconds[name]) if memory else None
    taken = row.median / max(row.calls, 1.0) if row.repeat is None else row.repeat
    # What a kernel cannot be faster than: its memory, or all of its arithmetic.
    limits: list[tuple[float, str, Roof]] = []
    if row.roof_level is not None:
        level = next(each for each in levels if each.name == row.roof_level)
        limits.append((memory, row.roof_level, bandwidth(row, level)))
    arithmetic = [
        (work / peak.value, name, peak)
        for work, name, peak in (
            (row.flops, "compute", fma),
            (row.transcendentals, "math", math),
        )
        if peak is not None and work
    ]
    if arithmetic:
        _, name, peak = max(arithmetic, key=lambda part: part[0])
        limits.append((sum(part for part, *_ in arithmetic), name, peak))
    if not limits or taken <= 0:
        row.bound = "launch" if row.median < LAUNCH_SECONDS else None
        return
    least, row.bound, binding = max(limits, key=lambda limit: limit[0])
    row.roof_percent = 100 * least / taken
    row.roof_low = row.roof_percent * binding.value / binding.high
    row.roof_high = row.roof_percent * binding.value / binding.low
    if taken < LAUNCH_SECONDS and row.roof_percent < 50:
        row.bound = "launch"
    row.could_save = max(0.0, row.median - least * max(row.calls, 1.0))


def level_for(distance: int, levels: Sequence[Level]) -> Level:
    """The smallest level that holds so many bytes between two uses."""
    return next((level for level in levels if distance <= level.size), levels[-1])


def bandwidth(row: KernelRow, level: Level) -> Roof:
    """The roof of a kernel's mix: that of reading, or of two reads per write."""
    return level.read if row.bytes_written * 8 < row.bytes_read else level.triad

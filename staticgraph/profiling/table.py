"""A report as plain text: any width from 60 columns, no colour, no boxes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from staticgraph.profiling import units
from staticgraph.profiling.groups import grouped
from staticgraph.profiling.rows import Input, KernelRow, Profile

#: a word at the margin, then parts
Line = tuple[str, ...]

WORD = 13  # columns of the words that begin lines
NAME_LEAST = 16
MOST_INPUTS = 12
WHERE_LEAST = 24  # columns that the end of a path keeps beside more numbers

SORTS: dict[str, Callable[[KernelRow], object]] = {
    "time": lambda r: -r.share,
    "waste": lambda r: -(r.could_save or 0.0),
    "bytes": lambda r: -r.bytes,
    "name": lambda r: r.name,
    "plan": lambda r: r.index,
}


class Column(NamedTuple):
    """A heading, its text for a row, and its rank: where room is short, high ranks go first."""

    heading: str
    text: Callable[[Any], str]
    rank: int


def _optional(value: float | None, text: Callable[[float], str]) -> str:
    return "" if value is None else text(value)


def _ran(row: KernelRow, text: str, otherwise: str = "") -> str:
    """A text for a kernel that ran; in a branch that was never taken there is nothing to say."""
    return text if row.calls else otherwise


COLUMNS = (
    Column("median", lambda r: units.seconds(r.median) if r.calls else "-", 0),
    Column("+-", lambda r: _ran(r, units.seconds((r.ci.high - r.ci.low) / 2)), 7),
    Column("%", lambda r: units.percent(r.share), 0),
    Column("cum", lambda r: units.percent(r.cum), 6),
    Column("bytes", lambda r: units.size(r.bytes), 8),
    Column("GB/s", lambda r: _ran(r, units.digits(r.gbps)), 3),
    Column("GFLOP/s", lambda r: _ran(r, units.digits(r.gflops)), 2),
    Column("AI", lambda r: units.digits(r.intensity), 9),
    Column("roof", lambda r: _optional(r.roof_percent, "{:.0f}%".format), 1),
    Column("bound", lambda r: r.bound or _ran(r, "", "not run"), 4),
    Column("could save", lambda r: _optional(r.could_save, units.seconds), 10),
    Column("where", lambda r: r.label, 0),
)


#: columns of rows that are no kernels
GROUP_COLUMNS = (
    Column("time", lambda g: units.seconds(g.seconds), 0),
    Column("%", lambda g: units.percent(g.share), 0),
    Column("cum", lambda g: units.percent(g.cum), 3),
    Column("ops", lambda g: str(g.count), 4),
    Column("bytes", lambda g: units.size(g.bytes), 2),
    Column("flop", lambda g: units.count(g.flops), 1),
    Column("kernels", lambda g: _numbers(g.kernels), 5),
    Column("where", lambda g: g.where, 0),
)
GROUP_SORTS: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda g: -g.bytes,
    "name": lambda g: g.name,
}


def _numbers(kernels: Sequence[int]) -> str:
    text = ",".join(f"#{k}" for k in kernels[:3])
    return text + (",..." if len(kernels) > 3 else "")


def render(
    report: Profile,
    width: int = 80,
    top: int = 20,
    sort: str = "time",
    *,
    select: str | None = None,
    by: str = "kernel",
) -> str:
    """The report; `top` = 0 shows every row, `select` those whose name fits the pattern.

    `width` 0 stands for records, a line each, with tabs between their fields.
    """
    if by == "kernel":
        rows = kernels(report, width, top, sort, select)
    else:
        rows = groups(report, width, top, sort, select, by)
    lines = [
        *flowed(_head(report), width),
        "",
        *rows,
        "",
        *flowed(_foot(report), width),
    ]
    return "\n".join(each[: width or None].rstrip(" ") for each in lines)


def line(word: str, *parts: str) -> Line:
    return (word, *(p for p in parts if p))


def flowed(lines: Iterable[Line], width: int) -> Iterator[str]:
    """Lines of a word and parts; what no longer fits goes to the next line, long parts by words.

    `width` 0: a tab between a word and each part.
    """
    last = ""
    for word, *parts in lines:
        last = word or last
        if not width:
            yield "\t".join([last, *parts])
            continue
        text = f"{word:<{WORD}}" if len(word) < WORD else f"{word}  "
        begun = False
        for part in parts:
            if begun and len(text) + 3 + len(part) > width:
                yield text
                text, begun = " " * WORD, False
            if begun or len(text) + len(part) <= width:
                text += f"   {part}" if begun else part
            else:
                *full, text = textwrap.wrap(
                    part, width, initial_indent=text, subsequent_indent=" " * WORD
                )
                yield from full
            begun = True
        yield text


def _head(report: Profile) -> list[Line]:
    m, c, wall = report.model, report.compile, report.wall
    mix = ", ".join(f"{n} {kind}" for kind, n in m.kernel_mix.items())
    origins = sorted({i.origin for i in m.inputs})
    first = [
        line(m.name or "model", f"{m.description}  {' '.join(m.dtypes)}",
             f"{units.some(m.nodes, 'node')} -> {units.some(m.kernels, 'kernel')}"
             + f" ({mix})" * bool(mix)),
        line("inputs", _inputs(m.inputs), ", ".join(origins)),
    ]  # fmt: skip
    if report.machine is not None:
        first.append(_machine(report))
    process = f"{wall.processes} process{'es' * (wall.processes > 1)}"
    runs = f"{units.some(wall.runs, 'run')}, {units.some(wall.outliers, 'outlier')}"
    return [
        *first,
        line("compile", f"{units.seconds(c.total)} = passes"
             f" {units.seconds(sum(p.seconds for p in c.passes))} + plan {units.seconds(c.plan)}"
             f" + kernels {units.seconds(c.kernels)}",
             f"cache {c.cache_hits} hit, {c.cache_misses} new"),
        line("wall", units.seconds(wall.median),
             f"99 % CI [{units.seconds(wall.ci.low)}, {units.seconds(wall.ci.high)}]",
             f"min {units.seconds(wall.min)}", f"p95 {units.seconds(wall.p95)}"),
        line("", f"{process}, {runs}",
             f"warm-up {wall.warmup} ({'stable' if wall.stable else 'NOT stable'})",
             "INTERRUPTED" if report.interrupted else ""),
        line("accounted", f"kernels {units.percent(report.coverage.kernels)} %",
             *(f"{g.name} {units.percent(g.share)} %" for g in report.gaps)),
        line("", *report.overhead.note.split("; ")),
        *([line("counters", *counters(report))] if report.counters else []),
    ]  # fmt: skip


def _inputs(rows: Sequence[Input]) -> str:
    """'x: f32[8, 16], label: i64[8]'; of very many the first."""
    said = [f"{i.name}: {i.type}" for i in rows[:MOST_INPUTS]]
    if len(rows) > MOST_INPUTS:
        said.append(f"{len(rows) - MOST_INPUTS} more")
    return ", ".join(said) or "none"


def counters(report: Profile) -> list[str]:
    """What the processor counted per call, and instructions per cycle."""
    found = report.counters
    said = [f"{units.count(v)} {name.replace('-', ' ')}" for name, v in found.items()]
    if found.get("cycles") and "instructions" in found:
        said.append(f"{found['instructions'] / found['cycles']:.2f} instructions per cycle")
    return [*said, "per call"]


def _machine(report: Profile) -> Line:
    m = report.machine
    assert m is not None
    spread = max(max(level.triad.cv for level in m.levels), m.sgemm.cv)
    peaks = [
        f"{short} {units.rate(m.fma[dtype].value, 'FLOP')}"
        for short, dtype, kinds in (
            ("f32", "float32", {"float32", "complex64"}),
            ("f64", "float64", {"float64", "complex128"}),
        )
        if dtype in m.fma and kinds & set(report.model.dtypes)
    ]
    return line(
        "machine",
        m.cpu.partition(" (")[0],
        f"DRAM {units.rate(m.levels[-1].triad.value, 'B')}",
        *peaks,
        f"measured {m.date}, +-{100 * spread:.0f} %",
        f"while it was busy ({m.busy}): roofs may be too low -> staticgraph machine --redo"
        if m.busy
        else "",
    )


def kernels(
    report: Profile, width: int, top: int, sort: str, select: str | None = None
) -> list[str]:
    """The kernel table with a line for what it leaves out."""
    chosen = [r for r in report.kernels if select is None or fnmatchcase(r.name, select)]
    chosen.sort(key=SORTS[sort])  # type: ignore[arg-type]
    return _body(chosen, COLUMNS, width, top, "kernel", lambda r: str(r.index), title)


def groups(
    report: Profile, width: int, top: int, sort: str, select: str | None, by: str
) -> list[str]:
    """The table by op, line or scope."""
    chosen = grouped(report, by, select)
    if sort in GROUP_SORTS:
        chosen.sort(key=GROUP_SORTS[sort])
    number = {id(g): str(k) for k, g in enumerate(chosen, 1)}
    return _body(chosen, GROUP_COLUMNS, width, top, by, lambda g: number[id(g)], lambda g: g.name)


def _body(
    chosen: Sequence[Any],
    every: Sequence[Column],
    width: int,
    top: int,
    what: str,
    number: Callable[[Any], str],
    title: Callable[[Any], str],
) -> list[str]:
    """Rows under their headings, as many columns as there is room for."""
    if not chosen:
        return [f"     no {what} of that name"]
    shown = chosen if top == 0 else chosen[:top]
    if not width:
        rows = [[number(r), title(r), *(c.text(r) for c in every)] for r in shown]
        return ["\t".join(row) for row in [["#", what, *(c.heading for c in every)], *rows]]
    columns = list(every)
    longest = max((len(title(r)) for r in shown), default=NAME_LEAST)
    while _width(columns, shown) + NAME_LEAST + 5 > width and max(c.rank for c in columns):
        columns.remove(max(columns, key=lambda c: c.rank))
    name = max(NAME_LEAST, min(width - _width(columns, shown) - 5, longest))
    cells = [[c.text(r) for c in columns] for r in shown]
    wide = [max(map(len, (c.heading, *col))) for c, col in zip(columns, _turned(cells, columns),
                                                               strict=True)]  # fmt: skip
    lines = [_row("#", what, name, [c.heading for c in columns], wide, width)]
    lines += [_row(number(r), title(r), name, text, wide, width)
              for r, text in zip(shown, cells, strict=True)]  # fmt: skip
    rest = chosen[len(shown) :]
    if rest:
        share = sum(r.share for r in rest)
        lines.append(f"     {len(rest)} more {what}{'s'[: len(rest) - 1]} {units.percent(share)} %")
    return lines


def title(row: KernelRow) -> str:
    return f"{row.name} [{len(row.ops)} ops]" if len(row.ops) > 1 else row.name


def _turned(cells: Sequence[Sequence[str]], columns: Sequence[Column]) -> list[list[str]]:
    return [[row[k] for row in cells] for k in range(len(columns))]


def _width(columns: Sequence[Column], rows: Sequence[Any]) -> int:
    """Of all columns; the last one, a path, may be cut."""
    *wide, where = [max(map(len, (c.heading, *map(c.text, rows)))) for c in columns]
    return sum(2 + n for n in wide) + 2 + min(where, WHERE_LEAST)


def _row(
    number: str, name: str, room: int, cells: Sequence[str], wide: Sequence[int], width: int
) -> str:
    name = name if len(name) <= room else name[: room - 1] + "~"
    *numbers, where = cells
    text = "".join(f"  {cell:>{n}}" for cell, n in zip(numbers, wide, strict=False))
    line = f"{number:>3}  {name:<{room}}{text}  "
    left = max(width - len(line), 1)
    return line + (where if len(where) <= left else f"~{where[len(where) - left + 1 :]}")


def _foot(report: Profile) -> list[Line]:
    m = report.memory
    kinds = ", ".join(f"{kind} {units.size(n)}" for kind, n in sorted(m.by_kind.items()))
    at = f" at #{m.peak_kernel}" if m.peak and m.peak_kernel is not None else ""
    lines = [
        *_threads(report),
        line("memory", f"peak {units.size(m.peak)}{at}" + (f" ({kinds})" if kinds else "")),
        line("", f"largest live sum of this order {units.size(m.lower_bound)}",
             f"inputs {units.size(m.inputs)}", f"outputs {units.size(m.outputs)}",
             f"state {units.size(m.state)}"),
    ]  # fmt: skip
    word = "advice"
    for a in report.advice:
        lines.append(line(word, a.text))
        lines.append(line("", f"-> {a.command}"))
        word = ""
    return [*lines, line("noise", report.noise.note)]


def _threads(report: Profile) -> list[Line]:
    rows = [r for r in report.kernels if r.threads_busy]
    whole = sum(r.total for r in rows)
    if not whole:
        return []
    count = report.model.threads
    busy = [
        sum(r.threads_busy[k] * r.total for r in rows if k < len(r.threads_busy)) / whole
        for k in range(count)
    ]
    worst = max(rows, key=lambda r: r.imbalance * r.total)
    note = ""
    if worst.imbalance > 0:
        note = f"worst imbalance: #{worst.index} {worst.name} {100 * worst.imbalance:.0f} %"
    return [line("threads", "busy " + " / ".join(f"{100 * b:.0f} %" for b in busy), note)]

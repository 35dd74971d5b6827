"""A report as one HTML file: no network, readable without its script, and readable by `show`.

Everything is in the page as text and SVG; the script sorts, filters and points. The report itself
stands in it as JSON, compressed where it is large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from staticgraph.profiling import pictures, units
from staticgraph.profiling.pagecode import Code, panes
from staticgraph.profiling.pagedata import embedded
from staticgraph.profiling.rows import KernelRow, Profile

#: a page grows no larger: assembly of the cheapest kernels is left out first, then their source
PAGE_BYTES = 1_450_000
_KINDS = ("activation", "gradient", "temporary", "workspace")


class Column(NamedTuple):
    """A column of the kernel table: what its heading means, a cell's text, what it sorts by."""

    heading: str
    meaning: str
    text: Callable[[KernelRow], str]
    value: Callable[[KernelRow], float | None] | None = None  # None: sorts as text
    kind: str = ""


def _roof(r: KernelRow) -> str:
    return "" if r.roof_percent is None else f"{r.roof_percent:.0f} %"


def _ran(row: KernelRow, text: str, otherwise: str = "") -> str:
    """A text for a kernel that ran; branches that are never taken hold others."""
    return text if row.calls else otherwise


COLUMNS = (
    Column("#", "Place in the plan", lambda r: str(r.index), lambda r: r.index),
    Column("kernel", "Made of these ops", lambda r: r.name, None, "left name"),
    Column("median", "Median of all stamped runs, with half of its 99 % confidence interval",
           lambda r: _ran(r, units.seconds(r.median)), lambda r: r.median),
    Column("±", "Half of the median's 99 % confidence interval",
           lambda r: _ran(r, units.seconds((r.ci.high - r.ci.low) / 2)),
           lambda r: r.ci.high - r.ci.low),
    Column("time %", "Part of the stamped wall time", lambda r: units.percent(r.share),
           lambda r: r.share, "share"),
    Column("bytes", "Read and written, exact", lambda r: units.size(r.bytes), lambda r: r.bytes),
    Column("GB/s", "Bytes over measured time", lambda r: _ran(r, units.digits(r.gbps)),
           lambda r: r.gbps),
    Column("GFLOP/s", "Operations, exact, over measured time",
           lambda r: _ran(r, units.digits(r.gflops)), lambda r: r.gflops),
    Column("flop/B", "Arithmetic intensity", lambda r: units.digits(r.intensity),
           lambda r: r.intensity),
    Column("roof", "Part of this machine's measured limit at the level it runs from", _roof,
           lambda r: r.roof_percent, "roof"),
    Column("bound", "What limits it: arithmetic, functions such as exp (math), memory, its start",
           lambda r: r.bound or _ran(r, "", "not run"), None, "left"),
    Column("could save", "Time per call if it ran at its roof",
           lambda r: "" if r.could_save is None else units.seconds(r.could_save),
           lambda r: r.could_save),
    Column("threads", "Busy threads, on average", lambda r: _ran(r, f"{r.workers:.1f}"),
           lambda r: r.workers),
    Column("where", "Line of the model; (grad): of the op it is the derivative of",
           lambda r: r.label, None, "left where"),
)  # fmt: skip


@cache
def _part(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def page(
    report: Profile,
    codes: dict[str, Code] | None,
    text: str,
    more: Sequence[tuple[str, str]] = (),
) -> str:
    """The whole page. `codes` by kernel key, None to leave code out; `text` is the report's JSON.

    `codes` may lack kernels that this machine no longer has. `more` are sections of the caller's:
    (title, HTML).
    """
    name = report.model.name or "model"
    sections = [
        ("Overview", "overview", _tiles(report)),
        ("Advice", "advice", _advice(report)),
        ("Kernels", "kernel-table", _kernels(report)),
        ("Roofline", "roofline", _roofline(report)),
        ("Memory", "memory", _memory(report)),
        *((escape(title), f"more-{k}", made) for k, (title, made) in enumerate(more, 1)),
        ("Graph", "graph", _graph(report)),
        ("Threads", "threads", _threads(report)),
        ("Details", "details", _details(report)),
    ]
    kind, data = embedded(text)
    parts = {
        "title": escape(f"{name} profile"),
        "name": escape(name),
        "lead": escape(_lead(report)),
        "style": _part("page.css"),
        "script": _part("page.js"),
        "kind": kind,
        "data": data,
        "footer": escape(_footer(report)),
    }
    body = [_section(title, key, made) for title, key, made in sections if made]
    links = [(title, key) for title, key, made in sections if made]
    made = _filled(parts, body, links)
    if codes is None:
        return made
    room = PAGE_BYTES - len(made.encode())
    body.append(_section("Code", "code", "".join(panes(report, codes, room))))
    return _filled(parts, body, [*links, ("Code", "code")])


def _filled(parts: dict[str, str], body: Sequence[str], links: Sequence[tuple[str, str]]) -> str:
    nav = "".join(f'<a href="#{key}">{title}</a>' for title, key in links)
    return Template(_part("page.html")).substitute(parts, nav=nav, body="\n".join(body))


def _section(title: str, key: str, made: str) -> str:
    return f'<section id="{key}"><h2>{title}</h2>\n{made}</section>'


# ---------------------------------------------------------------------------- words and numbers


def _lead(report: Profile) -> str:
    m = report.model
    mix = ", ".join(f"{n} {kind}" for kind, n in m.kernel_mix.items())
    parts = [m.description, " ".join(m.dtypes), f"{m.nodes} nodes in {m.kernels} kernels ({mix})"]
    parts.append(f"{m.threads} thread{'s' * (m.threads != 1)}")
    if report.machine is not None:
        parts.append(report.machine.cpu.partition(" (")[0])
    return "  ·  ".join(filter(None, parts))


def _footer(report: Profile) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in report.model.versions.items())
    return f"Measured {report.created[:16].replace('T', ' ')} UTC.  {versions}"


def _tiles(report: Profile) -> str:
    w, m, c = report.wall, report.memory, report.compile
    flops = sum(r.flops * r.calls for r in report.kernels)
    moved = sum(r.bytes * r.calls for r in report.kernels)
    save = sum(r.could_save or 0.0 for r in report.kernels)
    roofed = report.machine is not None
    tiles = [
        (units.seconds(w.median), "per call",
         f"99 % CI {units.seconds(w.ci.low)} to {units.seconds(w.ci.high)}"),
        (f"{units.percent(report.coverage.kernels)} %", "of it in kernels",
         ", ".join(f"{g.name} {units.percent(g.share)} %" for g in report.gaps)),
        (units.rate(flops / w.median, "FLOP") if w.median else "", "computed",
         f"{units.rate(moved / w.median, 'B')} moved" if w.median else ""),
        (units.size(m.peak), "of memory at the peak",
         f"inputs {units.size(m.inputs)}, state {units.size(m.state)}"),
        (units.seconds(save), "could be saved", "if each kernel ran at its measured roof")
        if roofed else ("", "", ""),
        (units.seconds(c.total), "to compile",
         f"{c.cache_hits} kernels cached, {c.cache_misses} new"),
    ]  # fmt: skip
    words = f"{report.overhead.note}; {report.noise.note}."
    if report.machine is not None and report.machine.busy:
        words += (
            f" The roofs were measured while the machine was busy ({report.machine.busy}), and may"
            " be too low."
        )
    note = f'<p class="note">{escape(words[0].upper() + words[1:])}</p>'
    if report.interrupted:
        note = (
            '<p class="note">The measurement was interrupted: fewer runs than asked for.</p>' + note
        )
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><div class="what">{escape(what)}</div>'
        f"<span>{escape(more)}</span></div>"
        for value, what, more in tiles
        if value
    )
    return f'{note}<div class="tiles">{cells}</div>'


def _advice(report: Profile) -> str:
    items = "".join(
        f"<li>{_linked(escape(a.text), a.kernel)}<code>{escape(a.command)}</code></li>"
        for a in report.advice
    )
    return f'<ul class="advice">{items}</ul>' if items else ""


def _linked(text: str, kernel: int | None) -> str:
    """A text in which the number of a kernel leads to its row."""
    if kernel is None:
        return text
    return text.replace(f"#{kernel} ", f'<a href="#k{kernel}">#{kernel}</a> ', 1)


def _kernels(report: Profile) -> str:
    heads = "".join(map(_head, COLUMNS))
    rows = sorted(report.kernels, key=lambda r: -r.share)
    most = max((r.share for r in rows), default=0.0)
    made = "\n".join(_row(r, most) for r in rows)
    return (
        '<p class="note">Rates are exact bytes and operations over measured time. A roof is a'
        " measurement as well, so that more than 100 % is possible.</p>"
        '<p class="tools js-only"><input id="filter" type="search" aria-label="Filter kernels"'
        ' placeholder="Filter by kernel, op or line"><span id="shown"></span></p>'
        f'<div class="wide"><table id="kernels"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{made}\n</tbody></table></div>"
    )


def _head(c: Column) -> str:
    kind = ' class="left"' if c.kind.startswith("left") else ""
    sorts = "number" if c.value else "text"
    first = ' aria-sort="descending"' if c.kind == "share" else ""
    return (
        f'<th scope="col"{kind} data-kind="{sorts}" title="{escape(c.meaning)}"{first}>'
        f"{escape(c.heading)}</th>"
    )


def _row(r: KernelRow, most: float) -> str:
    cells = []
    for c in COLUMNS:
        value = "" if c.value is None else f' data-v="{_plain(c.value(r))}"'
        kind = f"{c.kind} low" if c.kind == "roof" and 0 <= (r.roof_percent or 100) < 50 else c.kind
        style = f' style="--s:{r.share / most if most else 0:.3f}"' if c.kind == "share" else ""
        kinds = f' class="{kind}"' if kind else ""
        text = escape(c.text(r))
        if c.heading == "where" and text:
            text = f'<bdi dir="ltr">{text}</bdi>'  # cut from the left, where it is too long
        if c.heading == "kernel":
            text += f" <small>{len(r.ops)} ops</small>" if len(r.ops) > 1 else ""
            kinds += f' title="{escape(_made_of(r))}"'
        cells.append(f"<td{kinds}{value}{style}>{text}</td>")
    return f'<tr id="k{r.index}" data-ops="{escape(" ".join(r.ops))}">{"".join(cells)}</tr>'


def _plain(value: float | None) -> str:
    return "-1" if value is None else f"{value:.6g}"


def _made_of(r: KernelRow) -> str:
    lines = [r.name, " ".join(r.ops), ", ".join(r.shapes[:6])]
    lines += [f"lines {', '.join(map(str, r.lines[:6]))}"] if r.lines else []
    if r.threads_busy:
        busy = " / ".join(f"{100 * b:.0f} %" for b in r.threads_busy)
        lines.append(f"threads busy {busy}, imbalance {100 * r.imbalance:.0f} %")
    if r.recomputed:
        lines.append("computed again to save memory")
    lines.append(f"compiled in {units.seconds(r.compile_seconds)}, {r.origin or 'no code'}")
    return "\n".join(filter(None, lines))


def _roofline(report: Profile) -> str:
    drawn = pictures.roofline(report)
    if not drawn:
        return ""
    without = sum(not (r.intensity > 0 and r.gflops > 0) for r in report.kernels)
    note = (
        "A point is a kernel, its size and colour the time it takes. Lines are what this machine"
        " was measured to do at most, the bands below them go down to the median of the rounds."
        if report.machine is not None
        else "A point is a kernel, its size and colour the time it takes. No roofs were measured."
    )
    if without:
        kernels = units.some(without, "kernel")
        verb = "is" if without == 1 else "are"
        note += f" {kernels} without arithmetic, or that did not run, {verb} not drawn."
    return f'<p class="note">{note}</p><div class="frame">{drawn}</div>'


def _memory(report: Profile) -> str:
    m = report.memory
    drawn = pictures.memory(report)
    at = f" at kernel #{m.peak_kernel}" if m.peak_kernel is not None else ""
    note = (
        f"Intermediate values take {units.size(m.peak)} at the peak{at}; the largest live sum of"
        f" this order is {units.size(m.lower_bound)}. Beside them: inputs {units.size(m.inputs)},"
        f" outputs {units.size(m.outputs)}, state {units.size(m.state)}, constants"
        f" {units.size(m.constants)}."
    )
    if not drawn:
        return f'<p class="note">{escape(note)}</p>'
    used = [k for k in _KINDS if any(b.kind == k for b in m.buffers)]
    legend = "".join(f'<span><i class="{k}"></i>{k}</span>' for k in used)
    rows = [
        (escape(b.what), escape(b.type), units.size(b.bytes), f"{b.born} to {b.dies}", b.kind,
         escape(str(b.where or "") + (" (grad)" if b.is_gradient else "")))
        for b in m.live
    ]  # fmt: skip
    table = _table(["live at the peak", "type", "size", "steps", "kind", "where"], rows, "lcrrll")
    return (
        f'<p class="note">{escape(note)} A box is a buffer: its place in memory, and the steps it'
        " is needed for; the line is the sum of those alive.</p>"
        f'<div class="frame">{drawn}<p class="legend">{legend}</p>'
        '<p id="live" class="js-only">Point at a step to see what is alive there.</p></div>'
        f"<details><summary>{len(m.live)} buffers alive at the peak</summary>{table}</details>"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    kinds = [' class="left"' if a in "lc" else "" for a in align]
    top = "".join(f"<th{k}>{escape(h)}</th>" for k, h in zip(kinds, heads, strict=True))
    made = "".join(
        "<tr>" + "".join(f"<td{k}>{c}</td>" for k, c in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{made}</tbody></table></div>'
    )


def _graph(report: Profile) -> str:
    drawn = pictures.graph(report)
    if not drawn:
        return ""
    legend = '<span>less time <i class="heat"></i> more</span>'
    if any(r.is_gradient for r in report.kernels):
        legend += "<span>dashed: part of a derivative</span>"
    return (
        '<p class="note">A box is a kernel with all ops fused into it; arrows are values that go'
        " through memory. Variables stand in the boxes.</p>"
        f'<div class="frame tall" id="graph-frame">{drawn}</div>'
        f'<p class="legend">{legend}<button id="fit" class="js-only">show all of it</button></p>'
    )


def _threads(report: Profile) -> str:
    drawn = pictures.threads(report)
    if not drawn:
        return ""
    note = f"One of the {len(report.timeline)} runs nearest to the median, from its begin."
    return f'<p class="note">{note}</p><div class="frame">{drawn}</div>'


def _details(report: Profile) -> str:
    c, m = report.compile, report.machine
    passes = [
        (escape(p.name), units.seconds(p.seconds), str(p.before), str(p.after)) for p in c.passes
    ]
    passes += [
        ("plan", units.seconds(c.plan), "", ""),
        ("kernels", units.seconds(c.kernels), "", ""),
    ]
    parts = [("Compiling", ["stage", "time", "nodes before", "after"], passes, "lrrr")]
    inputs = [(escape(i.name), escape(i.type), escape(i.origin)) for i in report.model.inputs]
    if inputs:
        parts.append(("Inputs", ["name", "type", "values"], inputs, "lll"))
    if m is not None:
        roofs = [
            (level.name, units.rate(level.triad.value, "B"), units.rate(level.read.value, "B"),
             f"{100 * level.triad.cv:.1f} %")
            for level in m.levels
        ]  # fmt: skip
        roofs += [
            (f"{name} FMA", units.rate(r.value, "FLOP"), "", f"{100 * r.cv:.1f} %")
            for name, r in m.fma.items()
        ]
        roofs += [
            (f"{name} exp", units.rate(r.value, "calls"), "", f"{100 * r.cv:.1f} %")
            for name, r in m.math.items()
        ]
        heads = ["measured roof", "triad or peak", "reading", "spread"]
        parts.append((f"Machine, measured {m.date}", heads, roofs, "lrrr"))
    if report.counters:
        counts = [(escape(name), units.count(v)) for name, v in report.counters.items()]
        parts.append(("Counted per call", ["event", "number"], counts, "lr"))
    made = "".join(
        f"<div><h2>{escape(title)}</h2>{_table(heads, rows, align)}</div>"
        for title, heads, rows, align in parts
    )
    return f'<div class="columns">{made}</div>'

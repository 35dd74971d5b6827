"""The pictures of a report as SVG text. Colours come from the page's style sheet, by class and by
the properties --s (part of the time, 0 to 1) and --h (hue); `<title>` is what a pointer shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import pairwise

from staticgraph.profiling import layout, units
from staticgraph.profiling.rows import Event, KernelRow, Level, LiveRow, Profile, Roof

WIDTH = 960
LABELLED = 8  # points of the roofline that carry their number
GOLDEN_ANGLE = 137.508  # hues of neighbours lie far apart
_CHARACTER, _LINE = 7.5, 15.0
_NAME = 30  # characters of a name in a box


def _svg(width: float, height: float, label: str, parts: Iterable[str], **more: str) -> str:
    attrs = "".join(f' {k}="{escape(v)}"' for k, v in more.items())
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}"'
        f"{attrs}>" + "".join(parts) + "</svg>"
    )


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "", more: str = "") -> str:
    kinds = f' class="{kind}"' if kind else ""
    anchors = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kinds}{anchors}{more}>{escape(words)}</text>'


def _line(x0: float, y0: float, x1: float, y1: float, kind: str) -> str:
    return f'<path class="{kind}" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"/>'


def heat(row: KernelRow, rows: Sequence[KernelRow]) -> str:
    """A style that says how much of the time a kernel takes, the dearest being 1."""
    most = max((r.share for r in rows), default=0.0)
    return f"--s:{row.share / most if most else 0:.2f}"


def about(row: KernelRow) -> str:
    """What a pointer over a kernel shows."""
    lines = [
        f"#{row.index} {row.name}",
        f"{units.seconds(row.median)}, {units.percent(row.share)} % of the time"
        if row.calls
        else "not run",
        f"{units.rate(row.gbps * 1e9, 'B')}, {units.rate(row.gflops * 1e9, 'FLOP')},"
        f" {units.digits(row.intensity)} flop/B",
    ]
    if row.roof_percent is not None:
        lines.append(f"{row.roof_percent:.0f} % of its roof, bound by {row.bound or 'nothing'}")
    return "\n".join(filter(None, [*lines, row.label]))


# ---------------------------------------------------------------------------- roofline


class _Axes:
    """Two logarithmic axes and the area between them."""

    left, right, top, bottom = 64.0, WIDTH - 20.0, 16.0, 380.0

    def __init__(self, xs: Sequence[float], ys: Sequence[float]):
        self.x0, self.x1 = self._range(xs)
        self.y0, self.y1 = self._range(ys)

    @staticmethod
    def _range(values: Sequence[float]) -> tuple[float, float]:
        logs = [math.log10(v) for v in values]
        return min(logs) - 0.35, max(logs) + 0.35

    def x(self, value: float) -> float:
        part = (math.log10(value) - self.x0) / (self.x1 - self.x0)
        return self.left + part * (self.right - self.left)

    def y(self, value: float) -> float:
        part = (math.log10(value) - self.y0) / (self.y1 - self.y0)
        return self.bottom - part * (self.bottom - self.top)

    def grid(self) -> Iterator[str]:
        for value in _ticks(self.x0, self.x1):
            x = self.x(value)
            yield _line(x, self.top, x, self.bottom, "grid")
            yield _text(x, self.bottom + 18, f"{value:g}", "tick", "middle")
        for value in _ticks(self.y0, self.y1):
            y = self.y(value)
            yield _line(self.left, y, self.right, y, "grid")
            yield _text(self.left - 8, y + 4, f"{value:g}", "tick", "end")
        middle = (self.left + self.right) / 2
        yield _text(middle, self.bottom + 40, "intensity, flop per byte moved", "axis", "middle")
        turned = f' transform="rotate(-90 14 {(self.top + self.bottom) / 2:.0f})"'
        yield _text(14, (self.top + self.bottom) / 2, "GFLOP/s", "axis", "middle", turned)


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and 2 and 5 times those where the axis is short."""
    steps = (1.0, 2.0, 5.0) if high - low < 3 else (1.0,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [step * 10.0**k for k in powers for step in steps]
    return [v for v in found if low <= math.log10(v) <= high]


def roofline(report: Profile) -> str:
    """Kernels by intensity and rate, under the roofs where they were measured; '' without any."""
    drawn = [r for r in report.kernels if r.intensity > 0 and r.gflops > 0]
    if not drawn:
        return ""
    slopes, flats = _roofs(report)
    ridges = [f.value / s.triad.value for s in slopes for _, f in flats]
    axes = _Axes(
        [r.intensity for r in drawn] + ridges,
        [r.gflops for r in drawn] + [f.value / 1e9 for _, f in flats],
    )
    clip = (
        f'<clipPath id="area"><rect x="{axes.left}" y="{axes.top}" height="'
        f'{axes.bottom - axes.top}" width="{axes.right - axes.left}"/></clipPath>'
    )
    parts = [clip, *axes.grid(), '<g clip-path="url(#area)">', *_bands(axes, slopes, flats), "</g>"]
    for row in sorted(drawn, key=lambda r: -r.share):
        x, y = axes.x(row.intensity), axes.y(row.gflops)
        radius = 4 + 9 * math.sqrt(row.share)
        parts.append(
            f'<a href="#k{row.index}"><circle class="point" cx="{x:.1f}" cy="{y:.1f}"'
            f' r="{radius:.1f}" style="{heat(row, report.kernels)}">'
            f"<title>{escape(about(row))}</title></circle></a>"
        )
    parts += _numbers(axes, sorted(drawn, key=lambda r: -r.share)[:LABELLED])
    return _svg(WIDTH, axes.bottom + 48, "roofline", parts)


def _numbers(axes: _Axes, rows: Sequence[KernelRow]) -> Iterator[str]:
    """Numbers beside points, as far as they do not stand on each other."""
    taken: list[tuple[float, float]] = []
    for row in rows:
        x = axes.x(row.intensity) + 7 + 9 * math.sqrt(row.share)
        y = axes.y(row.gflops) + 4
        if all(abs(x - u) > 26 or abs(y - v) > 12 for u, v in taken):
            taken.append((x, y))
            yield _text(x, y, f"#{row.index}", "label")


def _roofs(report: Profile) -> tuple[list[Level], list[tuple[str, Roof]]]:
    """Bandwidths and peaks for as many threads as the model runs on."""
    m = report.machine
    if m is None:
        return [], []
    many = report.model.threads > 1
    peaks = m.fma if many else m.fma_one
    used = [d for d in peaks if d in report.model.dtypes] or list(peaks)[:1]
    return (m.levels if many else m.levels_one), [(d, peaks[d]) for d in used]


def _bands(
    axes: _Axes, slopes: Sequence[Level], flats: Sequence[tuple[str, Roof]]
) -> Iterator[str]:
    """Each roof as a line at its value and a band down to its median."""
    low, high = 10.0**axes.x0, 10.0**axes.x1
    top = max((f.value for _, f in flats), default=10.0**axes.y1 * 1e9)
    angle = -math.degrees(
        math.atan2(axes.y(1.0) - axes.y(10.0), axes.x(10.0) - axes.x(1.0))
    )  # fmt: skip
    for number, level in enumerate(slopes):
        fast, slow = level.triad.value, min(level.triad.low, level.triad.value)
        end = top / fast
        points = [(low, fast * low), (end, fast * end), (end, slow * end), (low, slow * low)]
        hover = (
            f"{level.name}: {units.rate(fast, 'B')} (a + s b), median of rounds"
            f" {units.rate(slow, 'B')}"
        )
        yield _band(axes, points, "memory", hover)
        # Names stand along the lines, one after another, where the area shows them.
        begin = max(low, 10.0**axes.y0 * 1e9 / fast)
        at = begin * (end / begin) ** (0.12 + 0.10 * number)
        x, y = axes.x(at), axes.y(fast * at / 1e9) - 6
        yield _text(x, y, f"{level.name} {units.rate(fast, 'B')}", "roofname", "",
                    f' transform="rotate({angle:.1f} {x:.1f} {y:.1f})"')  # fmt: skip
    fastest = max((s.triad.value for s in slopes), default=0.0)
    for name, roof in flats:
        begin = roof.value / fastest if fastest else low
        points = [(begin, roof.value), (high, roof.value), (high, roof.low), (begin, roof.low)]
        words = f"{name} FMA {units.rate(roof.value, 'FLOP')}"
        yield _band(axes, points, "peak", f"{words}, median {units.rate(roof.low, 'FLOP')}")
        yield _text(axes.right - 6, axes.y(roof.value / 1e9) - 6, words, "roofname", "end")


def _band(axes: _Axes, points: Sequence[tuple[float, float]], kind: str, hover: str) -> str:
    places = [f"{axes.x(x):.1f} {axes.y(y / 1e9):.1f}" for x, y in points]
    return (
        f'<g><title>{escape(hover)}</title><path class="band {kind}" d="M{"L".join(places)}Z"/>'
        f'<path class="roof {kind}" d="M{"L".join(places[:2])}"/></g>'
    )


# ---------------------------------------------------------------------------- memory


def memory(report: Profile) -> str:
    """The arena over the steps of the plan: a box for each buffer, a line for the live sum."""
    m = report.memory
    if not m.peak or not m.timeline:
        return ""
    left, right, top, bottom = 64.0, WIDTH - 12.0, 14.0, 268.0
    wide = (right - left) / len(m.timeline)
    tall = (bottom - top) / m.peak
    parts = []
    for part in (0.25, 0.5, 0.75, 1.0):
        y = bottom - part * (bottom - top)
        parts.append(_line(left, y, right, y, "grid"))
        parts.append(_text(left - 8, y + 4, units.size(part * m.peak), "tick", "end"))
    for b in m.buffers:
        x, y = left + b.born * wide, bottom - (b.offset + b.bytes) * tall
        parts.append(
            f'<rect class="buffer {b.kind}" x="{x:.1f}" y="{y:.1f}" rx="1.5"'
            f' width="{max(0.8, (b.dies - b.born + 1) * wide - 0.8):.1f}"'
            f' height="{max(0.8, b.bytes * tall - 0.8):.1f}" data-born="{b.born}"'
            f' data-dies="{b.dies}" data-bytes="{b.bytes}" data-what="{escape(_held(b))}">'
            f"<title>{escape(_buffer(b))}</title></rect>"
        )
    stairs = [f"{left:.1f} {bottom:.1f}"]
    for k, live in enumerate(m.timeline):
        y = bottom - live * tall
        stairs += [f"{left + k * wide:.1f} {y:.1f}", f"{left + (k + 1) * wide:.1f} {y:.1f}"]
    parts.append(f'<path class="live" d="M{"L".join(stairs)}"/>')
    x = left + (m.peak_step + 0.5) * wide
    parts.append(_line(x, top, x, bottom, "mark"))
    end = "end" if x > WIDTH / 2 else "start"
    parts.append(_text(x + (-5 if end == "end" else 5), top + 10, "peak", "label", end))
    every = max(1, len(m.timeline) // 12)
    for k in range(0, len(m.timeline), every):
        parts.append(_text(left + (k + 0.5) * wide, bottom + 17, str(k), "tick", "middle"))
    parts.append(_text((left + right) / 2, bottom + 37, "step of the plan", "axis", "middle"))
    parts.append(f'<path class="cursor" data-top="{top}" data-bottom="{bottom}" d=""/>')
    where = {"id": "memory-plot", "data-left": f"{left}", "data-wide": f"{wide}"}
    where["data-steps"] = str(len(m.timeline))
    return _svg(WIDTH, bottom + 46, "memory over the steps of the plan", parts, **where)


def _held(b: LiveRow) -> str:
    return "  ".join(filter(None, [b.what, b.type, str(b.where or "")]))


def _buffer(b: LiveRow) -> str:
    lines = [b.what, f"{b.type}, {units.size(b.bytes)}, {b.kind}", f"steps {b.born} to {b.dies}"]
    return "\n".join(filter(None, [*lines, str(b.where or "")]))


# ---------------------------------------------------------------------------- graph


def graph(report: Profile) -> str:
    """Kernels as boxes coloured by time, and who hands values to whom."""
    if not any(r.reads or r.writes for r in report.kernels):
        return ""
    boxes = [_lines(r) for r in report.kernels]
    kinds = ["kernel"] * len(boxes)
    edges: list[tuple[int, int]] = []
    inputs: dict[str, int] = {}
    for k, row in enumerate(report.kernels):
        for name in row.reads:
            if name.startswith("#") and int(name[1:]) <= k:
                edges.append((int(name[1:]) - 1, k))
            elif name.startswith("input "):
                if name not in inputs:
                    inputs[name] = len(boxes)
                    boxes.append([_short(name)])
                    kinds.append("input")
                edges.append((inputs[name], k))
        for name in row.writes:
            if name.startswith("output "):
                edges.append((k, len(boxes)))
                boxes.append([name])
                kinds.append("result")
    sizes = [(max(map(len, b)) * _CHARACTER + 18, len(b) * _LINE + 12) for b in boxes]
    placed = layout.place(sizes, list(dict.fromkeys(edges)))
    pad = 8.0
    parts = [
        '<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6"'
        ' markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
        f'<g transform="translate({pad} {pad})">',
        *(f'<path class="edge" d="{_curve(points)}"/>' for points in placed.edges),
    ]
    for k, (lines, kind) in enumerate(zip(boxes, kinds, strict=True)):
        row = report.kernels[k] if k < len(report.kernels) else None
        parts.append(_box(lines, kind, row, report.kernels, placed.centres[k], sizes[k]))
    width, height = placed.width + 2 * pad, placed.height + 2 * pad
    more = {"style": f"width:{width:.0f}px;height:{height:.0f}px"}
    return _svg(width, height, "kernels and the values between them", [*parts, "</g>"], **more)


def _lines(row: KernelRow) -> list[str]:
    """What stands in a kernel's box."""
    old = [n.partition(" ")[2] for n in row.reads if n.startswith("variable ")]
    new = [n.partition(" ")[2] for n in row.writes if n.startswith("variable ")]
    lines = [
        f"#{row.index} {row.name}",
        f"{units.seconds(row.median)}  {units.percent(row.share)} %" if row.calls else "not run",
        row.label,
        f"reads {', '.join(old)}" if old else "",
        f"updates {', '.join(new)}" if new else "",
    ]
    return [_short(line) for line in lines if line]


def _short(text: str) -> str:
    return text if len(text) <= _NAME else f"{text[: _NAME - 1]}…"


def _box(
    lines: Sequence[str],
    kind: str,
    row: KernelRow | None,
    rows: Sequence[KernelRow],
    centre: tuple[float, float],
    size: tuple[float, float],
) -> str:
    (x, y), (w, h) = centre, size
    style = f' style="{heat(row, rows)}"' if row is not None else ""
    kind += " grad" if row is not None and row.is_gradient else ""
    parts = [
        f'<rect class="box {kind}" x="{x - w / 2:.1f}" y="{y - h / 2:.1f}" width="{w:.1f}"'
        f' height="{h:.1f}" rx="4"{style}/>'
    ]
    for n, line in enumerate(lines):
        base = y - h / 2 + 17 + n * _LINE
        parts.append(_text(x, base, line, "first" if n == 0 else "", "middle"))
    if row is None:
        return "".join(["<g>", *parts, "</g>"])
    hover = f"{about(row)}\n{' '.join(row.ops)}"
    return "".join([f'<a href="#k{row.index}"><title>{escape(hover)}</title>', *parts, "</a>"])


def _curve(points: Sequence[tuple[float, float]]) -> str:
    path = f"M{points[0][0]:.0f} {points[0][1]:.0f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        path += f"C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {y1:.0f}"
    return path


# ---------------------------------------------------------------------------- threads


def threads(report: Profile) -> str:
    """One run, the middle one of those kept: what each thread did when."""
    if not report.timeline:
        return ""
    run = report.timeline[len(report.timeline) // 2]
    rows = {r.index: r for r in report.kernels}
    spans = [(e, *part) for e in run.events for part in _parts(e)]
    count = 1 + max((thread for _, thread, *_ in spans), default=0)
    left, right, tall = 64.0, WIDTH - 12.0, 30.0
    wide = (right - left) / run.end if run.end else 0.0
    parts = []
    for k in range(count):
        y = 8 + k * (tall + 8)
        parts.append(_text(left - 8, y + tall / 2 + 4, f"thread {k}", "tick", "end"))
        parts.append(f'<rect class="lane" x="{left}" y="{y}" width="{right - left:.1f}"'
                     f' height="{tall}"/>')  # fmt: skip
    for event, thread, begin, end, tiles in spans:
        row = rows.get(event.kernel)
        name = f"#{row.index} {row.name}" if row is not None else "step"
        hover = f"{name}\n{units.seconds(end - begin)} from {units.seconds(begin)}"
        hover += f"\n{tiles} tiles" if tiles else ""
        x, w = left + begin * wide, max(0.4, (end - begin) * wide)
        y = 8 + thread * (tall + 8)
        parts.append(
            f'<rect class="span" x="{x:.2f}" y="{y:.0f}" width="{w:.2f}" height="{tall:.0f}"'
            f' style="--h:{event.kernel * GOLDEN_ANGLE % 360:.0f}">'
            f"<title>{escape(hover)}</title></rect>"
        )
        if row is not None and w > 30:
            parts.append(_text(x + w / 2, y + tall / 2 + 4, f"#{row.index}", "onspan", "middle"))
    bottom = 8 + count * (tall + 8)
    for k in range(6):
        x = left + k / 5 * (right - left)
        anchor = "end" if k == 5 else "middle"
        words = units.seconds(k / 5 * run.end) if k else "0"
        parts.append(_text(x, bottom + 12, words, "tick", anchor))
    return _svg(WIDTH, bottom + 20, "threads over one run", parts)


def _parts(event: Event) -> list[tuple[int, float, float, int]]:
    found = [(s.thread, s.begin, s.end, s.tiles) for s in event.threads]
    return found or [(0, event.begin, event.end, 0)]

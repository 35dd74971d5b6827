"""Drawing in SVG: a plot with axes, and the few shapes that the pictures of a study need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

#: Okabe and Ito's colours, which the colour-blind tell apart too; yellow is too pale for lines
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5230", "#444444",
)  # fmt: skip
INK, FAINT, REST = "#222222", "#E3E6EA", "#C9CED6"
WIDTH, HEIGHT = 920.0, 520.0
LEFT, RIGHT, TOP, BOTTOM = 84.0, 240.0, 64.0, 62.0
MARKS = ("circle", "square", "diamond", "triangle")
_BINARY = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers from low to high."""
    span = high - low or 1.0
    step = 10 ** math.floor(math.log10(span / wanted))
    step *= next(f for f in (1, 2, 5, 10) if span / (step * f) <= wanted)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def byte_unit(most: float) -> tuple[int, str]:
    """The unit in which so many bytes are a number above one."""
    return next((u for u in _BINARY if most >= u[0]), _BINARY[-1])


def number(value: float) -> str:
    return f"{value:.10g}"


def cut(text: str, size: int) -> str:
    """Shortened before the last word, which tells equal names apart."""
    if len(text) <= size:
        return text
    first, _, last = text.rpartition(" ")
    return f"{first[: size - len(last) - 2]}… {last}" if first else f"{text[: size - 1]}…"


class Plot:
    """Axes x and y in data coordinates, a title, a legend at the right."""

    def __init__(
        self,
        title: str,
        subtitle: str,
        x: tuple[float, float],
        y: tuple[float, float],
        height: float = HEIGHT,
        left: float = LEFT,
    ):
        self.x, self.y, self.left = x, y, left
        self.height = height
        self.entries = 0
        self.out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}"'
            f' width="{WIDTH:.0f}" height="{height:.0f}" font-family="sans-serif" font-size="12"'
            f' fill="{INK}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH:.0f}" height="{height:.0f}" fill="#ffffff"/>',
            f'<text x="{left:.0f}" y="27" font-size="17" font-weight="bold">{escape(title)}</text>',
            f'<text x="{left:.0f}" y="47" fill="#555555">{escape(subtitle)}</text>',
        ]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the data lies on the page."""
        (x0, x1), (y0, y1) = self.x, self.y
        across = (x - x0) / ((x1 - x0) or 1.0)
        up = (y - y0) / ((y1 - y0) or 1.0)
        right, bottom = WIDTH - RIGHT, self.height - BOTTOM
        return self.left + across * (right - self.left), bottom - up * (bottom - TOP)

    def axes(
        self,
        x_label: str,
        y_label: str,
        x_ticks: Sequence[tuple[float, str]],
        y_ticks: Sequence[tuple[float, str]],
    ) -> None:
        """Grid lines, labels, and names of both axes with their units."""
        left, bottom = self.at(self.x[0], self.y[0])
        right, top = self.at(self.x[1], self.y[1])
        for value, text in x_ticks:
            x, _ = self.at(value, 0)
            self.line([(x, bottom), (x, top)], FAINT, 1, page=True)
            self.text(x, bottom + 18, text, "middle")
        for value, text in y_ticks:
            _, y = self.at(0, value)
            self.line([(left, y), (right, y)], FAINT, 1, page=True)
            self.text(left - 8, y + 4, text, "end")
        self.line([(left, top), (left, bottom), (right, bottom)], "#777777", 1, page=True)
        self.text((left + right) / 2, bottom + 42, x_label, "middle")
        middle = (top + bottom) / 2
        self.out.append(
            f'<text transform="translate(20 {middle:.1f}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>"
        )

    # -- shapes ------------------------------------------------------------------------------------

    def line(
        self, points: Sequence[tuple[float, float]], colour: str, width: float = 2.0,
        dash: str = "", page: bool = False,
    ) -> None:  # fmt: skip
        """Through points of the data (of the page, with `page`)."""
        placed = points if page else [self.at(*p) for p in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.out.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"'
            f' stroke-linejoin="round"{dashed}/>'
        )

    def area(self, points: Sequence[tuple[float, float]], colour: str, says: str = "") -> None:
        path = " ".join("{:.1f},{:.1f}".format(*self.at(*p)) for p in points)
        self.out.append(
            f'<polygon points="{path}" fill="{colour}"><title>{escape(says)}</title></polygon>'
        )

    def bar(self, x0: float, x1: float, y0: float, y1: float, colour: str, says: str = "") -> None:
        """A filled rectangle between points of the data."""
        (a, b), (c, d) = self.at(x0, y0), self.at(x1, y1)
        inner = f"<title>{escape(says)}</title>" if says else ""
        self.out.append(
            f'<rect x="{min(a, c):.2f}" y="{min(b, d):.2f}" width="{abs(c - a):.2f}"'
            f' height="{abs(d - b):.2f}" fill="{colour}">{inner}</rect>'
        )

    def mark(
        self, x: float, y: float, colour: str, shape: str, filled: bool = True, says: str = ""
    ) -> None:
        self._mark(*self.at(x, y), colour, shape, filled, says)

    def _mark(
        self, x: float, y: float, colour: str, shape: str, filled: bool, says: str = ""
    ) -> None:
        fill = colour if filled else "#ffffff"
        style = f'fill="{fill}" stroke="{colour}" stroke-width="1.6"'
        inner = f"><title>{escape(says)}</title></" if says else "/>"
        if shape == "circle":
            kind, text = "circle", f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {style}'
        else:
            r = 4.6
            corners = {
                "square": [(-4, -4), (4, -4), (4, 4), (-4, 4)],
                "diamond": [(0, -r - 1), (r + 1, 0), (0, r + 1), (-r - 1, 0)],
                "triangle": [(0, -r - 0.6), (r, r - 0.6), (-r, r - 0.6)],
            }[shape]
            path = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)
            kind, text = "polygon", f'<polygon points="{path}" {style}'
        self.out.append(text + (f"{inner}{kind}>" if says else inner))

    def text(self, x: float, y: float, text: str, anchor: str = "start", colour: str = INK) -> None:
        """Text at a place of the page."""
        self.out.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
            f"{escape(text)}</text>"
        )

    # -- legend ------------------------------------------------------------------------------------

    def entry(
        self, text: str, colour: str, kind: str = "area", dash: str = "", filled: bool = True
    ) -> None:
        """A line of the legend: an `area`, a `line`, or the name of a mark on a line."""
        x, y = WIDTH - RIGHT + 18, TOP + 8 + 21 * self.entries
        self.entries += 1
        if kind == "area":
            self.out.append(
                f'<rect x="{x:.0f}" y="{y - 6:.0f}" width="20" height="12" fill="{colour}"/>'
            )
        else:
            self.line([(x, y), (x + 20, y)], colour, 2, dash, page=True)
            if kind != "line":
                self._mark(x + 10, y, colour, kind, filled)
        self.text(x + 28, y + 4, cut(text, 26))

    def svg(self) -> str:
        return "\n".join([*self.out, "</svg>"]) + "\n"

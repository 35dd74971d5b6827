"""A graph as boxes and arrows: SVG by our own layout, DOT, and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Any

from staticgraph.codegen.select import kernel_name
from staticgraph.errors import GradientLine, shorten
from staticgraph.fusion import FUSION
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node
from staticgraph.profiling import layout

SCHEMA = "staticgraph.graph/1"
_MOST_OPS = 8  # names of ops in one box
_CHARACTER, _LINE, _PAD = 6.7, 15.0, 8.0
_FILLS = {"input": "#dbeafe", "variable": "#fef3c7", "constant": "#f3f4f6", "output": "#dcfce7"}
_HEAT = ((255, 247, 236), (179, 0, 0))  # from cold to hot


@dataclass
class Box:
    """One node as it is drawn."""

    kind: str  # input | variable | constant | op | kernel | output
    lines: list[str]
    where: str = ""
    gradient: bool = False
    share: float | None = None  # of the measured time
    ops: list[str] = field(default_factory=list)
    type: str = ""


@dataclass
class Arrow:
    """A value on its way from one box to another."""

    source: int
    target: int
    type: str


@dataclass
class Picture:
    """Boxes in the order of the graph and arrows between them."""

    boxes: list[Box]
    arrows: list[Arrow]


def picture(graph: Graph, shares: Mapping[Node, float] | None = None) -> Picture:
    """What to draw of a graph. Constants of one element are left out."""
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    number: dict[Node, int] = {}
    for node in graph.nodes:
        if node.op is CONSTANT and node.results[0].size <= 1:
            continue
        number[node] = len(boxes)
        boxes.append(_box(node, None if shares is None else shares.get(node)))
        arrows += [
            Arrow(number[t.node], number[node], str(t.type))
            for t in dict.fromkeys(node.operands)
            if t.node in number
        ]
    ends = [("output", f"output {k}", t) for k, t in enumerate(graph.outputs)]
    ends += [("output", f"new {v.name}", t) for v, t in graph.updates]
    for kind, text, t in ends:
        if t.node in number:
            arrows.append(Arrow(number[t.node], len(boxes), str(t.type)))
            boxes.append(Box(kind, [text, str(t.type)], type=str(t.type)))
    return Picture(boxes, arrows)


def _box(node: Node, share: float | None) -> Box:
    type_ = ", ".join(str(t.type) for t in node.results)
    where = shorten(node.where)
    derived = isinstance(node.where, GradientLine)
    if node.op is INPUT:
        return Box("input", [node.attrs["name"], type_], where, type=type_)
    if node.op is VARIABLE:
        return Box("variable", [node.attrs["variable"].name, type_], where, type=type_)
    if node.op is CONSTANT:
        return Box("constant", ["constant", type_], where, type=type_)
    ops = [node.op.name]
    kind = "op"
    if node.op is FUSION:
        kind = "kernel"
        inner = [n.op.name for n in node.attrs["body"].nodes if n.op not in (INPUT, CONSTANT)]
        ops = inner or ops
    lines = [kernel_name(node) if kind == "kernel" else node.op.name]
    if len(ops) > 1:
        lines += _wrapped(ops)
    lines.append(type_ if len(type_) <= 40 else f"{type_[:39]}…")
    if where:
        lines.append(f"{where} (grad)" if derived else where)
    if share is not None:
        lines.append(f"{100 * share:.1f} % of the time")
    return Box(kind, lines, where, derived, share, ops, type_)


def _wrapped(ops: list[str]) -> list[str]:
    shown = ops[:_MOST_OPS]
    more = f" +{len(ops) - len(shown)}" if len(ops) > len(shown) else ""
    rows = [shown[k : k + 4] for k in range(0, len(shown), 4)]
    lines = [" ".join(row) for row in rows]
    return [*lines[:-1], lines[-1] + more]


# ---------------------------------------------------------------------------- formats


def to_json(made: Picture, label: str) -> dict[str, Any]:
    """The boxes and arrows as plain data."""
    return {
        "schema": SCHEMA,
        "model": label,
        "nodes": [{"id": k, **vars(b)} for k, b in enumerate(made.boxes)],
        "edges": [vars(a) for a in made.arrows],
    }


def to_dot(made: Picture, label: str) -> str:
    """Graphviz's language."""
    lines = [
        "digraph staticgraph {",
        f"  label={_quoted(label)}; labelloc=t;",
        '  node [shape=box, style="filled,rounded", fontname="sans-serif", fontsize=10];',
    ]
    for k, b in enumerate(made.boxes):
        text = "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in b.lines)
        lines.append(f'  n{k} [label="{text}", fillcolor="{_fill(b, made)}"];')
    lines += [f"  n{a.source} -> n{a.target} [tooltip={_quoted(a.type)}];" for a in made.arrows]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def to_svg(made: Picture, label: str) -> str:
    """A picture of its own: no script, no font, no request."""
    sizes = [
        (max(map(len, b.lines)) * _CHARACTER + 2 * _PAD, len(b.lines) * _LINE + 2 * _PAD)
        for b in made.boxes
    ]
    placed = layout.place(sizes, [(a.source, a.target) for a in made.arrows])
    margin, top = 20.0, 44.0
    width = max(placed.width + 2 * margin, len(label) * 9 + 2 * margin)
    height = placed.height + top + margin
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
        f' width="{width:.0f}" height="{height:.0f}" font-family="sans-serif" font-size="11">',
        f"<title>{escape(label)}</title>",
        '<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
        f'<text x="{margin:.0f}" y="26" font-size="15">{escape(label)}</text>',
        f'<g transform="translate({margin:.0f} {top:.0f})">',
    ]
    for arrow, points in zip(made.arrows, placed.edges, strict=True):
        out.append(
            f'<path d="{_curve(points)}" fill="none" stroke="#888" marker-end="url(#to)">'
            f"<title>{escape(arrow.type)}</title></path>"
        )
    for b, (w, h), (x, y) in zip(made.boxes, sizes, placed.centres, strict=True):
        out.append(_svg_box(b, made, x, y, w, h))
    return "\n".join([*out, "</g>", "</svg>"]) + "\n"


def _svg_box(b: Box, made: Picture, x: float, y: float, w: float, h: float) -> str:
    fill = _fill(b, made)
    ink = "#fff" if _is_dark(fill) else "#111"
    dash = ' stroke-dasharray="4 3"' if b.gradient else ""
    hover = "\n".join(filter(None, [" ".join(b.ops), b.type, b.where]))
    parts = [
        f"<g><title>{escape(hover)}</title>"
        f'<rect x="{x - w / 2:.1f}" y="{y - h / 2:.1f}" width="{w:.1f}" height="{h:.1f}" rx="4"'
        f' fill="{fill}" stroke="#555"{dash}/>'
    ]
    first = y - h / 2 + _PAD + 11
    for k, line in enumerate(b.lines):
        weight = ' font-weight="bold"' if k == 0 else ""
        parts.append(
            f'<text x="{x:.1f}" y="{first + k * _LINE:.1f}" text-anchor="middle"'
            f' fill="{ink}"{weight}>{escape(line)}</text>'
        )
    return "".join([*parts, "</g>"])


def _curve(points: list[tuple[float, float]]) -> str:
    """Through all points, leaving and arriving upright."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        path += f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
    return path


def _fill(b: Box, made: Picture) -> str:
    if b.share is None:
        return _FILLS.get(b.kind, "#ffffff" if b.kind == "op" else "#ede9fe")
    most = max((o.share for o in made.boxes if o.share), default=1.0)
    part = b.share / most if most else 0.0
    cold, hot = _HEAT
    return "#" + "".join(f"{round(c + (h - c) * part):02x}" for c, h in zip(cold, hot, strict=True))


def _is_dark(fill: str) -> bool:
    red, green, blue = (int(fill[k : k + 2], 16) for k in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 128

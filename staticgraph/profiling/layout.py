"""Boxes of a directed graph without cycles in layers, with few crossings; deterministic.

Longest paths give the layers, sweeps of barycentres the order in each (Sugiyama, Tagawa and Toda
1981), a few averaging rounds the places. Edges over several layers bend where they pass one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

SWEEPS = 8
GAP_X, GAP_Y = 24.0, 44.0
BEND = 8.0  # width that a passing edge takes


@dataclass
class Placed:
    """Centres of the boxes, the points of each edge from its first box to its second, the size."""

    centres: list[tuple[float, float]]
    edges: list[list[tuple[float, float]]]
    width: float
    height: float


@dataclass
class _Drawing:
    """Boxes, and a bend in each layer that an edge passes."""

    sizes: list[tuple[float, float]]
    layer: list[int]
    chains: list[list[int]]
    above: list[list[int]] = field(default_factory=list)
    below: list[list[int]] = field(default_factory=list)


def place(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Placed:
    """Places for boxes of these (width, height) and edges (from, to) between them."""
    if not sizes:
        return Placed([], [], 0.0, 0.0)
    drawing = _with_bends(sizes, edges)
    layers = _ordered(drawing)
    x = _columns(drawing, layers)
    tops, y = [], 0.0
    for members in layers:
        height = max((drawing.sizes[k][1] for k in members), default=0.0)
        tops.append(y + height / 2)
        y += height + GAP_Y
    centres = [(x[k], tops[drawing.layer[k]]) for k in range(len(drawing.sizes))]
    lines = []
    for chain in drawing.chains:
        points = [centres[k] for k in chain]
        (x0, y0), (x1, y1) = points[0], points[-1]
        points[0] = (x0, y0 + drawing.sizes[chain[0]][1] / 2)
        points[-1] = (x1, y1 - drawing.sizes[chain[-1]][1] / 2)
        lines.append(points)
    right = max(x[k] + w / 2 for k, (w, _) in enumerate(drawing.sizes))
    return Placed(centres[: len(sizes)], lines, right, y - GAP_Y)


def _with_bends(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> _Drawing:
    layer = _layers(len(sizes), edges)
    boxes, level, chains = list(sizes), list(layer), []
    for a, b in edges:
        chain = [a]
        for between in range(layer[a] + 1, layer[b]):
            chain.append(len(boxes))
            boxes.append((BEND, 0.0))
            level.append(between)
        chains.append([*chain, b])
    made = _Drawing(boxes, level, chains)
    made.above = [[] for _ in boxes]
    made.below = [[] for _ in boxes]
    for chain in chains:
        for a, b in pairwise(chain):
            made.below[a].append(b)
            made.above[b].append(a)
    return made


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Longest path to each box; sources then move down beside their first reader."""
    after: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for a, b in edges:
        after[a].append(b)
        waiting[b] += 1
    sources = [k for k in range(count) if not waiting[k]]
    layer, ready = [0] * count, list(sources)
    for k in ready:  # grows while it is walked
        for b in after[k]:
            layer[b] = max(layer[b], layer[k] + 1)
            waiting[b] -= 1
            if not waiting[b]:
                ready.append(b)
    for k in sources:
        if after[k]:
            layer[k] = min(layer[b] for b in after[k]) - 1
    return layer


def _ordered(drawing: _Drawing) -> list[list[int]]:
    layers: list[list[int]] = [[] for _ in range(max(drawing.layer) + 1)]
    for k, at in enumerate(drawing.layer):
        layers[at].append(k)
    rank = [0.0] * len(drawing.sizes)
    for members in layers:
        for position, k in enumerate(members):
            rank[k] = position
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        near = drawing.above if down else drawing.below
        for members in layers if down else reversed(layers):
            centre = {k: _mean([rank[j] for j in near[k]], rank[k]) for k in members}
            members.sort(key=centre.__getitem__)
            for position, k in enumerate(members):
                rank[k] = position
    return layers


def _columns(drawing: _Drawing, layers: Sequence[Sequence[int]]) -> list[float]:
    """Places along the layers: near what a box is joined with, never over each other."""
    x = [0.0] * len(drawing.sizes)
    for members in layers:
        at = 0.0
        for k in members:
            x[k] = at + drawing.sizes[k][0] / 2
            at += drawing.sizes[k][0] + GAP_X
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        near = drawing.above if down else drawing.below
        for members in layers if down else reversed(layers):
            wanted = [_mean([x[j] for j in near[k]], x[k]) for k in members]
            for k, place_ in zip(members, _apart(drawing, members, wanted), strict=True):
                x[k] = place_
    left = min(x[k] - w / 2 for k, (w, _) in enumerate(drawing.sizes))
    return [v - left for v in x]


def _apart(drawing: _Drawing, members: Sequence[int], wanted: Sequence[float]) -> list[float]:
    """Centres in the given order and not overlapping: the mean of pushing right and pushing left.

    Both keep the distances, so their mean does.
    """

    def pushed(order: Sequence[int], sign: float) -> list[float]:
        made: list[float] = []
        for n, j in enumerate(order):
            at = sign * wanted[j]
            if n:
                before = order[n - 1]
                widths = drawing.sizes[members[j]][0] + drawing.sizes[members[before]][0]
                at = max(at, made[-1] + widths / 2 + GAP_X)
            made.append(at)
        return [sign * v for v in made]

    forth = pushed(range(len(members)), 1.0)
    back = pushed(range(len(members) - 1, -1, -1), -1.0)[::-1]
    return [(a + b) / 2 for a, b in zip(forth, back, strict=True)]


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default

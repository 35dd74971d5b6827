"""Operands that a map reads across their rows.

Lanes that each lie in another row of an operand fetch a cache line apiece, and fetch it again for
every row of the result. So the rows of a tile are as many as share a line, and before them the part
of the operand that they read is turned in registers, block by block, into private memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Protocol

from staticgraph import scalar as s
from staticgraph.codegen.affine import affine, build
from staticgraph.codegen.region import Region, position
from staticgraph.codegen.spec import LANES
from staticgraph.scalar import Expr
from staticgraph.types import ITEMSIZE

LEAST = 1 << 14  # elements of a map below which lanes may as well gather
COLUMNS = 1024  # of a tile: what was turned stays in the second-level cache
ROWS = range(8, 32)
LINE = 64  # bytes of a cache line


class Map(Protocol):
    """What the generator of a region tells about it."""

    region: Region
    sizes: tuple[int, ...]
    v: int
    strides: list[tuple[int, ...]]

    def pointer(self, kind: str, k: int) -> str: ...
    def integer(self, e: Expr) -> str: ...


@dataclass(frozen=True)
class Panel:
    """The turned part of an operand: where it comes from, and where it lies in private memory."""

    operand: int
    size: int  # bytes of an element
    form: tuple[dict[int, int], int]
    offset: int  # bytes
    pitch: int  # elements from row to row

    def maker(self, v: int) -> str:
        """Source of the function that turns it."""
        block = LINE // self.size
        return f"block_transpose('f{8 * self.size}', {block}, {self.form[0][v]}, {self.pitch})"


@dataclass(frozen=True)
class Turned:
    axis: int  # neighbours along it are neighbours in the operands
    rows: int  # of a tile
    columns: int  # of a tile
    scratch: int  # bytes
    panels: dict[Expr, Panel]

    def read(self, g: Map, e: Expr, code: str) -> str:
        panel = self.panels[e]
        start = f"{panel.offset // panel.size} + (i{self.axis} - u0) * {panel.pitch}"
        return f"vld_{code}(scratch, {start} + i{g.v} - vlo)"

    def fill(self, g: Map) -> list[str]:
        """Lines that turn all panels; the indices are those of the tile's first row."""
        lines = [f"u0 = i{self.axis}"]
        for n, panel in enumerate(self.panels.values()):
            terms = {k: c for k, c in panel.form[0].items() if k != g.v}
            first = f"{g.integer(build(terms, panel.form[1]))} + vlo * {panel.form[0][g.v]}"
            x = g.pointer("in", panel.operand)
            source, target = f"{x} + ({first}) * {panel.size}", f"scratch + {panel.offset}"
            lines.append(f"turn_{n}({source}, {target}, vhi - vlo, {self.rows})")
        return lines

    def head(self, g: Map) -> str:
        """What the kernel's module defines for it."""
        names = [f"turn_{n} = {p.maker(g.v)}" for n, p in enumerate(self.panels.values())]
        module = "from staticgraph.codegen.contract_moves import block_transpose"
        return "\n".join([module, "", *names])


def plan(g: Map) -> Turned | None:
    """What to turn for a map, if anything."""
    if g.region.inner or g.region.reductions or prod(g.sizes) < LEAST:
        return None
    found: dict[int, dict[Expr, tuple[dict[int, int], int]]] = {}
    for e in s.postorder([st.value for st in g.region.stores]):
        if e.name == "load" and not s.is_guarded(e) and ITEMSIZE[e.dtype] in (4, 8):
            form = affine(position(e.args, g.strides[e.value[0]]))  # type: ignore[index]
            if form is not None and form[0].get(g.v, 0) > 1:
                for k, c in form[0].items():
                    if c == 1:
                        found.setdefault(k, {})[e] = form
    if not found:
        return None
    axis = max(found, key=lambda k: (len(found[k]), k))
    fitting = [n for n in ROWS if g.sizes[axis] % n == 0]
    if not fitting or g.sizes[g.v] < LANES:
        return None
    rows = LANES if LANES in fitting else fitting[-1]
    columns = min(-(-g.sizes[g.v] // LANES) * LANES, COLUMNS)
    panels: dict[Expr, Panel] = {}
    offset = 0
    for e, form in found[axis].items():
        # Rows a line further apart than whole vectors: no two begin in the same set of a cache.
        panel = Panel(e.value[0], ITEMSIZE[e.dtype], form, offset, columns + LANES)  # type: ignore[index]
        panels[e] = panel
        offset += -(-rows // LANES) * LANES * panel.pitch * panel.size
    return Turned(axis, rows, columns, offset, panels)

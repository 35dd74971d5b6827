"""The tiles of a region: which rows and columns of its domain each covers, and the loops for that.

Columns are the last axis, which vectors run along; rows are all outer axes but that one. A tile is
what a thread takes at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from staticgraph.codegen.region import TILE_ELEMENTS, Region, reduction_rows
from staticgraph.codegen.spec import LANES, indent
from staticgraph.codegen.turned import Turned


@dataclass(frozen=True)
class Tiles:
    """A domain in tiles of `height` rows and `width` columns."""

    sizes: tuple[int, ...]
    row_axes: list[int]
    rows: int
    columns: int
    height: int
    width: int  # 0: all columns, in a loop that the tile does not bound

    @property
    def down(self) -> int:
        # One tile at least: a sum over nothing has a value too.
        return max(1, -(-self.rows // self.height))

    @property
    def across(self) -> int:
        return -(-self.columns // self.width) if self.width else 1

    @property
    def count(self) -> int:
        return self.down * self.across

    def bounds(self, columns: str) -> tuple[str, str]:
        """First and end of a tile's columns, where a tile without bounds has `columns`."""
        return ("vlo", "vhi") if self.width else ("0", columns)

    def prologue(self) -> list[str]:
        """Which tile `t` is: its columns, and its place among the tiles of rows."""
        lines = []
        if self.across > 1:
            lines += [
                f"vlo = t % {self.across} * {self.width}",
                f"vhi = min(vlo + {self.width}, {self.columns})",
            ]
            row_tile = f"t // {self.across}"
        else:
            if self.width:
                lines += ["vlo = 0", f"vhi = {self.columns}"]
            row_tile = "t"
        lines.append(f"tr = {row_tile}")
        return lines

    def row_loop(self, lines: list[str], first: Sequence[str]) -> list[str]:
        """The loop over a tile's rows; before it, `first`, with the indices of the first row."""
        if not self.row_axes:
            return lines
        head: list[str] = []
        if len(self.row_axes) == 1:
            variable = f"i{self.row_axes[0]}"
        else:
            variable = "q"
            for depth, k in enumerate(self.row_axes):
                below = prod(self.sizes[a] for a in self.row_axes[depth + 1 :])
                quotient = f"q // {below}" if below > 1 else "q"
                head.append(
                    f"i{k} = {quotient}" if depth == 0 else f"i{k} = {quotient} % {self.sizes[k]}"
                )
        n = self.height
        before = [f"{variable} = tr * {n}", *head, *first] if first else []
        return [
            *before,
            f"for {variable} in range(tr * {n}, min((tr + 1) * {n}, {self.rows})):",
            *indent([*head, *lines]),
        ]


def tiles_of(region: Region, shape: Sequence[int], turned: Turned | None) -> Tiles:
    """The tiles of a region whose domain had `shape` before its axes were joined."""
    sizes = region.sizes or (1,)
    v = len(sizes) - 1
    row_axes = [k for k in region.outer if k != v]
    rows, columns = prod(sizes[k] for k in row_axes), sizes[v]
    if turned:
        row_axes = [*(k for k in row_axes if k != turned.axis), turned.axis]
        return Tiles(sizes, row_axes, rows, columns, turned.rows, turned.columns)
    height, width = _tile(region, shape, rows, columns)
    return Tiles(sizes, row_axes, rows, columns, max(1, min(height, rows)), width)


def _tile(region: Region, shape: Sequence[int], rows: int, columns: int) -> tuple[int, int]:
    """Rows of a tile, and its columns where tiles also cut the vector axis."""
    v = len(region.sizes or (1,)) - 1
    work = prod(region.sizes[k] for k in region.inner if k != v) * columns
    partial = [r for r in region.reductions if r.kind in ("partials", "all")]
    if partial:
        wide = not region.inner and columns > TILE_ELEMENTS
        cut = wide and all(r.kept in ((), (v,)) for r in partial)
        return reduction_rows(shape), TILE_ELEMENTS if cut else 0
    if v not in region.inner and (rows == 1 or work > TILE_ELEMENTS):
        per = max(1, TILE_ELEMENTS // 2 // max(1, work // max(columns, 1)))
        return 1, min(columns, -(-per // LANES) * LANES)
    return max(1, TILE_ELEMENTS // 2 // max(work, 1)), 0

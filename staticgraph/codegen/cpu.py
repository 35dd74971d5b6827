"""CPU source of a region: loops over tiles, rows and stages around vector expressions.

The text is Python that Numba compiles; `k(lo, hi, bufs, scratch)` computes tiles lo..hi-1. Where
several tiles add to one result, a second kernel joins what the tiles left.

`tiles` cuts the domain, `sweep` loops over what a row is made of, `expressions` emits its values,
and this file puts the text together.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from staticgraph.codegen.joins import Sink, across, finished, join_kernel, joined, start
from staticgraph.codegen.region import Reduction, Region
from staticgraph.codegen.spec import HEADER, LANES, Kernels, KernelSpec, indent
from staticgraph.codegen.sweep import Sweep
from staticgraph.nest import identity
from staticgraph.types import ITEMSIZE, SHORT


def generate(region: Region, name: str, shape: Sequence[int]) -> Kernels:
    """Source of a region whose domain had `shape` before its axes were joined."""
    kernel = _RegionKernel(region, tuple(shape))
    kernel.stages()
    steps = [kernel.spec(name)]
    left = [sink for sink in kernel.sinks if sink.buffer[0] == "work"]
    if left:
        steps.append(join_kernel(f"{name}_join", left, kernel.tiles, kernel.fresh))
    return Kernels(steps, kernel.workspace)


class _RegionKernel(Sweep):
    """The text around a region's stages: the loops over tiles and rows, and what tiles deliver."""

    def __init__(self, region: Region, shape: tuple[int, ...]):
        super().__init__(region, shape, [])
        self.workspace: list[int] = []
        for k, r in sorted(region.sinks.items()):
            self.sinks.append(self.sink(k, r))

    def sink(self, k: int, r: Reduction) -> Sink:
        """Where the tiles leave their parts of a result: with one tile they are the result."""
        n = prod(self.sizes[a] for a in r.kept)
        count = self.tiles.count if r.kind == "all" else self.tiles.down
        if count == 1 and (r.kind == "all" or r.finish.dtype == r.body.dtype):  # type: ignore[union-attr]
            return Sink(k, r, n, ("out", k))
        self.workspace.append(count * n * ITEMSIZE[r.body.dtype])
        return Sink(k, r, n, ("work", len(self.workspace) - 1))

    def spec(self, name: str) -> KernelSpec:
        """The kernel, once its stages are emitted."""
        tile = self.tile()
        pointers = [
            f"{self.pointer(kind, k)} = ptr(bufs, {n})" for n, (kind, k) in enumerate(self.buffers)
        ]
        body = [*pointers, *self.scopes[0].lines, "for t in range(lo, hi):", *indent(tile)]
        head = HEADER
        if self.turned:
            head = f"{HEADER.rstrip()}\n{self.turned.head(self)}\n\n\n"
        text = head + "def k(lo, hi, bufs, scratch):\n" + "\n".join(indent(body)) + "\n"
        return KernelSpec(
            name,
            text,
            self.tiles.count,
            tuple(self.buffers),
            self.scratch,
            prod(self.sizes),
            self.inplace(),
        )

    def tile(self) -> list[str]:
        """What is done for tile `t`: all its rows, and its parts of what is joined."""
        rows = self.row()
        totals = [sink.reduction for sink in self.sinks if sink.whole]
        columns = [sink for sink in self.sinks if not sink.whole]
        lines = self.tiles.prologue()
        lines += [f"s{r.leaf.value} = {start(r)}" for r in totals]
        for sink in columns:
            lines += self.clear(sink)
        lines += self.tiles.row_loop(rows, self.turned.fill(self) if self.turned else [])
        if self.settles:
            lines.append("settle()")
        for sink in self.sinks:
            lines += self.deliver(sink) if sink.whole else self.finish_in_place(sink)
        return lines

    def row(self) -> list[str]:
        """What is done for a row: the stages, and one vector of each total."""
        lines = self.scopes[1].lines
        if self.blocked:
            v, columns, inside = self.v, self.tiles.columns, self.scopes[2].lines
            if self.mask:
                inside = [f"m = lanes({columns} - i{v})", *inside]
            first, end = self.tiles.bounds(str(columns))
            lines = [*lines, f"for i{v} in range({first}, {end}, {LANES}):", *indent(inside)]
        # `all` reductions restart their vector in every row and join it to the tile's.
        for r in (sink.reduction for sink in self.sinks if sink.whole):
            n = r.leaf.value
            lines = [f"a{n} = {start(r)}", *lines, f"s{n} = {joined(r, f's{n}', f'a{n}')}"]
        return lines

    # -- results joined from tiles ----------------------------------------------------------------

    def clear(self, sink: Sink) -> list[str]:
        """Start the partial results of a tile."""
        r, (first, end) = sink.reduction, self.tiles.bounds(str(sink.size))
        n, code, pointer = r.leaf.value, SHORT[r.body.dtype], self.pointer(*sink.buffer)
        nothing = self.constant(identity(r.combine, r.body.dtype), r.body.dtype)
        return [
            f"z{n} = tr * {sink.size}",
            f"for z in range({first}, {end}, {LANES}):",
            f"    vstm_{code}({pointer}, z{n} + z, {nothing}, lanes({end} - z))",
        ]

    def finish_in_place(self, sink: Sink) -> list[str]:
        """Where one tile has all rows, its sums are the totals."""
        r, (first, end) = sink.reduction, self.tiles.bounds(str(sink.size))
        if sink.buffer[0] != "out" or r.finish is r.leaf:
            return []
        n, code, pointer = r.leaf.value, SHORT[r.body.dtype], self.pointer(*sink.buffer)
        finish, total = finished(r, "sums", self.fresh)
        return [
            f"for z in range({first}, {end}, {LANES}):",
            f"    sums = vldm_{code}({pointer}, z{n} + z, lanes({end} - z))",
            *indent(finish),
            f"    vstm_{code}({pointer}, z{n} + z, {total}, lanes({end} - z))",
        ]

    def deliver(self, sink: Sink) -> list[str]:
        """Store a tile's part of a number, or the number where there is one tile."""
        r = sink.reduction
        code, lines = SHORT[r.body.dtype], []
        total = across(r, f"s{r.leaf.value}")
        if sink.buffer[0] == "out":
            lines, total = finished(r, total, self.fresh)
            code = SHORT[r.finish.dtype]  # type: ignore[union-attr]
        return [*lines, f"st_{code}({self.pointer(*sink.buffer)}, t, lane0_{code}({total}))"]

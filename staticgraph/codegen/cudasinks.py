"""CUDA source of sums over leading axes and over all: blocks take tiles, a second kernel joins.

Results of a tile stand in the workspace: one slot per tile, or one per row at a time of a tile
where threads add to memory of their own. Where one slot is enough it is the result itself.
"""

from __future__ import annotations

from math import prod

from staticgraph import scalar as s
from staticgraph.codegen.cuda import CHUNK, THREADS, Elements, Rows
from staticgraph.codegen.cudatext import CudaSpec, CudaSpecs, Scope, indent, power_of_two
from staticgraph.codegen.region import Reduction, Region, Store, position
from staticgraph.nest import identity
from staticgraph.scalar import Expr
from staticgraph.types import ITEMSIZE, TensorType

#: tiles into which rows are cut at least, where there are so many
ROW_TILES = 256


class Sinks(Rows):
    """What the two ways to sum share; `kernel` walks the rows of a tile."""

    row_tiles = column_tiles = tile_rows = 1

    def run(self) -> CudaSpecs:
        sinks = sorted(self.region.sinks.items())
        if 0 in self.sizes:
            return CudaSpecs([self.fill(k, r) for k, r in sinks if self.region.results[k].size])
        self.geometry()
        self.tiles = self.row_tiles * self.column_tiles
        self.sinks = [r for _, r in sinks]
        self.workspace: list[int] = []
        self.arrays: dict[Expr, str] = {}
        joins = [self.place(k, r) for k, r in sinks]
        return CudaSpecs([self.kernel(), *(j for j in joins if j is not None)], self.workspace)

    def fill(self, k: int, r: Reduction) -> CudaSpec:
        """Nothing to reduce: the result is the identity."""
        t = self.region.results[k]
        value = replaced(r, s.const(identity(r.combine, r.body.dtype), r.body.dtype))
        region = Region((t.size,), (), (), (t,), stores=[Store(0, value, s.axis(0), 0, True)])
        return Elements(region, f"{self.name}_empty{k}", {("out", 0): ("out", k)}).kernel()

    # -- where results of tiles go ----------------------------------------------------------------

    def in_register(self, r: Reduction) -> bool:
        """Whether a thread has one result to add to; else it adds to memory of its own."""
        return r.kind == "all"

    def place(self, k: int, r: Reduction) -> CudaSpec | None:
        """Choose the slots of a result; the kernel that joins them, where there are several."""
        dtype, size = r.body.dtype, prod(self.sizes[a] for a in r.kept)
        slots = self.tiles if r.kind == "all" else self.row_tiles
        if not self.in_register(r):
            slots *= self.together
        if slots == 1 and r.finish is r.leaf:
            self.arrays[r.leaf] = self.pointer("out", k, dtype)
            return None
        work = len(self.workspace)
        self.workspace.append(slots * size * ITEMSIZE[dtype])
        self.arrays[r.leaf] = self.pointer("work", work, dtype)
        places = {("in", 0): ("work", work), ("out", 0): ("out", k)}
        return join(f"{self.name}_join{k}", r, slots, size, places)

    def slots(self, row_tile: str) -> list[str]:
        """The name of the thread's slot, where it has one in memory."""
        if all(map(self.in_register, self.sinks)):
            return []
        return [f"slot = {self.grouped(row_tile, scaled=True)}"]

    def grouped(self, text: str, *, scaled: bool = False) -> str:
        """A row number with the place of the thread's row among those of the block."""
        if self.together == 1:
            return text
        return f"{text} * {self.together} + group" if scaled else f"{text} + group"

    def clears(self) -> list[str]:
        """Identities into the thread's own slots: the elements of its column."""
        lines = []
        for r in self.sinks:
            if not self.in_register(r):
                size, width = prod(self.sizes[k] for k in r.kept), self.sizes[r.kept[-1]]
                lines += [
                    f"for z in range({self.at[r.kept[-1]]}, {size}, {width}):",
                    f"    {self.arrays[r.leaf]}[slot * {size} + z] = {self.start(r)}",
                ]
        return lines

    # -- adding -----------------------------------------------------------------------------------

    def sink(self, r: Reduction, body: Scope) -> None:
        value = self.value(r.body)
        if self.in_register(r):
            name = f"z{r.leaf.value}"
            value = f"({value} if on else {self.start(r)})" if self.guard else value
            body.lines.append(f"{name} = {self.add(r, name, value)}")
            return
        sizes = [self.sizes[k] for k in r.kept]
        strides = [prod(sizes[n + 1 :]) for n in range(len(sizes))]
        kept = self.index(position([s.axis(k) for k in r.kept], strides))
        place = f"{self.arrays[r.leaf]}[slot * {prod(sizes)} + {kept}]"
        line = f"{place} = {self.add(r, place, value)}"
        body.lines += [f"if {self.guard}:", f"    {line}"] if self.guard else [line]

    def registers(self, kind: str) -> list[Reduction]:
        return [r for r in self.sinks if r.kind == kind and self.in_register(r)]

    def starts(self, rows: list[Reduction]) -> list[str]:
        return [f"z{r.leaf.value} = {self.start(r)}" for r in rows]

    def joined(self, rows: list[Reduction], stop: int) -> list[str]:
        """Join what the threads of the block hold, down to `stop` of them."""
        values = [(f"z{r.leaf.value}", r.combine, r.body.dtype) for r in rows]
        return self.tree(values, "t", self.threads, stop)

    def totals(self) -> list[str]:
        """One result per tile."""
        rows = self.registers("all")
        at = "tile" if self.tiles > 1 else "0"
        writes = [f"    {self.arrays[r.leaf]}[{at}] = z{r.leaf.value}" for r in rows]
        return [*self.joined(rows, 1), "if t == 0:", *writes] if rows else []


class RowSinks(Sinks):
    """Sums over leading axes beside reductions along rows: blocks take whole rows."""

    def geometry(self) -> None:
        super().geometry()
        self.steps = -(-self.rows // (self.together * ROW_TILES))
        self.tile_rows = self.together * self.steps
        self.row_tiles = -(-self.rows // self.tile_rows)
        self.guard = "on" if self.rows % self.tile_rows else None

    def kernel(self) -> CudaSpec:
        row = Scope({*self.outer, -1})
        self.scopes = [row]
        self.sweeps(row)
        column = self.at[self.inner[0]]
        lines = [*self.threads_lines(), "tile = int64(cuda.blockIdx.x)", *self.slots("tile")]
        lines += self.starts(self.registers("all"))
        if clears := self.clears():
            head = f"for {column} in range(lane, {self.columns}, {self.lanes}):"
            lines += [head, *indent(clears)]
        place = f"tile * {self.tile_rows} + {self.grouped('q', scaled=True)}"
        lines.append(f"for q in range({self.steps}):")
        lines += indent([*self.row_lines(place), *row.lines])
        return self.finish([*lines, *self.totals()], self.tiles, self.threads)


class ColumnSinks(Sinks):
    """Sums of what is computed element by element: a thread per column, tiles both ways."""

    def geometry(self) -> None:
        self.last = len(self.sizes) - 1
        self.outer, self.inner, self.guard = tuple(range(self.last)), (), None
        self.rows, self.columns = prod(self.sizes[:-1]), self.sizes[-1]
        self.lanes = min(THREADS, power_of_two(self.columns))
        self.threads = max(self.lanes, min(THREADS, power_of_two(self.rows * self.lanes)))
        self.together = self.threads // self.lanes
        self.tile_columns = self.lanes
        if all(r.kind == "all" for r in self.region.sinks.values()):
            self.tile_columns *= min(16, -(-self.columns // self.lanes))
        self.column_tiles = -(-self.columns // self.tile_columns)
        steps = -(-self.rows // (self.together * ROW_TILES))
        most = -(-self.rows // self.together)
        self.tile_rows = self.together * min(most, 4 * CHUNK, max(8, steps))
        self.row_tiles = -(-self.rows // self.tile_rows)

    def in_register(self, r: Reduction) -> bool:
        return r.kind == "all" or r.kept == (self.last,)

    def kernel(self) -> CudaSpec:
        column, body = Scope({self.last}), Scope(set(range(len(self.sizes))))
        self.scopes = [column, body]
        for r in self.region.reductions:
            self.sink(r, body)
        self.stores(self.region.stores)
        lines = [*self.threads_lines(), "tile = int64(cuda.blockIdx.x)"]
        rows, first, stop = "tile", "lane", str(self.columns)
        if self.column_tiles > 1:
            rows, first = "rows", "first + lane"
            stop = f"minimum_i64(first + {self.tile_columns}, {self.columns})"
            lines.append(f"rows = tile // {self.column_tiles}")
            lines.append(f"first = tile % {self.column_tiles} * {self.tile_columns}")
        partials = self.registers("partials")
        lines += [*self.slots(rows), *self.starts([*partials, *self.registers("all")])]
        index = self.at[self.outer[0]] if len(self.outer) == 1 else "p"
        begin = self.grouped(f"{rows} * {self.tile_rows}")
        end = f"minimum_i64(({rows} + 1) * {self.tile_rows}, {self.rows})"
        walk = [
            *column.lines,
            *self.clears(),
            f"for {index} in range({begin}, {end}, {self.together}):",
            *indent([*self.decode(self.outer, index), *body.lines]),
        ]
        head = f"for {self.at[self.last]} in range({first}, {stop}, {self.lanes}):"
        lines += [head, *indent(walk), *self.joined(partials, self.lanes)]
        if partials:
            at = f"{rows} * {self.columns} + {first}"
            writes = [f"    {self.arrays[r.leaf]}[{at}] = z{r.leaf.value}" for r in partials]
            lines += [f"if t < {self.lanes} and {first} < {self.columns}:", *writes]
        return self.finish([*lines, *self.totals()], self.tiles, self.threads)


def replaced(r: Reduction, total: Expr) -> Expr:
    """What is delivered of a total."""
    return s.transform(r.finish, lambda e: total if e is r.leaf else None)  # type: ignore[arg-type]


def join(
    name: str,
    r: Reduction,
    slots: int,
    size: int,
    places: dict[tuple[str, int], tuple[str, int]],
) -> CudaSpec:
    """The kernel that reduces `slots` partial results of `size` elements, in their order."""
    dtype = r.body.dtype
    sizes = (slots, size) if size > 1 else (slots,)
    leaf = s._intern("row", (), dtype, 0)
    body = s.load(0, [s.axis(k) for k in range(len(sizes))], dtype)
    kept, place = ((1,), s.axis(1)) if size > 1 else ((), s.const(0, "int64"))
    value = replaced(r, leaf)
    given, made = TensorType(dtype, sizes), TensorType(value.dtype, (size,))
    region = Region(sizes, (0,), (given,), (made,))
    total = Reduction(None, body, "rows", 1, kept, r.combine, leaf)  # type: ignore[arg-type]
    region.reductions.append(total)
    region.stores.append(Store(0, value, place, 1, False))
    return Rows(region, name, places).kernel()

"""CUDA source of sums over leading axes and over all: blocks take tiles, a second kernel joins."""

from __future__ import annotations

from math import prod

from staticgraph import scalar as s
from staticgraph.codegen.cuda import CHUNK, THREADS, Elements, Rows
from staticgraph.codegen.cudatext import CudaSpec, CudaSpecs, Scope, indent, power_of_two
from staticgraph.codegen.lower import Reduction, Region, Store, position
from staticgraph.nest import identity
from staticgraph.types import ITEMSIZE, TensorType

#: tiles into which rows are cut at least, where there are so many
ROW_TILES = 256


class Sinks(Rows):
    """Reductions over leading axes or over all: blocks take tiles of rows, a second kernel joins.

    Results of a tile stand in the workspace, one slot per tile and, where a thread adds to memory,
    per row at a time; where one slot is enough it is the result itself.
    """

    def run(self) -> CudaSpecs:
        region = self.region
        if 0 in self.sizes:
            return CudaSpecs(
                [self.fill(k, r) for k, r in sorted(region.sinks.items()) if region.results[k].size]
            )
        self.geometry()
        self.workspace: list[int] = []
        self.targets: dict[int, tuple[str, int, str]] = {}  # reduction -> slot kind, result, array
        joins = [self.place(k, r) for k, r in sorted(region.sinks.items())]
        steps = [self.with_rows() if self.inner else self.without_rows()]
        return CudaSpecs(steps + [j for j in joins if j is not None], self.workspace)

    def geometry(self) -> None:
        if self.region.inner:
            super().geometry()
            self.steps = -(-self.rows // (self.together * ROW_TILES))
            self.columns_tile, self.column_tiles = self.columns, 1
        else:
            self.inner, self.v = (), len(self.sizes) - 1
            self.outer = tuple(range(self.v))
            self.rows, self.columns = prod(self.sizes[:-1]), self.sizes[-1]
            self.lanes = min(THREADS, power_of_two(self.columns))
            self.threads = max(self.lanes, min(THREADS, power_of_two(self.rows * self.lanes)))
            self.together = self.threads // self.lanes
            totals = all(r.kind == "all" for r in self.region.sinks.values())
            self.columns_tile = self.lanes * (
                min(16, -(-self.columns // self.lanes)) if totals else 1
            )
            self.column_tiles = -(-self.columns // self.columns_tile)
            wanted = -(-self.rows // (self.together * ROW_TILES))
            self.steps = min(-(-self.rows // self.together), 4 * CHUNK, max(8, wanted))
        self.tile_rows = self.together * self.steps
        self.row_tiles = -(-self.rows // self.tile_rows)
        self.tiles = self.row_tiles * self.column_tiles
        self.guard = "on" if self.inner and self.rows % self.tile_rows else None

    def slot_kind(self, r: Reduction) -> str:
        """Where a thread adds: a register for its one result, else memory of its own."""
        if r.kind == "all" or (not self.inner and r.kept == (len(self.sizes) - 1,)):
            return "register"
        return "memory"

    def place(self, k: int, r: Reduction) -> CudaSpec | None:
        """Choose the slots of a result; the kernel that joins them, where there are several."""
        kind, dtype = self.slot_kind(r), r.body.dtype
        size = prod(self.sizes[a] for a in r.kept)
        slots = (
            self.tiles
            if r.kind == "all"
            else self.row_tiles * (self.together if kind == "memory" else 1)
        )
        number = r.leaf.value
        if slots == 1:
            self.targets[number] = (kind, k, self.pointer("out", k, dtype))  # type: ignore[index]
            return None
        work = len(self.workspace)
        self.workspace.append(slots * size * ITEMSIZE[dtype])
        self.targets[number] = (kind, k, self.pointer("work", work, dtype))  # type: ignore[index]
        return join(
            f"{self.name}_join{k}", r.combine, dtype, slots, size, ("work", work), ("out", k)
        )

    def fill(self, k: int, r: Reduction) -> CudaSpec:
        """Nothing to reduce: the result is the identity."""
        t = self.region.results[k]
        value = s.const(identity(r.combine, t.dtype), t.dtype)
        region = Region((t.size,), (), (), (t,), stores=[Store(0, value, s.axis(0), 0, True)])
        return Elements(region, f"{self.name}_empty{k}", {("out", 0): ("out", k)}).kernel()

    def array(self, r: Reduction) -> str:
        return self.targets[r.leaf.value][2]  # type: ignore[index]

    def memory_place(self, r: Reduction) -> str:
        """Position of the current kept index in the thread's slot."""
        sizes = [self.sizes[k] for k in r.kept]
        strides = [prod(sizes[n + 1 :]) for n in range(len(sizes))]
        size = prod(sizes)
        return f"slot * {size} + {self.index(position([s.axis(k) for k in r.kept], strides))}"

    def clears(self, column: str) -> list[str]:
        """Identities into the thread's own slots: the elements of its columns."""
        lines = []
        for _, r in sorted(self.region.sinks.items()):
            if self.slot_kind(r) == "memory":
                size, width = prod(self.sizes[k] for k in r.kept), self.sizes[r.kept[-1]]
                lines += [
                    f"for z in range({column}, {size}, {width}):",
                    f"    {self.array(r)}[slot * {size} + z] = {self.start(r)}",
                ]
        return lines

    def sink(self, r: Reduction, body: Scope) -> None:
        value = self.value(r.body)
        if self.slot_kind(r) == "register":
            name = f"z{r.leaf.value}"
            value = f"({value} if on else {self.start(r)})" if self.guard else value
            body.lines.append(f"{name} = {self.add(r, name, value)}")
            return
        place = f"{self.array(r)}[{self.memory_place(r)}]"
        line = f"{place} = {self.add(r, place, value)}"
        body.lines += [f"if {self.guard}:", f"    {line}"] if self.guard else [line]

    def registers(self, kind: str) -> list[Reduction]:
        return [
            r
            for _, r in sorted(self.region.sinks.items())
            if r.kind == kind and self.slot_kind(r) == "register"
        ]

    def totals(self) -> list[str]:
        """Join the threads of the block, one result per tile."""
        rows = self.registers("all")
        lines = self.tree(
            [(f"z{r.leaf.value}", r.combine, r.body.dtype) for r in rows], "t", self.threads
        )
        if rows:
            lines += [
                "if t == 0:",
                *(
                    f"    {self.array(r)}[{'tile' if self.tiles > 1 else 0}] = z{r.leaf.value}"
                    for r in rows
                ),
            ]
        return lines

    def with_rows(self) -> CudaSpec:
        """Sums over leading axes beside reductions along the rows themselves."""
        row = Scope({*self.outer, -1})
        self.scopes = [row]
        self.sweeps(row)
        (v,) = self.inner
        lines = [*self.threads_lines(), "tile = int64(cuda.blockIdx.x)"]
        lines.append(
            "slot = tile" if self.together == 1 else f"slot = tile * {self.together} + group"
        )
        lines += [f"z{r.leaf.value} = {self.start(r)}" for r in self.registers("all")]
        clears = self.clears(self.at[v])
        if clears:
            lines += [
                f"for {self.at[v]} in range(lane, {self.columns}, {self.lanes}):",
                *indent(clears),
            ]
        place = f"tile * {self.tile_rows} + q" + (
            f" * {self.together} + group" if self.together > 1 else ""
        )
        lines += [
            f"for q in range({self.steps}):",
            *indent([*self.row_lines(place), *row.lines]),
            *self.totals(),
        ]
        return self.finish(lines, self.tiles, self.threads)

    def without_rows(self) -> CudaSpec:
        """Sums over leading axes of what is computed element by element: a thread per column."""
        column = Scope({self.v})
        body = Scope(set(range(len(self.sizes))))
        self.scopes = [column, body]
        for r in self.region.reductions:
            self.sink(r, body)
        self.stores(self.region.stores)
        partials = self.registers("partials")
        lines = [*self.threads_lines(), "tile = int64(cuda.blockIdx.x)"]
        row_tile, first = "tile", "lane"
        if self.column_tiles > 1:
            row_tile = f"tile // {self.column_tiles}"
            lines.append(f"first = tile % {self.column_tiles} * {self.columns_tile}")
            first = "first + lane"
        lines.append(f"rows = {row_tile}")
        lines.append(
            "slot = rows" if self.together == 1 else f"slot = rows * {self.together} + group"
        )
        lines += [f"z{r.leaf.value} = {self.start(r)}" for r in [*partials, *self.registers("all")]]
        step, end = self.together, f"minimum_i64((rows + 1) * {self.tile_rows}, {self.rows})"
        begin = f"rows * {self.tile_rows}" + (" + group" if self.together > 1 else "")
        index = self.at[self.outer[0]] if len(self.outer) == 1 else "p"
        walk = [*column.lines, *self.clears(self.at[self.v])]
        walk += [
            f"for {index} in range({begin}, {end}, {step}):",
            *indent([*self.decode(self.outer, index), *body.lines]),
        ]
        stop = (
            str(self.columns)
            if self.column_tiles == 1
            else f"minimum_i64(first + {self.columns_tile}, {self.columns})"
        )
        lines += [f"for {self.at[self.v]} in range({first}, {stop}, {self.lanes}):", *indent(walk)]
        lines += self.tree(
            [(f"z{r.leaf.value}", r.combine, r.body.dtype) for r in partials],
            "t",
            self.threads,
            self.lanes,
        )
        if partials:
            lines += [
                f"if t < {self.lanes} and {first} < {self.columns}:",
                *(
                    f"    {self.array(r)}[rows * {self.columns} + {first}] = z{r.leaf.value}"
                    for r in partials
                ),
            ]
        return self.finish([*lines, *self.totals()], self.tiles, self.threads)


def join(
    name: str,
    combine: str,
    dtype: str,
    slots: int,
    size: int,
    source: tuple[str, int],
    target: tuple[str, int],
) -> CudaSpec:
    """The kernel that reduces `slots` partial results of `size` elements, in their order."""
    sizes = (slots, size) if size > 1 else (slots,)
    leaf = s._intern("row", (), dtype, 0)
    body = s.load(0, [s.axis(k) for k in range(len(sizes))], dtype)
    place = s.axis(1) if size > 1 else s.const(0, "int64")
    kept = (1,) if size > 1 else ()
    region = Region(
        sizes, (0,), (TensorType(dtype, sizes),), (TensorType(dtype, (size,)),),
        [Reduction(None, body, "rows", 1, kept, combine, leaf)],  # type: ignore[arg-type]
        [Store(0, leaf, place, 1, False)],
    )  # fmt: skip
    return Rows(region, name, {("in", 0): source, ("out", 0): target}).kernel()

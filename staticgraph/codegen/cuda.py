"""CUDA source of a region: one thread per element, per row, or several threads for a row.

The text is Python that `numba.cuda` compiles; `k(x0, ..., y0)` takes flat device arrays. How a
region spreads over blocks and threads depends on shapes alone, and every reduction is a loop per
thread and then a tree in shared memory: the same bits in every run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isinf, isnan, prod

from staticgraph import scalar as s
from staticgraph.codegen.affine import affine
from staticgraph.codegen.lower import Reduction, Region, Store, position
from staticgraph.nest import identity
from staticgraph.scalar import Expr
from staticgraph.types import ITEMSIZE, SHORT, TensorType, is_bool, is_float, is_integer

#: threads of a block at most
THREADS = 256
#: a thread starts a new partial sum after so many elements of a row
CHUNK = 256
#: tiles into which the rows of a reduction over leading axes are cut
ROW_TILES = 256

_BUILTIN = {"range"}
_TYPES = {
    "boolean",
    "float32",
    "float64",
    *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)),
}


@dataclass
class CudaKernel:
    """One generated kernel and its launch: `blocks` of `threads`, arrays of `dtypes`."""

    name: str
    text: str
    blocks: int
    threads: int
    #: ("in", k) operand, ("out", k) result, ("work", k) workspace buffer
    buffers: tuple[tuple[str, int], ...]
    dtypes: tuple[str, ...]
    elements: int
    #: result k may be written where input j was: same positions, read before written
    inplace: frozenset[tuple[int, int]] = frozenset()


@dataclass
class CudaKernels:
    """The kernels of a region in order, and the bytes of the workspace buffers between them."""

    steps: list[CudaKernel]
    workspace: list[int] = field(default_factory=list)


@dataclass
class Scope:
    """Code at one loop depth: the axes known there, what was emitted, the lines."""

    axes: set[int]
    names: dict[Expr, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def indent(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def literal(value: object, dtype: str) -> str:
    """A number of a dtype as Python source."""
    if is_bool(dtype):
        return repr(bool(value))
    if is_float(dtype):
        value = float(value)  # type: ignore[arg-type]
        text = (
            "nan"
            if isnan(value)
            else repr(value)
            if not isinf(value)
            else "inf"
            if value == inf
            else "-inf"
        )
        return f"{dtype}({text})"
    return f"{dtype}({int(value)})"  # type: ignore[call-overload]


def combined(combine: str, dtype: str, a: str, b: str) -> str:
    """One step of a reduction."""
    if combine in ("max", "min"):
        return f"{combine}imum_{SHORT[dtype]}({a}, {b})"
    sign = {"sum": "+", "prod": "*", "any": "|", "all": "&"}[combine]
    return f"{dtype}({a} {sign} {b})" if is_integer(dtype) else f"{a} {sign} {b}"


def generate(region: Region, name: str) -> CudaKernels:
    """Source of a region."""
    if region.sinks:
        return Sinks(region, name).run()
    if prod(region.sizes[k] for k in region.outer) == 0:
        return CudaKernels([])
    return CudaKernels([(Rows if region.inner else Elements)(region, name).kernel()])


class Writer:
    """Prints the expressions of a region; subclasses print the loops around them."""

    def __init__(
        self,
        region: Region,
        name: str,
        places: dict[tuple[str, int], tuple[str, int]] | None = None,
    ):
        self.region, self.name = region, name
        self.sizes = region.sizes
        self.places = places or {}
        self.buffers: dict[tuple[str, int], str] = {}
        self.shared: dict[str, str] = {}
        self.scopes: list[Scope] = []
        self.at = [f"i{k}" for k in range(len(self.sizes))]
        self.strides = [tuple(prod(t.shape[k + 1 :]) for k in range(t.ndim)) for t in region.types]
        self.memo: dict[Expr, frozenset[int]] = {}
        self.count = 0

    # -- names ------------------------------------------------------------------------------------

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def pointer(self, kind: str, k: int, dtype: str) -> str:
        ref = self.places.get((kind, k), (kind, k))
        self.buffers[ref] = dtype
        return {"in": "x", "out": "y", "work": "w"}[ref[0]] + str(ref[1])

    def deps(self, e: Expr) -> frozenset[int]:
        """Axes an expression varies along; -1 stands for the values of rows."""
        found = self.memo.get(e)
        if found is None:
            for x in s.postorder([e]):
                if x not in self.memo:
                    own = {x.value} if x.name == "axis" else {-1} if x.name == "row" else set()
                    self.memo[x] = frozenset(own).union(*(self.memo[a] for a in x.args))
            found = self.memo[e]
        return found

    def known(self, e: Expr) -> str | None:
        return next((sc.names[e] for sc in self.scopes if e in sc.names), None)

    # -- expressions ------------------------------------------------------------------------------

    def value(self, root: Expr) -> str:
        """Emit an expression, each part in the outermost scope that knows its axes; its name."""
        stack = [(root, False)]
        while stack:
            e, ready = stack.pop()
            if self.known(e):
                continue
            if ready:
                self.bind(e)
            else:
                stack.append((e, True))
                parts = (e.args[-1:] if s.is_guarded(e) else ()) if e.name == "load" else e.args
                stack.extend((a, False) for a in reversed(parts))
        return self.known(root)  # type: ignore[return-value]

    def bind(self, e: Expr) -> None:
        if e.name == "const":
            self.scopes[0].names[e] = literal(e.value, e.dtype)
            return
        deps = self.deps(e)
        scope = next(sc for sc in self.scopes if deps <= sc.axes)
        if e.name == "axis":
            scope.names[e] = self.at[e.value]  # type: ignore[index]
            return
        text = self.text(e)
        scope.names[e] = name = self.fresh()
        scope.lines.append(f"{name} = {text}")

    def text(self, e: Expr) -> str:
        if e.name == "load":
            return self.load(e)
        args = [self.known(a) for a in e.args]
        if e.name == "cast":
            return convert(args[0], e.args[0].dtype, e.dtype)  # type: ignore[arg-type]
        divisor = e.args[-1]
        if (
            e.name in ("floor_divide", "remainder")
            and is_integer(e.dtype)
            and divisor.name == "const"
            and divisor.value > 0
        ):  # type: ignore[operator]
            return f"{e.dtype}({args[0]} {'//' if e.name == 'floor_divide' else '%'} {args[1]})"
        spelling = s.PRIMS[e.name].cuda
        text = spelling.format(*args, t=SHORT[e.args[-1].dtype])
        # Numba computes in at least 64 bits; the dtype wraps.
        return (
            f"{e.dtype}{text}"
            if is_integer(e.dtype) and text[0] == "("
            else text.removeprefix("(").removesuffix(")")
            if text[0] == "("
            else text
        )

    def load(self, e: Expr) -> str:
        operand = e.value[0]  # type: ignore[index]
        guarded = s.is_guarded(e)
        x = self.pointer("in", operand, e.dtype)
        place = self.index(position(e.args[:-1] if guarded else e.args, self.strides[operand]))
        if not guarded:
            return f"{x}[{place}]"
        return f"{x}[{place}] if {self.value(e.args[-1])} else {literal(e.value[1], e.dtype)}"  # type: ignore[index]

    def index(self, e: Expr) -> str:
        """An element position as text."""
        form = affine(e)
        if form is None:
            return self.value(e)
        terms = [
            self.at[k] if c == 1 else f"{self.at[k]} * {c}" for k, c in sorted(form[0].items())
        ]
        if form[1] or not terms:
            terms.append(str(form[1]))
        return " + ".join(terms)

    def stores(self, stores: Sequence[Store], guard: str | None = None) -> None:
        """Write results: all values first, because a result may lie where an operand was."""
        scope = self.scopes[-1]
        values = [(self.value(st.value), self.index(st.index), st) for st in stores]
        lines = []
        for value, place, st in values:
            y = self.pointer("out", st.result, self.region.results[st.result].dtype)
            lines.append(f"{y}[{place}] = {value}")
        if lines and guard:
            lines = [f"if {guard}:", *indent(lines)]
        scope.lines += lines

    # -- loops ------------------------------------------------------------------------------------

    def decode(self, axes: Sequence[int], source: str) -> list[str]:
        """Indices along axes from their row-major position, a name."""
        lines = []
        for n, k in enumerate(axes):
            below = prod(self.sizes[a] for a in axes[n + 1 :])
            text = source if below == 1 else f"{source} // {below}"
            if self.at[k] != (text := text if n == 0 else f"{text} % {self.sizes[k]}"):
                lines.append(f"{self.at[k]} = {text}")
        return lines

    def tree(
        self, values: Sequence[tuple[str, str, str]], lane: str, width: int, stop: int = 1
    ) -> list[str]:
        """Join (name, combine, dtype) over `width` threads; lanes 0..stop-1 find theirs in place.

        With stop 1 every thread of the group gets the total.
        """
        if not values or width == stop:
            return []
        arrays = []
        for n, (_, _, dtype) in enumerate(values):
            array = f"s{n}_{SHORT[dtype]}"
            self.shared[array] = "boolean" if is_bool(dtype) else dtype
            arrays.append(array)
        step = [
            f"{a}[t] = {combined(c, d, f'{a}[t]', f'{a}[t + half]')}"
            for a, (_, c, d) in zip(arrays, values, strict=True)
        ]
        place = "t" if stop > 1 else "t - lane" if lane == "lane" else "0"
        return [
            *(f"{a}[t] = {name}" for a, (name, _, _) in zip(arrays, values, strict=True)),
            "cuda.syncthreads()",
            f"half = {width // 2}",
            f"while half >= {stop}:",
            *indent([f"if {lane} < half:", *indent(step), "cuda.syncthreads()", "half //= 2"]),
            *(f"{name} = {a}[{place}]" for a, (name, _, _) in zip(arrays, values, strict=True)),
            "cuda.syncthreads()",
        ]

    def start(self, r: Reduction) -> str:
        return literal(identity(r.combine, r.body.dtype), r.body.dtype)

    def add(self, r: Reduction, a: str, b: str) -> str:
        return combined(r.combine, r.body.dtype, a, b)

    # -- text -------------------------------------------------------------------------------------

    def finish(
        self, lines: Sequence[str], blocks: int, threads: int, *, inplace: bool = True
    ) -> CudaKernel:
        arrays = [f"{a} = cuda.shared.array({threads}, {d})" for a, d in self.shared.items()]
        buffers = dict(sorted(self.buffers.items()))
        names = ", ".join(
            {"in": "x", "out": "y", "work": "w"}[kind] + str(k) for kind, k in buffers
        )
        body = "\n".join(indent([*arrays, *lines]))
        return CudaKernel(
            self.name, module(self.name, names, body, blocks, threads), blocks, threads, tuple(buffers),
            tuple(buffers.values()), prod(self.sizes), overwritable(self.region) if inplace else frozenset(),
        )  # fmt: skip


def module(name: str, arguments: str, body: str, blocks: int, threads: int) -> str:
    """The text of a kernel's file."""
    used = set(re.findall(r"(\w+)\(", body)) | set(re.findall(r"array\(\d+, (\w+)\)", body))
    used -= {"array", "syncthreads", "fma", *_BUILTIN}
    types = ["cuda", *sorted(used & _TYPES)]
    functions = sorted(n for n in used - _TYPES if not n.isupper())
    lines = [f'"""{name}: {blocks} blocks of {threads} threads."""', ""]
    limits = [n for n in ("inf", "nan") if re.search(rf"\b{n}\b", body)]
    if limits:
        lines += [f"from math import {', '.join(limits)}", ""]
    lines.append(f"from numba import {', '.join(types)}")
    if functions:
        lines += ["", f"from staticgraph.cudamath import {', '.join(functions)}"]
    return "\n".join([*lines, "", "", f"def k({arguments}):", body, ""])


def convert(x: str, source: str, target: str) -> str:
    """A cast as NumPy's astype."""
    if is_bool(target):
        return f"{x} != {literal(0, source)}"
    if is_float(source) and is_integer(target):
        return f"to_{SHORT[target]}({x})"
    return f"{target}({x})"


class Elements(Writer):
    """No reduction: a thread per element."""

    def kernel(self) -> CudaKernel:
        total = prod(self.sizes)
        threads = min(THREADS, power_of_two(total))
        self.scopes = [Scope(set(range(len(self.sizes))))]
        self.stores(self.region.stores)
        body = [*self.decode(range(len(self.sizes)), "p"), *self.scopes[0].lines]
        lines = [f"p = int64(cuda.blockIdx.x) * {threads} + cuda.threadIdx.x"]
        lines += body if total % threads == 0 else [f"if p < {total}:", *indent(body)]
        return self.finish(lines, -(-total // threads), threads)


class Rows(Writer):
    """Reductions over inner axes: `lanes` threads sweep a row, once per stage."""

    def geometry(self) -> None:
        region, sizes = self.region, self.sizes
        self.outer, self.inner = region.outer, region.inner
        self.rows = prod(sizes[k] for k in self.outer)
        self.columns = prod(sizes[k] for k in self.inner)
        if len(sizes) - 1 in self.inner:
            self.lanes = min(THREADS, power_of_two(self.columns))
        elif self.columns < 64 or self.rows >= 1 << 14:
            self.lanes = 1  # neighbouring threads read neighbouring elements
        else:
            self.lanes = min(THREADS, power_of_two(-(-self.columns // 16)))
        self.threads = max(self.lanes, min(THREADS // 2, power_of_two(self.rows * self.lanes)))
        self.together = self.threads // self.lanes  # rows at a time
        self.guard = "on" if self.rows % self.together else None

    def kernel(self) -> CudaKernel:
        self.geometry()
        row = Scope({*self.outer, -1})
        self.scopes = [row]
        self.sweeps(row)
        lines = self.threads_lines()
        group = "int64(cuda.blockIdx.x)"
        lines += self.row_lines(
            group if self.together == 1 else f"{group} * {self.together} + group"
        )
        return self.finish([*lines, *row.lines], -(-self.rows // self.together), self.threads)

    def threads_lines(self) -> list[str]:
        """The place of a thread: lane of a row, row of the block."""
        if self.together == 1:
            return ["t = int64(cuda.threadIdx.x)", "lane = t"]
        return [
            "t = int64(cuda.threadIdx.x)",
            f"lane = t % {self.lanes}",
            f"group = t // {self.lanes}",
        ]

    def row_lines(self, place: str) -> list[str]:
        """Indices of row `place`; threads past the last row repeat it and store nothing."""
        lines = [f"p = {place}"]
        if self.guard:
            lines += [f"on = p < {self.rows}", f"p = minimum_i64(p, {self.rows - 1})"]
        return lines + self.decode(self.outer, "p")

    def sweeps(self, row: Scope) -> None:
        region = self.region
        for level in range(region.levels + 1):
            reductions = [r for r in region.reductions if r.level == level]
            stores = [st for st in region.stores if st.level == level and st.inner]
            if reductions or stores:
                self.sweep(row, reductions, stores)
            flat = [st for st in region.stores if st.level == level and not st.inner]
            self.stores(
                flat,
                " and ".join(filter(None, [self.guard, "lane == 0" if self.lanes > 1 else None])),
            )

    def sweep(self, row: Scope, reductions: list[Reduction], stores: list[Store]) -> None:
        """One pass over the row: reduce, store, then join the threads' results."""
        body = Scope({*row.axes, *self.inner})
        self.scopes.append(body)
        rows = [r for r in reductions if r.kind == "rows"]
        long = bool(rows) and -(-self.columns // self.lanes) > CHUNK
        letter = "c" if long else "r"
        for r in rows:
            name = f"{letter}{r.leaf.value}"
            body.lines.append(f"{name} = {self.add(r, name, self.value(r.body))}")
        for r in reductions:
            if r.kind != "rows":
                self.sink(r, body)
        self.stores(stores, self.guard)
        self.scopes.pop()
        index = self.at[self.inner[0]] if len(self.inner) == 1 else "j"
        lines = [*self.decode(self.inner, index), *body.lines]
        row.lines += [f"r{r.leaf.value} = {self.start(r)}" for r in rows]
        if long:
            span = self.lanes * CHUNK
            lines = [
                *(f"c{r.leaf.value} = {self.start(r)}" for r in rows),
                f"for {index} in range(b, minimum_i64(b + {span}, {self.columns}), {self.lanes}):",
                *indent(lines),
                *(f"r{n} = {self.add(r, f'r{n}', f'c{n}')}" for r in rows for n in [r.leaf.value]),
            ]
            row.lines += [f"for b in range(lane, {self.columns}, {span}):", *indent(lines)]
        else:
            row.lines += [
                f"for {index} in range(lane, {self.columns}, {self.lanes}):",
                *indent(lines),
            ]
        row.lines += self.tree(
            [(f"r{r.leaf.value}", r.combine, r.body.dtype) for r in rows], "lane", self.lanes
        )
        for r in rows:
            row.names[r.leaf] = f"r{r.leaf.value}"

    def sink(self, r: Reduction, body: Scope) -> None:
        raise NotImplementedError


class Sinks(Rows):
    """Reductions over leading axes or over all: blocks take tiles of rows, a second kernel joins.

    Results of a tile stand in the workspace, one slot per tile and, where a thread adds to memory,
    per row at a time; where one slot is enough it is the result itself.
    """

    def run(self) -> CudaKernels:
        region = self.region
        if 0 in self.sizes:
            return CudaKernels(
                [self.fill(k, r) for k, r in sorted(region.sinks.items()) if region.results[k].size]
            )
        self.geometry()
        self.workspace: list[int] = []
        self.targets: dict[int, tuple[str, int, str]] = {}  # reduction -> slot kind, result, array
        joins = [self.place(k, r) for k, r in sorted(region.sinks.items())]
        steps = [self.with_rows() if self.inner else self.without_rows()]
        return CudaKernels(steps + [j for j in joins if j is not None], self.workspace)

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

    def place(self, k: int, r: Reduction) -> CudaKernel | None:
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

    def fill(self, k: int, r: Reduction) -> CudaKernel:
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

    def with_rows(self) -> CudaKernel:
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

    def without_rows(self) -> CudaKernel:
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
) -> CudaKernel:
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


def overwritable(region: Region) -> frozenset[tuple[int, int]]:
    """(result, input) pairs that may share memory: every read of the input is at the position, and
    not in a later stage than where the result is written."""
    placed = [(r.level, r.body) for r in region.reductions] + [
        (st.level, st.value) for st in region.stores
    ]
    reads: dict[int, list[tuple[int, object]]] = {}
    for level, e in placed:
        for x in s.postorder([e]):
            if x.name == "load":
                k = x.value[0]  # type: ignore[index]
                shape = region.types[k].shape
                strides = tuple(prod(shape[n + 1 :]) for n in range(len(shape)))
                at = x.args[:-1] if s.is_guarded(x) else x.args
                reads.setdefault(k, []).append((level, affine(position(at, strides))))
    found = set()
    for st in region.stores:
        target, result = affine(st.index), region.results[st.result]
        for k, t in enumerate(region.types):
            fits = t.size == result.size and ITEMSIZE[t.dtype] == ITEMSIZE[result.dtype]
            if fits and all(
                level <= st.level and form == target for level, form in reads.get(k, ())
            ):
                found.add((st.result, k))
    return frozenset(found)

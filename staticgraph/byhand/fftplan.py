"""Kernels for Fourier transforms of lengths with small prime factors, in three ways.

- Where sixteen columns stand beside each other on the inner axes, or n is short, lanes are columns.
- A row that is contiguous is a matrix: its columns are transformed first, turned by the twiddle
  factors e^(-2 pi i j k / n), and then its rows, whose transposes are columns again.
- The matrix is in scratch, or for a long n in a workspace with a kernel for each half.

The tables of angles are filled by a kernel of their own, in float64. An inverse transform is a
forward one with real and imaginary parts exchanged on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isqrt, pi, prod

from staticgraph.byhand.fftlines import BYTES, LANES, Columns, Lines, Pair, Port, Twist, radices
from staticgraph.byhand.source import TILE_WORK
from staticgraph.codegen.spec import HEADER, Kernels, KernelSpec
from staticgraph.types import SHORT, TensorType, real_of

Ref = tuple[str, int]
#: rows from which a row becomes a matrix, and up to which this matrix is in scratch
MATRIX, IN_SCRATCH = 64, 1 << 14
#: the longest transform whose sixteen columns are in scratch as they are
COLUMN = 2048


def up(n: int) -> int:
    return -(-n // LANES) * LANES


def _split(n: int) -> tuple[int, int] | None:
    """n as rows times columns of a matrix: the least work on lanes that are none, nearly square."""
    found = [(a, n // a) for a in range(2, isqrt(n) + 1) if n % a == 0]
    found += [(b, a) for a, b in found]
    if not found:
        return None
    return min(found, key=lambda ab: (up(ab[0]) * ab[1] + up(ab[1]) * ab[0], sum(ab), ab))


@dataclass(frozen=True)
class Job:
    """A complex transform of n rows; `kind` and `result` are those of the ports at its ends."""

    source: Ref
    target: Ref
    outer: int
    n: int
    inner: int
    inverse: bool
    scale: float
    kind: str
    result: str

    @property
    def elements(self) -> int:
        return 4 * self.outer * self.n * self.inner

    def entry(self, s: Lines, o: str, lane: str, step: int, mask: str, gather=False) -> Port:
        """The operand `x` at `o` of the outer axes, whose columns begin at `lane`."""
        s(f"x_at = {self._base(self.kind, o, gather)} + {lane}")
        return Port("x", "x_at", step, self.kind, self.inner, mask, gather, self.inverse)

    def exit(self, s: Lines, o: str, lane: str, step: int, mask: str, gather=False) -> Port:
        """The result `y`, as `entry`."""
        s(f"y_at = {self._base(self.result, o, gather)} + {lane}")
        return Port(
            "y", "y_at", step, self.result, self.inner, mask, gather, self.inverse, self.scale
        )

    def _base(self, kind: str, o: str, gather: bool) -> str:
        step = (2 if kind == "pairs" else 1) * self.n * self.inner
        return f"{o} * splat_i64({step})" if gather else f"{o} * {step}"


#: writes the lines of a pass over one row, whose two planes at `line` are that far apart
Half = Callable[[Lines, int], None]


class Plan:
    """The kernels of one node, their workspaces and tables."""

    def __init__(self, t: TensorType, axis: int, name: str):
        self.name = name
        self.code = SHORT[real_of(t.dtype)]
        self.around = prod(t.shape[:axis]), t.shape[axis], prod(t.shape[axis + 1 :])
        self.steps: list[KernelSpec] = []
        #: bytes; the first one is for the tables
        self.workspace = [0]
        #: (row, columns, factor, plus, n): in row f, e^(-2 pi i (f factor + plus) column / n)
        self.tables: dict[tuple[int, int, int, int, int], int] = {}
        self.angles = 0  # elements of all tables

    def kernels(self) -> Kernels:
        if self.tables:
            self.steps.insert(0, self._fill())
            self.workspace[0] = self.angles * BYTES[self.code]
        return Kernels(self.steps, self.workspace)

    # -- memory -----------------------------------------------------------------------------------

    def work(self, elements: int) -> Ref:
        """A workspace of so many floats."""
        self.workspace.append(elements * BYTES[self.code])
        return ("work", len(self.workspace) - 1)

    def table(self, rows: int, columns: int, factor: int, plus: int, n: int) -> int:
        """Where the table of these angles stands, in elements: two planes of whole vectors."""
        key = (rows, columns, factor, plus, n)
        if key not in self.tables:
            self.tables[key] = self.angles
            self.angles += 2 * rows * up(columns)
        return self.tables[key]

    def circle(self, n: int) -> int:
        """All angles j / n."""
        return self.table(1, n, 0, 1, n)

    def lines(self, **pointers: Ref) -> Lines:
        tables = {"tables": ("work", 0)} if self.tables else {}
        return Lines(self.code, **pointers, **tables)

    def add(self, s: Lines, tiles: int, elements: int, scratch: int = 0, head: str = "") -> None:
        spec = s.kernel(f"{self.name}_{len(self.steps)}", tiles, elements, scratch)
        spec.text = spec.text.replace(HEADER, head + HEADER) if head else spec.text
        self.steps.append(spec)

    def _fill(self) -> KernelSpec:
        """The tables, a row of one of them per tile."""
        s = Lines(self.code, tables=("work", 0))
        tiles = 0
        with s.loop("for tile in range(lo, hi):"):
            s("f = 0", "at = 0", "plane = 0", "columns = 0", "n = 1")
            for (rows, columns, factor, plus, n), at in self.tables.items():
                wide = up(columns)
                with s.loop(f"if {tiles} <= tile and tile < {tiles + rows}:"):
                    s(f"f = (tile - {tiles}) * {factor} + {plus}")
                    s(f"at = {at} + (tile - {tiles}) * {wide}", f"plane = {rows * wide}")
                    s(f"columns = {columns}", f"n = {n}")
                tiles += rows
            s(f"unit = splat_f64({pi / 4!r}) / splat_f64(n)")
            with s.loop("for c in range(0, columns, 16):"):
                pair = s.turn("(splat_i64(c) + iota()) * splat_i64(f)")
                for part, plane in zip(pair, ("0", "plane"), strict=True):
                    s(f"vst_{self.code}(tables, at + {plane} + c, cast_{self.code}({part}))")
        return s.kernel(f"{self.name}_angles", tiles, 4 * self.angles)

    # -- which way --------------------------------------------------------------------------------

    def smooth(self, job: Job) -> None:
        """A transform whose length has no large prime factor."""
        if self.matrix(job):
            return
        split = _split(job.n)
        if split and (job.n > COLUMN or (job.inner < LANES and job.n >= 4 * MATRIX)):
            self._halves(job, *split)
        else:
            self._columns(job)

    def _core(self, rows: int, plane: int, table: str = "circle") -> Columns:
        """A transform of columns with two buffers of two planes each at the start of scratch."""
        core = Columns(rows, self.code, ("scratch", "other"), plane, table)
        if core.needs_table:
            self.circle(rows)
        return core

    def _begin(self, s: Lines, *cores: Columns) -> None:
        """The addresses of the second buffer and of the tables of angles."""
        s(f"other = scratch + {2 * cores[0].plane * BYTES[self.code]}")
        for core in cores:
            if core.needs_table:
                s(f"{core.table} = tables + {self.circle(core.rows) * BYTES[self.code]}")

    @contextmanager
    def blocks(self, s: Lines, outer: int, columns: int, rows: int) -> Iterator[int]:
        """The loop over blocks of 16 columns, with `o`, `c` and mask `m`; gives the tiles."""
        count = -(-columns // LANES)
        each = max(1, TILE_WORK // (LANES * rows))
        last = outer * count
        s.depth = 0
        with s.loop("for tile in range(lo, hi):"):
            head = f"for block in range(tile * {each}, min((tile + 1) * {each}, {last})):"
            with s.loop(head):
                s(f"o = block // {count}", f"c = block % {count} * 16")
                s(f"m = lanes({columns} - c)")
                yield -(-last // each)

    # -- columns as they are ----------------------------------------------------------------------

    def _columns(self, job: Job) -> None:
        outer, n, inner = job.outer, job.n, job.inner
        core = self._core(n, n * LANES)
        s = self.lines(x=job.source, y=job.target)
        self._begin(s, core)
        beside = inner >= LANES
        count = (outer, inner) if beside else (1, outer * inner)
        mask = "m" if inner % LANES else ""
        with self.blocks(s, *count, n) as tiles:
            if beside:
                source = job.entry(s, "o", "c", inner, mask)
                target = job.exit(s, "o", "c", inner, mask)
            else:
                s("lane = splat_i64(c) + iota()", f"row = lane // splat_i64({inner})")
                s(f"lane = lane - row * splat_i64({inner})")
                source = job.entry(s, "row", "lane", inner, "m", True)
                target = job.exit(s, "row", "lane", inner, "m", True)
            core.emit(s, source, target)
        self.add(s, tiles, job.elements, 4 * core.plane * BYTES[self.code])

    # -- a row as a matrix ------------------------------------------------------------------------

    def _twist(self, rows: int, columns: int) -> Twist:
        """Factors e^(-2 pi i row column / n) as products of two from tables.

        The last stage gives row q + k ready: one table is for q, one for k.
        """
        last = radices(rows, self.code)[-1]
        ready, wide = rows // last, up(columns)
        coarse = self.table(last, columns, ready, 0, rows * columns)
        fine = self.table(ready, columns, 1, 0, rows * columns)

        def twist(s: Lines, k: str, q: str) -> Pair:
            a = Port("tables", f"{coarse} + c", wide, "split", last * wide).load(s, k)
            b = Port("tables", f"{fine} + c", wide, "split", ready * wide).load(s, q)
            return s.times(a, b) if ready > 1 else a

        return twist

    def _own_twist(self, s: Lines, rows: int, n: int) -> Twist:
        """The same with tables at `angles` for the sixteen columns of a block: `column`."""
        last = radices(rows, self.code)[-1]
        ready = rows // last
        with s.loop(f"for r in range({ready + last}):"):
            s("f = r", f"if r >= {ready}:", f"    f = (r - {ready}) * {ready}")
            pair = s.turn("column * splat_i64(f)")
            for part, plane in zip(pair, (0, LANES), strict=True):
                s(f"vst_{self.code}(angles, r * {2 * LANES} + {plane}, cast_{self.code}({part}))")
        table = Port("angles", "0", 2 * LANES, "split", LANES)
        return lambda s, k, q: s.times(table.load(s, f"{ready} + {k}"), table.load(s, q))

    def matrix(self, job: Job, before: Half | None = None, after: Half | None = None) -> bool:
        """Rows of n = a b elements, each with its a x b matrix in scratch; False if this is no way.

        `before` makes the operand or `after` takes the result of a row, which is in scratch then.
        """
        split = _split(job.n)
        if not split or job.inner != 1 or not MATRIX <= job.n <= IN_SCRATCH:
            return False
        a, b = split
        plane, pitch = LANES * max(a, up(b)), up(b) + LANES
        first, second = self._core(a, plane), self._core(b, plane, "circle2")
        twist, size, whole = self._twist(a, b), BYTES[self.code], a * pitch
        s = self.lines(x=job.source, y=job.target)
        self._begin(s, first, second)
        s(f"matrix = other + {2 * plane * size}")
        s(f"line = matrix + {(2 * whole + LANES) * size}")
        line = up(job.n + 1) if before or after else 0
        each = max(1, TILE_WORK // job.n)
        loop = f"for row in range(tile * {each}, min((tile + 1) * {each}, {job.outer})):"
        with s.loop("for tile in range(lo, hi):"), s.loop(loop):
            if before:
                before(s, line)
            with s.loop(f"for c in range(0, {b}, 16):"):
                s(f"m = lanes({b} - c)")
                mask = "m" if b % LANES else ""
                source = job.entry(s, "row", "c", b, mask)
                if before:
                    source = Port("line", "c", b, "split", line, mask, swap=job.inverse)
                first.emit(s, source, Port("matrix", "c", pitch, "split", whole), twist)
            with s.loop(f"for c in range(0, {a}, 16):"):
                s(f"m = lanes({a} - c)")
                self._turn(s, second, "matrix", "c", a, b, whole)
                mask = "m" if a % LANES else ""
                target = job.exit(s, "row", "c", a, mask)
                if after:
                    target = Port("line", "c", a, "split", line, mask, swap=job.inverse)
                second.emit(s, second.buffer(-1), target)
            if after:
                after(s, line)
        scratch = (4 * plane + 2 * whole + LANES + 2 * line) * size
        self.add(s, -(-job.outer // each), job.elements, scratch, self._turned(pitch))
        return True

    def _turned(self, pitch: int) -> str:
        return (
            "from staticgraph.codegen.contract_moves import block_transpose\n\n"
            f"turn = block_transpose({self.code!r}, {64 // BYTES[self.code]}, {pitch}, {LANES})\n\n"
        )

    def _turn(
        self, s: Lines, core: Columns, name: str, row: str, a: int, b: int, whole: int
    ) -> None:
        """Sixteen rows of a matrix of b columns, those from c of a on, as columns in `other`."""
        size = BYTES[self.code]
        s(f"there = {name} + ({row}) * {(up(b) + LANES) * size}")
        for part in (0, 1):
            source, target = f"there + {part * whole * size}", f"other + {part * core.plane * size}"
            s(f"turn({source}, {target}, min(16, {a} - c), {b})")

    def _halves(self, job: Job, a: int, b: int) -> None:
        """The same with the matrix of all rows in a workspace, in two planes."""
        outer, inner, size = job.outer, job.inner, BYTES[self.code]
        pitch = up(b * inner) + LANES
        whole = outer * a * pitch
        work = self.work(2 * whole + LANES)
        core = self._core(a, LANES * a)
        buffers = 4 * core.plane * size
        s = self.lines(x=job.source, w=work)
        self._begin(s, core)
        s(f"angles = scratch + {buffers}", f"n = {job.n}", f"unit = splat_f64({pi / 4 / job.n!r})")
        with self.blocks(s, outer, b * inner, a) as tiles:
            s(
                f"column = (splat_i64(c) + iota()) // splat_i64({inner})",
                f"w_at = o * {a * pitch} + c",
            )
            twist = self._own_twist(s, a, job.n)
            source = job.entry(s, *self._lanes(s, job, job.kind, b))
            core.emit(s, source, Port("w", "w_at", pitch, "split", whole), twist)
        self.add(s, tiles, job.elements, buffers + 2 * LANES * (a + 1) * size)

        core = self._core(b, LANES * up(b))
        s = self.lines(w=work, y=job.target)
        self._begin(s, core)
        with self.blocks(s, outer, a * inner, b) as tiles:
            source = Port("w", "w_at", inner, "split", whole)
            if inner == 1:
                self._turn(s, core, "w", f"o * {a} + c", a, b, whole)
                source = core.buffer(-1)
            elif inner % LANES == 0:
                s(f"w_at = (o * {a} + c // {inner}) * {pitch} + c % {inner}")
            else:
                s("lane = splat_i64(c) + iota()", f"row = lane // splat_i64({inner})")
                s(f"w_at = (splat_i64(o * {a}) + row) * splat_i64({pitch})")
                s(f"w_at = w_at + lane - row * splat_i64({inner})")
                source = replace(source, mask="m", gather=True)
            target = job.exit(s, *self._lanes(s, job, job.result, a))
            core.emit(s, source, target)
        head = self._turned(pitch) if inner == 1 else ""
        self.add(s, tiles, job.elements, 4 * core.plane * size, head)

    def _lanes(self, s: Lines, job: Job, kind: str, columns: int) -> tuple:
        """Arguments of a port for the columns from c of o on, with the inner axes as one row."""
        inner, step = job.inner, columns * job.inner
        if kind != "pairs":
            return "o", "c", step, "m" if step % LANES else ""
        if inner % LANES == 0:
            return "o", f"c + c // {inner} * {inner}", step, ""
        s("spot = splat_i64(c) + iota()")
        s(f"spot = spot + spot // splat_i64({inner}) * splat_i64({inner})")
        return "splat_i64(o)", "spot", step, "m", True

    # -- passes over rows -------------------------------------------------------------------------

    @contextmanager
    def sweep(self, s: Lines, outer: int, rows: int, inner: int) -> Iterator[int]:
        """The loop over (o, k, i): lanes are along the rows k where inner is 1, else along i."""
        with self.blocks(s, *((outer, rows) if inner == 1 else (outer * rows, inner)), 1) as tiles:
            if inner == 1:
                s("k = c", "i = 0")
            else:
                s("i = c", f"k = o % {rows}", f"o = o // {rows}")
            yield tiles

    def factor(self, s: Lines, table: str, at: str, plane: int, inner: int) -> Pair:
        """The numbers of the rows k in two planes of a table."""
        code = self.code
        read = f"vld_{code}({{}})" if inner == 1 else f"splat_{code}(ld_{code}({{}}))"
        return tuple(s.let(read.format(f"{table}, {p} + {at}")) for p in (0, plane))

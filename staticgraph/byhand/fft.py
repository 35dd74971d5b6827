"""Fourier transforms along one axis of an array (outer, n, inner), of any length n.

- Where sixteen columns stand beside each other on the inner axes, or n is short, lanes are columns.
- A row that is contiguous is a matrix: its columns are transformed first, turned by the twiddle
  factors e^(-2 pi i j k / n), and then its rows, whose transposes are columns again. The matrix is
  in scratch, or for a long n in a workspace with a kernel for each half.
- With a prime factor too large for a transform by definition, n goes over a convolution with the
  chirp e^(i pi j^2 / n), by transforms of a length that has small factors (Bluestein).
- Pairs of real numbers are complex ones, so a real transform of an even n is a complex one of n / 2
  and a pass over its result; an odd n takes a whole complex one.

The tables of angles are filled by a kernel of their own, in float64. An inverse transform is a
forward one with real and imaginary parts exchanged on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isqrt, pi, prod

from staticgraph.byhand.fftlines import (
    BYTES,
    COMPLEX,
    LARGEST,
    Columns,
    Lines,
    Pair,
    Port,
    Twist,
    primes,
    radices,
)
from staticgraph.byhand.source import TILE_WORK, cut
from staticgraph.codegen.cpu import HEADER, Kernels, KernelSpec
from staticgraph.types import SHORT, TensorType, real_of

Ref = tuple[str, int]
LANES = 16
#: rows from which a row becomes a matrix, and up to which this matrix is in scratch
MATRIX, IN_SCRATCH = 64, 1 << 14
#: the longest transform whose sixteen columns are in scratch as they are
COLUMN = 2048
#: angles in a table of the passes over real spectra
FINE = 512


def fft(
    types: Sequence[TensorType],
    out: Sequence[TensorType],
    *,
    name: str,
    axis: int,
    inverse: bool,
    scale: float,
) -> Kernels:
    made = _Plan(out[0], axis, name)
    if out[0].size:
        outer, n, inner = made.around
        made.transform(("in", 0), ("out", 0), outer, n, inner, inverse=inverse, scale=scale)
    return made.kernels()


def rfft(
    types: Sequence[TensorType],
    out: Sequence[TensorType],
    *,
    name: str,
    axis: int,
    scale: float,
) -> Kernels:
    made = _Plan(types[0], axis, name)
    if out[0].size:
        made.real_forward(scale)
    return made.kernels()


def irfft(
    types: Sequence[TensorType],
    out: Sequence[TensorType],
    *,
    name: str,
    axis: int,
    n: int,
    scale: float,
) -> Kernels:
    made = _Plan(out[0], axis, name)
    if out[0].size:
        made.real_backward(scale)
    return made.kernels()


def _up(n: int) -> int:
    return -(-n // LANES) * LANES


def _split(n: int) -> tuple[int, int] | None:
    """n as rows times columns of a matrix: the least work on lanes that are none, nearly square."""
    found = [(a, n // a) for a in range(2, isqrt(n) + 1) if n % a == 0]
    found += [(b, a) for a, b in found]
    if not found:
        return None
    return min(found, key=lambda ab: (_up(ab[0]) * ab[1] + _up(ab[1]) * ab[0], sum(ab), ab))


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
        return Port("x", "x_at", step, self.kind, 0, mask, gather, self.inverse)

    def exit(self, s: Lines, o: str, lane: str, step: int, mask: str, gather=False) -> Port:
        """The result `y`, as `entry`."""
        s(f"y_at = {self._base(self.result, o, gather)} + {lane}")
        return Port("y", "y_at", step, self.result, 0, mask, gather, self.inverse, self.scale)

    def _base(self, kind: str, o: str, gather: bool) -> str:
        step = (2 if kind == "pairs" else 1) * self.n * self.inner
        return f"{o} * splat_i64({step})" if gather else f"{o} * {step}"


class _Plan:
    """The kernels of one node, their workspaces and tables."""

    def __init__(self, t: TensorType, axis: int, name: str):
        self.name = name
        self.code = SHORT[real_of(t.dtype)]
        self.around = prod(t.shape[:axis]), t.shape[axis], prod(t.shape[axis + 1 :])
        self.steps: list[KernelSpec] = []
        self.workspace: list[int] = []
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
        """A workspace of so many floats; the first one is that of the tables."""
        if not self.workspace:
            self.workspace.append(0)
        self.workspace.append(elements * BYTES[self.code])
        return ("work", len(self.workspace) - 1)

    def table(self, rows: int, columns: int, factor: int, plus: int, n: int) -> int:
        """Where the table of these angles stands, in elements: two planes of whole vectors."""
        if not self.workspace:
            self.workspace.append(0)
        key = (rows, columns, factor, plus, n)
        if key not in self.tables:
            self.tables[key] = self.angles
            self.angles += 2 * rows * _up(columns)
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
                wide = _up(columns)
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

    def transform(
        self,
        source: Ref,
        target: Ref,
        outer: int,
        n: int,
        inner: int,
        *,
        inverse: bool,
        scale: float = 1.0,
        kind: str = "complex",
        result: str = "complex",
    ) -> None:
        """A complex transform; `kind` and `result` are those of the `Port` at either end."""
        if inner == 1:
            kind, result = ("complex" if k == "pairs" else k for k in (kind, result))
        job = Job(source, target, outer, n, inner, inverse, scale, kind, result)
        if max(primes(n), default=1) > LARGEST:
            self._chirped(job)
            return
        split = _split(n)
        if split and inner == 1 and MATRIX <= n <= IN_SCRATCH:
            self._matrix(job, *split)
        elif split and (n > COLUMN or (inner < LANES and n >= 4 * MATRIX)):
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
    def _blocks(self, s: Lines, outer: int, columns: int, rows: int) -> Iterator[int]:
        """The loop over blocks of 16 columns, with `o`, `c` and mask `m`; gives the tiles."""
        blocks = -(-columns // LANES)
        each = max(1, TILE_WORK // (LANES * rows))
        last = outer * blocks
        s.depth = 0
        with s.loop("for tile in range(lo, hi):"):
            head = f"for block in range(tile * {each}, min((tile + 1) * {each}, {last})):"
            with s.loop(head):
                s(f"o = block // {blocks}", f"c = block % {blocks} * 16")
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
        with self._blocks(s, *count, n) as tiles:
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
        ready, wide = rows // last, _up(columns)
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

    def _matrix(self, job: Job, a: int, b: int) -> None:
        """Rows of n = a b elements, each with its a x b matrix in scratch."""
        plane, pitch = LANES * max(a, _up(b)), _up(b) + LANES
        first, second = self._core(a, plane), self._core(b, plane, "circle2")
        twist, size, whole = self._twist(a, b), BYTES[self.code], a * pitch
        s = self.lines(x=job.source, y=job.target)
        self._begin(s, first, second)
        s(f"matrix = other + {2 * plane * size}")
        each = max(1, TILE_WORK // job.n)
        loop = f"for row in range(tile * {each}, min((tile + 1) * {each}, {job.outer})):"
        with s.loop("for tile in range(lo, hi):"), s.loop(loop):
            with s.loop(f"for c in range(0, {b}, 16):"):
                s(f"m = lanes({b} - c)")
                source = job.entry(s, "row", "c", b, "m" if b % LANES else "")
                first.emit(s, source, Port("matrix", "c", pitch, "split", whole), twist)
            with s.loop(f"for c in range(0, {a}, 16):"):
                s(f"m = lanes({a} - c)")
                self._turn(s, second, "matrix", "c", a, b, whole)
                target = job.exit(s, "row", "c", a, "m" if a % LANES else "")
                second.emit(s, second.buffer(-1), target)
        scratch = (4 * plane + 2 * whole + LANES) * size
        self.add(s, -(-job.outer // each), job.elements, scratch, self._turned(pitch))

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
        s(f"there = {name} + ({row}) * {(_up(b) + LANES) * size}")
        for part in (0, 1):
            source, target = f"there + {part * whole * size}", f"other + {part * core.plane * size}"
            s(f"turn({source}, {target}, min(16, {a} - c), {b})")

    def _halves(self, job: Job, a: int, b: int) -> None:
        """The same with the matrix of all rows in a workspace, in two planes."""
        outer, inner, size = job.outer, job.inner, BYTES[self.code]
        pitch = _up(b * inner) + LANES
        whole = outer * a * pitch
        work = self.work(2 * whole + LANES)
        core = self._core(a, LANES * a)
        buffers = 4 * core.plane * size
        s = self.lines(x=job.source, w=work)
        self._begin(s, core)
        s(f"angles = scratch + {buffers}", f"n = {job.n}", f"unit = splat_f64({pi / 4 / job.n!r})")
        with self._blocks(s, outer, b * inner, a) as tiles:
            s(
                f"column = (splat_i64(c) + iota()) // splat_i64({inner})",
                f"w_at = o * {a * pitch} + c",
            )
            twist = self._own_twist(s, a, job.n)
            source = job.entry(s, "o", "c", b * inner, "m" if b * inner % LANES else "")
            core.emit(s, source, Port("w", "w_at", pitch, "split", whole), twist)
        self.add(s, tiles, job.elements, buffers + 2 * LANES * (a + 1) * size)

        core = self._core(b, LANES * _up(b))
        s = self.lines(w=work, y=job.target)
        self._begin(s, core)
        with self._blocks(s, outer, a * inner, b) as tiles:
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
            target = job.exit(s, "o", "c", a * inner, "m" if a * inner % LANES else "")
            core.emit(s, source, target)
        head = self._turned(pitch) if inner == 1 else ""
        self.add(s, tiles, job.elements, 4 * core.plane * size, head)

    # -- passes over rows -------------------------------------------------------------------------

    @contextmanager
    def _sweep(self, s: Lines, outer: int, rows: int, inner: int) -> Iterator[int]:
        """The loop over (o, k, i): lanes are along the rows k where inner is 1, else along i."""
        with self._blocks(s, *((outer, rows) if inner == 1 else (outer * rows, inner)), 1) as tiles:
            if inner == 1:
                s("k = c", "i = 0")
            else:
                s("i = c", f"k = o % {rows}", f"o = o // {rows}")
            yield tiles

    def _factor(self, s: Lines, table: str, at: str, plane: int, inner: int) -> Pair:
        """The numbers of the rows k in two planes of a table."""
        code = self.code
        read = f"vld_{code}({{}})" if inner == 1 else f"splat_{code}(ld_{code}({{}}))"
        return tuple(s.let(read.format(f"{table}, {p} + {at}")) for p in (0, plane))

    # -- convolution with a chirp -----------------------------------------------------------------

    def _chirped(self, job: Job) -> None:
        """y[k] = c[k] sum_j (x[j] c[j]) / c[k - j] with c[j] = e^(-pi i j^2 / n)."""
        outer, n, inner = job.outer, job.n, job.inner
        size = min(f << max(0, ((2 * n - 2) // f).bit_length()) for f in (1, 3, 5, 9, 15))
        wide = _up(n)
        chirp, kernel, response = self.work(2 * wide), self.work(2 * size), self.work(2 * size)
        signal, spectrum = (self.work(2 * outer * size * inner) for _ in range(2))
        self._chirp(chirp, kernel, n, size)
        self.transform(kernel, response, 1, size, 1, inverse=False)

        there = f"(o * {size} + k) * {inner} + i"
        s = self.lines(x=job.source, chirp=chirp, y=signal)
        with self._sweep(s, outer, size, inner) as tiles:
            s(f"z_re = {s.const(0.0)}", f"z_im = {s.const(0.0)}")
            with s.loop(f"if k < {n}:"):
                s(f"inside = m & lanes({n} - k)" if inner == 1 else "inside = m")
                z = s.times(
                    job.entry(s, "o", "i", inner, "inside").load(s, "k"),
                    self._factor(s, "chirp", "k", wide, inner),
                )
                # Behind the last row the table holds anything.
                s(f"z_re = select(inside, {z[0]}, z_re)", f"z_im = select(inside, {z[1]}, z_im)")
            Port("y", there, inner, mask="m").store(s, "0", ("z_re", "z_im"))
        self.add(s, tiles, job.elements)
        self.transform(signal, spectrum, outer, size, inner, inverse=False)

        s = self.lines(x=spectrum, r=response, y=signal)
        with self._sweep(s, outer, size, inner) as tiles:
            z = Port("x", there, inner, mask="m").load(s, "0")
            if inner == 1:
                w = Port("r", "k", 1, mask="m").load(s, "0")
            else:
                at = ("2 * k", "2 * k + 1")
                w = tuple(s.let(f"splat_{self.code}(ld_{self.code}(r, {k}))") for k in at)
            Port("y", there, inner, mask="m").store(s, "0", s.times(z, w))
        self.add(s, tiles, job.elements)
        self.transform(signal, spectrum, outer, size, inner, inverse=True, scale=1.0 / size)

        s = self.lines(x=spectrum, chirp=chirp, y=job.target)
        with self._sweep(s, outer, n, inner) as tiles:
            z = Port("x", there, inner, mask="m").load(s, "0")
            z = s.times(z, self._factor(s, "chirp", "k", wide, inner))
            job.exit(s, "o", "i", inner, "m").store(s, "k", z)
        self.add(s, tiles, job.elements)

    def _chirp(self, chirp: Ref, kernel: Ref, n: int, size: int) -> None:
        """c[j] in two planes, and 1 / c[j] at j and -j of a circle of `size` places."""
        wide, code = _up(n), COMPLEX[self.code]
        s = self.lines(chirp=chirp, b=kernel)
        with self._blocks(s, 1, n, 1) as tiles:
            s("j = splat_i64(c) + iota()")
            s(f"n = {2 * n}", f"unit = splat_f64({pi / 8 / n!r})")
            pair = s.turn("(j * j) % splat_i64(n)")
            re, im = (s.let(f"cast_{self.code}({part})") for part in pair)
            s(f"vst_{self.code}(chirp, c, {re})", f"vst_{self.code}(chirp, {wide} + c, {im})")
            back = s.let(f"complex_({re}, -{im})")
            s(f"vstm_{code}(b, c, {back}, m)")
            s(f"vscatter_{code}(b, splat_i64({size}) - j, {back}, m & (j > splat_i64(0)))")
        with s.loop("for tile in range(lo, hi):"):
            low, high = cut(size + 1 - 2 * n, "tile", tiles)
            with s.loop(f"for c in range({low}, {high}, 16):"):
                s(f"vstm_{code}(b, {n} + c, splat_{code}(0), lanes({high} - c))")
        self.add(s, tiles, 4 * n)

    # -- real numbers -----------------------------------------------------------------------------

    def _fine(self, s: Lines, n: int, inner: int) -> Pair:
        """e^(-2 pi i k / n) for the rows k of a sweep, as a product of two from tables."""
        last = n // 2 // FINE + 1
        fine, coarse = self.table(1, FINE, 0, 1, n), self.table(1, last, 0, FINE, n)
        b = self._factor(s, "tables", f"{fine} + k % {FINE}", FINE, inner)
        a = self._factor(s, "tables", f"{coarse} + k // {FINE}", _up(last), 0)
        return s.times(a, b)

    def _mirrored(self, s: Lines, rows: int, at: int, inner: int, mask: str) -> Port:
        """Rows at - k of x, an array (outer, rows, inner), those of 0 in place of `rows`."""
        if inner > 1:
            s(f"back_at = (o * {rows} + ({at} - k) % {rows}) * {inner} + i")
            return Port("x", "back_at", inner, mask=mask)
        s(f"back = splat_i64({at} - k) - iota()")
        s(f"back = select(back == splat_i64({rows}), splat_i64(0), back)")
        s(f"back = back + splat_i64(o * {rows})")
        return Port("x", "back", 1, mask=mask, gather=True)

    def real_forward(self, scale: float) -> None:
        """X[k] = E[k] - i w^k O[k], E and O the transforms of the even and odd elements.

        Those are the even and odd part of that of the pairs: 2 E[k] = Z[k] + conj Z[-k].
        """
        outer, n, inner = self.around
        half, even = n // 2, n % 2 == 0
        rows, kind = (half, "pairs") if even else (n, "real")
        work = self.work(2 * outer * rows * inner)
        self.transform(("in", 0), work, outer, rows, inner, inverse=False, kind=kind)
        self.table(1, FINE, 0, 1, n)
        self.table(1, n // 2 // FINE + 1, 0, FINE, n)
        s = self.lines(x=work, y=("out", 0))
        with self._sweep(s, outer, half + 1, inner) as tiles:
            if even:
                mirrored = self._mirrored(s, half, half, inner, "m")
                z, back = self._wrapped(s, half, inner), mirrored.load(s, "0")
                a = s.let(f"{z[0]} + {back[0]}"), s.let(f"{z[1]} - {back[1]}")
                b = s.let(f"{z[0]} - {back[0]}"), s.let(f"{z[1]} + {back[1]}")
                z = s.behind(a, s.times(b, self._fine(s, n, inner)))
                z = s.scale(z, 0.5 * scale)
            else:
                z = Port("x", f"(o * {n} + k) * {inner} + i", inner, mask="m").load(s, "0")
                z = s.scale(z, scale)
            Port("y", f"(o * {half + 1} + k) * {inner} + i", inner, mask="m").store(s, "0", z)
        self.add(s, tiles, 4 * outer * n * inner)

    def _wrapped(self, s: Lines, rows: int, inner: int) -> Pair:
        """Rows k of x, those of 0 in place of `rows`."""
        if inner > 1:
            at = f"(o * {rows} + k % {rows}) * {inner} + i"
            return Port("x", at, inner, mask="m").load(s, "0")
        s(f"inside = lanes({rows} - k)")
        z = Port("x", f"o * {rows} + k", 1, mask="inside").load(s, "0")
        first = (f"splat_{self.code}(ld_{self.code}(x, o * {2 * rows} + {p}))" for p in (0, 1))
        return tuple(s.let(f"select(inside, {a}, {b})") for a, b in zip(z, first, strict=True))

    def real_backward(self, scale: float) -> None:
        """Z[k] = X[k] + conj X[h-k] + i w^-k (X[k] - conj X[h-k]) with h = n / 2: pairs of results.

        For an odd n, the whole spectrum; its second half are conjugates of the first.
        """
        outer, n, inner = self.around
        half, even = n // 2, n % 2 == 0
        rows, kind = (half, "pairs") if even else (n, "real")
        self.table(1, FINE, 0, 1, n)
        self.table(1, n // 2 // FINE + 1, 0, FINE, n)
        work = self.work(2 * outer * rows * inner)
        s = self.lines(x=("in", 0), y=work)
        with self._sweep(s, outer, rows, inner) as tiles:
            s("rows = splat_i64(k) + iota()" if inner == 1 else "rows = splat_i64(k)")
            z = self._spectrum(s, "ahead", "rows", half + 1, inner, n)
            if even:
                back = self._spectrum(s, "back", f"splat_i64({half}) - rows", half + 1, inner, n)
                a = s.let(f"{z[0]} + {back[0]}"), s.let(f"{z[1]} - {back[1]}")
                b = s.let(f"{z[0]} - {back[0]}"), s.let(f"{z[1]} + {back[1]}")
                w = self._fine(s, n, inner)
                z = s.ahead(a, s.times(b, (w[0], f"(-{w[1]})")))
            Port("y", f"(o * {rows} + k) * {inner} + i", inner, mask="m").store(s, "0", z)
        self.add(s, tiles, 4 * outer * n * inner)
        self.transform(work, ("out", 0), outer, rows, inner, inverse=True, scale=scale, result=kind)

    def _spectrum(self, s: Lines, name: str, row: str, stored: int, inner: int, n: int) -> Pair:
        """Elements of the spectrum of real numbers, of which `stored` rows are there."""
        s(f"{name} = {row}", f"{name}_far = {name} >= splat_i64({stored})")
        s(f"{name} = select({name}_far, splat_i64({n}) - {name}, {name})")
        s(f"{name}_real = ({name} == splat_i64(0)) | ({name} * splat_i64(2) == splat_i64({n}))")
        if inner == 1:
            s(f"{name} = {name} + splat_i64(o * {stored})")
        else:
            s(f"{name} = ({name} + splat_i64(o * {stored})) * splat_i64({inner})"
              " + splat_i64(i) + iota()")  # fmt: skip
        re, im = Port("x", name, 1, mask="m", gather=True).load(s, "0")
        im = s.let(f"select({name}_real, {s.const(0.0)}, select({name}_far, -{im}, {im}))")
        return re, im

"""LU and Cholesky of small matrices without LAPACK: whole rows in vectors, four pivots at a time.

LAPACK takes two to three times as long for 64 x 64 matrices. With rows in contiguous memory the
pivot is searched in a row, and columns change places. They do so at the end, all at once: until
then a column that has had its pivot is only marked, and rows of U are 0 there.
"""

from __future__ import annotations

from staticgraph.byhand.source import Source
from staticgraph.codegen.spec import LANES, KernelSpec
from staticgraph.types import ITEMSIZE, SHORT, TensorType, is_float

#: pivots whose rows of U update the rows below them together
PANEL = 4
#: rows above which LAPACK, which works in blocks that fit a cache, is as fast
MOST_ROWS = {"float32": 192, "float64": 128}


def is_small(a: TensorType) -> bool:
    return is_float(a.dtype) and 0 < a.shape[-1] <= MOST_ROWS[a.dtype]


class Elimination(Source):
    """The text of a kernel that eliminates one matrix after the other in scratch memory.

    Rows there have `stride` elements, a multiple of the lanes. `i`, `c` run over rows and columns.
    """

    def __init__(self, a: TensorType, /, **pointers: tuple[str, int]):
        super().__init__(**pointers)
        self.n, self.code, self.size = a.shape[-1], SHORT[a.dtype], ITEMSIZE[a.dtype]
        self.stride = -(-self.n // LANES) * LANES
        #: rows that are updated together: as many as registers hold
        self.group = 4 if self.size == 4 else 2
        self.height = -(-self.n // self.group) * self.group + PANEL
        self.used = 0
        for name, count in (
            ("w", self.height * self.stride),
            ("u", PANEL * self.stride),
            ("alive", self.stride),
            ("scale", self.stride),
        ):
            self.emit(0, f"{name} = scratch + {self.used}")
            self.used += count * self.size
        self.emit(0, f"rest = scratch + {self.used}")
        self.used += 4 * self.stride
        self.emit(0, f"zero = splat_{self.code}(0)", f"one = splat_{self.code}(1)")
        self.emit(0, "for m in range(lo, hi):", f"    first = m * {self.n * self.n}", "    bad = 0")

    def columns(self, depth: int, start: str = "0", stop: int | None = None) -> None:
        self.emit(depth, f"for c in range({start}, {stop or self.stride}, {LANES}):")

    def clear(self) -> None:
        """The rows below the matrix, which updates in groups reach."""
        self.emit(1, f"for c in range({self.n * self.stride}, {self.height * self.stride}, 16):")
        self.emit(2, f"vst_{self.code}(w, c, zero)")

    def multipliers(self, depth: int, at: str, pivots: int, tag: str) -> None:
        """-L of the row at `at` for the last pivots, as vectors: what `rows` below needs."""
        for t in range(pivots):
            value = f"splat_{self.code}(ld_{self.code}(w, {at} + p{t}))"
            for s in range(t):
                value = f"fma(n{s}{tag}, u{s}{t}, {value})"
            self.emit(depth, f"n{t}{tag} = -{value}")

    def update(self, depth: int, start: str, ats: list[str], pivots: int) -> None:
        """Subtract from the rows at `ats` what the last pivots eliminate."""
        for tag, at in enumerate(ats):
            self.multipliers(depth, at, pivots, f"_{tag}")
        self.columns(depth, start)
        for s in range(pivots):
            self.emit(depth + 1, f"r{s} = vld_{self.code}(u, {s * self.stride} + c)")
        for tag, at in enumerate(ats):
            value = f"vld_{self.code}(w, {at} + c)"
            for s in range(pivots):
                value = f"fma(n{s}_{tag}, r{s}, {value})"
            self.emit(depth + 1, f"vst_{self.code}(w, {at} + c, {value})")

    def panel(self, depth: int, pivots: int, start: str, pivot: str) -> None:
        """Rows k, k + 1, ...: each is brought up to date, then gives its pivot and its row of U."""
        for r in range(pivots):
            self.emit(depth, f"at = (k + {r}) * {self.stride}")
            if r:
                self.update(depth, start, ["at"], r)
            self.block(depth, pivot.format(r=r))
            for s in range(r):
                value = f"ld_{self.code}(u, {s * self.stride} + p{r})"
                self.emit(depth, f"u{s}{r} = splat_{self.code}({value})")

    def eliminate(self, pivot: str, start: str) -> None:
        """All pivots; `pivot` finds one and stores its row of U, `start` is the first column."""
        full = self.n - self.n % PANEL
        self.emit(1, f"for k in range(0, {full}, {PANEL}):")
        self.panel(2, PANEL, start, pivot)
        self.emit(2, f"for i in range(k + {PANEL}, {self.n}, {self.group}):")
        self.emit(3, *(f"at{g} = (i + {g}) * {self.stride}" for g in range(self.group)))
        self.update(3, start, [f"at{g}" for g in range(self.group)], PANEL)
        if self.n % PANEL:
            self.emit(1, f"k = {full}")
            self.panel(1, self.n % PANEL, start.replace("k", str(full)), pivot)

    def spec(self, name: str, count: int) -> KernelSpec:
        work = count * self.n * self.n * max(self.n // 8, 1)
        spec = self.kernel(name, count, work, self.used)
        spec.inplace = frozenset({(0, 0)})  # a matrix is read before its result is written
        return spec


#: NaN counts as the largest number, so that it is met, not passed over
_LARGEST = """
best = -one
where = zero
for c in range(0, {stride}, 16):
    value = abs_(vld_{code}(w, at + c))
    value = select(value == value, value, splat_{code}(inf))
    value = select(vld_{code}(alive, c) > zero, value, -one)
    better = value > best
    where = select(better, splat_{code}(c) + steps, where)
    best = select(better, value, best)
top = splat_{code}(lane0_{code}(hmax(best)))
place = hmin(select(best == top, where, splat_{code}({stride})))
p{{r}} = lane0_i64(cast_i64(place))
pivot = splat_{code}(ld_{code}(w, at + p{{r}}))
if ld_{code}(w, at + p{{r}}) == 0.0:
    if bad == 0:
        bad = k + {{r}} + 1
by = select(pivot == zero, zero, one / pivot)
st_{code}(alive, p{{r}}, 0)
st_{code}(scale, k + {{r}}, lane0_{code}(by))
st_i32(perm, m * {n} + k + {{r}}, p{{r}})
for c in range(0, {stride}, 16):
    row = select(vld_{code}(alive, c) > zero, vld_{code}(w, at + c) * by, zero)
    vst_{code}(u, {{r}} * {stride} + c, row)
"""

_PERMUTED = """
    for i in range({n}):
        by = splat_{code}(ld_{code}(scale, i))
        for c in range(0, {n}, 16):
            mask = lanes({n} - c)
            order = cast_i64(vldm_i32(perm, m * {n} + c, mask))
            row = vgather_{code}(w + i * {row_bytes}, order, mask)
            row = select(lanes(i + 1 - c), row, row * by)
            vstm_{code}(lu, first + i * {n} + c, row, mask)
    for i in range({n}):
        st_i32(rest, i, ld_i32(perm, m * {n} + i))
    odd = 0
    for i in range({n}):
        p = 0 + ld_i32(rest, i)
        while p != i:
            st_i32(rest, i, ld_i32(rest, p))
            st_i32(rest, p, p)
            p = 0 + ld_i32(rest, i)
            odd = 1 - odd
    st_i32(parity, m, 1 - 2 * odd)
    st_i32(info, m, bad)
"""


def lu(a: TensorType, name: str, count: int) -> KernelSpec:
    """a[:, perm] = L U with unit upper U, as `lu_factor` says."""
    s = Elimination(
        a, a=("in", 0), lu=("out", 0), perm=("out", 1), parity=("out", 2), info=("out", 3)
    )
    n, code, stride = s.n, s.code, s.stride
    words = {"n": n, "code": code, "stride": stride, "row_bytes": stride * s.size}
    s.emit(1, f"steps = cast_{code}(iota())", f"for i in range({n}):")
    s.columns(2)
    s.emit(3, f"row = vldm_{code}(a, first + i * {n} + c, lanes({n} - c))")
    s.emit(3, f"vst_{code}(w, i * {stride} + c, row)")
    s.clear()
    s.columns(1)
    s.emit(2, f"vst_{code}(alive, c, select(lanes({n} - c), one, zero))")
    s.eliminate(_LARGEST.format(**words), "0")
    s.block(0, _PERMUTED.format(**words))
    return s.spec(name, count)


_DIAGONAL = """
p{{r}} = k + {{r}}
pivot = splat_{code}(ld_{code}(w, at + p{{r}}))
if bad == 0:
    bad = k + {{r}} + 1
    if ld_{code}(w, at + p{{r}}) > 0.0:
        bad = 0
st_{code}(scale, k + {{r}}, lane0_{code}(one / sqrt(pivot)))
by = one / pivot
for c in range(k // 16 * 16, {stride}, 16):
    row = select(lanes(k + {{r}} + 1 - c), zero, vld_{code}(w, at + c) * by)
    vst_{code}(u, {{r}} * {stride} + c, row)
"""

_LOWER = """
    for i in range({n}):
        for c in range(0, {n}, 16):
            row = vld_{code}(w, i * {stride} + c) * vld_{code}(scale, c)
            row = select(lanes(i + 1 - c), row, zero)
            vstm_{code}(y, first + i * {n} + c, row, lanes({n} - c))
    st_i32(info, m, bad)
"""


def cholesky(a: TensorType, name: str, count: int) -> KernelSpec:
    """Elimination without exchanges: its columns, by the roots of the pivots, are those of L."""
    s = Elimination(a, a=("in", 0), y=("out", 0), info=("out", 1))
    n, code, stride = s.n, s.code, s.stride
    words = {"n": n, "code": code, "stride": stride}
    s.emit(1, f"for i in range({n}):")
    s.columns(2)
    s.emit(3, f"mask = lanes({n} - c)", "below = lanes(i + 1 - c)")
    s.emit(3, f"row = vldm_{code}(a, first + i * {n} + c, mask & below)")
    s.emit(3, f"if c + {LANES} > i:", f"    place = (iota() + splat_i64(c)) * splat_i64({n})")
    s.emit(4, f"column = vgather_{code}(a + (first + i) * {s.size}, place, mask)")
    s.emit(4, "row = select(below, row, column)")
    s.emit(3, f"vst_{code}(w, i * {stride} + c, row)")
    s.clear()
    s.eliminate(_DIAGONAL.format(**words), "k // 16 * 16")
    s.block(0, _LOWER.format(**words))
    return s.spec(name, count)

"""LU and inverse of a few large matrices, over all threads.

LAPACK has one thread here, and a batch of a few matrices would keep one or two threads busy. So its
routines factor a panel of rows, and every block of rows below is brought up to date by a tile of
its own. All panels run the same two kernels: the number of the panel is in a workspace. What a tile
computes does not depend on who runs it, nor do the bits.
"""

from __future__ import annotations

from math import prod

from staticgraph.byhand.lapack import LapackSource
from staticgraph.byhand.source import cut
from staticgraph.codegen.spec import Kernels, KernelSpec
from staticgraph.types import TensorType

#: rows from which a matrix is cut into panels, and matrices up to which a batch is few
LEAST_ROWS, FEW = 384, 8
#: rows of a block, which one tile takes; a panel is one or more of them
_BLOCK = 64
_LONG = 1024


def is_large(a: TensorType) -> bool:
    return a.shape[-1] >= LEAST_ROWS and 0 < prod(a.shape[:-2]) < FEW


class _Panels:
    """Sizes of the panels of a batch of matrices, and what all kernels begin with."""

    def __init__(self, a: TensorType, name: str):
        self.dtype, self.name, self.n = a.dtype, name, a.shape[-1]
        self.count = prod(a.shape[:-2])
        self.height = 2 * _BLOCK if self.n >= _LONG else _BLOCK
        self.blocks = -(-self.n // _BLOCK)
        self.steps: list[KernelSpec] = []

    @property
    def panels(self) -> int:
        return -(-self.n // self.height)

    def source(self, **pointers: tuple[str, int]) -> LapackSource:
        return LapackSource(self.dtype, **pointers)

    def add(self, s: LapackSource, tiles: int, label: str, elements: int = 0) -> None:
        work = elements or self.count * self.n * self.n
        self.steps.append(s.finished(f"{self.name}_{label}", tiles, work))

    def panel(self, s: LapackSource, matrix: str) -> None:
        """Where panel `step` of matrix b is: `at`, its rows `k_rows`, the rest of columns."""
        n = self.n
        s.emit(1, f"at = step * {self.height}", f"width = min({self.height}, {n} - at)")
        s.emit(1, f"corner = {matrix} + (b * {n * n} + at * {n} + at) * {s.size}")
        s.emit(1, f"st_i32({s.region('panel', 1, 'i32')}, 0, width)")


def lu_factor(a: TensorType, *, name: str) -> Kernels:
    """As `linalg.lu_factor`, panel by panel: columns change places in all rows."""
    p = _Panels(a, name)
    n, count, blocks = p.n, p.count, p.blocks
    whole = {"lu": ("out", 0), "steps": ("work", 0), "pivots": ("work", 1)}

    s = p.source(a=("in", 0), lu=("out", 0), steps=("work", 0), info=("out", 3))
    low, high = cut(n, f"m % {blocks}", blocks)
    s.emit(1, f"b = m // {blocks}", f"first = b * {n * n} + ({low}) * {n}")
    s.copy(1, "lu, first", "a, first", f"(({high}) - ({low})) * {n}")
    s.emit(1, f"if m % {blocks} == 0:", "    st_i64(steps, b, -1)", "    st_i32(info, b, 0)")
    p.add(s, count * blocks, "copy")

    s = p.source(**whole, info=("out", 3))
    s.emit(1, "b = m", "step = 1 + ld_i64(steps, b)", "st_i64(steps, b, step)")
    p.panel(s, "lu")
    rest, status = s.region("rest", 1, "i32"), s.region("status", 1, "i32")
    s.emit(1, f"st_i32({rest}, 0, {n} - at)")
    s.call(1, "getrf", rest, "panel", "corner", n, f"pivots + (b * {n} + at) * 4", status)
    s.emit(1, f"if ld_i32({status}, 0) != 0 and ld_i32(info, b) == 0:")
    s.emit(2, f"st_i32(info, b, at + ld_i32({status}, 0))")
    factor = s

    s = p.source(**whole)
    s.emit(
        1, f"b = m // {blocks}", f"first = m % {blocks} * {_BLOCK}", "step = 0 + ld_i64(steps, b)"
    )
    p.panel(s, "lu")
    high, rest = s.region("high", 1, "i32"), s.region("rest", 1, "i32")
    s.emit(1, f"st_i32({high}, 0, min({_BLOCK}, {n} - first))")
    s.emit(1, f"st_i32({rest}, 0, {n} - at - width)")
    s.emit(1, f"own = lu + (b * {n * n} + first * {n} + at) * {s.size}")
    s.emit(1, "below = first >= at + width", "if first < at or below:")
    s.call(2, "laswp", high, "own", n, 1, "panel", f"pivots + (b * {n} + at) * 4", 1)
    s.emit(1, "if below:")
    s.call(2, "trsm", "'L'", "'L'", "'N'", "'U'", "panel", high, 1.0, "corner", n, "own", n)
    s.call(
        2, "gemm", "'N'", "'N'", rest, high, "panel", -1.0, f"corner + width * {s.size}", n,
        "own", n, 1.0, f"own + width * {s.size}", n,
    )  # fmt: skip
    p.add(factor, count, "panel")
    p.add(s, count * blocks, "rest", count * n * n * p.height // 8)
    p.steps += p.steps[-2:] * (p.panels - 1)

    s = p.source(pivots=("work", 1), perm=("out", 1), parity=("out", 2))
    s.block(
        1,
        f"""
odd = 0
first = m * {n}
for i in range({n}):
    st_i32(perm, first + i, i)
for i in range({n}):
    p = i // {p.height} * {p.height} + ld_i32(pivots, first + i) - 1
    if p != i:
        odd = 1 - odd
        held = ld_i32(perm, first + i)
        st_i32(perm, first + i, ld_i32(perm, first + p))
        st_i32(perm, first + p, held)
st_i32(parity, m, 1 - 2 * odd)
""",
    )
    p.add(s, count, "order")
    return Kernels(p.steps, [8 * count, 4 * count * n])


def lu_inverse(lu: TensorType, *, name: str) -> Kernels:
    """The systems for the columns of the identity, a block of them per tile.

    A block of L^-1 is 0 above its own rows, so this is the work of LAPACK's getri.
    """
    p = _Panels(lu, name)
    n, blocks = p.n, p.blocks
    s = p.source(lu=("in", 0), perm=("in", 1), y=("out", 0))
    x, wide = s.region("x", n * _BLOCK), s.region("wide", 1, "i32")
    rest = s.region("rest", 1, "i32")
    s.emit(1, f"b = m // {blocks}", f"first = m % {blocks} * {_BLOCK}")
    s.emit(1, f"w = min({_BLOCK}, {n} - first)", f"st_i32({wide}, 0, w)")
    s.emit(1, f"st_i32({rest}, 0, {n} - first)", f"factors = lu + b * {n * n * s.size}")
    s.fill(1, f"{x}, 0", f"w * {n}", "0")
    s.emit(1, "for i in range(w):", f"    st_{s.code}({x}, (first + i) * w + i, 1)")
    s.call(
        1, "trsm", "'R'", "'U'", "'N'", "'N'", wide, rest, 1.0,
        f"factors + first * {(n + 1) * s.size}", n, f"{x} + first * w * {s.size}", wide,
    )  # fmt: skip
    s.call(1, "trsm", "'R'", "'L'", "'N'", "'U'", wide, n, 1.0, "factors", n, x, wide)
    s.emit(1, f"for i in range({n}):")
    s.emit(2, f"row = (b * {n} + ld_i32(perm, b * {n} + i)) * {n} + first")
    s.copy(2, "y, row", f"{x}, i * w", "w")
    p.add(s, p.count * blocks, "inverse", p.count * n * n * n // 8)
    return Kernels(p.steps)

"""LU, Cholesky and triangular systems: kernels around LAPACK, one matrix after the other.

Small matrices go to `elimination`, a few large ones to `panels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from staticgraph.byhand import elimination, panels
from staticgraph.byhand.lapack import BLOCK, LapackSource, place
from staticgraph.codegen.spec import Kernels
from staticgraph.types import TensorType

Types = Sequence[TensorType]
#: columns of right sides that a tile solves, where there are few matrices
_COLUMNS = 64
_FEW = 16


def lu_factor(types: Types, out: Types, *, name: str) -> Kernels:
    """getrf of the transpose; its row exchanges are exchanges of our columns."""
    (a,), n = types, types[0].shape[-1]
    count = prod(a.shape[:-2])
    if count and elimination.is_small(a):
        return Kernels([elimination.lu(a, name, count)])
    if panels.is_large(a):
        return panels.lu_factor(a, name=name)
    s = LapackSource(
        a.dtype, a=("in", 0), lu=("out", 0), perm=("out", 1), parity=("out", 2), info=("out", 3)
    )
    pivots, status = s.region("pivots", n, "i32"), s.region("status", 1, "i32")
    s.emit(1, f"own = lu + m * {n * n * s.size}")
    s.copy(1, "own, 0", f"a, m * {n * n}", n * n)
    s.call(1, "getrf", n, n, "own", max(n, 1), pivots, status)
    s.block(
        1,
        f"""
st_i32(info, m, ld_i32(status, 0))
odd = 0
first = m * {n}
for i in range({n}):
    st_i32(perm, first + i, i)
for i in range({n}):
    p = ld_i32(pivots, i) - 1
    if p != i:
        odd = 1 - odd
        held = ld_i32(perm, first + i)
        st_i32(perm, first + i, ld_i32(perm, first + p))
        st_i32(perm, first + p, held)
st_i32(parity, m, 1 - 2 * odd)
""",
    )
    spec = s.finished(name, count, count * n * n * max(n // 8, 1))
    spec.inplace = frozenset({(0, 0)})
    return Kernels([spec] if count else [])


def lu_inverse(types: Types, out: Types, *, name: str) -> Kernels:
    """getri without exchanges, then the rows go where they belong."""
    lu, n = types[0], types[0].shape[-1]
    count = prod(lu.shape[:-2])
    if panels.is_large(lu):
        return panels.lu_inverse(lu, name=name)
    s = LapackSource(lu.dtype, lu=("in", 0), perm=("in", 1), y=("out", 0))
    x, pivots, status = s.region("x", n * n), s.region("pivots", n, "i32"), s.region("status", 1)
    work = s.region("work", n * BLOCK)
    s.copy(1, f"{x}, 0", f"lu, m * {n * n}", n * n)
    s.emit(1, f"for i in range({n}):", f"    st_i32({pivots}, i, i + 1)")
    s.call(1, "getri", n, x, n, pivots, work, n * BLOCK, status)
    s.emit(1, f"for i in range({n}):", f"    row = (m * {n} + ld_i32(perm, m * {n} + i)) * {n}")
    s.copy(2, "y, row", f"{x}, i * {n}", n)
    return Kernels([s.finished(name, count, count * n * n * n)] if lu.size else [])


def lu_solve(types: Types, out: Types, *, name: str, transpose: bool) -> Kernels:
    """Two triangular systems from the right side of the transposed unknown, and an exchange."""
    lu, _, b = types
    n, k = b.shape[-2:]
    s = LapackSource(b.dtype, lu=("in", 0), perm=("in", 1), b=("in", 2), x=("out", 0))
    tiles = _begin(s, lu, b, out[0], name)
    s.emit(1, *place("p_at", lu.shape[:-2], out[0].shape[:-2], n, "t"))
    y = s.region("y", n * min(k, _width(out[0])))
    s.emit(1, f"for i in range({n}):", f"    p = ld_i32(perm, p_at + i) * {k}")
    s.copy(2, f"{y}, i * w", f"b, b_at + {'p' if transpose else f'i * {k}'}", "w")
    steps = [("U", "N"), ("L", "U")]
    for triangle, diagonal in reversed(steps) if transpose else steps:
        trans = "'T'" if transpose else "'N'"
        s.call(
            1, "trsm", "'R'", f"'{triangle}'", trans, f"'{diagonal}'", "w_at", n, 1.0,
            f"lu + a_at * {s.size}", n, y, "w_at",
        )  # fmt: skip
    s.emit(1, f"for i in range({n}):", f"    p = ld_i32(perm, p_at + i) * {k}")
    s.copy(2, f"x, x_at + {f'i * {k}' if transpose else 'p'}", f"{y}, i * w", "w")
    return Kernels([s.finished(name, tiles, out[0].size * n)] if out[0].size else [])


def triangular_solve(
    types: Types, out: Types, *, name: str, lower: bool, trans: str, unit: bool
) -> Kernels:
    """trsm from the right side of the transposed unknown, whose rows are columns of ours."""
    a, b = types
    n, k = b.shape[-2:]
    s = LapackSource(b.dtype, a=("in", 0), b=("in", 1), x=("out", 0))
    tiles = _begin(s, a, b, out[0], name)
    s.emit(1, f"for i in range({n}):")
    s.copy(2, f"x, x_at + i * {k}", f"b, b_at + i * {k}", "w")
    s.call(
        1, "trsm", "'R'", "'U'" if lower else "'L'", f"'{trans}'", "'U'" if unit else "'N'",
        "w_at", n, 1.0, f"a + a_at * {s.size}", n, f"x + x_at * {s.size}", k,
    )  # fmt: skip
    spec = s.finished(name, tiles, out[0].size * n)
    if a.shape[:-2] == out[0].shape[:-2] == b.shape[:-2]:
        spec.inplace = frozenset({(0, 1)})
    return Kernels([spec] if out[0].size else [])


def _width(out: TensorType) -> int:
    """Columns of the right sides that one tile takes."""
    return _COLUMNS if prod(out.shape[:-2]) < _FEW else max(out.shape[-1], 1)


def _begin(s: LapackSource, a: TensorType, b: TensorType, out: TensorType, name: str) -> int:
    """Where tile m finds its matrix and its columns: a_at, b_at, x_at, w columns; the tiles."""
    n, k = out.shape[-2:]
    batch, width = out.shape[:-2], _width(out)
    pieces = -(-k // width)
    count = s.region("w_at", 1, "i32")
    s.emit(1, f"t = m // {max(pieces, 1)}", f"first = m % {max(pieces, 1)} * {width}")
    s.emit(1, f"w = min({width}, {k} - first)", f"st_i32({count}, 0, w)")
    s.emit(1, *place("a_at", a.shape[:-2], batch, n * n, "t"))
    s.emit(1, *place("b_at", b.shape[:-2], batch, n * k, "t"), "b_at += first")
    s.emit(1, f"x_at = t * {n * k} + first")
    return prod(batch) * pieces


def cholesky_factor(types: Types, out: Types, *, name: str) -> Kernels:
    """potrf of the upper triangle of the transpose, which is our lower one."""
    (a,), n = types, types[0].shape[-1]
    count = prod(a.shape[:-2])
    if count and elimination.is_small(a):
        return Kernels([elimination.cholesky(a, name, count)])
    s = LapackSource(a.dtype, a=("in", 0), y=("out", 0), info=("out", 1))
    status = s.region("status", 1, "i32")
    s.emit(1, f"for i in range({n}):", f"    row = (m * {n} + i) * {n}")
    s.emit(2, f"for c in range(0, {n}, 16):", f"    mask = lanes({n} - c)")
    s.emit(3, f"value = select(lanes(i + 1 - c), vldm_{s.code}(a, row + c, mask),"
              f" splat_{s.code}(0))")  # fmt: skip
    s.emit(3, f"vstm_{s.code}(y, row + c, value, mask)")
    s.call(1, "potrf", "'U'", n, f"y + m * {n * n * s.size}", max(n, 1), status)
    # A factor that begins with NaN passes LAPACK's test, which asks whether it is <= 0.
    s.emit(1, "bad = 0 + ld_i32(status, 0)")
    if n:
        s.emit(1, f"last = ld_{s.code}(y, (m + 1) * {n * n} - 1)")
        s.emit(1, "if last != last:", f"    bad = {n}")
    s.emit(1, "st_i32(info, m, bad)")
    spec = s.finished(name, count, count * n * n * max(n // 8, 1))
    spec.inplace = frozenset({(0, 0)})
    return Kernels([spec] if count else [])

"""QR, eigenvalues and singular values: kernels around LAPACK, one matrix after the other.

Batches of small symmetric matrices go to `eigen`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from staticgraph.byhand import eigen
from staticgraph.byhand.lapack import BLOCK, LapackSource
from staticgraph.codegen.spec import Kernels
from staticgraph.types import SHORT, TensorType, is_complex, real_of

Types = Sequence[TensorType]


def qr(types: Types, out: Types, *, name: str, complete: bool) -> Kernels:
    """LQ of the transpose: its L is our R, its Q ours."""
    (a,), (m, n) = types, types[0].shape[-2:]
    count, k, width = prod(a.shape[:-2]), min(types[0].shape[-2:]), out[0].shape[-1]
    height = out[1].shape[-2]
    s = LapackSource(a.dtype, a=("in", 0), q=("out", 0), r=("out", 1))
    x, tau, status = s.region("x", m * n), s.region("tau", k), s.region("status", 1)
    room = max(m, n, 1) * BLOCK
    work = s.region("work", room)
    s.copy(1, f"{x}, 0", f"a, m * {m * n}", m * n)
    if k:
        s.call(1, "gelqf", n, m, x, n, tau, work, room, status)
        s.emit(1, f"for i in range({m}):")
        s.copy(2, f"q, (m * {m} + i) * {width}", f"{x}, i * {n}", k)
        make = "unglq" if is_complex(a.dtype) else "orglq"
        own = f"q + m * {m * width * s.size}"
        s.call(1, make, width, m, k, own, width, tau, work, room, status)
    elif width:
        s.identity(1, "q", width)
    s.emit(1, f"for i in range({height}):", f"    row = (m * {height} + i) * {n}")
    s.emit(2, f"for c in range(0, {n}, 16):", f"    mask = lanes({n} - c)")
    s.emit(3, f"kept = (mask ^ lanes(i - c)) & lanes(({k} - i) * {n})")
    s.emit(3, f"vstm_{s.code}(r, row + c, vldm_{s.code}({x}, i * {n} + c, kept), mask)")
    return Kernels([s.finished(name, count, count * m * n * max(k, 1))] if count else [])


def _unless_finite(s: LapackSource, count: int, first: str) -> None:
    """Sets `finite` to 0 where one of the `count` elements from a[first] on is inf or NaN: LAPACK's
    iterations are not asked to end then."""
    part = SHORT[real_of(s.dtype)]
    floats = count * (2 if is_complex(s.dtype) else 1)
    step = 2 if is_complex(s.dtype) else 1
    s.emit(1, f"worst = splat_{part}(0)")
    s.emit(1, f"for c in range(0, {floats}, 16):")
    s.emit(2, f"value = vldm_{part}(a, {first} * {step} + c, lanes({floats} - c))")
    s.emit(2, f"worst = worst + value * splat_{part}(0)")
    s.emit(1, f"finite = lane0_{part}(hsum(worst)) == 0.0")


def _nan(s: LapackSource, depth: int, name: str, at: str, t: TensorType, each: int) -> None:
    part = SHORT[real_of(t.dtype)]
    floats = each * (2 if is_complex(t.dtype) else 1)
    s.fill(depth, f"{name}, {at} * {floats}", floats, "nan", part)


def eigh(types: Types, out: Types, *, name: str, lower: bool) -> Kernels:
    w, rows = out
    return _eigen(types[0], w, rows, name, lower)


def eigvalsh(types: Types, out: Types, *, name: str, lower: bool) -> Kernels:
    return _eigen(types[0], out[0], None, name, lower)


def _eigen(
    a: TensorType, w: TensorType, rows: TensorType | None, name: str, lower: bool
) -> Kernels:
    """syevd of the transpose: its columns, the eigenvectors, are our rows, conjugated."""
    n, count, part = a.shape[-1], prod(a.shape[:-2]), SHORT[real_of(a.dtype)]
    if eigen.is_batch(a, count):
        return Kernels(
            [eigen.symmetric(a, name, lower=lower, vectors=rows is not None, count=count)]
        )
    vectors = {} if rows is None else {"v": ("out", 1)}
    s = LapackSource(a.dtype, a=("in", 0), w=("out", 0), **vectors)
    x = s.region("x", n * n) if rows is None else f"v + m * {n * n * s.size}"
    status = s.region("status", 1)
    _unless_finite(s, n * n, f"m * {n * n}")
    s.emit(1, "bad = 1", "if finite:")
    s.copy(2, f"{x}, 0", f"a, m * {n * n}", n * n)
    job, triangle = "'N'" if rows is None else "'V'", "'U'" if lower else "'L'"
    values = f"w + m * {n * {'f32': 4, 'f64': 8}[part]}"
    real_room = 1 + (6 + BLOCK) * n + 2 * n * n
    whole_room = 3 + 5 * n
    whole = s.region("whole", whole_room, "i32")
    if is_complex(a.dtype):
        room = (BLOCK + 2) * n + n * n
        work, real = s.region("work", room), s.region("real", real_room, part)
        s.call(2, "heevd", job, triangle, n, x, n, values, work, room, real, real_room,
               whole, whole_room, status)  # fmt: skip
    else:
        work = s.region("work", real_room)
        s.call(2, "syevd", job, triangle, n, x, n, values, work, real_room,
               whole, whole_room, status)  # fmt: skip
    s.emit(2, "bad = 0 + ld_i32(status, 0)")
    s.emit(1, "if bad != 0:")
    _nan(s, 2, "w", "m", w, n)
    if rows is not None:
        _nan(s, 2, "v", "m", rows, n * n)
    return Kernels([s.finished(name, count, 8 * count * n * n * n)] if a.size else [])


def svd(types: Types, out: Types, *, name: str, full: bool) -> Kernels:
    return _singular(types[0], {"u": out[0], "w": out[1], "v": out[2]}, name, "A" if full else "S")


def svdvals(types: Types, out: Types, *, name: str) -> Kernels:
    return _singular(types[0], {"w": out[0]}, name, "N")


def _singular(a: TensorType, out: dict[str, TensorType], name: str, job: str) -> Kernels:
    """gesdd of the transpose: its left vectors are our rows of V^H, its right ones our U."""
    (m, n), count, part = a.shape[-2:], prod(a.shape[:-2]), SHORT[real_of(a.dtype)]
    k, long = min(m, n), max(m, n)
    s = LapackSource(a.dtype, a=("in", 0), **{x: ("out", j) for j, x in enumerate(out)})
    if not k:
        squares = [side for side, t in out.items() if t.size]
        for side in squares:
            s.identity(1, side, out[side].shape[-1])
        return Kernels([s.finished(name, count, 0)] if squares else [])
    x, status = s.region("x", m * n), s.region("status", 1)
    whole = s.region("whole", 8 * k, "i32")
    room = 4 * k * k + 7 * k + long * (k if job == "N" else 2) + (m + n) * BLOCK
    work = s.region("work", room)
    _unless_finite(s, m * n, f"m * {m * n}")
    s.emit(1, "bad = 1", "if finite:")
    s.copy(2, f"{x}, 0", f"a, m * {m * n}", m * n)
    where = {"w": f"w + m * {k * {'f32': 4, 'f64': 8}[part]}", "u": x, "v": x}
    sizes = {"u": 1, "v": 1}
    for side in set(out) - {"w"}:
        rows, columns = out[side].shape[-2:]
        where[side], sizes[side] = f"{side} + m * {rows * columns * s.size}", columns
    given = [f"'{job}'", n, m, x, n, where["w"], where["v"], n, where["u"], sizes["u"], work, room]
    if is_complex(a.dtype):
        given.append(s.region("real", max(5 * k * k + 7 * k, 2 * long * k + 2 * k * k + k), part))
    s.call(2, "gesdd", *given, whole, status)
    s.emit(2, "bad = 0 + ld_i32(status, 0)")
    s.emit(1, "if bad != 0:")
    for side, t in out.items():
        _nan(s, 2, side, "m", t, prod(t.shape[(-1 if side == "w" else -2) :]))
    return Kernels([s.finished(name, count, 16 * count * m * n * k)] if count else [])

"""QR, eigenvalues and singular values over the last two axes, and what is made of them.

Eigenvectors and singular vectors are unique up to sign (a phase), and where values are equal up to
a rotation; a result that depends on that choice has no derivative. What does not depend on it has,
and its part inside a space of equal values is 0, which is how derivatives here treat it. Second
derivatives hold where values differ.
"""

from __future__ import annotations

import numpy as np

from staticgraph.errors import GradientError, GraphTypeError
from staticgraph.ir import Op, apply
from staticgraph.operands import cast, constant, promoted
from staticgraph.ops.arith import add_n
from staticgraph.ops.declare import number
from staticgraph.ops.elementwise import abs as magnitude
from staticgraph.ops.elementwise import sqrt, square, where
from staticgraph.ops.join import concat
from staticgraph.ops.linalg import implicit
from staticgraph.ops.matrix import diag, diagonal, triu
from staticgraph.ops.reduce import max as largest
from staticgraph.ops.reduce import min as smallest
from staticgraph.ops.reduce import sum
from staticgraph.ops.shape import broadcast_to
from staticgraph.ops.triangular import adjoint, hermitian_of, matrices, right_side, triangular
from staticgraph.registry import public, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, is_complex, real_of


def _reciprocal(x: Tensor) -> Tensor:
    """1 / x, and 0 for 0."""
    zero, one = constant(0, x.type.dtype), constant(1, x.type.dtype)
    return where(x == zero, zero, one / where(x == zero, one, x))


def _gaps(values: Tensor, dtype: str) -> Tensor:
    """1 / (values[j] - values[i]) at (i, j), 0 where they are equal."""
    return cast(_reciprocal(values[..., None, :] - values[..., :, None]), dtype)


def _sum(*terms: Tensor | None) -> Tensor | None:
    """The sum of those that are there."""
    found = [t for t in terms if t is not None]
    return add_n(found) if found else None


# ---------------------------------------------------------------------------- QR


@register
class Qr(Op):
    """a = Q R with orthonormal columns of Q and upper triangular R, by Householder reflections."""

    name = "qr"

    def infer(self, a: TensorType, *, complete: bool) -> tuple[TensorType, ...]:
        *batch, m, n = a.shape
        k = m if complete else min(m, n)
        return TensorType(a.dtype, (*batch, m, k)), TensorType(a.dtype, (*batch, k, n))

    def reference(self, arrays, types, *, complete):
        return list(np.linalg.qr(arrays[0], "complete" if complete else "reduced"))

    def vjp(self, node, cotangents):
        """Roberts and Roberts 2020; for a wide matrix its left square part and the rest."""
        (a,), (q, r), (gq, gr) = node.operands, node.results, cotangents
        m, n = a.shape[-2:]
        if node.attrs["complete"] and m > n:
            if gq is not None:
                raise GradientError(
                    "qr: Q has no derivative with mode='complete' and more rows than columns:"
                    " its last columns are any basis of what the others leave"
                )
            q, r, gr = q[..., :n], r[..., :n, :], gr[..., :n, :]
        gr = None if gr is None else triu(gr)
        if m >= n:
            return [_tall(q, r, gq, gr)]
        right = a[..., m:]
        square = None if gr is None else gr[..., :m]
        rest = None if gr is None else gr[..., m:]
        gq = _sum(gq, None if rest is None else right @ adjoint(rest))
        left = _tall(q, r[..., :m], gq, square)
        return [concat([left, q @ rest if rest is not None else right * 0], -1)]


def _tall(q: Tensor, r: Tensor, gq: Tensor | None, gr: Tensor | None) -> Tensor:
    """(gQ + Q H) R^-H, where H is Hermitian with the lower triangle of R gR^H - gQ^H Q."""
    middle = _sum(
        None if gr is None else r @ adjoint(gr), None if gq is None else -(adjoint(gq) @ q)
    )
    total = _sum(gq, q @ hermitian_of(middle))
    return adjoint(triangular(r, adjoint(total), lower=False))


@public
def qr(a: object, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    """(Q, R) with a = Q R, orthonormal columns and an upper triangle, as numpy.linalg.qr.

    By Householder reflections, so that the diagonal of R may be negative. Shapes: (..., m, n) gives
    (..., m, k) and (..., k, n), k = min(m, n), or m with mode "complete". Dtypes: floats and
    complex; integers become float32.
    Gradient: by triangular systems with R, of any order; inf or NaN where R is singular.
    Raises ShapeError for fewer than two axes, GraphTypeError for another mode, GradientError for
    the derivative of Q with mode "complete" and m > n.
    """
    if mode not in ("reduced", "complete"):
        raise GraphTypeError(f"qr: mode is 'reduced' or 'complete', got {mode!r}")
    return apply(Qr, matrices("qr", a, square=False), complete=mode == "complete")


# ---------------------------------------------------------------------------- eigenvalues


@register
class Eigh(Op):
    """Eigenvalues of a Hermitian matrix, rising, and as rows its conjugated eigenvectors."""

    name = "eigh"

    def infer(self, a: TensorType, *, lower: bool) -> tuple[TensorType, ...]:
        return TensorType(real_of(a.dtype), a.shape[:-1]), a

    def reference(self, arrays, types, *, lower):
        values, vectors = np.linalg.eigh(arrays[0], "L" if lower else "U")
        return [values, vectors.conj().swapaxes(-1, -2)]

    def vjp(self, node, cotangents):
        """Giles 2008: V (diag(gw) + (V^H gV) / (w_j - w_i)) V^H, made Hermitian."""
        (w, rows), (gw, g_rows) = node.results, cotangents
        middle = None if gw is None else diag(cast(gw, rows.type.dtype))
        if g_rows is not None:
            turned = (rows @ adjoint(g_rows)) * _gaps(w, rows.type.dtype)
            turned = constant(0.5, rows.type.dtype) * (turned + adjoint(turned))
            middle = _sum(middle, turned)
        return [adjoint(rows) @ middle @ rows]


@register
class Eigvalsh(Op):
    """Eigenvalues of a Hermitian matrix, rising."""

    name = "eigvalsh"

    def infer(self, a: TensorType, *, lower: bool) -> TensorType:
        return TensorType(real_of(a.dtype), a.shape[:-1])

    def reference(self, arrays, types, *, lower):
        return [np.linalg.eigvalsh(arrays[0], "L" if lower else "U")]

    def vjp(self, node, cotangents):
        _, rows = apply(Eigh, node.operands[0], **node.attrs)
        return [adjoint(rows) @ (cast(cotangents[0], rows.type.dtype)[..., None] * rows)]


def _is_lower(op: str, UPLO: object) -> bool:
    if UPLO not in ("L", "U"):
        raise GraphTypeError(f"{op}: UPLO is 'L' or 'U', got {UPLO!r}")
    return UPLO == "L"


@public
def eigh(a: object, UPLO: str = "L") -> tuple[Tensor, Tensor]:
    """(w, v) with a v = v diag(w) for Hermitian a and rising w, as numpy.linalg.eigh.

    Only the triangle UPLO is read. Shapes: (..., n, n) gives (..., n) and (..., n, n). Dtypes:
    floats and complex; integers become float32. Matrices with inf or NaN, or where LAPACK does not
    converge, give NaN.
    Gradient: v (diag(gw) + f * (v^H gv)) v^H made Hermitian, f_ij = 1 / (w_j - w_i), or 0 where
    these are equal (PyTorch: inf or NaN): right for what does not depend on the choice of
    eigenvectors. Second derivatives hold where eigenvalues differ.
    Raises ShapeError for matrices that are not square, GraphTypeError for another UPLO.
    """
    lower = _is_lower("eigh", UPLO)
    w, rows = apply(Eigh, matrices("eigh", a), lower=lower)
    return w, adjoint(rows)


@public
def eigvalsh(a: object, UPLO: str = "L") -> Tensor:
    """Eigenvalues of Hermitian matrices, rising: the first result of `eigh`, which see.

    Gradient: v diag(g) v^H.
    """
    return apply(Eigvalsh, matrices("eigvalsh", a), lower=_is_lower("eigvalsh", UPLO))


# ---------------------------------------------------------------------------- singular values


@register
class Svd(Op):
    """a = U diag(S) V^H with falling singular values; `full` completes U and V^H to square."""

    name = "svd"

    def infer(self, a: TensorType, *, full: bool) -> tuple[TensorType, ...]:
        *batch, m, n = a.shape
        k = min(m, n)
        rows, columns = (n, m) if full else (k, k)
        return (
            TensorType(a.dtype, (*batch, m, columns)),
            TensorType(real_of(a.dtype), (*batch, k)),
            TensorType(a.dtype, (*batch, rows, n)),
        )

    def reference(self, arrays, types, *, full):
        return list(np.linalg.svd(arrays[0], full_matrices=full))

    def vjp(self, node, cotangents):
        u, s, vh = node.results
        gu, gs, gvh = cotangents
        if node.attrs["full"] and u.shape[-1] != vh.shape[-2]:
            k = s.shape[-1]
            gu = None if gu is None else _turned_inside(u, gu, k)
            gvh = None if gvh is None else adjoint(_turned_inside(adjoint(vh), adjoint(gvh), k))
            u, vh = u[..., :k], vh[..., :k, :]
        return [_svd_vjp(u, s, vh, gu, gs, gvh)]


def _turned_inside(u: Tensor, g: Tensor, k: int) -> Tensor:
    """The cotangent of the first k of all vectors: what the others add by leaving their space.

    They stay orthogonal, so dU2 = -U1 (U2^H dU1)^H but for a rotation among themselves.
    """
    if k == u.shape[-1]:
        return g
    first, others = u[..., :k], u[..., k:]
    return g[..., :k] - others @ (adjoint(g[..., k:]) @ first)


def _svd_vjp(
    u: Tensor,
    s: Tensor,
    vh: Tensor,
    gu: Tensor | None,
    gs: Tensor | None,
    gvh: Tensor | None,
) -> Tensor:
    """Giles 2008 for any shape; for complex matrices with the phase that U and V share."""
    dtype = u.type.dtype
    values = cast(s, dtype)
    row, column = values[..., None, :], values[..., :, None]
    gaps = _gaps(square(s), dtype)
    middle = None if gs is None else diag(cast(gs, dtype))
    after, before = None, None
    if gu is not None:
        turned = adjoint(u) @ gu
        skew = turned - adjoint(turned)
        middle = _sum(middle, skew * gaps * row)
        inverse = _reciprocal(values)
        if is_complex(dtype):
            phase = diagonal(skew) * inverse * constant(0.5, dtype)
            middle = _sum(middle, diag(phase))
        if u.shape[-2] > u.shape[-1]:
            after = ((gu - u @ turned) * inverse[..., None, :]) @ vh
    if gvh is not None:
        turned = vh @ adjoint(gvh)
        middle = _sum(middle, (turned - adjoint(turned)) * gaps * column)
        if vh.shape[-1] > vh.shape[-2]:
            outside = gvh - (gvh @ adjoint(vh)) @ vh
            before = (u * _reciprocal(values)[..., None, :]) @ outside
    return _sum(u @ middle @ vh, after, before)


@register
class Svdvals(Op):
    """Singular values, falling."""

    name = "svdvals"

    def infer(self, a: TensorType) -> TensorType:
        return TensorType(real_of(a.dtype), (*a.shape[:-2], min(a.shape[-2:])))

    def reference(self, arrays, types):
        return [np.linalg.svd(arrays[0], compute_uv=False)]

    def vjp(self, node, cotangents):
        u, _, vh = apply(Svd, node.operands[0], full=False)
        return [(u * cast(cotangents[0], u.type.dtype)[..., None, :]) @ vh]


@public
def svd(a: object, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """(u, s, vh) with a = u diag(s) vh and falling s, as numpy.linalg.svd.

    Shapes: (..., m, n) gives (..., m, m), (..., k), (..., n, n) for k = min(m, n), or without
    `full_matrices` (..., m, k), (..., k), (..., k, n). Dtypes: floats and complex; integers become
    float32. Matrices with inf or NaN, or where LAPACK does not converge, give NaN.
    Gradient: Giles 2008. What belongs to equal or to zero singular values counts as 0 (PyTorch:
    inf or NaN): right for what does not depend on the choice of vectors. That holds for the vectors
    that `full_matrices` adds, too, whose cotangents PyTorch ignores. Second derivatives hold where
    singular values differ and are not 0.
    Raises ShapeError for fewer than two axes.
    """
    return apply(Svd, matrices("svd", a, square=False), full=bool(full_matrices))


@public
def svdvals(a: object) -> Tensor:
    """Singular values, falling: the second result of `svd`, which see.

    Gradient: u diag(g) vh.
    """
    return apply(Svdvals, matrices("svdvals", a, square=False))


def decomposed(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S and V^H with the short side in common."""
    return apply(Svd, a, full=False)


@implicit
def _pinv(y, g, a):
    """Golub and Pereyra 1973, for changes that keep the rank."""
    back, left, right = adjoint(g), a @ y, y @ a
    first = back @ y @ adjoint(y)
    last = adjoint(y) @ y @ back
    return [-(adjoint(y) @ g @ adjoint(y)) + first - left @ first + last - last @ right]


@public
def pinv(a: object, rcond: float | None = None) -> Tensor:
    """Moore-Penrose inverse by singular values, of which those up to `rcond` times the largest
    count as 0.

    `rcond` is by default max(m, n) times the rounding error of the dtype. Shapes: (..., m, n) gives
    (..., n, m). Dtypes: floats and complex; integers become float32.
    Gradient: Golub and Pereyra 1973, for changes that keep the rank; of any order, and without
    differences of singular values.
    Raises ShapeError for fewer than two axes.
    """
    t = matrices("pinv", a, square=False)
    if t.size == 0:
        return broadcast_to(constant(0, t.type.dtype), t.mT.shape)
    if rcond is None:
        rcond = max(t.shape[-2:]) * float(np.finfo(real_of(t.type.dtype)).eps)
    rcond = number("pinv", "rcond", rcond, positive=False)
    u, s, vh = decomposed(t)
    kept = s > largest(s, -1, keepdims=True) * rcond
    inverse = where(kept, _reciprocal(s), constant(0, s.type.dtype))
    value = (adjoint(vh) * cast(inverse, t.type.dtype)[..., None, :]) @ adjoint(u)
    return apply(_pinv, t, value)


@public
def lstsq(a: object, b: object, rcond: float | None = None) -> Tensor:
    """The x of least norm among those that minimise the norm of a x - b: pinv(a, rcond) @ b.

    Shapes: a (..., m, n), b (m,) or (..., m, k). Dtypes and gradient: as `pinv`.
    Raises ShapeError where the sizes do not fit.
    """
    a, b = promoted("lstsq", [a, b], floating=True)
    a = matrices("lstsq", a, square=False)
    b, vector = right_side("lstsq", a, b)
    x = pinv(a, rcond) @ b
    return x[..., 0] if vector else x


@public
def matrix_norm(x: object, ord: object = "fro", keepdims: bool = False) -> Tensor:
    """Norm of the matrices on the last two axes, as numpy.linalg.matrix_norm.

    `ord` "fro": root of the sum of squares; "nuc": sum of the singular values; 2 or -2: the largest
    or smallest one; 1, -1, inf, -inf: largest or smallest sum of magnitudes of a column (1) or row
    (inf).
    Shapes: (..., m, n) gives (...), or (..., 1, 1) with `keepdims`. Dtypes: floats and complex.
    Gradient: that of the parts; of "fro" at 0 it is 0.
    Raises ShapeError for fewer than two axes, GraphTypeError for another `ord`.
    """
    t = matrices("matrix_norm", x, square=False)
    size = magnitude(t)
    if ord == "fro":
        squares = sum(square(size), (-2, -1))
        zero, one = constant(0, squares.type.dtype), constant(1, squares.type.dtype)
        held = where(squares == zero, one, squares)
        norm = where(squares == zero, zero, sqrt(held))
    elif ord == "nuc":
        norm = sum(svdvals(t), -1)
    elif ord in (2, -2):
        norm = svdvals(t)[..., 0 if ord == 2 else -1]
    elif ord in (1, -1, np.inf, -np.inf):
        sums = sum(size, -2 if abs(ord) == 1 else -1)
        norm = (largest if ord > 0 else smallest)(sums, -1)
    else:
        raise GraphTypeError(
            f"matrix_norm: ord is 'fro', 'nuc', 2, -2, 1, -1, inf or -inf, got {ord!r}"
        )
    return norm[..., None, None] if keepdims else norm

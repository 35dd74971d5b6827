"""Linear algebra over the last two axes: inverse, determinant, linear systems, Cholesky.

LAPACK factors, and everything else is derived from factors. What has a factorization inside, such
as `inv`, is an `Implicit`: its value comes from the factors, its derivative from what it means, so
that no derivative goes through a factorization. One `lu_factor` serves value and gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import ShapeError
from staticgraph.ir import Op, apply
from staticgraph.nest import Nest, axes
from staticgraph.op import NestOp
from staticgraph.operands import cast, constant, promoted
from staticgraph.ops.create import arange, eye
from staticgraph.ops.elementwise import conj, not_equal, where
from staticgraph.ops.gather import Check
from staticgraph.ops.matrix import integer, tril, triu
from staticgraph.ops.reduce import max as largest
from staticgraph.ops.shape import broadcast_to, sum_to
from staticgraph.ops.triangular import adjoint, hermitian_of, matrices, right_side, triangular
from staticgraph.registry import add_op, public, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, broadcast_shapes, is_differentiable


class Implicit(NestOp):
    """The last operand as it is, with a derivative of its own by the operands before it.

    `rule(result, cotangent, *operands)` gives their cotangents. Compiling puts the last operand in
    the place of the node.
    """

    def __init__(self, name: str, rule: Callable[..., Sequence[Tensor | None]]):
        self.name = name
        self.rule = rule

    def infer(self, *types: TensorType) -> TensorType:
        return types[-1]

    def nest(self, types, out) -> Nest:
        return Nest(out.shape, s.load(len(types) - 1, axes(out.ndim), out.dtype))

    def vjp(self, node, cotangents):
        *operands, _ = node.operands
        return [*self.rule(node.results[0], cotangents[0], *operands), None]


def implicit(rule: Callable) -> Implicit:
    """Decorator: the `Implicit` op that is named like its rule."""
    return add_op(Implicit(rule.__name__.strip("_"), rule))


def checked(x: Tensor, info: Tensor, message: str) -> Tensor:
    """x, with a test when it runs that `info` is 0 for all matrices."""
    if info.size == 0:
        return x
    bad = not_equal(info, constant(0, "int32"))
    from_end = constant(np.arange(info.size, 0, -1, "int64").reshape(info.shape))
    status = largest(where(bad, from_end, constant(0, "int64")))
    return apply(Check, x, status, message=message, batch=info.shape)


# ---------------------------------------------------------------------------- LU


class Factors(Op):
    """Base of factorizations and what follows from one: no derivative goes through them."""

    def vjp(self, node, cotangents):
        return [None] * len(node.operands)

    def jvp(self, node, tangents):
        return [None] * len(node.results)


@register
class LuFactor(Factors):
    """a[..., :, perm] = L U, L lower and U unit upper triangular, packed in one matrix.

    Columns change places, not rows: row by row in memory that is the LU of the transpose, which
    LAPACK sees. Results: the factors, perm (int32), its parity 1 or -1 (int32), and info (int32):
    0, or the number of the first pivot that is exactly 0.
    """

    name = "lu_factor"

    def infer(self, a: TensorType) -> tuple[TensorType, ...]:
        if not is_differentiable(a.dtype) or a.ndim < 2 or a.shape[-1] != a.shape[-2]:
            raise ShapeError(f"lu_factor: needs square matrices of floats, got {a}")
        batch = a.shape[:-2]
        kinds = ((*batch, a.shape[-1]), batch, batch)
        return a, *(TensorType("int32", shape) for shape in kinds)

    def reference(self, arrays, types):
        lu = np.array(arrays[0])
        perm, parity, info = (np.zeros(t.shape, "int32") for t in types[1:])
        for place in np.ndindex(*lu.shape[:-2]):
            lu[place], perm[place], parity[place], info[place] = _factored(lu[place])
        return [lu, perm, parity, info]


def _factored(a: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Elimination with the largest element of a row as pivot, in plain NumPy."""
    lu, n = np.array(a), len(a)
    perm, parity, info = np.arange(n, dtype="int32"), 1, 0
    for k in range(n):
        p = k + int(np.argmax(np.abs(lu[k, k:].real) + np.abs(lu[k, k:].imag)))
        if p != k:
            lu[:, [k, p]], perm[[k, p]], parity = lu[:, [p, k]], perm[[p, k]], -parity
        if lu[k, k] == 0:
            info = info or k + 1
            continue
        lu[k, k + 1 :] /= lu[k, k]
        lu[k + 1 :, k + 1 :] -= np.outer(lu[k + 1 :, k], lu[k, k + 1 :])
    return lu, perm, parity, info


def _split(lu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.tril(lu), np.triu(lu, 1) + np.eye(lu.shape[-1], dtype=lu.dtype)


@register
class LuInverse(Factors):
    """The inverse of a matrix, from its factors and permutation."""

    name = "lu_inverse"

    def infer(self, lu: TensorType, perm: TensorType) -> TensorType:
        return lu

    def reference(self, arrays, types):
        lower, upper = _split(arrays[0])
        result = np.zeros_like(arrays[0])
        rows = arrays[1].astype(np.int64)[..., None]
        np.put_along_axis(result, rows, np.linalg.inv(lower @ upper), -2)
        return [result]


@register
class LuSolve(Factors):
    """x with a x = b (or a^T x = b) from factors and permutation of a; leading axes broadcast."""

    name = "lu_solve"

    def infer(self, lu: TensorType, perm: TensorType, b: TensorType, *, transpose) -> TensorType:
        return TensorType(b.dtype, (*broadcast_shapes(lu.shape[:-2], b.shape[:-2]), *b.shape[-2:]))

    def reference(self, arrays, types, *, transpose):
        lu, perm, b = arrays
        lower, upper = _split(lu)
        a = np.zeros_like(lu)
        np.put_along_axis(a, perm.astype(np.int64)[..., None, :], lower @ upper, -1)
        return [np.linalg.solve(a.swapaxes(-1, -2) if transpose else a, b)]


def factors(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The results of lu_factor."""
    return apply(LuFactor, a)


@implicit
def _inv(y, g, a):
    return [-(adjoint(y) @ g @ adjoint(y))]


def inverse(a: Tensor, who: str) -> Tensor:
    """a^-1; `who` begins the message where there is none."""
    lu, perm, _, info = factors(a)
    perm = checked(perm, info, f"{who}: the matrix is singular, a pivot is exactly 0")
    return apply(_inv, a, apply(LuInverse, lu, perm))


@public
def inv(a: object) -> Tensor:
    """Inverse matrices over the last two axes.

    Shapes: (..., n, n) as it is. Dtypes: floats and complex; integers become float32.
    Gradient: -y^H g y^H for the result y, of any order. NaN gives NaN.
    Raises ShapeError for matrices that are not square, and when it runs NumericError, with the
    place in the batch, for a singular one: where a pivot is exactly 0.
    Source: BHG 10.16.
    """
    return inverse(matrices("inv", a), "inv")


@implicit
def _solve(x, g, a, b):
    gb = _solved(a, g, adjoint_of=True)
    return [sum_to(-(gb @ adjoint(x)), a.shape), sum_to(gb, b.shape)]


def _solved(a: Tensor, b: Tensor, *, adjoint_of: bool = False) -> Tensor:
    """a^-1 b, or a^-H b, with the same factors of a."""
    lu, perm, _, info = factors(a)
    perm = checked(perm, info, "solve: the matrix is singular, a pivot is exactly 0")
    if not adjoint_of:
        return apply(_solve, a, b, apply(LuSolve, lu, perm, b, transpose=False))
    x = apply(LuSolve, lu, perm, conj(b), transpose=True)
    return apply(_solve, adjoint(a), b, conj(x))


@public
def solve(a: object, b: object) -> Tensor:
    """The x with a x = b, as numpy.linalg.solve: better than inv(a) @ b.

    Shapes: a (..., n, n), b (n,) or (..., n, k); leading axes broadcast. Dtypes: floats and
    complex, promoted to one dtype; integers become float32.
    Gradient: gb = a^-H g and ga = -gb x^H by the same factors, of any order. NaN gives NaN.
    Raises ShapeError where sizes do not fit, and when it runs NumericError, with the place in the
    batch, for a singular matrix: where a pivot is exactly 0.
    """
    a, b = promoted("solve", [a, b], floating=True)
    a = matrices("solve", a)
    b, vector = right_side("solve", a, b)
    x = _solved(a, b)
    return x[..., 0] if vector else x


@implicit
def _lu_packed(y, g, a, perm):
    """With X = L^-1 da[:, perm] U^-1: dL = L tril(X), dU = striu(X) U."""
    n = y.shape[-1]
    unit_upper = triu(y, 1) + eye(n, dtype=y.type.dtype)
    z = tril(adjoint(tril(y)) @ tril(g)) + triu(triu(g, 1) @ adjoint(unit_upper), 1)
    z = triangular(y, z, lower=True, trans="C")
    z = adjoint(triangular(y, adjoint(z), lower=False, unit=True))
    columns = perm[..., None] == arange(n, dtype="int32")
    return [z @ cast(columns, y.type.dtype), None]


@public
def lu(a: object) -> tuple[Tensor, Tensor, Tensor]:
    """(P, L, U) with a = P L U, as scipy.linalg.lu: a permutation, unit lower and upper triangular.

    Shapes: three times (..., n, n). Dtypes: floats and complex; integers become float32.
    Gradient: through L and U, by triangular systems, of any order; inf or NaN where U is singular.
    Raises ShapeError for matrices that are not square.
    """
    t = matrices("lu", a)
    packed, perm, _, _ = factors(t.mT)
    packed = apply(_lu_packed, t.mT, perm, packed)
    n, dtype = t.shape[-1], t.type.dtype
    rows = arange(n, dtype="int32")[:, None]
    lower = triu(packed, 1).mT + eye(n, dtype=dtype)
    return (
        cast(perm[..., None, :] == rows, dtype),
        lower,
        tril(packed).mT,
    )


@public
def matrix_power(a: object, n: int) -> Tensor:
    """a multiplied n times by itself: the identity for n = 0, a power of the inverse for n < 0.

    By repeated squaring. Shapes: (..., m, m) as it is. Dtypes: as `inv`.
    Gradient: that of the products.
    Raises what `inv` raises, GraphTypeError for an n that is no int.
    """
    n = integer("matrix_power", "n", n)
    t = matrices("matrix_power", a)
    if n == 0:
        unit = eye(t.shape[-1], dtype=t.type.dtype)
        return broadcast_to(unit, t.shape)
    square = inverse(t, "matrix_power") if n < 0 else t
    result, n = None, abs(n)
    while n:
        if n % 2:
            result = square if result is None else result @ square
        n //= 2
        if n:
            square = square @ square
    return result


# ---------------------------------------------------------------------------- Cholesky


@register
class CholeskyFactor(Factors):
    """The lower triangular L with L L^H = a, and info (int32): 0, or the row that has none."""

    name = "cholesky_factor"

    def infer(self, a: TensorType) -> tuple[TensorType, ...]:
        return a, TensorType("int32", a.shape[:-2])

    def reference(self, arrays, types):
        result, info = np.array(arrays[0]), np.zeros(types[1].shape, "int32")
        for place in np.ndindex(*result.shape[:-2]):
            try:
                result[place] = np.linalg.cholesky(result[place])
            except np.linalg.LinAlgError:
                result[place], info[place] = np.nan, 1
        return [result, info]


@implicit
def _cholesky(y, g, a):
    """Giles 2008: with P the Hermitian matrix of the lower triangle of y^H g, y^-H P y^-1 / 2."""
    middle = hermitian_of(adjoint(y) @ g)
    half = triangular(y, middle, lower=True, trans="C")
    return [constant(0.5, a.type.dtype) * triangular(y, adjoint(half), lower=True, trans="C")]


@public
def cholesky(a: object, *, upper: bool = False) -> Tensor:
    """The lower triangular L with L L^H = a, or U = L^H with `upper`, as numpy.linalg.cholesky.

    Only the triangle that is returned is read. Shapes: (..., n, n) as it is. Dtypes: as `inv`.
    Gradient: Hermitian, by triangular systems, of any order.
    Raises ShapeError for matrices that are not square, and when it runs NumericError, with the
    place in the batch, for a matrix that is not positive definite; NaN counts as that.
    """
    t = matrices("cholesky", a)
    t = adjoint(t) if upper else t
    factor, info = apply(CholeskyFactor, t)
    factor = checked(factor, info, "cholesky: the matrix is not positive definite")
    lower = apply(_cholesky, t, factor)
    return adjoint(lower) if upper else lower

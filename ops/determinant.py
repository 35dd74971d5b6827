"""Determinants, and their derivatives where a matrix has no inverse.

det is a polynomial, so that it has derivatives everywhere, but the usual formula det(A) A^-T has
none at a singular A. With A = U S V^H, F^ = U^H F V and e = det(U) det(V^H),

    det(A + F) = e det(S + F^),

whose terms of first and second order in F are sums over products of all but one or two singular
values. They are used, through `cond`, where a pivot is too small to divide by.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from staticgraph.ir import INPUT, Graph, apply, building
from staticgraph.operands import cast, constant
from staticgraph.ops.decompose import decomposed
from staticgraph.ops.elementwise import abs, conj, imag, log, sign, where
from staticgraph.ops.linalg import (
    LuInverse,
    factors,
    implicit,
    inverse,
)
from staticgraph.ops.matrix import diag, diagonal
from staticgraph.ops.reduce import any, max, min, prod, sum
from staticgraph.ops.triangular import adjoint, matrices
from staticgraph.registry import OPS, public
from staticgraph.tensor import Tensor
from staticgraph.types import is_complex, real_of


def _value(a: Tensor) -> Tensor:
    """The determinant without a derivative."""
    lu, _, parity, _ = factors(a)
    pivots = diagonal(lu)
    return prod(pivots, -1) * cast(parity, lu.type.dtype)


def determinant(a: Tensor) -> Tensor:
    return apply(_det, a, _value(a))


@implicit
def _det(y, g, a):
    return [g[..., None, None] * conj(_cofactor_matrix(a))]


@implicit
def _cofactor(y, g, a):
    return [conj(_second(a, conj(g)))]


@implicit
def _det_second(y, g, a, e):
    return [conj(_third(a, e, conj(g))), conj(_second(a, conj(g)))]


def _cofactor_matrix(a: Tensor) -> Tensor:
    """The derivative of det by each element."""
    eps = np.finfo(real_of(a.type.dtype)).eps

    def regular(det, lu, perm):
        return det * apply(LuInverse, lu, perm).mT

    def singular(a):
        left, values, right, sign = _frame(a)
        return sign * ((left * _products_without(values, 1)[..., None, :]) @ right)

    # The error of the first form does not grow with the condition, it only must not divide by 0.
    return apply(_cofactor, a, _by_pivots(eps**2, a, (), regular, singular))


def _second(a: Tensor, e: Tensor) -> Tensor:
    """The derivative of sum(e * cofactor(a)) by a: bilinear, symmetric in e and its cotangent."""
    eps = np.finfo(real_of(a.type.dtype)).eps

    def regular(det, lu, perm, e):
        y = apply(LuInverse, lu, perm)
        return det * (_dot(y, e) * y.mT - (y @ e @ y).mT)

    def singular(a, e):
        left, values, right, sign = _frame(a)
        pairs = _products_without(values, 2)
        inner = left.mT @ e @ right.mT
        along = (pairs @ diagonal(inner)[..., None])[..., 0]
        return sign * (left @ (diag(along) - pairs * inner.mT) @ right)

    # The first form subtracts terms that grow with the condition, and loses what they exceed.
    return apply(_det_second, a, e, _by_pivots(eps ** (1 / 3), a, (e,), regular, singular))


def _third(a: Tensor, e: Tensor, g: Tensor) -> Tensor:
    """The derivative of sum(g * _second(a, e)) by a, for regular matrices."""
    y = inverse(a, "the third derivative of det")
    ye, yg = y @ e, y @ g
    along = _dot(y, e) * _dot(y, g) - _dot(ye, yg)
    cubic = along * y - _dot(y, g) * (ye @ y) - _dot(y, e) * (yg @ y) + (ye @ yg + yg @ ye) @ y
    return determinant(a)[..., None, None] * cubic.mT


def _dot(y: Tensor, e: Tensor) -> Tensor:
    """trace(y e) as 1 x 1 matrices."""
    return sum(sum(y.mT * e, -1, keepdims=True), -2, keepdims=True)


def _frame(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """conj(U), S, conj(V^H) and e of the module's text."""
    u, values, vh = decomposed(a)
    sign = (_value(u) * _value(vh))[..., None, None]
    return conj(u), cast(values, a.type.dtype), conj(vh), sign


def _products_without(values: Tensor, count: int) -> Tensor:
    """Products of all values but the i-th, or (`count` 2) all but the i-th and j-th, 0 if i = j."""
    n, dtype = values.shape[-1], values.type.dtype
    same = np.eye(n, dtype=bool)
    if count == 1:
        return prod(where(constant(same), constant(1, dtype), values[..., None, :]), -1)
    left_out = constant(same[:, None, :] | same[None, :, :])
    pairs = prod(where(left_out, constant(1, dtype), values[..., None, None, :]), -1)
    return where(constant(same), constant(0, dtype), pairs)


def _by_pivots(
    limit: float, a: Tensor, more: tuple[Tensor, ...], regular: Callable, singular: Callable
) -> Tensor:
    """`singular(a, *more)` where a pivot is that small beside the largest of its matrix, else
    `regular(det, factors, perm, *more)`, for the whole batch."""
    if a.size == 0:
        return a
    lu, perm, _, _ = factors(a)
    pivots = abs(diagonal(lu))
    least, most = min(pivots, -1), max(pivots, -1)
    small = any(least <= float(limit) * most)
    operands = (a, _value(a)[..., None, None], lu, perm, *more)
    branches = (
        lambda a, det, lu, perm, *more: singular(a, *more),
        lambda a, det, lu, perm, *more: regular(det, lu, perm, *more),
    )
    bodies = []
    for branch in branches:
        with building(hook=lambda node: None):  # a derivative under way must not reach into bodies
            inputs = [apply(INPUT, name=f"p{k}", type=t.type) for k, t in enumerate(operands)]
            bodies.append(Graph(inputs, [branch(*inputs)]))
    (result,) = apply(OPS["cond"], small, *operands, then=bodies[0], orelse=bodies[1])
    return result


@public
def det(a: object) -> Tensor:
    """Determinants over the last two axes: the product of LU pivots, 0 for a singular matrix.

    Overflows where `slogdet` does not. Shapes: (..., n, n) gives (...). Dtypes: floats and complex;
    integers become float32.
    Gradient: g cofactor(a), which is g det(a) a^-T where there is an inverse. First and second
    derivative hold at singular matrices too; higher ones raise NumericError there when they run.
    Raises ShapeError for matrices that are not square.
    Source: BHG 10.17.
    """
    return determinant(matrices("det", a))


@implicit
def _logabsdet(y, g, a):
    return [g[..., None, None] * adjoint(inverse(a, "the gradient of slogdet"))]


@implicit
def _det_sign(y, g, a):
    """Only a complex sign moves: by i sign Im(trace(a^-1 da))."""
    if not is_complex(y.type.dtype):
        return [None]
    turn = -imag(conj(g) * y)
    return [(turn * constant(1j, y.type.dtype))[..., None, None] * adjoint(inverse(a, "slogdet"))]


@public
def slogdet(a: object) -> tuple[Tensor, Tensor]:
    """(sign, ln abs(det a)) over the last two axes, as numpy.linalg.slogdet; (0, -inf) if singular.

    The sum of logarithms of LU pivots, so that nothing over- or underflows. Shapes: (..., n, n)
    gives (...) twice. Dtypes: floats and complex; integers become float32.
    Gradient: of the logarithm g a^-H, of any order; a real sign has none.
    Raises ShapeError for matrices that are not square; the gradient raises NumericError when it
    runs for a singular one.
    Source: BHG 10.18.
    """
    t = matrices("slogdet", a)
    lu, _, parity, _ = factors(t)
    pivots = diagonal(lu)
    size = abs(pivots)
    if is_complex(t.type.dtype):
        held = where(size > 0, size, constant(1, size.type.dtype))
        signs = pivots / cast(held, pivots.type.dtype)
    else:
        signs = sign(pivots)
    total = prod(signs, -1) * cast(parity, lu.type.dtype)
    logarithm = sum(log(size), -1)
    return apply(_det_sign, t, total), apply(_logabsdet, t, logarithm)


@public
def logdet(a: object) -> Tensor:
    """ln abs(det a) over the last two axes: the second result of `slogdet`, which see.

    Gradient: g a^-H, of any order.
    Source: BHG 10.18.
    """
    return slogdet(matrices("logdet", a))[1]

"""Diagonals and triangles of matrices; outer, inner, Kronecker and cross products."""

from __future__ import annotations

import operator
from math import prod

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.nest import Nest, axes
from staticgraph.op import NestOp
from staticgraph.operands import normalize_axis, promoted, tensor_argument
from staticgraph.ops.join import stack, unstack
from staticgraph.ops.matmul import matmul
from staticgraph.ops.shape import permute_dims, reshape
from staticgraph.registry import add_op, public, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType


def _starts(offset: int) -> tuple[int, int]:
    """Row and column at which a diagonal begins."""
    return max(-offset, 0), max(offset, 0)


def _length(rows: int, columns: int, offset: int) -> int:
    row, column = _starts(offset)
    return max(0, min(rows - row, columns - column))


@register
class Diag(NestOp):
    """Matrices of `rows` by `columns` that are 0 but for one diagonal."""

    name = "diag"

    def infer(self, x: TensorType, *, offset: int, rows: int, columns: int) -> TensorType:
        if not x.ndim or x.shape[-1] != _length(rows, columns, offset):
            raise ShapeError(
                f"diag: diagonal {offset} of a {rows} x {columns} matrix has"
                f" {_length(rows, columns, offset)} elements, got {x}"
            )
        return TensorType(x.dtype, (*x.shape[:-1], rows, columns))

    def nest(self, types, out, *, offset, rows, columns) -> Nest:
        *batch, i, j = axes(out.ndim)
        here = s.call("equal", j - i, s.const(offset, "int64"))
        place = i - _starts(offset)[0]
        return Nest(out.shape, s.load(0, (*batch, place), out.dtype, here))

    def vjp(self, node, cotangents):
        return [apply(DIAGONAL, cotangents[0], offset=node.attrs["offset"])]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]


class Diagonal(NestOp):
    """One diagonal of the last two axes."""

    name = "diagonal"

    def infer(self, x: TensorType, *, offset: int) -> TensorType:
        return TensorType(x.dtype, (*x.shape[:-2], _length(*x.shape[-2:], offset)))

    def nest(self, types, out, *, offset) -> Nest:
        *batch, k = axes(out.ndim)
        row, column = _starts(offset)
        return Nest(out.shape, s.load(0, (*batch, k + row, k + column), out.dtype))

    def vjp(self, node, cotangents):
        rows, columns = node.operands[0].shape[-2:]
        return [apply(Diag, cotangents[0], rows=rows, columns=columns, **node.attrs)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]


DIAGONAL = add_op(Diagonal())


class Triangle(NestOp):
    """The last two axes, with 0 on one side of a diagonal; its own adjoint."""

    def __init__(self, name: str, kept: str):
        self.name = name
        self.kept = kept

    def infer(self, x: TensorType, *, k: int) -> TensorType:
        return x

    def nest(self, types, out, *, k) -> Nest:
        index = axes(out.ndim)
        inside = s.call(self.kept, index[-1] - index[-2], s.const(k, "int64"))
        return Nest(out.shape, s.load(0, index, out.dtype, inside))

    def vjp(self, node, cotangents):
        return [apply(self, cotangents[0], **node.attrs)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]


TRIL = add_op(Triangle("tril", "less_equal"))
TRIU = add_op(Triangle("triu", "greater_equal"))


def matrix_argument(op: str, x: object, name: str = "x") -> Tensor:
    t = tensor_argument(op, x, name)
    if t.ndim < 2:
        raise ShapeError(f"{op}: {name} needs at least 2 axes, got {t.type}")
    return t


def integer(op: str, name: str, value: object) -> int:
    """A static int argument."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise GraphTypeError(f"{op}: {name} is an int, got {value!r}")


@public
def diag(x: object, offset: int = 0) -> Tensor:
    """Square matrices with x on a diagonal: y[..., i, i + offset] = x[..., i], 0 elsewhere.

    Also `diag_embed`. Shapes: (..., n) gives (..., m, m), m = n + abs(offset). Dtypes: all.
    Gradient: `diagonal` of g, which is also the adjoint.
    Raises ShapeError for a scalar, GraphTypeError for an offset that is no int.
    Source: BHG 10.14.
    """
    t = tensor_argument("diag", x)
    offset = integer("diag", "offset", offset)
    if t.ndim == 0:
        raise ShapeError(f"diag: x needs at least 1 axis, got {t.type}")
    size = t.shape[-1] + abs(offset)
    return apply(Diag, t, offset=offset, rows=size, columns=size)


diag_embed = diag


@public
def diagonal(x: object, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Tensor:
    """A diagonal of two axes, put last: y[..., i] = x[..., i, i + offset].

    By default of the last two axes, so that it undoes `diag` (array API; numpy.diagonal takes the
    first two). Shapes: (..., n, m) gives (..., k). Dtypes: all.
    Gradient: `diag` of g, which is also the adjoint.
    Raises ShapeError for fewer than two axes or one axis twice, GraphTypeError for no int.
    Source: BHG 10.15.
    """
    t = matrix_argument("diagonal", x)
    offset = integer("diagonal", "offset", offset)
    first, second = (normalize_axis("diagonal", a, t.ndim) for a in (axis1, axis2))
    if first == second:
        raise ShapeError(f"diagonal: axis1 and axis2 are both axis {first} of {t.type}")
    order = [a for a in range(t.ndim) if a not in (first, second)]
    moved = permute_dims(t, (*order, first, second))
    return apply(DIAGONAL, moved, offset=offset)


@public
def tril(x: object, k: int = 0) -> Tensor:
    """The lower triangle: x[..., i, j] where j - i <= k, 0 elsewhere.

    Shapes: (..., n, m) as it is. Dtypes: all.
    Gradient: tril(g, k); it is its own adjoint.
    Raises ShapeError for fewer than two axes, GraphTypeError for a k that is no int.
    """
    return apply(TRIL, matrix_argument("tril", x), k=integer("tril", "k", k))


@public
def triu(x: object, k: int = 0) -> Tensor:
    """The upper triangle: x[..., i, j] where j - i >= k, 0 elsewhere.

    Shapes: (..., n, m) as it is. Dtypes: all.
    Gradient: triu(g, k); it is its own adjoint.
    Raises ShapeError for fewer than two axes, GraphTypeError for a k that is no int.
    """
    return apply(TRIU, matrix_argument("triu", x), k=integer("triu", "k", k))


@public
def outer(a: object, b: object) -> Tensor:
    """y[i, j] = a[i] b[j] for two tensors taken as vectors, as numpy.outer.

    Shapes: any; the result is (a.size, b.size). Dtypes: numbers, promoted to one dtype.
    Gradient: (g b, g^T a).
    """
    a, b = promoted("outer", [a, b])
    return reshape(a, (a.size, 1)) * reshape(b, (1, b.size))


@public
def inner(a: object, b: object) -> Tensor:
    """Sums of products over the last axes, as numpy.inner.

    Shapes: (*m, k) and (*n, k) give (*m, *n); a scalar multiplies. Dtypes: promoted to one dtype.
    Gradient: products of matrices.
    Raises ShapeError where the last axes differ.
    """
    a, b = promoted("inner", [a, b])
    if a.ndim == 0 or b.ndim == 0:
        return a * b
    size = a.shape[-1]
    if b.shape[-1] != size:
        raise ShapeError(f"inner: needs last axes of one size, got {a.type} and {b.type}")
    left, right = (reshape(t, (prod(t.shape[:-1]), size)) for t in (a, b))
    return reshape(matmul(left, right.mT), (*a.shape[:-1], *b.shape[:-1]))


@public
def kron(a: object, b: object) -> Tensor:
    """Kronecker product, as numpy.kron: each element of a times all of b, block beside block.

    Shapes: sizes multiply; the shorter shape gets leading axes of size 1. Dtypes: promoted to one.
    Gradient: sums of g times the other operand over its blocks.
    """
    a, b = promoted("kron", [a, b])
    rank = max(a.ndim, b.ndim)
    left, right = ((1,) * (rank - t.ndim) + t.shape for t in (a, b))
    spread = [n for m in left for n in (m, 1)], [n for m in right for n in (1, m)]
    product = reshape(a, tuple(spread[0])) * reshape(b, tuple(spread[1]))
    shape = tuple(m * n for m, n in zip(left, right, strict=True))
    return reshape(product, shape)


@public
def cross(a: object, b: object, axis: int = -1) -> Tensor:
    """Cross product of vectors of 3 elements along `axis`.

    Shapes: the other axes broadcast. Dtypes: numbers, promoted to one dtype.
    Gradient: (b x g, g x a).
    Raises ShapeError for vectors of another size.
    """
    a, b = promoted("cross", [a, b])
    rank = max(a.ndim, b.ndim)
    parts = []
    for t in (a, b):
        place = normalize_axis("cross", axis, rank) - rank
        if -place > t.ndim or t.shape[place] != 3:
            raise ShapeError(f"cross: needs 3 elements along axis {axis}, got {a.type}, {b.type}")
        parts.append(unstack(t, place))
    (x, y, z), (u, v, w) = parts
    return stack([y * w - z * v, z * u - x * w, x * v - y * u], place)

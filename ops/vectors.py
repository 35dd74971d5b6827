"""Inner products and norms: of vectors along axes, of matrices, and what is divided by one."""

from __future__ import annotations

from math import inf

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.operands import constant, normalize_axes, normalize_axis, promoted
from staticgraph.ops.arith import power
from staticgraph.ops.declare import number
from staticgraph.ops.elementwise import (
    abs,
    add,
    conj,
    divide,
    equal,
    maximum,
    multiply,
    sqrt,
    square,
    where,
)
from staticgraph.ops.matmul import matmul
from staticgraph.ops.reduce import max, sum
from staticgraph.ops.shape import reshape, swapaxes
from staticgraph.registry import FUNCTIONS, public
from staticgraph.tensor import Tensor
from staticgraph.types import is_complex


def _floats(op: str, x: object) -> Tensor:
    return promoted(op, [x], floating=True)[0]


def _squares(x: Tensor) -> Tensor:
    return square(abs(x) if is_complex(x.type.dtype) else x)


@public
def vdot(x1: object, x2: object) -> Tensor:
    """The inner product sum(conj(x1) x2) of all elements: trace(x1^H x2) for matrices.

    Shapes: two of one size, which numpy.vdot takes as vectors; the result is a scalar. Dtypes:
    numbers, promoted to one dtype.
    Gradient: (g x2, g x1), conjugated where complex.
    Raises ShapeError for two sizes.
    Source: MP 1.
    """
    a, b = promoted("vdot", [x1, x2])
    if a.size != b.size:
        raise ShapeError(f"vdot: operands must have one size, got {a.type} and {b.type}")
    return sum(multiply(conj(a), reshape(b, a.shape)))


@public
def trace(x: object, offset: int = 0) -> Tensor:
    """The sum of a diagonal of the last two axes; `offset` counts from the main one to the right.

    Shapes: (..., n, m) gives (...). Dtypes: numbers; integers are summed as int64.
    Gradient: g on that diagonal, 0 elsewhere.
    Raises ShapeError for fewer than two axes, GraphTypeError for an offset that is no int.
    Source: MP 1.
    """
    (t,) = promoted("trace", [x])
    if t.ndim < 2:
        raise ShapeError(f"trace: needs x (..., n, m), got {t.type}")
    if isinstance(offset, bool) or not isinstance(offset, int):
        raise GraphTypeError(f"trace: offset is an int, got {offset!r}")
    return sum(FUNCTIONS["diagonal"](t, offset), -1)


@public
def squared_norm(x: object, axis: object = None, keepdims: bool = False) -> Tensor:
    """sum(abs(x)^2) over `axis`.

    Shapes: that of x without the axes, or with size 1 there. Dtypes: floats; integers become
    float32; of complex numbers the result is real.
    Gradient: 2 g x.
    Raises ShapeError for an axis that x has not.
    Source: CN 1.8, 1.34.
    """
    return sum(_squares(_floats("squared_norm", x)), axis, keepdims)


def _guarded(x: Tensor, root: object) -> Tensor:
    """A power of a tensor, 0 with derivatives 0 where it is 0."""
    zero = equal(x, constant(0, x.type.dtype))
    safe = where(zero, constant(1, x.type.dtype), x)
    return where(zero, constant(0, x.type.dtype), root(safe))  # type: ignore[operator]


@public
def vector_norm(x: object, p: float = 2, axis: object = None, keepdims: bool = False) -> Tensor:
    """(sum(abs(x)^p))^(1/p) over `axis` (all by default), max(abs(x)) for p = inf.

    Shapes: that of x without the axes, or with size 1 there. Dtypes: floats; integers become
    float32; of complex numbers the result is real.
    Gradient: g sign(x) abs(x)^(p-1) y^(1-p), 0 where y = 0; p = inf shares it among ties. Elements
    that are 0 have derivatives 0 of every order for p below 2.
    Raises ShapeError for an axis that x has not or a p that is not > 0.
    Source: BHG 5.4.
    """
    op = "vector_norm"
    t = _floats(op, x)
    exponent = number(op, "p", p)
    over = normalize_axes(op, axis, t.ndim)
    if exponent == inf:
        return max(abs(t), over, keepdims)
    if exponent == 1:
        return sum(abs(t), over, keepdims)
    if exponent == 2:
        return _guarded(sum(_squares(t), over, keepdims), sqrt)
    size = abs(t)
    if exponent == int(exponent) and exponent % 2 == 0:
        raised = power(size, exponent)
    else:
        raised = _guarded(size, lambda safe: power(safe, exponent))
    total = sum(raised, over, keepdims)
    return _guarded(total, lambda safe: power(safe, 1.0 / exponent))


@public
def normalize(x: object, p: float = 2, axis: object = 1, eps: float = 1e-12) -> Tensor:
    """x / max(vector_norm(x, p, axis), eps).

    Shapes: that of x. Dtypes: real floats; integers become float32.
    Gradient: g / n - sign(x) abs(x)^(p-1) n^(-p-1) sum(g x) for the norm n, g / eps where n < eps.
    Raises ShapeError for an axis that x has not or a p that is not > 0.
    Source: BHG 5.5.
    """
    t = _floats("normalize", x)
    eps = number("normalize", "eps", eps, positive=False)
    over = normalize_axes("normalize", axis, t.ndim)
    return divide(t, maximum(vector_norm(t, p, over, keepdims=True), eps))


@public
def weight_norm(v: object, g: object, dim: int = 0, eps: float = 1e-12) -> Tensor:
    """g v / sqrt(sum(v^2) + eps), the sum over all axes but `dim`.

    Shapes: g (v.shape[dim],), or that of v with size 1 on the other axes; the result has that of v.
    Dtypes: floats, promoted to one dtype;
    integers become float32.
    Gradient: with s = sum(v^2) + eps, of v: h g s^(-1/2) - sum(h v) g s^(-3/2) v, of g:
    sum(h v) s^(-1/2), for the cotangent h.
    Raises ShapeError for a g of another shape or an axis that v has not.
    Source: BHG 5.3.
    """
    op = "weight_norm"
    t, scale = promoted(op, [v, g], floating=True)
    if is_complex(t.type.dtype):
        raise GraphTypeError(f"{op}: needs real numbers, got {t.type}")
    kept = normalize_axis(op, dim, t.ndim)
    spread = tuple(n if k == kept else 1 for k, n in enumerate(t.shape))
    if scale.shape not in ((t.shape[kept],), spread):
        raise ShapeError(
            f"{op}: g must have shape ({t.shape[kept]},) for {t.type}, got {scale.type}"
        )
    eps = number(op, "eps", eps, positive=False)
    over = tuple(k for k in range(t.ndim) if k != kept)
    size = sqrt(add(sum(square(t), over, keepdims=True), eps))
    return multiply(t, divide(reshape(scale, spread), size))


@public
def gram_matrix(x: object, normalize: bool = False) -> Tensor:
    """x x^T of the last two axes; with `normalize` divided by their sizes' product.

    Shapes: (..., c, n) gives (..., c, c). Dtypes: real numbers.
    Gradient: (g + g^T) x.
    Raises ShapeError for fewer than two axes, GraphTypeError for complex numbers.
    Source: BPR 6.2.
    """
    (t,) = promoted("gram_matrix", [x])
    if is_complex(t.type.dtype):
        raise GraphTypeError(f"gram_matrix: needs real numbers, got {t.type}")
    if t.ndim < 2:
        raise ShapeError(f"gram_matrix: needs x (..., c, n), got {t.type}")
    y = matmul(t, swapaxes(t, -1, -2))
    return divide(y, float(t.shape[-1] * t.shape[-2] or 1)) if normalize else y

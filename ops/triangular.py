"""Systems with triangular matrices, and what all linear algebra over the last two axes shares."""

from __future__ import annotations

import numpy as np

from staticgraph.errors import ShapeError
from staticgraph.ir import Op, apply
from staticgraph.operands import cast, promoted, tensor_argument
from staticgraph.ops.elementwise import conj, real
from staticgraph.ops.matrix import diag, diagonal, tril, triu
from staticgraph.ops.shape import sum_to
from staticgraph.registry import OPS, public, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, broadcast_shapes, is_complex


def adjoint(x: Tensor) -> Tensor:
    """Conjugate transpose of the last two axes."""
    return conj(x).mT


def matrices(op: str, a: object, *, square: bool = True) -> Tensor:
    """A floating operand of matrices; integers become the default float."""
    if isinstance(a, (list, tuple)):
        a = tensor_argument(op, a, "a")
    (t,) = promoted(op, [a], floating=True)
    if t.ndim < 2 or (square and t.shape[-1] != t.shape[-2]):
        kind = "square matrices" if square else "matrices"
        raise ShapeError(f"{op}: needs {kind} on the last two axes, got {t.type}")
    return t


def right_side(op: str, a: Tensor, b: Tensor) -> tuple[Tensor, bool]:
    """b as matrices that fit a, and whether it was a vector."""
    vector = b.ndim == 1
    columns = b[:, None] if vector else b
    if (
        columns.ndim < 2
        or columns.shape[-2] != a.shape[-2]
        or broadcast_shapes(a.shape[:-2], columns.shape[:-2]) is None
    ):
        raise ShapeError(
            f"{op}: with a {a.type}, b must be ({a.shape[-2]},) or (..., {a.shape[-2]}, k) with"
            f" leading axes that broadcast, got {b.type}"
        )
    return columns, vector


@register
class TriangularSolve(Op):
    """x with op(a) x = b for the triangle of a that `lower` names; leading axes broadcast.

    op is a itself, its transpose or its conjugate transpose: `trans` "N", "T" or "C". The other
    triangle is not read, and with `unit` neither is the diagonal, which then counts as 1.
    """

    name = "triangular_solve"

    def infer(self, a: TensorType, b: TensorType, *, lower, trans, unit) -> TensorType:
        return TensorType(b.dtype, (*broadcast_shapes(a.shape[:-2], b.shape[:-2]), *b.shape[-2:]))

    def reference(self, arrays, types, *, lower, trans, unit):
        a, b = arrays
        a = np.tril(a, -unit) if lower else np.triu(a, int(unit))
        a = a + np.eye(a.shape[-1], dtype=a.dtype) if unit else a
        if trans != "N":
            a = a.swapaxes(-1, -2)
        return [_substituted(a.conj() if trans == "C" else a, b, (trans == "N") == lower)]

    def vjp(self, node, cotangents):
        """gb = op(a)^-H g; the cotangent of op(a) is -gb x^H, of which a has its triangle."""
        (a, b), x, g = node.operands, node.results[0], cotangents[0]
        lower, trans, unit = (node.attrs[k] for k in ("lower", "trans", "unit"))
        if trans == "T":
            gb = conj(triangular(a, conj(g), lower=lower, unit=unit))
        else:
            back = "C" if trans == "N" else "N"
            gb = triangular(a, g, lower=lower, trans=back, unit=unit)
        ga = -(gb @ adjoint(x))
        ga = {"N": lambda: ga, "T": lambda: ga.mT, "C": lambda: adjoint(ga)}[trans]()
        ga = tril(ga, -1 if unit else 0) if lower else triu(ga, 1 if unit else 0)
        return [sum_to(ga, a.shape), sum_to(gb, b.shape)]


def _substituted(a: np.ndarray, b: np.ndarray, forward: bool) -> np.ndarray:
    n = a.shape[-1]
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    x = np.array(np.broadcast_to(b, (*batch, *b.shape[-2:])))
    with np.errstate(all="ignore"):
        for i in range(n) if forward else reversed(range(n)):
            done = slice(0, i) if forward else slice(i + 1, n)
            known = (a[..., i, None, done] @ x[..., done, :])[..., 0, :]
            x[..., i, :] = (x[..., i, :] - known) / a[..., i, i, None]
    return x


def triangular(
    a: Tensor, b: Tensor, *, lower: bool, trans: str = "N", unit: bool = False
) -> Tensor:
    return apply(OPS["triangular_solve"], a, b, lower=lower, trans=trans, unit=unit)


@public
def triangular_solve(
    a: object,
    b: object,
    *,
    lower: bool = False,
    transpose: bool = False,
    unit_diagonal: bool = False,
) -> Tensor:
    """The x with a x = b, or a^T x = b with `transpose`, for a triangular a.

    Also `solve_triangular`. Only the named triangle of a is read, and with `unit_diagonal` not its
    diagonal, which then counts as 1. A 0 on the diagonal gives inf or NaN, as a division by 0 does.
    Shapes: a (..., n, n), b (n,) or (..., n, k); leading axes broadcast. Dtypes: floats and
    complex, promoted to one dtype; integers become float32.
    Gradient: gb = a^-H g and the triangle of -gb x^H, of any order.
    Raises ShapeError for a that is not square or b that does not fit.
    """
    a, b = promoted("triangular_solve", [a, b], floating=True)
    a = matrices("triangular_solve", a)
    b, vector = right_side("triangular_solve", a, b)
    trans = "T" if transpose else "N"
    x = triangular(a, b, lower=bool(lower), trans=trans, unit=bool(unit_diagonal))
    return x[..., 0] if vector else x


solve_triangular = triangular_solve


def hermitian_of(lower: Tensor) -> Tensor:
    """The Hermitian matrix with this lower triangle; of its diagonal the real part."""
    below, middle = tril(lower, -1), diagonal(lower)
    if is_complex(lower.type.dtype):
        middle = cast(real(middle), lower.type.dtype)
    return below + adjoint(below) + diag(middle)

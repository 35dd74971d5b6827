"""Matrix products."""

from __future__ import annotations

from math import prod

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.nest import Nest, broadcast_index
from staticgraph.op import NestOp
from staticgraph.operands import normalize_axis, promoted, tensor_argument
from staticgraph.registry import FUNCTIONS, public, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, broadcast_shapes


@register
class Matmul(NestOp):
    """c[..., i, j] = sum_k a[..., i, k] b[..., k, j], leading axes broadcast."""

    name = "matmul"

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
            hint = ""
            if a.ndim >= 2 and b.ndim >= 2 and a.shape[-1] == b.shape[-1]:
                hint = "; did you mean x1 @ x2.T?"
            last = a.shape[-1] if a.shape else "-"
            other = b.shape[-2:][0] if b.shape else "-"
            raise ShapeError(
                f"matmul: {a} @ {b}: the last axis of the first ({last}) must equal the"
                f" last but one of the second ({other}){hint}"
            )
        if a.dtype != b.dtype:
            raise GraphTypeError(f"matmul: needs operands of one dtype, got {a} and {b}")
        batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        if batch is None:
            raise ShapeError(f"matmul: leading axes of {a} and {b} do not broadcast")
        return TensorType(a.dtype, (*batch, a.shape[-2], b.shape[-1]))

    def nest(self, types, out) -> Nest:
        a, b = types
        batch = [s.axis(k) for k in range(out.ndim - 2)]
        i, j, k = s.axis(out.ndim - 2), s.axis(out.ndim - 1), s.axis(out.ndim)
        left = s.load(0, (*broadcast_index(a.shape[:-2], batch), i, k), a.dtype)
        right = s.load(1, (*broadcast_index(b.shape[:-2], batch), k, j), b.dtype)
        body = s.call("logical_and", left, right) if a.dtype == "bool" else left * right
        return Nest(out.shape, body, (a.shape[-1],), "any" if a.dtype == "bool" else "sum")

    def vjp(self, node, cotangents):
        g, (a, b) = cotangents[0], node.operands
        conj, sum_to = FUNCTIONS["conj"], FUNCTIONS["sum_to"]
        da = matmul_(g, conj(b).mT)
        db = matmul_(conj(a).mT, g)
        return [sum_to(da, a.shape), sum_to(db, b.shape)]

    def jvp(self, node, tangents):
        a, b = node.operands
        parts = []
        if tangents[0] is not None:
            parts.append(matmul_(tangents[0], b))
        if tangents[1] is not None:
            parts.append(matmul_(a, tangents[1]))
        return [parts[0] if len(parts) == 1 else FUNCTIONS["add"](*parts)]


def matmul_(a: Tensor, b: Tensor) -> Tensor:
    """Product of two tensors of at least two axes and one dtype."""
    return apply(Matmul, a, b)


@public
def matmul(
    x1: object, x2: object, *, transpose_a: bool = False, transpose_b: bool = False
) -> Tensor:
    """Matrix product as numpy.matmul: 1-d operands are a row or a column, leading axes broadcast.

    `transpose_a` and `transpose_b` take the transpose of an operand's last two axes, without a
    copy. Gradient: (g x2^T, x1^T g), any order. Raises ShapeError where the inner axes differ. BHG
    9.7.
    """
    a, b = promoted("matmul", [x1, x2])
    a = a.mT if transpose_a and a.ndim > 1 else a
    b = b.mT if transpose_b and b.ndim > 1 else b
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(
            f"matmul: 0-d operands ({a.type} and {b.type}) have no matrix product; use *"
        )
    inner_a, inner_b = a.shape[-1], b.shape[-2] if b.ndim > 1 else b.shape[0]
    if inner_a != inner_b:
        hint = "; did you mean x1 @ x2.T?" if b.ndim > 1 and inner_a == b.shape[-1] else ""
        raise ShapeError(
            f"matmul: {a.type} @ {b.type}: the last axis of the first ({inner_a}) must equal"
            f" the {'last but one' if b.ndim > 1 else 'only'} axis of the second ({inner_b}){hint}"
        )
    left = FUNCTIONS["reshape"](a, (1, *a.shape)) if a.ndim == 1 else a
    right = FUNCTIONS["reshape"](b, (*b.shape, 1)) if b.ndim == 1 else b
    y = matmul_(left, right)
    shape = list(y.shape)
    if b.ndim == 1:
        shape.pop()
    if a.ndim == 1:
        shape.pop(-1 if b.ndim == 1 else -2)
    return FUNCTIONS["reshape"](y, tuple(shape))


@public
def linear(x: object, weight: object, bias: object = None, base_axis: int = -1) -> Tensor:
    """x W^T + b with W (out, in), as PyTorch; axes of x from `base_axis` on are flattened to in.

    x (..., in), bias (out,), result (..., out). Gradient: dx = g W, dW = g^T x, db = sum of g over
    the leading axes; any order. Raises ShapeError where x, weight and bias do not fit. BHG 2.1.
    """
    x, weight = promoted("linear", [x, weight])
    if x.ndim:
        first = normalize_axis("linear", base_axis, x.ndim)
        x = x if first == x.ndim - 1 else FUNCTIONS["reshape"](x, _flat(x.shape, first))
    if x.ndim == 0 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"linear: x {x.type} needs a weight of shape"
            f" (out, {x.shape[-1] if x.shape else 'in'}), got {weight.type}"
        )
    y = matmul(x, FUNCTIONS["transpose"](weight))
    if bias is None:
        return y
    b = tensor_argument("linear", bias, "bias")
    if b.shape != weight.shape[:1]:
        raise ShapeError(f"linear: bias must have shape {weight.shape[:1]}, got {b.type}")
    return FUNCTIONS["add"](y, b)


def _flat(shape: tuple[int, ...], first: int) -> tuple[int, ...]:
    """The shape with all axes from `first` on as one."""
    return (*shape[:first], prod(shape[first:]))

"""Cumulative sums, products and extremes, and the linear recurrence that their gradients need."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import Op, apply
from staticgraph.nest import identity
from staticgraph.operands import cast, constant, normalize_axis, promoted, tensor_argument
from staticgraph.ops.create import iota
from staticgraph.ops.elementwise import (
    add,
    conj,
    equal,
    exp,
    greater,
    isnan,
    logical_and,
    logical_or,
    multiply,
    subtract,
    where,
)
from staticgraph.ops.pad import pad
from staticgraph.ops.shape import broadcast_to, flatten
from staticgraph.ops.slices import slice_
from staticgraph.registry import add_op, public, register
from staticgraph.tensor import Tensor
from staticgraph.types import (
    DEFAULT_FLOAT,
    TensorType,
    as_dtype,
    broadcast_shapes,
    is_bool,
    is_complex,
    is_differentiable,
    is_integer,
    is_unsigned,
)


class Scan(Op):
    """result[k] = x[0] o ... o x[k] along `axis`, or of all before k; from the end for `reverse`.

    `combine` is the name of the operation in `nest.COMBINERS`, None for logaddexp.
    """

    def __init__(self, name: str, ufunc: np.ufunc, combine: str | None):
        self.name, self.ufunc, self.combine = name, ufunc, combine

    def infer(self, x: TensorType, *, axis: int, exclusive: bool, reverse: bool) -> TensorType:
        if not 0 <= axis < x.ndim:
            raise ShapeError(f"{self.name}: axis {axis} is no axis of {x}")
        if self.combine not in ("sum", "prod") and is_complex(x.dtype):
            raise GraphTypeError(f"{self.name}: complex numbers have no order, got {x}")
        return x

    def reference(self, arrays, types, *, axis, exclusive, reverse):
        x = np.moveaxis(arrays[0], axis, -1)
        x = x[..., ::-1] if reverse else x
        if exclusive:
            start = -np.inf if self.combine is None else identity(self.combine, types[0].dtype)
            first = np.full((*x.shape[:-1], min(1, x.shape[-1])), start, x.dtype)
            x = np.concatenate([first, x[..., :-1]], -1)
        wide = "float64" if x.dtype == np.float32 else x.dtype
        with np.errstate(all="ignore"):
            y = self.ufunc.accumulate(x, axis=-1, dtype=wide).astype(x.dtype)
        return [np.moveaxis(y[..., ::-1] if reverse else y, -1, axis)]

    def vjp(self, node, cotangents):
        (x,), y, g = node.operands, node.results[0], cotangents[0]
        if not is_differentiable(x.type.dtype):
            return [None]
        axis, reverse = node.attrs["axis"], node.attrs["reverse"]
        if self is CUMSUM:
            return [apply(self, g, **{**node.attrs, "reverse": not reverse})]
        if node.attrs["exclusive"]:
            # The inclusive scan, one place on.
            g = shifted(g, axis, not reverse)
            y = apply(self, x, axis=axis, exclusive=False, reverse=reverse)
        gradient = {"prod": _cumprod_gradient, None: _logcumsumexp_gradient}
        return [gradient.get(self.combine, _extreme_gradient)(x, y, g, axis, reverse)]

    def jvp(self, node, tangents):
        if self is CUMSUM:
            return [apply(self, tangents[0], **node.attrs)]
        return NotImplemented


CUMSUM = add_op(Scan("cumsum", np.add, "sum"))
CUMPROD = add_op(Scan("cumprod", np.multiply, "prod"))
CUMMAX = add_op(Scan("cummax", np.maximum, "max"))
CUMMIN = add_op(Scan("cummin", np.minimum, "min"))
LOGCUMSUMEXP = add_op(Scan("logcumsumexp", np.logaddexp, None))


@register
class LinearScan(Op):
    """r[k] = a[k] + b[k] r[k-1] along `axis`, from r[-1] = 0 on; r[k+1] and r[n] for `reverse`.

    The factor of a step stands where the step leads to, or for `late` where it comes from: so the
    adjoint is the same op with both attributes turned round, and the first factor has no effect.
    """

    name = "linear_scan"

    def infer(self, a: TensorType, b: TensorType, *, axis: int, reverse: bool, late: bool):
        if a != b or is_bool(a.dtype):
            raise GraphTypeError(f"linear_scan: needs numbers of one type, got {a} and {b}")
        if not 0 <= axis < a.ndim:
            raise ShapeError(f"linear_scan: axis {axis} is no axis of {a}")
        return a

    def reference(self, arrays, types, *, axis, reverse, late):
        a, b = (np.moveaxis(x, axis, 0) for x in arrays)
        r = np.array(a)
        order = range(len(r))[::-1] if reverse else range(len(r))
        with np.errstate(all="ignore"):
            for before, k in pairwise(order):
                r[k] = a[k] + b[before if late else k] * r[before]
        return [np.moveaxis(r, 0, axis)]

    def vjp(self, node, cotangents):
        (a, b), r, g = node.operands, node.results[0], cotangents[0]
        if not is_differentiable(a.type.dtype):
            return [None, None]
        axis, reverse, late = (node.attrs[k] for k in ("axis", "reverse", "late"))
        total = apply(self, g, conj(b), axis=axis, reverse=not reverse, late=not late)
        if late:
            return [total, multiply(shifted(total, axis, not reverse), conj(r))]
        return [total, multiply(total, conj(shifted(r, axis, reverse)))]

    def jvp(self, node, tangents):
        (_, b), r, (ta, tb) = node.operands, node.results[0], tangents
        axis, reverse, late = (node.attrs[k] for k in ("axis", "reverse", "late"))
        if tb is not None:
            part = multiply(tb, r if late else shifted(r, axis, reverse))
            part = shifted(part, axis, reverse) if late else part
            ta = part if ta is None else add(ta, part)
        return [apply(self, ta, b, **node.attrs)]


# ---------------------------------------------------------------------------- gradients


def shifted(x: Tensor, axis: int, reverse: bool) -> Tensor:
    """x one place on along the axis (reverse: back), with 0 where there was nothing."""
    n = x.shape[axis]
    if n == 0:
        return x
    start, size, widths = [0] * x.ndim, list(x.shape), [(0, 0)] * x.ndim
    start[axis], size[axis] = int(reverse), n - 1
    widths[axis] = (0, 1) if reverse else (1, 0)
    return pad(slice_(x, start, size, (1,) * x.ndim), widths)


def _cumprod_gradient(x: Tensor, y: Tensor, g: Tensor, axis: int, reverse: bool) -> Tensor:
    """dx[k] = (product of all before k) r[k], where r[k] = g[k] + x[k+1] r[k+1]: right at 0 too."""
    x = conj(x)
    before = apply(CUMPROD, x, axis=axis, exclusive=True, reverse=reverse)
    return multiply(before, apply(LinearScan, g, x, axis=axis, reverse=not reverse, late=True))


def _extreme_gradient(x: Tensor, y: Tensor, g: Tensor, axis: int, reverse: bool) -> Tensor:
    """To the element that set the record: the sum of g from there to the next record."""
    last = shifted(y, axis, reverse)
    same = logical_or(equal(y, last), logical_and(isnan(y), isnan(last)))
    place = iota(y.shape, axis)
    follows = greater(place, 0) if not reverse else greater(y.shape[axis] - 1, place)
    held = cast(logical_and(follows, same), x.type.dtype)
    r = apply(LinearScan, g, held, axis=axis, reverse=not reverse, late=True)
    return where(greater(held, 0), constant(0, x.type.dtype), r)


def _logcumsumexp_gradient(x: Tensor, y: Tensor, g: Tensor, axis: int, reverse: bool) -> Tensor:
    """dx[k] = e^(x[k] - y[k]) r[k], where r[k] = g[k] + e^(y[k] - y[k+1]) r[k+1].

    In float64: the factors of a long row are near 1, and their roundings multiply.
    """
    given = x.type.dtype
    x, y, g = (cast(t, "float64") for t in (x, y, g))
    zero = constant(0, "float64")
    place = iota(y.shape, axis)
    goes_on = greater(place, 0) if reverse else greater(y.shape[axis] - 1, place)
    there = greater(y, -np.inf)
    step = subtract(y, shifted(y, axis, not reverse))
    step = exp(where(logical_and(goes_on, there), step, zero))
    r = apply(LinearScan, g, step, axis=axis, reverse=not reverse, late=False)
    return cast(where(there, multiply(exp(where(there, subtract(x, y), zero)), r), zero), given)


# ---------------------------------------------------------------------------- functions


def _scan(op: Scan, x: Tensor, axis: object, exclusive: object, reverse: object) -> Tensor:
    x, axis = (flatten(x), 0) if axis is None else (x, normalize_axis(op.name, axis, x.ndim))
    return apply(op, x, axis=axis, exclusive=bool(exclusive), reverse=bool(reverse))


def _wide(op: str, x: object, dtype: object) -> Tensor:
    t = tensor_argument(op, x)
    if dtype is not None:
        return cast(t, as_dtype(dtype))
    if is_bool(t.type.dtype) or is_integer(t.type.dtype):
        return cast(t, "uint64" if is_unsigned(t.type.dtype) else "int64")
    return t


@public
def cumsum(
    x: object,
    axis: int | None = None,
    exclusive: bool = False,
    reverse: bool = False,
    dtype: object = None,
) -> Tensor:
    """y[k] = sum of x[j] over j <= k along `axis` (None: over all elements, row by row).

    exclusive: over j < k; reverse: over j >= k (j > k). Numbers of any dtype; bools and integers
    are summed in 64 bits, float32 is carried along in float64. Gradient: the same sum of g the
    other way round. Raises ShapeError for an axis out of range. BHG 6.6 (printed exclusive);
    catalogue 3.5.
    """
    return _scan(CUMSUM, _wide("cumsum", x, dtype), axis, exclusive, reverse)


@public
def cumprod(
    x: object,
    axis: int | None = None,
    exclusive: bool = False,
    reverse: bool = False,
    dtype: object = None,
) -> Tensor:
    """y[k] = product of x[j] over j <= k along `axis` (None: over all elements, row by row).

    exclusive: over j < k; reverse: over j >= k (j > k). Numbers of any dtype; bools and integers
    are multiplied in 64 bits, float32 is carried along in float64. Gradient: dx[k] = (product
    before k) r[k] with r[k] = g[k] + x[k+1] r[k+1], right where elements are 0. Raises ShapeError
    for an axis out of range. BHG 6.7 (printed exclusive); catalogue 3.5.
    """
    return _scan(CUMPROD, _wide("cumprod", x, dtype), axis, exclusive, reverse)


@public
def cummax(x: object, axis: int | None = None, reverse: bool = False) -> Tensor:
    """y[k] = max of x[j] over j <= k (reverse: j >= k) along `axis`; nan from the first one on.

    axis None: over all elements, row by row. Any real dtype. Gradient: to the first element with
    that value. Raises GraphTypeError for complex numbers, ShapeError for an axis out of range.
    Catalogue 3.5 (scans), 7 (ties).
    """
    return _scan(CUMMAX, tensor_argument("cummax", x), axis, False, reverse)


@public
def cummin(x: object, axis: int | None = None, reverse: bool = False) -> Tensor:
    """y[k] = min of x[j] over j <= k (reverse: j >= k) along `axis`; nan from the first one on.

    axis None: over all elements, row by row. Any real dtype. Gradient: to the first element with
    that value. Raises GraphTypeError for complex numbers, ShapeError for an axis out of range.
    Catalogue 3.5 (scans), 7 (ties).
    """
    return _scan(CUMMIN, tensor_argument("cummin", x), axis, False, reverse)


@public
def logcumsumexp(x: object, axis: int | None = None, reverse: bool = False) -> Tensor:
    """y[k] = log(sum of e^x[j] over j <= k) (reverse: j >= k) along `axis`, without overflow.

    Integers become float32; axis None: over all elements, row by row. Gradient: sum over k >= j of
    g[k] e^(x[j] - y[k]), 0 where x is -inf. Raises GraphTypeError for complex numbers, ShapeError
    for an axis out of range. Catalogue 3.5 (scans).
    """
    t = tensor_argument("logcumsumexp", x)
    t = t if is_differentiable(t.type.dtype) else cast(t, DEFAULT_FLOAT)
    return _scan(LOGCUMSUMEXP, t, axis, False, reverse)


@public
def linear_scan(a: object, b: object, axis: int = -1, reverse: bool = False) -> Tensor:
    """r[k] = a[k] + b[k] r[k-1] along `axis`, with r[-1] = 0: the first b has no effect.

    reverse: r[k] = a[k] + b[k] r[k+1], with r[n] = 0. a and b broadcast and promote; numbers of any
    dtype but bool. Gradient: da[k] = g[k] + b[k+1] da[k+1], db[k] = da[k] r[k-1]. Raises ShapeError
    where a and b do not broadcast, GraphTypeError for bools. Catalogue 3.5, 8.
    """
    a, b = promoted("linear_scan", [a, b])
    shape = broadcast_shapes(a.shape, b.shape)
    if shape is None:
        raise ShapeError(f"linear_scan: a and b must broadcast, got {a.type} and {b.type}")
    axis = normalize_axis("linear_scan", axis, len(shape))
    a, b = broadcast_to(a, shape), broadcast_to(b, shape)
    return apply(LinearScan, a, b, axis=axis, reverse=bool(reverse), late=False)


cumulative_sum, cumulative_prod = cumsum, cumprod

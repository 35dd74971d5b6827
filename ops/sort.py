"""Order: sort, the k largest, searching in what is sorted, quantiles.

nan counts as the largest number, everywhere: last in ascending order, as in NumPy, and first in
descending order and among the k largest, as in PyTorch and JAX. -0.0 and 0.0 are equal. Equal
elements keep their order. Indices are constants for derivatives.
"""

from __future__ import annotations

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import Op, apply
from staticgraph.nest import Nest
from staticgraph.op import Elementwise, NestOp
from staticgraph.operands import (
    cast,
    constant,
    normalize_axes,
    normalize_axis,
    promoted,
    tensor_argument,
)
from staticgraph.ops.create import full
from staticgraph.ops.elementwise import abs as absolute
from staticgraph.ops.elementwise import add, equal, greater, isnan, multiply, subtract, where
from staticgraph.ops.gather import KNOWN, Gather, ScatterAdd
from staticgraph.ops.index import take
from staticgraph.ops.shape import expand_dims, flatten, moveaxis, reshape, transpose
from staticgraph.registry import add_op, public, register
from staticgraph.tensor import Tensor
from staticgraph.types import DEFAULT_FLOAT, TensorType, is_complex, is_differentiable, is_float


def _ordered(op: str, x: object) -> Tensor:
    t = tensor_argument(op, x)
    if is_complex(t.type.dtype):
        raise GraphTypeError(f"{op}: complex numbers have no order, got {t.type}")
    return t


def _row_layout(rank: int) -> dict:
    """Attributes of a gather or scatter_add that picks within the last axis, row by row."""
    axes = tuple(range(rank))
    return {"source": (*axes[:-1], ~0), "index_axes": axes, "mode": KNOWN}


def _along_last(x: Tensor, index: Tensor) -> Tensor:
    """x[..., index[...]] where the indices are known to be in range."""
    return apply(Gather, x, index, **_row_layout(x.ndim))


# ---------------------------------------------------------------------------- ops


@register
class Sort(Op):
    """The last axis in order, and the index that each element had."""

    name = "sort"

    def infer(self, x: TensorType, *, descending: bool) -> tuple[TensorType, TensorType]:
        if is_complex(x.dtype) or x.ndim == 0:
            raise GraphTypeError(f"sort: needs real numbers along an axis, got {x}")
        return x, TensorType("int64", x.shape)

    def reference(self, arrays, types, *, descending):
        (x,) = arrays
        index = _argsort(x, descending)
        return [np.take_along_axis(x, index, -1), index]

    def vjp(self, node, cotangents):
        return [None if cotangents[0] is None else apply(Unsort, cotangents[0], node.results[1])]

    def jvp(self, node, tangents):
        return [_along_last(tangents[0], node.results[1]), None]


def _argsort(x: np.ndarray, descending: bool) -> np.ndarray:
    if not descending:
        return np.argsort(x, axis=-1, kind="stable")
    # Reversed twice, equal elements keep their order.
    return x.shape[-1] - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]


@register
class Unsort(Op):
    """result[..., index[..., k]] = x[..., k]; each row of the index is a permutation."""

    name = "unsort"

    def infer(self, x: TensorType, index: TensorType) -> TensorType:
        if index != TensorType("int64", x.shape) or x.ndim == 0:
            raise GraphTypeError(f"unsort: needs an int64 index for each of {x}, got {index}")
        return x

    def reference(self, arrays, types):
        x, index = arrays
        y = np.empty_like(x)
        np.put_along_axis(y, index, x, -1)
        return [y]

    def vjp(self, node, cotangents):
        return [_along_last(cotangents[0], node.operands[1]), None]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], node.operands[1])]


@register
class TopK(Op):
    """Indices of the k largest (or smallest) elements of the last axis, the first of them first."""

    name = "top_k"

    def infer(self, x: TensorType, *, k: int, largest: bool) -> TensorType:
        if is_complex(x.dtype) or x.ndim == 0:
            raise GraphTypeError(f"top_k: needs real numbers along an axis, got {x}")
        if not 0 <= k <= x.shape[-1]:
            raise ShapeError(f"top_k: k must be in 0..{x.shape[-1]}, the size of the axis, got {k}")
        return TensorType("int64", (*x.shape[:-1], k))

    def reference(self, arrays, types, *, k, largest):
        return [_argsort(arrays[0], largest)[..., :k]]

    def vjp(self, node, cotangents):
        return [None]

    def jvp(self, node, tangents):
        return [None]


class TopKGrad(Elementwise):
    """x as it is; of its cotangent only the k largest elements along an axis pass."""

    def __init__(self) -> None:
        super().__init__("top_k_grad", lambda x, *, k, axis, abs: x)

    def vjp(self, node, cotangents):
        return [top_k_mask(cotangents[0], **node.attrs)]

    def jvp(self, node, tangents):
        raise GraphTypeError("top_k_grad: it says what cotangents become and has no tangent")

    def simplify(self, node):
        return None


TOP_K_GRAD = add_op(TopKGrad())


@register
class SearchSorted(NestOp):
    """How many elements of each sorted row stand before the value: a binary search per value."""

    name = "searchsorted"

    def infer(self, a: TensorType, v: TensorType, *, right: bool) -> TensorType:
        if a.dtype != v.dtype or is_complex(a.dtype):
            raise GraphTypeError(f"searchsorted: needs real numbers of one dtype, got {a} and {v}")
        if a.ndim == 0 or (a.ndim > 1 and a.shape[:-1] != v.shape[:-1]):
            raise ShapeError(
                "searchsorted: needs one sorted row, or a sorted row for each row of the values;"
                f" got {a} and {v}"
            )
        return TensorType("int64", v.shape)

    def nest(self, types, out, *, right) -> Nest:
        a, v = types
        n = a.shape[-1]
        place = tuple(s.axis(k) for k in range(v.ndim))
        value = s.load(1, place, v.dtype)
        row = place[:-1] if a.ndim > 1 else ()
        found = s.const(0, "int64")
        for power in reversed(range(n.bit_length())):
            probe = found + (1 << power)
            inside = s.call("less_equal", probe, n)
            there = s.load(0, (*row, probe - 1), a.dtype, inside)
            before = s.call("logical_not", _less(value, there)) if right else _less(there, value)
            found = s.where(s.call("logical_and", inside, before), probe, found)
        return Nest(v.shape, found)

    def vjp(self, node, cotangents):
        return [None, None]

    def jvp(self, node, tangents):
        return [None]


def _less(x: s.Expr, y: s.Expr) -> s.Expr:
    """x < y where nan is the largest number."""
    less = s.call("less", x, y)
    if not is_float(x.dtype):
        return less
    is_largest = s.call(
        "logical_and", s.call("isnan", y), s.call("logical_not", s.call("isnan", x))
    )
    return s.call("logical_or", less, is_largest)


# ---------------------------------------------------------------------------- sorting


def _sorted(op: str, x: object, axis: int | None, descending: bool) -> tuple[Tensor, Tensor]:
    t = _ordered(op, x)
    if axis is None:
        t, axis = flatten(t), 0
    a = normalize_axis(op, axis, t.ndim)
    values, index = apply(Sort, moveaxis(t, a, -1), descending=bool(descending))
    return moveaxis(values, -1, a), moveaxis(index, -1, a)


@public
def sort(x: object, axis: int | None = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """x in order along `axis`; None sorts all elements as one row.

    Always stable. nan is the largest number. Any real dtype. Gradient: dx[p] = g, where p is the
    permutation `argsort` gives, a constant. Raises GraphTypeError for complex numbers, ShapeError
    for an axis out of range. BHG 10.12 (printed the wrong way round), catalogue 3.9.
    """
    return _sorted("sort", x, axis, descending)[0]


@public
def argsort(
    x: object, axis: int | None = -1, descending: bool = False, stable: bool = True
) -> Tensor:
    """Indices (int64) that put x in order along `axis`; None sorts all elements as one row.

    Always stable: of equal elements the lowest index comes first. nan is the largest number. No
    gradient. Raises as `sort`. BHG 10.12, catalogue 3.9.
    """
    return _sorted("argsort", x, axis, descending)[1]


# ---------------------------------------------------------------------------- the k largest


def _best(op: str, x: object, k: int, axis: object, abs: bool, largest: bool):
    """x and the indices of its k best, the axis last; where that axis was."""
    t = _ordered(op, x)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise GraphTypeError(f"{op}: k is an int known while building, got {k!r}")
    a = normalize_axis(op, axis, t.ndim)
    if not 0 <= k <= t.shape[a]:
        raise ShapeError(f"{op}: k must be in 0..{t.shape[a]}, axis {a} of {t.type}, got {k}")
    rows = moveaxis(t, a, -1)
    index = apply(TopK, absolute(rows) if abs else rows, k=int(k), largest=bool(largest))
    return rows, index, a


@public
def top_k(
    x: object, k: int, axis: int = -1, abs: bool = False, largest: bool = True
) -> tuple[Tensor, Tensor]:
    """The k largest elements along `axis`, the largest first, and their indices (int64).

    abs: the largest by absolute value; largest=False: the smallest, the smallest first. Of equal
    elements the lowest index comes first; nan is the largest number. Gradient: g at the places the
    values came from, 0 elsewhere. Raises ShapeError for a k beyond the size of the axis,
    GraphTypeError for complex numbers. BHG 12.2 (printed the wrong way round) with reduce=True,
    catalogue 3.11.
    """
    rows, index, a = _best("top_k", x, k, axis, abs, largest)
    return moveaxis(_along_last(rows, index), -1, a), moveaxis(index, -1, a)


@public
def top_k_mask(
    x: object, k: int, axis: int = -1, abs: bool = False, largest: bool = True
) -> Tensor:
    """x where it is one of its k largest elements along `axis`, else 0: `top_k` in the shape of x.

    Gradient: g at the same places. Raises as `top_k`. BHG 12.2 with reduce=False, catalogue 3.11.
    """
    rows, index, a = _best("top_k_mask", x, k, axis, abs, largest)
    ones = full(index.shape, 1, "int8")
    chosen = apply(ScatterAdd, ones, index, shape=rows.shape, **_row_layout(rows.ndim))
    kept = where(greater(chosen, 0), rows, constant(0, rows.type.dtype))
    return moveaxis(kept, -1, a)


@public
def top_k_grad(x: object, k: int, axis: int = -1, abs: bool = False) -> Tensor:
    """x as it is; its gradient is g at the k largest elements of g along `axis`, else 0.

    abs: the largest by absolute value. In higher orders the choice is a constant; there is no
    tangent. Raises GraphTypeError for what is no float, ShapeError for a k beyond the size of the
    axis. BHG 12.3, catalogue 3.11.
    """
    t = tensor_argument("top_k_grad", x)
    if not is_float(t.type.dtype):
        raise GraphTypeError(f"top_k_grad: needs floats, got {t.type}")
    _, _, a = _best("top_k_grad", t, k, axis, abs, True)
    return apply(TOP_K_GRAD, t, k=int(k), axis=a, abs=bool(abs))


# ---------------------------------------------------------------------------- in sorted rows


@public
def searchsorted(a: object, v: object, side: str = "left") -> Tensor:
    """Where v would stand in a, sorted ascending along its last axis: an int64 for each of v.

    side 'left': the number of elements < v; 'right': <= v. a is one row, or has the leading axes of
    v and a row for each row of v. nan is the largest number. Any real dtype. No gradient. Raises
    ShapeError where the rows do not fit.
    """
    if side not in ("left", "right"):
        raise GraphTypeError(f"searchsorted: side is 'left' or 'right', got {side!r}")
    return apply(SearchSorted, *promoted("searchsorted", [a, v]), right=side == "right")


#: how far between its two neighbours the quantile lies, from where its place would be
_METHODS = {
    "linear": lambda place: place - np.floor(place),
    "lower": lambda place: 0.0 * place,
    "higher": lambda place: np.ceil(place) - np.floor(place),
    "midpoint": lambda place: (np.ceil(place) - np.floor(place)) / 2,
    "nearest": lambda place: np.rint(place) - np.floor(place),
}


@public
def quantile(
    x: object, q: object, axis: object = None, keepdims: bool = False, method: str = "linear"
) -> Tensor:
    """The q-th quantiles (q in 0..1) over `axis`, all axes by default; nan where there is a nan.

    An array of q gives a first axis of its own. Between two neighbours in order, `method` takes
    'linear' interpolation, 'lower', 'higher', 'midpoint' or 'nearest'. Integers become float32.
    Gradient: shared by these two elements. Raises ShapeError for a q outside of 0..1 and where
    there is no element, GraphTypeError for an unknown method.
    """
    return _quantile("quantile", x, q, axis, keepdims, method)


@public
def median(x: object, axis: object = None, keepdims: bool = False) -> Tensor:
    """The middle element in order over `axis`, all axes by default, or the mean of the middle two.

    nan where there is a nan. Integers become float32. Gradient: to the middle, in halves to two.
    """
    return _quantile("median", x, 0.5, axis, keepdims, "linear")


def _quantile(op: str, x: object, q: object, axis: object, keepdims: bool, method: str) -> Tensor:
    t = _ordered(op, x)
    t = t if is_differentiable(t.type.dtype) else cast(t, DEFAULT_FLOAT)
    try:
        part = np.asarray(q, np.float64)
    except (TypeError, ValueError):
        raise GraphTypeError(f"{op}: q is a number or a list, known while building") from None
    if part.ndim > 1 or not ((part >= 0) & (part <= 1)).all():
        raise ShapeError(f"{op}: q must be a number or a list of numbers in 0..1, got {q!r}")
    if method not in _METHODS:
        raise GraphTypeError(f"{op}: method is one of {', '.join(_METHODS)}, got {method!r}")
    over = normalize_axes(op, axis, t.ndim)
    kept = [k for k in range(t.ndim) if k not in over]
    lead = tuple(t.shape[k] for k in kept)
    n = int(np.prod([t.shape[k] for k in over], dtype=np.int64))
    if n == 0:
        raise ShapeError(f"{op}: no elements along axes {over} of {t.type}")
    rows = apply(Sort, reshape(transpose(t, [*kept, *over]), (*lead, n)), descending=False)[0]
    place = part * (n - 1)
    low = np.floor(place).astype(np.int64)
    below = take(rows, low, -1)
    above = take(rows, np.minimum(low + 1, n - 1), -1)
    share = constant(_METHODS[method](place), t.type.dtype)
    between = add(below, multiply(subtract(above, below), share))
    # Equal neighbours may be infinite.
    y = where(equal(below, above), below, between)
    y = where(equal(share, 0), below, where(equal(share, 1), above, y))
    last = rows[..., n - 1 :] if part.ndim else rows[..., n - 1]
    y = where(isnan(last), last, y)
    y = moveaxis(y, -1, 0) if part.ndim else y
    return expand_dims(y, tuple(a + part.ndim for a in over)) if keepdims and over else y

"""Linear layers of sparse inputs: only the rows of the weight that occur are read and changed."""

from __future__ import annotations

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.operands import constant, promoted, tensor_argument
from staticgraph.ops.elementwise import add, clip, divide, less_equal, multiply
from staticgraph.ops.index import scatter_add, take
from staticgraph.ops.reduce import sum as sum_over
from staticgraph.ops.shape import broadcast_to, expand_dims, transpose
from staticgraph.registry import FUNCTIONS, public
from staticgraph.tensor import Tensor
from staticgraph.types import is_integer


def _entries(op: str, values: object, **indices: object) -> tuple[Tensor, list[Tensor]]:
    """Values (n,) and integer tensors of the same shape."""
    (v,) = promoted(op, [values], floating=True)
    found = []
    for name, given in indices.items():
        t = tensor_argument(op, given, name)
        if not is_integer(t.type.dtype):
            raise GraphTypeError(f"{op}: {name} are integers, got {t.type}")
        if t.shape != v.shape or v.ndim != 1:
            raise ShapeError(f"{op}: {name} and values are of one length, got {t.type}, {v.type}")
        found.append(t)
    return v, found


def _product(
    op: str, rows: Tensor, keys: Tensor, values: Tensor, weight: Tensor, bias: object, count: int
) -> Tensor:
    """sum of value * weight[key] into each row, plus the bias."""
    values, weight = promoted(op, [values, weight], floating=True)
    zeros = broadcast_to(constant(0, weight.type.dtype), (count, weight.shape[1]))
    products = multiply(expand_dims(values, 1), take(weight, keys, axis=0))
    y = scatter_add(zeros, rows, products, axis=0)
    return y if bias is None else add(y, bias)


@public
def sparse_linear(
    rows: object, keys: object, values: object, weight: object, bias: object = None, *,
    num_rows: int,
) -> Tensor:  # fmt: skip
    """X W^T + b for X in coordinate form: X[rows[n], keys[n]] += values[n], W (out, in).

    rows, keys (n,) integers from 0, values (n,), result (num_rows, out). Float dtypes. Gradient:
    dW[:, key] += value dy[row], dvalue = dy[row] . W[:, key], db = sum of dy. Raises ShapeError,
    GraphTypeError; indices out of range raise NumericError when it runs. THNN SparseLinear.
    """
    v, (r, k) = _entries("sparse_linear", values, rows=rows, keys=keys)
    (w,) = promoted("sparse_linear", [weight], floating=True)
    if w.ndim != 2:
        raise ShapeError(f"sparse_linear: weight is (out, in), got {w.type}")
    return _product("sparse_linear", r, k, v, transpose(w), bias, num_rows)


@public
def index_linear(
    keys: object, values: object, sizes: object, weight: object, bias: object = None, *,
    keys_offset: int = 0, max_abs: object = None, key_bias: object = None,
) -> Tensor:  # fmt: skip
    """y[b] = bias + sum over the entries n of row b of values[n] * weight[keys[n] + keys_offset].

    keys, values (n,): the entries of all rows after each other; sizes (rows,): how many belong to
    each; weight (keys, out). With `max_abs` (keys,), values become clip(v / max_abs[key], -1, 1),
    plus key_bias[key] where `key_bias` is given. Float dtypes. Gradient: dW[key] += v dy[b],
    dvalue = dy[b] . W[key], db = sum of dy. Raises ShapeError, GraphTypeError; keys out of range
    raise NumericError when it runs. THNN IndexLinear.
    """
    op = "index_linear"
    v, (k,) = _entries(op, values, keys=keys)
    (w,) = promoted(op, [weight], floating=True)
    counts = tensor_argument(op, sizes, "sizes")
    if w.ndim != 2:
        raise ShapeError(f"{op}: weight is (keys, out), got {w.type}")
    if not is_integer(counts.type.dtype) or counts.ndim != 1:
        raise ShapeError(f"{op}: sizes are integers (rows,), got {counts.type}")
    k = add(k, keys_offset) if keys_offset else k
    if max_abs is not None:
        v = clip(divide(v, take(max_abs, k)), -1, 1)
    if key_bias is not None:
        v = add(v, take(key_bias, k))
    place = constant(np.arange(v.shape[0], dtype=counts.type.dtype)[:, None])
    ends = FUNCTIONS["cumsum"](counts, axis=0)
    rows = sum_over(less_equal(ends, place), axis=1, dtype="int64")
    return _product(op, rows, k, v, w, bias, counts.shape[0])

"""What users get wrong with the ops beyond arithmetic, and the whole message they get for it."""

import importlib

import numpy as np
import pytest

from staticgraph import ops
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import INPUT, apply
from staticgraph.types import spec

random = importlib.import_module("staticgraph.ops.random")


def leaf(*shape, dtype="float32"):
    return apply(INPUT, name="x", type=spec(shape, dtype))


X = leaf(3, 4)
AT = leaf(3, dtype="int64")
B = leaf(3, 4, dtype="bool")
IMG, W, UP = leaf(2, 3, 8, 8), leaf(4, 3, 3, 3), leaf(3, 4, 3, 3)
KEY = random.key(0)
Z = leaf(3, dtype="complex64")

# what the user writes, the class, the message
# fmt: off
TABLE = [
    # functions that complex numbers do not have
    *((lambda f=f: f(Z), GraphTypeError,
       f"{name}: needs real floats of one dtype, got complex64")
      for name, f in (("sigmoid", ops.sigmoid), ("erf", ops.erf), ("cbrt", ops.cbrt))),
    (lambda: ops.hypot(Z, Z), GraphTypeError,
     "hypot: needs real floats of one dtype, got complex64, complex64"),
    (lambda: ops.remainder(Z, 2), GraphTypeError,
     "remainder: needs real numbers of one dtype, got complex64, complex64"),
    (lambda: ops.signbit(Z), GraphTypeError, "signbit: needs real numbers, got complex64"),
    (lambda: ops.clip(Z, 0, 1), GraphTypeError,
     "clip: complex numbers have no order, got c64[3]"),
    (lambda: ops.linear(X, leaf(5, 4), leaf(4)), ShapeError,
     "linear: bias must have shape (5,), got f32[4]"),
    (lambda: ops.sum_to(X, (2,)), ShapeError, "sum_to: (2,) does not broadcast to f32[3, 4]"),
    (lambda: ops.var(X, ddof="a"), GraphTypeError, "var: ddof is a number, got 'a'"),
    (lambda: ops.quantize_linear(X, -1.0), ShapeError,
     "quantize_linear: scale must be > 0, got -1.0"),
    # indexing
    (lambda: X[3], ShapeError, "index: index 3 is outside -3..2, axis 0 of f32[3, 4]"),
    (lambda: X[0, 0, 0], ShapeError, "index: 3 indices for the 2 axes of f32[3, 4]"),
    (lambda: X[-5], ShapeError, "index: index -5 is outside -3..2, axis 0 of f32[3, 4]"),
    (lambda: X[1.0], GraphTypeError, "index: indices are integers, got an array of float64"),
    (lambda: X["a"], GraphTypeError,
     "index: 'a' is no index of f32[3, 4]; an index is an int, a slice, ..., None, or an array"
     " or tensor of ints"),
    (lambda: X[..., ...], ShapeError, "index: only one ... may stand in an index"),
    (lambda: X[True], GraphTypeError,
     "index: True is no index of f32[3, 4]; an index is an int, a slice, ..., None, or an array"
     " or tensor of ints"),
    (lambda: X[np.array([0.5])], GraphTypeError,
     "index: indices are integers, got an array of float64"),
    (lambda: X[B], GraphTypeError,
     "index: a bool tensor (b1[3, 4]) selects a number of elements that is not known while the"
     " graph is built; use sg.ops.where(mask, x, 0), or a NumPy bool array"),
    (lambda: X[np.array([True, False])], ShapeError,
     "index: a bool array of shape (2,) cannot select from axes 0..0 of f32[3, 4]"),
    (lambda: X[[0, 3]], ShapeError, "index: index 3 is outside -3..2, axis 0 of f32[3, 4]"),
    (lambda: X[[0, 1], [0, 1, 2]], ShapeError,
     "index: the indices i64[2] and i64[3] do not broadcast against each other"),
    (lambda: X[AT, [0, 1]], ShapeError,
     "index: the indices i64[3] and i64[2] do not broadcast against each other"),
    (lambda: X[AT:], GraphTypeError,
     "index: the bounds of a slice are ints known while the graph is built (axis 0 of f32[3,"
     " 4]); use sg.ops.take(x, start + arange) for a window that moves at run time"),
    (lambda: X[::0], GraphTypeError,
     "index: slice(None, None, 0) of axis 0 of f32[3, 4]: slice step cannot be zero"),
    (lambda: X[:"a"], GraphTypeError,
     "index: slice(None, 'a', None) of axis 0 of f32[3, 4]: slice indices must be integers or"
     " None or have an __index__ method"),
    (lambda: X[[[0], [1, 2]]], GraphTypeError,
     "index: [[0], [1, 2]] is no index of f32[3, 4]; an index is an int, a slice, ..., None, or"
     " an array or tensor of ints"),
    (lambda: X[leaf(2)], GraphTypeError, "index: indices are integers, got f32[2]"),
    (lambda: ops.take(X, [0, 9], 0), ShapeError,
     "take: index 9 is outside -3..2, axis 0 of f32[3, 4]"),
    (lambda: ops.take(X, 0.5, 0), GraphTypeError,
     "take: indices are integers, got an array of float64"),
    (lambda: ops.take(X, AT, 2), ShapeError, "take: axis 2 is out of range for 2 axes"),
    (lambda: ops.gather(X, AT), ShapeError,
     "gather: indices need one axis for each of f32[3, 4], got i64[3]"),
    (lambda: ops.gather(X, leaf(5, 2, dtype="int64")), ShapeError,
     "gather: indices i64[5, 2] do not fit f32[3, 4] off axis 1"),
    (lambda: ops.gather_nd(X, leaf(2, 3, dtype="int64")), ShapeError,
     "gather_nd: the last axis of the indices, of shape (2, 3), must name 1 to 2 axes of f32[3,"
     " 4]"),
    (lambda: ops.gather_nd(X, [[0, 7]]), ShapeError,
     "gather_nd: index 7 is outside -4..3, axis 1 of f32[3, 4]"),
    (lambda: ops.embedding(X, [-1]), ShapeError,
     "embedding: index -1 is outside 0..2, the rows of f32[3, 4]"),
    (lambda: ops.embedding(X, leaf(2)), GraphTypeError,
     "embedding: indices are integers, got f32[2]"),
    (lambda: ops.embedding(leaf(), AT), ShapeError,
     "embedding: weight needs an axis of rows, got a 0-d tensor"),
    (lambda: ops.one_hot([0, 4], 4), ShapeError,
     "one_hot: index 4 is outside 0..3, with num_classes=4"),
    (lambda: ops.one_hot(leaf(2), 4), GraphTypeError, "one_hot: indices are integers, got f32[2]"),
    (lambda: ops.one_hot(AT, 4.0), GraphTypeError, "one_hot: num_classes is an int, got 4.0"),
    (lambda: ops.scatter_add(X, AT, leaf(2, 4)), ShapeError,
     "scatter_add: updates must have the shape of take(x, indices, 0), (3, 4), or of gather(x,"
     " indices, 0) with indices of all axes of f32[3, 4], got f32[2, 4]"),
    (lambda: ops.scatter_add(X, [0, 5], leaf(2, 4)), ShapeError,
     "scatter_add: index 5 is outside -3..2, axis 0 of f32[3, 4]"),
    (lambda: ops.scatter_add(B, [0, 1], leaf(2, 4, dtype="bool")), GraphTypeError,
     "scatter_add: needs numbers to add, got b1[2, 4]"),
    # convolution
    (lambda: ops.conv2d(leaf(3, 8, 8), W), ShapeError,
     "conv2d: x needs 2 + 2 axes (N, C, spatial), got f32[3, 8, 8]"),
    (lambda: ops.conv(X, W), ShapeError,
     "conv: needs x (N, C, spatial...) and a weight with as many axes, got f32[3, 4] and f32[4,"
     " 3, 3, 3]"),
    (lambda: ops.conv2d(IMG, leaf(4, 2, 3, 3)), ShapeError,
     "conv: x f32[2, 3, 8, 8] has 3 channels, weight f32[4, 2, 3, 3] with groups=1 takes 2"),
    (lambda: ops.conv2d(IMG, leaf(4, 1, 3, 3), groups=3), ShapeError,
     "conv: the 4 outputs of weight f32[4, 1, 3, 3] do not divide into groups=3"),
    (lambda: ops.conv2d(IMG, W, stride=0), ShapeError, "conv: stride needs 2 ints >= 1, got 0"),
    (lambda: ops.conv2d(IMG, W, stride=(1, 2, 3)), ShapeError,
     "conv: stride needs 2 ints >= 1, got (1, 2, 3)"),
    (lambda: ops.conv2d(IMG, W, padding="big"), GraphTypeError,
     "conv: padding is numbers or valid, same or full, got 'big'"),
    (lambda: ops.conv2d(IMG, W, padding=-1), ShapeError, "conv: padding needs 2 ints >= 0, got -1"),
    (lambda: ops.conv2d(IMG, W, padding=((1, 2),)), ShapeError,
     "conv: padding needs a pair for each of 2 axes, got ((1, 2),)"),
    (lambda: ops.conv2d(IMG, W, padding=1.5), GraphTypeError,
     "conv: padding is an int or one int per spatial axis, got 1.5"),
    (lambda: ops.conv2d(IMG, W, dilation=4), ShapeError,
     "conv: the kernel of f32[4, 3, 3, 3] with dilation (4, 4) is larger than x f32[2, 3, 8, 8]"
     " with padding ((0, 0), (0, 0))"),
    (lambda: ops.conv2d(IMG, W, leaf(3)), ShapeError,
     "conv: bias must have shape (4,), got f32[3]"),
    (lambda: ops.conv2d(IMG, W, groups=0), GraphTypeError, "conv: groups is an int >= 1, got 0"),
    (lambda: ops.conv_transpose2d(IMG, W), ShapeError,
     "conv_transpose: needs x (N, C, spatial...) and weight (C, M/groups, kernel...), got f32[2,"
     " 3, 8, 8] and f32[4, 3, 3, 3]"),
    (lambda: ops.conv_transpose2d(IMG, UP, output_padding=1), ShapeError,
     "conv_transpose: output_padding 1 must be below stride 1 or dilation 1"),
    (lambda: ops.conv_transpose2d(IMG, UP, padding="same"), GraphTypeError,
     "conv_transpose: padding is numbers, got 'same'"),
    (lambda: ops.conv_transpose2d(IMG, UP, padding=6), ShapeError,
     "conv_transpose: f32[2, 3, 8, 8] with weight f32[3, 4, 3, 3], padding 6 is empty"),
    (lambda: ops.depthwise_conv(IMG, W), ShapeError,
     "depthwise_conv: weight must be (C multiplier, 1, kernel...) for the 3 channels of x, got"
     " f32[4, 3, 3, 3]"),
    # pooling
    (lambda: ops.max_pool(X, 2), ShapeError, "max_pool: needs x (N, C, spatial...), got f32[3, 4]"),
    (lambda: ops.max_pool(IMG, 9), ShapeError,
     "max_pool: kernel (9, 9) with padding 0 does not fit size (8, 8)"),
    (lambda: ops.max_pool(IMG, 2, padding=2), ShapeError,
     "max_pool: padding 2 leaves windows without an element of x"),
    (lambda: ops.max_pool(IMG, (2,)), ShapeError,
     "max_pool: kernel_size needs 2 ints >= 1, got (2,)"),
    (lambda: ops.max_pool(leaf(1, 1, 4, dtype="complex64"), 2), GraphTypeError,
     "max_pool: needs real numbers, got c64[1, 1, 4]"),
    (lambda: ops.avg_pool(IMG, 0), ShapeError, "avg_pool: kernel_size needs 2 ints >= 1, got 0"),
    (lambda: ops.avg_pool(IMG, 2, divisor_override=0), ShapeError,
     "avg_pool: divisor_override must not be 0"),
    (lambda: ops.global_avg_pool(X), ShapeError,
     "global_avg_pool: needs x (N, C, spatial...), got f32[3, 4]"),
    # normalisation
    (lambda: ops.softmax(leaf(2, dtype="complex64")), GraphTypeError,
     "softmax: needs real numbers, got c64[2]"),
    (lambda: ops.softmax(X, 2), ShapeError, "softmax: axis 2 is out of range for 2 axes"),
    (lambda: ops.layer_norm(X, leaf(3)), ShapeError,
     "layer_norm: weight must have shape (4,) for x f32[3, 4], got f32[3]"),
    (lambda: ops.layer_norm(X, eps="a"), GraphTypeError,
     "layer_norm: eps is a number >= 0, got 'a'"),
    (lambda: ops.layer_norm(X, normalized_shape=(3,)), ShapeError,
     "layer_norm: f32[3, 4] does not end with normalized_shape (3,)"),
    (lambda: ops.group_norm(IMG, 2), ShapeError,
     "group_norm: 3 channels do not divide into 2 groups"),
    (lambda: ops.batch_norm(IMG, training=False), GraphTypeError,
     "batch_norm: training=False needs running_mean and running_var"),
    (lambda: ops.batch_norm(IMG, None, None, leaf(3)), GraphTypeError,
     "batch_norm: give both running_mean and running_var, or neither"),
    (lambda: ops.batch_norm(IMG, leaf(4)), ShapeError,
     "batch_norm: weight must have shape (3,) for x f32[2, 3, 8, 8], got f32[4]"),
    (lambda: ops.batch_norm(IMG, None, None, leaf(4), leaf(4)), ShapeError,
     "batch_norm: running statistics are floats of shape (3,), got f32[4]"),
    (lambda: ops.batch_norm(leaf(1, 3), None, None, leaf(3), leaf(3)), ShapeError,
     "batch_norm: running statistics need two values per channel, x is f32[1, 3]"),
    (lambda: ops.instance_norm(X), ShapeError,
     "instance_norm: needs x (N, C, spatial...), got f32[3, 4]"),
    # losses
    (lambda: ops.mse_loss(X, leaf(4)), ShapeError,
     "mse_loss: prediction f32[3, 4] and target f32[4] must have one shape"),
    (lambda: ops.mse_loss(X, X, "avg"), GraphTypeError,
     "mse_loss: reduction is 'mean', 'sum' or 'none', got 'avg'"),
    (lambda: ops.huber_loss(X, X, 0), ShapeError, "huber_loss: delta must be > 0, got 0"),
    (lambda: ops.softmax_cross_entropy(X, leaf(4, dtype="int64")), ShapeError,
     "softmax_cross_entropy: integer labels for f32[3, 4] with classes on axis 1 must have shape"
     " (3,), got i64[4]"),
    (lambda: ops.softmax_cross_entropy(X, [0, 1, 4]), ShapeError,
     "softmax_cross_entropy: index 4 is outside 0..3, the classes of f32[3, 4]"),
    (lambda: ops.softmax_cross_entropy(X, leaf(3)), ShapeError,
     "softmax_cross_entropy: soft targets must have the shape of f32[3, 4], got f32[3]"),
    (lambda: ops.nll_loss(X, leaf(3)), GraphTypeError,
     "nll_loss: labels are integers; use softmax_cross_entropy for soft ones"),
    (lambda: ops.cross_entropy(X, X, ignore_index=2), GraphTypeError,
     "cross_entropy: ignore_index needs integer labels, got soft ones"),
    (lambda: ops.cross_entropy(X, X, weight=leaf(3)), ShapeError,
     "cross_entropy: weight must have shape (4,), got f32[3]"),
    (lambda: ops.nll_loss(X, AT, weight=leaf(3)), ShapeError,
     "nll_loss: weight must have shape (4,), got f32[3]"),
    (lambda: ops.kl_multinomial(leaf(3), leaf(3)), ShapeError,
     "kl_multinomial: axis 1 is out of range for 1 axes"),
    (lambda: ops.total_variation(leaf(3)), ShapeError,
     "total_variation: needs an image of two axes, got f32[3]"),
    # random numbers
    (lambda: random.uniform(0, (3,)), GraphTypeError,
     "random.uniform: key must be a key, got 0; write sg.random.key(0)"),
    (lambda: random.uniform(X, (3,)), GraphTypeError,
     "random.uniform: a key is a uint32[2] tensor, see sg.random.key; got f32[3, 4]"),
    (lambda: random.key(0.5), GraphTypeError,
     "random.key: a seed is an int known while building, got 0.5"),
    (lambda: random.key(AT), GraphTypeError,
     "random.key: a seed is an int known while building, got <Tensor x: i64[3]>"),
    (lambda: random.uniform(KEY, (3,), 1, 1), ShapeError,
     "random.uniform: low must be below high, got 1 and 1"),
    (lambda: random.uniform(KEY, (3,), dtype="int32"), GraphTypeError,
     "random.uniform: dtype is float32 or float64, got int32"),
    (lambda: random.split(KEY, 0), GraphTypeError, "random.split: num is an int >= 1, got 0"),
    (lambda: random.fold_in(KEY, AT), GraphTypeError,
     "random.fold_in: data is an integer scalar, got i64[3]"),
    (lambda: random.randint(KEY, (3,), 5, 5), ShapeError,
     "random.randint: needs low < high within int64, got 5 and 5"),
    (lambda: random.randint(KEY, (3,), 0, 300, "int8"), ShapeError,
     "random.randint: needs low < high within int8, got 0 and 300"),
    (lambda: random.bits(KEY, (3,), "int32"), GraphTypeError,
     "random_bits: dtype is uint32 or uint64, got int32"),
    (lambda: random.bernoulli(KEY, (2,), X), ShapeError,
     "random.bernoulli: p f32[3, 4] does not broadcast to (2,)"),
    (lambda: ops.dropout(X, 1.5, key=KEY), GraphTypeError,
     "dropout: p is a number from 0 to 1, got 1.5"),
    (lambda: ops.dropout(X, 0.5, key=3), GraphTypeError,
     "dropout: key must be a key, got 3; write sg.random.key(3)"),
    (lambda: ops.dropout(X, 0.5), GraphTypeError,
     "dropout: training needs key=, a key such as sg.random.key(0)"),
]
# fmt: on


@pytest.mark.parametrize(("write", "kind", "message"), TABLE)
def test_message(write, kind, message):
    with pytest.raises(kind) as caught:
        write()
    assert caught.value.summary == message
    assert caught.value.where[0] == __file__

"""What the composed ops say about operands and attributes that they do not take."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import staticgraph as sg
from staticgraph import ops
from staticgraph.errors import GraphTypeError, NumericError, ShapeError

random = importlib.import_module("staticgraph.ops.random")


def leaf(*shape, dtype="float32"):
    return sg.input("x", shape, dtype)


X, IMG, KEY = leaf(3, 4), leaf(2, 3, 5, 5), random.key(0)
Z = leaf(3, 4, dtype="complex64")
AT = leaf(3, dtype="int64")
# fmt: off
TABLE = [
    # activations
    (lambda: ops.elu(X, "a"), GraphTypeError, "elu: alpha is a number, got 'a'"),
    (lambda: ops.elu(X, scale=True), GraphTypeError, "elu: scale is a number, got True"),
    (lambda: ops.celu(X, 0), ShapeError, "celu: alpha must be > 0, got 0"),
    (lambda: ops.leaky_relu(X, None), GraphTypeError,
     "leaky_relu: negative_slope is a number, got None"),
    (lambda: ops.crelu(leaf(3)), ShapeError, "crelu: axis 1 is out of range for 1 axes"),
    (lambda: ops.concat_elu(X, axis=2), ShapeError,
     "concat_elu: axis 2 is out of range for 2 axes"),
    (lambda: ops.prelu(IMG, leaf(5)), ShapeError,
     "prelu: weight must have shape () or (1,) or (3,) for x f32[2, 3, 5, 5], got f32[5]"),
    (lambda: ops.prelu(leaf(3), leaf(3)), ShapeError,
     "prelu: weight must have shape () or (1,) for x f32[3], got f32[3]"),
    (lambda: ops.prelu(Z, 0.1), GraphTypeError, "prelu: needs real numbers, got c64[3, 4]"),
    (lambda: ops.hard_sigmoid(X, 0), ShapeError, "hard_sigmoid: slope must be > 0, got 0"),
    (lambda: ops.hard_tanh(X, 1, 1), ShapeError,
     "hard_tanh: min must be below max, got 1 and 1"),
    (lambda: ops.softplus(X, -1.0), ShapeError, "softplus: beta must be > 0, got -1.0"),
    (lambda: ops.softplus(X, 1, "a"), GraphTypeError, "softplus: threshold is a number, got 'a'"),
    (lambda: ops.softshrink(X, -0.1), ShapeError, "softshrink: lambd must be >= 0, got -0.1"),
    (lambda: ops.glu(leaf(3, 5)), ShapeError, "glu: axis -1 of f32[3, 5] must have an even size"),
    (lambda: ops.sinc(Z), GraphTypeError, "sinc: needs real numbers, got c64[3, 4]"),
    (lambda: ops.gelu(X, "erf"), GraphTypeError,
     "gelu: approximate is 'none' or 'tanh', got 'erf'"),
    (lambda: ops.relu(Z), GraphTypeError, "relu: needs real operands of one dtype, got complex64,"
     " complex64"),
    (lambda: ops.rrelu(X), GraphTypeError,
     "rrelu: training needs key=, a key such as sg.random.key(0)"),
    (lambda: ops.rrelu(X, 0.5, 0.2, key=KEY), ShapeError,
     "rrelu: lower must not be above upper, got 0.5 and 0.2"),
    (lambda: ops.rrelu(X, key=3), GraphTypeError,
     "rrelu: key must be a key, got 3; write sg.random.key(3)"),
    # lists, powers, rounding
    (lambda: ops.add_n([]), GraphTypeError, "add_n: needs at least one tensor"),
    (lambda: ops.multiply_n(X), GraphTypeError,
     "multiply_n: needs a list of tensors, got <Tensor x: f32[3, 4]>"),
    (lambda: ops.multiply_n([X, leaf(3)]), ShapeError,
     "multiply: f32[3, 4] and f32[3] do not broadcast: counted from the right, sizes must be equal"
     " or 1; to add one value per row, give the shorter one an axis: x[:, None]"),
    (lambda: ops.power_layer(X, shift="a"), GraphTypeError,
     "power_layer: shift is a number, got 'a'"),
    (lambda: ops.sign(X, ste=1), GraphTypeError, "sign: ste is a bool, got 1"),
    (lambda: ops.identity("a"), GraphTypeError,
     "identity: x must be a tensor or an array, got str"),
    # norms
    (lambda: ops.vector_norm(X, 0), ShapeError, "vector_norm: p must be > 0, got 0"),
    (lambda: ops.vector_norm(X, axis=2), ShapeError,
     "vector_norm: axis 2 is out of range for 2 axes"),
    (lambda: ops.vector_norm(X, "fro"), GraphTypeError, "vector_norm: p is a number, got 'fro'"),
    (lambda: ops.normalize(leaf(3)), ShapeError, "normalize: axis 1 is out of range for 1 axes"),
    (lambda: ops.normalize(X, eps=-1), ShapeError, "normalize: eps must be >= 0, got -1"),
    (lambda: ops.weight_norm(X, leaf(4)), ShapeError,
     "weight_norm: g must have shape (3,) for f32[3, 4], got f32[4]"),
    (lambda: ops.weight_norm(Z, leaf(3)), GraphTypeError,
     "weight_norm: needs real numbers, got c64[3, 4]"),
    (lambda: ops.gram_matrix(leaf(3)), ShapeError,
     "gram_matrix: needs x (..., c, n), got f32[3]"),
    (lambda: ops.vdot(X, leaf(4)), ShapeError,
     "vdot: operands must have one size, got f32[3, 4] and f32[4]"),
    (lambda: ops.trace(leaf(3)), ShapeError, "trace: needs x (..., n, m), got f32[3]"),
    (lambda: ops.trace(X, 1.5), GraphTypeError, "trace: offset is an int, got 1.5"),
    (lambda: ops.gram_matrix(Z), GraphTypeError, "gram_matrix: needs real numbers, got c64[3, 4]"),
    (lambda: ops.sync_batch_norm(X, join=3), GraphTypeError,
     "sync_batch_norm: join is a function of a tensor, got 3"),
    (lambda: ops.sync_batch_norm(X, leaf(3)), ShapeError,
     "sync_batch_norm: weight must have shape (4,) for x f32[3, 4], got f32[3]"),
    # quantisation
    (lambda: ops.straight_through(3), GraphTypeError, "straight_through: f is a function, got 3"),
    (lambda: ops.straight_through(ops.sum)(X), GraphTypeError,
     "straight_through: value and proxy must be of one type, got f32[] and f32[3, 4]"),
    (lambda: ops.prune(X, 1.5), GraphTypeError, "prune: rate is a number from 0 to 1, got 1.5"),
    (lambda: ops.quantize_linear(X, leaf(3)), ShapeError,
     "quantize_linear: scale f32[3] does not broadcast to f32[3, 4]"),
    (lambda: ops.quantize_linear(X, 1.0, dtype="int32"), GraphTypeError,
     "quantize_linear: dtype is an integer of 8 or 16 bits, got int32"),
    (lambda: ops.quantize_linear(X, 1.0, round_mode="up"), GraphTypeError,
     "quantize_linear: round_mode is half_to_even or half_away_from_zero, got 'up'"),
    (lambda: ops.quantize_linear(Z, 1.0), GraphTypeError,
     "quantize_linear: needs real numbers, got c64[3, 4]"),
    # losses
    (lambda: ops.soft_margin_loss(X, leaf(4)), ShapeError,
     "soft_margin_loss: prediction f32[3, 4] and target f32[4] must have one shape"),
    (lambda: ops.multi_margin_loss(X, AT, 3), GraphTypeError,
     "multi_margin_loss: p is 1 or 2, got 3"),
    (lambda: ops.multi_margin_loss(X, [0, 1, 4]), ShapeError,
     "multi_margin_loss: index 4 is outside 0..3, the classes of f32[3, 4]"),
    (lambda: ops.multi_margin_loss(X, AT, weight=leaf(3)), ShapeError,
     "multi_margin_loss: weight must have shape (4,), got f32[3]"),
    (lambda: ops.multilabel_margin_loss(X, AT), ShapeError,
     "multilabel_margin_loss: target must have the shape of x f32[3, 4], got i64[3]"),
    (lambda: ops.multilabel_margin_loss(X, X), GraphTypeError,
     "multilabel_margin_loss: target lists integer labels, got f32[3, 4]"),
    (lambda: ops.multilabel_margin_loss(leaf(2), [2, -1]), ShapeError,
     "multilabel_margin_loss: index 2 is outside 0..1, the classes of f32[2]"),
    (lambda: ops.kl_multinomial(X, X, reduction="all"), GraphTypeError,
     "kl_multinomial: reduction is 'mean', 'sum' or 'none', got 'all'"),
    # random numbers
    (lambda: random.categorical(KEY, X, shape=(3, 2)), ShapeError,
     "random.categorical: logits f32[3, 4] without axis -1 do not broadcast to (3, 2)"),
    (lambda: random.categorical(KEY, X, 2), ShapeError,
     "random.categorical: axis 2 is out of range for 2 axes"),
    (lambda: random.gumbel(KEY, 3, dtype="int8"), GraphTypeError,
     "random.gumbel: dtype is float32 or float64, got int8"),
    (lambda: random.exponential(5, 3), GraphTypeError,
     "random.exponential: key must be a key, got 5; write sg.random.key(5)"),
    (lambda: random.truncated_normal(KEY, 3, 2.0, 1.0), ShapeError,
     "random.truncated_normal: low must be below high, got 2.0 and 1.0"),
]
# fmt: on


@pytest.mark.parametrize(("write", "kind", "message"), TABLE)
def test_message(write, kind, message):
    with pytest.raises(kind) as caught:
        write()
    assert caught.value.summary == message
    assert caught.value.where[0] == __file__


def test_labels_out_of_range_when_it_runs():
    x, t = leaf(2, 3), sg.input("t", (2, 3), "int64")
    f = sg.compile(ops.multilabel_margin_loss(x, t), [x, t])
    f(np.zeros((2, 3), "f"), np.array([[0, -1, 7], [2, 1, -1]]) % 3 - [[0, 0, 0], [0, 0, 3]])
    with pytest.raises(NumericError, match=r"outside 0\.\.2"):
        f(np.zeros((2, 3), "f"), np.array([[0, 3, -1], [0, -1, -1]]))

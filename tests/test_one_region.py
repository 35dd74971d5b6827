"""Composites fuse: how many regions compute an op, and an op with all its gradients.

Counted are the nodes that the default pipeline leaves: a region, the join of its partial sums and
what is made of those are one. Labels are known numbers, so that no test of their range is counted
beside the loss.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

import staticgraph as sg
from staticgraph import ops
from staticgraph.fusion import VIEWS
from staticgraph.ir import CONSTANT, INPUT, Graph
from staticgraph.passes import PIPELINES

LABELS = np.arange(64) % 96
PIXELS = np.arange(8 * 120).reshape(8, 10, 12) % 6
LISTS = np.where(np.arange(96) < 3, np.arange(96), -1) * np.ones((8, 1), int)
KEY = sg.random.key(1)


names = itertools.count()


def leaf(*shape, dtype="float32"):
    return sg.input(f"x{next(names)}", shape, dtype)


def matrix(n=1):
    return [leaf(64, 96) for _ in range(n)]


def image(parameters=0):
    return [leaf(8, 6, 10, 12), *(leaf(6) for _ in range(parameters))]


def with_reductions(name, build, operands, mean=(1, 1, 1)):
    """A row for each way to reduce a loss; `mean` where that must divide by a total of its own."""
    return {
        f"{name}, {reduction}": (
            functools.partial(build, reduction=reduction), operands,
            mean if reduction == "mean" else (1, 1, 1),
        )
        for reduction in ("none", "sum", "mean")
    }  # fmt: skip


ONE = (1, 1, 1)
# op: function, operands, regions of the value, of all gradients, and of both together
TABLE = {
    # norms
    "softmax": (ops.softmax, matrix(), ONE),
    "softmax of channels": (lambda x: ops.softmax(x, 1), image(), ONE),
    "log_softmax": (ops.log_softmax, matrix(), ONE),
    "logsumexp": (lambda x: ops.logsumexp(x, -1), matrix(), ONE),
    # The maximum and the sum of a column are known when all rows are: three sweeps of the value,
    # and one more for the sum in the derivative.
    "softmax of columns": (lambda x: ops.softmax(x, 0), matrix(), (3, 4, 4)),
    "layer_norm": (ops.layer_norm, [*matrix(), leaf(96), leaf(96)], ONE),
    "layer_norm over two axes": (
        lambda *xs: ops.layer_norm(*xs, normalized_shape=(10, 12)),
        [*image(), leaf(10, 12), leaf(10, 12)], ONE),
    # Weight and bias are summed over other axes than the channels.
    "layer_norm of channels": (lambda *xs: ops.layer_norm(*xs, axis=1), image(2), (1, 3, 3)),
    "rms_norm": (ops.rms_norm, [*matrix(), leaf(96)], ONE),
    "rms_norm over two axes": (lambda *xs: ops.rms_norm(*xs, normalized_shape=(10, 12)),
                               [*image(), leaf(10, 12)], ONE),
    "group_norm": (lambda *xs: ops.group_norm(xs[0], 2, *xs[1:]), image(2), ONE),
    "group_norm of weight": (lambda *xs: ops.group_norm(xs[0], 2, *xs[1:]), image(1), ONE),
    "group_norm of x": (lambda x: ops.group_norm(x, 2), image(), ONE),
    "group_norm, one group": (lambda *xs: ops.group_norm(xs[0], 1, *xs[1:]), image(2), ONE),
    "group_norm, a group each": (lambda *xs: ops.group_norm(xs[0], 6, *xs[1:]), image(2), ONE),
    "group_norm of rows": (lambda *xs: ops.group_norm(xs[0], 4, *xs[1:]),
                           [*matrix(), leaf(96), leaf(96)], ONE),
    "instance_norm": (ops.instance_norm, image(2), ONE),
    "instance_norm of x": (ops.instance_norm, image(), ONE),
    "instance_norm across": (lambda *xs: ops.instance_norm(*xs, across_channels=True), image(2),
                             ONE),
    # The value reads x alone, the derivative its cotangent alone.
    "mvn": (lambda x: ops.mvn(x, normalize_variance=False), image(), (1, 1, 2)),
    "batch_norm": (ops.batch_norm, image(2), ONE),
    "batch_norm and its statistics": (ops.batch_norm, image(4), ONE),
    "sync_batch_norm": (ops.sync_batch_norm, image(2), ONE),
    "batch_norm of inference": (lambda *xs: ops.batch_norm(*xs, training=False), image(4), ONE),
    # Mean and variance of a column are known when all rows are: three sweeps of the value, and two
    # for the sums of the derivative.
    "batch_norm of columns": (ops.batch_norm, [*matrix(), leaf(96), leaf(96)], (3, 5, 5)),
    "vector_norm": (lambda x: ops.vector_norm(x, axis=1), matrix(), ONE),
    # The derivative starts when the norm of all is known.
    "vector_norm of all": (ops.vector_norm, matrix(), (1, 2, 2)),
    "normalize": (ops.normalize, matrix(), ONE),
    "weight_norm": (ops.weight_norm, [*matrix(), leaf(64)], ONE),
    "squared_norm": (lambda x: ops.squared_norm(x, 1), matrix(), ONE),
    "std": (lambda x: ops.std(x, 1), matrix(), ONE),
    # losses
    **{row: found
       for name in ("squared_error", "absolute_error", "mse_loss", "l1_loss", "huber_loss",
                    "smooth_l1_loss", "soft_margin_loss", "binary_cross_entropy",
                    "binary_cross_entropy_with_logits", "kl_multinomial")
       for row, found in with_reductions(name, getattr(ops, name), matrix(2)).items()},
    **with_reductions("weighted", ops.binary_cross_entropy, matrix(3)),
    **with_reductions("weighted classes", ops.binary_cross_entropy, [*matrix(2), leaf(96)]),
    **with_reductions("epsilon_insensitive_loss", functools.partial(
        ops.epsilon_insensitive_loss, epsilon=0.1), matrix(2)),
    **{name: (getattr(ops, name), matrix(2), ONE)
       for name in ("half_squared_error", "euclidean_loss")},
    "l2_penalty": (ops.l2_penalty, matrix(), ONE),
    # The derivative of a difference joins two elements, of which each needs the root beside it.
    "total_variation": (ops.total_variation, matrix(), (1, 2, 2)),
    # losses of rows: a mean over the rows follows them in their region
    **{row: found
       for name in ("softmax_cross_entropy", "cross_entropy", "nll_loss",
                    "categorical_cross_entropy", "multiclass_hinge_loss", "multi_margin_loss")
       for row, found in with_reductions(
           name, functools.partial(getattr(ops, name), labels=LABELS), matrix()).items()},
    **{row: found
       for name in ("softmax_cross_entropy", "cross_entropy", "categorical_cross_entropy")
       for row, found in with_reductions(f"{name}, soft", getattr(ops, name), matrix(2)).items()},
    **with_reductions("cross_entropy of an input", ops.cross_entropy,
                      [*matrix(), leaf(64, dtype="int64")]),
    **with_reductions("cross_entropy of pixels", functools.partial(
        ops.cross_entropy, labels=PIXELS, axis=1), image()),
    # The mean divides by the weights of all rows, which the derivative needs from its start.
    **with_reductions("nll_loss, weighted", lambda x, w, reduction: ops.nll_loss(
        x, LABELS, weight=w, reduction=reduction), [*matrix(), leaf(96)], mean=(1, 2, 2)),
    # The number of labels that count is a sum over labels alone, and divides at the end.
    **with_reductions("nll_loss, ignoring", functools.partial(
        ops.nll_loss, labels=LABELS, ignore_index=3), matrix(), mean=(3, 2, 3)),
    **with_reductions("multi_margin_loss, p=2", functools.partial(
        ops.multi_margin_loss, labels=LABELS, p=2), matrix()),
    # A class is over the margin of each label; the derivative sums over the labels, when the sum
    # over the classes is known for each of them.
    "multilabel_margin_loss": (lambda x: ops.multilabel_margin_loss(x, LISTS, "none"),
                               [leaf(8, 96)], (1, 2, 2)),
    "multilabel_margin_loss, mean": (lambda x: ops.multilabel_margin_loss(x, LISTS),
                                     [leaf(8, 96)], (1, 2, 2)),
    # activations
    **{name: (getattr(ops, name), matrix(), ONE)
       for name in ("sigmoid", "tanh", "relu", "elu", "selu", "celu", "softplus", "sinc", "relu6",
                    "leaky_relu", "silu", "gelu", "hard_sigmoid", "hard_tanh", "log_sigmoid",
                    "softsign", "softshrink", "tanhshrink", "binary_tanh", "binary_sigmoid")},
    "prelu": (ops.prelu, [leaf(8, 6, 10), leaf(6)], ONE),
    # Halves and wholes are two shapes to loop over.
    "glu": (ops.glu, matrix(), (1, 2, 2)),
    "crelu": (ops.crelu, matrix(), (1, 1, 2)),
    "concat_elu": (ops.concat_elu, matrix(), (1, 1, 2)),
    "dropout": (lambda x: ops.dropout(x, 0.3, key=KEY), matrix(), ONE),
    "rrelu": (lambda x: ops.rrelu(x, key=KEY), matrix(), ONE),
    "quantize and back": (lambda x, s: ops.dequantize_linear(ops.quantize_linear(x, s), s),
                          [*matrix(), leaf()], (1, 2, 2)),
    "categorical": (lambda x: sg.random.categorical(KEY, x), matrix(), ONE),
}  # fmt: skip


def regions(outputs):
    """Nodes that compute something, as the default pipeline leaves them."""
    nodes = Graph((), outputs).nodes
    inputs = [n.results[0] for n in nodes if n.op is INPUT]
    made = PIPELINES["default"](Graph(inputs, outputs))
    return [n for n in made.nodes if n.op not in (INPUT, CONSTANT) and n.op.name not in VIEWS]


def with_gradients(build, operands):
    """The float results, and the gradients of all float operands for cotangents that are inputs."""
    y = build(*operands)
    y = list(y) if isinstance(y, tuple) else [y]
    real = [t for t in y if t.dtype.kind == "f"]
    cotangents = [sg.input(f"g{k}", t.shape, t.dtype.name) for k, t in enumerate(real)]
    wrt = [x for x in operands if x.dtype.kind == "f"]
    return y, sg.vjp(real, wrt, cotangents) if real else [], cotangents


@pytest.mark.parametrize("name", TABLE)
def test_regions(name):
    build, operands, wanted = TABLE[name]
    y, gradients, _ = with_gradients(build, operands)
    found = [y, gradients, [*y, *gradients]] if gradients else [y]
    assert tuple(len(regions(outputs)) for outputs in found) == wanted[: len(found)]


def test_regions_hold_no_block_of_classes():
    """A loss of pairs of classes, of labels that are inputs, keeps no pair in memory."""
    x, t = leaf(64, 96), leaf(64, 96, dtype="int64")
    y, gradients, _ = with_gradients(ops.multilabel_margin_loss, [x, t])
    for node in regions([*y, *gradients]):
        assert all(r.size <= x.size for r in node.results)


@pytest.mark.parametrize(
    "name", ["softmax", "layer_norm", "batch_norm", "mse_loss, mean", "huber_loss, sum"]
)
def test_kernels(name):
    """A compiled function has a kernel for the region, and at most one that joins partial sums."""
    build, operands, _ = TABLE[name]
    y, gradients, cotangents = with_gradients(build, operands)
    found = sg.compile([*y, *gradients], [*operands, *cotangents]).kernels
    names = {kernel.name.partition("_join")[0] for kernel in found}
    assert len(names) == 1


SIZES = [(7,), (3, 5), (1000, 103), (3, 70001), (40000, 5), (0, 4), (5, 0), (1, 1), ()]


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_what_follows_a_total_has_the_bits_of_kernels_of_its_own(shape, rng):
    """A mean is divided where its partial sums are joined, or where the one tile ends."""
    x = sg.input("x", shape)
    outputs = [
        ops.mean(ops.square(x)),
        ops.sqrt(ops.sum(ops.square(x)) * 2.0 + 1.0),
        -ops.sum(x, dtype="float64").astype("float32"),
        ops.max(x).astype("float64") - 1.0 if x.size else ops.sum(x),
    ]
    if len(shape) == 2:
        rows = ops.sum(x * x, 1)
        outputs += [ops.mean(rows), ops.sum(rows) / (ops.sum(ops.sqrt(rows)) + 1.0)]
        outputs += [ops.mean(x, 0), 1.0 / (ops.sum(x * x, 0) + 2.0), ops.sum(x, 0).astype("int64")]
    a = (rng.standard_normal(shape) * 9).astype("f")
    for y in outputs:
        fused, plain = sg.compile(y, [x]), sg.compile(y, [x], pipeline="none")
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(fused(a), plain(a))
        with sg.threads(1):
            np.testing.assert_array_equal(fused(a), plain(a))


@pytest.mark.parametrize("shape", [(4, 6, 35), (3, 5, 20000), (2, 1, 64), (0, 3, 8)], ids=str)
def test_sums_that_end_within_a_sweep(shape, rng):
    """Beside a sum over two axes, one over the last: each is delivered as its part of it ends."""
    x, w = sg.input("x", shape), sg.input("w", shape[:2])
    mean = ops.mean(x, (1, 2), keepdims=True)
    y = (x - mean) * ops.expand_dims(w, -1)
    g = sg.input("g", shape)
    outputs = [y, *sg.vjp([y], [x, w], [g]), ops.sum(ops.sum(x * mean, 2), 0)]
    assert len(regions(outputs)) <= (2 if x.size else 3)
    arrays = [(rng.standard_normal(t.shape) * 9).astype("f") for t in (x, w, g)]
    exact = [a.astype("f8") for a in arrays]
    off = exact[0].size and exact[0].mean((1, 2), keepdims=True)
    dy = exact[2] * exact[1][..., None]
    wanted = [
        (exact[0] - off) * exact[1][..., None],
        dy - (dy.size and dy.mean((1, 2), keepdims=True)),
        (exact[2] * (exact[0] - off)).sum(2),
        (exact[0] * off).sum((0, 2)),
    ]
    made = sg.compile(outputs, [x, w, g])
    for got, want in zip(made(*arrays), wanted, strict=True):
        np.testing.assert_allclose(
            got, want, rtol=1e-4, atol=1e-4 * max(1, abs(want).max(initial=0))
        )
    with sg.threads(1):
        for a, b in zip(made(*arrays), made(*arrays), strict=True):
            np.testing.assert_array_equal(a, b)


def test_regions_of_the_same_operands_unite():
    """What reads the same values and waits for nothing else is one pass over them."""
    x, t = matrix(2)
    outputs = [ops.gelu(x), ops.sum(ops.square(x - t)), ops.max(x, 1), ops.sin(x) * t]
    assert len(regions(outputs)) == 1


def test_regions_stay_apart_where_a_value_would_live_longer():
    """A stored value that a product reads, and one that comes after that product."""
    x, w = leaf(64, 64), leaf(64, 64)
    early = ops.sin(x)
    late = ops.cos(x) * (early @ w)
    found = regions([late, ops.sin(late) @ w])
    assert sum(n.op.name == "fusion" for n in found) > 1
    same_shape = ops.exp(x)
    assert len(regions([ops.sort(early), same_shape @ w])) == 4


def test_a_total_that_others_read_too_stays():
    """Only what alone reads a total moves to where it is made."""
    x = leaf(64, 96)
    total = ops.sum(x)
    outputs = [total, total * 2.0]
    a = np.ones((64, 96), "f")
    np.testing.assert_array_equal(sg.compile(outputs, [x])(a), [6144, 12288])
    y = ops.sum(x) * leaf()
    assert len(regions([y])) == 2

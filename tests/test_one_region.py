"""Composites fuse: how many regions compute an op, and an op with all its gradients.

Counted are the nodes that the default pipeline leaves: a region and the join of its partial sums
are one. Labels are known numbers, so that no test of their range is counted beside the loss.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import staticgraph as sg
from staticgraph import ops
from staticgraph.fusion import VIEWS
from staticgraph.ir import CONSTANT, INPUT, Graph
from staticgraph.passes import PIPELINES

LABELS = np.arange(64) % 96
LISTS = np.where(np.arange(96) < 3, np.arange(96), -1) * np.ones((8, 1), int)
SIGNS = np.where(np.arange(64 * 96).reshape(64, 96) % 2, 1, -1)
KEY = sg.random.key(1)


names = itertools.count()


def leaf(*shape):
    return sg.input(f"x{next(names)}", shape)


def matrix(n=1):
    return [leaf(64, 96) for _ in range(n)]


def image(*parameters):
    return [leaf(8, 6, 10, 12), *(leaf(6) for _ in range(parameters[0] if parameters else 0))]


# op: function, operands, regions of the value, regions of value and all gradients
TABLE = {
    # norms
    "softmax": (ops.softmax, matrix(), 1, 1),
    "log_softmax": (ops.log_softmax, matrix(), 1, 1),
    "logsumexp": (lambda x: ops.logsumexp(x, -1), matrix(), 1, 1),
    "layer_norm": (ops.layer_norm, [*matrix(), leaf(96), leaf(96)], 1, 1),
    "rms_norm": (ops.rms_norm, [*matrix(), leaf(96)], 1, 1),
    # The gradients of weight and bias sum over other axes than the statistics.
    "group_norm": (lambda *xs: ops.group_norm(xs[0], 2, *xs[1:]), image(2), 1, 3),
    "group_norm of x": (lambda x: ops.group_norm(x, 2), image(), 1, 1),
    # A sum over the samples of one number for each channel is left, for weight and bias.
    "instance_norm": (ops.instance_norm, image(2), 1, 3),
    "instance_norm of x": (ops.instance_norm, image(), 1, 1),
    "mvn": (lambda x: ops.mvn(x, normalize_variance=False), image(), 1, 2),
    "batch_norm": (ops.batch_norm, image(2), 1, 1),
    "sync_batch_norm": (ops.sync_batch_norm, image(2), 1, 1),
    "batch_norm of inference": (lambda *xs: ops.batch_norm(*xs, training=False), image(4), 1, 1),
    "vector_norm": (lambda x: ops.vector_norm(x, axis=1), matrix(), 1, 1),
    "normalize": (ops.normalize, matrix(), 1, 1),
    "weight_norm": (ops.weight_norm, [*matrix(), leaf(64)], 1, 1),
    "squared_norm": (lambda x: ops.squared_norm(x, 1), matrix(), 1, 2),
    "std": (lambda x: ops.std(x, 1), matrix(), 1, 2),
    # losses with their reduction
    "squared_error": (lambda x, t: ops.squared_error(x, t, "mean"), matrix(2), 1, 1),
    "absolute_error": (lambda x, t: ops.absolute_error(x, t, "sum"), matrix(2), 1, 1),
    **{name: (getattr(ops, name), matrix(2), 1, 1)
       for name in ("mse_loss", "l1_loss", "half_squared_error", "euclidean_loss", "huber_loss",
                    "smooth_l1_loss")},
    "epsilon_insensitive_loss": (lambda x, t: ops.epsilon_insensitive_loss(x, t, 0.1), matrix(2),
                                 1, 1),
    # The derivative shares no node with the value, only the operands.
    "l2_penalty": (ops.l2_penalty, matrix(), 1, 2),
    "soft_margin_loss": (lambda x: ops.soft_margin_loss(x, SIGNS), matrix(), 1, 1),
    "binary_cross_entropy": (lambda p: ops.binary_cross_entropy(p, SIGNS > 0), matrix(), 1, 2),
    "binary_cross_entropy_with_logits": (
        lambda x: ops.binary_cross_entropy_with_logits(x, SIGNS > 0), matrix(), 1, 2),
    "total_variation": (ops.total_variation, matrix(), 1, 2),
    # losses of rows; a mean over the rows is a second region
    "softmax_cross_entropy": (lambda x: ops.softmax_cross_entropy(x, LABELS), matrix(), 1, 1),
    "softmax_cross_entropy, soft": (ops.softmax_cross_entropy, matrix(2), 1, 1),
    "cross_entropy": (lambda x: ops.cross_entropy(x, LABELS), matrix(), 2, 2),
    "nll_loss": (lambda x: ops.nll_loss(x, LABELS), matrix(), 2, 2),
    "categorical_cross_entropy": (lambda p: ops.categorical_cross_entropy(p, LABELS), matrix(),
                                  1, 2),
    "kl_multinomial": (ops.kl_multinomial, matrix(2), 1, 1),
    "multiclass_hinge_loss": (lambda x: ops.multiclass_hinge_loss(x, LABELS), matrix(), 1, 1),
    "multi_margin_loss": (lambda x: ops.multi_margin_loss(x, LABELS, reduction="none"), matrix(),
                          1, 1),
    # Before the pairs of classes stand the end of each list, and how often it has each class.
    "multilabel_margin_loss": (lambda x: ops.multilabel_margin_loss(x, LISTS, "none"),
                               [leaf(8, 96)], 3, 6),
    # activations: one region where the derivative is made of the value, else one each
    **{name: (getattr(ops, name), matrix(), 1, 1)
       for name in ("sigmoid", "tanh", "relu", "elu", "selu", "celu", "softplus", "sinc")},
    **{name: (getattr(ops, name), matrix(), 1, 2)
       for name in ("relu6", "leaky_relu", "silu", "gelu", "hard_sigmoid", "hard_tanh",
                    "log_sigmoid", "softsign", "softshrink", "tanhshrink", "binary_tanh",
                    "binary_sigmoid")},
    "prelu": (ops.prelu, [leaf(8, 6, 10), leaf(6)], 1, 2),
    "glu": (ops.glu, matrix(), 1, 2),
    "crelu": (ops.crelu, matrix(), 1, 2),
    "concat_elu": (ops.concat_elu, matrix(), 1, 2),
    "dropout": (lambda x: ops.dropout(x, 0.3, key=KEY), matrix(), 1, 1),
    "rrelu": (lambda x: ops.rrelu(x, key=KEY), matrix(), 1, 1),
    "quantize and back": (lambda x, s: ops.dequantize_linear(ops.quantize_linear(x, s), s),
                          [*matrix(), leaf()], 1, 3),
    "categorical": (lambda x: sg.random.categorical(KEY, x), matrix(), 1, 1),
}  # fmt: skip


def regions(outputs):
    """Nodes that compute something, as the default pipeline leaves them."""
    nodes = Graph((), outputs).nodes
    inputs = [n.results[0] for n in nodes if n.op is INPUT]
    made = PIPELINES["default"](Graph(inputs, outputs))
    return [n for n in made.nodes if n.op not in (INPUT, CONSTANT) and n.op.name not in VIEWS]


@pytest.mark.parametrize("name", TABLE)
def test_regions(name):
    build, operands, value, both = TABLE[name]
    y = build(*operands)
    found = [len(regions([y]))]
    if y.dtype.kind == "f":
        g = sg.input("g", y.shape)
        found.append(len(regions([y, *sg.vjp([y], operands, [g])])))
    assert found == [value, both][: len(found)]


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "batch_norm", "mse_loss", "huber_loss"])
def test_kernels(name):
    """A compiled function has a kernel for the region, and at most one that joins partial sums."""
    build, operands, *_ = TABLE[name]
    y = build(*operands)
    g = sg.input("g", y.shape)
    found = sg.compile([y, *sg.vjp([y], operands, [g])], [*operands, g]).kernels
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
        outputs += [ops.mean(x, 0), 1.0 / (ops.sum(x * x, 0) + 2.0), ops.sum(x, 0).astype("int64")]
    a = (rng.standard_normal(shape) * 9).astype("f")
    for y in outputs:
        fused, plain = sg.compile(y, [x]), sg.compile(y, [x], pipeline="none")
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(fused(a), plain(a))
        with sg.threads(1):
            np.testing.assert_array_equal(fused(a), plain(a))


def test_a_total_that_others_read_too_stays():
    """Only what alone reads a total moves to where it is made."""
    x = leaf(64, 96)
    total = ops.sum(x)
    outputs = [total, total * 2.0]
    a = np.ones((64, 96), "f")
    np.testing.assert_array_equal(sg.compile(outputs, [x])(a), [6144, 12288])
    y = ops.sum(x) * leaf()
    assert len(regions([y])) == 2

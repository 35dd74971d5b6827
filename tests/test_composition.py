"""Conventions of the composed ops: kinks, ties, ends, special values, straight-through gradients.

What the op tables cannot hold: their rows keep away from the points where conventions differ.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from test_ops_reference import inputs_for, value_and_gradients

import staticgraph as sg
from staticgraph import ops
from staticgraph.gradient import grad
from staticgraph.interpret import run
from staticgraph.ir import Graph

NAN, INF = np.nan, np.inf
SLOPE = 1.0507009873554805 * 1.6732632423543772
# Catalogue, section 7: function, operands, value, gradient for each float operand.
CONVENTIONS = {
    "selu at 0": (ops.selu, [[0.0]], [0], [SLOPE]),
    "celu at 0": (lambda x: ops.celu(x, 3.0), [[0.0]], [0], [1]),
    "elu of the ends": (lambda x: ops.elu(x, 2.0, 3.0), [[-INF, INF]], [-6, INF], [0, 3]),
    "crelu at 0": (ops.crelu, [[[0.0, -2.0]]], [[0, 0, 0, 2]], [[0, -1]]),
    "prelu at 0": (ops.prelu, [[[0.0, INF]], [0.25, 0.5]], [[0, INF]], [[0.25, 1]], [0, 0]),
    "hard_sigmoid at its kinks": (ops.hard_sigmoid, [[-3.0, 3.0, 0.0]], [0, 1, 0.5], [0, 0, 1 / 6]),
    "hard_tanh at its kinks": (ops.hard_tanh, [[-1.0, 1.0, 0.5]], [-1, 1, 0.5], [0, 0, 1]),
    "softshrink at its kinks": (ops.softshrink, [[-0.5, 0.5, 0.6]], [0, 0, 0.1], [0, 0, 1]),
    "softsign at the ends": (ops.softsign, [[-INF, INF, 0.0, 1e200]], [-1, 1, 0, 1], [0, 0, 1, 0]),
    "softplus at the ends": (ops.softplus, [[-INF, INF, 1e4, -1e4]], [0, INF, 1e4, 0],
                             [0, 1, 1, 0]),
    "softplus above the threshold": (ops.softplus, [[20.5]], [20.5], [1]),
    "softplus without one": (lambda x: ops.softplus(x, threshold=None), [[20.5]],
                             [np.logaddexp(0, 20.5)], [1 / (1 + np.exp(-20.5))]),
    "silu at the ends": (ops.silu, [[-INF, INF]], [0, INF], [0, 1]),
    "gelu at the ends": (ops.gelu, [[-INF, INF]], [0, INF], [0, 1]),
    "log_sigmoid at the ends": (ops.log_sigmoid, [[-INF, INF]], [-INF, 0], [1, 0]),
    "tanhshrink at the ends": (ops.tanhshrink, [[-INF, INF, 0.0]], [-INF, INF, 0], [1, 1, 0]),
    "sinc at 0": (ops.sinc, [[0.0]], [1], [0]),
    "multiply_n of zeros": (lambda x, y, z: ops.multiply_n([x, y, z]),
                            [[0.0, 2.0], [0.0, 0.0], [3.0, 4.0]], [0, 0], [0, 0], [0, 8], [0, 0]),
    "0 to a negative power": (ops.power, [[0.0], [-1.0]], [INF], [-INF], [-INF]),
    "power_layer at 0": (lambda x: ops.power_layer(x, 0.0), [[0.0]], [1], [0]),
    "norm of 0": (ops.vector_norm, [[0.0, 0.0]], 0, [0, 0]),
    "norm 3 of 0": (lambda x: ops.vector_norm(x, 3), [[0.0, 0.0]], 0, [0, 0]),
    "norm 1 at 0": (lambda x: ops.vector_norm(x, 1), [[0.0, -2.0]], 2, [0, -1]),
    "norm 1.5 with a 0": (lambda x: ops.vector_norm(x, 1.5), [[0.0, -2.0]], 2, [0, -1]),
    "ties of norm inf": (lambda x: ops.vector_norm(x, INF), [[2.0, -2.0, 1.0]], 2, [0.5, -0.5, 0]),
    "norm inf of 0": (lambda x: ops.vector_norm(x, INF), [[0.0, 0.0]], 0, [0, 0]),
    "normalize 0": (ops.normalize, [[[0.0, 0.0]]], [[0, 0]], [[1e12, 1e12]]),
    "weight_norm of 0": (lambda v, g: ops.weight_norm(v, g, eps=1e-4), [[[0.0, 0.0]], [3.0]],
                         [[0, 0]], [[300, 300]], [0]),
    "soft_margin at the ends": (lambda x: ops.soft_margin_loss(x, [1, -1], "none"),
                                [[-1e3, -1e3]], [1000, 0], [-1, 0]),
    "epsilon insensitive inside": (lambda x, t: ops.epsilon_insensitive_loss(x, t, 0.5, "none"),
                                   [[0.5, 2.0], [0.0, 0.0]], [0, 1.5], [0, 1], [0, -1]),
    "hinge at the margin": (lambda x: ops.multi_margin_loss(x, [0]), [[[1.0, 0.0]]], 0, [[0, 0]]),
    "class listed twice": (lambda x: ops.multilabel_margin_loss(x, [0, 0, -1]), [[0.0, 0, -9]],
                           2 / 3, [-2 / 3, 2 / 3, 0]),
    "kl with p of 0": (ops.kl_multinomial, [[[0.0, 1.0]], [[0.0, 1.0]]], [0], [[0, 1]],
                       [[0, -1]]),
}  # fmt: skip
# Straight-through: the gradient is the proxy's.
STEPS = {
    "sign": (lambda x: ops.sign(x, ste=True), [[-2.0, 0.0]], [-1, 0], [1, 1]),
    "round": (lambda x: ops.round(x, ste=True), [[0.5, 1.5]], [0, 2], [1, 1]),
    "floor": (lambda x: ops.floor(x, ste=True) * 3.0, [[-0.5]], [-3], [3]),
    "ceil": (lambda x: ops.ceil(x, ste=True), [[0.5]], [1], [1]),
    "prune": (lambda x: ops.prune(x, 0.5) * 2.0, [[1.0, -3.0, 2.0]], [0, -6, 4], [2, 2, 2]),
    "proxy": (ops.straight_through(ops.sign, lambda x: x * x), [[-2.0, 3.0]], [-1, 1], [-4, 6]),
    "binary_tanh": (ops.binary_tanh, [[-1.0, -0.9, 0.0, 0.9, 1.0]], [-1, -1, -1, 1, 1],
                    [0, 1, 1, 1, 0]),
    "binary_sigmoid": (ops.binary_sigmoid, [[-1.0, -0.9, 0.0, 0.9, 1.0]], [0, 0, 0, 1, 1],
                       [0, 0.5, 0.5, 0.5, 0]),
    "quantize": (ops.quantize_linear, [[0.3, 90.0, -90.0], 0.5, 1.0], [2, 127, -128], [2, 0, 0],
                 -0.3 / 0.25, 1),
    "quantize at the limits": (lambda x: ops.quantize_linear(x, 1.0), [[127.4, 127.6, -128.4]],
                               [127, 127, -128], [1, 0, 1]),
    "fake quantisation": (
        lambda x, s, z: ops.dequantize_linear(ops.quantize_linear(x, s, z), s, z),
        [[0.3, 90.0, -90.0], 0.5, 1.0], [0.5, 63, -64.5], [1, 0, 0],
        (1 - 0.6) + (127 - 1) + (-128 - 1), -0.5 - 0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", [*CONVENTIONS, *STEPS])
def test_convention(name):
    build, arrays, *wanted = {**CONVENTIONS, **STEPS}[name]
    got = value_and_gradients(build, *arrays)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


#: rows whose numbers float32 does not hold
LARGE = {"softsign at the ends", "softplus without one"}


@pytest.mark.parametrize("name", sorted({*CONVENTIONS, *STEPS} - LARGE))
def test_convention_in_kernels(name):
    """The same points, compiled, in float32."""
    build, arrays, *wanted = {**CONVENTIONS, **STEPS}[name]
    arrays = [np.asarray(a, "f") if np.asarray(a).dtype.kind == "f" else a for a in arrays]
    inputs = inputs_for(arrays)
    y = build(*inputs)
    wrt = [x for x in inputs if x.dtype.kind == "f"]
    for a, b in zip(sg.compile([y, *grad(ops.sum(y), wrt)])(*arrays), wanted, strict=True):
        np.testing.assert_allclose(a, np.asarray(b, "f"), rtol=2e-5, atol=1e-6)


NANS = [
    ops.relu, ops.relu6, ops.selu, ops.celu, ops.hard_sigmoid, ops.hard_tanh, ops.softsign,
    ops.tanhshrink, ops.softshrink, ops.softplus, ops.sinc, ops.silu, ops.gelu, ops.elu,
    ops.leaky_relu, ops.sign, ops.round,
    lambda x: ops.prelu(x, 0.3), lambda x: ops.power_layer(x, 3.0), lambda x: ops.vector_norm(x),
    lambda x: ops.vector_norm(x, INF), lambda x: ops.quantize_linear(x, 0.5),
]  # fmt: skip


@pytest.mark.parametrize("build", NANS)
def test_nan_stays_nan(build):
    assert np.isnan(value_and_gradients(build, [NAN])[0]).all()


def second(build, x):
    """Second derivative of the sum of an elementwise function."""
    (t,) = inputs_for([np.asarray(x)])
    (h,) = grad(ops.sum(grad(ops.sum(build(t)), [t])[0]), [t])
    return run(Graph([t], [h]), [np.asarray(x)])[0]


def test_second_derivative_of_sinc_at_0():
    assert second(ops.sinc, [0.0, 1e-9]) == pytest.approx(-(np.pi**2) / 3, rel=1e-12)
    assert second(lambda x: ops.sinc(x, False), [0.0]) == pytest.approx(-1 / 3, rel=1e-12)


@pytest.mark.parametrize("order", range(6))
def test_orders_of_sinc_meet(order):
    """Series and recurrence agree where one takes over from the other."""
    edge = 1.0 + order
    x = np.array([np.nextafter(edge, 0), np.nextafter(edge, 9)])
    t = inputs_for([x])[0]
    y = ops.sinc(t, normalized=False)
    for _ in range(order):
        y = grad(ops.sum(y), [t])[0]
    low, high = run(Graph([t], [y]), [x])[0]
    assert low == pytest.approx(high, rel=1e-12)


@pytest.mark.parametrize(
    "build", [ops.vector_norm, lambda x: ops.vector_norm(x, 3), lambda x: ops.vector_norm(x, 1.5)]
)
def test_second_derivative_of_norms_at_0_is_finite(build):
    np.testing.assert_array_equal(second(build, [0.0, 0.0]), 0)


def test_logarithm_of_no_sum():
    (x,) = inputs_for([np.ones((2, 0))])
    y = ops.logsumexp(x, 1)
    value, gradient = sg.compile([y, *grad(ops.sum(y), [x])])(np.ones((2, 0)))
    np.testing.assert_array_equal(value, [-np.inf, -np.inf])
    assert gradient.shape == (2, 0)


def test_deviation_of_equal_numbers_has_no_gradient():
    a = np.array([[2.0, 2, 2], [1, 2, 4]])
    (x,) = inputs_for([a])
    got = sg.compile(grad(ops.sum(ops.std(x, 1)), x))(a)
    b = a[1] - a[1].mean()
    np.testing.assert_allclose(got, [[0, 0, 0], b / 3 / a[1].std()], atol=1e-15)


def test_gains_of_weight_norm_in_the_shape_of_the_weights(rng):
    v, g = rng.standard_normal((3, 4, 2)), rng.standard_normal(4)
    flat, wide = sg.compile([ops.weight_norm(v, g, 1), ops.weight_norm(v, g[None, :, None], 1)])()
    np.testing.assert_array_equal(flat, wide)


def test_straight_through_derives_its_proxy_again():
    f = ops.straight_through(ops.sign, lambda x: x * x * x)
    np.testing.assert_allclose(second(f, [2.0, -1.0]), [12, -6])


def test_fake_quantisation_has_second_derivatives():
    """Inside, the proxy of dequantize(quantize(x)) is x; beyond the limits (127 - z) s."""
    x, s, z = (np.array(v) for v in ([0.3, 90.0], 0.5, 1.0))
    inputs = inputs_for([x, s, z])
    y = ops.dequantize_linear(ops.quantize_linear(*inputs), *inputs[1:])
    (ds,) = grad(ops.sum(y * y), [inputs[1]])
    found = run(Graph(inputs, grad(ds, inputs[1:])), [x, s, z])
    # d/ds of 2 y ((round(x/s) - x/s) inside, 126 beyond), with round's derivative that of x/s.
    inside = 2 * 0.4 * 0.4 + 2 * 0.5 * (-0.3 / 0.25 + 0.3 / 0.25)
    assert found[0] == pytest.approx(inside + 2 * 126 * 126)
    assert found[1] == pytest.approx(-2 * 0.5 * 126 - 2 * 63)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("ste", [True, False])
def test_quantised_numbers_are_exact(dtype, ste, rng):
    """Every level of the dtype, its neighbours and ties, in float32 and through kernels."""
    info = np.iinfo(dtype)
    x = (np.arange(info.min - 9, info.max + 10, 0.5) * 0.25).astype("f")
    y = ops.quantize_linear(sg.input("x", x.shape), 0.25, dtype=dtype, ste=ste)
    got = sg.compile(y)(x)
    assert got.dtype == ("float32" if ste else dtype)
    wanted = np.clip(np.rint(x / np.float32(0.25)), info.min, info.max)
    np.testing.assert_array_equal(got.astype("int64"), wanted.astype("int64"))


def test_integers_of_nan():
    y = ops.quantize_linear(np.array([NAN, INF, -INF], "f"), 1.0, ste=False)
    np.testing.assert_array_equal(sg.compile(y)(), [-128, 127, -128])


EMPTY = {
    "crelu": (lambda x: ops.crelu(x), (0, 3), (0, 6)),
    "glu": (lambda x: ops.glu(x, 0), (0, 3), (0, 3)),
    "prelu": (lambda x: ops.prelu(x, [0.1, 0.2]), (0, 2), (0, 2)),
    "sinc": (ops.sinc, (0,), (0,)),
    "quantize_linear": (lambda x: ops.quantize_linear(x, 0.1), (0, 2), (0, 2)),
    "prune": (ops.prune, (0, 2), (0, 2)),
    "vector_norm": (lambda x: ops.vector_norm(x, 3, 1), (2, 0), (2,)),
    "squared_norm": (ops.squared_norm, (0,), ()),
    "normalize": (ops.normalize, (3, 0), (3, 0)),
    "gram_matrix": (lambda x: ops.gram_matrix(x, True), (2, 0), (2, 2)),
    "prod": (lambda x: ops.prod(x, 0), (0, 3), (3,)),
    "softmax": (ops.softmax, (2, 0), (2, 0)),
    "log_softmax": (lambda x: ops.log_softmax(x, 0), (0, 3), (0, 3)),
    "softplus of a number": (ops.softplus, (), ()),
    "vector_norm of a number": (ops.vector_norm, (), ()),
    "soft_margin_loss of one": (lambda x: ops.soft_margin_loss(x, 1.0), (1,), ()),
}


@pytest.mark.parametrize("name", EMPTY)
def test_sizes_0_and_1(name):
    build, shape, wanted = EMPTY[name]
    x = np.full(shape, 0.5, "f")
    (t,) = inputs_for([x])
    y = build(t)
    value, gradient = sg.compile([y, *grad(ops.sum(y), [t])])(x)
    assert (value.shape, gradient.shape) == (wanted, shape)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()


# ---------------------------------------------------------------------------- sync_batch_norm


def joined(build, parts):
    """Run `build(part, join)` for each part in a thread; join adds over the threads."""
    count = len(parts)
    barrier = threading.Barrier(count)
    slots, results = [None] * count, [None] * count

    def worker(k):
        def join(t):
            slots[k] = t
            barrier.wait(20)
            total = ops.add_n(slots)
            barrier.wait(20)
            return total

        results[k] = build(parts[k], join)

    threads = [threading.Thread(target=worker, args=(k,)) for k in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


def test_sync_batch_norm_over_parts_is_batch_norm(rng):
    """Two unequal parts of a batch, joined, against the whole: values, statistics, gradients."""
    arrays = [rng.standard_normal((5, 3, 4)) + 100.0, *rng.standard_normal((2, 3)), np.ones(3)]
    x, w, m, v = inputs_for(arrays)
    whole = ops.batch_norm(x, w, None, m, v)

    def build(part, join):
        return ops.sync_batch_norm(part, w, None, m, v, join=join)

    first, second = joined(build, [x[:2], x[2:]])
    y = ops.concat([first[0], second[0]])
    c = sg.constant(rng.standard_normal((5, 3, 4)))
    pairs = [(whole[0], y), *zip(whole[1:], first[1:], strict=True),
             *zip(whole[1:], second[1:], strict=True)]  # fmt: skip
    for a, b in zip(*(grad(ops.sum(t * t * c), [x, w]) for t in (whole[0], y)), strict=True):
        pairs.append((a, b))
    found = run(Graph([x, w, m, v], [t for pair in pairs for t in pair]), arrays)
    for a, b in zip(found[::2], found[1::2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_sync_batch_norm_of_one_process_has_the_bits_of_batch_norm(rng):
    x = sg.input("x", (6, 4, 3))
    outputs = []
    for f in (ops.batch_norm, ops.sync_batch_norm):
        y, m, v = f(x, None, None, np.zeros(4, "f"), np.ones(4, "f"))
        outputs += [y, m, v, grad(ops.sum(y * y * y), x)]
    found = sg.compile(outputs)(rng.standard_normal((6, 4, 3)).astype("f"))
    for a, b in zip(found[:4], found[4:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_aliases():
    for name, of in (("swish", "silu"), ("pow", "power"), ("amax", "max"), ("amin", "min"),
                     ("mvn", "instance_norm"), ("mse", "half_squared_error"),
                     ("sigmoid_cross_entropy", "binary_cross_entropy_with_logits")):  # fmt: skip
        assert getattr(ops, name) is getattr(ops, of)

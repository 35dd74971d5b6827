"""The ops by their reference: values against NumPy, derivatives against finite differences.

The rows are in `samples`. No kernel is compiled here, so this tier tells a wrong declaration from a
wrong kernel.
"""

import numpy as np
import pytest
from samples import SAMPLES
from samples_layers import random

from staticgraph import ops
from staticgraph.gradient import grad, jvp
from staticgraph.interpret import run
from staticgraph.ir import INPUT, Graph, apply
from staticgraph.operands import constant
from staticgraph.registry import OPS
from staticgraph.types import spec

#: ops with bodies or state, which other files test
STRUCTURE = {"input", "constant", "variable", "fusion"} | {
    "cond",
    "nothing",
    "checkpoint",
    "late",
    "custom_gradient",
}
DTYPES = ("float32", "float64")
TOLERANCE = {"float32": 1e-5, "complex64": 1e-5, "float64": 1e-12, "complex128": 1e-12}
STEP = 1e-5


def inputs_for(arrays):
    types = [spec(a.shape, a.dtype) for a in arrays]
    return [apply(INPUT, name=f"x{k}", type=t) for k, t in enumerate(types)]


def results(built):
    return list(built) if isinstance(built, (tuple, list)) else [built]


def by_id(sample):
    return sample.id


def test_rows_have_names_of_their_own():
    names = [sample.id for sample in SAMPLES]
    assert sorted(names) == sorted(set(names))


def test_every_op_has_a_row():
    seen = set()
    for sample in SAMPLES:
        outputs = results(sample.build(*inputs_for(sample.arrays("float32"))))
        seen |= {node.op.name for node in Graph((), outputs).nodes}
    assert set(OPS) - seen - STRUCTURE == set()


def test_every_public_function_has_a_row():
    tried = {id(getattr(ops, sample.name, None)) for sample in SAMPLES}
    assert [name for name in ops.__all__ if id(getattr(ops, name)) not in tried] == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sample", SAMPLES, ids=by_id)
def test_value(sample, dtype):
    arrays = sample.arrays(dtype)
    inputs = inputs_for(arrays)
    got = run(Graph(inputs, results(sample.build(*inputs))), arrays)
    for a, b in zip(got, sample.wanted(arrays), strict=True):
        assert (a.shape, a.dtype) == (b.shape, sample.dtype_of(b, dtype))
        if a.dtype.kind in "fc":
            tolerance = TOLERANCE[a.dtype.name]
            largest = np.abs(b[np.isfinite(b)]).max(initial=0.0)
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * largest)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.orders and s.floats], ids=by_id)
def test_derivatives(sample, rng):
    """Derivatives along directions u1, u2, ... of a weighted sum of the results.

    Each is checked against central differences of the one before, and the first also against
    forward mode, the second also against forward over reverse.
    """
    arrays = sample.arrays("float64")
    inputs = inputs_for(arrays)
    wrt = [inputs[k] for k in sample.floats]
    outputs = [y for y in results(sample.build(*inputs)) if y.dtype.kind == "f"]
    total = weighted(outputs, [rng.standard_normal(y.shape) for y in outputs])
    chain, forward, ways = [total], [], []
    for _ in range(sample.orders):
        ways.append([rng.standard_normal(x.shape) for x in wrt])
        forward.append(jvp(chain[-1], wrt, [constant(u) for u in ways[-1]]))
        chain.append(weighted(grad(chain[-1], wrt), ways[-1]))
    here = run(Graph(inputs, [*chain, *forward]), arrays)
    for k, way in enumerate(ways):
        ends = []
        for step in (STEP, -STEP):
            moved = list(arrays)
            for place, u in zip(sample.floats, way, strict=True):
                moved[place] = arrays[place] + step * u
            ends.append(run(Graph(inputs, [chain[k]]), moved)[0])
        slope, sizes = (ends[0] - ends[1]) / (2 * STEP), np.abs([1.0, *here[: k + 2]])
        assert here[k + 1] == pytest.approx(slope, rel=1e-6, abs=1e-7 * sizes.max())
        assert here[len(chain) + k] == pytest.approx(here[k + 1], rel=1e-9, abs=1e-11 * sizes.max())


def weighted(tensors, weights):
    """The sum of products with known arrays: a scalar that has all elements in it."""
    terms = [ops.sum(t * constant(w)) for t, w in zip(tensors, weights, strict=True)]
    return ops.add_n(terms)


def value_and_gradients(build, *arrays):
    """Result of `build`, then the gradients of its sum with respect to the float operands."""
    arrays = [np.asarray(a, "float64") if np.asarray(a).dtype.kind == "f" else a for a in arrays]
    inputs = inputs_for(map(np.asarray, arrays))
    y = build(*inputs)
    wrt = [x for x in inputs if x.dtype.kind == "f"]
    return run(Graph(inputs, [y, *grad(ops.sum(y), wrt)]), arrays)


NAN, INF = np.nan, np.inf
# Catalogue, section 7: function, operands, value, gradient for each float operand.
CONVENTIONS = {
    "relu at 0": (ops.relu, [[-1.0, 0.0, 2.0]], [0, 0, 2], [0, 0, 1]),
    "relu of nan": (ops.relu, [[NAN]], [NAN], [1]),
    "leaky_relu at 0": (lambda x: ops.leaky_relu(x, 0.1), [[0.0]], [0], [0.1]),
    "elu at 0": (lambda x: ops.elu(x, 0.7), [[0.0]], [0], [0.7]),
    "relu6 at its kinks": (ops.relu6, [[0.0, 6.0, 3.0]], [0, 6, 3], [0, 0, 1]),
    "clip at its bounds": (lambda x: ops.clip(x, -1, 1), [[-1.0, 1.0, 2.0]], [-1, 1, 1], [1, 1, 0]),
    "abs at 0": (ops.abs, [[0.0, -2.0]], [0, 2], [0, -1]),
    "l1 at a tie": (ops.absolute_error, [[1.0], [1.0]], [0], [0], [0]),
    "sign at 0": (ops.sign, [[0.0, -3.0]], [0, -1], [0, 0]),
    "maximum at a tie": (ops.maximum, [[1.0, 2.0], [1.0, 3.0]], [1, 3], [0.5, 0], [0.5, 1]),
    "minimum at a tie": (ops.minimum, [[1.0, 2.0], [1.0, 3.0]], [1, 2], [0.5, 1], [0.5, 0]),
    "ties of max": (lambda x: ops.max(x, 1), [[[3.0, 1, 3]]], [3], [[0.5, 0, 0.5]]),
    "ties of min": (lambda x: ops.min(x), [[3.0, 1, 1, 1]], 1, [0, 1 / 3, 1 / 3, 1 / 3]),
    "ties of max_pool": (lambda x: ops.max_pool(x, 2), [[[[2.0, 2, 5, 5]]]], [[[2, 5]]],
                         [[[1, 0, 1, 0]]]),
    "padding of max_pool": (lambda x: ops.max_pool(x, 3, 1, 1), [[[[-2.0, -1]]]], [[[-1, -1]]],
                            [[[0, 2]]]),
    "sqrt at 0": (ops.sqrt, [[0.0]], [0], [INF]),
    "log at 0": (ops.log, [[0.0]], [-INF], [INF]),
    "0 to the 0": (ops.power, [[0.0, 0.0], [0.0, 2.0]], [1, 0], [0, 0], [0, 0]),
    "x to the 0": (lambda x: x**0, [[0.0, 3.0]], [1, 1], [0, 0]),
    "x to the 0.0": (lambda x: x**0.0, [[0.0, 3.0]], [1, 1], [0, 0]),
    "hypot at the origin": (ops.hypot, [[0.0], [0.0]], [0], [0], [0]),
    "atan2 at the origin": (ops.atan2, [[0.0], [0.0]], [0], [0], [0]),
    "round half to even": (ops.round, [[0.5, 1.5, -2.5]], [0, 2, -2], [0, 0, 0]),
    "floor, below 0": (ops.floor, [[-0.5]], [-1], [0]),
    "variance divides by n": (ops.var, [[1.0, 3.0]], 1, [-1, 1]),
    "huber scale": (lambda x: ops.huber_loss(x, 0.0), [[0.5]], 0.125, [0.5]),
    "cross entropy of soft targets": (
        ops.softmax_cross_entropy, [[[0.0, 0.0]], [[1.0, 2.0]]], [3 * np.log(2)],
        [[0.5, -0.5]], [[np.log(2), np.log(2)]]),
    "bce at p = 0 and 1": (
        lambda p, t: ops.binary_cross_entropy(p, t, reduction="none"),
        [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]], [100, 100, 0], [-1e12, 1e12, 0], [100, -100, -100]),
    "bce logits at 0": (
        lambda x, t: ops.binary_cross_entropy_with_logits(x, t, reduction="none"),
        [[0.0, 1000.0, -1000.0], [1.0, 0.0, 1.0]], [np.log(2), 1000, 1000], [-0.5, 1, -1],
        [0, -1000, 1000]),
    "kl takes (p, q)": (ops.kl_multinomial, [[[1.0, 0.0]], [[0.5, 0.5]]], [np.log(2)],
                        [[np.log(2) + 1, 0]], [[-2, 0]]),
    "avg_pool counts padding": (lambda x: ops.avg_pool(x, 2, 2, 1), [[[[2.0, 4.0]]]], [[[1, 2]]],
                                [[[0.5, 0.5]]]),
    "ceil_mode drops windows in padding": (
        lambda x: ops.max_pool(x, 2, 2, 1, ceil_mode=True), [[[[1.0, 2, 3]]]], [[[1, 3]]],
        [[[1, 0, 1]]]),
    "scatter adds duplicates": (
        ops.scatter_add, [[0.0, 0.0], np.array([1, 1]), [2.0, 3.0]], [0, 5], [1, 1], [1, 1]),
    "gather_nd indexes by the last axis": (
        ops.gather_nd, [[[1.0, 2], [3, 4]], np.array([[0, 1], [1, 0]])], [2, 3], [[0, 1], [1, 0]]),
    "where guards": (lambda x: ops.where(x > 0, ops.log(ops.where(x > 0, x, 1)), 0),
                     [[0.0, 1.0]], [0, 0], [0, 1]),
    # Catalogue, section 6: numbers in the seeds.
    "(x + y) z": (lambda x, y, z: (x + y) * z, [-2.0, 5.0, -4.0], -12, -4, -4, 3),
    "neuron": (lambda w, x: ops.sigmoid(w[0] * x[0] + w[1] * x[1] + w[2]),
               [[2.0, -3, -3], [-1.0, -2]], 0.731058578630,
               [-0.196611933241, -0.393223866483, 0.196611933241],
               [0.393223866483, -0.589835799724]),
    "relu vector": (lambda x: ops.relu(x) * constant([4.0, -1, 5, 9], "float64"),
                    [[1.0, -2, 3, -1]], [4, 0, 15, 0], [4, 0, 5, 0]),
    "matrix product": (ops.matmul, [[[2.0, 1, -3], [-3, 4, 2]],
                                    [[3.0, 2, 1, -1], [2, 1, 3, 2], [3, 2, 1, -2]]],
                       [[-1, -1, 2, 6], [5, 2, 11, 7]], [[5, 8, 4], [5, 8, 4]],
                       [[-1] * 4, [5] * 4, [-1] * 4]),
    "squared norm of W x": (lambda w, x: ops.sum(ops.square(w @ x)),
                            [[[0.1, 0.5], [-0.3, 0.8]], [0.2, 0.4]], 0.116,
                            [[0.088, 0.176], [0.104, 0.208]], [-0.112, 0.636]),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVENTIONS)
def test_convention(name):
    build, arrays, *wanted = CONVENTIONS[name]
    got = value_and_gradients(build, *arrays)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_second_derivative_of_max_pool_is_a_gather():
    x = np.array([[[3.0, 1, 2, 5]]])
    (t,) = inputs_for([x])
    y = ops.max_pool(t, 2)
    (g,) = grad(ops.sum(y * y * y), [t])
    (h,) = grad(ops.sum(g), [t])
    np.testing.assert_allclose(run(Graph([t], [h]), [x])[0], [[[18, 0, 0, 30]]])


def test_batch_norm_running_statistics_are_unbiased():
    x = np.array([[1.0], [3.0]])
    inputs = inputs_for([x, np.zeros(1), np.ones(1)])
    outputs = ops.batch_norm(inputs[0], None, None, *inputs[1:], momentum=0.5)
    _, m, v = run(Graph(inputs, outputs), [x, np.zeros(1), np.ones(1)])
    np.testing.assert_allclose([m, v], [[1.0], [1.5]])


def test_dropout_keeps_the_mean():
    y = ops.dropout(np.ones(20000, "float32"), 0.25, key=random.key(3))
    (got,) = run(Graph([], [y]), [])
    assert set(np.unique(got)) == {np.float32(0), np.float32(4 / 3)}
    assert abs(got.mean() - 1) < 0.02


def test_a_key_gives_the_same_numbers_anywhere():
    """Element i is the cipher of i: a longer draw begins with a shorter one."""
    short, long = (random.normal(random.key(1), (n,)) for n in (10, 1000))
    a, b = run(Graph([], [short, long]), [])
    np.testing.assert_array_equal(a, b[:10])


def test_threefry_known_answers():
    """The vectors of the Random123 distribution."""
    rows = [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ]
    for key, (high, low), wanted in rows:
        count = np.int64(np.uint64(high << 32 | low).astype(np.int64))
        folded = random.fold_in(np.array(key, np.uint32), constant(count))
        np.testing.assert_array_equal(run(Graph([], [folded]), [])[0], wanted)


def test_normal_is_finite_at_the_ends():
    """The smallest and the largest bits still give finite numbers."""
    for bits in (0, 2**24 - 1):
        u = (2 * bits + 1 - 2**24) * 2.0**-24
        (x,) = run(Graph([], [ops.erfinv(constant([u], "float32"))]), [])
        assert np.isfinite(x).all()
        assert abs(x[0]) < 4

"""Indexing against NumPy on random keys, and the scatter-add kernel at sizes of many tiles."""

import random

import numpy as np
import pytest

import staticgraph as sg
from staticgraph import ops
from staticgraph.interpret import run
from staticgraph.ir import INPUT, Graph, apply
from staticgraph.ops.gather import index_check, index_message
from staticgraph.types import spec


def leaf(array, name="x"):
    return apply(INPUT, name=name, type=spec(array.shape, array.dtype))


def item_of(size, pick, rng):
    """A random part of a key for an axis of some size."""
    kind = pick.choice(["int", "slice", "slice", "none", "array", "array", "mask", "full"])
    if kind == "int":
        return pick.randrange(-size, size)
    if kind == "slice":
        bounds = [None, *range(-size - 2, size + 3)]
        return slice(pick.choice(bounds), pick.choice(bounds), pick.choice([None, 1, 2, -1, -3]))
    if kind == "array":
        shape = pick.choice([(), (2,), (2, 1), (1,), (3,), (2, 3)])
        return rng.integers(-size, size, shape)
    return {"none": None, "mask": rng.random(size) < 0.5, "full": slice(None)}[kind]


@pytest.mark.parametrize("key", [[], (slice(None), []), ([], 0), (None, [], [])])
def test_an_empty_list_picks_nothing(key):
    x = np.zeros((3, 4), "f")
    assert leaf(x)[key].shape == x[key].shape


def key_of(shape, pick, rng):
    """A random key: parts for some leading axes, perhaps ... and parts for some of the rest."""
    first = pick.randrange(len(shape) + 1)
    last = pick.randrange(first, len(shape) + 1)
    key = items_for(shape[:first], pick, rng)
    if pick.random() < 0.5:
        key += [Ellipsis, *items_for(shape[last:], pick, rng)]
    return tuple(key)


def items_for(sizes, pick, rng):
    items, axis = [], 0
    while axis < len(sizes):
        items.append(item_of(sizes[axis], pick, rng))
        axis += items[-1] is not None
    return items


@pytest.mark.parametrize("seed", range(20))
def test_keys_mean_what_they_mean_to_numpy(seed):
    pick, rng = random.Random(seed), np.random.default_rng(seed)
    for _ in range(40):
        shape = tuple(pick.randrange(1, 5) for _ in range(pick.randrange(1, 5)))
        x, key = rng.standard_normal(shape), key_of(shape, pick, rng)
        try:
            wanted = x[key]
        except IndexError:  # index arrays that do not broadcast
            with pytest.raises(sg.ShapeError):
                leaf(x)[key]
            continue
        inputs, arrays, parts = [leaf(x)], [x], []
        for item in key:
            if isinstance(item, np.ndarray) and item.dtype != bool and pick.random() < 0.5:
                arrays.append(item.astype(pick.choice(["int8", "int32", "int64"])))
                inputs.append(leaf(arrays[-1], f"i{len(inputs)}"))
                item = inputs[-1]
            parts.append(item)
        (got,) = run(Graph(inputs, [inputs[0][tuple(parts)]]), arrays)
        assert got.shape == np.shape(wanted)
        np.testing.assert_array_equal(got, wanted)


def test_a_whole_key_builds_no_node():
    x = leaf(np.ones((2, 3)))
    assert x[:] is x
    assert x[..., 0:3] is x
    assert x[::-1].node.op.name == "flip"
    assert x[::-1][::-1].node.op.name == "flip"


def test_known_indices_are_not_tested_again():
    x = leaf(np.ones((4, 3)))
    assert index_check(x[[0, -1]].node) is None
    assert index_check(ops.embedding(x, np.array([1, 2])).node) is None


@pytest.mark.parametrize(
    ("build", "values", "message"),
    [
        (lambda x, i: x[i], [-4, 3], "an index is outside -4..3"),
        (lambda x, i: ops.take(x, i, 1), [-3, 2], "an index is outside -3..2"),
        (ops.embedding, [0, 3], "an index is outside 0..3"),
        (lambda x, i: ops.one_hot(i, 4), [0, 3], "an index or label is outside 0..3"),
        (lambda x, i: ops.gather_nd(x, ops.stack([i, i], 1)), [-3, 2],
         "an index is outside -4..3, -3..2"),
    ],
)  # fmt: skip
def test_run_time_indices_have_a_test(build, values, message):
    x, low, high = np.ones((4, 3)), *values
    inputs = [leaf(x), leaf(np.zeros(2, "int64"), "i")]
    nodes = [n for n in Graph(inputs, [build(*inputs)]).nodes if hasattr(n.op, "check")]
    test = index_check(nodes[0])
    assert index_message(nodes[0]) == message
    for pair, inside in (((low, high), True), ((low - 1, 0), False), ((0, high + 1), False)):
        assert run(Graph(inputs, [test]), [x, np.array(pair)])[0] == inside


def test_a_call_with_an_index_out_of_range_fails(rng):
    w, i = rng.standard_normal((4, 3)).astype("float32"), np.array([0, 4])
    inputs = [leaf(w, "w"), leaf(i, "i")]
    y = ops.embedding(*inputs)
    step = sg.compile([y, sg.grad(ops.sum(y * y), inputs[0])], inputs)
    with pytest.raises(sg.NumericError, match=r"an index is outside 0\.\.3"):
        step(w, i)
    np.testing.assert_array_equal(step(w, i - 1 * (i == 4))[0], w[[0, 3]])


def test_an_index_out_of_range_reads_nothing():
    x, i = np.ones((4, 3)), np.array([7, -1, -9])
    inputs = [leaf(x), leaf(i, "i")]
    (got,) = run(Graph(inputs, [ops.embedding(*inputs)]), [x, i])
    np.testing.assert_array_equal(got, np.zeros((3, 3)))


# Shapes that give several chunks, ranges and columns; the last ones have one tile.
SCATTERS = {
    "rows": ((3000, 64), (600,), 0, "float32"),
    "tall": ((9000, 33), (500,), 0, "float64"),
    "wide": ((40, 9000), (70,), 0, "float32"),
    "batch": ((300, 50, 17), (4, 9), 1, "float32"),
    "last": ((700, 200), (300,), 1, "float32"),
    "vector": ((1000,), (5000,), 0, "float64"),
    "integers": ((50, 40), (300,), 0, "int32"),
    "complex": ((50, 40), (300,), 0, "complex64"),
}


@pytest.mark.parametrize("name", SCATTERS)
def test_scatter_add_kernel(name, rng):
    """The bits of the sequential reference for any split into tiles and any number of threads."""
    shape, places, axis, dtype = SCATTERS[name]
    index = rng.integers(0, shape[axis], places)
    index.flat[::3] = index.flat[0]  # duplicates
    updates = (rng.standard_normal((*shape[:axis], *places, *shape[axis + 1 :])) * 9).astype(dtype)
    zeros = np.zeros(shape, dtype)
    inputs = [leaf(index, "i"), leaf(updates, "u")]
    y = ops.scatter_add(zeros, *inputs, axis)
    (wanted,) = run(Graph(inputs, [y]), [index, updates])
    for threads in (1, 2):
        got = sg.compile(y, inputs, threads=threads)(index, updates)
        np.testing.assert_array_equal(got, wanted)


def test_scatter_add_kernel_along_another_axis(rng):
    x = rng.standard_normal((300, 50)).astype("float32")
    index, updates = rng.integers(-50, 50, (300, 70)), rng.standard_normal((300, 70)).astype("f")
    inputs = [leaf(a, f"x{k}") for k, a in enumerate((x, index, updates))]
    y = ops.scatter_add(*inputs, axis=1)
    (wanted,) = run(Graph(inputs, [y]), [x, index, updates])
    np.testing.assert_array_equal(sg.compile(y, inputs)(x, index, updates), wanted)

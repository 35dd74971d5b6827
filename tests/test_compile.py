"""Compiled functions as a user meets them: calls, forms, updates, errors, files, threads."""

from __future__ import annotations

import concurrent.futures
import gc
import re
import resource
import threading
import time
import tracemalloc

import numpy as np
import pytest

import staticgraph as sg
from staticgraph.types import DTYPES

ops = sg.ops


def rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype("float32")


def test_outputs_come_back_in_their_form():
    x, y = sg.input("x", (3, 4)), sg.input("y", (4,))
    fn = sg.compile({"a": x + y, "b": [x.sum(), (y * 2.0,)], "none": None})
    a, b = np.ones((3, 4), "f"), np.arange(4, dtype="f")
    result = fn(a, b)
    assert list(result) == ["a", "b", "none"]
    assert result["none"] is None
    np.testing.assert_array_equal(result["a"], a + b)
    assert isinstance(result["b"], list)
    assert isinstance(result["b"][1], tuple)
    assert float(result["b"][0]) == 12.0
    np.testing.assert_array_equal(fn(y=b, x=a)["b"][1][0], b * 2)


def test_inputs_fixes_the_order():
    x, y = sg.input("x", ()), sg.input("y", ())
    assert float(sg.compile(x - y, [y, x])(1.0, 5.0)) == 4.0
    assert float(sg.compile(x - y)(1.0, 5.0)) == -4.0


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((np.ones((3, 4), "f"),), {}, "input 'y' (f32[4]) is missing"),
        ((np.ones((3, 5), "f"), np.ones(4, "f")), {}, "input 'x' is f32[3, 4]; got shape [3, 5]"),
        ((), {"x": 1, "z": 2}, "there is no input 'z'; the inputs are x, y"),
        ((np.ones((3, 4), "f"),) * 3, {}, "takes 2 inputs (x, y), got 3 arrays"),
        (
            (np.ones((3, 4), "f"), np.ones(4, "f")),
            {"x": 1},
            "input 'x' is given by position and by name",
        ),
        ((np.ones((3, 4)), np.ones(4, "f")), {}, "float64 does not cast to float32 without loss"),
        ((np.full((3, 4), None), np.ones(4, "f")), {}, "got an array of dtype object"),
        ((np.full((3, 4), "a"), np.ones(4, "f")), {}, "got an array of dtype <U1"),
    ],
)
def test_unfit_arrays_are_refused_before_anything_runs(args, kwargs, message):
    x, y = sg.input("x", (3, 4)), sg.input("y", (4,))
    v = sg.variable(np.zeros(4, "f"))
    fn = sg.compile(x + y, updates={v: v + y})
    with pytest.raises(sg.InputError, match=re.escape(message)) as caught:
        fn(*args, **kwargs)
    assert caught.value.where is not None
    assert caught.value.where[0] == __file__
    np.testing.assert_array_equal(v.value, 0)


def test_nan_is_no_integer():
    i = sg.input("i", (2,), "int64")
    with pytest.raises(sg.InputError, match="int64"):
        sg.compile(i + 1)([np.nan, 1.0])


def test_arguments_of_any_layout(rng):
    x = sg.input("x", (6, 5))
    fn = sg.compile(x * 2.0)
    base = rows(rng, 12, 10)
    strided = base[::2, ::2]
    np.testing.assert_array_equal(fn(strided), strided * 2)
    turned = np.asfortranarray(base[:6, :5])
    np.testing.assert_array_equal(fn(turned), turned * 2)
    base.flags.writeable = False
    np.testing.assert_array_equal(fn(base[:6, :5]), base[:6, :5] * 2)
    swapped = base[:6, :5].astype(">f4")
    np.testing.assert_array_equal(fn(swapped), base[:6, :5] * 2)
    assert fn(np.ones((6, 5), "int8")).dtype == np.float32


def test_leaves_hold_what_they_are_given():
    """Bytes in another order, views and lists of complex numbers: as NumPy reads them."""
    base = np.arange(12).reshape(3, 4)
    for given in (base.astype(">f4"), base.astype("f")[:, ::2], np.asfortranarray(base, "f")):
        for leaf in (sg.constant(given), sg.variable(given)):
            assert leaf.dtype == np.float32
            np.testing.assert_array_equal(sg.compile(leaf + 0.0)(), given)
    for leaf in (sg.constant([1j]), sg.variable([1j])):
        assert leaf.dtype == np.complex64
    kept = np.ones(3, "f")
    leaves = sg.constant(kept), sg.variable(kept)
    kept[:] = 5.0
    np.testing.assert_array_equal(sg.compile(leaves[0] + leaves[1])(), 2.0)
    assert sg.constant(np.array(300), "int8").dtype == np.int8  # an array wraps, as .astype() does


def test_a_result_is_never_overwritten(rng):
    x = sg.input("x", (300, 300))
    fn = sg.compile(x + 1.0)
    a, b = rows(rng, 300, 300), rows(rng, 300, 300)
    first = fn(a)
    view = first[3]
    kept = first.copy()
    del first
    for _ in range(10):
        fn(b)
    np.testing.assert_array_equal(view, kept[3])


def test_out_writes_where_asked(rng):
    x = sg.input("x", (8, 8))
    fn = sg.compile([x @ x, x.sum()])
    a = rows(rng, 8, 8)
    out = [np.empty((8, 8), "f"), np.empty((), "f")]
    result = fn(a, out=out)
    assert result[0] is out[0]
    np.testing.assert_allclose(out[0], a @ a, rtol=1e-5, atol=1e-5)
    expected = a @ a
    fn(a, out=[a, out[1]])  # the input itself
    np.testing.assert_allclose(a, expected, rtol=1e-5, atol=1e-5)
    for bad in ([np.empty((8, 8)), out[1]], np.empty((8, 8), "f"), [np.empty((8, 7), "f"), out[1]]):
        with pytest.raises(sg.InputError):
            fn(a, out=bad)


def test_out_takes_no_memory_twice(rng):
    x = sg.input("x", (4,))
    fn = sg.compile([x + 1.0, x * 2.0])
    room = np.empty(7, "f")
    for bad in ([room[:4], room[:4]], [room[3:], room[:4]]):
        with pytest.raises(sg.InputError, match="share no memory with each other"):
            fn(rows(rng, 4), out=bad)
    room = np.empty(8, "f")
    fn(np.ones(4, "f"), out=[room[4:], room[:4]])
    np.testing.assert_array_equal(room, 2.0)


def test_updates_see_the_values_of_the_start():
    a, b = sg.variable(np.zeros(3, "f"), name="a"), sg.variable(np.ones(3, "f"), name="b")
    swap = sg.compile([a, b], updates={a: b, b: a})
    for k in range(3):
        old = swap()
        np.testing.assert_array_equal(old[0], k % 2)
        np.testing.assert_array_equal(a.value, (k + 1) % 2)
        np.testing.assert_array_equal(b.value, k % 2)
    mixed = sg.compile(a * 1.0, updates={a: a + b, b: a - b})
    before = a.value, b.value
    np.testing.assert_array_equal(mixed(), before[0])
    np.testing.assert_array_equal(a.value, before[0] + before[1])
    np.testing.assert_array_equal(b.value, before[0] - before[1])


def test_a_failing_call_leaves_variables_alone():
    w = sg.variable(np.zeros((4, 2), "f"))
    i = sg.input("i", (3,), "int64")
    fn = sg.compile(None, updates={w: w + ops.embedding(w + 1.0, i).sum()})
    fn([0, 1, 3])
    kept = w.value
    with pytest.raises(sg.NumericError, match="index"):
        fn([0, 1, 4])
    np.testing.assert_array_equal(w.value, kept)


def test_variable_value_reads_and_writes():
    v = sg.variable([1.0, 2.0], name="v")
    assert v.value.dtype == np.float32
    v.value[0] = 7  # a copy
    v.value = [3, 4]
    np.testing.assert_array_equal(sg.compile(v * 1.0)(), [3, 4])
    with pytest.raises(sg.ShapeError, match="'v' is f32\\[2\\]"):
        v.value = [1, 2, 3]
    count = sg.variable(np.zeros(2, "int32"))
    with pytest.raises(sg.ShapeError, match="cannot take float64"):
        count.value = [0.5, 1.5]


def test_an_update_is_cast_to_its_variable():
    """Within one kind of dtype, as NumPy's own assignment does."""
    v, n = sg.variable(np.zeros(2, "f")), sg.variable(np.zeros(2, "int32"))
    x = sg.input("x", (2,), "float64")
    sg.compile([], updates={v: x, n: sg.ops.astype(x, "int64")})([1.5, 2.0])
    np.testing.assert_array_equal(v.value, [1.5, 2.0])
    np.testing.assert_array_equal(n.value, [1, 2])
    assert (v.value.dtype, n.value.dtype) == (np.float32, np.int32)
    with pytest.raises(sg.GraphTypeError, match="its update is f64"):
        sg.compile([], updates={n: x})


def test_function_traces_once_per_type():
    count = []

    @sg.function
    def f(a, b, *, scale=2.0):
        count.append(1)
        return {"product": a @ b * scale}

    for _ in range(3):
        assert f(np.ones((2, 3), "f"), np.ones((3, 2), "f"))["product"][0, 0] == 6
    assert len(count) == 1
    f(np.ones((4, 3), "f"), np.ones((3, 2), "f"))
    assert len(count) == 2
    assert f(np.ones((2, 3)), np.ones((3, 2)))["product"].dtype == np.float64
    assert len(count) == 3
    lowered = f.lower(sg.spec((5, 3)), sg.spec((3, 1)))
    assert lowered(np.ones((5, 3), "f"), np.ones((3, 1), "f"))["product"][0, 0] == 6
    assert f(np.ones((5, 3), "f"), np.ones((3, 1), "f"), scale=3.0)["product"][0, 0] == 9


def test_function_arguments_that_select():
    @sg.function
    def f(x, parts, kind="sum", *, negate=False):
        y = getattr(ops, kind)(x, axis=1) + parts["a"] * parts["b"][0]
        return -y if negate else y

    x, parts = np.ones((2, 3), "f"), {"a": 2.0, "b": [np.ones(2, "f")]}
    np.testing.assert_array_equal(f(x, parts), [5, 5])
    np.testing.assert_array_equal(f(x, parts, "max"), [3, 3])
    np.testing.assert_array_equal(f(x, parts, negate=True), [-5, -5])
    with pytest.raises(sg.InputError, match="missing a required argument: 'parts'"):
        f(x)


def test_function_on_tensors_is_part_of_the_graph_around_it():
    @sg.function
    def square(x):
        return x * x

    @sg.function
    def slope(x, n=3):
        return sg.grad(square(square(x)).sum(), x) if n else square(x)

    np.testing.assert_array_equal(slope(np.array([1, 2], "f")), [4, 32])
    assert square.compiled == {}


def test_function_as_a_method():
    class Model:
        def __init__(self, scale):
            self.w = sg.variable(np.full(2, scale, "f"))

        @sg.function
        def apply(self, x):
            return x * self.w

    one, two = Model(1), Model(2)
    for model, value in ((one, 3), (two, 6), (one, 3)):
        np.testing.assert_array_equal(model.apply(np.full(2, 3, "f")), [value, value])
    assert one.apply is one.apply
    assert len(one.apply.compiled) == 1


def test_function_arguments_with_any_keys():
    @sg.function
    def f(a, a_0):
        return a[0]["layer/w"] + a[0]["layer w"] * a_0

    x = np.ones(2, "f")
    np.testing.assert_array_equal(f([{"layer/w": x, "layer w": 2 * x}], 3 * x), [7, 7])
    (made,) = f.compiled.values()
    assert made.names == ["a_0_layer_w", "a_0_layer_w_", "a_0"]


def test_python_integers_must_fit():
    fn = sg.compile(sg.input("n", (2,), "uint8"))
    assert fn([0, 255]).tolist() == [0, 255]
    for wrong in ([-1, 3], [256, 3]):
        with pytest.raises(sg.InputError) as caught:
            fn(wrong)
        assert (
            caught.value.summary == f"call: input 'n' is u8[2]; {wrong[0]} is out of range for it"
        )
    with pytest.raises(sg.InputError, match="int64 does not cast to uint8"):
        fn(np.array([1, 2]))


def test_save_and_load(tmp_path, rng):
    x = sg.input("x", (3, 4))
    w = sg.variable(rows(rng, 4, 2), name="w")
    fn = sg.compile({"y": [x @ w]}, updates={w: w * 0.5})
    path = tmp_path / "model.sg"
    fn.save(path)
    again = sg.load(path)
    a = rows(rng, 3, 4)
    np.testing.assert_array_equal(again(x=a)["y"][0], fn(x=a)["y"][0])
    (other,) = again.graph.variables
    np.testing.assert_array_equal(other.value, w.value)
    with pytest.raises(sg.StaticGraphError):
        sg.load(tmp_path / "missing.sg")


def test_same_bits_for_any_number_of_threads(rng):
    x, y = sg.input("x", (700, 300)), sg.input("y", (300, 200))
    h = ops.softmax(ops.gelu(x @ y), axis=1)
    loss = (h * h).sum() + ops.var(x) + x.sum(axis=0).max()
    fn = sg.compile([h, loss, *sg.grad(loss, [x, y])])
    a, b = rows(rng, 700, 300), rows(rng, 300, 200)
    with sg.threads(1):
        one = fn(a, b)
    with sg.threads(2):
        two = fn(a, b)
    four = sg.compile([h, loss, *sg.grad(loss, [x, y])], threads=4)(a, b)
    for p, q, r in zip(one, two, four, strict=True):
        np.testing.assert_array_equal(p, q)
        np.testing.assert_array_equal(p, r)


def test_concurrent_calls(rng):
    x = sg.input("x", (200, 200))
    fn = sg.compile(ops.tanh(x @ x) * 2.0)
    arrays = [rows(rng, 200, 200) for _ in range(8)]
    expected = [fn(a) for a in arrays]

    def work(k: int) -> bool:
        return all(np.array_equal(fn(arrays[k]), expected[k]) for _ in range(20))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_functions_lock_variables_in_one_order():
    """Whatever the order in which they read them: else two threads could wait for each other."""
    a, b = (sg.variable(np.zeros(3, "f"), name=n) for n in "ab")
    functions = [sg.compile(a - b), sg.compile(b - a)]
    waiting_with_nothing = []
    for held, other in ((a, b), (b, a)):
        with held.lock:
            calls = [threading.Thread(target=fn, daemon=True) for fn in functions]
            for call in calls:
                call.start()
            time.sleep(0.05)  # until they wait for the lock that is held
            free = other.lock.acquire(blocking=False)
            if free:
                other.lock.release()
        for call in calls:
            call.join(timeout=60)
            assert not call.is_alive()
        waiting_with_nothing.append(free)
    assert any(waiting_with_nothing)


def test_concurrent_updates_do_not_mix():
    v = sg.variable(np.zeros(5000, "f"))
    step = sg.compile(None, updates={v: v + 1.0})
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [step() for _ in range(25)], range(8)))
    np.testing.assert_array_equal(v.value, 200)


def test_steady_state_allocates_only_outputs(rng):
    x = sg.input("x", (256, 256))
    w = sg.variable(rows(rng, 256, 256) * 0.01)
    h = ops.tanh(x @ w)
    loss = (h * h).sum()
    step = sg.compile(loss, updates={w: w - 0.01 * sg.grad(loss, w)})
    a = rows(rng, 256, 256)
    for _ in range(20):
        step(a)
    gc.collect()
    tracemalloc.start()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(1000):
        step(a)
    after, _ = tracemalloc.get_traced_memory()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    tracemalloc.stop()
    assert after - before < 4096
    assert faults < 200  # the arena alone has more pages than that


def test_memory_is_what_is_allocated(rng):
    x = sg.input("x", (512, 128))
    h = x
    for _ in range(6):
        w = sg.constant(rows(rng, 128, 128) * 0.1)
        h = ops.tanh(h @ w)
    fn = sg.compile(sg.grad(h.sum(), x))
    memory = fn.memory
    _, arena = fn.executable.frame()
    assert arena.nbytes - memory.peak_bytes < 128  # room to align the start
    assert memory.lower_bound_bytes <= memory.peak_bytes <= 1.02 * memory.lower_bound_bytes
    assert memory.peak_bytes >= max(memory.timeline)
    assert memory.input_bytes == memory.output_bytes == 512 * 128 * 4
    assert memory.constant_bytes == 6 * 128 * 128 * 4


def test_a_large_constant_is_data(rng):
    c = sg.constant(rows(rng, 400, 400))
    x = sg.input("x", (400, 400))
    fn = sg.compile(x + c)
    assert all(len(k.source) < 5000 for k in fn.kernels)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_goes_through(dtype, rng):
    x = sg.input("x", (37,), dtype)
    a = rng.integers(0, 2 if dtype == "bool" else 100, 37).astype(dtype)
    outputs = [x == x, ops.where(x != 0, x, x), ops.concat([x, x]), x.reshape(37, 1).T, x[::-1]]
    expected = [a == a, a, np.concatenate([a, a]), a.reshape(1, 37), a[::-1]]
    if dtype != "bool":
        outputs += [x + x, x * x, x - x, x.sum(), -x]
        wide = a.sum(
            dtype=np.uint64
            if dtype.startswith("u")
            else np.int64
            if dtype.startswith("i")
            else a.dtype
        )
        expected += [a + a, a * a, a - a, wide, -a]
    for got, want in zip(sg.compile(outputs)(a), expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_scalars_are_weak():
    x = sg.input("x", (2,), "float32")
    for t in (x * 2.0, 2 * x, x + True, x / 3, x**2, np.float64(2.0) * x, ops.maximum(x, 0.5)):
        assert t.dtype == np.float32
    i = sg.input("i", (2,), "int8")
    assert (i + 1).dtype == np.int8
    assert (i * 1.5).dtype == np.float32
    assert (x * 1j).dtype == np.complex64


def test_a_budget_is_a_limit():
    x = sg.input("x", (256, 256))
    y = ops.tanh(x @ x) @ x
    need = sg.compile(y).memory.peak_bytes
    assert sg.compile(y, memory_budget=need).memory.peak_bytes == need
    least = f"memory_budget is {need - 1} B; the least .* is {need} B"
    with pytest.raises(sg.BudgetError, match=least):
        sg.compile(y, memory_budget=need - 1)
    with pytest.raises(sg.BudgetError, match="'plenty'"):
        sg.compile(y, memory_budget="plenty")
    assert sg.compile(y, memory_budget="1MiB").memory.peak_bytes == need

"""Sorting, the k largest, scans and scatters: kernels of every size, awkward numbers, errors."""

from __future__ import annotations

import numpy as np
import pytest

import staticgraph as sg
from staticgraph import ops
from staticgraph.errors import GraphTypeError, ShapeError, TargetError
from staticgraph.interpret import run
from staticgraph.ir import Graph, apply
from staticgraph.ops.sort import TopKGrad
from staticgraph.registry import OPS

DTYPES = ("bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
#: rows ranked, sorted by digits, many rows in a tile, long rows in chunks
SHAPES = ((1,), (17,), (3, 96), (2, 97), (50, 300), (2, 40_000), (70_001,))


def leaf(name, array):
    return sg.input(name, array.shape, str(array.dtype))


def drawn(rng, dtype, shape):
    """Numbers with many ties, and for floats every special one."""
    x = rng.standard_normal(shape) * 60
    if dtype == "bool":
        return x > 0
    if dtype[0] in "iu":
        return x.astype("i8").astype(dtype)
    x = np.rint(x).astype(dtype)
    special = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf]
    places = rng.integers(0, x.size, 6 * (1 + x.size // 40))
    x.flat[places] = np.resize(special, places.size)
    return x


def bits(a):
    return a.view(f"u{a.itemsize}")


# ---------------------------------------------------------------------------- sort


@pytest.mark.parametrize("dtype", DTYPES)
def test_sorting_is_stable_for_every_size(dtype, rng):
    """As NumPy, down to the sign of zero; a falling order keeps equal elements in theirs."""
    for shape in SHAPES:
        x = drawn(rng, dtype, shape)
        i = leaf("x", x)
        wanted = np.argsort(x, axis=-1, kind="stable")
        ranks = np.unique(x, return_inverse=True, equal_nan=True)[1].reshape(x.shape)
        falling = np.argsort(-ranks, axis=-1, kind="stable")
        y = [f(i, descending=d) for d in (False, True) for f in (ops.sort, ops.argsort)]
        values, index, back, back_index = sg.compile(y, [i])(x)
        np.testing.assert_array_equal(index, wanted)
        np.testing.assert_array_equal(back_index, falling)
        np.testing.assert_array_equal(bits(values), bits(np.take_along_axis(x, wanted, -1)))
        np.testing.assert_array_equal(bits(back), bits(np.take_along_axis(x, falling, -1)))


def test_digits_that_do_not_differ_are_passed_over(rng):
    """Sorted, reversed, constant and small-range rows, where whole passes fall away."""
    n = 40_000
    rows = [np.arange(n), np.arange(n)[::-1], np.full(n, 7), rng.integers(0, 3, n) << 40]
    rows += [rng.integers(-(1 << 62), 1 << 62, n)]
    for x in rows:
        i = leaf("x", x)
        got = sg.compile(ops.argsort(i), [i])(x)
        np.testing.assert_array_equal(got, np.argsort(x, kind="stable"))


def test_gradient_of_a_long_sort(rng):
    x, g = rng.standard_normal((2, 50_000))
    inputs = [leaf("x", x), leaf("g", g)]
    dx = sg.grad(ops.sort(inputs[0]), inputs[0], g)
    wanted = np.empty_like(g)
    wanted[np.argsort(x)] = g
    np.testing.assert_array_equal(sg.compile(dx, inputs)(x, g), wanted)


# ---------------------------------------------------------------------------- the k largest


def best(x, k, largest):
    ranks = np.unique(x, return_inverse=True, equal_nan=True)[1].reshape(x.shape)
    return np.argsort(-ranks if largest else ranks, axis=-1, kind="stable")[..., :k]


#: all of a row, few and many of several rows, long rows in chunks and in one piece
K_BEST = [
    ((5,), 5, True),
    ((3, 17), 1, False),
    ((20, 1000), 5, True),
    ((20, 1000), 300, False),
    ((2, 70_000), 300, True),
    ((2, 70_000), 3500, False),
    ((150_000,), 2, True),
]


@pytest.mark.parametrize("dtype", ["bool", "i1", "u4", "i8", "f4", "f8"])
def test_k_best_for_every_size(dtype, rng):
    for shape, k, largest in K_BEST:
        x = drawn(rng, dtype, shape)
        i = leaf("x", x)
        values, index = sg.compile(ops.top_k(i, k, largest=largest), [i])(x)
        np.testing.assert_array_equal(index, best(x, k, largest))
        np.testing.assert_array_equal(values, np.take_along_axis(x, index, -1))


@pytest.mark.parametrize("k", [3, 200])
def test_k_best_of_rows_in_the_worst_order(k):
    """Each element beats all before it, so that the buffer fills again and again."""
    x = np.arange(100_000, dtype="f4").reshape(20, 5000)
    i = leaf("x", x)
    _, index = sg.compile(ops.top_k(i, k), [i])(x)
    np.testing.assert_array_equal(index, np.tile(np.arange(4999, 4999 - k, -1), (20, 1)))


def test_gradient_that_keeps_the_largest(rng):
    x, g = rng.standard_normal((2, 3, 8))
    inputs = [leaf("x", x), leaf("g", g)]
    y = ops.top_k_grad(inputs[0] * 1.0, 2, axis=1, abs=True)
    first = sg.grad(y, inputs[0], inputs[1])
    second = sg.grad((first**3).sum(), inputs[1])
    got, dx, dg = sg.compile([y, first, second], inputs)(x, g)
    kept = np.abs(g) >= np.sort(np.abs(g), 1)[:, -2:-1]
    np.testing.assert_array_equal(got, x)
    np.testing.assert_array_equal(dx, np.where(kept, g, 0))
    np.testing.assert_allclose(dg, np.where(kept, 3 * g**2, 0))


def test_no_tangent_of_a_gradient_rule():
    x = sg.input("x", (4,))
    with pytest.raises(GraphTypeError, match="top_k_grad: it says what cotangents become"):
        sg.jvp(ops.top_k_grad(x, 2), x, ops.ones_like(x))
    assert isinstance(OPS["top_k_grad"], TopKGrad)


# ---------------------------------------------------------------------------- searching, quantiles


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("n", [0, 1, 2, 1000, 100_003])
def test_binary_search(side, n, rng):
    a = np.sort(rng.integers(-50, 50, n).astype("f4"))
    a[n - n // 10 :] = np.nan
    v = np.append(rng.integers(-60, 60, 500), [np.inf, -np.inf, np.nan]).astype("f4")
    inputs = [leaf("a", a), leaf("v", v)]
    got = sg.compile(ops.searchsorted(*inputs, side), inputs)(a, v)
    np.testing.assert_array_equal(got, np.searchsorted(a, v, side))


@pytest.mark.parametrize("method", ["linear", "lower", "higher", "midpoint", "nearest"])
def test_quantiles(method, rng):
    x = rng.standard_normal((4, 5, 6))
    i = leaf("x", x)
    cases = [
        (q, axis, keepdims)
        for q in (0.5, 0.0, 1.0, [0.1, 0.33, 0.9], [])
        for axis, keepdims in ((None, False), (1, True), ((0, 2), False), ((0, 2), True))
    ]
    got = sg.compile([ops.quantile(i, *case, method) for case in cases], [i])(x)
    for y, (q, axis, keepdims) in zip(got, cases, strict=True):
        wanted = np.quantile(x, q, axis, keepdims=keepdims, method=method)
        np.testing.assert_allclose(y, wanted, rtol=1e-13)


# ---------------------------------------------------------------------------- scans

SCANS = {
    "cumsum": np.cumsum,
    "cumprod": np.cumprod,
    "cummax": np.maximum.accumulate,
    "cummin": np.minimum.accumulate,
    "logcumsumexp": np.logaddexp.accumulate,
}


@pytest.mark.parametrize("name", SCANS)
def test_scans_of_every_size(name, rng):
    """Rows and columns, short and long, both ways; cumsum and cumprod exclusive too."""
    shapes = [((33,), 0), ((3, 16), 1), ((40, 50), 0), ((3, 7, 5), 1), ((2, 70_000), 1)]
    for shape, axis in shapes:
        x = rng.uniform(0.9, 1.1, shape)
        i = leaf("x", x)
        ways = [{"reverse": False}, {"reverse": True}]
        ways += [{**w, "exclusive": True} for w in ways] if name in ("cumsum", "cumprod") else []
        got = sg.compile([getattr(ops, name)(i, axis, **w) for w in ways], [i])(x)
        for y, way in zip(got, ways, strict=True):
            turned = np.flip(x, axis) if way["reverse"] else x
            if way.get("exclusive"):
                first = np.full_like(turned.take([0], axis), name == "cumprod")
                turned = np.concatenate([first, turned.take(range(shape[axis] - 1), axis)], axis)
            wanted = SCANS[name](turned, axis)
            wanted = np.flip(wanted, axis) if way["reverse"] else wanted
            np.testing.assert_allclose(y, wanted, rtol=1e-10)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_product_goes_from_element_to_element(dtype):
    """Sixteen at once would meet inf * 0, or lose what comes back into range."""
    big = {"f4": 1e30, "f8": 1e250}[dtype]
    rows = [
        [0, big, big, big],
        [big, 1 / big, 1 / big, big],
        [1 / big, big, big, 1 / big],
        [1 / big, 1 / big, big, big],
        [2, np.inf, 3, np.nan],
    ]
    x = np.ones((5, 40), dtype)
    x[:, 17:21] = rows
    i = leaf("x", x)
    one = apply(OPS["linear_scan"], i * 0.0 + 1.0, i, axis=1, reverse=False, late=False)
    product, recurrence = sg.compile([ops.cumprod(i, 1), one], [i])(x)
    with np.errstate(all="ignore"):
        # float32 is carried along in float64, where these products are in range.
        wanted = np.cumprod(x, 1, "f8").astype(dtype)
        np.testing.assert_allclose(product, wanted, rtol=1e-6)
    exact = x.astype("longdouble")
    r = np.ones((5,), "longdouble")
    for k in range(1, 21):
        with np.errstate(all="ignore"):
            r = np.asarray((1 + exact[:, k] * r).astype(dtype), "longdouble")
        if k >= 17:
            np.testing.assert_allclose(recurrence[:4, k], r[:4].astype(dtype), rtol=1e-5)


def test_the_first_factor_has_no_effect():
    a, b = np.ones((2, 20), "f4"), np.full((2, 20), 0.5, "f4")
    b[:, 0] = [np.inf, np.nan]
    inputs = [leaf("a", a), leaf("b", b)]
    y = ops.linear_scan(*inputs)
    got, da, db = sg.compile([y, *sg.grad(y.sum(), inputs)], inputs)(a, b)
    np.testing.assert_allclose(got, np.tile(2 - 0.5 ** np.arange(20), (2, 1)), rtol=1e-6)
    assert np.isfinite(da).all()
    np.testing.assert_array_equal(db[:, 0], 0)


def test_gradient_of_a_long_logcumsumexp(rng):
    """Its factors are near 1 and there are many: in float32 their roundings would add up."""
    x, g = rng.standard_normal((2, 200_000)).astype("f")
    t = sg.input("x", x.shape)
    got = sg.compile(sg.grad((ops.logcumsumexp(t) * g).sum(), t), [t])(x)
    y = np.logaddexp.accumulate(x.astype("d"))
    wanted = np.exp(x) * np.cumsum((g * np.exp(-y))[::-1])[::-1]
    np.testing.assert_allclose(got, wanted, atol=1e-6 * abs(wanted).max())


@pytest.mark.parametrize("shape", [(20,), (3, 50), (50, 3)])
def test_recurrences_with_late_factors(shape, rng):
    """The factor of a step where it comes from; the kernel against the plain loop."""
    a, b = rng.uniform(-1, 1, (2, *shape))
    inputs = [leaf("a", a), leaf("b", b)]
    ways = [(axis, reverse) for axis in range(len(shape)) for reverse in (False, True)]
    y = [apply(OPS["linear_scan"], *inputs, axis=k, reverse=r, late=True) for k, r in ways]
    for got, (axis, reverse) in zip(sg.compile(y, inputs)(a, b), ways, strict=True):
        p, q = (np.moveaxis(t, axis, 0) for t in (a, b))
        p, q = (p[::-1], q[::-1]) if reverse else (p, q)
        r = p.copy()
        for k in range(1, len(r)):
            r[k] += q[k - 1] * r[k - 1]
        np.testing.assert_allclose(got, np.moveaxis(r[::-1] if reverse else r, 0, axis), rtol=1e-12)


def test_ties_of_a_running_maximum_go_to_the_first():
    x = np.array([1.0, 3.0, 3.0, 2.0, 5.0, 5.0])
    i = leaf("x", x)
    y = ops.cummax(i)
    np.testing.assert_array_equal(sg.compile(sg.grad(y.sum(), i), [i])(x), [1, 3, 0, 0, 2, 0])


# ---------------------------------------------------------------------------- scatters


@pytest.mark.parametrize("index", ["i4", "i8"])
@pytest.mark.parametrize(("n", "m", "width"), [(1000, 50_000, 1), (7, 40_000, 3), (90_000, 9, 2)])
def test_scatters_of_narrow_pieces(n, m, width, index, rng):
    """In ranges, and still in the order of the updates: the bits of the sequential sum."""
    places = rng.integers(-n, n, m).astype(index)
    u = rng.standard_normal((m, width) if width > 1 else m).astype("f4")
    inputs = [leaf("i", places), leaf("u", u)]
    added = ops.scatter_add(ops.zeros((n, *u.shape[1:])), *inputs)
    kept = ops.scatter_nd(inputs[1], ops.expand_dims(inputs[0], -1), (n, *u.shape[1:]))
    wanted, last = np.zeros((2, n, *u.shape[1:]), "f4")
    np.add.at(wanted, places, u)
    last[places] = u
    for threads in (1, 2):
        got = sg.compile([added, kept], inputs, threads=threads)(places, u)
        np.testing.assert_array_equal(got[0], wanted)
        np.testing.assert_array_equal(got[1], last)


def test_an_overwritten_update_has_no_gradient():
    places = np.array([[2], [0], [2], [1], [0]])
    u, g = np.arange(5.0), np.array([10.0, 20.0, 30.0, 40.0])
    inputs = [leaf("u", u), leaf("i", places)]
    y = ops.scatter_nd(*inputs, (4,))
    got, du = sg.compile([y, sg.grad(y, inputs[0], g)], inputs)(u, places)
    np.testing.assert_array_equal(got, [4, 3, 2, 0])
    np.testing.assert_array_equal(du, [0, 0, 30, 20, 10])


def test_a_write_out_of_range_is_reported():
    u, places = np.ones(2, "f4"), np.array([[0], [9]])
    inputs = [leaf("u", u), leaf("i", places)]
    f = sg.compile(ops.scatter_nd(*inputs, (4,)), inputs)
    with pytest.raises(sg.NumericError, match=r"an index is outside -4\.\.3"):
        f(u, places)


# ---------------------------------------------------------------------------- everywhere


def test_the_number_of_threads_changes_no_bit(rng):
    x = rng.standard_normal((3, 60_000)).astype("f4")
    i = leaf("x", x)
    y = [
        ops.sort(i), ops.argsort(i, 0), *ops.top_k(i, 50), ops.cumsum(i, 1), ops.cumsum(i, 0),
        ops.cumprod(i, 1), ops.logcumsumexp(i, 1), ops.cummax(i, 1, reverse=True),
        ops.linear_scan(i, ops.tanh(i)),
    ]  # fmt: skip
    alone, together = (sg.compile(y, [i], threads=n)(x) for n in (1, 2))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(bits(a), bits(b))


def test_permutations_are_uniform(rng):
    keys = sg.random.split(sg.random.key(5), 4)
    drawn = sg.compile([sg.random.permutation(k, 4000) for k in keys])()
    for p in drawn:
        np.testing.assert_array_equal(np.sort(p), np.arange(4000))
    # Each place is as likely for each number: ranks of the numbers are uniform.
    share = np.mean([p[:1000] < 2000 for p in drawn])
    assert abs(share - 0.5) < 0.04
    assert len({p[:8].tobytes() for p in drawn}) == 4
    x = rng.standard_normal((3, 50))
    i = leaf("x", x)
    y = sg.random.permutation(keys[0], i, axis=1)
    got, dx = sg.compile([y, sg.grad((y * y).sum(), i)], [i])(x)
    order = np.argmax(got[0][:, None] == x[0], 1)
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
    np.testing.assert_array_equal(got, x[:, order])
    np.testing.assert_allclose(dx, 2 * x)


@pytest.mark.parametrize("call", [ops.sort, lambda x: ops.top_k(x, 2), ops.cumsum])
def test_no_kernel_on_a_gpu(call):
    x = sg.input("x", (8,))
    with pytest.raises(TargetError, match="target='cuda' has no kernel for it"):
        sg.compile(call(x), [x], target="cuda")


X = sg.input("x", (3, 4))
Z = sg.input("z", (3, 4), "complex64")
B = sg.input("b", (3, 4), "bool")
ERRORS = [
    (lambda: ops.sort(Z), GraphTypeError, "sort: complex numbers have no order, got c64[3, 4]"),
    (lambda: ops.argsort(X, 2), ShapeError, "argsort: axis 2 is out of range for 2 axes"),
    (lambda: ops.sort("x"), GraphTypeError, "sort: x must be a tensor or an array, got str"),
    (lambda: ops.sort(X, 0.5), GraphTypeError, "sort: an axis is an int, got 0.5"),
    (lambda: ops.top_k(X, 5), ShapeError,
     "top_k: k must be in 0..4, axis 1 of f32[3, 4], got 5"),
    (lambda: ops.top_k(X, 2.0), GraphTypeError,
     "top_k: k is an int known while building, got 2.0"),
    (lambda: ops.top_k_mask(Z, 1), GraphTypeError,
     "top_k_mask: complex numbers have no order, got c64[3, 4]"),
    (lambda: ops.top_k_grad(X, -1), ShapeError,
     "top_k_grad: k must be in 0..4, axis 1 of f32[3, 4], got -1"),
    (lambda: ops.top_k_grad(B, 1), GraphTypeError, "top_k_grad: needs floats, got b1[3, 4]"),
    (lambda: ops.searchsorted(X, X[0]), ShapeError,
     "searchsorted: needs one sorted row, or a sorted row for each row of the values; got"
     " f32[3, 4] and f32[4]"),
    (lambda: ops.searchsorted(X, X, "middle"), GraphTypeError,
     "searchsorted: side is 'left' or 'right', got 'middle'"),
    (lambda: ops.quantile(X, 1.5), ShapeError,
     "quantile: q must be a number or a list of numbers in 0..1, got 1.5"),
    (lambda: ops.quantile(X, X), GraphTypeError,
     "quantile: q is a number or a list, known while building"),
    (lambda: ops.quantile(X, 0.5, method="best"), GraphTypeError,
     "quantile: method is one of linear, lower, higher, midpoint, nearest, got 'best'"),
    (lambda: ops.median(sg.input("e", (0, 3)), 0), ShapeError,
     "median: no elements along axes (0,) of f32[0, 3]"),
    (lambda: ops.cummax(Z), GraphTypeError, "cummax: complex numbers have no order, got c64[12]"),
    (lambda: ops.cumsum(X, 7), ShapeError, "cumsum: axis 7 is out of range for 2 axes"),
    (lambda: ops.linear_scan(X, sg.input("o", (5,))), ShapeError,
     "linear_scan: a and b must broadcast, got f32[3, 4] and f32[5]"),
    (lambda: ops.linear_scan(B, B), GraphTypeError,
     "linear_scan: needs numbers of one type, got b1[3, 4] and b1[3, 4]"),
    (lambda: ops.scatter_nd(X, [[0], [1], [2]], (4, 5)), ShapeError,
     "scatter_nd: updates must have shape (3, 5), got f32[3, 4]"),
    (lambda: ops.scatter_nd(X, [[0], [9], [2]], (4, 4)), ShapeError,
     "scatter_nd: index 9 is outside -4..3, axis 0 of (4, 4)"),
    (lambda: ops.scatter_nd(X, [0.5], (4,)), GraphTypeError,
     "scatter_nd: indices are integers, got an array of float64"),
    (lambda: sg.random.permutation(sg.random.key(0), 2.5), GraphTypeError,
     "random.permutation: x must be an int or have an axis, got f32[]"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS)
def test_errors(call, kind, message):
    with pytest.raises(kind) as found:
        call()
    assert found.value.summary == message


def test_the_interpreter_agrees_on_all(rng):
    """The plain references of the ops by hand, on what the op tables do not reach."""
    x = drawn(rng, "f8", (4, 33))
    i = leaf("x", x)
    y = [*ops.top_k(i, 7, largest=False), ops.sort(i, descending=True), ops.cummin(i, 1)]
    for got, want in zip(sg.compile(y, [i])(x), run(Graph([i], y), [x]), strict=True):
        np.testing.assert_array_equal(got, want)

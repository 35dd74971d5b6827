"""Windows: adjoints, attributes at random, conventions, and what users get wrong.

The rows of `samples_windows` hold values and derivatives of single cases; here stands what holds
for all: each linear op has one partner, and any geometry agrees with plain loops.
"""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
import samples_windows as oracle
import windows
from hypothesis import given
from hypothesis import strategies as st
from test_ops_reference import inputs_for

import staticgraph as sg
from staticgraph import ops
from staticgraph.errors import GraphTypeError, NumericError, ShapeError
from staticgraph.interpret import run
from staticgraph.ir import INPUT, Graph, apply
from staticgraph.types import spec

# ---------------------------------------------------------------------------- linear ops

#: function, shape of x, the op that makes it linear, and that of its adjoint
LINEAR = {
    "sum_pool": (lambda x: ops.sum_pool(x, 3, 2, 1), (1, 2, 6, 5), "sum_pool", "sum_pool_adjoint"),
    "sum_pool channel_last": (lambda x: ops.sum_pool(x, 2, 1, channel_last=True), (1, 4, 3),
                              "sum_pool", "sum_pool_adjoint"),
    "sum_pool_adjoint": (lambda y: ops.sum_pool_adjoint(y, (6, 5), 3, 2, 1), (1, 2, 3, 3),
                         "sum_pool_adjoint", "sum_pool"),
    "avg_pool": (lambda x: ops.avg_pool(x, 3, 2, 1, True, False), (1, 2, 6), "sum_pool",
                 "sum_pool_adjoint"),
    "avg_pool_adjoint": (lambda y: ops.avg_pool_adjoint(y, 6, 3, 2, 1), (1, 2, 3),
                         "sum_pool_adjoint", "sum_pool"),
    "global_avg_pool": (ops.global_avg_pool, (2, 3, 4, 2), "sum", "broadcast_to"),
    "unpool": (lambda x: ops.unpool(x, (2, 3)), (1, 2, 2, 3), "sum_pool_adjoint", "sum_pool"),
    "avg_unpool": (lambda x: ops.avg_unpool(x, 2), (1, 2, 3), "sum_pool_adjoint", "sum_pool"),
    "max_unpool": (lambda x: ops.max_unpool(x, oracle.AT, output_size=(4, 3)), (1, 2, 2, 2),
                   "scatter_add", "gather"),
    "unfold": (lambda x: ops.unfold(x, (3, 2), 1, 1, (2, 1)), (1, 2, 5, 4), "unfold", "fold"),
    "fold": (lambda y: ops.fold(y, (5, 4), (3, 2), 1, 1, (2, 1)), (1, 12, 15), "fold", "unfold"),
    **{f"interpolate {mode}": (lambda x, mode=mode: ops.interpolate(x, (7, 2), mode=mode),
                               (1, 2, 4, 5), "resample", "resample")
       for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")},
    "interpolate_adjoint": (lambda y: ops.interpolate_adjoint(y, 5, "linear", True), (1, 2, 8),
                            "resample", "resample"),
    "adaptive_avg_pool": (lambda x: ops.adaptive_avg_pool(x, (3, 4)), (1, 2, 5, 6), "resample",
                          "resample"),
    "pad": (lambda x: ops.pad(x, ((0, 0), (2, 1))), (3, 4), "pad", "slice"),
    "crop": (lambda x: ops.crop(x, (1, 0), (2, 3)), (4, 5), "slice", "unslice"),
    "slice": (lambda x: ops.slice(x, (3, None), (0, 4), (-2, 3)), (4, 5), "slice", "unslice"),
    **{f"pad {mode}": (lambda x, mode=mode: ops.pad(x, ((4, 0), (2, 9)), mode), (3, 4), "concat",
                       "slice") for mode in ("reflect", "symmetric", "edge", "wrap")},
    "roll": (lambda x: ops.roll(x, 3, -1), (3, 5), "concat", "slice"),
    "shift": (lambda x: ops.shift(x, -2, 0), (5, 3), "concat", "slice"),
    "flip": (lambda x: ops.flip(x, 1), (3, 4), "flip", "flip"),
    "rot90": (ops.rot90, (3, 4), "flip", "flip"),
    "tile": (lambda x: ops.tile(x, (2, 3)), (3, 4), "broadcast_to", "sum"),
    "repeat": (lambda x: ops.repeat(x, 3, 1), (3, 4), "broadcast_to", "sum"),
    "concat": (lambda x: ops.concat([x, x[:1]]), (3, 4), "concat", "slice"),
    "conv": (lambda x: ops.conv(x, W, stride=2, padding=((1, 2),), groups=2), (1, 4, 6), "conv",
             "conv_transpose"),
    "conv_transpose": (lambda y: ops.conv_transpose(y, W, None, 2, ((1, 0),), 1, 2), (1, 6, 4),
                       "conv_transpose", "conv"),
    "conv_weight_grad": (lambda y: ops.conv_weight_grad(X, y, 3, 2, 1), (1, 3, 3),
                         "conv_weight_grad", "conv"),
    "depthwise_conv": (lambda x: ops.depthwise_conv(x, W[:4, :1], padding=1), (1, 2, 6), "conv",
                       "conv_transpose"),
    "depthwise_conv_transpose": (
        lambda x: ops.depthwise_conv_transpose(x, W[:, :1], None, 2, 1, 1, divisor=3), (1, 6, 4),
        "conv_transpose", "conv"),
    "temporal_row_conv": (lambda x: ops.temporal_row_conv(x, W[:, 0]), (1, 5, 6), "conv",
                          "conv_transpose"),
    "convolve": (lambda x: ops.convolve(x, W[0, 0]), (5,), "conv", "conv_transpose"),
    "correlate": (lambda x: ops.correlate(x, W[0, 0]), (5,), "conv", "conv_transpose"),
    "grid_sample": (lambda x: ops.grid_sample(x, oracle.GRID), (2, 2, 4, 5), "gather",
                    "scatter_add"),
}  # fmt: skip
W = np.random.default_rng(1).standard_normal((6, 2, 3))
X = np.random.default_rng(2).standard_normal((1, 2, 6))


def moved(graph):
    return {n.op.name for n in graph.nodes}


@pytest.mark.parametrize("name", LINEAR)
def test_adjoint(name, rng):
    """<A x, y> = <x, A' y>; the adjoint of the adjoint is A; both are the ops they should be."""
    function, shape, op, partner = LINEAR[name]
    x = rng.standard_normal(shape)
    (t,) = inputs_for([x])
    y = function(t)
    v, u = rng.standard_normal(y.shape), rng.standard_normal(shape)
    cotangent = apply(INPUT, name="v", type=y.type)
    (back,) = sg.vjp([y], [t], [cotangent])
    (again,) = sg.vjp([back], [cotangent], [u])
    forward, pulled, twice, direct = run(
        Graph([t, cotangent], [y, back, again, sg.jvp(y, [t], [u])]), [x, v]
    )
    scale = np.abs(forward).max() * np.abs(v).max() * forward.size
    assert (forward * v).sum() == pytest.approx((x * pulled).sum(), rel=1e-11, abs=1e-13 * scale)
    np.testing.assert_allclose(twice, direct, rtol=1e-12, atol=1e-12)
    assert op in moved(Graph([t], [y]))
    assert partner in moved(Graph([cotangent], [back]))
    assert "scatter_add" in (op, partner) or "scatter_add" not in moved(Graph([cotangent], [back]))


def test_the_convolutions_close_as_a_triple(rng):
    """<conv(x, w), y> = <x, conv_transpose(y, w)> = <w, conv_weight_grad(x, y)>."""
    x, w = rng.standard_normal((2, 4, 7, 6)), rng.standard_normal((6, 2, 3, 2))
    options = dict(stride=(2, 1), padding=((1, 0), (0, 2)), groups=2)
    y = ops.conv(x, w, **options)
    v = rng.standard_normal(y.shape)
    spread = ops.conv_transpose(v, w, output_padding=(1, 0), **options)[:, :, : x.shape[2]]
    kernel = ops.conv_weight_grad(x, v, (3, 2), **options)
    a, b, c = run(Graph([], [y, spread, kernel]), [])
    assert (a * v).sum() == pytest.approx((b * x).sum(), rel=1e-12)
    assert (a * v).sum() == pytest.approx((c * w).sum(), rel=1e-12)


def test_gradients_of_points_are_gathers_and_scatters(rng):
    """Any order of grid_sample stays among gather, scatter_add and arithmetic."""
    arrays = [rng.standard_normal((2, 2, 4, 5)), oracle.GRID]
    inputs = inputs_for(arrays)
    total = ops.sum(ops.square(ops.grid_sample(*inputs)))
    for _ in range(3):
        total = ops.add_n([ops.sum(g * g) for g in sg.grad(total, inputs)])
    others = {"conv", "resample", "sort", "matmul", "max_pool"}
    assert {"gather", "scatter_add"} <= moved(Graph(inputs, [total]))
    assert not others & moved(Graph(inputs, [total]))


# ---------------------------------------------------------------------------- any attributes


def starts(n, kernel, stride, padding, dilation, ceil):
    """First elements of the windows on an axis, counted one by one."""
    reach, found, o = dilation * (kernel - 1) + 1, [], 0
    while o * stride + reach <= n + 2 * padding or (
        ceil and o * stride < n + padding and (o - 1) * stride + reach < n + 2 * padding
    ):
        found.append(o * stride - padding)
        o += 1
    return found


def axis_matrices(n, kernel, stride, padding, dilation, ceil):
    """For each window of an axis its elements, and how many it counts with padding."""
    elements, sizes = [], []
    for first in starts(n, kernel, stride, padding, dilation, ceil):
        all_places = [first + k * dilation for k in range(kernel)]
        elements.append([i for i in all_places if 0 <= i < n])
        sizes.append(min(first + kernel, n + padding) - first)
    return elements, sizes


geometries = st.tuples(
    st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.integers(1, 3),
    st.booleans(),
).filter(lambda g: starts(*g) and all(axis_matrices(*g)[0]))  # fmt: skip


@given(st.lists(geometries, min_size=1, max_size=2), st.booleans(), st.booleans())
def test_max_pool_of_any_geometry(axes, ceil, channel_last):
    axes = [(*g[:5], ceil) for g in axes]
    if not all(starts(*g) and all(axis_matrices(*g)[0]) for g in axes):
        return
    n, k, s, p, d, _ = (list(v) for v in zip(*axes, strict=True))
    # Few different numbers, so that ties are common.
    x = np.random.default_rng(sum(n)).integers(-3, 0, (2, 1, *n)).astype("float64")
    per_axis = [axis_matrices(*g)[0] for g in axes]
    size = [len(e) for e in per_axis]
    v = np.random.default_rng(1).standard_normal((2, 1, *size))
    y, index, dx = np.zeros(v.shape), np.zeros(v.shape, int), np.zeros(x.shape)
    for at in np.ndindex(*v.shape):
        places = list(itertools.product(*(e[o] for e, o in zip(per_axis, at[2:], strict=True))))
        values = [x[(*at[:2], *i)] for i in places]
        best = places[int(np.argmax(values))]
        y[at], index[at] = max(values), np.ravel_multi_index(best, n)
        dx[(*at[:2], *best)] += v[at]
    given = np.moveaxis(x, 1, -1) if channel_last else x
    (t,) = inputs_for([given])
    got, where = ops.max_pool(t, k, s, p, d, ceil, True, channel_last)
    (pulled,) = sg.vjp([got], [t], [np.moveaxis(v, 1, -1) if channel_last else v])
    found = run(Graph([t], [got, where, pulled]), [given])
    for a, b in zip(found, (y, index, dx), strict=True):
        np.testing.assert_allclose(np.moveaxis(a, -1, 1) if channel_last else a, b, atol=1e-12)


@given(
    st.lists(geometries, min_size=1, max_size=2), st.booleans(), st.booleans(),
    st.sampled_from([None, None, 2.5]),
)  # fmt: skip
def test_avg_pool_of_any_geometry(axes, ceil, count_pad, divisor):
    axes = [(*g[:4], 1, ceil) for g in axes]
    if not all(starts(*g) and all(axis_matrices(*g)[0]) for g in axes):
        return
    n, k, s, p, _, _ = (list(v) for v in zip(*axes, strict=True))
    rng = np.random.default_rng(sum(n))
    x = rng.standard_normal((2, 1, *n))
    made = [axis_matrices(*g) for g in axes]
    v = rng.standard_normal((2, 1, *(len(e) for e, _ in made)))
    y, dx = np.zeros(v.shape), np.zeros(x.shape)
    for at in np.ndindex(*v.shape):
        places = list(itertools.product(*(e[o] for (e, _), o in zip(made, at[2:], strict=True))))
        full = np.prod([sizes[o] for (_, sizes), o in zip(made, at[2:], strict=True)])
        count = divisor or (full if count_pad else len(places))
        for i in places:
            y[at] += x[(*at[:2], *i)] / count
            dx[(*at[:2], *i)] += v[at] / count
    (t,) = inputs_for([x])
    got = ops.avg_pool(t, k, s, p, ceil, count_pad, divisor)
    back = ops.avg_pool_adjoint(v, tuple(n), k, s, p, ceil, count_pad, divisor)
    (pulled,) = sg.vjp([got], [t], [v])
    for a, b in zip(run(Graph([t], [got, pulled, back]), [x]), (y, dx, dx), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


sides = st.tuples(st.integers(0, 3), st.integers(0, 3))


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 2))
    kernel, stride, dilation, padding, size = [], [], [], [], []
    for _ in range(rank):
        k, d, pads = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(sides)
        kernel.append(k)
        dilation.append(d)
        padding.append(pads)
        stride.append(draw(st.integers(1, 3)))
        size.append(draw(st.integers(max(1, d * (k - 1) + 1 - sum(pads)), 6)))
    groups = draw(st.sampled_from([1, 1, 2]))
    wide, deep = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    x, w = (draw(st.integers(1, 2)), wide * groups, *size), (deep * groups, wide, *kernel)
    low, high = zip(*padding, strict=True)
    return x, w, dict(stride=stride, dilation=dilation), list(low), list(high), groups


@given(convolutions())
def test_convolution_of_any_geometry(case):
    shape, kernel, steps, low, high, groups = case
    rng = np.random.default_rng(sum(shape))
    x, w = rng.standard_normal(shape), rng.standard_normal(kernel)
    window = dict(low=low, high=high, groups=groups, **steps)
    y = windows.correlate(x, w, **window)
    v = rng.standard_normal(y.shape)
    wanted = [y, windows.spread(v, w, shape[2:], **window),
              windows.kernel_gradient(x, v, kernel[2:], **window)]  # fmt: skip
    inputs = inputs_for([x, w])
    got = ops.conv(*inputs, padding=list(zip(low, high, strict=True)), groups=groups, **steps)
    found = run(Graph(inputs, [got, *sg.vjp([got], inputs, [v])]), [x, w])
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@given(convolutions(), st.integers(0, 2))
def test_conv_transpose_of_any_geometry(case, extra):
    """Any size that convolves to the places of y is reached by an output_padding."""
    shape, kernel, steps, low, high, groups = case
    limits = [max(s, d) - 1 for s, d in zip(steps["stride"], steps["dilation"], strict=True)]
    extra = [min(extra, e) for e in limits]
    rng = np.random.default_rng(sum(shape))
    y, w = rng.standard_normal((2, kernel[0], *shape[2:])), rng.standard_normal(kernel)
    size = [
        (n - 1) * s - lo - hi + d * (k - 1) + e + 1
        for n, s, d, k, lo, hi, e in zip(
            shape[2:], steps["stride"], steps["dilation"], kernel[2:], low, high, extra, strict=True
        )
    ]
    if min(size) < 1:
        return
    # Padding cuts off what the whole image holds, output_padding leaves more of it, or zeros.
    whole = [n + lo + hi - e for n, lo, hi, e in zip(size, low, high, extra, strict=True)]
    full = windows.spread(y, w, whole, groups=groups, **steps)
    full = np.pad(full, [(0, 0), (0, 0), *((0, e) for e in extra)])
    part = tuple(slice(lo, lo + n) for lo, n in zip(low, size, strict=True))
    padding = list(zip(low, high, strict=True))
    got = ops.conv_transpose(y, w, None, padding=padding, output_padding=extra, groups=groups,
                             **steps)  # fmt: skip
    found = run(Graph([], [got]), [])[0]
    np.testing.assert_allclose(found, full[(..., *part)], rtol=1e-11, atol=1e-11)


@given(convolutions())
def test_unfold_and_fold_of_any_geometry(case):
    shape, kernel, steps, low, high, _ = case
    rng = np.random.default_rng(sum(shape))
    x = rng.standard_normal(shape)
    wanted = oracle.columns(x, kernel[2:], low=low, high=high, **steps)
    v = rng.standard_normal(wanted.shape)
    padding = list(zip(low, high, strict=True))
    got = ops.unfold(x, kernel[2:], padding=padding, **steps)
    back = ops.fold(v, shape[2:], kernel[2:], padding=padding, **steps)
    columns, image = run(Graph([], [got, back]), [])
    np.testing.assert_allclose(columns, wanted)
    folded = oracle.image(v, shape[2:], kernel[2:], low=low, high=high, **steps)
    np.testing.assert_allclose(image, folded, rtol=1e-12, atol=1e-12)


MODES = ["nearest", "nearest-exact", "linear", "cubic", "area"]


@given(st.sampled_from(MODES), st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_interpolation_of_any_size(mode, n, size, align):
    align = align and mode in ("linear", "cubic")
    x, v = np.eye(n)[None], np.eye(size)[None]
    ahead = ops.interpolate(x, size, None, mode, align)
    back = ops.interpolate_adjoint(v, n, mode, align)
    a, b = run(Graph([], [ahead, back]), [])
    wanted = oracle.matrix(n, size, mode, align)
    np.testing.assert_allclose(a[0].T, wanted, atol=1e-12)
    np.testing.assert_allclose(b[0], wanted, atol=1e-12)


@given(
    st.sampled_from(["constant", "reflect", "symmetric", "edge", "wrap"]),
    st.integers(1, 4), st.integers(0, 9), st.integers(0, 9), st.integers(-9, 9),
)  # fmt: skip
def test_borders_of_any_width(mode, n, low, high, step):
    x = np.arange(3.0 * n).reshape(3, n) + 1
    widths = ((0, 0), (low, high))
    pads, turned = run(Graph([], [ops.pad(x, widths, mode), ops.roll(x, step, 1)]), [])
    np.testing.assert_array_equal(pads, np.pad(x, widths, mode))
    np.testing.assert_array_equal(turned, np.roll(x, step, 1))


# size, kernel, stride, low, dilation: some places of the kernel meet no element of the input
ENDS = [
    (1, 3, 3, 2, 1), (1, 2, 3, 2, 2), (1, 3, 3, 2, 2), (1, 3, 2, 1, 1), (2, 3, 3, 2, 1),
    (1, 1, 3, 2, 1), (1, 4, 2, 2, 1), (2, 5, 3, 4, 1), (1, 5, 4, 4, 1), (1, 3, 3, 3, 3),
]  # fmt: skip


@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_kernels_of_thin_images(ends, groups, rng):
    """The gradient of a strided convolution of an image thinner than its stride."""
    n, k, stride, low, dilation = ends
    x, w = rng.standard_normal((2, 4, n, 3)), rng.standard_normal((4, 4 // groups, k, 2))
    window = dict(stride=[stride, 1], dilation=[dilation, 1], groups=groups)
    low = [low, 0]
    inputs = inputs_for([x, w])
    y = ops.conv(*inputs, padding=list(zip(low, low, strict=True)), **window)
    v = rng.standard_normal(y.shape)
    got = sg.compile(sg.vjp([y], inputs, [v]), inputs)(x, w)
    window |= dict(low=low, high=low)
    wanted = [windows.spread(v, w, x.shape[2:], **window),
              windows.kernel_gradient(x, v, w.shape[2:], **window)]  # fmt: skip
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@given(convolutions(), st.booleans())
def test_kernels_of_any_convolution(case, wide):
    """Compiled against interpreted: a convolution and its two gradients."""
    shape, kernel, steps, low, high, groups = case
    rng = np.random.default_rng(4)
    arrays = [rng.standard_normal(n).astype("d" if wide else "f") for n in (shape, kernel)]
    inputs = inputs_for(arrays)
    y = ops.conv(*inputs, padding=list(zip(low, high, strict=True)), groups=groups, **steps)
    outputs = [y, *sg.grad(ops.sum(ops.sin(y)), inputs)]
    found, wanted = sg.compile(outputs, inputs)(*arrays), run(Graph(inputs, outputs), arrays)
    tight = 1e-11 if wide else 1e-4
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=tight, atol=tight)


@pytest.mark.slow
@given(convolutions(), st.booleans())
def test_kernels_of_any_geometry(case, ceil):
    """Compiled against interpreted: pools, unfold and fold with their gradients."""
    shape, kernel, steps, low, high, _ = case
    kernel, padding = kernel[2:], list(zip(low, high, strict=True))
    x = np.random.default_rng(3).standard_normal(shape)
    (t,) = inputs_for([x])
    ys = [ops.unfold(t, kernel, padding=padding, **steps)]
    with contextlib.suppress(ShapeError):  # a window without an element
        ys.append(ops.max_pool(t, kernel, steps["stride"], padding, steps["dilation"], ceil))
    total = ops.add_n([ops.sum(ops.sin(y)) for y in ys])
    (g,) = sg.grad(total, [t])
    outputs = [*ys, g, *sg.grad(ops.sum(g * g), [t])]
    for a, b in zip(sg.compile(outputs, [t])(x), run(Graph([t], outputs), [x]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


# ---------------------------------------------------------------------------- conventions


def values(*outputs):
    return run(Graph([], list(outputs)), [])


def test_indices_of_ties_are_the_first():
    x = np.array([[[2.0, 2, 5, 5, np.nan, np.nan]]])
    y, index = values(*ops.max_pool(x, 2, return_indices=True))
    np.testing.assert_array_equal(y, [[[2, 5, np.nan]]])
    np.testing.assert_array_equal(index, [[[0, 2, 4]]])
    found = values(*ops.adaptive_max_pool(x[..., :4], 3, return_indices=True))
    np.testing.assert_array_equal(found, [[[[2, 5, 5]]], [[[0, 2, 2]]]])


def test_power_mean_at_zero_has_no_gradient():
    x = np.array([[[0.0, 0.0, 3.0, 4.0]]])
    (t,) = inputs_for([x])
    y = ops.lp_pool(t, 2, 2)
    (g,) = sg.grad(ops.sum(y), [t])
    (h,) = sg.grad(ops.sum(g * g), [t])
    y, g, h = run(Graph([t], [y, g, h]), [x])
    np.testing.assert_allclose(y, [[[0, 5]]])
    np.testing.assert_allclose(g, [[[0, 0, 0.6, 0.8]]])
    assert np.isfinite(h).all()


def test_second_derivative_of_pools_by_index_is_a_gather(rng):
    """No maximum is taken of what arrives at the gradient: it is read at the same places."""
    x = rng.standard_normal((1, 1, 7, 5))
    (t,) = inputs_for([x])
    for y in (ops.max_pool(t, 3, 2, 1), ops.adaptive_max_pool(t, (3, 2)),
              ops.fractional_max_pool(t, 2, 3, samples=np.full((1, 1, 2), 0.4))):  # fmt: skip
        (g,) = sg.grad(ops.sum(y * y * y), [t])
        (h,) = sg.grad(ops.sum(g), [t])
        value, second = run(Graph([t], [y, h]), [x])
        places = np.zeros(x.shape)
        for v in value.ravel():
            places[x == v] += 6 * v
        np.testing.assert_allclose(second, places, rtol=1e-12)


def test_a_thin_border_keeps_its_sum():
    """The constant's gradient is the sum of the border itself, not a difference of large sums."""
    x, c = np.zeros((300, 300), "float32"), np.array(0.0, "float32")
    inputs = inputs_for([x, c])
    y = ops.pad(inputs[0], ((1, 0), (0, 0)), constant_values=inputs[1])
    v = np.full(y.shape, 1e4, "float32")
    v[0] = 1e-4
    got = run(Graph(inputs, sg.vjp([y], inputs, [v])), [x, c])
    assert got[1] == pytest.approx(300e-4, rel=1e-6)


def test_taps_of_no_weight_read_nothing():
    """An infinity spreads as far as the elements it is part of, and no further."""
    x = np.array([[[np.inf, 1.0, 2.0, 3.0]]])
    ahead, aligned = values(ops.interpolate(x, 8, mode="linear"),
                            ops.interpolate(x, 7, None, "linear", True))  # fmt: skip
    assert np.isinf(ahead[0, 0]).tolist() == [True] * 3 + [False] * 5
    np.testing.assert_allclose(aligned[0, 0], [np.inf, np.inf, 1, 1.5, 2, 2.5, 3])


def test_points_that_are_no_numbers_read_no_memory():
    x = np.arange(12.0).reshape(3, 4)
    (t, p) = inputs_for([x, np.zeros((2, 4))])
    points = np.array([[np.nan, np.inf, -np.inf, 1e300], [0.0, 1.0, 2.0, 3.0]])
    for mode in ("constant", "nearest", "mirror", "reflect", "wrap"):
        got = sg.compile(ops.map_coordinates(t, p, 1, mode), [t, p])(x, points)
        assert got.shape == (4,)


def test_max_unpool_tests_its_indices():
    x = np.ones((1, 1, 2))
    t, i = inputs_for([x, np.zeros((1, 1, 2), "int64")])
    function = sg.compile(ops.max_unpool(t, i, 2), [t, i])
    np.testing.assert_array_equal(function(x, np.array([[[1, 3]]])), [[[0, 1, 0, 1]]])
    with pytest.raises(NumericError):
        function(x, np.array([[[1, 4]]]))


def test_pool_output_size_counts_windows():
    assert ops.pool_output_size(7, 2) == (3,)
    assert ops.pool_output_size((7, 7), 3, 2, ((1, 0), (0, 0)), 1, True) == (4, 3)
    for g in itertools.product(range(3, 8), (2, 3), (1, 2, 3), (0, 1), (1, 2), (False, True)):
        if starts(*g):
            assert ops.pool_output_size(*g) == (len(starts(*g)),)


# ---------------------------------------------------------------------------- errors


def leaf(*shape, dtype="float32"):
    return apply(INPUT, name="x", type=spec(shape, dtype))


IMG, SEQ, COMPLEX = leaf(2, 3, 8, 8), leaf(2, 3, 8), leaf(2, 3, 8, dtype="complex64")
# fmt: off
MESSAGES = [
    (lambda: ops.unfold(leaf(3, 4), 2), ShapeError,
     "unfold: needs x (N, C, spatial...), got f32[3, 4]"),
    (lambda: ops.unfold(IMG, 9), ShapeError,
     "unfold: kernel (9, 9) with padding 0 does not fit size (8, 8)"),
    (lambda: ops.fold(leaf(2, 12, 9), (4, 4), (3, 2)), ShapeError,
     "fold: size (4, 4) with kernel (3, 2) has columns (N, C * 6, 6), got f32[2, 12, 9]"),
    (lambda: ops.fold(leaf(1, 4, 3, dtype="bool"), (4,), 2), GraphTypeError,
     "fold: needs numbers to add, got b1[1, 2, 2, 3]"),
    (lambda: ops.depthwise_conv_transpose(SEQ, leaf(3, 1, 2), divisor=2), ShapeError,
     "depthwise_conv_transpose: weight must be (C, 1, kernel...) for the 3 channels of x, in parts"
     " of divisor=2, got f32[3, 1, 2]"),
    (lambda: ops.depthwise_conv_transpose(SEQ, leaf(3, 1, 2), divisor=0), GraphTypeError,
     "depthwise_conv_transpose: divisor is an int >= 1, got 0"),
    (lambda: ops.temporal_row_conv(SEQ, leaf(3, 2)), ShapeError,
     "temporal_row_conv: needs x (N, time, features) and weight (features, k), got f32[2, 3, 8],"
     " f32[3, 2]"),
    (lambda: ops.convolve(SEQ, leaf(3)), ShapeError,
     "convolve: needs two sequences of one axis, got f32[2, 3, 8] and f32[3]"),
    (lambda: ops.correlate(leaf(3), leaf(2), "all"), GraphTypeError,
     "correlate: mode is 'full', 'same' or 'valid', got 'all'"),
    (lambda: ops.conv_weight_grad(SEQ, leaf(2, 4, 5), 3), ShapeError,
     "conv_weight_grad: input f32[2, 3, 8], kernel f32[4, 3, 3] and output f32[2, 4, 5] do not"
     " belong together with groups=1 (the output should be (2, 4, 6))"),
    (lambda: ops.max_pool(leaf(1, 1, 1), 2, 1, 1, 2), ShapeError,
     "max_pool: padding 1 leaves windows without an element of x"),
    (lambda: ops.max_pool(leaf(2, 8), 2, channel_last=True), ShapeError,
     "max_pool: needs x (N, spatial..., C), got f32[2, 8]"),
    (lambda: ops.sum_pool_adjoint(SEQ, 9, 2), ShapeError,
     "sum_pool_adjoint: an x of size (9,) has (4,) windows, got f32[2, 3, 8]"),
    (lambda: ops.lp_pool(IMG, 0, 2), GraphTypeError, "lp_pool: p is a number > 0, got 0"),
    (lambda: ops.feature_lp_pool(IMG, 2, 4), ShapeError,
     "feature_lp_pool: kernel (4,) with padding 0 does not fit size (3,)"),
    (lambda: ops.global_max_pool(leaf(2, 3)), ShapeError,
     "global_max_pool: needs x (N, C, spatial...), got f32[2, 3]"),
    (lambda: ops.unpool(IMG, (2,)), ShapeError, "unpool: kernel_size needs 2 ints >= 1, got (2,)"),
    (lambda: ops.max_unpool(SEQ, leaf(2, 3, 4, dtype="int64"), 2), ShapeError,
     "max_unpool: x and indices must have one shape, got f32[2, 3, 8] and i64[2, 3, 4]"),
    (lambda: ops.max_unpool(SEQ, leaf(2, 3, 8, dtype="int64")), GraphTypeError,
     "max_unpool: give kernel_size or output_size"),
    (lambda: ops.adaptive_avg_pool(IMG, (2, 3, 4)), ShapeError,
     "adaptive_avg_pool: output_size needs 2 ints >= 1, got (2, 3, 4)"),
    (lambda: ops.adaptive_max_pool(COMPLEX, 2), GraphTypeError,
     "adaptive_max_pool: needs real numbers, got c64[2, 3, 8]"),
    (lambda: ops.adaptive_max_pool2d(SEQ, 2), ShapeError,
     "adaptive_max_pool2d: x needs 2 + 2 axes (N, C, spatial), got f32[2, 3, 8]"),
    (lambda: ops.fractional_max_pool(IMG, 2, 4), GraphTypeError,
     "fractional_max_pool: needs samples (N, C, 2), such as sg.random.uniform gives"),
    (lambda: ops.fractional_max_pool(IMG, 2, 4, samples=leaf(2, 3)), ShapeError,
     "fractional_max_pool: samples are floats of shape (2, 3, 2) for x f32[2, 3, 8, 8], got"
     " f32[2, 3]"),
    (lambda: ops.fractional_max_pool(IMG, 3, 7, samples=leaf(2, 3, 2)), ShapeError,
     "fractional_max_pool: kernel (3, 3) has no (7, 7) windows in size (8, 8)"),
    (lambda: ops.fractional_max_pool(IMG, 3), GraphTypeError,
     "fractional_max_pool: give either output_size or output_ratio"),
    (lambda: ops.fractional_max_pool(IMG, 3, output_ratio=2.0), GraphTypeError,
     "fractional_max_pool: output_ratio is between 0 and 1, got 2.0"),
    (lambda: ops.fractional_max_pool(SEQ, 2, 4), ShapeError,
     "fractional_max_pool: x needs 2 or 3 spatial axes, got f32[2, 3, 8]"),
    (lambda: ops.pool_output_size(4, 5), ShapeError,
     "pool_output_size: kernel (5,) with padding 0 does not fit size (4,)"),
    (lambda: ops.pad(leaf(0, 2), 1, "edge"), ShapeError,
     "pad: axis 0 of f32[0, 2] is empty, mode 'edge' has nothing to copy"),
    (lambda: ops.pad(SEQ, 1, "mirror"), GraphTypeError,
     "pad: mode is constant, reflect, symmetric, edge or wrap, got 'mirror'"),
    (lambda: ops.roll(SEQ, 0.5, 0), GraphTypeError,
     "roll: shift is an int or one int per axis, got 0.5"),
    (lambda: ops.roll(SEQ, (1, 2, 3), (0, 1)), ShapeError, "roll: 3 shifts do not fit 2 axes"),
    (lambda: ops.shift(SEQ, 1, border="wrap"), GraphTypeError,
     "shift: border is 'nearest' or 'reflect', got 'wrap'"),
    (lambda: ops.rot90(SEQ, 1, (0, -3)), ShapeError,
     "rot90: needs two different axes of f32[2, 3, 8], got (0, -3)"),
    (lambda: ops.repeat(SEQ, [1, 2], 1), ShapeError,
     "repeat: axis 1 of f32[2, 3, 8] needs 3 counts, got 2"),
    (lambda: ops.interpolate(IMG), GraphTypeError,
     "interpolate: give either size or scale_factor"),
    (lambda: ops.interpolate(IMG, 4, mode="cosine"), GraphTypeError,
     "interpolate: mode is one of nearest, nearest-exact, linear, bilinear, trilinear, cubic,"
     " bicubic, area, got 'cosine'"),
    (lambda: ops.interpolate(SEQ, 4, mode="bilinear"), ShapeError,
     "interpolate: mode 'bilinear' needs x (N, C, 2 axes), got f32[2, 3, 8]"),
    (lambda: ops.interpolate(IMG, 4, align_corners=True), GraphTypeError,
     "interpolate: mode 'nearest' takes no align_corners"),
    (lambda: ops.interpolate(IMG, scale_factor=0.1), ShapeError,
     "interpolate: scale_factor 0.1 leaves nothing of size (8, 8)"),
    (lambda: ops.interpolate(IMG, scale_factor=-1), GraphTypeError,
     "interpolate: scale_factor is a number > 0 or one per spatial axis, got -1"),
    (lambda: ops.interpolate(leaf(1, 1, 4, dtype="bool"), 2), GraphTypeError,
     "resample: needs numbers, got b1[1, 1, 4]"),
    (lambda: ops.map_coordinates(SEQ, leaf(2, 5)), ShapeError,
     "map_coordinates: needs coordinates (axes of x, points...) for a tensor with elements, got"
     " f32[2, 3, 8] and f32[2, 5]"),
    (lambda: ops.map_coordinates(SEQ, leaf(3, 5), 3), GraphTypeError,
     "map_coordinates: order is 0 or 1, got 3"),
    (lambda: ops.grid_sample(IMG, leaf(2, 5, 3)), ShapeError,
     "grid_sample: needs x (N, C, spatial...) and grid (N, places..., axes), got f32[2, 3, 8, 8]"
     " and f32[2, 5, 3]"),
    (lambda: ops.grid_sample(IMG, leaf(2, 5, 2), "bicubic"), GraphTypeError,
     "grid_sample: mode is bilinear, linear or nearest, got 'bicubic'"),
    (lambda: ops.grid_sample(IMG, leaf(2, 5, 2), padding_mode="wrap"), GraphTypeError,
     "grid_sample: padding_mode is zeros, border or reflection, got 'wrap'"),
]
# fmt: on


@pytest.mark.parametrize(("write", "kind", "message"), MESSAGES)
def test_message(write, kind, message):
    with pytest.raises(kind) as caught:
        write()
    assert caught.value.summary == message
    assert caught.value.where[0] == __file__

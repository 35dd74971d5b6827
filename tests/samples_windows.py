"""Rows for windows beyond the plain ones: unfold, pools, borders, resizing, points."""

from __future__ import annotations

import itertools

import numpy as np
import windows
from sampling import distinct, fixed, ints, normal, positive, row
from scipy import ndimage

from staticgraph import ops
from staticgraph.operands import constant


def last(x):
    """Channels moved to the end."""
    return np.moveaxis(x, 1, -1)


def first(x):
    return np.moveaxis(x, -1, 1)


# ---------------------------------------------------------------------------- convolutions


def columns(x, kernel, **window):
    """im2col by its definition."""
    geometry = list(windows.places(x, kernel, **window))
    y = np.zeros((*x.shape[:2], int(np.prod(kernel)), len(geometry)))
    for o, (_, inside) in enumerate(geometry):
        for k, at in inside:
            y[:, :, np.ravel_multi_index(k, kernel), o] = x[(..., *at)]
    return y.reshape(x.shape[0], -1, len(geometry))


def image(y, size, kernel, **window):
    """col2im by its definition."""
    x = np.zeros((y.shape[0], y.shape[1] // int(np.prod(kernel)), *size))
    y = y.reshape(*x.shape[:2], -1, y.shape[2])
    for o, (_, inside) in enumerate(windows.places(x, kernel, **window)):
        for k, at in inside:
            x[(..., *at)] += y[:, :, np.ravel_multi_index(k, kernel), o]
    return x


def by_rows(x, w, b):
    """temporal_row_conv with stride 2 and padding 1, time on axis 1."""
    wide = np.pad(x, ((0, 0), (1, 1), (0, 0)))
    steps = [
        (wide[:, o : o + w.shape[1]] * w.T).sum(1) + b
        for o in range(0, wide.shape[1] - w.shape[1] + 1, 2)
    ]
    return np.stack(steps, 1)


def divided(y, w, divisor):
    """depthwise_conv_transpose in one dimension, without stride."""
    parts = [[np.convolve(y[n, c], w[c, 0]) for c in range(y.shape[1])] for n in range(y.shape[0])]
    return np.array(parts).reshape(y.shape[0], -1, divisor, len(parts[0][0])).sum(2)


SIDES = dict(stride=(2, 1), low=(1, 0), high=(1, 2), dilation=(1, 2))
CONV = [
    row("conv_weight_grad", lambda x, y: ops.conv_weight_grad(x, y, 3, 2, ((1, 0),)),
        [normal(2, 3, 6), normal(2, 4, 3)],
        lambda x, y: windows.kernel_gradient(x, y, (3,), stride=2, low=1), label="public"),
    row("depthwise_conv_transpose",
        lambda y, w, b: ops.depthwise_conv_transpose(y, w, b, divisor=2),
        [normal(2, 4, 5), normal(4, 1, 3), normal(2)],
        lambda y, w, b: divided(y, w, 2) + b[:, None]),
    row("temporal_row_conv", lambda x, w, b: ops.temporal_row_conv(x, w, b, 2, 1),
        [normal(2, 7, 3), normal(3, 4), normal(3)], by_rows),
    row("temporal_row_conv", lambda x, w, b: ops.temporal_row_conv(x, w, b, 2, 1, feat_first=True),
        [normal(2, 3, 7), normal(3, 4), normal(3)], lambda x, w, b: last(by_rows(last(x), w, b)),
        label="feat_first"),
    *(row(name, lambda x, w, name=name, mode=mode: getattr(ops, name)(x, w, mode),
          [normal(n), normal(m)],
          lambda x, w, name=name, mode=mode: getattr(np, name)(x, w, mode), label=f"{mode}{n}by{m}")
      for name in ("convolve", "correlate")
      for mode, n, m in (("full", 6, 3), ("same", 6, 4), ("valid", 3, 5))),
    row("unfold", lambda x: ops.unfold(x, (3, 2), (1, 2), ((1, 1), (0, 2)), (2, 1)),
        normal(2, 3, 5, 4), lambda x: columns(x, (3, 2), **SIDES)),
    row("unfold", lambda x: ops.unfold(x, 2), ints(0, 9, 1, 2, 4, dtype="int32"),
        lambda x: columns(x, (2,)).astype("int32"), label="ints"),
    row("fold", lambda y: ops.fold(y, (5, 4), (3, 2), (1, 2), ((1, 1), (0, 2)), (2, 1)),
        normal(2, 18, 12), lambda y: image(y, (5, 4), (3, 2), **SIDES)),
    row("fold", lambda y: ops.fold(y, (3, 2, 2), 2), normal(1, 16, 2),
        lambda y: image(y, (3, 2, 2), (2, 2, 2)), label="3d"),
]  # fmt: skip


# ---------------------------------------------------------------------------- pooling


def power_mean(p):
    return lambda x, axis: (x**p).sum(axis) ** (1 / p)


def adaptive(x, size, combine):
    """Adaptive windows over the last axes, by their definition."""
    spatial = x.shape[x.ndim - len(size) :]
    y = np.zeros((*x.shape[: x.ndim - len(size)], *size))
    for o in np.ndindex(*size):
        part = tuple(
            slice(i * n // s, -(-(i + 1) * n // s))
            for i, n, s in zip(o, spatial, size, strict=True)
        )
        y[(..., *o)] = combine(x[(..., *part)].reshape(*x.shape[: x.ndim - len(size)], -1), axis=-1)
    return y


def where_from(x, y):
    """Row-major places in x, whose elements differ, of the elements of y."""
    plane = x.reshape(*x.shape[:2], -1)
    same = y.reshape(*y.shape[:2], -1, 1) == plane[:, :, None]
    return same.argmax(-1).reshape(y.shape)


def fractional(x, u, kernel, size):
    """Fractional max pooling by its definition; u in the order of the axes."""
    y = np.zeros((*x.shape[:2], *size))
    for n, c in np.ndindex(*x.shape[:2]):
        starts = []
        for v, length, k, o in zip(u[n, c], x.shape[2:], kernel, size, strict=True):
            a = (length - k) / (o - 1) if o > 1 else 0
            starts.append([int((i + v) * a) - int(v * a) for i in range(o - 1)] + [length - k])
        for o in np.ndindex(*size):
            part = tuple(slice(s[i], s[i] + k) for s, i, k in zip(starts, o, kernel, strict=True))
            y[(n, c, *o)] = x[(n, c, *part)].max()
    return y


def spatial_places(x, kernel, **window):
    """Row-major places in the spatial axes of the first maxima."""
    best = windows.first_places(x, kernel, **window)
    y = np.zeros(best.shape, "int64")
    for o, inside in windows.places(x, kernel, **window):
        for k, at in inside:
            here = best[(..., *o)] == np.ravel_multi_index(k, kernel)
            y[(..., *o)] = np.where(here, np.ravel_multi_index(at, x.shape[2:]), y[(..., *o)])
    return y


def scattered(x, index, size):
    """Zeros with x at flat places, means where several meet."""
    y, count = np.zeros((2, *x.shape[:2], int(np.prod(size))))
    for at in np.ndindex(*x.shape):
        y[(*at[:2], index[at])] += x[at]
        count[(*at[:2], index[at])] += 1
    return (y / np.maximum(count, 1)).reshape(*x.shape[:2], *size)


OVERLAP = dict(stride=2, low=1, high=1)
SQUARE = dict(kernel=(3, 3), **OVERLAP)
U2, U3 = np.array([[[0.31, 0.77], [0.05, 0.5]]]), np.array([[[0.9, 0.13, 0.42]]])
AT = np.array([[[[0, 3], [9, 11]], [[2, 2], [5, 7]]]])

POOL = [
    row("pool_output_size", lambda: constant(ops.pool_output_size((7, 8), 3, 2, 1, 1, True)), [],
        lambda: np.array([4, 5])),
    row("max_pool", lambda x: ops.max_pool(x, 3, 2, 1, return_indices=True), distinct(2, 1, 5, 4),
        lambda x: (windows.pool(x, (3, 3), np.max, **{**OVERLAP, "high": (1, 0)}),
                   spatial_places(x, (3, 3), **{**OVERLAP, "high": (1, 0)})), label="indices"),
    row("max_pool", lambda x: ops.max_pool(x, 3, 2, 1, return_indices=True, channel_last=True),
        distinct(2, 5, 5, 3),
        lambda x: (last(windows.pool(first(x), (3, 3), np.max, **OVERLAP)),
                   last(spatial_places(first(x), (3, 3), **OVERLAP))), label="channel_last"),
    row("sum_pool", lambda x: ops.sum_pool(x, 2, 1, channel_last=True), normal(1, 3, 4, 2),
        lambda x: last(windows.pool(first(x), (2, 2), np.sum)), label="channel_last"),
    row("avg_pool", lambda x: ops.avg_pool(x, 3, 2, 1, True, False, channel_last=True),
        normal(1, 6, 5, 3), lambda x: last(windows.pool(
            first(x), (3, 3), np.mean, stride=2, low=1, high=(2, 1))), label="channel_last"),
    row("avg_pool", lambda x: ops.avg_pool(x, 2, 2), ints(0, 9, 1, 2, 4),
        lambda x: windows.pool(x, (2,), np.mean, stride=2).astype("float32"), 0, "ints"),
    row("sum_pool_adjoint", lambda y: ops.sum_pool_adjoint(y, (5, 4), 3, 2, 1), normal(2, 1, 3, 2),
        lambda y: sum(windows.put(y, np.full(y.shape, k), (5, 4), (3, 3), stride=2, low=1,
                                  high=(1, 0)) for k in range(9)), label="public"),
    row("avg_pool_adjoint",
        lambda y: ops.avg_pool_adjoint(y, 5, 3, 2, 1, count_include_pad=False), normal(1, 2, 3),
        lambda y: sum(windows.put(y / [2, 3, 2], np.full(y.shape, k), (5,), (3,), **OVERLAP)
                      for k in range(3))),
    row("lp_pool", lambda x: ops.lp_pool(x, 3, 3, 2, 1), positive(1, 2, 5, 5),
        lambda x: windows.pool(x, (3, 3), power_mean(3), **OVERLAP), 3),
    row("lp_pool1d", lambda x: ops.lp_pool1d(x, 1, 2), normal(1, 2, 6),
        lambda x: windows.pool(x, (2,), np.sum, stride=2)),
    row("lp_pool2d", lambda x: ops.lp_pool2d(x, 1.5, 2, channel_last=True), positive(1, 4, 4, 2),
        lambda x: last(windows.pool(first(x), (2, 2), power_mean(1.5), stride=2))),
    row("lp_pool3d", lambda x: ops.lp_pool3d(x, 2, 2), normal(1, 1, 2, 4, 2),
        lambda x: windows.pool(x, (2, 2, 2), power_mean(2), stride=2)),
    row("feature_lp_pool", lambda x: ops.feature_lp_pool(x, 2, 3, 2), normal(2, 7, 3),
        lambda x: last(windows.pool(last(x), (3,), power_mean(2), stride=2))),
    row("global_avg_pool", lambda x: ops.global_avg_pool(x, True, True), normal(2, 3, 4, 2),
        lambda x: x.mean((1, 2), keepdims=True), label="channel_last"),
    row("global_max_pool", ops.global_max_pool, distinct(2, 3, 9, 8), lambda x: x.max((2, 3))),
    row("global_max_pool", lambda x: ops.global_max_pool(x, True, True), distinct(2, 4, 3),
        lambda x: x.max(1, keepdims=True), label="channel_last"),
    row("unpool", lambda x: ops.unpool(x, (2, 3)), normal(1, 2, 2, 3),
        lambda x: x.repeat(2, 2).repeat(3, 3)),
    row("unpool", lambda x: ops.unpool(x, 2, channel_last=True), normal(1, 3, 2),
        lambda x: x.repeat(2, 1), label="channel_last"),
    row("avg_unpool", lambda x: ops.avg_unpool(x, (2, 3)), normal(1, 2, 2, 3),
        lambda x: x.repeat(2, 2).repeat(3, 3) / 6),
    row("max_unpool", lambda x, i: ops.max_unpool(x, i, output_size=(4, 3)),
        [normal(1, 2, 2, 2), fixed(AT, "int64")], lambda x, i: scattered(x, i, (4, 3))),
    row("max_unpool1d", lambda x, i: ops.max_unpool1d(x, i, 3, 2, 1),
        [normal(2, 1, 3), fixed([[[0, 1, 4]], [[1, 3, 4]]], "int64")],
        lambda x, i: scattered(x, i, (5,))),
    row("max_unpool2d", lambda x: ops.max_unpool2d(*ops.max_pool2d(x, 2, return_indices=True), 2),
        distinct(1, 2, 4, 4), lambda x: np.where(
            x == windows.pool(x, (2, 2), np.max, stride=2).repeat(2, 2).repeat(2, 3), x, 0)),
    row("max_unpool3d", lambda x: ops.max_unpool3d(x, np.array([[[[[6]]]]]), 2),
        normal(1, 1, 1, 1, 1), lambda x: scattered(x, np.full(x.shape, 6), (2, 2, 2))),
    *(row(f"adaptive_avg_pool{label}", lambda x, f=f, size=size: f(x, size), normal(*shape),
          lambda x, wanted=wanted: adaptive(x, wanted, np.mean))
      for label, f, shape, size, wanted in (
          ("", ops.adaptive_avg_pool, (1, 2, 7, 5), (3, None), (3, 5)),
          ("1d", ops.adaptive_avg_pool1d, (2, 2, 5), 8, (8,)),
          ("2d", ops.adaptive_avg_pool2d, (1, 2, 6, 4), 2, (2, 2)),
          ("3d", ops.adaptive_avg_pool3d, (1, 1, 3, 4, 5), (2, 4, 3), (2, 4, 3)))),
    *(row(f"adaptive_max_pool{label}", lambda x, f=f, size=size: f(x, size), distinct(*shape),
          lambda x, wanted=wanted: adaptive(x, wanted, np.max))
      for label, f, shape, size, wanted in (
          ("", ops.adaptive_max_pool, (1, 2, 7, 5), (3, None), (3, 5)),
          ("1d", ops.adaptive_max_pool1d, (2, 2, 5), 8, (8,)),
          ("2d", ops.adaptive_max_pool2d, (1, 2, 6, 4), 2, (2, 2)),
          ("3d", ops.adaptive_max_pool3d, (1, 1, 3, 4, 5), (2, 4, 3), (2, 4, 3)))),
    row("adaptive_max_pool", lambda x: ops.adaptive_max_pool(x, (3, 2), True), distinct(1, 2, 4, 5),
        lambda x: (adaptive(x, (3, 2), np.max), where_from(x, adaptive(x, (3, 2), np.max))),
        label="indices"),
    row("fractional_max_pool2d", lambda x: ops.fractional_max_pool2d(x, (2, 3), (4, 3), samples=U2),
        distinct(1, 2, 7, 8), lambda x: fractional(x, U2[..., ::-1], (2, 3), (4, 3))),
    row("fractional_max_pool3d",
        lambda x: ops.fractional_max_pool3d(x, 2, output_ratio=0.6, samples=U3),
        distinct(1, 1, 5, 4, 6), lambda x: fractional(x, U3, (2, 2, 2), (3, 2, 3))),
]  # fmt: skip
POOL.append(
    row("fractional_max_pool",
        lambda x, u: ops.fractional_max_pool(x, 2, (1, 2), samples=u),
        [distinct(1, 1, 3, 5), fixed([[[0.2, 0.9]]], "float64")],
        lambda x, u: fractional(x, u[..., ::-1], (2, 2), (1, 2)))
)  # fmt: skip


# ---------------------------------------------------------------------------- borders

MOVE = [
    row("pad", lambda x: ops.pad(x, ((7, 0), (4, 9)), "reflect"), normal(3, 4),
        lambda x: np.pad(x, ((7, 0), (4, 9)), "reflect"), label="far"),
    row("pad", lambda x: ops.pad(x, ((0, 0), (5, 8)), "symmetric"), normal(2, 3),
        lambda x: np.pad(x, ((0, 0), (5, 8)), "symmetric"), label="far symmetric"),
    row("pad", lambda x: ops.pad(x, 3, "circular"), normal(2, 2), lambda x: np.pad(x, 3, "wrap"),
        label="far wrap"),
    row("roll", lambda x: ops.roll(x, -2), normal(3, 4), lambda x: np.roll(x, -2)),
    row("roll", lambda x: ops.roll(x, (1, -7), (0, -1)), normal(3, 4),
        lambda x: np.roll(x, (1, -7), (0, 1)), label="axes"),
    row("shift", lambda x: ops.shift(x, 2), normal(3, 5),
        lambda x: ndimage.shift(x, (0, 2), order=0, mode="nearest")),
    row("shift", lambda x: ops.shift(x, (-4, 1), (0, 1), "reflect"), normal(3, 5),
        lambda x: ndimage.shift(x, (-4, 1), order=0, mode="reflect"), label="reflect"),
    *(row("rot90", lambda x, k=k: ops.rot90(x, k, (1, 2)), normal(2, 3, 4),
          lambda x, k=k: np.rot90(x, k, (1, 2)), label=str(k)) for k in (-1, 1, 2)),
    row("repeat", lambda x: ops.repeat(x, 3, 0), normal(2, 3), lambda x: np.repeat(x, 3, 0)),
    row("repeat", lambda x: ops.repeat(x, [2, 0, 1], 1), normal(2, 3),
        lambda x: np.repeat(x, [2, 0, 1], 1), label="counts"),
]  # fmt: skip


# ---------------------------------------------------------------------------- resizing


def source(i, n, size, align):
    return i * (n - 1) / max(size - 1, 1) if align else (i + 0.5) * n / size - 0.5


def keys(t, a=-0.75):
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def matrix(n, size, mode, align=False):
    """The matrix of a resize of one axis, entry by entry from the formulas of the catalogue."""
    a = np.zeros((size, n))
    for i in range(size):
        if mode == "nearest":
            a[i, min(i * n // size, n - 1)] = 1
        elif mode == "nearest-exact":
            a[i, int((i + 0.5) * n / size)] = 1
        elif mode == "area":
            part = slice(i * n // size, -(-(i + 1) * n // size))
            a[i, part] = 1 / (part.stop - part.start)
        elif mode == "linear":
            c = max(source(i, n, size, align), 0)
            k = min(int(c), n - 1)
            a[i, k] += 1 - (c - k)
            a[i, min(k + 1, n - 1)] += c - k
        else:
            c = source(i, n, size, align)
            for k in range(int(np.floor(c)) - 1, int(np.floor(c)) + 3):
                a[i, min(max(k, 0), n - 1)] += keys(c - k)
    return a


def resized(x, size, mode, align=False, transposed=False):
    for axis, s in enumerate(size, x.ndim - len(size)):
        n = x.shape[axis]
        a = matrix(s, n, mode, align).T if transposed else matrix(n, s, mode, align)
        x = np.moveaxis(np.tensordot(a, x, (1, axis)), 0, axis)
    return x


CASES = [
    ("nearest", "nearest", False, (1, 2, 5, 3), (3, 7)),
    ("nearest-exact", "nearest-exact", False, (1, 2, 5, 3), (3, 7)),
    ("linear", "linear", False, (2, 1, 5), (9,)),
    ("bilinear", "linear", False, (1, 2, 4, 6), (8, 3)),
    ("bilinear", "linear", True, (1, 2, 4, 3), (7, 1)),
    ("trilinear", "linear", False, (1, 1, 2, 3, 2), (4, 2, 3)),
    ("bicubic", "cubic", False, (1, 1, 5, 4), (7, 3)),
    ("cubic", "cubic", True, (1, 2, 5), (8,)),
    ("area", "area", False, (1, 1, 5, 4), (3, 6)),
]
RESIZE = [
    *(row("interpolate",
          lambda x, size=size, mode=mode, align=align: ops.interpolate(x, size, None, mode, align),
          normal(*shape),
          lambda x, size=size, rule=rule, align=align: resized(x, size, rule, align),
          label=mode + "-aligned" * align)
      for mode, rule, align, shape, size in CASES),
    row("interpolate", lambda x: ops.resize(x, scale_factor=(1.5, 2)),
        ints(-9, 9, 1, 2, 3, 2, dtype="int16"),
        lambda x: resized(x, (4, 4), "nearest").astype("int16"), 0, "scale"),
    row("interpolate_adjoint", lambda y: ops.interpolate_adjoint(y, (4, 6), "bilinear"),
        normal(1, 2, 8, 3), lambda y: resized(y, (4, 6), "linear", transposed=True)),
    row("interpolate_adjoint", lambda y: ops.interpolate_adjoint(y, 5, "cubic", True),
        normal(1, 2, 8), lambda y: resized(y, (5,), "cubic", True, True), label="cubic"),
]  # fmt: skip


# ---------------------------------------------------------------------------- points


def sampled(x, points, mode):
    """SciPy's linear interpolation of each channel at points (N, places..., axes)."""
    y = [
        [ndimage.map_coordinates(c, np.moveaxis(p, -1, 0), order=1, mode=mode) for c in image]
        for image, p in zip(x, points, strict=True)
    ]
    return np.array(y)


#: coordinates off the elements, inside and outside of 4 by 5
POINTS = np.array(list(itertools.product((-2.7, -0.4, 1.3, 2.8, 3.6, 6.1), (-1.6, 0.7, 4.2)))).T
GRID = np.random.default_rng(3).uniform(-1.5, 1.5, (2, 3, 2, 2))


def pixels(g, shape, align):
    """Coordinates in elements, first axis first."""
    n = np.array(shape)
    g = g[..., ::-1]
    return (g + 1) / 2 * (n - 1) if align else ((g + 1) * n - 1) / 2


SAMPLED = [
    *(row("map_coordinates", lambda x, p, mode=mode: ops.map_coordinates(x, p, 1, mode, 0.7),
          [normal(4, 5), fixed(POINTS)],
          lambda x, p, rule=rule: ndimage.map_coordinates(x, p, order=1, mode=rule, cval=0.7),
          label=mode)
      for mode, rule in (("constant", "grid-constant"), ("nearest", "nearest"),
                         ("mirror", "mirror"), ("reflect", "reflect"), ("wrap", "grid-wrap"))),
    row("map_coordinates", lambda x, p: ops.map_coordinates(x, p, 0, "nearest"),
        [normal(4, 5), fixed(POINTS)],
        lambda x, p: x[tuple(np.clip(np.rint(p), 0, [[3], [4]]).astype(int))], 1, "order 0"),
    row("grid_sample", ops.grid_sample, [normal(2, 3, 4, 5), fixed(GRID)],
        lambda x, g: sampled(x, pixels(g, (4, 5), False), "grid-constant")),
    row("grid_sample", lambda x, g: ops.grid_sample(x, g, "bilinear", "reflection", True),
        [normal(2, 1, 4, 5), fixed(GRID)],
        lambda x, g: sampled(x, pixels(g, (4, 5), True), "mirror"), 3, label="reflection"),
    row("grid_sample", lambda x, g: ops.grid_sample(x, g, "linear", "border"),
        [normal(1, 2, 2, 3, 4), fixed(np.random.default_rng(4).uniform(-1.3, 1.3, (1, 5, 3)))],
        lambda x, g: sampled(x, pixels(g, (2, 3, 4), False), "nearest"), label="3d"),
]  # fmt: skip

WINDOWS = [*CONV, *POOL, *MOVE, *RESIZE, *SAMPLED]

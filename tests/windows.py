"""Convolution and pooling by plain loops over places and offsets: the oracles of their rows."""

from __future__ import annotations

import itertools

import numpy as np


def _all(value, rank):
    return (value,) * rank if isinstance(value, int) else tuple(value)


def places(x, kernel, stride=1, low=0, high=0, dilation=1):
    """For each window: its place, and (offset, index in x) of its elements that lie in x."""
    rank = len(kernel)
    stride, low, high, dilation = (_all(v, rank) for v in (stride, low, high, dilation))
    spatial = x.shape[x.ndim - rank :]
    size = [
        (n + lo + hi - d * (k - 1) - 1) // t + 1
        for n, k, t, lo, hi, d in zip(spatial, kernel, stride, low, high, dilation, strict=True)
    ]
    for o in np.ndindex(*size):
        inside = []
        for k in np.ndindex(*kernel):
            at = tuple(
                p * t - lo + i * d
                for p, i, t, lo, d in zip(o, k, stride, low, dilation, strict=True)
            )
            if all(0 <= i < n for i, n in zip(at, spatial, strict=True)):
                inside.append((k, at))
        yield o, inside


def _shape(geometry):
    return tuple(max(o[axis] for o, _ in geometry) + 1 for axis in range(len(geometry[0][0])))


def correlate(x, w, bias=None, groups=1, **window):
    """`conv` in its own words."""
    geometry = list(places(x, w.shape[2:], **window))
    y = np.zeros((x.shape[0], w.shape[0], *_shape(geometry)))
    wide, deep = w.shape[1], w.shape[0] // groups
    for o, inside in geometry:
        for k, at in inside:
            for g, m in itertools.product(range(groups), range(deep)):
                row = g * deep + m
                pixels = x[(slice(None), slice(g * wide, (g + 1) * wide), *at)]
                y[(slice(None), row, *o)] += pixels @ w[(row, slice(None), *k)]
    return y if bias is None else y + bias.reshape(-1, *(1,) * (x.ndim - 2))


def spread(y, w, size, bias=None, groups=1, **window):
    """`conv_transpose` with a result of spatial size `size`."""
    x = np.zeros((y.shape[0], w.shape[1] * groups, *size))
    wide, deep = w.shape[1], w.shape[0] // groups
    for o, inside in places(x, w.shape[2:], **window):
        for k, at in inside:
            for m in range(w.shape[0]):
                first = m // deep * wide
                block = np.outer(y[(slice(None), m, *o)], w[(m, slice(None), *k)])
                x[(slice(None), slice(first, first + wide), *at)] += block
    return x if bias is None else x + bias.reshape(-1, *(1,) * (x.ndim - 2))


def kernel_gradient(x, y, size, groups=1, **window):
    """`conv_weight_grad` for a kernel of spatial size `size`."""
    wide, deep = x.shape[1] // groups, y.shape[1] // groups
    w = np.zeros((y.shape[1], wide, *size))
    for o, inside in places(x, size, **window):
        for k, at in inside:
            for m in range(y.shape[1]):
                first = m // deep * wide
                pixels = x[(slice(None), slice(first, first + wide), *at)]
                w[(m, slice(None), *k)] += y[(slice(None), m, *o)] @ pixels
    return w


def pool(x, kernel, combine, **window):
    """`combine` over the elements of x in each window."""
    geometry = list(places(x, kernel, **window))
    y = np.zeros((*x.shape[: x.ndim - len(kernel)], *_shape(geometry)))
    for o, inside in geometry:
        y[(..., *o)] = combine(np.stack([x[(..., *at)] for _, at in inside]), axis=0)
    return y


def first_places(x, kernel, **window):
    """Row-major kernel offset of the first maximum of each window."""
    geometry = list(places(x, kernel, **window))
    y = np.zeros((*x.shape[: x.ndim - len(kernel)], *_shape(geometry)), "int32")
    for o, inside in geometry:
        best = np.argmax(np.stack([x[(..., *at)] for _, at in inside]), axis=0)
        numbers = np.array([np.ravel_multi_index(k, kernel) for k, _ in inside])
        y[(..., *o)] = numbers[best]
    return y


def pick(x, place, kernel, **window):
    """The element of x at offset `place` of each window."""
    y = np.zeros(place.shape)
    for o, inside in places(x, kernel, **window):
        for k, at in inside:
            here = place[(..., *o)] == np.ravel_multi_index(k, kernel)
            y[(..., *o)] += np.where(here, x[(..., *at)], 0)
    return y


def put(y, place, size, kernel, **window):
    """The transpose of `pick`."""
    x = np.zeros((*y.shape[: y.ndim - len(kernel)], *size))
    for o, inside in places(x, kernel, **window):
        for k, at in inside:
            here = place[(..., *o)] == np.ravel_multi_index(k, kernel)
            x[(..., *at)] += np.where(here, y[(..., *o)], 0)
    return x

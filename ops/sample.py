"""Reading between the elements: a tensor at points with real coordinates.

Value = sum over the corners around a point of the product of their weights, times the element
there. Which corners is a constant of the graph; the weights are linear in the point and the value
is linear in the tensor, so gradients of any order are gathers, products and one scatter_add per
corner.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.operands import cast, promoted
from staticgraph.ops.gather import KNOWN, Gather
from staticgraph.registry import FUNCTIONS, public
from staticgraph.tensor import Tensor
from staticgraph.types import is_complex

#: names of one rule for places outside: SciPy's, and others in use
_OUTSIDE = {
    "constant": "constant",
    "grid-constant": "constant",
    "zeros": "constant",
    "nearest": "nearest",
    "border": "nearest",
    "clamp": "nearest",
    "mirror": "mirror",
    "reflect": "reflect",
    "wrap": "wrap",
    "grid-wrap": "wrap",
}


def _place(i: Tensor, n: int, mode: str) -> tuple[Tensor, Tensor | None]:
    """An index in 0..n-1 for any integer, and where the integer itself was one (None: anywhere)."""
    clip = FUNCTIONS["clip"]
    if mode == "constant":
        inside = FUNCTIONS["logical_and"](i >= 0, i < n)
        return clip(i, 0, n - 1), inside
    if mode == "nearest" or n == 1:
        return clip(i, 0, n - 1), None
    if mode == "wrap":
        return i % n, None
    period, end = (2 * n - 2, 2 * n - 2) if mode == "mirror" else (2 * n, 2 * n - 1)
    turn = i % period
    return FUNCTIONS["minimum"](turn, end - turn), None


def _read(
    x: Tensor, points: Sequence[Tensor], lead: int, order: int, mode: str, cval: float
) -> Tensor:
    """x at one coordinate per axis after the first `lead` ones, which run along.

    Each coordinate has shape (first axis of x or 1 where there are leading axes, ...points).
    """
    sizes = x.shape[lead:]
    rank, block = len(sizes), points[0].ndim
    covered = (0, *range(lead, lead + block - 1)) if lead else tuple(range(block))
    attrs = dict(source=(*range(lead), *(~a for a in range(rank))), index_axes=covered, mode=KNOWN)
    # The weights run along the axes that the points cover, and broadcast over the others.
    shape = (points[0].shape[0], *(1,) * (lead - 1), *points[0].shape[1:]) if lead else None
    floor = FUNCTIONS["floor" if order else "round"]
    whole = [floor(FUNCTIONS["stop_gradient"](p)) for p in points]
    parts = [p - w for p, w in zip(points, whole, strict=True)]
    terms = []
    for corner in itertools.product((0, 1) if order else (0,), repeat=rank):
        places, inside = _places(sizes, whole, corner, mode)
        value = apply(Gather, x, *places, **attrs)
        if inside is not None:
            value = FUNCTIONS["where"](_shaped(inside, shape), value, cval)
        if order:
            weight = prod(p if c else 1 - p for p, c in zip(parts, corner, strict=True))
            value = value * _shaped(weight, shape)
        terms.append(value)
    return FUNCTIONS["add_n"](terms)


def _places(
    sizes: Sequence[int], whole: Sequence[Tensor], corner: Sequence[int], mode: str
) -> tuple[list[Tensor], Tensor | None]:
    """The index of a corner on each axis, and where the corner itself is inside."""
    places, inside = [], None
    for n, w, c in zip(sizes, whole, corner, strict=True):
        place, test = _place(cast(w, "int64") + c, n, mode)
        places.append(place)
        if test is not None:
            inside = test if inside is None else FUNCTIONS["logical_and"](inside, test)
    return places, inside


def _shaped(t: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    return t if shape is None else FUNCTIONS["reshape"](t, shape)


def _real_points(op: str, x: object, points: object) -> tuple[Tensor, Tensor]:
    t, p = promoted(op, [x, points], floating=True)
    if is_complex(t.type.dtype):
        raise GraphTypeError(f"{op}: needs real numbers, got {t.type}")
    return t, p


@public
def map_coordinates(
    x: object, coordinates: object, order: int = 1, mode: str = "constant", cval: float = 0.0
) -> Tensor:
    """x at points in units of its index: y[p] = sum over corners of prod(weights) x[corner].

    `coordinates` is (axes of x, points...), as in scipy.ndimage. `order` 1 joins the 2^axes
    elements around a point linearly, 0 takes the nearest one. Places outside hold `cval`
    ('constant'), or the end element ('nearest'), or x mirrored at it ('mirror') or beyond it
    ('reflect'), or x again ('wrap'). Real numbers; integers become float32. Gradient: scatter_add
    of weights times dy for x, differences of corners for the points, of any order. Raises
    ShapeError where the coordinates do not fit, GraphTypeError for another order or mode. BHG 11.1,
    catalogue 3.10.
    """
    op = "map_coordinates"
    t, p = _real_points(op, x, coordinates)
    if t.ndim == 0 or p.ndim == 0 or p.shape[0] != t.ndim or 0 in t.shape:
        raise ShapeError(
            f"{op}: needs coordinates (axes of x, points...) for a tensor with elements, got"
            f" {t.type} and {p.type}"
        )
    if mode not in _OUTSIDE:
        raise GraphTypeError(f"{op}: mode is one of {', '.join(_OUTSIDE)}, got {mode!r}")
    if order not in (0, 1):
        raise GraphTypeError(f"{op}: order is 0 or 1, got {order!r}")
    return _read(t, [p[a] for a in range(t.ndim)], 0, order, _OUTSIDE[mode], cval)


@public
def grid_sample(
    x: object,
    grid: object,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """x (N, C, spatial...) at the points grid (N, places..., axes), with PyTorch's arguments.

    The last axis of grid names the axes of x from the last to the first, from -1 to 1 over x: the
    centres of the end elements with `align_corners`, else their outer edges. `mode` 'bilinear'
    (or 'linear', for any number of axes) joins the corners around a point, 'nearest' takes one.
    Outside x stands 0 ('zeros'), the end element ('border') or x mirrored ('reflection'). Result
    (N, C, places...); integers become float32. Gradient as in `map_coordinates`. Raises ShapeError
    where x and grid do not fit, GraphTypeError for other modes. BHG 11.1, catalogue 3.10.
    """
    op = "grid_sample"
    t, g = _real_points(op, x, grid)
    sizes = t.shape[2:]
    if not sizes or g.ndim < 2 or (g.shape[0], g.shape[-1]) != (t.shape[0], len(sizes)):
        raise ShapeError(
            f"{op}: needs x (N, C, spatial...) and grid (N, places..., axes), got {t.type} and"
            f" {g.type}"
        )
    orders = {"bilinear": 1, "linear": 1, "nearest": 0}
    reflect = "mirror" if align_corners else "reflect"
    rules = {"zeros": "constant", "border": "nearest", "reflection": reflect}
    if mode not in orders:
        raise GraphTypeError(f"{op}: mode is bilinear, linear or nearest, got {mode!r}")
    if padding_mode not in rules:
        raise GraphTypeError(
            f"{op}: padding_mode is zeros, border or reflection, got {padding_mode!r}"
        )
    points = []
    for a, n in enumerate(sizes):
        v = g[..., len(sizes) - 1 - a]
        points.append((v + 1) * ((n - 1) / 2) if align_corners else ((v + 1) * n - 1) / 2)
    return _read(t, points, 2, orders[mode], rules[padding_mode], 0)

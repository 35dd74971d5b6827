"""Borders around a tensor, and shifts: what lies beyond the ends of an axis.

A border of one value is an op of its own. All others continue x by its own elements, so they are
runs of x, forwards or backwards, joined: slices, flips and a concat, whose gradients are slices.
"""

from __future__ import annotations

import operator

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.nest import Nest
from staticgraph.op import NestOp
from staticgraph.operands import as_tensor, cast, constant, normalize_axis, tensor_argument
from staticgraph.ops.create import full
from staticgraph.ops.join import concat
from staticgraph.ops.shape import broadcast_to, flatten, reshape
from staticgraph.ops.slices import flip, slice_
from staticgraph.registry import FUNCTIONS, public, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType


@register
class Pad(NestOp):
    """x inside a border of the second operand's value (a scalar tensor)."""

    name = "pad"

    def infer(
        self, x: TensorType, value: TensorType, *, low: tuple[int, ...], high: tuple[int, ...]
    ) -> TensorType:
        shape = tuple(a + n + b for a, n, b in zip(low, x.shape, high, strict=True))
        if value != TensorType(x.dtype, ()):
            raise GraphTypeError(f"pad: the value must be {TensorType(x.dtype, ())}, got {value}")
        if any(n < 0 for n in (*low, *high)):
            raise ShapeError(f"pad: widths must be >= 0, got low {low} high {high}")
        return TensorType(x.dtype, shape)

    def nest(self, types, out, *, low, high) -> Nest:
        (x, _) = types
        index, inside = [], s.const(True, "bool")
        for k, n in enumerate(x.shape):
            i = s.axis(k) - low[k]
            if low[k]:
                inside = s.call("logical_and", inside, i >= 0)
            if high[k]:
                inside = s.call("logical_and", inside, i < n)
            index.append(i)
        value = s.load(1, (), out.dtype)
        if x.size == 0:
            return Nest(out.shape, value)
        return Nest(out.shape, s.where(inside, s.load(0, index, out.dtype, inside), value))

    def vjp(self, node, cotangents):
        g, x = cotangents[0], node.operands[0]
        inner = slice_(g, node.attrs["low"], x.shape, (1,) * g.ndim)
        none, zero = (constant(v, dtype) for v, dtype in ((False, "bool"), (0, g.type.dtype)))
        # Not sum(g) - sum(inner): a thin border would drown in the rounding of two large sums.
        covered = apply(self, full(x.shape, True, "bool"), none, **node.attrs)
        return [inner, FUNCTIONS["sum"](FUNCTIONS["where"](covered, zero, g))]

    def jvp(self, node, tangents):
        parts = [
            d if d is not None else constant(np.zeros(t.shape, t.type.dtype))
            for d, t in zip(tangents, node.operands, strict=True)
        ]
        return [apply(self, *parts, **node.attrs)]

    def simplify(self, node):
        return [node.operands[0]] if not any((*node.attrs["low"], *node.attrs["high"])) else None


#: names of one mode: NumPy's, then PyTorch's
_MODES = {
    "reflect": "reflect",
    "symmetric": "symmetric",
    "edge": "edge",
    "replicate": "edge",
    "wrap": "wrap",
    "circular": "wrap",
}


def _run(t: Tensor, axis: int, first: int, count: int, step: int) -> Tensor:
    """`count` neighbours along an axis, forwards or backwards."""
    start, size, steps = [0] * t.ndim, list(t.shape), [1] * t.ndim
    start[axis], size[axis] = first, count
    if step == 1:
        return slice_(t, start, size, steps)
    start[axis] = first - count + 1
    return flip(slice_(t, start, size, steps), axis)


def _continued(t: Tensor, axis: int, start: int, stop: int, mode: str) -> Tensor:
    """Places start..stop-1 of an axis that goes on beyond both ends by the rule of `mode`."""
    n, parts, i = t.shape[axis], [], start
    while i < stop:
        if 0 <= i < n:
            parts.append(_run(t, axis, i, min(n, stop) - i, 1))
            i = min(n, stop)
        elif mode == "edge" or n == 1:
            count = (min(0, stop) if i < 0 else stop) - i
            wide = (*t.shape[:axis], count, *t.shape[axis + 1 :])
            parts.append(broadcast_to(_run(t, axis, 0 if i < 0 else n - 1, 1, 1), wide))
            i += count
        else:
            period, place = divmod(i, n - 1 if mode == "reflect" else n)
            # A mirror at the end element itself: that element belongs to the run before it too.
            count = min(n - place, stop - i, -i if i < 0 else n)
            back = mode != "wrap" and period % 2 == 1
            parts.append(_run(t, axis, n - 1 - place if back else place, count, -1 if back else 1))
            i += count
    return concat(parts, axis) if len(parts) > 1 else parts[0]


def _continued_mode(op: str, mode: object) -> str:
    if not isinstance(mode, str) or mode not in _MODES:
        raise GraphTypeError(
            f"{op}: mode is constant, reflect, symmetric, edge or wrap, got {mode!r}"
        )
    return _MODES[mode]


def _widths(t: Tensor, pad_width: object) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths before and after each axis."""
    try:
        widths = np.broadcast_to(np.asarray(pad_width, dtype=object), (t.ndim, 2))
        low, high = (tuple(map(operator.index, widths[:, k])) for k in (0, 1))
    except (ValueError, TypeError):
        raise ShapeError(
            f"pad: pad_width {pad_width!r} does not fit {t.type}:"
            " give an int, a pair, or a pair per axis"
        ) from None
    if any(w < 0 for w in (*low, *high)):
        raise ShapeError(f"pad: widths must be >= 0, got {pad_width!r}")
    return low, high


@public
def pad(
    x: object, pad_width: object, mode: str = "constant", constant_values: object = 0
) -> Tensor:
    """x with a border, widths and modes as numpy.pad; any dtype.

    `pad_width` is a number, one (before, after) pair, or a pair per axis. `mode` 'constant' sets
    one value, which may be a tensor; 'reflect' mirrors x at its end elements, 'symmetric' beyond
    them, 'edge' ('replicate') repeats them and 'wrap' ('circular') starts again at the other end;
    a border may be wider than x. Gradient: each place of the border adds to the element it shows,
    or to the constant. Raises ShapeError for widths that do not fit or an empty axis with nothing
    to copy, GraphTypeError for another mode. BHG 10.5, catalogue 3.9.
    """
    t = tensor_argument("pad", x)
    low, high = _widths(t, pad_width)
    if mode == "constant":
        return apply(Pad, t, cast(as_tensor(constant_values), t.type.dtype), low=low, high=high)
    rule = _continued_mode("pad", mode)
    for k, n in enumerate(t.shape):
        if low[k] or high[k]:
            if n == 0:
                raise ShapeError(
                    f"pad: axis {k} of {t.type} is empty, mode {mode!r} has nothing to copy"
                )
            t = _continued(t, k, -low[k], n + high[k], rule)
    return t


def _steps(op: str, t: Tensor, shift: object, axis: object) -> list[tuple[int, int]]:
    """(axis, shift) pairs of `shift` and `shift` per axis."""
    shifts = shift if isinstance(shift, (tuple, list)) else (shift,)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    if any(isinstance(v, bool) or not isinstance(v, (int, np.integer)) for v in shifts):
        raise GraphTypeError(f"{op}: shift is an int or one int per axis, got {shift!r}")
    if len(shifts) not in (1, len(axes)) and len(axes) != 1:
        raise ShapeError(f"{op}: {len(shifts)} shifts do not fit {len(axes)} axes")
    count = max(len(shifts), len(axes))
    shifts, axes = (v * count if len(v) == 1 else v for v in (tuple(shifts), tuple(axes)))
    return [(normalize_axis(op, a, t.ndim), int(v)) for a, v in zip(axes, shifts, strict=True)]


@public
def roll(x: object, shift: object, axis: object = None) -> Tensor:
    """y[i] = x[(i - shift) mod n] along an axis, or several one after another; as numpy.roll.

    Without an axis the elements are rolled in row-major order. Any dtype. Gradient: rolled back.
    Raises GraphTypeError for shifts that are no ints, ShapeError for shifts that do not fit the
    axes. BHG 10.11, catalogue 3.9.
    """
    t = tensor_argument("roll", x)
    if axis is None:
        return reshape(roll(flatten(t), shift, 0), t.shape)
    for a, step in _steps("roll", t, shift, axis):
        n = t.shape[a]
        if n > 1 and step % n:
            t = _continued(t, a, -(step % n), n - step % n, "wrap")
    return t


@public
def shift(x: object, shift: object, axis: object = -1, border: str = "nearest") -> Tensor:
    """y[i] = x[b(i - shift)] along an axis: what leaves is lost, what enters repeats the border.

    `shift` may be negative, and one per axis; `border` 'nearest' repeats the end element,
    'reflect' mirrors x with its end element repeated (numpy.pad's 'symmetric'). Any dtype.
    Gradient: added up at the elements shown. Raises GraphTypeError for another border or shifts
    that are no ints, ShapeError for shifts that do not fit the axes. BHG 10.11, catalogue 3.9.
    """
    t = tensor_argument("shift", x)
    rules = {"nearest": "edge", "reflect": "symmetric"}
    if border not in rules:
        raise GraphTypeError(f"shift: border is 'nearest' or 'reflect', got {border!r}")
    for a, step in _steps("shift", t, shift, axis):
        n = t.shape[a]
        if n > 1 and step:
            t = _continued(t, a, -step, n - step, rules[border])
    return t

"""Convolution by its other names: by channel, over time, and of two sequences.

All are `conv` or `conv_transpose` on operands of another shape, and so are their gradients.
"""

from __future__ import annotations

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.operands import promoted
from staticgraph.ops.conv import conv, conv_operands, conv_transpose
from staticgraph.ops.shape import reshape, swapaxes
from staticgraph.ops.slices import flip
from staticgraph.registry import FUNCTIONS, public
from staticgraph.tensor import Tensor
from staticgraph.types import is_complex


@public
def depthwise_conv(
    x: object,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
) -> Tensor:
    """`conv` of each channel by itself: weight (C multiplier, 1, kernel...).

    y[n, c multiplier + m, o] = bias[...] + sum over k of weight[c multiplier + m, 0, k]
    x[n, c, o stride - padding + k dilation]; arguments and dtypes as in `conv`. Gradient:
    `conv_transpose` and `conv_weight_grad` in C groups. Raises ShapeError where the weight has
    another shape. BHG 2.3, catalogue 3.1.
    """
    a, w, *rest = conv_operands("depthwise_conv", x, weight, bias, 1)
    if w.shape[1] != 1 or w.shape[0] % a.shape[1]:
        raise ShapeError(
            f"depthwise_conv: weight must be (C multiplier, 1, kernel...) for the {a.shape[1]}"
            f" channels of x, got {w.type}"
        )
    return conv(a, w, *rest or [None], stride, padding, dilation, groups=a.shape[1])


@public
def depthwise_conv_transpose(
    x: object,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    output_padding: object = 0,
    dilation: object = 1,
    divisor: int = 1,
) -> Tensor:
    """The transpose of `depthwise_conv`: weight (C, 1, kernel...), bias (C / divisor,).

    Result channel m is the sum over its `divisor` channels of x of each by its own kernel; the
    other arguments are those of `conv_transpose`. Gradient: `conv` and `conv_weight_grad` in
    C/divisor groups. Raises ShapeError where the weight has another shape or `divisor` does not
    divide C. BHG 2.5, catalogue 3.1.
    """
    op = "depthwise_conv_transpose"
    a, w, *rest = conv_operands(op, x, weight, bias, divisor, "divisor")
    channels = a.shape[1]
    if w.shape[:2] != (channels, 1) or channels % divisor:
        raise ShapeError(
            f"{op}: weight must be (C, 1, kernel...) for the {channels} channels of x, in parts of"
            f" divisor={divisor}, got {w.type}"
        )
    groups = channels // divisor
    return conv_transpose(a, w, *rest or [None], stride, padding, output_padding, groups, dilation)


@public
def temporal_row_conv(
    x: object,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    feat_first: bool = False,
) -> Tensor:
    """Each feature of x (N, time, features) convolved over time by its own row of weight.

    y[n, o, c] = bias[c] + sum over k of weight[c, k] x[n, o stride - padding + k, c], 0 outside;
    weight (features, k), bias (features,). With `feat_first` x and result are (N, features, time).
    Gradient: that of `depthwise_conv`. Raises ShapeError for other shapes. Catalogue 4
    (TemporalRowConvolution.c).
    """
    op = "temporal_row_conv"
    t, w, *rest = promoted(op, [x, weight] if bias is None else [x, weight, bias])
    if t.ndim != 3 or w.ndim != 2 or w.shape[0] != t.shape[1 if feat_first else 2]:
        layout = "(N, features, time)" if feat_first else "(N, time, features)"
        raise ShapeError(f"{op}: needs x {layout} and weight (features, k), got {t.type}, {w.type}")
    rows = t if feat_first else swapaxes(t, 1, 2)
    kernel = reshape(w, (w.shape[0], 1, w.shape[1]))
    y = depthwise_conv(rows, kernel, *rest or [None], stride, padding)
    return y if feat_first else swapaxes(y, 1, 2)


def _slide(op: str, x: object, w: object, mode: str, *, turned: bool) -> Tensor:
    """The correlation of two sequences, `w` turned round for a convolution."""
    a, b = promoted(op, [x, w])
    if a.ndim != 1 or b.ndim != 1 or 0 in (a.size, b.size):
        raise ShapeError(f"{op}: needs two sequences of one axis, got {a.type} and {b.type}")
    if mode not in ("full", "same", "valid"):
        raise GraphTypeError(f"{op}: mode is 'full', 'same' or 'valid', got {mode!r}")
    if not turned and is_complex(b.type.dtype):
        b = FUNCTIONS["conj"](b)
    swapped = b.size > a.size
    if swapped:
        # The shorter sequence slides; a correlation then comes out in the other direction.
        a, b = b, a
    k = b.size
    padding = {"full": (k - 1, k - 1), "same": (k // 2, (k - 1) // 2), "valid": (0, 0)}[mode]
    kernel = flip(b, 0) if turned else b
    y = conv(reshape(a, (1, 1, a.size)), reshape(kernel, (1, 1, k)), padding=(padding,))
    y = reshape(y, (y.size,))
    return flip(y, 0) if swapped and not turned else y


@public
def convolve(x: object, w: object, mode: str = "full") -> Tensor:
    """y[i] = sum over j of x[i - j] w[j] of two sequences, as numpy.convolve.

    `mode` 'full' gives all places where they meet, 'same' the middle ones, as many as the longer
    sequence has, 'valid' those where they meet completely; dtypes promote. Gradient: `correlate`
    with the other sequence. Raises ShapeError unless both have one axis. MP 6, catalogue 3.1.
    """
    return _slide("convolve", x, w, mode, turned=True)


@public
def correlate(x: object, w: object, mode: str = "valid") -> Tensor:
    """y[i] = sum over j of x[i + j] conj(w[j]) of two sequences, as numpy.correlate.

    `mode` as in `convolve`; dtypes promote. Gradient: `convolve` for x, `correlate` for w. Raises
    ShapeError unless both have one axis. MP 7, catalogue 3.1.
    """
    return _slide("correlate", x, w, mode, turned=False)

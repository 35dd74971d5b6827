"""Discrete Fourier transforms, with the names, arguments and norms of `numpy.fft`.

Three ops transform along one axis: complex to complex, real to half a spectrum, and back. Each is
linear and its adjoint is one of the three, so that gradients of any order stay among them. Several
axes are one op after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import Op, apply
from staticgraph.operands import cast, normalize_axis, promoted, tensor_argument
from staticgraph.ops.create import iota
from staticgraph.ops.elementwise import (
    conj,
    equal,
    logical_or,
    multiply,
    where,
)
from staticgraph.ops.pad import pad
from staticgraph.ops.slices import slice_
from staticgraph.registry import OPS, public, register
from staticgraph.tensor import Tensor
from staticgraph.types import (
    TensorType,
    complex_of,
    is_complex,
    is_float,
    real_of,
)


def _resized(t: TensorType, axis: int, n: int, dtype: str) -> TensorType:
    return TensorType(dtype, (*t.shape[:axis], n, *t.shape[axis + 1 :]))


def _flops(size: int, n: int) -> int:
    """The customary 5 n log2 n of a complex transform, over `size` elements in all."""
    return round(5 * size * log2(n))


@register
class FourierTransform(Op):
    """Y[k] = scale sum_j x[j] e^(-2 pi i j k / n) along `axis`; the other sign for `inverse`."""

    name = "fft"

    def infer(self, x: TensorType, *, axis: int, inverse: bool, scale: float) -> TensorType:
        if not is_complex(x.dtype) or not 0 <= axis < x.ndim or x.shape[axis] < 1:
            raise GraphTypeError(f"fft: needs complex numbers along an axis, got {x} and {axis}")
        return x

    def reference(self, arrays, types, *, axis, inverse, scale):
        wide = arrays[0].astype("complex128")
        y = np.fft.ifft(wide, axis=axis, norm="forward") if inverse else np.fft.fft(wide, axis=axis)
        return [(y * scale).astype(types[0].dtype)]

    def flops(self, types, results, *, axis, inverse, scale):
        return _flops(types[0].size, types[0].shape[axis])

    def vjp(self, node, cotangents):
        attrs = {**node.attrs, "inverse": not node.attrs["inverse"]}
        return [apply(self, cotangents[0], **attrs)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]


@register
class RealTransform(Op):
    """The first n // 2 + 1 results of `fft` for a real operand; the others are their conjugates."""

    name = "rfft"

    def infer(self, x: TensorType, *, axis: int, scale: float) -> TensorType:
        if not is_float(x.dtype) or not 0 <= axis < x.ndim or x.shape[axis] < 1:
            raise GraphTypeError(f"rfft: needs floats along an axis, got {x} and {axis}")
        return _resized(x, axis, x.shape[axis] // 2 + 1, complex_of(x.dtype))

    def reference(self, arrays, types, *, axis, scale):
        y = np.fft.rfft(arrays[0].astype("float64"), axis=axis) * scale
        return [y.astype(types[0].dtype)]

    def flops(self, types, results, *, axis, scale):
        return _flops(types[0].size, types[0].shape[axis]) // 2

    def vjp(self, node, cotangents):
        """Re(sum of dy e^(+...)) over half a spectrum, of which `irfft` takes inner ones twice."""
        axis, n = node.attrs["axis"], node.operands[0].shape[node.attrs["axis"]]
        g = _weighted(cotangents[0], axis, n, 0.5)
        return [apply(OPS["irfft"], g, n=n, **node.attrs)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]


@register
class InverseRealTransform(Op):
    """x[j] = scale sum_k Y[k] e^(+2 pi i j k / n) for the spectrum Y of n real numbers.

    The operand is its first half, n // 2 + 1 elements. The imaginary parts of Y[0], and of Y[n/2]
    for an even n, count as 0.
    """

    name = "irfft"

    def infer(self, y: TensorType, *, axis: int, n: int, scale: float) -> TensorType:
        fits = is_complex(y.dtype) and 0 <= axis < y.ndim and y.shape[axis] == n // 2 + 1
        if not fits or n < 1:
            raise GraphTypeError(f"irfft: needs {n // 2 + 1} complex numbers along {axis}, got {y}")
        return _resized(y, axis, n, real_of(y.dtype))

    def reference(self, arrays, types, *, axis, n, scale):
        x = np.fft.irfft(arrays[0].astype("complex128"), n, axis, "forward") * scale
        return [x.astype(types[0].dtype)]

    def flops(self, types, results, *, axis, n, scale):
        return _flops(results[0].size, n) // 2

    def vjp(self, node, cotangents):
        axis, n = node.attrs["axis"], node.attrs["n"]
        y = apply(OPS["rfft"], cotangents[0], axis=axis, scale=node.attrs["scale"])
        return [_weighted(y, axis, n, 2.0)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]


def _weighted(y: Tensor, axis: int, n: int, inner: float) -> Tensor:
    """Half a spectrum with all its elements times `inner` that stand for two of the whole one."""
    shape = tuple(y.shape[a] if a == axis else 1 for a in range(y.ndim))
    k = iota(shape, axis)
    alone = logical_or(equal(k, 0), equal(multiply(k, 2), n))
    return where(alone, y, multiply(y, inner))


# ---------------------------------------------------------------------------- arguments


def _scale(op: str, norm: object, n: int, inverse: bool) -> float:
    """The factor of one transform of length n."""
    if norm not in (None, "backward", "ortho", "forward"):
        raise GraphTypeError(f"{op}: norm must be 'backward', 'ortho' or 'forward', got {norm!r}")
    if norm == "ortho":
        return float(n**-0.5)
    return 1.0 / n if inverse == (norm != "forward") else 1.0


def _swapped(norm: object) -> object:
    return {None: "forward", "backward": "forward", "forward": "backward"}.get(norm, norm)


def length_argument(op: str, n: object, name: str = "n") -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise GraphTypeError(f"{op}: {name} must be an int, got {n!r}")
    if n < 1:
        raise ShapeError(f"{op}: {name}, the length of a transform, must be at least 1, got {n}")
    return int(n)


def _fitted(x: Tensor, axis: int, n: int) -> Tensor:
    """x with n elements along the axis: the first ones, or zeros behind all."""
    have = x.shape[axis]
    if n < have:
        size = _resized(x.type, axis, n, x.type.dtype).shape
        return slice_(x, (0,) * x.ndim, size, (1,) * x.ndim)
    if n > have:
        return pad(x, [(0, n - have if a == axis else 0) for a in range(x.ndim)])
    return x


def _numbers(op: str, a: object, *, real: bool = False) -> Tensor:
    """A floating or complex operand with an axis; integers become the default float."""
    if isinstance(a, (list, tuple)):
        a = tensor_argument(op, a, "a")
    (t,) = promoted(op, [a], floating=True)
    if real and is_complex(t.type.dtype):
        raise GraphTypeError(f"{op}: needs real numbers, got {t.type}")
    if t.ndim == 0:
        raise ShapeError(f"{op}: needs at least one axis, got {t.type}")
    return t


def _complex(t: Tensor) -> Tensor:
    return cast(t, complex_of(t.type.dtype))


def _transform(op: str, t: Tensor, n: object, axis: object, norm: object, inverse: bool) -> Tensor:
    """One complex transform of t, whose length is that of the axis where n is None."""
    axis = normalize_axis(op, axis, t.ndim)
    n = length_argument(op, t.shape[axis] if n is None else n)
    scale = _scale(op, norm, n, inverse)
    return apply(
        FourierTransform, _complex(_fitted(t, axis, n)), axis=axis, inverse=inverse, scale=scale
    )


def _real(op: str, t: Tensor, n: object, axis: object, norm: object) -> Tensor:
    axis = normalize_axis(op, axis, t.ndim)
    n = length_argument(op, t.shape[axis] if n is None else n)
    return apply(RealTransform, _fitted(t, axis, n), axis=axis, scale=_scale(op, norm, n, False))


def _from_half(op: str, t: Tensor, n: object, axis: object, norm: object) -> Tensor:
    axis = normalize_axis(op, axis, t.ndim)
    n = length_argument(op, 2 * (t.shape[axis] - 1) if n is None else n)
    y = _complex(_fitted(t, axis, n // 2 + 1))
    return apply(InverseRealTransform, y, axis=axis, n=n, scale=_scale(op, norm, n, True))


def _pairs(op: str, t: Tensor, s: object, axes: object) -> list[tuple[int, object]]:
    """Each axis with the length asked for it, None for its own."""
    if s is not None and not isinstance(s, (list, tuple)):
        raise GraphTypeError(f"{op}: s must be a sequence of lengths, got {s!r}")
    if axes is None:
        axes = range(t.ndim) if s is None else range(t.ndim - len(s), t.ndim)
    elif not isinstance(axes, (list, tuple)):
        raise GraphTypeError(f"{op}: axes must be a sequence of axes, got {axes!r}")
    if s is None:
        s = [None] * len(axes)
    if len(s) != len(axes):
        raise ShapeError(f"{op}: s and axes must be as long, got s={s!r} and axes={axes!r}")
    if not axes:
        raise ShapeError(f"{op}: needs at least one axis, got axes={axes!r}")
    lengths = [None if n is None or n == -1 else length_argument(op, n, "s") for n in s]
    return [(normalize_axis(op, a, t.ndim), n) for a, n in zip(axes, lengths, strict=True)]


def _over(
    op: str, t: Tensor, pairs: Sequence[tuple[int, object]], norm: object, inverse: bool
) -> Tensor:
    for axis, n in reversed(pairs):
        t = _transform(op, t, n, axis, norm, inverse)
    return t


def _many(op: str, a: object, s: object, axes: object, norm: object, inverse: bool) -> Tensor:
    t = _numbers(op, a)
    return _over(op, t, _pairs(op, t, s, axes), norm, inverse)


def _many_real(op: str, a: object, s: object, axes: object, norm: object) -> Tensor:
    t = _numbers(op, a, real=True)
    *others, (axis, n) = _pairs(op, t, s, axes)
    return _over(op, _real(op, t, n, axis, norm), others, norm, False)


def _many_from_half(op: str, a: object, s: object, axes: object, norm: object) -> Tensor:
    t = _numbers(op, a)
    *others, (axis, n) = _pairs(op, t, s, axes)
    return _from_half(op, _over(op, t, others, norm, True), n, axis, norm)


# ---------------------------------------------------------------------------- along one axis


@public
def fft(a: object, n: int | None = None, axis: int = -1, norm: str | None = None) -> Tensor:
    """Y[k] = sum_j a[j] e^(-2 pi i j k / n) along `axis`, after cropping or zero-padding to n.

    norm "backward" (also None) is this sum, "ortho" divides it by sqrt(n), "forward" by n. Float32
    and complex64 give complex64, float64 and complex128 complex128, integers complex64. Gradient:
    the adjoint n ifft(dy), that is `ifft` with the opposite norm, as PyTorch; its real part for a
    real operand. Raises ShapeError for n < 1 or an axis out of range. BHG 11.2; catalogue 3.10.
    """
    return _transform("fft", _numbers("fft", a), n, axis, norm, False)


@public
def ifft(a: object, n: int | None = None, axis: int = -1, norm: str | None = None) -> Tensor:
    """x[j] = (1/n) sum_k a[k] e^(+2 pi i j k / n) along `axis`: undoes `fft` of the same norm.

    norm "ortho" divides by sqrt(n) instead, "forward" by nothing. Shapes, dtypes and errors as
    `fft`. Gradient: fft(dy) / n. BHG 11.3; catalogue 3.10.
    """
    return _transform("ifft", _numbers("ifft", a), n, axis, norm, True)


@public
def rfft(a: object, n: int | None = None, axis: int = -1, norm: str | None = None) -> Tensor:
    """The first n // 2 + 1 elements of fft(a) for a real a; the others are their conjugates.

    Gradient: Re(n ifft(dy with zeros behind)), an `irfft` of dy with its inner elements halved.
    Raises GraphTypeError for complex numbers, ShapeError as `fft`. Catalogue 3.10, 8.
    """
    return _real("rfft", _numbers("rfft", a, real=True), n, axis, norm)


@public
def irfft(a: object, n: int | None = None, axis: int = -1, norm: str | None = None) -> Tensor:
    """n real numbers from the first n // 2 + 1 elements of their spectrum: undoes `rfft`.

    n is 2 (m - 1) by default, for m elements along `axis`; an odd n must be said. The imaginary
    parts of a[0], and of a[n/2] for an even n, count as 0. Gradient: rfft(dy) with its inner
    elements doubled, over n. Errors as `fft`. Catalogue 3.10, 8.
    """
    return _from_half("irfft", _numbers("irfft", a), n, axis, norm)


@public
def hfft(a: object, n: int | None = None, axis: int = -1, norm: str | None = None) -> Tensor:
    """fft of a signal with a[-j] = conj(a[j]), given its first n // 2 + 1 elements: n reals.

    n irfft(conj(a)); n is 2 (m - 1) by default. Gradient and errors as `irfft`.
    """
    return _from_half("hfft", conj(_numbers("hfft", a)), n, axis, _swapped(norm))


@public
def ihfft(a: object, n: int | None = None, axis: int = -1, norm: str | None = None) -> Tensor:
    """The first n // 2 + 1 elements of ifft(a) for a real a: conj(rfft(a)) / n, undoes `hfft`.

    Gradient and errors as `rfft`.
    """
    return conj(_real("ihfft", _numbers("ihfft", a, real=True), n, axis, _swapped(norm)))


# ---------------------------------------------------------------------------- along several axes


@public
def fftn(
    a: object,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: str | None = None,
) -> Tensor:
    """`fft` along each of `axes` (all by default; the last len(s) where s is given).

    s: the length along each axis, which crops or pads with zeros; -1 takes all. Gradient: `ifftn`
    with the opposite norm. Raises ShapeError where s and axes differ in length; see `fft`.
    """
    return _many("fftn", a, s, axes, norm, False)


@public
def ifftn(
    a: object,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: str | None = None,
) -> Tensor:
    """`ifft` along each of `axes`: undoes `fftn`, whose arguments, errors and gradient it has."""
    return _many("ifftn", a, s, axes, norm, True)


@public
def rfftn(
    a: object,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: str | None = None,
) -> Tensor:
    """`rfft` along the last of `axes`, then `fft` along the others. Arguments as `fftn`."""
    return _many_real("rfftn", a, s, axes, norm)


@public
def irfftn(
    a: object,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: str | None = None,
) -> Tensor:
    """`ifft` along all but the last of `axes`, then `irfft` along that: undoes `rfftn`.

    The last of s is the length of the result, 2 (m - 1) by default. Arguments as `fftn`.
    """
    return _many_from_half("irfftn", a, s, axes, norm)


@public
def fft2(
    a: object,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = (-2, -1),
    norm: str | None = None,
) -> Tensor:
    """`fftn` along the last two axes."""
    return _many("fft2", a, s, axes, norm, False)


@public
def ifft2(
    a: object,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = (-2, -1),
    norm: str | None = None,
) -> Tensor:
    """`ifftn` along the last two axes: undoes `fft2`."""
    return _many("ifft2", a, s, axes, norm, True)


@public
def rfft2(
    a: object,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = (-2, -1),
    norm: str | None = None,
) -> Tensor:
    """`rfftn` along the last two axes."""
    return _many_real("rfft2", a, s, axes, norm)


@public
def irfft2(
    a: object,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = (-2, -1),
    norm: str | None = None,
) -> Tensor:
    """`irfftn` along the last two axes: undoes `rfft2`."""
    return _many_from_half("irfft2", a, s, axes, norm)

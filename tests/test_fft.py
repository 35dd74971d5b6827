"""Fourier transforms: every length and layout, accuracy, adjoints, gradients, errors."""

from __future__ import annotations

import numpy as np
import pytest

import staticgraph as sg
from staticgraph import ops
from staticgraph.byhand.fftlines import LARGEST, primes, radices
from staticgraph.errors import GraphTypeError, ShapeError, TargetError
from staticgraph.interpret import run
from staticgraph.ir import Graph

EPS = {"complex64": 2.0**-24, "complex128": 2.0**-53}
REAL = {"complex64": "float32", "complex128": "float64"}
#: stages of every kind, matrices with odd sides, chirps; a matrix in two kernels
SHORT = (*range(1, 41), 49, 97, 101, 128, 202, 360)
LONG = (1000, 1024, 1517, 4096, 10007, 1 << 15, 49 * 512, 1 << 16)
#: (shape, axis): lanes on inner axes, in between, and across rows; two kernels for each; pairs of
#: real numbers that lie apart, in two kernels; contiguous ones with an odd half
LAYOUTS = (
    ((3, 12, 16), 1), ((2, 30, 20), 1), ((5, 7, 3), 1), ((40, 9), 0), ((70, 32), 1), ((33, 128), 1),
    ((2, 97, 3), 1), ((2, 53, 18), 1), ((2, 300, 3), 1), ((1, 2520, 16), 1), ((2, 2560, 17), 1),
    ((4, 1, 3), 1), ((2, 3, 4, 5), 2), ((0, 8), 1), ((3, 8, 0), 1),
    ((2, 600, 5), 1), ((4100, 20), 0), ((5000, 16), 0), ((578, 2), 0), ((3, 130), 1),
)  # fmt: skip


def leaf(name, array):
    return sg.input(name, array.shape, str(array.dtype))


def normal(rng, shape, dtype):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype[0] == "c" else x).astype(dtype)


def precise(transform, x, *args, **kwargs):
    return transform(x.astype("clongdouble" if x.dtype.kind == "c" else "longdouble"),
                     *args, **kwargs)  # fmt: skip


def far(got, wanted):
    """The distance relative to the size of all."""
    assert got.shape == wanted.shape
    return np.linalg.norm((got - wanted).ravel()) / max(np.linalg.norm(wanted.ravel()), 1e-300)


def check(shape, axis, dtype, rng):
    """All four transforms of an array, compiled together."""
    n = shape[axis]
    half = (*shape[:axis], n // 2 + 1, *shape[axis + 1 :])
    z, x, h = (normal(rng, s, t) for s, t in ((shape, dtype), (shape, REAL[dtype]), (half, dtype)))
    a, b, c = inputs = [leaf(name, array) for name, array in zip("zxh", (z, x, h), strict=True)]
    outputs = [
        ops.fft(a, axis=axis), ops.ifft(a, axis=axis),
        ops.rfft(b, axis=axis), ops.irfft(c, n, axis),
    ]  # fmt: skip
    got = sg.compile(outputs, inputs)(z, x, h)
    wanted = [
        precise(np.fft.fft, z, axis=axis), precise(np.fft.ifft, z, axis=axis),
        precise(np.fft.rfft, x, axis=axis), precise(np.fft.irfft, h, n, axis),
    ]  # fmt: skip
    assert [y.dtype.name for y in got] == [dtype, dtype, dtype, REAL[dtype]]
    chirped = max(primes(n), default=1) > LARGEST
    bound = (6 if chirped else 3) * EPS[dtype] * np.log2(n + 2)
    assert max(far(y, w) for y, w in zip(got, wanted, strict=True)) <= bound


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("n", [n for n in SHORT if n % 3 == 1 or n in (2, 3, 5, 8, 9, 12, 15, 101)])
def test_short_rows(n, dtype, rng):
    check((3, n), 1, dtype, rng)


@pytest.mark.slow
@pytest.mark.parametrize("n", SHORT)
def test_every_short_row(n, rng):
    for dtype in EPS:
        check((n,), 0, dtype, rng)
        check((2, n, 17), 1, dtype, rng)


@pytest.mark.parametrize("n", LONG)
def test_long_rows(n, rng):
    check((n,), 0, "complex64", rng)


@pytest.mark.slow
@pytest.mark.parametrize("n", LONG)
def test_long_rows_in_double(n, rng):
    check((n,), 0, "complex128", rng)


@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_layouts(shape, axis, rng):
    check(shape, axis, "complex64", rng)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_layouts_in_double(shape, axis, rng):
    check(shape, axis, "complex128", rng)


def test_stages_make_the_length():
    for n in range(1, 300):
        for code in ("f32", "f64"):
            assert np.prod(radices(n, code), initial=1) == n


def test_single_frequencies_are_exact_to_rounding(rng):
    """One spike of the input gives every twiddle factor of its row by itself."""
    n = 1 << 12
    x = np.zeros((4, n), "complex128")
    places = [1, 17, n // 2 - 1, n - 3]
    x[range(4), places] = 1
    i = leaf("x", x)
    got = sg.compile(ops.fft(i), [i])(x)
    angle = (np.outer(places, np.arange(n)) % n).astype("longdouble") / n
    angle *= 2 * np.longdouble("3.14159265358979323846264338327950288")
    wanted = np.cos(angle) - 1j * np.sin(angle)
    assert np.abs(got - wanted).max() <= 6 * EPS["complex128"]


@pytest.mark.parametrize("shape", [(1 << 15,), (40, 512, 33), (64, 1024)])
def test_bits_do_not_depend_on_threads(shape, rng):
    x = normal(rng, shape, "complex64")
    i = leaf("x", x)
    axis = 1 if len(shape) > 1 else 0
    y = [ops.fft(i, axis=axis), ops.rfft(ops.real(i), axis=axis)]
    one, two = (sg.compile(y, [i], threads=t)(x) for t in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.view("u4"), b.view("u4"))


# ---------------------------------------------------------------------------- gradients

LINEAR = {
    "fft": ((3, 6), "c", {"axis": 0, "norm": "ortho"}),
    "fft-padded": ((2, 5), "c", {"n": 8}),
    "fft-real": ((7,), "f", {}),
    "ifft": ((2, 6), "c", {"n": 4, "norm": "forward"}),
    "rfft": ((3, 8), "f", {}),
    "rfft-odd": ((7, 2), "f", {"axis": 0, "norm": "ortho"}),
    "irfft": ((2, 5), "c", {}),
    "irfft-odd": ((2, 5), "c", {"n": 9, "norm": "forward"}),
    "irfft-one": ((1,), "c", {"n": 1}),
    "hfft": ((2, 4), "c", {"norm": "ortho"}),
    "ihfft": ((6,), "f", {}),
    "fft2": ((2, 3, 4), "c", {"s": (4, 3)}),
    "rfft2": ((2, 3, 5), "f", {"norm": "forward"}),
    "irfftn": ((3, 4, 3), "c", {"s": (2, 5), "axes": (0, 2)}),
}


@pytest.mark.parametrize("name", LINEAR)
def test_gradient_is_the_adjoint(name, rng):
    """Re <F x, g> = Re <x, F' g>, and the gradient of the gradient is the transform again."""
    shape, kind, options = LINEAR[name]
    x = normal(rng, shape, "complex128" if kind == "c" else "float64")
    i = leaf("x", x)
    y = getattr(ops, name.partition("-")[0])(i, **options)
    g = normal(rng, y.shape, y.dtype.name)
    j = leaf("g", g)
    dx = sg.grad(y, i, cotangent=j)
    again = sg.grad(dx, j, cotangent=i)
    assert (dx.shape, dx.dtype) == (i.shape, i.dtype)
    value, back, twice = sg.compile([y, dx, again], [i, j])(x, g)
    assert np.vdot(value, g).real == pytest.approx(np.vdot(x, back).real, rel=1e-12)
    np.testing.assert_allclose(twice, value, rtol=1e-12, atol=1e-13 * np.abs(value).max())


@pytest.mark.peers
@pytest.mark.parametrize("name", LINEAR)
def test_gradients_are_those_of_torch(name, rng):
    torch = pytest.importorskip("torch")
    shape, kind, options = LINEAR[name]
    function = name.partition("-")[0]
    x = normal(rng, shape, "complex128" if kind == "c" else "float64")
    renamed = {{"axis": "dim", "axes": "dim"}.get(k, k): v for k, v in options.items()}
    t = torch.tensor(x, requires_grad=True)
    wanted = getattr(torch.fft, function)(t, **renamed)
    g = normal(rng, tuple(wanted.shape), str(wanted.dtype).removeprefix("torch."))
    (slope,) = torch.autograd.grad(wanted * wanted, t, torch.tensor(g), create_graph=True)
    (curve,) = torch.autograd.grad((slope * slope.conj()).real.sum(), t)
    i = leaf("x", x)
    y = getattr(ops, function)(i, **options)
    first = sg.grad(y * y, i, cotangent=g)
    second = sg.grad(ops.sum(ops.real(first * ops.conj(first))), i)
    got = sg.compile([y, first, second], [i])(x)
    for a, b in zip(got, (wanted, slope, curve), strict=True):
        b = b.detach().resolve_conj().numpy()
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11 * np.abs(b).max())


# ---------------------------------------------------------------------------- arguments

C, F = ((2, 3), "complex64"), ((2, 3), "float32")
ERRORS = [
    (lambda x: ops.fft(x, axis=2), C, ShapeError, "fft: axis 2 is out of range for 2 axes"),
    (lambda x: ops.fft(x, 0), C, ShapeError, "fft: n, the length of a transform, must be at least"),
    (lambda x: ops.fft(x, -1), C, ShapeError, "at least 1, got -1"),
    (lambda x: ops.fft(x, 2.0), C, GraphTypeError, "fft: n must be an int, got 2.0"),
    (lambda x: ops.ifft(x, norm="unit"), C, GraphTypeError, "ifft: norm must be .* got 'unit'"),
    (lambda x: ops.rfft(x), C, GraphTypeError, "rfft: needs real numbers, got c64"),
    (lambda x: ops.ihfft(x), C, GraphTypeError, "ihfft: needs real numbers"),
    (lambda x: ops.rfftn(x), C, GraphTypeError, "rfftn: needs real numbers"),
    (lambda x: ops.irfft(x[:, :1]), C, ShapeError, "irfft: n, .* at least 1, got 0"),
    (lambda x: ops.fft(x[:, :0]), C, ShapeError, "fft: n, .* at least 1, got 0"),
    (lambda x: ops.fft(x[0, 0]), C, ShapeError, "fft: needs at least one axis"),
    (lambda x: ops.fftn(x, s=(2,), axes=(0, 1)), C, ShapeError, "fftn: s and axes must be as long"),
    (lambda x: ops.fftn(x, axes=()), C, ShapeError, "fftn: needs at least one axis"),
    (lambda x: ops.fftn(x, axes=1), C, GraphTypeError, "fftn: axes must be a sequence"),
    (lambda x: ops.fft2(x, s=4), F, GraphTypeError, "fft2: s must be a sequence"),
    (lambda x: ops.fft2(x[0]), F, ShapeError, "fft2: axis -2 is out of range"),
    (lambda x: ops.fft("x"), F, GraphTypeError, "fft: operand 0 must be"),
    (lambda x: ops.fftfreq(0), F, ShapeError, "fftfreq: n"),
    (lambda x: ops.rfftfreq(4, dtype="int32"), F, GraphTypeError, "rfftfreq: dtype must be"),
    (lambda x: ops.fftshift(x, 2), F, ShapeError, "fftshift: axis 2 is out of range"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "operand", "kind", "message"), ERRORS)
def test_errors(build, operand, kind, message):
    with pytest.raises(kind, match=message):
        build(sg.input("x", *operand))


def test_axes_may_repeat_as_in_numpy(rng):
    x = normal(rng, (3, 4), "complex128")
    i = leaf("x", x)
    (got,) = run(Graph([i], [ops.fftn(i, axes=(1, 1))]), [x])
    np.testing.assert_allclose(got, np.fft.fftn(x, axes=(1, 1)), rtol=1e-13, atol=1e-13)


def test_no_cuda_form():
    x = sg.input("x", (8,), "complex64")
    with pytest.raises(TargetError, match="fft"):
        sg.compile(ops.fft(x), [x], target="cuda")


def test_flops_are_counted():
    x = sg.input("x", (3, 8), "complex64")
    node = ops.fft(x).node
    assert node.op.flops([x.type], node.types, **node.attrs) == 5 * 24 * 3

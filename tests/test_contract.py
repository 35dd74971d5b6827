"""Contraction kernels against NumPy: shapes, strides, epilogues, and the promise of equal bits."""

import ast
import ctypes
import itertools
import re
import subprocess
import sys

import numpy as np
import pytest

from staticgraph.codegen import contract, contract_dot, contract_parts
from staticgraph.kernels import KernelSource, compile_kernels

DTYPE = {"f32": np.float32, "f64": np.float64}
TOLERANCE = {"f32": 2e-6, "f64": 5e-15}
FUNCTION = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)


GUARD = 4096


class Guarded:
    """Bytes at a multiple of 64 between guards. 0xff reads as NaN, so that unset scratch shows."""

    def __init__(self, size):
        self.raw = np.full(size + 2 * GUARD + 64, 0xA5, "u1")
        self.start = -self.raw.ctypes.data % 64 + GUARD
        self.stop = self.start + size
        self.bytes = self.raw[self.start : self.stop]
        self.bytes[:] = 255

    def check(self):
        assert (self.raw[: self.start] == 0xA5).all(), "written before the buffer"
        assert (self.raw[self.stop :] == 0xA5).all(), "written beyond the buffer"


def run(steps, buffers, tiles="all", epilogue=()):
    """Run the kernels over arrays; `tiles` "all" in one call, or "each" alone, the last first."""
    guarded = [Guarded(size) for size in steps.workspace]
    work = [area.bytes for area in guarded]
    sources = [KernelSource(k.name, k.source, k.name) for k in steps.kernels]
    for step, kernel in zip(steps.kernels, compile_kernels(sources), strict=True):
        found = []
        for ref in step.buffers:
            if isinstance(ref, str):
                found.append(buffers[ref])
            else:
                found.append({"ws": work, "ep": epilogue}[ref[0]][ref[1]])
        table = np.array([array.ctypes.data for array in found])
        function = FUNCTION(kernel.address)
        guarded.append(Guarded(step.scratch_bytes))
        scratch = guarded[-1].bytes
        if tiles == "all":
            function(0, step.ntiles, table.ctypes.data, scratch.ctypes.data)
            continue
        for tile in reversed(range(step.ntiles)):
            scratch[:] = 255
            function(tile, tile + 1, table.ctypes.data, scratch.ctypes.data)
    for area in guarded:
        area.check()


def compute(steps, a, b, shape, dtype):
    """The result of the steps, after a check that the order of tiles changes no bit."""
    results = []
    for tiles in ("all", "each"):
        area = Guarded(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        out = area.bytes.view(dtype).reshape(shape)
        run(steps, {"a": a, "b": b, "out": out}, tiles)
        area.check()
        results.append(out)
    assert results[0].tobytes() == results[1].tobytes()
    return results[0]


def close(out, expected, terms, code):
    """Equal up to rounding of sums of `terms` products of numbers near 1."""
    assert out.shape == expected.shape
    np.testing.assert_allclose(out, expected, rtol=0, atol=TOLERANCE[code] * (terms + 9) ** 0.5 * 4)


def element_strides(array):
    return tuple(step // array.itemsize for step in array.strides)


def operand(rng, shape, dtype, transposed):
    if not transposed:
        return rng.standard_normal(shape).astype(dtype)
    swapped = rng.standard_normal((*shape[:-2], shape[-1], shape[-2])).astype(dtype)
    return np.swapaxes(swapped, -1, -2)


def product(code, a, b, batch, epilogue=None):
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    return contract.matmul(code, batch, m, n, k, element_strides(a), element_strides(b), epilogue)


# -- matrix products ------------------------------------------------------------------------------
@pytest.mark.parametrize("code", ["f32", "f64"])
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0)], ids=["NN", "NT", "TN"])
@pytest.mark.parametrize(
    ("batch", "m", "n", "k"),
    [
        ((), 13, 37, 19),
        ((), 64, 10, 300),
        ((), 130, 270, 290),
        ((), 1, 300, 100),
        ((), 300, 1, 100),
        ((), 1, 1, 9000),
        ((), 1, 77, 9000),
        ((), 1030, 1, 300),
        ((), 10, 12, 20000),
        ((2, 3), 5, 6, 7),
    ],
    ids=str,
)
def test_matmul(rng, code, transposed, batch, m, n, k):
    a = operand(rng, (*batch, m, k), DTYPE[code], transposed[0])
    b = operand(rng, (*batch, k, n), DTYPE[code], transposed[1])
    out = compute(product(code, a, b, batch), a, b, (*batch, m, n), DTYPE[code])
    close(out, a.astype("f8") @ b.astype("f8"), k, code)


def test_large_matmul(rng):
    a, b = (operand(rng, (700, 600), "f4", False), operand(rng, (600, 900), "f4", True))
    out = compute(product("f32", a, b, ()), a, b, (700, 900), "f4")
    close(out, a.astype("f8") @ b.astype("f8"), 600, "f32")


@pytest.mark.parametrize("batch", [(), (0,), (2,)])
@pytest.mark.parametrize(
    "sizes", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 0), (1, 1, 1), (2, 1, 1)]
)
def test_empty_and_single(batch, sizes):
    m, n, k = sizes
    a, b = np.full((*batch, m, k), 2, "f4"), np.full((*batch, k, n), 3, "f4")
    out = compute(product("f32", a, b, batch), a, b, (*batch, m, n), "f4")
    np.testing.assert_array_equal(out, a @ b)


@pytest.mark.parametrize("code", ["f32", "f64"])
@pytest.mark.parametrize(
    ("a_strides", "b_strides"),
    [((3000, 2), (3, 700)), ((2, 100), (2, 300)), ((-64, -1), (1, -64)), ((0, 1), (0, 1))],
)
def test_strides(code, a_strides, b_strides):
    store = (np.arange(400_000) % 97 - 48).astype(DTYPE[code])
    start, size = store[150_000:], store.itemsize
    a, b = (
        np.lib.stride_tricks.as_strided(start, shape, [size * s for s in strides])
        for shape, strides in (((50, 60), a_strides), ((60, 70), b_strides))
    )
    steps = contract.matmul(code, (), 50, 70, 60, a_strides, b_strides)
    out = compute(steps, start, start, (50, 70), DTYPE[code])
    np.testing.assert_array_equal(out, a.astype("f8") @ b.astype("f8"))


def test_broadcast_batch(rng):
    a = rng.standard_normal((4, 3, 9, 8)).astype("f4")
    b = rng.standard_normal((3, 8, 20)).astype("f4")
    steps = contract.matmul("f32", (4, 3), 9, 20, 8, (216, 72, 8, 1), (0, 160, 20, 1))
    close(compute(steps, a, b, (4, 3, 9, 20), "f4"), a.astype("f8") @ b, 8, "f32")
    assert steps.view == (12, 9, 20)
    folded = contract.matmul("f32", (4, 3), 9, 20, 8, (216, 72, 8, 1), (0, 0, 20, 1))
    assert folded.view == (1, 108, 20)
    out = compute(folded, a, np.ascontiguousarray(b[1]), (4, 3, 9, 20), "f4")
    close(out, a.astype("f8") @ b[1], 8, "f32")


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("code", "dtype"),
    [("i32", "i4"), ("u8", "u1"), ("i64", "i8"), ("b1", "?"), ("c64", "c8"), ("c128", "c16")],
)
def test_other_dtypes(rng, code, dtype, transposed):
    a = rng.integers(0, 12, (2, 5, 7)).astype(dtype)
    b = operand(rng, (2, 7, 33), "f8", transposed).astype(np.int64).astype(dtype)
    out = compute(product(code, a, b, (2,)), a, b, (2, 5, 33), dtype)
    np.testing.assert_allclose(out, a @ b, rtol=1e-5)


@pytest.mark.parametrize("code", ["f32", "f64"])
@pytest.mark.parametrize("sizes", [(45, 77, 500), (1, 77, 5000), (530, 540, 300)])
def test_bits_do_not_depend_on_the_place(rng, code, sizes):
    m, n, k = sizes
    a = np.ascontiguousarray(np.broadcast_to(rng.standard_normal(k), (m, k)), DTYPE[code])
    b = np.ascontiguousarray(np.broadcast_to(rng.standard_normal((k, 1)), (k, n)), DTYPE[code])
    for right in (b, np.asfortranarray(b)):
        out = compute(product(code, a, right, ()), a, right, (m, n), DTYPE[code])
        assert len(np.unique(out)) == 1


# -- epilogues ------------------------------------------------------------------------------------
class Probe:
    """Writes sum + bias[row] + scale * weight[index] to one buffer and the column to another."""

    imports = ("from math import pi",)
    buffers = tuple(("ep", j) for j in range(4))

    def prologue(self, names):
        self.names = names
        return ["e9 = splat_f32(pi)"]

    def emit(self, indent, index, batch, row, col, acc, mask):
        bias, weight, out, place = self.names
        load, store, end = "vld_f32", "vst_f32", ""
        if mask is not None:
            load, store, end = "vldm_f32", "vstm_f32", f", {mask}"
        lines = [
            f"m = splat_f32(ld_f32({bias}, {batch} * 1000 + {row}))",
            f"v0 = {acc} + m + e9 * {load}({weight}, {index}{end})",
            f"{store}({out}, {index}, v0{end})",
            f"{store}({place}, {index}, cast_f32(splat_i64({col}) + iota()){end})",
        ]
        return [indent + line for line in lines]


def check_epilogue(rng, build, a, b, plain_shape, expected):
    """`build(epilogue)` gives steps of `expected`; what the probe adds must be at its place."""
    steps = build(Probe())
    count, rows, cols = steps.view
    assert count * rows * cols == expected.size
    bias = rng.standard_normal((count, 1000)).astype("f4")
    weight = rng.standard_normal(steps.view).astype("f4")
    out, place = np.zeros(steps.view, "f4"), np.zeros(steps.view, "f4")
    run(steps, {"a": a, "b": b}, "each", (bias, weight, out, place))
    plain = compute(build(None), a, b, plain_shape, "f4").reshape(steps.view)
    np.testing.assert_allclose(plain.reshape(-1), expected.reshape(-1), atol=1e-3)
    added = plain + bias[:, :rows, None] + np.float32(np.pi) * weight
    np.testing.assert_array_equal(out, added)
    np.testing.assert_array_equal(place, np.broadcast_to(np.arange(cols), steps.view))


@pytest.mark.parametrize(
    ("batch", "m", "n", "k"),
    [((), 100, 70, 40), ((), 30, 32, 600), ((3,), 5, 9, 4), ((), 1, 50, 90), ((), 20, 20, 5000)],
)
def test_matmul_epilogue(rng, batch, m, n, k):
    a, b = operand(rng, (*batch, m, k), "f4", 0), operand(rng, (*batch, k, n), "f4", m == 1)
    check_epilogue(
        rng, lambda e: product("f32", a, b, batch, e), a, b, (*batch, m, n), a.astype("f8") @ b
    )


# -- convolutions ---------------------------------------------------------------------------------
def slices(case, tap, counts):
    """Where one kernel tap reads in the padded input."""
    _, _, stride, _, dilation, _ = case
    inner = (
        slice(t * d, t * d + (n - 1) * s + 1, s)
        for t, d, n, s in zip(tap, dilation, counts, stride, strict=True)
    )
    return slice(None), slice(None), *inner


def references(case, x, w, dy=None):
    """y, or (dx, dw) for a given dy, tap by tap in float64."""
    _, w_shape, stride, padding, dilation, groups = case
    x, w = x.astype("f8"), w.astype("f8")
    padded = np.pad(x, [(0, 0), (0, 0), *padding])
    counts = [
        (size - d * (k - 1) - 1) // s + 1
        for size, d, k, s in zip(padded.shape[2:], dilation, w_shape[2:], stride, strict=True)
    ]
    n, rows = len(x), w_shape[0] // groups
    y = np.zeros((n, w_shape[0], *counts))
    dx, dw = np.zeros_like(padded), np.zeros_like(w)
    for tap in itertools.product(*map(range, w_shape[2:])):
        at = slices(case, tap, counts)
        patch = padded[at].reshape(n, groups, w_shape[1], -1)
        kernel = w[(slice(None), slice(None), *tap)].reshape(groups, rows, w_shape[1])
        if dy is None:
            y += np.einsum("ngco,gmc->ngmo", patch, kernel).reshape(y.shape)
            continue
        grad = dy.astype("f8").reshape(n, groups, rows, -1)
        dx[at] += np.einsum("ngmo,gmc->ngco", grad, kernel).reshape(dx[at].shape)
        dw[(slice(None), slice(None), *tap)] = np.einsum("ngmo,ngco->gmc", grad, patch).reshape(
            w_shape[:2]
        )
    if dy is None:
        return y
    inner = tuple(
        slice(low, low + size) for (low, _), size in zip(padding, x.shape[2:], strict=True)
    )
    return dx[(slice(None), slice(None), *inner)], dw


ONE, TWO = (1, 1), ((1, 1), (1, 1))
CONVOLUTIONS = {
    "1d": ((2, 3, 7), (4, 3, 3), (1,), ((1, 1),), (1,), 1),
    "1d groups, stride": ((2, 4, 30), (6, 2, 5), (2,), ((2, 0),), (1,), 2),
    "1d segments": ((1, 2, 1500), (3, 2, 4), (1,), ((0, 3),), (2,), 1),
    "1d segments, stride 3": ((1, 2, 1500), (3, 2, 4), (3,), ((5, 3),), (2,), 1),
    "2d": ((2, 3, 8, 9), (5, 3, 3, 3), ONE, TWO, ONE, 1),
    "2d digits": ((3, 1, 28, 28), (8, 1, 5, 5), ONE, ((0, 0), (0, 0)), ONE, 1),
    "2d stride 2": ((2, 16, 14, 14), (13, 16, 3, 3), (2, 2), TWO, ONE, 1),
    "2d all at once": ((2, 6, 9, 11), (4, 3, 2, 3), (2, 3), ((0, 1), (2, 1)), (2, 1), 2),
    "2d small images": ((9, 32, 7, 7), (40, 32, 3, 3), ONE, TWO, ONE, 1),
    "2d blocks of channels": ((1, 150, 5, 5), (290, 150, 3, 3), ONE, TWO, ONE, 1),
    "2d long kernel": ((1, 2, 20, 100), (2, 2, 9, 20), ONE, ((4, 4), (9, 10)), ONE, 1),
    "2d kernel below stride": ((2, 3, 6, 6), (3, 3, 2, 2), (4, 4), ((0, 0), (0, 0)), ONE, 1),
    "2d stride beyond kernel": ((1, 2, 9, 9), (3, 2, 1, 1), (3, 2), TWO, ONE, 1),
    "pointwise": ((3, 8, 10, 10), (7, 8, 1, 1), ONE, ((0, 0), (0, 0)), ONE, 1),
    "pointwise, one place": ((5, 8, 1, 1), (7, 8, 1, 1), ONE, ((0, 0), (0, 0)), ONE, 1),
    "3d": ((1, 5, 4, 5, 6), (3, 5, 2, 3, 2), (1, 2, 1), ((1, 0), ONE, (0, 1)), (1, 1, 2), 1),
    "depthwise": ((2, 8, 10, 10), (8, 1, 3, 3), ONE, TWO, ONE, 8),
    "depthwise, multiplier": ((2, 8, 10, 40), (16, 1, 3, 5), (2, 1), ((1, 1), (1, 2)), (1, 2), 8),
    "depthwise 1d": ((2, 4, 300), (8, 1, 12), (3,), ((0, 2),), (2,), 4),
    "depthwise 3d": ((3, 6, 5, 6, 7), (6, 1, 2, 3, 3), (1, 1, 2), (ONE, ONE, (0, 2)), (1,) * 3, 6),
    "thin groups, bands": ((1, 4, 200, 150), (4, 2, 3, 3), ONE, TWO, ONE, 2),
}


def options(case):
    return dict(zip(("stride", "padding", "dilation", "groups"), case[2:], strict=True))


@pytest.mark.parametrize("code", ["f32", "f64"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(rng, code, name):
    case = CONVOLUTIONS[name]
    x_shape, w_shape = case[:2]
    x, w = (rng.standard_normal(shape).astype(DTYPE[code]) for shape in (x_shape, w_shape))
    y = references(case, x, w)
    steps = contract.conv(code, x_shape, w_shape, **options(case))
    close(compute(steps, x, w, y.shape, DTYPE[code]), y, np.prod(w_shape[1:]), code)

    dy = rng.standard_normal(y.shape).astype(DTYPE[code])
    dx, dw = references(case, x, w, dy)
    steps = contract.conv_transpose(
        code, dy.shape, w_shape, out_spatial=x_shape[2:], **options(case)
    )
    out = compute(steps, dy, w, dx.shape, DTYPE[code])
    close(out, dx, w_shape[0] * np.prod(w_shape[2:]), code)
    steps = contract.conv_weight_grad(code, x_shape, dy.shape, kernel=w_shape[2:], **options(case))
    close(compute(steps, x, dy, dw.shape, DTYPE[code]), dw, y.size / y.shape[1], code)


@pytest.mark.parametrize(
    "name",
    ["2d", "2d stride 2", "2d all at once", "1d segments, stride 3", "depthwise", "pointwise"],
)
def test_convolution_epilogue(rng, name):
    case = CONVOLUTIONS[name]
    x_shape, w_shape = case[:2]
    x, w = (rng.standard_normal(shape).astype("f4") for shape in (x_shape, w_shape))
    y = references(case, x, w)
    dy = rng.standard_normal(y.shape).astype("f4")
    dx, dw = references(case, x, w, dy)

    def conv(epilogue):
        return contract.conv("f32", x_shape, w_shape, epilogue=epilogue, **options(case))

    def conv_transpose(epilogue):
        return contract.conv_transpose(
            "f32", dy.shape, w_shape, out_spatial=x_shape[2:], epilogue=epilogue, **options(case)
        )

    def weight_grad(epilogue):
        return contract.conv_weight_grad(
            "f32", x_shape, dy.shape, kernel=w_shape[2:], epilogue=epilogue, **options(case)
        )

    check_epilogue(rng, conv, x, w, y.shape, y)
    check_epilogue(rng, conv_transpose, dy, w, dx.shape, dx)
    check_epilogue(rng, weight_grad, x, dy, dw.shape, dw)


@pytest.mark.parametrize("images", [0, 2])
def test_empty_convolution(images):
    options = {"stride": ONE, "padding": TWO, "dilation": ONE, "groups": 1}
    shapes = (images, 0, 5, 5), (4, 0, 3, 3)
    steps = contract.conv("f32", *shapes, **options)
    out = np.full((images, 4, 5, 5), 9, "f4")
    run(steps, {"a": np.zeros(1, "f4"), "b": np.zeros(1, "f4"), "out": out})
    assert not out.any()


# -- other machines, the source itself ------------------------------------------------------------
@pytest.mark.parametrize("machine", [(32, 16, True), (16, 16, False)], ids=["AVX2", "SSE"])
@pytest.mark.parametrize("code", ["f32", "f64"])
def test_narrower_machines(rng, monkeypatch, machine, code):
    for module in (contract_parts, contract_dot):
        monkeypatch.setattr(module, "machine", lambda: machine)
    for sizes in ((29, 45, 300), (1, 45, 300)):
        m, n, k = sizes
        for transposed in (False, True):
            a, b = (
                operand(rng, (m, k), DTYPE[code], 0),
                operand(rng, (k, n), DTYPE[code], transposed),
            )
            out = compute(product(code, a, b, ()), a, b, (m, n), DTYPE[code])
            close(out, a.astype("f8") @ b.astype("f8"), k, code)
    test_convolution(rng, code, "2d small images")


def all_steps():
    yield contract.matmul("f32", (3,), 100, 70, 900, (90000, 900, 1), (63000, 70, 1), Probe())
    yield contract.matmul("f32", (), 1, 70, 900, (900, 1), (1, 900), Probe())
    yield contract.matmul("f32", (), 9, 9, 9000, (9000, 1), (9, 1), Probe())
    yield contract.matmul("i32", (), 9, 9, 90, (90, 1), (1, 90), Probe())
    for name in ("1d segments, stride 3", "2d all at once", "3d", "depthwise 3d"):
        case = CONVOLUTIONS[name]
        x_shape, w_shape = case[:2]
        y_shape = references(case, np.zeros(x_shape), np.zeros(w_shape)).shape
        given = options(case) | {"epilogue": Probe()}
        yield contract.conv("f32", x_shape, w_shape, **given)
        yield contract.conv_transpose("f32", y_shape, w_shape, out_spatial=x_shape[2:], **given)
        yield contract.conv_weight_grad("f32", x_shape, y_shape, kernel=w_shape[2:], **given)


def test_names_left_to_epilogues():
    """Epilogues may use a letter with digits, and m: the templates never do."""
    for kernel in (kernel for steps in all_steps() for kernel in steps.kernels):
        names = {n.id for n in ast.walk(ast.parse(kernel.source)) if isinstance(n, ast.Name)}
        taken = {name for name in names if re.fullmatch(r"[a-z]\d+|m", name)}
        assert taken <= {"e9", "m", "v0"}


def test_source_is_written_without_a_compiler():
    code = (
        "import sys\nimport staticgraph.codegen.contract as c\n"
        "c.matmul('f32', (), 9, 9, 9, (9, 1), (9, 1))\nassert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

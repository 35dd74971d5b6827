"""The elementwise functions against mpmath and NumPy, SciPy in more precision: bounds in ulp.

A distance counts the numbers of the type between a result and the correctly rounded one.
"""

import functools
import re

import mpmath as mp
import numpy as np
import pytest
import scipy.special as sp
from numba import cfunc, types

from staticgraph.codegen import vecmath, vector

DTYPE = {"f32": np.float32, "f64": np.float64, "c64": np.complex64, "c128": np.complex128}
BITS = {"f32": np.int32, "f64": np.int64}
REALS = ["f32", "f64"]
FUNCTIONS = [name for name in vecmath.FUNCTIONS if name not in ("power", "logistic")]
UNARY = [name for name in FUNCTIONS if vecmath.FUNCTIONS[name][0] == 1]


def compile_kernel(name, code, arity, result):
    loads = ", ".join(f"vld_{code}(ptr(bufs, {k}), t * 16)" for k in range(arity))
    source = (
        "def kernel(lo, hi, bufs, scratch):\n    for t in range(lo, hi):\n"
        f"        vst_{result}(ptr(bufs, {arity}), t * 16, {name}({loads}))\n"
    )
    scope = dict(vector.NAMESPACE)
    exec(source, scope)
    return cfunc(types.void(*[types.int64] * 4))(scope["kernel"])


@pytest.fixture(scope="module")
def kernel():
    """kernel(name, code, arity, result code): compiled once for the whole module."""
    return functools.cache(compile_kernel)


@pytest.fixture(scope="module")
def evaluate(kernel):
    """evaluate(name, code, *arrays, result=code)"""

    def call(name, code, *arrays, result=None):
        result = result or code
        size = arrays[0].size
        padded = -(-size // 16) * 16
        inputs = [np.resize(np.asarray(a, DTYPE[code]), padded) for a in arrays]
        out = np.empty(padded, DTYPE[result])
        table = np.array([a.ctypes.data for a in (*inputs, out)], np.int64)
        compiled = kernel(name, code, len(arrays), result)
        compiled.ctypes(0, padded // 16, table.ctypes.data, 0)
        return out[:size]

    return call


# -- references -----------------------------------------------------------------------------------
def _limit_at_minus_infinity(f):
    return lambda x: np.where(np.isneginf(x), -0.0, f(x))


def _sigmoid(x):
    e = np.exp(-abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def _sinc(x):
    n = np.rint(x)
    sine = np.where(np.mod(n, 2) == 1, -1, 1) * np.sin(np.pi * (x - n))
    return np.where(x == 0, 1.0, sine / (np.pi * np.where(x == 0, 1.0, x)))


def _gelu_tanh(x):
    return x * _sigmoid(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))


DOUBLE = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "sinh": np.sinh, "cosh": np.cosh,
    "tanh": np.tanh, "sigmoid": _sigmoid,
    "silu": _limit_at_minus_infinity(lambda x: x * _sigmoid(x)),
    "softplus": lambda x: np.logaddexp(0.0, x), "log_sigmoid": lambda x: -np.logaddexp(0.0, -x),
    "log": np.log, "log1p": np.log1p, "log2": np.log2, "log10": np.log10, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "cbrt": np.cbrt, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "square": np.square, "reciprocal": lambda x: 1 / x,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "sinc": _sinc, "asin": np.arcsin,
    "acos": np.arccos, "atan": np.arctan, "erf": sp.erf, "erfc": sp.erfc, "ndtr": sp.ndtr,
    "npdf": lambda x: np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
    "gelu": _limit_at_minus_infinity(lambda x: x * sp.ndtr(x)),
    "gelu_tanh": _limit_at_minus_infinity(_gelu_tanh),
    "erfinv": lambda x: np.copysign(sp.erfinv(x), x),
    "lgamma": lambda x: np.where(np.isinf(x), np.inf, sp.gammaln(x)), "digamma": sp.digamma,
    "pow": np.power, "hypot": np.hypot, "atan2": np.arctan2, "logaddexp": np.logaddexp,
}  # fmt: skip


def _mp_sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def _mp_ndtr(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2


def _mp_gelu_tanh(x):
    return x * _mp_sigmoid(2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))


EXACT = {
    "exp2": lambda x: mp.power(2, x), "sigmoid": _mp_sigmoid, "silu": lambda x: x * _mp_sigmoid(x),
    "softplus": lambda x: mp.log1p(mp.exp(x)), "log_sigmoid": lambda x: -mp.log1p(mp.exp(-x)),
    "log2": lambda x: mp.log(x) / mp.ln2, "rsqrt": lambda x: 1 / mp.sqrt(x),
    "square": lambda x: x * x, "reciprocal": lambda x: 1 / x,
    "cbrt": lambda x: mp.sign(x) * mp.cbrt(abs(x)),
    "sinc": lambda x: mp.sinpi(x) / (mp.pi * x) if x else mp.one,
    "ndtr": _mp_ndtr, "npdf": mp.npdf, "gelu": lambda x: x * _mp_ndtr(x),
    "gelu_tanh": _mp_gelu_tanh, "lgamma": mp.loggamma, "pow": mp.power,
}  # fmt: skip

# Greatest distance from the correctly rounded result, and where to look besides random bits.
ANYWHERE = (-np.inf, np.inf)
CASES = {
    "exp": (1, ANYWHERE, [(-5, 5), (-110, 92), (-750, 712)]),
    "exp2": (2, ANYWHERE, [(-5, 5), (-152, 130), (-1080, 1026)]),
    "expm1": (2, ANYWHERE, [(-5, 5), (-40, 712)]),
    "sinh": (2, ANYWHERE, [(-3, 3), (-90, 90), (-712, 712)]),
    "cosh": (2, ANYWHERE, [(-3, 3), (-90, 90), (-712, 712)]),
    "tanh": (3, ANYWHERE, [(-1, 1), (-20, 20)]),
    "sigmoid": (3, (-1e4, np.inf), [(-5, 5), (-105, 40), (-750, 40)]),
    "silu": (3, (-1e4, np.inf), [(-5, 5), (-110, 40), (-755, 40)]),
    "softplus": (2, (-1e4, 1e4), [(-5, 5), (-105, 40), (-745, 40)]),
    "log_sigmoid": (2, (-1e4, 1e4), [(-5, 5), (-40, 105), (-40, 745)]),
    "log": (1, (0, np.inf), [(0, 3), (0.9, 1.1)]),
    "log1p": (2, (-1, np.inf), [(-1, 3), (-0.1, 0.1)]),
    "log2": (1, (0, np.inf), [(0, 3), (0.9, 1.1)]),
    "log10": (1, (0, np.inf), [(0, 3), (0.9, 1.1)]),
    "asinh": (2, ANYWHERE, [(-3, 3), (-0.5, 0.5)]),
    "acosh": (2, (1, np.inf), [(1, 1.1), (1, 10)]),
    "atanh": (2, (-1, 1), [(-1, 1), (-0.2, 0.2)]),
    "cbrt": (1, ANYWHERE, [(-9, 9)]),
    "sqrt": (0, (0, np.inf), [(0, 9)]),
    "rsqrt": (2, (0, np.inf), [(0, 9)]),
    "square": (0, ANYWHERE, [(-9, 9)]),
    "reciprocal": (0, ANYWHERE, [(-9, 9)]),
    "sin": (1, ANYWHERE, [(-7, 7), (-1e3, 1e3), (-1e7, 1e7)]),
    "cos": (1, ANYWHERE, [(-7, 7), (-1e3, 1e3), (-1e7, 1e7)]),
    "tan": (3, ANYWHERE, [(-7, 7), (-1e3, 1e3), (-1e7, 1e7)]),
    "sinc": (3, (-1e6, 1e6), [(-9, 9), (-1, 1)]),
    "asin": (2, (-1, 1), [(-1, 1)]),
    "acos": (1, (-1, 1), [(-1, 1)]),
    "atan": (2, ANYWHERE, [(-4, 4)]),
    "erf": (2, ANYWHERE, [(-1.2, 1.2), (-7, 7)]),
    "erfc": (4, (-1e3, 1e3), [(-2, 2), (0, 10.2), (0, 27.5)]),
    "ndtr": (3, (-1e3, 1e3), [(-2, 2), (-14.5, 6), (-38.7, 6)]),
    "npdf": (2, (-1e3, 1e3), [(-2, 2), (-14.5, 6), (-38.7, 6)]),
    "gelu": (4, (-1e3, 1e3), [(-2, 2), (-14.7, 6), (-38.9, 6)]),
    "gelu_tanh": (3, (-1e3, 1e3), [(-2, 2), (-12, 6), (-22, 6)]),
    "erfinv": (3, (-1, 1), [(-1, 1), (-1, -0.99)]),
    "lgamma": (3, (0, np.inf), [(0, 3), (0.9, 2.1), (0, 20)]),
    "digamma": (4, (0, np.inf), [(0, 3), (1.4, 1.5), (0, 20)]),
}


# -- helpers --------------------------------------------------------------------------------------
def ordered(x):
    """Integers in the order of the floats, neighbours one apart; both zeros are 0."""
    bits = x.view(BITS["f32" if x.dtype == np.float32 else "f64"]).astype(object)
    least = -(1 << (8 * x.itemsize - 1))
    return np.where(bits < 0, least - bits, bits)


def distance(got, want):
    """Numbers between; 0 for nan and nan, a great number for nan and anything else."""
    far = 1 << 70
    apart = abs(ordered(got) - ordered(want))
    apart = np.where(np.isnan(got) | np.isnan(want), far, apart)
    return np.where(np.isnan(got) & np.isnan(want), 0, apart)


def check(got, want, bound, *inputs):
    apart = distance(got, want)
    worst = int(np.argmax(apart))
    found = [a[worst] for a in (*inputs, got, want)]
    assert apart[worst] <= bound, f"{apart[worst]} ulp: inputs, result, reference {found}"


def random_bits(code, rng, size, domain=ANYWHERE):
    kind = np.uint32 if code == "f32" else np.uint64
    x = rng.integers(0, np.iinfo(kind).max, size, kind, endpoint=True).view(DTYPE[code])
    return x[(x > domain[0]) & (x < domain[1])]


def in_ranges(code, rng, size, ranges):
    return np.concatenate([rng.uniform(*r, size) for r in ranges]).astype(DTYPE[code])


def special(code):
    info = np.finfo(DTYPE[code])
    values = [0.0, np.inf, 1, 2, 3, 0.5, info.max, info.tiny, info.smallest_subnormal]
    values += [1 - info.epsneg, 1 + info.eps, 88, 710, 1e5]
    return np.array([*values, *(-v for v in values), np.nan], DTYPE[code])


def quietly(f, *arrays):
    with np.errstate(all="ignore"):
        return f(*(a.astype(np.float64) for a in arrays))


def exactly(name, *arrays):
    """The correctly rounded float64 results."""
    f = EXACT.get(name) or getattr(mp, name)
    with mp.workprec(160):
        rows = (f(*map(mp.mpf, row)) for row in np.stack(arrays, 1).tolist())
        return np.array([float(mp.re(value)) for value in rows])


# -- one argument ---------------------------------------------------------------------------------
def test_every_function_has_a_case():
    assert set(CASES) == set(UNARY)
    assert set(DOUBLE) == set(FUNCTIONS)


@pytest.mark.parametrize("name", UNARY)
def test_float32(name, evaluate, rng):
    bound, domain, ranges = CASES[name]
    x = np.concatenate(
        [random_bits("f32", rng, 40_000, domain), in_ranges("f32", rng, 20_000, ranges)]
    )
    with np.errstate(over="ignore"):
        want = quietly(DOUBLE[name], x).astype(np.float32)
    check(evaluate(name, "f32", x), want, bound, x)


@pytest.mark.parametrize("name", UNARY)
def test_float64(name, evaluate, rng):
    bound, domain, ranges = CASES[name]
    x = np.concatenate([random_bits("f64", rng, 300, domain), in_ranges("f64", rng, 150, ranges)])
    x = x[(x > domain[0]) & (x < domain[1])]
    check(evaluate(name, "f64", x), exactly(name, x), bound, x)


@pytest.mark.parametrize("code", REALS)
@pytest.mark.parametrize("name", UNARY)
def test_special_values(name, code, evaluate):
    x = special(code)
    want = quietly(DOUBLE[name], x)
    if name == "lgamma":
        # SciPy loses its precision beside the zeros.
        inside = np.isfinite(x) & (x > -0.5) & (x != 0)
        want[inside] = exactly(name, x[inside].astype(np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        want = want.astype(DTYPE[code])
    got = evaluate(name, code, x)
    if name == "digamma":
        # And beside the poles at negative whole numbers.
        x, got, want = (a[~(x < -0.5)] for a in (x, got, want))
    # A float64 reference is itself no better than a few ulp.
    check(got, want, CASES[name][0] + (4 if code == "f64" else 0), x)
    if name != "sinc":
        zero = (want == 0) & (got == 0)
        np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


@pytest.mark.parametrize("code", REALS)
@pytest.mark.parametrize("name", ["lgamma", "digamma"])
def test_gamma_functions_of_negative_numbers(name, code, evaluate, rng):
    """Beside their zeros the error is absolute: a few ulp of what the reflection subtracts."""
    x = -in_ranges(code, rng, 500, [(0, 20), (0, 3)])
    want = exactly(name, x.astype(np.float64))
    mirrored = quietly(DOUBLE[name], 1 - x)
    size = np.maximum(np.maximum(abs(want), abs(mirrored)), 1)
    error = abs(evaluate(name, code, x) - want) / (size * np.finfo(DTYPE[code]).eps)
    assert error.max() < 8
    poles = evaluate(name, code, np.arange(-16.0, 0.0))
    assert np.isinf(poles).all() if name == "lgamma" else np.isnan(poles).all()


# -- two arguments --------------------------------------------------------------------------------
def near_the_ends(code, rng, size):
    """Bases, and exponents that bring their powers anywhere between underflow and overflow."""
    x = abs(random_bits(code, rng, size, (1e-30, 1e30))).astype(np.float64)
    x = np.concatenate([x, 1 + rng.normal(size=size) * 10.0 ** rng.uniform(-6, -1, size)])
    x = abs(x.astype(DTYPE[code])).astype(np.float64)
    x = x[x != 1]
    end = 92 if code == "f32" else 715
    return x.astype(DTYPE[code]), (rng.uniform(-end, end, x.size) / np.log(x)).astype(DTYPE[code])


@pytest.mark.parametrize("code", REALS)
def test_pow(code, evaluate, rng):
    size = 20_000 if code == "f32" else 300
    x, y = near_the_ends(code, rng, size)
    base = rng.uniform(-9, 9, size).astype(DTYPE[code])
    whole = rng.integers(-40, 40, size).astype(DTYPE[code])
    x, y = np.concatenate([x, base]), np.concatenate([y, whole])
    if code == "f32":
        with np.errstate(over="ignore"):
            want = quietly(np.power, x, y).astype(np.float32)
    else:
        want = exactly("pow", x, y)
    check(evaluate("pow", code, x, y), want, 1, x, y)


@pytest.mark.parametrize("code", REALS)
@pytest.mark.parametrize("name", ["pow", "atan2", "hypot", "logaddexp"])
def test_special_pairs(name, code, evaluate):
    values = np.concatenate([special(code), np.array([16777217.0, -16777217.0, 1.5], DTYPE[code])])
    x, y = (side.ravel() for side in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        want = quietly(DOUBLE[name], x, y).astype(DTYPE[code])
    got = evaluate(name, code, x, y)
    if name == "logaddexp":
        cancels = np.maximum(abs(x), abs(y)) < 4
        x, y, got, want = (a[~cancels] for a in (x, y, got, want))
    check(got, want, 4, x, y)
    zero = (want == 0) & (got == 0)
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


@pytest.mark.parametrize("code", REALS)
@pytest.mark.parametrize("name", ["atan2", "hypot"])
def test_atan2_and_hypot(name, code, evaluate, rng):
    size, spread = (40_000, 60) if code == "f32" else (400, 500)
    scale = 2.0 ** rng.integers(-spread, spread, size)
    x = (rng.normal(size=size) * scale).astype(DTYPE[code])
    y = (rng.normal(size=size) * scale * 2.0 ** rng.integers(-6, 6, size)).astype(DTYPE[code])
    want = quietly(DOUBLE[name], x, y).astype(DTYPE[code]) if code == "f32" else exactly(name, x, y)
    check(evaluate(name, code, x, y), want, 2, x, y)


@pytest.mark.parametrize("code", REALS)
def test_logaddexp(code, evaluate, rng):
    """Where the two terms cancel, the error is relative to them."""
    x = rng.normal(size=20_000).astype(DTYPE[code]) * 9
    y = x + rng.normal(size=x.size).astype(DTYPE[code]) * 5
    want = quietly(np.logaddexp, x, y)
    size = np.maximum(abs(want), abs(np.maximum(x, y)))
    error = abs(evaluate("logaddexp", code, x, y) - want) / (size * np.finfo(DTYPE[code]).eps)
    assert error.max() < 3


# -- complex --------------------------------------------------------------------------------------
COMPLEX = [
    "exp", "exp2", "expm1", "sinh", "cosh", "tanh", "sin", "cos", "tan", "log", "log1p", "log2",
    "log10", "sqrt", "rsqrt", "asin", "acos", "atan", "asinh", "acosh", "atanh", "square",
    "reciprocal", "sign",
]  # fmt: skip
EXACT_COMPLEX = {
    "log1p": lambda z: mp.log(1 + z), "log2": lambda z: mp.log(z) / mp.ln2,
    "log10": lambda z: mp.log(z) / mp.ln10, "sign": lambda z: z / abs(z),
}  # fmt: skip


@pytest.mark.parametrize("code", ["c64", "c128"])
@pytest.mark.parametrize("name", COMPLEX)
def test_complex(name, code, evaluate, rng):
    z = (rng.normal(size=(240, 2)) * 10.0 ** rng.uniform(-4, 0.7, (240, 1))).view(complex)[:, 0]
    z = z.astype(DTYPE[code])
    f = EXACT_COMPLEX.get(name) or EXACT.get(name) or getattr(mp, name)
    with mp.workprec(160):
        want = np.array([complex(f(mp.mpc(value))) for value in z.tolist()])
    error = abs(evaluate(name, code, z) - want) / (abs(want) * np.finfo(DTYPE[code]).eps)
    assert error.max() < (5 if name != "exp2" else 12)


@pytest.mark.parametrize("code", ["c64", "c128"])
def test_complex_modulus_and_power(code, evaluate, rng):
    z, w = rng.normal(size=(2, 800, 2)).view(complex)[..., 0].astype(DTYPE[code])
    part = "f32" if code == "c64" else "f64"
    eps = np.finfo(DTYPE[code]).eps
    np.testing.assert_allclose(evaluate("abs_", code, z, result=part), abs(z), rtol=2 * eps)
    want = z.astype(complex) ** w
    growth = 1 + abs(w * np.log(z))
    assert (abs(evaluate("pow", code, z, w) - want) <= 4 * eps * growth * abs(want)).all()


@pytest.mark.parametrize("code", ["c64", "c128"])
def test_complex_ends(code, evaluate):
    big = np.finfo(DTYPE[code]).max
    z = np.array([0, big, -big + 1j * big, complex(-np.inf, 1), complex(1, np.inf)], DTYPE[code])
    with np.errstate(all="ignore"):
        for name in ("log", "sqrt"):
            want = getattr(np, name)(z)
            np.testing.assert_allclose(evaluate(name, code, z), want, rtol=1e-6)
    flat = evaluate("exp", code, np.array([complex(-np.inf, 3), 0, 1], DTYPE[code]))
    np.testing.assert_allclose(flat, [0, 1, np.e], rtol=1e-6)


# -- what kernels rely on -------------------------------------------------------------------------
@pytest.mark.parametrize("code", REALS)
@pytest.mark.parametrize("name", UNARY)
def test_a_lane_does_not_depend_on_its_neighbours(name, code, evaluate, rng):
    x = np.concatenate([in_ranges(code, rng, 40, [(-9, 9), (0, 1)]), special(code)])
    order = rng.permutation(x.size)
    np.testing.assert_array_equal(
        evaluate(name, code, x)[order].view(BITS[code]),
        evaluate(name, code, x[order]).view(BITS[code]),
    )


@pytest.mark.parametrize("code", REALS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_code_calls_nothing_outside(name, code, kernel):
    """Objects are cached on disk and loaded elsewhere: no symbol of a mathematical library."""
    text = kernel(name, code, vecmath.FUNCTIONS[name][0], code)._library.get_llvm_str()
    declared = re.findall(r"^declare .*@\"?([\w.$]+)", text, re.M)
    assert all(symbol.startswith("llvm.") for symbol in declared), declared


def test_repeated_uses_agree_with_single_ones(evaluate, rng):
    """A long function becomes a call at its second use; that must not change a bit."""
    x = rng.uniform(-4, 4, 320).astype(np.float32)
    out = np.empty((2, x.size), np.float32)
    scope = dict(vector.NAMESPACE)
    exec(
        "def kernel(lo, hi, bufs, scratch):\n    for t in range(lo, hi):\n"
        "        y = gelu_tanh(vld_f32(ptr(bufs, 0), t * 16))\n"
        "        vst_f32(ptr(bufs, 1), t * 16, y)\n"
        "        vst_f32(ptr(bufs, 2), t * 16, gelu_tanh(y))\n",
        scope,
    )
    table = np.array([x.ctypes.data, out[0].ctypes.data, out[1].ctypes.data], np.int64)
    compiled = cfunc(types.void(*[types.int64] * 4))(scope["kernel"])
    compiled.ctypes(0, x.size // 16, table.ctypes.data, 0)
    np.testing.assert_array_equal(out[0], evaluate("gelu_tanh", "f32", x))
    np.testing.assert_array_equal(out[1], evaluate("gelu_tanh", "f32", out[0]))


@pytest.mark.parametrize("code", REALS)
def test_the_normal_distribution_and_its_density_share_their_work(code, kernel):
    """The derivative of gelu needs both: one polynomial for the exponential, not two."""
    source = (
        "def kernel(lo, hi, bufs, scratch):\n    for t in range(lo, hi):\n"
        f"        x = vld_{code}(ptr(bufs, 0), t * 16)\n"
        f"        vst_{code}(ptr(bufs, 1), t * 16, ndtr(x) + x * npdf(x))\n"
    )
    scope = dict(vector.NAMESPACE)
    exec(source, scope)
    both = cfunc(types.void(*[types.int64] * 4))(scope["kernel"])
    alone = kernel("ndtr", code, 1, code)
    count = [f._library.get_llvm_str().count("call <16 x") for f in (both, alone)]
    assert count[0] == count[1] > 10

"""`Vec` against NumPy: memory access, casts, operators, rounding, reductions."""

import operator
import warnings

import numpy as np
import pytest
from numba import cfunc, types
from numba.core.errors import TypingError

from staticgraph.codegen import vector

DTYPE = {
    "b1": "?", "i8": "i1", "i16": "i2", "i32": "i4", "i64": "i8", "u8": "u1", "u16": "u2",
    "u32": "u4", "u64": "u8", "f32": "f4", "f64": "f8", "c64": "c8", "c128": "c16",
}  # fmt: skip
INTEGERS = [c for c in DTYPE if c[0] in "iu"]
FLOATS = ["f32", "f64"]
COMPLEX = ["c64", "c128"]
KERNEL = types.void(*[types.int64] * 4)


def run(lines, *buffers, tiles=None):
    """Run the lines for each tile `t`; `p0`, `p1` ... are the addresses of the buffers."""
    head = "".join(f"    p{k} = ptr(bufs, {k})\n" for k in range(len(buffers)))
    body = "".join(f"        {line}\n" for line in lines)
    source = f"def kernel(lo, hi, bufs, scratch):\n{head}    for t in range(lo, hi):\n{body}"
    scope = dict(vector.NAMESPACE)
    exec(source, scope)
    table = np.array([b.ctypes.data for b in buffers], np.int64)
    compiled = cfunc(KERNEL)(scope["kernel"])
    compiled.ctypes(0, buffers[0].size // 16 if tiles is None else tiles, table.ctypes.data, 0)


def outputs(code, inputs, expressions):
    """The arrays that the expressions of `x0`, `x1` ... (and their result codes) give."""
    results = [np.zeros(inputs[0].size, DTYPE[c]) for _, c in expressions]
    codes = {np.dtype(d): c for c, d in DTYPE.items()}
    lines = [f"x{k} = vld_{codes[a.dtype]}(p{k}, t * 16)" for k, a in enumerate(inputs)]
    lines += [
        f"vst_{c}(p{len(inputs) + k}, t * 16, {text})" for k, (text, c) in enumerate(expressions)
    ]
    run(lines, *inputs, *results)
    return results


def same(got, want):
    """Equal, nan to nan and zeros to zeros of their own sign."""
    np.testing.assert_array_equal(got, want)
    if got.dtype.kind == "f":
        number = ~np.isnan(got)
        np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(want[number]))


def samples(code, rng, size=320):
    """Random values with the awkward ones in front."""
    dtype = np.dtype(DTYPE[code])
    if dtype.kind == "b":
        return rng.random(size) < 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        edges = [0, 1, 2, 3, 7, info.max, info.max - 1, info.min, info.min + 1]
        edges += [-1, -2, -7] if dtype.kind == "i" else []
        values = rng.integers(info.min, info.max, size, dtype, endpoint=True)
        values[size // 2 :] = rng.integers(max(info.min, -9), 9, size - size // 2)
        values[: len(edges)] = edges
        return values
    if dtype.kind == "c":
        part = "f32" if code == "c64" else "f64"
        re, im = rng.normal(size=(2, size)).astype(DTYPE[part])
        return (re + 1j * im).astype(dtype)
    info = np.finfo(dtype)
    edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, -0.5, 1.5, 2.5, -2.5, info.max]
    edges += [info.tiny, -info.tiny, info.smallest_subnormal, 1e9 + 0.5, 3, -7.25, 1e20]
    values = (rng.normal(size=size) * 10.0 ** rng.integers(-3, 6, size)).astype(dtype)
    values[: len(edges)] = edges
    return values


def pairs(code, rng):
    """Two arrays in which every awkward value of the first meets every one of the second."""
    edge = samples(code, rng)[:20]
    a, b = (side.ravel() for side in np.meshgrid(edge, edge))
    more = samples(code, rng, 240), rng.permutation(samples(code, rng, 240))
    return np.concatenate([a, more[0]]), np.concatenate([b, more[1]])


# -- memory ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", DTYPE)
def test_loads_and_stores(code, rng):
    x = samples(code, rng, 160)
    index = rng.permutation(160)
    copied, masked, gathered, scattered, scalar = (np.ones(160, x.dtype) for _ in range(5))
    run(
        [
            "m = lanes(t)",
            "i = vld_i64(p1, t * 16)",
            f"x = vld_{code}(p0, t * 16)",
            f"vst_{code}(p2, t * 16, x)",
            f"vstm_{code}(p3, t * 16, vldm_{code}(p0, t * 16, m), lanes(t + 1))",
            f"vst_{code}(p4, t * 16, vgather_{code}(p0, i, m))",
            f"vscatter_{code}(p5, i, x, m)",
            f"st_{code}(p6, t * 16 + 1, ld_{code}(p0, t * 16 + 3))",
            f"st_{code}(p6, t * 16 + 2, lane0_{code}(splat_{code}(ld_{code}(p0, t * 16 + 5))))",
        ],
        x, index, copied, masked, gathered, scattered, scalar,
    )  # fmt: skip
    tile, lane = np.divmod(np.arange(160), 16)
    active = lane < tile
    same(copied, x)
    same(masked, np.where(active, x, (lane != tile).astype(x.dtype)))
    same(gathered, np.where(active, x[index], np.zeros_like(x)))
    want = np.ones_like(x)
    want[index[active]] = x[active]
    same(scattered, want)
    want = np.ones_like(x)
    want[1::16], want[2::16] = x[3::16], x[5::16]
    same(scalar, want)


@pytest.mark.parametrize("code", DTYPE)
def test_every_second_element(code, rng):
    x = samples(code, rng, 160)
    picked = np.ones_like(x)
    # The last lane of the last tile reads the last element.
    run(["m = lanes(t + 7)", f"vst_{code}(p1, t * 16, vld2_{code}(p0, t * 14 + 3, m))"], x, picked)
    tile, lane = np.divmod(np.arange(160), 16)
    place = tile * 14 + 3 + 2 * lane
    same(picked, np.where(lane < tile + 7, x[np.minimum(place, 159)], np.zeros_like(x)))


@pytest.mark.parametrize("code", DTYPE)
def test_packed_stores(code, rng):
    x, mask = samples(code, rng, 160), rng.random(160) < 0.4
    packed, counts = np.ones(200, x.dtype), np.zeros(10, np.int64)
    run(
        [
            "m = vld_b1(p1, t * 16)",
            f"vpack_{code}(p2, t * 20 + 1, vld_{code}(p0, t * 16), m)",
            "st_i64(p3, t, count(m))",
        ],
        x, mask, packed, counts,
    )  # fmt: skip
    want = np.ones_like(packed)
    for t in range(10):
        chosen = x[t * 16 : t * 16 + 16][mask[t * 16 : t * 16 + 16]]
        want[t * 20 + 1 : t * 20 + 1 + len(chosen)] = chosen
    same(packed, want)
    same(counts, mask.reshape(10, 16).sum(1))


@pytest.mark.parametrize("code", DTYPE)
def test_moving_lanes(code, rng):
    x, fill = samples(code, rng), rng.permutation(samples(code, rng))
    steps = (1, 2, 4, 8)
    calls = [f"{way}{n}(x0, x1)" for way in ("up", "down") for n in steps]
    calls += ["first(x0)", "last(x0)", "mirror(x0)"]
    results = outputs(code, [x, fill], [(c, code) for c in calls])
    rows, spare = x.reshape(-1, 16), fill.reshape(-1, 16)
    ups = [np.concatenate([spare[:, :n], rows[:, :-n]], 1) for n in steps]
    downs = [np.concatenate([rows[:, n:], spare[:, -n:]], 1) for n in steps]
    ends = [np.repeat(rows[:, k : k + 1], 16, 1) for k in (0, 15)]
    for got, want in zip(results, [*ups, *downs, *ends, rows[:, ::-1]], strict=True):
        same(got, want.ravel())


def test_unaligned_access(rng):
    x, out = rng.normal(size=64), np.zeros(64)
    run(["vst_f64(p1, 3, vld_f64(p0, 5))"], x, out, tiles=1)
    same(out[3:19], x[5:21])


@pytest.mark.parametrize("count", [-3, 0, 1, 5, 15, 16, 17, 2**40])
def test_lanes_and_iota(count):
    n, mask, numbers = np.array([count]), np.zeros(16, bool), np.zeros(16, np.int64)
    run(
        ["vst_b1(p1, 0, lanes(ld_i64(p0, 0)))", "vst_i64(p2, 0, iota())"], n, mask, numbers, tiles=1
    )
    same(mask, np.arange(16) < count)
    same(numbers, np.arange(16))


def test_splat_converts_constants_and_variables():
    n, out = np.array([3]), np.zeros((5, 16))
    run(
        [
            "vst_f64(p1, 0, splat_f64(2))",
            "vst_f64(p1, 16, splat_f64(ld_i64(p0, 0)))",
            "vst_f64(p1, 32, cast_f64(splat_f32(0.1)))",
            "vst_f64(p1, 48, cast_f64(splat_u8(-1)))",
            "vst_f64(p1, 64, cast_f64(splat_b1(True)))",
        ],
        n, out, tiles=1,
    )  # fmt: skip
    same(out[:, 0], np.array([2, 3, np.float32(0.1), 255, 1]))
    same(out, np.repeat(out[:, :1], 16, axis=1))


# -- casts ----------------------------------------------------------------------------------------
def float_to_integer(x, dtype):
    """The documented rule: x86 conversion to 32 or 64 bits, then the low bits."""
    info = np.iinfo(dtype)
    width = 64 if info.bits == 64 else 32
    half = 1 << (width - 1)
    out = []
    for value in x:
        value = np.real(value)
        upper = info.bits == width and info.min == 0 and value >= half
        folded = value - half if upper else value
        whole = int(folded) if -half <= folded < half else -half
        whole = (whole ^ half if upper else whole) & ((1 << info.bits) - 1)
        out.append(whole - (1 << info.bits) if whole > info.max else whole)
    return np.array(out, dtype)


@pytest.mark.parametrize("code", DTYPE)
def test_casts(code, rng):
    x = samples(code, rng)
    if code in FLOATS:
        x[20:28] = [300.7, -300.7, 70000, 3e9, -3e9, 5e9, 9.3e18, -1e19]
    results = outputs(code, [x], [(f"cast_{to}(x0)", to) for to in DTYPE])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for to, got in zip(DTYPE, results, strict=True):
            want = x.astype(DTYPE[to])
            if to in INTEGERS and x.dtype.kind in "fc":
                want = float_to_integer(x, want.dtype)
            same(got, want)


# -- operators ------------------------------------------------------------------------------------
ARITHMETIC = ["+", "-", "*", "//", "%"]
BITWISE = ["&", "|", "^"]
COMPARISONS = ["<", "<=", ">", ">=", "==", "!="]
PYTHON = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod, "&": operator.and_, "|": operator.or_,
    "^": operator.xor, "<<": operator.lshift, ">>": operator.rshift, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


def check_binary(code, a, b, symbols):
    results = outputs(
        code,
        [a, b],
        [(f"x0 {s} x1", "b1" if s in COMPARISONS else code) for s in symbols],
    )
    with np.errstate(all="ignore"):
        for symbol, got in zip(symbols, results, strict=True):
            same(got, PYTHON[symbol](a, b))


@pytest.mark.parametrize("code", INTEGERS)
def test_integer_operators(code, rng):
    a, b = pairs(code, rng)
    check_binary(code, a, b, ARITHMETIC + BITWISE + COMPARISONS)
    counts = b % np.array(np.iinfo(b.dtype).bits + 8, b.dtype)
    check_binary(code, a, counts, ["<<", ">>"])
    negated, inverted = outputs(code, [a], [("-x0", code), ("~x0", code)])
    with np.errstate(over="ignore"):
        same(negated, -a)
    same(inverted, ~a)


@pytest.mark.parametrize("code", ["i32", "i64", "u8"])
@pytest.mark.parametrize("divisor", [1, 3, 8, 0])
def test_division_by_a_constant(code, divisor, rng):
    a = samples(code, rng)
    symbols = ["//", "%"]
    results = outputs(code, [a], [(f"x0 {s} splat_{code}({divisor})", code) for s in symbols])
    with np.errstate(all="ignore"):
        for symbol, got in zip(symbols, results, strict=True):
            same(got, PYTHON[symbol](a, a.dtype.type(divisor)))


@pytest.mark.parametrize("code", FLOATS)
def test_float_operators(code, rng):
    a, b = pairs(code, rng)
    check_binary(code, a, b, ["/", *ARITHMETIC, *COMPARISONS])
    (negated,) = outputs(code, [a], [("-x0", code)])
    same(negated, -a)


def test_bool_operators(rng):
    a, b = samples("b1", rng), samples("b1", rng)
    check_binary("b1", a, b, [*BITWISE, "+", "*", *COMPARISONS])
    (inverted,) = outputs("b1", [a], [("~x0", "b1")])
    same(inverted, ~a)


@pytest.mark.parametrize("code", COMPLEX)
def test_complex_operators(code, rng):
    a, b = samples(code, rng), samples(code, rng)
    b[:8] = a[:8]
    part = "f32" if code == "c64" else "f64"
    names = [("x0 + x1", code), ("x0 - x1", code), ("x0 * x1", code), ("-x0", code)]
    names += [("conj(x0)", code), ("real(x0)", part), ("imag(x0)", part), ("x0 == x1", "b1")]
    names += [("complex_(real(x0), imag(x1))", code), ("x0 != x1", "b1"), ("x0 / x1", code)]
    *exact, quotient = outputs(code, [a, b], names)
    wanted = [
        a + b,
        a - b,
        None,
        -a,
        a.conj(),
        a.real,
        a.imag,
        a == b,
        a.real + 1j * b.imag,
        a != b,
    ]
    for got, want in zip(exact, wanted, strict=True):
        if want is not None:
            same(got, want.astype(got.dtype))
    eps = np.finfo(a.real.dtype).eps
    np.testing.assert_allclose(exact[2], a * b, rtol=4 * eps)
    np.testing.assert_allclose(quotient, a / b, rtol=4 * eps)


# -- functions ------------------------------------------------------------------------------------
ROUNDING = {"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "rint": np.rint}
UNARY = {**ROUNDING, "abs_": np.abs, "sign": np.sign}
TESTS = {"isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "signbit": np.signbit}
BINARY = {"maximum": np.maximum, "minimum": np.minimum}


@pytest.mark.parametrize("code", FLOATS + INTEGERS)
def test_functions(code, rng):
    a, b = pairs(code, rng)
    tests = TESTS if code in FLOATS else {k: TESTS[k] for k in ("isnan", "isinf", "isfinite")}
    names = [(f"{name}(x0)", code) for name in UNARY]
    names += [(f"{name}(x0)", "b1") for name in tests]
    names += [(f"{name}(x0, x1)", code) for name in BINARY]
    names += [("select(x0 < x1, x0, x1)", code)]
    results = iter(outputs(code, [a, b], names))
    for name, function in UNARY.items():
        whole = name in ROUNDING and code in INTEGERS
        same(next(results), a if whole else function(a))
    for function in tests.values():
        same(next(results), function(a))
    for function in BINARY.values():
        np.testing.assert_array_equal(next(results), function(a, b))
    same(next(results), np.where(a < b, a, b))


@pytest.mark.parametrize("code", FLOATS)
def test_copysign_and_fma(code, rng):
    a, b = pairs(code, rng)
    (signed,) = outputs(code, [a, b], [("copysign(x0, x1)", code)])
    number = ~np.isnan(a)
    same(signed[number], np.copysign(a, b)[number])
    x = (1 + rng.random(32)).astype(DTYPE[code])
    product, rest = outputs(code, [x], [("x0 * x0", code), ("fma(x0, x0, -(x0 * x0))", code)])
    wide = x.astype(np.longdouble) ** 2
    assert rest.any()
    if np.finfo(wide.dtype).nmant > 2 * np.finfo(x.dtype).nmant:
        same(rest, (wide - product).astype(x.dtype))


def tree(x, combine):
    x = x.reshape(-1, 16)
    while x.shape[1] > 1:
        half = x.shape[1] // 2
        x = combine(x[:, :half], x[:, half:])
    return np.repeat(x[:, 0], 16)


@pytest.mark.parametrize("code", [*INTEGERS, *FLOATS, *COMPLEX])
def test_reductions_follow_one_tree(code, rng):
    x = samples(code, rng)
    wanted = {"hsum": np.add, "hprod": np.multiply}
    if code not in COMPLEX:
        wanted |= {"hmax": np.maximum, "hmin": np.minimum}
    results = outputs(code, [x], [(f"{name}(x0)", code) for name in wanted])
    with np.errstate(all="ignore"):
        for (name, combine), got in zip(wanted.items(), results, strict=True):
            want = tree(x, combine)
            if name == "hprod" and code in COMPLEX:
                np.testing.assert_allclose(got, want, rtol=1e-5 if code == "c64" else 1e-13)
            else:
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("code", ["b1", "i32", "f64", "c64"])
def test_any_and_all(code, rng):
    x = np.ones(64, DTYPE[code])
    x[5] = 0
    x[16:48] = 0
    x[40] = 1
    some, every = outputs(code, [x], [("hany(x0)", "b1"), ("hall(x0)", "b1")])
    same(some[::16], np.array([True, False, True, True]))
    same(every[::16], np.array([False, False, False, True]))


@pytest.mark.parametrize("expression", ["x0 + cast_f64(x0)", "x0 & x0", "exp(cast_i32(x0))"])
def test_operands_that_do_not_fit_are_refused(expression):
    with pytest.raises(TypingError):
        outputs("f32", [np.zeros(16, "f4")], [(expression, "f32")])

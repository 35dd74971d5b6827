"""Generated kernels: their source, and what the compiler made of it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import GRAPHS, layer_norm_gelu

import staticgraph as sg
from staticgraph.ir import Graph
from staticgraph.passes import PIPELINES, guard
from staticgraph.planner import build

ops = sg.ops
x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86 assembly")

#: arithmetic and conversions of doubles; moves and shuffles of 64 bits carry floats as well
DOUBLES = re.compile(
    r"\bv?(?:add|sub|mul|div|sqrt|min|max|u?comi|cmp\w*|fn?m(?:add|sub)\w*|rndscale|scalef|getexp"
    r"|cvt\w+2[sp]d|cvtt?[sp]d2\w+|rcp14|rsqrt14|reduce|range|round|hadd)[sp]d\b|\bv?cvt\w*[sp]d\w*"
)
PACKED = re.compile(r"\bv?(?:add|sub|mul|div|fn?m(?:add|sub)\w*|max|min|sqrt)p[sd]\b.*%[yz]mm")


def launches(*outputs: sg.Tensor, updates=None):
    """The launches of a graph, without compiling."""
    roots = [*outputs, *(updates or {}).values()]
    inputs = [n.results[0] for n in Graph((), roots).nodes if n.op.name == "input"]
    return build(PIPELINES["default"](guard(Graph(inputs, outputs, updates or {})))).launches


def step_function():
    """A training step with the usual parts: products, a norm, an activation, a loss, Adam."""
    rng = np.random.default_rng(0)
    x, t = sg.input("x", (64, 200)), sg.input("t", (64,), "int64")

    def weight(*shape):
        return sg.variable(rng.standard_normal(shape).astype("f"))

    w1, b1, scale, shift, w2 = weight(200, 96), weight(96), weight(96), weight(96), weight(96, 10)
    h = ops.gelu(ops.layer_norm(x @ w1 + b1, scale, shift))
    loss = ops.mean(ops.softmax_cross_entropy(h @ w2, t))
    params = [w1, b1, scale, shift, w2]
    return sg.compile(loss, updates=sg.optim.adam(loss, params, lr=1e-3))


# ---------------------------------------------------------------------------- source


def chain():
    x, y = sg.input("x", (300, 100)), sg.input("y", (300, 100))
    return [ops.tanh(x * y + 1.0)]


def row_softmax():
    return [ops.softmax(sg.input("x", (300, 100)))]


def column_sums():
    x, y = sg.input("x", (9000, 100)), sg.input("y", (9000, 100))
    return [(x * y).sum(axis=0)]


def views():
    x, y = sg.input("x", (40, 30)), sg.input("y", (30, 20), "float64")
    return [x.T[::2, 5:25].astype("float64") - y[::-2]]


@pytest.mark.parametrize(
    "case", [chain, row_softmax, column_sums, views], ids=lambda case: case.__name__
)
def test_source(case, golden):
    assert "\n".join(launch.text for launch in launches(*case())) == golden


def test_joins_of_a_region_are_one_kernel():
    """Totals and column sums of several dtypes: the tiles, and one kernel that joins all."""
    x = sg.input("x", (4100, 530))
    whole = x.astype("int32")
    outputs = [x.sum(axis=0), ops.max(x), whole.sum(axis=0), ops.any(x > 4.0), (x * x).sum()]
    f = sg.compile(outputs, [x])
    region, join = f.plan.launches
    assert join.name == f"{region.name}_join"
    array = np.random.default_rng(0).standard_normal((4100, 530)).astype("f")
    total, largest, wholes, above, squares = f(array)
    wide = array.astype("f8")
    np.testing.assert_allclose(total, wide.sum(axis=0), rtol=1e-4, atol=1e-3)
    assert largest == array.max()
    np.testing.assert_array_equal(wholes, array.astype("i4").sum(axis=0))
    assert above == (array > 4.0).any()
    np.testing.assert_allclose(squares, (wide * wide).sum(), rtol=1e-5)


def test_source_knows_no_threads():
    """Tiles and text depend on shapes only, so that results do."""
    outputs, _ = layer_norm_gelu()
    made = [sg.compile(outputs, threads=n) for n in (1, 2, 7)]
    with sg.threads(3):
        made.append(sg.compile(outputs))
    for fn in made[1:]:
        assert [k.key for k in fn.kernels] == [k.key for k in made[0].kernels]
        assert str(fn.plan) == str(made[0].plan)


def test_source_knows_no_place_or_history():
    """No paths, no addresses, and the same text after other graphs were built in between."""
    x = sg.input("x", (64, 50))
    before = [launch.text for launch in launches(ops.softmax(x * 2.0))]
    for f in GRAPHS.values():
        f()
    y = sg.input("another_name", (64, 50))
    assert [launch.text for launch in launches(ops.softmax(y * 2.0))] == before
    assert not re.search(r"/\w+/|0x[0-9a-f]{6}", "".join(before))


PRINT_TEXTS = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from models import GRAPHS
from test_plan import plan_of
for name, graph in GRAPHS.items():
    plan = plan_of(*graph())
    text = str(plan) + "".join(launch.text for launch in plan.launches)
    print(name, hashlib.sha256(text.encode()).hexdigest())
"""


def texts_in_a_new_process(seed: str) -> str:
    """Digests of plans and sources of all known graphs, with another order of sets and dicts."""
    here = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-P", "-c", PRINT_TEXTS, str(here)],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return result.stdout


def test_every_process_generates_the_same_text():
    """Otherwise the cache on disk would miss."""
    first = texts_in_a_new_process("1")
    assert len(first.splitlines()) == len(GRAPHS)
    assert first == texts_in_a_new_process("2")


def test_source_is_a_file():
    fn = sg.compile(ops.exp(sg.input("x", (50,))) * 3.0)
    (kernel,) = fn.kernels
    assert kernel.path.read_text() == kernel.source
    compile(kernel.source, kernel.path, "exec")


# ---------------------------------------------------------------------------- the order of sums

#: what a sum is fused with: operands of these shapes, and a value of shape n
SUMMED = {
    "itself": lambda n: ([n], lambda x: x * x),
    "broadcast": lambda n: ([n, n[-1:]], lambda x, b: x * b),
    "of rows": lambda n: ([n, (n[0], *[1] * (len(n) - 1))], lambda x, b: x + b),
    "turned": lambda n: ([n[::-1]], lambda x: ops.tanh(x.T)),
    "flipped": lambda n: ([n], lambda x: x[::-1] * 2.0),
    "joined": lambda n: ([n, n], lambda x, y: ops.concat([x, ops.sin(y)])[: n[0]]),
    "padded": lambda n: (
        [(n[0], *n[1:])],
        lambda x: ops.pad(x[1:], [(1, 0)] + [(0, 0)] * (len(n) - 1)),
    ),
}


@pytest.mark.parametrize("shape", [(33, 5), (70, 40), (32, 2, 1), (7, 40, 3), (1, 500), (300,)])
@pytest.mark.parametrize("name", SUMMED)
def test_the_order_of_a_sum_follows_from_its_shape(name, shape, rng):
    """Fused with whatever computes its operand, or alone: the same bits."""
    shapes, build_value = SUMMED[name](shape)
    inputs = [sg.input(f"x{k}", n) for k, n in enumerate(shapes)]
    value = build_value(*inputs)
    outputs = [value.sum(), *(value.sum(axis=k) for k in range(len(shape)))]
    arrays = [rng.standard_normal(n).astype("f") for n in shapes]
    fused = sg.compile(outputs, inputs)(*arrays)
    plain = sg.compile(outputs, inputs, pipeline="none")(*arrays)
    for a, b in zip(fused, plain, strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------------------- after a product

#: what is multiplied with a product of shape (3, 5, 8): shape of an operand, and its view
FOLLOWERS = {
    "whole": ((3, 5, 8), lambda z: z),
    "turned": ((3, 8, 5), lambda z: z.transpose(0, 2, 1)),
    "moved": ((8, 3, 5), lambda z: z.transpose(1, 2, 0)),
    "backwards": ((3, 5, 8), lambda z: z[::-1]),
    "rows backwards": ((3, 5, 8), lambda z: z[:, ::-1]),
    "every other": ((3, 10, 16), lambda z: z[:, 1::2, ::2]),
    "matrix": ((5, 8), lambda z: z),
    "per batch": ((3, 1, 1), lambda z: z),
    "per row": ((3, 5, 1), lambda z: z),
    "per column": ((8,), lambda z: z),
    "number": ((), lambda z: z),
}


@pytest.mark.parametrize("left", [(3, 5, 6), (5, 6)], ids=["rows", "batch"])
@pytest.mark.parametrize("name", FOLLOWERS)
def test_whatever_follows_a_product(name, left, rng):
    """Batch and rows of a product may be one axis of its kernel, and two of what follows."""
    shape, view = FOLLOWERS[name]
    x = sg.input("x", left, "float64")
    w = sg.input("w", (6, 8) if len(left) == 3 else (3, 6, 8), "float64")
    z = sg.input("z", shape, "float64")
    fn = sg.compile(ops.tanh(x @ w) * view(z) + 1.0)
    a, b, c = (rng.standard_normal(t.shape) for t in (x, w, z))
    np.testing.assert_allclose(fn(a, b, c), np.tanh(a @ b) * view(c) + 1.0, rtol=1e-12, atol=1e-13)


# ---------------------------------------------------------------------------- machine code


@x86
def test_float32_stays_float32():
    """No double is computed or converted anywhere in a training step."""
    kernels = step_function().kernels
    assert len(kernels) > 5
    for kernel in kernels:
        assert not DOUBLES.findall(kernel.asm), kernel.source


@x86
def test_the_search_for_doubles_finds_them():
    x = sg.input("x", (300,))
    (kernel,) = sg.compile(ops.tanh(x.astype("float64") * 2.0).astype("float32")).kernels
    found = DOUBLES.findall(kernel.asm)
    assert any("cvt" in word for word in found)
    for line in (
        "vaddpd %zmm0",
        "vfmadd231sd %xmm1",
        "vcvtps2pd %ymm0",
        "divsd %xmm0",
        "vsqrtpd x",
    ):
        assert DOUBLES.search(line), line
    for line in ("vmovupd %zmm0", "vshufpd $1", "vpermt2pd %zmm0", "vaddps %zmm0", "vmulss %xmm0"):
        assert not DOUBLES.search(line), line


@x86
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels_are_vectorised(dtype):
    """Whatever goes over an array computes in ymm or zmm registers, transcendentals included."""
    x, c = sg.input("x", (200, 300), dtype), sg.input("c", (200, 300), dtype)
    w = sg.input("w", (300, 64), dtype)
    cases = [
        ops.silu(x * c + 1.0),
        ops.softmax(x),
        ops.layer_norm(x),
        (x * c).sum(axis=0),
        x.var(),
        x @ w,
        *(
            getattr(ops, name)(x) * c
            for name in ("exp", "log", "sin", "tanh", "erf", "gelu", "atan", "expm1", "sqrt")
        ),
        ops.power(ops.abs(x), c),
    ]
    for y in cases:
        kernels = sg.compile(y).kernels
        widest = max(kernels, key=lambda k: len(k.source))
        assert PACKED.search(widest.asm), widest.source


@x86
def test_kernels_call_nothing():
    """No library function, so no kernel depends on the libm of the machine."""
    for kernel in step_function().kernels:
        called = set(re.findall(r"\bcallq?\s+(\S+)", kernel.asm))
        inside = set(re.findall(r"^(\S+):", kernel.asm, re.M))
        assert called <= inside, called - inside


@x86
def test_no_operation_is_contracted():
    """x * y + z rounds twice, fused into one kernel or not."""
    x, y, z = (sg.input(n, (500,)) for n in "xyz")
    (kernel,) = sg.compile(x * y + z).kernels
    assert "vfmadd" not in kernel.asm
    assert re.search(r"\bv?mulps\b", kernel.asm)
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, 500)).astype("f")
    np.testing.assert_array_equal(sg.compile(x * y + z)(a, b, c), a * b + c)

"""What target="cuda" is held to: graphs with arrays (CASES), and stories that call more than once.

`test_cuda` runs the table on whatever there is. As a script, `cuda_cases.py REPORT` runs it in this
process and writes {name: what went wrong} as JSON: the simulator must be chosen before Python
starts, so the tests start another one for it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest

import staticgraph as sg
from staticgraph import interpret
from staticgraph import scalar as s
from staticgraph.codegen import cuda, cudasinks
from staticgraph.errors import GraphTypeError
from staticgraph.ir import Graph, apply
from staticgraph.op import Elementwise
from staticgraph.registry import OPS, add_op
from staticgraph.types import DTYPES, is_complex, is_float

ops = sg.ops
LOOSE = {"float32": 1e-5, "float64": 1e-12, "complex64": 1e-5, "complex128": 1e-12}


@dataclass(frozen=True)
class Case:
    """`build` makes outputs from inputs like `arrays`; they must equal the NumPy oracle's.

    Floats may be off by `LOOSE` of the largest number; with `exact`, by nothing. `small` makes
    blocks take less work each, so that small arrays need many.
    """

    build: Callable
    arrays: Callable[[np.random.Generator], list]
    exact: bool = False
    small: bool = False
    pipeline: str = "default"
    ptx: bool = False

    def drawn(self, name: str) -> list[np.ndarray]:
        rng = np.random.default_rng(sum(map(ord, name)))
        return [np.asarray(a) for a in self.arrays(rng)]

    def function(self, name: str, target: str = "cuda") -> tuple[sg.Function, list[np.ndarray]]:
        """The compiled case and its arguments."""
        arrays = self.drawn(name)
        inputs = [sg.input(f"x{k}", a.shape, a.dtype.name) for k, a in enumerate(arrays)]
        with less_per_block() if self.small else contextlib.nullcontext():
            outputs = self.build(*inputs)
            return sg.compile(outputs, inputs, target=target, pipeline=self.pipeline), arrays


def less_per_block():
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(cuda, "CHUNK", 2))
    stack.enter_context(mock.patch.object(cudasinks, "ROW_TILES", 3))
    return stack


def f32(*shape):
    return lambda rng: [rng.standard_normal(n, dtype="float32") for n in shape]


def f64(*shape):
    return lambda rng: [rng.standard_normal(n) for n in shape]


def ints(dtype, *shape):
    return lambda rng: [rng.integers(-50, 50, n).astype(dtype) for n in shape]


def c64(*shape):
    return lambda rng: [z.astype("complex64") for z in c128(*shape)(rng)]


def c128(*shape):
    return lambda rng: [rng.standard_normal(n) + 1j * rng.standard_normal(n) for n in shape]


def layer_norm(x, w, b):
    mean = ops.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    return centred * ops.rsqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + 1e-5) * w + b


def gradients(loss: Callable) -> Callable:
    return lambda *xs: [loss(*xs), *sg.grad(loss(*xs), list(xs))]


def random_numbers(dtype: str):
    key = sg.random.fold_in(sg.random.key(7), 3)
    width = "uint32" if dtype == "float32" else "uint64"
    uniform = sg.random.uniform(key, (5, 31), dtype=dtype)
    flips = sg.random.bernoulli(key, (70,), 0.3)
    return [
        sg.random.bits(key, (90,), width),
        uniform,
        flips,
        sg.random.randint(key, (40,), -9, 99),
    ]


CASES: dict[str, Case] = {
    # elementwise
    "chain": Case(lambda a, b, c: ops.silu(a * b + c), f32((5, 50), (50,), (5, 1)), ptx=True),
    "chain64": Case(lambda a, b: ops.exp(a) / (b * b + 0.1), f64((9, 9), (9, 9)), ptx=True),
    "scalar": Case(lambda a: ops.tanh(a) * 3.0, f32(())),
    "unfused": Case(lambda a, b: ops.relu(a + b) * 2.0, f32((300,), (300,)), pipeline="none"),
    "views": Case(
        lambda a: ops.concat([a.T[1:, ::-1], ops.pad(a, ((0, 2), (1, 0)))], axis=0),
        f32((5, 4)),
        exact=True,
    ),
    "nothing": Case(lambda a: [a + 1.0, ops.sum(a, axis=0), ops.max(a, axis=1)], f32((0, 4))),
    "small integers": Case(lambda a, b: [a * b, a + b, -a], ints("int8", (90,), (90,)), exact=True),
    "integers": Case(lambda a, b: (a - b) * 3 // (b * b + 1), ints("int32", 77, 77), exact=True),
    "random bits": Case(lambda: random_numbers("float32"), f32(), exact=True, ptx=True),
    "random bits64": Case(lambda: random_numbers("float64"), f32(), exact=True),
    "normal": Case(lambda: sg.random.normal(sg.random.key(1), (90,)), f32()),
    # rows
    "softmax": Case(lambda a: ops.softmax(a, axis=-1), f32((7, 37)), ptx=True),
    "softmax64": Case(lambda a: ops.log_softmax(a, axis=0), f64((37, 3))),
    "norm": Case(layer_norm, f32((6, 20), (20,), (20,))),
    "norm in pieces": Case(layer_norm, f32((3, 90), (90,), (90,)), small=True),
    "middle axis": Case(lambda a: [ops.max(a, axis=1), ops.sum(a, axis=1)], f32((3, 70, 5))),
    "two axes": Case(lambda a: ops.var(a, axis=(0, 2)), f32((4, 3, 9))),
    "bools": Case(
        lambda a: [ops.any(a > 1.5, axis=1), ops.all(a < 1.5, axis=1), ops.argmax(a, axis=1)],
        f32((8, 11)),
        exact=True,
    ),
    "not a number": Case(
        lambda a: [ops.max(a, axis=1), ops.min(a), ops.maximum(a, 0.0)],
        lambda rng: [np.where(np.eye(5, 9), np.float32(np.nan), np.float32(1))],
        exact=True,
    ),
    # sums over leading axes and over all
    "total": Case(lambda a: ops.sum(ops.square(a)), f32((13, 21)), ptx=True),
    "long total": Case(lambda a: [ops.sum(a), ops.max(a)], f32((1500,))),
    "columns": Case(lambda a: [ops.sum(a, axis=0), ops.exp(a)], f32((50, 9)), small=True, ptx=True),
    "wide columns": Case(lambda a: [ops.mean(a, axis=0), ops.sum(a)], f32((6, 300)), small=True),
    "planes": Case(lambda a: [ops.sum(a, axis=0), ops.sum(a, axis=(0, 1))], f32((20, 3, 5))),
    "many sums": Case(
        lambda a: (lambda y: [y, *(ops.sum(y * k, axis=0) for k in (1.0, *range(2, 12)))])(a + 1.0),
        f64((20, 7)),
    ),
    "integer sums": Case(
        lambda a: [ops.sum(a, axis=0), ops.prod(a), ops.sum(a, axis=1), ops.min(a, axis=0)],
        ints("int32", (30, 8)),
        exact=True,
        small=True,
    ),
    "norm backward": Case(
        gradients(lambda x, w, b: ops.sum(ops.gelu(layer_norm(x, w, b)))),
        f32((9, 12), (12,), (12,)),
        small=True,
    ),
    "loss": Case(
        lambda a, t: (lambda y: [y, sg.grad(y, a)])(ops.mean(ops.softmax_cross_entropy(a, t))),
        lambda rng: [rng.standard_normal((9, 10), dtype="float32"), rng.integers(0, 10, 9)],
    ),
    # contractions
    "matmul": Case(lambda a, b: a @ b, f32((19, 20), (20, 11)), ptx=True),
    "matmul64": Case(lambda a, b: a @ b, f64((70, 20), (20, 64)), ptx=True),
    "matmul ints": Case(lambda a, b: a @ b, ints("int64", (9, 20), (20, 11)), exact=True),
    "matmul small": Case(lambda a, b: [a @ b, a @ b[:, 0]], f32((3, 20), (20, 5))),
    "dense": Case(lambda a, b, c: ops.relu(a.T @ b.T + c), f32((20, 17), (9, 20), (9,)), ptx=True),
    "heads": Case(
        lambda a, b: ops.transpose((a @ b).reshape(4, 4, 3, 4), (0, 2, 1, 3)) * 2.0,
        f32((16, 10), (10, 12)),
    ),
    "batched": Case(lambda a, b: a @ b, f32((2, 1, 9, 8), (3, 8, 9))),
    "conv": Case(
        gradients(lambda x, w: ops.sum(ops.square(ops.conv2d(x, w, stride=2, padding=1)))),
        f32((2, 3, 6, 6), (8, 3, 3, 3)),
    ),
    "depthwise": Case(lambda x, w: ops.conv2d(x, w, groups=4), f32((1, 4, 6, 6), (4, 1, 3, 3))),
    "pool": Case(lambda x: sg.grad(ops.sum(ops.max_pool2d(x, 2) ** 3), x), f32((2, 3, 6, 6))),
    # complex numbers
    "complex chain": Case(
        lambda a, b: [
            ops.log(a * b) / (a + 2j),
            ops.abs(a),
            ops.conj(a) - ops.imag(b),
        ],
        c64((5, 30), (30,)),
        ptx=True,
    ),
    "complex sums": Case(
        lambda a: [ops.sum(a, axis=0), ops.sum(a * a), ops.prod(a, axis=1), ops.mean(a, axis=1)],
        c64((30, 6)),
        small=True,
        ptx=True,
    ),
    "complex product64": Case(lambda a, b: a @ ops.conj(b), c128((12, 20), (20, 11)), ptx=True),
    "complex functions": Case(
        lambda a, b: [ops.exp(a), ops.sin(a) * ops.tanh(b), a**b, ops.sign(a), ops.expm1(b)],
        c128((40,), (40,)),
    ),
    "complex gradient": Case(gradients(lambda a: ops.sum(ops.abs(ops.sqrt(a)))), c64((40,))),
    # indices
    "gather": Case(
        lambda x, i: (lambda y: [y, sg.grad(ops.sum(ops.square(y)), x)])(ops.take(x, i, 0)),
        lambda rng: [rng.standard_normal((6, 5), dtype="float32"), rng.integers(-6, 6, (3, 4))],
    ),
}


# ---------------------------------------------------------------------------- scalar primitives


def numbers(dtype: str) -> np.ndarray:
    """Numbers of a dtype with all that is special about it."""
    if dtype == "bool":
        return np.array([False, True])
    if is_float(dtype):
        some = [0, -0.0, 0.3, -0.7, 1, 2.5, -3.5, 7, 1e30, 1e-40, np.inf, -np.inf, np.nan, 88]
        return np.array(some, dtype)
    info = np.iinfo(dtype)
    below = [-1, -2, -7, info.min, info.min + 1] if info.min else [200]
    return np.array([0, 1, 2, 3, 7, 31, 64, info.max - 1, info.max, *below], dtype)


def primitives(dtype: str) -> dict[str, Callable]:
    """Every scalar primitive of a dtype, as a function of two operands and a condition."""
    found: dict[str, Callable] = {}
    for name, prim in s.PRIMS.items():
        which = (2, 0, 1) if prim.kind == "where" else (0, 1, 2)[: prim.arity]
        operands = [s.arg(n, "bool" if k == 2 else dtype) for n, k in enumerate(which)]
        try:
            if is_complex(s.call(name, *operands).dtype):
                continue
        except GraphTypeError:
            continue
        # NumPy rounds large integers through float64.
        if name == "round" and dtype in ("int64", "uint64"):
            continue
        op = OPS.get(f"test_{name}")
        if op is None:
            op = add_op(Elementwise(f"test_{name}", lambda *x, name=name: s.call(name, *x)))
        found[name] = lambda *x, op=op, which=which: apply(op, *(x[k] for k in which))
    for target in DTYPES:
        if not is_complex(target):
            found[f"cast to {target}"] = lambda a, b, c, target=target: fitting(a, target)
    return found


def fitting(a: sg.Tensor, target: str) -> sg.Tensor:
    """A cast; floats that no integer holds are left out, since NumPy treats them by place."""
    if is_float(a.type.dtype) and not is_float(target) and target != "bool":
        a = ops.where((a >= 0.0) & (a < 100.0), a, 0.0)
    return ops.astype(a, target)


def all_of(functions: dict[str, Callable], *operands: sg.Tensor) -> list[sg.Tensor]:
    """Results of all functions; what they share is computed, so that few kernels hold them all."""
    same = OPS.get("test_same") or add_op(Elementwise("test_same", lambda x: x))
    shared = [apply(same, t) for t in operands]
    return [f(*shared) for f in functions.values()]


def pairs(dtype: str):
    a, b = (g.ravel() for g in np.meshgrid(numbers(dtype), numbers(dtype)))
    return [a, b, np.resize([True, False, False], a.shape)]


for _dtype in DTYPES:
    if not is_complex(_dtype):
        CASES[f"primitives {_dtype}"] = Case(
            lambda *x, d=_dtype: all_of(primitives(d), *x),
            lambda rng, d=_dtype: pairs(d),
            exact=not is_float(_dtype),
        )


# ---------------------------------------------------------------------------- running


def compare(name: str, got: np.ndarray, want: np.ndarray, exact: bool) -> None:
    assert got.dtype == want.dtype, f"{name}: {got.dtype}, not {want.dtype}"
    if exact or want.dtype.kind not in "fc":
        np.testing.assert_array_equal(got, want, err_msg=name)
        return
    finite = np.abs(want[np.isfinite(want)])
    loose = LOOSE[want.dtype.name]
    # Among special numbers the largest says nothing of the others.
    near = loose * min(finite.max(initial=0.0), 10.0)
    np.testing.assert_allclose(got, want, rtol=loose, atol=near, err_msg=name)


def run_case(name: str) -> None:
    case = CASES[name]
    fn, arrays = case.function(name)
    got = fn(*arrays)
    with np.errstate(all="ignore"):
        want = interpret.run(Graph(fn.graph.inputs, fn.graph.outputs), arrays)
    got = got if isinstance(got, list) else [got]
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        compare(f"{name}, output {k}", np.asarray(g), np.asarray(w), case.exact)
    if case.exact and name.startswith("random"):
        for g, w in zip(got, case.function(name, "cpu")[0](*arrays), strict=True):
            np.testing.assert_array_equal(g, w, err_msg="the two targets differ")


# ---------------------------------------------------------------------------- stories


def training() -> None:
    """Steps of a small network change the variables as on the CPU."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((6, 9), dtype="float32")
    second = rng.standard_normal((9, 3), dtype="float32")
    data, labels = rng.standard_normal((10, 6), dtype="float32"), rng.integers(0, 3, 10)
    results = {}
    for target in ("cpu", "cuda"):
        x, t = sg.input("x", (10, 6)), sg.input("t", (10,), "int64")
        w1, w2 = sg.variable(first, "w1"), sg.variable(second, "w2")
        loss = ops.mean(ops.softmax_cross_entropy(ops.relu(x @ w1) @ w2, t))
        g1, g2 = sg.grad(loss, [w1, w2])
        step = sg.compile(loss, updates={w1: w1 - 0.5 * g1, w2: w2 - 0.5 * g2}, target=target)
        losses = [step(x=data, t=labels) for _ in range(3)]
        results[target] = (np.array(losses), w1.value, w2.value)
    for got, want in zip(results["cuda"], results["cpu"], strict=True):
        compare("training", got, want, exact=False)
    assert results["cuda"][0][2] < results["cuda"][0][0]


def branches() -> None:
    """The host reads the predicate and takes one branch; the gradient follows it."""
    p, x = sg.input("p", (), "bool"), sg.input("x", (4, 3))
    y = sg.cond(p, lambda a: ops.sin(a), lambda a: ops.sum(a, axis=0) * ops.square(a), x)
    fn = sg.compile([y, sg.grad(ops.sum(y), x)], [p, x], target="cuda")
    a = np.linspace(-1, 1, 12, dtype="float32").reshape(4, 3)
    for flag in (True, False):
        want = interpret.run(fn.graph, [np.array(flag), a])
        for g, w in zip(fn(flag, a), want, strict=True):
            compare(f"branch {flag}", g, w, exact=False)


def failing_check() -> None:
    """An index out of range ends the call and leaves the variables as they were."""
    x, i = sg.input("x", (4, 2)), sg.input("i", (2,), "int64")
    n = sg.variable(np.zeros((), "int64"), "n")
    fn = sg.compile(ops.take(x, i, 0), [x, i], updates={n: n + 1}, target="cuda")
    a = np.arange(8, dtype="float32").reshape(4, 2)
    np.testing.assert_array_equal(fn(a, [3, 0]), a[[3, 0]])
    assert n.value == 1
    with pytest.raises(sg.NumericError, match=r"an index is outside -4\.\.3"):
        fn(a, [0, 4])
    assert n.value == 1


def casts_that_do_not_fit() -> None:
    """Floats outside the range of an integer dtype become what they become on the CPU."""
    for dtype in LOOSE:
        x = sg.input("x", (16,), dtype)
        a = np.array([-1, 3e9, -3e9, 1e19, 2e19, np.nan, -np.inf, np.inf] * 2, dtype)
        casts = [ops.astype(x, d) for d in DTYPES if not is_float(d) and not is_complex(d)]
        for g, w in zip(*(sg.compile(casts, target=t)(a) for t in ("cuda", "cpu")), strict=True):
            np.testing.assert_array_equal(g, w, err_msg=f"{dtype} to {w.dtype}")


def swapped() -> None:
    """Updates read the values from before the call; outputs show them too."""
    a, b = sg.variable(np.float32([1, 2]), "a"), sg.variable(np.float32([3, 4]), "b")
    fn = sg.compile([a, b], updates={a: b, b: a}, target="cuda")
    old = fn()
    assert [list(v) for v in old] == [[1, 2], [3, 4]]
    assert list(a.value) == [3, 4]
    assert list(b.value) == [1, 2]


def given_memory() -> None:
    """`out=` is filled, and constants, odd strides and read-only arrays are taken."""
    table = np.arange(12, dtype="float32").reshape(3, 4)
    x = sg.input("x", (4, 3))
    fn = sg.compile(x.T + sg.constant(table), [x], target="cuda")
    a = np.ones((3, 4), "float32").T
    a.flags.writeable = False
    out = np.empty((3, 4), "float32")
    assert fn(a, out=out) is out
    np.testing.assert_array_equal(out, table + 1)


def together() -> None:
    """Calls from several threads have device memory of their own."""
    x = sg.input("x", (40,))
    fn = sg.compile(ops.softmax(x), [x], target="cuda")
    given = [np.arange(40, dtype="float32") * k for k in range(4)]
    wanted = [fn(a) for a in given]
    got: dict[int, np.ndarray] = {}

    def call(k: int) -> None:
        got[k] = fn(given[k])

    threads = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k in range(4):
        np.testing.assert_array_equal(got[k], wanted[k])


def kernels_shown() -> None:
    """Kernels have names, sources, files and launches; memory is that of the plan."""
    x = sg.input("x", (40, 40))
    fn = sg.compile(ops.softmax(x), [x], target="cuda")
    (kernel,) = fn.kernels
    assert "cuda.syncthreads()" in kernel.source
    assert kernel.path.read_text() == kernel.source
    assert kernel.blocks * kernel.threads >= 40
    assert fn.memory.peak_bytes == fn.plan.arena_bytes


STORIES = {
    f.__name__: f
    for f in (
        *(training, branches, failing_check, casts_that_do_not_fit, swapped, given_memory),
        *(together, kernels_shown),
    )
}


def main(path: str) -> None:
    warnings.simplefilter("ignore")
    # The simulator has a thread for each of CUDA's and polls them without ever waiting.
    sys.setswitchinterval(1e-4)
    report = {}
    for name in (*CASES, *STORIES):
        try:
            STORIES[name]() if name in STORIES else run_case(name)
            report[name] = ""
        except Exception:
            report[name] = traceback.format_exc()
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file)


if __name__ == "__main__":
    main(sys.argv[1])

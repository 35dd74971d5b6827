"""What the tests of the command line share: a file of models, and a way to call the program."""

import re
import sys

import pytest
from click.testing import CliRunner

from staticgraph.cli.commands import program
from staticgraph.profiling.report import Report
from staticgraph.profiling.rows import (
    Advice,
    Compile,
    Coverage,
    Event,
    GapRow,
    Input,
    Interval,
    KernelRow,
    LiveRow,
    Memory,
    Model,
    Noise,
    OpRow,
    Overhead,
    PassRow,
    Place,
    Run,
    Span,
    Wall,
)

MODELS = """\
import numpy as np
import staticgraph as sg

x = sg.input("x", (8, 16))
w = sg.variable(np.linspace(-1, 1, 16 * 4, dtype="f").reshape(16, 4), name="w")
hidden = sg.ops.tanh(x @ w)
graph = sg.Graph([x], [hidden])
ready = sg.compile(hidden)


@sg.function
def traced(a, b):
    return sg.ops.exp(a) * b


def plain(a, b, scale=2.0):
    return (a @ b).sum() * scale


def step(batch=8, lr=0.1):
    x = sg.input("x", (batch, 16))
    label = sg.input("label", (batch,), "int64")
    w = sg.variable(np.zeros((16, 4), "f"), name="w")
    loss = sg.ops.mean(sg.ops.softmax_cross_entropy(sg.ops.tanh(x @ w), label))
    return loss, {w: w - lr * sg.grad(loss, w)}


def sized(n=64):
    y = sg.input("y", (n, n))
    return sg.ops.tanh(y @ y).sum()


def pair():
    return (lambda a, b: {"sum": a + b}), {"a": np.ones((3, 2), "f"), "b": np.ones(2, "f")}


def listed():
    return traced, [np.zeros(5, "f"), np.full(5, 3, "f")]


class Net:
    def __init__(self, width=4):
        self.width = width

    def loss(self, n=3):
        v = sg.input("v", (n, self.width))
        return (v * v).sum()

    @staticmethod
    def fixed():
        return sg.compile(sg.input("v", (2,)) + 1)


def broken():
    return 1 / 0


def misfit():
    return sg.input("a", (2, 3)) @ sg.input("b", (2, 3))


def talks():
    print("the user's own words")
    return sg.input("x", (4,)) + 1


def strange():
    return "no model"


def large():
    a = sg.input("a", (8192, 32))
    return sum(sg.ops.tanh(a @ (sg.constant(np.full((32, 2304), k, "f")))).mT.sum() for k in (1, 2))
"""


def line_of(text):
    """The number of the first line of the models that holds a text."""
    return next(k for k, line in enumerate(MODELS.splitlines(), 1) if text in line)


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A folder with mlp.py, to which the test changes; imports are forgotten afterwards."""
    (tmp_path / "mlp.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    path, known = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if name.partition(".")[0] in ("mlp", "mlp_model", "helper", "package"):
            del sys.modules[name]


def invoke(*args, **env):
    """The result of `staticgraph ARGS`, with `.exit_code`, `.stdout` and `.stderr`."""
    result = CliRunner().invoke(program, list(map(str, args)), env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def masked(text):
    """Text with numbers and their units replaced, and no more than one space in a row."""
    text = re.sub(r"(?<![\w.])[-+]?\d+(\.\d+)?(ns|us|ms|s|B|kB|MB|GB)?(?![\w])", "#", text)
    return "\n".join(re.sub(r" +", " ", line).rstrip() for line in text.splitlines())


def made_up(medians=(4e-6, 9e-6, 6e-6), samples=((2e-5, 2.1e-5),)):
    """A report of three kernels of which every number is known."""
    names = ("matmul_add_relu", "transpose_matmul_subtract_multiply", "sum")
    ops = (["matmul", "add", "relu"], ["transpose", "matmul", "subtract", "multiply"], ["sum"])
    lines = [[Place("/a/mlp.py", 14)], [Place("/a/mlp.py", 14), Place("/a/mlp.py", 17)], []]
    kernels = [
        KernelRow(
            index=k + 1, name=names[k], step=k, kind="kernel", ops=ops[k],
            where=lines[k][0] if lines[k] else None, forward_where=None, is_gradient=k == 1,
            recomputed=False, lines=lines[k], shapes=["f32[128, 64]"], median=medians[k],
            ci=Interval(0.98 * medians[k], 1.04 * medians[k]), minimum=0.9 * medians[k],
            mean=medians[k], calls=1.0, runs=12, total=12 * medians[k], share=medians[k] / 2e-5,
            cum=(0.95, 0.45, 0.75)[k], timing="stamps", repeat=None, bytes=4 << 10 * k,
            bytes_read=3 << 10 * k, bytes_written=1 << 10 * k, flops=10 ** (3 * k),
            transcendentals=0, gbps=1.25, gflops=10.5, intensity=0.5, working_set=4096,
            roof_level="L2", roof_percent=53.2, roof_low=50.0, roof_high=60.0,
            bound="compute" if k == 0 else "L2", could_save=(1e-6, 2e-6, 3e-6)[k],
            threads_busy=[0.9, 0.4], workers=2.0, imbalance=0.05 * (k + 1), tiles=8,
            parallel=True, compile_seconds=0.1, cache_hit=k > 0,
            origin="disk" if k else "absent", inplace=False, key=f"{k}abc", source_lines=30,
        )
        for k in range(3)
    ]  # fmt: skip
    rows = [
        OpRow(op, row.index, row.where, row.where if row.is_gradient else None, row.is_gradient,
              row.median / len(row.ops), row.share / len(row.ops), 10**6, 4096, len(row.ops) > 1)
        for row in kernels for op in row.ops
    ]  # fmt: skip
    live = LiveRow("matmul_add_relu", "f32[128, 64]", 32768, 0, 0, 2, "activation",
                   Place("/a/mlp.py", 14), None, False)  # fmt: skip
    flat = [s for process in samples for s in process]
    return Report(
        created="2026-01-02T03:04:05+00:00",
        model=Model(
            name="mlp.py:step", description="forward+grad", target="cpu", threads=2,
            dtypes=["float32"], nodes=31, kernels=3, gradient=True,
            inputs=[Input("x", "f32[128, 784]", "random, seed 0")], passes="default",
            kernel_mix={"matmul": 2, "generated": 1}, versions={},
        ),
        machine=None,
        compile=Compile(1.25, [PassRow("fuse", 0.06, 40, 9)], 0.25, 0.94, 2, 1, {"disk": 2}),
        wall=Wall(
            median=2e-5, ci=Interval(1.9e-5, 2.1e-5), min=1.8e-5, p95=3e-5, mean=2e-5, iqr=1e-6,
            runs=len(flat), processes=len(samples), warmup=7, stable=True, outliers=1,
            samples=[list(s) for s in samples],
        ),
        kernels=kernels,
        ops=rows,
        gaps=[GapRow("call", 1e-6, 1e-5, 0.03), GapRow("return", 1e-6, 1e-5, 0.02)],
        coverage=Coverage(20000, 19000, 1000, 0.95, 0.05),
        overhead=Overhead(2e-5, 2e-5, 0.006, 2e-8, False, "stamped runs were +0.6 % slower"),
        memory=Memory(
            peak=32768, lower_bound=32768, inputs=401408, outputs=4, state=1 << 20, constants=0,
            scratch=0, peak_step=1, peak_kernel=2, live=[live], by_kind={"activation": 32768},
            timeline=[32768, 32768, 0], steps=list(names), buffers=[live],
        ),
        noise=Noise(2.4, 2, 0.02, 0.01, 0.03, "differences below 3 % are not resolvable"),
        advice=[Advice("#3 sum runs at 53 % of its roof", "staticgraph explain mlp.py:step 3", 3)],
        timeline=[
            Run(2e-5, [Event(1, 1e-6, 5e-6, [Span(0, 1e-6, 5e-6, 4), Span(1, 2e-6, 4e-6, 4)])])
        ],
    )  # fmt: skip

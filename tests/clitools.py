"""What the tests of the command line share: a file of models, and a way to call the program."""

import re
import sys

import pytest
from click.testing import CliRunner

from staticgraph.cli.commands import program

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

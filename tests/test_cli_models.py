"""Naming, loading and feeding a model: every kind of object gives a function that computes it."""

import json

import numpy as np
import pytest
from clitools import invoke, models  # noqa: F401  a fixture

import staticgraph as sg
from staticgraph.cli.inputs import DISTRIBUTIONS, InputSpec, draw, parse_spec
from staticgraph.cli.models import Request, load_model
from staticgraph.cli.naming import split
from staticgraph.cli.problems import Problem, meant

pytestmark = pytest.mark.usefixtures("models")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mlp.py:step", ("mlp.py", "step")),
        ("a/b.py:Net.loss", ("a/b.py", "Net.loss")),
        ("pkg.mod:f", ("pkg.mod", "f")),
        ("mlp.py", ("mlp.py", "")),
        ("C:\\work\\mlp.py", ("C:\\work\\mlp.py", "")),
        ("C:\\work\\mlp.py:step", ("C:\\work\\mlp.py", "step")),
        ("a:b/mlp.py", ("a:b/mlp.py", "")),
    ],
)
def test_the_last_colon_splits(name, parts):
    assert split(name) == parts


def outputs(**request):
    model = load_model(Request(**request))
    return model.run(), model.arrays, model


TANH = np.tanh


def test_a_tensor():
    (y,), (x,), _ = outputs(model="mlp.py:hidden")
    w = np.linspace(-1, 1, 64, dtype="f").reshape(16, 4)
    np.testing.assert_allclose(y, TANH(x @ w), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["graph", "ready"])
def test_a_graph_and_a_compiled_function(name):
    (y,), (x,), _ = outputs(model=f"mlp.py:{name}")
    w = np.linspace(-1, 1, 64, dtype="f").reshape(16, 4)
    np.testing.assert_allclose(y, TANH(x @ w), rtol=1e-5, atol=1e-6)


def test_a_traced_function_takes_types_from_the_command_line():
    (y,), (a, b), model = outputs(model="mlp.py:traced", inputs=("a=5xf64:uniform,0,1", "b=f64[5]"))
    assert a.dtype == np.float64
    assert a.min() >= 0
    np.testing.assert_allclose(y, np.exp(a) * b, rtol=1e-12)
    assert model.function.names == ["a", "b"]


def test_a_plain_function_takes_types_and_values():
    given = {"inputs": ("a=3x4", "b=4x2xf32:ones"), "define": ("scale=10",)}
    (y,), (a, b), _ = outputs(model="mlp.py:plain", **given)
    assert (b == 1).all()
    np.testing.assert_allclose(y, 10 * (a @ b).sum(), rtol=1e-5)


def test_a_factory_of_outputs_and_updates():
    (loss,), (x, label), model = outputs(model="mlp.py:step", define=("batch=6",))
    assert (x.shape, label.shape) == ((6, 16), (6,))
    np.testing.assert_allclose(loss, np.log(4), rtol=1e-6)  # all logits are 0
    assert model.function.graph.updates


def test_an_integer_input_may_mean_an_argument():
    assert outputs(model="mlp.py:step", inputs=("batch=12",))[1][0].shape == (12, 16)


def test_a_factory_of_a_function_and_inputs():
    (y,), (a, b), model = outputs(model="mlp.py:pair")
    np.testing.assert_array_equal(y, a + b)
    assert (a.shape, b.shape) == ((3, 2), (2,))
    assert model.origins == ["the model's own"] * 2
    (y,), _, _ = outputs(model="mlp.py:listed")
    np.testing.assert_array_equal(y, np.full(5, 3))


def test_own_inputs_yield_to_those_asked_for():
    _, (a, b), model = outputs(model="mlp.py:pair", inputs=("a=:zeros",))
    assert not a.any()
    assert b.all()
    assert model.origins == ["zeros", "the model's own"]


def test_methods():
    (y,), (v,), _ = outputs(model="mlp.py:Net.loss", define=("width=5", "n=2"))
    assert v.shape == (2, 5)
    np.testing.assert_allclose(y, (v * v).sum(), rtol=1e-6)
    (y,), (v,), _ = outputs(model="mlp.py:Net.fixed")
    np.testing.assert_array_equal(y, v + 1)


def test_a_module_of_a_package(models):  # noqa: F811
    (models / "package").mkdir()
    (models / "package" / "helper.py").write_text((models / "mlp.py").read_text())
    assert outputs(model="package.helper:sized", define=("n=8",))[1][0].shape == (8, 8)


def test_a_file_imports_its_neighbours(models):  # noqa: F811
    (models / "inner").mkdir()
    (models / "inner" / "helper.py").write_text("SIZE = 3\n")
    (models / "inner" / "user.py").write_text(
        "import staticgraph as sg\nfrom helper import SIZE\n"
        "def f():\n    return sg.input('x', (SIZE,)) + 1\n"
    )
    assert outputs(model="inner/user.py:f")[1][0].shape == (3,)


def test_a_saved_function():
    x, w = sg.input("x", (4,)), sg.variable(np.full(4, 2, "f"), name="w")
    sg.compile({"y": x * w}).save("saved.sgf")
    (y,), (x,), model = outputs(model="saved.sgf", threads=1)
    np.testing.assert_array_equal(y, 2 * x)
    assert model.function.threads == 1


def test_a_text_graph(models):  # noqa: F811
    x = sg.input("x", (4,))
    (models / "g.sg").write_text(str(sg.Graph([x], [sg.ops.exp(x) + 1])))
    (y,), (a,), _ = outputs(model="g.sg")
    np.testing.assert_allclose(y, np.exp(a) + 1, rtol=1e-6)


# ------------------------------------------------------------------------------ options


def test_mode_grad_adds_the_gradients():
    y, (x,), _ = outputs(model="mlp.py:hidden", mode="grad")
    w = np.linspace(-1, 1, 64, dtype="f").reshape(16, 4)
    slope = 1 - TANH(x @ w) ** 2  # of the sum of what is not yet a number
    np.testing.assert_allclose(y[1], slope @ w.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y[2], x.T @ slope, rtol=1e-4, atol=1e-5)


def test_mode_step_updates_the_variables():
    model = load_model(Request("mlp.py:hidden", mode="step"))
    (variable,) = model.function.plan.variables
    before = variable.value
    model.run()
    assert 0 < np.abs(variable.value - before).max() < 0.1


def test_without_a_pass_and_threads():
    full, bare = (load_model(Request("mlp.py:step", without=w)) for w in ((), ("fuse",)))
    assert len(bare.function.kernels) > len(full.function.kernels)
    assert load_model(Request("mlp.py:step", threads=1)).function.threads == 1
    np.testing.assert_array_equal(full.run()[0], bare.run()[0])


# ------------------------------------------------------------------------------ inputs


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("x=128x784xf32", InputSpec("x", (128, 784), "float32")),
        ("x=f32[128,784]", InputSpec("x", (128, 784), "float32")),
        ("x=f32[]", InputSpec("x", (), "float32")),
        ("x=i64", InputSpec("x", (), "int64")),
        ("x=4x4", InputSpec("x", (4, 4))),
        ("x=4xfloat64", InputSpec("x", (4,), "float64")),
        ("x=4xf32:normal", InputSpec("x", (4,), "float32", ("normal", (0, 1)))),
        ("x=4xf32:uniform,2,3.5", InputSpec("x", (4,), "float32", ("uniform", (2, 3.5)))),
        ("x=:int,0,10", InputSpec("x", None, None, ("int", (0, 10)))),
        ("x=@a:b.npy", InputSpec("x", path="a:b.npy")),
    ],
)
def test_specs(text, spec):
    found = parse_spec(text)
    assert found == InputSpec(**{**vars(spec), "text": found.text})


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint32", "float32", "complex64"])
@pytest.mark.parametrize("kind", [None, *DISTRIBUTIONS])
def test_draws(kind, dtype):
    t = sg.spec((200, 3), dtype)
    how = None if kind is None else (kind, DISTRIBUTIONS[kind])
    made = draw(t, how, np.random.default_rng(0))
    assert (made.shape, made.dtype.name) == (t.shape, dtype)
    again = draw(t, how, np.random.default_rng(0))
    np.testing.assert_array_equal(made, again)


def test_ranges_of_draws():
    rng, t = np.random.default_rng(0), sg.spec((5000,), "float64")
    normal = draw(t, ("normal", (5, 2)), rng)
    assert abs(normal.mean() - 5) < 0.2
    assert abs(normal.std() - 2) < 0.2
    uniform = draw(t, ("uniform", (-3, 4)), rng)
    assert -3 <= uniform.min() < -2.9
    assert 3.9 < uniform.max() < 4
    assert set(draw(sg.spec((999,), "int64"), ("int", (7, 10)), rng)) == {7, 8, 9}
    assert set(draw(sg.spec((99,), "int64"), None, rng)) == {0, 1}  # labels of any two classes


def test_arrays_from_files(models):  # noqa: F811
    rng = np.random.default_rng(0)
    x, label = rng.normal(size=(8, 16)).astype("f"), rng.integers(0, 4, 8)
    np.savez(models / "batch.npz", x=x, label=label)
    np.save(models / "x.npy", x + 1)
    _, arrays, model = outputs(model="mlp.py:step", inputs_file="batch.npz")
    np.testing.assert_array_equal(arrays[0], x)
    np.testing.assert_array_equal(arrays[1], label)
    assert model.origins == ["batch.npz"] * 2
    _, arrays, model = outputs(model="mlp.py:step", inputs=("x=@x.npy",), inputs_file="batch.npz")
    np.testing.assert_array_equal(arrays[0], x + 1)
    assert model.origins == ["x.npy", "batch.npz"]


def test_the_seed_decides():
    first, same, other = (outputs(model="mlp.py:ready", seed=seed)[1][0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


# ------------------------------------------------------------------------------ words


@pytest.mark.parametrize(
    ("word", "words", "expected"),
    [
        ("stp", ["step", "loss", "init"], "; did you mean 'step'? (also: loss, init)"),
        ("fusion", ["sink", "fuse"], "; did you mean 'fuse'? (also: sink)"),
        ("q", ["abc"], "; there is abc"),
        ("q", [], "; there is none"),
        ("step", ["stop"], "; did you mean 'stop'?"),
    ],
)
def test_meant(word, words, expected):
    assert meant(word, words) == expected


def test_problems_carry_their_code():
    with pytest.raises(Problem) as caught:
        load_model(Request("mlp.py:stp"))
    assert caught.value.exit_code == 2


# ------------------------------------------------------------------------------ memory and graph


def test_memory_as_data():
    document = json.loads(invoke("memory", "mlp.py:step", "--json", "-").stdout)
    fn = load_model(Request("mlp.py:step")).function
    assert document["memory"]["peak"] == fn.memory.peak_bytes == document["measured"]["allocated"]
    assert document["memory"]["timeline"] == list(fn.memory.timeline)
    live = document["memory"]["live"]
    assert sum(row["bytes"] for row in live) == max(fn.memory.timeline)


def test_resident_memory_rises_by_what_is_planned():
    """Within 5 % and 2 MB, for a peak above 64 MB."""
    document = json.loads(invoke("memory", "mlp.py:large", "--json", "-").stdout)
    measured = document["measured"]
    assert document["memory"]["peak"] > 64e6
    assert measured["allocated"] == document["memory"]["peak"]
    assert abs(measured["rss_rise"] - measured["planned"]) < 0.05 * measured["planned"] + 2e6


def test_memory_table_is_csv():
    lines = invoke("memory", "mlp.py:step", "--csv", "-").stdout.splitlines()
    fn = load_model(Request("mlp.py:step")).function
    assert lines[0] == "what,type,bytes,offset,born,dies,kind,where"
    assert len(lines) == 1 + len(fn.plan.buffers)

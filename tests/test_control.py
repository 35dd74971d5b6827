"""cond: values, derivatives of any order, laziness, memory, messages."""

import itertools
import random

import numpy as np
import pytest
from programs import grow

import staticgraph as sg
from staticgraph.interpret import run
from staticgraph.verify import verify

ops = sg.ops


def inputs():
    return sg.input("x", (4,), "float64"), sg.input("p", (), "bool")


X = np.array([0.3, -0.7, 1.1, 0.2])


def cube(a):
    return a * a * a


BRANCHES = {
    "two ops": (lambda x: ops.sin(x), cube),
    "an operand": (lambda x: x, cube),
    "a constant": (lambda x: ops.full(x.shape, 2.0, x.dtype), ops.exp),
    "no slope": (lambda x: ops.floor(x), lambda x: ops.stop_gradient(x)),
    "nested": (
        lambda x: sg.cond(x.sum() > 0, lambda: cube(x), lambda: ops.tanh(x)),
        lambda x: ops.exp(x) * x,
    ),
    "matmul": (lambda x: ops.sin(x[:, None] @ x[None, :]).sum(0), lambda x: x.max() * x),
}


def orders(y, x):
    """A function of x with derivatives up to the third, and forward mode over them."""
    loss = (y * y).sum()
    g = sg.grad(loss, x)
    h = sg.grad((g * g).sum(), x)
    third = sg.grad((h * X).sum(), x)
    return [y, g, h, third, sg.jvp(g, x, X), sg.jvp(h, x, X), sg.hvp(loss, x, X)]


@pytest.mark.parametrize("name", BRANCHES)
def test_a_cond_equals_its_branch(name):
    then_fn, else_fn = BRANCHES[name]
    x, p = inputs()
    made = orders(sg.cond(p, then_fn, else_fn, x), x)
    graph = verify(sg.Graph([x, p], made))
    assert sg.parse(str(graph)) == graph
    compiled = sg.compile(made, [x, p])
    for flag, function in ((True, then_fn), (False, else_fn)):
        wanted = run(sg.Graph([x], orders(function(x), x)), [X])
        for a, b in zip(wanted, run(graph, [X, np.array(flag)]), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)
        for a, b in zip(wanted, compiled(X, flag), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


def test_gradients_are_right():
    p = ops.less(sg.constant(0.0), sg.constant(1.0))
    sg.check_grad(lambda x: sg.cond(p, cube, ops.sin, x), (X,), order=3)
    sg.check_grad(lambda x, y: sg.cond(x.sum() > y.sum(), lambda: x * y, lambda: x / y), (X, X + 2))


def size(graph):
    """Nodes of a graph and of the bodies in it."""
    bodies = (n.attrs[name] for n in graph.nodes for name in n.op.bodies)
    return len(graph.nodes) + sum(size(body) for body in bodies)


def test_high_orders_stay_small():
    s, p = sg.input("s", (), "float64"), sg.input("p", (), "bool")
    y = sg.cond(p, lambda: ops.sin(s) * ops.exp(s * s), lambda: s * s * s)
    for _ in range(8):
        y = sg.grad(y, s)
    assert size(sg.Graph([s, p], [y])) < 250


def test_only_the_branch_taken_runs():
    x = sg.input("x", (4,))
    i = sg.input("i", (2,), "int64")
    p = sg.input("p", (), "bool")
    f = sg.compile(sg.cond(p, lambda: ops.take(x, i), lambda: x[:2]), [x, i, p])
    a = np.arange(4, dtype="f")
    assert f(a, np.array([3, 1]), True).tolist() == [3, 1]
    assert f(a, np.array([3, 9]), False).tolist() == [0, 1], "indices of the other branch"
    with pytest.raises(sg.NumericError, match="an index is outside"):
        f(a, np.array([3, 9]), True)


def test_what_a_branch_alone_needs_is_skipped_too():
    x = sg.input("x", (4,))
    i = sg.input("i", (2,), "int64")
    p = sg.input("p", (), "bool")
    taken = ops.take(x, i)  # outside of the branch as it is written
    f = sg.compile(sg.cond(p, lambda: taken * 2.0, lambda: x[:2]), [x, i, p])
    assert f(np.arange(4, dtype="f"), np.array([9, 9]), False).tolist() == [0, 1]
    assert len(f.kernels) == len(f.plan.launches) > 0


def test_any_nesting_of_outputs_and_operands():
    x, p = inputs()
    w = sg.variable(np.ones(4), name="w")

    def then_fn(d, scale):
        return {"a": d["x"] * scale, "b": (d["y"][0], None, 1.0)}

    def else_fn(d, scale):
        return {"b": (d["x"].sum(), None, 0), "a": w}  # another order of keys, an outer variable

    made = sg.cond(p, then_fn, else_fn, {"x": x, "y": [w.sum()]}, 3.0)
    assert list(made) == ["a", "b"]
    assert made["b"][1] is None
    f = sg.compile(made, [x, p])
    yes, no = f(X, True), f(X, False)
    np.testing.assert_array_equal(yes["a"], X * 3)
    assert (yes["b"], no["b"]) == ((4.0, None, 1.0), (X.sum(), None, 0.0))
    np.testing.assert_array_equal(no["a"], np.ones(4))


def test_python_bools_decide_while_building():
    x = sg.input("x", (2,))
    ran = []

    def branch(name):
        def build():
            ran.append(name)
            return x

        return build

    assert sg.cond(True, branch("then"), branch("else")) is x
    assert sg.cond(np.bool_(False), branch("then"), branch("else")) is x
    assert ran == ["then", "else"]
    assert sg.cond(sg.input("p", (), "bool"), lambda: None, lambda: None) is None


def test_a_predicate_of_one_element():
    x = sg.input("x", (1, 1))
    f = sg.compile(sg.cond(x > 0, lambda: x, lambda: -x))
    assert f(np.array([[-3.0]], "f")).tolist() == [[3.0]]


def test_gradients_reach_everything_a_branch_reads():
    x, p = inputs()
    c = sg.constant(np.array([2.0, 3.0, 4.0, 5.0]))
    w = sg.variable(np.full(4, 7.0), name="w")
    h = ops.sin(x)
    y = sg.cond(p, lambda: (h * c).sum(), lambda: (w * w).sum())
    f = sg.compile(sg.grad(y, [x, c, w, h]), [x, p])
    for got, wanted in zip(
        f(X, True), [np.cos(X) * [2, 3, 4, 5], np.sin(X), 0 * X, [2, 3, 4, 5]], strict=True
    ):
        np.testing.assert_allclose(got, wanted)
    for got, wanted in zip(f(X, False), [0 * X, 0 * X, 0 * X + 14, 0 * X], strict=True):
        np.testing.assert_allclose(got, wanted)


def test_branches_share_the_arena():
    x, p = sg.input("x", (1000,)), sg.input("p", (), "bool")
    pick = np.random.default_rng(0).permutation(1000)

    def chain(n):
        def build():
            a = x
            for _ in range(n):
                a = ops.exp(a)[pick] + a  # every round needs two buffers at once
            return a

        return build

    sizes = {n: sg.compile(chain(n)()).memory.peak_bytes for n in (2, 3)}
    both = sg.compile(sg.cond(p, chain(2), chain(3))).memory
    assert max(sizes.values()) > 0
    assert both.peak_bytes <= max(sizes.values()) + 64
    assert both.peak_bytes == both.lower_bound_bytes


def test_a_branch_that_keeps_a_variable_costs_nothing():
    """What a skipped optimizer step does: no copy of a parameter in either branch."""
    x = sg.input("x", (8, 16))
    w = sg.variable(np.eye(16, dtype="f"), name="w")
    m = sg.variable(np.zeros((16, 16), "f"), name="m")
    loss = ((x @ w) ** 2).sum()
    g = sg.grad(loss, w)

    def step():
        new = 0.9 * m + g
        return w - 0.1 * new, new

    new_w, new_m = sg.cond(ops.isfinite(loss), step, lambda: (w, m))
    f = sg.compile(loss, updates={w: new_w, m: new_m})
    assert not [s for s in f.plan.steps if s.kind == "copy"]
    a = np.random.default_rng(0).standard_normal((8, 16)).astype("f") * 0.1
    wanted_w, wanted_m = np.eye(16, dtype="f"), np.zeros((16, 16), "f")
    for data in (a, np.full_like(a, np.nan), a):
        f(data)
        if np.isfinite(data).all():
            wanted_m = 0.9 * wanted_m + 2 * data.T @ (data @ wanted_w)
            wanted_w = wanted_w - 0.1 * wanted_m
        np.testing.assert_allclose(w.value, wanted_w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(m.value, wanted_m, rtol=1e-5, atol=1e-6)


def test_branches_that_swap_variables():
    a, b = sg.variable([1.0, 2.0], name="a"), sg.variable([3.0, 4.0], name="b")
    p = sg.input("p", (), "bool")
    new_a, new_b = sg.cond(p, lambda: (b, a), lambda: (a + b, a))
    f = sg.compile([], [p], updates={a: new_a, b: new_b})
    f(True)
    assert (a.value.tolist(), b.value.tolist()) == ([3, 4], [1, 2])
    f(False)
    assert (a.value.tolist(), b.value.tolist()) == ([4, 6], [3, 4])


def test_results_that_are_operands_and_outputs_at_once():
    x, p = inputs()
    h = ops.sin(x)
    y, z = sg.cond(p, lambda: (h, ops.cos(h)), lambda: (h * 2.0, h))
    f = sg.compile([y, z, y, h, z + h], [x, p])
    s = np.sin(X)
    for flag, wanted in ((True, [s, np.cos(s)]), (False, [2 * s, s])):
        for got, a in zip(f(X, flag), [*wanted, wanted[0], s, wanted[1] + s], strict=True):
            np.testing.assert_allclose(got, a)


def test_a_cond_between_a_value_and_its_reader():
    """The value and its reader must not become one kernel: the cond runs between them."""
    x, p = inputs()
    e = ops.exp(x)
    r = ops.tanh(sg.cond(p, lambda: e[::-1], lambda: e * 2.0))
    for total in (r + e, e + r, ops.maximum(r, ops.sin(e))):
        f = sg.compile(total, [x, p])
        np.testing.assert_allclose(
            f(X, True), run(sg.Graph([x, p], [total]), [X, np.array(True)])[0]
        )


def test_saved_and_loaded(tmp_path):
    x, p = inputs()
    f = sg.compile(sg.cond(p, ops.sin, ops.cos, x), [x, p])
    f.save(tmp_path / "f.sg")
    again = sg.load(tmp_path / "f.sg")
    np.testing.assert_array_equal(again(X, True), f(X, True))


def scalar(a):
    return a.sum()


def double(a):
    return a.astype("float64")


def pair(a):
    return a, a


F = sg.input("f", (3,))
FLAG = sg.input("flag", (), "bool")
HERE = scalar.__code__.co_firstlineno
ERRORS = {
    "shape": (
        lambda: sg.cond(FLAG, scalar, abs, F),
        sg.ShapeError,
        "cond: both branches must return the same structure, shapes and dtypes;"
        f" scalar (test_control.py:{HERE}) returns f32[] and abs returns f32[3]",
    ),
    "dtype": (
        lambda: sg.cond(FLAG, abs, double, F),
        sg.GraphTypeError,
        "cond: both branches must return the same structure, shapes and dtypes;"
        f" abs returns f32[3] and double (test_control.py:{HERE + 4}) returns f64[3]",
    ),
    "structure": (
        lambda: sg.cond(FLAG, scalar, pair, F),
        sg.ShapeError,
        "cond: both branches must return the same structure, shapes and dtypes;"
        f" scalar (test_control.py:{HERE}) returns f32[] and pair (test_control.py:{HERE + 8})"
        " returns (f32[3], f32[3])",
    ),
    "a number as predicate": (
        lambda: sg.cond(F.sum(), scalar, scalar, F),
        sg.GraphTypeError,
        "cond: pred must be a bool, got f32[]; compare it, for example pred != 0",
    ),
    "several predicates": (
        lambda: sg.cond(F > 0, scalar, scalar, F),
        sg.ShapeError,
        "cond: pred must be one bool, got b1[3]; reduce it with sg.ops.any or sg.ops.all,"
        " or choose element by element with sg.ops.where",
    ),
    "a Python number": (
        lambda: sg.cond(1, scalar, scalar, F),
        sg.GraphTypeError,
        "cond: pred must be a bool tensor or a Python bool, got int",
    ),
    "no function": (
        lambda: sg.cond(FLAG, F, scalar, F),
        sg.GraphTypeError,
        "cond: needs a function of tensors, got Tensor",
    ),
    "no tensor": (
        lambda: sg.cond(FLAG, lambda a: "a", scalar, F),
        sg.GraphTypeError,
        None,
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_messages(case):
    build, kind, message = ERRORS[case]
    with pytest.raises(kind) as error:
        build()
    if message is not None:
        assert error.value.summary == message
    assert error.value.where[0].endswith("test_control.py")


# ---------------------------------------------------------------------------- random programs


def program(seed):
    """A random graph with conds and checkpoints, its derivatives, and arrays for its inputs."""
    draw = random.Random(seed)
    x, y = sg.input("x", (5,), "float64"), sg.input("y", (5,), "float64")
    p, q = sg.input("p", (), "bool"), sg.input("q", (), "bool")
    w = sg.variable(np.linspace(-1, 1, 5), name="w")
    tensors = grow(draw, [x, y, w], [p, q])
    made = [draw.choice(tensors), draw.choice(tensors)]
    g = sg.grad(made[0].sum(), [x, y, w])
    made += g
    if draw.random() < 0.5:
        made += sg.grad((g[0] * g[0]).sum() + (g[1] * g[2]).sum(), [x, w])
    if draw.random() < 0.3:
        made.append(sg.jvp(made[0].sum(), x, np.ones(5)))
    updates = {w: draw.choice(tensors)} if draw.random() < 0.5 else {}
    a, b = np.random.default_rng(seed).standard_normal((2, 5))
    calls = [
        [a, b, np.array(s), np.array(t)] for s, t in itertools.product((True, False), repeat=2)
    ]
    return [x, y, p, q], made, updates, w, calls


def check_passes(seed):
    """Every pass of the default pipeline, applied to a random program, keeps its values."""
    given, made, updates, w, calls = program(seed)
    graph = sg.Graph(given, made, updates)
    wanted = [run(graph, call) for call in calls]
    for p in (sg.passes.inline, sg.passes.guard, *sg.passes.PIPELINES["default"].passes):
        graph = verify(p(graph))
        for call, values in zip(calls, wanted, strict=True):
            found = run(graph, call)
            if len(found) < len(values):
                found.append(w.value)  # an update that gave the variable its own value is gone
            for a, b in zip(values, found, strict=True):
                np.testing.assert_allclose(
                    b, a, rtol=1e-9, atol=1e-9, err_msg=f"{p.name}, seed {seed}"
                )


def check_compiled(seed):
    given, made, updates, w, calls = program(seed)
    graph, start = sg.Graph(given, made, updates), w.value
    wanted = [run(graph, call) for call in calls]
    for pipeline in ("none", "default"):
        f = sg.compile(made, given, updates=updates, pipeline=pipeline)
        for call, values in zip(calls, wanted, strict=True):
            w.value = start
            found = [*f(*call), *([w.value] if updates else [])]
            for a, b in zip(values, found, strict=True):
                np.testing.assert_allclose(
                    b, a, rtol=1e-9, atol=1e-9, err_msg=f"{pipeline}, seed {seed}"
                )


@pytest.mark.parametrize("seed", range(60))
def test_passes_keep_random_programs(seed):
    check_passes(seed)


@pytest.mark.parametrize("seed", range(15))
def test_compiled_random_programs(seed):
    check_compiled(seed)


@pytest.mark.slow
def test_many_random_programs():
    for seed in range(100, 300):
        check_passes(seed)
    for seed in range(100, 300):
        check_compiled(seed)

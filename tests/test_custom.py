"""custom_gradient and check_grad."""

import re

import numpy as np
import pytest

import staticgraph as sg
from staticgraph.interpret import run
from staticgraph.verify import verify

ops = sg.ops
A = np.random.default_rng(0).standard_normal((3, 3))


@sg.custom_gradient
def scaled(x, y):
    """exp(x) y, with twice the gradient for x."""
    e = ops.exp(x)
    return {"o": e * y, "n": (ops.argmax(x),)}, lambda g: (g["o"] * e * y * 2.0, g["o"] * e)


@sg.custom_gradient
def limited(d):
    def vjp_fn(g):
        return {"a": ops.clip(g * d["b"][0], -1.0, 1.0), "b": [g * d["a"]]}

    return d["a"] * d["b"][0], vjp_fn


@sg.custom_gradient
def rounded(x):
    """Straight through."""
    return ops.round(x), lambda g: g


def test_values_and_gradients():
    x, y = sg.input("x", (3,), "float64"), sg.input("y", (3,), "float64")
    made = scaled(x, y)
    loss = (made["o"] ** 2).sum()
    gx, gy = sg.grad(loss, [x, y])
    second = sg.grad(gx.sum(), x)
    tangent = sg.jvp(made["o"], x, np.ones(3))
    outputs = [made, gx, gy, second, tangent]
    flat = [made["o"], made["n"][0], gx, gy, second, tangent]
    graph = verify(sg.Graph([x, y], flat))
    assert sg.parse(str(graph)) == graph, "the rule is a graph, so its text is total"
    a, b = np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0])
    e = np.exp(a)
    values, *found = sg.compile(outputs)(a, b)
    np.testing.assert_allclose(values["o"], e * b)
    assert values["n"][0] == 2
    # d/dx of 4 (e y)^2: the outer factor by the rule (twice), the e inside the rule as it is.
    wanted = [4 * (e * b) ** 2, 2 * e * b * e, 12 * (e * b) ** 2, 2 * e * b]
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want)
    for got, want in zip(run(graph, [a, b])[2:], wanted, strict=True):
        np.testing.assert_allclose(got, want)


def test_nested_arguments_and_one_given_twice():
    x = sg.input("x", (3,), "float64")
    f = sg.compile(sg.grad(limited({"a": x, "b": [x]}).sum(), x))
    a = np.array([0.5, 3.0, -4.0])
    np.testing.assert_allclose(f(a), np.clip(a, -1, 1) + a)


def test_straight_through_and_constants():
    x = sg.input("x", (3,))
    f = sg.compile(sg.grad((rounded(x) * np.float32(3)).sum(), x), [x])
    assert f(np.array([0.2, 0.7, 1.0], "f")).tolist() == [3, 3, 3]
    assert run(sg.Graph([], [rounded(np.array([0.7], "f"))]), [])[0] == 1
    twice = sg.custom_gradient(lambda x, n: (x * n, lambda g: (g * n * n, None)))
    assert sg.compile(sg.grad(twice(x, 3).sum(), x), [x])(np.zeros(3, "f")).tolist() == [9, 9, 9]


@sg.custom_gradient
def clipped(x):
    """A square whose gradient is clipped: not linear in the cotangent, so no forward sweep."""
    return x * x, lambda g: ops.clip(g * x * 2.0, -1.0, 1.0)


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("wrap", [lambda f: f, sg.checkpoint], ids=["plain", "checkpoint"])
def test_a_rule_that_is_not_linear(shape, wrap):
    x, p = sg.input("x", shape, "float64"), sg.input("p", (), "bool")
    y = sg.cond(p, lambda: wrap(clipped)(x).sum(), lambda: x.sum())
    slope, curve = sg.grad(y, x), sg.hvp(y, x, np.full(shape, 3.0))
    table = sg.jacobian(ops.stack([y, y * 0.5, y, y]), x)
    fn = sg.compile([slope, curve, table], [x, p])
    for value, first, second in ((0.25, 0.5, 6.0), (5.0, 1.0, 0.0)):
        made = fn(np.full(shape, value), True)
        np.testing.assert_allclose(made[0], np.full(shape, first))
        np.testing.assert_allclose(made[1], np.full(shape, second))
        np.testing.assert_allclose(made[2][1], np.full(shape, min(1.0, value)))
    with pytest.raises(
        sg.GradientError, match="the gradient rule of custom_gradient is not linear"
    ):
        sg.jvp(y, x, np.ones(shape))


def test_a_function_without_use_for_its_argument():
    """The rule may give a cotangent to an argument that neither value nor rule reads."""
    f = sg.custom_gradient(lambda x: (sg.constant([1.0, 2.0]), lambda g: g * 5.0))
    x = sg.input("x", (2,))
    assert sg.compile(sg.grad(f(x).sum(), x), [x])(np.zeros(2, "f")).tolist() == [5, 5]


def test_outer_tensors_have_no_gradient_unless_given():
    x, w = sg.input("x", (2,)), sg.input("w", (2,))
    f = sg.custom_gradient(lambda x: (x * w, lambda g: g * w))
    made = sg.compile(sg.grad(f(x).sum(), [x, w]), [x, w])
    gx, gw = made(np.array([1, 2], "f"), np.array([3, 4], "f"))
    assert (gx.tolist(), gw.tolist()) == ([3, 4], [0, 0])


def test_inside_cond_and_checkpoint():
    x, p = sg.input("x", (3,), "float64"), sg.input("p", (), "bool")
    f = sg.checkpoint(lambda a: sg.cond(p, lambda: scaled(a, a)["o"], lambda: a * a))
    g = sg.grad(f(x).sum(), x)
    h = sg.grad(g.sum(), x)
    compiled = sg.compile([g, h], [x, p])
    a = np.array([0.1, 0.2, 0.3])
    e = np.exp(a)
    for got, want in zip(compiled(a, True), [2 * e * a + e, 2 * e * a + 3 * e], strict=True):
        np.testing.assert_allclose(got, want)
    for got, want in zip(compiled(a, False), [2 * a, 2 + 0 * a], strict=True):
        np.testing.assert_allclose(got, want)


def test_the_body_is_optimised_with_the_rest():
    x = sg.input("x", (3,))
    f = sg.compile([rounded(x), sg.grad(rounded(x).sum(), x)], [x])
    assert not any(n.op.name == "custom_gradient" for n in f.optimized.nodes)
    assert "custom_gradient(" in str(f.graph)


X = sg.input("x", (3,))


def plain(x):
    return x


def number(x):
    return x, lambda g: g.sum()


def several(x):
    return x, lambda g: (g, g)


def whole(x):
    return x, lambda g: ops.astype(g, "int64")


def two(x, y):
    return x + y, lambda g: g


def form(d):
    return d["a"], lambda g: {"b": g}


def at(function):
    name = function.__name__
    return f"{name} (test_custom.py:{function.__code__.co_firstlineno})"


ERRORS = {
    "no pair": (
        lambda: sg.custom_gradient(plain)(X),
        sg.GraphTypeError,
        f"custom_gradient: {at(plain)} must return a pair (output, vjp_fn), returned Tensor",
    ),
    "shape": (
        lambda: sg.custom_gradient(number)(X),
        sg.ShapeError,
        f"custom_gradient: the cotangent of argument 0 of {at(number)} must be f32[3], got f32[]",
    ),
    "dtype": (
        lambda: sg.custom_gradient(whole)(X),
        sg.GradientError,
        f"custom_gradient: the cotangent of argument 0 of {at(whole)} must be f32[3], got i64[3]",
    ),
    "too many": (
        lambda: sg.custom_gradient(several)(X),
        sg.GradientError,
        f"custom_gradient: the cotangent of argument 0 of {at(several)} must have its form"
        " f32[3], got (f32[3], f32[3])",
    ),
    "too few": (
        lambda: sg.custom_gradient(two)(X, X),
        sg.GradientError,
        f"custom_gradient: vjp_fn of {at(two)} must return a cotangent for each of the 2"
        " arguments, returned Tensor",
    ),
    "form": (
        lambda: sg.custom_gradient(form)({"a": X}),
        sg.GradientError,
        f"custom_gradient: the cotangent of argument 0 of {at(form)} must have its form"
        " {a: f32[3]}, got {b: f32[3]}",
    ),
    "keyword": (
        lambda: sg.custom_gradient(plain)(x=X),
        sg.GraphTypeError,
        f"custom_gradient: give tensors to {at(plain)} by position; vjp_fn has no place for others",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_messages(case):
    build, kind, message = ERRORS[case]
    with pytest.raises(kind) as error:
        build()
    assert error.value.summary == message


# ---------------------------------------------------------------------------- check_grad


GOOD = {
    "matmul": (lambda a, b: ops.tanh(a @ b) * ops.sin(a), (A, A.T)),
    "nesting": (lambda d: [d["a"] @ d["b"][0], {"c": d["a"].sum()}], ({"a": A, "b": [A]},)),
    "an array alone": (lambda a: ops.exp(a * 0.3), A),
    "indices": (lambda x, i: ops.take(x, i, axis=0) ** 2, (A, np.array([0, 0, 2]))),
    "complex": (lambda z: z * z * ops.conj(z), (A + 1j * A.T,)),
    "float32 arguments": (lambda a: ops.sigmoid(a), (A.astype("f"),)),
    "cond": (lambda a: sg.cond(a.sum() > 0, lambda: a**3, lambda: ops.cos(a)), (A,)),
}


@pytest.mark.parametrize("name", GOOD)
def test_right_derivatives_pass(name):
    fn, args = GOOD[name]
    assert sg.check_grad(fn, args, order=3) is None


@sg.custom_gradient
def wrong(x):
    return x * x * x, lambda g: g * 3 * x * x * ops.where(ops.arange(3) == 1, 1.5, 1.0)


@sg.custom_gradient
def wrong_later(x):
    return x * x * x, lambda g: g * 3 * ops.stop_gradient(x) * x


def test_a_wrong_entry_is_named():
    with pytest.raises(sg.GradientError) as error:
        sg.check_grad(lambda d: wrong(d["w"][1]) * 2.0, ({"w": [A, A]},), seed=3)
    found = re.fullmatch(
        r"check_grad: the first derivative is wrong \(reverse sweep\): worst at"
        r" args\[0\]\['w'\]\[1\]\[\d, 1\], (\S+) instead of (\S+);"
        r" along a random direction \S+ instead of \S+",
        error.value.summary,
    )
    assert found
    assert float(found[1]) / float(found[2]) == pytest.approx(1.5)


def test_a_wrong_second_order_is_found_at_the_second():
    sg.check_grad(wrong_later, (A,), order=1)
    with pytest.raises(sg.GradientError, match="the second derivative is wrong"):
        sg.check_grad(wrong_later, (A,), order=2)


def test_the_seed_decides():
    messages = []
    for seed in (0, 0, 1):
        with pytest.raises(sg.GradientError) as error:
            sg.check_grad(wrong, (A,), seed=seed)
        messages.append(str(error.value))
    assert messages[0] == messages[1] != messages[2]


@pytest.mark.parametrize(
    ("fn", "args", "order", "message"),
    [
        (lambda i: i, (np.arange(3),), 1, "no argument is a float, so there is nothing to"),
        (lambda a: a > 0, (A,), 1, "the function returned no float, so there is nothing to"),
        (lambda a: a, (A,), 0, "order must be at least 1, got 0"),
        (lambda a: a, ("a",), 1, "args must be arrays or numbers, got str"),
    ],
)
def test_check_grad_messages(fn, args, order, message):
    with pytest.raises(sg.GradientError, match=message):
        sg.check_grad(fn, args, order)

"""Derivatives of any order through compiled kernels: mpmath, differences, each other."""

from __future__ import annotations

import itertools

import mpmath as mp
import numpy as np
import pytest
from random_graphs import Builder
from smooth import OTHERS, SMOOTH

import staticgraph as sg
from staticgraph.ir import Graph
from staticgraph.op import Elementwise
from staticgraph.registry import FUNCTIONS, OPS

ops = sg.ops


def double(name: str, *shape: int) -> sg.Tensor:
    return sg.input(name, shape, "float64")


def contracted(tensors, ways) -> sg.Tensor:
    """The sum of all elements times those of constant arrays."""
    return ops.add_n([(t * sg.constant(u)).sum() for t, u in zip(tensors, ways, strict=True)])


def slopes(function: sg.Function, arrays, place: int, step: float = 1e-5) -> np.ndarray:
    """Central differences of a function's one result by each element of one argument."""
    rows = []
    for k in np.ndindex(arrays[place].shape):
        ends = []
        for sign in (1, -1):
            moved = list(arrays)
            moved[place] = arrays[place].copy()
            moved[place][k] += sign * step
            ends.append(np.array(function(*moved)))
        rows.append((ends[0] - ends[1]) / (2 * step))
    return np.stack(rows, -1).reshape(*rows[0].shape, *arrays[place].shape)


# ---------------------------------------------------------------------------- third order


def test_every_elementwise_op_has_a_row():
    declared = {name for name, op in OPS.items() if isinstance(op, Elementwise)}
    # Ops that other test files declare are theirs.
    known = {name for name in declared if op_is_ours(name)}
    assert known - OTHERS - {row.op for row in SMOOTH} == set()


def op_is_ours(name: str) -> bool:
    return name.startswith("_") or name in FUNCTIONS or name in {row.op for row in SMOOTH} | OTHERS


def orders_along(row, point, way) -> list[float]:
    """Derivatives 0 to 3 of a row's function at a point, along a direction, by mpmath."""
    with mp.workdps(40):
        point, way = [mp.mpf(float(v)) for v in point], [mp.mpf(float(v)) for v in way]

        def line(h):
            return row.exact(*(a + h * u for a, u in zip(point, way, strict=True)))

        return [float(mp.diff(line, 0, n)) for n in range(4)]


@pytest.mark.parametrize("row", SMOOTH, ids=lambda row: row.id)
def test_third_derivative(row, rng):
    """d^3/dh^3 f(x + h u), three times reverse and three times forward, against mpmath."""
    n = 17
    arrays = [rng.uniform(*span, n) for span in row.spans]
    ways = [rng.uniform(0.3, 1.0, n) * rng.choice([-1.0, 1.0], n) for _ in row.spans]
    xs = [double(f"x{k}", n) for k in range(len(arrays))]
    us = [sg.constant(u) for u in ways]
    reverse = forward = row.build(*xs)
    for _ in range(3):
        pulled = sg.grad(reverse.sum(), xs)
        reverse = ops.add_n([g * u for g, u in zip(pulled, us, strict=True)])
        forward = sg.jvp(forward, xs, us)
    lines = zip(zip(*arrays, strict=True), zip(*ways, strict=True), strict=True)
    exact = np.array([orders_along(row, point, way) for point, way in lines])
    scale = np.abs(exact).max(axis=1)
    for got in sg.compile([reverse, forward], xs)(*arrays):
        assert np.max(np.abs(got - exact[:, 3]) / scale) < 2e-14


def test_no_blow_up():
    """The n-th derivative of sin(s) exp(s^2) grows as n^2, and so does what runs."""
    s = double("s")
    y = d = ops.sin(s) * ops.exp(s**2)
    sizes, orders = [], [y]
    for _ in range(8):
        d = sg.grad(d, s)
        orders.append(d)
        sizes.append(len(Graph([s], [d])))
    assert sizes[-1] < 200
    assert all(b - a < 60 for a, b in itertools.pairwise(sizes))
    last = sg.compile(d)
    assert len(last.optimized) <= 8
    assert sum(len(k.source.splitlines()) for k in last.kernels) < 500
    values = sg.compile(orders, [s])(0.7)
    with mp.workdps(40):
        for n, value in enumerate(values):
            exact = mp.diff(lambda t: mp.sin(t) * mp.exp(t**2), mp.mpf(0.7), n)
            assert float(value) == pytest.approx(float(exact), rel=1e-13)


def test_orders_of_a_deep_chain_stay_small():
    """Forward over forward over reverse of a ten-layer chain: each order adds a factor at most."""
    x = double("x", 4)
    y = x
    for _ in range(10):
        y = ops.tanh(y * 1.1 + 0.1)
    v = sg.constant(np.ones(4))
    first = sg.grad(y.sum(), x)
    second = sg.jvp(first, x, v)
    third = sg.jvp(second, x, v)
    sizes = [len(Graph([x], [t])) for t in (y, first, second, third)]
    assert sizes[1] < 3 * sizes[0]
    assert sizes[2] < 4 * sizes[1]
    assert sizes[3] < 4 * sizes[2]


# ---------------------------------------------------------------------------- Hessians


def mlp(x, t, w1, b1, w2, b2):
    logits = ops.tanh(x @ w1 + b1) @ w2 + b2
    return ops.mean(ops.softmax_cross_entropy(logits, t)) + 0.1 * (w1 * w1).sum()


def mlp_jax(x, t, w1, b1, w2, b2):
    import jax
    import jax.numpy as jnp

    logits = jnp.tanh(x @ w1 + b1) @ w2 + b2
    log_p = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_p, t[:, None], 1)) + 0.1 * (w1 * w1).sum()


SHAPES = ((7, 6), (7,), (6, 5), (5,), (5, 3), (3,))


def mlp_case(rng):
    arrays = [rng.standard_normal(s) for s in SHAPES]
    arrays[1] = rng.integers(0, 3, 7)
    inputs = [sg.input(f"a{k}", a.shape, a.dtype) for k, a in enumerate(arrays)]
    ways = [rng.standard_normal(a.shape) for a in arrays[2:]]
    return arrays, inputs, inputs[2:], ways, mlp(*inputs)


def test_hessian_vector_product(rng):
    arrays, inputs, params, ways, loss = mlp_case(rng)
    forward = sg.hvp(loss, params, [sg.constant(u) for u in ways])
    reverse = sg.grad(contracted(sg.grad(loss, params), ways), params)
    gradient = sg.compile(sg.grad(loss, params), inputs)
    step = 1e-6
    ends = [
        gradient(*arrays[:2], *(a + s * u for a, u in zip(arrays[2:], ways, strict=True)))
        for s in (step, -step)
    ]
    for a, b, up, down in zip(
        sg.compile(forward, inputs)(*arrays),
        sg.compile(reverse, inputs)(*arrays),
        *ends,
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(a, (up - down) / (2 * step), rtol=1e-7, atol=1e-9)


def test_full_hessian(rng):
    arrays, inputs, params, _, loss = mlp_case(rng)
    w1, b2 = params[0], params[3]
    found = sg.compile(sg.hessian(loss, [w1, b2]), inputs)(*arrays)
    for x, row in zip((w1, b2), found, strict=True):
        gradient = sg.compile(sg.grad(loss, x), inputs)
        for place, block in zip((2, 5), row, strict=True):
            assert block.shape == x.shape + arrays[place].shape
            np.testing.assert_allclose(block, slopes(gradient, arrays, place), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found[0][1], np.moveaxis(found[1][0], 0, -1), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        found[0][0], found[0][0].transpose(2, 3, 0, 1), rtol=1e-12, atol=1e-15
    )


@pytest.mark.peers
def test_hessians_against_jax(rng):
    jax = pytest.importorskip("jax")
    arrays, inputs, params, ways, loss = mlp_case(rng)
    hvp = sg.hvp(loss, params, [sg.constant(u) for u in ways])
    got = sg.compile([*hvp, sg.hessian(loss, params[0])], inputs)(*arrays)
    with jax.enable_x64(True):

        def at(*weights):
            return mlp_jax(*arrays[:2], *weights)

        gradient = jax.grad(at, (0, 1, 2, 3))
        _, products = jax.jvp(gradient, tuple(arrays[2:]), tuple(ways))
        wanted = [*products, jax.hessian(at)(*arrays[2:])]
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, np.asarray(b), rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------------------- gradient penalty

CRITIC = ((4, 2, 9, 8), (3, 2, 3, 3), (3,), (5, 3, 3, 3), (50, 1))


def critic(x, w1, b1, w2, w3):
    h = ops.leaky_relu(ops.conv2d(x, w1, b1, stride=2, padding=1), 0.2)
    h = ops.tanh(ops.conv2d(h, w2, padding=1, stride=(1, 2)))
    h = ops.avg_pool2d(h, (1, 1))
    return (h.reshape(4, -1) @ w3).reshape(-1)


def penalty(x, *weights):
    """Of Gulrajani et al., 2017: how far the norms of a critic's gradients are from 1."""
    pulled = sg.grad(critic(x, *weights).sum(), x)
    norm = ops.sqrt((pulled * pulled).sum(axis=(1, 2, 3)))
    return ops.mean((norm - 1.0) ** 2)


def penalty_case(rng):
    arrays = [0.4 * rng.standard_normal(s) for s in CRITIC]
    inputs = [double(f"a{k}", *a.shape) for k, a in enumerate(arrays)]
    return arrays, inputs, penalty(*inputs)


def test_gradient_penalty(rng):
    arrays, inputs, loss = penalty_case(rng)
    gradients = sg.compile(sg.grad(loss, inputs[1:]), inputs)(*arrays)
    value = sg.compile(loss, inputs)
    for k, g in enumerate(gradients, 1):
        np.testing.assert_allclose(g, slopes(value, arrays, k), rtol=1e-5, atol=1e-8)


@pytest.mark.peers
def test_gradient_penalty_against_jax(rng):
    jax = pytest.importorskip("jax")
    import jax.numpy as jnp

    arrays, inputs, loss = penalty_case(rng)
    got = sg.compile([loss, *sg.grad(loss, inputs[1:])], inputs)(*arrays)

    def conv(x, w, stride):
        numbers = ("NCHW", "OIHW", "NCHW")
        return jax.lax.conv_general_dilated(
            x, w, stride, ((1, 1), (1, 1)), dimension_numbers=numbers
        )

    def critic_jax(x, w1, b1, w2, w3):
        h = jax.nn.leaky_relu(conv(x, w1, (2, 2)) + b1[:, None, None], 0.2)
        h = jnp.tanh(conv(h, w2, (1, 2)))
        return (h.reshape(4, -1) @ w3).sum()

    def penalty_jax(weights):
        pulled = jax.grad(critic_jax)(arrays[0], *weights)
        return jnp.mean((jnp.sqrt((pulled * pulled).sum((1, 2, 3))) - 1.0) ** 2)

    with jax.enable_x64(True):
        value, gradients = jax.value_and_grad(penalty_jax)(tuple(arrays[1:]))
    for a, b in zip(got, (value, *gradients), strict=True):
        np.testing.assert_allclose(a, np.asarray(b), rtol=1e-9, atol=1e-11)


@pytest.mark.peers
def test_gradient_penalty_against_torch(rng):
    torch = pytest.importorskip("torch")
    arrays, inputs, loss = penalty_case(rng)
    got = sg.compile([loss, *sg.grad(loss, inputs[1:])], inputs)(*arrays)
    x, *weights = (torch.tensor(a, requires_grad=True) for a in arrays)
    w1, b1, w2, w3 = weights
    conv = torch.nn.functional.conv2d
    h = torch.nn.functional.leaky_relu(conv(x, w1, b1, stride=2, padding=1), 0.2)
    h = torch.tanh(conv(h, w2, padding=1, stride=(1, 2)))
    score = (h.reshape(4, -1) @ w3).sum()
    (pulled,) = torch.autograd.grad(score, x, create_graph=True)
    value = ((pulled.pow(2).sum((1, 2, 3)).sqrt() - 1.0) ** 2).mean()
    gradients = torch.autograd.grad(value, weights, allow_unused=True)
    for a, b in zip(got, (value, *gradients), strict=True):
        wanted = np.zeros(a.shape) if b is None else b.detach().numpy()
        np.testing.assert_allclose(a, wanted, rtol=1e-9, atol=1e-11)


# ---------------------------------------------------------------------------- modes agree


def check_modes(seed: int) -> None:
    """Second derivatives of a random graph along two directions, three ways."""
    source = np.random.default_rng(seed)
    builder = Builder(source, "float64")
    inputs, outputs = builder.build(int(source.integers(4, 18)), 2)
    arrays = builder.arrays()
    ways = [[source.standard_normal(t.shape) for t in inputs] for _ in range(2)]
    weights = [source.standard_normal(t.shape) for t in outputs]
    y = ops.tanh(contracted(outputs, weights) * 0.1)
    first = sg.grad(y, inputs)
    over_reverse = sg.jvp(contracted(first, ways[0]), inputs, [sg.constant(u) for u in ways[1]])
    pushed = sg.jvp(y, inputs, [sg.constant(u) for u in ways[0]])
    over_forward = contracted(sg.grad(pushed, inputs), ways[1])
    twice = contracted(sg.grad(contracted(first, ways[0]), inputs), ways[1])
    again = sg.jvp(pushed, inputs, [sg.constant(u) for u in ways[1]])
    slope = contracted(first, ways[0])
    got = sg.compile([pushed, slope, over_reverse, over_forward, twice, again], inputs)(*arrays)
    size = max(1.0, *(abs(float(v)) for v in got))
    assert abs(got[0] - got[1]) < 1e-11 * size
    for other in got[3:]:
        assert abs(got[2] - other) < 1e-10 * size


@pytest.mark.parametrize("seed", range(16))
def test_modes_agree(seed):
    check_modes(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_modes_agree_on_more_graphs(seed):
    check_modes(seed)


# ---------------------------------------------------------------------------- views

VIEWS = {
    "reshape": lambda x: x.reshape(4, 6),
    "transpose": lambda x: x.transpose(2, 0, 1),
    "broadcast": lambda x: x[:, :1] * np.ones((2, 3, 4)),
    "slice": lambda x: x[:, 2:0:-1, 1::2],
    "flip": lambda x: x[::-1, :, ::-1],
    "index": lambda x: x[1, :, 2],
    "new axis": lambda x: x[:, None, 1:, ..., None],
    "chain": lambda x: x.transpose(2, 1, 0)[::2].reshape(2, 6)[:, ::-1].T,
}
PAIRS = {
    "concat": (
        lambda x: ops.concat([x, x[:, :1], x], 1),
        lambda x: np.concatenate([x, x[:, :1], x], 1),
    ),
    "stack": (lambda x: ops.stack([x, x], 1), lambda x: np.stack([x, x], 1)),
    "split": (lambda x: ops.split(x, [1], 2)[1], lambda x: np.split(x, [1], 2)[1]),
    "pad": (lambda x: ops.pad(x, 1), lambda x: np.pad(x, 1)),
    "reflect": (lambda x: ops.pad(x, 1, mode="reflect"), lambda x: np.pad(x, 1, mode="reflect")),
    "squeeze": (lambda x: ops.squeeze(x[:, :1]), lambda x: np.squeeze(x[:, :1])),
    "expand": (lambda x: ops.expand_dims(x, (0, 2)), lambda x: np.expand_dims(x, (0, 2))),
    "tile": (lambda x: ops.tile(x, (1, 2, 1)), lambda x: np.tile(x, (1, 2, 1))),
    "moveaxis": (lambda x: ops.moveaxis(x, 0, 2), lambda x: np.moveaxis(x, 0, 2)),
    "unstack": (lambda x: ops.unstack(x, 1)[2], lambda x: x[:, 2]),
    "broadcast_to": (
        lambda x: ops.broadcast_to(x, (5, 2, 3, 4)),
        lambda x: np.broadcast_to(x, (5, 2, 3, 4)),
    ),
    "take": (lambda x: x[:, np.array([2, 0, 2])], lambda x: x[:, [2, 0, 2]]),
    "sum_to": (lambda x: ops.sum_to(x, (1, 3, 1)), lambda x: x.sum((0, 2), keepdims=True)),
}
LINEAR = {**{k: (f, f) for k, f in VIEWS.items()}, **PAIRS}


@pytest.mark.parametrize("name", LINEAR)
def test_views_between_smooth_ops(name, rng):
    """With a view's matrix V, c.sin(V exp(x)) has a gradient and a Hessian that NumPy can write."""
    build, oracle = LINEAR[name]
    shape = (2, 3, 4)
    x = double("x", *shape)
    a, v = rng.standard_normal(shape), rng.standard_normal(shape)
    basis = np.eye(a.size).reshape(-1, *shape)
    matrix = np.stack([np.asarray(oracle(e)).ravel() for e in basis], -1)
    made = build(ops.exp(x))
    c = rng.standard_normal(made.shape)
    y = (ops.sin(made) * sg.constant(c)).sum()
    gradient, product = sg.compile([sg.grad(y, x), sg.hvp(y, x, sg.constant(v))], [x])(a)
    e, z = np.exp(a).ravel(), matrix @ np.exp(a).ravel()
    first = matrix.T @ (np.cos(z) * c.ravel()) * e
    inner = matrix.T @ (-np.sin(z) * c.ravel() * (matrix @ (e * v.ravel()))) * e
    np.testing.assert_allclose(gradient.ravel(), first, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(product.ravel(), inner + first * v.ravel(), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------------- forms and arguments


def test_the_form_of_xs_comes_back():
    x, w = sg.input("x", (3,)), sg.variable(np.ones(3, "f"), name="w")
    y = (x * x * w).sum()
    assert isinstance(sg.grad(y, x), sg.Tensor)
    assert isinstance(sg.grad(y, [x, w]), list)
    assert isinstance(sg.grad(y, (x,)), tuple)
    nested = sg.grad(y, {"b": [x], "a": (w, None)})
    assert list(nested) == ["b", "a"]
    assert nested["a"][1] is None
    values = sg.compile(nested)(np.arange(3, dtype="f"))
    np.testing.assert_array_equal(values["b"][0], [0, 2, 4])
    np.testing.assert_array_equal(values["a"][0], [0, 1, 4])


def test_the_gradient_of_an_intermediate_tensor():
    x = sg.input("x", (3,))
    h = ops.exp(x)
    y = (h * h + x).sum()
    gh, gx = sg.compile(sg.grad(y, [h, x]))(np.zeros(3, "f"))
    np.testing.assert_array_equal(gh, 2)
    np.testing.assert_array_equal(gx, 3)


def test_what_is_not_reached_has_gradient_zero():
    x, z = sg.input("x", (3,)), sg.input("z", (2, 2), "float64")
    y = x.sum()
    gx, gz = sg.grad(y, [x, z])
    assert (gz.dtype, gz.shape) == (np.float64, (2, 2))
    pushed = sg.jvp(y, [z], [sg.constant(np.ones((2, 2)))])
    values = sg.compile([gx, gz, sg.grad(y, z), pushed], [x])(np.ones(3, "f"))
    np.testing.assert_array_equal(values[0], 1)
    for value in values[1:]:
        np.testing.assert_array_equal(value, 0)


def test_a_cotangent_weighs_the_elements(rng):
    x = double("x", 3, 2)
    y = ops.sin(x)
    c, a = rng.standard_normal((3, 2)), rng.standard_normal((3, 2))
    u = double("u", 3, 2)
    numbers = sg.compile(sg.grad(y, x, c), [x])(a)
    np.testing.assert_allclose(numbers, c * np.cos(a), rtol=1e-14)
    np.testing.assert_allclose(
        sg.compile(sg.grad(y, x, cotangent=u), [x, u])(a, c), numbers, rtol=1e-15
    )
    both = sg.vjp([y, x * x], [x], [u, sg.constant(np.ones((3, 2)))])[0]
    np.testing.assert_allclose(sg.compile(both, [x, u])(a, c), c * np.cos(a) + 2 * a, rtol=1e-13)


def test_jvp_takes_the_form_of_ys(rng):
    x, w = double("x", 3), double("w", 3)
    a, b, u, v = rng.standard_normal((4, 3))
    made = sg.jvp({"p": x * w, "s": (x.sum(),)}, [x, w], [sg.constant(u), sg.constant(v)])
    got = sg.compile(made, [x, w])(a, b)
    np.testing.assert_allclose(got["p"], u * b + a * v, rtol=1e-14)
    np.testing.assert_allclose(got["s"][0], u.sum(), rtol=1e-14)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [((2, 3), (4,)), ((2,), (3, 3)), ((), (4,)), ((3,), ()), ((0,), (2,)), ((2,), (0,))],
)
def test_jacobian_has_the_shape_of_both(rows, columns, rng):
    """Whichever sweep is the shorter one."""
    x = double("x", *columns)
    table = rng.standard_normal((*rows, *columns))
    y = ops.sum(sg.constant(table) * ops.sin(x), axis=tuple(range(len(rows), table.ndim)))
    a = rng.standard_normal(columns)
    got = sg.compile(sg.jacobian(y, x), [x])(a)
    assert got.shape == rows + columns
    np.testing.assert_allclose(got, table * np.cos(a), rtol=1e-14)


def test_dicts_may_have_their_keys_in_any_order():
    x, y = double("x", 2), double("y", 3)
    ys, xs = {"a": x * 2.0, "b": y.sum()}, {"p": x, "q": y}
    pulled = sg.vjp(ys, xs, {"b": 5.0, "a": np.ones(2)})
    pushed = sg.jvp(ys, xs, {"q": np.ones(3), "p": np.full(2, 7.0)})
    made = sg.compile([pulled, pushed])()
    assert made[0]["p"].tolist() == [2, 2]
    assert made[0]["q"].tolist() == [5, 5, 5]
    assert made[1]["a"].tolist() == [14, 14]
    assert made[1]["b"] == 3


def test_jacobian_of_a_nesting_has_its_form(rng):
    x, w = double("x", 3), double("w", 2)
    y = ops.sin(x)[:, None] * w
    got = sg.compile(sg.jacobian(y, {"x": x, "w": [w]}), [x, w])(np.ones(3), np.arange(2.0))
    assert got["x"].shape == (3, 2, 3)
    assert got["w"][0].shape == (3, 2, 2)
    np.testing.assert_allclose(
        got["x"], np.einsum("ik,j->ijk", np.eye(3) * np.cos(1), np.arange(2)), rtol=1e-14
    )
    np.testing.assert_allclose(
        got["w"][0], np.einsum("i,jk->ijk", np.full(3, np.sin(1)), np.eye(2)), rtol=1e-14
    )


def test_stop_gradient_stops_both_sweeps():
    x = double("x", 3)
    y = (sg.stop_gradient(ops.exp(x)) * x).sum()
    made = [sg.grad(y, x), sg.jvp(y, x, np.ones(3)), sg.hvp(y, x, np.ones(3))]
    a = np.arange(3.0)
    first, pushed, second = sg.compile(made, [x])(a)
    np.testing.assert_allclose(first, np.exp(a), rtol=1e-15)
    np.testing.assert_allclose(pushed, np.exp(a).sum(), rtol=1e-15)
    np.testing.assert_array_equal(second, 0)


def test_a_float32_gradient_stays_float32(rng):
    x = sg.input("x", (5, 4))
    y = ops.mean(ops.gelu(ops.layer_norm(x)) ** 2)
    g = sg.grad(y, x)
    h = sg.hvp(y, x, sg.constant(np.ones((5, 4), "f")))
    for node in Graph([x], [g, h]).nodes:
        assert all(r.type.dtype in ("float32", "int64", "bool") for r in node.results), node


# ---------------------------------------------------------------------------- bodies


def test_gradients_of_both_branches(rng):
    x, w, p = double("x", 4), double("w", 4), sg.input("p", (), "bool")
    y = sg.cond(p, lambda: (ops.sin(x) * w * w).sum(), lambda: (x * x * x).sum())
    wanted = [
        sg.grad(y, [x, w]),
        sg.hvp(y, [x, w], [np.ones(4), np.ones(4)]),
        sg.jvp(y, [x, w], [np.ones(4), np.ones(4)]),
    ]
    fn = sg.compile(wanted, [x, w, p])
    a, b = rng.standard_normal((2, 4))
    (gx, gw), (hx, hw), t = fn(a, b, True)
    np.testing.assert_allclose(gx, np.cos(a) * b * b, rtol=1e-13)
    np.testing.assert_allclose(gw, 2 * np.sin(a) * b, rtol=1e-13)
    np.testing.assert_allclose(hx, -np.sin(a) * b * b + 2 * np.cos(a) * b, rtol=1e-13)
    np.testing.assert_allclose(hw, 2 * np.sin(a) + 2 * np.cos(a) * b, rtol=1e-13)
    np.testing.assert_allclose(t, (gx + gw).sum(), rtol=1e-13)
    (gx, gw), (hx, hw), t = fn(a, b, False)
    np.testing.assert_allclose(gx, 3 * a * a, rtol=1e-13)
    np.testing.assert_allclose(hx, 6 * a, rtol=1e-13)
    np.testing.assert_allclose(t, gx.sum(), rtol=1e-13)
    for zero in (gw, hw):
        np.testing.assert_array_equal(zero, 0)


def test_third_derivative_of_a_cond_in_a_cond():
    x = double("x")

    def inner(u):
        return sg.cond(u > 2.0, lambda v: ops.exp(v), lambda v: ops.sin(v), u)

    y = sg.cond(x > 0.0, inner, lambda u: u**4, x)
    d = y
    for _ in range(3):
        d = sg.grad(d, x)
    fn = sg.compile(d)
    for at, want in ((2.5, np.exp(2.5)), (1.0, -np.cos(1.0)), (-1.5, 24 * -1.5)):
        assert float(fn(at)) == pytest.approx(want, rel=1e-13)


def test_a_custom_gradient_and_what_it_computes(rng):
    """The rule is differentiated, not the function: here it says twice the true slope."""

    @sg.custom_gradient
    def doubled(x, w):
        return ops.sin(x) * w, lambda g: (2.0 * g * ops.cos(x) * w, None)

    x, w = double("x", 3), double("w", 3)
    y = doubled(x, w).sum()
    a, b = rng.standard_normal((2, 3))
    gx, gw, second = sg.compile([*sg.grad(y, [x, w]), sg.hvp(y, x, np.ones(3))], [x, w])(a, b)
    np.testing.assert_allclose(gx, 2 * np.cos(a) * b, rtol=1e-14)
    np.testing.assert_array_equal(gw, 0)
    np.testing.assert_allclose(second, -2 * np.sin(a) * b, rtol=1e-14)


def test_a_custom_gradient_forward(rng):
    @sg.custom_gradient
    def clipped(x):
        return x * 1.0, lambda g: ops.clip(g, -0.5, 0.5)

    x = double("x", 3)
    y = (clipped(x) * np.array([0.2, 3.0, -4.0])).sum()
    np.testing.assert_allclose(sg.compile(sg.grad(y, x), [x])(np.ones(3)), [0.2, 0.5, -0.5])


def test_checkpoint_has_the_same_bits(rng):
    x, w = sg.input("x", (8, 6)), sg.input("w", (6, 6))

    def block(h):
        return ops.tanh(h @ w) * ops.sigmoid(h)

    def loss(wrap):
        h = x
        for _ in range(3):
            h = wrap(block)(h)
        return (h * h).sum()

    arrays = rng.standard_normal((8, 6)).astype("f"), rng.standard_normal((6, 6)).astype("f")
    outputs = []
    for wrap in (lambda f: f, sg.checkpoint):
        y = loss(wrap)
        first = sg.grad(y, [x, w])
        outputs.append(
            sg.compile([y, *first, sg.grad((first[1] * first[1]).sum(), w)], [x, w])(*arrays)
        )
    for plain, again in zip(*outputs, strict=True):
        np.testing.assert_allclose(plain, again, rtol=2e-5, atol=1e-5)
    for plain, again in zip(outputs[0][:3], outputs[1][:3], strict=True):
        np.testing.assert_array_equal(plain, again)


# ---------------------------------------------------------------------------- golden text


def dense():
    x, w, b = sg.input("x", (8, 4)), sg.input("w", (4, 3)), sg.input("b", (3,))
    return [x, w, b], ops.tanh(x @ w + b).sum()


def cross_entropy():
    x, t = sg.input("x", (8, 5)), sg.input("t", (8,), "int64")
    return [x], ops.mean(ops.softmax_cross_entropy(x, t))


def swish():
    x = sg.input("x", (6,))
    return [x], ops.silu(x).sum()


@pytest.mark.parametrize("case", [dense, cross_entropy, swish], ids=lambda f: f.__name__)
def test_gradient_text(case, golden):
    xs, y = case()
    inputs = [n.results[0] for n in Graph((), [y]).nodes if n.op.name == "input"]
    assert str(Graph(inputs, [y, *sg.grad(y, xs)])) == golden

"""Optimizers against loops written apart, and against PyTorch."""

import numpy as np
import pytest

import staticgraph as sg

ops = sg.ops
STEPS = 12
RNG = np.random.default_rng(0)
W, B = RNG.standard_normal((7, 5)), RNG.standard_normal(5)
X, Y = RNG.standard_normal((9, 7)), RNG.standard_normal((9, 5))


def sgd(p, g, state, t, lr, weight_decay=0.0):
    return p - lr * (g + weight_decay * p)


def momentum(p, g, state, t, lr, momentum=0.9, nesterov=False, weight_decay=0.0):
    g = g + weight_decay * p
    state["m"] = momentum * state.get("m", 0.0) + g
    return p - lr * (g + momentum * state["m"] if nesterov else state["m"])


def adam(p, g, state, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    if decoupled:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    b1, b2 = betas
    state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
    state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g * g
    m, v = state["m"] / (1 - b1**t), state["v"] / (1 - b2**t)
    return p - lr * m / (np.sqrt(v) + eps)


def adamw(p, g, state, t, lr, weight_decay=1e-2, **options):
    return adam(p, g, state, t, lr, weight_decay=weight_decay, decoupled=True, **options)


CASES = {
    "sgd": (sg.optim.sgd, sgd, 0.1, {}),
    "sgd, decay": (sg.optim.sgd, sgd, 0.1, {"weight_decay": 0.05}),
    "momentum": (sg.optim.momentum, momentum, 0.1, {}),
    "nesterov": (
        sg.optim.momentum,
        momentum,
        0.1,
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    ),
    "adam": (sg.optim.adam, adam, 0.01, {}),
    "adam, decay": (
        sg.optim.adam,
        adam,
        0.01,
        {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1},
    ),
    "adamw": (sg.optim.adamw, adamw, 0.01, {}),
    "adamw, beta 0": (sg.optim.adamw, adamw, 0.01, {"betas": (0.0, 0.9), "weight_decay": 0.3}),
}
TORCH = {
    sg.optim.sgd: "SGD",
    sg.optim.momentum: "SGD",
    sg.optim.adam: "Adam",
    sg.optim.adamw: "AdamW",
}


def trained(make, rate, options, dtype):
    """Losses and parameters of a small network after some steps of ours."""
    w, b = sg.variable(W.astype(dtype), name="w"), sg.variable(B.astype(dtype), name="b")
    x, y = sg.input("x", X.shape, dtype), sg.input("y", Y.shape, dtype)
    loss = (((x @ w + b).tanh() - y) ** 2).mean()
    f = sg.compile(loss, updates=make(loss, {"w": w, "b": [b]}, rate, **options))
    losses = [f(X.astype(dtype), Y.astype(dtype)) for _ in range(STEPS)]
    return losses, w.value, b.value


def tolerance(dtype):
    return {"rtol": 2e-5, "atol": 2e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-13}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_against_a_loop(name, dtype):
    make, step, rate, options = CASES[name]
    losses, w, b = trained(make, rate, options, dtype)
    params, states = [W.copy(), B.copy()], [{}, {}]
    for t in range(1, STEPS + 1):
        h = np.tanh(X @ params[0] + params[1])
        np.testing.assert_allclose(losses[t - 1], ((h - Y) ** 2).mean(), **tolerance(dtype))
        back = 2 * (h - Y) * (1 - h * h) / Y.size
        slopes = [X.T @ back, back.sum(0)]
        params = [
            step(p, g, s, t, rate, **options)
            for p, g, s in zip(params, slopes, states, strict=True)
        ]
    np.testing.assert_allclose(w, params[0], **tolerance(dtype))
    np.testing.assert_allclose(b, params[1], **tolerance(dtype))


@pytest.mark.peers
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_against_torch(name, dtype):
    torch = pytest.importorskip("torch")
    make, _, rate, options = CASES[name]
    if make is sg.optim.momentum:
        options = {"momentum": 0.9, **options}
    losses, *params = trained(make, rate, options, dtype)
    w, b = (torch.tensor(a.astype(dtype), requires_grad=True) for a in (W, B))
    x, y = torch.tensor(X.astype(dtype)), torch.tensor(Y.astype(dtype))
    optimizer = getattr(torch.optim, TORCH[make])([w, b], lr=rate, **options)
    for ours in losses:
        optimizer.zero_grad()
        loss = (((x @ w + b).tanh() - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        np.testing.assert_allclose(ours, loss.detach().numpy(), **tolerance(dtype))
    for ours, theirs in zip(params, (w, b), strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), **tolerance(dtype))


def quadratic(dtype="float32"):
    p = sg.variable(np.array([1.0, -2.0], dtype), name="p")
    return p, (p * p).sum()


def test_the_rate_may_be_a_tensor_or_a_variable():
    p, loss = quadratic()
    rate = sg.variable(0.5, name="rate")
    f = sg.compile(loss, updates=sg.optim.sgd(loss, p, rate))
    f()
    assert p.value.tolist() == [0, 0]
    p.value, rate.value = [1.0, 1.0], 0.25
    f()
    assert p.value.tolist() == [0.5, 0.5]
    q, loss = quadratic()
    rate = sg.input("rate", (1,), "float64")
    g = sg.compile(loss, [rate], updates=sg.optim.adam(loss, [q], rate))
    g(np.array([0.5]))
    np.testing.assert_allclose(q.value, [0.5, -1.5], rtol=1e-6)
    assert q.value.dtype == np.float32


def test_given_gradients_take_the_place_of_the_loss():
    p, loss = quadratic()
    clipped = ops.clip(sg.grad(loss, p), -1.0, 1.0)
    sg.compile(loss, updates=sg.optim.sgd(loss, [p], 1.0, grads=[clipped]))()
    assert p.value.tolist() == [0, -1]


def test_state_has_names_and_outlives_a_call():
    p, loss = quadratic()
    updates = sg.optim.adam(loss, p)
    assert [v.name for v in updates] == ["adam_step", "adam_m_p", "adam_v_p", "p"]
    f = sg.compile(loss, updates=updates)
    f()
    f()
    state = {v.name: v.value for v in updates}
    assert state["adam_step"] == 2
    assert state["adam_step"].dtype == np.int64
    assert state["adam_m_p"].dtype == np.float32


@pytest.mark.parametrize("make", [sg.optim.momentum, sg.optim.adam, sg.optim.adamw])
def test_an_update_is_one_pass_in_place(make):
    p, loss = quadratic()
    f = sg.compile([], updates=make(loss, p))
    assert not [s for s in f.plan.steps if s.kind == "copy"]
    place = {v: ("variable", k) for k, v in enumerate(f.plan.variables)}
    writes = [
        {ref[:2] for (kind, _), ref in zip(s.launch.buffers, s.refs, strict=True) if kind == "out"}
        for s in f.plan.steps
        if s.launch
    ]
    changed = {place[v] for v, _ in f.optimized.updates if not v.name.endswith("_step")}
    assert any(changed <= found for found in writes), "parameter and state in one kernel"


ERRORS = {
    "no variable": (
        lambda p, loss: sg.optim.sgd(loss, [loss]),
        sg.GraphTypeError,
        "sgd: params must be variables (sg.variable), got a tensor (f32[])",
    ),
    "an array": (
        lambda p, loss: sg.optim.adam(loss, [np.ones(2)]),
        sg.GraphTypeError,
        "adam: params must be variables (sg.variable), got ndarray",
    ),
    "an integer": (
        lambda p, loss: sg.optim.adam(loss, sg.variable(np.arange(2), name="n")),
        sg.GradientError,
        "adam: variable 'n' is i64[2], and only floats have derivatives",
    ),
    "twice": (
        lambda p, loss: sg.optim.adamw(loss, [p, p]),
        sg.GraphTypeError,
        "adamw: params hold a variable twice",
    ),
    "beta": (
        lambda p, loss: sg.optim.adam(loss, p, betas=(0.9, 1.0)),
        sg.GraphTypeError,
        "adam: betas[1] must be in [0, 1), got 1.0",
    ),
    "rate": (
        lambda p, loss: sg.optim.momentum(loss, p, sg.constant([1.0, 2.0])),
        sg.ShapeError,
        "momentum: lr must be a number or a scalar tensor, got f32[2]",
    ),
    "form": (
        lambda p, loss: sg.optim.sgd(loss, [p], grads=p),
        sg.GraphTypeError,
        "sgd: grads must have the form of params",
    ),
    "shape": (
        lambda p, loss: sg.optim.sgd(loss, p, grads=loss),
        sg.ShapeError,
        "sgd: variable 'p' is f32[2], its gradient is f32[]",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_messages(case):
    build, kind, message = ERRORS[case]
    with pytest.raises(kind) as error:
        build(*quadratic())
    assert error.value.summary == message

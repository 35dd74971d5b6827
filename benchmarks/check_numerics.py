"""What `check_numerics=True` costs: plain and checked calls of one graph take turns."""

import time

import numpy as np

from benchmarks import mlp_step

ROUNDS = 60
BATCH = 16
ELEMENTS = 1 << 20


def mlp():
    import staticgraph as sg

    given, weights = mlp_step.parted(mlp_step.data("float32"))
    x = sg.input("x", given["x"].shape)
    label = sg.input("label", given["label"].shape, "int64")
    params = [sg.variable(value, name=name) for name, value in weights.items()]
    loss = mlp_step.loss_staticgraph(x, label, *params)
    return loss, sg.optim.adam(loss, params, lr=mlp_step.RATE), [given["x"], given["label"]]


def small():
    import staticgraph as sg

    rng = np.random.default_rng(0)
    x = sg.input("x", (8, 32))
    w = sg.variable(rng.normal(size=(32, 32)).astype("f"))
    h = x
    for _ in range(3):
        h = sg.ops.tanh(h @ w)
    loss = sg.ops.mean(h * h)
    return loss, {w: w - 0.01 * sg.grad(loss, w)}, [rng.normal(size=(8, 32)).astype("f")]


def convolutions():
    import staticgraph as sg

    rng = np.random.default_rng(0)
    h = x = sg.input("x", (BATCH, 3, 32, 32))
    weights = [sg.variable(rng.normal(0, 0.1, (32, c, 3, 3)).astype("f")) for c in (3, 32, 32)]
    for w in weights:
        h = sg.ops.relu(sg.ops.conv(h, w, padding=1))
    loss = sg.ops.mean(h * h)
    grads = sg.grad(loss, weights)
    updates = {w: w - 0.01 * g for w, g in zip(weights, grads, strict=True)}
    return loss, updates, [rng.normal(size=x.shape).astype("f")]


def one_addition():
    import staticgraph as sg

    x, y = sg.input("x", (ELEMENTS,)), sg.input("y", (ELEMENTS,))
    return x + y, {}, [np.ones(ELEMENTS, "f")] * 2


MODELS = {
    "MLP 784-512-512-10, Adam step": mlp,
    "MLP of 32 units, SGD step": small,
    "3 convolutions, SGD step": convolutions,
    "x + y, 1M elements": one_addition,
}


def measured(build):
    """Median seconds of a plain and of a checked call."""
    import staticgraph as sg

    calls = []
    for checked in (False, True):
        outputs, updates, arrays = build()
        function = sg.compile(outputs, updates=updates, check_numerics=checked)
        function(*arrays)
        calls.append((function, arrays, []))
    for _ in range(ROUNDS):
        for function, arrays, seconds in calls:
            began = time.perf_counter()
            function(*arrays)
            seconds.append(time.perf_counter() - began)
    return [float(np.median(seconds)) for _, _, seconds in calls]


def report(options):
    """(the table as text, its numbers)."""
    import staticgraph as sg

    lines = [f"{'check_numerics=True':32} {'plain us':>10} {'checked us':>11} {'factor':>7}"]
    rows = {}
    for name, build in MODELS.items():
        with sg.threads(options.threads):
            plain, checked = measured(build)
        rows[name] = {"plain": plain, "checked": checked}
        lines.append(f"{name:32} {1e6 * plain:10.1f} {1e6 * checked:11.1f} {checked / plain:7.2f}")
    return "\n".join(lines), rows

"""One Adam step of an MLP 784-512-512-10 on a batch of 128; every framework keeps its own state.

What is compared is the loss of the fourth call, so that three updates are in it.
"""

from functools import partial
from itertools import pairwise

import numpy as np

from benchmarks import adapters
from benchmarks.harness import Call, Row

SIZES, BATCH = (784, 512, 512, 10), 128
RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8
# With this seed no activation lies within 4e-5 of relu's kink, where rounding alone would decide
# which of two derivatives a framework computes.
SEED = 35
WEIGHTS = ("w1", "b1", "w2", "b2", "w3", "b3")


def data(dtype):
    rng = np.random.default_rng(SEED)
    arrays = {
        "x": rng.normal(size=(BATCH, SIZES[0])).astype(dtype),
        "label": rng.integers(0, SIZES[-1], BATCH),
    }
    for layer, (rows, columns) in enumerate(pairwise(SIZES), 1):
        weight = rng.normal(0.0, np.sqrt(2.0 / rows), (rows, columns))
        arrays[f"w{layer}"] = weight.astype(dtype)
        arrays[f"b{layer}"] = np.zeros(columns, dtype)
    return arrays


def parted(arrays):
    """(inputs of a call, weights)."""
    weights = {name: arrays[name] for name in WEIGHTS}
    return {name: a for name, a in arrays.items() if name not in weights}, weights


def loss_staticgraph(x, label, w1, b1, w2, b2, w3, b3):
    import staticgraph as sg

    h = sg.ops.relu(x @ w1 + b1)
    h = sg.ops.relu(h @ w2 + b2)
    return sg.ops.mean(sg.ops.softmax_cross_entropy(h @ w3 + b3, label))


def staticgraph(arrays):
    import staticgraph as sg

    given, weights = parted(arrays)
    inputs = adapters.placeholders(given)
    params = [sg.variable(value, name=name) for name, value in weights.items()]
    loss = loss_staticgraph(*inputs, *params)
    updates = sg.optim.adam(loss, params, lr=RATE)
    return adapters.ours(loss, inputs, given, updates=updates)


def loss_jax(params, x, label):
    import jax
    import jax.numpy as jnp

    w1, b1, w2, b2, w3, b3 = params
    h = jax.nn.relu(x @ w1 + b1)
    h = jax.nn.relu(h @ w2 + b2)
    logits = h @ w3 + b3
    picked = jnp.take_along_axis(logits, label[:, None], -1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, -1) - picked)


def adam_jax(loss, params, state, *batch, rate=RATE):
    """(value, params, state) after one step; to be jitted with both donated."""
    import jax
    import jax.numpy as jnp

    count, first, second = state
    value, grads = jax.value_and_grad(loss)(params, *batch)
    count = count + 1
    first = [BETA1 * m + (1 - BETA1) * g for m, g in zip(first, grads, strict=True)]
    second = [BETA2 * v + (1 - BETA2) * g * g for v, g in zip(second, grads, strict=True)]
    rate, root = rate / (1 - BETA1**count), jnp.sqrt(1 - BETA2**count)
    params = [
        p - rate * m / (jnp.sqrt(v) / root + EPSILON)
        for p, m, v in zip(params, first, second, strict=True)
    ]
    return value, params, (count, first, second)


def start_jax(weights):
    import jax.numpy as jnp

    params = adapters.on_device(weights)
    moments = [[jnp.zeros_like(p) for p in params] for _ in range(2)]
    return params, (jnp.zeros((), params[0].dtype), *moments)


def jax(arrays):
    import jax

    given, weights = parted(arrays)
    batch = adapters.on_device(given)
    step = jax.jit(partial(adam_jax, loss_jax), donate_argnums=(0, 1))
    state = list(start_jax(weights))

    def run():
        value, *state[:] = jax.block_until_ready(step(*state, *batch))
        return value

    return Call(run, adapters.flat_jax)


def torch(arrays, compiled=False):
    """Fused Adam; compiled: forward and backward through Inductor, the optimizer fused as it is."""
    import torch
    import torch.nn.functional as F

    given, weights = parted(arrays)
    x, label = adapters.tensors(given)
    params = [torch.from_numpy(w.copy()).requires_grad_() for w in weights.values()]
    optimizer = torch.optim.Adam(params, lr=RATE, betas=(BETA1, BETA2), eps=EPSILON, fused=True)

    def loss(w1, b1, w2, b2, w3, b3):
        h = torch.relu(torch.addmm(b1, x, w1))
        h = torch.relu(torch.addmm(b2, h, w2))
        return F.cross_entropy(torch.addmm(b3, h, w3), label)

    forward = torch.compile(loss, fullgraph=True) if compiled else loss

    def run():
        optimizer.zero_grad()
        value = forward(*params)
        value.backward()
        optimizer.step()
        return value

    return Call(run, adapters.flat_torch)


def loss_pytensor(x, label, w1, b1, w2, b2, w3, b3):
    import pytensor.tensor as pt

    h = pt.maximum(x @ w1 + b1, 0)
    h = pt.maximum(h @ w2 + b2, 0)
    log_p = pt.special.log_softmax(h @ w3 + b3, axis=-1)
    return -pt.mean(log_p[pt.arange(BATCH), label])


def pytensor(arrays):
    import pytensor
    import pytensor.tensor as pt

    given, weights = parted(arrays)
    inputs = adapters.symbols(given)
    params = [pytensor.shared(value, name=name) for name, value in weights.items()]
    dtype = params[0].dtype
    loss = loss_pytensor(*inputs, *params)
    count = pytensor.shared(np.zeros((), dtype))
    now = count + np.ones((), dtype)
    number = partial(np.array, dtype=dtype)
    rate = number(RATE) / (1 - number(BETA1) ** now)
    root = pt.sqrt(1 - number(BETA2) ** now)
    updates = [(count, now)]
    for p, g in zip(params, pytensor.grad(loss, params), strict=True):
        m, v = (pytensor.shared(np.zeros_like(p.get_value())) for _ in range(2))
        first = number(BETA1) * m + number(1 - BETA1) * g
        second = number(BETA2) * v + number(1 - BETA2) * g * g
        updates += [(m, first), (v, second)]
        updates += [(p, p - rate * first / (pt.sqrt(second) / root + number(EPSILON)))]
    return adapters.pytensor_call(inputs, [loss], given, updates)


ROWS = [
    Row(
        name=f"mlp-step-{dtype.replace('float', 'f')}",
        title=f"MLP 784-512-512-10, batch 128, one Adam step, {dtype}",
        dtype=dtype,
        data=partial(data, dtype),
        contenders={
            "staticgraph": staticgraph,
            "jax": jax,
            "torch": torch,
            "torch.compile": partial(torch, compiled=True),
            "pytensor": pytensor,
        },
        reach={"best": 1.3},
        tolerance=tolerance,
        check_calls=4,
    )
    for dtype, tolerance in (("float32", 1e-4), ("float64", 1e-10))
]

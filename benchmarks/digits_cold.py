"""The whole training of `examples/digits.py` in a cold process with warm disk caches.

Both frameworks train both networks with the same epochs, batches and Adam, and must reach the
example's accuracy. The pixels are read from scikit-learn's file without importing scikit-learn,
which costs more than the training and would be the same for both.
"""

import gzip
import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import ProcessRow

BATCH, RATE = 64, 2e-3
EPOCHS = {"mlp": 40, "conv": 15}
NEEDED = {"mlp": 97.0, "conv": 98.0}


def data():
    """The split of the example."""
    package = Path(importlib.util.find_spec("sklearn").origin).parent
    with gzip.open(package / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    image = (table[:, :-1] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    label = table[:, -1].astype(np.int64)
    order = np.random.default_rng(0).permutation(len(label))
    train, test = np.split(order, [len(label) * 4 // 5])
    return (image[train], label[train]), (image[test], label[test])


def require(name, right):
    if right < NEEDED[name]:
        raise RuntimeError(f"{name}: {right:.2f} % of the test digits, {NEEDED[name]} % expected")


def staticgraph():
    from examples import digits

    training, test = data()
    for net in (digits.MLP, digits.CONV):
        net = replace(net, epochs=EPOCHS[net.name])
        params = digits.variables(net)
        digits.train(net, digits.step(net, params), *training)
        require(net.name, digits.accuracy(net, params, *test))
    return {}


def shuffled(count, epochs):
    rng = np.random.default_rng(0)
    batches = count // BATCH
    for _ in range(epochs):
        yield rng.permutation(count)[: batches * BATCH].reshape(batches, BATCH)


def jax(scan):
    """A jitted step with donated state; with `scan`, one call runs an epoch of the MLP.

    The convolutional network is never scanned: inside XLA's CPU loop its epochs take 12 times as
    long.
    """
    import jax
    import jax.numpy as jnp

    from benchmarks import digits_jax, mlp_step

    (images, labels), test = data()
    device = jax.device_put((images, labels))
    for name in EPOCHS:
        whole_epoch = scan and name == "mlp"
        init, logits = digits_jax.NETS[name]
        params = [jnp.asarray(w) for w in init(np.random.default_rng(0))]
        moments = [[jnp.zeros_like(p) for p in params] for _ in range(2)]
        state = (params, (jnp.zeros((), jnp.float32), *moments))
        step = partial(mlp_step.adam_jax, partial(digits_jax.loss, logits), rate=RATE)

        def body(state, chosen, x=device[0], label=device[1], step=step):
            value, *state = step(*state, x[chosen], label[chosen])
            return tuple(state), value

        epoch = jax.jit(lambda s, order, body=body: jax.lax.scan(body, s, order), donate_argnums=0)
        single = jax.jit(step, donate_argnums=(0, 1))
        for order in shuffled(len(labels), EPOCHS[name]):
            if whole_epoch:
                state, value = epoch(state, order)
            else:
                for chosen in order:
                    value, *state = single(*state, images[chosen], labels[chosen])
            float(jnp.ravel(value)[-1])
        guess = jax.jit(lambda p, x, logits=logits: logits(p, x).argmax(1))(state[0], test[0])
        require(name, 100.0 * np.mean(np.asarray(guess) == test[1]))
    return {}


ROWS = [
    ProcessRow(
        name="digits-cold",
        title="digits: both networks trained, cold process, warm disk caches",
        contenders={
            "staticgraph": staticgraph,
            "jax": partial(jax, scan=False),
            "jax scan": partial(jax, scan=True),
        },
        clock="process",
        warm=True,
        reach={"jax": 1.5},
    )
]

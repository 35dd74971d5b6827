"""Train an MLP and a small convolutional network on 1,797 real handwritten digits.

    python examples/digits.py

The digits are the ones scikit-learn carries (8x8 pixels, no download). Every fifth image is kept
for the test. Prints the test accuracy of both networks, then what the compiler made of each
training step. `step` and `predict` build what is compiled; `mlp` and `conv` are the two training
steps ready to run, for `examples/digits.py:mlp` on a profiler's command line.
"""

import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

import staticgraph as sg

BATCH = 64
SPLIT_SEED = 0


@dataclass(frozen=True)
class Net:
    """A network: its first weights, and its logits for images of shape (n, 1, 8, 8)."""

    name: str
    init: Callable[[np.random.Generator], dict[str, np.ndarray]]
    logits: Callable[[sg.Tensor, dict[str, sg.Tensor]], sg.Tensor]
    epochs: int
    needed: float


def he(rng, *shape, fan_in):
    return rng.normal(0.0, np.sqrt(2.0 / fan_in), shape).astype(np.float32)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def mlp_init(rng):
    return {
        "w1": he(rng, 64, 256, fan_in=64),
        "b1": zeros(256),
        "w2": he(rng, 256, 128, fan_in=256),
        "b2": zeros(128),
        "w3": he(rng, 128, 10, fan_in=128),
        "b3": zeros(10),
    }


def mlp_logits(x, p):
    x = x.reshape((x.shape[0], 64))
    x = sg.ops.relu(x @ p["w1"] + p["b1"])
    x = sg.ops.relu(x @ p["w2"] + p["b2"])
    return x @ p["w3"] + p["b3"]


def conv_init(rng):
    return {
        "k1": he(rng, 32, 1, 3, 3, fan_in=9),
        "c1": zeros(32, 1, 1),
        "k2": he(rng, 32, 32, 3, 3, fan_in=288),
        "c2": zeros(32, 1, 1),
        "w1": he(rng, 512, 64, fan_in=512),
        "b1": zeros(64),
        "w2": he(rng, 64, 10, fan_in=64),
        "b2": zeros(10),
    }


def conv_logits(x, p):
    x = sg.ops.relu(sg.ops.conv2d(x, p["k1"], padding=1) + p["c1"])
    x = sg.ops.relu(sg.ops.conv2d(x, p["k2"], padding=1) + p["c2"])
    x = sg.ops.max_pool(x, 2)
    x = sg.ops.relu(x.reshape((x.shape[0], 512)) @ p["w1"] + p["b1"])
    return x @ p["w2"] + p["b2"]


MLP = Net("mlp", mlp_init, mlp_logits, epochs=40, needed=97.0)
CONV = Net("conv", conv_init, conv_logits, epochs=15, needed=98.0)


def variables(net, seed=0):
    """The network's state: one variable per weight."""
    weights = net.init(np.random.default_rng(seed))
    return {name: sg.variable(value, name=name) for name, value in weights.items()}


def loss(net, params, x, label):
    return sg.ops.mean(sg.ops.softmax_cross_entropy(net.logits(x, params), label))


def step(net, params, batch=BATCH):
    """One Adam step over a batch; returns the loss."""
    x = sg.input("x", (batch, 1, 8, 8))
    label = sg.input("label", (batch,), "int64")
    value = loss(net, params, x, label)
    return sg.compile(value, updates=sg.optim.adam(value, list(params.values()), lr=2e-3))


def predict(net, params, count):
    """The most likely digit of each image."""
    x = sg.input("x", (count, 1, 8, 8))
    return sg.compile(sg.ops.argmax(net.logits(x, params), axis=1))


def mlp():
    return step(MLP, variables(MLP))


def conv():
    return step(CONV, variables(CONV))


def digits():
    """(train images, train labels), (test images, test labels)."""
    from sklearn.datasets import load_digits

    pixels, label = load_digits(return_X_y=True)
    image = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(label))
    train, test = np.split(order, [len(label) * 4 // 5])
    return (image[train], label[train]), (image[test], label[test])


def train(net, fn, images, labels, advance=lambda epoch, value: None, seed=0):
    """Run the step over shuffled batches; returns the seconds of one step."""
    rng = np.random.default_rng(seed)
    batches = len(labels) // BATCH
    began = time.perf_counter()
    for epoch in range(net.epochs):
        order = rng.permutation(len(labels))[: batches * BATCH].reshape(batches, BATCH)
        for chosen in order:
            value = fn(x=images[chosen], label=labels[chosen])
        advance(epoch, float(value))
    return (time.perf_counter() - began) / (net.epochs * batches)


def accuracy(net, params, images, labels):
    return 100.0 * float(np.mean(predict(net, params, len(labels))(x=images) == labels))


@contextmanager
def progress(net):
    """Yields what to call after each epoch: a bar on a terminal, a few lines elsewhere."""
    if sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        columns = (
            "{task.description:5}",
            BarColumn(),
            MofNCompleteColumn(),
            "epochs, loss {task.fields[loss]:.4f}",
            TimeElapsedColumn(),
        )
        with Progress(*columns) as bar:
            task = bar.add_task(net.name, total=net.epochs, loss=float("nan"))
            yield lambda epoch, value: bar.update(task, advance=1, loss=value)
    else:

        def line(epoch, value):
            if (epoch + 1) % 5 == 0:
                print(f"{net.name:5} epoch {epoch + 1:2}/{net.epochs}  loss {value:.4f}")

        yield line


def plan(fn, seconds):
    """What the compiler made of a training step, in four lines."""
    memory = fn.memory
    surplus = 100.0 * (memory.peak_bytes / max(memory.lower_bound_bytes, 1) - 1.0)
    return (
        f"  ops      {len(fn.graph.nodes)} as built, {len(fn.optimized.nodes)} optimised\n"
        f"  kernels  {len(fn.kernels)}\n"
        f"  arena    {memory.peak_bytes:,} bytes;"
        f" lower bound {memory.lower_bound_bytes:,} ({surplus:+.1f} %)\n"
        f"  step     {1e6 * seconds:.0f} us for {BATCH} images"
    )


def main():
    began = time.perf_counter()
    (images, labels), test = digits()
    print(f"{len(labels)} digits to learn from, {len(test[1])} to test on")
    reports = []
    failed = False
    for net in (MLP, CONV):
        params = variables(net)
        compiling = time.perf_counter()
        fn = step(net, params)
        compiling = time.perf_counter() - compiling
        with progress(net) as advance:
            seconds = train(net, fn, images, labels, advance)
        right = accuracy(net, params, *test)
        failed |= right < net.needed
        print(f"{net.name:5} test accuracy {right:.2f} % (at least {net.needed:.0f} % expected)")
        reports.append(f"{net.name}: one Adam step, compiled in {compiling:.1f} s\n")
        reports[-1] += plan(fn, seconds)
    print(f"{time.perf_counter() - began:.1f} s in all, compilation included\n")
    print("\n".join(reports))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

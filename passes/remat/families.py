"""Graphs of the families that the literature plans memory for, with shapes of our own.

Training graphs are built as Checkmate builds them, one backward node for each forward node. A
backward node reads the gradients of its node's readers and, depending on the kind of node, its
node's inputs or output. It costs twice as much as the forward node where that has weights.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from staticgraph.passes.remat.dag import Dag

# Which forward values the backward of each kind reads: its inputs, its own output.
_READS = {
    "conv": (True, False),
    "norm": (True, False),
    "relu": (False, True),
    "pool": (True, True),
    "add": (False, False),
    "cat": (False, False),
    "resize": (False, False),
    "matmul": (True, False),
    "softmax": (False, True),
    "gelu": (True, False),
    "loss": (True, False),
}
_WEIGHTED = ("conv", "matmul")


@dataclass
class Training:
    """A forward graph written node by node; `dag` adds the backward half."""

    name: str
    kinds: list[str] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    inputs: list[tuple[int, ...]] = field(default_factory=list)

    def add(self, kind: str, size: float, cost: float, *inputs: int) -> int:
        self.kinds.append(kind)
        self.size.append(int(size))
        self.cost.append(float(cost))
        self.inputs.append(inputs)
        return len(self.kinds) - 1

    def dag(self) -> Dag:
        n = len(self.kinds)
        readers: list[list[int]] = [[] for _ in range(n)]
        for v, operands in enumerate(self.inputs):
            for u in operands:
                readers[u].append(v)
        inputs, cost = list(self.inputs), list(self.cost)
        for v in reversed(range(n)):
            reads_inputs, reads_output = _READS[self.kinds[v]]
            needed = {2 * n - 1 - w for w in readers[v]}
            needed |= set(self.inputs[v]) if reads_inputs else set()
            needed |= {v} if reads_output else set()
            inputs.append(tuple(sorted(needed)))
            cost.append(self.cost[v] * (2 if self.kinds[v] in _WEIGHTED else 1))
        names = [f"{kind}{v}" for v, kind in enumerate(self.kinds)]
        return Dag(
            cost=tuple(cost),
            size=tuple(self.size + self.size[::-1]),
            inputs=tuple(inputs),
            names=tuple(names + [f"d_{name}" for name in reversed(names)]),
            name=self.name,
        )


def chain(n: int) -> Dag:
    """n unit nodes and their n backward nodes: backward i reads forward i and backward i + 1."""
    forward = [(v - 1,) if v else () for v in range(n)]
    backward = [(n - 1,)] + [(n - 1 - i, n + i - 1) for i in range(1, n)]
    return Dag((1.0,) * (2 * n), (1,) * (2 * n), tuple(forward + backward), name=f"chain{n}")


def vgg(blocks: Sequence[tuple[int, int]], image: int = 224, batch: int = 1) -> Dag:
    """Plain convolutional net: (convolutions, channels) of each block, each halving the image."""
    net = Training(f"vgg{sum(count for count, _ in blocks)}")
    side, before, x = image, 3, net.add("norm", batch * 12 * image**2, 3 * image**2)
    for count, channels in blocks:
        area = side * side
        for _ in range(count):
            x = net.add("conv", 4 * batch * channels * area, 18 * before * channels * area, x)
            x = net.add("relu", 4 * batch * channels * area, channels * area, x)
            before = channels
        side //= 2
        x = net.add("pool", 4 * batch * channels * side * side, channels * area, x)
    net.add("loss", 4 * batch, before, net.add("matmul", 4000 * batch, 2e3 * before * side**2, x))
    return net.dag()


def resnet(blocks: Sequence[int], image: int = 224, batch: int = 1) -> Dag:
    """Bottleneck residual net with `blocks` per stage (50 layers: 3, 4, 6, 3)."""
    net = Training(f"resnet{3 * sum(blocks) + 2}")

    def conv(x: int, kernel: int, c_in: int, c_out: int, side: int, relu: bool = True) -> int:
        size, area = 4 * batch * c_out * side * side, side * side
        x = net.add("conv", size, 2 * kernel**2 * c_in * c_out * area, x)
        x = net.add("norm", size, 4 * c_out * area, x)
        return net.add("relu", size, c_out * area, x) if relu else x

    x = net.add("norm", batch * 12 * image**2, 3 * image**2)
    side = image // 4
    x = conv(x, 7, 3, 64, image // 2)
    x = net.add("pool", 4 * batch * 64 * side**2, 64 * side**2 * 9, x)
    before = 64
    for stage, count in enumerate(blocks):
        wide = 64 << stage
        for i in range(count):
            side = side // 2 if stage and not i else side
            y = conv(x, 1, before, wide, side)
            y = conv(y, 3, wide, wide, side)
            y = conv(y, 1, wide, 4 * wide, side, relu=False)
            if not i:
                x = conv(x, 1, before, 4 * wide, side, relu=False)
            before = 4 * wide
            size, flops = 4 * batch * before * side * side, before * side * side
            x = net.add("relu", size, flops, net.add("add", size, flops, x, y))
    x = net.add("pool", 4 * batch * before, before * side * side, x)
    net.add("loss", 4 * batch, before, net.add("matmul", 4000 * batch, 2e3 * before, x))
    return net.dag()


def unet(depth: int = 4, channels: int = 64, image: int = 256, batch: int = 1) -> Dag:
    """Encoder, decoder and the long skips between them."""
    net = Training(f"unet{depth}")

    def pair(x: int, c_in: int, c_out: int, side: int) -> int:
        for c in (c_in, c_out):
            area = side * side
            x = net.add("conv", 4 * batch * c_out * area, 18 * c * c_out * area, x)
            x = net.add("relu", 4 * batch * c_out * area, c_out * area, x)
        return x

    x, c_in, skips = net.add("norm", batch * 12 * image**2, 3 * image**2), 3, []
    for level in range(depth):
        c, side = channels << level, image >> level
        skips.append(pair(x, c_in, c, side))
        x, c_in = net.add("pool", batch * c * side * side, c * side * side, skips[-1]), c
    x = pair(x, c_in, channels << depth, image >> depth)
    for level in reversed(range(depth)):
        c, side = channels << level, image >> level
        size = 4 * batch * c * side * side
        x = net.add("conv", size, 16 * c * c * side * side, net.add("resize", 2 * size, c, x))
        x = pair(net.add("cat", 2 * size, c * side * side, x, skips[level]), 2 * c, c, side)
    net.add("loss", 4 * batch, image**2, x)
    return net.dag()


def transformer(layers: int, width: int = 512, length: int = 512, heads: int = 8) -> Dag:
    """Pre-norm blocks: attention that stores its probabilities, and a wide middle layer."""
    net = Training(f"transformer{layers}")
    row, square = 4 * length * width, 4 * heads * length * length
    project, attend = 2.0 * length * width**2, 2.0 * length**2 * width
    x = net.add("norm", row, length * width)
    for _ in range(layers):
        y = net.add("norm", row, 4 * length * width, x)
        q, k, v = (net.add("matmul", row, project, y) for _ in range(3))
        p = net.add("softmax", square, 5 * square / 4, net.add("matmul", square, attend, q, k))
        y = net.add("matmul", row, project, net.add("matmul", row, attend, p, v))
        x = net.add("add", row, length * width, x, y)
        y = net.add("norm", row, 4 * length * width, x)
        y = net.add("matmul", 4 * row, 4 * project, y)
        y = net.add("gelu", 4 * row, 32 * length * width, y)
        x = net.add("add", row, length * width, x, net.add("matmul", row, 4 * project, y))
    net.add("loss", 4, length * width, x)
    return net.dag()


def layered(n: int, seed: int = 0, width: float = 0.3, density: float = 0.2) -> Dag:
    """A random layered graph: uneven bytes and costs, a few edges that skip layers, one sink."""
    rng = random.Random(seed)
    layers: list[list[int]] = [[0]]
    inputs: list[set[int]] = [set()]
    while len(inputs) < n - 1:
        breadth = max(1, min(n - 1 - len(inputs), round(rng.gauss(1, 0.3) * width * n**0.65)))
        layer = list(range(len(inputs), len(inputs) + breadth))
        for _ in layer:
            near = {u for u in layers[-1] if rng.random() < density} or {rng.choice(layers[-1])}
            far = {u for u in range(layers[-1][0]) if rng.random() < 0.2 / len(inputs)}
            inputs.append(near | far)
        for u in layers[-1]:
            if all(u not in inputs[v] for v in layer):
                inputs[rng.choice(layer)].add(u)
        layers.append(layer)
    inputs.append(set(layers[-1]))
    sizes = tuple(10 * rng.randint(1, 500) for _ in range(n))
    costs = tuple(float(rng.randint(0, 1000)) for _ in range(n))
    return Dag(costs, sizes, tuple(tuple(sorted(i)) for i in inputs), name=f"layered{n}")

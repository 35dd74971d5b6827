"""Models whose memory is worth a study: training steps as gradients of a loss.

    staticgraph pareto examples/study_models.py:unet --budgets 100%..40%
    staticgraph pareto examples/study_models.py:unet -D size=full --svg unet.svg

Each function makes (a function of arrays, example inputs); `size` is "small" for a look within
seconds, or "full" for hundreds of megabytes.
"""

import numpy as np

import staticgraph as sg

ops = sg.ops


class Weights:
    """Inputs with example values, in the order in which the model asks for them."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.inputs = []
        self.arrays = {}

    def __call__(self, name, *shape, fan_in=None):
        """A weight with values that keep the variance."""
        scale = 1.0 / np.sqrt(fan_in or shape[0])
        return self.given(name, scale * self.rng.standard_normal(shape))

    def given(self, name, value):
        """An input with this value, as float32."""
        array = np.asarray(value, np.float32)
        self.inputs.append(sg.input(name, array.shape))
        self.arrays[name] = array
        return self.inputs[-1]

    def data(self, name, *shape):
        return self.given(name, self.rng.standard_normal(shape))

    def step(self, loss, weights=None):
        """The function (loss, gradients) of all inputs, and their example values."""
        wanted = weights or self.inputs
        return sg.compile([loss, *sg.grad(loss, wanted)], self.inputs), self.arrays


def _sized(size, small, full):
    """The numbers of a size."""
    if size not in ("small", "full"):
        raise ValueError(f'size is "small" or "full", not {size!r}')
    return small if size == "small" else full


def mlp(size="small"):
    """A deep network of gated layers, h = tanh(h W) sigmoid(h): value and gradient of the sum."""
    layers, batch, width = _sized(size, (6, 64, 32), (16, 8192, 256))
    w = Weights()
    h = w.data("x", batch, width)
    for k in range(layers):
        h = ops.tanh(h @ w(f"w{k}", width, width)) * ops.sigmoid(h)
    return w.step(h.sum())


def _conv(w, h, name, channels, kernel=3, stride=1):
    weight = w(name, channels, h.shape[1], kernel, kernel, fan_in=h.shape[1] * kernel**2)
    return ops.conv2d(h, weight, padding=kernel // 2, stride=stride)


def resnet(size="small"):
    """Residual blocks of two convolutions, three widths, as ResNets for small images have them."""
    blocks, batch, side, width = _sized(size, (1, 2, 8, 4), (3, 64, 32, 16))
    w = Weights()
    h = ops.relu(_conv(w, w.data("x", batch, 3, side, side), "first", width))
    for stage in range(3):
        channels = width << stage
        for block in range(blocks):
            name, stride = f"s{stage}b{block}", 1 + (stage > 0 and block == 0)
            inner = ops.relu(_conv(w, h, f"{name}a", channels, stride=stride))
            inner = _conv(w, inner, f"{name}b", channels)
            if stride == 2:
                h = _conv(w, h, f"{name}skip", channels, kernel=1, stride=2)
            h = ops.relu(h + inner)
    score = h.mean(axis=(2, 3)) @ w("last", h.shape[1], 10)
    return w.step((score * score).mean())


def unet(size="small"):
    """An encoder and a decoder joined by long skips: early values are needed late."""
    depth, batch, side, width = _sized(size, (2, 1, 8, 4), (4, 8, 128, 16))
    w = Weights()
    h = w.data("x", batch, 3, side, side)
    target = w.data("target", batch, 1, side, side)
    skips = []
    for level in range(depth):
        for part in "ab":
            h = ops.relu(_conv(w, h, f"down{level}{part}", width << level))
        skips.append(h)
        h = ops.max_pool2d(h, 2)
    h = ops.relu(_conv(w, h, "bottom", width << depth))
    for level in reversed(range(depth)):
        h = ops.interpolate(h, scale_factor=2)
        h = ops.concat([h, skips[level]], axis=1)
        for part in "ab":
            h = ops.relu(_conv(w, h, f"up{level}{part}", width << level))
    error = _conv(w, h, "last", 1, kernel=1) - target
    return w.step((error * error).mean())


def transformer(size="small"):
    """Blocks of attention and a two-layer perceptron, each with layer norm and a residual."""
    blocks, batch, length, width, heads = _sized(size, (2, 1, 8, 16, 2), (6, 8, 128, 256, 4))
    w = Weights()
    h = w.data("x", batch, length, width)

    def heads_of(t):
        return t.reshape((batch, length, heads, width // heads)).transpose((0, 2, 1, 3))

    for k in range(blocks):
        normal = ops.layer_norm(h)
        q, key, v = (heads_of(normal @ w(f"{n}{k}", width, width)) for n in ("q", "k", "v"))
        mixed = ops.scaled_dot_product_attention(q, key, v)
        mixed = mixed.transpose((0, 2, 1, 3)).reshape((batch, length, width))
        h = h + mixed @ w(f"o{k}", width, width)
        inner = ops.gelu(ops.layer_norm(h) @ w(f"up{k}", width, 4 * width))
        h = h + inner @ w(f"down{k}", 4 * width, width)
    return w.step((h * h).mean())


def lstm(size="small"):
    """A recurrent cell unrolled over time: one long chain with the same weights."""
    steps, batch, width = _sized(size, (4, 4, 8), (32, 256, 128))
    w = Weights()
    x = w.data("x", steps, batch, width)
    into, back = w("into", width, 4 * width), w("back", width, 4 * width)
    h = c = sg.constant(np.zeros((batch, width), np.float32))
    for t in range(steps):
        gates = x[t] @ into + h @ back
        i, f, g, o = (gates[:, k * width : (k + 1) * width] for k in range(4))
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
    return w.step((h * h).mean())


def wgan_gp(size="small"):
    """A critic's step with gradient penalty: the gradient of a function of a gradient."""
    layers, batch, width = _sized(size, (2, 16, 12), (6, 2048, 256))
    w = Weights()
    real, fake = w.data("real", batch, width), w.data("fake", batch, width)
    mix = w.given("mix", w.rng.random((batch, 1)))
    weights = [w(f"w{k}", width, width) for k in range(layers)]
    last = w("last", width, 1)

    def critic(h):
        for weight in weights:
            h = ops.softplus(h @ weight)
        return h @ last

    between = mix * real + (1.0 - mix) * fake
    slope = sg.grad(critic(between).sum(), between)
    penalty = ((ops.sqrt((slope * slope).sum(axis=1) + 1e-12) - 1.0) ** 2).mean()
    loss = critic(fake).mean() - critic(real).mean() + 10.0 * penalty
    return w.step(loss, [*weights, last])


MODELS = (mlp, resnet, unet, transformer, lstm, wgan_gp)

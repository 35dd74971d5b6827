"""The two networks of `examples/digits.py` in JAX."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np


def he(rng, *shape, fan_in):
    return rng.normal(0.0, np.sqrt(2.0 / fan_in), shape).astype(np.float32)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def mlp_init(rng):
    sizes = (64, 256, 128, 10)
    return [
        part
        for rows, columns in pairwise(sizes)
        for part in (he(rng, rows, columns, fan_in=rows), zeros(columns))
    ]


def mlp_logits(params, x):
    w1, b1, w2, b2, w3, b3 = params
    x = jax.nn.relu(x.reshape(len(x), 64) @ w1 + b1)
    return jax.nn.relu(x @ w2 + b2) @ w3 + b3


def conv_init(rng):
    return [
        *(he(rng, 32, 1, 3, 3, fan_in=9), zeros(32, 1, 1)),
        *(he(rng, 32, 32, 3, 3, fan_in=288), zeros(32, 1, 1)),
        *(he(rng, 512, 64, fan_in=512), zeros(64)),
        *(he(rng, 64, 10, fan_in=64), zeros(10)),
    ]


def conv_logits(params, x):
    k1, c1, k2, c2, w1, b1, w2, b2 = params
    x = jax.nn.relu(jax.lax.conv(x, k1, (1, 1), "SAME") + c1)
    x = jax.nn.relu(jax.lax.conv(x, k2, (1, 1), "SAME") + c2)
    window = (1, 1, 2, 2)
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
    x = jax.nn.relu(x.reshape(len(x), 512) @ w1 + b1)
    return x @ w2 + b2


def loss(logits, params, x, label):
    scores = logits(params, x)
    picked = jnp.take_along_axis(scores, label[:, None], -1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(scores, -1) - picked)


NETS = {"mlp": (mlp_init, mlp_logits), "conv": (conv_init, conv_logits)}

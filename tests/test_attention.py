"""Attention in linear memory: sizes beyond one block, masks, heads, threads."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

import staticgraph as sg

attention = sg.ops.scaled_dot_product_attention


def by_hand(q, k, v, g, mask=None, causal=False):
    """Value and cotangents of q, k and v in float64."""
    q, k, v, g = (a.astype("float64") for a in (q, k, v, g))
    scale = q.shape[-1] ** -0.5
    s = scale * q @ k.swapaxes(-1, -2)
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask
    if causal:
        s = np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)
    p = softmax(s, axis=-1)
    d = g @ v.swapaxes(-1, -2)
    d = scale * p * (d - (p * d).sum(axis=-1, keepdims=True))
    return p @ v, d @ k, d.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ g


# lead, rows, keys, depth, width, dtype, causal, shape of the mask (its dtype)
CASES = [
    ((3,), 5, 5, 4, 4, "float32", False, None),
    ((2, 3), 17, 33, 8, 20, "float32", False, None),
    ((), 100, 100, 64, 64, "float32", False, None),
    ((8,), 200, 200, 64, 64, "float32", True, None),
    ((1,), 200, 150, 64, 33, "float32", True, None),
    ((1,), 150, 200, 64, 33, "float64", True, None),
    ((2, 2), 37, 70, 24, 8, "float64", False, ((2, 1, 1, 70), "bool")),
    ((2, 2), 37, 70, 24, 8, "float32", False, ((2, 37, 70), "float32")),
    ((2, 2), 37, 70, 24, 8, "float32", True, ((37, 1), "float32")),
    ((4,), 300, 1000, 64, 64, "float32", False, None),
    ((1,), 50, 3000, 16, 16, "float32", False, None),
    ((5,), 1, 90, 32, 32, "float32", False, None),
    ((2,), 90, 1, 3, 1, "float64", False, None),
]


def drawn(lead, rows, keys, depth, width, dtype, shape):
    rng = np.random.default_rng(0)
    shapes = ((rows, depth), (keys, depth), (keys, width), (rows, width))
    arrays = [rng.standard_normal((*lead, *s)).astype(dtype) for s in shapes]
    mask = None
    if shape is not None:
        mask = rng.standard_normal(shape[0])
        mask = (mask > -0.5) | (np.arange(shape[0][-1]) == 0) if shape[1] == "bool" else mask
        mask = mask.astype(shape[1])
    return arrays, mask


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_gradient(case):
    lead, rows, keys, depth, width, dtype, causal, shape = case
    arrays, mask = drawn(lead, rows, keys, depth, width, dtype, shape)
    q, k, v, g = (sg.input(n, a.shape, dtype) for n, a in zip("qkvg", arrays, strict=True))
    y = attention(q, k, v, mask, is_causal=causal)
    fn = sg.compile([y, *sg.grad(y, [q, k, v], cotangent=g)], [q, k, v, g])
    with sg.threads(1):
        alone = fn(*arrays)
    with sg.threads(2):
        got = fn(*arrays)
    tolerance = 2e-5 if dtype == "float32" else 1e-12
    for a, b, want in zip(got, alone, by_hand(*arrays, mask, causal), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


def test_the_scores_are_never_in_memory():
    n = 2048
    q, k, v = (sg.input(name, (2, n, 32)) for name in "qkv")
    y = attention(q, k, v, is_causal=True)
    fn = sg.compile([y, *sg.grad((y * y).sum(), [q, k, v])], [q, k, v])
    # One head's scores would be 16 MB. What is left: a few tensors like q, and their partial sums.
    assert fn.memory.peak_bytes + 2 * fn.memory.scratch_bytes < 12_000_000


@pytest.mark.parametrize("kind", ["bool", "float64"])
def test_a_row_that_sees_nothing_is_zero_and_moves_nothing(kind):
    """As PyTorch; to the other rows, and to every derivative, it is as if it were not there."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3, 4)) for _ in range(3)]
    mask = np.array([[True, True, False], [False] * 3, [True] * 3])
    others = np.array([0, 2])

    def derivatives(rows):
        q, k, v = (sg.input(name, (3, 4), "float64") for name in "qkv")
        seen = mask if kind == "bool" else np.where(mask, 0, -np.inf)
        y = attention(q[rows], k, v, seen[rows])
        first = sg.grad((y * y * y).sum(), [q, k, v])
        second = sg.grad(sg.ops.add_n([(g * g).sum() for g in first]), [q, k, v])
        return sg.compile([y, *first, *second], [q, k, v])(*arrays)

    y, *rest = derivatives(np.arange(3))
    want, *wanted = derivatives(others)
    assert not y[1].any()
    np.testing.assert_allclose(y[others], want, rtol=1e-12)
    for a, b in zip(rest, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_no_keys():
    q, k, v = (sg.input(n, (2, m, 3)) for n, m in (("q", 4), ("k", 0), ("v", 0)))
    y = attention(q, k, v)
    got = sg.compile([y, *sg.grad(y.sum(), [q, k])], [q, k, v])
    y, dq, dk = got(*(np.ones(t.shape, "f") for t in (q, k, v)))
    assert (y.shape, dk.shape) == ((2, 4, 3), (2, 0, 3))
    assert not y.any()
    assert not dq.any()


def test_dropout_and_scale():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 6, 4)).astype("f") for _ in range(3)]
    q, k, v = (sg.input(name, (2, 6, 4)) for name in "qkv")
    plain, scaled, dropped = sg.compile(
        [
            attention(q, k, v),
            attention(2.0 * q, k, v, scale=0.25),
            attention(q, k, v, dropout_p=0.5, dropout_key=sg.random.key(1)),
        ],
        [q, k, v],
    )(*arrays)
    np.testing.assert_allclose(scaled, plain, rtol=1e-5, atol=1e-6)
    assert not np.allclose(dropped, plain)


ERRORS = [
    (((3, 4), (5, 3), (5, 2)), {}, sg.ShapeError, "needs query (..., n, d), key (..., m, d)"),
    (((3, 4), (5, 4), (4, 2)), {}, sg.ShapeError, "got f32[3, 4], f32[5, 4], f32[4, 2]"),
    (((2, 3, 4), (3, 5, 4), (5, 2)), {}, sg.ShapeError, "needs query"),
    (((4,), (5, 4), (5, 2)), {}, sg.GraphTypeError, "needs real tensors of 2 axes and more"),
    (((3, 4), (5, 4), (5, 2)), {"attn_mask": np.ones((2, 5), bool)}, sg.ShapeError,
     "attn_mask must broadcast to [3, 5], got b1[2, 5]"),
    (((3, 4), (5, 4), (5, 2)), {"dropout_p": 0.5}, sg.GraphTypeError, "training needs key="),
]  # fmt: skip


@pytest.mark.parametrize(("shapes", "options", "kind", "message"), ERRORS)
def test_errors(shapes, options, kind, message):
    with pytest.raises(kind) as caught:
        attention(*(sg.input(n, s) for n, s in zip("qkv", shapes, strict=True)), **options)
    assert message in str(caught.value)


@pytest.mark.peers
@pytest.mark.parametrize("causal", [False, True])
def test_second_derivative_against_pytorch(causal):
    torch = pytest.importorskip("torch")
    arrays, _ = drawn((2,), 7, 9, 5, 4, "float64", None)
    q, k, v, g = (sg.input(n, a.shape, "float64") for n, a in zip("qkvg", arrays, strict=True))
    y = attention(q, k, v, is_causal=causal)
    first = sg.grad(y, [q, k, v], cotangent=g)
    total = sg.ops.add_n([(t * t).sum() for t in first])
    got = sg.compile(sg.grad(total, [q, k, v, g]), [q, k, v, g])(*arrays)
    a, b, c, d = (torch.tensor(x, requires_grad=True) for x in arrays)
    s = a @ b.transpose(-1, -2) / 5**0.5
    if causal:
        s = s.masked_fill(~torch.ones(7, 9, dtype=torch.bool).tril(), -torch.inf)
    z = torch.softmax(s, dim=-1) @ c
    slopes = torch.autograd.grad(z, [a, b, c], d, create_graph=True)
    want = torch.autograd.grad(sum((t * t).sum() for t in slopes), [a, b, c, d])
    for x, w in zip(got, want, strict=True):
        np.testing.assert_allclose(x, w.numpy(), rtol=1e-9, atol=1e-10)

"""PyTorch says the same: values and gradients of the op tables, and of compositions of them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from samples import SAMPLES
from test_ops_reference import inputs_for, results

import staticgraph as sg

torch = pytest.importorskip("torch")
F = torch.nn.functional
ops = sg.ops

pytestmark = pytest.mark.peers

#: rows whose function is torch.NAME with the same operands
SAME_NAME = [
    *("negative", "square", "reciprocal", "sqrt", "rsqrt", "exp", "exp2", "expm1", "abs", "sign"),
    *("log", "log1p", "log2", "log10", "sin", "cos", "tan", "asin", "acos", "atan", "sinh"),
    *("cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "erfinv", "sigmoid", "relu"),
    *("floor", "ceil", "trunc", "round", "add", "subtract", "multiply", "divide", "maximum"),
    *("minimum", "atan2", "hypot", "logaddexp", "copysign", "remainder", "signbit"),
    *("logical_and", "logical_or", "logical_xor", "logical_not", "isnan", "isinf", "isfinite"),
]
COMPARISONS = {"equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le",
               "greater": "gt", "greater_equal": "ge"}  # fmt: skip
POOL = dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0))


def gathered(x, i, axis):
    """torch.gather with negative indices and broadcasting, which it lacks."""
    i = torch.where(i < 0, i + x.shape[axis], i)
    shape = list(x.shape)
    shape[axis] = i.shape[axis]
    return torch.gather(x, axis, i.expand(shape))


def places(i, n):
    return torch.where(i < 0, i + n, i).long()


def called(name, x, **options):
    """A reduction by its name here."""
    return getattr(torch, {"max": "amax", "min": "amin"}.get(name, name))(x, **options)


def standardised(x, w, b, m, v):
    y = (x - m[:, None]) / (v[:, None] + 1e-5).sqrt()
    return y * w[:, None] + b[:, None]


def of_complex(function, x, y):
    return (function(torch.complex(x, y)) + (0.5 - 1j)).abs()


#: each row of the tables with what PyTorch calls it
TORCH = {
    **{name: getattr(torch, name) for name in SAME_NAME},
    **{name: getattr(torch, other) for name, other in COMPARISONS.items()},
    **{f"{name}-special": getattr(torch, other) for name, other in COMPARISONS.items()},
    "ndtr": torch.special.ndtr,
    "cbrt": lambda x: x.sign() * x.abs() ** (1 / 3),
    "softplus": F.softplus,
    "log_sigmoid": F.logsigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "leaky_relu-slope": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "elu-alpha": lambda x: F.elu(x, 0.7),
    "power": torch.pow,
    "power-square": lambda x: x**2,
    "power-cube": lambda x: x**3,
    "power-reciprocal": lambda x: x**-1,
    "power-root": lambda x: x**0.5,
    "power-rsqrt": lambda x: x**-0.5,
    "power-real": lambda x: x**1.7,
    "power-exponent": lambda x: 2.0**x,
    "power-integers": torch.pow,
    "clip": lambda x: x.clip(-0.31, 0.52),
    "clip-low": lambda x: x.clip(0.22),
    "clip-tensors": torch.clip,
    "where": torch.where,
    "where-broadcast": lambda c, x, y: torch.where(c != 0, x, y),
    "add_n": lambda *xs: torch.stack(xs).sum(0),
    "complex_": lambda x, y: torch.complex(x, y).abs(),
    "complex_-value": torch.complex,
    "conj": lambda x, y: torch.complex(x, y).conj().resolve_conj(),
    **{f"{name}-complex": partial(of_complex, getattr(torch, other))
       for name, other in (("exp2", "exp2"), ("expm1", "expm1"), ("log1p", "log1p"),
                           ("log2", "log2"), ("log10", "log10"), ("acosh", "acosh"),
                           ("sign", "sgn"))},
    "real": lambda x, y: (torch.exp(torch.complex(x, y)) * (2 - 1j)).real,
    "imag": lambda x, y: (torch.complex(x, -y) / torch.complex(y, 1 + x * x)).imag,
    "bitwise_and-int64": torch.bitwise_and,
    "bitwise_or-int8": torch.bitwise_or,
    "bitwise_xor-int64": torch.bitwise_xor,
    "left_shift": torch.bitwise_left_shift,
    "right_shift": torch.bitwise_right_shift,
    # moves
    "reshape": lambda x: x.reshape(2, -1),
    "transpose": lambda x: x.permute(2, 1, 0),
    "transpose-axes": lambda x: x.permute(1, 2, 0),
    "swapaxes": lambda x: x.swapaxes(0, -1),
    "moveaxis": lambda x: torch.moveaxis(x, 0, 2),
    "broadcast_to": lambda x: torch.broadcast_to(x, (2, 3, 4)),
    "flip": lambda x: x.flip(0, 1),
    "flip-axis": lambda x: x.flip(1),
    "concat": lambda *xs: torch.cat(xs, -1),
    "concat-twice": lambda x: torch.cat([x, x * 2.0]),
    "stack": lambda *xs: torch.stack(xs, 1),
    "unstack": lambda x: torch.unbind(x, 1),
    "split": lambda x: torch.tensor_split(x, 3, 1),
    "split-places": lambda x: torch.tensor_split(x, (1, 4), 1),
    "pad": lambda x: F.pad(x, (0, 3, 1, 2)),
    "pad-value": lambda x, c: F.pad(x - c, (1, 1, 1, 1)) + c,
    "pad-reflect": lambda x: F.pad(x[None], (2, 1, 2, 1), "reflect")[0],
    "pad-edge": lambda x: F.pad(x[None], (2, 1, 2, 1), "replicate")[0],
    "pad-wrap": lambda x: F.pad(x[None], (2, 1, 2, 1), "circular")[0],
    "tile": lambda x: torch.tile(x, (2, 1, 3)),
    # reductions
    **{f"{name}-NoneFalse": getattr(torch, name) for name in ("sum", "prod", "max", "min", "mean")},
    **{f"{name}-1True": partial(called, name, dim=1, keepdim=True)
       for name in ("sum", "prod", "max", "min", "mean", "logsumexp")},
    **{f"{name}--1False": partial(called, name, dim=-1)
       for name in ("sum", "prod", "max", "min", "mean", "logsumexp")},
    **{f"{name}-(0,2)False": partial(called, name, dim=(0, 2))
       for name in ("sum", "max", "min", "mean", "logsumexp")},
    **{f"{name}-(0,2)False": partial(called, name, dim=(0, 2), correction=0)
       for name in ("var", "std")},
    **{f"{name}-NoneFalse": partial(called, name, correction=0) for name in ("var", "std")},
    "var-ddof": lambda x: x.var(1, correction=1),
    "prod-zeros": lambda x: x.prod(1),
    "argmax-1": lambda x: x.argmax(1),
    "argmin-None": torch.argmin,
    "any-1": lambda x: x.any(1),
    "all-None": torch.all,
    "count_nonzero-1": lambda x: torch.count_nonzero(x, 1),
    # products
    **{s.id: torch.matmul for s in SAMPLES if s.id.startswith("matmul-") and "by" in s.id},
    "matmul-complex": lambda a, b, c: (torch.complex(a, b) @ torch.complex(b, c).mT).abs(),
    "linear": F.linear,
    # indices
    "index-int": lambda x: x[1],
    "index-list": lambda x: x[[2, 0, 2]],
    "index-array": lambda x: x[:, torch.tensor([[0, -1], [2, 2]])],
    "index-tensors": lambda x, i, j: x[:, i, j],
    "take": lambda x, i: torch.take(x, i),
    "gather": lambda x, i: gathered(x, i, 1),
    "gather-broadcast": lambda x, i: gathered(x, i, 0),
    "scatter_add": lambda x, i, u: x.index_add(0, places(i, 3), u),
    "scatter_add-along": lambda x, i, u: x.scatter_add(0, places(i, 4), u),
    "embedding": lambda w, i: F.embedding(i, w),
    "one_hot": lambda i: F.one_hot(i, 4).float(),
    # order and scans
    "sort": lambda x: torch.sort(x).values,
    "sort-axis": lambda x: torch.sort(x, 0, descending=True).values,
    "argsort": lambda x: torch.argsort(x, stable=True),
    "top_k": lambda x: torch.topk(x, 3),
    "top_k-smallest": lambda x: torch.topk(x, 100, largest=False),
    "searchsorted-right": lambda a, v: torch.searchsorted(a, v, right=True),
    "quantile": lambda x: torch.quantile(x, torch.tensor([0.0, 0.3, 1.0], dtype=x.dtype), 1),
    "cumsum": lambda x: x.flatten().cumsum(0),
    "cumsum-columns": lambda x: x.flip(0).cumsum(0).flip(0),
    "cumprod": lambda x: x.cumprod(1),
    "cumprod-zeros": lambda x: x.cumprod(1),
    "cumprod-complex": lambda x, y: torch.complex(x, y).cumprod(1).real,
    "cummax": lambda x: x.flatten().cummax(0).values,
    "cummin": lambda x: x.cummin(0).values,
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    # linear algebra
    "diag": torch.diag_embed,
    "diag-below": lambda x: torch.diag_embed(x, -2),
    "diagonal": lambda x: torch.diagonal(x, 0, -2, -1),
    "diagonal-axes": lambda x: torch.diagonal(x, 1, 0, 2),
    "tril": lambda x: torch.tril(x, 1),
    "triu": lambda x: torch.triu(x, -1),
    "outer": lambda x, y: torch.outer(x.flatten(), y.flatten()),
    "inner": torch.inner,
    "kron": torch.kron,
    "cross-axis": lambda x, y: torch.linalg.cross(x, y, dim=0),
    **{s: getattr(torch.linalg, s.partition("-")[0]) for s in (
        "inv", "inv-one", "inv-empty", "det", "det-one", "det-empty", "slogdet", "qr", "qr-wide",
        "svdvals", "pinv", "pinv-wide")},
    "logdet": lambda x: torch.linalg.slogdet(x)[1],
    "solve": torch.linalg.solve,
    "solve-vector": torch.linalg.solve,
    "solve-broadcast": torch.linalg.solve,
    "lu": torch.linalg.lu,
    "matrix_power": lambda x: torch.linalg.matrix_power(x, 5),
    "matrix_power-negative": lambda x: torch.linalg.matrix_power(x, -2),
    "triangular_solve": lambda a, b: torch.linalg.solve_triangular(a.triu(), b, upper=True),
    "triangular_solve-transpose": lambda a, b: torch.linalg.solve_triangular(
        a.triu().mT, b, upper=False),
    "triangular_solve-unit": lambda a, b: torch.linalg.solve_triangular(
        a.tril(), b, upper=False, unitriangular=True),
    "cholesky": lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(3)),
    "eigvalsh": lambda x: torch.linalg.eigvalsh(x + x.mT),
    "matrix_norm-nuc": lambda x: torch.linalg.matrix_norm(x, "nuc"),
    "matrix_norm-2": lambda x: torch.linalg.matrix_norm(x, 2),
    # windows
    "conv-bias": F.conv1d,
    "conv-all": lambda x, w, b: F.conv2d(
        F.pad(x, (0, 1, 1, 2)), w, b, stride=(2, 1), dilation=(1, 2), groups=2),
    "conv1d": lambda x, w: F.conv1d(x, w, stride=2, padding=1, dilation=2),
    "conv2d": lambda x, w: F.conv2d(x, w, padding=1),
    "conv2d-groups": lambda x, w: F.conv2d(x, w, groups=3, stride=2),
    "conv3d": lambda x, w: F.conv3d(x, w, padding=(0, 1, 0), stride=(1, 2, 1)),
    "depthwise_conv": lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=2),
    "conv_transpose-extra": lambda x, w, b: F.conv_transpose1d(
        x, w, b, stride=2, padding=1, output_padding=1),
    "conv_transpose1d": F.conv_transpose1d,
    "conv_transpose2d": lambda x, w, b: F.conv_transpose2d(
        x, w, b, stride=2, padding=1, output_padding=1),
    "conv_transpose3d": lambda x, w: F.conv_transpose3d(x, w, stride=2),
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "max_pool-overlap": lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 0), (1, 2)),
    "max_pool-large": lambda x: F.max_pool2d(x, 9, 1, 4),
    "max_pool1d": lambda x: F.max_pool1d(x, 3, 1, 1),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2),
    "max_pool3d": lambda x: F.max_pool3d(x, 2),
    "sum_pool": lambda x: F.avg_pool2d(x, **POOL, divisor_override=1),
    "avg_pool": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool-real": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg_pool-ceil": lambda x: F.avg_pool1d(x, 3, 2, ceil_mode=True),
    "avg_pool-divisor": lambda x: F.avg_pool2d(x, 3, 2, divisor_override=9),
    "avg_pool1d": lambda x: F.avg_pool1d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, (1, 2)),
    "avg_pool3d": lambda x: F.avg_pool3d(x, 2, 1),
    "global_avg_pool": lambda x: F.adaptive_avg_pool2d(x, 1)[..., 0, 0],
    # norms
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, 0),
    "layer_norm": lambda x, w, b: F.layer_norm(x, (4,), w, b),
    "layer_norm-shape": lambda x, w: F.layer_norm(x, (3, 4), w, eps=0.1),
    "rms_norm": lambda x, w: F.rms_norm(x, (4,), w, 1e-6),
    "group_norm": lambda x, w, b: F.group_norm(x, 2, w, b),
    "instance_norm": lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
    "batch_norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    "batch_norm-inference": standardised,
    "sync_batch_norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    # activations, norms of vectors
    "elu-scales": lambda x: torch.ops.aten.elu(x, 0.7, 1.3, 0.6),
    "selu": F.selu,
    "celu": F.celu,
    "crelu": lambda x: torch.cat([F.relu(x), F.relu(-x)], 1),
    "concat_elu": lambda x: torch.cat([F.elu(x, 0.7), F.elu(-x, 0.7)], 1),
    "prelu": F.prelu,
    "prelu-shared": F.prelu,
    "hard_tanh": F.hardtanh,
    "hard_tanh-bounds": lambda x: F.hardtanh(x, -3, 0.5),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "softshrink": F.softshrink,
    "softshrink-lambd": lambda x: F.softshrink(x, 1.1),
    "softplus-threshold": lambda x: F.softplus(x, 2.0, 5.0),
    "softplus-beta": lambda x: F.softplus(x, 0.5, 1e9),
    "glu": F.glu,
    "glu-axis": lambda x: F.glu(x, 0),
    "rrelu-inference": lambda x: F.rrelu(x, 0.2, 0.4),
    "multiply_n-zeros": lambda x: x.prod(0),
    **{f"vector_norm-{p}": partial(torch.linalg.vector_norm, ord=p) for p in (1, 1.5, 2, 3, 4)},
    "vector_norm-inf": lambda x: torch.linalg.vector_norm(x, torch.inf, 1, True),
    "vector_norm-axes": lambda x: torch.linalg.vector_norm(x, dim=(0, 2)),
    "vector_norm-complex": lambda x, y: torch.linalg.vector_norm(torch.complex(x, y), 3),
    "normalize": F.normalize,
    "normalize-3": lambda x: F.normalize(x, 3, 0),
    "normalize-eps": lambda x: F.normalize(x, eps=9.0),
    "weight_norm": lambda v, g: torch._weight_norm(v, g[:, None, None], 0),
    "gram_matrix": lambda x: x @ x.mT,
    # losses
    "mse_loss": F.mse_loss,
    "mse_loss-sum": lambda x, t: F.mse_loss(x, t, reduction="sum"),
    "l1_loss": F.l1_loss,
    "huber_loss": F.huber_loss,
    "huber_loss-delta": lambda x, t: F.huber_loss(x, t, reduction="none", delta=0.4),
    "smooth_l1_loss": F.smooth_l1_loss,
    "smooth_l1_loss-beta": lambda x, t: F.smooth_l1_loss(x, t, reduction="none", beta=0.4),
    "binary_cross_entropy": lambda p, t: -(t * p.log() + (1 - t) * (1 - p).log()),
    "binary_cross_entropy-weight": lambda p, t, w: -(
        w * (t * p.log() + (1 - t) * (1 - p).log())).mean(),
    "softmax_cross_entropy": lambda x, t: F.cross_entropy(x, t, reduction="none"),
    "softmax_cross_entropy-soft": lambda x, t: F.cross_entropy(x, t, reduction="none"),
    "cross_entropy": F.cross_entropy,
    "cross_entropy-weight": lambda x, t, w: F.cross_entropy(x, t, weight=w, ignore_index=2),
    "cross_entropy-soft-weight": lambda x, t, w: F.cross_entropy(x, t, weight=w),
    "nll_loss": F.nll_loss,
    "nll_loss-ignore": lambda x, t: F.nll_loss(x, t, ignore_index=-100),
    "nll_loss-none": lambda x, t, w: F.nll_loss(x, t, weight=w, reduction="none"),
    "multiclass_hinge_loss": lambda x, t: F.multi_margin_loss(x, t, reduction="none") * x.shape[1],
    "soft_margin_loss": F.soft_margin_loss,
    "multi_margin_loss": F.multi_margin_loss,
    "multi_margin_loss-weight": lambda x, t, w: F.multi_margin_loss(
        x, t, p=2, margin=0.7, weight=w, reduction="none"),
    "multilabel_margin_loss": F.multilabel_margin_loss,
}  # fmt: skip
#: operands that PyTorch has no derivative for
UNDERIVED = {
    "cross_entropy-weight": [2],
    "cross_entropy-soft-weight": [2],
    "nll_loss-none": [2],
    "multi_margin_loss-weight": [2],
    "soft_margin_loss": [1],
}


def close(got: np.ndarray, want: torch.Tensor) -> None:
    want = want.detach().resolve_conj().numpy()
    assert got.shape == want.shape
    if got.dtype.kind in "fc":
        largest = np.abs(want[np.isfinite(want)]).max(initial=1e-3)
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12 * largest)
    else:
        np.testing.assert_array_equal(got, want)


def weights_for(shapes) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.standard_normal(s) for s in shapes]


ROWS = [s for s in SAMPLES if s.id in TORCH]


def test_every_name_of_the_table_is_a_row():
    known = {s.id for s in SAMPLES}
    assert set(TORCH) - known == set()
    assert len(ROWS) > 150


@pytest.mark.parametrize("sample", ROWS, ids=lambda s: s.id)
def test_value_and_gradient(sample):
    arrays = sample.arrays("float64")
    inputs = inputs_for(arrays)
    outputs = results(sample.build(*inputs))
    real = [k for k, t in enumerate(outputs) if t.dtype.kind == "f" and t.size]
    wrt = [k for k in sample.floats if k not in UNDERIVED.get(sample.id, [])]
    theirs = [torch.tensor(a, requires_grad=k in wrt) for k, a in enumerate(arrays)]
    wanted = results(TORCH[sample.id](*theirs))
    if not sample.orders or not wrt or not real:
        for a, b in zip(sg.compile(outputs, inputs)(*arrays), wanted, strict=True):
            close(a, b)
        return
    cs = weights_for([outputs[k].shape for k in real])
    pulled = sg.vjp([outputs[k] for k in real], [inputs[k] for k in wrt], cs)
    got = sg.compile([*outputs, *pulled], inputs)(*arrays)
    for a, b in zip(got, wanted, strict=False):
        close(a, b)
    total = sum((wanted[k] * torch.tensor(c)).sum() for k, c in zip(real, cs, strict=True))
    # Sums of nothing, and constants, are no function of the operands for PyTorch.
    if not total.requires_grad:
        gradients = [None] * len(wrt)
    else:
        gradients = torch.autograd.grad(total, [theirs[k] for k in wrt], allow_unused=True)
    for k, a, b in zip(wrt, got[len(outputs) :], gradients, strict=True):
        close(a, torch.zeros(arrays[k].shape, dtype=torch.float64) if b is None else b)


# ---------------------------------------------------------------------------- compositions


def attention(q, k, v, mask):
    scores = q @ k.mT / np.sqrt(q.shape[-1])
    return ops.softmax(ops.where(mask, scores, -np.inf)) @ v


def attention_torch(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, mask)


def block(x, w1, b1, w2, b2, scale, shift):
    """The second half of a transformer's layer."""
    return x + ops.linear(ops.gelu(ops.linear(ops.layer_norm(x, scale, shift), w1, b1)), w2, b2)


def block_torch(x, w1, b1, w2, b2, scale, shift):
    h = F.layer_norm(x, x.shape[-1:], scale, shift)
    return x + F.linear(F.gelu(F.linear(h, w1, b1)), w2, b2)


def convolutional(x, w1, b1, scale, shift, w2, w3):
    h = ops.batch_norm(ops.conv2d(x, w1, b1, padding=1), scale, shift)
    h = ops.max_pool2d(ops.relu(h), 2)
    h = ops.leaky_relu(ops.conv2d(h, w2, stride=2, groups=2), 0.1)
    return ops.log_softmax(ops.avg_pool2d(h, 2).reshape(x.shape[0], -1) @ w3)


def convolutional_torch(x, w1, b1, scale, shift, w2, w3):
    h = F.batch_norm(F.conv2d(x, w1, b1, padding=1), None, None, scale, shift, training=True)
    h = F.max_pool2d(F.relu(h), 2)
    h = F.leaky_relu(F.conv2d(h, w2, stride=2, groups=2), 0.1)
    return F.log_softmax(F.avg_pool2d(h, 2).flatten(1) @ w3, -1)


def recurrent(x, h, wx, wh, b):
    """Six steps of a gated unit, unrolled."""
    for t in range(6):
        z = x[:, t] @ wx + h @ wh + b
        gate, new = ops.sigmoid(z[:, :5]), ops.tanh(z[:, 5:])
        h = gate * h + (1.0 - gate) * new
    return h


def recurrent_torch(x, h, wx, wh, b):
    for t in range(6):
        z = x[:, t] @ wx + h @ wh + b
        gate, new = torch.sigmoid(z[:, :5]), torch.tanh(z[:, 5:])
        h = gate * h + (1.0 - gate) * new
    return h


def autoencoder(x, w, b):
    h = ops.silu(ops.conv1d(x, w, stride=2, padding=1))
    return ops.huber_loss(ops.conv_transpose1d(h, w, b, stride=2, padding=1), x, reduction="none")


def autoencoder_torch(x, w, b):
    h = F.silu(F.conv1d(x, w, stride=2, padding=1))
    y = F.conv_transpose1d(h, w, b, stride=2, padding=1)
    return F.huber_loss(y, x, reduction="none")


def embedded(table, i, w):
    return ops.logsumexp(ops.mean(table[i], axis=1) @ w, axis=-1)


def embedded_torch(table, i, w):
    return torch.logsumexp(F.embedding(i, table).mean(1) @ w, -1)


def floats(*shapes):
    return lambda rng: [rng.standard_normal(s) for s in shapes]


COMPOSED = {
    "attention": (attention, attention_torch, lambda rng: [
        *floats((2, 3, 7, 4), (2, 3, 9, 4), (2, 3, 9, 5))(rng), np.tri(7, 9, 2, dtype=bool)]),
    "transformer": (block, block_torch, floats((3, 5, 6), (8, 6), (8,), (6, 8), (6,), (6,), (6,))),
    "convolutional": (convolutional, convolutional_torch, floats(
        (3, 2, 10, 10), (4, 2, 3, 3), (4,), (4,), (4,), (6, 2, 2, 2), (6, 5))),
    "recurrent": (recurrent, recurrent_torch, floats((4, 6, 3), (4, 5), (3, 10), (5, 10), (10,))),
    "autoencoder": (autoencoder, autoencoder_torch, floats((2, 3, 8), (4, 3, 4), (3,))),
    "embedding": (embedded, embedded_torch, lambda rng: [
        rng.standard_normal((11, 4)), rng.integers(0, 11, (6, 3)), rng.standard_normal((4, 5))]),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSED)
def test_compositions(name, rng):
    """Value, gradient, and the gradient of the gradient's squares."""
    ours, theirs, draw = COMPOSED[name]
    arrays = draw(rng)
    inputs = inputs_for(arrays)
    floating = [k for k, a in enumerate(arrays) if a.dtype.kind == "f"]
    y = ours(*inputs)
    c = rng.standard_normal(y.shape)
    wrt = [inputs[k] for k in floating]
    first = sg.grad(y, wrt, c)
    second = sg.grad(ops.add_n([(g * g).sum() for g in first]), wrt)
    got = sg.compile([y, *first, *second], inputs)(*arrays)
    given = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        value = theirs(*given)
        leaves = [given[k] for k in floating]
        pulled = torch.autograd.grad((value * torch.tensor(c)).sum(), leaves, create_graph=True)
        squares = sum((g * g).sum() for g in pulled)
        again = torch.autograd.grad(squares, leaves, materialize_grads=True)
    wanted = [value, *pulled, *again]
    scale = max(float(t.detach().abs().max()) for t in wanted)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-8, atol=1e-11 * scale)

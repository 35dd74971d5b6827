"""Rows for the elementwise ops, those that move elements, reductions and products."""

from __future__ import annotations

from functools import partial

import numpy as np
from sampling import between, bools, distinct, fixed, ints, normal, off_zero, positive, row
from scipy import special

from staticgraph import ops
from staticgraph.ir import apply
from staticgraph.registry import OPS

A, B = (3, 4), (4,)
SPECIAL = [0.0, -0.0, 1.5, -2.5, np.inf, -np.inf, np.nan]


def same(name, draws, oracle, **more):
    """A row whose function is ops.NAME itself."""
    return row(name, getattr(ops, name), draws, oracle, **more)


def sigmoid_tail(x):
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def _of_complex(function, x, y):
    return abs(function(ops.complex_(x, y)) + (0.5 - 1j))


def _by_numpy(function, x, y):
    return abs(function(x + 1j * y) + (0.5 - 1j))


SMOOTH = [
    same(name, draw, oracle, orders=3)
    for name, oracle, draw in (
        ("negative", np.negative, normal(*A)),
        ("square", np.square, normal(*A)),
        ("reciprocal", np.reciprocal, off_zero(*A)),
        ("sqrt", np.sqrt, positive(*A)),
        ("rsqrt", lambda x: x**-0.5, positive(*A)),
        ("cbrt", np.cbrt, off_zero(*A)),
        ("exp", np.exp, normal(*A)),
        ("exp2", np.exp2, normal(*A)),
        ("expm1", np.expm1, normal(*A)),
        ("log", np.log, positive(*A)),
        ("log1p", np.log1p, between(-0.6, 2.0, *A)),
        ("log2", np.log2, positive(*A)),
        ("log10", np.log10, positive(*A)),
        ("sin", np.sin, normal(*A)),
        ("cos", np.cos, normal(*A)),
        ("tan", np.tan, between(-1.2, 1.2, *A)),
        ("asin", np.arcsin, between(-0.8, 0.8, *A)),
        ("acos", np.arccos, between(-0.8, 0.8, *A)),
        ("atan", np.arctan, normal(*A)),
        ("sinh", np.sinh, normal(*A)),
        ("cosh", np.cosh, normal(*A)),
        ("tanh", np.tanh, normal(*A)),
        ("asinh", np.arcsinh, normal(*A)),
        ("acosh", np.arccosh, between(1.3, 4.0, *A)),
        ("atanh", np.arctanh, between(-0.8, 0.8, *A)),
        ("erf", special.erf, normal(*A)),
        ("erfc", special.erfc, normal(*A)),
        ("erfinv", special.erfinv, between(-0.8, 0.8, *A)),
        ("ndtr", special.ndtr, normal(*A)),
        ("sigmoid", special.expit, normal(*A)),
        ("softplus", lambda x: np.logaddexp(0, x), normal(*A)),
        ("log_sigmoid", sigmoid_tail, normal(*A)),
        ("silu", lambda x: x * special.expit(x), normal(*A)),
        ("gelu", lambda x: x * special.ndtr(x), normal(*A)),
        ("abs", np.abs, off_zero(*A)),
        ("sign", np.sign, off_zero(*A)),
        ("floor", np.floor, distinct(*A)),
        ("ceil", np.ceil, distinct(*A)),
        ("trunc", np.trunc, distinct(*A)),
        ("round", np.round, distinct(*A)),
        ("relu", lambda x: np.maximum(x, 0), off_zero(*A)),
        ("relu6", lambda x: np.clip(x, 0, 6), fixed([-1.5, 0.5, 5.5, 7.0])),
        ("leaky_relu", lambda x: np.where(x > 0, x, 0.01 * x), off_zero(*A)),
        ("elu", lambda x: np.where(x > 0, x, np.expm1(x)), off_zero(*A)),
    )
]
PAIRS = [
    same(name, draws, oracle, orders=3)
    for name, oracle, draws in (
        ("add", np.add, (normal(*A), normal(*B))),
        ("subtract", np.subtract, (normal(3, 1), normal(*A))),
        ("multiply", np.multiply, (normal(*A), normal(2, 1, 4))),
        ("divide", np.divide, (normal(*A), off_zero(*B))),
        ("power", np.power, (positive(*A), normal(*B))),
        ("maximum", np.maximum, (distinct(*A), fixed([0.05, -0.6, 0.4, 0.1]))),
        ("minimum", np.minimum, (distinct(*A), fixed([0.05, -0.6, 0.4, 0.1]))),
        ("atan2", np.arctan2, (off_zero(*A), off_zero(*B))),
        ("hypot", np.hypot, (off_zero(*A), off_zero(*B))),
        ("logaddexp", np.logaddexp, (normal(*A), normal(*B))),
        ("copysign", np.copysign, (off_zero(*A), off_zero(*B))),
        ("remainder", np.remainder, (distinct(*A), fixed([0.9, -1.1, 0.7, -3.0]))),
        ("floor_divide", np.floor_divide, (distinct(*A), fixed([0.9, -1.1, 0.7, -3.0]))),
    )
]
CASES = [
    row("npdf", lambda x: apply(OPS["npdf"], x), normal(*A),
        lambda x: np.exp(-x * x / 2) / np.sqrt(2 * np.pi), 3),
    row("power", lambda x: x**2, normal(*A), lambda x: x**2, 3, "square"),
    row("power", lambda x: x**3, normal(*A), lambda x: x**3, 3, "cube"),
    *(row(name, partial(_of_complex, getattr(ops, name)), [off_zero(*A), off_zero(*A)],
          partial(_by_numpy, oracle), label="complex")
      for name, oracle in (("exp2", np.exp2), ("expm1", np.expm1), ("log1p", np.log1p),
                           ("log2", np.log2), ("log10", np.log10), ("acosh", np.arccosh),
                           ("sign", lambda z: z / abs(z)))),
    row("power", lambda x: x**-1, off_zero(*A), lambda x: 1 / x, 3, "reciprocal"),
    row("power", lambda x: x**0.5, positive(*A), np.sqrt, 3, "root"),
    row("power", lambda x: x**-0.5, positive(*A), lambda x: x**-0.5, 3, "rsqrt"),
    row("power", lambda x: x**1.7, positive(*A), lambda x: x**1.7, 3, "real"),
    row("power", lambda x: 2.0**x, normal(*A), lambda x: 2.0**x, 3, "exponent"),
    row("power", lambda x: x**5, ints(-4, 5, *A), lambda x: x**5, 0, "integer"),
    row("power", ops.power, [ints(-4, 5, *A), ints(0, 6, *B)], np.power, 0, "integers"),
    row("abs", abs, ints(-4, 5, *A), np.abs, 0, "integer"),
    row("gelu", lambda x: ops.gelu(x, "tanh"), normal(*A),
        lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), 3, "tanh"),
    row("leaky_relu", lambda x: ops.leaky_relu(x, 0.2), off_zero(*A),
        lambda x: np.where(x > 0, x, 0.2 * x), 3, "slope"),
    row("elu", lambda x: ops.elu(x, 0.7), off_zero(*A),
        lambda x: np.where(x > 0, x, 0.7 * np.expm1(x)), 3, "alpha"),
    row("clip", lambda x: ops.clip(x, -0.31, 0.52), distinct(*A),
        lambda x: np.clip(x, -0.31, 0.52)),
    row("clip", lambda x: ops.clip(x, min=0.22), distinct(*A), lambda x: np.maximum(x, 0.22),
        label="low"),
    row("clip", lambda x, lo, hi: x.clip(lo, hi),
        [distinct(*A), fixed([-0.4, -0.3, -0.5, 0.1]), fixed(0.65)], np.clip, label="tensors"),
    row("floor_divide", ops.floor_divide, [ints(-9, 9, *A), ints(-3, 3, *B)],
        lambda x, y: np.where(y == 0, 0, x // np.where(y == 0, 1, y)), 0, "integers"),
    row("remainder", ops.remainder, [ints(-9, 9, *A), ints(-3, 3, *B)],
        lambda x, y: np.where(y == 0, 0, x % np.where(y == 0, 1, y)), 0, "integers"),
    row("add", lambda x: 1 + x + 2.5, ints(-9, 9, *A),
        lambda x: (x + 3.5).astype("float32"), 0, "promotes"),
    row("where", ops.where, [bools(*A), normal(*A), normal(*B)], np.where),
    row("where", ops.where, [ints(0, 2, *A), normal(3, 1), normal()],
        lambda c, x, y: np.where(c != 0, x, y), label="broadcast"),
    row("astype", lambda x: x.astype("int32"), between(-9, 9, *A), lambda x: x.astype("int32"), 0),
    row("astype", lambda x: ops.astype(x, "float64") * 3, normal(*A), lambda x: x * 3,
        label="wide", result="float64"),
    row("stop_gradient", lambda x: ops.stop_gradient(x) * 2.0, normal(*A), lambda x: x * 2, 0),
    row("add_n", lambda *xs: ops.add_n(xs), [normal(*A), normal(*A), normal(*A)],
        lambda *xs: sum(xs)),
    row("complex_", lambda x, y: abs(ops.complex_(x, y)), [off_zero(*A), off_zero(*A)], np.hypot),
    row("complex_", ops.complex_, [normal(*A), normal(*A)], lambda x, y: x + 1j * y, 0, "value"),
    row("conj", lambda x, y: ops.conj(ops.complex_(x, y)), [normal(*A), normal(*A)],
        lambda x, y: x - 1j * y, 0),
    row("real", lambda x, y: ops.real(ops.exp(ops.complex_(x, y)) * (2 - 1j)),
        [normal(*A), normal(*A)], lambda x, y: (np.exp(x + 1j * y) * (2 - 1j)).real),
    row("imag", lambda x, y: ops.imag(ops.conj(ops.complex_(x, y)) / ops.complex_(y, 1 + x * x)),
        [normal(*A), normal(*A)], lambda x, y: ((x - 1j * y) / (y + 1j * (1 + x * x))).imag),
]  # fmt: skip
TESTS = [
    *(
        same(name, (ints(0, 3, *A), ints(0, 3, *B)), getattr(np, name), orders=0)
        for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
    ),
    *(
        same(name, (fixed(SPECIAL), fixed(SPECIAL[::-1])), getattr(np, name), orders=0,
             label="special")
        for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
    ),
    *(
        same(name, (bools(*A), ints(0, 2, *B)), getattr(np, name), orders=0)
        for name in ("logical_and", "logical_or", "logical_xor")
    ),
    same("logical_not", ints(0, 2, *A), np.logical_not, orders=0),
    *(
        same(name, (ints(-99, 99, *A, dtype=dtype), ints(-99, 99, *B, dtype=dtype)),
             getattr(np, name), orders=0, label=dtype)
        for name in ("bitwise_and", "bitwise_or", "bitwise_xor")
        for dtype in ("int8", "int64", "uint32")
    ),
    same("bitwise_invert", ints(-99, 99, *A), np.invert, orders=0),
    same("bitwise_invert", bools(*A), np.invert, orders=0, label="bool"),
    same("left_shift", (ints(0, 99, *A), ints(0, 9, *B)), np.left_shift, orders=0),
    same("right_shift", (ints(-999, 999, *A), ints(0, 9, *B)), np.right_shift, orders=0),
    *(
        same(name, fixed(SPECIAL), getattr(np, name), orders=0)
        for name in ("isnan", "isinf", "isfinite", "signbit")
    ),
]  # fmt: skip


def unslice(x):
    """Zeros of shape (3, 7) with x at [2::-1, 1:6:2]."""
    y = np.zeros((3, 7))
    y[2::-1, 1:6:2] = x
    return y


MOVES = [
    row("reshape", lambda x: x.reshape(2, -1), normal(3, 4), lambda x: x.reshape(2, 6)),
    row("reshape", lambda x: x.reshape((2, 2, 1, 3)), normal(3, 4),
        lambda x: x.reshape(2, 2, 1, 3), label="split"),
    row("flatten", ops.flatten, normal(2, 3, 2), np.ravel),
    row("transpose", ops.transpose, normal(2, 3, 4), np.transpose),
    row("transpose", lambda x: x.transpose(1, 2, 0), normal(2, 3, 4),
        lambda x: x.transpose(1, 2, 0), label="axes"),
    row("permute_dims", lambda x: ops.permute_dims(x, (0, 2, 1)), normal(2, 3, 4),
        lambda x: x.swapaxes(1, 2)),
    row("swapaxes", lambda x: ops.swapaxes(x, 0, -1), normal(2, 3, 4), lambda x: x.swapaxes(0, 2)),
    row("moveaxis", lambda x: ops.moveaxis(x, 0, 2), normal(2, 3, 4),
        lambda x: np.moveaxis(x, 0, 2)),
    row("broadcast_to", lambda x: ops.broadcast_to(x, (2, 3, 4)), normal(3, 1),
        lambda x: np.broadcast_to(x, (2, 3, 4))),
    row("sum_to", lambda x: ops.sum_to(x, (3, 1)), normal(2, 3, 4),
        lambda x: x.sum((0, 2))[:, None]),
    row("expand_dims", lambda x: ops.expand_dims(x, (0, -1)), normal(3),
        lambda x: x[None, :, None]),
    row("squeeze", ops.squeeze, normal(1, 3, 1), np.squeeze),
    row("squeeze", lambda x: x.squeeze(0), normal(1, 3, 1), lambda x: x[0], label="axis"),
    row("strided_slice", lambda x: ops.strided_slice(x, (1, None), (None, -1), (2, 1)),
        normal(4, 5), lambda x: x[1::2, :-1]),
    row("strided_slice", lambda x: x[2::-1, 1:6:2], normal(3, 7), lambda x: x[::-1, 1:6:2],
        label="negative"),
    row("unslice", lambda x: apply(OPS["unslice"], x, shape=(3, 7), start=(2, 1), step=(-1, 2)),
        normal(3, 3), unslice),
    row("crop", lambda x: ops.crop(x, (1, 0), (2, 3)), normal(4, 5), lambda x: x[1:3, :3]),
    row("flip", ops.flip, normal(2, 3), np.flip),
    row("flip", lambda x: ops.flip(x, 1), normal(2, 3), lambda x: x[:, ::-1], label="axis"),
    row("concat", lambda *xs: ops.concat(xs, -1), [normal(2, 3), normal(2, 1), normal(2, 2)],
        lambda *xs: np.concatenate(xs, -1)),
    row("concat", lambda x: ops.concat([x, x * 2.0]), normal(2, 3),
        lambda x: np.concatenate([x, 2 * x]), label="twice"),
    row("stack", lambda *xs: ops.stack(xs, 1), [normal(2, 3), normal(2, 3)],
        lambda *xs: np.stack(xs, 1)),
    row("unstack", lambda x: ops.unstack(x, 1), normal(2, 3), lambda x: tuple(x.T)),
    row("split", lambda x: ops.split(x, 3, 1), normal(2, 6), lambda x: tuple(np.split(x, 3, 1))),
    row("split", lambda x: ops.split(x, [1, 4], -1), normal(2, 6),
        lambda x: tuple(np.split(x, [1, 4], 1)), label="places"),
    row("pad", lambda x: ops.pad(x, ((1, 2), (0, 3))), normal(2, 3),
        lambda x: np.pad(x, ((1, 2), (0, 3)))),
    row("pad", lambda x, c: ops.pad(x, 1, constant_values=c), [normal(2, 3), normal()],
        lambda x, c: np.pad(x, 1, constant_values=c), label="value"),
    *(row("pad", partial(ops.pad, pad_width=(2, 1), mode=mode), normal(4, 3),
          partial(np.pad, pad_width=(2, 1), mode=mode), label=mode)
      for mode in ("reflect", "symmetric", "edge", "wrap")),
    row("tile", lambda x: ops.tile(x, (2, 1, 3)), normal(2, 3), lambda x: np.tile(x, (2, 1, 3))),
    row("iota", lambda: ops.iota((2, 3), 1), [], lambda: np.tile(np.arange(3), (2, 1))),
    row("arange", lambda: ops.arange(1, 10, 3), [], lambda: np.arange(1, 10, 3)),
    row("arange", lambda: ops.arange(0, 1, 0.25, "float64").astype("int64"), [],
        lambda: np.zeros(4, "int64"), label="float"),
    row("full", lambda: ops.full((2, 3), 7), [], lambda: np.full((2, 3), 7)),
    row("zeros", lambda: ops.zeros(4, "int32"), [], lambda: np.zeros(4, "int32")),
    row("ones", lambda: ops.ones((2, 2), "bool"), [], lambda: np.ones((2, 2), bool)),
    row("full_like", lambda x: ops.full_like(x, 2.5) + x, normal(*A), lambda x: x + 2.5),
    row("zeros_like", lambda x: ops.zeros_like(x) + x, normal(*A), lambda x: x),
    row("ones_like", lambda x: ops.ones_like(x) + x, normal(*A), lambda x: x + 1),
    row("eye", lambda: ops.eye(2, 3, "int64"), [], lambda: np.eye(2, 3, dtype="int64")),
]  # fmt: skip

X = (2, 3, 4)
REDUCTIONS = [
    *(row(name, partial(getattr(ops, name), axis=axis, keepdims=keep), draw,
          partial(oracle, axis=axis, keepdims=keep), label=f"{axis}{keep}".replace(" ", ""))
      for name, oracle, draw in (
          ("sum", np.sum, normal(*X)), ("prod", np.prod, off_zero(*X)),
          ("max", np.max, distinct(*X)), ("min", np.min, distinct(*X)),
          ("mean", np.mean, normal(*X)), ("var", np.var, normal(*X)), ("std", np.std, normal(*X)),
          ("logsumexp", special.logsumexp, normal(*X)),
      )
      for axis, keep in ((None, False), (1, True), ((0, 2), False), (-1, False))),
    *(row(name, partial(getattr(ops, name), axis=axis), draw,
          partial(getattr(np, name), axis=axis), 0, f"{axis}")
      for name, draw in (("any", bools(*X)), ("all", bools(*X)), ("argmax", distinct(*X)),
                         ("argmin", distinct(*X)), ("count_nonzero", ints(0, 3, *X)))
      for axis in (None, 1)),
    row("prod", lambda x: ops.prod(x, 1), fixed([[1.5, 0, 2, 3], [0, 2, 0, 1], [1, 2, 3, 4]]),
        lambda x: x.prod(1), 3, "zeros"),
    row("sum", lambda x: ops.sum(x, 0), ints(0, 120, 9, 2, dtype="int8"),
        lambda x: x.sum(0, dtype="int64"), 0, "int8"),
    row("sum", lambda x: ops.sum(x), bools(9), np.sum, 0, "bool"),
    row("max", lambda x: ops.max(x, 1), ints(-9, 9, 3, 5), lambda x: x.max(1), 0, "integer"),
    row("mean", lambda x: ops.mean(x, 0), ints(-9, 9, 4, 2),
        lambda x: x.mean(0).astype("float32"), 0, "integer"),
    row("var", lambda x: ops.var(x, 1, ddof=1), normal(3, 4), lambda x: x.var(1, ddof=1),
        label="ddof"),
    row("argmax", lambda x: ops.argmax(x, 1), fixed([[1, 3, 3, 2], [0, np.nan, 1, np.nan]]),
        lambda x: np.array([1, 1]), 0, "ties"),
]  # fmt: skip
PRODUCTS = [
    *(row("matmul", ops.matmul, [normal(*a), normal(*b)], np.matmul,
          label="x".join(map(str, (*a, "by", *b))))
      for a, b in (((3, 4), (4, 2)), ((4,), (4, 2)), ((3, 4), (4,)), ((4,), (4,)),
                   ((2, 3, 4), (4, 2)), ((2, 1, 3, 4), (5, 4, 2)), ((3, 0), (0, 2)))),
    row("matmul", ops.matmul, [ints(-9, 9, 3, 4), ints(-9, 9, 4, 2)], np.matmul, 0, "integer"),
    row("matmul", ops.matmul, [bools(3, 4), bools(4, 2)], np.matmul, 0, "bool"),
    row("matmul", lambda a, b, c: abs(ops.complex_(a, b) @ ops.complex_(b, c).mT),
        [normal(3, 4), normal(3, 4), normal(3, 4)],
        lambda a, b, c: abs((a + 1j * b) @ (b + 1j * c).T), label="complex"),
    row("linear", ops.linear, [normal(2, 3, 4), normal(5, 4), normal(5)],
        lambda x, w, b: x @ w.T + b),
]  # fmt: skip

MATH = [*SMOOTH, *PAIRS, *CASES, *TESTS, *MOVES, *REDUCTIONS, *PRODUCTS]

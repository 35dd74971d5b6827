"""Attention whose scores are never in memory, for the value and the first derivative."""

from __future__ import annotations

from math import sqrt

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import Op, apply
from staticgraph.operands import cast, constant, promoted, tensor_argument
from staticgraph.ops.create import iota
from staticgraph.ops.elementwise import (
    add,
    equal,
    exp,
    less_equal,
    multiply,
    stop_gradient,
    subtract,
    where,
)
from staticgraph.ops.matmul import matmul_
from staticgraph.ops.norm import softmax
from staticgraph.ops.random import dropout
from staticgraph.ops.reduce import max as max_over
from staticgraph.ops.reduce import sum as sum_over
from staticgraph.ops.shape import broadcast_to, expand_dims, reshape, sum_to
from staticgraph.registry import public, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, broadcast_shapes, is_bool, is_complex


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
    """scale q k^T with the mask, the scores as a tensor: what the kernels never form."""
    s = multiply(matmul_(q, k.mT), scale)
    if mask is not None and is_bool(mask.type.dtype):
        s = where(mask, s, -np.inf)
    elif mask is not None:
        s = add(s, mask)
    if causal:
        rows = iota(s.shape[-2:], axis=0)
        s = where(less_equal(iota(s.shape[-2:], axis=1), rows), s, -np.inf)
    return s


def _seen(s: np.ndarray, mask: np.ndarray | None, causal: bool) -> np.ndarray:
    """Scores with the mask, by NumPy."""
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask
    return np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf) if causal else s


def _check(name: str, q: TensorType, k: TensorType, v: TensorType) -> None:
    fits = q.ndim >= 2 and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    if not fits or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ShapeError(f"{name}: needs (..., n, d), (..., m, d), (..., m, e), got {q}, {k}, {v}")


@register
class Attention(Op):
    """softmax(scale q k^T + mask) v, and for each row the logarithm of its sum of exponentials."""

    name = "attention"

    def infer(self, q, k, v, *mask, scale: float, causal: bool):
        _check(self.name, q, k, v)
        out = TensorType(q.dtype, (*q.shape[:-1], v.shape[-1]))
        return out, TensorType(q.dtype, q.shape[:-1])

    def reference(self, operands, types, *, scale, causal):
        q, k, v, *mask = operands
        with np.errstate(all="ignore"):
            s = _seen(scale * (q @ k.swapaxes(-1, -2)), mask[0] if mask else None, causal)
            top = s.max(axis=-1, keepdims=True)
            top = np.where(top == -np.inf, 0, top)
            p = np.exp(s - top)
            total = p.sum(axis=-1, keepdims=True)
            return [p / np.where(total == 0, 1, total) @ v, (top + np.log(total))[..., 0]]

    def vjp(self, node, cotangents):
        q, k, v, *mask = node.operands
        g, sums = cotangents
        attrs = node.attrs
        if g is None:
            g = broadcast_to(constant(0, q.type.dtype), node.results[0].shape)
        if sums is not None:
            # Nothing of ours reads the sums; whoever does pays for the scores.
            return self._plainly(node, g, sums)
        made = apply(AttentionGrad, q, k, v, *node.results, g, *mask, **attrs)
        found = list(made)
        if mask:
            found.append(None if is_bool(mask[0].type.dtype) else _mask_cotangent(node, g))
        return found

    def _plainly(self, node, g, sums):
        q, k, v, *mask = node.operands
        scale = node.attrs["scale"]
        p = _weights(node.operands, node.results[1], node.attrs)
        slope = multiply(p, add(_centred(p, g, v), expand_dims(sums, -1)))
        found = [
            multiply(matmul_(slope, k), scale),
            multiply(matmul_(slope.mT, q), scale),
            matmul_(p.mT, g),
        ]
        if mask:
            found.append(None if is_bool(mask[0].type.dtype) else sum_to(slope, mask[0].shape))
        return found


def _weights(operands, sums: Tensor, attrs) -> Tensor:
    """The softmax as a tensor, from the sums of its rows."""
    q, k, _, *mask = operands
    s = _scores(q, k, mask[0] if mask else None, attrs["scale"], attrs["causal"])
    return exp(subtract(s, expand_dims(where(equal(sums, -np.inf), 0.0, sums), -1)))


def _softmax(s: Tensor, masked: bool) -> Tensor:
    """softmax along the last axis; 0 in a row that sees no key."""
    if s.size == 0 or not masked:
        return softmax(s, axis=-1)
    blind = equal(stop_gradient(max_over(s, axis=-1, keepdims=True)), -np.inf)
    return where(blind, 0.0, softmax(where(blind, 0.0, s), axis=-1))


def _centred(p: Tensor, g: Tensor, v: Tensor) -> Tensor:
    """g v^T less its mean under p, row by row."""
    d = matmul_(g, v.mT)
    return subtract(d, sum_over(multiply(p, d), axis=-1, keepdims=True))


def _mask_cotangent(node, g: Tensor) -> Tensor:
    p = _weights(node.operands, node.results[1], node.attrs)
    return sum_to(multiply(p, _centred(p, g, node.operands[2])), node.operands[3].shape)


@register
class AttentionGrad(Op):
    """Cotangents of q, k and v from that of the result of `attention`.

    Operands q, k, v, both results, the cotangent, and perhaps the mask. Its own derivative is a
    composition in which scores are tensors.
    """

    name = "attention_grad"

    def infer(self, q, k, v, out, sums, g, *mask, scale: float, causal: bool):
        _check(self.name, q, k, v)
        if g != out or sums.shape != q.shape[:-1]:
            raise ShapeError(f"{self.name}: needs the results of attention, got {out}, {sums}, {g}")
        return q, k, v

    def reference(self, operands, types, *, scale, causal):
        q, k, v, _, _, g, *mask = operands
        with np.errstate(all="ignore"):
            s = _seen(scale * (q @ k.swapaxes(-1, -2)), mask[0] if mask else None, causal)
            top = s.max(axis=-1, keepdims=True)
            p = np.exp(s - np.where(top == -np.inf, 0, top))
            total = p.sum(axis=-1, keepdims=True)
            p /= np.where(total == 0, 1, total)
            d = g @ v.swapaxes(-1, -2)
            d = p * (d - (p * d).sum(axis=-1, keepdims=True))
        return [scale * (d @ k), scale * (d.swapaxes(-1, -2) @ q), p.swapaxes(-1, -2) @ g]

    def vjp(self, node, cotangents):
        """With S = scale q k^T, P = softmax(S), dP = g v^T, dS = P (dP - r), r = sum P dP per row.

        For cotangents a, b, c of dq, dk, dv the sum <a, dq> + <b, dk> + <c, dv> is
        <U, dS> + <P, W> with U = scale (a k^T + q b^T) and W = g c^T; e = sum P U per row.
        """
        q, k, v, _, _, g, *mask = node.operands
        scale = node.attrs["scale"]
        a, b, c = (
            broadcast_to(constant(0, q.type.dtype), t.shape) if x is None else x
            for x, t in zip(cotangents, (q, k, v), strict=True)
        )
        # The sums are a function of q and k: computed from them, so that every order sees that.
        s = _scores(q, k, mask[0] if mask else None, scale, node.attrs["causal"])
        p = _softmax(s, bool(mask))
        d = matmul_(g, v.mT)
        row = lambda t: sum_over(t, axis=-1, keepdims=True)  # noqa: E731
        r = row(multiply(p, d))
        slope = multiply(p, subtract(d, r))
        u = multiply(add(matmul_(a, k.mT), matmul_(q, b.mT)), scale)
        centred = subtract(u, row(multiply(p, u)))
        x = multiply(p, centred)
        y = add(subtract(multiply(d, centred), multiply(r, u)), matmul_(g, c.mT))
        z = multiply(p, subtract(y, row(multiply(p, y))))
        dq = multiply(add(matmul_(z, k), matmul_(slope, b)), scale)
        dk = multiply(add(matmul_(z.mT, q), matmul_(slope.mT, a)), scale)
        dv = matmul_(x.mT, g)
        dg = add(matmul_(x, v), matmul_(p, c))
        found = [dq, dk, dv, None, None, dg]
        if mask:
            found.append(None if is_bool(mask[0].type.dtype) else sum_to(z, mask[0].shape))
        return found


@public
def scaled_dot_product_attention(
    query: object, key: object, value: object, attn_mask: object = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, *, dropout_key: object = None,
) -> Tensor:  # fmt: skip
    """softmax(scale q k^T + mask) v over the last two axes, as PyTorch; scale is d^-1/2 by default.

    query (..., n, d), key (..., m, d), value (..., m, e), leading axes broadcast; result (..., n,
    e). `attn_mask` broadcasts to (..., n, m): bool, True where a row looks, or numbers that are
    added. `is_causal` lets row i look at keys up to i. A row that sees no key is 0. Float dtypes.
    The scores are never in memory, for the value and the gradient of q, k and v: both take O(n + m)
    memory and compute scores in blocks. The gradient of a mask of numbers, second derivatives and
    `dropout_p` > 0 (which needs `dropout_key`) form them. Raises ShapeError, GraphTypeError.
    Catalogue 8.
    """
    op = "scaled_dot_product_attention"
    q, k, v = promoted(op, [query, key, value], floating=True)
    if is_complex(q.type.dtype) or min(q.ndim, k.ndim, v.ndim) < 2:
        raise GraphTypeError(
            f"{op}: needs real tensors of 2 axes and more, got {q.type}, {k.type}, {v.type}"
        )
    lead = broadcast_shapes(broadcast_shapes(q.shape[:-2], k.shape[:-2]) or (), v.shape[:-2])
    if (
        lead is None
        or broadcast_shapes(q.shape[:-2], k.shape[:-2]) is None
        or q.shape[-1] != k.shape[-1]
        or k.shape[-2] != v.shape[-2]
    ):
        raise ShapeError(
            f"{op}: needs query (..., n, d), key (..., m, d), value (..., m, e),"
            f" got {q.type}, {k.type}, {v.type}"
        )
    q, k, v = (
        t if t.shape[:-2] == lead else broadcast_to(t, (*lead, *t.shape[-2:])) for t in (q, k, v)
    )
    masks = [] if attn_mask is None else [_mask(op, attn_mask, q, k, lead)]
    scale = 1 / sqrt(max(q.shape[-1], 1)) if scale is None else float(scale)
    causal = bool(is_causal)
    if dropout_p or 0 in (q.size, k.size, v.size):
        p = _softmax(_scores(q, k, masks[0] if masks else None, scale, causal), bool(masks))
        if dropout_p:
            p = dropout(p, dropout_p, key=dropout_key)
        return matmul_(p, v)
    return apply(Attention, q, k, v, *masks, scale=scale, causal=causal)[0]


def _mask(op: str, mask: object, q: Tensor, k: Tensor, lead: tuple[int, ...]) -> Tensor:
    """The mask with all leading axes, of size 1 where it is broadcast, and every key."""
    m = tensor_argument(op, mask, "attn_mask")
    full = (*lead, q.shape[-2], k.shape[-2])
    if broadcast_shapes(m.shape, full) != full:
        raise ShapeError(f"{op}: attn_mask must broadcast to {list(full)}, got {m.type}")
    if not is_bool(m.type.dtype):
        m = cast(m, q.type.dtype)
    m = reshape(m, (1,) * (len(full) - m.ndim) + m.shape)
    return m if m.shape[-1] == full[-1] else broadcast_to(m, (*m.shape[:-1], full[-1]))

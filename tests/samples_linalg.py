"""Rows for linear algebra. Matrices are drawn well conditioned, with values of their own apart."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from sampling import Draw, ints, normal, row

from staticgraph import ops
from staticgraph.gradient import grad


def regular(*shape: int) -> Draw:
    """Matrices with an inverse, and singular values that differ."""
    m, n = shape[-2:]
    spread = np.eye(m, n) * (2 + np.arange(n))
    return Draw(lambda rng: spread + rng.uniform(-0.5, 0.5, shape))


def hermitian(x):
    return x + x.mT


def definite(x):
    return x @ x.mT + ops.eye(x.shape[-1], dtype=x.dtype)


def definite_array(x):
    return x @ x.swapaxes(-1, -2) + np.eye(x.shape[-1])


def cofactors(x):
    """All minors, with their signs."""
    n = x.shape[-1]
    y = np.empty(x.shape)
    for i, j in np.ndindex(n, n):
        minor = np.delete(np.delete(x, i, -2), j, -1)
        y[..., i, j] = (-1) ** (i + j) * np.linalg.det(minor)
    return y


def det_gradient(x):
    return grad(ops.sum(ops.det(x)), [x])[0]


def triangle(a, lower, unit):
    a = np.tril(a, -1 if unit else 0) if lower else np.triu(a, 1 if unit else 0)
    return a + np.eye(a.shape[-1]) if unit else a


def triangular(a, b, *, lower=False, transpose=False, unit_diagonal=False):
    a = triangle(a, lower, unit_diagonal)
    return np.linalg.solve(a.swapaxes(-1, -2) if transpose else a, b)


def system(label, a, b, **options):
    return row("triangular_solve", lambda x, y: ops.triangular_solve(x, y, **options),
               [regular(*a), normal(*b)], lambda x, y: triangular(x, y, **options),
               label=label)  # fmt: skip


def vectors_squared(w, v):
    """What the signs of eigenvectors do not change."""
    return w, v * v


def singular(u, s, vh, k):
    return s, u[..., :k] ** 2, vh[..., :k, :] ** 2


def deficient(*shape: int) -> Draw:
    """Singular matrices: of rank n - 1, n - 2 and 0."""

    def make(rng):
        a = rng.standard_normal(shape)
        a[0, :, -1] = a[0, :, 0] * 2
        a[1, :, 2:] = a[1, :, :2] @ a[1, :2, 2:]
        a[2] = 0
        return a

    return Draw(make)


MATRIX = [
    row("diag", ops.diag, normal(2, 3), lambda x: np.stack([np.diag(v) for v in x])),
    row("diag", lambda x: ops.diag(x, -2), normal(3), lambda x: np.diag(x, -2), label="below"),
    row("diagonal", ops.diagonal, normal(2, 3, 4), lambda x: np.diagonal(x, 0, -2, -1)),
    row("diagonal", lambda x: ops.diagonal(x, 1, 0, 2), normal(3, 2, 4),
        lambda x: np.diagonal(x, 1, 0, 2), label="axes"),
    row("diagonal", lambda x: ops.diagonal(x, 5), normal(2, 3), lambda x: np.diagonal(x, 5),
        label="outside"),
    row("tril", lambda x: ops.tril(x, 1), normal(2, 4, 3), lambda x: np.tril(x, 1)),
    row("triu", lambda x: ops.triu(x, -1), normal(4, 3), lambda x: np.triu(x, -1)),
    row("tril", ops.tril, ints(-9, 9, 3, 3), np.tril, label="int"),
    row("outer", ops.outer, [normal(3), normal(2, 2)], np.outer),
    row("inner", ops.inner, [normal(2, 3), normal(4, 2, 3)], np.inner),
    row("kron", ops.kron, [normal(2, 3), normal(3, 1, 2)], np.kron),
    row("cross", ops.cross, [normal(2, 3), normal(4, 1, 3)], np.cross),
    row("cross", lambda x, y: ops.cross(x, y, 0), [normal(3, 2), normal(3, 2)],
        lambda x, y: np.cross(x, y, axis=0), label="axis"),
]  # fmt: skip

SYSTEMS = [
    row("inv", ops.inv, regular(2, 3, 3), np.linalg.inv),
    row("inv", ops.inv, regular(1, 1), np.linalg.inv, label="one"),
    row("inv", ops.inv, regular(2, 0, 0), np.linalg.inv, label="empty"),
    row("solve", ops.solve, [regular(2, 3, 3), normal(2, 3, 2)], np.linalg.solve),
    row("solve", ops.solve, [regular(4, 4), normal(4)], np.linalg.solve, label="vector"),
    row("solve", ops.solve, [regular(2, 1, 3, 3), normal(4, 3, 1)], np.linalg.solve,
        label="broadcast"),
    row("lu", ops.lu, regular(3, 3), scipy.linalg.lu),
    row("matrix_power", lambda x: ops.matrix_power(x, 5), regular(2, 2, 2),
        lambda x: np.linalg.matrix_power(x, 5)),
    row("matrix_power", lambda x: ops.matrix_power(x, -2), regular(3, 3),
        lambda x: np.linalg.matrix_power(x, -2), label="negative"),
    row("matrix_power", lambda x: ops.matrix_power(x, 0) + 0 * x, regular(3, 3),
        lambda x: np.eye(3), label="none"),
    system("", (2, 3, 3), (2, 3, 2)),
    system("lower", (3, 3), (3,), lower=True),
    system("transpose", (2, 3, 3), (3, 4), transpose=True),
    system("lower-transpose", (3, 3), (2, 3, 1), lower=True, transpose=True),
    system("unit", (3, 3), (3, 2), lower=True, unit_diagonal=True),
    system("unit-transpose", (3, 3), (3, 2), transpose=True, unit_diagonal=True),
    row("cholesky", lambda x: ops.cholesky(definite(x)), normal(2, 3, 3),
        lambda x: np.linalg.cholesky(definite_array(x))),
    row("cholesky", lambda x: ops.cholesky(definite(x), upper=True), normal(4, 4),
        lambda x: np.linalg.cholesky(definite_array(x)).T, label="upper"),
]  # fmt: skip

DETERMINANTS = [
    row("det", ops.det, regular(2, 3, 3), np.linalg.det, 3),
    row("det", lambda x: ops.det(x) + 1, deficient(3, 4, 4), lambda x: np.linalg.det(x) + 1,
        label="singular"),
    row("det", ops.det, regular(2, 1, 1), np.linalg.det, label="one"),
    row("det", ops.det, regular(2, 0, 0), np.linalg.det, label="empty"),
    row("det", det_gradient, regular(2, 4, 4), cofactors, label="cofactor"),
    row("det", det_gradient, deficient(3, 4, 4), cofactors, 1, label="cofactor-singular"),
    row("det", lambda x: grad(ops.sum(ops.square(det_gradient(x))), [x])[0], regular(2, 2),
        lambda x: 2 * x, label="second"),
    row("slogdet", ops.slogdet, regular(2, 3, 3), lambda x: tuple(np.linalg.slogdet(x))),
    row("logdet", ops.logdet, regular(4, 4), lambda x: np.linalg.slogdet(x)[1]),
]  # fmt: skip

DECOMPOSITIONS = [
    row("qr", ops.qr, regular(2, 4, 3), lambda x: tuple(np.linalg.qr(x))),
    row("qr", ops.qr, regular(2, 4), lambda x: tuple(np.linalg.qr(x)), label="wide"),
    row("qr", lambda x: ops.qr(x, "complete"), regular(3, 3),
        lambda x: tuple(np.linalg.qr(x, "complete")), label="complete"),
    row("qr", lambda x: ops.qr(x, "complete")[1], regular(4, 2),
        lambda x: np.linalg.qr(x, "complete")[1], orders=0, label="complete-r"),
    row("eigh", lambda x: vectors_squared(*ops.eigh(hermitian(x))), regular(2, 3, 3),
        lambda x: vectors_squared(*np.linalg.eigh(x + x.swapaxes(-1, -2)))),
    row("eigh", lambda x: vectors_squared(*ops.eigh(hermitian(x), "U")), regular(4, 4),
        lambda x: vectors_squared(*np.linalg.eigh(x + x.T, "U")), label="upper"),
    row("eigvalsh", lambda x: ops.eigvalsh(hermitian(x)), regular(2, 3, 3),
        lambda x: np.linalg.eigvalsh(x + x.swapaxes(-1, -2))),
    row("svd", lambda x: singular(*ops.svd(x, False), 3), regular(2, 4, 3),
        lambda x: singular(*np.linalg.svd(x, False), 3)),
    row("svd", lambda x: singular(*ops.svd(x, False), 2), regular(2, 4),
        lambda x: singular(*np.linalg.svd(x, False), 2), label="wide"),
    row("svd", lambda x: singular(*ops.svd(x), 3), regular(3, 3),
        lambda x: singular(*np.linalg.svd(x), 3), label="full"),
    row("svdvals", ops.svdvals, regular(2, 3, 4), lambda x: np.linalg.svd(x, compute_uv=False)),
    row("pinv", ops.pinv, regular(2, 4, 3), np.linalg.pinv),
    row("pinv", ops.pinv, regular(2, 4), np.linalg.pinv, label="wide"),
    row("lstsq", ops.lstsq, [regular(4, 2), normal(4)],
        lambda a, b: np.linalg.lstsq(a, b, rcond=None)[0]),
    *(row("matrix_norm", lambda x, k=k: ops.matrix_norm(x, k), regular(2, 3, 4),
          lambda x, k=k: np.linalg.matrix_norm(x, ord=k), label=str(k))
      for k in ("fro", "nuc", 2, -2, 1, -1, np.inf, -np.inf)),
    row("matrix_norm", lambda x: ops.matrix_norm(x, keepdims=True), regular(3, 3),
        lambda x: np.linalg.matrix_norm(x, keepdims=True), label="keepdims"),
]  # fmt: skip

LINALG = [*MATRIX, *SYSTEMS, *DETERMINANTS, *DECOMPOSITIONS]

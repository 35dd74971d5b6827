"""Linear algebra beyond the op tables: errors, singular and broken input, LAPACK's threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import scipy.linalg
from samples_linalg import cofactors, deficient
from test_ops_reference import inputs_for, results

import staticgraph as sg
from staticgraph import lapack, ops
from staticgraph.byhand import elimination, panels
from staticgraph.interpret import run

NAN, INF = np.nan, np.inf


def call(build, *arrays, **options):
    """The results of a compiled function of arrays."""
    inputs = inputs_for(arrays)
    return sg.compile(results(build(*inputs)), inputs, **options)(*arrays)


def adjoint(x):
    return ops.conj(x).mT


# ---------------------------------------------------------------------------- errors while building

SQUARE, WIDE, VECTOR = (inputs_for([np.zeros(s, "float32")])[0] for s in ((3, 3), (2, 3), (3,)))
ERRORS = [
    (lambda: ops.inv(WIDE), sg.ShapeError,
     "inv: needs square matrices on the last two axes, got f32[2, 3]"),
    (lambda: ops.det(VECTOR), sg.ShapeError,
     "det: needs square matrices on the last two axes, got f32[3]"),
    (lambda: ops.qr(VECTOR), sg.ShapeError,
     "qr: needs matrices on the last two axes, got f32[3]"),
    (lambda: ops.solve(SQUARE, WIDE), sg.ShapeError,
     "solve: with a f32[3, 3], b must be (3,) or (..., 3, k) with leading axes that broadcast,"
     " got f32[2, 3]"),
    (lambda: ops.solve(np.zeros((2, 3, 3)), np.zeros((4, 3, 1))), sg.ShapeError,
     "solve: with a f64[2, 3, 3], b must be (3,) or (..., 3, k) with leading axes that broadcast,"
     " got f64[4, 3, 1]"),
    (lambda: ops.triangular_solve(WIDE, VECTOR), sg.ShapeError,
     "triangular_solve: needs square matrices on the last two axes, got f32[2, 3]"),
    (lambda: ops.lstsq(WIDE, VECTOR), sg.ShapeError,
     "lstsq: with a f32[2, 3], b must be (2,) or (..., 2, k) with leading axes that broadcast,"
     " got f32[3]"),
    (lambda: ops.qr(SQUARE, "full"), sg.GraphTypeError,
     "qr: mode is 'reduced' or 'complete', got 'full'"),
    (lambda: ops.eigh(SQUARE, "l"), sg.GraphTypeError, "eigh: UPLO is 'L' or 'U', got 'l'"),
    (lambda: ops.matrix_norm(SQUARE, 3), sg.GraphTypeError,
     "matrix_norm: ord is 'fro', 'nuc', 2, -2, 1, -1, inf or -inf, got 3"),
    (lambda: ops.matrix_power(SQUARE, 0.5), sg.GraphTypeError,
     "matrix_power: n is an int, got 0.5"),
    (lambda: ops.tril(SQUARE, True), sg.GraphTypeError, "tril: k is an int, got True"),
    (lambda: ops.triu(VECTOR), sg.ShapeError, "triu: x needs at least 2 axes, got f32[3]"),
    (lambda: ops.diag(1.0), sg.ShapeError, "diag: x needs at least 1 axis, got f32[]"),
    (lambda: ops.diagonal(SQUARE, 0, 1, -1), sg.ShapeError,
     "diagonal: axis1 and axis2 are both axis 1 of f32[3, 3]"),
    (lambda: ops.inner(SQUARE, WIDE.mT), sg.ShapeError,
     "inner: needs last axes of one size, got f32[3, 3] and f32[3, 2]"),
    (lambda: ops.cross(VECTOR, WIDE, 0), sg.ShapeError,
     "cross: needs 3 elements along axis 0, got f32[3], f32[2, 3]"),
    (lambda: ops.inv("a"), sg.GraphTypeError,
     "inv: operand 0 must be a tensor, array or number, got str"),
    (lambda: sg.grad(ops.sum(ops.qr(WIDE.mT, "complete")[0]), WIDE), sg.GradientError,
     "qr: Q has no derivative with mode='complete' and more rows than columns: its last columns"
     " are any basis of what the others leave"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "error", "message"), ERRORS, ids=[e[2][:40] for e in ERRORS])
def test_error(build, error, message):
    with pytest.raises(error) as caught:
        build()
    assert caught.value.summary == message


def test_integers_become_the_default_float():
    got = call(ops.inv, np.array([[2, 0], [0, 4]]))[0]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[0.5, 0], [0, 0.25]])


# ---------------------------------------------------------------------------- errors while running

SINGULAR = np.array([[1.0, 2.0], [2.0, 4.0]])
FAILING = {
    "inv": (ops.inv, "inv: the matrix is singular, a pivot is exactly 0"),
    "solve": (lambda a: ops.solve(a, np.ones(2)),
              "solve: the matrix is singular, a pivot is exactly 0"),
    "cholesky": (ops.cholesky, "cholesky: the matrix is not positive definite"),
    "power": (lambda a: ops.matrix_power(a, -1),
              "matrix_power: the matrix is singular, a pivot is exactly 0"),
    "slogdet": (lambda a: sg.grad(ops.sum(ops.slogdet(a)[1]), a),
                "the gradient of slogdet: the matrix is singular, a pivot is exactly 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILING)
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_failure_names_matrix_and_line(name, batch):
    build, message = FAILING[name]
    a = np.zeros((*batch, 2, 2)) + np.eye(2)
    bad = [(0, 2), (1, 0)] if batch else [()]
    for place in bad:
        a[place] = SINGULAR
    (x,) = inputs = inputs_for([a])
    y = build(x)
    function = sg.compile(y, inputs)
    wanted = message + (" (at 0, 2 of the batch)" if batch else "")
    with pytest.raises(sg.NumericError) as caught:
        function(a)
    assert caught.value.summary == wanted
    assert caught.value.where[0] == __file__
    with pytest.raises(sg.NumericError, match=r"singular|definite"):
        run(sg.Graph(inputs, [y]), [a])
    function(np.zeros((*batch, 2, 2)) + np.eye(2))  # and it still works


def test_failure_leaves_variables_alone():
    v = sg.variable(np.ones((2, 2)), name="v")
    x = sg.input("x", (2, 2), "float64")
    step = sg.compile(ops.sum(v), [x], updates={v: v + ops.inv(x)})
    with pytest.raises(sg.NumericError):
        step(SINGULAR)
    assert step(np.eye(2)) == 4.0
    assert step(np.eye(2)) == 6.0


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("n", [3, 200, 400])
def test_numbers_that_are_none(bad, n):
    """NaN or an error, never a hang; the other matrices of the batch are as without them."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((3, n, n))
    a = a @ a.swapaxes(-1, -2) + np.eye(n)
    clean = a.copy()
    a[1, 1, 0] = bad
    a[1, 0, 1] = bad
    good = [0, 2]

    def solved(x):
        return ops.solve(x, np.ones(n))

    for build in (
        ops.eigvalsh, lambda x: ops.eigh(x)[0], ops.svdvals, lambda x: ops.svd(x)[1], ops.det,
        lambda x: ops.qr(x)[1], solved,
    ):  # fmt: skip
        (got,) = call(build, a)
        (wanted,) = call(build, clean)
        np.testing.assert_array_equal(got[good], wanted[good])
        # Equations with an infinite coefficient may have a solution.
        assert not np.isfinite(got[1]).all() or (build is solved and np.isinf(bad))
    with pytest.raises(sg.NumericError, match=r"not positive definite \(at 1 of the batch\)"):
        call(ops.cholesky, a)


def test_zero_on_a_diagonal_of_a_triangle_divides():
    (got,) = call(lambda a, b: ops.triangular_solve(a, b, lower=True), np.zeros((1, 1)), np.ones(1))
    assert got == INF


# ---------------------------------------------------------------------------- derivatives


def test_det_of_singular_matrices_has_two_derivatives(rng):
    """Against the minors: of order n - 1 for the first, n - 2 for the second."""
    a = deficient(3, 4, 4).make(rng)
    e = rng.standard_normal(a.shape)

    def build(x):
        (first,) = [sg.grad(ops.sum(ops.det(x)), x)]
        return first, sg.grad(ops.sum(first * e), x)

    first, second = call(build, a)
    step = 1e-5
    slope = (cofactors(a + step * e) - cofactors(a - step * e)) / (2 * step)
    np.testing.assert_allclose(first, cofactors(a), atol=1e-12)
    np.testing.assert_allclose(second, slope, atol=1e-8)
    assert np.abs(first[0]).max() > 0.1
    assert np.abs(second[1]).max() > 0.1


def test_third_derivative_of_det_needs_an_inverse():
    def build(x):
        y = ops.sum(ops.det(x))
        for _ in range(3):
            y = ops.sum(sg.grad(y, x) * np.arange(1.0, 10).reshape(3, 3))
        return y

    with pytest.raises(sg.NumericError, match="third derivative of det: the matrix is singular"):
        call(build, np.ones((3, 3)))
    # det is cubic here: its third derivative along e is 6 det(e), whatever the matrix.
    assert call(build, np.diag([1.0, 2, 3]))[0] == pytest.approx(0, abs=1e-9)


def test_equal_eigenvalues_have_the_derivative_of_what_does_not_depend_on_the_choice(rng):
    """trace(g(a)) through eigenvectors, at the identity: the derivative is g'(1) I."""
    a = np.eye(3) * 2

    def function(x):
        w, v = ops.eigh(x)
        return ops.sum((v * ops.exp(w)[None, :]) @ v.mT * weights)

    weights = rng.standard_normal((3, 3))
    (got,) = call(lambda x: sg.grad(function(x), x), a)
    # The part between equal values counts as 0, so what is left are the diagonal terms.
    np.testing.assert_allclose(got, np.diag(np.diag(weights)) * np.exp(2.0), atol=1e-12)
    (got,) = call(lambda x: sg.grad(ops.sum(ops.exp(ops.eigvalsh(x))), x), a)
    np.testing.assert_allclose(got, np.eye(3) * np.exp(2.0), atol=1e-12)


def test_gradient_of_the_complete_r(rng):
    a, c = rng.standard_normal((4, 2)), rng.standard_normal((4, 2))
    wanted = call(lambda x: sg.grad(ops.sum(ops.qr(x)[1] * c[:2]), x), a)[0]
    got = call(lambda x: sg.grad(ops.sum(ops.qr(x, "complete")[1] * c), x), a)[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)], ids=str)
def test_gradient_through_all_singular_vectors(shape, rng):
    """Projections on both parts of U and of V, which no choice of a basis changes."""
    a = rng.standard_normal(shape)
    weights = [rng.standard_normal((n, n)) for n in (*shape, *shape)]

    def function(x):
        u, _, vh = ops.svd(x)
        parts = u[:, :2], vh[:2].mT, u[:, 3:], vh[3:].mT
        return ops.add_n(
            [ops.sum((p @ p.mT) * w) for p, w in zip(parts, weights, strict=True) if p.size]
        )

    sg.check_grad(function, (a,))


def test_gradient_of_the_frobenius_norm_at_0():
    (got,) = call(lambda x: sg.grad(ops.matrix_norm(x), x), np.zeros((2, 3)))
    np.testing.assert_array_equal(got, np.zeros((2, 3)))


LINEAR = {
    "tril": (lambda x: ops.tril(x, -1), (2, 3, 4)),
    "triu": (lambda x: ops.triu(x, 1), (4, 4)),
    "diag": (lambda x: ops.diag(x, 2), (2, 3)),
    "diagonal": (lambda x: ops.diagonal(x, -1), (2, 4, 3)),
    "triangular_solve": (lambda x: ops.triangular_solve(np.eye(3) + np.tri(3), x, lower=True),
                         (3, 2)),
    "solve": (lambda x: ops.solve(np.eye(3) * 3 + np.tri(3), x), (2, 3, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_adjoint(name, rng):
    """<f(x), y> = <x, f*(y)>, f* being the gradient, and its gradient f again."""
    build, shape = LINEAR[name]
    x = rng.standard_normal(shape)
    (t,) = inputs_for([x])
    fx = build(t)
    y = rng.standard_normal(fx.shape)
    back = sg.grad(fx, t, y)
    again = sg.grad(ops.sum(sg.grad(fx, t, s := sg.input("s", y.shape, "float64")) * x), s)
    value, pulled = sg.compile([fx, back], [t])(x)
    assert np.vdot(value, y) == pytest.approx(np.vdot(x, pulled), rel=1e-12)
    (twice,) = sg.compile([again], [t, s])(x, y)
    np.testing.assert_allclose(twice, value, rtol=1e-12)


# ---------------------------------------------------------------------------- complex, by PyTorch


def no_phases(found):
    """What does not depend on the phases of vectors."""
    if len(found) == 2:
        return found[0], abs(found[1]) ** 2
    u, s, vh = found
    return s, abs(u) ** 2, abs(vh) ** 2, u @ vh


COMPLEX = {
    "inv": (ops.inv, lambda t, x: t.linalg.inv(x), (2, 3, 3)),
    "det": (ops.det, lambda t, x: t.linalg.det(x), (2, 3, 3)),
    "slogdet": (ops.slogdet, lambda t, x: t.linalg.slogdet(x), (2, 3, 3)),
    "solve": (lambda x: ops.solve(x, ops.conj(x)), lambda t, x: t.linalg.solve(x, x.conj()),
              (2, 3, 3)),
    "triangular": (
        lambda x: ops.triangular_solve(x, x, transpose=True),
        lambda t, x: t.linalg.solve_triangular(x.triu().mT, x, upper=False), (3, 3)),
    "cholesky": (lambda x: ops.cholesky(x @ adjoint(x)), lambda t, x: t.linalg.cholesky(x @ x.mH),
                 (2, 3, 3)),
    "upper": (lambda x: ops.cholesky(x @ adjoint(x), upper=True),
              lambda t, x: t.linalg.cholesky(x @ x.mH, upper=True), (3, 3)),
    "lu": (lambda x: ops.lu(x)[1:], lambda t, x: t.linalg.lu(x)[1:], (3, 3)),
    "qr": (ops.qr, lambda t, x: t.linalg.qr(x), (2, 4, 3)),
    "qr-wide": (ops.qr, lambda t, x: t.linalg.qr(x), (2, 4)),
    "eigvalsh": (lambda x: ops.eigvalsh(x + adjoint(x)), lambda t, x: t.linalg.eigvalsh(x + x.mH),
                 (2, 3, 3)),
    "eigh": (lambda x: no_phases(ops.eigh(x + adjoint(x))),
             lambda t, x: no_phases(t.linalg.eigh(x + x.mH)), (3, 3)),
    "svd": (lambda x: no_phases(ops.svd(x, False)),
            lambda t, x: no_phases(t.linalg.svd(x, False)), (2, 4, 3)),
    "svd-wide": (lambda x: no_phases(ops.svd(x, False)),
                 lambda t, x: no_phases(t.linalg.svd(x, False)), (3, 4)),
    "pinv": (ops.pinv, lambda t, x: t.linalg.pinv(x), (2, 4, 3)),
}  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_values_and_two_derivatives(name, rng):
    torch = pytest.importorskip("torch")
    ours, theirs, shape = COMPLEX[name]
    a = rng.standard_normal(shape) + 1j * rng.standard_normal(shape) + 2 * np.eye(*shape[-2:])
    (x,) = inputs_for([a])
    values = results(ours(x))
    weights = [rng.standard_normal(v.shape) for v in values]
    t = torch.tensor(a, requires_grad=True)
    wanted = results(theirs(torch, t))

    def real(z):
        return z.real if isinstance(z, torch.Tensor) else ops.real(z)

    total = sum((real(v * v) * torch.tensor(w)).sum() for v, w in zip(wanted, weights, strict=True))
    (g,) = torch.autograd.grad(total, t, create_graph=True)
    (h,) = torch.autograd.grad((real(g * g)).sum(), t)
    mine = ops.add_n([ops.sum(real(v * v) * w) for v, w in zip(values, weights, strict=True)])
    first = sg.grad(mine, x)
    second = sg.grad(ops.sum(real(first * first)), x)
    got = sg.compile([*values, first, second], [x])(a)
    for p, q in zip(got, [*wanted, g, h], strict=True):
        q = q.detach().resolve_conj().numpy()
        np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-10 * np.abs(q).max())


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_factors(dtype, rng):
    """Through LAPACK for complex numbers: products of the factors give the matrix back."""
    a = (rng.standard_normal((2, 5, 5)) + 1j * rng.standard_normal((2, 5, 5))).astype(dtype)

    def build(x):
        q, r = ops.qr(x)
        u, s, vh = ops.svd(x)
        w, v = ops.eigh(x + adjoint(x))
        l = ops.cholesky(x @ adjoint(x))  # noqa: E741
        values = (t.astype(dtype)[..., None, :] for t in (s, w))
        s, w = values
        return (
            q @ r,
            (u * s) @ vh,
            (v * w) @ adjoint(v) - adjoint(x),
            l @ adjoint(l),
            ops.inv(x) @ x,
        )

    eye = np.broadcast_to(np.eye(5), a.shape)
    tolerance = 2e-5 if dtype == "complex64" else 1e-12
    for got, wanted in zip(call(build, a), (a, a, a, a @ a.conj().swapaxes(-1, -2), eye),
                           strict=True):  # fmt: skip
        np.testing.assert_allclose(got, wanted, atol=tolerance * 20)


# ---------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 3, 16, 18, 37, 64])
def test_small_factors_against_scipy(n, dtype, rng):
    """Every remainder of the panels and lanes; the pivots are those of SciPy."""
    a = (1.6 / np.sqrt(n) * rng.standard_normal((3, n, n))).astype(dtype)
    definite = (a @ a.swapaxes(-1, -2) + np.eye(n)).astype(dtype)
    *found, lower = call(lambda x, y: (*ops.lu(x), ops.det(x), ops.cholesky(y)), a, definite)
    exact = a.astype("float64")
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for got, wanted in zip(found[:3], scipy.linalg.lu(exact), strict=True):
        np.testing.assert_allclose(got, wanted, atol=tolerance * 50)
    np.testing.assert_allclose(found[3], np.linalg.det(exact), rtol=tolerance * 100)
    wanted = np.linalg.cholesky(definite.astype("float64"))
    np.testing.assert_allclose(lower, wanted, atol=tolerance * n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_factors_are_lapacks(dtype, rng):
    n = elimination.MOST_ROWS[dtype] + 1
    assert n < panels.LEAST_ROWS
    a = (rng.standard_normal((n, n)) + 4 * np.eye(n) * np.sqrt(n)).astype(dtype)
    definite = (a @ a.T / n + np.eye(n)).astype(dtype)
    x, y = inputs = inputs_for([a, definite])
    function = sg.compile([ops.inv(x), ops.cholesky(y)], inputs)
    sources = " ".join(k.source for k in function.kernels)
    assert "getrf(" in sources
    assert "potrf(" in sources
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    inverse, lower = function(a, definite)
    np.testing.assert_allclose(inverse @ a, np.eye(n), atol=tolerance * 10)
    np.testing.assert_allclose(lower @ lower.T, definite, atol=tolerance * np.abs(definite).max())


def symmetric_batches(n, rng):
    """Matrices that try an iteration, each kind in a batch with all others."""
    full = rng.standard_normal((14, n, n))
    full += full.swapaxes(-1, -2)
    grading = np.logspace(0, -12, n)
    full[1] = 0
    full[2] = np.diag(rng.integers(0, 3, n))
    full[3] = np.outer(full[4, 0], full[4, 0])
    full[5] *= grading[:, None] * grading
    full[6] *= grading[::-1, None] * grading[::-1]
    full[7] = 1
    full[8] *= 1e30
    full[9] *= 1e-30
    full[10, : n // 2, n // 2 :] = full[10, n // 2 :, : n // 2] = 0
    full[11] = np.diag(np.abs(np.arange(n) - n // 2)) + np.eye(n, k=1) + np.eye(n, k=-1)
    return full


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 7, 33])
def test_eigenvalues_of_many_matrices(n, dtype, rng):
    """Sixteen at a time: residuals, orthogonality and values within 10 n roundings."""
    a = symmetric_batches(n, rng).astype(dtype)
    a[12 if n > 2 else 0, -1, 0] = NAN
    below, above = np.tril(a), np.triu(a)
    w, v, alone = call(lambda x: (*ops.eigh(x), ops.eigvalsh(x)), below)
    upper = call(lambda x: ops.eigh(x, "U"), above.swapaxes(-1, -2) if n == 1 else above)
    exact = (below + np.tril(below, -1).swapaxes(-1, -2)).astype("float64")
    bad = np.isnan(exact).any((-2, -1))
    assert bad.sum() == 1
    for y in (w, v, alone):
        assert np.isnan(y[bad]).all()
    exact, w, v, alone = exact[~bad], w[~bad], v[~bad].astype("float64"), alone[~bad]
    wanted = np.linalg.eigvalsh(exact)
    size = np.abs(wanted).max(-1)[:, None] * np.finfo(dtype).eps * 10 * max(n, 4)
    assert (np.abs(w - wanted) <= size).all()
    assert (np.abs(alone - wanted) <= size).all()
    assert (np.diff(w) >= 0).all()
    assert (np.abs(exact @ v - v * w[:, None, :]).max(-1) <= size).all()
    unit = v.swapaxes(-1, -2) @ v - np.eye(n)
    assert np.abs(unit).max() <= np.finfo(dtype).eps * 10 * max(n, 4)
    kept = ~bad & ~np.isnan(above).any((-2, -1))
    assert (np.abs(upper[0][kept] - wanted[kept[~bad]]) <= size[kept[~bad]]).all()


def test_eigenvalues_of_many_matrices_do_not_call_lapack():
    for count, dtype, wanted in ((20, "float32", False), (20, "complex64", True), (3, "f8", True)):
        x = sg.input("x", (count, 5, 5), np.dtype(dtype).name)
        function = sg.compile(ops.eigh(x), [x])
        function(np.zeros((count, 5, 5), dtype))
        assert any("lapack_" in k.source for k in function.kernels) == wanted


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((390, 390), "float64"), ((2, 449, 449), "complex64"), ((1090, 1090), "float32")],
    ids=str,
)
def test_factors_in_panels(shape, dtype, rng):
    """Panels of both heights, ragged last ones, a batch; the same bits on any thread count."""
    a = rng.standard_normal(shape)
    a = (a + 1j * rng.standard_normal(shape) if dtype[0] == "c" else a).astype(dtype)
    (x,) = inputs = inputs_for([a])
    function = sg.compile([*ops.lu(x), ops.inv(x), *ops.slogdet(x)], inputs)
    found = function(a)
    with sg.threads(1):
        for p, q in zip(function(a), found, strict=True):
            np.testing.assert_array_equal(p, q)
    permutation, lower, upper, inverse, sign, logarithm = found
    size = np.finfo(dtype).eps * shape[-1]
    exact = a.astype("complex128")
    # LAPACK compares sums of real and imaginary part.
    assert abs(lower).max() <= (np.sqrt(2) if dtype[0] == "c" else 1) * (1 + size)
    assert abs(permutation @ lower.astype("c16") @ upper - exact).max() <= size * abs(a).max()
    # The residual of an inverse grows with the condition, not only with the rounding.
    scale = np.linalg.matrix_norm(exact) * np.linalg.matrix_norm(inverse)
    assert (np.linalg.matrix_norm(exact @ inverse - np.eye(shape[-1])) <= size * scale).all()
    wanted = np.linalg.slogdet(exact)
    np.testing.assert_allclose(sign, wanted[0], atol=size * 100)
    np.testing.assert_allclose(logarithm, wanted[1], rtol=size)


def test_a_zero_pivot_in_a_later_panel_is_found(rng):
    a = rng.standard_normal((3, 400, 400))
    a[1, :, 300] = 0
    (x,) = inputs = inputs_for([a])
    inverse = sg.compile(ops.inv(x), inputs)
    with pytest.raises(sg.NumericError, match=r"singular.*\(at 1 of the batch\)"):
        inverse(a)
    assert call(ops.det, a)[0][1] == 0


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 0), (0, 0)], ids=str)
def test_nothing(shape):
    a = np.zeros(shape)
    got = call(lambda x: (ops.inv(x), ops.det(x), ops.cholesky(x), ops.solve(x, x), *ops.qr(x),
                          ops.eigvalsh(x), *ops.svd(x), ops.slogdet(x)[1],
                          sg.grad(ops.sum(ops.det(x)), x)), a)  # fmt: skip
    wanted = (np.linalg.inv(a), np.linalg.det(a), a, a, *np.linalg.qr(a), np.linalg.eigvalsh(a),
              *np.linalg.svd(a), np.linalg.slogdet(a)[1], a)  # fmt: skip
    for p, q in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(p, q)


def test_no_columns_and_no_rows():
    for shape in ((2, 3, 0), (0, 3)):
        a = np.zeros(shape)
        got = call(lambda x: (*ops.qr(x, "complete"), *ops.svd(x), ops.pinv(x)), a)
        wanted = (*np.linalg.qr(a, "complete"), *np.linalg.svd(a), np.linalg.pinv(a))
        for p, q in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(p, q)


def test_ill_conditioned():
    """The Hilbert matrix: backward error is small, whatever the condition."""
    a = scipy.linalg.hilbert(10)
    b = np.ones(10)
    x, lower = call(lambda a, b: (ops.solve(a, b), ops.cholesky(a)), a, b)
    assert np.abs(a @ x - b).max() <= 1e-15 * 10 * np.abs(a).max() * np.abs(x).max()
    np.testing.assert_allclose(lower @ lower.T, a, atol=1e-15)
    sign, logarithm = call(ops.slogdet, a)
    wanted = np.linalg.slogdet(a)
    assert (sign, logarithm) == (wanted[0], pytest.approx(wanted[1], rel=1e-6))


def test_slogdet_where_det_underflows():
    """Catalogue 10.18: 400 x 400, 0.01 I."""
    a = np.eye(400) * 0.01
    det, sign, logarithm = call(lambda x: (ops.det(x), *ops.slogdet(x)), a)
    assert (det, sign) == (0.0, 1.0)
    assert logarithm == pytest.approx(-1842.0680743952366, rel=1e-13)


def test_slogdet_of_a_singular_matrix():
    assert call(ops.slogdet, np.zeros((2, 2))) == [0.0, -INF]


# ---------------------------------------------------------------------------- kernels and threads


def everything(x):
    """All kernels over LAPACK, and those that stand in for it."""
    definite = x @ x.mT + ops.eye(x.shape[-1], dtype=x.dtype)
    w, v = ops.eigh(definite)
    return [
        ops.inv(x), ops.solve(x, x.mT), ops.det(x), ops.cholesky(definite), *ops.qr(x), w, v,
        *ops.svd(x), ops.triangular_solve(x, x, lower=True), ops.svdvals(x),
    ]  # fmt: skip


@pytest.mark.parametrize(("count", "n"), [(5, 20), (40, 9), (2, 210)])
def test_any_number_of_threads_gives_the_same_bits(count, n, rng):
    a = rng.standard_normal((count, n, n)).astype("float32")
    (x,) = inputs = inputs_for([a])
    function = sg.compile(everything(x), inputs)
    before = _blas_threads()
    with sg.threads(1):
        wanted = function(a)
    for count in (2, 3):
        with sg.threads(count):
            for p, q in zip(function(a), wanted, strict=True):
                np.testing.assert_array_equal(p, q)
    assert _blas_threads() == before


def _blas_threads():
    return lapack._threads.controls[0]()


def test_scipys_library_is_held_to_one_thread_and_let_go():
    controls = lapack._threads.controls
    assert controls is not None, "this SciPy's BLAS has no thread control we know"
    get, put = controls
    before = get()
    put(2)
    try:
        with lapack.single_threaded():
            assert get() == 1
            with lapack.single_threaded():
                assert get() == 1
            assert get() == 1
        assert get() == 2
        with pytest.raises(KeyError), lapack.single_threaded():
            raise KeyError
        assert get() == 2
    finally:
        put(before)


def test_calls_at_the_same_time(rng):
    a = rng.standard_normal((8, 40, 40))
    (x,) = inputs = inputs_for([a])
    function = sg.compile([ops.qr(x)[1], ops.inv(x), ops.svdvals(x)], inputs)
    wanted = function(a)
    found, before = [], _blas_threads()

    def work():
        for _ in range(5):
            found.append(function(a))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 20
    for got in found:
        for p, q in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(p, q)
    assert _blas_threads() == before


PROGRAM = """
import sys
import numpy as np
import staticgraph as sg
x = sg.input("x", (3, 3), "float64")
assert "scipy" not in sys.modules
plain = sg.compile(sg.ops.exp(x), [x])
plain(np.eye(3))
assert "scipy.linalg" not in sys.modules  # Numba imports a part of SciPy
function = sg.compile(sg.ops.qr(x)[1], [x])
print(*np.abs(np.diag(function(np.diag([1.0, 2.0, 3.0])))))
print([k.origin for k in function.kernels], "numba" in sys.modules, "scipy.linalg" in sys.modules)
"""


def test_scipy_is_imported_when_a_kernel_needs_it(tmp_path):
    """And a kernel from the cache finds it at another address, without Numba."""
    environment = {**os.environ, "STATICGRAPH_CACHE_DIR": str(tmp_path)}
    for line in ("['absent'] True True", "['disk'] False True"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.stdout.splitlines() == ["1.0 2.0 3.0", line], done.stderr


def test_unknown_routine():
    with pytest.raises(ImportError, match="scipy has no dnothing"):
        lapack.address("dnothing")


def test_text_form(rng):
    a = rng.standard_normal((2, 3, 3))
    (x,) = inputs = inputs_for([a])
    graph = sg.Graph(inputs, [*everything(x), sg.grad(ops.sum(ops.det(x)), x)])
    again = sg.parse(str(graph))
    assert str(again) == str(graph)
    for p, q in zip(run(graph, [a]), run(again, [a]), strict=True):
        np.testing.assert_array_equal(p, q)


def test_products_beside_their_operands(rng):
    """What derivatives of `inv` and `solve` are made of, of matrices down to 1 x 1."""
    for n in (1, 3):
        a, b = rng.standard_normal((2, 2, n, n))
        for build in (
            lambda x, y: ops.exp(x) @ y + ops.exp(x),
            lambda x, y: x * 2.0 - x @ y,
            lambda x, y: (x * y - x @ y) * ops.sum(x, (1, 2), keepdims=True),
        ):
            inputs = inputs_for([a, b])
            value = build(*inputs)
            (wanted,) = run(sg.Graph(inputs, [value]), [a, b])
            np.testing.assert_allclose(sg.compile(value, inputs)(a, b), wanted, rtol=1e-12)


def test_cuda_has_no_kernels():
    x = sg.input("x", (3, 3))
    with pytest.raises(sg.TargetError):
        sg.compile(ops.inv(x), [x], target="cuda")

"""Operations and bytes against counts by hand: every kind of op, any shape, and JAX's own count."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import SAMPLES

import staticgraph as sg
from staticgraph.count import Cost, cost, products, total
from staticgraph.ir import Graph

ops = sg.ops


def x(*shape, dtype="float32"):
    return sg.input("x", shape, dtype)


def y(*shape, dtype="float32"):
    return sg.input("y", shape, dtype)


def conv_pairs(n, kernel, stride, low, high, dilation):
    """Output places times kernel offsets that meet an element of the input, by trying all."""
    out = (n + low + high - dilation * (kernel - 1) - 1) // stride + 1
    return sum(0 <= o * stride - low + k * dilation < n for o in range(out) for k in range(kernel))


F, D, C = 4, 8, 8  # bytes of float32, float64 and complex64

#: (graph of one op, flops, transcendentals, bytes read, bytes written), all counted by hand
ROWS = {
    "add": (lambda: x(3, 5) + y(3, 5), 15, 0, 2 * 15 * F, 15 * F),
    "add of one operand twice": (lambda: (lambda t: t + t)(x(3, 5)), 15, 0, 15 * F, 15 * F),
    "broadcast add": (lambda: x(3, 5) + y(5), 15, 0, (15 + 5) * F, 15 * F),
    "float64": (lambda: x(7, dtype="float64") * y(7, dtype="float64"), 7, 0, 14 * D, 7 * D),
    "integers": (lambda: x(7, dtype="int32") * y(7, dtype="int32"), 0, 0, 14 * 4, 7 * 4),
    "exp": (lambda: ops.exp(x(9)), 9, 9, 9 * F, 9 * F),
    "tanh": (lambda: ops.tanh(x(9)), 9, 9, 9 * F, 9 * F),
    "sqrt": (lambda: ops.sqrt(x(9)), 9, 0, 9 * F, 9 * F),
    "less": (lambda: x(9) < y(9), 9, 0, 18 * F, 9),
    "where": (
        lambda: ops.where(sg.input("c", (9,), "bool"), x(9), y(9)),
        0, 0, 9 + 18 * F, 9 * F,
    ),
    "cast": (lambda: x(9).astype("float64"), 0, 0, 9 * F, 9 * D),
    "complex multiply": (
        lambda: x(5, dtype="complex64") * y(5, dtype="complex64"), 30, 0, 10 * C, 5 * C,
    ),
    "complex add": (
        lambda: x(5, dtype="complex64") + y(5, dtype="complex64"), 10, 0, 10 * C, 5 * C,
    ),
    "sum of all": (lambda: x(6, 7).sum(), 41, 0, 42 * F, F),
    "sum of rows": (lambda: x(6, 7).sum(axis=1), 6 * 6, 0, 42 * F, 6 * F),
    "max of columns": (lambda: x(6, 7).max(axis=0), 5 * 7, 0, 42 * F, 7 * F),
    "sum of integers": (lambda: x(6, 7, dtype="int64").sum(), 0, 0, 42 * 8, 8),
    "any": (lambda: ops.any(x(6, 7, dtype="bool")), 0, 0, 42, 1),
    "matmul": (lambda: x(3, 5) @ y(5, 7), 2 * 3 * 5 * 7, 0, (15 + 35) * F, 21 * F),
    "batched matmul": (
        lambda: x(4, 3, 5) @ y(5, 7), 4 * 2 * 3 * 5 * 7, 0, (60 + 35) * F, 84 * F,
    ),
    "complex matmul": (
        lambda: x(3, 5, dtype="complex64") @ y(5, 7, dtype="complex64"),
        8 * 3 * 5 * 7, 0, (15 + 35) * C, 21 * C,
    ),
    "transpose": (lambda: ops.transpose(x(3, 5)), 0, 0, 15 * F, 15 * F),
    "slice": (lambda: x(10, 8)[2:5, ::2], 0, 0, 12 * F, 12 * F),
    "flip": (lambda: ops.flip(x(3, 5), 1), 0, 0, 15 * F, 15 * F),
    "broadcast_to": (lambda: ops.broadcast_to(x(5), (3, 5)), 0, 0, 5 * F, 15 * F),
    "concat": (lambda: ops.concat([x(3, 5), y(2, 5)], axis=0), 0, 0, 25 * F, 25 * F),
    "pad": (lambda: ops.pad(x(4), 3), 0, 0, (4 + 1) * F, 10 * F),
    "rows taken": (
        lambda: ops.take(x(1000, 8), sg.input("i", (5,), "int64"), axis=0),
        0, 0, 5 * 8 * F + 5 * 8, 5 * 8 * F,
    ),
    "conv without padding": (
        lambda: ops.conv2d(x(2, 3, 9, 8), y(4, 3, 3, 3)),
        2 * (2 * 4 * 3) * (7 * 3) * (6 * 3), 0, (2 * 3 * 72 + 4 * 3 * 9) * F, 2 * 4 * 42 * F,
    ),
    "conv with padding": (
        lambda: ops.conv1d(x(2, 4, 10), y(6, 2, 3), stride=2, padding=1, groups=2),
        2 * (2 * 6 * 2) * conv_pairs(10, 3, 2, 1, 1, 1), 0, (80 + 36) * F, 2 * 6 * 5 * F,
    ),
    "cumsum": (lambda: ops.cumsum(x(4, 9), axis=1), 4 * 8, 0, 36 * F, 36 * F),
    "cumprod": (
        lambda: ops.cumprod(x(4, 9, dtype="complex64"), axis=1), 6 * 4 * 8, 0, 36 * C, 36 * C,
    ),
    "max_pool": (
        lambda: ops.max_pool2d(x(1, 2, 8, 8), 2), 1 * 2 * 16 * 3, 0, 128 * F, 32 * F,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_counts_by_hand(name):
    build, *expected = ROWS[name]
    assert cost(build().node) == Cost(*expected)


@pytest.mark.parametrize("build", [lambda: x(3, 5), lambda: x(3, 5).reshape(15)])
def test_leaves_and_views_of_memory_cost_nothing(build):
    assert cost(build().node) == Cost()


def test_additions_into_a_result():
    t = ops.scatter_add(x(10, 4), sg.input("i", (7,), "int64"), y(7, 4), axis=0)
    # Into zeros, which are then added to x.
    assert total(sg.compile(t).graph).flops == 7 * 4 + 10 * 4


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_products_of_any_shape(m, n, k):
    made = cost((x(m, k) @ y(k, n)).node)
    assert made == Cost(2 * m * n * k, 0, (m * k + k * n) * F, m * n * F)


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.sets(st.integers(0, 3)),
)
def test_reductions_of_any_shape(shape, axes):
    axes = tuple(a for a in sorted(axes) if a < len(shape))
    kept = [n for a, n in enumerate(shape) if a not in axes]
    elements, results = int(np.prod(shape)), int(np.prod(kept))
    t = ops.sum(x(*shape), axis=axes)
    if t.node.op.name == "sum":
        assert cost(t.node).flops == max(0, elements - results)


@given(
    st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3)
)
def test_convolutions_and_their_gradients_meet_the_same_pairs(n, kernel, stride, pad, dilation):
    if n + 2 * pad < dilation * (kernel - 1) + 1:
        return
    image, weight = x(2, 3, n), y(5, 3, kernel)
    out = ops.conv(image, weight, stride=stride, padding=pad, dilation=dilation)
    pairs = 2 * 5 * 3 * conv_pairs(n, kernel, stride, pad, pad, dilation)
    seen = {}
    for g in sg.grad((out * out).sum(), [image, weight]):
        stack = [g.node]
        while stack:
            node = stack.pop()
            if node.op.name.startswith("conv"):
                seen[node.op.name] = products(node)
            stack += [t.node for t in node.operands]
    for name, found in seen.items():
        assert found == pairs, name
    assert seen


def _steps_of_cholesky(n):
    """Square roots, divisions, and the multiplications and additions of each update."""
    return sum(1 + (n - k) + (n - k) * (n - k + 1) for k in range(1, n + 1))


def _steps_of_lu(n):
    return sum((n - k) + 2 * (n - k) ** 2 for k in range(1, n))


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_factorizations_as_their_loops_count(n):
    def flops(t, name):
        found, stack = [], [t.node]
        while stack:
            node = stack.pop()
            found += [cost(node).flops] if node.op.name == name else []
            stack += [o.node for o in node.operands]
        return max(found)

    a, b = x(3, n, n), y(3, n, 4)
    assert flops(ops.cholesky(a), "cholesky_factor") == 3 * _steps_of_cholesky(n)
    assert flops(ops.solve(a, b), "lu_factor") == 3 * _steps_of_lu(n)
    solved = ops.solve_triangular(a, b)
    # n (n - 1) / 2 multiplications and subtractions, and n divisions, per right-hand side.
    assert flops(solved, "triangular_solve") == 3 * 4 * (n * (n - 1) + n)


# -- fusion changes no count ----------------------------------------------------------------------
def fused_and_plain(outputs, inputs):
    return [sg.compile(outputs, inputs, pipeline=p) for p in ("default", "none")]


def test_a_fused_node_costs_the_sum_of_its_members_less_what_stays_inside():
    t = x(64, 32)
    fused, plain = fused_and_plain(ops.tanh(t) * 2.0 + t, [t])
    (node,) = [s.node for s in fused.plan.steps]
    assert node.op.name == "fusion"
    assert cost(node) == Cost(3 * 64 * 32, 64 * 32, 64 * 32 * F, 64 * 32 * F)
    assert total(plain.optimized)[:2] == total(fused.optimized)[:2]


def test_a_slice_inside_a_fusion_reads_what_it_needs():
    t = x(1000, 32)
    fused, _ = fused_and_plain(ops.tanh(t[10:14]), [t])
    (node,) = [s.node for s in fused.plan.steps]
    assert cost(node).bytes_read == 4 * 32 * F


@pytest.mark.parametrize("pipeline", ["default", "none"])
def test_kernels_sum_to_the_graph(pipeline):
    a, w = x(32, 24), y(24, 16)
    h = ops.tanh(a @ w)
    loss = (ops.softmax(h) ** 2).mean()
    fn = sg.compile([loss, *sg.grad(loss, [a, w])], [a, w], pipeline=pipeline)
    report = fn.profile(runs=2, warmup=1, roofs=False)
    whole = total(fn.optimized)
    assert sum(r.flops for r in report.kernels) == whole.flops
    assert sum(r.transcendentals for r in report.kernels) == whole.transcendentals
    assert whole.flops > 3 * 2 * 32 * 24 * 16


def test_a_kernel_row_has_the_bytes_of_its_node():
    t = x(64, 32)
    fn = sg.compile(ops.tanh(t) + y(32))
    (row,) = fn.profile(runs=2, warmup=1, roofs=False).kernels
    assert (row.bytes_read, row.bytes_written) == ((64 * 32 + 32) * F, 64 * 32 * F)
    assert row.bytes == row.bytes_read + row.bytes_written
    assert row.intensity == pytest.approx(row.flops / row.bytes)


def test_every_op_of_the_table_can_be_counted():
    """Counting never fails, whatever op: a new one at least counts its bytes."""
    for sample in itertools.islice(SAMPLES, 0, None, 3):
        inputs = [
            sg.input(f"p{k}", a.shape, a.dtype.name) for k, a in enumerate(sample.arrays("float32"))
        ]
        made = sample.build(*inputs)
        leaves = made if isinstance(made, (list, tuple)) else [made]
        graph = Graph(inputs, [t for t in leaves if isinstance(t, sg.Tensor)])
        for value in total(graph):
            assert isinstance(value, int)
            assert value >= 0


# -- a peer ---------------------------------------------------------------------------------------
@pytest.mark.peers
@pytest.mark.parametrize(("m", "n", "k"), [(64, 96, 128), (1, 300, 7), (257, 33, 65)])
def test_matmul_flops_are_those_of_jax(m, n, k):
    jax = pytest.importorskip("jax")
    a, b = np.ones((m, k), "f"), np.ones((k, n), "f")
    analysis = jax.jit(lambda p, q: p @ q).lower(a, b).compile().cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    assert cost((x(m, k) @ y(k, n)).node).flops == pytest.approx(analysis["flops"], rel=0.005)

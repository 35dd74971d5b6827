"""checkpoint: less memory as measured, the same bits, and nothing that undoes it."""

from itertools import pairwise

import numpy as np
import pytest

import staticgraph as sg
from staticgraph.interpret import run
from staticgraph.ir import postorder
from staticgraph.verify import verify

ops = sg.ops
ROWS, WIDTH, LAYERS = 256, 128, 12


def deep(wrap, *, layers=LAYERS):
    """Loss and gradients of a residual network of matmuls and elementwise ops."""
    rng = np.random.default_rng(1)
    x = sg.input("x", (ROWS, WIDTH))
    weights = [
        sg.variable((rng.standard_normal((WIDTH, WIDTH)) * 0.06).astype("f"), name=f"w{k}")
        for k in range(layers)
    ]

    def block(h, w):
        return ops.tanh(ops.silu(h @ w) * ops.sin(h)) + h

    block = wrap(block)
    h = x
    for w in weights:
        h = block(h, w)
    loss = (h * h).mean()
    return x, weights, loss, sg.grad(loss, weights)


def measured(wrap, pipeline="default"):
    x, _, loss, grads = deep(wrap)
    f = sg.compile([loss, *grads], [x], pipeline=pipeline)
    data = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype("f")
    return f, f(data)


@pytest.mark.parametrize("pipeline", ["default", "none"])
def test_the_peak_falls_and_the_bits_stay(pipeline):
    kept, values = measured(lambda f: f, pipeline)
    again, others = measured(sg.checkpoint, pipeline)
    one = ROWS * WIDTH * 4
    # One value for each block, and the few of the block that is computed again.
    assert again.memory.peak_bytes <= (LAYERS + 8) * one
    assert again.memory.peak_bytes < 0.45 * kept.memory.peak_bytes
    assert again.memory.peak_bytes <= 1.02 * again.memory.lower_bound_bytes
    for a, b in zip(values, others, strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_gradient_nothing_is_computed_twice():
    x, _, loss, _ = deep(sg.checkpoint)
    y, _, other, _ = deep(lambda f: f)
    assert str(sg.compile(loss, [x]).optimized) == str(sg.compile(other, [y]).optimized)


def test_no_pass_merges_a_clone_with_its_original():
    x = sg.input("x", (8,))
    w = sg.input("w", (8,))
    y = sg.checkpoint(lambda a: ops.exp(ops.sin(a) * w))(x)
    g = sg.grad((y * y).sum(), [x, w])
    graph = sg.passes.inline(sg.Graph([x, w], [y, *g]))

    def count(name):
        return sum(n.op.name == name for n in graph.nodes)

    for _ in range(2):
        assert (count("sin"), count("exp")) == (2, 2), "one of each forward, one computed again"
        for p in (sg.passes.fold, sg.passes.simplify, sg.passes.cse):
            graph = verify(p(graph))
    clones = {n.clone for n in graph.nodes}
    assert len(clones) == 2
    late = [n for n in graph.nodes if n.op.name == "late"]
    assert {n.operands[0] for n in late} == {x, w}
    assert "#clone=1" in str(graph)
    assert sg.parse(str(graph)) == graph


def test_clones_wait_for_the_cotangent():
    """Whatever order a plan takes and whatever fuses: a clone needs the end of the forward pass."""
    x, _, loss, grads = deep(sg.checkpoint, layers=3)
    graph = sg.passes.inline(sg.Graph([x], [loss, *grads]))
    forward = {n for n in graph.nodes if n.op.name == "tanh" and not n.clone}
    assert len(forward) == 3
    waiting = [n for n in graph.nodes if n.op.name == "late"]
    assert len(waiting) == 6
    for n in waiting:
        assert forward <= set(postorder(n.results))
    fused = sg.Pipeline(sg.passes.PIPELINES["default"].passes)(graph)
    for n in fused.nodes:
        if n.op.name == "fusion":
            inside = [m for m in n.attrs["body"].nodes if m.op.name in ("silu", "tanh", "sin")]
            assert len({m.clone for m in inside}) <= 1, "a forward node and a clone in one kernel"


def value_and_grads(wrap, x, p):
    def inner(a):
        return ops.sin(a) * ops.exp(a)

    inner = wrap(inner)
    outer = wrap(lambda a: sg.cond(p, lambda: inner(a) + a * a * a, lambda: inner(inner(a) * 0.1)))
    y = outer(outer(x) * 0.5).sum()
    g = sg.grad(y, x)
    h = sg.grad((g * g).sum(), x)
    third = sg.grad((h * h).sum(), x)
    return [y, g, h, third, sg.hvp(y, x, np.ones(3)), sg.jvp(y, x, np.ones(3))]


def test_any_order_nested_and_with_cond():
    x, p = sg.input("x", (3,), "float64"), sg.input("p", (), "bool")
    a = np.array([0.1, 0.2, 0.3])
    plain = sg.Graph([x, p], value_and_grads(lambda f: f, x, p))
    made = value_and_grads(sg.checkpoint, x, p)
    graph = verify(sg.Graph([x, p], made))
    assert sg.parse(str(graph)) == graph
    compiled = sg.compile(made, [x, p])
    for flag in (True, False):
        wanted = run(plain, [a, np.array(flag)])
        for b, c in zip(wanted, run(graph, [a, np.array(flag)]), strict=True):
            np.testing.assert_allclose(c, b, rtol=1e-12)
        for b, c in zip(wanted, compiled(a, flag), strict=True):
            np.testing.assert_allclose(c, b, rtol=1e-9)
    sg.check_grad(sg.checkpoint(lambda a: ops.exp(ops.sin(a)) * a), (a,), order=3)


def test_random_numbers_come_out_again():
    x = sg.input("x", (64, 64))
    key = sg.random.key(7)

    def noisy(wrap):
        f = wrap(lambda a: ops.tanh(a) * sg.random.uniform(key, (64, 64)))
        y = f(x)
        return sg.compile([y, sg.grad(y.sum(), x)], [x])

    a = np.random.default_rng(0).standard_normal((64, 64)).astype("f")
    for b, c in zip(noisy(lambda f: f)(a), noisy(sg.checkpoint)(a), strict=True):
        np.testing.assert_array_equal(b, c)


def test_separate_gradients_share_one_recomputation():
    x, w = sg.input("x", (8,)), sg.input("w", (8,))
    y = sg.checkpoint(lambda a, b: ops.exp(ops.sin(a) * b))(x, w)
    loss = (y * y).sum()
    apart = sg.compile([sg.grad(loss, x), sg.grad(loss, w)], [x, w])
    together = sg.compile(sg.grad(loss, [x, w]), [x, w])
    assert len(apart.optimized) == len(together.optimized)


def test_nestings_keywords_and_closures():
    x, w = sg.input("x", (2,)), sg.variable([3.0, 4.0], name="w")

    @sg.checkpoint
    def f(d, *, scale):
        """Doc."""
        return {"y": d["x"] * w * scale, "n": (d["k"], None)}

    assert f.__name__ == "f"
    assert f.__doc__ == "Doc."
    made = f({"x": x, "k": 2}, scale=2.0)
    assert made["n"][1] is None
    g = sg.compile([made, sg.grad(made["y"].sum(), [x, w])])
    found, (gx, gw) = g(np.array([1.0, 2.0], "f"))
    assert found["y"].tolist() == [6, 16]
    assert (gx.tolist(), gw.tolist()) == ([6, 8], [2, 4])
    with pytest.raises(sg.GraphTypeError, match="tensors, returned str"):
        sg.checkpoint(lambda a: "no")(x)


# ---------------------------------------------------------------------------- with a budget


def kept_bytes(graph):
    """Bytes of forward values that copies of each region read, but those that regions read."""
    held = {}
    for n in graph.nodes:
        source = n.operands[0] if n.op.name == "late" else None
        if source is not None and source.node.op.name in ("matmul", "tanh", "silu", "sin"):
            held.setdefault(n.clone, set()).add(source)
    return {clone: sum(t.type.nbytes for t in values) for clone, values in held.items()}


def test_a_region_keeps_what_its_budget_allows():
    _, whole = measured(lambda f: f)
    one = ROWS * WIDTH * 4
    peaks = []
    for kept in range(5):
        wrap = sg.checkpoint(memory_budget=kept * one)
        x, _, loss, grads = deep(wrap)
        found = kept_bytes(sg.passes.inline(sg.Graph([x], [loss, *grads])))
        # The first layer has no gradient of its input to compute, so it may keep less.
        assert max(found.values(), default=0) == kept * one
        assert list(found.values()).count(kept * one) >= (LAYERS - 1 if kept else 0)
        f, values = measured(wrap)
        peaks.append(f.memory.peak_bytes)
        for a, b in zip(values, whole, strict=True):
            np.testing.assert_array_equal(a, b)
    # Each value more that a region may keep is one more of each layer at the end of the forward
    # pass; the last one's place may serve its own computation.
    for less, more in pairwise(peaks):
        assert (LAYERS - 2) * one <= more - less <= LAYERS * one


def test_what_costs_most_is_kept():
    x, w = sg.input("x", (64, 64)), sg.input("w", (64, 64))
    y = sg.checkpoint(lambda a: ops.tanh(ops.sin(a @ w) * a) * a, memory_budget=64 * 64 * 4)(x)
    graph = sg.passes.inline(sg.Graph([x, w], sg.grad((y * y).sum(), [x, w])))
    assert sum(n.op.name == "matmul" for n in graph.nodes) == 3, "one forward, two of the gradient"
    assert sum(n.op.name == "tanh" for n in graph.nodes) == 2


@pytest.mark.parametrize("budget", [0, 24, 48, "50%", "100%"])
def test_any_order_within_a_budget(budget):
    x, p = sg.input("x", (3,), "float64"), sg.input("p", (), "bool")
    a = np.array([0.1, 0.2, 0.3])
    plain = sg.Graph([x, p], value_and_grads(lambda f: f, x, p))
    made = value_and_grads(sg.checkpoint(memory_budget=budget), x, p)
    graph = verify(sg.Graph([x, p], made))
    assert sg.parse(str(graph)) == graph
    for flag in (True, False):
        for b, c in zip(
            run(plain, [a, np.array(flag)]), run(graph, [a, np.array(flag)]), strict=True
        ):
            np.testing.assert_allclose(c, b, rtol=1e-12)


def noisy(wrap, x, w, p):
    """Regions with dropout, a branch and views, and a region within each."""
    inner = wrap(lambda a, u: ops.silu(a @ u))

    def block(a, w):
        a = ops.dropout(inner(a, w), 0.4, key=sg.random.key(3))
        a = sg.cond(p, lambda: ops.sin(a) @ w, lambda: ops.exp(-a))
        return ops.tanh(a.T.reshape(a.shape) * a)

    block = wrap(block)
    h = x
    for u in w:
        h = block(h, u)
    loss = (h * h).mean()
    return [loss, *sg.grad(loss, [x, *w])]


def test_a_region_within_a_whole_budget():
    x, p = sg.input("x", (64, 64)), sg.input("p", (), "bool")
    w = [sg.input(f"w{k}", (64, 64)) for k in range(4)]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((64, 64)).astype("f") * s for s in (1, *4 * (0.1,))]
    plain = sg.compile(noisy(lambda f: f, x, w, p), [x, *w, p])
    made = noisy(sg.checkpoint(memory_budget="40%"), x, w, p)
    free = sg.compile(made, [x, *w, p])
    tight = sg.compile(made, [x, *w, p], memory_budget="80%")
    assert tight.memory.peak_bytes <= 0.8 * free.memory.peak_bytes
    for flag in (True, False):
        for f in (free, tight):
            for a, b in zip(f(*arrays, flag), plain(*arrays, flag), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("wrong", ["plenty", -5, 1.5, True, float("nan")])
def test_wrong_budgets_of_a_region(wrong):
    with pytest.raises(sg.BudgetError, match="checkpoint: memory_budget is a number of bytes or"):
        sg.checkpoint(lambda a: a, memory_budget=wrong)

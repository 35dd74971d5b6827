"""Dead branches, sinking, handing over: text before and after, reports, and a whole network."""

import textwrap

import numpy as np
import pytest

import staticgraph as sg
from staticgraph.interpret import run
from staticgraph.passes import branches
from staticgraph.verify import verify

ops = sg.ops


def text(value):
    return textwrap.dedent(value).strip()


def check(made, before, after, notes=()):
    """A pass: text to text, the same numbers, a second run that changes nothing, its report."""
    graph = sg.parse(text(before))
    found = []
    result = verify(made(graph, report=found))
    assert str(result) == text(after)
    assert [f"{n.what}: {n.why}" for n in found] == list(notes)
    assert str(made(result)) == str(result)
    rng = np.random.default_rng(0)
    for flags in (0, 1):
        arrays = [
            np.full(t.shape, flags, "bool")
            if t.type.dtype == "bool"
            else rng.standard_normal(t.shape).astype(t.dtype)
            for t in graph.inputs
        ]
        wanted = run(graph, arrays)[: len(result.roots)]
        for a, b in zip(wanted, run(result, arrays), strict=True):
            np.testing.assert_array_equal(a, b)


CONSTANT = """
    graph main(%x: f32[3]) {
      %0: b1[] = constant(False)
      %1: f32[3] = cond(%0, %x, orelse=graph(%x: f32[3]) {
        %0: f32[3] = sin(%x)
        return %0
      }, then=graph(%x: f32[3]) {
        %0: f32[3] = exp(%x)
        %1: f32[3] = add(%0, %x)
        return %1
      })
      return %1
    }
    """


def test_a_constant_predicate():
    check(
        sg.passes.dead_branches,
        CONSTANT,
        """
        graph main(%x: f32[3]) {
          %0: f32[3] = sin(%x)
          return %0
        }
        """,
        ["cond: the then branch of 2 ops is gone: its predicate is constant False"],
    )


def test_what_a_branch_already_knows():
    check(
        sg.passes.dead_branches,
        """
        graph main(%x: f32[3], %p: b1[], %q: b1[]) {
          %0: b1[] = logical_and(%p, %q)
          %1: f32[3] = cond(%0, %x, %p, %q, orelse=graph(%x: f32[3], %p: b1[], %q: b1[]) {
            %0: b1[3] = broadcast_to(%p, shape=(3,))
            %1: f32[3] = sin(%x)
            %2: f32[3] = where(%0, %x, %1)
            return %2
          }, then=graph(%x: f32[3], %p: b1[], %q: b1[]) {
            %0: b1[] = logical_not(%p)
            %1: f32[3] = cond(%0, %x, orelse=graph(%x: f32[3]) {
              return %x
            }, then=graph(%x: f32[3]) {
              %0: f32[3] = exp(%x)
              return %0
            })
            %2: b1[3] = broadcast_to(%q, shape=(3,))
            %3: f32[3] = cos(%1)
            %4: f32[3] = where(%2, %1, %3)
            return %4
          })
          return %1
        }
        """,
        """
        graph main(%x: f32[3], %p: b1[], %q: b1[]) {
          %0: b1[] = logical_and(%p, %q)
          %1: f32[3] = cond(%0, %x, %p, orelse=graph(%x: f32[3], %p: b1[]) {
            %0: b1[3] = broadcast_to(%p, shape=(3,))
            %1: f32[3] = sin(%x)
            %2: f32[3] = where(%0, %x, %1)
            return %2
          }, then=graph(%x: f32[3], %p: b1[]) {
            return %x
          })
          return %1
        }
        """,
        [
            "cond: the then branch of 1 op is gone: its predicate is False in the branch around it",
            "where: one operand is gone: its mask is True in the branch around it",
        ],
    )


def test_what_comparisons_imply():
    """x < y decides y < x, x == y and x <= y computed again inside; nan leaves the rest open."""
    x, y = sg.input("x"), sg.input("y")

    def inside(op, a, b):
        return sg.cond(getattr(ops, op)(a, b), lambda: ops.exp(x), lambda: ops.sin(x))

    def then_fn():
        return [inside("greater_equal", y, x), inside("less", y, x), inside("not_equal", x, y)]

    def else_fn():
        return [inside("less", x, y), inside("greater", y, x), inside("less_equal", y, x)]

    graph = sg.Graph([x, y], sg.cond(x < y, then_fn, else_fn))
    found = []
    result = verify(sg.passes.dead_branches(graph, report=found))
    left = str(result)
    assert left.count("cond(") == 2, "y <= x stays open: either may be nan"
    assert len(found) == 5
    for a, b in ((1, 2), (2, 1), (1, 1), (np.nan, 1)):
        arrays = [np.float32(a), np.float32(b)]
        np.testing.assert_array_equal(run(graph, arrays), run(result, arrays))


def test_masks():
    check(
        sg.passes.dead_branches,
        """
        graph main(%x: f32[2], %y: f32[2]) {
          %0: b1[2] = constant(False)
          %1: f32[2] = exp(%x)
          %2: f32[2] = where(%0, %1, %y)
          %3: b1[2] = constant([True, False])
          %4: f32[2] = where(%3, %x, %2)
          return %4
        }
        """,
        """
        graph main(%x: f32[2], %y: f32[2]) {
          %0: b1[2] = constant([True, False])
          %1: f32[2] = where(%0, %x, %y)
          return %1
        }
        """,
        ["where: one operand is gone: its mask is constant False"],
    )


def test_equal_branches():
    check(
        sg.passes.dead_branches,
        """
        graph main(%x: f32[3], %y: f32[3], %p: b1[]) {
          %0: f32[3], %1: f32[3] = cond(%p, %x, %y, orelse=graph(%a: f32[3], %b: f32[3]) {
            %0: f32[3] = add(%b, %a)
            %1: f32[3] = sin(%0)
            return %1, %b
          }, then=graph(%c: f32[3], %d: f32[3]) {
            %0: f32[3] = add(%c, %d)
            %1: f32[] = constant(1.0)
            %2: f32[3] = multiply(%0, %1)
            %3: f32[3] = sin(%2)
            return %3, %d
          })
          return %0, %1
        }
        """,
        """
        graph main(%x: f32[3], %y: f32[3], %p: b1[]) {
          %0: f32[3] = add(%x, %y)
          %1: f32[3] = sin(%0)
          return %1, %y
        }
        """,
        ["cond: one branch of 2 ops is gone: both branches compute the same"],
    )


def test_results_nobody_reads_and_results_that_pass_by():
    check(
        sg.passes.dead_branches,
        """
        graph main(%x: f32[3], %y: f32[3], %p: b1[]) {
          %0: f32[3], %1: f32[3], %2: f32[3] = cond(%p, %x, %y, %x,
              orelse=graph(%a: f32[3], %b: f32[3], %c: f32[3]) {
            %0: f32[3] = cos(%a)
            %1: f32[3] = exp(%b)
            return %0, %1, %b
          }, then=graph(%a: f32[3], %b: f32[3], %c: f32[3]) {
            %0: f32[3] = sin(%c)
            %1: f32[3] = tanh(%b)
            return %0, %1, %b
          })
          return %0, %2
        }
        """,
        """
        graph main(%x: f32[3], %y: f32[3], %p: b1[]) {
          %0: f32[3] = cond(%p, %x, orelse=graph(%a: f32[3]) {
            %0: f32[3] = cos(%a)
            return %0
          }, then=graph(%a: f32[3]) {
            %0: f32[3] = sin(%a)
            return %0
          })
          return %0, %y
        }
        """,
        [
            "cond: result 2 does not go through it: both branches hand out the same value",
            "cond: result 1 is gone: nobody reads it",
            "cond: result 2 is gone: nobody reads it",
        ],
    )


def test_updates_without_effect():
    x, v, w = (
        sg.input("x", (2,)),
        sg.variable([1.0, 2.0], name="v"),
        sg.variable([0.0, 0.0], name="w"),
    )
    off = sg.constant(False)
    new = sg.cond(off, lambda: v + x, lambda: v)
    graph = sg.Graph([x], [x], {v: new, w: w + x})
    found = []
    result = sg.passes.dead_branches(graph, report=found)
    assert [u for u, _ in result.updates] == [w]
    assert [str(n).split(": ", 1)[1] for n in found] == [
        "cond: the then branch of 1 op is gone: its predicate is constant False",
        "the update of variable 'v' is gone: its new value is the old one",
    ]


def test_nothing_to_decide():
    x, p = sg.input("x", (3,)), sg.input("p", (), "bool")
    open_ = sg.Graph([x, p], [sg.cond(p, ops.sin, ops.cos, x), ops.where(x > 0, x, ops.exp(x))])
    assert sg.passes.dead_branches(open_) == open_
    assert branches.report(open_) == []
    assert len(branches.report(sg.parse(text(CONSTANT)))) == 1


def test_work_sinks_into_the_branch_that_needs_it():
    check(
        sg.passes.sink,
        """
        graph main(%x: f32[3], %y: f32[3], %p: b1[]) {
          %0: f32[3] = exp(%x)
          %1: f32[3] = sin(%0)
          %2: f32[] = sum(%y, axes=(0,))
          %3: f32[3] = broadcast_to(%2, shape=(3,))
          %4: f32[3] = cond(%p, %0, %1, %3, orelse=graph(%a: f32[3], %b: f32[3], %c: f32[3]) {
            return %c
          }, then=graph(%a: f32[3], %b: f32[3], %c: f32[3]) {
            %0: f32[3] = add(%b, %c)
            %1: f32[3] = multiply(%0, %a)
            return %1
          })
          return %4
        }
        """,
        """
        graph main(%x: f32[3], %y: f32[3], %p: b1[]) {
          %0: f32[] = sum(%y, axes=(0,))
          %1: f32[3] = cond(%p, %x, %0, orelse=graph(%x: f32[3], %p1: f32[]) {
            %0: f32[3] = broadcast_to(%p1, shape=(3,))
            return %0
          }, then=graph(%x: f32[3], %p1: f32[]) {
            %0: f32[3] = exp(%x)
            %1: f32[3] = sin(%0)
            %2: f32[3] = broadcast_to(%p1, shape=(3,))
            %3: f32[3] = add(%1, %2)
            %4: f32[3] = multiply(%3, %0)
            return %4
          })
          return %1
        }
        """,
        ["cond: 2 ops moved into its then branch: nothing else reads the results"],
    )


@pytest.mark.parametrize(
    "outside",
    [lambda h, p: h.sum(), lambda h, p: sg.cond(p, lambda: h[0], lambda: h[1])],
    ids=["another reader", "both branches"],
)
def test_what_others_read_stays_outside(outside):
    x, p = sg.input("x", (3,)), sg.input("p", (), "bool")
    h = ops.exp(x)
    graph = sg.Graph([x, p], [sg.cond(p, lambda: h * 2.0, lambda: x), outside(h, p)])
    assert any(n.op.name == "exp" for n in sg.passes.sink(graph).nodes)


def test_a_derivative_takes_what_the_branch_computed():
    """cond and its gradient: the product is computed once, and only where the branch is taken."""
    x, p = sg.input("x", (4, 4)), sg.input("p", (), "bool")
    h = x @ x  # written outside, needed inside only
    loss = sg.cond(p, lambda: ops.exp(h @ h).sum(), lambda: x.sum())
    g = sg.grad(loss, x)
    graph = sg.passes.inline(sg.Graph([x, p], [loss, g]))
    result = graph
    for made in (sg.passes.fold, sg.passes.dead_branches, sg.passes.simplify, sg.passes.cse):
        result = made(result)
    found = []
    result = verify(sg.passes.sink(result, report=found))
    assert "cond: 2 values of its then branch handed over" in "\n".join(map(str, found))
    assert [n.op.name for n in result.nodes].count("matmul") == 2, "the gradient of x @ x"
    first, second = (n.attrs["then"] for n in result.nodes if n.op.name == "cond")
    names = [[n.op.name for n in body.nodes] for body in (first, second)]
    assert names[0].count("matmul") == 2
    assert names[0].count("exp") == 1
    assert names[1].count("matmul") == 2, "the gradient of h @ h"
    assert "exp" not in names[1]
    a = np.random.default_rng(0).standard_normal((4, 4)).astype("f") * 0.3
    for flag in (True, False):
        call = [a, np.array(flag)]
        for want, got in zip(run(graph, call), run(result, call), strict=True):
            np.testing.assert_array_equal(want, got)
    compiled = sg.compile([loss, g], [x, p])
    for flag in (True, False):
        for want, got in zip(run(graph, [a, np.array(flag)]), compiled(a, flag), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5)


# ---------------------------------------------------------------------------- a network with modes


def network(training, x, weights, state, mask):
    """Batch norm and dropout that hang on one flag: (logits, new running mean and variance)."""
    w1, w2 = weights
    mean, var = state
    h = x @ w1

    def batch():
        m = h.mean(0)
        v = ((h - m) ** 2).mean(0)
        return h - m, v, 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v

    centred, spread, new_mean, new_var = sg.cond(
        training, batch, lambda: (h - mean, var, mean, var)
    )
    h = ops.relu(centred / ops.sqrt(spread + 1e-5))
    h = sg.cond(training, lambda: ops.where(mask, h * 2.0, 0.0), lambda: h)
    return h @ w2, new_mean, new_var


def plain(training, x, weights, state, mask):
    """The same network written for one mode."""
    w1, w2 = weights
    mean, var = state
    h = x @ w1
    if training:
        m = h.mean(0)
        v = ((h - m) ** 2).mean(0)
        h = ops.relu((h - m) / ops.sqrt(v + 1e-5))
        return ops.where(mask, h * 2.0, 0.0) @ w2, 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v
    return ops.relu((h - mean) / ops.sqrt(var + 1e-5)) @ w2, mean, var


def step(build, flag, train):
    rng = np.random.default_rng(1)
    x, mask = sg.input("x", (32, 16)), sg.input("mask", (32, 8), "bool")
    weights = [
        sg.variable(rng.standard_normal(s).astype("f") * 0.3, name=n)
        for n, s in (("w1", (16, 8)), ("w2", (8, 4)))
    ]
    state = [sg.variable(np.zeros(8, "f"), name="mean"), sg.variable(np.ones(8, "f"), name="var")]
    y, new_mean, new_var = build(flag, x, weights, state, mask)
    updates = dict(zip(state, (new_mean, new_var), strict=True))
    if train:
        updates |= sg.optim.sgd((y * y).mean(), weights, 0.1)
    inputs = [x, mask]
    if isinstance(flag, sg.Tensor) and flag.node.op.name == "input":
        inputs.append(flag)
    return sg.compile(y, inputs, updates=updates), weights + state


def cost(f):
    kernels = sorted(s.launch.name for s in f.plan.steps if s.launch)
    return kernels, f.memory.peak_bytes, f.memory.constant_bytes, len(f.plan.steps)


@pytest.mark.parametrize("train", [True, False], ids=["training", "inference"])
def test_a_constant_flag_leaves_nothing_of_the_other_mode(train, golden):
    f, variables = step(network, sg.constant(train), train)
    wanted, others = step(plain, train, train)
    assert cost(f)[1:] == cost(wanted)[1:]
    assert len(f.optimized) == len(wanted.optimized)
    assert not any(n.op.name == "cond" for n in f.optimized.nodes)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 16)).astype("f")
    mask = rng.random((32, 8)) < 0.5
    for _ in range(3):
        np.testing.assert_allclose(f(x, mask), wanted(x, mask), rtol=1e-5, atol=1e-6)
    for a, b in zip(variables, others, strict=True):
        np.testing.assert_allclose(a.value, b.value, rtol=1e-5, atol=1e-6)
    report = "\n".join(f"{n.what}: {n.why}" for n in f.report)
    if train:
        assert "else branch" in report
        assert "then branch" not in report
    else:
        default = sg.passes.PIPELINES["default"].passes
        unfused = sg.Pipeline([p for p in default if p.name != "fuse"])(f.graph)
        assert f"{f.graph}\n\n{report}\n\n{unfused}\n" == golden
        assert {v.name for v in f.plan.variables} == {"w1", "w2", "mean", "var"}
        assert [v for v, _ in f.optimized.updates] == []


def test_one_function_for_both_modes():
    flag = sg.input("training", (), "bool")
    f, variables = step(network, flag, True)
    modes = [step(plain, train, True) for train in (True, False)]
    rng = np.random.default_rng(0)
    x, mask = rng.standard_normal((32, 16)).astype("f"), rng.random((32, 8)) < 0.5
    for train in (True, False, False, True):
        wanted, others = modes[0] if train else modes[1]
        for v, o in zip(variables, others, strict=True):
            o.value = v.value
        np.testing.assert_allclose(f(x, mask, train), wanted(x, mask), rtol=1e-5, atol=1e-6)
        for v, o in zip(variables, others, strict=True):
            np.testing.assert_allclose(v.value, o.value, rtol=1e-5, atol=1e-6)

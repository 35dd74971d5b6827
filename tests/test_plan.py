"""Plans: nothing live is overwritten, memory is near the least, and the text says it all."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from models import GRAPHS, attention, mlp_step
from random_graphs import Builder
from replay import every_way, replay

import staticgraph as sg
from staticgraph.errors import InternalError
from staticgraph.ir import Graph
from staticgraph.offsets import Block, check
from staticgraph.passes import MEANING, PIPELINES
from staticgraph.plan import ALIGN, Buffer, Plan, Ref
from staticgraph.planner import build

ops = sg.ops


def plan_of(outputs, updates=None, pipeline: str = "default") -> Plan:
    """The plan of some tensors, without kernels being compiled."""
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    roots = [*outputs, *(updates or {}).values()]
    inputs = [n.results[0] for n in Graph((), roots).nodes if n.op.name == "input"]
    return build(PIPELINES[pipeline](MEANING(Graph(inputs, outputs, updates or {}))))


def blocks_apart(plan: Plan) -> None:
    blocks = [Block(b.size, b.start, b.stop) for b in plan.buffers]
    check(blocks, [b.offset for b in plan.buffers], align=ALIGN)
    assert all(b.offset + b.size <= plan.arena_bytes for b in plan.buffers)


def live_at(plan: Plan, step: int) -> list[Buffer]:
    return [b for b in plan.buffers if b.start <= step < b.stop]


def near_bound(plan: Plan, more: float = 0.02) -> None:
    assert plan.lower_bound <= plan.arena_bytes <= (1 + more) * plan.lower_bound


# ---------------------------------------------------------------------------- known graphs


@pytest.mark.parametrize("name", GRAPHS)
def test_known_graphs(name):
    """Sound under replay, and at most 2 % above the least memory."""
    plan = plan_of(*GRAPHS[name]())
    blocks_apart(plan)
    replay(plan)
    near_bound(plan)


@pytest.mark.parametrize("name", GRAPHS)
def test_known_graphs_node_by_node(name):
    plan = plan_of(*GRAPHS[name](), pipeline="none")
    blocks_apart(plan)
    replay(plan)
    near_bound(plan)


@pytest.mark.slow
def test_graphs_of_the_benchmarks():
    memory = pytest.importorskip("benchmarks.memory")
    for name, function in memory.graphs():
        blocks_apart(function.plan)
        replay(function.plan)
        used = function.memory
        assert used.peak_bytes <= 1.02 * used.lower_bound_bytes, name


@pytest.mark.parametrize("case", [mlp_step, attention], ids=lambda f: f.__name__)
def test_plan_text(case, golden):
    shown = str(plan_of(*case()))
    assert re.sub(r"  \[\w+\.py:\d+\]", "", shown) == golden


def test_plan_text_names_the_users_line():
    x = sg.input("x", (3,))
    y = ops.exp(x) + 1.0
    line = y.node.where[1]
    assert f"[test_plan.py:{line}]" in str(plan_of(y))


# ---------------------------------------------------------------------------- random graphs


def random_plan(seed: int, pipeline: str = "default") -> Plan:
    """A random graph with its gradients, some of them as updates of variables."""
    source = np.random.default_rng(seed)
    builder = Builder(source)
    inputs, outputs = builder.build(int(source.integers(3, 20)), 3)
    y = ops.add_n([ops.tanh(t).sum() for t in outputs])
    gradients = sg.grad(y, inputs)
    variables = [sg.variable(np.zeros(t.shape, "f"), name=f"v{k}") for k, t in enumerate(inputs)]
    updates = {}
    for k, (v, g) in enumerate(zip(variables, gradients, strict=True)):
        # Some read other variables, so that the order of the updates matters.
        near = [u for u in variables if u.shape == v.shape]
        updates[v] = (v * 0.9 + g, near[-1] - g, near[0] * g + near[-1], g)[(seed + k) % 4]
    shown = [y, *outputs, *variables[: seed % 3], *gradients[: seed % 2]]
    return plan_of(shown, updates, pipeline)


@pytest.mark.parametrize("pipeline", ["none", "default"])
@pytest.mark.parametrize("seed", range(25))
def test_random_graphs(seed, pipeline):
    plan = random_plan(seed, pipeline)
    blocks_apart(plan)
    replay(plan)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1080))
def test_more_random_graphs(seed):
    plan = random_plan(seed)
    blocks_apart(plan)
    replay(plan)
    near_bound(plan, 0.1)


def random_branches(seed: int) -> Plan:
    """Conds around pieces of a random graph: in a row, inside each other, with gradients."""
    source = np.random.default_rng(seed)
    builder = Builder(source)
    builder.build(int(source.integers(6, 14)), 1)
    inputs, pool = builder.inputs, [t for t in builder.pool if t.size <= 4000]
    flags = [sg.input(f"p{k}", (), "bool") for k in range(2)]

    def piece(t):
        u = pool[int(source.integers(len(pool)))]
        return ops.tanh(t) * ops.sin(u).sum() + t

    a, b = (pool[int(source.integers(len(pool)))] for _ in range(2))
    first = sg.cond(flags[0], lambda: (piece(a), a), lambda: (a * 2.0, piece(a)))
    inner = lambda t: sg.cond(flags[1], piece, lambda u: u, t)  # noqa: E731
    second = sg.cond(flags[seed % 2], inner, lambda t: ops.exp(-ops.square(piece(t))), b)
    y = first[0].sum() + (first[1] * 0.5).sum() + second.sum()
    v = sg.variable(np.zeros(b.shape, "f"), name="v")
    updated = sg.cond(flags[1], lambda: v + second, lambda: v)
    return plan_of([y, *sg.grad(y, inputs)], {v: updated}, ("default", "none")[seed % 5 == 0])


@pytest.mark.parametrize("seed", range(25))
def test_random_branches(seed):
    plan = random_branches(seed)
    blocks_apart(plan)
    assert every_way(plan)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1060))
def test_more_random_branches(seed):
    plan = random_branches(seed)
    blocks_apart(plan)
    assert every_way(plan)


# ---------------------------------------------------------------------------- memory


def chain(x, layers, w):
    for k in range(layers):
        x = ops.tanh(x @ w) + float(k)
    return x


def test_branches_share_memory():
    """Two branches with much work each need what the larger one needs."""
    x, p = sg.input("x", (256, 64)), sg.input("p", (), "bool")
    w = sg.constant(np.ones((64, 64), "f"))
    alone = [plan_of(sg.grad(chain(x, n, w).sum(), x)).arena_bytes for n in (6, 9)]
    made = sg.cond(p, lambda: chain(x, 6, w).sum(), lambda: chain(x, 9, w).sum())
    plan = plan_of(sg.grad(made, x))
    every_way(plan)
    assert plan.arena_bytes <= max(alone) + x.type.nbytes + ALIGN
    assert plan.arena_bytes < 0.8 * sum(alone)


def test_a_chain_runs_in_two_buffers():
    """However deep: what a layer reads is free for the one after next."""
    x, w = sg.input("x", (256, 64)), sg.input("w", (64, 64))
    shallow, deep_one = (plan_of(chain(x, n, w)).arena_bytes for n in (4, 30))
    assert shallow == deep_one == 2 * x.type.nbytes


def test_elementwise_steps_write_in_place():
    """Without fusion: eight sines of one array need one buffer."""
    x = sg.input("x", (1000,))
    y = x
    for _ in range(8):
        y = ops.sin(y)
    plan = plan_of(y * 2.0, pipeline="none")
    assert replay(plan).in_place == 7
    assert plan.arena_bytes == x.type.nbytes + (-x.type.nbytes) % ALIGN


def test_a_value_read_later_is_not_written_over():
    x = sg.input("x", (1000,))
    y = ops.sin(x)
    z = ops.cos(y)
    plan = plan_of(z * y, pipeline="none")
    replay(plan)
    assert len([b for b in plan.buffers if b.size == 4000]) == 2


def test_a_value_read_in_two_ways_is_not_written_over():
    """In its place and, through a view, in another one."""
    a = ops.sort(sg.input("x", (6, 4)))
    plan = plan_of(ops.sort(a + ops.transpose(ops.reshape(a, (4, 6)))))
    replay(plan)
    (step,) = [s for s in plan.steps if "add" in s.launch.name]
    assert step.refs[-1] not in step.refs[:-1]


def test_updates_happen_in_place():
    """A step that adds to its weights copies nothing and needs no second set of them."""
    v = sg.variable(np.zeros((300, 300), "f"), name="v")
    x = sg.input("x", (300, 300))
    plan = plan_of([], {v: v + ops.sin(x)})
    replay(plan)
    assert plan.arena_bytes == 0
    assert [s.kind for s in plan.steps] == ["commit", "kernel"]


def test_updates_that_swap_go_through_the_arena():
    a, b = (sg.variable(np.zeros(100, "f"), name=n) for n in "ab")
    plan = plan_of([a * 1.0], {a: b, b: a})
    replay(plan)
    kinds = [s.kind for s in plan.steps]
    assert kinds.count("commit") == 1
    assert kinds.index("commit") < min(
        k for k, s in enumerate(plan.steps) if any(r.space == "variable" for r in s.refs[-1:])
    )


def test_checks_come_before_the_commit_point():
    w = sg.variable(np.zeros((10, 4), "f"), name="w")
    i = sg.input("i", (3,), "int64")
    plan = plan_of([], {w: w + ops.take(w, i, axis=0).sum()})
    replay(plan)
    kinds = [s.kind for s in plan.steps]
    assert kinds.index("check") < kinds.index("commit")


def test_what_may_fail_comes_before_every_update():
    """Also an update that has nothing to do with the check."""
    w, v = sg.variable(np.zeros((10, 4), "f")), sg.variable(np.array(False))
    i = sg.input("i", (3,), "int64")
    plan = plan_of([], {v: ~v, w: w + ops.take(w, i, axis=0).sum()})
    replay(plan)
    kinds = [s.kind for s in plan.steps]
    assert kinds.index("check") < kinds.index("commit")


#: branches that hand an operand back, and others that compute their result from it
HANDED_BACK = {
    "over": (lambda a: a, lambda a: ops.exp(a)),
    "not over": (lambda a: a, lambda a: a @ a),
    "twice": (lambda a: (a, ops.sin(a)), lambda a: (ops.exp(a), ops.cos(a))),
    "swapped": (lambda a: (a, ops.sin(a)), lambda a: (ops.cos(a), a)),
    "kept": (lambda a: (a, a), lambda a: (ops.exp(a), a)),
}


@pytest.mark.parametrize("pipeline", ["none", "default"])
@pytest.mark.parametrize("name", HANDED_BACK)
def test_a_branch_may_hand_back_its_operand(name, pipeline):
    x, p = sg.input("x", (40, 40)), sg.input("p", (), "bool")
    a = ops.flip(ops.sin(x) @ x)
    made = sg.cond(p, *HANDED_BACK[name], a)
    made = made if isinstance(made, tuple) else (made,)
    plan = plan_of([ops.tanh(t) for t in made], pipeline=pipeline)
    blocks_apart(plan)
    assert len(every_way(plan)) == 2


def test_peak_counts_what_is_live():
    """The bound is the fullest step of the plan, sizes rounded up to cache lines."""
    plan = plan_of(*mlp_step())
    live = [
        sum(-(-b.size // ALIGN) * ALIGN for b in live_at(plan, k)) for k in range(len(plan.steps))
    ]
    assert max(live) <= plan.lower_bound <= plan.arena_bytes
    sizes = [sum(b.size for b in live_at(plan, k)) for k in range(len(plan.steps))]
    assert plan.memory.timeline == tuple(sizes)
    assert plan.memory.peak_bytes == plan.arena_bytes


def test_order_frees_memory_early():
    """Ten wide values, each summed up: one is alive at a time, though all were built first."""
    x = sg.input("x", (50_000,))
    wide = [ops.sin(x * float(k)) for k in range(10)]
    plan = plan_of([(t @ x) for t in wide])
    replay(plan)
    assert plan.arena_bytes <= 2.1 * x.type.nbytes


# ---------------------------------------------------------------------------- the replay itself


def faults():
    """Plans with one thing wrong each, and what the replay says."""

    def overlap(plan):
        a, b, *_ = live_at(plan, 3)
        a.offset = b.offset

    def early(plan):
        plan.steps[0], plan.steps[1] = plan.steps[1], plan.steps[0]

    def wrong(plan):
        step = plan.steps[-1]
        step.refs = (Ref("input", 1), *step.refs[1:])

    def unwritten(plan):
        plan.steps.pop()

    def into_input(plan):
        step = plan.steps[-1]
        step.refs = (*step.refs[:-1], Ref("input", 0))

    return {
        "overlap": (overlap, "step 1: result 0 over 0"),
        "early": (early, "step 0 reads"),
        "wrong": (wrong, "reads input1 for"),
        "unwritten": (unwritten, "output0 ends without"),
        "input": (into_input, "writes input0"),
    }


@pytest.mark.parametrize("name", faults())
def test_the_replay_finds(name):
    x, y = sg.input("x", (400,)), sg.input("y", (400,))
    a = ops.flip(ops.exp(x))
    plan = plan_of(ops.add(ops.flip(a + y) * a, x), pipeline="none")
    replay(plan)
    change, message = faults()[name]
    broken = dataclasses.replace(
        plan,
        steps=[dataclasses.replace(s) for s in plan.steps],
        buffers=[dataclasses.replace(b) for b in plan.buffers],
    )
    change(broken)
    with pytest.raises(AssertionError, match=message):
        replay(broken)


def test_the_check_finds_an_overlap():
    plan = plan_of(*mlp_step())
    fullest = max(range(len(plan.steps)), key=lambda k: len(live_at(plan, k)))
    live = live_at(plan, fullest)
    live[0].offset = live[1].offset
    with pytest.raises(InternalError, match="overlaps"):
        blocks_apart(plan)

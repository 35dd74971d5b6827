"""Chains: revolve by its closed formula, rotor by brute force, and what counts as a chain."""

import heapq
import itertools
import math

import numpy as np
import pytest
from remat_graphs import reversal, seeded, training_chain

from staticgraph.errors import BudgetError, DagError
from staticgraph.passes.remat import chains, exact, rotor
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.plan import STRATEGIES
from staticgraph.passes.remat.simulate import simulate


def steps_by_recurrence(longest, most):
    """t(l, s) for all l and s, from its definition."""
    table = np.zeros((longest + 1, most + 1), int)
    table[:, 1] = [length * (length - 1) // 2 for length in range(longest + 1)]
    for s in range(2, most + 1):
        for length in range(2, longest + 1):
            k = np.arange(1, length)
            table[length, s] = (k + table[length - k, s - 1] + table[k, s]).min()
    return table


def test_revolve_takes_the_fewest_steps():
    table = steps_by_recurrence(200, 20)
    for length, s in itertools.product(range(1, 201), range(1, 21)):
        assert chains.extra_steps(length, s) == table[length, s]


@pytest.mark.parametrize(
    ("length", "snapshots", "steps"), [(10, 3, 15), (50, 3, 180), (100, 5, 316), (1000, 10, 3636)]
)
def test_revolve_published(length, snapshots, steps):
    assert chains.extra_steps(length, snapshots) == steps
    advances = [i for action, i in chains.revolve(length, snapshots) if action == "advance"]
    assert len(advances) == steps


@pytest.mark.parametrize("snapshots", [1, 2, 3, 5, 8, 20])
def test_revolve_schedules_are_right(snapshots):
    for length in [*range(1, 30), 63, 100, 199]:
        state, held, reversed_, advances = 0, set(), length, 0
        for action, i in chains.revolve(length, snapshots):
            if action == "snapshot":
                assert state == i
                held.add(i)
            elif action == "restore":
                assert i in held
                state = i
            elif action == "advance":
                assert state == i - 1
                state, advances = i, advances + 1
            else:
                assert (state, reversed_) == (i - 1, i)
                reversed_ = i - 1
                held = {x for x in held if x < i - 1}
            assert len(held) <= snapshots
        assert reversed_ == 0
        assert advances == chains.extra_steps(length, snapshots)


def test_revolve_needs_a_step_and_a_snapshot():
    for length, snapshots in ((0, 1), (1, 0)):
        with pytest.raises(DagError, match="at least one step and one snapshot"):
            next(chains.revolve(length, snapshots))


@pytest.mark.parametrize("length", [3, 8, 20, 41])
def test_griewank_on_equal_steps_costs_the_closed_formula(length):
    # The last state is the end of the forward pass; segments are the steps before it.
    dag = reversal(length)
    chain = chains.as_chain(dag, "test")
    assert len(chain) == length - 1
    for s in range(1, length):
        made = simulate(dag, chains.revolved(dag, chain, s))
        assert made.cost == chains.extra_steps(length - 1, s) + 1 + length
        # Snapshots but the first, which is no node; a step's two states; the gradient.
        assert made.peak <= s + 2


def equal_stages(length, record):
    """A chain whose values count one, which may be overwritten, and whose gradients count none."""
    one, none = np.ones(length), np.zeros(length, int)
    return rotor.Stages(
        forward=one, again=0 * one, backward=one, end=none + 1, saved=none + record, gradient=none,
        step=none + 1, through=none + 1, record=none, back=none, whole=none,
    )  # fmt: skip


@pytest.mark.parametrize("length", [1, 2, 3, 8, 17, 40])
def test_rotor_equals_revolve_on_equal_steps(length):
    # Recording is as good as a snapshot (size 1), or of no use (size 100).
    for record in (1, 100):
        table = rotor.Table(equal_stages(length, record), 12)
        for s in range(1, 13):
            assert table.cost(s) == chains.extra_steps(length, s) + length


def random_stages(draw, length):
    def column(low, high):
        return np.array([draw.randint(low, high) for _ in range(length)])

    end = column(1, 5)
    end[-1] = 0
    before = np.concatenate(([0], end[:-1]))
    forward, gradient = column(1, 9), column(0, 3)
    saved = end + column(0, 5)
    step, record, back = end + column(0, 2), saved + column(0, 2), saved + gradient + column(0, 3)
    # Computing the saved values anew runs no more than the forward pass, in no more memory.
    again = np.array([draw.randint(0, cost) for cost in forward])
    whole = np.maximum(record + gradient, back) - column(0, 3)
    return rotor.Stages(
        forward=forward.astype(float), again=again.astype(float),
        backward=column(1, 9).astype(float), end=end, saved=saved, gradient=gradient, step=step,
        through=step + before, record=record, back=back, whole=whole,
    )  # fmt: skip


def cheapest_run(stages, memory):
    """The least cost over every run of the chain that keeps a value until its adjoint is done.

    Dijkstra over (values kept, segments recorded, place of a value in passing, next adjoint).
    """
    length = len(stages.forward)
    start = (frozenset({0}), frozenset(), None, length - 1)
    best, queue, ties = {start: 0.0}, [(0.0, 0, start)], itertools.count(1)
    while queue:
        cost, _, state = heapq.heappop(queue)
        kept, recorded, passing, adjoint = state
        if adjoint < 0:
            return cost
        if cost > best[state]:
            continue
        held = sum(stages.end[i - 1] for i in kept if i) + sum(stages.saved[i] for i in recorded)
        room = memory - held
        moves = []
        # A segment begins with a value kept, or with what the one before recorded.
        starts = {i for i in {*kept, *(j + 1 for j in recorded)} if i <= adjoint}
        free = room - stages.gradient[adjoint]
        for i in starts:
            if i < adjoint and stages.step[i] <= free:
                moves.append((stages.forward[i], (kept, recorded, i + 1, adjoint)))
            if i < adjoint and stages.record[i] <= free and i not in recorded:
                moves.append((stages.forward[i], (kept, recorded | {i}, None, adjoint)))
        if passing is not None:
            if passing < adjoint and stages.through[passing] <= free:
                moves.append((stages.forward[passing], (kept, recorded, passing + 1, adjoint)))
            if stages.end[passing - 1] <= room:
                moves.append((0.0, (kept | {passing}, recorded, None, adjoint)))
        rest = frozenset(i for i in kept if i < adjoint)
        after = (rest, recorded - {adjoint}, None, adjoint - 1)
        if adjoint in recorded and stages.back[adjoint] <= room + stages.saved[adjoint]:
            moves.append((stages.backward[adjoint], after))
        elif adjoint in starts and stages.whole[adjoint] <= room:
            moves.append((stages.again[adjoint] + stages.backward[adjoint], after))
        for step, following in moves:
            if cost + step < best.get(following, math.inf):
                best[following] = cost + step
                heapq.heappush(queue, (cost + step, next(ties), following))
    return math.inf


@pytest.mark.parametrize("length", range(1, 8))
def test_rotor_equals_brute_force(length):
    for seed in range(4):
        stages = random_stages(seeded(10 * length + seed), length)
        table = rotor.Table(stages, 30)
        costs = [table.cost(memory) for memory in range(31)]
        assert costs == [cheapest_run(stages, memory) for memory in range(31)]
        assert costs == sorted(costs, reverse=True)
        assert math.isfinite(costs[-1])


def test_rotor_schedules_cost_what_the_table_says():
    stages = random_stages(seeded(5), 7)
    table = rotor.Table(stages, 40)
    for memory in range(table.least_memory(), 41):
        cost = sum(getattr(stages, action)[i] for action, i in table.schedule(memory))
        assert cost == table.cost(memory)


def test_rotor_is_monotone_and_best_on_small_chains():
    for seed in range(8):
        dag = training_chain(seeded(seed), 4)
        costs = []
        for budget in range(
            exact.least_peak(dag, order="stored"), simulate(dag, range(len(dag))).peak + 1
        ):
            optimum = simulate(dag, exact.shortest(dag, budget, order="stored")).cost
            try:
                costs.append(simulate(dag, rotor.rotor(dag, budget)).cost)
            except BudgetError:
                costs.append(math.inf)
            assert costs[-1] >= optimum
        assert costs == sorted(costs, reverse=True)
        assert costs[-1] == dag.total


@pytest.mark.parametrize("name", ["rotor", "griewank"])
def test_chain_strategies_need_a_chain(name):
    # Two independent branches to the last node: no value separates them.
    dag = Dag((1,) * 5, (1,) * 5, ((), (), (0,), (1,), (2, 3)))
    with pytest.raises(DagError, match=f"{name}: needs a chain of segments; this DAG .* has none"):
        STRATEGIES[name](dag, 100)


def test_skips_join_segments():
    # 0 1 2 3 forward, 4 the loss. A gradient that reads 0 and 2 can run where 0 is the start and 2
    # is saved; one that reads 0 and 3 takes all between into one segment.
    for read, ends in (((0, 2), [0, 2, 3, -1]), ((0, 3), [0, 3, -1])):
        dag = Dag((1,) * 8, (1,) * 8, ((), (0,), (1,), (2,), (3,), (3, 4), (*read, 5), (0, 6)))
        chain = chains.as_chain(dag, "test")
        assert [segment.end for segment in chain] == ends
        for segment in chain:
            used = {u for v in segment.backward for u in dag.inputs[v] if u <= 3}
            assert used <= {*segment.saved, segment.start}

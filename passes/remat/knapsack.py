"""What to keep for the backward pass as PyTorch chooses it: a minimum cut, then a knapsack.

Candidates are forward values that the backward pass needs; each has a weight (its bytes) and a
worth (its cost, which keeping it saves). `activation_memory_budget` in PyTorch keeps the set of the
greatest worth within a share of all their bytes, by one of three solvers; then, with the others
free to be recomputed, a minimum cut finds the least bytes from which the backward pass can start.

Two blind spots are PyTorch's own and kept here: the knapsack does not see that recomputing a value
needs its inputs, and it bounds the bytes kept, not the peak. The registered strategies therefore
try shares from 1 down and take the cheapest plan whose simulated peak is within the budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from staticgraph.errors import DagError
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.phases import cheapest, from_kept, turn
from staticgraph.passes.remat.plan import strategy

# Shares of the bytes that a strategy tries.
_SHARES = 40
# Capacity of the dynamic programme, as in PyTorch: bytes are rounded up to 1e-4 of it.
_CELLS = 10_000

Solver = Callable[[Sequence[int], Sequence[float], int], list[int]]


def greedy(weights: Sequence[int], worths: Sequence[float], capacity: int) -> list[int]:
    """Items in descending order of worth by weight, each taken if it still fits. O(n log n)."""
    _check(weights, worths, capacity)

    def density(i: int) -> float:
        return worths[i] / weights[i] if weights[i] else float("inf")

    chosen = []
    for i in sorted(range(len(weights)), key=lambda i: (-density(i), i)):
        if weights[i] <= capacity:
            chosen.append(i)
            capacity -= weights[i]
    return sorted(chosen)


def dynamic(weights: Sequence[int], worths: Sequence[float], capacity: int) -> list[int]:
    """The items of greatest worth, by dynamic programming in O(n * capacity).

    Exact up to a capacity of 10,000; above, weights are rounded up to 1/10,000 of it.
    """
    _check(weights, worths, capacity)
    if sum(weights) <= capacity:
        return list(range(len(weights)))
    unit = max(-(-capacity // _CELLS), 1)
    room = capacity // unit
    best = np.zeros(room + 1)
    taken = np.zeros((len(weights), room + 1), bool)
    for i, (weight, worth) in enumerate(zip(weights, worths, strict=True)):
        cells = -(-weight // unit)
        if cells > room:
            continue
        with_it = best[: room + 1 - cells] + worth
        taken[i, cells:] = with_it > best[cells:]
        best[cells:] = np.maximum(best[cells:], with_it)
    chosen = []
    for i in reversed(range(len(weights))):
        if taken[i, room]:
            chosen.append(i)
            room -= -(-weights[i] // unit)
    return chosen[::-1]


def integer(weights: Sequence[int], worths: Sequence[float], capacity: int) -> list[int]:
    """The items of greatest worth, by SciPy's mixed-integer solver (HiGHS). Exact."""
    from scipy.optimize import LinearConstraint, milp

    _check(weights, worths, capacity)
    if not len(weights):
        return []
    # Scaled by the capacity, so that the solver's tolerance is one relative to it.
    row = np.array([weights], float) / max(capacity, 1)
    limit = LinearConstraint(row, ub=min(capacity, 1))
    options = {"mip_rel_gap": 0.0}
    worths = np.array(worths, float)
    found = milp(-worths, constraints=limit, integrality=1, bounds=(0, 1), options=options)
    return [int(i) for i in np.flatnonzero(found.x > 0.5)]


def min_cut(dag: Dag, last: int, banned: Collection[int]) -> list[int]:
    """The forward values of least bytes from which the backward pass can start.

    Nothing in `banned` is computed again. Values are split in two nodes joined by their bytes;
    what is banned hangs on the source, what the backward pass reads on the sink. Fixed nodes are
    banned always. Dinic's algorithm, O(n^2 m) at worst and much faster in practice.
    """
    flow = _Flow(2 * (last + 1) + 2)
    source, sink = 2 * (last + 1), 2 * (last + 1) + 1
    endless = sum(dag.size) + 1
    for v in range(last + 1):
        flow.edge(2 * v, 2 * v + 1, dag.size[v])
        if v in banned or v in dag.fixed:
            flow.edge(source, 2 * v, endless)
        for w in dag.uses[v]:
            flow.edge(2 * v + 1, 2 * w if w <= last else sink, endless)
    reached = flow.cut(source, sink)
    return [v for v in range(last + 1) if reached[2 * v] and not reached[2 * v + 1]]


def candidates(dag: Dag, last: int) -> list[int]:
    """The forward values that the backward pass reads."""
    return [v for v in range(last + 1) if any(w > last for w in dag.uses[v])]


def plan_of_share(dag: Dag, share: float, solver: Solver) -> list[int]:
    """The sequence for a share (0..1) of the bytes that the backward pass reads."""
    if not 0 <= share <= 1:
        raise DagError(f"knapsack: the share of bytes must be in 0..1, is {share}")
    last = turn(dag)
    items = candidates(dag, last)
    weights, worths = [dag.size[v] for v in items], [dag.cost[v] for v in items]
    capacity = int(share * sum(weights))
    banned = {items[i] for i in solver(weights, worths, capacity)}
    return from_kept(dag, min_cut(dag, last, banned), last)


@strategy("knapsack-greedy")
def knapsack_greedy(dag: Dag, budget: int) -> list[int]:
    """PyTorch's choice with the greedy solver."""
    return cheapest(dag, budget, _plans(dag, greedy), "knapsack-greedy")


@strategy("knapsack-dp")
def knapsack_dp(dag: Dag, budget: int) -> list[int]:
    """PyTorch's choice with dynamic programming, its default."""
    return cheapest(dag, budget, _plans(dag, dynamic), "knapsack-dp")


@strategy("knapsack-ilp")
def knapsack_ilp(dag: Dag, budget: int) -> list[int]:
    """PyTorch's choice with an exact solver."""
    return cheapest(dag, budget, _plans(dag, integer), "knapsack-ilp")


def _plans(dag: Dag, solver: Solver) -> Iterator[list[int]]:
    for step in range(_SHARES, -1, -1):
        yield plan_of_share(dag, step / _SHARES, solver)


def _check(weights: Sequence[int], worths: Sequence[float], capacity: int) -> None:
    if len(weights) != len(worths):
        raise DagError(f"knapsack: {len(weights)} weights need as many worths, got {len(worths)}")
    if min([capacity, *weights, *worths]) < 0:
        raise DagError("knapsack: weights, worths and the capacity must not be negative")


class _Flow:
    """Dinic's maximum flow, whose last search gives the minimum cut."""

    def __init__(self, nodes: int) -> None:
        self._edges: list[list[int]] = [[] for _ in range(nodes)]
        self._head: list[int] = []
        self._room: list[int] = []

    def edge(self, tail: int, head: int, room: int) -> None:
        """An edge and, in the next place, its reverse."""
        for start, end, capacity in ((tail, head, room), (head, tail, 0)):
            self._edges[start].append(len(self._head))
            self._head.append(end)
            self._room.append(capacity)

    def cut(self, source: int, sink: int) -> list[bool]:
        """Whether each node is on the source's side of a minimum cut."""
        while True:
            level = self._levels(source)
            if level[sink] < 0:
                return [at >= 0 for at in level]
            self._block(source, sink, level)

    def _levels(self, source: int) -> list[int]:
        level = [-1] * len(self._edges)
        level[source] = 0
        queue = deque([source])
        while queue:
            v = queue.popleft()
            for e in self._edges[v]:
                w = self._head[e]
                if self._room[e] and level[w] < 0:
                    level[w] = level[v] + 1
                    queue.append(w)
        return level

    def _block(self, source: int, sink: int, level: list[int]) -> None:
        """Saturate every shortest path."""
        place = [0] * len(self._edges)
        path: list[int] = []
        v = source
        while True:
            if v == sink:
                amount = min(self._room[e] for e in path)
                for e in path:
                    self._room[e] -= amount
                    self._room[e ^ 1] += amount
                path, v = [], source
                continue
            edges = self._edges[v]
            while place[v] < len(edges):
                e = edges[place[v]]
                if self._room[e] and level[self._head[e]] == level[v] + 1:
                    break
                place[v] += 1
            if place[v] < len(edges):
                path.append(edges[place[v]])
                v = self._head[path[-1]]
            elif path:
                v = self._head[path.pop() ^ 1]
                place[v] += 1
            else:
                return

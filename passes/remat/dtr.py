"""Dynamic tensor rematerialization: decide what to drop only when memory runs out.

Kirisame et al. (ICLR 2021). The nodes run in the stored order. Where a node does not fit, values
are evicted, the one of the least heuristic value first; where an input was evicted it is computed
again, with whatever that takes. Staleness is the cost run since a value was last used. With c, m, s
a value's cost, bytes and staleness, and c* the cost of the evicted values that hang together with
it (through which a recomputation would run):

    "dtr"    (c + c*) / (m s), c* by walking the evicted neighbourhood: ancestors, descendants
    "eq"     the same with union-find: components of evicted values, their cost summed
    "local"  c / (m s)
    "lru"    1 / s
    "size"   1 / m

A value that no node of the stored order needs any more is released at once. On a chain of N nodes
with its backward pass and about 2 sqrt(N) values of room, "dtr" and "eq" run O(N) nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from staticgraph.errors import BudgetError, DagError
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.plan import strategy

# A runtime that runs every node this often thrashes.
_THRASH = 200


def run(dag: Dag, budget: int, heuristic: str = "dtr") -> list[int]:
    """The sequence that the runtime would run. O(evictions * values held * what a score takes).

    heuristic: a name of HEURISTICS. Raises BudgetError where a node cannot fit next to what it
    takes, or where more than 200 n nodes were run.
    """
    if heuristic not in HEURISTICS:
        raise DagError(f"dtr: heuristic must be one of {list(HEURISTICS)}, is {heuristic!r}")
    return _Runtime(dag, budget, heuristic).run()


class _Runtime:
    """Memory while the nodes run."""

    def __init__(self, dag: Dag, budget: int, heuristic: str) -> None:
        self.dag, self.budget, self.heuristic = dag, budget, heuristic
        self.score = HEURISTICS[heuristic]
        self.held: dict[int, None] = {}  # in order of arrival
        self.bytes = 0
        self.evicted: set[int] = set()
        self.groups = _Groups(dag)
        self.pins = [0] * len(dag)
        self.uses_left = [len(readers) for readers in dag.uses]
        self.clock = 0.0
        self.used = [0.0] * len(dag)  # the clock at each value's last use
        self.sequence: list[int] = []

    def run(self) -> list[int]:
        for v in range(len(self.dag)):
            self._obtain(v)
            self._release(v)
        for v in sorted(self.dag.outputs):
            self.pins[v] += 1
            if v not in self.held:
                self._obtain(v)
        return self.sequence

    def stale(self, v: int) -> float:
        return self.clock - self.used[v]

    def neighbourhood(self, v: int) -> float:
        """Cost of the evicted ancestors and descendants that evicted values join to v."""
        total = 0.0
        for edges in (self.dag.inputs, self.dag.uses):
            met, stack = {v}, [v]
            while stack:
                near = [u for u in edges[stack.pop()] if u in self.evicted and u not in met]
                met.update(near)
                stack += near
                total += sum(self.dag.cost[u] for u in near)
        return total

    def component(self, v: int) -> float:
        """Cost of the components of evicted values next to v."""
        near = [u for u in (*self.dag.inputs[v], *self.dag.uses[v]) if u in self.evicted]
        return self.groups.cost_next_to(near)

    def _obtain(self, v: int) -> None:
        """Run v, and first whatever it takes; inputs cannot be evicted while they are awaited."""
        stack = [v]
        self._pin(v, 1)
        while stack:
            w = stack[-1]
            lacking = next((u for u in self.dag.inputs[w] if u not in self.held), None)
            if lacking in self.dag.fixed and lacking in self.evicted:
                raise BudgetError(
                    f"dtr ({self.heuristic}): {self.dag.label(lacking)} is fixed to run once, had "
                    f"to be evicted at {self.budget} bytes, and is read again"
                )
            if lacking is None:
                self._compute(w)
                self._pin(w, -1)
                stack.pop()
            else:
                self._pin(lacking, 1)
                stack.append(lacking)

    def _pin(self, v: int, by: int) -> None:
        for u in self.dag.inputs[v]:
            self.pins[u] += by

    def _compute(self, v: int) -> None:
        dag = self.dag
        shared = [dag.size[u] for u in dag.inplace[v] or () if self._ends_with(u, v)]
        need = dag.size[v] + dag.extra[v] - min(dag.size[v], max(shared, default=0))
        while self.bytes + need > self.budget:
            self._evict(self._victim(v))
        self.clock += dag.cost[v]
        for u in (*dag.inputs[v], v):
            self.used[u] = self.clock
        self.bytes += dag.size[v]
        self.held[v] = None
        if v in self.evicted:
            self.evicted.discard(v)
            self.groups.leave(v)
        self.sequence.append(v)
        if len(self.sequence) > _THRASH * len(dag):
            raise BudgetError(
                f"dtr ({self.heuristic}): thrashes: more than {_THRASH} runs of each node at "
                f"{self.budget} bytes"
            )

    def _ends_with(self, u: int, v: int) -> bool:
        """Whether u is released once v has run, v being next in the stored order."""
        first_run = v not in self.evicted and self.pins[u] == 1
        return first_run and self.uses_left[u] == 1 and u not in self.dag.outputs | self.dag.fixed

    def _victim(self, v: int) -> int:
        dag = self.dag
        free = [u for u in self.held if not self.pins[u] and dag.size[u]]
        # What may not run again goes last, and only after its last use in the stored order.
        done = [u for u in free if u in dag.fixed - dag.outputs and not self.uses_left[u]]
        free = [u for u in free if u not in dag.fixed] or done
        if not free:
            raise BudgetError(
                f"dtr ({self.heuristic}): {dag.label(v)} does not fit next to what it takes: "
                f"{self.bytes} bytes cannot be evicted, the budget is {self.budget} bytes"
            )
        return min(free, key=lambda u: (self.score(self, u), u))

    def _evict(self, v: int) -> None:
        del self.held[v]
        self.bytes -= self.dag.size[v]
        self.groups.enter(v, self.evicted)
        self.evicted.add(v)

    def _release(self, v: int) -> None:
        """Let go of what no later node of the stored order reads."""
        for u in self.dag.inputs[v]:
            self.uses_left[u] -= 1
        for u in (*self.dag.inputs[v], v):
            kept = u in self.dag.outputs or u in self.dag.fixed
            if not self.uses_left[u] and not kept and u in self.held:
                self._evict(u)


class _Groups:
    """Components of evicted values by union-find, and the cost of each.

    A value that comes back takes its cost with it, but does not split its component: an estimate,
    as in the paper.
    """

    def __init__(self, dag: Dag) -> None:
        self._dag = dag
        self._slot: dict[int, int] = {}
        self._parent: list[int] = []
        self._cost: list[float] = []

    def enter(self, v: int, evicted: set[int]) -> None:
        root = self._slot[v] = len(self._parent)
        self._parent.append(root)
        self._cost.append(self._dag.cost[v])
        for u in (*self._dag.inputs[v], *self._dag.uses[v]):
            other = self._root(self._slot[u]) if u in evicted else root
            if other != root:
                self._parent[other] = root
                self._cost[root] += self._cost[other]

    def leave(self, v: int) -> None:
        self._cost[self._root(self._slot[v])] -= self._dag.cost[v]

    def cost_next_to(self, evicted: list[int]) -> float:
        """Of all components that hold one of the values."""
        return sum(self._cost[root] for root in {self._root(self._slot[u]) for u in evicted})

    def _root(self, slot: int) -> int:
        while self._parent[slot] != slot:
            self._parent[slot] = self._parent[self._parent[slot]]
            slot = self._parent[slot]
        return slot


def _relative(worth: float, size: int, stale: float) -> float:
    return worth / (size * stale) if stale else math.inf


#: what evicting a value loses, by the runtime and the value; the least is evicted first
HEURISTICS: dict[str, Callable[[_Runtime, int], float]] = {
    "dtr": lambda r, v: _relative(r.dag.cost[v] + r.neighbourhood(v), r.dag.size[v], r.stale(v)),
    "eq": lambda r, v: _relative(r.dag.cost[v] + r.component(v), r.dag.size[v], r.stale(v)),
    "local": lambda r, v: _relative(r.dag.cost[v], r.dag.size[v], r.stale(v)),
    "lru": lambda r, v: -r.stale(v),
    "size": lambda r, v: -r.dag.size[v],
}


@strategy("dtr")
def dtr(dag: Dag, budget: int) -> list[int]:
    """`run` with the full heuristic."""
    return run(dag, budget, "dtr")


@strategy("dtr-eq")
def dtr_eq(dag: Dag, budget: int) -> list[int]:
    """`run` with union-find components."""
    return run(dag, budget, "eq")


@strategy("dtr-local")
def dtr_local(dag: Dag, budget: int) -> list[int]:
    """`run` with each value's own cost only."""
    return run(dag, budget, "local")


@strategy("dtr-lru")
def dtr_lru(dag: Dag, budget: int) -> list[int]:
    """`run`, evicting what was used longest ago."""
    return run(dag, budget, "lru")


@strategy("dtr-size")
def dtr_size(dag: Dag, budget: int) -> list[int]:
    """`run`, evicting the largest value."""
    return run(dag, budget, "size")

"""Plans from sequences of lower sets (Kusumoto, Inoue, Watanabe, Akiba & Koyama, NeurIPS 2019).

A lower set holds the inputs of all it holds. For L_1 < ... < L_k = the forward pass, the forward
pass keeps of each stretch V_i = L_i - L_{i-1} only the boundary d(L_i), the values that nodes
outside L_i read; the backward pass computes the stretches again, last one first. With T and M the
cost and the bytes of a set, U_i the values kept so far, and gradients as large as their values:

    overhead  sum_i T(V_i - d(L_i))
    memory    max_i M(U_{i-1}) + 2 M(V_i) + M(d+(L_i) - L_i) + M(d-(d+(L_i)) - L_i)

where d+ are the readers outside and d- what those read. `best_sets` finds the least overhead within
a budget of *this* memory (the paper's TC), or the greatest (its MC: longer stretches free more) by
dynamic programming over lower sets and their non-dominated pairs (overhead, M(U)). Over all lower
sets the result is exact, as long as no set has more than 20,000 / (number of sets) such pairs; over
the ancestors of each node ("approximate") there are O(n^2) steps.

The real memory of a plan is the simulator's. The strategies therefore look for the budget in the
paper's sense whose plan serves best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from staticgraph.errors import BudgetError, DagError
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.phases import cheapest, from_kept, turn
from staticgraph.passes.remat.plan import strategy
from staticgraph.passes.remat.simulate import simulate

_MOST_SETS = 2000
# Cells of the dynamic programming's tables: sets, times pairs kept for each.
_MOST_PAIRS = 20_000
_BISECTIONS = 8


class _Pairs(NamedTuple):
    """For pairs in one list: the set of each, its overhead, the bytes kept, the pair before."""

    of: np.ndarray
    overhead: np.ndarray
    kept: np.ndarray
    before: np.ndarray


class Choice(NamedTuple):
    """Lower sets in ascending order, with their overhead and memory as the head of this file says.

    The sets are bits of forward nodes.
    """

    sets: tuple[int, ...]
    overhead: float
    memory: int


def all_lower_sets(dag: Dag, last: int, *, most: int = _MOST_SETS) -> list[int]:
    """Every lower set of the forward pass 0..last but the empty one; DagError beyond `most`."""
    needs = [sum(1 << u for u in dag.inputs[v]) for v in range(last + 1)]
    found, frontier = {0}, [0]
    while frontier:
        part = frontier.pop()
        for v in range(last + 1):
            wider = part | 1 << v
            if wider not in found and not needs[v] & ~part:
                found.add(wider)
                frontier.append(wider)
        if len(found) > most:
            raise DagError(
                f"kusumoto-exact: the forward pass ({last + 1} nodes) has more than {most} lower "
                "sets; the approximate strategy takes the ancestors of each node only"
            )
    return sorted(found - {0}, key=lambda part: (part.bit_count(), part))


def ancestor_sets(dag: Dag, last: int) -> list[int]:
    """For each forward node the set of it and its ancestors, and the set of all."""
    sets: list[int] = []
    for v in range(last + 1):
        part = 1 << v
        for u in dag.inputs[v]:
            part |= sets[u]
        sets.append(part)
    found = {*sets, (1 << last + 1) - 1}
    return sorted(found, key=lambda part: (part.bit_count(), part))


def best_sets(
    dag: Dag, last: int, sets: Sequence[int], budget: float, *, aim: str = "time"
) -> Choice:
    """The sequence of lower sets of least ("time") or greatest ("memory") overhead in the budget.

    Raises BudgetError if there is none.
    """
    return _Search(dag, last, sets).run(budget, aim)


@strategy("kusumoto")
def kusumoto(dag: Dag, budget: int) -> list[int]:
    """Lower sets that are the ancestors of a node, of the best budget in the paper's sense."""
    last = turn(dag)
    return _best_plan(dag, budget, last, ancestor_sets(dag, last), "kusumoto")


@strategy("kusumoto-exact")
def kusumoto_exact(dag: Dag, budget: int) -> list[int]:
    """All lower sets; DagError where the forward pass has too many."""
    last = turn(dag)
    return _best_plan(dag, budget, last, all_lower_sets(dag, last), "kusumoto-exact")


def plan_of(dag: Dag, last: int, choice: Choice) -> list[int]:
    """The sequence that keeps the boundaries of the sets, and the last stretch."""
    kept = set()
    for part in choice.sets[:-1]:
        for v in range(last + 1):
            if part >> v & 1 and any(w <= last and not part >> w & 1 for w in dag.uses[v]):
                kept.add(v)
    before = choice.sets[-2] if len(choice.sets) > 1 else 0
    stretch = [v for v in range(last + 1) if not before >> v & 1]
    return from_kept(dag, [*kept, *stretch], last)


def _best_plan(dag: Dag, budget: int, last: int, sets: Sequence[int], name: str) -> list[int]:
    search = _Search(dag, last, sets)

    def plans() -> Iterator[list[int]]:
        everything = list(range(len(dag)))
        yield everything
        if simulate(dag, everything).peak <= budget:
            return
        found = False
        for aim in ("time", "memory"):
            low, high = 0.0, search.most_memory()
            for _ in range(0 if found else _BISECTIONS):
                middle = (low + high) / 2
                try:
                    plan = plan_of(dag, last, search.run(middle, aim))
                except BudgetError:
                    low = middle
                    continue
                yield plan
                fits = simulate(dag, plan).peak <= budget
                low, high = (middle, high) if fits else (low, middle)
                found |= fits

    return cheapest(dag, budget, plans(), name)


class _Search:
    """The dynamic programme; what does not depend on the budget is computed once.

    Tables with two axes have a set in the row and a later, larger one in the column.
    """

    def __init__(self, dag: Dag, last: int, sets: Sequence[int]) -> None:
        self.sets = [0, *sets]
        nodes = range(last + 1)
        size, cost = np.array(dag.size[: last + 1], float), np.array(dag.cost[: last + 1])
        inside = np.array([[part >> v & 1 for v in nodes] for part in self.sets], float)
        boundary = np.zeros_like(inside)
        ahead = np.zeros(len(self.sets))
        for i, part in enumerate(self.sets):
            readers = {w for v in nodes if part >> v & 1 for w in dag.uses[v] if w <= last}
            readers = {w for w in readers if not part >> w & 1}
            read = {u for w in readers for u in dag.inputs[w]}
            boundary[i, [u for u in read if part >> u & 1]] = 1
            # Gradients of the readers, and what else those read.
            ahead[i] = sum(dag.size[w] for w in readers)
            ahead[i] += sum(dag.size[u] for u in read if not part >> u & 1)
        self.within = inside @ inside.T == inside.sum(1)[:, None]
        stretch = inside @ size - (inside @ size)[:, None]
        self.need = 2 * stretch + ahead
        # Of the larger set's boundary, what the smaller one does not hold is newly kept.
        self.kept = boundary @ size - inside @ (boundary * size).T
        spared = boundary @ cost - inside @ (boundary * cost).T
        self.overhead = inside @ cost - (inside @ cost)[:, None] - spared
        self.most_pairs = max(_MOST_PAIRS // len(self.sets), 16)

    def most_memory(self) -> float:
        """A budget that the best sequences of sets need not exceed: all values and gradients."""
        return float(self.need[0].max() + self.kept[0].max())

    def run(self, budget: float, aim: str) -> Choice:
        """`best_sets` within this budget."""
        sign = {"time": 1.0, "memory": -1.0}[aim]
        pairs = _Pairs(np.zeros(1, int), np.zeros(1), np.zeros(1), np.zeros(1, int))
        for j in range(1, len(self.sets)):
            near = pairs.kept + self.need[pairs.of, j] <= budget
            before = np.flatnonzero(near & self.within[pairs.of, j])
            overhead = pairs.overhead[before] + self.overhead[pairs.of[before], j]
            kept = pairs.kept[before] + self.kept[pairs.of[before], j]
            best = _not_dominated(sign * overhead, kept, self.most_pairs)
            new = (np.full(len(best), j), overhead[best], kept[best], before[best])
            pairs = _Pairs(*(np.concatenate(both) for both in zip(pairs, new, strict=True)))
        ends = np.flatnonzero(pairs.of == len(self.sets) - 1)
        if not len(ends):
            raise BudgetError(f"lower sets: none keep the budget of {budget:.0f} bytes")
        return self._traced(pairs, int(ends[np.argmin(sign * pairs.overhead[ends])]))

    def _traced(self, pairs: _Pairs, pair: int) -> Choice:
        overhead, memory, sets = float(pairs.overhead[pair]), 0.0, []
        while pair:
            before, j = int(pairs.before[pair]), pairs.of[pair]
            memory = max(memory, float(pairs.kept[before] + self.need[pairs.of[before], j]))
            sets.append(self.sets[j])
            pair = before
        return Choice(tuple(reversed(sets)), overhead, int(memory))


def _not_dominated(overhead: np.ndarray, kept: np.ndarray, most: int) -> np.ndarray:
    """The pairs that no other undercuts in both; `most` of them, evenly spread, if there are more.

    Thinned out, the result is still a sequence of lower sets, though perhaps not the best.
    """
    order = np.lexsort((kept, overhead))
    least = np.minimum.accumulate(kept[order])
    order = order[np.concatenate(([True], kept[order][1:] < least[:-1]))[: len(order)]]
    if len(order) > most:
        order = order[np.linspace(0, len(order) - 1, most).astype(int)]
    return order

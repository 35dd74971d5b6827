"""Simulated annealing on sequences with repeats, from a given sequence: the driver.

The machine code is in `annealstate` and `annealmoves`. A `Search` counts its work in moves, so that
equal seeds give equal plans; only a caller that stops it by the clock gives that up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from staticgraph.passes.remat import annealmoves, annealstate
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.simulate import simulate

_SPREAD = 3  # slots for each op


class Search:
    """A sequence that is being improved towards the least cost within the budget.

    weight: what a byte above the budget costs at first, in the cost of one pass for each budget.
    best: the cheapest sequence met within the budget, `cost` its cost (inf while there is none).
    """

    def __init__(
        self, dag: Dag, budget: int, sequence: Sequence[int], seed: int = 0, weight: float = 1.0
    ):
        self.dag = dag
        self.budget = budget
        self.best: list[int] = []
        self.cost = math.inf
        self._costs = np.array(dag.cost)
        self._node, self._link = tables(dag)
        self._weight = weight * dag.total / max(1, budget)
        # The sequence of seeds must not be a sequence of states: xorshift needs bits well mixed.
        self._random = np.array(
            [np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] | 1], np.uint64
        )
        self.restart(sequence)

    def restart(self, sequence: Sequence[int]) -> None:
        """Go on from this sequence (which must be a plan, of whatever peak)."""
        order = np.asarray(sequence, np.int64)
        slots = _SPREAD * len(order)
        self._slot = np.full((slots, 3), (-1, 0, 0), np.int64)
        self._live = np.zeros(slots, np.int64)
        self._total = np.array([0, 0, self.budget], np.int64)
        self._node[:, annealstate.COUNT] = 0
        self._node[:, annealstate.MANY_AT] = -1
        annealstate.place(
            self._node, self._link, self._slot, self._live, self._total, order, 1, _SPREAD
        )

    @property
    def sequence(self) -> list[int]:
        """The sequence as it stands."""
        ops = self._slot[:, annealstate.OP]
        return [int(v) for v in ops[ops >= 0]]

    def run(
        self, moves: int, hot: float, cold: float, mix: Sequence[int] = (20, 40, 60, 80, 100)
    ) -> None:
        """Try that many moves while the temperature falls; both are fractions of one pass.

        mix: the cumulated shares of the kinds of moves, in the order of `annealmoves`.
        """
        best = np.zeros(len(self._slot) + 1, np.int64)
        spent = math.fsum(self._costs[self.sequence])
        number = np.array([spent, self._weight, self.cost])
        unit = self.dag.total or 1.0
        annealmoves.anneal(
            self._node,
            self._link,
            self._slot,
            self._live,
            self._total,
            self._costs,
            self._random,
            number,
            best,
            np.asarray(mix, np.int64),
            moves,
            hot * unit,
            cold * unit,
        )
        self._weight = float(number[annealmoves.WEIGHT])
        if best[0]:
            self._keep([int(v) for v in best[1 : best[0] + 1]])

    def _keep(self, sequence: list[int]) -> None:
        made = simulate(self.dag, sequence)
        if made.peak <= self.budget and made.cost < self.cost:
            self.best, self.cost = sequence, made.cost


def tables(dag: Dag) -> tuple[np.ndarray, np.ndarray]:
    """`node` and `link` of `annealstate`."""
    n = len(dag)
    node = np.zeros((n, annealstate.NODE_WIDTH), np.int64)
    links: list[tuple[int, int]] = []
    for v in range(n):
        operands = [(u, int(u in (dag.inplace[v] or ()))) for u in dag.inputs[v]]
        starts = [len(links), len(links) + len(operands)]
        links += operands
        links += [(w, 0) for w in dag.uses[v]]
        node[v, : annealstate.COUNT] = (
            dag.size[v],
            dag.extra[v],
            v in dag.fixed,
            v in dag.outputs,
            bool(dag.inplace[v]),
            *starts,
            starts[1],
            len(links),
        )
    return node, np.array(links, np.int64).reshape(-1, 2)

"""Checkmate (Jain et al., MLSys 2020): a mixed-integer programme, its relaxation, and rounding.

Node t is computed for the first time in stage t; in a stage nodes run in numeric order, each at
most once. (Where there are outputs, a further stage may compute them again.) R[t,i]: node i runs in
stage t. S[t,i]: value i is in memory when stage t begins. F[t,i,k]: value i is freed after node k
ran in stage t. U[t,k]: bytes live there. Minimise the cost of all R subject to

    R[t,t] = 1,  R[t,v] <= R[t,u] + S[t,u] for u -> v,  S[t+1,i] <= S[t,i] + R[t,i]
    F[t,i,k] <= R[t,k],  <= 1 - S[t+1,i],  <= 1 - R[t,j] for later readers j of i
    U[t,k+1] = U[t,k] + m_{k+1} R[t,k+1] - sum_i m_i F[t,i,k] <= B

The paper bounds F by one row each and makes it binary; one row for each reason is tighter and lets
F be continuous. Temporaries and in-place operands enter the bound on U as they do in the simulator.
There is no noise on the costs, and no tolerance on the optimum.

O(n^2 + n m) variables: `milp` is an oracle for n <= 75 or so, proved optimal among plans in stages
(`exact.shortest` with order="staged" finds the same); `lp_rounding` is Checkmate's approximation.
Both call SciPy's HiGHS, on one core.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from staticgraph.errors import BudgetError, DagError
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.phases import cheapest, from_stages
from staticgraph.passes.remat.plan import strategy
from staticgraph.passes.remat.simulate import simulate

_MOST_NODES = 200
# Checkmate solves the relaxation for 0.9 of the budget, so that rounded plans still fit.
_ALLOWANCES = (0.9, 0.8, 1.0)
_THRESHOLDS = tuple(i / 10 for i in range(1, 10))
# HiGHS keeps rows to 1e-6: a plan found above the budget is looked for again so much below it.
_TOLERANCE = 4e-6


class Solution(NamedTuple):
    """A plan in stages; no such plan costs less than `bound`, and none at all if `proved`."""

    sequence: tuple[int, ...]
    cost: float
    bound: float
    proved: bool


def milp(dag: Dag, budget: int, *, time_limit: float | None = None) -> Solution:
    """The plan in stages of least cost.

    Raises BudgetError if there is none, or none was found in the time limit (seconds); DagError
    for more than 200 nodes.
    """
    if budget < max(map(dag.working_set, range(len(dag)))):
        raise BudgetError(f"checkmate: one node alone needs more than {budget} bytes")
    programme = _Programme(dag)
    for limit in (float(budget), budget * (1 - _TOLERANCE)):
        found = programme.solve(limit, integral=True, time_limit=time_limit)
        if found.status == 2:
            raise BudgetError(f"checkmate: no plan in stages keeps the budget of {budget} bytes")
        if found.x is None:
            raise BudgetError(f"checkmate: no plan was found for {budget} bytes: {found.message}")
        sequence = from_stages(dag, programme.held(found.x, 0.5))
        made = simulate(dag, sequence)
        if made.peak <= budget:
            bound = min(found.mip_dual_bound * programme.worth, made.cost)
            return Solution(tuple(sequence), made.cost, bound, found.status == 0)
    raise BudgetError(f"checkmate: the solver's plan needs {made.peak} bytes of {budget}")


def relaxation(dag: Dag, budget: int) -> float:
    """The cost of the relaxed programme, below that of any plan in stages."""
    programme = _Programme(dag)
    found = programme.solve(float(budget), integral=False)
    if found.status == 2:
        raise BudgetError(f"checkmate: not even fractions of values keep {budget} bytes")
    return float(found.fun) * programme.worth


@strategy("checkmate-milp")
def checkmate_milp(dag: Dag, budget: int, *, time_limit: float | None = None) -> list[int]:
    """Checkmate's optimum, or the best found in the time limit."""
    return list(milp(dag, budget, time_limit=time_limit).sequence)


@strategy("checkmate-lp")
def checkmate_lp(dag: Dag, budget: int, *, time_limit: float | None = None) -> list[int]:
    """Checkmate's two-phase rounding: S by a threshold on the relaxation, R the least for S.

    The relaxation is solved for 0.9 of the budget, as in the paper, for less and for all of it;
    thresholds .1 to .9 are tried.
    """
    return lp_rounding(dag, budget, time_limit=time_limit)


def lp_rounding(
    dag: Dag,
    budget: int,
    *,
    allowances: tuple[float, ...] = _ALLOWANCES,
    thresholds: tuple[float, ...] = _THRESHOLDS,
    time_limit: float | None = None,
) -> list[int]:
    """The cheapest plan within the budget over shares of it for the relaxation, and thresholds."""
    programme = _Programme(dag)

    def plans() -> Iterator[list[int]]:
        for allowance in allowances:
            found = programme.solve(allowance * budget, integral=False, time_limit=time_limit)
            if found.x is None:
                continue
            for threshold in thresholds:
                yield from_stages(dag, programme.held(found.x, threshold))

    return cheapest(dag, budget, plans(), "checkmate-lp")


class _Programme:
    """Variables and rows; the budget comes with `solve`. Bytes are in units of the largest size."""

    def __init__(self, dag: Dag) -> None:
        n = len(dag)
        if n > _MOST_NODES:
            raise DagError(
                f"checkmate: at most {_MOST_NODES} nodes (the programme has about n**2 + n m "
                f"variables), the graph has {n}"
            )
        self.dag = dag
        self.unit = max(*dag.size, *dag.extra, 1)
        # HiGHS stops at an absolute gap of 1e-6: costs up to 1e4 make that 1e-10 of the largest.
        self.worth = max(dag.cost) / 1e4 or 1.0
        self._cost: list[float] = []
        self._low: list[float] = []
        self._high: list[float] = []
        self._whole: list[int] = []
        self._entries: tuple[list[int], list[int], list[float]] = ([], [], [])
        self._above: list[float] = []
        self._below: list[float] = []
        self._budgeted: list[int] = []
        # Outputs may be computed again after the last node.
        self.stages = n + bool(dag.outputs)
        self.run = {(t, i): self._run(t, i) for t in range(self.stages) for i in self._upto(t)}
        self.hold = {(t, i): self._binary() for t in range(1, self.stages) for i in self._before(t)}
        for v in range(n):
            stays = float(v in dag.outputs)
            self.hold[self.stages, v] = self._variable(0.0, stays, stays, 0)
        for t in range(self.stages):
            self._stage(t)

    def solve(self, budget: float, *, integral: bool, time_limit: float | None = None):
        """SciPy's result."""
        # SciPy is needed by these oracles only.
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        rows, columns, values = self._entries
        shape = (len(self._above), len(self._cost))
        matrix = csr_array((values, (rows, columns)), shape=shape)
        above, below = np.array(self._above), np.array(self._below)
        below[self._budgeted] = budget / self.unit
        options = {"mip_rel_gap": 0.0} | ({"time_limit": time_limit} if time_limit else {})
        return milp(
            self._cost,
            constraints=LinearConstraint(matrix, above, below),
            bounds=Bounds(self._low, self._high),
            integrality=np.array(self._whole) * integral,
            options=options,
        )

    def held(self, x: np.ndarray, threshold: float) -> list[list[int]]:
        """For each stage the values in memory when it begins."""
        stages: list[list[int]] = [[] for _ in range(self.stages)]
        for (t, i), variable in self.hold.items():
            if t < self.stages and x[variable] > threshold:
                stages[t].append(i)
        return stages

    def _upto(self, t: int) -> range:
        return range(min(t + 1, len(self.dag)))

    def _before(self, t: int) -> range:
        return range(min(t, len(self.dag)))

    def _run(self, t: int, i: int) -> int:
        least = float(t == i)
        most = 1.0 if t == i or i not in self.dag.fixed else 0.0
        return self._variable(self.dag.cost[i] / self.worth, least, most, 1)

    def _binary(self) -> int:
        return self._variable(0.0, 0.0, 1.0, 1)

    def _variable(self, cost: float, low: float, high: float, whole: int) -> int:
        self._cost.append(cost)
        self._low.append(low)
        self._high.append(high)
        self._whole.append(whole)
        return len(self._cost) - 1

    def _row(self, terms: list[tuple[int, float]], above: float, below: float) -> int:
        row = len(self._above)
        for column, value in terms:
            for target, entry in zip(self._entries, (row, column, value), strict=True):
                target.append(entry)
        self._above.append(above)
        self._below.append(below)
        return row

    def _at_most(self, terms: list[tuple[int, float]], most: float) -> int:
        return self._row(terms, -np.inf, most)

    def _stage(self, t: int) -> None:
        dag, run, hold = self.dag, self.run, self.hold
        live = self._variable(0.0, 0.0, np.inf, 0)
        entering = [(hold[t, i], -dag.size[i] / self.unit) for i in self._before(t)]
        self._row([(live, 1.0), *entering], 0.0, 0.0)
        for k in self._upto(t):
            for u in dag.inputs[k]:
                here = [(hold[t, u], -1.0)] if u < t else []
                self._at_most([(run[t, k], 1.0), (run[t, u], -1.0), *here], 0.0)
            here = [(hold[t, k], -1.0)] if k < t else []
            self._at_most([(hold[t + 1, k], 1.0), (run[t, k], -1.0), *here], 0.0)
            live = self._node(t, k, live)

    def _node(self, t: int, k: int, live: int) -> int:
        """Rows about the bytes live while node k runs in stage t; the variable for those after."""
        dag, unit = self.dag, self.unit
        free = {i: self._freed(t, i, k) for i in (*dag.inputs[k], k)}
        need = (dag.size[k] + dag.extra[k]) / unit
        terms = [(live, 1.0), (self.run[t, k], need), *self._in_place(k, free)]
        self._budgeted.append(self._at_most(terms, 0.0))
        after = self._variable(0.0, 0.0, np.inf, 0)
        change = [(live, -1.0), (self.run[t, k], -dag.size[k] / unit)]
        change += [(variable, dag.size[i] / unit) for i, variable in free.items()]
        self._row([(after, 1.0), *change], 0.0, 0.0)
        return after

    def _freed(self, t: int, i: int, k: int) -> int:
        variable = self._variable(0.0, 0.0, 1.0, 0)
        self._at_most([(variable, 1.0), (self.run[t, k], -1.0)], 0.0)
        self._at_most([(variable, 1.0), (self.hold[t + 1, i], 1.0)], 1.0)
        for j in self.dag.uses[i]:
            if k < j <= t:
                self._at_most([(variable, 1.0), (self.run[t, j], 1.0)], 1.0)
        return variable

    def _in_place(self, k: int, free: dict[int, int]) -> list[tuple[int, float]]:
        """What node k saves by taking over the memory of one operand that it frees."""
        operands = sorted(self.dag.inplace[k] or ())
        terms = []
        for u in operands:
            chosen = self._variable(0.0, 0.0, 1.0, 0)
            self._at_most([(chosen, 1.0), (free[u], -1.0)], 0.0)
            terms.append((chosen, -min(self.dag.size[u], self.dag.size[k]) / self.unit))
        if terms:
            self._at_most([(variable, 1.0) for variable, _ in terms], 1.0)
        return terms

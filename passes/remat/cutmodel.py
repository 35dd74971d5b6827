"""A linear program whose optimum no plan within a budget can undercut: the *cut bound*.

Fix a chain of nodes t_1, ..., t_k, each an ancestor of the next, and look at any plan at the
moments when each of them runs for the first time. The moments part the plan into segments 0..k;
whatever is needed in a later segment is held across the moment (bytes, against the budget) or
computed again there (cost, and it needs its own inputs held or computed again). Two kinds of 0/1
variables say so:

    run[j, v]   v is computed at least once in segment j
    hold[j, v]  v is live while t_j runs and stays live after it

    minimise    sum_j,v  cost_v run[j, v]
    run[j, w]    <= run[j, v] + hold[j, v]     for each input v of w
    hold[j+1, v] <= run[j, v] + hold[j, v]
    sum_v size_v hold[j, v] + working set of t_j <= budget

What a node's first run may be is known from the graph alone: descendants of t_j run after it,
ancestors before it. In the `stored` order every node stands on one side of each t_j. Each plan of
the graph satisfies these rows, so their minimum is below every plan's cost; memory between the
moments is ignored, which is why it is a bound and not a plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from staticgraph.passes.remat.dag import Dag

# The solver works with floats and absolute tolerances. Rows of fractions of bytes make it lose
# solutions that fill the budget exactly, so bytes are given as whole numbers of a common unit, and
# costs too where they are whole numbers of one; else they are scaled to a total of `_TOTAL`.
_MOST_NODES = 1 << 30
_MOST_UNITS = 1 << 28
_TOTAL = 1e6
# What the solver's tolerances may add to its bound, in its own units of cost.
_MARGIN = 1e-3


class Solution(NamedTuple):
    """What a model says of a budget.

    cost: no plan costs less (inf: there is none). prices: for each cut, what one byte more of
    budget would save (only from the linear program). held, runs: for each cut the values held
    across it, and for each segment the nodes run in it; empty where the solver found no integers.
    """

    cost: float
    prices: tuple[float, ...] = ()
    held: tuple[frozenset[int], ...] = ()
    runs: tuple[frozenset[int], ...] = ()


class CutModel:
    """The program of one chain of cuts; `solve` answers for a budget.

    A term of a row is a column's number, or True or False where the graph alone decides.
    """

    def __init__(self, dag: Dag, cuts: Sequence[int], stored: bool = False):
        self.dag = dag
        self.cuts = tuple(cuts)
        self._first, self._last = first_runs(dag, self.cuts, stored)
        self._unit, self._whole = _cost_unit(dag)
        self._columns: dict[tuple[str, int, int], int] = {}
        self._costs: list[float] = []
        self._constant = 0.0
        self._rows = _Rows()
        self._memory = _Rows()
        for j, t in enumerate(self.cuts, start=1):
            self._memory_row(j, t)
        for v in range(len(dag)):
            self._node_rows(v)

    def _run(self, j: int, v: int) -> int | bool:
        if j < self._first[v] or (v in self.dag.fixed and j > self._last[v]):
            return False
        if j == self._first[v] == self._last[v]:
            return True
        return self._column("run", j, v, self.dag.cost[v] / self._unit)

    def _hold(self, j: int, v: int) -> int | bool:
        if j <= self._first[v]:
            return False  # not computed yet
        t = self.cuts[j - 1]
        if v == t or (v in self.dag.inputs[t] and v not in (self.dag.inplace[t] or ())):
            return True  # live while t_j runs, whatever comes after
        return self._column("hold", j, v, 0.0)

    def _column(self, kind: str, j: int, v: int, cost: float) -> int:
        number = self._columns.setdefault((kind, j, v), len(self._columns))
        if number == len(self._costs):
            self._costs.append(cost)
        return number

    def _memory_row(self, j: int, t: int) -> None:
        """-(bytes held across the first run of t) >= bytes live in any case - budget."""
        dag = self.dag
        base = dag.size[t] + dag.extra[t] + sum(dag.size[u] for u in dag.inputs[t])
        held = [int(v) for v in np.flatnonzero(self._first < j) if v not in (t, *dag.inputs[t])]
        terms = [(self._hold(j, v), -dag.size[v]) for v in held if dag.size[v]]
        taken = []
        for u in dag.inplace[t] or ():  # the result lies on u, which then is not live afterwards
            taken.append(self._column("take", j, u, 0.0))
            terms.append((taken[-1], min(dag.size[u], dag.size[t])))
            self._rows.add([(taken[-1], -1), (self._hold(j, u), -1)], -1)
        if len(taken) > 1:
            self._rows.add([(column, -1) for column in taken], -1)
        self._memory.add(terms, base, keep=True)

    def _node_rows(self, v: int) -> None:
        dag, k = self.dag, len(self.cuts)
        for j in range(self._first[v], k + 1):
            here = self._run(j, v)
            if here is True:
                self._constant += dag.cost[v] / self._unit
            if here is not False:
                for u in dag.inputs[v]:
                    self._rows.add([(self._run(j, u), 1), (self._hold(j, u), 1), (here, -1)], 0)
            if j < k:
                self._rows.add([(here, 1), (self._hold(j, v), 1), (self._hold(j + 1, v), -1)], 0)
        first_runs = [self._run(j, v) for j in range(self._first[v], self._last[v] + 1)]
        self._rows.add([(term, 1) for term in first_runs], 1)
        if v in dag.fixed:
            self._rows.add([(term, -1) for term in first_runs], -1)
        if v in dag.outputs:
            self._rows.add([(self._run(k, v), 1), (self._hold(k, v), 1)], 1)

    def solve(
        self,
        budget: int,
        *,
        relaxed: bool = False,
        gap: float = 0.0,
        nodes: int = _MOST_NODES,
        seconds: float = 60.0,
    ) -> Solution:
        """The least cost that these moments leave possible within `budget` bytes.

        relaxed: solve the linear program only; its optimum is a weaker bound, but it has prices.
        gap, nodes, seconds: where the solver may stop (relative gap of the extra cost, nodes of its
        search tree, time); the best bound it has proved by then is returned.
        """
        from scipy import optimize, sparse  # a large import that only memory studies pay for

        n = max(1, len(self._costs))
        costs = np.zeros(n)
        costs[: len(self._costs)] = self._costs
        # Rounded so that the rows only become easier to satisfy.
        unit = max(math.gcd(*self.dag.size, *self.dag.extra), -(-budget // _MOST_UNITS))
        rows, memory = self._rows.matrix(n), self._memory.matrix(n)
        memory.data = np.ceil(memory.data / unit)
        spare = np.floor((np.asarray(self._memory.least) - budget) / unit)
        matrix = sparse.vstack([rows, memory], format="csr")
        least = np.concatenate([self._rows.least, spare])
        if relaxed:
            result = optimize.linprog(
                costs, A_ub=-matrix, b_ub=-least, bounds=(0, 1), options={"time_limit": seconds}
            )
            proved = result.fun if result.status == 0 else 0.0
        else:
            result = optimize.milp(
                costs,
                integrality=np.ones(n),
                bounds=optimize.Bounds(0, 1),
                constraints=optimize.LinearConstraint(matrix, least, np.inf),
                options={"mip_rel_gap": gap, "node_limit": nodes, "time_limit": seconds},
            )
            proved = result.mip_dual_bound if result.mip_dual_bound is not None else 0.0
        if result.status == 2:
            return Solution(math.inf)
        units = max(0.0, proved) + self._constant - _MARGIN
        cost = (math.ceil(units) if self._whole else units) * self._unit
        prices: tuple[float, ...] = ()
        if relaxed and result.status == 0:
            marginal = -result.ineqlin.marginals[-len(self.cuts) :]
            prices = tuple(float(p) * self._unit / unit for p in marginal)
        held, runs = self._chosen(result.x)
        return Solution(max(cost, self.dag.total), prices, held, runs)

    def _chosen(self, x: Any) -> tuple[tuple[frozenset[int], ...], tuple[frozenset[int], ...]]:
        if x is None:
            return (), ()

        def nodes(term: Any, j: int) -> frozenset[int]:
            terms = [term(j, v) for v in range(len(self.dag))]
            return frozenset(
                v for v, t in enumerate(terms) if t is True or (t is not False and x[t] > 0.5)
            )

        moments = range(1, len(self.cuts) + 1)
        return (
            tuple(nodes(self._hold, j) for j in moments),
            tuple(nodes(self._run, j) for j in (0, *moments)),
        )


class _Rows:
    """Rows `sum of weight * term >= least`, gathered one by one."""

    def __init__(self) -> None:
        self.least: list[float] = []
        self._weights: list[float] = []
        self._columns: list[int] = []
        self._ends = [0]

    def add(
        self, terms: Iterable[tuple[int | bool, float]], least: float, *, keep: bool = False
    ) -> None:
        """Add a row, unless (and not `keep`) every 0/1 point satisfies it."""
        columns, weights = [], []
        for term, weight in terms:
            if isinstance(term, bool):
                least -= weight * term
            else:
                columns.append(term)
                weights.append(float(weight))
        if keep or least > sum(w for w in weights if w < 0):
            self._columns += columns
            self._weights += weights
            self._ends.append(len(self._columns))
            self.least.append(float(least))

    def matrix(self, n: int) -> Any:
        """The weights as a sparse matrix of n columns."""
        from scipy import sparse

        parts = (np.asarray(self._weights), self._columns, self._ends)
        return sparse.csr_matrix(parts, shape=(len(self.least), n))


def _cost_unit(dag: Dag) -> tuple[float, bool]:
    """What cost the solver is to count as one, and whether all costs are whole numbers of it."""
    if all(c.is_integer() for c in dag.cost) and dag.total:
        unit = math.gcd(*(int(c) for c in dag.cost))
        if dag.total / unit < _MOST_UNITS:
            return float(unit), True
    return (dag.total or _TOTAL) / _TOTAL, False


def first_runs(dag: Dag, cuts: Sequence[int], stored: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each node the first and last segment in which its first run may fall."""
    n, k = len(dag), len(cuts)
    first, last = np.zeros(n, np.int64), np.full(n, k, np.int64)
    for j, t in enumerate(cuts, start=1):
        above, below = ancestors(dag, t), descendants(dag, t)
        if stored:
            above[:t], below[t + 1 :] = True, True
        first[below] = j
        above[t] = True
        last[above] = np.minimum(last[above], j - 1)
    return first, last


def ancestors(dag: Dag, t: int) -> np.ndarray:
    """A mask of the nodes that must run before t."""
    mask = np.zeros(len(dag), bool)
    mask[list(dag.inputs[t])] = True
    for v in range(t - 1, -1, -1):
        if mask[v]:
            mask[list(dag.inputs[v])] = True
    return mask


def descendants(dag: Dag, t: int) -> np.ndarray:
    """A mask of the nodes that must run after t."""
    mask = np.zeros(len(dag), bool)
    mask[list(dag.uses[t])] = True
    for v in range(t + 1, len(dag)):
        if mask[v]:
            mask[list(dag.uses[v])] = True
    return mask

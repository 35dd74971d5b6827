"""What no plan can undercut: the least bytes of a graph, and the least cost within a budget.

Both hold for every order of the nodes (`order="free"`), not only for the stored one.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from staticgraph.passes.remat.cutmodel import CutModel, ancestors, descendants
from staticgraph.passes.remat.cutplan import sequence_of
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.simulate import simulate

_FLOOR_STEPS = 50  # steps whose further needs `floor` looks at
_LARGE = 300  # nodes from which the solver may leave a hundredth of a percent of the extra cost
_NODES = 300  # of the solver's search tree, for each program


class Floor(NamedTuple):
    """Bytes that every plan needs at some step, and the nodes that set this floor."""

    bytes: int
    ops: tuple[int, ...]

    def reason(self, dag: Dag) -> str:
        """A sentence for a message."""
        if not self.ops:
            return f"the outputs alone are {self.bytes} bytes"
        more = f" and {len(self.ops) - 1} more" if len(self.ops) > 1 else ""
        return (
            f"no plan needs less than {self.bytes} bytes: {dag.label(self.ops[0])}{more} with its "
            "inputs, its value and what must be held meanwhile"
        )


@dataclass(frozen=True)
class Bound:
    """No plan costs less than `cost` (inf: none exists). cuts: the moments that prove it.

    sequence: what the last solution asks for; its peak may lie above the budget.
    """

    cost: float
    cuts: tuple[int, ...] = ()
    sequence: tuple[int, ...] = ()


def floor(dag: Dag) -> Floor:
    """Bytes below which no plan exists, as far as single steps prove it.

    A step needs its working set, and next to it the values that may not be computed again and are
    needed later; the end needs all outputs. (A least reachable peak can lie above this floor: to
    find it is as hard as pebbling.)
    """
    needs = [dag.working_set(v) for v in range(len(dag))]
    if dag.fixed:
        for v in sorted(range(len(dag)), key=lambda v: -needs[v])[:_FLOOR_STEPS]:
            needs[v] += _must_hold(dag, v)
    least = max(needs)
    at_end = sum(dag.size[v] for v in dag.outputs)
    if at_end > least:
        return Floor(at_end, ())
    return Floor(least, tuple(v for v in range(len(dag)) if needs[v] == least))


def _must_hold(dag: Dag, t: int) -> int:
    """Bytes of values, other than t's inputs, that every plan holds while t first runs."""
    above, below = ancestors(dag, t), descendants(dag, t)
    return sum(
        dag.size[v]
        for v in dag.fixed
        if above[v]
        and v not in dag.inputs[t]
        and (v in dag.outputs or any(below[w] for w in dag.uses[v]))
    )


def lower_bound(
    dag: Dag, budget: int, order: str = "free", *, effort: float = 1.0, seconds: float = 60.0
) -> Bound:
    """A cost that no plan within `budget` bytes undercuts (the cost of one pass included).

    Starts from the moment where most is live. Then the step at which the solution's own sequence
    lies furthest above the budget becomes a further moment, until the sequence keeps the budget (it
    is then a plan, and no plan is cheaper) or the work allowed is done.

    order: "free", or "stored" for plans whose first runs keep the stored order.
    effort: scales the number of moments; equal efforts give equal bounds, unless `seconds` cuts in.
    """
    if order not in ("free", "stored"):
        raise ValueError(f'order must be "free" or "stored", is {order!r}')
    known = _memory(dag, budget, order, effort)
    if not known:
        known.append(_bound(dag, budget, order == "stored", effort, seconds))
    return known[0]


@functools.lru_cache(maxsize=64)
def _memory(dag: Dag, budget: int, order: str, effort: float) -> list[Bound]:
    """Where the bound of such a question is kept: the planner and its judge both ask it."""
    return []


def _bound(dag: Dag, budget: int, stored: bool, effort: float, seconds: float) -> Bound:
    started = time.perf_counter()
    best = Bound(dag.total, sequence=tuple(range(len(dag))))
    cuts: list[int] = []
    idle: set[int] = set()
    for _ in range(max(1, round(effort * _moments(len(dag))))):
        left = seconds - (time.perf_counter() - started)
        cut = _worst(dag, budget, best.sequence, cuts, stored, idle)
        if cut is None or left <= 0:
            break
        cuts = sorted([*cuts, cut])
        solution = CutModel(dag, cuts, stored).solve(
            budget, gap=0.0 if len(dag) < _LARGE else 1e-4, nodes=_NODES, seconds=left
        )
        if solution.cost == math.inf:
            return Bound(math.inf, tuple(cuts))
        if solution.cost <= best.cost and not dag.uses[cut]:
            # Nothing reads a loss: in a free order it need not run while much is live.
            idle.add(cut)
            cuts.remove(cut)
            continue
        if not solution.runs:
            best = replace(best, cost=max(best.cost, solution.cost))
            break
        if len(cuts) > 1 and max(best.cost, solution.cost) <= dag.total:
            break  # another order may do: moments say little of such a graph
        sequence = tuple(sequence_of(dag, cuts, solution))
        best = Bound(max(best.cost, solution.cost), tuple(cuts), sequence)
    return best


def _moments(n: int) -> int:
    """How many moments a program may have that should be solved in seconds."""
    return max(1, min(10, round(110 / math.sqrt(n))))


def _worst(
    dag: Dag,
    budget: int,
    sequence: Sequence[int],
    cuts: Sequence[int],
    stored: bool,
    idle: set[int],
) -> int | None:
    """The node that first runs at, or soon after, the step furthest above the budget.

    idle: nodes that proved nothing.
    """
    curve = simulate(dag, sequence).curve
    first_at = {v: step for step, v in reversed(list(enumerate(sequence)))}
    comes = len(sequence)
    next_first = np.empty(len(sequence), np.int64)
    for step in range(len(sequence) - 1, -1, -1):
        starts = first_at[sequence[step]] == step and sequence[step] not in idle
        comes = step if starts else comes
        next_first[step] = comes
    chain = np.ones(len(dag), bool)
    for cut in cuts:
        chain &= _comparable(dag, cut, stored)
    for step in np.argsort(-curve, kind="stable"):
        if curve[step] <= budget:
            break
        if next_first[step] < len(sequence) and chain[sequence[next_first[step]]]:
            return sequence[next_first[step]]
    return None


def _comparable(dag: Dag, cut: int, stored: bool) -> np.ndarray:
    """A mask of the nodes that run before the cut, or after it, in every plan."""
    if stored:
        return np.arange(len(dag)) != cut
    return ancestors(dag, cut) | descendants(dag, cut)


def price(dag: Dag, budget: int) -> float:
    """What one byte more of budget would save, in units of cost: the dual price of the bound.

    0 where the budget does not bind.
    """
    bound = lower_bound(dag, budget)
    if not bound.cuts or bound.cost == math.inf:
        return 0.0
    return sum(CutModel(dag, bound.cuts).solve(budget, relaxed=True).prices)

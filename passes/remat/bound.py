"""What no plan can undercut: the least bytes of a graph, and the least cost within a budget.

Both hold for every order of the nodes (`order="free"`), not only for the stored one.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from staticgraph.passes.remat.cutmodel import CutModel, Solution, ancestors, descendants
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.simulate import simulate

# Nodes whose first run is looked at: those where most is live in the stored order.
_MOMENTS = 10


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

    solution: the least the moments leave possible; a plan that reaches it starts from this.
    """

    cost: float
    cuts: tuple[int, ...] = ()
    solution: Solution | None = None


def floor(dag: Dag) -> Floor:
    """Bytes below which no plan exists, as far as single steps prove it.

    A step needs its working set, and next to it the values that may not be computed again and are
    needed later; the end needs all outputs. (A least reachable peak can lie above this floor: to
    find it is as hard as pebbling.)
    """
    needs = [dag.working_set(v) for v in range(len(dag))]
    if dag.fixed:
        for v in sorted(range(len(dag)), key=lambda v: -needs[v])[:_MOMENTS]:
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
    dag: Dag,
    budget: int,
    order: str = "free",
    *,
    target: float = math.inf,
    seconds: float = 5.0,
) -> Bound:
    """A cost that no plan within `budget` bytes undercuts (the cost of one pass included).

    order: "free", or "stored" for plans whose first runs keep the stored order.
    target: a plan's cost; the search for better moments ends once it is reached.
    seconds: about how long to look; what is proved by then is returned.
    """
    if order not in ("free", "stored"):
        raise ValueError(f'order must be "free" or "stored", is {order!r}')
    started = time.perf_counter()
    best = Bound(dag.total)
    for t in moments(dag, budget):
        left = seconds - (time.perf_counter() - started)
        if left <= 0 or best.cost >= target:
            break
        solution = CutModel(dag, [t], order == "stored").solve(budget, seconds=left)
        if solution.cost > best.cost:
            best = Bound(solution.cost, (t,), solution)
    return best


def moments(dag: Dag, budget: int, count: int = _MOMENTS) -> list[int]:
    """The nodes at whose first run most is live above the budget, in the stored order."""
    curve = simulate(dag, range(len(dag))).curve
    worst = np.argsort(-curve, kind="stable")[:count]
    return [int(t) for t in worst if curve[t] > budget]

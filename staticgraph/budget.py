"""Keeping a memory budget: which values to compute again, so that the arena stays within it.

A strategy plans on the units of `recompute`; what counts is what the real plan then allocates. The
plans of a fixed ladder of budgets are the candidates, whatever the budget asked for, and the
cheapest that fits is taken: so a larger budget never means more recomputation, and equal graphs get
equal plans.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from staticgraph import plan as planning
from staticgraph.errors import BudgetError, shorten
from staticgraph.ir import Graph, Node
from staticgraph.passes import remat
from staticgraph.passes.remat import STRATEGIES, Dag, floor, pareto, simulate, solve
from staticgraph.plan import Plan
from staticgraph.recompute import Units, seconds

#: budgets of the ladder between the floor and the plan without recomputation
RUNGS = 16
POLICY = "best"
#: seconds that planning all rungs may take, where a strategy searches
PATIENCE = 8.0

_UNITS = {
    "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9,
}  # fmt: skip


@dataclass(frozen=True)
class Recomputed:
    """One value computed more than once: its kernel, how often in all, and the user's line."""

    what: str
    times: int
    where: tuple[str, int] | None

    def __str__(self) -> str:
        return f"{self.what} x{self.times} [{shorten(self.where) or '?'}]"


@dataclass(frozen=True)
class Recomputation:
    """A plan with recomputation.

    policy: the strategy that made it.
    predicted, extra: seconds on the nominal machine, and what that is above the plan without
        recomputation, as a fraction.
    sequence: the units (nodes of `dag`) in the order of the strategy; `graph` runs units of one
        node side by side where that costs no memory.
    budget, peak, cost, bound, gap: of the sequence on `dag`, by the strategy's own accounting: no
        sequence within `budget` costs less than `bound`, and `gap` is lost to that, as a fraction.
    """

    policy: str
    predicted: float
    extra: float
    sequence: tuple[int, ...]
    budget: int
    peak: int
    cost: float
    bound: float
    gap: float
    units: Units
    graph: Graph
    generate: Callable[[Node, str], Any]

    @property
    def dag(self) -> Dag:
        return self.units.dag

    @cached_property
    def plan(self) -> Plan:
        return planning.build(self.graph, self.generate)

    @cached_property
    def recomputed(self) -> tuple[Recomputed, ...]:
        """What runs more than once, in order of first use."""
        times = Counter(self.sequence)
        found = []
        for k, n in times.items():
            if n > 1:
                node = self.units.units[k].node
                found.append(Recomputed(self.dag.names[k], n, node.where))
        return tuple(found)


class Ladder:
    """All candidate plans of one optimised graph."""

    def __init__(
        self, graph: Graph, plan: Plan, policy: str | Callable, generate: Callable[[Node, str], Any]
    ):
        self.graph, self.keep_all, self.policy, self.generate = graph, plan, policy, generate
        self.units = Units(graph, plan)
        self.dag = self.units.dag

    def rungs(self) -> list[int]:
        """Budgets from the plan that keeps all down to the floor."""
        high = max(simulate(self.dag, range(len(self.dag))).peak, self.keep_all.arena_bytes)
        low = floor(self.dag).bytes
        if low >= high:
            return [high]
        step = (low / high) ** (1 / (RUNGS - 1)) if low else 0.8
        return sorted({round(high * step**k) for k in range(RUNGS - 1)} | {low}, reverse=True)

    @cached_property
    def candidates(self) -> list[Recomputation]:
        """Plans of all rungs, as far as the strategy finds them; equal sequences once."""
        found: dict[tuple[int, ...], Recomputation] = {}
        once = _predicted(self.graph)
        for made in plans(self.dag, self.policy, tuple(self.rungs())):
            if made.sequence not in found:
                graph = self.units.realise(self.units.gathered(made.sequence, made.peak))
                time = _predicted(graph)
                found[made.sequence] = Recomputation(
                    made.strategy, time, max(0.0, time / once - 1), made.sequence, made.budget,
                    made.peak, made.cost, made.bound, made.gap, self.units, graph, self.generate,
                )  # fmt: skip
        return list(found.values())

    def within(self, allowed: int) -> Recomputation:
        """The cheapest plan whose arena fits; BudgetError names the least reachable otherwise."""
        for candidate in sorted(self.candidates, key=lambda c: c.predicted):
            if candidate.plan.arena_bytes <= allowed:
                return candidate
        raise BudgetError(self._too_small(allowed))

    def _too_small(self, allowed: int) -> str:
        least = min([self.keep_all, *(c.plan for c in self.candidates)], key=_arena).arena_bytes
        bottom = floor(self.dag)
        ops = ", ".join(dict.fromkeys(self._op(v) for v in list(bottom.ops)[:3]))
        return (
            f"compile: memory_budget is {allowed} B; the least that policy {self.name!r} reaches"
            f" is {least} B, and {bottom.bytes} B must be live at once for {ops}"
        )

    @property
    def name(self) -> str:
        return self.policy if isinstance(self.policy, str) else self.policy.__name__

    def _op(self, v: int) -> str:
        node = self.units.units[v].node
        return f"{self.dag.names[v]} [{shorten(node.where) or '?'}]"


@functools.lru_cache(maxsize=64)
def plans(
    dag: Dag, policy: str | Callable[..., Sequence[int]], rungs: tuple[int, ...]
) -> tuple[remat.Plan, ...]:
    """What a policy finds for each of the budgets, where it finds something.

    Graphs of one structure are planned once in a process, so that a sweep over budgets is quick.
    """
    if policy == POLICY:
        found = pareto(dag, rungs, time_limit=PATIENCE, steady=True)
        return tuple(p for p in found if p is not None)
    made = []
    for budget in rungs:
        try:
            made.append(solve(dag, budget, policy, time_limit=PATIENCE / len(rungs)))
        except BudgetError:
            continue
    return tuple(made)


def _predicted(graph: Graph) -> float:
    """Nominal seconds of one run."""
    return math.fsum(map(seconds, graph.nodes))


def _arena(plan: Plan) -> int:
    return plan.arena_bytes


def budget_bytes(budget: object, whole: int) -> int:
    """A memory budget in bytes, from an int or a text such as "120MiB" or "40%" of `whole`."""
    if isinstance(budget, int) and not isinstance(budget, bool) and budget >= 0:
        return budget
    if isinstance(budget, str):
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([A-Za-z]+|%)\s*", budget)
        if found and found[2] == "%":
            return int(whole * float(found[1]) / 100)
        if found and found[2].lower() in _UNITS:
            return int(float(found[1]) * _UNITS[found[2].lower()])
    raise BudgetError(
        "compile: memory_budget is a number of bytes or a text such as '120MiB' or '40%',"
        f" got {budget!r}"
    )


def check_policy(policy: object) -> None:
    """Raise BudgetError unless `policy` names a strategy or is a function of one's own."""
    if not callable(policy) and policy not in STRATEGIES:
        raise BudgetError(
            f"compile: policy is a function (dag, budget) or one of {sorted(STRATEGIES)},"
            f" got {policy!r}"
        )


def within(
    graph: Graph,
    plan: Plan,
    budget: object,
    policy: str | Callable[..., Sequence[int]],
    generate: Callable[[Node, str], Any],
) -> Recomputation | None:
    """A plan of the graph within the budget; None where `plan` already is."""
    allowed = budget_bytes(budget, plan.arena_bytes)
    check_policy(policy)
    if plan.arena_bytes <= allowed:
        return None
    return Ladder(graph, plan, policy, generate).within(allowed)

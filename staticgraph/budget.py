"""Keeping a memory budget: which values to compute again, so that the arena stays within it.

A strategy plans on the units of `recompute`; what counts is what the real plan then allocates. The
plans of a fixed ladder of budgets are the candidates, whatever the budget asked for, and the
cheapest that fits is taken: so a larger budget never means more recomputation, and equal graphs get
equal plans. The ladder is climbed from its foot, each plan starting from the one before, and no
further than the budget.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from staticgraph.bytesize import budget_bytes
from staticgraph.errors import BudgetError, DagError, shorten
from staticgraph.ir import Graph, Node
from staticgraph.nominal import seconds
from staticgraph.passes import remat
from staticgraph.passes.remat import STRATEGIES, Dag, best, floor, lower_bound, simulate, solve
from staticgraph.plan import Buffer, Plan
from staticgraph.recompute import UnitDag, Units

#: budgets of the ladder between the floor and the plan without recomputation
RUNGS = 16
POLICY = "best"
#: seconds that planning all rungs may take, where a strategy searches
PATIENCE = 8.0
#: how much of the time for a plan its bound may take, on a machine that does other things too
_CARE = 3.0
#: rungs above a budget whose plans are looked at too: a plan may need less than it was made for
_ABOVE = 2

Build = Callable[[Graph], Plan]
Policy = str | Callable[..., Sequence[int]]


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
    build: Build

    @property
    def dag(self) -> UnitDag:
        return self.units.dag

    @cached_property
    def plan(self) -> Plan:
        return self.build(self.graph)

    @cached_property
    def recomputed(self) -> tuple[Recomputed, ...]:
        """What runs more than once, in order of first use. Results of one node that are made at
        different times are runs of their own."""
        runs = self.units.origins(self.units.gathered(self.sequence, self.peak))
        name: dict[Node, str] = {}
        for k, unit in enumerate(self.units.units):
            name.setdefault(unit.node, self.dag.names[k])
        return tuple(
            Recomputed(name[node], n, node.where) for node, n in Counter(runs).items() if n > 1
        )


class Ladder:
    """The candidate plans of one optimised graph. `build` makes a plan of a graph."""

    def __init__(self, graph: Graph, plan: Plan, policy: Policy, build: Build):
        self.graph, self.keep_all, self.build = graph, plan, build
        self.units = Units(graph, plan)
        self.dag = self.units.dag
        self.stored = simulate(self.dag, range(len(self.dag))).peak
        self.climb = climb_of(self.dag, policy, tuple(self.rungs()))
        self.once = _predicted(graph)
        self.found: dict[tuple[int, ...], Recomputation] = {}

    def rungs(self) -> list[int]:
        """Budgets from the floor up to the plan that keeps all."""
        high = max(self.stored, self.keep_all.arena_bytes)
        low = floor(self.dag).bytes
        if low >= high:
            return [high]
        step = (low / high) ** (1 / (RUNGS - 1)) if low else 0.8
        return sorted({round(high * step**k) for k in range(RUNGS - 1)} | {low})

    def candidates(self, most: float) -> Iterator[Recomputation]:
        """Plans of the rungs up to `most` bytes on the Dag and a little above, cheapest first."""
        for made in self.climb.up_to(most):
            if made.sequence not in self.found:
                graph = self.units.realise(self.units.gathered(made.sequence, made.peak))
                time = _predicted(graph)
                extra = max(0.0, time / self.once - 1)
                self.found[made.sequence] = Recomputation(
                    made.strategy, time, extra, made.sequence, made.budget, made.peak, made.cost,
                    made.bound, made.gap, self.units, graph, self.build,
                )  # fmt: skip
        yield from sorted(self.found.values(), key=lambda c: c.predicted)

    def within(self, allowed: int) -> Recomputation:
        """The cheapest plan whose arena fits; BudgetError names the least reachable otherwise."""
        # The Dag may count more bytes than an arena has.
        most = allowed * max(1.0, self.stored / max(1, self.keep_all.arena_bytes))
        for reach in (most, math.inf):
            for candidate in self.candidates(reach):
                if candidate.plan.arena_bytes <= allowed:
                    return candidate
        raise BudgetError(self._too_small(allowed))

    def _too_small(self, allowed: int) -> str:
        plans = [self.keep_all, *(c.plan for c in self.found.values())]
        least = min(plans, key=lambda plan: plan.arena_bytes)
        bottom = floor(self.dag).bytes
        proved = f"; no plan needs less than {bottom} B" if bottom < least.arena_bytes else ""
        return (
            f"compile: memory_budget is {allowed} B; the least that policy {self.climb.name!r}"
            f" reaches is {least.arena_bytes} B, for {_fullest(least)}{proved}"
        )


class Climb:
    """What a policy finds for the budgets of a ladder, as far as anybody asked."""

    def __init__(self, dag: Dag, policy: Policy, rungs: tuple[int, ...]):
        self.dag, self.policy, self.rungs = dag, policy, rungs
        self.name = policy if isinstance(policy, str) else _name(policy)
        self.made: list[remat.Plan | None] = []

    def up_to(self, most: float) -> list[remat.Plan]:
        """Plans for budgets up to `most` and a few above, where the policy finds any."""
        wanted = sum(rung <= most for rung in self.rungs) + _ABOVE
        ahead = self.rungs[len(self.made) : wanted]
        if self.policy == POLICY and ahead:
            # Plans need those below them, their bounds do not; each is remembered where it is made.
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(self._bound, ahead))
        for rung in ahead:
            self.made.append(self._plan(rung))
        return [p for p in self.made[:wanted] if p is not None]

    def _bound(self, rung: int) -> None:
        lower_bound(self.dag, rung, seconds=_CARE * PATIENCE / len(self.rungs))

    def _plan(self, rung: int) -> remat.Plan | None:
        limit = PATIENCE / len(self.rungs)
        strategy: Policy = self.policy
        if strategy == POLICY:
            strategy = functools.partial(best.best, known=self._known(), steady=True)
        elif callable(strategy):
            strategy = _asked(strategy)
        try:
            plan = solve(self.dag, rung, strategy, time_limit=limit)
        except BudgetError:
            return None
        return replace(plan, strategy=self.name)

    def _known(self) -> list[tuple[int, ...]]:
        return [p.sequence for p in self.made if p is not None][-1:]


def climb_of(dag: Dag, policy: Policy, rungs: tuple[int, ...]) -> Climb:
    """The climb of a strategy by name: graphs of one structure are planned once in a process."""
    return _climbs(dag, policy, rungs) if isinstance(policy, str) else Climb(dag, policy, rungs)


_climbs = functools.lru_cache(maxsize=64)(Climb)


def _name(policy: Callable) -> str:
    return getattr(policy, "__name__", type(policy).__name__)


def _asked(policy: Callable[..., Sequence[int]]) -> Callable[..., list[int]]:
    """A function of the user's, whose answer is checked to be numbers of nodes."""

    @functools.wraps(policy, updated=())
    def asked(dag: Dag, budget: int, **options: Any) -> list[int]:
        answer = policy(dag, budget, **options)
        try:
            sequence = [int(v) for v in answer]
            if any(v != w for v, w in zip(sequence, answer, strict=True)):
                raise ValueError
        except (TypeError, ValueError):
            raise DagError(
                f"policy {_name(policy)!r}: must return the numbers of the nodes in the order in"
                f" which they run, returned {_shown(answer)}"
            ) from None
        try:
            simulate(dag, sequence)
        except DagError as error:
            raise DagError(f"policy {_name(policy)!r}: {error.summary}") from None
        return sequence

    return asked


def _shown(answer: object) -> str:
    text = repr(answer)
    return f"{type(answer).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _predicted(graph: Graph) -> float:
    """Nominal seconds of one run."""
    return math.fsum(map(seconds, graph.nodes))


def _fullest(plan: Plan) -> str:
    """The op that runs where most is live, and the largest values beside it.

    What looks for NaN between the ops is not what needs the memory.
    """
    checks = ("numeric_bits", "numeric_verdict")
    values = [b for b in plan.buffers if b.what not in checks]
    live: dict[int, list[Buffer]] = {}
    for k, step in enumerate(plan.steps):
        if step.launch is None or step.launch.name not in checks:
            live[k] = [b for b in values if b.start <= k < b.stop]
    at = max(live, key=lambda k: sum(b.size for b in live[k]))
    node, launch = plan.steps[at].node, plan.steps[at].launch
    place = f" [{shorten(node.where)}]" if node is not None and node.where else ""
    what = plan.steps[at].kind if launch is None else launch.name
    largest = sorted(live[at], key=lambda b: -b.size)
    names = ", ".join(dict.fromkeys(map(_value, largest[:3])))
    more = f" and {len(largest) - 3} more" if len(largest) > 3 else ""
    return f"{what}{place} with the values of {names}{more}"


def _value(buffer: Buffer) -> str:
    return f"{buffer.what} [{shorten(buffer.where) or '?'}]"


def check_policy(policy: object) -> None:
    """Raise BudgetError unless `policy` names a strategy or is a function of one's own."""
    fits = callable(policy) or (isinstance(policy, str) and policy in STRATEGIES)
    if callable(policy):
        try:
            inspect.signature(policy).bind(None, 0)
        except TypeError:
            fits = False
        except ValueError:  # a builtin that does not say what it takes
            pass
    if not fits:
        raise BudgetError(
            f"compile: policy is a function (dag, budget) or one of {sorted(STRATEGIES)},"
            f" got {policy!r}"
        )


def within(
    graph: Graph, plan: Plan, budget: object, policy: Policy, build: Build
) -> Recomputation | None:
    """A plan of the graph within the budget; None where `plan`, which keeps all, already is."""
    allowed = budget_bytes("compile", budget, plan.arena_bytes)
    check_policy(policy)
    if plan.arena_bytes <= allowed:
        return None
    return Ladder(graph, plan, policy, build).within(allowed)

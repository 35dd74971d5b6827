"""Strategies, and plans with their certificate.

A *strategy* is a function `(dag, budget) -> sequence`; ten lines of the user's are one. Whatever it
says, `solve` judges the sequence by one validator and one simulator, and states how far from the
best possible it can be.
"""

from __future__ import annotations

import inspect
import numbers
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from staticgraph.errors import BudgetError
from staticgraph.passes.remat.bound import floor, lower_bound
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.simulate import simulate

Strategy = Callable[..., Sequence[int]]

#: every strategy by its name; `strategy` enters one
STRATEGIES: dict[str, Strategy] = {}


@dataclass(frozen=True)
class Plan:
    """A sequence of nodes that keeps a budget, and what can be said for it.

    peak, cost: by the simulator, in the units of the graph.
    extra: the cost above that of one pass, as a fraction of one pass.
    bound: no plan within the budget costs less, in whatever order.
    gap: the most that a better plan could save, as a fraction of one pass.
    floor: bytes below which no plan exists, as far as is proved.
    """

    sequence: tuple[int, ...]
    budget: int
    peak: int
    cost: float
    extra: float
    bound: float
    gap: float
    floor: int
    strategy: str
    seconds: float


def strategy(name: str) -> Callable[[Strategy], Strategy]:
    """Decorator: enter a strategy under this name.

    A strategy takes (dag, budget), and by keyword those of `seed`, `time_limit` and `progress` that
    its signature names. It returns a sequence, or raises BudgetError if it finds none.
    """

    def enter(made: Strategy) -> Strategy:
        STRATEGIES[name] = made
        return made

    return enter


def solve(
    dag: Dag,
    budget: int,
    strategy: str | Strategy = "best",
    *,
    seed: int = 0,
    time_limit: float = 10.0,
    progress: Callable[[float, float], None] | None = None,
) -> Plan:
    """A plan of the graph within `budget` bytes.

    strategy: a name of STRATEGIES, or a function `(dag, budget) -> sequence`.
    time_limit: seconds; strategies that search stop then, with the best they have.
    progress: called as progress(share of the time used, overhead of the best plan so far).

    Raises BudgetError where the budget is below the floor or the strategy finds no plan within it,
    DagError where its sequence is no plan of the graph, TypeError where the budget is no whole
    number.
    """
    started = time.perf_counter()
    if not isinstance(budget, numbers.Real) or budget != budget // 1:
        raise TypeError(f"budget must be whole bytes, is {budget!r}")
    budget = int(budget)
    least = floor(dag)
    if budget < least.bytes:
        raise BudgetError(f"budget of {budget} bytes: {least.reason(dag)}")
    name, function = _strategy(strategy)
    options = {"seed": seed, "time_limit": time_limit, "progress": progress}
    sequence = [int(v) for v in function(dag, budget, **_wanted(function, options))]
    made = simulate(dag, sequence)
    if made.peak > budget:
        raise BudgetError(
            f"budget of {budget} bytes: the least that strategy {name!r} reached is {made.peak}; "
            f"{least.reason(dag)}"
        )
    bound = min(lower_bound(dag, budget, seconds=time_limit).cost, made.cost)
    return Plan(
        sequence=tuple(sequence),
        budget=budget,
        peak=made.peak,
        cost=made.cost,
        extra=share(dag, made.cost - dag.total),
        bound=bound,
        gap=share(dag, made.cost - bound),
        floor=least.bytes,
        strategy=name,
        seconds=time.perf_counter() - started,
    )


def share(dag: Dag, cost: float) -> float:
    """A cost as a fraction of one pass over the graph."""
    return max(0.0, cost) / dag.total if dag.total else 0.0


def _strategy(chosen: str | Strategy) -> tuple[str, Strategy]:
    if not isinstance(chosen, str):
        return getattr(chosen, "__name__", "function"), chosen
    if chosen not in STRATEGIES:
        raise ValueError(f"strategy {chosen!r} is unknown: there are {sorted(STRATEGIES)}")
    return chosen, STRATEGIES[chosen]


def _wanted(function: Strategy, options: dict[str, Any]) -> dict[str, Any]:
    named = inspect.signature(function).parameters
    return {key: value for key, value in options.items() if key in named}

"""The whole curve: one plan for each of many budgets, each as good as its neighbours allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from staticgraph.errors import BudgetError
from staticgraph.passes.remat.best import best
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.plan import Plan, share, solve


def pareto(
    dag: Dag,
    budgets: Sequence[int],
    *,
    seed: int = 0,
    time_limit: float = 100.0,
    progress: Callable[[float, float], None] | None = None,
    steady: bool = False,
) -> list[Plan | None]:
    """A plan of the main planner for each budget, in their order; None where none was found.

    A plan for a smaller budget is one for every larger budget too, so the budgets are taken in
    ascending order, each starting from the plan before it; a larger budget never costs more. Bounds
    hold in the other direction: what no plan undercuts with more bytes, none does with fewer.

    time_limit: for the whole curve; what easy budgets leave over goes to the others.
    steady: every budget has the same share of it, counted in moves: a loaded machine finds the same
        plans, later.
    progress: called as progress(share of the curve done, overhead of the newest plan).
    """
    plans: dict[int, Plan] = {}
    known: list[tuple[int, ...]] = []
    ascending = sorted(set(budgets))
    left = time_limit
    for done, budget in enumerate(ascending):

        def from_known(dag: Dag, budget: int, *, seed: int, time_limit: float) -> list[int]:
            return best(
                dag, budget, seed=seed, time_limit=time_limit, known=known[-1:], steady=steady
            )

        try:
            limit = time_limit / len(ascending) if steady else left / (len(ascending) - done)
            plan = solve(dag, budget, from_known, seed=seed, time_limit=limit)
            plans[budget] = replace(plan, strategy="best")
            known.append(plan.sequence)
            left -= plan.seconds
        except BudgetError:
            pass
        if progress:
            progress((done + 1) / len(ascending), plans[budget].extra if budget in plans else 0.0)
    bound = dag.total
    for budget in reversed(ascending):
        if budget in plans:
            plan = plans[budget]
            bound = min(max(bound, plan.bound), plan.cost)
            plans[budget] = replace(plan, bound=bound, gap=share(dag, plan.cost - bound))
    return [plans.get(budget) for budget in budgets]

"""Memory or recomputation: plans for a graph of costs and bytes, each with a certificate.

    plan = solve(load("graph.json"), budget)
    plan.sequence, plan.peak, plan.extra, plan.gap

Everything here works on a `Dag` alone, whatever framework it came from.
"""

from staticgraph.passes.remat import (
    best,
    chains,
    checkmate,
    chen,
    dtr,
    exact,
    families,
    knapsack,
    lowersets,
    reorder,
    rotor,
)
from staticgraph.passes.remat.bound import Bound, Floor, floor, lower_bound
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.dagjson import from_json, load, to_json
from staticgraph.passes.remat.pareto import pareto
from staticgraph.passes.remat.plan import STRATEGIES, Plan, solve, strategy
from staticgraph.passes.remat.simulate import Simulation, simulate, validate

__all__ = [
    "STRATEGIES",
    "Bound",
    "Dag",
    "Floor",
    "Plan",
    "Simulation",
    "best",
    "chains",
    "checkmate",
    "chen",
    "dtr",
    "exact",
    "families",
    "floor",
    "from_json",
    "knapsack",
    "load",
    "lower_bound",
    "lowersets",
    "pareto",
    "reorder",
    "rotor",
    "simulate",
    "solve",
    "strategy",
    "to_json",
    "validate",
]

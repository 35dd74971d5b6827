"""The simple plans: keep everything, keep the last value, and Chen's checkpoints.

Chen, Xu, Zhang & Guestrin, "Training deep nets with sublinear memory cost" (2016): the forward pass
keeps some values, the backward pass computes each stretch between two of them again. On a chain of
n equal nodes, every sqrt(n)-th value kept makes a peak of about 2 sqrt(n) values for one more
forward pass. As in Checkmate's comparison the values to keep are chosen among the articulation
points of the forward pass ("ap": `phases.waists`), or, on graphs that are no chain, among all
forward values in the stored order ("linearized"). The stretch after the last kept value is not
dropped: its backward pass comes first. All plans run in O(n + m); none looks for the
best: a plan above the budget is a BudgetError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt

from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.phases import cheapest, from_kept, from_stages, turn, waists
from staticgraph.passes.remat.plan import strategy

# How many bounds on a stretch's bytes the greedy plan tries, each so much below the one before.
_BOUNDS, _RATIO = 48, 0.8


@strategy("keep-all")
def keep_all(dag: Dag, budget: int) -> list[int]:
    """Every node once, in the stored order."""
    return cheapest(dag, budget, [list(range(len(dag)))], "keep-all")


@strategy("checkpoint-last")
def checkpoint_last(dag: Dag, budget: int) -> list[int]:
    """Before each node, everything that it needs anew, but for the value of the node before.

    The least that stages can hold, at a cost of up to n**2 / 2 nodes run.
    """
    held = [[t - 1] if t else [] for t in range(len(dag))]
    return cheapest(dag, budget, [from_stages(dag, held)], "checkpoint-last")


@strategy("chen-sqrt")
def chen_sqrt(dag: Dag, budget: int) -> list[int]:
    """Every sqrt(k)-th of the k articulation points kept."""
    return cheapest(dag, budget, [sqrt_plan(dag, "ap")], "chen-sqrt")


@strategy("chen-sqrt-linearized")
def chen_sqrt_linearized(dag: Dag, budget: int) -> list[int]:
    """Every sqrt(k)-th of the k forward values kept."""
    return cheapest(dag, budget, [sqrt_plan(dag, "linearized")], "chen-sqrt-linearized")


@strategy("chen-greedy")
def chen_greedy(dag: Dag, budget: int) -> list[int]:
    """A value is kept where the stretch since the last one exceeds some bytes (many are tried)."""
    return cheapest(dag, budget, greedy_plans(dag, "ap"), "chen-greedy")


@strategy("chen-greedy-linearized")
def chen_greedy_linearized(dag: Dag, budget: int) -> list[int]:
    """`chen-greedy` among all forward values."""
    return cheapest(dag, budget, greedy_plans(dag, "linearized"), "chen-greedy-linearized")


def candidates(dag: Dag, last: int, among: str) -> Sequence[int]:
    """The forward values that may be kept: "ap", articulation points, or "linearized", all."""
    return waists(dag, last) if among == "ap" else range(last + 1)


def sqrt_plan(dag: Dag, among: str) -> list[int]:
    """Chen's sqrt(n) plan."""
    last = turn(dag)
    choice = candidates(dag, last, among)
    every = max(isqrt(len(choice)), 1)
    return _checkpointed(dag, choice[every - 1 :: every], last)


def greedy_plans(dag: Dag, among: str) -> Iterator[list[int]]:
    """Chen's greedy plans for bounds on a stretch from all forward bytes down to about none."""
    last = turn(dag)
    choice = set(candidates(dag, last, among))
    bound, met = float(sum(dag.size[: last + 1])), set()
    for _ in range(_BOUNDS):
        kept, stretch = [], 0
        for v in range(last + 1):
            stretch += dag.size[v]
            if v in choice and stretch > bound:
                kept.append(v)
                stretch = 0
        if tuple(kept) not in met:
            met.add(tuple(kept))
            yield _checkpointed(dag, kept, last)
        bound *= _RATIO


def _checkpointed(dag: Dag, kept: Sequence[int], last: int) -> list[int]:
    """The plan that keeps the checkpoints, and the stretch after the last of them."""
    stretch = range(max(kept, default=-1) + 1, last + 1)
    return from_kept(dag, [*kept, *stretch], last)

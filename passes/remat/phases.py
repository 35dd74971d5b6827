"""Forward and backward of any graph, and the plans that follow from what is kept between them.

A `Dag` does not say which of its nodes are the forward pass. The papers' baselines need to know, so
it is read off the stored order: the *turn* is the first node after which the most values are alive
(each counted once, outputs left out: gradients that stay only pile up). Nodes to the turn are the
forward pass, the others the backward pass. On a training step this is the loss. On any other graph,
gradients of gradients among them, it is still a cut of the order: plans made from it are plans,
perhaps poor ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from staticgraph.errors import BudgetError
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.simulate import simulate


def turn(dag: Dag) -> int:
    """The last node of the forward pass, as the head of this file defines it."""
    n = len(dag)
    change = np.zeros(n + 1, np.int64)
    for v in range(n):
        if v not in dag.outputs:
            change[v] += 1
            change[max(dag.uses[v], default=v)] -= 1
    return int(np.argmax(np.cumsum(change[:n])))


def waists(dag: Dag, last: int) -> list[int]:
    """The nodes through which every path of the forward pass 0..last goes, in order.

    They are the articulation points of the papers: later forward nodes read nothing that stands
    before one. Sources (nodes without inputs, such as random masks) are let through where they are
    not read before: they could be run just before their first reader.
    """
    every, late = np.zeros(last + 2, np.int64), np.zeros(last + 2, np.int64)
    for u in range(last + 1):
        readers = [w for w in dag.uses[u] if w <= last]
        if readers:
            every[u + 1] += 1
            every[readers[-1]] -= 1
            late[u + 1 if dag.inputs[u] else readers[0]] += 1
            late[readers[-1]] -= 1
    every, late = np.cumsum(every), np.cumsum(late)
    return [
        v
        for v in range(last + 1)
        if not (late if dag.inputs[v] else every)[v] and any(w <= last for w in dag.uses[v])
    ]


def from_kept(dag: Dag, kept: Iterable[int], last: int) -> list[int]:
    """The plan that keeps only `kept` of the forward values 0..last for the backward pass.

    The forward pass runs once. A backward node that reads a value not kept has it computed again
    from what is at hand, and what was computed again stays to its last use: at most one more
    forward pass in all. Nodes that may not run again are always kept.
    """
    at_hand = {*kept, *dag.fixed, *range(last + 1, len(dag))}
    sequence = list(range(last + 1))
    for v in range(last + 1, len(dag)):
        again = missing(dag, [v], at_hand)
        sequence += [*again, v]
        at_hand.update(again)
    return sequence


def missing(dag: Dag, readers: Iterable[int], at_hand: set[int]) -> list[int]:
    """What must be computed before the readers can run, given the values at hand; in order."""
    wanted: set[int] = set()
    stack = list(readers)
    while stack:
        fresh = [u for u in dag.inputs[stack.pop()] if u not in at_hand and u not in wanted]
        wanted.update(fresh)
        stack += fresh
    return sorted(wanted)


def from_stages(dag: Dag, held: Sequence[Iterable[int]]) -> list[int]:
    """The cheapest plan in stages that holds `held[t]` when stage t begins (Checkmate's R of S).

    Stage t computes node t for the first time. Before it, in numeric order, it computes whatever it
    lacks, and what the next stage is to hold. Each node runs at most once in a stage. A last stage
    beyond the nodes may compute outputs again. A value that is to be held although it was not
    computed yet is left out, as are fixed nodes' second runs.
    """
    n, stages = len(dag), len(held)
    sequence: list[int] = []
    entering: set[int] = set()
    for t in range(stages):
        leaving = {v for v in held[t + 1] if v <= t} if t + 1 < stages else set(dag.outputs)
        at_hand = entering | {v for v in dag.fixed if v < t}
        roots = {*range(t, min(t + 1, n)), *leaving} - at_hand
        sequence += sorted({*missing(dag, roots, at_hand), *roots})
        entering = leaving
    return sequence


def cheapest(dag: Dag, budget: int, plans: Iterable[Sequence[int]], name: str) -> list[int]:
    """The plan that costs least among those within the budget; BudgetError if there is none."""
    best: tuple[float, Sequence[int]] | None = None
    least: int | None = None
    for sequence in plans:
        made = simulate(dag, sequence)
        least = made.peak if least is None else min(least, made.peak)
        if made.peak <= budget and (best is None or made.cost < best[0]):
            best = made.cost, sequence
    if best is None:
        reached = "found no plan" if least is None else f"needs at least {least} bytes"
        raise BudgetError(f"{name}: {reached}, the budget is {budget} bytes")
    return list(best[1])

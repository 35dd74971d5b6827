"""From what is held across a few moments (`cutmodel`) to a sequence that holds just that."""

from __future__ import annotations

from collections.abc import Sequence

from staticgraph.passes.remat.cutmodel import Solution
from staticgraph.passes.remat.dag import Dag


def sequence_of(dag: Dag, cuts: Sequence[int], solution: Solution) -> list[int]:
    """The stored order, as far as the solution keeps it, with its recomputations.

    In each segment between the moments a value that is neither held nor computed yet is computed
    just before it is needed, and serves to the end of the segment. The peak may lie above the
    budget: the solution says nothing of what is live between the moments.
    """
    if not solution.runs:
        return list(range(len(dag)))
    sequence: list[int] = []
    done: set[int] = set()
    for segment, runs in enumerate(solution.runs):
        ready = solution.held[segment - 1] & done if segment else frozenset()
        ready = set(ready)
        moment = cuts[segment : segment + 1]
        for v in [*sorted(runs - done - set(moment)), *moment]:
            sequence += _needed(dag, v, ready, done)
        done |= ready
    for v in sorted(dag.outputs - ready):
        sequence += _needed(dag, v, ready, done)
    return sequence


def _needed(dag: Dag, v: int, ready: set[int], done: set[int]) -> list[int]:
    """What must run for v to be ready, now counted as ready: v after what it lacks."""
    order: list[int] = []
    stack = [v]
    while stack:
        w = stack[-1]
        once = w in dag.fixed and w in done
        lacking = [u for u in dag.inputs[w] if u not in ready]
        if w in ready or once:
            stack.pop()
            ready.add(w)
        elif lacking:
            stack += lacking[:1]
        else:
            ready.add(stack.pop())
            order.append(w)
    return order

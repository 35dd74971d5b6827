"""From what is held across a few moments (`cutmodel`) to a sequence that holds just that."""

from __future__ import annotations

from collections.abc import Sequence

from staticgraph.passes.remat.bound import Bound
from staticgraph.passes.remat.dag import Dag


def sequence_of(dag: Dag, bound: Bound) -> list[int]:
    """The stored order, with values that the bound's solution does not hold computed again.

    In each segment between the moments a value that is neither held nor computed yet is computed
    just before it is needed, and serves to the end of the segment. The peak may lie above the
    budget: the solution says nothing of what is live between the moments.
    """
    if bound.solution is None or not bound.solution.held:
        return list(range(len(dag)))
    ends = [*bound.cuts, len(dag) - 1]
    sequence: list[int] = []
    done: set[int] = set()
    start = 0
    for segment, end in enumerate(ends):
        ready = set(bound.solution.held[segment - 1]) & done if segment else set()
        for v in range(start, end + 1):
            for u in _needed(dag, v, ready, done):
                sequence.append(u)
                ready.add(u)
                done.add(u)
        if segment == len(ends) - 1:
            for v in sorted(dag.outputs - ready):
                sequence += _needed(dag, v, ready, done)
        start = end + 1
    return sequence


def _needed(dag: Dag, v: int, ready: set[int], done: set[int]) -> list[int]:
    """What must run for v to be ready: v after those of its operands that are not."""
    order: list[int] = []
    met = set()
    stack = [v]
    while stack:
        w = stack[-1]
        missing = [
            u
            for u in dag.inputs[w]
            if u not in ready and u not in met and not (u in dag.fixed and u in done)
        ]
        if w in met or w in ready:
            stack.pop()
        elif missing:
            stack.append(missing[0])
        else:
            met.add(stack.pop())
            order.append(w)
    return order

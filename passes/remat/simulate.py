"""The one accounting of memory and cost: what running a sequence of nodes takes.

A *sequence* names the nodes in the order in which they run; a node that stands there again is
computed again. The stated rules, by which every plan is judged:

- A value is live from the step that computes it to its last use before it is next computed (the
  last computation of an output: to the end). Without such a use it is live in its own step only.
- While a node runs, its inputs, its value and its temporaries (`extra`) are all live, next to
  everything else that is.
- Where a node may take over the memory of an operand (`inplace`) and this is the last use of that
  copy of it, the step needs less by the smaller of the two sizes. One operand only, the best.
- Every node runs at least once, even where nothing reads its value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from staticgraph.errors import DagError
from staticgraph.passes.remat.dag import Dag


class Simulation(NamedTuple):
    """peak: the most bytes live at any step. cost: of all steps. curve: bytes live at each step."""

    peak: int
    cost: float
    curve: np.ndarray


def simulate(dag: Dag, sequence: Sequence[int]) -> Simulation:
    """Memory and cost of a sequence by the rules above; raises as `validate`."""
    last = last_uses(dag, sequence)
    steps = len(sequence)
    change = np.zeros(steps + 2, np.int64)
    here = np.zeros(steps, np.int64)
    at: dict[int, int] = {}  # node -> the step that computed the copy at hand
    for step, v in enumerate(sequence):
        change[step] += dag.size[v]
        change[last[step] + 1] -= dag.size[v]
        here[step] = dag.extra[v]
        given_up = [dag.size[u] for u in dag.inplace[v] or () if last[at[u]] == step]
        here[step] -= min(dag.size[v], max(given_up, default=0))
        at[v] = step
    curve = np.cumsum(change[:steps]) + here
    return Simulation(int(curve.max()), math.fsum(dag.cost[v] for v in sequence), curve)


def last_uses(dag: Dag, sequence: Sequence[int]) -> list[int]:
    """For each step, the last step at which the value computed there is live.

    An output's last copy is live to the step `len(sequence)`, one after the end, so that nothing
    may take over its memory. Raises as `validate`.
    """
    at: dict[int, int] = {}
    last = list(range(len(sequence)))
    for step, v in enumerate(sequence):
        if v not in range(len(dag)):
            raise DagError(f"step {step} runs node {v!r}: the nodes are 0..{len(dag) - 1}")
        for u in dag.inputs[v]:
            if u not in at:
                raise DagError(
                    f"step {step} runs {dag.label(v)} before its input {dag.label(u)} is computed"
                )
            last[at[u]] = step
        if v in at and v in dag.fixed:
            raise DagError(f"step {step} runs {dag.label(v)} again, which is fixed to run once")
        at[v] = step
    missing = [v for v in range(len(dag)) if v not in at]
    if missing:
        what = "output " if missing[0] in dag.outputs else ""
        raise DagError(f"{what}{dag.label(missing[0])} is never computed ({len(missing)} in all)")
    for v in dag.outputs:
        last[at[v]] = len(sequence)
    return last


def validate(dag: Dag, sequence: Sequence[int]) -> None:
    """Raise DagError unless the sequence is a plan of the graph.

    It must name nodes of the graph, compute each of them at least once, each after its inputs, and
    those of `dag.fixed` once only. (Values are never missing for another reason: by the rules of
    this file a value lives as long as it is used.)
    """
    last_uses(dag, sequence)

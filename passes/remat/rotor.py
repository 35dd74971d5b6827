"""Rotor: the best plan for a chain of unequal segments, by dynamic programming.

Beaumont, Eyraud-Dubois, Herrmann, Joly & Shilova, "Optimal checkpointing for heterogeneous chains"
(2019; arXiv 1911.13214). A segment can be run forward keeping nothing (F_none), keeping the value
it begins with (F_ck), or recording everything its backward pass reads (F_all). C(a, b, m), the
least cost of taking segments a..b backward within m bytes, where the value that a begins with is
held elsewhere, is the least of

    sum f_a..f_{j-1} + C(j, b, m - w_{j-1}) + C(a, j-1, m)     for a < j <= b: keep the end of j-1
    f_a + C(a+1, b, m - saved_a) + back_a                      record a
    again_a + back_a                                           where a = b

where each step's own peak must fit as well. Optimal among the schedules that keep a value until
the backward pass has used it ("memory-persistent"). O(L^3 S) time and O(L^2 S) space for L segments
and memory in S slots. Bytes are rounded up to slots whose size does not depend on the budget, so a
larger budget never costs more.

The recurrence is exact for a chain's own model. It is pessimistic about a `Dag` where memory is
freed within a step or bytes were rounded up, so the simulated peak of a plan is at most the budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from staticgraph.errors import BudgetError
from staticgraph.passes.remat.chains import Segment, again, as_chain, once_where_fixed
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.plan import strategy
from staticgraph.passes.remat.simulate import simulate

_SLOTS = 500
_MOST_CELLS = 10_000_000


class Stages(NamedTuple):
    """A chain for the recurrence; each field has one entry for a segment.

    forward, again, backward: costs of the forward pass, of computing the saved values anew, and of
        the backward pass.
    end, saved: sizes of the value at the end, and of what F_all records (the end included).
    gradient: bytes that the later segments' backward passes left, present from then on.
    Peaks, which count neither the value that the segment begins with nor `gradient`, unless said:
    step: of the forward pass while the first value is kept.
    through: of the forward pass while it may go; it counts.
    record: of the forward pass recording.
    back: of the backward pass after recording (`gradient` and `saved` count).
    whole: of computing the saved values anew and of the backward pass (`gradient` counts).
    """

    forward: np.ndarray
    again: np.ndarray
    backward: np.ndarray
    end: np.ndarray
    saved: np.ndarray
    gradient: np.ndarray
    step: np.ndarray
    through: np.ndarray
    record: np.ndarray
    back: np.ndarray
    whole: np.ndarray


class Table:
    """C(a, b, m) for all segments a <= b and memory m = 0..slots."""

    def __init__(self, stages: Stages, slots: int) -> None:
        self.stages, self.slots = stages, slots
        length = len(stages.forward)
        self._sums = np.concatenate(([0.0], np.cumsum(stages.forward)))
        self._cost = np.full((length, length, slots + 1), np.inf)
        # C(j, b, m - end_{j-1}), in the place of (j, b).
        self._after = np.full((length, length, slots + 1), np.inf)
        for b in range(length):
            for a in range(b, -1, -1):
                self._fill(a, b)

    def cost(self, memory: int) -> float:
        """The least cost of the whole chain with so many slots; inf if there is no schedule."""
        return float(self._cost[0, -1, memory])

    def least_memory(self) -> int | None:
        """The least number of slots for which there is a schedule."""
        fits = np.flatnonzero(np.isfinite(self._cost[0, -1]))
        return int(fits[0]) if len(fits) else None

    def schedule(self, memory: int) -> Iterator[tuple[str, int]]:
        """The steps of a best schedule: ("forward" | "again" | "backward", segment)."""
        stack: list[tuple[str, int, int, int]] = [("solve", 0, len(self._cost) - 1, memory)]
        while stack:
            what, a, b, m = stack.pop()
            if what != "solve":
                yield what, a
            elif a == b:
                yield "again", a
                yield "backward", a
            else:
                stack += reversed(self._choice(a, b, m))

    def _choice(self, a: int, b: int, m: int) -> list[tuple[str, int, int, int]]:
        j = int(np.argmin(self._kept(a, b)[:, m])) + a + 1
        if self._recorded(a, b)[m] <= self._kept(a, b)[j - a - 1, m]:
            inner = ("solve", a + 1, b, m - int(self.stages.saved[a]))
            return [("forward", a, a, 0), inner, ("backward", a, a, 0)]
        inner = ("solve", j, b, m - int(self.stages.end[j - 1]))
        return [*(("forward", i, i, 0) for i in range(a, j)), inner, ("solve", a, j - 1, m)]

    def _fill(self, a: int, b: int) -> None:
        stages, cost = self.stages, self._cost[a, b]
        if a == b:
            cost[min(stages.whole[a], self.slots + 1) :] = stages.again[a] + stages.backward[a]
        else:
            np.minimum(self._kept(a, b).min(axis=0), self._recorded(a, b), out=cost)
        if a:
            kept = int(stages.end[a - 1])
            self._after[a, b, kept:] = cost[: max(len(cost) - kept, 0)]

    def _kept(self, a: int, b: int) -> np.ndarray:
        """The cost for each j = a+1..b (rows) and each memory."""
        stages = self.stages
        peaks = np.concatenate((stages.step[a : a + 1], stages.through[a + 1 : b]))
        need = np.maximum.accumulate(peaks) + stages.gradient[b]
        ahead = (self._sums[a + 1 : b + 1] - self._sums[a])[:, None]
        cost = ahead + self._after[a + 1 : b + 1, b] + self._cost[a, a:b]
        cost[np.arange(self.slots + 1) < need[:, None]] = np.inf
        return cost

    def _recorded(self, a: int, b: int) -> np.ndarray:
        stages, saved = self.stages, int(self.stages.saved[a])
        cost = np.full(self.slots + 1, np.inf)
        need = max(stages.record[a] + stages.gradient[b], stages.back[a], saved)
        inner = self._cost[a + 1, b]
        if need <= self.slots:
            both = stages.forward[a] + stages.backward[a]
            cost[need:] = both + inner[need - saved : self.slots + 1 - saved]
        return cost


@strategy("rotor")
def rotor(dag: Dag, budget: int, *, slots: int = _SLOTS) -> list[int]:
    """Rotor's plan. Assumes a chain (DagError otherwise); memory in `slots` slots of the peak."""
    chain = as_chain(dag, "rotor")
    everything = simulate(dag, range(len(dag))).peak
    if everything <= budget:
        return list(range(len(dag)))
    slots = max(min(slots, _MOST_CELLS // len(chain) ** 2), 1)
    unit = -(-everything // slots)
    stages = _in_slots(measured(dag, chain), unit)
    table = Table(stages, slots)
    least = table.least_memory()
    if least is None or least > budget // unit:
        reached = "found no plan" if least is None else f"needs {least * unit} bytes"
        raise BudgetError(f"rotor: {reached} by its accounting, the budget is {budget} bytes")
    sequence: list[int] = []
    for action, i in table.schedule(budget // unit):
        if action == "forward":
            sequence += chain[i].forward
        elif action == "again":
            sequence += again(dag, chain[i], chain[i].saved)
        else:
            sequence += chain[i].backward
    return once_where_fixed(dag, sequence)


def measured(dag: Dag, chain: Sequence[Segment]) -> Stages:
    """The chain's costs and bytes, each peak that of running the segment alone."""
    stage = {v: i for i, part in enumerate(chain) for v in part.backward}
    until = {v: _until(dag, stage, v) for v in stage}
    # In memory to the end, whatever the plan.
    ahead = {v for part in chain for v in part.forward}
    always = sum(dag.size[v] for v in ahead & (dag.fixed | dag.outputs))
    rows = []
    for i, part in enumerate(chain):
        ends, starts = {part.end} - {-1}, {part.start} - {-1}
        anew, record = again(dag, part, part.saved), {*part.saved, *ends}
        arriving = {v for v in stage if stage[v] > i >= until[v]}
        leaving = {v for v in stage if stage[v] >= i > until[v]}
        gradient = always + sum(dag.size[v] for v in arriving)
        row = Stages(
            forward=sum(dag.cost[v] for v in part.forward),
            again=sum(dag.cost[v] for v in anew),
            backward=sum(dag.cost[v] for v in part.backward),
            end=sum(dag.size[v] for v in ends),
            saved=sum(dag.size[v] for v in record),
            gradient=gradient,
            step=_peak(dag, part.forward, set(), ends),
            through=_peak(dag, part.forward, starts, ends),
            record=_peak(dag, part.forward, set(), record),
            back=always + _peak(dag, part.backward, {*part.saved, *arriving}, leaving),
            whole=always + _peak(dag, [*anew, *part.backward], arriving, leaving),
        )
        rows.append(row)
    return Stages(*map(np.array, zip(*rows, strict=True)))


def _until(dag: Dag, stage: dict[int, int], v: int) -> int:
    """The segment whose backward pass is the last to read the value; -1 for an output."""
    return -1 if v in dag.outputs else min((stage[w] for w in dag.uses[v]), default=len(stage))


def _peak(dag: Dag, nodes: Sequence[int], present: set[int], leaving: set[int]) -> int:
    """Bytes that running the nodes takes, with values present before and values needed after."""
    last = {u: v for v in nodes for u in dag.inputs[v]}
    counted = present & (last.keys() | leaving)
    live = peak = sum(dag.size[u] for u in counted)
    for v in nodes:
        ending = [u for u in dag.inputs[v] if u in counted and last[u] == v and u not in leaving]
        shared = [dag.size[u] for u in ending if u in (dag.inplace[v] or ())]
        live += dag.size[v]
        peak = max(peak, live + dag.extra[v] - min(dag.size[v], max(shared, default=0)))
        live -= sum(dag.size[u] for u in ending)
        if v in last or v in leaving:
            counted.add(v)
        else:
            live -= dag.size[v]
    return peak


def _in_slots(stages: Stages, unit: int) -> Stages:
    """The chain with every number of bytes in units, rounded up."""
    costs = ("forward", "again", "backward")
    sizes = {key: -(-getattr(stages, key) // unit) for key in Stages._fields if key not in costs}
    return stages._replace(**sizes)

"""Chains: Griewank and Walther's revolve, and how a training graph is seen as a chain.

A chain of l equal steps x_i = F(x_{i-1}) is to be reversed: the adjoint of step i needs x_{i-1}, in
the order l, ..., 1. With s snapshots (x_0 is one of them) revolve needs the fewest steps forward:

    t(l, s) = r l - C(s + r, r - 1),   r the least number with l <= C(s + r, r)

(Griewank & Walther, "Algorithm 799: revolve", 2000). The steps that are recorded for an adjoint are
counted with the adjoint. `revolve` is the schedule; `split_point` the place of the next snapshot,
O(1) each.

`as_chain` finds the segments of a training graph: between two nodes through which everything goes
forward (`phases.waists`) lies a segment, and the backward nodes of a segment read nothing but its
own values, the value it began with, and gradients. A waist that a skip connection's gradient
crosses is no end of a segment. `griewank` is revolve over these segments, all held equal (in
Checkmate's comparison: Griewank on articulation points); `rotor` knows what each costs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import comb

from staticgraph.errors import DagError
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.phases import cheapest, missing, turn, waists
from staticgraph.passes.remat.plan import strategy


@dataclass(frozen=True)
class Segment:
    """A part of a chain.

    start, end: the value it begins with (-1: none, the first segment) and the one it ends with
        (-1: none, the last segment).
    forward: the nodes that lead to `end`; the last segment has none.
    saved: the values of `forward` that `backward` reads.
    backward: every other node of the segment, run after the backward nodes of later segments.
    """

    start: int
    end: int
    forward: tuple[int, ...]
    saved: tuple[int, ...]
    backward: tuple[int, ...]


def extra_steps(length: int, snapshots: int) -> int:
    """t(l, s): the fewest forward steps that reversing a chain takes.

    Raises DagError unless both numbers are positive.
    """
    _check(length, snapshots)
    repeats = _repeats(length, snapshots)
    return repeats * length - comb(snapshots + repeats, snapshots + 1)


def split_point(length: int, snapshots: int) -> int:
    """How many steps forward the next snapshot lies in an optimal schedule of l steps.

    From the closed form: any k with C(s+r-2, s) <= k <= C(s+r-1, s) and
    C(s+r-2, s-1) <= l - k <= C(s+r-1, s-1) is optimal.
    """
    _check(length, snapshots)
    if length < 2 or snapshots < 2:
        return max(length - 1, 1)
    repeats = _repeats(length, snapshots)
    low = max(comb(snapshots + repeats - 2, snapshots), 1)
    return max(low, length - comb(snapshots + repeats - 1, snapshots - 1))


def revolve(length: int, snapshots: int) -> Iterator[tuple[str, int]]:
    """The schedule that reverses a chain, as actions.

    ("snapshot", i): keep x_i, the state at hand. ("restore", i): go back to the snapshot x_i.
    ("advance", i): compute x_i from x_{i-1}, the state at hand. ("reverse", i): the adjoint of step
    i, with x_{i-1} at hand. A snapshot is not needed any more once a step before it was reversed.
    The "advance" actions are `extra_steps(length, snapshots)` many.
    """
    _check(length, snapshots)
    stack = [(0, length, snapshots)]
    yield "snapshot", 0
    at = 0
    while stack:
        start, length, free = stack.pop()
        if at != start:
            yield "restore", start
            at = start
        if length == 1:
            yield "reverse", start + 1
            continue
        ahead = split_point(length, free)
        for i in range(start + 1, start + ahead + 1):
            yield "advance", i
        at = start + ahead
        stack.append((start, ahead, free))
        if length - ahead > 1:
            yield "snapshot", at
        stack.append((at, length - ahead, free - 1))


def as_chain(dag: Dag, name: str) -> list[Segment]:
    """The segments of a training graph, the last one around the loss.

    Raises DagError, in the name of the asking strategy, where there are not two segments.
    """
    ends = waists(dag, turn(dag))
    while ends:
        stage = _stages(dag, ends)
        if isinstance(stage, list):
            return _segments(dag, ends, stage)
        first, last = stage
        ends = ends[:first] + ends[last:]
    raise DagError(
        f"{name}: needs a chain of segments; this DAG ({len(dag)} nodes) has none: no forward "
        "value separates it, or gradients reach across each one that does"
    )


def again(
    dag: Dag, segment: Segment, wanted: Sequence[int], at_hand: Iterable[int] = ()
) -> list[int]:
    """The forward nodes that the wanted ones take, given the first value and those at hand."""
    inside = set(segment.forward)
    outside = {u for v in inside for u in dag.inputs[v] if u not in inside}
    have = outside.union(at_hand)
    return sorted({*missing(dag, wanted, have), *wanted} - have)


@strategy("griewank")
def griewank(dag: Dag, budget: int) -> list[int]:
    """Revolve over the segments of a chain, with the number of snapshots that costs least.

    Assumes a chain (DagError otherwise) of about equal segments; every number of snapshots is
    tried, and the plan judged by the simulator.
    """
    chain = as_chain(dag, "griewank")
    counts = range(len(chain), 0, -1)
    return cheapest(dag, budget, (revolved(dag, chain, s) for s in counts), "griewank")


def revolved(dag: Dag, chain: Sequence[Segment], snapshots: int) -> list[int]:
    """The sequence of revolve over the segments with this many snapshots (the start is one)."""
    sequence: list[int] = []
    held: set[int] = set()
    for action, i in revolve(len(chain), snapshots):
        segment = chain[i - 1]
        if action == "advance":
            sequence += again(dag, segment, [segment.end])
        elif action == "snapshot":
            held.add(segment.end)
        elif action == "reverse":
            # A snapshot that only the adjoint before it reads still serves the next one.
            sequence += [*again(dag, segment, segment.saved, held), *segment.backward]
            held.discard(segment.end)
    return once_where_fixed(dag, sequence)


def once_where_fixed(dag: Dag, sequence: Sequence[int]) -> list[int]:
    """The sequence without second runs of nodes that may run once only."""
    first = {v: step for step, v in reversed(list(enumerate(sequence)))}
    return [v for step, v in enumerate(sequence) if v not in dag.fixed or first[v] == step]


def _check(length: int, snapshots: int) -> None:
    if length < 1 or snapshots < 1:
        raise DagError(
            "revolve: at least one step and one snapshot (the initial state) are required, "
            f"there are {length} and {snapshots}"
        )


def _repeats(length: int, snapshots: int) -> int:
    repeats = 0
    while comb(snapshots + repeats, repeats) < length:
        repeats += 1
    return repeats


def _stages(dag: Dag, ends: Sequence[int]) -> list[int] | tuple[int, int]:
    """The segment of each node; or, where a node ties segments together, the first and the last."""
    marks, leads = set(ends), _ancestors(dag, ends[-1])
    stage = [len(ends)] * len(dag)
    for v in sorted(leads, reverse=True):
        # A source belongs where it is read.
        readers = [stage[w] for w in dag.uses[v] if w in leads]
        own = dag.inputs[v] or v in marks
        stage[v] = bisect_left(ends, v) if own else min(readers)
    for v in range(len(dag)):
        if v in leads:
            continue
        values = [u for u in dag.inputs[v] if u in leads]
        # The value at the end of a segment can be read there, and in the next one as its start.
        latest = [stage[u] + (u in marks) for u in values]
        gradients = [stage[u] for u in dag.inputs[v] if u not in leads]
        stage[v] = min([len(ends), *latest, *gradients])
        needed = max((stage[u] for u in values), default=0)
        if stage[v] < needed:
            return stage[v], needed
    for v in reversed(range(len(dag))):
        if v not in leads and not dag.inputs[v]:
            stage[v] = max((stage[w] for w in dag.uses[v]), default=len(ends))
    return stage


def _segments(dag: Dag, ends: Sequence[int], stage: Sequence[int]) -> list[Segment]:
    leads = _ancestors(dag, ends[-1])
    forward: list[list[int]] = [[] for _ in range(len(ends) + 1)]
    backward: list[list[int]] = [[] for _ in range(len(ends) + 1)]
    for v in range(len(dag)):
        (forward if v in leads else backward)[stage[v]].append(v)
    segments = []
    for i, (ahead, back) in enumerate(zip(forward, backward, strict=True)):
        read = {u for v in back for u in dag.inputs[v]}
        segments.append(
            Segment(
                start=ends[i - 1] if i else -1,
                end=ends[i] if i < len(ends) else -1,
                forward=tuple(ahead),
                saved=tuple(v for v in ahead if v in read),
                backward=tuple(back),
            )
        )
    return segments


def _ancestors(dag: Dag, v: int) -> set[int]:
    return {*missing(dag, [v], set()), v}

"""Less memory by another order alone: every node runs once.

`best_order` is exact, in the spirit of SERENITY (Ahn et al., MLSys 2020): states are the sets of
nodes done, and what is live follows from the set. Instead of SERENITY's search for a soft budget,
states are taken up in the order of the peak that led to them, so none above the optimum is met. A
node that frees as much as it takes is run as soon as it fits under that peak: it cannot hurt. There
are at most as many states as lower sets of the graph; a chain of narrow parts is fast at any
length, a wide graph is not.

`beam_order` keeps the `width` best sets of each number of nodes: a greedy order for width 1,
fast on any graph, without a guarantee. O(n * width * nodes ready).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from staticgraph.errors import DagError
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.phases import cheapest
from staticgraph.passes.remat.plan import strategy
from staticgraph.passes.remat.simulate import simulate

_MOST_STATES = 200_000
_WIDTH = 16
# What the strategy spends: states of an exact search, and nodes times the width of a beam.
_QUICK, _WIDEST = 20_000, 64_000


@dataclass(frozen=True, slots=True)
class _State:
    """The nodes done (bits), those that could run next, bytes live, the peak, how it came about."""

    done: int
    ready: tuple[int, ...]
    live: int = 0
    peak: int = 0
    step: int = -1
    before: _State | None = None


def best_order(dag: Dag, *, most_states: int = _MOST_STATES) -> list[int]:
    """An order of least peak. Raises DagError where more than `most_states` states are met."""
    moves = _Moves(dag)
    start = moves.settled(moves.start)
    best = {start.done: start.peak}
    queue = [(start.peak, 0, 0, start)]
    pushed = 0
    while queue[0][-1].ready:
        state = heapq.heappop(queue)[-1]
        for v in state.ready:
            following = moves.settled(moves.after(state, v))
            if following.peak < best.get(following.done, math.inf):
                best[following.done] = following.peak
                # Among equal peaks the state with most done comes first.
                pushed += 1
                rank = (following.peak, -following.done.bit_count(), pushed)
                heapq.heappush(queue, (*rank, following))
        if len(best) > most_states:
            raise DagError(
                f"best_order: the graph ({len(dag)} nodes) is too wide for an exact order: more "
                f"than {most_states} states; beam_order gives one that may not be the best"
            )
    return _sequence(queue[0][-1])


def beam_order(dag: Dag, *, width: int = _WIDTH, goal: int = 0) -> list[int]:
    """An order of small peak, keeping the `width` best sets of each number of nodes done.

    A set is better for a lower peak so far, peaks below `goal` bytes being equal, and then for
    fewer bytes live.
    """
    moves = _Moves(dag)
    states = [moves.start]
    for _ in range(len(dag)):
        found: dict[int, tuple[int, int, int, int]] = {}
        for i, state in enumerate(states):
            for v in state.ready:
                peak, live = moves.bytes(state, v)
                rank = (max(peak, state.peak, goal), live, i, v)
                done = state.done | 1 << v
                found[done] = min(rank, found.get(done, rank))
        chosen = heapq.nsmallest(width, found.values())
        states = [moves.after(states[i], v) for _, _, i, v in chosen]
    return _sequence(states[0])


@strategy("reorder")
def reorder(dag: Dag, budget: int) -> list[int]:
    """The first that fits of the stored order, the best order, and beams of growing width.

    Beams are for graphs too wide for the best order, and as wide as the graph's size lets them be.
    """
    tried: list[Sequence[int]] = []
    for order in _orders(dag, budget):
        tried.append(order)
        if simulate(dag, order).peak <= budget:
            break
    return cheapest(dag, budget, tried, "reorder")


def _orders(dag: Dag, budget: int) -> Iterator[Sequence[int]]:
    yield range(len(dag))
    try:
        yield best_order(dag, most_states=_QUICK)
    except DagError:
        width = 1
        while width * len(dag) <= _WIDEST:
            yield beam_order(dag, width=width, goal=budget)
            width *= 4


class _Moves:
    """What running one more node does to a state."""

    def __init__(self, dag: Dag) -> None:
        self.dag = dag
        self.inputs = [sum(1 << u for u in ops) for ops in dag.inputs]
        # The end reads the outputs.
        end = 1 << len(dag)
        self.uses = [
            sum(1 << w for w in readers) | (end if v in dag.outputs else 0)
            for v, readers in enumerate(dag.uses)
        ]
        self.start = _State(0, tuple(v for v in range(len(dag)) if not dag.inputs[v]))

    def bytes(self, state: _State, v: int) -> tuple[int, int]:
        """Bytes live while v runs, and after it."""
        dag, left = self.dag, ~(state.done | 1 << v)
        freed = [u for u in dag.inputs[v] if not self.uses[u] & left]
        taken_over = dag.inplace[v] or ()
        shared = max((dag.size[u] for u in freed if u in taken_over), default=0)
        with_it = state.live + dag.size[v]
        after = with_it - sum(dag.size[u] for u in freed) - (0 if self.uses[v] else dag.size[v])
        return with_it + dag.extra[v] - min(shared, dag.size[v]), after

    def after(self, state: _State, v: int) -> _State:
        peak, live = self.bytes(state, v)
        done = state.done | 1 << v
        new = [w for w in self.dag.uses[v] if not self.inputs[w] & ~done]
        ready = tuple(w for w in state.ready if w != v) + tuple(new)
        return _State(done, ready, live, max(peak, state.peak), v, state)

    def settled(self, state: _State) -> _State:
        """The state after every step that needs no higher peak and leaves no more bytes live.

        Whatever completes the order, such a step can be moved to its front: later on it would free
        the same values or more, and all steps between have as much room as before.
        """
        waiting = True
        while waiting:
            waiting = False
            for v in state.ready:
                peak, live = self.bytes(state, v)
                if peak <= state.peak and live <= state.live:
                    state, waiting = self.after(state, v), True
                    break
        return state


def _sequence(state: _State | None) -> list[int]:
    steps = []
    while state is not None and state.step >= 0:
        steps.append(state.step)
        state = state.before
    return steps[::-1]

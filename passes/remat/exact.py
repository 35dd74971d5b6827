"""The exact optimum of small graphs, by search: the oracle by which everything else is tested.

`shortest` is A* (Hart, Nilsson & Raphael 1968) over states (values held, nodes done). Held values
are only dropped where the next step needs room, and then no more of them than it takes: holding
more is never worse. The remaining cost is bounded from below by the nodes not done. 3^n states at
worst: meant for n <= 9, fine for some more.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator

from staticgraph.errors import BudgetError, DagError
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.simulate import simulate

ORDERS = ("free", "stored", "staged")
_MOST_STATES = 2_000_000

_State = tuple[int, int, int]  # bits of the values held, bits of the nodes done, the last step


def shortest(
    dag: Dag, budget: int, *, order: str = "free", most_states: int = _MOST_STATES
) -> list[int]:
    """A sequence of least cost within the budget.

    order:
        "free": nodes may be computed in any order that their inputs allow.
        "stored": first computations come in the stored order, others anywhere.
        "staged": moreover, between two first computations nodes run in ascending order, each once:
        the plans that Checkmate's program (`checkmate.milp`) can express.

    Raises BudgetError if there is none, DagError beyond `most_states` states.
    """
    if order not in ORDERS:
        raise DagError(f"shortest: order must be one of {ORDERS}, is {order!r}")
    everything = (1 << len(dag)) - 1
    outputs = sum(1 << v for v in dag.outputs)
    start: _State = (0, 0, -1)
    best = {start: 0.0}
    came: dict[_State, tuple[_State, int]] = {}
    queue = [(0.0, 0, start)]
    while queue:
        again, _, state = heapq.heappop(queue)
        if again > best[state]:
            continue
        held, done, _ = state
        if done == everything and held & outputs == outputs:
            return _path(came, state)
        for v, following in _steps(dag, budget, state, order):
            cost = again + (dag.cost[v] if done >> v & 1 else 0.0)
            if cost < best.get(following, math.inf):
                best[following] = cost
                came[following] = state, v
                # Among equals, the state with most done comes first.
                heapq.heappush(queue, (cost, -following[1].bit_count(), following))
        if len(best) > most_states:
            raise DagError(
                f"shortest: {len(dag)} nodes are too many for exact search: "
                f"more than {most_states} states"
            )
    raise BudgetError(f"shortest: no {order} sequence keeps the budget of {budget} bytes")


def least_peak(dag: Dag, *, order: str = "free") -> int:
    """The smallest budget for which `shortest` finds a sequence."""
    low = max(map(dag.working_set, range(len(dag)))) - 1
    high = simulate(dag, range(len(dag))).peak
    while high - low > 1:
        middle = (low + high) // 2
        try:
            high = simulate(dag, shortest(dag, middle, order=order)).peak
        except BudgetError:
            low = middle
    return high


def brute_force(dag: Dag, budget: int, longest: int) -> float:
    """The least cost among all sequences of at most `longest` steps; math.inf if none fits.

    It knows nothing but the simulator: n**longest sequences, for a handful of nodes.
    """
    best = math.inf
    for steps in range(len(dag), longest + 1):
        for sequence in itertools.product(range(len(dag)), repeat=steps):
            cost = math.fsum(dag.cost[v] for v in sequence)
            if cost < best and _is_plan(dag, sequence) and simulate(dag, sequence).peak <= budget:
                best = cost
    return best


def _is_plan(dag: Dag, sequence: tuple[int, ...]) -> bool:
    done: set[int] = set()
    for v in sequence:
        if not done.issuperset(dag.inputs[v]) or (v in done and v in dag.fixed):
            return False
        done.add(v)
    return len(done) == len(dag)


def _steps(dag: Dag, budget: int, state: _State, order: str) -> Iterator[tuple[int, _State]]:
    """Each step possible in the state, with the state after it."""
    held, done, last = state
    following = done.bit_count()
    for v in range(len(dag)):
        bit = 1 << v
        first = not done & bit
        if held & bit or any(not held >> u & 1 for u in dag.inputs[v]):
            continue
        if first and order != "free" and v != following:
            continue
        if not first and (v in dag.fixed or (order == "staged" and v < last)):
            continue
        # Staged: ascending within a stage, which ends with a first computation.
        mark = v if order == "staged" and not first else -1
        for dropped in _room(dag, budget, held, v):
            yield v, (held & ~dropped | bit, done | bit, mark)


def _room(dag: Dag, budget: int, held: int, v: int) -> Iterator[int]:
    """Bits of what to drop so that v can run: nothing more than it takes.

    An operand whose memory v takes over is dropped with the step.
    """
    live = sum(dag.size[u] for u in range(len(dag)) if held >> u & 1)
    need = live + dag.size[v] + dag.extra[v] - budget
    spare = [u for u in range(len(dag)) if held >> u & 1 and u not in dag.inputs[v] and dag.size[u]]
    yield from _minimal(dag, spare, need)
    if need > 0:
        for u in dag.inplace[v] or ():
            for others in _minimal(dag, spare, need - min(dag.size[u], dag.size[v])):
                yield others | 1 << u


def _minimal(dag: Dag, spare: list[int], need: int) -> Iterator[int]:
    """Bits of every set of spare values that has `need` bytes and no value too many."""
    if need <= 0:
        yield 0
        return
    # In descending order of size, a set is minimal if it falls short without its last value.
    spare = sorted(spare, key=lambda u: -dag.size[u])
    stack = [(0, 0, need)]
    while stack:
        start, chosen, short = stack.pop()
        for i in range(start, len(spare)):
            with_it = chosen | 1 << spare[i]
            if dag.size[spare[i]] >= short:
                yield with_it
            else:
                stack.append((i + 1, with_it, short - dag.size[spare[i]]))


def _path(came: dict[_State, tuple[_State, int]], state: _State) -> list[int]:
    sequence = []
    while state in came:
        state, v = came[state]
        sequence.append(v)
    return sequence[::-1]

"""The main planner: any graph; order and recomputation together.

1. The lower bound's own solution, as a sequence (`bound`). Where that keeps the budget it is a plan
   that no other beats, and the search ends.
2. Simulated annealing (`anneal`) in many short turns, for luck varies more from turn to turn than
   with their length: from the stored order at high temperatures, which finds other orders; from the
   bound's sequence at low ones, which repairs it where it exceeds the budget.
3. Turns from the best so far.

The work is counted in moves, as many as a slow pair of cores does in the time allowed: equal seeds
and time limits give equal plans, for any number of cores. The clock only ends a run that falls far
behind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from staticgraph.errors import BudgetError
from staticgraph.passes.remat.bound import Bound, lower_bound
from staticgraph.passes.remat.cutmodel import CutModel
from staticgraph.passes.remat.cutplan import sequence_of
from staticgraph.passes.remat.dag import Dag
from staticgraph.passes.remat.plan import share, strategy
from staticgraph.passes.remat.simulate import simulate


class _Turn(NamedTuple):
    """start: where from. hot: temperature, a fraction of one pass. weight: of bytes too many."""

    start: str
    hot: float
    weight: float


# A light weight lets the search wander above the budget first.
_ROUNDS = (
    (_Turn("bound", 1e-4, 1.0), _Turn("stored", 3e-3, 0.01)),
    (_Turn("aimed", 1e-4, 1.0), _Turn("lower", 1e-4, 1.0)),
    (_Turn("bound", 3e-4, 0.01), _Turn("stored", 1e-3, 1.0)),
    (_Turn("lower", 3e-4, 0.01), _Turn("stored", 3e-3, 0.01)),
    (_Turn("aimed", 3e-4, 0.01), _Turn("stored", 3e-3, 1.0)),
    (_Turn("best", 1e-4, 1.0), _Turn("best", 3e-4, 1.0)),
    (_Turn("best", 3e-5, 1.0), _Turn("best", 1e-4, 1.0)),
    (_Turn("best", 3e-5, 1.0), _Turn("best", 3e-4, 1.0)),
)
_FEW = (0, 1, 5, 7)  # the rounds that are left where moves are slow, twice as long
_SHORT = 300_000  # moves of a turn below which fewer turns are better
_AIMS = {"aimed": 0.8, "lower": 0.64}  # shares of the budget
_LARGE = 3000  # nodes from which the bound for an aim would take too long
# Shares of the kinds of moves, as `Search.run` takes them: more that change the order, or fewer.
_MIXES = {"stored": (15, 30, 60, 80, 100)}
_MIX = (30, 45, 75, 90, 100)
_COLD = 3e-4  # the last temperature of a turn, as a fraction of its first
_PIECES = 8  # of a turn; between them the clock is read
_FOR_BOUND, _FOR_MOVES = 0.35, 0.55  # shares of the time limit
# How many times its share a steady run may take on a loaded machine: the search, and the bound.
_STEADY = (40.0, 6.0)


class _Run:
    """One call of the planner: the best so far, and when to stop."""

    def __init__(self, dag: Dag, budget: int, seed: int, deadline: float):
        self.dag, self.budget, self.seed = dag, budget, seed
        self.sequence: list[int] = []
        self.cost = math.inf
        self.lowest = list(range(len(dag)))  # the sequence of least peak, of whatever cost
        self.peak = simulate(dag, self.lowest).peak
        self.target = dag.total
        self._deadline = deadline

    def offer(self, sequence: Sequence[int]) -> None:
        """Take the sequence as the best, if it is."""
        made = simulate(self.dag, sequence)
        if made.peak < self.peak:
            self.lowest, self.peak = list(sequence), made.peak
        if made.peak <= self.budget and made.cost < self.cost:
            self.sequence, self.cost = list(sequence), made.cost

    @property
    def over(self) -> bool:
        return self.cost <= self.target or time.perf_counter() > self._deadline

    def turn(self, turn: _Turn, number: int, start: Sequence[int], moves: int) -> list[list[int]]:
        """What one turn found: its cheapest sequence within the budget, and its last."""
        from staticgraph.passes.remat.anneal import Search  # it imports Numba

        search = Search(self.dag, self.budget, start, self.seed * 1000 + number, turn.weight)
        for piece in range(_PIECES):
            if search.cost <= self.target or self.over:
                break
            hot, cold = (turn.hot * _COLD ** ((piece + k) / _PIECES) for k in (0, 1))
            search.run(moves // _PIECES, hot, cold, _MIXES.get(turn.start, _MIX))
        return [search.best, search.sequence] if search.best else [search.sequence]


@strategy("best")
def best(
    dag: Dag,
    budget: int,
    *,
    seed: int = 0,
    time_limit: float = 10.0,
    progress: Callable[[float, float], None] | None = None,
    known: Sequence[Sequence[int]] = (),
    steady: bool = False,
) -> list[int]:
    """The cheapest sequence found within the budget.

    known: plans to begin with.
    steady: only the moves count, so that a loaded machine finds the same plan, later.

    Raises BudgetError where none was found, naming the least peak that was.
    """
    now = time.perf_counter()
    stored = list(range(len(dag)))
    patience, care = _STEADY if steady else (1.0, 1.0)
    run = _Run(dag, budget, seed, now + 0.95 * time_limit * patience)
    for sequence in (stored, *known):
        run.offer(sequence)
    if not run.over:
        bound = lower_bound(dag, budget, seconds=_FOR_BOUND * time_limit * care)
        run.target = bound.cost * (1 + 1e-9)
        run.offer(bound.sequence or stored)
        if not run.over:
            starts = {"stored": stored, "bound": bound.sequence or stored}
            starts |= {name: _aimed(dag, int(a * budget), bound) for name, a in _AIMS.items()}
            _search(run, starts, _moves(dag, time_limit), progress)
    if not run.sequence:
        raise BudgetError(f"no plan found within {budget} bytes; the least peak is {run.peak}")
    return run.sequence


def _aimed(dag: Dag, budget: int, bound: Bound) -> Sequence[int]:
    """What the last of the bound's moments asks for with fewer bytes."""
    cuts = bound.cuts[-1:]
    if not cuts or len(dag) > _LARGE or bound.cost <= dag.total:
        return bound.sequence
    solution = CutModel(dag, cuts).solve(budget, gap=1e-3, nodes=50, seconds=2.0)
    return sequence_of(dag, cuts, solution) if solution.runs else bound.sequence


def _search(
    run: _Run,
    starts: Mapping[str, Sequence[int]],
    moves: int,
    progress: Callable[[float, float], None] | None,
) -> None:
    rounds = range(len(_ROUNDS)) if moves >= _SHORT else _FEW
    moves = moves * len(_ROUNDS) // len(rounds)
    with ThreadPoolExecutor(2) as pool:
        for done, number in enumerate(rounds, start=1):
            if run.over:
                return
            turns = _ROUNDS[number]
            origin = {**starts, "best": run.sequence or run.lowest}
            futures = [
                pool.submit(run.turn, turn, 2 * number + k, origin[turn.start], moves)
                for k, turn in enumerate(turns)
            ]
            for sequence in [s for future in futures for s in future.result()]:
                run.offer(sequence)
            if progress:
                progress(done / len(rounds), share(run.dag, run.cost - run.dag.total))


def _moves(dag: Dag, time_limit: float) -> int:
    """The moves of one turn, such that a slow pair of cores ends in time."""
    n, edges = len(dag), sum(map(len, dag.inputs))
    microseconds = 0.8 + edges / n * (0.3 + n / 2500)
    return int(time_limit * _FOR_MOVES * 1e6 / microseconds / len(_ROUNDS))

"""The main planner: any graph; order and recomputation together.

1. The lower bound's own solution, as a sequence (`bound`). Where that keeps the budget it is a plan
   that no other beats, and the search ends. Meanwhile the second core searches for other orders.
2. What the bound asks for with this budget and with smaller ones, made to keep the budget (`fit`).
3. Simulated annealing (`anneal`) in many short turns, for luck varies more from turn to turn than
   with their length: from the best fitted sequences at low temperatures; from the stored order at
   high ones, which finds other orders; from the best so far. What a turn leaves above the budget is
   fitted too.

The work is counted in moves, as many as a slow pair of cores does in the time allowed: equal seeds
and time limits give equal plans, for any number of cores. The clock only ends a run that falls far
behind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
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
_FIRST = _Turn("stored", 3e-3, 0.01)  # beside the bound
_ROUNDS = (
    (_Turn("fit", 1e-5, 1.0), _Turn("stored", 3e-3, 1.0)),
    (_Turn("fit", 1e-4, 1.0), _Turn("second", 1e-5, 0.1)),
    (_Turn("best", 1e-5, 1.0), _Turn("stored", 3e-3, 0.01)),
    (_Turn("third", 1e-4, 0.1), _Turn("best", 1e-4, 1.0)),
    (_Turn("best", 3e-5, 1.0), _Turn("best", 3e-4, 1.0)),
    (_Turn("best", 1e-5, 1.0), _Turn("best", 1e-4, 1.0)),
    (_Turn("best", 1e-5, 1.0), _Turn("best", 3e-5, 1.0)),
)
_FEW = (0, 2, 4, 6)  # the rounds that are left where moves are slow, twice as long
_SHORT = 300_000  # moves of a turn below which fewer turns are better
_AIMS = (0.95, 0.9, 0.8, 0.7, 0.6)  # shares of the budget
_POWERS = (1.0, 0.5, 1.5, 0.0, 2.0)  # of the time to the next read, when a sequence is fitted
_LARGE = 3000  # nodes from which one aim and one power must do
# Shares of the kinds of moves, as `Search.run` takes them: more that change the order, or fewer.
_MIXES = {"stored": (15, 30, 60, 80, 100)}
_MIX = (30, 45, 75, 90, 100)
_COLD = 3e-4  # the last temperature of a turn, as a fraction of its first
_PIECES = 8  # of a turn; between them the clock is read
_FOR_BOUND, _FOR_MOVES = 0.35, 0.5  # shares of the time limit
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

    def offer(self, sequence: Sequence[int]) -> float:
        """Take the sequence as the best, if it is. Its cost, inf above the budget."""
        made = simulate(self.dag, sequence)
        if made.peak < self.peak:
            self.lowest, self.peak = list(sequence), made.peak
        if made.peak > self.budget:
            return math.inf
        if made.cost < self.cost:
            self.sequence, self.cost = list(sequence), made.cost
        return made.cost

    @property
    def over(self) -> bool:
        return self.cost <= self.target or self.late

    @property
    def late(self) -> bool:
        return time.perf_counter() > self._deadline

    @cached_property
    def fit(self) -> Callable[..., list[int]]:
        from staticgraph.passes.remat.fit import Fitter  # it imports Numba

        return Fitter(self.dag)

    def fitted(self, sequence: Sequence[int]) -> tuple[float, list[int]]:
        """The best fit of the sequence, and its cost; offered."""
        best: tuple[float, list[int]] = math.inf, []
        for power in _POWERS if len(self.dag) < _LARGE else _POWERS[:1]:
            made = [] if self.late else self.fit(sequence, self.budget, power)
            if not made:
                break  # the others hardly do better
            best = min(best, (self.offer(made), made))
        return best

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

    def take(self, found: Sequence[Sequence[int]]) -> None:
        """Offer what a turn found; where it keeps no budget, what is fitted from it."""
        if min(map(self.offer, found)) == math.inf:
            self.fitted(found[-1])


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
        with ThreadPoolExecutor(2) as pool:
            _search(run, pool, time_limit, care, progress)
    if not run.sequence:
        raise BudgetError(f"no plan found within {budget} bytes; the least peak is {run.peak}")
    return run.sequence


def _search(
    run: _Run,
    pool: ThreadPoolExecutor,
    time_limit: float,
    care: float,
    progress: Callable[[float, float], None] | None,
) -> None:
    stored = list(range(len(run.dag)))
    moves = _moves(run.dag, time_limit)
    first = pool.submit(run.turn, _FIRST, 100, stored, 2 * moves)
    bound = lower_bound(run.dag, run.budget, seconds=_FOR_BOUND * time_limit * care)
    run.target = bound.cost * (1 + 1e-9)
    run.offer(bound.sequence or stored)
    fits = sorted(map(run.fitted, _wanted(run, bound))) if not run.over else []
    found = first.result()
    run.take(found)
    starts = {"stored": stored}
    for name, fit in zip(("fit", "second", "third"), fits, strict=False):
        if fit[1]:
            starts[name] = fit[1]
    rounds = range(len(_ROUNDS)) if moves >= _SHORT else _FEW
    moves = moves * len(_ROUNDS) // len(rounds)
    for done, number in enumerate(rounds, start=1):
        if run.over:
            return
        origin = run.sequence or run.lowest
        futures = [
            pool.submit(run.turn, turn, 2 * number + k, starts.get(turn.start, origin), moves)
            for k, turn in enumerate(_ROUNDS[number])
        ]
        for future in futures:
            run.take(future.result())
        if progress:
            progress(done / len(rounds), share(run.dag, run.cost - run.dag.total))


def _wanted(run: _Run, bound: Bound) -> Iterator[Sequence[int]]:
    """What the stored order and the bound ask for; the bound also with fewer bytes."""
    dag, cuts = run.dag, bound.cuts[-1:]
    yield range(len(dag))
    if not cuts or bound.cost <= dag.total:
        return
    yield bound.sequence
    model = CutModel(dag, cuts)
    for aim in _AIMS if len(dag) < _LARGE else ():
        if not run.late:
            solution = model.solve(int(aim * run.budget), gap=1e-3, nodes=50, seconds=2.0)
            if solution.runs:
                yield sequence_of(dag, cuts, solution)


def _moves(dag: Dag, time_limit: float) -> int:
    """The moves of one turn, such that a slow pair of cores ends in time."""
    n, edges = len(dag), sum(map(len, dag.inputs))
    microseconds = 0.8 + edges / n * (0.3 + n / 2500)
    return int(time_limit * _FOR_MOVES * 1e6 / microseconds / len(_ROUNDS))

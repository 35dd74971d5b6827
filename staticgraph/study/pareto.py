"""The study of a function, or of a plain dag: each strategy at each budget, run and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from staticgraph import count
from staticgraph import planner as planning
from staticgraph.codegen.select import code_of
from staticgraph.compile import Function, compile
from staticgraph.errors import BudgetError, DagError, TargetError
from staticgraph.nominal import seconds
from staticgraph.passes.remat import STRATEGIES, Dag, floor, lower_bound, simulate, solve
from staticgraph.passes.remat.plan import Plan as DagPlan
from staticgraph.passes.remat.plan import share
from staticgraph.plan import Plan
from staticgraph.recompute import Units
from staticgraph.study import process
from staticgraph.study.budgets import budgets_of
from staticgraph.study.costs import CostTable
from staticgraph.study.rows import OK, Point, Study, again
from staticgraph.threads import get_threads

BUDGETS = "100%..20%"
DEFAULT = ("best", "chen-sqrt", "kusumoto", "knapsack-dp", "dtr")
#: shares of a budget that are planned for in turn, until the arena fits: offsets need a little more
_AIMS = (1.0, 0.995, 0.98, 0.94)
#: seconds for the bound of one plan
_BOUND = 5.0

Strategy = str | Callable[..., Sequence[int]]
#: called with (points done, points in all)
Progress = Callable[[int, int], None]


def pareto(
    model: Any,
    arrays: Sequence[Any] = (),
    budgets: int | str | Sequence[int | str] = BUDGETS,
    strategies: Sequence[Strategy] = DEFAULT,
    *,
    measure: bool = True,
    progress: Progress | None = None,
    time_limit: float = 5.0,
    seconds: float = 0.3,
    name: str = "",
) -> Study:
    """The memory/recompute trade-off of a function: a point for each strategy and budget.

    Arguments:
        model: a compiled function, or outputs as `sg.compile` takes them
        arrays: for the inputs, by position; needed to measure
        budgets: bytes, "120MiB", "40%" of the arena without a budget, ranges "100%..20%" (9
            budgets) or "100%..20%:5"; one or several
        strategies: names of `staticgraph.passes.remat.STRATEGIES`, or functions (dag, budget)
        measure: profile the function, plan on these costs, run each plan: bytes, time, bits;
            otherwise only plan, on the nominal costs
        progress: called with (points done, points in all)
        time_limit: seconds that a strategy may search for one plan
        seconds: for timing one plan

    Ctrl-C keeps the points done (`study.interrupted`). A budget that a strategy cannot keep gives a
    point that says so; BudgetError where that is so for all of them.
    """
    fn = _unplanned(model)
    check_strategies(strategies)
    wanted = budgets_of(budgets, fn.plan.arena_bytes)
    meter = _Meter(fn, fn.arguments(arrays, {}), seconds) if measure else None
    subject = _Subject(fn, meter.table if meter else None, time_limit)
    study = Study(
        name=name,
        dag=subject.dag,
        peak=fn.plan.arena_bytes,
        floor=floor(subject.dag).bytes,
        predicted=meter.table.predict(fn) if meter else None,
        flops=count.total(fn.optimized).flops,
        threads=fn.threads or get_threads(),
        places=list(subject.units.dag.where),
    )

    def judged(strategy: Strategy, budget: int) -> Point:
        point, made = subject.point(strategy, budget)
        if made is not None:
            point.extra_flops = count.total(made.graph).flops - (study.flops or 0)
            point.predicted = made.cost
        if made is not None and meter is not None:
            meter.measure(point, made)
        return point

    return _run(study, strategies, wanted, judged, progress)


def of_dag(
    dag: Dag,
    budgets: int | str | Sequence[int | str] = BUDGETS,
    strategies: Sequence[Strategy] = DEFAULT,
    *,
    progress: Progress | None = None,
    time_limit: float = 10.0,
) -> Study:
    """The same study of a plain dag, on its own costs and bytes; percentages are of the peak of the
    stored order. Nothing is run."""
    check_strategies(strategies)
    peak = simulate(dag, range(len(dag))).peak
    planner = _Planner(dag, time_limit)
    study = Study(name=dag.name, dag=dag, peak=peak, floor=floor(dag).bytes)
    return _run(study, strategies, budgets_of(budgets, peak), planner.point, progress)


def as_planned(fn: Function, name: str = "") -> Study:
    """The plan of a function as it is, as a study of one point: for its pictures and `explain`."""
    found = fn.recomputation
    units = Units(fn.optimized, fn.plan) if found is None else found.units
    sequence = range(len(units.dag)) if found is None else found.sequence
    study = Study(
        name=name,
        dag=units.dag,
        peak=units.plan.arena_bytes,
        floor=floor(units.dag).bytes,
        threads=fn.threads or get_threads(),
        places=list(units.dag.where),
    )
    point = Point("keep-all" if found is None else found.policy, fn.plan.arena_bytes)
    _Planner(units.dag, _BOUND).judge(point, sequence)
    point.allocated = fn.plan.arena_bytes
    study.points.append(point)
    return study


def check_strategies(strategies: Sequence[Strategy]) -> None:
    """Raise BudgetError unless each is a function or a name there is."""
    if not strategies:
        raise BudgetError("strategies: there is none")
    for s in strategies:
        if not callable(s) and s not in STRATEGIES:
            raise BudgetError(f"strategies: there is no {s!r}; there are {sorted(STRATEGIES)}")


def _run(
    study: Study,
    strategies: Sequence[Strategy],
    budgets: Sequence[int],
    judged: Callable[[Strategy, int], Point],
    progress: Progress | None,
) -> Study:
    """All points, smallest budget first: a plan for a small budget is one for a larger one too."""
    todo = [(s, b) for s in strategies for b in reversed(budgets)]
    try:
        for done, (strategy, budget) in enumerate(todo):
            if progress:
                progress(done, len(todo))
            study.points.append(judged(strategy, budget))
        if progress:
            progress(len(todo), len(todo))
    except KeyboardInterrupt:
        study.interrupted = True
    if study.points and not study.interrupted and not any(p.ok for p in study.points):
        raise BudgetError(
            f"budgets: no strategy keeps any of them; {study.points[-1].status};"
            f" the arena without a budget is {study.peak} B, the floor {study.floor} B"
        )
    names = study.strategies
    study.points.sort(key=lambda p: (names.index(p.strategy), -p.budget))
    return study


def _unplanned(model: Any) -> Function:
    """The function without a memory budget."""
    fn = model if isinstance(model, Function) else compile(model)
    if fn.options["target"] != "cpu":
        raise TargetError(f"study: looks at target='cpu', this is {fn.options['target']!r}")
    if fn.options["memory_budget"] is None:
        return fn
    return Function(fn.graph, fn.form, {**fn.options, "memory_budget": None})


def _name(strategy: Strategy) -> str:
    return strategy if isinstance(strategy, str) else getattr(strategy, "__name__", "function")


class _Planner:
    """Plans on a dag; what a strategy found for smaller budgets serves the larger ones too."""

    def __init__(self, dag: Dag, time_limit: float):
        self.dag, self.time_limit = dag, time_limit
        self.found: dict[str, list[DagPlan]] = {}

    def plans(self, strategy: Strategy, budget: int) -> Iterator[DagPlan]:
        """Plans of the strategy, for the budget and a little less, as long as it finds one."""
        known = self.found.setdefault(_name(strategy), [])
        for aim in _AIMS:
            made = solve(self.dag, int(aim * budget), strategy, time_limit=self.time_limit)
            known.append(made)
            yield made

    def point(self, strategy: Strategy, budget: int) -> Point:
        """The point of a plain dag."""
        started = time.perf_counter()
        point = Point(_name(strategy), budget)
        try:
            next(self.plans(strategy, budget))
        except (BudgetError, DagError) as error:
            if not self.found[point.strategy]:
                point.status = error.summary
                return point
        made = min(self.found[point.strategy], key=lambda p: (p.cost, p.peak))
        self.judge(point, made.sequence)
        point.predicted = simulate(self.dag, made.sequence).cost
        point.plan_seconds = time.perf_counter() - started
        return point

    def judge(self, point: Point, sequence: Sequence[int]) -> None:
        """Peak, cost and certificate of a sequence within the point's budget."""
        made = simulate(self.dag, sequence)
        bound = lower_bound(self.dag, point.budget, seconds=self.time_limit).cost
        point.planned = made.peak
        point.extra = share(self.dag, made.cost - self.dag.total)
        point.bound = min(share(self.dag, bound - self.dag.total), point.extra)
        point.gap = point.extra - point.bound
        point.recomputed = again(self.dag, list(sequence))
        point.sequence = list(sequence)


@dataclass
class _Made:
    """A plan that can be run. cost: nominal, of its graph, where regions may have been cut."""

    sequence: tuple[int, ...]
    graph: Any
    plan: Plan
    cost: float


class _Subject:
    """A function as units, and its plans realised as arenas."""

    def __init__(self, fn: Function, table: CostTable | None, time_limit: float):
        self.fn = fn
        self.units = Units(fn.optimized, fn.plan)
        self.dag = table.of_units(self.units) if table else self.units.dag
        self.planner = _Planner(self.dag, time_limit)
        stored = tuple(range(len(self.dag)))
        cost = sum(map(seconds, fn.optimized.nodes))
        self.keep_all = _Made(stored, fn.optimized, fn.plan, cost)
        self.made: dict[str, list[_Made]] = {}

    def point(self, strategy: Strategy, budget: int) -> tuple[Point, _Made | None]:
        """The cheapest plan of a strategy whose arena fits the budget."""
        started = time.perf_counter()
        point = Point(_name(strategy), budget)
        known = self.made.setdefault(point.strategy, [])
        if budget >= self.fn.plan.arena_bytes:
            chosen = self.keep_all
        else:
            status = self._search(strategy, budget, known)
            fits = [m for m in known if m.plan.arena_bytes <= budget]
            if not fits:
                point.status = status
                return point, None
            chosen = min(fits, key=lambda m: (m.cost, m.plan.arena_bytes))
        self.planner.judge(point, chosen.sequence)
        point.allocated = chosen.plan.arena_bytes
        point.plan_seconds = time.perf_counter() - started
        return point, chosen

    def _search(self, strategy: Strategy, budget: int, known: list[_Made]) -> str:
        """Add the strategy's plans until one fits; why none did."""
        try:
            for plan in self.planner.plans(strategy, budget):
                # Gathered, fewer regions are cut, and a little more may be live.
                for sequence in (self.units.gathered(plan.sequence, plan.peak), plan.sequence):
                    made = self._realised(tuple(sequence), known)
                    if made.plan.arena_bytes <= budget:
                        return OK
            return f"the arena needs {made.plan.arena_bytes} B"
        except (BudgetError, DagError) as error:
            return error.summary

    def _realised(self, sequence: tuple[int, ...], known: list[_Made]) -> _Made:
        for made in known:
            if made.sequence == sequence:
                return made
        graph = self.units.realise(sequence)
        cost = sum(map(seconds, graph.nodes))
        known.append(_Made(sequence, graph, planning.build(graph, code_of), cost))
        return known[-1]


class _Meter:
    """Runs plans beside the function without a budget."""

    def __init__(self, fn: Function, arrays: list[np.ndarray], seconds: float):
        self.fn, self.arrays, self.seconds = fn, arrays, seconds
        self.bits = process.results(fn, arrays)
        self.table = CostTable(fn, fn.profile(*arrays, roofs=False, seconds=max(1.0, seconds)))

    def measure(self, point: Point, made: _Made) -> None:
        """Fill in what running it shows."""
        planned = self.fn.replanned(made.graph, made.plan)
        point.measured = process.rise(planned, self.arrays)
        point.equal = process.results(planned, self.arrays) == self.bits
        point.base_seconds, point.seconds = process.times(
            self.fn, planned, self.arrays, self.seconds
        )
        # The machine may be slower or faster now than when the table was made.
        pace = point.base_seconds / self.table.predict(self.fn)
        point.predicted = pace * self.table.predict(planned)

"""One value of a plan: kept or computed again, when, and what a byte is worth at the bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from staticgraph.compile import Function
from staticgraph.errors import InputError
from staticgraph.passes.remat import Dag, simulate
from staticgraph.passes.remat.bound import price
from staticgraph.passes.remat.simulate import last_uses
from staticgraph.profiling import units
from staticgraph.study.rows import Study


@dataclass(frozen=True)
class Explained:
    """Why one value is where it is. Times are in units of the dag's costs: seconds of the nominal
    machine for a function.

    kept: it is computed once. held: (first, last) step of each copy. again: cost of computing the
    value once more, its inputs being there. at_peak: it is live at the fullest step.
    price: what one byte more of budget saves there (the dual of the cut bound); worth: that times
    the bytes of the value, what holding it at the bottleneck costs.
    """

    node: int
    name: str
    where: str
    bytes: int
    kept: bool
    held: tuple[tuple[int, int], ...]
    steps: int
    at_peak: bool
    again: float
    price: float
    worth: float
    unit: str

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        copies = ", ".join(f"{a}..{b}" for a, b in self.held)
        how = "kept" if self.kept else f"computed {len(self.held)} times"
        peak = "live" if self.at_peak else "not live"
        price = self._cost(self.price * 1e6)
        return (
            f"{self.name}{place}: {units.size(self.bytes)}, {how}; held at steps {copies}"
            f" of {self.steps}, {peak} at the fullest\n"
            f"computing it once more costs {self._cost(self.again)}; a MB there is worth"
            f" {price}, so holding it costs {self._cost(self.worth)}"
        )

    def _cost(self, value: float) -> str:
        return units.seconds(value) if self.unit == "s" else f"{value:.4g}"


def explain(model: Function | Dag | Study, value: int | str, *, sequence: Sequence[int] = (),
            strategy: str | None = None, budget: int | None = None) -> Explained:  # fmt: skip
    """Why one value of a plan is kept or computed again.

    Arguments:
        model: a function compiled with `memory_budget`; a study, of which it takes the plan that
            `study.find(strategy, budget)` gives; or a plain dag with the sequence of a plan
        value: the number of a node of the dag, its name, or the user's line as "file.py:12" (the
            largest value of that line)
        sequence: by default that of the function, or every node once
        budget: bytes at which a byte is priced; by default what the plan was made for

    Raises InputError where there is no such value, LookupError where the study has no such plan.
    """
    places: Sequence[str] = ()
    if isinstance(model, Function):
        found = model.recomputation
        if found is None:
            raise InputError("explain: nothing is recomputed; compile with a memory_budget")
        dag, sequence = found.dag, sequence or found.sequence
        places = found.units.dag.where
        budget = found.budget if budget is None else budget
    elif isinstance(model, Study):
        point = model.find(strategy, budget)
        dag, sequence, budget, places = model.dag, point.sequence, point.budget, model.places
    else:
        dag, sequence = model, sequence or range(len(model))
    simulation = simulate(dag, sequence)
    budget = simulation.peak if budget is None else budget
    v = _find(dag, places, value)
    last = last_uses(dag, sequence)
    held = tuple(
        (step, min(last[step], len(sequence) - 1)) for step, u in enumerate(sequence) if u == v
    )
    fullest = int(np.argmax(simulation.curve))
    rate = price(dag, budget)
    return Explained(
        node=v,
        name=dag.names[v],
        where=places[v] if places else "",
        bytes=dag.size[v],
        kept=len(held) == 1,
        held=held,
        steps=len(sequence),
        at_peak=any(a <= fullest <= b for a, b in held),
        again=dag.cost[v],
        price=rate,
        worth=rate * dag.size[v],
        unit="s" if places else "",
    )


def _find(dag: Dag, places: Sequence[str], value: int | str) -> int:
    """The node that a number, a name or a line means; of several the largest."""
    if isinstance(value, int):
        if value not in range(len(dag)):
            raise InputError(f"explain: there is no node {value}; the nodes are 0..{len(dag) - 1}")
        return value
    fits = [v for v in range(len(dag)) if dag.names[v] == value]
    fits = fits or [v for v, place in enumerate(places) if place.endswith(value)]
    if not fits:
        raise InputError(
            f"explain: no value is named {value!r} or made at that line;"
            f" names are {', '.join(dict.fromkeys(dag.names[:8]))}, ..."
        )
    return max(fits, key=lambda v: dag.size[v])

"""The profiled cost table: what kernels of one function took, as a prediction for another.

Each kernel of the function without a budget is measured once. A planned function runs mostly the
same kernels, some of them twice; what is new (a piece cut out of a fused region) is taken from the
nominal cost model, scaled to what that model said of the kernels measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from staticgraph.compile import Function
from staticgraph.fusion import CONTRACTIONS
from staticgraph.ir import Node
from staticgraph.nominal import seconds
from staticgraph.passes.remat.dag import Dag
from staticgraph.plan import Step
from staticgraph.profiling.kernelrows import members
from staticgraph.profiling.report import Report
from staticgraph.recompute import Units

Key = tuple[str, ...]


class CostTable:
    """Seconds of nodes, by the text of their kernels."""

    def __init__(self, fn: Function, report: Report):
        self.fn = fn
        medians = {row.step: row.median for row in report.kernels}
        known: dict[Key, list[float]] = defaultdict(list)
        nominal = {True: 0.0, False: 0.0}
        measured = {True: 0.0, False: 0.0}
        for node, key, steps in _nodes(fn):
            took = sum(medians.get(k, 0.0) for k, _ in steps)
            known[key].append(took)
            kind = _contracts(node)
            nominal[kind] += seconds(node)
            measured[kind] += took
        self.known = {key: sum(each) / len(each) for key, each in known.items()}
        overall = sum(measured.values()) / (sum(nominal.values()) or 1.0)
        self.scale = {k: measured[k] / nominal[k] if nominal[k] else overall for k in nominal}
        gaps = max(0.0, report.wall.median - sum(measured.values()))
        self.gap = gaps / max(1, len(fn.plan.steps))

    def of_units(self, units: Units) -> Dag:
        """The dag of a function's units with measured costs.

        What was measured of a fused region is divided among its results as the nominal costs are.
        """
        whole: dict[Node, float] = defaultdict(float)
        for unit, nominal in zip(units.units, units.dag.cost, strict=True):
            whole[unit.node] += nominal
        took = {node: self.known.get(key) for node, key, _ in _nodes(self.fn)}
        cost = []
        for unit, nominal in zip(units.units, units.dag.cost, strict=True):
            measured = took.get(unit.node)
            if measured is None:
                measured = self.scale[_contracts(unit.node)] * whole[unit.node]
            cost.append(self.gap + measured * nominal / whole[unit.node])
        return replace(units.dag, cost=tuple(cost))

    def predict(self, fn: Function) -> float:
        """Seconds of one call."""
        total = self.gap * len(fn.plan.steps)
        for node, key, _ in _nodes(fn):
            took = self.known.get(key)
            total += self.scale[_contracts(node)] * seconds(node) if took is None else took
        return total


def _nodes(fn: Function) -> Iterator[tuple[Node, Key, list[tuple[int, Step]]]]:
    """The nodes that a plan runs, with the keys of their kernels and their steps."""
    compiled = iter(fn.kernels)
    keys: dict[Node, list[str]] = defaultdict(list)
    steps: dict[Node, list[tuple[int, Step]]] = defaultdict(list)
    for k, step in enumerate(fn.plan.steps):
        if step.kind not in ("kernel", "copy") or step.node is None:
            continue
        keys[step.node].append(next(compiled).key if step.kind == "kernel" else f"{step.nbytes}")
        steps[step.node].append((k, step))
    for node, found in keys.items():
        yield node, tuple(found), steps[node]


def _contracts(node: Node) -> bool:
    return any(n.op.name in CONTRACTIONS for n in members(node))

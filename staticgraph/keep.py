"""Which values of a region marked by `checkpoint` are kept for its derivative, within a budget.

At the moment when the region has run, each value that the derivative reads is held or will be
computed again, from what is held then or from what the region reads. That is the cut bound's
program with one cut (`passes.remat.cutmodel`), whose least cost is the choice.
"""

from __future__ import annotations

import functools

from staticgraph import closure
from staticgraph.bytesize import budget_bytes
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node, building, postorder
from staticgraph.nominal import before_fusion
from staticgraph.passes.remat.cutmodel import CutModel
from staticgraph.passes.remat.dag import Dag
from staticgraph.tensor import Tensor
from staticgraph.types import is_differentiable

#: views that read all they are made of: they are made again from what they show
WHOLE = ("reshape", "transpose", "broadcast_to", "flip")
#: of the solver's search tree; equal regions are asked about once
_NODES = 2000


def kept(body: Graph, budget: int | str) -> list[Tensor]:
    """Values of the body, in its order, whose bytes together stay within the budget."""
    nodes = [n for n in body.nodes if n.op not in (INPUT, CONSTANT, VARIABLE)]
    number = {n: k for k, n in enumerate(nodes)}
    read = _read(body, number)
    size = [sum(t.nbytes for t in n.types) for n in nodes]
    whole = sum(size[k] for k in read)
    allowed = budget_bytes("checkpoint", budget, whole)
    held = read
    if allowed < whole:
        # What may not be held alone is larger than any budget.
        bytes_of = [
            allowed + 1 if n.op.name in WHOLE else b for n, b in zip(nodes, size, strict=True)
        ]
        cost = tuple(0.0 if n.op.name in WHOLE else before_fusion(n) for n in nodes)
        inputs = tuple(
            tuple(sorted({number[t.node] for t in n.operands if t.node in number})) for n in nodes
        )
        held = _held(cost, tuple(bytes_of), inputs, tuple(sorted(read)), allowed)
    return [t for k in sorted(held) for t in nodes[k].results]


def _read(body: Graph, number: dict[Node, int]) -> set[int]:
    """The nodes of the body whose values its derivative reads, behind views."""
    with building(hook=closure.isolated):
        cotangents = [
            closure.placeholder("g", t.type) if is_differentiable(t.type.dtype) else None
            for t in body.outputs
        ]
        made = closure.body_vjp(body, cotangents)
    inner = set(body.nodes)
    found = [t for t in made.results if t is not None]
    for n in postorder(found, stop=lambda n: n in inner):
        if n not in inner:
            found += n.operands
    read = set()
    for t in found:
        while t.node in number and t.node.op.name in WHOLE:
            t = t.node.operands[0]
        if t.node in number:
            read.add(number[t.node])
    return read


@functools.lru_cache(maxsize=64)
def _held(
    cost: tuple[float, ...],
    size: tuple[int, ...],
    inputs: tuple[tuple[int, ...], ...],
    read: tuple[int, ...],
    allowed: int,
) -> set[int]:
    """The nodes to hold for a reader at the end such that computing the others costs least."""
    n = len(cost)
    # All have run, the moment, the derivative: none of them takes time or memory.
    dag = Dag(
        cost=(*cost, 0.0, 0.0, 0.0),
        size=(*size, 0, 0, 0),
        inputs=(*inputs, tuple(range(n)), (n,), (*read, n + 1)),
    )
    solution = CutModel(dag, [n + 1]).solve(allowed, gap=1e-3, nodes=_NODES)
    free = solution.held[0] if solution.held else frozenset()
    held, seen, wanted = set(), set(), list(read)
    while wanted:  # what the solver holds for nothing is left out
        v = wanted.pop()
        if v not in seen:
            seen.add(v)
            if v in free:
                held.add(v)
            else:
                wanted += inputs[v]
    return held

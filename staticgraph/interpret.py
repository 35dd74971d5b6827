"""Run a graph with NumPy, one node at a time: slow and plain, the oracle of the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from staticgraph.errors import InternalError
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node
from staticgraph.nest import evaluate
from staticgraph.op import NestOp
from staticgraph.tensor import Tensor


def run(
    graph: Graph, inputs: Sequence[np.ndarray], variables: Mapping | None = None
) -> list[np.ndarray]:
    """Values of the graph's roots: outputs, then new values of updated variables."""
    values: dict[Tensor, np.ndarray] = dict(zip(graph.inputs, map(np.asarray, inputs), strict=True))
    for node in graph.nodes:
        if node.op is not INPUT:
            operands = [values[t] for t in node.operands]
            values.update(zip(node.results, results_of(node, operands, variables), strict=True))
    return [values[t] for t in graph.roots]


def results_of(
    node: Node, operands: Sequence[np.ndarray], variables: Mapping | None = None
) -> list[np.ndarray]:
    """The results of one node."""
    op = node.op
    if op is CONSTANT:
        return [node.attrs["value"]]
    if op is VARIABLE:
        variable = node.attrs["variable"]
        return [(variables or {}).get(variable, variable.storage).copy()]
    reference = getattr(op, "reference", None)
    if reference is not None:
        made = reference(operands, node.types, **node.attrs)
        return [
            np.asarray(a, dtype=t.dtype).reshape(t.shape)
            for a, t in zip(made, node.types, strict=True)
        ]
    if isinstance(op, NestOp):
        nest = op.nest([t.type for t in node.operands], node.results[0].type, **node.attrs)
        return [evaluate(nest, operands)]
    raise InternalError(f"{op.name}: has neither a nest nor a reference")

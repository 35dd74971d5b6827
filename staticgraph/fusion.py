"""The op that fusion makes: several nodes as one, with a body that is a graph.

A fusion is one kernel (or one and the join of its partial sums). Its body has the operands as
inputs and is closed, so text, verification and every pass see through it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from staticgraph.errors import GraphTypeError
from staticgraph.interpret import run
from staticgraph.ir import CONSTANT, INPUT, Graph, Node, Op, Tensor
from staticgraph.op import add_op
from staticgraph.types import TensorType

#: ops whose meaning is a contraction: a tiled kernel computes them, other nodes ride along after it
CONTRACTIONS = frozenset(("matmul", "conv", "conv_transpose", "conv_weight_grad"))
#: ops that only map indices; every reader does so by itself
VIEWS = frozenset(("reshape", "transpose", "broadcast_to", "slice", "flip"))


class Fusion(Op):
    """The results of `body` for the operands as its inputs."""

    name = "fusion"

    def infer(self, *types: TensorType, body: Graph) -> tuple[TensorType, ...]:
        if tuple(t.type for t in body.inputs) != types:
            raise GraphTypeError("fusion: operands and inputs of the body differ in type")
        return tuple(t.type for t in body.outputs)

    def reference(self, operands: Sequence[np.ndarray], types: Sequence[TensorType], *, body: Graph) -> list[np.ndarray]:
        return run(body, operands)


FUSION = add_op(Fusion())


def contraction_of(body: Graph) -> Node | None:
    """The contraction in a body, of which there is at most one."""
    return next((n for n in body.nodes if n.op.name in CONTRACTIONS), None)


def make(nodes: Sequence[Node], outputs: Sequence[Tensor]) -> tuple[Node, dict[Tensor, Tensor]]:
    """A fusion of nodes (operands first) that yields `outputs`; views they read go into the body.

    Returns the node and what each output became. Its operands are still those of the old graph.
    """
    inside: dict[Tensor, Tensor] = {}
    operands: list[Tensor] = []
    inputs: list[Tensor] = []
    members = {id(n) for n in nodes}

    def value(t: Tensor) -> Tensor:
        found = inside.get(t)
        if found is not None:
            return found
        node = t.node
        if node.op is CONSTANT and t.size == 1:
            inside[t] = t
            return t
        if node.op.name in VIEWS or node.op.name == "iota" or id(node) in members:
            made = node.with_operands([value(o) for o in node.operands])
            inside.update(zip(node.results, made.results, strict=True))
            return inside[t]
        new = Node(INPUT, (), {"name": f"p{len(inputs)}", "type": t.type}, (t.type,), node.where)
        operands.append(t)
        inputs.append(new.results[0])
        inside[t] = new.results[0]
        return inside[t]

    for node in nodes:
        made = node.with_operands([value(o) for o in node.operands])
        inside.update(zip(node.results, made.results, strict=True))
    body = Graph(inputs, [inside[t] for t in outputs])
    fused = Node(FUSION, tuple(operands), {"body": body}, tuple(t.type for t in outputs), nodes[-1].where)
    return fused, dict(zip(outputs, fused.results, strict=True))


def members(node: Node) -> Iterable[Node]:
    """The nodes that compute in a body."""
    return (n for n in node.attrs["body"].nodes if n.op is not INPUT and n.op is not CONSTANT)

"""Ops that are nothing but their body."""

from __future__ import annotations

from staticgraph.closure import Call
from staticgraph.ir import Graph
from staticgraph.ops.linalg import Implicit
from staticgraph.passmanager import graph_pass, in_bodies


@graph_pass
@in_bodies
def inline(graph: Graph) -> Graph:
    """Put the bodies of `checkpoint` and `custom_gradient` in the place of their nodes.

    before   %0 = checkpoint(%x, body=graph(%x: f32[2]) { %0 = exp(%x)   return %0 })
    after    %0 = exp(%x)

    An `Implicit` such as `inv` only stood for its derivative: its value takes its place.
    """

    def visit(node, operands):
        if isinstance(node.op, Call):
            return node.attrs["body"].inline(operands, clone=node.clone)
        return operands[-1:] if isinstance(node.op, Implicit) else None

    found = any(isinstance(n.op, (Call, Implicit)) for n in graph.nodes)
    return graph.rebuild(visit) if found else graph

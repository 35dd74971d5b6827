"""Rewrites that keep every result, inf and nan included."""

from __future__ import annotations

from staticgraph.ir import Graph, building
from staticgraph.passmanager import graph_pass, in_bodies
from staticgraph.rewrite import rewritten


@graph_pass
@in_bodies
def simplify(graph: Graph) -> Graph:
    """Apply each op's own algebra: x*1, x+0, x/1, -(-x), transposes of transposes, reshape chains.

    before   %0 = transpose(%x, axes=(1, 0))
             %1 = transpose(%0, axes=(1, 0))
             %2 = multiply(%1, 1.0)
    after    %x
    """

    def visit(node, operands):
        made = node.with_operands(operands)
        with building(where=node.where, clone=node.clone):
            return rewritten(made, lambda n: n.op.simplify(n))

    return graph.rebuild(visit)

"""Constant folding."""

from __future__ import annotations

from staticgraph import rewrite
from staticgraph.ir import Graph, building
from staticgraph.passmanager import graph_pass, in_bodies
from staticgraph.rewrite import rewritten


@graph_pass
@in_bodies
def fold(graph: Graph) -> Graph:
    """Compute nodes whose operands are all constants.

    before   %0 = add(2.0, 3.0)   %1 = multiply(%x, %0)
    after    %0 = multiply(%x, 5.0)

    Only where arithmetic leaves one possible result (no exp, no float sums), so that folding never
    changes a bit, and only up to `rewrite.FOLD_LIMIT` elements.
    """

    def visit(node, operands):
        made = node.with_operands(operands)
        with building(where=node.where, clone=node.clone):
            return rewritten(made, rewrite.fold)

    return graph.rebuild(visit)

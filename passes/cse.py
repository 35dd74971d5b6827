"""Common sub-expressions."""

from __future__ import annotations

from staticgraph.ir import INPUT, VARIABLE, Graph
from staticgraph.passmanager import graph_pass, in_bodies


@graph_pass
@in_bodies
def cse(graph: Graph) -> Graph:
    """Compute equal nodes once; recompute clones stay apart.

    before   %0 = multiply(%x, %y)   %1 = multiply(%y, %x)   %2 = add(%0, %1)
    after    %0 = multiply(%x, %y)   %1 = add(%0, %0)
    """
    seen: dict[tuple, object] = {}

    def visit(node, operands):
        if node.op in (INPUT, VARIABLE) or not node.op.pure:
            return node if node.op is VARIABLE else node.with_operands(operands)
        made = node.with_operands(operands)
        return seen.setdefault(made.key(), made)

    return graph.rebuild(visit)

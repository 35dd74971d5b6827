"""Indices that are only known when the graph runs are tested before they are used."""

from __future__ import annotations

from staticgraph.ir import Graph, apply, building
from staticgraph.operands import cast
from staticgraph.ops.gather import CHECK_INDEX, Check, index_check, index_message
from staticgraph.passmanager import graph_pass, in_bodies
from staticgraph.registry import FUNCTIONS
from staticgraph.rewrite import Builder
from staticgraph.tensor import Tensor


@graph_pass
@in_bodies
def guard(graph: Graph) -> Graph:
    """Give every run-time index a `check` that ends the call with a NumericError.

    before   %0 = gather(%x, %i)
    after    %0 = all(...)   %1 = cast(logical_not(%0))   %2 = check(%i, %1)   %3 = gather(%x, %2)
    """
    builder = Builder()
    guarded: dict[tuple[Tensor, str], Tensor] = {}

    def visit(node, operands):
        if node.op is Check or any(t.node.op is Check for t in operands):
            return None
        made = node.with_operands(operands)
        with building(where=node.where, hook=builder):
            inside = index_check(made)
            if inside is None:
                return made
            status = cast(FUNCTIONS["logical_not"](inside), "int64")
            message = index_message(made)
            first = 0 if len(operands) == 1 else 1
            checked = list(operands[:first])
            for t in operands[first:]:
                key = (t, message)
                if key not in guarded:
                    guarded[key] = apply(Check, t, status, message=message)
                checked.append(guarded[key])
        # A promise that is tested needs no node of its own.
        return checked if made.op is CHECK_INDEX else made.with_operands(checked)

    return graph.rebuild(visit)

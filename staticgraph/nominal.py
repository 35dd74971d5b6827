"""The nominal machine of memory plans: plans must not differ from one machine to the next."""

from __future__ import annotations

from staticgraph import count
from staticgraph.ir import Node
from staticgraph.op import Elementwise

FLOPS, BYTES, LAUNCH = 1.2e11, 2e10, 2e-6
#: additions that a call of an elementwise function is worth
CALL = 12


def seconds(node: Node, shared: int = 1) -> float:
    """Time of a node, where computing and moving memory overlap; 0 for what computes nothing.

    With `shared`, its arithmetic is counted to so many units.
    """
    flops, calls, *moved = count.cost(node)
    if not any(moved):
        return 0.0
    return LAUNCH + max((flops + CALL * calls) / FLOPS / shared, sum(moved) / BYTES)


def before_fusion(node: Node) -> float:
    """Time of a node of a graph as built: elementwise ops will not move memory of their own."""
    if isinstance(node.op, Elementwise):
        flops, calls, *_ = count.cost(node)
        return (flops + CALL * calls) / FLOPS
    return seconds(node)

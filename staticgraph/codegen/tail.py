"""What a region does once its tiles are done: small kernels over one number per row, or totals.

A mean over the rows of a loss is known when every row is. So the rows are stored as partial sums
are, in workspace, and the tail joins them in the order of a kernel of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from staticgraph.codegen.region import (
    domain_of,
    finishes,
    is_other,
    is_reduction,
    is_window,
    mode,
    swept,
)
from staticgraph.fusion import VIEWS
from staticgraph.ir import CONSTANT, INPUT, Graph, Node
from staticgraph.tensor import Tensor


@dataclass
class Tail:
    """The rest of a body. Its inputs stand for `given`: values of the region, or its inputs."""

    graph: Graph
    given: list[Tensor]
    #: values of the body that the tail computes
    late: set[Tensor]


def split_tail(body: Graph) -> tuple[Graph, Tail | None]:
    """The part of a body that is one sweep over its domain, and what follows it."""
    late = _late(body)
    if not late:
        return body, None
    given: dict[Tensor, Tensor] = {}
    new: dict[Tensor, Tensor] = {}

    def value(t: Tensor) -> Tensor:
        node = t.node
        if t in new or (node.op is CONSTANT and t.size == 1):
            return new.get(t, t)
        if t not in late and node.op.name not in VIEWS:
            attrs = {"name": f"p{len(given)}", "type": t.type}
            given[t] = Node(INPUT, (), attrs, (t.type,), node.where).results[0]
            new[t] = given[t]
            return new[t]
        made = node.with_operands([value(o) for o in node.operands])
        new.update(zip(node.results, made.results, strict=True))
        return new[t]

    outputs = [value(t) for t in body.outputs if t in late]
    stored = dict.fromkeys(t for t in (*body.outputs, *given) if t not in late)
    main = Graph(body.inputs, [t for t in stored if t.node.op is not INPUT])
    return main, Tail(Graph(list(given.values()), outputs), list(given), late)


def _late(body: Graph) -> set[Tensor]:
    """Values that are known only when all tiles of the region are done."""
    late: set[Tensor] = set()
    if any(is_window(n) for n in body.nodes):
        return late
    shape, users, outputs = domain_of(body), body.users(), set(body.outputs)
    inner = swept(body)
    totals: set[Tensor] = set()
    blocks: set[Tensor] = set()
    for node in body.nodes:
        if not node.results:
            continue
        result = node.results[0]
        if any(o in late or o in blocks for o in node.operands):
            late.add(result)
        elif is_reduction(node):
            if node.operands[0].shape != shape or node.operands[0] in totals:
                late.add(result)
            elif mode(shape, node.attrs["axes"]) != "rows":
                totals.add(result)
            elif is_other(shape, node.attrs["axes"], inner):
                blocks.add(result)
        elif any(o in totals for o in node.operands):
            (total, *_) = [o for o in node.operands if o in totals]
            alone = total not in outputs and users[total] == [node]
            (totals if alone and finishes(node, total) else late).add(result)
    return late

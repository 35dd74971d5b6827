"""What fusion decided for each value that one node hands to another, and by which rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from staticgraph.codegen.region import is_reduction
from staticgraph.fusion import CONTRACTIONS, VIEWS
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node
from staticgraph.op import NestOp
from staticgraph.tensor import Tensor


@dataclass(frozen=True)
class Edge:
    """`value` is what `reader` reads, perhaps through views.

    `nbytes` is what being one kernel saves; where they are two, what it would save. `makers` and
    `homes` are the nodes of the fused graph that compute the value and the reader.
    """

    value: Tensor
    reader: Node
    fused: bool
    rule: str
    nbytes: int
    makers: tuple[Node, ...]
    homes: tuple[Node, ...]


def judged(
    graph: Graph,
    made: Sequence[tuple[Sequence[Node], Node]],
    refused: Mapping[tuple[Node, Tensor], str],
) -> list[Edge]:
    """An edge for each pair of nodes, of which the second reads the first.

    `made` tells which node of the fused graph computes which nodes, `refused` why a node did not
    join the region of an operand.
    """
    homes: dict[Node, list[Node]] = {}
    size: dict[Node, int] = {}
    for nodes, new in made:
        size[new] = len(nodes)
        for n in nodes:
            homes.setdefault(n, []).append(new)
    readers: dict[Tensor, set[Node]] = {}
    pairs = list(_pairs(graph))
    for value, _, reader in pairs:
        readers.setdefault(value, set()).add(reader)
    roots = {_source(t) for t in graph.roots}
    found = []
    for value, operand, reader in pairs:
        makers, own = homes.get(value.node, []), homes.get(reader, [])
        fused = bool(own) and all(h in makers for h in own)
        if fused:
            rule = _bond(value, reader, len(makers))
            stored = value in roots or any(
                h not in makers for r in readers[value] for h in homes.get(r, [])
            )
        else:
            rule = refused.get((reader, operand)) or _gap(value, operand, reader)
            stored = value in roots or len(readers[value]) > 1
        nbytes = value.type.nbytes * (1 if stored else 2)
        found.append(Edge(value, reader, fused, rule, nbytes, tuple(makers), tuple(own)))
    return found


def _pairs(graph: Graph) -> Iterator[tuple[Tensor, Tensor, Node]]:
    """(value, operand, reader): the operand is the value, or a view of it."""
    for reader in graph.nodes:
        if reader.op.name in VIEWS:
            continue
        seen = set()
        for operand in reader.operands:
            value = _source(operand)
            if value.node.op not in (INPUT, CONSTANT, VARIABLE) and value not in seen:
                seen.add(value)
                yield value, operand, reader


def _source(t: Tensor) -> Tensor:
    while t.node.op.name in VIEWS:
        t = t.node.operands[0]
    return t


def _bond(value: Tensor, reader: Node, copies: int) -> str:
    """The rule by which two nodes are one kernel."""
    maker = value.node
    if copies > 1:
        return "cheap: each region that reads it computes it again"
    if maker.op.name in CONTRACTIONS:
        return "elementwise work after a contraction, before it is stored"
    if is_reduction(reader):
        return "producer of a reduction"
    if is_reduction(maker):
        if reader.results[0].shape == value.shape:
            return "work on the result of a reduction"
        return "one value per row, read in the same sweep"
    if value.shape != reader.results[0].shape:
        return "fewer elements, computed where they are read"
    return "elementwise, same shape"


def _gap(value: Tensor, operand: Tensor, reader: Node) -> str:
    """The rule by which two nodes are two kernels, where fusion had no choice."""
    for node in (reader, value.node):
        if node.op.bodies or node.op.name in ("check", "late"):
            return f"{node.op.name} runs as steps of its own"
        if len(node.results) != 1 or not isinstance(node.op, NestOp):
            return f"{node.op.name} has a kernel written by hand"
    if reader.op.name in CONTRACTIONS:
        return "a contraction reads its operands from memory, many times"
    if operand is not value:
        return f"read through {operand.node.op.name}, at other indices"
    return "no rule of fusion joins these two"

"""The order in which nodes run: dependencies first, then as little memory alive as we can."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from math import inf

from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node
from staticgraph.tensor import Tensor

#: ops that compute nothing: their result is the memory of their first operand
VIEWS = frozenset(("reshape", "stop_gradient", "check", "late", "nothing"))


def is_free(node: Node) -> bool:
    """Nodes that compute nothing: leaves, and results that are the memory of the first operand."""
    return node.op in (INPUT, CONSTANT, VARIABLE) or node.op.name in VIEWS


def may_fail(node: Node) -> bool:
    """Whether a node, or a node in a branch of it, can end the run."""
    if node.op.name == "cond":
        return any(may_fail(n) for k in ("then", "orelse") for n in node.attrs[k].nodes)
    return node.op.name == "check"


def owner(t: Tensor) -> Tensor:
    """The tensor whose memory a value lies in: behind views."""
    while t.node.operands and is_free(t.node):
        t = t.node.operands[0]
    return t


def order(graph: Graph, after: Sequence[tuple[Node, Node]] = ()) -> list[Node]:
    """Nodes of the graph in the order of the plan; `after` adds pairs (first, then).

    Tries the order of the graph and a greedy one, and keeps what needs less memory; a graph that
    says in which order it runs is obeyed.
    """
    plain = _respect(graph.nodes, after)
    if graph.is_scheduled:
        return plain
    return min(plain, _greedy(graph, after), key=lambda nodes: peak(graph, nodes))


def peak(graph: Graph, nodes: Sequence[Node]) -> int:
    """Largest sum of bytes alive at one node, results of leaves not counted."""
    last: dict[Tensor, int] = {}
    for i, node in enumerate(nodes):
        for t in node.operands:
            last[owner(t)] = i
    live = most = 0
    ends: dict[int, int] = {}
    kept = {owner(t) for t in graph.roots}
    for i, node in enumerate(nodes):
        if not is_free(node):
            for r in node.results:
                live += r.type.nbytes
                if r not in kept:
                    end = last.get(r, i)
                    ends[end] = ends.get(end, 0) + r.type.nbytes
            most = max(most, live)
        live -= ends.pop(i, 0)
    return most


def _edges(
    nodes: Sequence[Node], after: Sequence[tuple[Node, Node]]
) -> tuple[dict[int, list[Node]], dict[int, int]]:
    """The nodes that wait for each node, and how many nodes each of them waits for."""
    sources = {id(n): {id(t.node) for t in n.operands} for n in nodes}
    for first, then in after:
        sources[id(then)].add(id(first))
    followers: dict[int, list[Node]] = {id(n): [] for n in nodes}
    for n in nodes:
        for key in sources[id(n)]:
            followers[key].append(n)
    return followers, {key: len(found) for key, found in sources.items()}


def _respect(nodes: Sequence[Node], after: Sequence[tuple[Node, Node]]) -> list[Node]:
    """The given order, with the additional pairs respected."""
    if not after:
        return list(nodes)
    followers, waiting = _edges(nodes, after)
    place = {id(n): i for i, n in enumerate(nodes)}
    ready = [i for i, n in enumerate(nodes) if waiting[id(n)] == 0]
    result = []
    while ready:
        n = nodes[heappop(ready)]
        result.append(n)
        for f in followers[id(n)]:
            waiting[id(f)] -= 1
            if waiting[id(f)] == 0:
                heappush(ready, place[id(f)])
    return result


def _greedy(graph: Graph, after: Sequence[tuple[Node, Node]]) -> list[Node]:
    """Among nodes that may run, first what frees most; recompute clones as late as possible."""
    nodes = graph.nodes
    followers, waiting = _edges(nodes, after)
    place = {id(n): i for i, n in enumerate(nodes)}
    readers: dict[Tensor, set[int]] = {}
    for i, n in enumerate(nodes):
        for t in n.operands:
            readers.setdefault(owner(t), set()).add(i)
    kept = {owner(t) for t in graph.roots}

    def entry(i: int) -> tuple[bool, float, int]:
        n = nodes[i]
        if is_free(n):
            return (False, -inf, i)
        grows = sum(r.type.nbytes for r in n.results)
        for t in {owner(t) for t in n.operands}:
            if not is_free(t.node) and t not in kept and len(readers[t]) == 1:
                grows -= t.type.nbytes
        return (n.clone != 0 and grows > 0, grows, i)

    ready = [entry(i) for i, n in enumerate(nodes) if waiting[id(n)] == 0]
    heapify(ready)
    order: dict[int, Node] = {}
    while ready:
        *_, i = heappop(ready)
        if i in order:
            continue
        order[i] = nodes[i]
        for t in {owner(t) for t in nodes[i].operands}:
            readers[t].discard(i)
            for last in readers[t] if len(readers[t]) == 1 else ():
                if waiting[id(nodes[last])] == 0:  # it now frees more: its new entry comes first
                    heappush(ready, entry(last))
        for f in followers[id(nodes[i])]:
            waiting[id(f)] -= 1
            if waiting[id(f)] == 0:
                heappush(ready, entry(place[id(f)]))
    return list(order.values())

"""The order in which nodes run: dependencies first, then as little memory alive as we can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from staticgraph.ir import Graph, Node, Tensor


def order(
    graph: Graph, free: Callable[[Node], bool], after: Sequence[tuple[Node, Node]] = ()
) -> list[Node]:
    """Nodes of the graph in the order of the plan.

    `free` marks nodes that compute nothing (leaves and views); `after` adds pairs (first, then).
    Tries the order of the graph and a greedy one, and keeps what needs less memory; a graph that
    says in which order it runs is obeyed.
    """
    nodes = graph.nodes
    plain = _respect(nodes, after)
    if graph.is_scheduled:
        return plain
    candidates = [plain]
    if len(nodes) <= 20000:
        candidates.append(_greedy(graph, free, after))
    best = min(range(len(candidates)), key=lambda k: (peak(graph, candidates[k], free), k))
    return candidates[best]


def owner(t: Tensor, free: Callable[[Node], bool]) -> Tensor:
    """The tensor whose memory a value lies in: behind views."""
    while t.node.operands and free(t.node):
        t = t.node.operands[0]
    return t


def peak(graph: Graph, nodes: Sequence[Node], free: Callable[[Node], bool]) -> int:
    """Largest sum of bytes alive at one node, results of leaves not counted."""
    last: dict[Tensor, int] = {}
    for i, node in enumerate(nodes):
        for t in node.operands:
            last[owner(t, free)] = i
    live = most = 0
    ends: dict[int, int] = {}
    kept = {owner(t, free) for t in graph.roots}
    for i, node in enumerate(nodes):
        if not free(node):
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
    followers: dict[int, list[Node]] = {id(n): [] for n in nodes}
    waiting: dict[int, int] = {}
    for n in nodes:
        sources = {id(t.node): t.node for t in n.operands}
        sources.update({id(a): a for a, b in after if b is n})
        waiting[id(n)] = len(sources)
        for key in sources:
            followers[key].append(n)
    return followers, waiting


def _respect(nodes: Sequence[Node], after: Sequence[tuple[Node, Node]]) -> list[Node]:
    """The given order, with the additional pairs respected."""
    if not after:
        return list(nodes)
    followers, waiting = _edges(nodes, after)
    place = {id(n): i for i, n in enumerate(nodes)}
    pending = {place[id(n)]: n for n in nodes if waiting[id(n)] == 0}
    result = []
    while pending:
        n = pending.pop(min(pending))
        result.append(n)
        for f in followers[id(n)]:
            waiting[id(f)] -= 1
            if waiting[id(f)] == 0:
                pending[place[id(f)]] = f
    return result


def _greedy(
    graph: Graph, free: Callable[[Node], bool], after: Sequence[tuple[Node, Node]]
) -> list[Node]:
    """Among nodes that may run, first what frees most; recompute clones as late as possible."""
    nodes = graph.nodes
    followers, waiting = _edges(nodes, after)
    place = {id(n): i for i, n in enumerate(nodes)}
    readers: dict[Tensor, set[int]] = {}
    for n in nodes:
        for t in n.operands:
            readers.setdefault(owner(t, free), set()).add(id(n))
    kept = {owner(t, free) for t in graph.roots}
    ready = {id(n): n for n in nodes if waiting[id(n)] == 0}
    result: list[Node] = []

    def key(n: Node) -> tuple:
        if free(n):
            return (0, -1 << 60, place[id(n)])
        delta = sum(r.type.nbytes for r in n.results)
        for t in {owner(t, free) for t in n.operands}:
            if not free(t.node) and t not in kept and len(readers[t]) == 1:
                delta -= t.type.nbytes
        return (1 if n.clone and delta > 0 else 0, delta, place[id(n)])

    while ready:
        n = min(ready.values(), key=key)
        del ready[id(n)]
        result.append(n)
        for t in {owner(t, free) for t in n.operands}:
            readers[t].discard(id(n))
        for f in followers[id(n)]:
            waiting[id(f)] -= 1
            if waiting[id(f)] == 0:
                ready[id(f)] = f
    return result

"""Regions in the making: which nodes each has, and what depends on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from staticgraph.fusion import VIEWS
from staticgraph.ir import Graph, Node
from staticgraph.tensor import Tensor

#: nodes in one region: beyond this compile time grows faster than memory traffic shrinks
MEMBERS = 64
#: loaded inputs of one region
OPERANDS = 24


@dataclass(eq=False)
class Group:
    """A region in the making.

    `labels` gives the domain axes of values that are one per row, `sinks` are totals of partial
    sums, and `after` is made of both when all tiles are done.
    """

    number: int
    shape: tuple[int, ...]
    nodes: list[Node] = field(default_factory=list)
    inner: tuple[int, ...] | None = None
    sinks: set[Tensor] = field(default_factory=set)
    after: set[Tensor] = field(default_factory=set)
    labels: dict[Tensor, tuple[int | None, ...]] = field(default_factory=dict)
    contraction: bool = False
    before: int = 0  # bit set of groups it depends on


class Groups:
    """The regions of a graph. Nodes are placed in order, so that operands have their region."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.groups: dict[int, Group] = {}
        self.count = 0
        self.group_of: dict[int, Group] = {}
        self.users = graph.users()
        self.roots = set(graph.roots)
        self.order = {n: i for i, n in enumerate(graph.nodes)}
        self.copied: dict[int, list[Group]] = {}  # nodes that several groups compute, and which
        self.outside: dict[int, int] = {}  # nodes in no group -> groups they depend on
        self.refused: dict[tuple[Node, Tensor], str] = {}  # why a node is not where its operand is
        self.made: list[tuple[list[Node], Node]] = []  # nodes, and the node that computes them now

    def before(self, t: Tensor) -> int:
        """Bit set of groups that a tensor depends on, its own included."""
        g = self.group_of.get(id(t.node))
        if g is not None:
            return g.before | 1 << g.number
        return self.outside.get(id(t.node), 0)

    def source(self, t: Tensor) -> Tensor:
        """The tensor behind a chain of views."""
        while t.node.op.name in VIEWS:
            t = t.node.operands[0]
        return t

    def reach(self, node: Node) -> int:
        found = 0
        for t in node.operands:
            found |= self.before(t)
        return found

    def new_group(self, node: Node, shape: tuple[int, ...]) -> Group:
        g = Group(self.count, shape)
        self.count += 1
        self.groups[g.number] = g
        g.nodes.append(node)
        g.before = self.reach(node)
        self.group_of[id(node)] = g
        return g

    def add(self, g: Group, node: Node) -> None:
        g.nodes.append(node)
        self.group_of[id(node)] = g
        self.extend(g, self.reach(node) & ~(1 << g.number))

    def extend(self, g: Group, more: int) -> None:
        """The group now depends on more; so does everything after it."""
        if more & ~g.before == 0:
            return
        g.before |= more
        bit = 1 << g.number
        for other in self.groups.values():
            if other.before & bit:
                other.before |= g.before
        for key, reach in self.outside.items():
            if reach & bit:
                self.outside[key] = reach | g.before

    def acyclic(self, g: Group, node: Node) -> bool:
        bit = 1 << g.number
        return all(
            self.group_of.get(id(o.node)) is g or not self.before(o) & bit for o in node.operands
        )

    def merge(self, a: Group, b: Group) -> Group:
        a.nodes = sorted({*a.nodes, *b.nodes}, key=self.order.__getitem__)
        for n in b.nodes:
            self.group_of[id(n)] = a
        for key, homes in self.copied.items():
            self.copied[key] = list(dict.fromkeys(a if h is b else h for h in homes))
        a.inner = a.inner if a.inner is not None else b.inner
        a.contraction |= b.contraction
        a.sinks |= b.sinks
        a.after |= b.after
        a.labels.update(b.labels)
        del self.groups[b.number]
        old, new = 1 << b.number, 1 << a.number
        a.before = (a.before | b.before) & ~(old | new)
        for other in self.groups.values():
            if other is not a and other.before & (old | new):
                other.before = (other.before & ~old) | new | a.before
        for key, reach in self.outside.items():
            if reach & (old | new):
                self.outside[key] = (reach & ~old) | new | a.before
        return a

    def homes(self, node: Node) -> list[Group | None]:
        """The groups that compute a node; None stands for no group."""
        return self.copied.get(id(node)) or [self.group_of.get(id(node))]

    def behind_views(self, t: Tensor) -> list[Node]:
        """Who reads a tensor, looking through views."""
        found = []
        for reader in self.users.get(t, []):
            if reader.op.name in VIEWS and id(reader) not in self.group_of:
                if reader.results[0] in self.roots:
                    found.append(reader)
                found += self.behind_views(reader.results[0])
            else:
                found.append(reader)
        return found

    def clones(self, g: Group) -> set[int]:
        return {n.clone for n in g.nodes}

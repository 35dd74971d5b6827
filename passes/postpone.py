"""Move work to the regions that read it, where that stores less."""

from __future__ import annotations

from math import prod

from staticgraph.codegen.saved import DEAR
from staticgraph.fusion import CONTRACTIONS
from staticgraph.ir import Node
from staticgraph.op import Elementwise
from staticgraph.passes.groups import MEMBERS, Group, Groups

#: nodes that a larger region computes again for each of its rows
FEW = 4


def postpone(gs: Groups) -> None:
    """Move work to its readers where that stores less.

    A derivative such as 1 - y^2 depends on the forward value alone and so joined its region,
    which then has to store both. Where the operands are stored anyway and the work is cheap,
    each region that reads the result computes it from them. A number for a whole region (g / n
    in the derivative of a mean) or for a row of it costs next to nothing there, and a kernel of
    its own elsewhere.
    """
    for node in reversed(gs.graph.nodes):
        g = gs.group_of.get(id(node))
        if (
            g is None
            or len(node.results) != 1
            or node.results[0] in gs.roots
            or node.results[0] in g.labels
        ):
            continue
        homes = _reader_groups(gs, node, g)
        cone = _cone(gs, node, g) if homes else None
        if cone is None or not _worthwhile(node, cone, g, homes):
            continue
        if len(homes) > 1 and any(n.op.name in DEAR for n in cone):
            continue
        _move(gs, cone, g, homes)


def _reader_groups(gs: Groups, node: Node, g: Group) -> list[Group] | None:
    """The groups that read a value and could compute it; None where one could not."""
    found: dict[int, Group] = {}
    for reader in gs.behind_views(node.results[0]):
        for h in gs.homes(reader):
            if (
                h is None
                or h is g
                or not (h.shape == node.results[0].shape or _takes_small(h, node))
                or reader.op.name in CONTRACTIONS
            ):
                return None
            if len(h.nodes) >= MEMBERS or gs.clones(h) != gs.clones(g):
                return None
            found[h.number] = h
    return list(found.values()) or None


def _takes_small(h: Group, node: Node) -> bool:
    """Whether a region could compute for itself what stands for many of its elements."""
    return not h.contraction and prod(h.shape) >= 2 * node.results[0].size


def _worthwhile(node: Node, cone: list[Node], g: Group, homes: list[Group]) -> bool:
    """Whether moving stores less: a whole group moves only into larger regions."""
    shape = node.results[0].shape
    larger = [h for h in homes if h.shape != shape]
    if not larger:
        return len(cone) < len(g.nodes)
    return len(larger) == len(homes) and (node.results[0].size == 1 or len(cone) <= FEW)


def _cone(gs: Groups, node: Node, g: Group) -> list[Node] | None:
    """The nodes of the group that only this one needs; None if they need what is not stored."""
    inside = {id(n) for n in g.nodes}
    found: dict[int, Node] = {}
    stack = [node]
    while stack:
        n = stack.pop()
        if id(n) in found:
            continue
        if not isinstance(n.op, Elementwise):
            return None
        found[id(n)] = n
        for o in n.operands:
            m = o.node
            if id(m) not in inside or id(m) in found:
                continue
            readers = gs.users.get(o, [])
            if all(id(u) in found for u in readers) and o not in gs.roots:
                stack.append(m)
            elif o in g.labels or not (
                o in gs.roots or any(id(u) not in inside for u in gs.behind_views(o))
            ):
                return None
    return list(found.values())


def _move(gs: Groups, cone: list[Node], g: Group, homes: list[Group]) -> None:
    """Take nodes out of their group; each home gets them (duplicated for several homes)."""
    out = {id(n) for n in cone}
    g.nodes = [n for n in g.nodes if id(n) not in out]
    if not g.nodes:
        del gs.groups[g.number]
    for h in homes:
        h.nodes = sorted([*h.nodes, *cone], key=gs.order.__getitem__)
    for n in cone:
        for o in n.operands:
            gs.refused[n, o] = "cheap: moved to the regions that read it, which store less"
        gs.group_of[id(n)] = homes[0]
        if len(homes) > 1:
            gs.copied[id(n)] = list(homes)

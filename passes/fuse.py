"""Fuse nodes into regions: one kernel, one pass over memory."""

from __future__ import annotations

from staticgraph.codegen.region import is_reduction
from staticgraph.fusion import CONTRACTIONS, VIEWS, has_template
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node
from staticgraph.op import NestOp
from staticgraph.passes.edges import Edge, judged
from staticgraph.passes.fuserules import (
    absorbed,
    beside,
    describe,
    follows,
    merge_objection,
    objection,
    row_view,
)
from staticgraph.passes.groups import Group, Groups
from staticgraph.passes.postpone import postpone
from staticgraph.passes.regions import rebuild
from staticgraph.passes.unite import unite
from staticgraph.passmanager import graph_pass, in_bodies


@graph_pass
@in_bodies
def fuse(graph: Graph, *, edges: list[Edge] | None = None) -> Graph:
    """Gather nodes that loop over one domain into `fusion` nodes.

    before   %0 = multiply(%x, %w)   %1 = add(%0, %b)   %2 = relu(%1)
    after    %0 = fusion(%x, %w, %b) { multiply, add, relu }

    Elementwise nodes join what they read when both run over the same shape; reductions join their
    operand; a value that is one per row joins the rows; contractions take elementwise nodes after
    them. A value that a region hands to another is stored, everything else stays in registers.
    `edges` receives, for each value between two nodes, whether they are one kernel, and why.
    """
    gs = Groups(graph)
    for node in graph.nodes:
        if not _fusible(node):
            gs.outside[id(node)] = gs.reach(node)
        elif node.op.name in VIEWS:
            _place_view(gs, node)
        else:
            _place(gs, node)
    postpone(gs)
    unite(gs)
    made = rebuild(gs)
    if edges is not None:
        edges += judged(graph, gs.made, gs.refused)
    return made


def _fusible(node: Node) -> bool:
    if node.op in (INPUT, CONSTANT, VARIABLE) or len(node.results) != 1:
        return False
    return isinstance(node.op, NestOp)


def _place_view(gs: Groups, node: Node) -> None:
    """A view of a value per row stays with the rows; others are left to their readers."""
    operand, result = node.operands[0], node.results[0]
    g = gs.group_of.get(id(operand.node))
    labels = g.labels.get(operand) if g else None
    own = not node.clone or (g is not None and node.clone in gs.clones(g))
    if g and own and labels is not None and operand not in g.sinks:
        made = row_view(g, node, labels)
        if made is not None:
            g.labels[result] = made
            g.nodes.append(node)
            gs.group_of[id(node)] = g
            return
    gs.outside[id(node)] = gs.reach(node)


def _place(gs: Groups, node: Node) -> None:
    result = node.results[0]
    if node.op.name in CONTRACTIONS:
        g = gs.new_group(node, result.shape)
        g.contraction = True
        if not has_template(node):
            g.sinks.add(result)  # computed by its plain meaning, alone
        return
    reduces = is_reduction(node)
    shape = node.operands[0].shape if reduces and node.operands else result.shape
    joined: Group | None = None
    for t in node.operands:
        g = gs.group_of.get(id(t.node))
        if g is None or g is joined:
            continue
        why = objection(gs, g, node, t, shape, reduces)
        if not why and joined is not None:
            why = merge_objection(gs, joined, g, node)
            if why and (host := absorbed(gs, joined, g, node)):
                joined = host
                continue
        elif not why and not gs.acyclic(g, node):
            why = "another operand needs this region's result first"
        if why:
            gs.refused[node, t] = why
        else:
            joined = g if joined is None else gs.merge(joined, g)
    if joined is None:
        joined = follows(gs, node, reduces)
        if joined is not None:
            gs.add(joined, node)
            joined.after.add(result)
            return
    if joined is None and reduces:
        joined = beside(gs, node, shape)
        if joined is not None:
            gs.add(joined, node)
            describe(gs, joined, node, reduces)
            return
    if joined is None:
        gs.new_group(node, shape)
        joined = gs.group_of[id(node)]
    else:
        gs.add(joined, node)
    describe(gs, joined, node, reduces)

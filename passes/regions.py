"""From regions in the making to `fusion` nodes, in an order in which operands come first."""

from __future__ import annotations

from staticgraph.codegen.lower import lower
from staticgraph.codegen.region import CannotLower
from staticgraph.codegen.tail import split_tail
from staticgraph.errors import InternalError
from staticgraph.fusion import VIEWS, make, solid_operands
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node
from staticgraph.passes.groups import Group, Groups
from staticgraph.tensor import Tensor


def rebuild(gs: Groups) -> Graph:
    """Replace groups by fusion nodes, in an order in which operands come first."""
    new: dict[Tensor, Tensor] = {}
    pieces: dict[int, list[list[Node]]] = {}
    for g in gs.groups.values():
        pieces[g.number] = _checked(gs, g)
    computed = [n for ps in pieces.values() for p in ps for n in p] + gs.graph.nodes
    deepest = 1 + sum(len(n.operands) for n in computed)

    def value(t: Tensor) -> Tensor:
        stack = [t]
        while stack:
            if len(stack) > deepest:
                raise InternalError("fuse: two regions need each other's results")
            top = stack[-1]
            if top in new:
                stack.pop()
                continue
            node = top.node
            g = gs.group_of.get(id(node))
            if g is None:
                if node.op in (INPUT, VARIABLE, CONSTANT):
                    new[top] = top
                    continue
                missing = [o for o in node.operands if o not in new]
                if missing:
                    stack.extend(missing)
                    continue
                made = node.with_operands([new[o] for o in node.operands])
                new.update(zip(node.results, made.results, strict=True))
                gs.made.append(([node], made))
                continue
            piece = next(p for p in pieces[g.number] if any(n is node for n in p))
            missing = [s for s in external(gs, piece) if s not in new]
            if missing:
                stack.extend(missing)
                continue
            _emit(gs, piece, new)
        return new[t]

    return gs.graph.with_roots([value(t) for t in gs.graph.roots])


def external(gs: Groups, piece: list[Node]) -> list[Tensor]:
    """What a piece loads: behind views, outside of it."""
    inside = {id(n) for n in piece}
    solid = solid_operands(piece)
    found: dict[Tensor, None] = {}
    stack = [o for n in piece for o in n.operands]
    while stack:
        o = stack.pop()
        if o in solid:
            found[o] = None
            continue
        if id(o.node) in inside or (o.node.op is CONSTANT and o.size == 1):
            continue
        if o.node.op.name in VIEWS or o.node.op.name == "iota":
            stack.extend(o.node.operands)
        else:
            found[o] = None
    return list(found)


def outputs_of(gs: Groups, piece: list[Node]) -> list[Tensor]:
    """Results that someone reads who does not compute them as well.

    Readers of a view read its source, so a view itself is handed out only as a root.
    """
    inside = {id(n) for n in piece}
    found = []
    for n in piece:
        for r in n.results:
            read = n.op.name not in VIEWS and any(
                id(u) not in inside and not _has(gs, u, n) for u in _readers(gs, r, inside)
            )
            if read or r in gs.roots:
                found.append(r)
    return found


def _readers(gs: Groups, t: Tensor, inside: set[int]) -> list[Node]:
    """Who reads a tensor, looking through all views; a view outside may be a root itself."""
    found = []
    for reader in gs.users.get(t, []):
        if reader.op.name not in VIEWS:
            found.append(reader)
            continue
        if reader.results[0] in gs.roots and id(reader) not in inside:
            found.append(reader)
        found += _readers(gs, reader.results[0], inside)
    return found


def _has(gs: Groups, reader: Node, node: Node) -> bool:
    """Whether every group that has the reader computes the node itself."""
    held = [h.number for h in gs.copied.get(id(node), ())]
    return all(h is not None and h.number in held for h in gs.homes(reader))


def _emit(gs: Groups, piece: list[Node], new: dict[Tensor, Tensor]) -> None:
    outputs = outputs_of(gs, piece)
    if not outputs:
        outputs = list(piece[-1].results)
    fused, became = make(piece, outputs)
    placed = fused.with_operands([new[o] for o in fused.operands])
    gs.made.append((piece, placed))
    renamed = dict(zip(fused.results, placed.results, strict=True))
    for old, t in became.items():
        new[old] = renamed[t]
    for n in piece:
        if n.op.name in VIEWS and n.results[0] not in new:
            new[n.results[0]] = n.with_operands([new[o] for o in n.operands]).results[0]
        for r in n.results:
            new.setdefault(r, r)


def _checked(gs: Groups, g: Group) -> list[list[Node]]:
    """The group as regions that code generation takes: usually itself."""
    if g.contraction or len(g.nodes) == 1:
        return [g.nodes]
    fused, _ = make(g.nodes, outputs_of(gs, g.nodes) or list(g.nodes[-1].results))
    try:
        lower(split_tail(fused.attrs["body"])[0])
        return [g.nodes]
    except CannotLower:
        return [[n] for n in g.nodes]

"""Which node may run in which region: the rules of fusion, each with the reason for a refusal."""

from __future__ import annotations

from staticgraph.codegen.region import TILE_ELEMENTS, finishes, is_block, is_other, mode
from staticgraph.ir import CONSTANT, Node
from staticgraph.op import Elementwise
from staticgraph.ops.reduce import Reduce
from staticgraph.passes.groups import MEMBERS, OPERANDS, Group, Groups
from staticgraph.tensor import Tensor


def objection(
    gs: Groups, g: Group, node: Node, t: Tensor, shape: tuple[int, ...], reduces: bool
) -> str:
    """Why the node may not run in the region of its operand `t`; '' where it may."""
    if len(g.nodes) >= MEMBERS:
        return f"the region has {MEMBERS} nodes already"
    if node.clone and node.clone not in gs.clones(g):
        return "a copy for another loop, or computed again later"
    if t in g.sinks:
        # The kernel that joins partial results may divide a mean by its count.
        alone = t not in gs.roots and gs.users.get(t, []) == [node]
        fits = alone and not g.contraction and not reduces and finishes(node, t)
        return "" if fits else "its total is known only when all tiles are done"
    if t in g.after:
        return "it is known only when all tiles are done"
    if any(o in g.sinks or o in g.after for o in node.operands):
        return "another operand is a total, known only when all tiles are done"
    if _loaded(gs, g, node) > OPERANDS:
        return f"the region would load more than {OPERANDS} tensors"
    result = node.results[0]
    if reduces:
        if g.contraction:
            return "a contraction delivers tiles, not whole rows to reduce"
        if shape != g.shape or (t in g.labels and t.shape != g.shape):
            return "the reduction runs over another shape than the region"
        return _reduction_objection(gs, g, node)
    if not isinstance(node.op, Elementwise):
        return f"{node.op.name} reads elements at other indices"
    if g.contraction:
        fits = result.shape == g.shape and t.shape == g.shape and _only_full(gs, g, node)
        return "" if fits else "after a contraction only its own shape is at hand"
    if result.shape == g.shape:
        fits = all(_fits_full(gs, g, o) for o in node.operands)
        return "" if fits else "an operand would be needed at other indices"
    # One value per row: every operand from here must be one too, at the same place.
    if t not in g.labels or t.shape != result.shape:
        return "its result has another shape than the region"
    fits = all(_fits_row(gs, g, o, t) for o in node.operands)
    return "" if fits else "an operand is not one value per row"


def follows(gs: Groups, node: Node, reduces: bool) -> Group | None:
    """The region whose totals or rows a node is made of alone: its kernels come after the tiles."""
    found: Group | None = None
    late = reduces
    for t in node.operands:
        if t.node.op is CONSTANT and t.size == 1:
            continue
        g = gs.group_of.get(id(t.node))
        total = g is not None and (t in g.sinks or t in g.after)
        if g is None or g.contraction or not (total or t in g.labels) or found not in (None, g):
            return None
        found, late = g, late or total
    if found is None or not late or not isinstance(node.op, (Elementwise, Reduce)):
        return None
    own = not node.clone or node.clone in gs.clones(found)
    return found if own and len(found.nodes) < MEMBERS else None


def _loaded(gs: Groups, g: Group, node: Node) -> int:
    inside = {id(n) for n in g.nodes}
    return len(
        {
            o
            for n in (*g.nodes, node)
            for o in n.operands
            if id(o.node) not in inside and o.node.op is not CONSTANT
        }
    )


def _reduction_objection(gs: Groups, g: Group, node: Node) -> str:
    over = node.attrs["axes"]
    kind = mode(g.shape, over)
    last = (len(g.shape) - 1,)
    other = f"the region sweeps axes {g.inner}, the reduction {tuple(over)}"
    if kind == "rows":
        if g.inner is not None and is_other(g.shape, over, g.inner):
            return "" if is_block(g.shape, over, g.inner) and not g.sinks else other
        fits = not g.sinks or (tuple(over) == last and not _has_long_total(g))
        return "" if fits else "the region has a total over other axes"
    if g.inner is not None and g.inner != last:
        return other
    long = kind == "all" and g.inner is not None and g.shape[-1] > TILE_ELEMENTS
    return "rows are too long for a total beside them" if long else ""


def _has_long_total(g: Group) -> bool:
    return g.shape[-1] > TILE_ELEMENTS


def _only_full(gs: Groups, g: Group, node: Node) -> bool:
    return all(
        o.shape == g.shape or id(gs.source(o).node) not in {id(n) for n in g.nodes}
        for o in node.operands
    )


def _fits_full(gs: Groups, g: Group, o: Tensor) -> bool:
    """An operand of a node over the whole domain: from outside, over all of it, or per row."""
    if gs.group_of.get(id(o.node)) is not g:
        # A view of something this region computes would be read at other indices.
        return gs.group_of.get(id(gs.source(o).node)) is not g
    if o.shape == g.shape:
        return True
    labels = g.labels.get(o)
    if labels is None:
        return False
    lead = len(g.shape) - o.ndim
    return all(
        n == 1 or a == k + lead for k, (a, n) in enumerate(zip(labels, o.shape, strict=True))
    )


def _fits_row(gs: Groups, g: Group, o: Tensor, like: Tensor) -> bool:
    if gs.group_of.get(id(o.node)) is not g:
        return o.size == 1 or (
            o.shape == like.shape and gs.group_of.get(id(gs.source(o).node)) is not g
        )
    if o.size == 1:
        return False
    return o in g.labels and o.shape == like.shape and g.labels[o] == g.labels[like]


def merge_objection(gs: Groups, a: Group, b: Group, node: Node) -> str:
    """Why two regions that a node reads may not become one; '' where they may."""
    if why := _size_objection(a, b):
        return why
    if a.contraction or b.contraction:
        mine, other = (a, b) if a.contraction else (b, a)
        if other.contraction:
            return "one kernel computes one contraction"
        if mine.before & 1 << other.number:
            return "a contraction reads its operands from memory, many times"
        plain = other.inner is None and not other.sinks and not other.labels
        if not plain or not all(
            isinstance(n.op, Elementwise) and n.results[0].shape == a.shape for n in other.nodes
        ):
            return "a contraction takes elementwise work of its own shape only"
    if why := _loops_objection(a, b):
        return why
    return "" if _unbroken(gs, a, b, node) else "something between them is another kernel"


def absorbed(gs: Groups, a: Group, b: Group, node: Node) -> Group | None:
    """The one of two regions that a node reads which can compute the other for each of its rows.

    That is elementwise work on numbers that there is one of per row, as on the cotangents of row
    sums.
    """
    shape = node.results[0].shape
    for host, guest in ((a, b), (b, a)):
        at = [t for t in node.operands if t in host.labels and t.shape == shape]
        plain = guest.inner is None and not (guest.sinks or guest.after or guest.labels)
        if (
            at
            and plain
            and not guest.contraction
            and not (host.before & 1 << guest.number or guest.before & 1 << host.number)
            and all(isinstance(n.op, Elementwise) for n in guest.nodes)
            and all(n.results[0].shape == shape for n in guest.nodes)
            and len(host.nodes) + len(guest.nodes) < MEMBERS
            and gs.clones(host) == gs.clones(guest)
            and _unbroken(gs, host, guest, node)
        ):
            host.labels.update({n.results[0]: host.labels[at[0]] for n in guest.nodes})
            return gs.merge(host, guest)
    return None


def _size_objection(a: Group, b: Group) -> str:
    if a.shape != b.shape:
        return "it is in a region of another shape"
    if len(a.nodes) + len(b.nodes) >= MEMBERS:
        return f"both regions together would have more than {MEMBERS} nodes"
    return ""


def _loops_objection(a: Group, b: Group) -> str:
    if a.inner is not None and b.inner is not None and a.inner != b.inner:
        return f"one region sweeps axes {a.inner}, the other {b.inner}"
    last = (len(a.shape) - 1,)
    inner = a.inner if a.inner is not None else b.inner
    if (a.sinks or b.sinks) and inner is not None and (inner != last or _has_long_total(a)):
        return "one region has a total over other axes"
    return ""


def can_stand_together(a: Group, b: Group) -> bool:
    """Whether two regions could be one kernel, and neither needs the other."""
    return not (
        a.contraction
        or b.contraction
        or a.before & 1 << b.number
        or b.before & 1 << a.number
        or _size_objection(a, b)
        or _loops_objection(a, b)
    )


def _unbroken(gs: Groups, a: Group, b: Group, node: Node) -> bool:
    """Whether nothing leads from one region to the other, or to the node, around both."""
    both = 1 << a.number | 1 << b.number
    for o in node.operands:
        if gs.group_of.get(id(o.node)) not in (a, b) and gs.before(o) & both:
            return False
    for x, y in ((a, b), (b, a)):
        if y.before & 1 << x.number:
            if any(o in x.sinks or o in x.after for n in y.nodes for o in n.operands):
                return False
            for n in y.nodes:
                for o in n.operands:
                    g = gs.group_of.get(id(o.node))
                    if g is x:
                        if o.shape != a.shape:
                            return False
                    elif g is not y and gs.before(o) & 1 << x.number:
                        # What leads from x to y around both would become a cycle, and views
                        # between the two would be read at other indices.
                        return False
    return True


def row_view(g: Group, node: Node, labels: tuple[int | None, ...]) -> tuple[int | None, ...] | None:
    operand, result = node.operands[0], node.results[0]
    if node.op.name == "reshape":
        if [n for n in operand.shape if n != 1] != [n for n in result.shape if n != 1]:
            return None
        left = iter(a for a, n in zip(labels, operand.shape, strict=True) if n != 1)
        return tuple(None if n == 1 else next(left) for n in result.shape)
    if node.op.name == "broadcast_to" and result.shape == g.shape:
        lead = result.ndim - operand.ndim
        if all(
            n == 1 or a == k + lead
            for k, (a, n) in enumerate(zip(labels, operand.shape, strict=True))
        ):
            return tuple(range(len(g.shape)))
    return None


def describe(gs: Groups, g: Group, node: Node, reduces: bool) -> None:
    """Note where the result of a new member lives in the domain."""
    result = node.results[0]
    totals = g.sinks.intersection(node.operands)
    if totals:
        g.sinks = (g.sinks - totals) | {result}
    elif reduces:
        over = node.attrs["axes"]
        if mode(g.shape, over) != "rows":
            g.sinks.add(result)
        elif g.inner is not None and is_other(g.shape, over, g.inner):
            g.after.add(result)
        else:
            g.inner = tuple(over) if g.inner is None else g.inner
            g.labels[result] = tuple(k for k in range(len(g.shape)) if k not in over)
    elif result.shape != g.shape:
        for t in node.operands:
            if t in g.labels and t.shape == result.shape:
                g.labels[result] = g.labels[t]
                break


def beside(gs: Groups, node: Node, shape: tuple[int, ...]) -> Group | None:
    """A region that reads the operand of a reduction too, as the derivatives of w and b do."""
    for reader in gs.behind_views(node.operands[0]):
        g = gs.group_of.get(id(reader))
        if (
            g is not None
            and g.shape == shape
            and gs.clones(g) == {node.clone}
            and not objection(gs, g, node, node.operands[0], shape, True)
            and _fits_full(gs, g, node.operands[0])
            and gs.acyclic(g, node)
        ):
            return g
    return None

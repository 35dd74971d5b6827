"""Fuse nodes into regions: one kernel, one pass over memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from staticgraph.codegen.cpu import DEAR
from staticgraph.codegen.lower import TILE_ELEMENTS, CannotLower, is_reduction, lower, mode
from staticgraph.errors import InternalError
from staticgraph.fusion import CONTRACTIONS, VIEWS, has_template, make, solid_operands
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Graph, Node, Tensor
from staticgraph.op import Elementwise, NestOp
from staticgraph.passmanager import graph_pass, in_bodies

#: nodes in one region: beyond this compile time grows faster than memory traffic shrinks
MEMBERS = 64
#: loaded inputs of one region
OPERANDS = 24


@dataclass
class Group:
    """A region in the making. `labels` gives the domain axes of values that are one per row."""

    number: int
    shape: tuple[int, ...]
    nodes: list[Node] = field(default_factory=list)
    inner: tuple[int, ...] | None = None
    sinks: set[Tensor] = field(default_factory=set)
    labels: dict[Tensor, tuple[int | None, ...]] = field(default_factory=dict)
    contraction: bool = False
    before: int = 0  # bit set of groups it depends on


@graph_pass
@in_bodies
def fuse(graph: Graph) -> Graph:
    """Gather nodes that loop over one domain into `fusion` nodes.

    before   %0 = multiply(%x, %w)   %1 = add(%0, %b)   %2 = relu(%1)
    after    %0 = fusion(%x, %w, %b) { multiply, add, relu }

    Elementwise nodes join what they read when both run over the same shape; reductions join their
    operand; a value that is one per row joins the rows; contractions take elementwise nodes after
    them. A value that a region hands to another is stored, everything else stays in registers.
    """
    return _Fuser(graph).run()


class _Fuser:
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

    # -- dependencies -----------------------------------------------------------------------------

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

    # -- grouping ---------------------------------------------------------------------------------

    def run(self) -> Graph:
        for node in self.graph.nodes:
            if not self.fusible(node):
                self.outside[id(node)] = self.reach(node)
                continue
            if node.op.name in VIEWS:
                self.place_view(node)
                continue
            self.place(node)
        self.postpone()
        return self.rebuild()

    def fusible(self, node: Node) -> bool:
        if node.op in (INPUT, CONSTANT, VARIABLE) or len(node.results) != 1:
            return False
        return isinstance(node.op, NestOp)

    def place_view(self, node: Node) -> None:
        """A view of a value per row stays with the rows; others are left to their readers."""
        operand, result = node.operands[0], node.results[0]
        g = self.group_of.get(id(operand.node))
        labels = g.labels.get(operand) if g else None
        if g and labels is not None and operand not in g.sinks:
            made = self.row_view(g, node, labels)
            if made is not None:
                g.labels[result] = made
                g.nodes.append(node)
                self.group_of[id(node)] = g
                return
        self.outside[id(node)] = self.reach(node)

    def row_view(
        self, g: Group, node: Node, labels: tuple[int | None, ...]
    ) -> tuple[int | None, ...] | None:
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

    def place(self, node: Node) -> None:
        result = node.results[0]
        if node.op.name in CONTRACTIONS:
            g = self.new_group(node, result.shape)
            g.contraction = True
            if not has_template(node):
                g.sinks.add(result)  # computed by its plain meaning, alone
            return
        reduces = is_reduction(node)
        shape = node.operands[0].shape if reduces and node.operands else result.shape
        joined: Group | None = None
        for t in node.operands:
            g = self.group_of.get(id(t.node))
            if g is None or g is joined or not self.joins(g, node, t, shape, reduces):
                continue
            if joined is None:
                if self.acyclic(g, node):
                    joined = g
            elif self.mergeable(joined, g, node):
                joined = self.merge(joined, g)
        if joined is None:
            self.new_group(node, shape)
            joined = self.group_of[id(node)]
        else:
            self.add(joined, node)
        self.describe(joined, node, reduces)

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

    def describe(self, g: Group, node: Node, reduces: bool) -> None:
        """Note where the result of a new member lives in the domain."""
        result = node.results[0]
        if reduces:
            over = node.attrs["axes"]
            if mode(g.shape, over) == "rows":
                g.inner = tuple(over)
                g.labels[result] = tuple(k for k in range(len(g.shape)) if k not in over)
            else:
                g.sinks.add(result)
        elif result.shape != g.shape:
            for t in node.operands:
                if t in g.labels and t.shape == result.shape:
                    g.labels[result] = g.labels[t]
                    break

    def joins(self, g: Group, node: Node, t: Tensor, shape: tuple[int, ...], reduces: bool) -> bool:
        """Whether the node may run in the region of its operand `t`."""
        if t in g.sinks or len(g.nodes) >= MEMBERS:
            return False
        if any(o in g.sinks for o in node.operands):
            return False
        if self.loaded(g, node) > OPERANDS:
            return False
        result = node.results[0]
        if reduces:
            if g.contraction or shape != g.shape or (t in g.labels and t.shape != g.shape):
                return False
            return self.reduction_fits(g, node)
        if not isinstance(node.op, Elementwise):
            return False
        if g.contraction:
            return result.shape == g.shape and t.shape == g.shape and self.only_full(g, node)
        if result.shape == g.shape:
            return all(self.fits_full(g, o) for o in node.operands)
        # One value per row: every operand from here must be one too, at the same place.
        if t not in g.labels or t.shape != result.shape:
            return False
        return all(self.fits_row(g, o, t) for o in node.operands)

    def loaded(self, g: Group, node: Node) -> int:
        inside = {id(n) for n in g.nodes}
        return len(
            {
                o
                for n in (*g.nodes, node)
                for o in n.operands
                if id(o.node) not in inside and o.node.op is not CONSTANT
            }
        )

    def reduction_fits(self, g: Group, node: Node) -> bool:
        over = node.attrs["axes"]
        kind = mode(g.shape, over)
        last = (len(g.shape) - 1,)
        if kind == "rows":
            if g.inner is not None and g.inner != tuple(over):
                return False
            return not g.sinks or (tuple(over) == last and not self.has_long_total(g))
        if g.inner is not None and g.inner != last:
            return False
        return not (kind == "all" and g.inner is not None and g.shape[-1] > TILE_ELEMENTS)

    def has_long_total(self, g: Group) -> bool:
        return g.shape[-1] > TILE_ELEMENTS

    def only_full(self, g: Group, node: Node) -> bool:
        return all(
            o.shape == g.shape or id(self.source(o).node) not in {id(n) for n in g.nodes}
            for o in node.operands
        )

    def fits_full(self, g: Group, o: Tensor) -> bool:
        """An operand of a node over the whole domain: from outside, over all of it, or per row."""
        if self.group_of.get(id(o.node)) is not g:
            # A view of something this region computes would be read at other indices.
            return self.group_of.get(id(self.source(o).node)) is not g
        if o.shape == g.shape:
            return True
        labels = g.labels.get(o)
        if labels is None:
            return False
        lead = len(g.shape) - o.ndim
        return all(
            n == 1 or a == k + lead for k, (a, n) in enumerate(zip(labels, o.shape, strict=True))
        )

    def fits_row(self, g: Group, o: Tensor, like: Tensor) -> bool:
        if self.group_of.get(id(o.node)) is not g:
            return o.size == 1 or (
                o.shape == like.shape and self.group_of.get(id(self.source(o).node)) is not g
            )
        if o.size == 1:
            return False
        return o in g.labels and o.shape == like.shape and g.labels[o] == g.labels[like]

    # -- what readers compute for themselves -------------------------------------------------------

    def postpone(self) -> None:
        """Move work to its readers where that stores less.

        A derivative such as 1 - y^2 depends on the forward value alone and so joined its region,
        which then has to store both. Where the operands are stored anyway and the work is cheap,
        each region that reads the result computes it from them.
        """
        for node in reversed(self.graph.nodes):
            g = self.group_of.get(id(node))
            if (
                g is None
                or len(node.results) != 1
                or node.results[0] in self.roots
                or node.results[0] in g.labels
            ):
                continue
            homes = self.reader_groups(node, g)
            cone = self.cone(node, g) if homes else None
            if cone is None or len(cone) == len(g.nodes):
                continue
            if len(homes) > 1 and any(n.op.name in DEAR for n in cone):
                continue
            self.move(cone, g, homes)

    def reader_groups(self, node: Node, g: Group) -> list[Group] | None:
        """The groups that read a value and could compute it; None where one could not."""
        found: dict[int, Group] = {}
        for reader in self.behind_views(node.results[0]):
            for h in self.homes(reader):
                if (
                    h is None
                    or h is g
                    or h.shape != node.results[0].shape
                    or reader.op.name in CONTRACTIONS
                ):
                    return None
                if len(h.nodes) >= MEMBERS or self.clones(h) != self.clones(g):
                    return None
                found[h.number] = h
        return list(found.values()) or None

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

    def cone(self, node: Node, g: Group) -> list[Node] | None:
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
                readers = self.users.get(o, [])
                if all(id(u) in found for u in readers) and o not in self.roots:
                    stack.append(m)
                elif o in g.labels or not (
                    o in self.roots or any(id(u) not in inside for u in self.behind_views(o))
                ):
                    return None
        return list(found.values())

    def move(self, cone: list[Node], g: Group, homes: list[Group]) -> None:
        """Take nodes out of their group; each home gets them (duplicated for several homes)."""
        out = {id(n) for n in cone}
        g.nodes = [n for n in g.nodes if id(n) not in out]
        for h in homes:
            h.nodes = sorted([*h.nodes, *cone], key=self.order.__getitem__)
        for n in cone:
            self.group_of[id(n)] = homes[0]
            if len(homes) > 1:
                self.copied[id(n)] = list(homes)

    # -- cycles and merging -----------------------------------------------------------------------

    def acyclic(self, g: Group, node: Node) -> bool:
        bit = 1 << g.number
        return all(
            self.group_of.get(id(o.node)) is g or not self.before(o) & bit for o in node.operands
        )

    def mergeable(self, a: Group, b: Group, node: Node) -> bool:
        if a.shape != b.shape or len(a.nodes) + len(b.nodes) >= MEMBERS:
            return False
        if a.contraction or b.contraction:
            other = b if a.contraction else a
            if other.contraction or other.inner is not None or other.sinks or other.labels:
                return False
            if not all(
                isinstance(n.op, Elementwise) and n.results[0].shape == a.shape for n in other.nodes
            ):
                return False
        if a.inner is not None and b.inner is not None and a.inner != b.inner:
            return False
        last = (len(a.shape) - 1,)
        inner = a.inner if a.inner is not None else b.inner
        if (a.sinks or b.sinks) and inner is not None and (inner != last or self.has_long_total(a)):
            return False
        both = 1 << a.number | 1 << b.number
        for o in node.operands:
            if self.group_of.get(id(o.node)) not in (a, b) and self.before(o) & both:
                return False
        for x, y in ((a, b), (b, a)):
            if y.before & 1 << x.number:
                if any(o in x.sinks for n in y.nodes for o in n.operands):
                    return False
                for n in y.nodes:
                    for o in n.operands:
                        g = self.group_of.get(id(o.node))
                        if g is x:
                            if o.shape != a.shape:
                                return False
                        elif g is not y and self.before(o) & 1 << x.number:
                            # What leads from x to y around both would become a cycle, and views
                            # between the two would be read at other indices.
                            return False
        return True

    def merge(self, a: Group, b: Group) -> Group:
        a.nodes = sorted([*a.nodes, *b.nodes], key=self.order.__getitem__)
        for n in b.nodes:
            self.group_of[id(n)] = a
        a.inner = a.inner if a.inner is not None else b.inner
        a.contraction |= b.contraction
        a.sinks |= b.sinks
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

    # -- result -----------------------------------------------------------------------------------

    def rebuild(self) -> Graph:
        """Replace groups by fusion nodes, in an order in which operands come first."""
        new: dict[Tensor, Tensor] = {}
        pieces: dict[int, list[list[Node]]] = {}
        for g in self.groups.values():
            pieces[g.number] = self.checked(g)
        computed = [n for ps in pieces.values() for p in ps for n in p] + self.graph.nodes
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
                g = self.group_of.get(id(node))
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
                    continue
                piece = next(p for p in pieces[g.number] if any(n is node for n in p))
                missing = [s for s in self.external(piece) if s not in new]
                if missing:
                    stack.extend(missing)
                    continue
                self.emit(piece, new)
            return new[t]

        return self.graph.with_roots([value(t) for t in self.graph.roots])

    def external(self, piece: list[Node]) -> list[Tensor]:
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

    def outputs_of(self, piece: list[Node]) -> list[Tensor]:
        """Results that someone reads who does not compute them as well.

        Readers of a view read its source, so a view itself is handed out only as a root.
        """
        inside = {id(n) for n in piece}
        found = []
        for n in piece:
            for r in n.results:
                read = n.op.name not in VIEWS and any(
                    id(u) not in inside and not self.has(u, n) for u in self.readers(r, inside)
                )
                if read or r in self.roots:
                    found.append(r)
        return found

    def readers(self, t: Tensor, inside: set[int]) -> list[Node]:
        """Who reads a tensor, looking through all views; a view outside may be a root itself."""
        found = []
        for reader in self.users.get(t, []):
            if reader.op.name not in VIEWS:
                found.append(reader)
                continue
            if reader.results[0] in self.roots and id(reader) not in inside:
                found.append(reader)
            found += self.readers(reader.results[0], inside)
        return found

    def has(self, reader: Node, node: Node) -> bool:
        """Whether every group that has the reader computes the node itself."""
        held = [h.number for h in self.copied.get(id(node), ())]
        return all(h is not None and h.number in held for h in self.homes(reader))

    def emit(self, piece: list[Node], new: dict[Tensor, Tensor]) -> None:
        outputs = self.outputs_of(piece)
        if not outputs:
            outputs = list(piece[-1].results)
        fused, became = make(piece, outputs)
        placed = fused.with_operands([new[o] for o in fused.operands])
        renamed = dict(zip(fused.results, placed.results, strict=True))
        for old, t in became.items():
            new[old] = renamed[t]
        for n in piece:
            if n.op.name in VIEWS and n.results[0] not in new:
                new[n.results[0]] = n.with_operands([new[o] for o in n.operands]).results[0]
            for r in n.results:
                new.setdefault(r, r)

    def checked(self, g: Group) -> list[list[Node]]:
        """The group as regions that code generation takes: usually itself."""
        if g.contraction or len(g.nodes) == 1:
            return [g.nodes]
        fused, _ = make(g.nodes, self.outputs_of(g.nodes) or list(g.nodes[-1].results))
        try:
            lower(fused.attrs["body"])
            return [g.nodes]
        except CannotLower:
            return [[n] for n in g.nodes]
